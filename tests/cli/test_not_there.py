"""What is not there is said: export and show of ranges that were never asked for, or not answered."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

KEPT = ("--since", "2024-05-25", "--until", "2024-05-27")


def test_a_range_that_was_never_asked_for_is_told(run: Callable[..., Any]) -> None:
    """Export and show say how many candles of the range are not there and which command brings them; that command
    does, and then nothing is said; -q says nothing and the exit code stays 0.
    """
    run("fetch", "BTC/USDT", *KEPT)
    # Four days of which two were asked for.
    wanted = ("BTC/USDT", "--since", "2024-05-24", "--until", "2024-05-28")
    told = (
        "note: 48 of 96 candles of binance BTC/USDT 1h in this range are not there: "
        "chandlery fetch BTC/USDT -t 1h --since 2024-05-24T00:00:00Z --until 2024-05-28T00:00:00Z"
    )
    for command in ("export", "show"):
        done = run(command, *wanted)
        assert (done.code, done.err.splitlines()) == (0, [told])
        quiet = run(command, *wanted, "-q")
        assert (quiet.code, quiet.err, quiet.out) == (0, "", done.out)
    run(*told.partition("chandlery ")[2].split())
    assert (run("export", *wanted).err, run("show", *wanted).err) == ("", "")


def test_a_range_with_nothing_in_it_is_told(run: Callable[..., Any]) -> None:
    """Where no candle of the range is there, the header comes alone, and the reason on stderr."""
    run("fetch", "BTC/USDT", *KEPT)
    never = run("export", "BTC/USDT", "--since", "2024-05-01", "--until", "2024-05-02")
    assert never.out.splitlines() == ["timestamp,open,high,low,close,volume"]
    assert "24 of 24 candles" in never.err
    after = run("export", "BTC/USDT", "--since", "2024-05-29")
    assert (after.code, len(after.out.splitlines())) == (0, 1)
    assert "no candle" in after.err
    into = run("export", "BTC/USDT", "--since", "2024-05-01", "--until", "2024-05-02", "-o", "a.csv")
    assert "24 of 24 candles" in into.err


def test_many_series_are_told_of_in_one_line(run: Callable[..., Any]) -> None:
    """An export of several series sums up what is not there."""
    run("fetch", "BTC/USDT", "ETH/USDT", *KEPT)
    done = run("export", "*/USDT", "--since", "2024-05-26", "--until", "2024-05-28")
    assert done.err.splitlines() == [
        "note: 48 of 96 candles of 2 series in this range are not there; chandlery fetch brings them"
    ]


def test_what_the_exchange_does_not_have_is_not_missed(run: Callable[..., Any]) -> None:
    """Slots that are absent on the exchange, before the listing or not over yet by its clock are none to fetch."""
    run("fetch", "BTC/USDT", "-t", "1m", "--since", "2024-05-25")
    assert run("export", "BTC/USDT", "-t", "1m").err == ""
    assert run("show", "BTC/USDT", "-t", "1m", "--last", "2d").err == ""
