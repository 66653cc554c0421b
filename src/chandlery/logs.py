"""Logging for programs: console, a file for each day, a file for errors, and no secret in any of them.

Importing chandlery configures nothing: the library logs under the name `chandlery` and stays silent until a program
asks. `configure_logger` is that question; `RedactSecrets` may be put on any other handler.
"""

from __future__ import annotations

import logging
import logging.handlers
import os
import sys
import time
from pathlib import Path
from typing import TextIO

from chandlery.errors import UsageError
from chandlery.redact import keep_secret, redact, visible

__all__ = ["RedactSecrets", "configure_logger", "keep_secret", "logs_folder", "redact"]

FILE_FORMAT = "%(asctime)s - %(name)s - %(levelname)s - %(message)s"
CONSOLE_FORMAT = "%(asctime)s - %(levelname)s - %(message)s"
#: A day's file is rotated at this size; so many old ones of that day are kept.
MAX_BYTES = 10 * 1024 * 1024
BACKUPS = 10


def configure_logger(
    name: str | None = None, *, folder: str | os.PathLike[str] | None = None
) -> logging.Logger:
    """Give a logger a console handler (stderr), a daily file and a daily `error_` file, and return it.

    Files are `YYYY-MM-DD.log` and `error_YYYY-MM-DD.log` (days and times in UTC) in `folder`, else in CHANDLERY_LOGS,
    else in `logs` under the current directory; each is rotated at 10 MB, ten old ones are kept. Calling it again for
    the same logger, or for its parent or child, writes no line twice; handlers of others stay. Without a name it is
    the root logger. Known secrets and what looks like one appear as `***`. Raises UsageError where the folder cannot
    be written.
    """
    logger = logging.getLogger(name)
    for old in [h for h in logger.handlers if isinstance(h, _OUR_HANDLERS)]:
        logger.removeHandler(old)
    for handler in _handlers(logs_folder(folder)):
        logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    # It prints whole requests and answers, signatures included, at DEBUG.
    logging.getLogger("ccxt.base.exchange").setLevel(logging.INFO)
    return logger


def logs_folder(folder: str | os.PathLike[str] | None = None) -> Path:
    """Where log files go: the argument, else CHANDLERY_LOGS, else `logs` under the current directory; absolute."""
    return Path(folder or os.environ.get("CHANDLERY_LOGS") or "logs").expanduser().absolute()


class RedactSecrets(logging.Filter):
    """Takes secrets out of a record: its message, arguments, exception, traceback and stack, before anybody formats it.

    The record is changed, so handlers that come later get the clean one too. Never drops a record.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Clean the record, once."""
        if not getattr(record, "_redacted", False):
            record.msg, record.args = _message(record), None
            if record.exc_info and record.exc_info[0] is not None and not record.exc_text:
                record.exc_text = logging.Formatter().formatException(record.exc_info)
            if record.exc_text:
                record.exc_text = redact(record.exc_text)
            if record.stack_info:
                record.stack_info = redact(record.stack_info)
            record._redacted = True  # noqa: SLF001 - records are made to carry what filters note on them
        return True


def _message(record: logging.LogRecord) -> str:
    """The message with its arguments in it, clean, and unable to forge a line or move a cursor."""
    try:
        text = record.getMessage()
    except Exception:  # noqa: BLE001 - anything can happen in a __str__, and logging would print the raw arguments
        text = f"{record.msg!r} with arguments that do not fit it: {record.args!r}"
    return visible(redact(text), lines=True)


class _Once(logging.Filter):
    """Lets a record through to a handler once, although the handler may be on several loggers of its family."""

    def __init__(self, handler: logging.Handler) -> None:
        super().__init__()
        self._mark = f"_seen_{id(handler)}"

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the handler has not had this record yet."""
        first = not hasattr(record, self._mark)
        setattr(record, self._mark, True)
        return first


class _Console(logging.StreamHandler[TextIO]):
    """Writes to what stderr is at that moment, so that whoever replaces it is obeyed."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:
        return sys.stderr

    @stream.setter
    def stream(self, _: TextIO) -> None:
        raise AttributeError("the console is always the present sys.stderr")


class _DailyFile(logging.handlers.RotatingFileHandler):
    """A file named after the day (UTC): rotated by size within a day, left for a new one at midnight."""

    def __init__(self, folder: Path, prefix: str) -> None:
        self._folder = folder
        self._prefix = prefix
        super().__init__(self._today(), maxBytes=MAX_BYTES, backupCount=BACKUPS, encoding="utf-8")

    def _today(self) -> str:
        day = time.strftime("%Y-%m-%d", time.gmtime(time.time()))
        return os.fspath(self._folder / f"{self._prefix}{day}.log")

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record into the file of today, wherever that is now."""
        try:
            if self.baseFilename != self._today() or self._moved():
                self._reopen()
        except OSError:
            self.handleError(record)
            return
        super().emit(record)

    def _moved(self) -> bool:
        """Whether the file was rotated or deleted by somebody else, such as another process of the same program."""
        if self.stream is None:
            return False
        try:
            there = Path(self.baseFilename).stat()
        except FileNotFoundError:
            return True
        ours = os.fstat(self.stream.fileno())
        return (there.st_ino, there.st_dev) != (ours.st_ino, ours.st_dev)

    def _reopen(self) -> None:
        old, self.stream = self.stream, None
        if old is not None:
            old.close()
        self._folder.mkdir(parents=True, exist_ok=True)
        self.baseFilename = self._today()
        self.stream = self._open()


_OUR_HANDLERS = (_Console, _DailyFile)
# One handler for each destination: two that rotate one file would fight over it.
_console: list[logging.Handler] = []
_files: dict[Path, list[logging.Handler]] = {}


def _handlers(folder: Path) -> list[logging.Handler]:
    """The console handler, and the two file handlers of that folder."""
    if folder not in _files:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            files: list[logging.Handler] = [_DailyFile(folder, ""), _DailyFile(folder, "error_")]
        except OSError as error:
            raise UsageError(
                f"cannot write logs into {folder}: {error.strerror or error}",
                hint="set CHANDLERY_LOGS to a folder that may be written",
            ) from error
        _files[folder] = [
            _prepared(files[0], FILE_FORMAT, logging.INFO),
            _prepared(files[1], FILE_FORMAT, logging.ERROR),
        ]
    if not _console:
        _console.append(_prepared(_Console(), CONSOLE_FORMAT, logging.INFO))
    return [*_files[folder], *_console]


def _prepared(handler: logging.Handler, form: str, level: int) -> logging.Handler:
    formatter = logging.Formatter(form)
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    handler.setLevel(level)
    handler.addFilter(_Once(handler))
    handler.addFilter(RedactSecrets())
    return handler
