"""verify: the shape of what it says, its exit codes, and what --repair brings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from chandlery.exchange import ExchangeSettings, Faults, LocalExchange, parse_fault

VERIFY_KEYS = [
    *("exchange", "symbol", "timeframe", "kind", "first", "last", "expected", "stored"),
    *("absent", "missing", "pending", "quarantined", "before_listing", "after_end", "out_of_reach"),
    *("duplicates", "invalid", "unexplained", "gaps_total", "gaps"),
]
GAP_KEYS = ["from", "to", "candles", "state", "reason"]
WEEK = ("--since", "2024-05-25", "--until", "2024-06-01")


def test_verify_accounts_for_every_slot(run: Callable[..., Any]) -> None:
    """The document has exactly the keys of the contract; expected is the sum of all states; the exit code is 0."""
    run("fetch", "IO/USDT", "-t", "1h", "-t", "1d", *WEEK)
    done = run("verify", "--json")

    assert done.code == 0, done.err
    assert list(done.json) == ["ok", "series"]
    assert [list(series) for series in done.json["series"]] == [VERIFY_KEYS] * 2
    hour = done.json["series"][0]
    assert hour["expected"] == 168 == hour["stored"] + sum(hour[state] for state in VERIFY_KEYS[8:15])
    assert (hour["stored"], hour["before_listing"], hour["unexplained"]) == (84, 84, 0)
    assert [list(gap) for gap in hour["gaps"]] == [GAP_KEYS] * hour["gaps_total"]
    assert hour["gaps"][0]["state"] == "before_listing"


def test_verify_in_words(run: Callable[..., Any]) -> None:
    """Each series has a line with a sign; -t narrows; --gaps lists what is not stored."""
    run("fetch", "IO/USDT", "-t", "1h", "-t", "1d", *WEEK)
    plain = run("verify")
    listed = run("verify", "IO/USDT", "-t", "1h", "--gaps", "5")

    assert plain.out.count("✅") == 2
    assert "2 of 2 series complete" in plain.err
    assert "before listing" in listed.out.splitlines()[-1]
    assert "2024-05-28 12:00" in listed.out.splitlines()[-1]


def test_a_range_that_was_never_asked_for_is_missing(run: Callable[..., Any]) -> None:
    """Verify over more than was fetched says 1, and how much is missing."""
    run("fetch", "BTC/USDT", "-t", "1d", *WEEK)
    done = run("verify", "--since", "2024-05-20", "--until", "2024-06-01", "--json")

    assert done.code == 1
    assert (done.json["ok"], done.json["series"][0]["missing"]) == (False, 5)
    assert done.json["series"][0]["gaps"][0]["to"] == "2024-05-25T00:00:00Z"


def test_repair_brings_what_is_missing(run: Callable[..., Any]) -> None:
    """After a run that lost a part of its answers, --repair asks again, verifies again, and says 0."""
    faults = Faults((parse_fault("418:1,retry_after=3600,path=klines,symbol=ETH/USDT"),))
    with LocalExchange(ExchangeSettings(clock="2024-06-01T00:01Z,0", faults=faults)) as failing:
        url = ("--exchange-url", failing.url)
        first = run("fetch", "ETH/USDT", "-t", "1h", *WEEK, "--max-wait", "1s", *url)
    before = run("verify", "--json")
    repaired = run("verify", "--repair", "--json")

    assert (first.code, before.code, repaired.code) == (3, 1, 0), repaired.err
    assert (before.json["series"][0]["missing"], repaired.json["series"][0]["missing"]) == (168, 0)
    assert repaired.json["series"][0]["stored"] == 168
    assert "repair brought 168 candles" in repaired.err


def test_repair_that_cannot_reach_the_exchange_says_so(run: Callable[..., Any]) -> None:
    """Where the exchange lets nothing through, --repair ends with 3 and the verdict as it was."""
    faults = Faults((parse_fault("418:1,retry_after=3600,path=klines"),))
    with LocalExchange(ExchangeSettings(clock="2024-06-01T00:01Z,0", faults=faults)) as failing:
        url = ("--exchange-url", failing.url)
        run("fetch", "ETH/USDT", "-t", "1d", *WEEK, "--max-wait", "1s", *url)
        done = run("verify", "--repair", "--json", "--max-wait", "1s", *url)

    assert done.code == 3, done.err
    assert done.json["series"][0]["missing"] == 7


def test_verify_knows_no_such_series(run: Callable[..., Any]) -> None:
    """A series that is not kept is 2, with the nearest that is."""
    run("fetch", "BTC/USDT", "-t", "1d", *WEEK)
    done = run("verify", "BTC/USD")

    assert (done.code, done.out) == (2, "")
    assert "BTC/USDT" in done.err
