"""How the program's process treats memory; a library may not decide that for the program that imports it."""

from __future__ import annotations

import contextlib
import ctypes
import sys

_M_ARENA_MAX = -8  # glibc's malloc.h


def keep_small() -> None:
    """Let glibc keep two heaps instead of eight for each core, before threads are started.

    Pages are parsed in one thread and sealed in another; with a heap for each, what one has freed the other cannot
    use, and a long fetch grows by about 60 MB.
    """
    if sys.platform != "linux":
        return
    with contextlib.suppress(OSError, AttributeError):  # another C library: it does without
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 2)
