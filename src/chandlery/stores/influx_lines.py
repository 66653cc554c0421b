"""Candles as lines of InfluxDB's line protocol. Pure: what a line cannot hold is refused here, by name.

A line of candles is `ohlcv,exchange=binance,symbol=BTC_USDT,timeframe=1m open=1.0,…,volume=5.0 1704067200000`: the tags
sorted, all five fields always and always floats, in the shortest digits that read back to the same double.

Source of the rules: InfluxDB's own parser (`models/points.go`), and what a 2.9.1 server gives back.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from chandlery.candle import COLUMNS, SCHEMA, VALUES, SeriesId
from chandlery.errors import UsageError

if TYPE_CHECKING:
    import polars as pl

#: The measurement of each kind of candles.
MEASUREMENTS = {"trade": "ohlcv", "mark": "ohlcv_mark", "index": "ohlcv_index"}
#: Bytes of a series key (measurement and tags, escaped) that leave room for the field's name in the server's 65,535.
LONGEST_KEY = 65_000
#: Bytes of a text, escaped, with which a line stays below the MiB that the server takes for one value.
LONGEST_TEXT = 900_000
#: Open times in epoch ms that fit the server's 64-bit nanoseconds.
LAST_MS = 9_223_372_036_854
#: Rows that become text in one go: more are slower, and take more memory.
_SLICE = 10_000
_LAST_NS = 9_223_372_036_854_775_806
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_MEANINGFUL = re.compile(r"[,= ]")
# The server reads such a tag right, but takes the backslash for an escaped one when it looks for the end of the line: with
# a quote in a later tag it joins this line and the next, and refuses both.
_AMBIGUOUS = re.compile(r"\\[,= ]")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_RESERVED = frozenset({"time"})


@dataclass(frozen=True, slots=True, order=True)
class SeriesTags:
    """What a series is called in InfluxDB. `symbol` is the tag: `BTC_USDT`, `BTC_USDT:USDT`."""

    measurement: str
    exchange: str
    symbol: str
    timeframe: str


@dataclass(frozen=True, slots=True)
class Lines:
    """Lines of line protocol, each with a newline at its end, and how many they are."""

    body: bytes
    count: int

    @classmethod
    def of(cls, lines: Iterable[bytes]) -> Lines:
        """Single lines, without newlines, put together."""
        given = list(lines)
        body = b"".join(b"%b\n" % line for line in given)
        return _checked(body, len(given))

    def split(self) -> list[bytes]:
        """Each line by itself, without its newline."""
        return self.body.split(b"\n")[:-1]


def joined(parts: Iterable[Lines]) -> Lines:
    """The lines of all parts, in their order."""
    given = list(parts)
    if len(given) == 1:
        return given[0]
    return Lines(b"".join(part.body for part in given), sum(part.count for part in given))


def tags_of(series: SeriesId) -> SeriesTags:
    """What a series is called in InfluxDB; raises UsageError naming what a tag cannot hold.

    `/` becomes `_`, so that `A_B/C` and `A/B_C` are called the same: whoever stores both must refuse one.
    """
    tags = SeriesTags(
        MEASUREMENTS[series.kind], series.exchange, series.symbol.replace("/", "_"), series.timeframe
    )
    key_of(tags)
    return tags


def named(tags: SeriesTags) -> dict[str, str]:
    """The three tags of a series by their names."""
    return {"exchange": tags.exchange, "symbol": tags.symbol, "timeframe": tags.timeframe}


def key_of(tags: SeriesTags, extra: Mapping[str, str] | None = None) -> str:
    """The key of a series with its tags escaped and sorted: `ohlcv,exchange=…,symbol=…,timeframe=…`.

    Raises UsageError naming the tag whose value would not read back equal, and the name that the server keeps for itself.
    """
    pairs = named(tags)
    for name in extra or {}:
        if name in pairs:
            raise UsageError(f"two tags are named {name}", hint="name the other one differently")
    pairs.update(extra or {})
    return key_of_point(tags.measurement, pairs)


def key_of_point(measurement: str, tags: Mapping[str, str]) -> str:
    """The key of points with any tags, escaped and sorted; raises UsageError as `key_of` does."""
    key = ",".join(
        [_name("measurement", measurement)]
        + [f"{_name('tag', name)}={_escaped(name, tags[name])}" for name in sorted(tags)]
    )
    size = len(key.encode())
    if size > LONGEST_KEY:
        longest = max(tags, key=lambda name: len(tags[name]))
        raise UsageError(
            f"{longest} {_short(tags[longest])} is too long for InfluxDB: the key of its series has {size:,} bytes",
            hint=f"a key has at most {LONGEST_KEY:,} bytes",
        )
    return key


def encode(tags: SeriesTags, frame: pl.DataFrame) -> Lines:
    """One line for each candle of a frame of `candle.SCHEMA`, strictly ascending; precision ms.

    Raises UsageError as `key_of` does, and ValueError naming series and open time for a value that is no finite number,
    and for an open time that is missing, out of order or outside what the server can hold.
    """
    import polars as pl

    key = key_of(tags)
    if frame.height == 0:
        return Lines(b"", 0)
    types = {name: frame.schema.get(name) for name in COLUMNS}
    if types != dict(SCHEMA):
        raise ValueError(f"{_series(tags)}: not a frame of candles: {types}")
    stamp = pl.col("time").to_physical()
    pieces: list[pl.Expr] = []
    before = f"{key} "
    for name in VALUES:
        pieces += [pl.lit(f"{before}{name}="), pl.col(name)]
        before = ","
    text = pl.concat_str([*pieces, pl.lit(" "), stamp]).str.join("\n")
    finite, inside, ascending = _rules()
    bodies = []
    for since in range(0, frame.height, _SLICE):
        part = frame.slice(since, _SLICE)
        found, good = part.select(text.alias("text"), (finite & inside & ascending).all().alias("good")).row(
            0
        )
        if not good or (since and not frame["time"][since - 1] < frame["time"][since]):
            raise ValueError(f"{_series(tags)}: {_fault(frame)}")
        bodies.append(f"{found}\n".encode())
    return _checked(b"".join(bodies) if len(bodies) > 1 else bodies[0], frame.height)


def text_line(key: str, fields: Mapping[str, str | int | float], stamp_ns: int) -> bytes:
    """One line without its newline; precision ns. `key` comes from `key_of`; text is quoted, an int is written as `1i`.

    Raises UsageError for a text that is too long or has a line break or another control character below U+0020 in it
    (write JSON, which escapes them), and ValueError for a number or time that the server cannot hold.
    """
    if "\n" in key or not key:
        raise ValueError(f"not a key: {_short(key)}")
    if not fields:
        raise ValueError(f"{_short(key)}: a line has at least one field")
    if abs(stamp_ns) > _LAST_NS:
        raise ValueError(f"{_short(key)}: {stamp_ns} ns is a time that InfluxDB cannot hold")
    written = ",".join(f"{_name('field', name)}={_value(name, value)}" for name, value in fields.items())
    return f"{key} {written} {stamp_ns}".encode()


# ---- candles -------------------------------------------------------------------------------------------------------


def _rules() -> tuple[pl.Expr, pl.Expr, pl.Expr]:
    """For each candle: five finite numbers, a time that the server can hold, and later than the one before. No nulls."""
    import polars as pl

    stamp = pl.col("time").to_physical()
    return (
        pl.all_horizontal(pl.col(VALUES).is_finite().fill_null(value=False)),
        stamp.is_between(-LAST_MS, LAST_MS).fill_null(value=False),
        (stamp.diff() > 0).fill_null(value=True),
    )


def _fault(frame: pl.DataFrame) -> str:
    """What is wrong with the first candle that breaks a rule."""
    import polars as pl

    finite, inside, ascending = _rules()
    rows = frame.select(
        *VALUES,
        pl.col("time").to_physical().alias("stamp"),
        finite.alias("finite"),
        inside.alias("inside"),
        (finite & inside & ascending).alias("good"),
    )
    first = rows.filter(~pl.col("good")).row(0, named=True)
    when = _shown(first["stamp"])
    if not first["inside"]:
        return f"the open time {when} is none that InfluxDB can hold"
    if not first["finite"]:
        values = ", ".join(f"{name} {first[name]}" for name in VALUES)
        return f"the candle at {when} is not five finite numbers: {values}"
    return f"the candle at {when} does not follow the one before it"


def _series(tags: SeriesTags) -> str:
    return f"{tags.exchange} {tags.symbol} {tags.timeframe}"


def _shown(stamp: int | None) -> str:
    """An open time as text, even one that no calendar has."""
    if stamp is None:
        return "null"
    try:
        return (_EPOCH + timedelta(milliseconds=stamp)).strftime("%Y-%m-%dT%H:%M:%SZ")
    except OverflowError:
        return f"{stamp} ms"


def _checked(body: bytes, rows: int) -> Lines:
    """The lines, certain to be as many as the rows they come from."""
    count = body.count(b"\n")
    if count != rows:
        raise AssertionError(f"{rows} rows became {count} lines")
    return Lines(body, count)


# ---- names and values ------------------------------------------------------------------------------------------------


def _escaped(name: str, value: str) -> str:
    """A tag's value as it stands in a line; raises UsageError if it would not read back equal."""
    if not value:
        raise UsageError(
            f"{name} is empty", hint="InfluxDB has no empty tag; the line would belong to another series"
        )
    what = ""
    if _CONTROL.search(value):
        what = "has a control character in it"
    elif value.endswith("\\"):
        what = "ends with a backslash"
    elif _AMBIGUOUS.search(value):
        what = "has a backslash before a space, comma or equals sign"
    elif not _is_text(value):
        what = "is not Unicode text"
    if what:
        raise UsageError(
            f"{name} {_short(value)} {what}, which InfluxDB cannot hold",
            hint="keep this series in another store, such as a folder",
        )
    return _MEANINGFUL.sub(r"\\\g<0>", value)


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
    return True


