"""Real processes against the local exchange over HTTP, under the exchanges' own limits."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from chandlery.exchange import ExchangeSettings, LocalExchange

#: Asks for candles as fast as its budget lets it, for some seconds or until the wait is too long; says so when it has begun.
WORKER = """
import asyncio, sys, time
from chandlery.errors import RateLimited
from chandlery.sources import open_source

url, seconds, budget, exchanges = sys.argv[1], float(sys.argv[2]), float(sys.argv[3]), sys.argv[4:]

async def ask_on(exchange, begun):
    async with open_source(exchange, url=f"{url}/{exchange}", budget=budget, max_wait_seconds=3) as source:
        try:
            await source.markets()
            since = await source.now() - 3_600_000
        except RateLimited:
            return
        begun()
        end = time.monotonic() + seconds

        async def ask():
            while time.monotonic() < end:
                await source.client.call("fetch_ohlcv", "BTC/USDT", "1m", since, 2)

        await asyncio.gather(*(ask() for _ in range(24)), return_exceptions=True)

async def main():
    left = len(exchanges)

    def begun():
        nonlocal left
        left -= 1
        if not left:
            print("begun", flush=True)

    await asyncio.gather(*(ask_on(exchange, begun) for exchange in exchanges))

asyncio.run(main())
"""


def start(
    state: Path, exchange: LocalExchange, *exchanges: str, seconds: float = 2.2, budget: float = 1.0
) -> subprocess.Popen[bytes]:
    """A process that asks these exchanges."""
    command = [sys.executable, "-c", WORKER, exchange.url, str(seconds), str(budget), *exchanges]
    env = {**os.environ, "CHANDLERY_STATE": str(state)}
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE)


def finish(running: Sequence[subprocess.Popen[bytes]]) -> None:
    """Wait until all have ended, well."""
    for one in running:
        one.communicate(timeout=50)
    assert [one.returncode for one in running] == [0] * len(running)


def limits_of(exchange: LocalExchange) -> dict[tuple[str, str], dict[str, Any]]:
    """What the exchange counted, by the exchange and the limit."""
    with urllib.request.urlopen(exchange.url + "/_control/limits", timeout=10) as answer:
        return {(one["exchange"], one["group"]): one for one in json.load(answer)["limits"]}


def test_two_processes_keep_and_use_the_rolling_limits_of_exchanges(tmp_path: Path) -> None:
    """Two processes at once stay within each window of OKX and Coinbase without one refusal, and fill it."""
    exchanges = ("okx", "coinbase")
    with LocalExchange(ExchangeSettings(exchange=exchanges)) as exchange:
        finish([start(tmp_path, exchange, *exchanges) for _ in range(2)])
        counted = limits_of(exchange)

    assert sum(one["refused"] + one["banned"] for one in counted.values()) == 0, counted
    for limit in (("okx", "candles"), ("coinbase", "public")):
        one = counted[limit]
        assert one["most_used"] >= 0.9 * one["limit"], one
        assert one["requests"] > one["limit"], one


def test_two_processes_keep_and_use_declared_limits(tmp_path: Path) -> None:
    """Two processes at once stay within the weight that Binance declares and KuCoin tells in headers, and spend it."""
    exchanges = ("binance", "kucoin")
    with LocalExchange(ExchangeSettings(exchange=exchanges, weight_limit=250)) as exchange:
        # They end when nothing is left.
        finish([start(tmp_path, exchange, *exchanges, seconds=20) for _ in range(2)])
        counted = limits_of(exchange)
        finish([start(tmp_path, exchange, *exchanges)])
        after = limits_of(exchange)

    assert sum(one["refused"] + one["banned"] for one in after.values()) == 0, after
    used = [max(one["most_used"] for key, one in counted.items() if key[0] == name) for name in exchanges]
    assert min(used) >= 0.9 * 250, counted


def test_a_killed_process_loses_nothing_of_the_budget(tmp_path: Path) -> None:
    """A process that is killed while requests are under way, and one with a smaller share, leave what they have spent to
    the next, which goes on with what is left and is never refused.
    """
    with LocalExchange(ExchangeSettings(exchange="binance", weight_limit=300)) as exchange:
        with start(tmp_path, exchange, "binance", budget=0.5) as first:
            assert first.stdout is not None
            assert first.stdout.readline() == b"begun\n"
            os.kill(first.pid, signal.SIGKILL)
        before = limits_of(exchange)
        finish([start(tmp_path, exchange, "binance", seconds=20)])
        counted = limits_of(exchange)

    assert max(one["most_used"] for one in before.values()) <= 150
    assert sum(one["refused"] + one["banned"] for one in counted.values()) == 0, counted
    assert max(one["most_used"] for one in counted.values()) >= 0.8 * 300, counted
