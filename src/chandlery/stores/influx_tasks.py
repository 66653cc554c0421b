"""The Flux that makes long candles of the 1m ones in a bucket, and the tasks that run it. Pure.

A long candle is first open, highest high, lowest low, last close and the sum of volumes of its minutes, stamped with its
own open time, in a bucket of its own and in the same schema. It is written only if it is complete: all of its minutes
are there. Where an exchange leaves quiet minutes out, a task cannot know that they are not just late; the ledger does,
so what a task leaves out is written by `chandlery influx downsample`, for the ranges that the ledger calls answered.

Each part is a query of its own, `range |> filter |> aggregateWindow`, which the server answers inside its storage: the
same with one shared query took 20 times as long (2.9.1, a month of 4 series: 0.3 s and 9 s).
"""

from __future__ import annotations

from dataclasses import dataclass

from chandlery.candle import VALUES
from chandlery.errors import UsageError
from chandlery.stores.influx_lines import MEASUREMENTS, SeriesTags
from chandlery.stores.influx_query import flux_string
from chandlery.timeframe import DAY, HOUR, MINUTE, Timeframe, parse_timeframe
from chandlery.timerange import RangeSet, TimeRange
from chandlery.when import iso

#: The candles that long ones are made of.
SOURCE = "1m"
_DIVISORS = [minutes for minutes in range(2, 1441) if 1440 % minutes == 0]
#: Every timeframe that 1m candles can be downsampled to, however it is written.
LONG = (
    *(f"{minutes}m" for minutes in _DIVISORS),
    *(f"{minutes // 60}h" for minutes in _DIVISORS if minutes % 60 == 0),
    "1d",
)
#: Days that each run of a task makes anew: minutes that arrive or change later than that are for `downsample`.
LOOK_BACK = 7
#: Minutes after the hour at which tasks run: the last minute is settled and written by then.
_OFFSET = 5
_PARTS = {"open": "first", "high": "max", "low": "min", "close": "last", "volume": "sum"}


@dataclass(frozen=True, slots=True)
class Downsampling:
    """Candles of `timeframe`, made of the 1m candles in the bucket `source`, kept in the bucket `target`."""

    source: str
    target: str
    timeframe: str

    @property
    def name(self) -> str:
        """What its task is called; its bucket says the same of itself."""
        return f"chandlery: {self.timeframe} candles of {self.source}, in {self.target}"

    @property
    def frame(self) -> Timeframe:
        """The long candles' timeframe."""
        return parse_timeframe(self.timeframe)

    @property
    def minutes(self) -> int:
        """How many minutes a complete candle has."""
        return self.frame.nominal_ms // MINUTE


def downsampling(source: str, timeframe: str) -> Downsampling:
    """The one that is usual for a source: 1h of `trading` is kept in `trading_1h`.

    Raises UsageError for a timeframe whose candles are not the same on every day, in UTC, whatever the exchange.
    """
    frame = parse_timeframe(timeframe)
    length = frame.fixed_ms
    if length is None or length <= MINUTE or DAY % length:
        raise UsageError(
            f"1m candles cannot be downsampled to {timeframe}",
            hint="a day must be a whole number of them, as of 5m, 15m, 1h, 4h, 1d; fetch longer ones from the exchange",
        )
    return Downsampling(source, f"{source}_{timeframe}", timeframe)


