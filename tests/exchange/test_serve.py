"""Starting and stopping, as a program and from code."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

from chandlery.errors import UsageError
from chandlery.exchange import ExchangeSettings, LocalExchange

PROGRAM = """
import sys
from chandlery.exchange import ExchangeSettings, serve
serve(ExchangeSettings(clock="2024-06-01T00:00Z,0"), lambda url: print(url, file=sys.stderr, flush=True))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serve_ends_cleanly(number: signal.Signals, http: Callable[..., Any]) -> None:
    """The program tells its URL, answers, prints nothing itself, and ends with 0 on SIGINT and SIGTERM."""
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert program.stderr is not None
        url = program.stderr.readline().strip()
        assert http(url, "/api/v3/time", {}).json == {"serverTime": 1_717_200_000_000}
        program.send_signal(number)
        out, err = program.communicate(timeout=10)
    finally:
        program.kill()

    assert (program.returncode, out, err) == (0, "", "")


def test_stop_and_start_again(http: Callable[..., Any]) -> None:
    """After stop nothing listens and no thread is left; it can be started again, and stopping twice is harmless."""
    before = set(threading.enumerate())
    exchange = LocalExchange(ExchangeSettings(clock="2024-06-01T00:00Z,0"))
    for _ in range(2):
        with exchange:
            assert http(exchange.url, "/api/v3/ping", {}).json == {}
        with pytest.raises(ConnectionRefusedError):
            http(exchange.url, "/api/v3/ping", {})
    exchange.stop()

    left = set(threading.enumerate()) - before
    assert "local-exchange" not in {thread.name for thread in left}


def test_port_in_use() -> None:
    """A port that is taken is a clear error with a hint."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"cannot listen on 127.0.0.1:{port}") as caught:
            LocalExchange(ExchangeSettings(port=port)).start()

    assert "--port" in caught.value.hint


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"symbols": ("BTC/USDT", "FOO/BAR")}, "no pair 'FOO/BAR'"),
        ({"exchange": "mtgox"}, "cannot play 'mtgox'"),
        ({"weight_limit": -1}, "weight limit of -1"),
        ({"cache_mib": 0}, "cache of 0 MiB"),
        ({"port": 70_000}, "not a port: 70000"),
        ({"clock": "noon"}, "not a time"),
    ],
)
def test_bad_settings(settings: dict[str, Any], complaint: str) -> None:
    """Settings that cannot be are refused with the value and a hint."""
    with pytest.raises(UsageError, match=complaint) as caught:
        LocalExchange(ExchangeSettings(**settings))

    assert caught.value.hint


def test_chosen_symbols() -> None:
    """`symbols` narrows the market; `truth` refuses what is not served."""
    exchange = LocalExchange(ExchangeSettings(symbols=("SOL/USDT", "ETHBTC")))

    assert exchange.symbols == ["SOL/USDT", "ETH/BTC"]
    with pytest.raises(UsageError, match="no pair 'BTC/USDT'"):
        exchange.truth("BTC/USDT", "1h", 0, 1)
    with pytest.raises(UsageError, match="no '7m' candles"):
        exchange.truth("SOL/USDT", "7m", 0, 1)


def test_import_is_light() -> None:
    """Importing chandlery.exchange loads neither aiohttp nor polars nor numpy."""
    code = "import sys, chandlery.exchange; print([m for m in ('aiohttp', 'polars', 'numpy') if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)

    assert run.stdout.strip() == "[]"
