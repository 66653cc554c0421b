"""How the program's process treats memory; a library may not decide that for the program that imports it."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # glibc's malloc.h
#: What may stay unused of the heap, and what is taken from the system piece by piece, in bytes.
_SPARE, _LARGE = 16 << 20, 4 << 20
#: Objects that may be made before the collector looks for circles; importing alone makes a hundred thousand.
_OBJECTS = 50_000


def keep_small() -> None:
    """Let a fetch need little memory and little time for it; before numpy is imported and threads are started.

    glibc keeps two heaps instead of eight for each core: pages are parsed in one thread and sealed in another; with a
    heap for each, what one has freed the other cannot use, and a long fetch grows by about 60 MB. The arrays of a page
    stay in the heap: given back to the system and fetched again for every page, they take twice as long to fill as to
    work with. OpenBLAS, of which nothing is used here, starts no threads, which would spin for a tenth of a second.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    gc.set_threshold(_OBJECTS, 10, 10)
    if sys.platform != "linux":
        return
    with contextlib.suppress(OSError, AttributeError):  # another C library: it does without
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_ARENA_MAX, 2)
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGE)
        libc.mallopt(_M_TRIM_THRESHOLD, _SPARE)


@contextmanager
def importing() -> Iterator[None]:
    """Import here what stays as long as the process: the collector looks for circles neither meanwhile nor in it later."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_on:
            gc.enable()


def end_quickly() -> None:
    """Let the process end without looking through a hundred thousand objects for circles; the last thing it does.

    What holds a file, a connection or a lock was closed before this. Python would look twice, for a tenth of a second,
    so that the memory could be used again.
    """
    gc.disable()
    gc.freeze()
