"""Every error chandlery raises, as one tree.

    DataPipelineError
    ├── UsageError                    the caller asked for something that cannot be: nothing was started
    ├── ExchangeError                 the exchange could not or would not answer
    │   ├── UnknownExchange           (also a UsageError)
    │   ├── UnknownSymbol             (also a UsageError)
    │   ├── UnknownTimeframe          (also a UsageError)
    │   ├── ExchangeUnavailable       down, unreachable, timed out            retryable
    │   ├── BadAnswer                 an answer that cannot be believed       retryable
    │   ├── RateLimited               told to wait                            retryable
    │   └── ExchangeRefused           forbidden, geo-blocked, not supported
    ├── VolumeUnitChanged             volumes would come in another unit than those that are stored
    └── DatabaseError                 the store could not keep or give back what it should
        ├── StoreUnreadable           not a store, newer than this program, no rights
        │   └── NoSuchStore           nothing is there (also a UsageError)
        ├── StoreFull                 no space left
        ├── StoreCorrupt              what is read is not what was written
        ├── NoSuchSeries              (also a UsageError)
        └── SeriesLocked              another process writes this series

Each error says what happened, to what, and in `hint` what to do about it.
"""

from __future__ import annotations


class DataPipelineError(Exception):
    """Base of all errors raised by chandlery.

    `message` names the thing and the value, `hint` the mend (may be empty); `retryable` says whether the same call can
    succeed later without anything being changed.
    """

    retryable = False

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    @property
    def kind(self) -> str:
        """The class name as it stands in JSON output."""
        return type(self).__name__

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.__dict__.copy()))


def _rebuild(cls: type[DataPipelineError], state: dict[str, object]) -> DataPipelineError:
    """Unpickle any error of the tree, whatever its constructor takes."""
    error = cls.__new__(cls)
    Exception.__init__(error, state.get("message", ""))
    error.__dict__.update(state)
    return error


class UsageError(DataPipelineError):
    """What was asked for cannot be; nothing was started."""


class ExchangeError(DataPipelineError):
    """The exchange could not or would not answer. `status` is the HTTP status of its answer, 0 where none came."""

    status = 0


class UnknownExchange(ExchangeError, UsageError):
    """No exchange of that id is known to ccxt."""


class UnknownSymbol(ExchangeError, UsageError):
    """The exchange does not list that symbol."""


class UnknownTimeframe(ExchangeError, UsageError):
    """Not a timeframe, or not one that the exchange offers."""


class ExchangeUnavailable(ExchangeError):
    """Down, unreachable, timed out or in maintenance."""

    retryable = True


class BadAnswer(ExchangeError):
    """An answer that arrived and cannot be believed: HTML, cut JSON, rows of another question."""

    retryable = True


class RateLimited(ExchangeError):
    """The exchange told this host to wait.

    `until` is the epoch in milliseconds on the local clock before which no request may be sent, or None where the
    exchange named no time.
    """

    retryable = True

    def __init__(self, message: str, *, hint: str = "", until: int | None = None, ban: bool = False) -> None:
        super().__init__(message, hint=hint)
        self.until = until
        self.ban = ban


class ExchangeRefused(ExchangeError):
    """Forbidden, geo-blocked, not supported: asking again will not help."""


class VolumeUnitChanged(DataPipelineError):
    """The volumes of a series would come in another unit than those that are stored: nothing of it was written."""


class DatabaseError(DataPipelineError):
    """The store could not keep, or could not give back, what it should."""


class StoreUnreadable(DatabaseError):
    """Not a store, made by a newer chandlery, or no rights."""


class NoSuchStore(StoreUnreadable, UsageError):
    """Nothing is where the store should be, and none was to be made."""


class StoreFull(DatabaseError):
    """No space is left for what should be stored."""


class StoreCorrupt(DatabaseError):
    """What is read is not what was written."""


class NoSuchSeries(DatabaseError, UsageError):
    """The store keeps no such series."""


class SeriesLocked(DatabaseError):
    """Another process is writing this series; `pid` is its process id, 0 if it could not be read."""

    retryable = True

    def __init__(self, message: str, *, hint: str = "", pid: int = 0) -> None:
        super().__init__(message, hint=hint)
        self.pid = pid
