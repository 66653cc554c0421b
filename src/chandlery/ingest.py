"""The only door into a store: rows, what they answer and one journal entry go in together.

One writer thread takes whatever waits, commits it in one transaction and then acknowledges, so the event loop never
waits for a disk, and a hundred pages that arrive together cost one fsync.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import Counter, deque
from concurrent.futures import Future
from contextlib import suppress
from typing import NamedTuple

import numpy as np

from chandlery.candle import CandlePage, SeriesId
from chandlery.errors import DatabaseError, DataPipelineError
from chandlery.stores.base import Entry, Page, Store, Written
from chandlery.stores.rules import columns_of

log = logging.getLogger("chandlery.ingest")

#: Entries that one commit takes at most: bounds memory and the time that a waiting entry may wait.
AT_ONCE = 256
#: Seconds from the beginning of one commit to that of the next while several entries come at a time: what arrives in
#: between shares one fsync. Who puts one entry after the other waits for nothing.
APART = 0.040
#: Pages of one series after which its full partitions are sealed, so that staging stays small in a long run.
SEAL_EVERY = 64

_Waiter = tuple[asyncio.AbstractEventLoop, "asyncio.Future[None]"]


class _Waiting(NamedTuple):
    """An entry that waits for its commit, what becomes of it, and who is to be woken then."""

    entry: Entry
    done: Future[Written]
    waiter: _Waiter | None


class Door:
    """Takes entries for one store, from any thread and any event loop; close it to end its thread."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._waiting: deque[_Waiting] = deque()
        self._wake = threading.Condition()
        self._closing = False
        #: The writer waits for the time, not for an entry: waking it would cost both threads a turn.
        self._gathering = False
        self._thread: threading.Thread | None = None
        self._unsealed: Counter[SeriesId] = Counter()

    async def put(self, entry: Entry) -> Written:
        """Store one entry; returns after its commit. Cancelled while it waits, the entry is dropped whole."""
        loop = asyncio.get_running_loop()
        told: asyncio.Future[None] = loop.create_future()
        done = self._submit(entry, (loop, told))
        try:
            await told
        except asyncio.CancelledError:
            done.cancel()
            raise
        return done.result()

    def put_now(self, entry: Entry) -> Written:
        """`put` for callers without an event loop."""
        return self.submit(entry).result()

    async def close(self) -> None:
        """Commit what waits, seal what is full, end the thread. Twice is fine."""
        thread = self._end()
        if thread is not None:
            await asyncio.to_thread(thread.join)

    def close_now(self) -> None:
        """`close` for callers without an event loop."""
        thread = self._end()
        if thread is not None:
            thread.join()

    def _end(self) -> threading.Thread | None:
        with self._wake:
            self._closing = True
            self._wake.notify()
            return self._thread

    def submit(self, entry: Entry) -> Future[Written]:
        """Hand one entry in and go on; its future is done after its commit. Entries are committed in this order."""
        return self._submit(entry, None)

    def _submit(self, entry: Entry, waiter: _Waiter | None) -> Future[Written]:
        if isinstance(entry, Page):
            _guard(entry.page)
        done: Future[Written] = Future()
        with self._wake:
            if self._closing:
                raise DatabaseError(f"the way into {self.store.url} is closed", hint="open the store again")
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="chandlery-writer", daemon=True)
                self._thread.start()
            self._waiting.append(_Waiting(entry, done, waiter))
            if not self._gathering or len(self._waiting) >= AT_ONCE:
                self._wake.notify()
        return done

    def _work(self) -> None:
        together, begun = 0, 0.0
        while True:
            with self._wake:
                while not self._waiting and not self._closing:
                    self._wake.wait()
                while together > 1 and not self._closing and len(self._waiting) < AT_ONCE:
                    left = begun + APART - time.monotonic()
                    if left <= 0:
                        break
                    self._gathering = True
                    self._wake.wait(left)
                    self._gathering = False
                taken = [self._waiting.popleft() for _ in range(min(AT_ONCE, len(self._waiting)))]
            if not taken:
                self._seal(list(self._unsealed))
                return
            together, begun = len(taken), time.monotonic()
            batch = [one for one in taken if one.done.set_running_or_notify_cancel()]
            self._commit(batch)
            _tell(batch)
            self._seal([series for series, pages in self._unsealed.items() if pages >= SEAL_EVERY])

    def _commit(self, batch: list[_Waiting]) -> None:
        """Commit a batch; if the store refuses it, each entry alone, so that one bad entry spoils no other."""
        try:
            written = self.store.write([one.entry for one in batch]) if batch else []
        except Exception as error:  # noqa: BLE001 - whatever it is, who waits must hear of it
            if len(batch) == 1:
                batch[0].done.set_exception(_as_ours(error))
                return
            for one in batch:
                self._commit([one])
            return
        for (entry, done, _), result in zip(batch, written, strict=True):
            # A series that was merely asked counts too: an earlier run may have been cut off before it sealed.
            series = entry.page.series if isinstance(entry, Page) else entry.series
            self._unsealed[series] += isinstance(entry, Page)
            done.set_result(result)

    def _seal(self, series: list[SeriesId]) -> None:
        """Seal full partitions. What cannot be sealed now is safe where it is, so a failure is told, not raised."""
        for one in series:
            del self._unsealed[one]
            try:
                self.store.seal(one)
            except DataPipelineError as error:
                log.warning("%s is stored, and not sealed yet: %s", one, error)


def _tell(batch: list[_Waiting]) -> None:
    """Wake who waits for the entries of a batch, each event loop once: a wake-up costs as much as a check of a page."""
    by_loop: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {}
    for one in batch:
        if one.waiter is not None:
            by_loop.setdefault(one.waiter[0], []).append(one.waiter[1])
    for loop, waiting in by_loop.items():
        with suppress(RuntimeError):  # the loop was closed; nobody waits any more
            loop.call_soon_threadsafe(_wake, waiting)


def _wake(waiting: list[asyncio.Future[None]]) -> None:
    for one in waiting:
        if not one.done():
            one.set_result(None)


def _as_ours(error: Exception) -> Exception:
    if isinstance(error, DataPipelineError):
        return error
    wrapped = DatabaseError(
        f"the store failed: {type(error).__name__}: {error}", hint="please report this with its traceback"
    )
    wrapped.__cause__ = error
    return wrapped


def _guard(page: CandlePage) -> None:
    """Refuse a page that breaks the form of `CandlePage`: a fault of the source, which must not reach the store."""
    _, values = columns_of(page)
    if not np.isfinite(values).all():
        raise ValueError(f"{page.series}: a page must hold finite numbers only")
