"""probe: learn an exchange's habits into its profile."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from chandlery.cli import options as opt
from chandlery.cli.fetch import source_of
from chandlery.cli.interrupt import run_until_interrupted
from chandlery.cli.narrow import Cell, Mark
from chandlery.cli.output import Output
from chandlery.errors import ExchangeError, UsageError

if TYPE_CHECKING:
    from chandlery.config import Settings
    from chandlery.sources.probe_result import Habit, Probed
    from chandlery.sources.profile import Profile

_WORDS = {"new": "green", "changed": "yellow", "same": "", "unknown": "dim"}


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command(
        epilog=opt.example("chandlery probe bitstamp", "chandlery probe okx --symbol BTC/USDT --dry-run -v")
    )(probe)


def probe(
    exchange: Annotated[
        str, typer.Argument(metavar="EXCHANGE", help="Exchange id as ccxt knows it.", show_default=False)
    ],
    *,
    symbol: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SYMBOL",
            help="Ask about this market (default: BTC/USDT, or what comes nearest, of each kind); repeatable.",
            show_default=False,
        ),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Do not wait for a candle to close (up to 75 seconds).")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Keep nothing.")] = False,
    exchange_url: opt.ExchangeUrl = None,
    budget: opt.Budget = None,
    signed: opt.Signed = False,
    as_json: opt.Json = False,
    verbose: opt.Verbose = 0,
    quiet: opt.Quiet = False,
) -> None:
    """Learn an exchange's habits into its profile.

    In fewer than 60 requests: real page sizes, bounds, order, depth, candles without trades, finality, anchors, and the
    unit of the volume. Every habit comes with what was asked and what came, with -v or --json. What cannot be told stays
    as it was known.
    """
    from chandlery.anchors import forget_learnt
    from chandlery.sources.profile_book import ProfileBook
    from chandlery.state import state_folder

    out = Output(quiet=quiet, verbose=verbose)
    settings = opt.settle(out, exchange=exchange, exchange_url=exchange_url, budget=budget)
    exchange = settings.exchange
    book = ProfileBook(settings.state or state_folder())
    before = book.load(exchange)
    try:
        probed = run_until_interrupted(
            out, lambda: _probe(out, settings, before, tuple(symbol or ()), quick=quick, signed=signed)
        )
    except ExchangeError as error:
        if as_json and not isinstance(error, UsageError):
            out.json(_nothing_learnt(exchange, before, error))
        raise
    saved = None if dry_run else str(book.save(probed.profile))
    forget_learnt()
    habits = probed.habits(before)
    if as_json:
        out.json(_json(probed, habits, before, saved))
    else:
        out.table(["market", "habit", "learnt", "before", ""], [_row(one) for one in habits])
    for one in habits if verbose else ():
        for said in one.evidence:
            out.debug(f"{one.market} {one.name}: {said}")
    for problem in probed.problems:
        out.warn(problem)
    _tell(out, probed, habits, saved)
    if saved and settings.exchange_url:
        out.note(f"learnt from {settings.exchange_url}; it counts for {exchange} wherever it is asked")


def _tell(out: Output, probed: Probed, habits: list[Habit], saved: str | None) -> None:
    """The sum in words, on stderr."""
    new, changed, unknown = (
        sum(one.state == state for one in habits) for state in ("new", "changed", "unknown")
    )
    if not new and not changed:
        what = "no change"
    else:
        what = ", ".join(f"{n} {state}" for n, state in ((new, "new"), (changed, "changed")) if n)
    out.say(f"{what}, {unknown} could not be told; {probed.requests} requests; limits: {probed.limits}")
    out.say(f"kept in {saved}" if saved else "nothing was kept (--dry-run)")


async def _probe(
    out: Output,
    settings: Settings,
    before: Profile | None,
    symbols: tuple[str, ...],
    *,
    quick: bool,
    signed: bool,
) -> Probed:
    from chandlery.sources.ccxt_rest import CcxtRest
    from chandlery.sources.probe import probe_exchange

    async with source_of(settings, signed=signed) as source:
        assert isinstance(source, CcxtRest)
        return await probe_exchange(source, before=before, symbols=symbols, quick=quick, tell=out.say)


def _row(habit: Habit) -> list[Cell]:
    state = Mark(habit.state, _WORDS[habit.state])
    return [habit.market, habit.name, _text(habit.learnt), _text(habit.before), state]


def _text(value: Any) -> str | None:
    """A habit as it stands in a table; None where it is not known."""
    if value is None:
        return None
    if isinstance(value, dict):
        return " ".join(f"{name}:{number:,}" for name, number in value.items()) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return (
        f"{value:,}" if isinstance(value, int) else f"{value:g}" if isinstance(value, float) else str(value)
    )


def _nothing_learnt(exchange: str, before: Profile | None, error: ExchangeError) -> dict[str, Any]:
    """The document of a probe that the exchange did not let begin."""
    from chandlery.report import error_json

    return {
        "ok": False,
        "exchange": exchange,
        "before": None if before is None else before.origin,
        "saved": None,
        "problems": [error.message],
        "habits": [],
        "error": error_json(error),
    }


def _json(probed: Probed, habits: list[Habit], before: Profile | None, saved: str | None) -> dict[str, Any]:
    from chandlery.when import iso

    profile = probed.profile
    return {
        "ok": True,
        "exchange": profile.exchange,
        "at": iso(profile.at),
        "ccxt": profile.ccxt,
        "requests": probed.requests,
        "before": None if before is None else before.origin,
        "saved": saved,
        "limits": probed.limits,
        "problems": probed.problems,
        "error": None,
        "habits": [
            {
                "market": one.market,
                "symbol": one.symbol,
                "habit": one.name,
                "learnt": one.learnt,
                "before": one.before,
                "state": one.state,
                "evidence": one.evidence,
            }
            for one in habits
        ],
    }
