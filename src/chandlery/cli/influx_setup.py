"""influx setup: organisation, bucket, tokens and downsampling on a server, new or not."""

from __future__ import annotations

import os
import secrets
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

import typer

from chandlery.cli import options as opt
from chandlery.cli.dotenv import line_of, save_settings
from chandlery.cli.output import Exit, Output
from chandlery.errors import UsageError

if TYPE_CHECKING:
    from chandlery.config import Settings
    from chandlery.stores.influx_place import InfluxPlace
    from chandlery.stores.influx_setup import Outcome, Plan

#: Seconds that a server is waited for that is just starting, or too busy.
_PATIENCE = 10.0

Url = Annotated[
    str | None,
    typer.Option(
        "--url",
        metavar="URL",
        help="The server (INFLUXDB_URL; default http://localhost:8086).",
        show_default=False,
    ),
]
Org = Annotated[
    str | None,
    typer.Option(
        "--org",
        metavar="NAME",
        help="The organisation (INFLUXDB_ORG; default chandlery).",
        show_default=False,
    ),
]
BucketName = Annotated[
    str | None,
    typer.Option(
        "--bucket", metavar="NAME", help="The bucket (INFLUXDB_BUCKET; default trading).", show_default=False
    ),
]
User = Annotated[
    str | None,
    typer.Option(
        "--user",
        metavar="NAME",
        help="First user of a new server (INFLUXDB_ADMIN_USER; default admin); the password comes from "
        "INFLUXDB_ADMIN_PASSWORD, or is made and shown once.",
        show_default=False,
    ),
]
Retention = Annotated[
    str | None,
    typer.Option(
        "--retention",
        metavar="LENGTH",
        help="How long the bucket keeps points: INF, or such as 90d, 5y (default INF for a new one).",
        show_default=False,
    ),
]
Downsample = Annotated[
    list[str] | None,
    typer.Option(
        "--downsample",
        metavar="TF[=LENGTH]",
        help="Make candles of TF out of 1m ones, in a bucket of their own that keeps them for LENGTH, such as 1h or "
        "1d=5y (default INF); may be given several times.",
        show_default=False,
    ),
]
ChangeRetention = Annotated[
    bool,
    typer.Option(
        "--change-retention", help="Give buckets that are there the retention asked for; less deletes points."
    ),
]
NewTokens = Annotated[
    bool, typer.Option("--new-tokens", help="Make new tokens though there are some; old ones stay valid.")
]
TokenFile = Annotated[
    Path | None,
    typer.Option(
        "--token-file",
        metavar="PATH",
        help="File of the operator's token, for a server that is set up (INFLUXDB_ADMIN_TOKEN, else INFLUXDB_TOKEN).",
        show_default=False,
    ),
]
Save = Annotated[
    bool,
    typer.Option(
        "--save", help="Write address, names and the writing token to secrets/.env.<exchange>, mode 0600."
    ),
]
SaveTo = Annotated[
    Path | None,
    typer.Option("--save-to", metavar="PATH", help="The same, to another file.", show_default=False),
]


def setup(
    *,
    url: Url = None,
    org: Org = None,
    bucket: BucketName = None,
    user: User = None,
    retention: Retention = None,
    downsample: Downsample = None,
    change_retention: ChangeRetention = False,
    new_tokens: NewTokens = False,
    token_file: TokenFile = None,
    save: Save = False,
    save_to: SaveTo = None,
    exchange: opt.ExchangeId = None,
    as_json: opt.Json = False,
    verbose: opt.Verbose = 0,
    quiet: opt.Quiet = False,
) -> None:
    """Make bucket and tokens on a server, new or not.

    What is there stays as it is; a second run changes nothing. Tokens stand on stdout once, as lines of an environment
    file: one that reads and writes these buckets, one that only reads them, and on a new server the operator's.
    """
    from chandlery.stores.influx_setup import Outcome, Plan, retention_of, wanted_long

    out = Output(quiet=quiet, verbose=verbose)
    settings = settings_of(out, influxdb_url=url, influxdb_org=org, influxdb_bucket=bucket, exchange=exchange)
    place = _place_to_be(settings)
    plan = Plan(
        retention=None if retention is None else retention_of(retention),
        long=wanted_long(place.bucket, downsample or []),
        change_retention=change_retention,
        new_tokens=new_tokens,
    )
    named = {"INFLUXDB_URL": place.server, "INFLUXDB_ORG": place.org, "INFLUXDB_BUCKET": place.bucket}
    for name, value in named.items():
        line_of(name, value)  # refuses what could not be shown, before anything is made
    path = save_to or (Path("secrets") / f".env.{settings.exchange}" if save else None)
    place, shown = _onboarded(out, place, _admin_token(settings, token_file), user, plan)
    plan = replace(plan, onboarded=bool(shown))
    shown = {**named, **shown}
    outcome = Outcome()
    done = False
    try:
        _set_up(place, plan, outcome)
        done = True
    finally:  # what the server shows once is shown whatever comes after
        shown |= {"INFLUXDB_TOKEN": outcome.write_token, "INFLUXDB_READ_TOKEN": outcome.read_token}
        shown = {name: value for name, value in shown.items() if value}
        if done or len(shown) > len(named):
            _show(out, place, outcome, shown, as_json=as_json, done=done)
    if path is not None:
        _save(out, path, named, outcome.write_token)
    _prove(out, place, outcome.write_token or (_kept_token(path) if path is not None else ""))


