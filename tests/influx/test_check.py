"""Preflight: what it finds on a real server, and that it says the mend."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from chandlery.errors import DatabaseError, StoreUnreadable
from chandlery.stores.influx_check import Finding, preflight, raise_failure
from chandlery.stores.influx_http import InfluxHttp
from chandlery.stores.influx_place import InfluxPlace

from .commands import Run
from .fixtures import Bucket, StartInfluxd
from .influx_server import InfluxServer

DAY = 86_400_000
ALL = ["server", "token", "bucket", "read", "write", "database", "retention", "fields"]
READING = [name for name in ALL if name != "write"]


def check_place(place: InfluxPlace, *, write: bool = True, since: int | None = None) -> list[Finding]:
    """Run the preflight on a place."""
    http = InfluxHttp(place, patience=5)
    try:
        return http.run(preflight(http, write=write, since=since))
    finally:
        http.close()


def check_bucket(bucket: Bucket, *, token: str | None = None, **options: Any) -> list[Finding]:
    """Run the preflight on a bucket of the common server."""
    place = InfluxPlace(bucket.server.url, bucket.server.org, bucket.name, token or bucket.token)
    return check_place(place, **options)


def failure(findings: list[Finding]) -> Finding:
    """The one finding that is not fine, which must be the last and have a hint."""
    wrong = [found for found in findings if not found.ok]
    assert wrong == findings[-1:], findings
    assert wrong[0].hint
    return wrong[0]


def now_ms() -> int:
    """This host's clock, which is the server's too."""
    return time.time_ns() // 1_000_000


# -- all is fine -----------------------------------------------------------------------------------------------------


def test_a_token_for_the_bucket_alone_passes(bucket: Bucket) -> None:
    """A token that may read and write this one bucket and nothing else passes every check, and one point was written."""
    token = bucket.server.new_token(read=[bucket.name], write=[bucket.name])
    found = check_bucket(bucket, token=token)
    assert [f.name for f in found] == ALL
    assert all(f.ok for f in found), found
    assert bucket.server.count("chandlery_check", bucket.name, field="nonce") == 1
    raise_failure(found)


def test_a_read_only_token_passes_without_writing(bucket: Bucket) -> None:
    """With write=False a token that may only read passes, and the bucket stays as it was."""
    bucket.server.write(f"ohlcv,symbol=BTC_USDT close=1.0 {now_ms()}", bucket.name)
    found = check_bucket(bucket, token=bucket.server.new_token(read=[bucket.name]), write=False)
    assert [f.name for f in found] == READING
    assert all(f.ok for f in found), found
    assert bucket.server.count("chandlery_check", bucket.name, field="nonce") == 0


def test_a_bucket_named_with_a_slash_passes(influxd: InfluxServer) -> None:
    """A bucket whose name holds a slash, which the server splits into database and policy, passes as any other."""
    place = InfluxPlace(influxd.url, influxd.org, influxd.new_bucket("market's/a ${b}\\"), influxd.token)
    assert [f.name for f in check_place(place) if f.ok] == ALL
    assert [f.name for f in check_place(place, write=False) if f.ok] == READING


# -- rights ----------------------------------------------------------------------------------------------------------


def test_a_token_that_may_not_write_is_told(bucket: Bucket) -> None:
    """A read-only token fails at writing, and the bucket stays empty."""
    found = failure(check_bucket(bucket, token=bucket.server.new_token(read=[bucket.name])))
    assert (found.name, "may not write" in found.message) == ("write", True)


def test_a_token_that_may_not_read_is_told(bucket: Bucket) -> None:
    """A write-only token, and one of another bucket, fail before anything is written."""
    other = bucket.server.new_bucket()
    for token in (bucket.server.new_token(write=[bucket.name]), bucket.server.new_token(read=[other])):
        found = failure(check_bucket(bucket, token=token))
        assert (found.name, "may not read" in found.message) == ("bucket", True)


def test_a_wrong_token_is_told(bucket: Bucket) -> None:
    """A token that the server does not know fails as such, and is not shown."""
    found = failure(check_bucket(bucket, token="wrong-token-value"))
    assert found.name == "token"
    assert "wrong-token-value" not in found.message + found.hint
    with pytest.raises(StoreUnreadable, match="does not take the token"):
        raise_failure([found])


def test_unknown_names_are_told(bucket: Bucket) -> None:
    """A bucket and an organisation that do not exist are named, each by its own message."""
    server = bucket.server
    found = failure(check_place(InfluxPlace(server.url, server.org, "no such", server.token)))
    assert (found.name, "no bucket 'no such'" in found.message) == ("bucket", True)
    found = failure(check_place(InfluxPlace(server.url, "nobody", bucket.name, server.token)))
    assert (found.name, "no organisation 'nobody'" in found.message) == ("bucket", True)


def test_a_new_server_is_told(start_influxd: StartInfluxd) -> None:
    """A server that nobody has set up is told from one that refuses the token, and setup is named as the mend."""
    server = start_influxd(onboard=False)
    found = failure(check_place(InfluxPlace(server.url, "chandlery", "trading", "any")))
    assert "nobody has set it up" in found.message
    assert "chandlery influx setup" in found.hint


# -- retention -------------------------------------------------------------------------------------------------------


def test_retention_that_cuts_the_range_is_refused(influxd: InfluxServer) -> None:
    """Candles older than the bucket keeps are refused with the hour from which on they stay; from that hour all is fine."""
    name = influxd.new_bucket(retention_seconds=30 * 86_400)
    place = InfluxPlace(influxd.url, influxd.org, name, influxd.token)
    found = next(f for f in check_place(place, since=now_ms() - 31 * DAY) if not f.ok)
    assert found.name == "retention"
    assert "30 days" in found.message
    first = datetime.now(UTC) - timedelta(days=30) + timedelta(hours=1)
    whole = first.replace(minute=0, second=0, microsecond=0)
    assert whole.strftime("since %Y-%m-%dT%H:00:00Z") in found.hint
    assert all(f.ok for f in check_place(place, since=int(whole.timestamp() * 1000)))
    assert all(f.ok for f in check_place(place))


# -- types -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["2i", '"2"', "2u", "t"])
@pytest.mark.parametrize("measurement", ["ohlcv", "ohlcv_mark", "ohlcv_index"])
def test_a_field_of_another_type_is_found_in_any_shard(bucket: Bucket, measurement: str, value: str) -> None:
    """One volume that is no float, years away from the candles, is found and named."""
    bucket.server.write(f"ohlcv,symbol=A volume=1.0 {now_ms()}", bucket.name)
    bucket.server.write(f"{measurement},symbol=B volume={value} {now_ms() - 900 * DAY}", bucket.name)
    for write in (True, False):
        found = next(f for f in check_bucket(bucket, write=write) if not f.ok)
        assert (found.name, f"{measurement}.volume" in found.message) == ("fields", True)


def test_other_fields_may_have_any_type(bucket: Bucket) -> None:
    """Fields that are not ours, and measurements that are not ours, may hold what they like."""
    bucket.server.write(
        f"ohlcv,symbol=A volume=1.0,trades=5i {now_ms()}\nprices volume=2i {now_ms()}", bucket.name
    )
    assert all(f.ok for f in check_bucket(bucket))


# -- the database of InfluxQL ----------------------------------------------------------------------------------------


def test_a_database_mapped_elsewhere_is_found(bucket: Bucket) -> None:
    """A real DBRP mapping that hides the bucket from InfluxQL fails the check, whether it may write or not."""
    server = bucket.server
    other = server.bucket_id(server.new_bucket())
    mapping = {"database": bucket.name, "retention_policy": "autogen", "default": True}
    server._wanted(201, "POST", "/api/v2/dbrps", {"orgID": server.org_id, "bucketID": other, **mapping})
    own = server.new_token(read=[bucket.name], write=[bucket.name])
    for token in (server.token, own):
        for write in (True, False):
            found = failure(check_bucket(bucket, token=token, write=write))
            assert (found.name, "dbrp list" in found.hint) == ("database", True)


def test_a_second_policy_of_the_database_does_no_harm(bucket: Bucket) -> None:
    """A real mapping of another policy becomes the database's default one; the bucket is still found by its policy."""
    server = bucket.server
    other = server.bucket_id(server.new_bucket())
    mapping = {"database": bucket.name, "retention_policy": "other", "default": True}
    server._wanted(201, "POST", "/api/v2/dbrps", {"orgID": server.org_id, "bucketID": other, **mapping})
    for token in (server.token, server.new_token(read=[bucket.name], write=[bucket.name])):
        for write in (True, False):
            assert all(f.ok for f in check_bucket(bucket, token=token, write=write))


