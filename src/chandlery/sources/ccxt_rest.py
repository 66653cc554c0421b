"""Source `ccxt_rest`: candles of any exchange that ccxt speaks to, over REST."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from chandlery.anchors import frame_of
from chandlery.candle import CandlePage, SeriesId
from chandlery.clock import Clock, SystemClock
from chandlery.errors import BadAnswer, ExchangeError, ExchangeRefused, UnknownSymbol, UnknownTimeframe
from chandlery.ledger import Fact, State
from chandlery.sources.asking import Asker
from chandlery.sources.base import Beginning, Estimate, Market, Source, Traffic, Volumes, beyond
from chandlery.sources.beginnings import Beginnings
from chandlery.sources.ccxt_client import DECLARING, Client
from chandlery.sources.ccxt_errors import instead_of
from chandlery.sources.depth import DepthDoubts
from chandlery.sources.exchange_clock import ExchangeClock
from chandlery.sources.found import Found
from chandlery.sources.holes import Usual
from chandlery.sources.manners import Manners, in_base, market_of, settle_of
from chandlery.sources.observed import Observed
from chandlery.sources.pacing import UNTIL_DECLARED, Pacer
from chandlery.sources.profile_book import ProfileBook
from chandlery.sources.retry import persist
from chandlery.sources.walk import Walk
from chandlery.state import state_folder
from chandlery.timeframe import Timeframe
from chandlery.timerange import TimeRange
from chandlery.when import iso

log = logging.getLogger("chandlery.sources.ccxt_rest")

#: Exchanges whose candles ccxt takes for others, and in what.
MISREAD = {"ndax": "ccxt takes the end of each for its open time"}
#: Timeframes that are not what ccxt calls them: Kraken's 2w is of 15 days.
MISNAMED = frozenset({("kraken", "2w")})
#: Times that a walk is begun again because what it began with has slipped out of reach.
SLIPS = 3


class CcxtRest(Source):
    """Candles of one exchange through ccxt's REST classes. Use it in one event loop and close it.

    `budget` is the share of the exchange's own declared limits to spend, `max_wait_seconds` the longest wait that the
    exchange may order before the run ends with RateLimited, `timeout_seconds` the total time of one request,
    `settle_seconds` when a candle counts as closed (None: as the exchange's profile says). What is known of the exchange, its
    profile, is read from `state_dir` where it was learnt there; what answers show otherwise is told when the source is closed.
    """

    name = "ccxt_rest"

    def __init__(
        self,
        exchange_id: str,
        *,
        url: str | None = None,
        api_key: str = "",
        secret: str = "",
        signed: bool = False,
        clock: Clock | None = None,
        state_dir: Path | None = None,
        max_wait_seconds: float = 600,
        budget: float = 0.8,
        settle_seconds: float | None = None,
        timeout_seconds: float = 30.0,
    ) -> None:
        self.exchange = exchange_id
        self.traffic = Traffic()
        self.clock = clock or SystemClock()
        state_dir = state_dir or state_folder()
        #: What is known of the exchange; None for one that chandlery neither ships a profile of nor has probed here.
        self.profile = ProfileBook(state_dir).load(exchange_id)
        self.settle_seconds = settle_of(self.profile) if settle_seconds is None else settle_seconds
        declares = exchange_id in DECLARING
        pacer = Pacer(
            clock=self.clock,
            state_dir=state_dir,
            max_wait_seconds=max_wait_seconds,
            share=budget,
            limits=(self.profile.limits if self.profile else ()) or (UNTIL_DECLARED if declares else ()),
            in_flight=self.profile.in_flight if self.profile else 0,
        )
        self.client = Client(
            exchange_id,
            pacer=pacer,
            traffic=self.traffic,
            url=url,
            api_key=api_key,
            secret=secret,
            signed=signed,
            timeout_seconds=timeout_seconds,
        )
        if not self.client.ccxt.has.get("fetchOHLCV"):
            raise ExchangeRefused(
                f"{exchange_id} gives no candles through ccxt",
                hint="choose another exchange; ccxt's `has` lists them",
            )
        if exchange_id in MISREAD:
            raise ExchangeRefused(
                f"candles of {exchange_id} cannot be trusted: {MISREAD[exchange_id]}",
                hint="choose another exchange (docs/exchanges.md, what recorded answers showed)",
            )
        if not declares:
            pacer.unit_ms = float(self.client.ccxt.rateLimit)
        self._asker = Asker(self.client, self.traffic, self.clock, max_wait_seconds=max_wait_seconds)
        self._asker.on_rows = self._rows_came
        self._time = ExchangeClock(self.client, self.clock, self._asker.patience)
        self._manners = Manners(self.profile, now=self._time.now_ms, hint=self._hint)
        self._observed = Observed(exchange_id)
        self._depths = DepthDoubts(self._asker, self._manners, self._observed, self._time)
        # ccxt chooses endpoints, and the ends of pages, by the time.
        self.client.ccxt.milliseconds = self._time.now_ms
        self.client.ccxt.seconds = lambda: self._time.now_ms() // 1000
        self._markets: dict[str, Market] = {}
        self._loading = asyncio.Lock()
        self._loaded_types: tuple[str, ...] | None = None
        self._beginnings: dict[SeriesId, Beginning | None] = {}
        self._searching: defaultdict[SeriesId, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._found: dict[SeriesId, Found] = {}
        self._usual: defaultdict[SeriesId, Usual] = defaultdict(Usual)

    @property
    def ccxt(self) -> Any:
        """The ccxt object itself, made strict."""
        return self.client.ccxt

    async def now(self) -> int:
        """The exchange's time, epoch ms: what it says, else the Date of an answer, else the local clock."""
        if not self.client.ccxt.has.get("fetchTime"):
            await self.markets()  # an answer, whose Date is the time
        return await self._time.ask()

    async def markets(self) -> Mapping[str, Market]:
        """All markets by symbol; asked once and kept. For binance those of spot, until a swap is asked for."""
        return await self._load(("spot",) if self.exchange == "binance" else None)

    async def _load(self, types: tuple[str, ...] | None) -> Mapping[str, Market]:
        async with self._loading:
            if self._markets and (types is None or set(types) <= set(self._loaded_types or ())):
                return self._markets
            found = await persist(lambda: self.client.load_markets(types=types), self._asker.patience())
            self._markets = {symbol: market_of(symbol, raw) for symbol, raw in found.items()}
            self._loaded_types = types
            return self._markets

    async def timeframes(self) -> Mapping[str, Timeframe]:
        """The timeframes that the exchange offers, by their text, shortest first."""
        return self._offered()

    def _offered(self) -> dict[str, Timeframe]:
        found: list[Timeframe] = []
        for text in self.client.ccxt.timeframes or {}:
            if (self.exchange, text) in MISNAMED:
                continue
            try:
                found.append(frame_of(self.exchange, text))
            except UnknownTimeframe:
                log.debug("%s offers a timeframe that is none: %r", self.exchange, text)
        return {frame.text: frame for frame in sorted(found, key=lambda f: f.nominal_ms)}

    async def known(self, series: SeriesId) -> Market:
        """Check symbol and timeframe; raises UnknownSymbol or UnknownTimeframe with the nearest names as hint."""
        offered = self._offered()
        if series.timeframe not in offered:
            raise UnknownTimeframe(
                f"{self.exchange} does not offer the timeframe {series.timeframe!r}",
                hint="it offers " + ", ".join(offered),
            )
        markets = await self.markets()
        if series.symbol not in markets and ":" in series.symbol and self.exchange == "binance":
            markets = await self._load(("spot", "linear", "inverse"))
        market = markets.get(series.symbol)
        if market is None:
            raise UnknownSymbol(
                f"{self.exchange} does not list {series.symbol!r}",
                hint=instead_of(series.symbol, self.exchange, markets),
            )
        return market

    async def listing(self, series: SeriesId) -> int | None:
        """The open time of the first candle that the exchange gives, None if it gives none. Kept once found."""
        found = await self.beginning(series)
        return None if found is None else found.open

    async def beginning(self, series: SeriesId) -> Beginning | None:
        """Where the candles begin that the exchange gives, None if it gives none. Kept once found, unless it moves on."""
        await self.known(series)
        return await self._beginning(series, await self.now())

    async def _beginning(self, series: SeriesId, now: int) -> Beginning | None:
        async with self._searching[series]:  # of many walks one searches
            return await self._searched(series, now)

    async def _searched(self, series: SeriesId, now: int) -> Beginning | None:
        if series in self._beginnings:
            return self._beginnings[series]
        if (found := await self._oldest_in_reach(series, now)) is not None:
            return found
        found = await self._edges(series, now).beginning()
        if found is not None:
            self._beginnings[series] = found
            habits = self._manners.habits(self._markets[series.symbol])
            if found.deeper and habits is not None:
                self._observed.begins(
                    str(self._markets[series.symbol].family), habits, series.frame, found.open, now
                )
        return found

    async def _oldest_in_reach(self, series: SeriesId, now: int) -> Beginning | None:
        """The oldest candle of a depth that the profile knows, in one ask; None where there is no depth, or none so old."""
        market, frame = self._markets[series.symbol], series.frame
        moment = max(now, self._time.now_ms())
        documented = self._manners.depth_documented(series, market)
        oldest = await self.reach(series, moment, check=not documented)
        if oldest is None:
            return None
        room = self._manners.page(series, market)(oldest)
        rows = await self._asker.rows(series, series.timeframe, oldest, room, now=now, grid=frame)
        moved = self._manners.reach(series, market, self._time.now_ms()) or oldest
        # A candle or two may have slipped away meanwhile; a market that is younger begins later than that.
        if rows.first is None or rows.first > frame.add(moved, 2):
            return None
        return Beginning(rows.first, deeper=True)

    async def reach(
        self, series: SeriesId, now: int, *, check: bool = False, again: bool = False
    ) -> int | None:
        """The open time of the oldest candle that can be had at `now`, by the exchange's profile; see `Source.reach`."""
        market = await self.known(series)
        oldest = self._manners.reach(series, market, now)
        if oldest is None or not check or (again and self._manners.depth_documented(series, market)):
            return oldest
        await self._depths.settle(series, market, self._offered().values(), now=now)
        return self._manners.reach(series, market, now)

    async def volumes(self, series: SeriesId) -> Volumes:
        """What the volumes in `pages` are in; contracts of linear markets are made base units."""
        return self._manners.volumes(series, await self.known(series))

    def _edges(self, series: SeriesId, now: int) -> Beginnings:
        rooms = self._manners.rooms(self._markets[series.symbol])
        return Beginnings(self._asker, series, self._offered(), now=now, rooms=rooms)

    def _hint(self, symbol: str) -> int | None:
        """What ccxt says of the size of a page, which nothing relies on."""
        try:
            hint = self.client.ccxt.feature_value(symbol, "fetchOHLCV", "limit")
        except Exception:  # noqa: BLE001 - a hint: ccxt raises anything for symbols that it does not know
            return None
        return hint if isinstance(hint, int) else None

    def _rows_came(
        self, series: SeriesId, timeframe: str, since: int | None, limit: int, frame: pl.DataFrame
    ) -> pl.DataFrame:
        """Look at the rows of an answer, and put their volumes into base units."""
        self._time.answered()
        market = self._markets.get(series.symbol)
        if market is None or series.kind != "trade":
            return frame
        habits = self._manners.habits(market)
        if habits is not None and self._observed.wants(series.symbol, timeframe, len(frame), limit):
            asked = series.frame if timeframe == series.timeframe else frame_of(self.exchange, timeframe)
            self._observed.saw(
                str(market.family),
                habits,
                asked,
                frame,
                since=since,
                limit=limit,
                now=self._time.now_ms(),
                symbol=series.symbol,
            )
            if self._observed.goes_deeper(str(market.family)):
                self._manners.distrust_depth(market)
        size = self._manners.contract_size(market)
        return frame if size is None else in_base(frame, size)

    async def pages(
        self, series: SeriesId, span: TimeRange, *, now: int, settle: int
    ) -> AsyncIterator[CandlePage | Fact]:
        """Walk `span` upwards; see `Source.pages`. Rows that are not settled at `now` are never in a page."""
        market = await self.known(series)
        since, until = span.since, min(span.until, series.frame.floor(now - settle))
        for turn in range(SLIPS + 1):
            moment = max(now, self._time.now_ms())
            oldest = self._manners.reach(series, market, moment)
            if oldest is not None and since <= series.frame.next(oldest):
                oldest = await self.reach(series, moment, check=True)
            if oldest is not None and since < min(oldest, until):
                gone = TimeRange(since, min(oldest, until))
                yield Fact(gone, State.OUT_OF_REACH, beyond(series, oldest))
                since = gone.until
            if since >= until:
                return
            walk = self._walk(series, market, TimeRange(since, until), now)
            try:
                async for said in walk.run():
                    yield said
            except ExchangeRefused:
                self._time.answered()
                moved = self._manners.reach(series, market, self._time.now_ms())
                # Some refuse what is out of reach: where the boundary has moved over the beginning, begin behind it.
                if turn == SLIPS or moved is None or oldest is None or moved <= max(oldest, walk.done):
                    raise
                since = walk.done
            else:
                return

    def _walk(self, series: SeriesId, market: Market, span: TimeRange, now: int) -> Walk:
        found = self._found.get(series)
        if found is None or found.now != now:
            found = self._found[series] = Found(now)  # later there may be more
        return Walk(
            self._asker,
            self._edges(series, now),
            series,
            span,
            market=market,
            beginning=lambda: self._beginning(series, now),
            now=now,
            page=self._manners.page(series, market),
            source=self.name,
            usual=self._usual[series],
            found=found,
        )

    async def latest(self, series: SeriesId, since: int | None, limit: int) -> pl.DataFrame:
        """One answer as it is now, the open candle included; see `Source.latest`. One try."""
        market = await self.known(series)
        now = await self.now()
        frame = series.frame
        count = max(1, min(limit, self._manners.page(series, market)(now if since is None else since)))
        answer = await self._asker.once(series, series.timeframe, since, count, now, frame)
        bad = answer.rejected + answer.tail
        if bad:
            raise BadAnswer(
                f"{series}: {len(bad)} bad rows: {bad[0].reason}",
                hint="ask again; `fetch_and_store` does that by itself",
            )
        if since is None:
            return answer.good.tail(limit)
        good = answer.good.filter(pl.col("time").dt.epoch("ms") >= since)
        if answer.good.height and not good.height:
            raise BadAnswer(
                f"{series}: asked from {iso(since)}, the answer ends at {iso(answer.last or 0)}",
                hint="ask again",
            )
        return good.head(limit)

    async def has_candle(self, series: SeriesId, opened: int) -> bool:
        """Whether one answer from `opened` on begins with the candle that opens then. False proves nothing."""
        try:
            now = self._time.now_ms()
            answer = await self._asker.once(series, series.timeframe, opened, 2, now, series.frame)
        except UnknownTimeframe:
            raise
        except ExchangeError as error:
            log.debug("%s: no look at %s: %s", series, iso(opened), error)
            return False
        return answer.first == opened

    async def estimate(self, series: SeriesId, span: TimeRange) -> Estimate:
        """What `pages` over `span` costs at least: each answer brings a page less the overlap candle.

        What is out of reach costs nothing.
        """
        market = await self.known(series)
        oldest = self._manners.reach(series, market, self._time.now_ms())
        since = span.since if oldest is None else max(span.since, oldest)
        requests = self._manners.requests(series, market, since, span.until)
        page = self._manners.page(series, market)(since)
        weight, seconds = await self.client.cost_of_candles(
            requests, series.symbol, series.timeframe, since, page
        )
        return Estimate(requests, weight, seconds, self.name)

    async def close(self) -> None:
        """Close the connections, and tell where answers were not as the profile says; twice is fine."""
        self._observed.tell()
        await self.client.close()
