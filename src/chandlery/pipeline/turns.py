"""Turns: who in this process stores a series waits for who does already, whatever pipeline or event loop they have.

A store refuses a second writer of a series, wherever that runs. Between processes this is an error to be told; within
one it only means that two pipelines were made where one would do.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections import deque
from collections.abc import AsyncIterator
from concurrent.futures import Future
from contextlib import asynccontextmanager

from chandlery.candle import SeriesId

_Key = tuple[int, str, SeriesId]  # a forked child inherits the queues, not the turns

_queues: dict[_Key, deque[Future[None]]] = {}
_guard = threading.Lock()


@asynccontextmanager
async def turn(place: str, series: SeriesId) -> AsyncIterator[None]:
    """Hold the process's turn at a series of the store that lies at `place`; first come, first served."""
    key = _key(place, series)
    mine: Future[None] = Future()
    with _guard:
        _queues.setdefault(key, deque()).append(mine)
        _call_first(key)
    try:
        await asyncio.wrap_future(mine)
        yield
    finally:
        with _guard:
            _queues[key].remove(mine)
            _call_first(key)


def _key(place: str, series: SeriesId) -> _Key:
    return os.getpid(), os.path.realpath(place), series


def _call_first(key: _Key) -> None:
    """Give the turn to who waits longest. Who gave up waiting is passed over and takes itself out of the queue."""
    queue = _queues[key]
    if not queue:
        del _queues[key]
    for waiting in queue:
        if waiting.done() and not waiting.cancelled():
            return  # has the turn
        if not waiting.cancelled() and waiting.set_running_or_notify_cancel():
            waiting.set_result(None)
            return


def _after_fork_in_child() -> None:
    global _guard  # noqa: PLW0603 - a thread that the child lacks may hold the parent's
    _guard = threading.Lock()
    _queues.clear()


if hasattr(os, "register_at_fork"):  # not on Windows, which cannot fork
    os.register_at_fork(after_in_child=_after_fork_in_child)
