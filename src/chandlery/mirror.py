"""Mirrors: stores that follow another one's journal by its number, so that back-fills, repairs and revisions arrive too.

A mirror remembers in itself how far it has followed (a *mark* under the primary's identity), and only after what the
mark stands for is delivered. Nothing is queued: an outage of any length costs nothing but the reading of the journal
afterwards. What was delivered is read back and compared before it counts as verified, which is a mark of its own.
"""

from __future__ import annotations

import logging
import secrets
import shlex
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from chandlery.candle import SeriesId
from chandlery.compare import SeriesDifference, compare_series, hull, whole_spans
from chandlery.errors import DatabaseError, NoSuchSeries, SeriesLocked, UsageError
from chandlery.ingest import Door
from chandlery.stores import open_store
from chandlery.stores.base import JournalEntry, Store
from chandlery.timeframe import DAY
from chandlery.timerange import RangeSet, TimeRange
from chandlery.transfer import everything, transfer

if TYPE_CHECKING:
    from chandlery.config import Settings

log = logging.getLogger("chandlery.mirror")

T = TypeVar("T")

#: Journal entries that are delivered together at most, and rows after which no more are taken.
ENTRIES_AT_ONCE = 1_000
ROWS_AT_ONCE = 250_000
#: Ranges of one series that are told apart; of more the hull is taken, so that memory stays bounded.
RANGES_KEPT = 1_000
#: Series that are brought over at once: their pages share the target's commits.
SIDE_BY_SIDE = 8
#: How often a series that another process writes in the mirror is tried again.
LOOK_SECONDS = 0.5
#: Seconds for which a series that another process writes in the mirror is waited for.
LOCK_PATIENCE = 60.0


class Stopped(Exception):
    """The run was told to end; what was delivered stays."""


@dataclass(slots=True)
class Touched:
    """What journal entries say happened to one series."""

    rows: RangeSet = field(default_factory=RangeSet)
    removed: bool = False

    def add(self, entry: JournalEntry) -> None:
        """Take an entry in."""
        if entry.kind == "remove":
            self.removed, self.rows = True, RangeSet()
        elif entry.kind not in ("ask", "fact"):  # these have no rows, and ledgers go over whole
            self.rows |= RangeSet([entry.range])
            if len(self.rows) > RANGES_KEPT:
                self.rows = RangeSet([hull(self.rows)])


def touched_by(entries: Iterable[JournalEntry]) -> dict[SeriesId, Touched]:
    """What the entries touch, by series."""
    found: dict[SeriesId, Touched] = {}
    for entry in entries:
        found.setdefault(entry.series, Touched()).add(entry)
    return found


