"""What is said where a name, a timeframe or a path is wrong: the mend that helps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from chandlery.exchange import ExchangeSettings, LocalExchange

WEEK = ("--since", "2024-05-25", "--until", "2024-06-01")
PLAYED = ("kraken", "gate", "kucoin", "okx", "bybit", "bitget", "binance")


@pytest.fixture(scope="module")
def several() -> Iterator[LocalExchange]:
    """Several exchanges at one address, each below its id, the first at the root too."""
    settings = ExchangeSettings(exchange=PLAYED, clock="2024-06-01T00:01Z,0", weight_limit=0)
    with LocalExchange(settings) as running:
        yield running


def said(text: str) -> str:
    """What stderr says, without its line breaks."""
    return " ".join(text.split())


@pytest.mark.parametrize(
    ("played", "symbol", "timeframe"),
    [("gate", "BTC/USDT", "10s"), ("kucoin", "BTC/USDT:USDT", "3m"), ("binance", "BTC/USDT", "1s")],
)
def test_a_timeframe_that_the_server_refuses_has_the_same_hint_everywhere(
    run: Callable[..., Any], several: LocalExchange, played: str, symbol: str, timeframe: str
) -> None:
    """Whatever an exchange's words are, a refused timeframe is told as one that is not offered, though ccxt lists it."""
    url = f"{several.url}/{played}"
    done = run("fetch", symbol, "-t", timeframe, "-e", played, *WEEK, "--exchange-url", url, "--json")
    assert done.code in (1, 3), done.err
    assert "does not offer the timeframe, though ccxt lists it" in said(done.err)


def test_krakens_fifteen_days_are_no_two_weeks(run: Callable[..., Any], several: LocalExchange) -> None:
    """What ccxt calls 2w is of 15 days at Kraken, so it is not offered."""
    done = run("plan", "BTC/USDT", "-t", "2w", "-e", "kraken", *WEEK, "--exchange-url", several.url)
    assert (done.code, done.out) == (2, "")
    assert "it offers 1m, 5m, 15m, 30m, 1h, 4h, 1d, 1w" in said(done.err)


def test_a_path_where_nothing_answers_names_one_that_may(
    run: Callable[..., Any], several: LocalExchange
) -> None:
    """With no id in the path, or a wrong one, the hint names the exchange's own path; with the right one there is none."""
    for wrong in (several.url, f"{several.url}/nobody"):
        done = run("fetch", "BTC/USDT", "-e", "okx", *WEEK, "--exchange-url", wrong)
        assert done.code == 3, done.err
        assert f"try {several.url}/okx" in said(done.err)
    done = run("fetch", "BTC/USDT", "-e", "okx", *WEEK, "--exchange-url", f"{several.url}/okx")
    assert done.code == 0, done.err


def test_capitals_do_not_matter_in_the_name_of_an_exchange(
    run: Callable[..., Any], several: LocalExchange
) -> None:
    """-e Kraken is kraken, for what fetches and for what reads."""
    done = run(
        "fetch", "BTC/USDT", "-t", "1d", "-e", "Kraken", *WEEK, "--exchange-url", several.url, "--json"
    )
    assert done.code == 0, done.err
    assert done.json["series"][0]["exchange"] == "kraken"
    assert run("verify", "-e", "KRAKEN").code == 0
    assert len(run("show", "BTC/USDT", "-t", "1d", "-e", "Kraken", "--json").json) == 7
    topped = run("fetch", "-e", "Kraken", "--until", "2024-06-01", "--exchange-url", several.url)
    assert topped.code == 0, topped.err


@pytest.mark.parametrize(
    "command",
    [("show", "BTC/USDT"), ("export", "BTC/USDT"), ("fetch", "BTC/USDT"), ("verify",), ("list",)],
)
def test_two_exchanges_where_one_is_meant_are_refused(
    run: Callable[..., Any], command: tuple[str, ...]
) -> None:
    """-e given twice is a usage error: the first would be dropped without a word."""
    done = run(*command, "-e", "kraken", "--exchange=okx")
    assert (done.code, done.out) == (2, "")
    assert "-e is given more than once" in said(done.err)


def test_a_swap_of_an_exchange_without_swaps(run: Callable[..., Any], several: LocalExchange) -> None:
    """Kraken lists spot only: the hint says so and where its swaps are, and names no pair that would not help."""
    done = run("fetch", "BTC/USDT:USDT", "-e", "kraken", *WEEK, "--exchange-url", several.url)
    assert (done.code, done.out) == (2, "")
    assert said(done.err).endswith("hint: kraken lists spot only; swaps are at krakenfutures")


def test_series_that_could_not_begin_have_a_row(run: Callable[..., Any], several: LocalExchange) -> None:
    """A table lists each series that was asked for: one that failed before its range was known says failed."""
    wanted = ("BTC/USDT", "XX/YY", "ZZ/YY")
    done = run("fetch", *wanted, "-t", "1d", "-e", "kraken", *WEEK, "--exchange-url", several.url)
    assert done.code == 1, done.err
    rows = [line.split() for line in done.out.splitlines()[1:]]
    assert [(row[0], row[-1]) for row in rows] == [
        ("BTC/USDT", "complete"), ("XX/YY", "failed"), ("ZZ/YY", "failed"),
    ]  # fmt: skip
    assert rows[1][2:4] == ["-", "-"]
