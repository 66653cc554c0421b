"""How many pages of 1,000 candles a second the local exchange serves: repeated ones (from its cache) and fresh ones.

    python bench/exchange_pages.py [--seconds 4] [--clients 1]

The exchange runs in a process of its own; the clients are bare aiohttp, in processes of their own. The exchange's CPU
seconds are measured too: pages per CPU second is what one core can do.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import platform
import time
from multiprocessing.connection import Connection

import aiohttp

from chandlery.exchange import ExchangeSettings, LocalExchange

NEWEST = 1_717_200_000_000  # 2024-06-01
PAGE_MS = 1000 * 60_000
PAIRS = ("BTCUSDT", "ETHUSDT", "BNBUSDT", "LTCUSDT", "ADAUSDT", "XRPUSDT", "LINKUSDT", "DOGEUSDT")


def run_exchange(pipe: Connection) -> None:
    """Serve until told to stop; answer "cpu" with the CPU seconds used so far."""
    with LocalExchange(ExchangeSettings(clock="2024-06-01T00:00Z,0", weight_limit=0)) as exchange:
        pipe.send(exchange.url)
        while pipe.recv() == "cpu":
            pipe.send(time.process_time())


async def ask(url: str, first: int, pages: int, seconds: float) -> int:
    """Ask for `pages` different pages round and round for `seconds`; returns how many were answered whole."""
    done = 0
    until = time.monotonic() + seconds
    async with aiohttp.ClientSession() as session:

        async def worker(lane: int) -> None:
            nonlocal done
            number = lane
            while time.monotonic() < until:
                pair, page = divmod(
                    first + number % pages, 2000
                )  # 2,000 pages back is 2020, when all of them traded
                start = NEWEST - (page + 2) * PAGE_MS
                query = {"symbol": PAIRS[pair], "interval": "1m", "startTime": str(start), "limit": "1000"}
                async with session.get(f"{url}/api/v3/klines", params=query) as response:
                    body = await response.read()
                    if response.status != 200 or len(body) < 100_000:
                        raise RuntimeError(f"bad answer: {response.status} {body[:200]!r}")
                done += 1
                number += 4

        await asyncio.gather(*(worker(lane) for lane in range(4)))
    return done


def run_client(args: tuple[str, int, int, float]) -> int:
    return asyncio.run(ask(*args))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--clients", type=int, default=1)
    options = parser.parse_args()
    here, there = multiprocessing.Pipe()
    spawn = multiprocessing.get_context("spawn")
    exchange = spawn.Process(target=run_exchange, args=(there,))
    exchange.start()
    url = here.recv()

    def cpu() -> float:
        here.send("cpu")
        return float(here.recv())

    results = {"machine": f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"}
    with spawn.Pool(options.clients) as pool:
        for name, pages in (("repeated", 40), ("fresh", 15_000)):
            jobs = [
                (url, 0 if name == "repeated" else 1000 + 4000 * n, pages, options.seconds)
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
