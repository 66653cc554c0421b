"""`chandlery probe`: an exchange's habits, learnt by asking it, in fewer than 60 requests.

What is learnt is a fact of two answers that agree, or of one that nothing else explains; where answers disagree, are
errors or are empty, nothing is learnt. Every habit comes with what was asked and what came.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from chandlery.errors import (
    DataPipelineError,
    ExchangeError,
    ExchangeRefused,
    RateLimited,
    UnknownSymbol,
    UnknownTimeframe,
)
from chandlery.sources.ccxt_rest import CcxtRest
from chandlery.sources.probe_asking import MOST_REQUESTS, NoRequestsLeft, ProbeAsker, Seen
from chandlery.sources.probe_page import (
    LARGE,
    RECENT,
    Finding,
    Page,
    measure_page,
    tell_begin,
    tell_end,
    tell_heeds_limit,
    tell_order,
)
from chandlery.sources.probe_reach import Life, Past, find_life, tell_depth, tell_recent, tell_window
from chandlery.sources.probe_result import Learnt, Probed, best_page, to_keep
from chandlery.sources.probe_rows import (
    quiet_markets,
    tell_empty,
    tell_in_progress,
    tell_volume,
    tell_volume_by_ticker,
)
from chandlery.sources.probe_time import LOOKS, tell_anchors, tell_finality
from chandlery.sources.profile import LINEAR, SPOT, Profile
from chandlery.timeframe import DAY, HOUR, MINUTE, Timeframe, parse_timeframe

log = logging.getLogger("chandlery.sources.probe")

#: Markets that are taken where they are there, the first first.
MAIN = ("BTC/USDT", "BTC/USD", "BTC/USDC", "BTC/EUR", "BTC/KRW", "ETH/USDT", "ETH/USD")
#: How far back old candles are asked for, in days, until a stretch without holes is found.
OLD_DAYS = (400, 383, 90, 60)
#: Requests kept for what a second kind of market needs at least.
FOR_ANOTHER_KIND = 17


async def probe_exchange(
    source: CcxtRest,
    *,
    before: Profile | None = None,
    symbols: Sequence[str] = (),
    quick: bool = False,
    most: int = MOST_REQUESTS,
    tell: Callable[[str], None] = lambda _: None,
) -> Probed:
    """Learn the habits of an exchange for each kind of market that it has, or for those of `symbols`.

    `before` is the profile that counts so far: it only fills what could not be told, and chooses nothing. `quick` leaves
    the wait for a closing candle out. Raises ExchangeError where the exchange gives nothing to learn from.
    """
    prober = _Prober(source, most, tell)
    await prober.begin(symbols)
    await prober.learn(quick=quick)
    return prober.result(before)


class _Prober:
    """One probe on its way."""

    def __init__(self, source: CcxtRest, most: int, tell: Callable[[str], None]) -> None:
        self.source = source
        self.client = source.client
        self.asker = ProbeAsker(self.client, source.clock, most=most)
        self.tell = tell
        self.markets: dict[str, list[Mapping[str, Any]]] = {}
        self.main: dict[str, Mapping[str, Any]] = {}
        self.frames: list[Timeframe] = []
        self.learnt: list[Learnt] = []
        self.anchors = Finding()
        self.problems: list[str] = []
        self.has_tickers = True
        self.banned: RateLimited | None = None

    # -- what there is ---------------------------------------------------------------------------------------------

    async def begin(self, symbols: Sequence[str]) -> None:
        """The exchange's time, its markets and timeframes, and the market of each kind that is asked."""
        self.asker.offset = await self.source.now() - self.source.clock.now_ms()
        # Some classes choose endpoints by the local clock, which may be wrong.
        self.client.ccxt.milliseconds = self.asker.now
        self.client.ccxt.seconds = lambda: self.asker.now() // 1000
        found = await self._load()
        for text in self.client.ccxt.timeframes or {}:
            try:
                self.frames.append(parse_timeframe(text))
            except UnknownTimeframe:
                log.debug("%s offers a timeframe that is none: %r", self.client.id, text)
        self.frames.sort(key=lambda frame: frame.nominal_ms)
        for market in found.values():
            kind = _kind(market)
            if kind is not None and market.get("active") is not False:
                self.markets.setdefault(kind, []).append(market)
        for symbol in symbols:
            if symbol not in found or _kind(found[symbol]) is None:
                raise UnknownSymbol(
                    f"{self.client.id} lists no spot market or linear swap {symbol!r}",
                    hint=f"`chandlery markets -e {self.client.id}` lists its symbols",
                )
            self.main[str(_kind(found[symbol]))] = found[symbol]
        for kind, markets in self.markets.items() if not symbols else ():
            self.main[kind] = _main_of(markets)
        if not self.main or not self.frames:
            raise ExchangeRefused(
                f"{self.client.id} lists no active spot market or linear swap with candles",
                hint="there is nothing to learn from it",
            )

    async def _load(self) -> Mapping[str, Mapping[str, Any]]:
        """All markets, spot and linear ones alone where ccxt can narrow it."""
        options = self.client.ccxt.options.get("fetchMarkets")
        types = options.get("types") if isinstance(options, dict) else None
        some = [t for t in types if t in {"spot", "linear", "swap"}] if isinstance(types, list) else None
        for attempt in range(3):
            try:
                return await self.client.load_markets(types=some or None)
            except ExchangeError as error:
                if not error.retryable or attempt == 2 or self.asker.left < 35:
                    raise
                log.debug("markets: %s", error)
                await self.source.clock.sleep(1.0 + attempt)
        raise AssertionError

    # -- learning --------------------------------------------------------------------------------------------------

    async def learn(self, *, quick: bool) -> None:
        """Ask about each kind of market, spot first, then watch a candle close."""
        kinds = [kind for kind in (SPOT, LINEAR) if kind in self.main]
        most, watching = self.asker.most, 0 if quick else LOOKS * len(kinds)
        for number, kind in enumerate(kinds, 1):
            self.tell(f"asking {self.client.id} about {self.main[kind]['symbol']} ({kind})")
            learning = Learnt(kind, str(self.main[kind]["symbol"]))
            self.learnt.append(learning)
            self.asker.most = most - watching - FOR_ANOTHER_KIND * (len(kinds) - number)
            await self._guarded(self._learn_kind(learning, first=number == 1), kind)
            if self.banned is not None:
                break
        self.asker.most = most
        watched = {one.kind: one.symbol for one in self.learnt if one.value("page")}
        minute = self.frames[0] if self.frames[0].fixed_ms == MINUTE else parse_timeframe("1m")
        if watched and not quick and minute in self.frames and self.banned is None:
            await self._guarded(self._watch(watched, minute), "finality")
        if not watched and self.banned is not None:
            raise self.banned
        if not watched:
            raise ExchangeRefused(
                f"{self.client.id}: nothing could be learnt: {'; '.join(self.problems) or 'no answer held candles'}",
                hint="ask later again, or name a market that trades with --symbol",
            )

    async def _guarded(self, work: Any, what: str) -> None:
        """Do a part; what ends it early is told, and leaves what it did not come to unknown."""
        try:
            await work
        except NoRequestsLeft:
            self.problems.append(
                f"{what}: not all could be asked with {MOST_REQUESTS} requests; --symbol asks about one kind of market"
            )
        except DataPipelineError as error:
            if isinstance(error, RateLimited):
                self.banned = error
            self.problems.append(f"{what}: {error.message}")

    async def _watch(self, symbols: Mapping[str, str], frame: Timeframe) -> None:
        found = await tell_finality(self.asker, symbols, frame, self.tell)
        for one in self.learnt:
            if one.kind in found:
                one.findings["finality"] = found[one.kind]

    async def _learn_kind(self, learning: Learnt, *, first: bool) -> None:
        """All habits of one kind of market, the ones that others rest on first."""
        asker, symbol, found = self.asker, learning.symbol, learning.findings
        begun = len(asker.seen)
        recent = await self._recent_page(symbol)
        short = recent.confirmed.ask.frame if recent is not None else self._short()
        rows = recent.rows if recent is not None else 100
        life, looks = await self._life(symbol, min(300, rows))
        limited = self._earlier("depth", short) > 0  # of another kind of market: no older ones to be had
        old = await self._old_page(symbol, short, None if limited else life, rows)
        pages = [page for page in (old, recent) if page is not None]
        if not pages:
            self.problems.append(f"{learning.kind}: no answer of {symbol} held a page of candles")
            return
        self._tell_pages(learning, old, recent)
        found["begin"] = await tell_begin(asker, pages)
        found["end"] = await tell_end(asker, pages)
        found["order"] = tell_order(asker.seen[begun:])
        size = self.main[learning.kind].get("contractSize")
        found["volume"] = tell_volume([page.confirmed for page in pages], size)
        found["in_progress"], hours = await tell_in_progress(asker, symbol, self._hour())
        if life is not None:
            day = next((frame for frame in self.frames if frame.text == "1d"), None)
            found["window"] = await tell_window(asker, symbol, life, day, max(page.rows for page in pages))
            frames = [short, *(f for f in self._longer() if f.nominal_ms > short.nominal_ms)]
            back = recent is not None and recent.begin == recent.confirmed.ask.since and recent.rows >= RECENT
            past = Past(symbol, frames, life, looks, min(page.rows for page in pages), recent=back)
            past.in_progress = found["in_progress"].value is True
            found["depth"], found["depth_by"] = await tell_depth(asker, past, self._earlier("depth", short))
        found["heeds_limit"] = tell_heeds_limit(asker.seen[begun:], learning.value("window"))
        differ = "recent" not in found
        if first:
            self.anchors = await tell_anchors(asker, symbol, self.frames, looks)
        elif differ:  # the line of the first kind is there to try, which costs little
            await self._tell_recent(learning, old, recent)
        await self._tell_empty(learning)
        if found["volume"].value is None:
            found["volume"] = await tell_volume_by_ticker(asker, symbol, hours, size)
        if first and differ:
            await self._tell_recent(learning, old, recent)

    async def _recent_page(self, symbol: str) -> Page | None:
        """A page of recent candles, at the first of a few timeframes that has one without holes."""
        best: Page | None = None
        for frame in [self._short(), *self._longer()][:3]:
            begin = frame.add(
                self.asker.current(frame), -RECENT - 10
            )  # so that more are there than are asked for
            page = await measure_page(self.asker, symbol, frame, begin, LARGE[1:])
            if page is not None and page.whole:
                return page
            best = best or page
        return best

    async def _life(self, symbol: str, rows: int) -> tuple[Life | None, list[Seen]]:
        """Since when the market has traded, by the longest timeframe that tells it."""
        asked: list[Seen] = []
        for frame in self._long():
            life, looks = await find_life(self.asker, symbol, frame, rows)
            asked += looks
            if life is not None:
                return life, asked
        return None, asked

    async def _old_page(self, symbol: str, frame: Timeframe, life: Life | None, rows: int) -> Page | None:
        """A page of old candles, where the market is known to have traded then and gives any."""
        best: Page | None = None
        for days in OLD_DAYS:
            begin = frame.floor(self.asker.now() - days * DAY)
            if life is None or begin < life.traded_from:
                continue
            page = await measure_page(self.asker, symbol, frame, begin, (LARGE[0], rows))
            best = best or page
            if page is None or page.whole:
                break
        if best is None and rows == RECENT:  # as many as were asked for, and no old ones to ask for more of
            begin = frame.add(self.asker.current(frame), -4 * RECENT)
            best = await measure_page(self.asker, symbol, frame, begin, (4 * RECENT - 1, rows))
        return best

    def _tell_pages(self, learning: Learnt, old: Page | None, recent: Page | None) -> None:
        """Page sizes of old and of recent candles; where they differ, how far back the larger ones go is left open."""
        found = learning.findings
        pages = [page for page in (old, recent) if page is not None]
        evidence = [text for page in pages for text in page.evidence]
        # Where all that there is up to now came, more might have.
        sizes = [page.rows for page in pages if page.capped] or [max(page.rows for page in pages)]
        found["page"] = Finding(min(sizes), evidence)
        if old is not None and recent is not None and recent.capped and old.rows > recent.rows >= RECENT:
            found["page"].value = old.rows  # as many recent ones came as were asked for
        elif old is not None and recent is not None and recent.capped and recent.rows > old.rows + 1:
            return
        found["recent_page"], found["recent"] = Finding(0, list(evidence)), Finding({})

    async def _tell_recent(self, learning: Learnt, old: Page | None, recent: Page | None) -> None:
        """How far back pages are larger, by a search between the two that were measured."""
        if old is None or recent is None:
            return
        frame = recent.confirmed.ask.frame
        now = self.asker.current(frame)
        low, high = frame.count(recent.begin, now), frame.count(old.begin, now)
        frames = [frame, *(one for one in self._longer()[:1] if one != frame)]
        hint = self._earlier("recent", frame)
        told = await tell_recent(self.asker, learning.symbol, frames, recent.rows, low, high, hint)
        learning.findings["recent"] = told
        learning.findings["recent_page"] = Finding(
            None if told.value is None else recent.rows, recent.evidence
        )

    async def _tell_empty(self, learning: Learnt) -> None:
        markets = [m for m in self.markets.get(learning.kind, []) if m["symbol"] != learning.symbol]
        tickers = None
        if self.client.ccxt.has.get("fetchTickers") and len(markets) >= 4 and self.has_tickers:
            tickers = await self.asker.other(
                "fetch_tickers", [str(market["symbol"]) for market in markets[:200]]
            )
            self.has_tickers = tickers is not None
        quiet = quiet_markets(markets, tickers)
        learning.findings["empty"] = await tell_empty(self.asker, learning.symbol, quiet, self._short())

    def _earlier(self, name: str, frame: Timeframe) -> int:
        """The same number of candles as it was found for another kind of market; 0 where there is none."""
        for one in self.learnt:
            numbers = one.value(name)
            if isinstance(numbers, dict) and numbers:
                return int(numbers.get(frame.text) or numbers.get("*") or 0)
        return 0

    # -- timeframes ------------------------------------------------------------------------------------------------

    def _short(self) -> Timeframe:
        """The shortest timeframe from a minute on."""
        return next((frame for frame in self.frames if frame.nominal_ms >= MINUTE), self.frames[-1])

    def _hour(self) -> Timeframe:
        """An hour, else the longest timeframe below it."""
        below = [frame for frame in self.frames if MINUTE < frame.nominal_ms <= HOUR]
        return below[-1] if below else self._short()

    def _longer(self) -> list[Timeframe]:
        """An hour and a day, as far as they are offered."""
        return [frame for frame in self.frames if frame.text in ("1h", "1d")]

    def _long(self) -> list[Timeframe]:
        """The longest timeframes that all markets are likely to have, the longest first."""
        return [frame for frame in reversed(self.frames) if frame.text in ("1M", "1w", "1d")] or self.frames[
            -1:
        ]

    # -- the result ------------------------------------------------------------------------------------------------

    def result(self, before: Profile | None) -> Probed:
        """What was learnt, completed by what was known."""
        known = before or Profile(exchange=self.client.id, markets={})
        for one in self.learnt:
            if one.value("page"):
                self._choose_page(one, known)
        per_second = 1000 / float(self.client.ccxt.rateLimit or 1000)
        return Probed(
            to_keep(known, self.learnt, self.anchors, at=self.source.clock.now_ms(), ccxt=_ccxt_version()),
            [one for one in self.learnt if one.findings],
            self.anchors,
            self.asker.requests,
            f"those of the {known.origin} profile"
            if known.limits
            else f"ccxt's, {per_second:g} requests a second",
            self.problems,
        )

    def _choose_page(self, learning: Learnt, known: Profile) -> None:
        """Take fewer candles than an answer holds where the declared weights make that cheaper per candle."""
        page = learning.findings["page"]
        url = next(
            (seen.url for seen in self.asker.seen if seen.ask.symbol == learning.symbol and seen.url), ""
        )
        best = best_page(page.value, url, known.limits)
        if best != page.value:
            page.evidence.append(f"{page.value} came; {best} have the most candles for their weight")
            page.value = best


def _kind(market: Mapping[str, Any]) -> str | None:
    """SPOT, LINEAR, or None for what candles are not probed of."""
    if market.get("spot"):
        return SPOT
    return LINEAR if market.get("swap") and market.get("linear") else None


def _main_of(markets: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The market that most likely trades every minute."""
    by_pair: dict[str, Mapping[str, Any]] = {}
    for market in markets:
        by_pair.setdefault(f"{market.get('base')}/{market.get('quote')}", market)
    return next((by_pair[pair] for pair in MAIN if pair in by_pair), markets[0])


def _ccxt_version() -> str:
    import ccxt

    return str(ccxt.__version__)
