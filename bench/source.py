"""CPU time of the source per page of 1,000 candles, beside a bare `ccxt.fetch_ohlcv` on the same server.

Run: python bench/source.py [PAGES]. The server is a local exchange in a process of its own, so that only the client's
CPU time is counted; both clients ask for the same pages, in turns, and the best of three rounds counts.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import ccxt.async_support

from chandlery.candle import SeriesId
from chandlery.ledger import Fact
from chandlery.sources import open_source
from chandlery.timerange import TimeRange

MINUTE = 60_000
SINCE = 1_700_000_000_000 // MINUTE * MINUTE
SERVER = """
import sys
from chandlery.exchange import ExchangeSettings, LocalExchange
with LocalExchange(ExchangeSettings(clock="2024-06-01T00:00:30Z,0", weight_limit=0)) as exchange:
    print(exchange.url, flush=True)
    sys.stdin.read()
"""


async def ours(url: str, pages: int) -> float:
    """CPU milliseconds per 1,000 candles through the source."""
    with tempfile.TemporaryDirectory() as state:
        async with open_source("binance", url=url, state_dir=Path(state)) as source:
            now = await source.now()
            await source.markets()
            span = TimeRange(SINCE, SINCE + pages * 999 * MINUTE)
            candles = 0
            begun = time.process_time()
            async for page in source.pages(
                SeriesId("binance", "BTC/USDT", "1m"), span, now=now, settle=10_000
            ):
                assert not isinstance(page, Fact)
                candles += len(page.candles)
            return (time.process_time() - begun) * 1e6 / candles


async def bare(url: str, pages: int) -> float:
    """CPU milliseconds per 1,000 candles through ccxt alone."""
    exchange = ccxt.async_support.binance(
        {"enableRateLimit": False, "options": {"fetchMarkets": {"types": ["spot"]}}}
    )
    for name, api in exchange.urls["api"].items():
        if isinstance(api, str):
            exchange.urls["api"][name] = url + "/" + api.split("/", 3)[-1]
    try:
        await exchange.load_markets()
        since, candles = SINCE, 0
        begun = time.process_time()
        for _ in range(pages):
            rows = await exchange.fetch_ohlcv("BTC/USDT", "1m", since, 1000)
            candles += len(rows)
            since = rows[-1][0] + MINUTE
        return (time.process_time() - begun) * 1e6 / candles
    finally:
        await exchange.close()


def main() -> None:
    pages = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert server.stdout is not None
    assert server.stdin is not None
    try:
        url = server.stdout.readline().strip()
        rounds = [(asyncio.run(bare(url, pages)), asyncio.run(ours(url, pages))) for _ in range(3)]
    finally:
        server.stdin.close()
        server.wait(10)
    theirs, own = min(r[0] for r in rounds), min(r[1] for r in rounds)
    print(f"ccxt alone    {theirs:6.2f} ms of CPU per 1,000 candles")
    print(f"chandlery     {own:6.2f} ms of CPU per 1,000 candles, {own / theirs:.2f} of ccxt alone")


if __name__ == "__main__":
    main()
