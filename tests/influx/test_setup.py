"""`chandlery influx`: setting real servers up, new and old, and what the tokens may do afterwards."""

from __future__ import annotations

import json
import stat
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from chandlery.config import load_settings
from chandlery.errors import UsageError
from chandlery.stores.influx_setup import retention_of, wanted_long

from .commands import Run, steps
from .fixtures import Bucket, StartInfluxd
from .influx_server import InfluxServer
from .proxy import Fault, FaultProxy

YEAR = 365 * 86_400
SINCE = int(datetime(2024, 3, 1, tzinfo=UTC).timestamp() * 1000)


@pytest.fixture
def new_server(start_influxd: StartInfluxd) -> InfluxServer:
    """A server that nobody has set up."""
    return start_influxd(onboard=False)


def take_over(server: InfluxServer, done: dict[str, str]) -> None:
    """Let the test's own client be the administrator that the set-up made."""
    server.token, server.org = done["INFLUXDB_ADMIN_TOKEN"], done["INFLUXDB_ORG"]
    server.org_id = server._wanted(200, "GET", f"/api/v2/orgs?org={server.org}")["orgs"][0]["id"]


# -- a new server ----------------------------------------------------------------------------------------------------


def test_a_new_server_is_set_up(new_server: InfluxServer, run: Run, tmp_path: Path) -> None:
    """One command makes user, organisation, bucket for ever and both tokens, saves what candles need, and checks it."""
    done = run("setup", "--url", new_server.url, "--save")
    assert done.code == 0, done.err
    shown = done.lines
    assert (shown["INFLUXDB_ORG"], shown["INFLUXDB_BUCKET"]) == ("chandlery", "trading")
    path = tmp_path / "secrets" / ".env.binance"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert load_settings().influxdb_token.get_secret_value() == shown["INFLUXDB_TOKEN"]
    assert done.out.count(shown["INFLUXDB_TOKEN"]) == 1
    assert not any(shown[name] in done.err for name in shown if name.endswith(("TOKEN", "PASSWORD")))
    take_over(new_server, shown)
    rules = new_server._wanted(200, "GET", "/api/v2/buckets?name=trading")["buckets"][0]["retentionRules"]
    assert (rules[0]["everySeconds"], rules[0]["shardGroupDurationSeconds"]) == (0, 28 * 86_400)
    checked = run("check")
    assert checked.code == 0, checked.err
    assert checked.out.count("✅") == 8


def test_tokens_may_do_no_more_than_they_must(new_server: InfluxServer, run: Run) -> None:
    """The writing token reads and writes the bucket and nothing else; the reading one only reads it."""
    shown = run("setup", "--url", new_server.url).lines
    take_over(new_server, shown)
    new_server.new_bucket("other")
    writer, reader = shown["INFLUXDB_TOKEN"], shown["INFLUXDB_READ_TOKEN"]
    line = "ohlcv,symbol=A close=1.0"
    assert new_server.write(line, "trading", token=writer).status == 204
    assert new_server.write(line, "trading", token=reader).status == 403
    assert new_server.write(line, "other", token=writer).status == 403
    for token in (writer, reader):
        assert (
            len(
                new_server.rows(
                    'from(bucket: "trading") |> range(start: -1h) |> filter(fn: (r) => r.symbol == "A")',
                    token=token,
                )
            )
            == 1
        )
        listed = new_server.ask("GET", "/api/v2/buckets", token=token).json["buckets"]
        assert [bucket["name"] for bucket in listed] == ["trading"]
        assert new_server.ask("GET", "/api/v2/authorizations", token=token).json["authorizations"] == []
        body = json.dumps({"orgID": new_server.org_id, "name": "more", "retentionRules": []}).encode()
        made = new_server.ask("POST", "/api/v2/buckets", body, token=token)
        assert made.status in (401, 403)
    assert (
        run(
            "check",
            "--read-only",
            INFLUXDB_URL=new_server.url,
            INFLUXDB_ORG="chandlery",
            INFLUXDB_BUCKET="trading",
            INFLUXDB_TOKEN=reader,
        ).code
        == 0
    )


def test_names_and_password_are_those_given(new_server: InfluxServer, run: Run) -> None:
    """User, organisation, bucket and retention are those asked for; a password that was given is not shown."""
    password = "correct horse battery"
    done = run(
        "setup",
        "--url",
        new_server.url,
        "--org",
        "my org",
        "--bucket",
        "b u",
        "--retention",
        "52w",
        "--user",
        "me",
        INFLUXDB_ADMIN_PASSWORD=password,
    )
    assert done.code == 0, done.err
    assert password not in done.out + done.err
    assert "INFLUXDB_ORG='my org'" in done.out
    token = done.lines["INFLUXDB_ADMIN_TOKEN"]
    bucket = new_server.ask("GET", "/api/v2/buckets?name=b%20u", token=token).json["buckets"][0]
    assert bucket["retentionRules"][0]["everySeconds"] == 52 * 7 * 86_400
    users = new_server.ask("GET", "/api/v2/users", token=token).json["users"]
    assert [user["name"] for user in users] == ["me"]


