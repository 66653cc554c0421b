"""How many pages of candles a second the local exchange serves: repeated ones (from its cache) and fresh ones.

    python bench/exchange_pages.py [--exchange binance] [--seconds 4] [--clients 1]

The exchange runs in a process of its own; the clients are bare aiohttp, in processes of their own. The exchange's CPU
seconds are measured too: pages per CPU second is what one core can do. Of the exchanges with spot pairs and swaps, the one whose
pages are harder to make is asked.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection

import aiohttp

from chandlery.exchange import ExchangeSettings, LocalExchange
from chandlery.exchange.shapes import SHAPES

NEWEST = 1_717_200_000_000  # 2024-06-01
MINUTE_MS = 60_000
BASES = ("BTC", "ETH", "XRP", "DOGE", "SOL", "LTC", "LINK", "ADA")


@dataclass(frozen=True)
class Pages:
    """Where an exchange's pages of 1m candles are, how many rows one has, and how many candles back there are any."""

    path: str
    query: Callable[[str, int], dict[str, object]]
    rows: int
    depth: int = 2_000_000


def klines(base: str, start: int) -> dict[str, object]:
    return {"symbol": f"{base}USDT", "interval": "1m", "startTime": start, "limit": 1000}


def seconds(start: int, rows: int, first: str, last: str) -> dict[str, object]:
    return {first: start // 1000, last: (start + rows * MINUTE_MS) // 1000}


PAGES = {
    "binance": Pages("/api/v3/klines", klines, 1000),
    "binanceusdm": Pages("/fapi/v1/klines", klines, 1000),
    "bybit": Pages(
        "/v5/market/kline",
        lambda base, start: {
            "category": "linear", "symbol": f"{base}USDT", "interval": "1", "start": start, "limit": 1000,
        },
        1000,
    ),
    "okx": Pages(
        "/api/v5/market/history-candles",
        lambda base, start: {
            "instId": f"{base}-USDT-SWAP", "bar": "1m", "before": start - 1, "after": start + 100 * MINUTE_MS,
        },
        100,
    ),
    "kraken": Pages(
        "/0/public/OHLC",
        lambda base, _start: {"pair": {"BTC": "XBT", "DOGE": "XDG"}.get(base, base) + "USDT", "interval": 1},
        720,
        720,
    ),
    "coinbase": Pages(
        "/api/v3/brokerage/market/products/{base}-USDT/candles",
        lambda _base, start: {"granularity": "ONE_MINUTE", **seconds(start, 299, "start", "end")},
        300,
    ),
    "kucoin": Pages(
        "/api/v1/market/candles",
        lambda base, start: {"symbol": f"{base}-USDT", "type": "1min", **seconds(start, 1500, "startAt", "endAt")},
        1500,
    ),
    "mexc": Pages(
        "/api/v1/contract/kline/{base}_USDT",
        lambda _base, start: {"interval": "Min1", **seconds(start, 2000, "start", "end")},
        2000,
    ),
    "bitget": Pages(
        "/api/v2/mix/market/history-candles",
        lambda base, start: {
            "symbol": f"{base}USDT", "productType": "USDT-FUTURES", "granularity": "1m",
            "startTime": start, "endTime": start + 200 * MINUTE_MS, "limit": 200,
        },
        200,
    ),
    "gate": Pages(
        "/api/v4/futures/usdt/candlesticks",
        lambda base, start: {
            "contract": f"{base}_USDT", "interval": "1m", **seconds(start, 1998, "from", "to"),
        },
        1999,
        9_995,
    ),
}  # fmt: skip


def run_exchange(pipe: Connection, name: str) -> None:
    """Serve until told to stop; answer "cpu" with the CPU seconds used so far."""
    settings = ExchangeSettings(exchange=name, clock="2024-06-01T00:00Z,0", weight_limit=0)
    with LocalExchange(settings) as exchange:
        pipe.send(exchange.url)
        while pipe.recv() == "cpu":
            pipe.send(time.process_time())


async def ask(url: str, name: str, first: int, count: int, duration: float) -> int:
    """Ask for `count` different pages round and round for `duration`; returns how many were answered."""
    pages, done, received = PAGES[name], 0, 0
    until = time.monotonic() + duration
    per_pair = max(1, pages.depth // pages.rows)
    async with aiohttp.ClientSession() as session:

        async def worker(lane: int) -> None:
            nonlocal done, received
            number = lane
            while time.monotonic() < until:
                pair, page = divmod((first + number % count) % (per_pair * len(BASES)), per_pair)
                start = NEWEST - (page + 1) * pages.rows * MINUTE_MS
                base = BASES[pair]
                target = url + pages.path.format(base=base)
                query = {key: str(value) for key, value in pages.query(base, start).items()}
                async with session.get(target, params=query) as response:
                    body = await response.read()
                    if response.status != 200:
                        raise RuntimeError(f"bad answer: {response.status} {body[:200]!r}")
                done += 1
                received += len(body)
                number += 4

        await asyncio.gather(*(worker(lane) for lane in range(4)))
    # A page that lies in an outage is short, or empty; most are not.
    if received < 36 * pages.rows * done:
        raise RuntimeError(f"pages of {received // done} bytes do not have {pages.rows} rows")
    return done


def run_client(args: tuple[str, str, int, int, float]) -> int:
    return asyncio.run(ask(*args))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--exchange", choices=list(SHAPES), default="binance")
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--clients", type=int, default=1)
    options = parser.parse_args()
    here, there = multiprocessing.Pipe()
    spawn = multiprocessing.get_context("spawn")
    exchange = spawn.Process(target=run_exchange, args=(there, options.exchange))
    exchange.start()
    url = here.recv()

    def cpu() -> float:
        here.send("cpu")
        return float(here.recv())

    results: dict[str, object] = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
        "exchange": options.exchange,
        "rows": PAGES[options.exchange].rows,
    }
    with spawn.Pool(options.clients) as pool:
        for name, pages in (("repeated", 40), ("fresh", 15_000)):
            jobs = [
                (url, options.exchange, 0 if name == "repeated" else 1000 + 4000 * n, pages, options.seconds)
                for n in range(options.clients)
            ]
            before, begun = cpu(), time.monotonic()
            answered = sum(pool.map(run_client, jobs))
            wall, used = time.monotonic() - begun, cpu() - before
            results[name] = {
                "pages": answered,
                "pages_per_second": round(answered / wall),
                "pages_per_exchange_cpu_second": round(answered / used),
            }
    here.send("stop")
    exchange.join()
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