def test_a_token_of_another_organisation_is_found(bucket: Bucket) -> None:
    """An operator's token writes into any organisation but InfluxQL reads only its own: that is found."""
    server = bucket.server
    org = f"second-{bucket.name}"
    made = server._wanted(201, "POST", "/api/v2/orgs", {"name": org})
    server._wanted(201, "POST", "/api/v2/buckets", {"orgID": made["id"], "name": bucket.name})
    server.write(f"ohlcv,symbol=A volume=1.0 {now_ms()}", bucket.name)
    for write in (True, False):
        found = failure(check_place(InfluxPlace(server.url, org, bucket.name, server.token), write=write))
        assert (found.name, org in found.hint) == ("database", True)


# -- who answers -----------------------------------------------------------------------------------------------------


@pytest.fixture
def answering() -> Iterator[Callable[..., str]]:
    """Start a server that answers every GET with this status, these headers and this body; gives its address."""
    started: list[ThreadingHTTPServer] = []

    def start(status: int, headers: Mapping[str, str], body: bytes, certificate: Path | None = None) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            server.socket = context.wrap_socket(server.socket, server_side=True)
            server.handle_error = lambda *args: None  # type: ignore[method-assign]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        started.append(server)
        return f"{'http' if certificate is None else 'https'}://127.0.0.1:{server.server_port}"

    yield start
    for server in started:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "headers", "body", "said"),
    [
        (204, {"X-Influxdb-Version": "1.8.10", "X-Influxdb-Build": "OSS"}, b"", "is an InfluxDB 1.8.10"),
        (200, {"x-influxdb-version": "3.1.0", "x-influxdb-build": "Core"}, b"{}", "is an InfluxDB 3.1.0"),
        (200, {}, b"<html>hello</html>", "is not an InfluxDB"),
        (404, {}, b"", "is not an InfluxDB"),
        (301, {"Location": "https://example.org/"}, b"", "sends its callers to https://example.org/"),
    ],
)
def test_another_server_is_told(
    answering: Callable[..., str], status: int, headers: Mapping[str, str], body: bytes, said: str
) -> None:
    """What is no InfluxDB 2 is said to be what it is, as a DatabaseError."""
    found = failure(check_place(InfluxPlace(answering(status, headers, body), "o", "b", "t")))
    assert (found.name, said in found.message) == ("server", True), found
    with pytest.raises(DatabaseError):
        raise_failure([found])


