"""Commands on an InfluxDB store: where its settings may stand, what is said when it cannot be used, and what never is."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from chandlery.cli.output import Output
from chandlery.cli.waits import tell_store_warnings
from chandlery.exchange import LocalExchange

from .commands import chandlery
from .fixtures import Bucket, StartInfluxd

CANARY = "canary-0123456789abcdef-t0ken=="
NOWHERE = "influxdb://127.0.0.1:9/o/b"
FETCH = ("fetch", "BTC/USDT", "--since", "2024-05-30")
COMMANDS = [
    FETCH,
    ("fetch",),
    ("plan", "BTC/USDT"),
    ("list",),
    ("show", "BTC/USDT"),
    ("latest", "BTC/USDT"),
    ("export", "BTC/USDT"),
    ("verify",),
    ("verify", "--repair"),
    ("chart", "BTC/USDT"),
    ("remove", "BTC/USDT", "--yes"),
    ("seal",),
]


@pytest.fixture(autouse=True)
def _folder(exchange: LocalExchange, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EXCHANGE_URL", exchange.url)


# -- where settings may stand ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["environment", "secrets/.env.binance", ".env", "chandlery.toml"])
def test_plain_influxdb_takes_everything_from_the_settings(
    place: str, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--store influxdb` finds server, organisation, bucket and token in the environment or a settings file."""
    if place == "environment":
        for name, value in bucket.environment.items():
            monkeypatch.setenv(name, value)
    elif place == "chandlery.toml":  # which may not hold the token
        named = {name: value for name, value in bucket.environment.items() if name != "INFLUXDB_TOKEN"}
        (tmp_path / place).write_text("".join(f'{n.lower()} = "{v}"\n' for n, v in named.items()))
        monkeypatch.setenv("INFLUXDB_TOKEN", bucket.token)
    else:
        file = tmp_path / place
        file.parent.mkdir(exist_ok=True)
        file.write_text("".join(f"{name}={value}\n" for name, value in bucket.environment.items()))
        file.chmod(0o600)
    done = chandlery(*FETCH, "--store", "influxdb")

    assert done.code == 0, done.err
    assert f"store: {bucket.url}\n" in done.err
    assert bucket.server.count(bucket=bucket.name) == 48
    assert bucket.token not in done.out + done.err
    assert chandlery("list", "--store", "influxdb", "--json").json["series"][0]["candles"] == 48
    assert chandlery("verify", "--store", bucket.url).code == 0