def task_flux(made: Downsampling) -> str:
    """The whole script of a task: every hour it makes the candles of the last days anew, as far as they are complete."""
    every = min(made.frame.nominal_ms, HOUR) // MINUTE
    offset = min(_OFFSET, every // 2)
    head = f"option task = {{name: {flux_string(made.name)}, every: {every}m, offset: {offset}m}}"
    start = f"date.sub(d: {LOOK_BACK}d, from: date.truncate(t: now(), unit: 1d))"
    stop = f"date.truncate(t: now(), unit: {made.timeframe})"
    script = _script(made, start, stop, _all_series(), made.minutes)
    return f'import "date"\n\n{head}\n\n{script}'


def range_flux(
    made: Downsampling, span: TimeRange, *, tags: SeriesTags | None = None, least: int | None = None
) -> str:
    """A query that makes the candles that open in `span`, which begins and ends with one; answers how many as `_value`.

    `tags` names the one 1m series to take. `least` is the number of minutes that are enough, all of them if None.
    """
    chosen = _all_series() if tags is None else _one_series(tags)
    start, stop = iso(span.since), iso(span.until)
    counted = '    |> group()\n    |> count(column: "close")\n    |> rename(columns: {close: "_value"})\n'
    return _script(made, start, stop, chosen, made.minutes if least is None else least) + counted


def first_flux(source: str, tags: SeriesTags | None = None) -> str:
    """A query for the first minute of each 1m series."""
    chosen = _all_series() if tags is None else _one_series(tags)
    return (
        f"from(bucket: {flux_string(source)})\n"
        f"    |> range(start: 1970-01-01T00:00:00Z, stop: 2200-01-01T00:00:00Z)\n"
        f'    |> filter(fn: (r) => {chosen} and r._field == "close")\n'
        f"    |> first()\n"
        f'    |> keep(columns: ["_time", "exchange", "symbol"])\n'
    )


def whole(made: Downsampling, ranges: RangeSet) -> RangeSet:
    """What of these ranges is whole long candles."""
    frame = made.frame
    cut = ((frame.ceil(part.since), frame.floor(part.until)) for part in ranges)
    return RangeSet(TimeRange(since, until) for since, until in cut if since < until)


def touched(made: Downsampling, ranges: RangeSet) -> RangeSet:
    """The long candles that these ranges have a part of."""
    frame = made.frame
    return RangeSet(TimeRange(frame.floor(part.since), frame.ceil(part.until)) for part in ranges)


def pieces(made: Downsampling, ranges: RangeSet, candles: int) -> list[TimeRange]:
    """The ranges, which are whole long candles, cut so that none has more than that many."""
    length = made.frame.nominal_ms
    step = max(candles, 1) * length
    return [
        TimeRange(since, min(since + step, part.until))
        for part in ranges
        for since in range(part.since, part.until, step)
    ]


def _all_series() -> str:
    kinds = " or ".join(f"r._measurement == {flux_string(name)}" for name in MEASUREMENTS.values())
    return f'({kinds}) and r.timeframe == "{SOURCE}"'


def _one_series(tags: SeriesTags) -> str:
    named = {"_measurement": tags.measurement, "exchange": tags.exchange, "symbol": tags.symbol}
    return " and ".join(
        f"r.{name} == {flux_string(value)}" for name, value in (*named.items(), ("timeframe", SOURCE))
    )


def _script(made: Downsampling, start: str, stop: str, chosen: str, least: int) -> str:
    fields = " or ".join(f'r._field == "{name}"' for name in VALUES)
    parts = ", ".join(f'part(field: "{name}", fn: {fn})' for name, fn in _PARTS.items())
    complete = " and ".join(f"r.n_{name} >= {least}.0" for name in VALUES)
    kept = ", ".join(f'"{name}": r.{name}' for name in VALUES)
    return f"""\
minutes = () => from(bucket: {flux_string(made.source)})
    |> range(start: {start}, stop: {stop})
    |> filter(fn: (r) => {chosen})

part = (field, fn) => minutes()
    |> filter(fn: (r) => r._field == field)
    |> aggregateWindow(every: {made.timeframe}, fn: fn, createEmpty: false, timeSrc: "_start")

number = minutes()
    |> filter(fn: (r) => {fields})
    |> aggregateWindow(every: {made.timeframe}, fn: count, createEmpty: false, timeSrc: "_start")
    |> toFloat()
    |> map(fn: (r) => ({{r with _field: "n_" + r._field}}))

union(tables: [{parts}, number])
    |> drop(columns: ["_start", "_stop"])
    |> pivot(rowKey: ["_time"], columnKey: ["_field"], valueColumn: "_value")
    |> filter(fn: (r) => {complete})
    |> set(key: "timeframe", value: "{made.timeframe}")
    |> to(bucket: {flux_string(made.target)}, fieldFn: (r) => ({{{kept}}}))
"""