class Mirror:
    """One store that follows another. `target` is an open Store, which stays the caller's, or a URL (see `open_store`).

    Methods may be called from any one thread at a time, beside whatever else uses the primary.
    """

    def __init__(self, primary: Store, target: Store | str, *, settings: Settings | None = None) -> None:
        self.primary = primary
        self._settings = settings
        self.url = target if isinstance(target, str) else target.url
        self._borrowed = None if isinstance(target, str) else target
        self._target: Store | None = None
        self._door: Door | None = None
        self._stop = threading.Event()
        self._known: int | None = None  # the mark as it was last seen
        self._is_begun = False

    def behind(self) -> int | None:
        """How many journal entries of the primary are not delivered; None if the mirror has not said how far it is."""
        if self._known is None:
            return None if self._begun() else 0
        return sum(1 for _ in self.primary.journal(_number(self._known)))

    def follow(self) -> int:
        """Deliver what the journal says, oldest first, until there is no more; returns how many entries that were.

        Raises what reading the one store or writing the other raises; what was delivered until then is marked.
        """
        delivered = 0
        while self._begun():
            self._check_stop()
            target, name = self._open(), self.primary.identity
            self._check_other(target, name)
            # Read anew each time: a mirror that was wiped or put back from a backup starts from what it has.
            after = target.mark(name)
            batch = self._batch(after)
            if batch is None:
                log.warning("%s followed another past of %s: it starts anew", self.url, self.primary.url)
                target.set_mark(_verified(name), 0)
                target.set_mark(name, 0)
                continue
            self._known = after
            if not batch:
                break
            self._deliver(target, touched_by(batch), name, batch[-1].seq)
            if target.mark(name) == after:  # else another follower was quicker, or the mirror was wiped
                target.set_mark(name, _mark_of(batch[-1]))
                self._known = _mark_of(batch[-1])
            delivered += len(batch)
        return delivered

    def verify(self) -> None:
        """Read back what was delivered since this was last verified, and compare counts and checksums by day.

        What differs is sent once more. Everything is compared where nothing was ever verified. Raises DatabaseError
        that names what still differs then.
        """
        if not self._begun():
            return
        target, name = self._open(), self.primary.identity
        before, head = target.mark(_verified(name)), _number(target.mark(name))
        if before >= head > 0:
            return
        wrong: list[SeriesDifference] = []
        unsettled: list[SeriesId] = []

        def look(item: tuple[SeriesId, list[TimeRange]]) -> None:
            found = self._verify_series(target, *item)
            if found is None:
                return
            if self._moved_on(item[0], head):  # being written: it is looked at again with what is to come
                unsettled.append(item[0])
            else:
                wrong.append(found)

        side_by_side(look, list(self._to_verify(before, head).items()), self._stop)
        if wrong:
            raise _differs(self.primary.url, self.url, wrong)
        if not unsettled:
            target.set_mark(_verified(name), head)

    def stop(self) -> None:
        """Make what is under way in another thread end soon, with `Stopped`."""
        self._stop.set()

    def close(self) -> None:
        """Let go of the target, unless it was handed in open. It is opened again when it is needed."""
        door, self._door = self._door, None
        if door is not None:
            door.close_now()
        target, self._target = self._target, None
        if target is not None and target is not self._borrowed:
            target.close()

    # -- following ---------------------------------------------------------------------------------------------------

    def _open(self) -> Store:
        if self._target is None:
            self._target = self._borrowed or open_store(self.url, settings=self._settings)
            self._door = Door(self._target)
        return self._target

    def _begun(self) -> bool:
        """Whether the primary has ever stored anything: before that it may not even be there."""
        self._is_begun = self._is_begun or next(self.primary.journal(0, 1), None) is not None
        return self._is_begun

    def _check_other(self, target: Store, name: str) -> None:
        """Refuse the primary itself under another name. A copy of its files has its identity too, but not its marks."""
        if target.identity != name:
            return
        probe, value = f"{name} probe", secrets.randbits(40)
        target.set_mark(probe, value)
        if self.primary.mark(probe) == value:
            raise same_store(self.url)

    def _batch(self, mark: int) -> list[JournalEntry] | None:
        """The next entries after a mark; None if the journal does not hold the entry that the mark is of.

        That is so where the primary was put back from a backup: what it wrote since is another past.
        """
        batch, rows = [], 0
        entries = self.primary.journal(max(0, _number(mark) - 1), ENTRIES_AT_ONCE + bool(mark))
        if mark:
            followed = next(entries, None)
            if followed is None or _mark_of(followed) != mark:
                return None
        for entry in entries:
            batch.append(entry)
            rows += entry.rows
            if rows >= ROWS_AT_ONCE:
                break
        return batch

    def _deliver(self, target: Store, work: dict[SeriesId, Touched], name: str, seq: int) -> None:
        """Bring what was touched over; a series that another process writes there is come back to."""
        deadline = time.monotonic() + LOCK_PATIENCE
        locked: dict[SeriesId, SeriesLocked] = {}

        def bring(series: SeriesId) -> None:
            try:
                self._bring(target, series, work[series], name, seq)
            except SeriesLocked as error:
                locked[series] = error

        left = list(work)
        while left:
            side_by_side(bring, left, self._stop)
            if locked and time.monotonic() > deadline:
                raise locked.popitem()[1]
            left = list(locked)
            locked.clear()
            if left:
                self._stop.wait(LOOK_SECONDS)

    def _bring(self, target: Store, series: SeriesId, touched: Touched, name: str, seq: int) -> None:
        if touched.removed:
            with target.lock(series):
                # Or another follower has done it, and what came afterwards would go.
                if _number(target.mark(name)) < seq and target.knows(series):
                    target.remove(series)
        assert self._door is not None
        try:
            transfer(self.primary, target, series, touched.rows, door=self._door, exact=True)
        except NoSuchSeries:
            if self.primary.knows(series):
                raise
            # It was removed, which a later entry says.

    # -- verifying ---------------------------------------------------------------------------------------------------

    def _to_verify(self, before: int, head: int) -> dict[SeriesId, list[TimeRange]]:
        """Whole days of every series touched since; everything where nothing was verified before."""
        if not before:
            spans = whole_spans(self.primary, self._open())
            # What only the mirror keeps may have come from another store that it mirrors too.
            return {one.series: [spans[one.series]] for one in self.primary.series()}
        found: dict[SeriesId, Touched] = {}
        for entry in self.primary.journal(before):
            if entry.seq > head:
                break
            found.setdefault(entry.series, Touched()).add(entry)
        return {series: _days(touched.rows) for series, touched in found.items()}

    def _verify_series(
        self, target: Store, series: SeriesId, spans: Sequence[TimeRange]
    ) -> SeriesDifference | None:
        """What differs of a series after it was sent once more; None if nothing does."""
        found = compare_series(self.primary, target, series, spans)
        if found.error is not None:
            raise found.error
        if found.equal or not found.in_a:  # a removal that was delivered, or will be
            return None
        log.info("%s differs in the mirror %s: it is sent once more", series, self.url)
        ranges = found.ranges
        if not found.in_b:
            ranges |= everything(self.primary, series, hull(spans))
        self._deliver(target, {series: Touched(ranges)}, self.primary.identity, 0)
        found = compare_series(self.primary, target, series, spans)
        if found.error is not None:
            raise found.error
        return None if found.equal else found

    def _moved_on(self, series: SeriesId, head: int) -> bool:
        return any(entry.series == series for entry in self.primary.journal(head))

    def _check_stop(self) -> None:
        if self._stop.is_set():
            raise Stopped


