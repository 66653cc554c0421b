"""list, markets, remove, seal: what is kept, what there is to keep, and housekeeping."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from chandlery.cli import options as opt
from chandlery.cli.fetch import say_store, source_of
from chandlery.cli.interrupt import run_until_interrupted
from chandlery.cli.narrow import Cell, Mark
from chandlery.cli.output import Exit, Output, exit_code_of
from chandlery.cli.runreport import minute, series_names, worse
from chandlery.cli.wishes import is_pattern
from chandlery.errors import DataPipelineError, UnknownSymbol

if TYPE_CHECKING:
    from collections.abc import Callable

    from chandlery.config import Settings
    from chandlery.sources.base import Market
    from chandlery.stores.base import SeriesSummary

Pattern = Annotated[
    str | None, typer.Argument(metavar="[PATTERN]", help="Such as '*/USDT' or BTC/USDT.", show_default=False)
]


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command("list", epilog=opt.example("chandlery list --json"))(list_)
    app.command(epilog=opt.example("chandlery markets 'BTC/*' -e kraken"))(markets)
    app.command(epilog=opt.example("chandlery remove BTC/USDT -t 1m"))(remove)
    app.command(epilog=opt.example("chandlery seal --all"))(seal)


def list_(
    *,
    exchange: opt.KeptExchange = None,
    store: opt.StoreUrl = None,
    as_json: opt.Json = False,
    verbose: opt.Verbose = 0,
    quiet: opt.Quiet = False,
) -> None:
    """List the series kept: first, last, candles, absent, missing."""
    from chandlery.query import matching

    out = Output(quiet=quiet, verbose=verbose)
    settings = opt.settle(out, reads_only=True, exchange=exchange, store=store)
    with opt.open_kept(settings, out) as kept:
        series = matching(kept, (), exchange=exchange)
        url = kept.url
    if as_json:
        out.json({"store": url, "series": [_summary_json(s) for s in series]})
        return
    head, names = series_names([s.series for s in series])
    columns = [head, "first", "last", "candles", "absent", "missing", "as of"]
    out.table(columns, [_summary_row(name, s) for name, s in zip(names, series, strict=True)])


def _summary_json(summary: SeriesSummary) -> dict[str, Any]:
    from chandlery.report import series_json
    from chandlery.when import iso

    return {
        **series_json(summary.series),
        "first": None if summary.first is None else iso(summary.first),
        "last": None if summary.last is None else iso(summary.last),
        "candles": summary.candles,
        "absent": summary.absent,
        "missing": summary.missing,
    }


def _summary_row(name: str, summary: SeriesSummary) -> list[Cell]:
    missing: Cell = Mark(f"{summary.missing:,}", "red") if summary.missing else 0
    counts: list[Cell] = [summary.candles, summary.absent, missing]
    as_of = minute(summary.clock) or ""
    return [name, minute(summary.first), minute(summary.last), *counts, as_of[:10]]


def markets(
    pattern: Pattern = None,
    *,
    exchange: opt.ExchangeId = None,
    exchange_url: opt.ExchangeUrl = None,
    signed: opt.Signed = False,
    as_json: opt.Json = False,
    verbose: opt.Verbose = 0,
    quiet: opt.Quiet = False,
) -> None:
    """List what the exchange offers: symbols and timeframes."""
    out = Output(quiet=quiet, verbose=verbose)
    settings = opt.settle(out, exchange=exchange, exchange_url=exchange_url)
    found, timeframes = run_until_interrupted(out, _markets(settings, pattern, signed=signed))
    if as_json:
        rows = [
            {"symbol": m.symbol, "kind": m.kind, "active": m.active, "base": m.base, "quote": m.quote}
            for m in found
        ]
        out.json({"exchange": settings.exchange, "timeframes": timeframes, "markets": rows})
        return
    offered = " ".join(timeframes)
    out.table(
        ["symbol", "kind", "active", "timeframes"],
        [[m.symbol, m.kind, Mark("yes", "green") if m.active else Mark("no", "red"), offered] for m in found],
    )
    out.say(f"{len(found):,} market{'' if len(found) == 1 else 's'} of {settings.exchange}")


def _markets(settings: Settings, pattern: str | None, *, signed: bool) -> Callable[[], Any]:
    async def ask() -> tuple[list[Market], list[str]]:
        from fnmatch import fnmatchcase

        async with source_of(settings, signed=signed) as source:
            offered = await source.markets()
            timeframes = list(await source.timeframes())
        if pattern is None:
            fitting = list(offered.values())
        else:
            fitting = [m for m in offered.values() if m.symbol == pattern or fnmatchcase(m.symbol, pattern)]
        if not fitting:
            raise UnknownSymbol(
                f"{settings.exchange} lists nothing like {pattern or 'a market'}",
                hint=_near(pattern or "", list(offered)),
            )
        return sorted(fitting, key=lambda m: m.symbol), timeframes

    return ask


def _near(pattern: str, symbols: Sequence[str]) -> str:
    from difflib import get_close_matches

    if any(s.startswith(f"{pattern.upper()}/") for s in symbols):
        return f"did you mean '{pattern.upper()}/*'?"
    folded = {s.upper(): s for s in symbols}
    near = [folded[n] for n in get_close_matches(pattern.upper(), folded, 3, 0.6)]
    if near:
        return f"did you mean {', '.join(near)}?"
    return (
        "chandlery markets lists them all"
        if is_pattern(pattern)
        else f"patterns work: '{pattern}*', '*{pattern}*'"
    )


def remove(
    symbols: opt.SomeSymbols,
    *,
    timeframe: opt.KeptTimeframes = None,
    yes: Annotated[bool, typer.Option("-y", "--yes", help="Do not ask.")] = False,
    exchange: opt.KeptExchange = None,
    store: opt.StoreUrl = None,
    verbose: opt.Verbose = 0,
    quiet: opt.Quiet = False,
) -> None:
    """Take series out of the store. Asks first.

    All that is known of them goes with them.
    """
    from chandlery.query import matching

    out = Output(quiet=quiet, verbose=verbose)
    settings = opt.settle(out, exchange=exchange, store=store)
    with opt.open_kept(settings, out, named=True) as kept:
        series = matching(kept, symbols, exchange=exchange, timeframes=timeframe or ())
        out.say(f"store: {kept.url}")
        if not yes:
            for one in series:
                out.say(f"  {one.series}: {one.candles:,} candles")
            candles = sum(one.candles for one in series)
            noun = "series" if len(series) > 1 else "this series"
            count = f"{len(series):,} " if len(series) > 1 else ""
            try:
                sure = out.confirm(f"Remove {count}{noun} and {candles:,} candles for good?")
            except KeyboardInterrupt:
                out.error("interrupted: nothing removed")
                out.exit(Exit.INTERRUPTED)
            if not sure:
                out.say("nothing was removed")
                out.exit(Exit.INCOMPLETE)
        code = Exit.OK
        for one in series:
            try:
                with kept.lock(one.series):
                    removed = kept.remove(one.series)
                out.say(f"removed {one.series}: {removed:,} candles")
            except DataPipelineError as error:
                out.error(error, about=str(one.series))
                code = worse(code, exit_code_of(error))
    out.exit(code)


def seal(
    *,
    everything: Annotated[
        bool, typer.Option("--all", help="Partitions that are not full yet, too: all staged candles.")
    ] = False,
    store: opt.StoreUrl = None,
    verbose: opt.Verbose = 0,
    quiet: opt.Quiet = False,
) -> None:
    """Write staged candles into their Parquet partitions now.

    Full partitions are sealed by themselves. With --all a glob over the store's Parquet files sees every candle.
    """
    out = Output(quiet=quiet, verbose=verbose)
    settings = opt.settle(out, store=store)
    with opt.open_kept(settings, out, named=True) as kept:
        say_store(out, kept)
        if kept.remote:
            out.say("nothing to seal: an InfluxDB takes candles in as they come")
            out.exit(Exit.OK)
        code = Exit.OK
        partitions = 0
        for one in kept.series():
            try:
                partitions += kept.seal(one.series, everything=everything)
            except DataPipelineError as error:
                out.error(error, about=str(one.series))
                code = worse(code, exit_code_of(error))
        out.say(f"sealed {partitions:,} partition{'' if partitions == 1 else 's'}")
    out.exit(code)
