"""The command `chandlery`: all commands in one group. Bodies import late, so that --help is quick."""

from __future__ import annotations

from typing import Annotated

try:
    import typer

    import chandlery
    from chandlery.cli import check, demo, exchange, fetch, influx, manage, probe, read, stores
    from chandlery.cli.ccxt_on_demand import on_demand
    from chandlery.cli.memory import end_quickly
    from chandlery.cli.options import example
    from chandlery.cli.output import Exit, Group, Output
except KeyboardInterrupt:  # in the first tenth of a second, before anything is there to say so
    raise SystemExit(130) from None


def _show_version(wanted: bool) -> None:
    if wanted:
        Output().text(f"chandlery {chandlery.__version__}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit."),
    ] = False,
) -> None:
    """Complete, checked OHLCV candles from any exchange that ccxt speaks to, with a proof that nothing is missing.

    To see it work: chandlery demo
    """


def make_app() -> typer.Typer:
    """The application with every command."""
    app = typer.Typer(
        cls=Group,
        name="chandlery",
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
        epilog=example("chandlery fetch BTC/USDT --since 2024-01-01", "chandlery verify BTC/USDT"),
    )
    app.callback()(_root)
    fetch.register(app)
    check.register(app)
    read.register(app)
    manage.register(app)
    stores.register(app)
    influx.register(app)
    probe.register(app)
    exchange.register(app)
    demo.register(app)
    return app


app = make_app()


def main() -> None:
    """Run the command line."""
    try:
        on_demand()
        app()
    except KeyboardInterrupt:  # while the commands are put together; once one runs, it says so itself
        raise SystemExit(Exit.INTERRUPTED) from None
    finally:
        end_quickly()
