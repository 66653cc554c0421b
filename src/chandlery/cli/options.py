"""Every option that several commands share, declared once, and the settings and stores that come out of them.

A command of the read side looks like this:

    @app.command(epilog=example("chandlery show BTC/USDT -n 5"))
    def show(
        symbol: OneSymbol, timeframe: Timeframes = None, exchange: ExchangeId = None, store: StoreUrl = None,
        as_json: Json = False, verbose: Verbose = 0, quiet: Quiet = False,
    ) -> None:
        '''Candles as a table.'''
        out = Output(quiet=quiet, verbose=verbose)
        settings = settle(out, exchange=exchange, store=store)      # config.Settings: flags > environment > files
        with open_kept(settings, out) as kept:                      # never makes a store; exit 2 where there is none
            ...

`timeframe`, `exchange` and `store` are None where the user gave nothing; `settings.exchange`, `settings.store` are what
holds then, and `settings.origin("exchange")` says where it came from.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from chandlery.cli.output import Output

if TYPE_CHECKING:
    from chandlery.config import Settings
    from chandlery.stores.base import Store

#: What -t means where nothing is given and a series must be named.
DEFAULT_TIMEFRAME = "1h"

_SYMBOL_HELP = "Such as BTC/USDT, or a pattern such as '*/USDT'."

Symbols = Annotated[list[str] | None, typer.Argument(metavar="SYMBOL", help=_SYMBOL_HELP, show_default=False)]
SomeSymbols = Annotated[list[str], typer.Argument(metavar="SYMBOL", help=_SYMBOL_HELP, show_default=False)]
OneSymbol = Annotated[str, typer.Argument(metavar="SYMBOL", help="Such as BTC/USDT.", show_default=False)]

ExchangeId = Annotated[
    str | None,
    typer.Option(
        "-e",
        "--exchange",
        metavar="ID",
        help="Exchange id as ccxt knows it, such as binance or kraken (EXCHANGE_ID; default binance).",
        show_default=False,
    ),
]
KeptExchange = Annotated[
    str | None,
    typer.Option(
        "-e",
        "--exchange",
        metavar="ID",
        help="Only series of this exchange (default: all that are kept).",
        show_default=False,
    ),
]
ExchangeUrl = Annotated[
    str | None,
    typer.Option(
        "--exchange-url",
        metavar="URL",
        help="Ask this server instead of the exchange itself, such as a local exchange (EXCHANGE_URL).",
        show_default=False,
    ),
]
Timeframes = Annotated[
    list[str] | None,
    typer.Option(
        "-t",
        "--timeframe",
        metavar="TF",
        help="Such as 1m, 1h, 1d; may be given several times (default 1h).",
        show_default=False,
    ),
]
OneTimeframe = Annotated[
    list[str] | None,
    typer.Option(
        "-t", "--timeframe", metavar="TF", help="Such as 1m, 1h, 1d (default 1h).", show_default=False
    ),
]
KeptTimeframes = Annotated[
    list[str] | None,
    typer.Option(
        "-t",
        "--timeframe",
        metavar="TF",
        help="Only this timeframe; may be given several times (default: all that are kept).",
        show_default=False,
    ),
]
Since = Annotated[
    str | None,
    typer.Option(
        "--since",
        metavar="WHEN",
        help="First open time: 2024-01-01, 2024-01-01T12:00Z, epoch milliseconds, 7d (ago), listing. UTC.",
        show_default=False,
    ),
]
Until = Annotated[
    str | None,
    typer.Option(
        "--until",
        metavar="WHEN",
        help="End, exclusive (default now, by the exchange's clock).",
        show_default=False,
    ),
]
StoreUrl = Annotated[
    str | None,
    typer.Option(
        "--store",
        metavar="URL",
        help="Folder of the store, or influxdb://HOST:PORT/ORG/BUCKET (CHANDLERY_STORE, then chandlery.toml, then ./candles).",
        show_default=False,
    ),
]
Mirrors = Annotated[
    list[str] | None,
    typer.Option(
        "--mirror",
        metavar="URL",
        help="Another store that is kept equal; may be given several times (CHANDLERY_MIRROR).",
        show_default=False,
    ),
]
Settle = Annotated[
    str | None,
    typer.Option(
        "--settle",
        metavar="SECONDS",
        help="A candle is closed this long after its end (default: the exchange's profile, else 10).",
        show_default=False,
    ),
]
Recheck = Annotated[
    str | None,
    typer.Option(
        "--recheck",
        metavar="LENGTH",
        help="Ask again for candles younger than this until confirmed; 0 is off (default 24h).",
        show_default=False,
    ),
]
MaxWait = Annotated[
    str | None,
    typer.Option(
        "--max-wait",
        metavar="LENGTH",
        help="End the run where the exchange tells us to wait longer than this (default 10m).",
        show_default=False,
    ),
]
Budget = Annotated[
    str | None,
    typer.Option(
        "--budget",
        metavar="SHARE",
        help="Share of the exchange's declared request budget to spend (default 80%).",
        show_default=False,
    ),
]
Signed = Annotated[
    bool,
    typer.Option(
        "--signed",
        help="Send EXCHANGE_API_KEY and EXCHANGE_SECRET with requests.",
    ),
]
WaitLock = Annotated[
    bool,
    typer.Option(
        "--wait-lock",
        help="Wait for another process that writes the series.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
Verbose = Annotated[
    int,
    typer.Option("-v", "--verbose", count=True, help="Say more.", show_default=False),
]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Warnings and errors only.")]


def example(*commands: str) -> str:
    """The epilog of a command's help."""
    # "\b" keeps the lines of the paragraph as they are.
    return "\n".join(("\b", "Example:" if len(commands) == 1 else "Examples:", *(f"  {c}" for c in commands)))


def settle(out: Output, *, reads_only: bool = False, names_stores: bool = False, **flags: Any) -> Settings:
    """The settings that hold: flags that are not None > environment > secrets/.env.<exchange>, .env > chandlery.toml >
    defaults. Warnings about them are said, those about exposed secrets not by what only reads,
    those about the store not by what `names_stores` itself. Raises UsageError naming file, key, value and mend.
    """
    from chandlery.cli.waits import tell_store_warnings
    from chandlery.config import load_settings
    from chandlery.redact import keep_secret

    tell_store_warnings(out)
    settings = load_settings(**{name: value for name, value in flags.items() if value is not None})
    keep_secret(*(s.get_secret_value() for s in (settings.api_key, settings.secret, settings.influxdb_token)))
    for warning in settings.warnings:
        if reads_only and warning in settings.exposed:
            continue
        if not (names_stores and warning in settings.unused):
            out.warn(warning)
    return settings


def open_kept(settings: Settings, out: Output, *, named: bool = False) -> Store:
    """The store of the settings, for reading or for work on what is kept: never made. Raises UsageError where there is
    none, StoreUnreadable where it cannot be read. -v says which it is and why, unless the command names it anyway.
    """
    from chandlery.stores import open_store

    if not named:
        out.debug(f"store: {settings.store} ({settings.origin('store')})")
    return open_store(settings.store, create=False, settings=settings)
