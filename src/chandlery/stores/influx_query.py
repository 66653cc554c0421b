"""InfluxQL, Flux and delete predicates from parts that cannot break out of their place. Pure.

Every text from outside goes through one of the quoters; times are integers. A text that a query cannot hold is refused
by name, never changed: a predicate that means more than it says deletes what it should not.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from chandlery.candle import VALUES
from chandlery.errors import UsageError
from chandlery.timerange import TimeRange

#: The open times that InfluxDB's 64-bit nanoseconds hold, in epoch ms.
EARLIEST, LATEST = -9_223_372_036_854, 9_223_372_036_854
#: The five fields as floats; where one is a text, which can be in a shard of its own, it is not there.
FIELDS = ", ".join(f'"{name}"::float' for name in VALUES)
#: One number that is there exactly where all five fields are: the sum of a whole candle.
WHOLE = "+".join(f'"{name}"::float' for name in VALUES)
#: What means something in a string of Flux: quotes, escapes, expressions, and what does not print.
_FLUX = frozenset('"\\${}\x7f' + "".join(map(chr, range(32))))
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def influxql_string(text: str) -> str:
    """A string of InfluxQL, in single quotes."""
    return f"'{_escaped(text, quote=chr(39))}'"


def influxql_name(text: str) -> str:
    """The name of a measurement, tag or field in InfluxQL, in double quotes."""
    return f'"{_escaped(text, quote=chr(34))}"'


def flux_string(text: str) -> str:
    """A string of Flux, in double quotes; `${` in it is text, not an expression.

    What means something there is written as the number of its byte: next to a plain `$`, the server's reader takes an
    escaped one for the end of the string.
    """
    _check(text)
    return '"' + "".join(f"\\x{ord(letter):02x}" if letter in _FLUX else letter for letter in text) + '"'


def where(tags: Mapping[str, str], span: TimeRange | None = None) -> str:
    """The WHERE clause for tags that equal, and times in a range; empty if nothing is asked."""
    parts = [f"{influxql_name(name)} = {influxql_string(value)}" for name, value in tags.items()]
    if span is not None:
        kept = clamped(span)
        parts += [f"time >= {kept.since}ms", f"time < {kept.until}ms"]
    return " WHERE " + " AND ".join(parts) if parts else ""


def select(
    what: str, measurement: str, tags: Mapping[str, str] | None = None, span: TimeRange | None = None
) -> str:
    """SELECT of `what`, which is InfluxQL already, one series by one: points with other tags beside stay apart."""
    return f"{select_mixed(what, measurement, tags, span)} GROUP BY *"


def select_mixed(
    what: str, measurement: str, tags: Mapping[str, str] | None = None, span: TimeRange | None = None
) -> str:
    """As `select`, a quarter faster, with the points of all such series in one."""
    return f"SELECT {what} FROM {influxql_name(measurement)}{where(tags or {}, span)}"  # noqa: S608 - of quoted parts only


def select_above(
    what: str,
    measurement: str,
    tags: Mapping[str, str],
    field: str,
    value: int,
    span: TimeRange | None = None,
) -> str:
    """As `select`, of points whose whole number `field` is above `value`."""
    kept = where(tags, span)
    kept += f"{' AND' if kept else ' WHERE'} {influxql_name(field)} > {int(value)}"
    return f"SELECT {what} FROM {influxql_name(measurement)}{kept} GROUP BY *"  # noqa: S608 - as above


def select_of_whole(
    what: str, measurement: str, tags: Mapping[str, str] | None = None, span: TimeRange | None = None
) -> str:
    """SELECT of a function over `x`, which is there for each whole candle."""
    return f"SELECT {what} FROM ({select(f'{WHOLE} AS x', measurement, tags, span)}) GROUP BY *"  # noqa: S608 - as above


def delete_predicate(measurement: str, tags: Mapping[str, str]) -> str:
    """The predicate that names one measurement and tags that equal; raises UsageError rather than name more.

    Source: the server's predicate parser, which knows `=` and AND, and takes a string in double quotes.
    """
    if not measurement or not tags or not all(name and value for name, value in tags.items()):
        raise UsageError(
            f"a delete must name a measurement and tags, not {measurement!r} and {dict(tags)!r}",
            hint="an empty part would delete more than was meant",
        )
    named = {"_measurement": measurement, **tags}
    return " AND ".join(f"{influxql_name(name)}={influxql_name(value)}" for name, value in named.items())


def clamped(span: TimeRange) -> TimeRange:
    """The part of a range that InfluxDB has times for."""
    since = min(max(span.since, EARLIEST), LATEST)
    return TimeRange(since, min(max(span.until, since), LATEST))


def rfc3339(moment: int) -> str:
    """Epoch ns as the API takes it, to the nanosecond."""
    second, rest = divmod(moment, 1_000_000_000)
    return f"{_EPOCH + timedelta(seconds=second):%Y-%m-%dT%H:%M:%S}.{rest:09}Z"


def _escaped(text: str, quote: str) -> str:
    _check(text)
    return text.replace("\\", "\\\\").replace(quote, "\\" + quote).replace("\n", "\\n")


def _check(text: str) -> None:
    # The server ends its reading at NUL, takes a return for a newline, and cannot be sent half a surrogate pair.
    if any(letter in "\0\r" or "\ud800" <= letter <= "\udfff" for letter in text):
        raise UsageError(f"a query cannot hold the text {text!r}", hint="remove its control characters")
