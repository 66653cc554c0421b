"""The contract of a store: what it takes in, what it gives back, and what it promises.

A store keeps, for each series, its candles and its ledger, and for all of them one journal. Entries come in through
`ingest` only. Methods are synchronous and may be called from any thread; a store that is used by a process may be
written and read by others at the same time. `chandlery.testing.StoreContract` is this contract as tests.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Self

from chandlery.candle import CandlePage, Rejected, SeriesId, no_candles
from chandlery.errors import NoSuchSeries, UsageError
from chandlery.fill import checked_fill, filled
from chandlery.ledger import Account, Fact, Ledger, account, aligned, joined_accounts, settled_until
from chandlery.timeframe import Timeframe
from chandlery.timerange import RangeSet, TimeRange
from chandlery.when import LISTING, Moment, parse_when

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    from numpy.typing import NDArray

#: How many open times `Store.account` holds in memory at once.
SLOTS_AT_ONCE = 50_000
#: The same where only open times are read; a partition that two pieces touch is read twice.
SLOTS_COUNTED_AT_ONCE = 400_000

JournalKind = Literal["ask", "rows", "absence", "revision", "repair", "fact", "remove"]


@dataclass(frozen=True, slots=True)
class Ask:
    """The note that a range of a series was asked for, made before anything is fetched.

    `clock` is the exchange's time of the run, `settle` the milliseconds after which a candle counts as closed in it.
    """

    series: SeriesId
    range: TimeRange
    clock: int
    settle: int


@dataclass(frozen=True, slots=True)
class SeriesFact:
    """A `Fact` (listing, end, reach) about one series."""

    series: SeriesId
    fact: Fact


@dataclass(frozen=True, slots=True)
class NoFact:
    """No fact that was found about that range of a series holds any longer: what is not answered there is missing."""

    series: SeriesId
    range: TimeRange


@dataclass(frozen=True, slots=True)
class Page:
    """A page of candles for the store; `repair` marks what `verify --repair` brought."""

    page: CandlePage
    repair: bool = False


Entry = Ask | SeriesFact | NoFact | Page


@dataclass(frozen=True, slots=True)
class Written:
    """What one entry changed. `seq` is its journal number, None if nothing was new and nothing was written."""

    seq: int | None
    new: int = 0  # candles that were not there
    same: int = 0  # candles that were there with these values
    revised: int = 0  # candles that were there with other values: the old ones are kept as revisions
    quarantined: int = 0  # rows newly in quarantine


@dataclass(frozen=True, slots=True)
class SeriesSummary:
    """One series kept, as `list` shows it. Times are open times in epoch ms, None while it has no candle."""

    series: SeriesId
    first: int | None
    last: int | None
    candles: int
    absent: int
    missing: int
    clock: int  # the exchange's time at the latest ask, for freshness


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """One commit: its number, what it was about, when it was committed (local epoch ms) and on whose word."""

    seq: int
    series: SeriesId
    range: TimeRange
    kind: JournalKind
    committed_at: int
    source: str
    rows: int


@dataclass(frozen=True, slots=True)
class Revision:
    """A closed candle that the exchange changed: values in the order open, high, low, close, volume."""

    series: SeriesId
    open: int
    old: tuple[float, ...]
    new: tuple[float, ...]
    at: int  # the exchange's time at which the new values were seen
    source: str


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A row that was refused, with its raw text; `resolved` once a stored candle has taken its slot."""

    series: SeriesId
    row: Rejected
    at: int
    source: str
    resolved: bool


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that `check` found wrong with what is kept: which slots it touches, how many rows, and what to do.

    lost: rows that the store says it holds and cannot give back; duplicate: rows whose open time is there twice;
    ledger: a count or a range of the ledger that the rows contradict.
    """

    kind: Literal["lost", "duplicate", "ledger"]
    range: TimeRange | None
    candles: int
    message: str
    hint: str


class Store(ABC):
    """Keeps candles, ledger and journal."""

    #: Whether rows, ledger and journal entry of an entry become visible together or not at all.
    atomic: bool = True
    #: Whether `seal` does anything.
    seals: bool = False
    #: Whether a call may wait for a network, so that none should be made in an event loop.
    remote: bool = False

    @property
    @abstractmethod
    def url(self) -> str:
        """Where it is, complete and without secrets."""

    @property
    @abstractmethod
    def identity(self) -> str:
        """A random name that the store got when it was made and keeps for good; makes the store if there is none yet.

        A copy of a store's files has the same: it tells journals apart, not places.
        """

    @abstractmethod
    def mark(self, name: str) -> int:
        """The number set under that name, 0 if none was."""

    @abstractmethod
    def set_mark(self, name: str, value: int) -> None:
        """Remember a number under a name, kept as safely as candles are. No news for the journal.

        Mirrors keep in it how far they have followed which store.
        """

    # -- write side: called by ingest only, under the series' lock --------------------------------------------------

    @abstractmethod
    def write(self, entries: Sequence[Entry]) -> list[Written]:
        """Take entries in, all in one commit where the store is atomic; returns what each changed, in order.

        When it returns, everything survives a power cut. A page's new candles are added; equal ones are left; a
        different value becomes a revision and replaces the old one. A candle that is stored and not in a page that
        answers its slot stays. Writing the same entries again changes nothing and journals nothing.
        Raises StoreFull, StoreUnreadable or StoreCorrupt; then none of the entries was taken.
        """

    @abstractmethod
    def forget(self, series: SeriesId, span: TimeRange) -> None:
        """Let go of the answers of `span`, and of rows there that cannot be read any more, so that it is asked again.

        For `verify --repair`: what was answered there becomes missing; rows that can be read stay; a damaged file is
        set aside under another name, not deleted. Journalled as repair. The lock must be held.
        """

    @abstractmethod
    def remove(self, series: SeriesId) -> int:
        """Take a series out, ledger and all; returns how many candles it had. Raises NoSuchSeries."""

    @abstractmethod
    def lock(self, series: SeriesId, *, wait: bool = False) -> AbstractContextManager[None]:
        """Be the one process that writes this series; raises SeriesLocked with the other's pid unless `wait`.

        The lock dies with the process. The same process may hold many, each once.
        """

    def seal(self, series: SeriesId | None = None, *, everything: bool = False) -> int:
        """Move staged candles into their final form: full partitions, or all of them; returns partitions written.

        Takes the series' locks itself unless this process already holds them. Nothing to do for most stores.
        """
        return 0

    # -- read side ---------------------------------------------------------------------------------------------------

    @abstractmethod
    def series(self) -> list[SeriesSummary]:
        """All series kept, sorted by exchange, symbol, length of timeframe, kind. 10,000 of them in 100 ms."""

    @abstractmethod
    def ledger(self, series: SeriesId) -> Ledger:
        """The series' ledger; raises NoSuchSeries."""

    @abstractmethod
    def candles(self, series: SeriesId, span: TimeRange | None = None) -> pl.DataFrame:
        """Stored candles that open in `span` (all if None): candle.SCHEMA, ascending, unique. Raises NoSuchSeries.

        A consistent picture of one moment, whatever other processes write meanwhile. Raises StoreCorrupt where
        something that should be there is not, or is not what was written.
        """

    @abstractmethod
    def opens(self, series: SeriesId, span: TimeRange | None = None) -> NDArray[np.int64]:
        """The open times of `candles`, epoch ms ascending, without reading the rest."""

    @abstractmethod
    def journal(self, after: int = 0, limit: int | None = None) -> Iterator[JournalEntry]:
        """Journal entries with a number above `after`, ascending."""

    @abstractmethod
    def revisions(self, series: SeriesId) -> list[Revision]:
        """Changed candles, oldest change first."""

    @abstractmethod
    def quarantine(self, series: SeriesId) -> list[Quarantined]:
        """Refused rows, oldest first."""

    @abstractmethod
    def check(self, series: SeriesId) -> list[Problem]:
        """Read everything that is kept of the series and say what is not as it was written."""

    def still_there(self) -> None:  # noqa: B027 - most stores cannot be moved
        """Raise StoreUnreadable if what this object has written was moved or deleted since."""

    @abstractmethod
    def close(self) -> None:
        """Let go of files and connections; the store cannot be used after. Calling it twice is fine."""

    # -- what follows from the above ---------------------------------------------------------------------------------

    def read(
        self,
        series: SeriesId,
        since: Moment | None = None,
        until: Moment | None = None,
        *,
        fill: str | None = None,
    ) -> pl.DataFrame:
        """Candles that open in [since, until): candle.SCHEMA, ascending, unique; all of them without bounds.

        Ages and `now` count back from the candle in progress at the latest ask, see `span`; `listing` is no bound. With
        `fill` ("flat" or "null") every slot of the range between the first and the last stored candle has a row, and a
        Boolean column `filled` marks those that are no candles: none is ever made before the first or after the last.
        Raises NoSuchSeries, StoreCorrupt, and UsageError for bounds that cannot be read or lie the wrong way round.
        """
        how = checked_fill(fill)
        span = self.span(series, since, until)
        candles = self.candles(series, span)
        if how is None:
            return candles
        before = self.newest(series, 1, TimeRange(0, span.since))
        last = self.newest(series, 1)
        if before.is_empty() and candles.is_empty():
            return filled(candles, series.frame, TimeRange(0, 0), how)
        first_open = span.since if not before.is_empty() else int(candles["time"].dt.epoch("ms")[0])
        end = max(first_open, min(span.until, int(last["time"].dt.epoch("ms")[0]) + 1))
        close_before = None if before.is_empty() else float(before["close"][0])
        return filled(candles, series.frame, TimeRange(first_open, end), how, close_before=close_before)

    def span(self, series: SeriesId, since: Moment | None = None, until: Moment | None = None) -> TimeRange:
        """The range of open times from `since` to `until`, wide enough for every stored candle where a bound is None.

        Ages and `now` count from the open time of the candle that was in progress at the latest ask of the series.

        Raises NoSuchSeries, and UsageError for bounds that cannot be read or lie the wrong way round.
        """
        ledger = self.ledger(series)
        known = ledger.answered_ranges | ledger.asked  # where an answer was let go of, candles may still be
        # From the candle in progress at the latest ask: the last 2 days of 1h are 48 closed candles at any minute.
        now = settled_until(series.frame, ledger.clock, ledger.settle)
        first = 0 if since is None or since == LISTING else parse_when(since, now=now)
        newest = known.until if known else 0
        end = max(first, newest) if until is None else parse_when(until, now=now)
        if first > end:
            raise UsageError(
                f"the range ends before it begins: since {since}, until {until}",
                hint="swap --since and --until",
            )
        return TimeRange(first, end)

    def newest(self, series: SeriesId, count: int, span: TimeRange | None = None) -> pl.DataFrame:
        """The newest `count` candles that open in `span` (of all if None): candle.SCHEMA, ascending, maybe fewer.

        Looks from the end in growing steps, so that the newest few of millions cost the reading of a few.
        """
        import polars as pl

        frame = series.frame
        ledger = self.ledger(series)
        where = ledger.answered_ranges | ledger.asked  # what is being asked again may hold candles too
        if span is not None:
            where &= RangeSet([span])
        found = [no_candles()]
        step = max(count, 100)
        for part in reversed(where.ranges):
            until = part.until
            while until > part.since and count > 0:
                back = min(step, frame.count(part.since, until)) or 1
                since = max(part.since, frame.add(frame.floor(until - 1), 1 - back))
                found.append(self.candles(series, TimeRange(since, until)).tail(count))
                count -= found[-1].height
                until, step = since, step * 4
        return pl.concat(reversed(found))

    def knows(self, series: SeriesId) -> bool:
        """Whether the series is kept."""
        try:
            self.ledger(series)
        except NoSuchSeries:
            return False
        return True

    def account(self, series: SeriesId, wanted: RangeSet | None = None, *, gaps: bool = True) -> Account:
        """Account for every slot of `wanted` (all that was ever asked if None) from the rows that are there.

        Rows are read piece by piece, so memory does not grow with the history. Raises NoSuchSeries, StoreCorrupt.
        """
        ledger = self.ledger(series)  # before the rows: a row that arrives in between is then merely early
        whole = ledger.asked if wanted is None else wanted
        accounts = [
            account(ledger, self.opens(series, piece), RangeSet([piece]), gaps=gaps)
            for span in whole
            for piece in pieces(ledger.timeframe, aligned(ledger.timeframe, span), SLOTS_COUNTED_AT_ONCE)
        ]
        return joined_accounts(accounts)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.url}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def pieces(frame: Timeframe, span: TimeRange, slots: int = SLOTS_AT_ONCE) -> Iterator[TimeRange]:
    """`span` (aligned) in pieces of at most so many slots, so that memory does not grow with a history."""
    since = span.since
    while since < span.until:
        until = frame.add(since, min(slots, frame.count(since, span.until)))
        yield TimeRange(since, until)
        since = until
