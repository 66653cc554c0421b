"""The generated market: every minute of every pair is a function of the seed and the pair's name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from chandlery.exchange.candles import Candles
from chandlery.exchange.noise import Bits, Ints, Walk, key_of, lane, power_of_two, scramble
from chandlery.exchange.outages import outages
from chandlery.exchange.symbols import Listing
from chandlery.timeframe import MINUTE, Timeframe, parse_timeframe
from chandlery.timerange import TimeRange

_ONE_MINUTE = parse_timeframe("1m")
_END = 4_102_444_800_000  # 2100-01-01: far enough
_TREND_ZERO = 1_640_995_200_000 // MINUTE  # 2022-01-01
_TREND = 0.1 / 525_600  # doublings a minute
_REFRESH = 60  # in a quiet pair the first minute of every hour has a trade, so that no flat stretch is longer


class GeneratedMarket:
    """Pairs with prices that wander, daily rhythm in the volume, listing dates and outages.

    `omit_flat` leaves out the minutes without a trade, as many exchanges do; otherwise they are flat candles without
    volume, as Binance gives them.
    """

    def __init__(self, listings: Sequence[Listing], *, seed: int, omit_flat: bool = False) -> None:
        self.listings: Mapping[str, Listing] = {listing.id: listing for listing in listings}
        self._pairs = {listing.id: _Pair(listing, seed, omit_flat) for listing in listings}

    def base(self, _listing: Listing, _timeframe: Timeframe) -> Timeframe:
        """One minute: everything else is made of it."""
        return _ONE_MINUTE

    def span(self, listing: Listing, _base: Timeframe) -> TimeRange:
        """From listing to delisting."""
        return TimeRange(listing.listed, listing.delisted or _END)

    def candles(self, listing: Listing, base: Timeframe, since: int, until: int) -> Candles:
        """The 1m candles that open in [since, until)."""
        span = self.span(listing, base)
        first = -(-max(since, span.since) // MINUTE)
        last = -(-min(until, span.until) // MINUTE)
        return self._pairs[listing.id].minutes(first, max(first, last))


class _Pair:
    def __init__(self, listing: Listing, seed: int, omit_flat: bool) -> None:
        name = f"{seed}:{listing.id}"
        self._listing = listing
        self._omit_flat = omit_flat
        self._walk = Walk(f"{name}:price", listing.deviation / 0.6931471805599453)
        self._detail = key_of(f"{name}:detail")
        self._hours = key_of(f"{name}:hours")
        self._trading = key_of(f"{name}:trading")

    def minutes(self, first: int, last: int) -> Candles:
        """Minutes numbered from the epoch, `first` included, `last` not."""
        quiet = self._listing.activity < 1
        start = max(self._listing.listed // MINUTE, first // _REFRESH * _REFRESH) if quiet else first
        index = np.arange(start, last, dtype=np.int64)
        candles = self._traded(index)
        kept = ~_stopped(index)
        if quiet:
            traded = self._has_trade(index)
            candles = _flatten(candles, traded)
            kept &= (traded | (not self._omit_flat)) & (index >= first)
        return candles if kept.all() else candles.pick(kept)

    def _traded(self, index: Ints) -> Candles:
        """The candles as if every minute had trades."""
        listing = self._listing
        if not len(index):
            return _empty(listing)
        bits = scramble(self._detail, index)
        edges = self._boundaries(int(index[0]), int(index[-1]) + 1)
        close = edges[1:]
        nudge = lane(bits, 2) & 7
        opened = np.maximum(edges[:-1] + (nudge == 0) - (nudge == 1), 1)
        reach = listing.deviation * 1.2 / 65_536.0**2
        wicks = [(edges[1:] * (reach * lane(bits, n) * lane(bits, n))).astype(np.int64) for n in (0, 1)]
        high = np.maximum(opened, close) + wicks[0]
        low = np.maximum(np.minimum(opened, close) - wicks[1], 1)
        volume = self._volume(index, bits, opened, close)
        middle = (opened + high + low + close) // 4
        taker = (volume * (20_000 + lane(bits, 3) // 2)) >> 16
        usual = int(listing.volume * 10**listing.volume_decimals) // 200 + 1
        return Candles(
            index * MINUTE,
            opened,
            high,
            low,
            close,
            volume,
            middle * volume,
            volume // usual + 1,
            taker,
            middle * taker,
            listing.price_decimals,
            listing.volume_decimals,
        )

    def _boundaries(self, first: int, last: int) -> Ints:
        """Prices at the turns of the minutes, in ticks."""
        trend = (np.arange(first, last + 1, dtype=np.int64) - _TREND_ZERO) * _TREND
        prices = power_of_two(self._walk.values(first, last) + trend) * self._listing.price
        ticks = np.floor(prices * 10.0**self._listing.price_decimals + 0.5)
        return np.asarray(np.maximum(ticks, 1.0).astype(np.int64))

    def _volume(self, index: Ints, bits: Bits, opened: Ints, close: Ints) -> Ints:
        """In lots: a daily rhythm that peaks at 15:00 UTC, livelier and calmer hours, more when the price moves."""
        listing = self._listing
        phase = ((index - 180) % 1440) / 1440.0
        rhythm = 0.4 + 2.4 * phase * (1.0 - phase)
        lively = 0.5 + lane(scramble(self._hours, index // 60), 0) / 65_536.0
        draw = lane(bits, 2) / 65_536.0
        burst = 0.15 + 3.0 * (draw * draw) * (draw * draw)
        moved = np.minimum(np.abs(close - opened) / (opened * listing.deviation), 5.0)
        lots = listing.volume * 10.0**listing.volume_decimals * rhythm * lively * burst * (0.6 + 0.5 * moved)
        return np.asarray(lots.astype(np.int64) + 1)

    def _has_trade(self, index: Ints) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        share = int(self._listing.activity * 65_536)
        forced = (index % _REFRESH == 0) | (index == self._listing.listed // MINUTE)
        return np.asarray(forced | (lane(scramble(self._trading, index), 0) < share))


def _stopped(index: Ints) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Which minutes lie in an outage."""
    stopped = np.zeros(len(index), dtype=np.bool_)
    if len(index):
        for outage in outages(int(index[0]) * MINUTE, (int(index[-1]) + 1) * MINUTE):
            first, last = np.searchsorted(index, [outage.since // MINUTE, outage.until // MINUTE])
            stopped[first:last] = True
    return stopped


def _flatten(candles: Candles, traded: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> Candles:
    """Minutes without a trade keep the close before them and have no volume."""
    before = np.maximum.accumulate(np.where(traded, np.arange(len(traded)), 0))
    last_close = candles.close[before]
    prices = [np.where(traded, c, last_close) for c in candles.columns[1:5]]
    sums = [np.where(traded, c, 0) for c in candles.columns[5:]]
    return Candles.of([candles.time, *prices, *sums], candles.price_decimals, candles.volume_decimals)


def _empty(listing: Listing) -> Candles:
    nothing = np.empty(0, dtype=np.int64)
    return Candles.of([nothing] * 10, listing.price_decimals, listing.volume_decimals)
