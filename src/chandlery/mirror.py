"""Mirrors: stores that follow another one's journal by its number, so that back-fills, repairs and revisions arrive too.

A mirror remembers in itself how far it has followed (a *mark* under the primary's identity), and only after what the
mark stands for is delivered. Nothing is queued: an outage of any length costs nothing but the reading of the journal
afterwards. What was delivered is read back and compared before it counts as verified, which is a mark of its own.
A series that a mirror cannot take holds up no other one: it is remembered apart (see `behind`) and tried again by each run.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Container, Sequence
from typing import TYPE_CHECKING

from chandlery.behind import Behind
from chandlery.candle import SeriesId
from chandlery.compare import SeriesDifference, compare_series, hull, whole_spans
from chandlery.errors import (
    DatabaseError,
    DataPipelineError,
    NoSuchSeries,
    SeriesLocked,
    StoreFull,
    StoreUnreadable,
)
from chandlery.ingest import Door
from chandlery.mirror_errors import differs, not_followed, not_taken, same_store
from chandlery.stores import open_store
from chandlery.stores.base import JournalEntry, Store
from chandlery.threads import Stopped, side_by_side
from chandlery.timerange import TimeRange
from chandlery.touched import Touched, touched_by, whole_days
from chandlery.transfer import everything, transfer

if TYPE_CHECKING:
    from chandlery.config import Settings

log = logging.getLogger("chandlery.mirror")

#: Journal entries that are delivered together at most, and rows after which no more are taken.
ENTRIES_AT_ONCE = 1_000
ROWS_AT_ONCE = 250_000
#: How often a series that another process writes in the mirror is tried again.
LOOK_SECONDS = 0.5
#: How often in a row a mark that was set may be found as it was.
STUCK = 3
#: Seconds for which a series that another process writes in the mirror is waited for.
LOCK_PATIENCE = 60.0


class Mirror:
    """One store that follows another. `target` is an open Store, which stays the caller's, or a URL (see `open_store`).

    Methods may be called from any one thread at a time, beside whatever else uses the primary. Raises UsageError for a
    primary on a server: each host that writes there numbers its journal for itself.
    """

    def __init__(self, primary: Store, target: Store | str, *, settings: Settings | None = None) -> None:
        if primary.remote:
            raise not_followed(primary.url)
        self.primary = primary
        self._settings = settings
        self.url = target if isinstance(target, str) else target.url
        self._borrowed = None if isinstance(target, str) else target
        self._target: Store | None = None
        self._door: Door | None = None
        self._stop = threading.Event()
        self._known: int | None = None  # the mark as it was last seen
        self._is_begun = False
        self._behind = Behind(primary)
        self._units_carried: set[SeriesId] = set()  # what their volumes are in is compared once
        self._probing = threading.Lock()

    def behind(self) -> int | None:
        """How many journal entries of the primary are not delivered; None if the mirror has not said how far it is."""
        if self._known is None:
            return None if self._begun() else 0
        head = _number(self._known)
        return len(self._behind.entries(head)) + sum(1 for _ in self.primary.journal(head))

    def follow(self) -> int:
        """Deliver what the journal says, oldest first, until there is no more; returns how many entries that were.

        A series that the mirror cannot take is left behind, which `verify` tells. Raises what reading the one store or
        writing the other raises, where it is not about one series; what was delivered until then is marked.
        """
        delivered, stuck, set_after, is_anew = 0, 0, -1, False
        while self._begun():
            self._check_stop()
            target, name = self._open(), self.primary.identity
            self._check_other(target, name)
            # Read anew each time: a mirror that was wiped or put back from a backup starts from what it has.
            after = target.mark(name)
            # Once it may be that another follower set an older one.
            stuck = stuck + 1 if after == set_after else 0
            if stuck == STUCK:
                raise self._forgetful()
            batch = self._batch(after)
            if batch is None:
                if is_anew:
                    raise self._forgetful()
                is_anew = True
                log.warning("%s followed another past of %s: it starts anew", self.url, self.primary.url)
                target.set_mark(_verified(name), 0)
                self._behind.start_anew(target)
                target.set_mark(name, 0)
                continue
            self._known = after
            if not batch:
                break
            work, seq = touched_by(batch), batch[-1].seq
            failed = self._deliver(target, work, name, seq, impatient=self._behind.since)
            for series, error in failed.items():
                log.info("%s is left behind in the mirror %s: %s", series, self.url, error)
            self._behind.add(target, failed, _number(after))
            if target.mark(name) == after:  # else another follower was quicker, or the mirror was wiped
                target.set_mark(name, _mark_of(batch[-1]))
                self._known, set_after = _mark_of(batch[-1]), after
            delivered += len(batch)
        return delivered

    def verify(self) -> None:
        """Try again what was left behind, then read back what was delivered since this was last verified, and compare
        counts and checksums by day.

        What differs is sent once more. Everything is compared where nothing was ever verified. Raises DatabaseError
        that names what still differs then, and what the mirror did not take.
        """
        if not self._begun():
            return
        target, name = self._open(), self.primary.identity
        self._behind.load(target)
        before, head = target.mark(_verified(name)), _number(target.mark(name))
        failed = self._try_again(target, name)
        caught_up = set(self._behind.since) - set(failed)
        work = {} if before >= head > 0 else self._to_verify(before, head)
        if caught_up:
            spans = whole_spans(self.primary, target)
            work |= {series: [spans.get(series, TimeRange(0, 0))] for series in caught_up}
        wrong: dict[SeriesId, SeriesDifference] = {}
        unsettled: list[SeriesId] = []

        def look(item: tuple[SeriesId, list[TimeRange]]) -> None:
            series = item[0]
            try:
                found = self._verify_series(target, *item)
            except DataPipelineError as error:
                self._check_alive(target, error)
                failed[series] = error
                return
            if found is None:
                return
            if self._moved_on(series, head):  # being written: it is looked at again with what is to come
                unsettled.append(series)
            else:
                wrong[series] = found

        side_by_side(look, [item for item in work.items() if item[0] not in failed], self._stop)
        self._behind.add(target, [one for one in failed if one not in self._behind.since], before)
        self._behind.clear(target, caught_up.difference(failed, wrong, unsettled))
        if not wrong and not unsettled:
            target.set_mark(_verified(name), head)
        if failed:
            raise not_taken(self.url, failed)
        if wrong:
            raise differs(self.primary.url, self.url, list(wrong.values()))

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

    def _deliver(
        self,
        target: Store,
        work: dict[SeriesId, Touched],
        name: str,
        seq: int | None,
        *,
        impatient: Container[SeriesId] = (),
    ) -> dict[SeriesId, DataPipelineError]:
        """Bring what was touched over; returns the series that the mirror did not take, and why.

        A series that another process writes there is come back to, unless it is one of the `impatient`.
        """
        deadline = time.monotonic() + LOCK_PATIENCE
        locked: dict[SeriesId, DataPipelineError] = {}
        failed: dict[SeriesId, DataPipelineError] = {}

        def bring(series: SeriesId) -> None:
            try:
                self._bring(target, series, work[series], name, seq)
            except SeriesLocked as error:
                (failed if series in impatient else locked)[series] = error
            except DataPipelineError as error:
                self._check_alive(target, error)
                failed[series] = error

        left = list(work)
        while left:
            side_by_side(bring, left, self._stop)
            if time.monotonic() > deadline:
                return failed | locked
            left = list(locked)
            locked.clear()
            if left:
                self._stop.wait(LOOK_SECONDS)
        gone = [one for one in failed if not self.primary.knows(one)]
        kept = {one.series for one in target.series()} if gone else set()
        return {one: error for one, error in failed.items() if one not in gone or one in kept}

    def _bring(self, target: Store, series: SeriesId, touched: Touched, name: str, seq: int | None) -> None:
        if touched.removed:
            with target.lock(series):
                # Or another follower has done it, and what came afterwards would go.
                if (seq is None or _number(target.mark(name)) < seq) and target.knows(series):
                    target.remove(series)
        assert self._door is not None
        try:
            units = series not in self._units_carried
            transfer(self.primary, target, series, touched.rows, door=self._door, exact=True, units=units)
            self._units_carried.add(series)
        except NoSuchSeries:
            if self.primary.knows(series):
                raise
            # It was removed, which a later entry says.

    def _check_alive(self, target: Store, error: DataPipelineError) -> None:
        """Raise the error if it is one of the whole mirror, which then takes no mark either, rather than of one series."""
        if isinstance(error, StoreFull | StoreUnreadable):
            raise error
        probe = f"{self.primary.identity} probe"
        with self._probing:
            try:
                before = target.mark(probe)
                target.set_mark(probe, before ^ 1 | secrets.randbits(40) << 1)
                if target.mark(probe) != before:
                    return
            except DataPipelineError:
                pass
        raise error

    def _forgetful(self) -> DatabaseError:
        return DatabaseError(
            f"the mirror {self.url} forgets how far it has followed {self.primary.url}",
            hint="it acknowledges a mark and does not keep it: is its server sound, and does nothing else write there?",
        )

    def _try_again(self, target: Store, name: str) -> dict[SeriesId, DataPipelineError]:
        """Deliver what was left behind, whatever became of it since; returns what is not taken this time either."""
        entries = self._behind.entries(_number(target.mark(name)))
        touched = dict.fromkeys(self._behind.since, Touched()) | touched_by(entries)
        return self._deliver(target, touched, name, None)

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
        return {series: whole_days(touched.rows) for series, touched in found.items()}

    def _verify_series(
        self, target: Store, series: SeriesId, spans: Sequence[TimeRange]
    ) -> SeriesDifference | None:
        """What differs of a series after it was sent once more; None if nothing does."""
        if not self.primary.knows(series):  # a removal that was delivered, or will be
            return None
        found = compare_series(self.primary, target, series, spans)
        if found.error is not None:
            raise found.error
        if found.equal or not found.in_a:
            return None
        log.info("%s differs in the mirror %s: it is sent once more", series, self.url)
        ranges = found.ranges
        if not found.in_b:
            ranges |= everything(self.primary, series, hull(spans))
        failed = self._deliver(target, {series: Touched(ranges)}, self.primary.identity, 0)
        if failed:
            raise failed[series]
        found = compare_series(self.primary, target, series, spans)
        if found.error is not None:
            raise found.error
        return None if found.equal else found

    def _moved_on(self, series: SeriesId, head: int) -> bool:
        return any(entry.series == series for entry in self.primary.journal(head))

    def _check_stop(self) -> None:
        if self._stop.is_set():
            raise Stopped


# A mark holds the number of the entry that was followed and, in its last bits, a part of when that was committed, so
# that another past under the same number is noticed; in one number, so that two followers never mix theirs.
_MOMENT_BITS = 20


def _mark_of(entry: JournalEntry) -> int:
    return entry.seq << _MOMENT_BITS | entry.committed_at & ((1 << _MOMENT_BITS) - 1)


def _number(mark: int) -> int:
    return mark >> _MOMENT_BITS


def _verified(name: str) -> str:
    return f"{name} verified"