def _name(what: str, name: str) -> str:
    """The name of a measurement, tag or field of ours: letters, digits and underscores, none that the server reserves."""
    if not _NAME.fullmatch(name) or (name in _RESERVED and what != "measurement"):
        raise UsageError(
            f"a {what} cannot be named {_short(name)}",
            hint="a name has letters, digits and underscores, begins with a letter, and is not `time`",
        )
    return name


def _value(name: str, value: str | float) -> str:
    if isinstance(value, str):
        if any(character < " " for character in value) or not _is_text(value):
            raise UsageError(
                f"the text of {name} has a control character in it: {_short(value)}", hint="write it as JSON"
            )
        quoted = value.replace("\\", "\\\\").replace('"', '\\"')
        if (size := len(quoted.encode())) > LONGEST_TEXT:
            raise UsageError(
                f"the text of {name} has {size:,} bytes", hint=f"a text has at most {LONGEST_TEXT:,} bytes"
            )
        return f'"{quoted}"'
    if isinstance(value, int):
        if not -(1 << 63) <= value < 1 << 63:
            raise ValueError(f"{name} {value} does not fit 64 bits")
        return f"{int(value)}i"
    if not math.isfinite(value):
        raise ValueError(f"{name} is {value}, which is no number that InfluxDB can hold")
    return repr(float(value))


def _short(text: str) -> str:
    return repr(text) if len(text) <= 80 else f"{text[:60]!r}… ({len(text):,} characters)"
