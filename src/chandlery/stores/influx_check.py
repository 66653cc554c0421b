"""Preflight: whether an InfluxDB bucket can keep what it is about to be given, found out before the first byte.

Every check asks the server itself, with the token that the store uses: a token for this one bucket is enough. Measured
on InfluxDB 2.9: such a token sees its bucket in /api/v2/buckets; a bucket that it may not read is an empty list there,
one that does not exist is 404.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import socket
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from chandlery.errors import DatabaseError, NoSuchStore, StoreUnreadable
from chandlery.stores.influx_admin import Bucket, said_length
from chandlery.stores.influx_ql import InfluxQl
from chandlery.stores.influx_query import flux_string
from chandlery.timeframe import HOUR
from chandlery.when import iso

if TYPE_CHECKING:
    from chandlery.stores.influx_http import Answer, InfluxHttp

#: The measurement of the points that prove that the bucket can be written to and read from.
CANARY = "chandlery_check"
_CANDLES = '"ohlcv", "ohlcv_mark", "ohlcv_index"'
_FIELDS = frozenset({"open", "high", "low", "close", "volume"})
_SETUP = "`chandlery influx setup` makes one"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found. `message` is what is so, `hint` the mend (empty where nothing is to be done).

    `absent`: what the settings name, the organisation or the bucket, is not there.
    """

    name: str
    ok: bool
    message: str
    hint: str = ""
    absent: bool = False