def same_store(url: str) -> UsageError:
    """The error for a mirror that is what it should mirror."""
    return UsageError(
        f"the mirror {url} is the store itself", hint="name another folder or bucket with --mirror"
    )


def side_by_side(work: Callable[[T], None], items: Sequence[T], stop: threading.Event) -> None:
    """Do the work on every item, on some at once; raises the first error, and Stopped where it was told to end."""
    waiting = deque(items)
    failed: list[BaseException] = []

    def drain() -> None:
        while waiting and not failed and not stop.is_set():
            try:
                item = waiting.popleft()
            except IndexError:
                return
            try:
                work(item)
            except BaseException as error:  # noqa: BLE001 - raised below
                failed.append(error)

    threads = [
        threading.Thread(target=drain, name="chandlery-mirror", daemon=True)
        for _ in range(min(SIDE_BY_SIDE, len(items)) - 1)
    ]
    for thread in threads:
        thread.start()
    drain()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
    if stop.is_set():
        raise Stopped


def _differs(primary: str, mirror: str, wrong: Sequence[SeriesDifference]) -> DatabaseError:
    first = min(wrong, key=lambda found: found.series)
    parts = [
        f"{count:,} {words}"
        for count, words in (
            (first.only_a, "candles not there"),
            (first.only_b, "candles that the store has not"),
            (first.changed, "candles with other values"),
            (sum(a.candles for a in first.answers), "slots known otherwise"),
        )
        if count
    ]
    more = f", and {len(wrong) - 1:,} more series" if len(wrong) > 1 else ""
    return DatabaseError(
        f"the mirror {mirror} differs from its store after it was delivered: {first.series} ({', '.join(parts)}){more}",
        hint=f"chandlery diff {shlex.quote(primary)} {shlex.quote(mirror)} shows where",
    )


def _days(rows: RangeSet) -> list[TimeRange]:
    """The whole UTC days that the ranges touch."""
    return list(RangeSet(TimeRange(r.since // DAY * DAY, -(-r.until // DAY) * DAY) for r in rows if r))


# A mark holds the number of the entry that was followed and, in its last bits, a part of when that was committed, so
# that another past under the same number is noticed; in one number, so that two followers never mix theirs.
_MOMENT_BITS = 20


def _mark_of(entry: JournalEntry) -> int:
    return entry.seq << _MOMENT_BITS | entry.committed_at & ((1 << _MOMENT_BITS) - 1)


def _number(mark: int) -> int:
    return mark >> _MOMENT_BITS


def _verified(name: str) -> str:
    return f"{name} verified"
