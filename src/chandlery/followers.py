"""Mirrors that follow beside a run, each in a thread of its own, so that a slow or dead one holds up nothing else."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self

from chandlery.errors import DatabaseError, DataPipelineError, UsageError
from chandlery.mirror import Mirror
from chandlery.mirror_errors import not_followed, same_store
from chandlery.report import MirrorReport
from chandlery.stores import open_store
from chandlery.stores.base import Store
from chandlery.stores.influx_place import is_influx_url, place_of
from chandlery.threads import Stopped

if TYPE_CHECKING:
    from chandlery.config import Settings

log = logging.getLogger("chandlery.mirror")

#: How often a follower looks for news.
LOOK_SECONDS = 0.5
#: The longest wait before a mirror that failed is tried again.
LONGEST_PAUSE = 30.0


class Followers:
    """The mirrors of one store for the length of a run: `start`, then `finish`, or `stop` where the run is broken off."""

    def __init__(
        self, primary: Store, targets: Sequence[Store | str], *, settings: Settings | None = None
    ) -> None:
        self._mirrors = [Mirror(primary, target, settings=settings) for target in targets]
        self._errors: dict[Mirror, DataPipelineError | None] = dict.fromkeys(self._mirrors)
        self._finishing = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(mirror,), name="chandlery-mirror", daemon=True)
            for mirror in self._mirrors
        ]

    def start(self) -> Self:
        """Begin to follow."""
        for thread in self._threads:
            thread.start()
        return self

    async def finish(self) -> list[MirrorReport]:
        """Let every mirror catch up with what the primary holds now and verify it; returns how that went.

        A mirror that fails is not waited for any longer than its server's own patience lasts.
        """
        self._finishing.set()
        # Not in an executor, which would hold up the end of the program for as long as a dead mirror hangs.
        while any(thread.is_alive() for thread in self._threads):  # noqa: ASYNC110 - threads set no asyncio.Event
            await asyncio.sleep(0.02)
        return self.reports()

    def stop(self) -> None:
        """End soon, without catching up. What was delivered stays, what was not is found by the next run."""
        self._finishing.set()
        for mirror in self._mirrors:
            mirror.stop()
        for thread in self._threads:
            thread.join(timeout=2)

    def reports(self) -> list[MirrorReport]:
        """How far each mirror is."""
        return [_report(mirror, error) for mirror, error in self._errors.items()]

    def _run(self, mirror: Mirror) -> None:
        pause = LOOK_SECONDS
        try:
            while True:
                last = self._finishing.is_set()
                error = _attempt(mirror.follow)
                if last and error is None:
                    error = _attempt(mirror.verify)
                self._errors[mirror] = error
                # What was being tried when the run ended was the last try.
                if last or (error is not None and self._finishing.is_set()):
                    return
                if error is not None:
                    log.info("%s: %s", mirror.url, error)
                    _attempt(mirror.close)
                pause = LOOK_SECONDS if error is None else min(2 * pause, LONGEST_PAUSE)
                self._finishing.wait(pause)
        except Stopped:
            self._errors[mirror] = DatabaseError("the run was ended before the mirror had caught up")
        finally:
            _attempt(mirror.close)


def check_mirrors(store: str, mirrors: Sequence[str], settings: Settings | None = None) -> None:
    """Raise UsageError where a mirror is the store itself, is named twice, or is none that can be, and where the store
    is none that can be followed. Asks no server.
    """
    if not mirrors:
        return
    if is_influx_url(store):
        raise not_followed(store)
    primary = where_is(store, settings)
    seen = {primary}
    for url in mirrors:
        if url == "memory:":
            raise UsageError(
                "a mirror in memory would be gone with the run",
                hint="name a folder or an InfluxDB with --mirror",
            )
        place = where_is(url, settings)
        if place == primary:
            raise same_store(url)
        if place in seen:
            raise UsageError(f"the mirror {url} is named twice", hint="name each mirror once")
        seen.add(place)


def where_is(url: str, settings: Settings | None) -> str:
    """Where a store is, the same however its URL is written. Asks no server; raises UsageError for what is no URL of one."""
    if is_influx_url(url):
        from chandlery.config import load_settings

        return place_of(url, settings or load_settings()).url
    try:
        with open_store(url) as store:
            place = store.url
    except UsageError:
        raise
    except DataPipelineError:  # cannot be opened now, and may be later
        place = str(Path(url.removeprefix("file:")).expanduser())
    return os.path.realpath(place)


def _attempt(work: Callable[[], object]) -> DataPipelineError | None:
    """The error that the work ends with, as one of ours."""
    try:
        work()
    except Stopped:
        raise
    except DataPipelineError as error:
        return error
    except Exception as error:
        log.exception("a mirror failed")
        return DatabaseError(f"{type(error).__name__}: {error}", hint="please report this with its traceback")
    return None


def _report(mirror: Mirror, error: DataPipelineError | None) -> MirrorReport:
    try:
        behind = mirror.behind()
    except DataPipelineError as failed:
        return MirrorReport(mirror.url, None, error or failed)
    return MirrorReport(mirror.url, behind, error)
