"""Work on many items in a few threads, which end together."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")

#: Items that are worked on at once.
SIDE_BY_SIDE = 8


class Stopped(Exception):
    """The run was told to end; what was delivered stays."""


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