def test_nobody_there_is_told() -> None:
    """A port that nobody listens on, and a host that does not exist, are told apart."""
    found = failure(check_place(InfluxPlace("http://127.0.0.1:1", "o", "b", "t")))
    assert "nothing takes connections on port 1" in found.message
    found = failure(check_place(InfluxPlace("http://no-such-host.invalid:8086", "o", "b", "t")))
    assert "there is no host 'no-such-host.invalid'" in found.message


def test_tls_that_fails_is_told(answering: Callable[..., str], tmp_path: Path) -> None:
    """A certificate that nobody vouches for, a server without TLS, and TLS spoken to as plain HTTP, each say so."""
    address = answering(200, {}, b"", _certificate(tmp_path / "own.pem"))
    found = failure(check_place(InfluxPlace(address, "o", "b", "t")))
    assert "is not trusted" in found.message, found
    found = failure(check_place(InfluxPlace(address.replace("https", "http"), "o", "b", "t")))
    assert "influxdb+https" in found.hint, found
    plain = answering(200, {}, b"").replace("http", "https")
    found = failure(check_place(InfluxPlace(plain, "o", "b", "t")))
    assert "does not speak TLS" in found.message, found


def _certificate(path: Path) -> Path:
    """A self-signed certificate for 127.0.0.1 with its key, in one file."""
    from ipaddress import ip_address

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
    alternative = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    signed = builder.add_extension(alternative, critical=False).sign(key, hashes.SHA256())
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + signed.public_bytes(serialization.Encoding.PEM))
    return path


# -- the command -----------------------------------------------------------------------------------------------------


def test_check_says_what_is_wrong(bucket: Bucket, run: Run) -> None:
    """A failed check is a line with ❌ on stdout, an error with its mend on stderr, and exit code 4; tokens stay hidden."""
    token = bucket.server.new_token(read=[bucket.name])
    done = run("check", **{**bucket.environment, "INFLUXDB_TOKEN": token})
    assert done.code == 4
    assert (done.out.count("✅"), done.out.count("❌")) == (4, 1)
    assert "hint:" in done.err
    assert token not in done.out + done.err
    document = run("check", "--json", **{**bucket.environment, "INFLUXDB_TOKEN": token}).json
    assert (document["ok"], document["checks"][-1]["name"]) == (False, "write")


def test_check_of_a_range_that_retention_cuts(influxd: InfluxServer, run: Run) -> None:
    """--since before what the bucket keeps ends with 4; an age inside it with 0."""
    name = influxd.new_bucket(retention_seconds=30 * 86_400)
    environment = {"INFLUXDB_TOKEN": influxd.token}
    url = influxd.store_url(name)
    assert run("check", "--store", url, "--since", "2020-01-01", **environment).code == 4
    assert run("check", "--store", url, "--since", "29d", **environment).code == 0


@pytest.mark.parametrize(
    "args", [("--store", "./candles"), ("--store", "influxdb://h:1/only-org"), ("--since", "yesterday"), ()]
)
def test_check_of_nothing_is_usage(run: Run, args: tuple[str, ...]) -> None:
    """A store that is no InfluxDB, a time that is none, and missing settings end with 2."""
    assert run("check", *args, INFLUXDB_TOKEN="some-token").code == 2
