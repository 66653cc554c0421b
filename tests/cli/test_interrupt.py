"""Ctrl-C and processes: what a signal leaves, and what a pipe that closes does."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chandlery.candle import SeriesId
from chandlery.exchange import ExchangeSettings, Faults, LocalExchange, parse_fault
from chandlery.stores import open_store

RANGE = ("--since", "2024-05-01", "--until", "2024-05-30")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_fetch_goes_on_where_it_stopped(
    number: signal.Signals, start: Callable[..., subprocess.Popen[str]], run: Callable[..., Any]
) -> None:
    """A signal in the middle of a run exits with 130 and says what was done; the re-run asks only for the rest, and
    what is stored then is the truth.
    """
    slow = Faults((parse_fault("latency:100,path=klines"),))
    with LocalExchange(ExchangeSettings(clock="2024-06-01T00:01Z,0", faults=slow)) as exchange:
        process = start("fetch", "BTC/USDT", "-t", "1m", *RANGE, EXCHANGE_URL=exchange.url)
        deadline = time.monotonic() + 30
        while _klines(exchange) < 12 and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(number)
        out, err = process.communicate(timeout=20)
        exchange.faults = Faults()
        exchange.forget_requests()
        stopped = run("verify", "--json").json["series"][0]
        again = run("fetch", "BTC/USDT", "-t", "1m", *RANGE, "--json", "--exchange-url", exchange.url)
        second = _klines(exchange)

    slots = 29 * 1440
    assert (process.returncode, out) == (130, ""), err
    assert "interrupted" in err
    assert "Traceback" not in err
    assert 0 < stopped["stored"] < slots
    assert (stopped["expected"], stopped["unexplained"]) == (slots, 0)
    assert (again.code, again.json["series"][0]["missing"]) == (0, 0)
    # Pages of 1,000 candles, of which one is the overlap; a few ranges were cut in the middle.
    assert second <= (slots - stopped["stored"]) / 999 + 8
    assert run("verify").code == 0


def _klines(exchange: LocalExchange) -> int:
    return sum(record.path.endswith("klines") for record in exchange.requests)


def test_a_reader_that_stops_is_no_fault(start: Callable[..., subprocess.Popen[str]]) -> None:
    """Where stdout is closed by its reader, the command ends without a complaint."""
    process = start("markets")
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    err = process.stderr.read()
    process.wait(timeout=20)

    assert process.returncode == 141
    assert err == ""


def test_a_wait_for_a_lock_ends_at_once(
    start: Callable[..., subprocess.Popen[str]], run: Callable[..., Any], tmp_path: Path
) -> None:
    """The first Ctrl-C ends a fetch that waits for another writer; one that is not disturbed goes on when that ends."""
    run("fetch", "BTC/USDT", "--since", "2024-05-30")
    with open_store(str(tmp_path / "candles")) as store, store.lock(SeriesId("binance", "BTC/USDT", "1h")):
        process = start("fetch", "BTC/USDT", "--wait-lock", "-v")
        patient = start("fetch", "BTC/USDT", "--wait-lock")
        assert process.stderr is not None
        assert process.stderr.readline().startswith("store: ")
        time.sleep(0.5)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=5)
        assert patient.poll() is None

    assert process.returncode == 130, err
    assert "interrupted" in err
    assert patient.wait(timeout=20) == 0