class _Failed(Exception):
    """A check that found what must not be: nothing after it can be asked."""

    def __init__(self, message: str, hint: str, *, absent: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.absent = absent


def raise_failure(findings: Sequence[Finding], *, opened: bool = False) -> None:
    """Raise the first finding that is not fine: DatabaseError where no InfluxDB 2 answered, NoSuchStore where the
    organisation or the bucket was never there (in a store that is `opened` it was), else StoreUnreadable.
    """
    for found in findings:
        if not found.ok:
            kind = DatabaseError if found.name == "server" else StoreUnreadable
            kind = NoSuchStore if found.absent and not opened else kind
            raise kind(found.message, hint=found.hint)


async def preflight(http: InfluxHttp, *, write: bool, since: int | None = None) -> list[Finding]:
    """Check server, token, bucket, reading, writing, database, retention and field types, in this order.

    With `write` one point is written to the measurement `chandlery_check`, stamped now, and read back. `since` (epoch
    ms) is the earliest candle that is to be kept. What cannot be asked because an earlier check failed is not in the
    list; so the last finding says what is wrong, or all are fine. Raises nothing that a server can bring about.
    """
    ql = InfluxQl(http)
    found: list[Finding] = []
    try:
        found.append(await _server(http))
        bucket, now = await _bucket(http, found)
        found.append(await _reads(http))
        if write:
            nonce = secrets.token_hex(8)
            stamp = now * 1_000_000 + secrets.randbelow(1_000_000_000)
            found.append(await _writes(http, stamp, nonce))
            found.append(await _database(ql, stamp, nonce))
        else:
            found.append(await _database(ql))
    except _Failed as failed:
        return [
            *found,
            Finding(_next(found, write=write), False, failed.message, failed.hint, failed.absent),
        ]
    except DatabaseError as error:  # it does not answer, or only with what passes
        return [*found, Finding(_next(found, write=write), ok=False, message=error.message, hint=error.hint)]
    found.append(_retention(bucket, since, now))
    try:
        found.append(await _fields(ql))
    except DatabaseError as error:
        found.append(Finding("fields", ok=False, message=error.message, hint=error.hint))
    return found


def _next(found: Sequence[Finding], *, write: bool) -> str:
    """The name of the check that was under way."""
    names = ["server", "token", "bucket", "read", *(["write"] if write else []), "database"]
    return names[len(found)]


async def who_answers(http: InfluxHttp) -> Finding:
    """The first check alone: whether an InfluxDB 2 answers, with a token or without."""
    try:
        return await _server(http)
    except (_Failed, DatabaseError) as failed:
        return Finding("server", ok=False, message=failed.message, hint=failed.hint)


# -- who is there ----------------------------------------------------------------------------------------------------


async def _server(http: InfluxHttp) -> Finding:
    server = http.place.server
    try:
        ping = await http.ask("GET", "/ping")
    except DatabaseError as error:
        raise await _no_answer(server, error) from None
    if 300 <= ping.status < 400:
        target = ping.headers.get("location", "another address")
        raise _Failed(f"{server} sends its callers to {target}", "set INFLUXDB_URL to where the server is")
    version = ping.headers.get("x-influxdb-version", "").removeprefix("v")
    build = ping.headers.get("x-influxdb-build", "")
    if version.startswith(("0.", "1.")):
        raise _Failed(
            f"{server} is an InfluxDB {version}",
            "chandlery speaks to InfluxDB 2; an 1.x can be upgraded to it",
        )
    if version.startswith("3.") or build.lower() in ("core", "enterprise"):
        raise _Failed(f"{server} is an InfluxDB {version or 3}", "chandlery speaks to InfluxDB 2")
    health = await http.ask("GET", "/health")
    state = _object(health)
    if state.get("name") != "influxdb" and not version:
        raise _Failed(f"what answers at {server} is not an InfluxDB", "check INFLUXDB_URL")
    if health.status == 200 and state.get("status") not in ("pass", None):
        raise _Failed(f"InfluxDB at {server} is not well: {health.said}", "its log says more")
    return Finding("server", ok=True, message=f"InfluxDB {version or state.get('version', '2')} at {server}")


async def _no_answer(server: str, error: DatabaseError) -> _Failed:
    """Why there is no answer, found out with a plain connection."""
    parts = urlsplit(server)
    secure = parts.scheme == "https"
    port = parts.port or (443 if secure else 80)
    try:
        async with asyncio.timeout(10):
            _, writer = await asyncio.open_connection(parts.hostname, port, ssl=True if secure else None)
            writer.close()
    except socket.gaierror:
        return _Failed(f"there is no host {parts.hostname!r}", "check INFLUXDB_URL")
    except ssl.SSLCertVerificationError as fault:
        return _Failed(
            f"the certificate of {server} is not trusted: {fault.verify_message}",
            "use the name that the certificate is for, and install its authority (SSL_CERT_FILE names a file of them)",
        )
    except ssl.SSLError:
        return _Failed(f"{server} does not speak TLS", "is it http:// (influxdb://) instead of https://?")
    except (OSError, TimeoutError):
        return _Failed(
            f"no InfluxDB answers at {server}: nothing takes connections on port {port}",
            "is influxd running, and is INFLUXDB_URL right?",
        )
    if not secure:
        hint = "is it https:// (influxdb+https://) instead of http://?"
        return _Failed(f"what listens at {server} does not answer as an InfluxDB does: {error.message}", hint)
    return _Failed(error.message, error.hint)


async def _bucket(http: InfluxHttp, found: list[Finding]) -> tuple[Bucket, int]:
    """The bucket, and the server's clock in epoch ms; adds the findings `token` and `bucket`."""
    place = http.place
    answer = await http.ask("GET", "/api/v2/buckets", params={"org": place.org, "name": place.bucket})
    if answer.status == 401:
        if _object(await http.ask("GET", "/api/v2/setup")).get("allowed"):
            raise _Failed("the server is new: nobody has set it up", "`chandlery influx setup` does")
        raise _Failed(
            "the server does not take the token", f"INFLUXDB_TOKEN is mistyped, or was revoked; {_SETUP}"
        )
    found.append(Finding("token", ok=True, message="the server takes it"))
    if answer.status == 404 and "organization" in answer.said:
        raise _Failed(
            f"there is no organisation {place.org!r}, or the token may not see it",
            "check INFLUXDB_ORG",
            absent=True,
        )
    if answer.status == 404:
        raise _Failed(
            f"there is no bucket {place.bucket!r} in {place.org!r}",
            f"check INFLUXDB_BUCKET; {_SETUP}",
            absent=True,
        )
    listed = _object(answer).get("buckets")
    if answer.status != 200 or not isinstance(listed, list):
        raise _Failed(f"the server lists no buckets: {answer.status} {answer.said}", "is it an InfluxDB 2?")
    if not listed:
        raise _Failed(
            f"the token may not read the bucket {place.bucket!r}",
            f"chandlery reads what it wrote: take a token that may do both; {_SETUP}",
        )
    bucket = Bucket.of(listed[0])
    found.append(Finding("bucket", ok=True, message=f"{place.bucket} of {place.org}"))
    return bucket, _clock(answer)


def _clock(answer: Answer) -> int:
    """The server's clock, in epoch ms; ours where it says none."""
    try:
        return round(parsedate_to_datetime(answer.headers["date"]).timestamp() * 1000)
    except (KeyError, ValueError):
        return time.time_ns() // 1_000_000


# -- what it may do --------------------------------------------------------------------------------------------------


async def _reads(http: InfluxHttp) -> Finding:
    flux = f"from(bucket: {flux_string(http.place.bucket)}) |> range(start: -1s) |> limit(n: 1)"
    content = {"Content-Type": "application/vnd.flux", "Accept": "application/csv"}
    where = {"org": http.place.org}
    answer = await http.ask("POST", "/api/v2/query", params=where, body=flux.encode(), headers=content)
    if answer.status != 200:
        raise _Failed(
            f"the token may not read the bucket: {answer.said}", f"take a token that may read it; {_SETUP}"
        )
    return Finding("read", ok=True, message="the token may read the bucket")


async def _writes(http: InfluxHttp, stamp: int, nonce: str) -> Finding:
    place = http.place
    where = {"org": place.org, "bucket": place.bucket, "precision": "ns"}
    line = f'{CANARY} nonce="{nonce}" {stamp}'
    answer = await http.ask("POST", "/api/v2/write", params=where, body=line.encode())
    if answer.status == 403:
        raise _Failed(
            f"the token may not write to the bucket {place.bucket!r}", f"take one that may; {_SETUP}"
        )
    if answer.status != 204:
        raise _Failed(
            f"the bucket takes no points: {answer.status} {answer.said}", "the server's log says more"
        )
    return Finding("write", ok=True, message="a point was written")


async def _database(ql: InfluxQl, stamp: int = 0, nonce: str = "") -> Finding:
    """Whether InfluxQL leads to this very bucket; with a nonce, whether the point that was written is there."""
    way = await ql.way()
    named = f"InfluxQL finds the bucket as database {way.database!r}, policy {way.policy!r}"
    if not nonce:
        return Finding("database", ok=True, message=named)
    select = f'SELECT "nonce" FROM "{CANARY}" WHERE time = {stamp}'  # noqa: S608 - a constant and a number
    (series,) = await ql.rows([select])
    if not any(nonce in row for one in series for row in one.values):
        raise _Failed(
            f"{named}, and the point that was written is not in it",
            "is there a DBRP mapping of that database (`influx v1 dbrp list`)? delete it; or is the token of another organisation?",
        )
    return Finding("database", ok=True, message=f"{named}, with the point that was written")


# -- what it keeps ---------------------------------------------------------------------------------------------------


def _retention(bucket: Bucket, since: int | None, now: int) -> Finding:
    if bucket.retention == 0:
        return Finding("retention", ok=True, message="points stay for ever")
    first = now - bucket.retention * 1000
    whole = iso(-(-first // HOUR) * HOUR)
    length = said_length(bucket.retention)
    if since is not None and since < first:
        return Finding(
            "retention",
            ok=False,
            message=f"the bucket {bucket.name!r} keeps points for {length}: candles before {whole} would vanish, "
            f"and they are asked for since {iso(since)}",
            hint=f"ask with --since {whole} or later, or let the bucket keep more: `chandlery influx setup --retention INF --change-retention`",
        )
    gone = f", and go up to {said_length(bucket.shard)} later" if bucket.shard else ""
    return Finding(
        "retention", ok=True, message=f"points stay {length}{gone}: candles since {whole} can be kept"
    )


async def _fields(ql: InfluxQl) -> Finding:
    (series,) = await ql.rows([f"SHOW FIELD KEYS FROM {_CANDLES}"])
    wrong = [
        f"{one.name}.{field} {'an' if kind == 'integer' else 'a'} {kind}"
        for one in series
        for field, kind in one.values
        if field in _FIELDS and kind != "float"
    ]
    if wrong:
        return Finding(
            "fields",
            ok=False,
            message=f"open, high, low, close and volume must be floats everywhere in the bucket, and somewhere it holds {', '.join(wrong)}",
            # Measured on 2.9.1: a shard keeps the type when all points with it are deleted, and over a restart.
            hint="another program wrote them: candles of the same week would be rejected, even once those points are "
            "deleted; use a bucket of chandlery's own (`chandlery influx setup --bucket NAME`) and bring over what is "
            "kept with `chandlery copy`",
        )
    return Finding(
        "fields", ok=True, message="all prices and volumes are floats" if series else "no candles yet"
    )


def _object(answer: Answer) -> dict[str, Any]:
    """The JSON object of an answer, empty if it is none."""
    try:
        found = json.loads(answer.body)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