def _place_to_be(settings: Settings) -> InfluxPlace:
    """Server and names, without a token."""
    from chandlery.stores.influx_place import InfluxPlace

    server = (settings.influxdb_url or "http://localhost:8086").rstrip("/")
    parts = urlsplit(server)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
        raise UsageError("INFLUXDB_URL (--url) cannot be that", hint="write such as http://localhost:8086")
    return InfluxPlace(server, settings.influxdb_org or "chandlery", settings.influxdb_bucket or "trading")


def _admin_token(settings: Settings, path: Path | None) -> str:
    if path is None:
        return os.environ.get("INFLUXDB_ADMIN_TOKEN") or settings.influxdb_token.get_secret_value()
    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {path}: {error}", hint="it holds the token and nothing else") from None
    if not token.isascii() or not token.isprintable() or " " in token or not token:
        raise UsageError(f"{path} does not hold a token", hint="it holds the token and nothing else")
    return token


def _onboarded(
    out: Output, place: InfluxPlace, token: str, user: str | None, plan: Plan
) -> tuple[InfluxPlace, dict[str, str]]:
    """The place with the operator's token; for a new server also what it shows only now."""
    from chandlery.stores.influx_admin import is_new, onboard
    from chandlery.stores.influx_check import raise_failure, who_answers
    from chandlery.stores.influx_http import InfluxHttp

    http = InfluxHttp(place, patience=_PATIENCE)
    try:
        raise_failure([http.run(who_answers(http))])
        if not http.run(is_new(http)):
            if not token:
                raise UsageError(
                    f"InfluxDB at {place.server} is set up already, so its operator's token is needed",
                    hint="--token-file PATH, or INFLUXDB_ADMIN_TOKEN; `influx auth create --operator` makes one",
                )
            return replace(place, token=token), {}
        name = user or os.environ.get("INFLUXDB_ADMIN_USER") or "admin"
        line_of("INFLUXDB_ADMIN_USER", name)
        given = os.environ.get("INFLUXDB_ADMIN_PASSWORD", "")
        password = given or secrets.token_urlsafe(18)
        operator = http.run(onboard(http, name, password, plan.retention or 0))
    finally:
        http.close()
    out.say(
        f"set up InfluxDB at {place.server}: user {name}, organisation {place.org}, bucket {place.bucket}"
    )
    shown = {"INFLUXDB_ADMIN_USER": name, "INFLUXDB_ADMIN_PASSWORD": "" if given else password}
    return replace(place, token=operator), {**shown, "INFLUXDB_ADMIN_TOKEN": operator}


def _set_up(place: InfluxPlace, plan: Plan, outcome: Outcome) -> None:
    from chandlery.stores.influx_http import InfluxHttp
    from chandlery.stores.influx_setup import set_up

    http = InfluxHttp(place)
    try:
        http.run(set_up(http, plan, outcome))
    finally:
        http.close()


def _show(
    out: Output, place: InfluxPlace, outcome: Outcome, shown: dict[str, str], *, as_json: bool, done: bool
) -> None:
    """What was done on stderr; what is shown once on stdout, if there is anything."""
    for step in outcome.steps:
        out.say(f"{step.state:8}{step.kind} {step.name}{f' ({step.note})' if step.note else ''}")
    if done and not outcome.changed:
        out.say("everything was there already: nothing was changed")
    if as_json:
        steps = [{"kind": s.kind, "name": s.name, "state": s.state, "note": s.note} for s in outcome.steps]
        out.json({"ok": done, "store": place.url, "steps": steps, "environment": shown})
    elif any(name.endswith(("TOKEN", "PASSWORD")) for name in shown):
        for name, value in shown.items():
            out.text(line_of(name, value))
        out.flush()
        out.note("the server shows these tokens only now: keep them")


def _prove(out: Output, place: InfluxPlace, token: str) -> None:
    """Check that the new token can do what candles need."""
    from chandlery.stores.influx_check import preflight, raise_failure
    from chandlery.stores.influx_http import InfluxHttp

    if not token:
        return
    http = InfluxHttp(replace(place, token=token), patience=_PATIENCE)
    try:
        raise_failure(http.run(preflight(http, write=True)))
    finally:
        http.close()
    out.say(f"checked: candles can be kept with --store {place.url}")


def _save(out: Output, path: Path, named: dict[str, str], token: str) -> None:
    if token:
        save_settings(path, {**named, "INFLUXDB_TOKEN": token})
        out.say(f"saved to {path}: commands use it with --store influxdb")
    elif not _kept_token(path):
        out.warn(
            f"nothing was saved to {path}: the writing token was there already, and the server does not show it again",
            hint="--new-tokens makes another",
        )
        out.exit(Exit.INCOMPLETE)


def _kept_token(path: Path) -> str:
    """The token that an environment file holds already, empty if none."""
    from dotenv import dotenv_values

    return dotenv_values(path, encoding="utf-8").get("INFLUXDB_TOKEN") or ""


def settings_of(out: Output, **flags: Any) -> Settings:
    """The settings, flags that are not None before all; says which files of secrets others can read."""
    from chandlery.config import load_settings

    settings = load_settings(**{name: value for name, value in flags.items() if value is not None})
    for warning in settings.exposed:
        out.warn(warning)
    return settings
