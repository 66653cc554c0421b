"""One answer of an exchange, served back: what the plain ccxt class makes of it, and what our own source does."""

from __future__ import annotations

import gzip
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ccxt.async_support
from aiohttp import web

from chandlery.candle import SeriesId
from chandlery.sources import open_source
from chandlery.sources.asking import Rows
from chandlery.sources.ccxt_rest import CcxtRest

FILE = "exchange_responses.json.gz"
NOW = 1_800_000_000_000  # 2027-01-15: after every recording

Candle = list[float]


@dataclass(frozen=True, slots=True)
class Answer:
    """What an exchange sent to one request for candles, and what is known of it.

    `candles` are rows that must come out of it: [open time in epoch ms, open, high, low, close, volume]; with `whole`
    they are all of them. `refused` gives the open time of every row that may not be kept, with the reason.
    """

    name: str
    exchange: str
    symbol: str
    timeframe: str
    body: Any
    candles: Sequence[Candle]
    since: int | None = None
    limit: int | None = None
    kind: str = "trade"
    whole: bool = False
    refused: Sequence[tuple[int | None, str]] = ()
    status: int = 200

    @property
    def series(self) -> SeriesId:
        """The series that was asked for."""
        return SeriesId(self.exchange, self.symbol, self.timeframe, self.kind)


def recorded(folder: Path) -> list[Answer]:
    """The answers of the recorded file of `folder`."""
    with gzip.open(folder / FILE) as file:
        entries = json.load(file)
    made = []
    for number, entry in enumerate(entries):
        symbol, timeframe, since, limit, params = (*entry["input"], *(None,) * 5)[:5]
        made.append(
            Answer(
                name=f"{number:02}-{entry['exchange']}",
                exchange=entry["exchange"],
                symbol=symbol,
                timeframe=timeframe or "1m",
                body=entry["httpResponse"],
                candles=entry["parsedResponse"],
                since=since,
                limit=limit,
                kind=(params or {}).get("price", "trade"),
            )
        )
    return made


#: Where the answer is filed under the exchange's own name of the market: how to find that name.
_NAMED: Mapping[str, Callable[[Any], str]] = {
    "alpaca": lambda body: next(iter(body["bars"])),
    "apex": lambda body: next(iter(body["data"])),
    "kraken": lambda body: next(iter(body["result"])),
}


def market(answer: Answer) -> dict[str, Any]:
    """The market that was asked, as ccxt describes one, from what the answer and its request say."""
    pair, _, settle = answer.symbol.partition(":")
    base, quote = pair.split("/")
    named = _NAMED.get(answer.exchange, lambda _: base + quote)
    own = named(answer.body) if isinstance(answer.body, dict | list) and "error" not in answer.name else pair
    contract = bool(settle)
    return {
        "id": own, "id2": own, "symbol": answer.symbol, "base": base, "quote": quote, "settle": settle or None,
        "baseId": base, "quoteId": quote, "settleId": settle or None, "type": "swap" if contract else "spot",
        "spot": not contract, "margin": False, "swap": contract, "future": False, "option": False, "index": False,
        "active": True, "contract": contract, "linear": settle == quote if contract else None,
        "inverse": settle != quote if contract else None, "contractSize": 1.0 if contract else None,
        "precision": {"amount": 1e-8, "price": 1e-8, "base": 1e-8, "quote": 1e-8}, "limits": {}, "info": {},
    }  # fmt: skip


async def plain_rows(answer: Answer) -> list[Candle]:
    """All rows that the plain ccxt class parses out of the answer, before it leaves any out by `since` and `limit`."""
    seen: list[list[Candle]] = []
    base: Any = getattr(ccxt.async_support, answer.exchange)

    class Plain(base):  # type: ignore[misc]
        async def fetch(self, *_: Any, **__: Any) -> Any:
            return self.parse_json(json.dumps(answer.body))

        def parse_ohlcvs(self, ohlcvs: Any, market: Any = None, timeframe: str = "1m", *rest: Any) -> Any:
            seen.append(super().parse_ohlcvs(ohlcvs, market, timeframe, None, None, False))
            return super().parse_ohlcvs(ohlcvs, market, timeframe, *rest)

    exchange = Plain({"enableRateLimit": False})
    exchange.timeout_on_exit = 0  # close() waits a quarter of a second otherwise
    try:
        exchange.set_markets([market(answer)])
        params = {} if answer.kind == "trade" else {"price": answer.kind}
        kept = await exchange.fetch_ohlcv(answer.symbol, answer.timeframe, answer.since, answer.limit, params)
    finally:
        await exchange.close()
    return sorted(seen[0] if seen else kept, key=lambda row: row[0])


async def source_rows(answer: Answer, url: str, state: Path) -> Rows:
    """What our own source makes of the answer of the exchange at `url`, by one request."""
    async with open_source(answer.exchange, url=url, state_dir=state) as source:
        assert isinstance(source, CcxtRest)
        source.ccxt.set_markets([market(answer)])
        since, limit = answer.since, answer.limit or 1000
        return await source._asker.once(
            answer.series, answer.timeframe, since, limit, NOW, answer.series.frame
        )


@asynccontextmanager
async def serving(answer: Answer) -> AsyncIterator[str]:
    """An exchange on loopback that has this one answer to whatever it is asked; gives its URL."""
    text = answer.body if isinstance(answer.body, str) else json.dumps(answer.body)

    async def handle(_: web.Request) -> web.Response:
        return web.Response(text=text, status=answer.status, content_type="application/json")

    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