def test_the_store_may_be_named_once_for_all(influx: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """CHANDLERY_STORE=influxdb, or `store = "influxdb"` in chandlery.toml, makes it the store of every command."""
    monkeypatch.setenv("CHANDLERY_STORE", "influxdb")
    done = chandlery(*FETCH)
    assert done.code == 0, done.err
    assert "warning" not in done.err
    assert influx.server.count(bucket=influx.name) == 48

    monkeypatch.delenv("CHANDLERY_STORE")
    Path("chandlery.toml").write_text('store = "influxdb"\n')
    assert chandlery("list", "--json").json["store"] == influx.url


def test_what_is_missing_is_named(influx: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a token, an organisation or a bucket the exit code is 2 and the variable is named."""
    for name in ("INFLUXDB_TOKEN", "INFLUXDB_ORG", "INFLUXDB_BUCKET"):
        with monkeypatch.context() as without:
            without.delenv(name)
            done = chandlery("list", "--store", "influxdb")
        assert (done.code, done.out) == (2, "")
        assert name in done.err


# -- what cannot be used ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_store_that_cannot_be_used(
    words: tuple[str, ...], influx: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that is down or refuses the token is exit code 4, a bucket or an organisation that is not there 2; each
    with one error, a hint, nothing on stdout, and no token.
    """
    other = influx.server.store_url("no such bucket")
    cases = [
        (4, "nothing takes connections on port 9", NOWHERE, {}),
        (4, "does not take the token", influx.url, {"INFLUXDB_TOKEN": CANARY}),
        (2, "there is no bucket 'no such bucket'", other, {}),
        (2, "there is no organisation 'nobody'", "influxdb", {"INFLUXDB_ORG": "nobody"}),
    ]
    for code, said, url, environment in cases:
        with monkeypatch.context() as changed:
            for name, value in environment.items():
                changed.setenv(name, value)
            done = chandlery(*words, "--store", url)
        assert (done.code, done.out) == (code, ""), done.err
        assert said in done.err
        assert done.err.count("error: ") == 1
        assert "hint: " in done.err
        assert "***" not in done.err
        assert CANARY not in done.err
        assert influx.token not in done.err
    assert influx.server.count("chandlery_ledger", influx.name, field="n") == 0


def test_an_empty_bucket_is_an_empty_store(influx: Bucket) -> None:
    """What reads, and a fetch without symbols, end with 2 and say that nothing is kept; no point is written."""
    for words in (
        ("list",),
        ("show", "BTC/USDT"),
        ("verify",),
        ("fetch",),
        ("export", "BTC/USDT"),
        ("remove", "X/Y"),
    ):
        done = chandlery(*words, "--store", "influxdb")
        assert (done.code, done.out) == (2, ""), words
        assert influx.url in done.err
        assert "chandlery fetch SYMBOL" in done.err or "no such series" in done.err
    assert chandlery("seal", "--store", "influxdb").code == 0
    assert chandlery("plan", "BTC/USDT", "--store", "influxdb").code == 0
    assert influx.server.count("chandlery_check", influx.name, field="nonce") == 0


def test_there_is_nothing_to_seal(influx: Bucket) -> None:
    """`seal` says that an InfluxDB has nothing to seal, and ends with 0."""
    assert chandlery(*FETCH, "--store", "influxdb").code == 0
    done = chandlery("seal", "--all", "--store", "influxdb")

    assert (done.code, done.out) == (0, "")
    assert "nothing to seal" in done.err


def test_a_token_that_may_only_read(influx: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a read-only token everything reads; fetch and remove end with 4, say what is missing and change nothing."""
    assert chandlery(*FETCH, "--store", "influxdb").code == 0
    monkeypatch.setenv("INFLUXDB_TOKEN", influx.server.new_token(read=[influx.name]))
    for words in (
        ("list",),
        ("show", "BTC/USDT"),
        ("export", "BTC/USDT"),
        ("verify",),
        ("chart", "BTC/USDT"),
        ("plan", "BTC/USDT"),
    ):
        done = chandlery(*words, "--store", "influxdb")
        assert done.code == 0, done.err

    for words in (
        ("fetch", "BTC/USDT", "--since", "2024-05-01"),
        ("fetch",),
        ("remove", "BTC/USDT", "--yes"),
    ):
        done = chandlery(*words, "--store", "influxdb")
        assert done.code == 4, done.err
        assert "may not write" in done.err
    assert influx.server.count(bucket=influx.name) == 48


def test_repair_brings_back_what_was_deleted(influx: Bucket) -> None:
    """Rows deleted by another program make verify fail; --repair asks for them, and all is there again."""
    assert chandlery(*FETCH, "--store", "influxdb").code == 0
    before = chandlery("export", "BTC/USDT", "--store", "influxdb").out
    where = f"/api/v2/delete?org={influx.server.org}&bucket={influx.name}"
    hour = b'{"start":"2024-05-30T05:00:00Z","stop":"2024-05-30T06:30:00Z","predicate":"_measurement=\\"ohlcv\\""}'
    assert influx.server.ask("POST", where, hour).status == 204
    assert influx.server.count(bucket=influx.name) == 46

    broken = chandlery("verify", "--store", "influxdb")
    assert broken.code == 1
    assert "2 candles of binance BTC/USDT 1h that were written are not there" in broken.err
    repaired = chandlery("verify", "--repair", "--store", "influxdb")
    assert repaired.code == 0, repaired.err
    assert "repair brought 2 candles" in repaired.err
    assert chandlery("export", "BTC/USDT", "--store", "influxdb").out == before
    again = chandlery("verify", "--repair", "--store", "influxdb", "--json")
    assert (again.code, again.json["ok"]) == (0, True)


def test_remove_takes_one_series_and_asks_first(influx: Bucket) -> None:
    """`remove` asks, then takes the rows of that series alone; what is fetched anew is whole again."""
    assert (
        chandlery("fetch", "BTC/USDT", "ETH/USDT", "--since", "2024-05-30", "--store", "influxdb").code == 0
    )
    assert chandlery("remove", "BTC/USDT", "--store", "influxdb", stdin="n\n").code == 1
    assert influx.server.count(bucket=influx.name) == 96

    done = chandlery("remove", "BTC/USDT", "--store", "influxdb", stdin="y\n")
    assert (done.code, done.out) == (0, "")
    assert "removed binance BTC/USDT 1h: 48 candles" in done.err
    assert influx.server.count(bucket=influx.name) == 48
    assert [s["symbol"] for s in chandlery("list", "--store", "influxdb", "--json").json["series"]] == [
        "ETH/USDT"
    ]
    assert chandlery(*FETCH, "--store", "influxdb").code == 0
    assert chandlery("verify", "--store", "influxdb").code == 0


# -- what is never said ----------------------------------------------------------------------------------------------


def test_no_token_is_ever_shown(influx: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the right token nor a wrong one is in any output at -vv, in JSON, in logs or in an unforeseen traceback."""
    said = []
    for token in (influx.token, CANARY):
        monkeypatch.setenv("INFLUXDB_TOKEN", token)
        for words in (*COMMANDS[:10], ("list", "--json"), (*FETCH, "--json")):
            done = chandlery(*words, "-vv", "--store", "influxdb")
            said.append(done.out + done.err)
        script = (
            "import chandlery as ch, logging; ch.configure_logger(); logging.getLogger().setLevel(1)\n"
            "with ch.DataPipeline() as pipeline:\n"
            "    try: print(pipeline.fetch_and_store('BTC/USDT', '1h', '2024-05-30'), pipeline.store, vars(pipeline.store))\n"
            "    finally: logging.exception('at the end: %r', pipeline.settings)\n"
        )
        done_too = subprocess.run(
            [sys.executable, "-c", script],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            env={**os.environ, "CHANDLERY_LOGS": str(tmp_path / "logs")},
        )
        assert (done_too.returncode == 0) == (token != CANARY), done_too.stderr
        said.append(done_too.stdout + done_too.stderr)
    said += [file.read_text() for file in (tmp_path / "logs").iterdir()]

    assert len("".join(said)) > 5_000
    assert not any(influx.token in text or CANARY in text for text in said)


def test_url_with_a_password_is_refused_and_not_repeated(influx: Bucket) -> None:
    """A store URL that holds a user and a password is refused with exit code 2; the password is not said again."""
    done = chandlery("list", "--store", f"influxdb://me:{CANARY}@127.0.0.1:8086/o/b")

    assert (done.code, done.out) == (2, "")
    assert CANARY not in done.err
    assert "hint: " in done.err


# -- outages and speed -----------------------------------------------------------------------------------------------


def test_a_server_that_dies_under_a_run_is_told(
    start_influxd: StartInfluxd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that ends between two runs is exit code 4; back again, the next run goes on, and nothing was lost."""
    server = start_influxd()
    bucket = Bucket(server, server.bucket)
    for name, value in bucket.environment.items():
        monkeypatch.setenv(name, value)
    assert chandlery(*FETCH, "--store", "influxdb").code == 0
    server.kill()
    assert chandlery("fetch", "BTC/USDT", "--since", "2024-05-29", "--store", "influxdb").code == 4
    server.start()
    assert chandlery("fetch", "BTC/USDT", "--since", "2024-05-29", "--store", "influxdb").code == 0
    assert chandlery("verify", "--store", "influxdb").code == 0
    assert server.count() == 72


def test_a_wait_for_the_server_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    """What the store warns of reaches the person at the command line; what differs by its numbers only, once in a while."""
    log = logging.getLogger("chandlery.stores")
    tell_store_warnings(Output())
    out = Output()
    tell_store_warnings(out)
    try:
        for wait in (0.1, 0.2, 0.4):
            log.warning("InfluxDB at %s: %s; asking again in %.1f s", "http://db:8086", "503 busy", wait)
        log.warning("%s holds series with other tags", "ohlcv")
    finally:
        for handler in log.handlers[:]:
            log.removeHandler(handler)

    assert capsys.readouterr().err.splitlines() == [
        "warning: InfluxDB at http://db:8086: 503 busy; asking again in 0.1 s",
        "warning: ohlcv holds series with other tags",
    ]


HOLD = """
import sys, chandlery as ch
series = ch.SeriesId("binance", "BTC/USDT", "1h")
with ch.open_store("influxdb") as store, store.lock(series):
    print("held", flush=True)
    sys.stdin.readline()
"""


def test_a_series_that_another_process_writes(influx: Bucket) -> None:
    """While another process of this host writes a series, fetch ends with 5 and names its id; other series go on, and
    reading does.
    """
    assert chandlery(*FETCH, "--store", "influxdb").code == 0
    with subprocess.Popen(
        [sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        done = chandlery("fetch", "BTC/USDT", "ETH/USDT", "--since", "2024-05-30", "--store", "influxdb")
        removed = chandlery("remove", "BTC/USDT", "--yes", "--store", "influxdb")
        read = chandlery("show", "BTC/USDT", "--store", "influxdb")
        holder.communicate("\n")
    assert (done.code, removed.code, read.code) == (5, 5, 0)
    assert str(holder.pid) in done.err
    assert influx.server.count(bucket=influx.name) == 96


def test_help_imports_no_client() -> None:
    """`chandlery --help` and the help of `list` load neither aiohttp nor polars nor the InfluxDB store."""
    script = (
        "import sys; from chandlery.cli.main import app\n"
        "for words in (['--help'], ['list', '--help'], ['influx', '--help']):\n"
        "    try: app(words)\n"
        "    except SystemExit as end: assert not end.code\n"
        "print(sorted({'aiohttp', 'polars', 'ccxt', 'numpy', 'chandlery.stores.influx'} & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
    assert "influxdb://HOST:PORT/ORG/BUCKET" in done.stdout
