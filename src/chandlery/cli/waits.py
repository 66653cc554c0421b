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
    """Log lines told to `out`; of those that differ by their numbers only, one in `pause` seconds."""

    def __init__(self, out: Output, level: int, pause: float) -> None:
        super().__init__(level)
        self.out = out
        self._pause = pause
        self._said: dict[str, float] = {}

    def _just_said(self, text: str) -> bool:
        # Many requests wait at the same time, for the same reason.
        kind, now = re.sub(r"\d+", "", text), time.monotonic()
        if now - self._said.get(kind, -self._pause) < self._pause:
            return True
        self._said[kind] = now
        return False


class _SourceTalk(_Talk):
    """Log lines of sources as notes and warnings."""

    def __init__(self, out: Output) -> None:
        super().__init__(out, logging.INFO, PAUSE)

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.levelno >= logging.WARNING:
            self.out.warn(text)
        elif not self._just_said(text) and (self.out.stderr_is_terminal or self.out.verbose):
            self.out.note(text)


@contextlib.contextmanager
def telling_waits(out: Output) -> Iterator[None]:
    """While the block runs, warnings of sources are told, and on a terminal or with -v their longer waits too."""
    log, talk = logging.getLogger("chandlery.sources"), _SourceTalk(out)
    before = log.level
    log.addHandler(talk)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(talk)
        log.setLevel(before)


class _StoreTalk(_Talk):
    """Warnings of stores, such as a server that is waited for."""

    def __init__(self, out: Output) -> None:
        super().__init__(out, logging.WARNING, STORE_PAUSE)

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if not self._just_said(text):
            self.out.warn(text)


def tell_store_warnings(out: Output) -> None:
    """Tell warnings of stores from now on, in the place of an earlier `out`."""
    log = logging.getLogger("chandlery.stores")
    for handler in [h for h in log.handlers if isinstance(h, _StoreTalk)]:
        log.removeHandler(handler)
    log.addHandler(_StoreTalk(out))
