"""With --json: exactly one document for every run that began, nothing where none did."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chandlery.candle import SeriesId
from chandlery.exchange import Faults, LocalExchange, parse_fault
from chandlery.stores import open_store

BTC = SeriesId("binance", "BTC/USDT", "1h")
#: Nothing listens there.
DEAD = ("--exchange-url", "http://127.0.0.1:1", "--max-wait", "0")
FETCHED = ("fetch", "BTC/USDT", "--since", "2024-05-30")

RUNS: dict[str, tuple[int, tuple[str, ...]]] = {
    "fetch complete": (0, FETCHED),
    "fetch topping up": (0, ("fetch",)),
    "fetch an unknown symbol too": (1, ("fetch", "BTC/USDT", "BTC/USDX")),
    "fetch without exchange": (3, (*FETCHED, *DEAD)),
    "fetch topping up without exchange": (3, ("fetch", *DEAD)),
    "plan": (0, ("plan", "BTC/USDT")),
    "plan an unknown symbol too": (1, ("plan", "BTC/USDT", "BTC/USDX")),
    "plan without exchange": (3, ("plan", "BTC/USDT", *DEAD[:2])),
    "verify": (0, ("verify",)),
    "verify what was not asked for": (1, ("verify", "--since", "2024-05-01")),
    "repair without exchange": (3, ("verify", "--since", "2024-05-01", "--repair", *DEAD)),
}


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """An exchange that cannot be reached is given up at once."""
    monkeypatch.setattr("chandlery.sources.retry.TRIES_DOWN", 1)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("case", RUNS)
def test_every_run_that_began_gives_one_document(case: str, run: Callable[..., Any]) -> None:
    """Exit codes 0, 1 and 3 come with one JSON document on stdout; the errors stand on stderr too."""
    code, words = RUNS[case]
    assert run(*FETCHED).code == 0
    done = run(*words, "--json")

    assert done.code == code, done.err
    assert isinstance(done.json["series"], list)
    assert done.json["series"]
    assert ("error: " in done.err) == (code == 3 or "USDX" in done.err)


@pytest.mark.parametrize("words", [FETCHED, ("verify", "--since", "2024-05-29", "--repair")])
def test_a_locked_series_gives_one_document(
    words: tuple[str, ...], run: Callable[..., Any], tmp_path: Path
) -> None:
    """Exit code 5 comes with one JSON document on stdout."""
    run(*FETCHED)
    with open_store(str(tmp_path / "candles")) as store, store.lock(BTC):
        done = run(*words, "--json")

    assert (done.code, len(done.json["series"])) == (5, 1), done.err


@pytest.mark.usefixtures("impatient")
def test_an_exchange_that_goes_while_we_ask_gives_one_document(
    run: Callable[..., Any], exchange: LocalExchange
) -> None:
    """Where the exchange stops answering after the first questions, that too is told in the document."""
    exchange.forget_requests()
    exchange.faults = Faults((parse_fault("reset,requests=" + "+".join(map(str, range(3, 40)))),))
    try:
        done = run(*FETCHED, "--json")
    finally:
        exchange.faults = Faults()

    assert done.code == 3, done.err
    assert done.json["series"][0]["error"]["kind"] == "ExchangeUnavailable"


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (2, ("fetch", "BTC/USDT", "--since", "soon")),
        (2, ("verify", "XYZ/USDT")),
        (2, ("plan",)),
        (4, ("verify",)),
    ],
)
def test_nothing_began_gives_no_document(
    code: int, words: tuple[str, ...], run: Callable[..., Any], tmp_path: Path
) -> None:
    """Usage errors, and a store that cannot be opened, leave stdout empty; the error is on stderr."""
    if code == 4:
        (tmp_path / "candles").write_text("mine")
    done = run(*words, "--json")

    assert (done.code, done.out) == (code, ""), done.err
    assert done.err.startswith("error: ")
