"""demo: the main job in a minute, on a local exchange, without a network."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from chandlery.cli import options as opt
from chandlery.cli.check import stored_of
from chandlery.cli.fetch import backfill, say_store, source_of
from chandlery.cli.interrupt import run_until_interrupted
from chandlery.cli.output import Exit, Output
from chandlery.cli.progress import RunProgress
from chandlery.cli.runreport import exit_code, minute, tell_run
from chandlery.errors import UsageError

if TYPE_CHECKING:
    from chandlery.config import Settings
    from chandlery.report import RunReport
    from chandlery.stores.base import Store

#: The exchange's clock stands still a minute after midnight, so that everything before it is settled.
CLOCK = "2024-06-01T00:01Z"
SINCE, UNTIL = "2024-05-25", "2024-06-01"
SYMBOLS = ("BTC/USDT", "ETH/USDT")
TIMEFRAMES = ("1h", "4h", "1d")
FOLDER = "./chandlery-demo"


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command(epilog=opt.example("chandlery demo"))(demo)


def demo(
    *,
    store: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help=f"Folder of the store (default {FOLDER}/candles).", show_default=False
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="PATH",
            help=f"The picture (default {FOLDER}/BTC_USDT_1h.png).",
            show_default=False,
        ),
    ] = None,
    verbose: opt.Verbose = 0,
    quiet: opt.Quiet = False,
) -> None:
    """Fetch, verify, show and draw a week of candles, offline.

    BTC/USDT and ETH/USDT at 1h, 4h and 1d come over HTTP through the real ccxt from an exchange in this process, into a
    store of its own, so that invented candles never mix with real ones.
    """
    from chandlery.chart import chart_suffix
    from chandlery.config import Settings
    from chandlery.exchange import ExchangeSettings, LocalExchange
    from chandlery.stores import open_store

    out = Output(quiet=quiet, verbose=verbose)
    picture = output or Path(FOLDER, "BTC_USDT_1h.png")
    chart_suffix(picture)
    with (
        LocalExchange(ExchangeSettings(clock=f"{CLOCK},0")) as exchange,
        tempfile.TemporaryDirectory(prefix="chandlery-demo-") as state,
    ):
        out.say(f"A local exchange is listening on {exchange.url}; its clock stands at {CLOCK}.")
        # Settings of this computer stay out: no other exchange, no key, no other store.
        settings = Settings(exchange="binance", exchange_url=exchange.url, state=Path(state))
        with open_store(store or f"{FOLDER}/candles", create=True) as kept:
            _refuse_real_candles(kept, exchange.now_ms())
            out.say(f"\nFetching {', '.join(SYMBOLS)} at {', '.join(TIMEFRAMES)}, {SINCE} to {UNTIL}:")
            say_store(out, kept)
            report = _fetch(out, settings, kept)
            tell_run(out, report, as_json=False)
            if not all(kept.knows(s.series) for s in report.series):
                out.exit(exit_code(report))
            out.say("\nVerifying every slot:")
            verified = _verify(out, kept)
            out.say("\nThe last candles of BTC/USDT 1h:")
            _show(out, kept)
            out.say("")
            _draw(out, kept, picture)
    if not verified:
        out.exit(Exit.INCOMPLETE)
    out.say(
        "\nAll there. The same with real candles:\n"
        f"  {_program()} fetch BTC/USDT ETH/USDT -t 1h --since 7d\n"
        f"  {_program()} verify"
    )


def _program() -> str:
    """What to type for this program: its path where its name alone would find nothing, or another one."""
    called = Path(sys.argv[0])
    if called.name != "chandlery" or not called.is_file():
        return "chandlery"
    found = shutil.which("chandlery")
    return "chandlery" if found and Path(found).samefile(called) else str(called)


def _refuse_real_candles(store: Store, now: int) -> None:
    """The demo writes invented candles: only into a store that holds none but its own."""
    if any(kept.clock != now for kept in store.series()):
        raise UsageError(
            f"{store.url} holds other candles than the demo's, which are invented",
            hint="give --store another folder",
        )


def _fetch(out: Output, settings: Settings, store: Store) -> RunReport:
    from chandlery.backfill import Want
    from chandlery.candle import SeriesId
    from chandlery.when import parse_when

    async def run() -> RunReport:
        async with source_of(settings) as source:
            now = await source.now()
            since, until = parse_when(SINCE, now=now), parse_when(UNTIL, now=now)
            wants = [
                Want(SeriesId("binance", symbol, timeframe), since, until)
                for symbol in SYMBOLS
                for timeframe in TIMEFRAMES
            ]
            return await backfill(settings, source, store, progress).run(wants, now=now)

    with RunProgress(out) as progress:
        return run_until_interrupted(out, run)


def _verify(out: Output, store: Store) -> bool:
    from chandlery.verify import verify_series

    verdicts = [verify_series(store, kept.series) for kept in store.series()]
    for verdict in verdicts:
        series = verdict.series
        stored, expected = stored_of(verdict), verdict.account.expected
        sign = "✅" if verdict.ok and stored else "❌"
        out.text(
            f"{sign} {series.symbol}  {series.timeframe:>3}  {stored:>4,} of {expected:>4,} candles"
            f"   {minute(verdict.first)} to {minute(verdict.last)}"
        )
    return all(verdict.ok and stored_of(verdict) for verdict in verdicts)


def _show(out: Output, store: Store) -> None:
    from chandlery.candle import VALUES, SeriesId
    from chandlery.cli.read import aligned_numbers
    from chandlery.query import read_candles

    candles = read_candles(store, SeriesId("binance", SYMBOLS[0], TIMEFRAMES[0]), last=5)
    columns: list[Sequence[str]] = [["time (UTC)", *candles["time"].dt.strftime("%Y-%m-%d %H:%M").to_list()]]
    columns += [aligned_numbers(name, candles[name].to_list()) for name in VALUES]
    head, *rows = zip(*columns, strict=True)
    out.table(head, rows)


def _draw(out: Output, store: Store, picture: Path) -> None:
    from chandlery import chart
    from chandlery.candle import SeriesId
    from chandlery.export import whole_file
    from chandlery.query import read_candles

    series = SeriesId("binance", SYMBOLS[0], TIMEFRAMES[0])
    candles = read_candles(store, series)
    longer = SeriesId("binance", SYMBOLS[0], TIMEFRAMES[1])  # one column for each candle of the week
    width = min(shutil.get_terminal_size((80, 24)).columns, 100)
    bars = chart.bars_of(read_candles(store, longer), longer, most=chart.text_bars(width))
    colour = out.stdout_is_terminal and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
    out.text(chart.draw_text(bars, width=width, height=20, colour=colour))
    picture.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(picture) as stream:
        stream.write(chart.draw_png(chart.bars_of(candles, series, most=chart.PICTURE_BARS)))
    out.say("")
    out.text(f"chart: {picture.absolute()}")
