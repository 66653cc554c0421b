"""What sources log of their waits, and stores of what is odd, told to the person at the command line too."""

from __future__ import annotations

import contextlib
import logging
import re
import time
from collections.abc import Iterator

from chandlery.cli.output import Output

#: Seconds between two lines that differ by their numbers only; between two warnings of stores.
PAUSE, STORE_PAUSE = 3.0, 10.0


class _Talk(logging.Handler):
    """Log lines as notes and warnings."""

    def __init__(self, out: Output) -> None:
        super().__init__(logging.INFO)
        self.out = out
        self._said: dict[str, float] = {}

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.levelno >= logging.WARNING:
            self.out.warn(text)
            return
        # Many requests wait at the same time, for the same reason.
        kind, now = re.sub(r"\d+", "", text), time.monotonic()
        if now - self._said.get(kind, -PAUSE) < PAUSE:
            return
        self._said[kind] = now
        if self.out.stderr_is_terminal or self.out.verbose:
            self.out.note(text)


@contextlib.contextmanager
def telling_waits(out: Output) -> Iterator[None]:
    """While the block runs, warnings of sources are told, and on a terminal or with -v their longer waits too."""
    log, talk = logging.getLogger("chandlery.sources"), _Talk(out)
    before = log.level
    log.addHandler(talk)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(talk)
        log.setLevel(before)


class _StoreTalk(logging.Handler):
    """Warnings of stores, such as a server that is waited for. Many requests wait for the same."""

    def __init__(self, out: Output) -> None:
        super().__init__(logging.WARNING)
        self.out = out
        self._said: dict[str, float] = {}

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        kind, now = re.sub(r"\d+", "", text), time.monotonic()
        if now - self._said.get(kind, -STORE_PAUSE) >= STORE_PAUSE:
            self._said[kind] = now
            self.out.warn(text)


def tell_store_warnings(out: Output) -> None:
    """Tell warnings of stores from now on, in the place of an earlier `out`."""
    log = logging.getLogger("chandlery.stores")
    for handler in [h for h in log.handlers if isinstance(h, _StoreTalk)]:
        log.removeHandler(handler)
    log.addHandler(_StoreTalk(out))