def test_a_password_that_the_server_refuses_is_told(new_server: InfluxServer, run: Run) -> None:
    """A password that is too short is refused with the server's words, and the server stays new."""
    done = run("setup", "--url", new_server.url, INFLUXDB_ADMIN_PASSWORD="short")
    assert done.code == 2, done.err
    assert "password" in done.err
    assert done.out == ""
    assert new_server.ask("GET", "/api/v2/setup").json["allowed"] is True


def test_what_is_shown_once_is_shown_whatever_fails_after(new_server: InfluxServer, run: Run) -> None:
    """Where the set-up fails half-way, the operator's token and those made by then stand on stdout all the same."""
    with FaultProxy(new_server.url) as proxy:
        proxy.plan(Fault(status=403, path="/api/v2/tasks"))
        done = run("setup", "--url", proxy.url, "--downsample", "1h")
    assert done.code == 4, done.err
    shown = done.lines
    for name in ("INFLUXDB_ADMIN_TOKEN", "INFLUXDB_TOKEN"):
        assert new_server.ask("GET", "/api/v2/buckets", token=shown[name]).status == 200
    ended = run(
        "setup",
        "--url",
        new_server.url,
        "--downsample",
        "1h",
        "--json",
        INFLUXDB_ADMIN_TOKEN=shown["INFLUXDB_ADMIN_TOKEN"],
    )
    assert (ended.code, {k for k, v in steps(ended).items() if v == "made"}) == (
        0,
        {"task chandlery: 1h candles of trading, in trading_1h"},
    )


# -- a server that is set up -----------------------------------------------------------------------------------------


def test_a_second_run_changes_nothing(bucket: Bucket, admin: Run) -> None:
    """A second run makes nothing, shows no token, and says so; the server holds what it held."""
    first = admin("--downsample", "1h", "--downsample", "1d=5y", "--json")
    assert first.code == 0, first.err
    made = f"{bucket.name}_1h", f"{bucket.name}_1d"
    assert steps(first)[f"bucket {made[0]}"] == steps(first)[f"bucket {made[1]}"] == "made"
    before = everything(bucket.server)
    second = admin("--downsample", "1h", "--downsample", "1d=5y")
    assert (second.code, second.out) == (0, "")
    assert "nothing was changed" in second.err
    assert everything(bucket.server) == before
    again = admin("--downsample", "1h", "--downsample", "1d=5y", "--json")
    assert set(steps(again).values()) == {"there"}
    assert not {"INFLUXDB_TOKEN", "INFLUXDB_READ_TOKEN"} & set(again.json["environment"])


def everything(server: InfluxServer) -> list[Any]:
    """All buckets, tokens and tasks of the organisation, but for what changes by itself."""
    buckets = server._wanted(200, "GET", f"/api/v2/buckets?orgID={server.org_id}&limit=100")["buckets"]
    tokens = server._wanted(200, "GET", "/api/v2/authorizations")["authorizations"]
    tasks = server._wanted(200, "GET", f"/api/v2/tasks?orgID={server.org_id}&limit=500")["tasks"]
    return [buckets, tokens, [(task["id"], task["flux"], task["status"]) for task in tasks]]


def test_an_existing_buckets_retention_stays(influxd: InfluxServer, run: Run) -> None:
    """A retention that differs is told and left alone; only --change-retention changes it."""
    name = influxd.new_bucket(retention_seconds=YEAR)
    environment = {
        "INFLUXDB_URL": influxd.url,
        "INFLUXDB_ORG": influxd.org,
        "INFLUXDB_BUCKET": name,
        "INFLUXDB_TOKEN": influxd.token,
    }

    def kept() -> int:
        found = influxd._wanted(200, "GET", f"/api/v2/buckets?name={name}")["buckets"][0]
        return int(found["retentionRules"][0]["everySeconds"])

    plain = run("setup", **environment)
    assert (plain.code, kept()) == (0, YEAR)
    asked = run("setup", "--retention", "INF", **environment)
    assert (asked.code, kept()) == (0, YEAR)
    assert "not for ever as asked: --change-retention" in asked.err
    for length, seconds in (("INF", 0), ("7d", 7 * 86_400), ("1h", 3_600), ("INF", 0)):
        told = run("setup", "--retention", length, "--change-retention", **environment)
        assert (told.code, kept()) == (0, seconds), told.err


def test_new_tokens_on_request(bucket: Bucket, admin: Run) -> None:
    """--new-tokens makes others and names the older ones, which go on working."""
    first, second = admin().lines, admin("--new-tokens")
    assert second.lines["INFLUXDB_TOKEN"] != first["INFLUXDB_TOKEN"]
    assert "older ones stay valid" in second.err
    for token in (first["INFLUXDB_TOKEN"], second.lines["INFLUXDB_TOKEN"]):
        assert bucket.server.write("m v=1.0", bucket.name, token=token).status == 204


