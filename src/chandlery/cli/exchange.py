"""exchange: the local exchange as a server of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from chandlery.cli import options as opt
from chandlery.cli.output import Output


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command(
        epilog=opt.example(
            "chandlery exchange --port 8088 --clock 2024-06-01T00:01Z",
            "chandlery exchange --port 8088 --exchange okx --exchange bybit",
            "chandlery exchange --csv ./candles-csv --fault 429:0.02,retry_after=3 --fault html:0.05",
            "chandlery fetch BTC/USDT --exchange-url http://127.0.0.1:8088",
        )
    )(exchange)


def exchange(
    *,
    host: Annotated[str, typer.Option(metavar="HOST", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(metavar="PORT", min=0, max=65535, help="Port; 0 takes a free one.")
    ] = 8088,
    csv: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Serve exchange_BASE_QUOTE_timeframe.csv files of this folder instead of the generated market.",
            show_default=False,
        ),
    ] = None,
    clock: Annotated[
        str | None,
        typer.Option(
            metavar="TIME[,SPEED]",
            help="The exchange's time at the start and how fast it runs: 1 as real time, 0 stands still "
            "(default: now; with --csv a minute after the last candle).",
            show_default=False,
        ),
    ] = None,
    symbol: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SYMBOL",
            help="Only this pair of the generated market, such as BTC/USDT or BTC/USDT:USDT; repeatable.",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of the generated market.")] = 1,
    omit_flat: Annotated[
        bool, typer.Option("--omit-flat", help="Leave out minutes without a trade.")
    ] = False,
    weight_limit: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=0,
            help="Request weight (Binance, KuCoin) or requests (others) allowed per window; 0 is no limit "
            "(default: what the exchange documents).",
            show_default=False,
        ),
    ] = None,
    fault: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FAULT",
            help="KIND[:PROBABILITY][,name=value...], such as 503:0.1 or latency:80; repeatable.",
            show_default=False,
        ),
    ] = None,
    fault_seed: Annotated[int, typer.Option(metavar="N", help="Seed of the faults.")] = 1,
    play: Annotated[
        list[str] | None,
        typer.Option(
            "--exchange",
            "-e",
            metavar="ID",
            help="The exchange to play (default: binance); repeatable, each is found below /ID.",
            show_default=False,
        ),
    ] = None,
    verbose: opt.Verbose = 0,
    quiet: opt.Quiet = False,
) -> None:
    """Run a local exchange, to try programs on.

    It is a server in the shape of an exchange's (binance, or another one of those it knows) and needs no network. The market is generated and the same for the same seed, at any time of the past; faults can be scripted, here or
    while it runs. It prints its URL and runs until it is interrupted.
    """
    from chandlery.exchange import ExchangeSettings, Faults, parse_fault, serve

    out = Output(quiet=quiet, verbose=verbose)
    played = tuple(play or ["binance"])
    settings = ExchangeSettings(
        host=host,
        port=port,
        csv=csv,
        clock=clock,
        seed=seed,
        symbols=tuple(symbol or ()),
        weight_limit=weight_limit,
        omit_flat=omit_flat,
        faults=Faults(tuple(parse_fault(text) for text in fault or ()), seed=fault_seed),
        exchange=played,
    )

    def ready(url: str) -> None:
        out.text(url)
        out.flush()
        for other in played[1:]:
            out.say(f"{other} is at {url}/{other}")
        out.say(f"a local {played[0]} is listening; use it with --exchange-url {url}, end it with Ctrl-C")

    serve(settings, ready)
