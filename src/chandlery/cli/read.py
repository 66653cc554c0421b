"""The commands that read: show, latest, export, chart. None of them writes to the store or needs the exchange."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from chandlery.cli.notthere import say_not_there
from chandlery.cli.options import (
    DEFAULT_TIMEFRAME,
    ExchangeId,
    Json,
    OneSymbol,
    OneTimeframe,
    Quiet,
    Since,
    SomeSymbols,
    StoreUrl,
    Timeframes,
    Until,
    Verbose,
    example,
    open_kept,
    settle,
)
from chandlery.cli.output import Output
from chandlery.errors import UnknownTimeframe, UsageError
from chandlery.timeframe import parse_timeframe

if TYPE_CHECKING:
    import polars as pl

    from chandlery.stores.base import SeriesSummary, Store

Last = Annotated[
    str | None,
    typer.Option(
        "--last",
        metavar="AGE",
        help="The newest part: 30d, 12h (up to the latest fetch).",
        show_default=False,
    ),
]
Count = Annotated[
    int | None,
    typer.Option("-n", "--count", metavar="N", min=1, help="The newest N candles.", show_default=False),
]
FillHoles = Annotated[
    str | None,
    typer.Option(
        "--fill",
        metavar="HOW",
        help="Give holes a row, marked as filled: flat (the last close, volume 0) or null.",
        show_default=False,
    ),
]

#: What show shows where nothing says how much.
SHOWN = 20
_TEXT_WIDTH, _TEXT_HEIGHT = 80, 24


def register(app: typer.Typer) -> None:
    """Add show, latest, export and chart to the app."""
    app.command(
        epilog=example("chandlery show BTC/USDT -n 5", "chandlery show BTC/USDT -t 1d --last 30d --json")
    )(show)
    app.command(epilog=example("chandlery latest BTC/USDT"))(latest)
    app.command(
        epilog=example(
            "chandlery export BTC/USDT -o btc.csv",
            "chandlery export '*/USDT' -t 1h -t 1d --format parquet -o all.parquet",
        )
    )(export)
    app.command(
        epilog=example("chandlery chart BTC/USDT", "chandlery chart BTC/USDT -t 1d --last 1y -o btc.png")
    )(chart)


def show(
    symbol: OneSymbol,
    timeframe: OneTimeframe = None,
    last: Last = None,
    count: Count = None,
    since: Since = None,
    until: Until = None,
    fill: FillHoles = None,
    exchange: ExchangeId = None,
    store: StoreUrl = None,
    as_json: Json = False,
    verbose: Verbose = 0,
    quiet: Quiet = False,
) -> None:
    """Candles as a table: the newest 20 unless told otherwise.

    Times are in UTC.
    """
    out = Output(quiet=quiet, verbose=verbose)
    settings = settle(out, reads_only=True, exchange=exchange, store=store)
    with open_kept(settings, out) as kept:
        found = _only(kept, symbol, settings.exchange, timeframe)
        begin = _begin(since, last)
        everything = begin is None and until is None and count is None
        candles = _read(kept, found, begin, until, count=SHOWN if everything else count, fill=fill)
        bounded = begin is not None or until is not None
        told = bounded and count is None and say_not_there(out, kept, [found], begin, until)
    if told:
        pass
    elif candles.is_empty():
        out.note(f"{found.series} has no candle there; chandlery list shows what is kept")
    elif everything and found.candles > SHOWN:
        out.note(f"the newest {SHOWN} of {found.candles:,} candles; -n, --last and --since choose others")
    _print_candles(out, candles, as_json=as_json)


def latest(
    symbol: OneSymbol,
    timeframe: OneTimeframe = None,
    exchange: ExchangeId = None,
    store: StoreUrl = None,
    as_json: Json = False,
    verbose: Verbose = 0,
    quiet: Quiet = False,
) -> None:
    """The newest candle kept, and how old it was at the latest fetch."""
    out = Output(quiet=quiet, verbose=verbose)
    settings = settle(out, reads_only=True, exchange=exchange, store=store)
    with open_kept(settings, out) as kept:
        found = _only(kept, symbol, settings.exchange, timeframe)
        candles = _read(kept, found, None, None, count=1)
    _print_candles(out, candles, as_json=as_json)
    out.say(_freshness(found))


def export(
    symbols: SomeSymbols,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="PATH",
            help="The file to write (stdout without it).",
            show_default=False,
        ),
    ] = None,
    file_format: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="FORMAT",
            help="csv, parquet or jsonl (default: what the file's ending says, else csv).",
            show_default=False,
        ),
    ] = None,
    timeframe: Timeframes = None,
    last: Last = None,
    since: Since = None,
    until: Until = None,
    exchange: ExchangeId = None,
    store: StoreUrl = None,
    verbose: Verbose = 0,
    quiet: Quiet = False,
) -> None:
    """Candles as CSV, Parquet or JSON lines.

    A file is there whole or not at all.
    """
    from chandlery.export import export_file, export_series, format_of
    from chandlery.query import matching

    out = Output(quiet=quiet, verbose=verbose)
    settings = settle(out, reads_only=True, exchange=exchange, store=store)
    path = None if output is None or str(output) == "-" else output
    chosen = format_of(path, file_format)
    if chosen == "parquet" and path is None and out.stdout_is_terminal:
        raise UsageError("Parquet is not for a terminal", hint="-o candles.parquet writes it into a file")
    with open_kept(settings, out) as kept:
        found = matching(
            kept, symbols, exchange=settings.exchange, timeframes=timeframe or [DEFAULT_TIMEFRAME]
        )
        series = [s.series for s in found]
        begin = _begin(since, last)
        if path is None:
            with out.binary() as stream:
                rows = export_series(kept, series, stream, chosen, since=begin, until=until)
        else:
            rows = export_file(kept, series, path, chosen, since=begin, until=until)
        told = say_not_there(out, kept, found, begin, until)
    if not rows and not told:
        out.note("there is no candle in this range; chandlery list shows what is kept")
    if path is None:
        return
    out.say(f"wrote {_counted(rows, 'candle')} of {_counted(len(series), 'series', 'series')} to {path}")


def chart(
    symbol: OneSymbol,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="PATH",
            help="A .png file (the terminal without it).",
            show_default=False,
        ),
    ] = None,
    timeframe: OneTimeframe = None,
    last: Last = None,
    count: Count = None,
    since: Since = None,
    until: Until = None,
    exchange: ExchangeId = None,
    store: StoreUrl = None,
    verbose: Verbose = 0,
    quiet: Quiet = False,
) -> None:
    """Candlesticks in the terminal or as a picture.

    The newest that fit unless told otherwise. More candles than there is room for are drawn as longer ones, which the title says.
    """
    from chandlery import chart as charts
    from chandlery.export import whole_file

    out = Output(quiet=quiet, verbose=verbose)
    settings = settle(out, reads_only=True, exchange=exchange, store=store)
    width, height = _text_size(out)
    if output is not None:
        charts.chart_suffix(output)
    most = charts.text_bars(width) if output is None else charts.PICTURE_BARS
    with open_kept(settings, out) as kept:
        found = _only(kept, symbol, settings.exchange, timeframe)
        begin = _begin(since, last)
        everything = begin is None and until is None and count is None
        candles = _read(kept, found, begin, until, count=most if everything else count)
    bars = charts.bars_of(candles, found.series, most=most)
    if output is None:
        colour = out.stdout_is_terminal and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
        out.text(charts.draw_text(bars, width=width, height=height, colour=colour))
        return
    picture = charts.draw_png(bars)
    with whole_file(output) as stream:
        stream.write(picture)
    out.say(f"drew {_counted(bars.candles, 'candle')} into {output}")


def _only(store: Store, symbol: str, exchange: str, timeframes: Sequence[str] | None) -> SeriesSummary:
    """The one series that is meant; raises NoSuchSeries, and UsageError where several fit."""
    from chandlery.query import matching

    found = matching(store, [symbol], exchange=exchange, timeframes=timeframes or [DEFAULT_TIMEFRAME])
    # Marks and indexes have to be asked for; trades are what a symbol alone stands for.
    chosen = [s for s in found if s.series.kind == "trade"] or found
    if len(chosen) > 1:
        names = ", ".join(str(s.series) for s in chosen[:5]) + (" ..." if len(chosen) > 5 else "")
        raise UsageError(
            f"{symbol} stands for {len(chosen)} series: {names}", hint="name one symbol and one timeframe"
        )
    return chosen[0]


def _begin(since: str | None, last: str | None) -> str | None:
    """--since or --last, which mean the same said in two ways."""
    if last is None:
        return since
    if since is not None:
        raise UsageError("--since and --last both say where to begin", hint="give one of them")
    try:
        parse_timeframe(last)
    except UnknownTimeframe as error:
        raise UsageError(f"not an age: --last {last}", hint="write 12h, 30d, 4w, 6M or 1y") from error
    return last


def _read(
    store: Store,
    found: SeriesSummary,
    since: str | None,
    until: str | None,
    *,
    count: int | None = None,
    fill: str | None = None,
) -> pl.DataFrame:
    from chandlery.fill import checked_fill
    from chandlery.query import read_candles

    return read_candles(store, found.series, since, until, last=count, fill=checked_fill(fill))


def _print_candles(out: Output, candles: pl.DataFrame, *, as_json: bool) -> None:
    import polars as pl

    names = candles.columns
    if as_json:
        form = "%Y-%m-%dT%H:%M:%SZ"
        rows = candles.with_columns(pl.col("time").dt.strftime(form)).rows()
        out.json([dict(zip(names, row, strict=True)) for row in rows])
        return
    seconds = bool((candles["time"].dt.second() != 0).any())
    times = candles["time"].dt.strftime("%Y-%m-%d %H:%M:%S" if seconds else "%Y-%m-%d %H:%M").to_list()
    columns: list[list[str]] = [["time (UTC)", *times]]
    columns += [aligned_numbers(name, candles[name].to_list()) for name in names[1:] if name != "filled"]
    if "filled" in names:
        columns.append(["filled", *("filled" if f else "" for f in candles["filled"])])
    head, *body = [list(row) for row in zip(*columns, strict=True)]
    out.table(head, body)


def aligned_numbers(name: str, values: Sequence[float | None]) -> list[str]:
    """A column of a table: its name, then the numbers with their decimal points under each other, None as a dash.

    Each number has the digits it takes, up to 15; what only binary rounding has added is left out.
    """
    texts = ["-" if v is None else _number(v) for v in values]
    plain = [text[-1].isdigit() and "e" not in text for text in texts]
    decimals = max((len(t.partition(".")[2]) for t, p in zip(texts, plain, strict=True) if p), default=0)
    shown = [f"{Decimal(t):.{decimals}f}" if p else t for t, p in zip(texts, plain, strict=True)]
    width = max(map(len, [name, *shown]))
    return [text.rjust(width) for text in (name, *shown)]


def _number(value: float) -> str:
    if value != 0 and not 1e-12 <= abs(value) < 1e16:
        return repr(value)
    exact = Decimal(repr(value + 0.0))
    if len(exact.as_tuple().digits) > 15:
        exact = Decimal(f"{value:.12g}")
    text = f"{exact:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _freshness(found: SeriesSummary) -> str:
    """How far the newest candle is behind the exchange's clock at the latest fetch."""
    from chandlery.when import iso

    series = found.series
    if found.last is None:
        return f"{series}: no candle yet; asked last at {iso(found.clock)} by the exchange's clock"
    frame = series.frame
    closed = frame.next(frame.floor(found.last))
    behind = frame.count(closed, frame.floor(found.clock))
    age = "up to date" if behind <= 0 else f"{_counted(behind, 'candle')} behind"
    return f"{series}: closed {iso(closed)}, {age} at the latest fetch ({iso(found.clock)} by the exchange's clock)"


def _counted(number: int, one: str, many: str = "") -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def _text_size(out: Output) -> tuple[int, int]:
    size: Any = shutil.get_terminal_size((_TEXT_WIDTH, _TEXT_HEIGHT))
    # One line stays for the prompt; into a file the height is always the same.
    return size.columns, min(size.lines - 1, 32) if out.stdout_is_terminal else _TEXT_HEIGHT