def test_buckets_added_later_need_new_tokens(bucket: Bucket, admin: Run) -> None:
    """Where long candles are asked for later, the old token is said to lack them, and a new one has them for good."""
    old = admin().lines["INFLUXDB_TOKEN"]
    later = admin("--downsample", "1h")
    assert "--new-tokens makes one that may" in later.err
    target = f"{bucket.name}_1h"
    assert bucket.server.write("m v=1.0", target, token=old).status == 403
    new = admin("--new-tokens").lines["INFLUXDB_TOKEN"]  # without saying --downsample again
    assert bucket.server.write("m v=1.0", target, token=new).status == 204


def test_saving_again_keeps_a_token_that_works(bucket: Bucket, admin: Run, tmp_path: Path) -> None:
    """--save a second time leaves a file whose token works; one whose token does not is told of, with exit code 1."""
    assert admin("--save").code == 0
    path = tmp_path / "secrets" / ".env.binance"
    before = path.read_text()
    again = admin("--save")
    assert (again.code, path.read_text()) == (0, before), again.err
    path.write_text("A=1\n")
    lost = admin("--save")
    assert (lost.code, path.read_text()) == (1, "A=1\n")
    assert "--new-tokens" in lost.err


def test_names_that_no_file_holds_are_refused_first(new_server: InfluxServer, run: Run) -> None:
    """A name that could not be shown is refused before anything is made: no token is ever lost."""
    done = run("setup", "--url", new_server.url, "--org", "a\nb")
    assert (done.code, done.out) == (2, "")
    assert new_server.ask("GET", "/api/v2/setup").json["allowed"] is True


def test_a_token_without_the_rights_is_told(bucket: Bucket, admin: Run) -> None:
    """A token that may only read and write points cannot set up: exit 4, and the operator's token is named."""
    token = bucket.server.new_token(read=[bucket.name], write=[bucket.name])
    done = admin("--downsample", "1h", INFLUXDB_ADMIN_TOKEN=token)
    assert (done.code, done.out) == (4, "")
    assert "operator" in done.err


def test_a_set_up_server_asks_for_a_token(influxd: InfluxServer, run: Run) -> None:
    """Without a token a server that is set up cannot be changed: exit 2, and where the token may stand."""
    done = run("setup", "--url", influxd.url)
    assert (done.code, done.out) == (2, "")
    assert "--token-file" in done.err


def test_the_token_may_come_from_a_file(bucket: Bucket, admin: Run, tmp_path: Path) -> None:
    """--token-file goes before the environment."""
    (tmp_path / "token").write_text(f"{bucket.token}\n")
    assert admin("--token-file", "token", INFLUXDB_ADMIN_TOKEN="wrong").code == 0
    assert admin("--token-file", "nowhere").code == 2


def test_an_organisation_that_is_missing_is_made(bucket: Bucket, run: Run) -> None:
    """The operator's token makes an organisation and a bucket in it, and the tokens work there."""
    server, org = bucket.server, f"org {bucket.name}"
    done = run("setup", "--url", server.url, "--org", org, INFLUXDB_TOKEN=server.token)
    assert done.code == 0, done.err
    assert "made    organisation" in done.err
    assert "checked: candles can be kept" in done.err


def test_a_bucket_that_is_used_otherwise_is_left_alone(bucket: Bucket, admin: Run) -> None:
    """A bucket that has the name of one of long candles and says it is for something else is refused, nothing is made."""
    server = bucket.server
    document = {
        "orgID": server.org_id,
        "name": f"{bucket.name}_1h",
        "description": "my own",
        "retentionRules": [],
    }
    server._wanted(201, "POST", "/api/v2/buckets", document)
    before = everything(server)
    done = admin("--downsample", "1h")
    assert done.code == 2
    assert "my own" in done.err
    assert everything(server) == before


def test_retentions_are_read() -> None:
    """INF is for ever; lengths are seconds, a year 365 days; anything else is refused by name."""
    texts = ("INF", "inf", "12h", "30d", "52w", "5y")
    assert [retention_of(text) for text in texts] == [0, 0, 43_200, 2_592_000, 31_449_600, 157_680_000]
    for text in ("", "0", "0h", "5", "5m", "-1d", "1.5d", "forever"):
        with pytest.raises(UsageError, match=text or "''"):
            retention_of(text)
    assert [seconds for _, seconds in wanted_long("b", ["1h", "1d=5y"])] == [0, 5 * YEAR]
    for asked in (["1h", "1h=5y"], ["1h=2d"], ["1w"], ["1h=x"]):
        with pytest.raises(UsageError):
            wanted_long("b", asked)
