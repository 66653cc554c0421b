"""How an exchange is to be asked, by what its profile knows: how much at once, how far back, and in which unit it answers.

What no profile knows is taken from ccxt's hints, which nothing relies on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from chandlery.sources.base import Market, Volumes, VolumeUnit
from chandlery.sources.edges import Rooms
from chandlery.sources.profile import LINEAR, SPOT, Habits, Profile
from chandlery.sources.profile_book import shipped

if TYPE_CHECKING:
    import polars as pl

    from chandlery.candle import SeriesId
    from chandlery.timeframe import Timeframe

#: Candles per answer where neither a profile nor ccxt says how many.
DEFAULT_PAGE = 1000
#: ccxt's hints are followed up to so many candles, those of a few are no pages.
LARGEST_HINT = 5000
SMALLEST_HINT = 10
#: Candles back from now at which none is recent any more.
FAR = 2**40
#: Seconds after its end at which a candle counts as closed where the profile knows no better.
SETTLE_SECONDS = 10.0
#: Candles by which a page must be within what counts as recent: a request may wait for its turn.
MARGIN = 10


def market_of(symbol: str, raw: Mapping[str, Any]) -> Market:
    """A market as ccxt has it."""
    return Market(
        symbol=symbol,
        kind=str(raw.get("type") or "spot"),
        active=raw.get("active") is not False,
        base=str(raw.get("base") or ""),
        quote=str(raw.get("quote") or ""),
        family=_family(raw),
        contract_size=_contract_size(raw),
    )


def _contract_size(raw: Mapping[str, Any]) -> float | None:
    """What one contract is of the base currency; None for what is no linear contract, or has no size."""
    size = raw.get("contractSize")
    if not (raw.get("contract") and raw.get("linear") and isinstance(size, int | float)):
        return None
    return float(size) if 0 < size < math.inf else None


def _family(raw: Mapping[str, Any]) -> str | None:
    """The kind of market as profiles have it, of a market as ccxt has it; None for kinds that they do not know."""
    if raw.get("spot") or raw.get("type") in ("spot", "margin"):
        return SPOT
    return LINEAR if raw.get("linear") and raw.get("type") in ("swap", "future") else None


def settle_of(profile: Profile | None) -> float:
    """Seconds after its end at which a candle of the exchange counts as closed."""
    known = [habits.finality for habits in profile.markets.values()] if profile is not None else []
    return max(known, default=0.0) or SETTLE_SECONDS


class Manners:
    """How to ask for series of one exchange.

    `now` gives the exchange's time in epoch ms as far as it is known, `hint` ccxt's page size for a symbol.
    """

    def __init__(
        self, profile: Profile | None, *, now: Callable[[], int], hint: Callable[[str], int | None]
    ) -> None:
        self.profile = profile
        self._now = now
        self._hint = hint
        self._distrusted: set[str | None] = set()
        self._unproven: set[SeriesId] = set()
        self._rooms: dict[str | None, Rooms] = {}

    def habits(self, market: Market) -> Habits | None:
        """What is known of the market's kind."""
        if self.profile is None or market.family is None:
            return None
        return self.profile.habits(market.family)

    def page(self, series: SeriesId, market: Market) -> Callable[[int], int]:
        """How many candles to ask for at once, by the open time of the first of them."""
        habits = self.habits(market)
        if habits is None or series.kind != "trade":
            size = self._unknown_page(series, habits)
            return lambda _since: size
        frame = series.frame

        def by_age(since: int) -> int:
            age = frame.count(since, max(since, self._now())) + MARGIN
            return habits.page_at(frame, age)

        return by_age

    def rooms(self, market: Market) -> Rooms:
        """What one answer about such markets covers, of candles of any age; shared by all searches of a run."""
        habits = self.habits(market)
        if market.family not in self._rooms:
            hint = self._hint(market.symbol) or LARGEST_HINT
            least = hint if hint >= SMALLEST_HINT else LARGEST_HINT
            self._rooms[market.family] = Rooms(
                (lambda frame: habits.page_at(frame, FAR)) if habits is not None else (lambda _: least),
                bounded=habits is not None and habits.window == "bounded",
                opened=habits is not None and habits.window == "open",
                heeds_limit=habits is None or habits.heeds_limit,
            )
        return self._rooms[market.family]

    def _unknown_page(self, series: SeriesId, habits: Habits | None) -> int:
        """Candles at once where the profile is silent: of mark and index candles at most those of a page of trades."""
        if habits is not None:
            return habits.page
        hint = self._hint(series.symbol)
        return min(hint, LARGEST_HINT) if hint is not None and hint >= 2 else DEFAULT_PAGE

    def requests(self, series: SeriesId, market: Market, since: int, until: int) -> int:
        """Asks for candles that a walk over [since, until) takes at least: each brings a page less the overlap."""
        frame, page = series.frame, self.page(series, market)
        count, at = 0, since
        while at < until:
            size = page(at)
            fresh = max(1, size - 1)
            steps = _pages_of(size, page, frame, at, -(-frame.count(at, until) // fresh))
            count += steps
            at = frame.add(at, steps * fresh)
        return count

    def reach(self, series: SeriesId, market: Market, now: int) -> int | None:
        """The open time of the oldest candle that can be had at `now`; None where all can, or nobody knows.

        Only what is sure is said: where times without a trade have no row, so many rows reach further back.
        """
        habits = self.habits(market)
        if habits is None or not habits.depth_is_time or market.family in self._distrusted:
            return None
        if series in self._unproven:
            return None
        candles = habits.reach(series.frame)
        if candles is None:
            return None
        oldest = series.frame.add(series.frame.floor(now), 1 - candles)
        return oldest if oldest > 0 else None  # 10,000 weeks go back to before there was anything to give

    def depth_documented(self, series: SeriesId, market: Market) -> bool:
        """Whether the depth is one that the exchange documents: as in the shipped profile. A learnt one was only measured."""
        habits, documented = self.habits(market), self._documented(market)
        if habits is None or documented is None:
            return False
        return documented.depth_is_time and habits.reach(series.frame) == documented.reach(series.frame)

    def _documented(self, market: Market) -> Habits | None:
        """What the shipped profile knows of the market's kind, whatever was learnt besides."""
        known = None if self.profile is None else shipped(self.profile.exchange)
        return None if known is None or market.family is None else known.habits(market.family)

    def distrust_depth(self, market: Market, series: SeriesId | None = None) -> None:
        """Believe in no depth of such markets any more, for older candles came; with `series`, only in none of that."""
        if series is None:
            self._distrusted.add(market.family)
        else:
            self._unproven.add(series)

    def volumes(self, series: SeriesId, market: Market) -> Volumes:
        """What the source's volumes are in: contracts of linear markets are made base units, of trade candles."""
        times = self.contract_size(market) if series.kind == "trade" else None
        documented = self._documented(market)
        return Volumes(
            self._volume_unit(market),
            1.0 if times is None else times,
            documented=documented is not None and documented.volume != "unknown",
            size=market.contract_size or 1.0,
        )

    def _volume_unit(self, market: Market) -> VolumeUnit:
        habits = self.habits(market)
        if habits is None:
            return "base" if market.family == SPOT else "unknown"
        if habits.volume == "contracts" and market.contract_size is not None:
            return "base"
        if habits.volume == "unknown" and market.family == SPOT:
            return "base"
        return habits.volume

    def contract_size(self, market: Market) -> float | None:
        """By what volumes must be multiplied to be in base units, None where they are."""
        habits = self.habits(market)
        contracts = habits is not None and habits.volume == "contracts"
        return market.contract_size if contracts else None


def _pages_of(size: int, page: Callable[[int], int], frame: Timeframe, since: int, most: int) -> int:
    """How many pages from `since` on are of that size, at most `most`: those of recent candles are larger."""
    low, high = 1, most
    while low < high:
        middle = (low + high + 1) // 2
        if page(frame.add(since, (middle - 1) * max(1, size - 1))) == size:
            low = middle
        else:
            high = middle - 1
    return low


def in_base(frame: pl.DataFrame, contract_size: float) -> pl.DataFrame:
    """Candles with volumes in contracts, with them in base units instead: contracts x contract size.

    A size such as 0.01 is no double, 100 is one: dividing by it gives the double nearest to the decimal product.
    """
    import polars as pl

    parts = round(1 / contract_size) if 0 < contract_size < 1 else 0
    # polars divides by multiplying with the reciprocal, which rounds twice.
    volume = frame["volume"].to_numpy()
    exact = parts > 1 and abs(parts * contract_size - 1) < 1e-12
    return frame.with_columns(pl.Series("volume", volume / parts if exact else volume * contract_size))
