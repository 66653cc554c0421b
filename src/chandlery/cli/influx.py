"""influx check, influx setup, influx downsample: the InfluxDB 2 that candles are kept in."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from chandlery.cli import options as opt
from chandlery.cli.influx_setup import settings_of, setup
from chandlery.cli.narrow import Mark
from chandlery.cli.output import Exit, Group, Output
from chandlery.errors import DatabaseError, UsageError

if TYPE_CHECKING:
    from chandlery.stores.influx_check import Finding
    from chandlery.stores.influx_place import InfluxPlace

#: Seconds that these commands wait for a server that is just starting, or too busy.
_PATIENCE = 10.0

InfluxStoreUrl = Annotated[
    str | None,
    typer.Option(
        "--store",
        metavar="URL",
        help="influxdb://HOST:8086/ORG/BUCKET (default: CHANDLERY_STORE if it is one, else INFLUXDB_URL, "
        "INFLUXDB_ORG, INFLUXDB_BUCKET).",
        show_default=False,
    ),
]


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    group = typer.Typer(cls=Group, no_args_is_help=True, rich_markup_mode=None)
    group.command(epilog=opt.example("chandlery influx check --since 2020-01-01"))(check)
    group.command(
        epilog=opt.example(
            "chandlery influx setup --save", "chandlery influx setup --downsample 1h --downsample 1d=5y"
        )
    )(setup)
    group.command(epilog=opt.example("chandlery influx downsample --since 2024-01-01"))(downsample)
    app.add_typer(group, name="influx", help="Set up and check an InfluxDB 2 to keep candles in.")


# -- check -----------------------------------------------------------------------------------------------------------


def check(
    *,
    since: opt.Since = None,
    read_only: Annotated[bool, typer.Option("--read-only", help="Do not try to write.")] = False,
    store: InfluxStoreUrl = None,
    as_json: opt.Json = False,
    verbose: opt.Verbose = 0,
    quiet: opt.Quiet = False,
) -> None:
    """Check that a bucket can keep candles.

    Server, token, rights, database, retention and field types; a point is written and read back.
    """
    from chandlery.stores.influx_check import preflight
    from chandlery.stores.influx_http import InfluxHttp
    from chandlery.when import parse_when

    out = Output(quiet=quiet, verbose=verbose)
    place = _place(out, store)
    first = None if since is None else parse_when(since, now=time.time_ns() // 1_000_000)
    http = InfluxHttp(place, patience=_PATIENCE)
    try:
        found = http.run(preflight(http, write=not read_only, since=first))
    finally:
        http.close()
    ok = all(one.ok for one in found)
    if as_json:
        checks = [{"name": f.name, "ok": f.ok, "message": f.message, "hint": f.hint} for f in found]
        out.json({"ok": ok, "store": place.url, "checks": checks})
    else:
        out.say(f"store: {place.url}")
        out.table(["", "check", "found"], [[_mark(f), f.name, f.message] for f in found])
    if not ok:
        wrong = next(one for one in found if not one.ok)
        out.error(DatabaseError(wrong.message, hint=wrong.hint))
        out.exit(Exit.STORE)


def _mark(found: Finding) -> Mark:
    return Mark("✅", "green") if found.ok else Mark("❌", "red")


def _place(out: Output, store: str | None) -> InfluxPlace:
    """The bucket that is meant, with the settings' token. Raises UsageError where none is."""
    from chandlery.stores.influx_place import is_influx_url, place_of

    settings = settings_of(out)
    url = store or (settings.store if is_influx_url(settings.store) else "influxdb")
    if not is_influx_url(url):
        raise UsageError(f"not an InfluxDB: {url!r}", hint="write influxdb://HOST:8086/ORG/BUCKET")
    return place_of(url, settings)


# -- downsample ------------------------------------------------------------------------------------------------------


def downsample(
    *,
    since: opt.Since = None,
    until: opt.Until = None,
    store: InfluxStoreUrl = None,
    as_json: opt.Json = False,
    verbose: opt.Verbose = 0,
    quiet: opt.Quiet = False,
) -> None:
    """Make long candles of 1m ones now.

    All of history, or a range. For ranges that were fetched, repaired or revised further back than the tasks look, and for markets that leave
    minutes without a trade out: there an hour is made where every minute of it was answered.
    """
    from chandlery.stores import open_store
    from chandlery.stores.influx_downsample import rerun, rerun_series, targets
    from chandlery.stores.influx_http import InfluxHttp
    from chandlery.timerange import RangeSet
    from chandlery.when import LISTING, parse_when

    out = Output(quiet=quiet, verbose=verbose)
    place = _place(out, store)
    now = time.time_ns() // 1_000_000
    first = 0 if since in (None, LISTING) else parse_when(str(since), now=now)
    last = now if until is None else parse_when(until, now=now)
    if first >= last:
        raise UsageError("the range ends before it begins", hint="swap --since and --until")
    ranges = RangeSet.of(first, last)
    http = InfluxHttp(place)
    try:
        into = http.run(targets(http))
        if not into:
            raise UsageError(
                f"there is no bucket of long candles of {place.bucket!r} that the token may read",
                hint="`chandlery influx setup --downsample 1h` makes one; its --new-tokens a token for it",
            )
        with open_store(place.url, create=False) as kept:
            minutes = [one for one in kept.series() if one.series.timeframe == "1m"]
            if any(one.absent for one in minutes):
                made = rerun_series(http, kept, {one.series: ranges for one in minutes}, into)
            else:  # nothing that only a ledger knows: all series in one go
                made = http.run(rerun(http, ranges, into=into))
    finally:
        http.close()
    if as_json:
        out.json({"store": place.url, "candles": made})
    else:
        out.table(["timeframe", "candles"], [[timeframe, number] for timeframe, number in made.items()])
