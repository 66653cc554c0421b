"""Reading a moment as people write it: a date, an epoch, an age, `now`."""

from __future__ import annotations

import contextlib
import re
from datetime import UTC, date, datetime

from chandlery.errors import UsageError
from chandlery.timeframe import parse_timeframe

#: What the argument of --since may be when the series should begin where the exchange's history does.
LISTING = "listing"
HINT = "write 2024-01-01, 2024-01-01T12:00Z, epoch milliseconds, an age such as 7d or 12h, listing, or now; times are UTC"

Moment = str | int | float | date | datetime

_AGE = re.compile(r"[1-9][0-9]{0,4}[smhdwMy]")
_EPOCH = re.compile(r"-?[0-9]{5,}")
_EARLIEST = int(datetime(1970, 1, 1, tzinfo=UTC).timestamp() * 1000)
_LATEST = int(datetime(2200, 1, 1, tzinfo=UTC).timestamp() * 1000)
#: Before the first coin: a bare number that means an earlier moment is epoch seconds or the digits of a date.
_FIRST_NUMBER = int(datetime(2009, 1, 1, tzinfo=UTC).timestamp() * 1000)


def parse_when(value: Moment, *, now: int) -> int:
    """The moment in epoch milliseconds; ages count back from `now` (the exchange's). Naive times are UTC.

    Accepts text, int or float epoch milliseconds (0, or 2009 and later: anything between is a slip), date and datetime.
    Raises UsageError; `listing` must be resolved by the caller, who knows the series.
    """
    moment = _read(value, now)
    if not _EARLIEST <= moment < _LATEST:
        raise UsageError(
            f"not a time between 1970 and 2200: {value!r}",
            hint="epoch times are in milliseconds, not seconds or microseconds",
        )
    return moment


def _read(value: Moment, now: int) -> int:
    if isinstance(value, bool):
        raise UsageError(f"not a time: {value!r}", hint=HINT)
    if isinstance(value, int | float):
        if isinstance(value, float) and not value.is_integer():
            raise UsageError(f"not a whole number of milliseconds: {value!r}", hint=HINT)
        return _number(int(value))
    if isinstance(value, datetime):
        return _epoch(value)
    if isinstance(value, date):
        return _epoch(datetime(value.year, value.month, value.day, tzinfo=UTC))
    if not isinstance(value, str):
        raise UsageError(f"not a time: {value!r}", hint=HINT)
    text = value.strip()
    if text == "now":
        return now
    if text == LISTING:
        raise UsageError(
            "'listing' is a beginning, not an end", hint="only --since (start_date) takes listing"
        )
    if _EPOCH.fullmatch(text):
        return _number(int(text))
    if _AGE.fullmatch(text):
        age = parse_timeframe(text)
        if age.fixed_ms is not None:
            return now - age.fixed_ms
        into = now - age.floor(now)
        return age.add(age.floor(now), -1) + into
    try:
        return _epoch(datetime.fromisoformat(text))
    except ValueError:
        raise UsageError(f"not a time: {value!r}", hint=HINT) from None


def _number(number: int) -> int:
    """A bare number as epoch milliseconds; raises UsageError where it would silently mean a moment long ago."""
    if number == 0 or not _EARLIEST <= number < _FIRST_NUMBER:
        return number
    hint = "epoch times are in milliseconds; write an earlier moment as a date"
    if _FIRST_NUMBER <= number * 1000 < _LATEST:
        hint = f"did you mean seconds ({iso(number * 1000)})? epoch times are in milliseconds"
    if len(str(number)) == 8:
        with contextlib.suppress(ValueError):
            hint = f"did you mean {datetime.strptime(str(number), '%Y%m%d').date()}?"  # noqa: DTZ007
    raise UsageError(f"{number} as epoch milliseconds is {iso(number)}", hint=hint)


def _epoch(moment: datetime) -> int:
    aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    return round(aware.timestamp() * 1000)


def iso(moment: int) -> str:
    """Epoch milliseconds as ISO 8601 UTC with Z, with milliseconds only where there are any."""
    seconds, ms = divmod(moment, 1000)
    text = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{text}.{ms:03d}Z" if ms else f"{text}Z"
