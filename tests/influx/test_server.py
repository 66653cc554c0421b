"""The real server that the InfluxDB tests stand on, and how it is got."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from .fixtures import Bucket, StartInfluxd
from .influx_server import INSTALL, InfluxServer, NoServer

START = 1_704_067_200_000
LINE = (
    "ohlcv,exchange=binance,symbol=BTC_USDT,timeframe=1m open=1,high=4,low=0.5,close={close},volume=10 {time}"
)


def lines(first: int, count: int) -> str:
    """Candles of one minute, whose close is their number."""
    return "\n".join(
        LINE.format(close=float(n), time=START + n * 60_000) for n in range(first, first + count)
    )


def test_a_new_server_stores_what_it_acknowledged(bucket: Bucket) -> None:
    """A started and onboarded server answers a write with 204, and a query with the points of that write."""
    assert bucket.server.write(lines(0, 5), bucket.name).status == 204

    found = bucket.server.rows(
        f'from(bucket: "{bucket.name}") |> range(start: 2024-01-01T00:00:00Z, stop: 2024-01-02T00:00:00Z)'
        ' |> filter(fn: (r) => r._field == "close")'
    )
    assert [(row["_time"], float(row["_value"])) for row in found] == [
        (f"2024-01-01T00:{n:02}:00Z", float(n)) for n in range(5)
    ]
    assert found[0]["symbol"] == "BTC_USDT"
    assert bucket.server.count(bucket=bucket.name) == 5


def test_each_test_has_a_bucket_of_its_own(bucket: Bucket, influxd: InfluxServer) -> None:
    """A test's bucket is empty and keeps points for ever, whatever other tests wrote."""
    influxd.write(lines(0, 1))

    assert influxd.count(bucket=bucket.name) == 0
    assert bucket.url == f"influxdb://127.0.0.1:{influxd.port}/{influxd.org}/{bucket.name}"


def test_a_token_may_do_what_it_was_made_for(bucket: Bucket) -> None:
    """A token for writing cannot read, one for reading cannot write, and a revoked one can do neither."""
    server = bucket.server
    writer, reader = server.new_token(write=[bucket.name]), server.new_token(read=[bucket.name])
    flux = f'from(bucket: "{bucket.name}") |> range(start: 0) |> filter(fn: (r) => r._field == "close")'

    assert server.write(lines(0, 3), bucket.name, token=writer).status == 204
    assert len(server.rows(flux, token=reader)) == 3
    assert server.write(lines(3, 1), bucket.name, token=reader).status in (401, 403, 404)
    with pytest.raises(NoServer, match=r"40[134]"):
        server.query(flux, token=writer)
    server.revoke(writer)
    assert server.write(lines(3, 1), bucket.name, token=writer).status == 401
    assert server.count(bucket=bucket.name) == 3


def test_a_bucket_has_the_retention_asked_for(influxd: InfluxServer) -> None:
    """A bucket that keeps points for a day refuses those of 2024 with 422; a deleted bucket is gone."""
    day = influxd.new_bucket(retention_seconds=86_400, shard_seconds=3_600)

    answer = influxd.write(lines(0, 2), day)
    assert (answer.status, influxd.count(bucket=day)) == (422, 0)
    assert "retention" in answer.text
    influxd.delete_bucket(day)
    assert influxd.write(lines(0, 2), day).status == 404


def test_a_killed_server_has_what_it_acknowledged(start_influxd: StartInfluxd) -> None:
    """What was acknowledged before a SIGKILL is there after the next start, on the same port, with the same token."""
    server = start_influxd()
    url = server.url
    for first in range(0, 3_000, 500):
        assert server.write(lines(first, 500)).status == 204
    server.kill()
    assert not server.is_running
    with pytest.raises(OSError, match="refused"):
        server.write(lines(3_000, 1))

    server.start()
    assert (server.url, server.count()) == (url, 3_000)
    server.stop()
    server.start()
    assert server.count() == 3_000


def test_a_server_that_cannot_start_says_why(start_influxd: StartInfluxd) -> None:
    """A server that ends at its start raises with the words of its log."""
    with pytest.raises(NoServer, match="unknown flag: --no-such-option"):
        start_influxd("--no-such-option")


def test_a_server_can_be_left_as_new(start_influxd: StartInfluxd) -> None:
    """A server that was not onboarded still allows its set-up."""
    server = start_influxd(onboard=False)

    assert server.ask("GET", "/api/v2/setup").json["allowed"] is True
    assert server.write(lines(0, 1)).status == 401


# ---- how it is got -------------------------------------------------------------------------------------------------


def install(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run tools/influxd/install with an empty cache, with nothing on PATH but what is given."""
    clean = {"PATH": "", "HOME": str(folder), "CHANDLERY_CACHE": str(folder / "cache"), **environment}
    return subprocess.run(
        [INSTALL, *arguments], env=clean, capture_output=True, text=True, timeout=60, check=False
    )


def influxd_that_says(folder: Path, version: str) -> Path:
    """A program named influxd with that answer to `version`."""
    program = folder / "bin" / "influxd"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n[ \"$1\" = version ] && echo '{version}'\n")
    program.chmod(0o755)
    return program


def test_without_a_server_find_says_so_and_builds_nothing(tmp_path: Path) -> None:
    """`--find` with nothing to find ends with exit code 1, an empty stdout and the way to get one."""
    done = install(tmp_path, "--find")

    assert (done.returncode, done.stdout) == (1, "")
    assert "tools/influxd/install builds one" in done.stderr
    assert not (tmp_path / "cache").exists()


def test_a_missing_toolchain_is_named(tmp_path: Path) -> None:
    """Without go, rust, a C compiler and pkg-config, each is named, with a hint, before anything is made."""
    done = install(tmp_path)

    assert (done.returncode, done.stdout) == (2, "")
    for missing in ("go (>= 1.", "cargo and rustc (>= 1.", "pkg-config", "C compiler"):
        assert missing in done.stderr
    assert "hint: install them" in done.stderr
    assert "INFLUXD=" in done.stderr
    assert "deploy/compose.yaml" in done.stderr
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("tool", "answer", "said"),
    [
        ("go", "go1.20.3", "go is 1.20.3; InfluxDB v2."),
        ("rustc", "rustc 1.70.0 (90c541806 2023-05-31)", "rustc is 1.70.0; InfluxDB v2."),
    ],
)
def test_a_toolchain_that_is_too_old_is_named(tmp_path: Path, tool: str, answer: str, said: str) -> None:
    """A go or rustc older than InfluxDB needs is named with its version and a hint, before anything is built."""
    tools = tmp_path / "sysroot" / "bin"
    tools.mkdir(parents=True)
    says = {"go": "go1.99.0", "rustc": "rustc 1.99.0 (x)", "cargo": "", "gcc": "", "pkg-config": ""} | {
        tool: answer
    }
    for name, text in says.items():
        script = f'#!/bin/sh\nif [ "$1" = --print ]; then echo {tools.parent}; else echo "{text}"; fi\n'
        (tools / name).write_text(script)
        (tools / name).chmod(0o755)

    done = install(tmp_path, PATH=str(tools))

    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert "hint: " in done.stderr
    assert not (tmp_path / "cache").exists()


def test_influxdb_1_is_not_taken(tmp_path: Path) -> None:
    """An influxd 1.x on PATH is passed over aloud; one that INFLUXD names is refused, as is a program that is not there."""
    old = influxd_that_says(tmp_path, "InfluxDB v1.8.10 (git: 1.8 688e697c51fd)")

    on_path = install(tmp_path, "--find", PATH=str(old.parent))
    assert (on_path.returncode, on_path.stdout) == (1, "")
    assert f"not taken: {old} is InfluxDB 1.x" in on_path.stderr
    for arguments in ((), ("--find",)):
        named = install(tmp_path, *arguments, INFLUXD=str(old))
        assert (named.returncode, named.stdout) == (2, "")
        assert "InfluxDB 1.x" in named.stderr
        assert "hint: name an InfluxDB 2 server" in named.stderr
    gone = install(tmp_path, "--find", INFLUXD=str(tmp_path / "gone"))
    assert gone.returncode == 2
    assert "which is not there" in gone.stderr


def test_a_server_that_is_there_is_used(tmp_path: Path, influxd_program: Path) -> None:
    """INFLUXD goes before PATH, both before building; stdout is the path and nothing else; a program of 2.x is taken."""
    other = influxd_that_says(tmp_path, "InfluxDB v2.7.12 (git: ec9dcde5d6) build_date: 2025-05-20T22:48:41Z")

    assert install(tmp_path, PATH=str(other.parent)).stdout == f"{other}\n"
    named = install(tmp_path, PATH=str(other.parent), INFLUXD=str(influxd_program))
    assert (named.returncode, named.stdout, named.stderr) == (0, f"{influxd_program}\n", "")
    real = subprocess.run([influxd_program, "version"], capture_output=True, text=True, check=True)
    assert real.stdout.startswith("InfluxDB v2.")


TOOLCHAIN = {
    "go": """#!/bin/sh
if [ "$1" = env ]; then echo go1.99.0; exit; fi
echo build >>"$BUILDS"
while [ "$1" != -o ]; do shift; done
sleep "${SLOW:-0}"
[ "$2" != influxd ] || [ -z "${BROKEN:-}" ] || { echo "undefined: everything"; exit 1; }
printf '#!/bin/sh\\necho InfluxDB v2.9.9\\n' >"$2"
chmod +x "$2"
""",
    "rustc": """#!/bin/sh
case $1 in --print) echo "${0%/bin/*}" ;; *) echo "rustc 1.99.0 (x)" ;; esac
""",
    "cargo": "#!/bin/sh\n",
    "gcc": "#!/bin/sh\n",
    "pkg-config": "#!/bin/sh\n",
}


@pytest.fixture
def toolchain(tmp_path: Path) -> dict[str, str]:
    """PATH with compilers that take no time, and a file in which each call of `go build` leaves a line."""
    tools = tmp_path / "toolchain" / "bin"
    tools.mkdir(parents=True)
    for name, script in TOOLCHAIN.items():
        (tools / name).write_text(script)
        (tools / name).chmod(0o755)
    return {"PATH": f"{tools}{os.pathsep}{os.defpath}", "BUILDS": str(tmp_path / "builds")}


def test_it_is_built_once_whoever_asks(tmp_path: Path, toolchain: dict[str, str]) -> None:
    """Of five installs at once one builds and the others wait for it; all print its path, and the next builds nothing."""
    with ThreadPoolExecutor(5) as pool:
        runs = list(pool.map(lambda _: install(tmp_path, SLOW="0.5", **toolchain), range(5)))

    assert {run.returncode for run in runs} == {0}, [run.stderr for run in runs]
    (path,) = {run.stdout for run in runs}
    (built,) = (tmp_path / "cache").glob("influxd-*/influxd")
    assert path == f"{built}\n"
    assert install(tmp_path, **toolchain).stdout == install(tmp_path, "--find").stdout == path
    assert Path(toolchain["BUILDS"]).read_text().split() == ["build", "build"]  # pkg-config and influxd
    assert [entry.name for entry in (tmp_path / "cache").iterdir()] == [built.parent.name]


def test_an_interrupted_build_is_started_anew(tmp_path: Path, toolchain: dict[str, str]) -> None:
    """After a build that was killed, nothing is taken for built; the next one cleans up, builds and succeeds."""
    environment = {
        "HOME": str(tmp_path),
        "CHANDLERY_CACHE": str(tmp_path / "cache"),
        **toolchain,
        "SLOW": "60",
    }
    broken = subprocess.Popen([INSTALL], env=environment, start_new_session=True, stderr=subprocess.DEVNULL)
    while not list((tmp_path / "cache").glob("*.build-*/go.mod")) or not Path(toolchain["BUILDS"]).exists():
        assert broken.poll() is None
        time.sleep(0.01)
    os.killpg(broken.pid, signal.SIGKILL)
    broken.wait()

    assert install(tmp_path, "--find").returncode == 1
    done = install(tmp_path, **toolchain)
    assert (done.returncode, done.stdout.endswith("/influxd\n")) == (0, True), done.stderr
    assert "a build was interrupted; it is started anew" in done.stderr
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_a_build_that_fails_shows_why(tmp_path: Path, toolchain: dict[str, str]) -> None:
    """A build that fails ends with the compiler's words, a hint and exit code 2, and leaves nothing in the cache."""
    done = install(tmp_path, BROKEN="1", **toolchain)

    assert (done.returncode, done.stdout) == (2, "")
    assert "undefined: everything" in done.stderr
    assert "hint: are the package indexes of Go and Rust reached?" in done.stderr
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, toolchain: dict[str, str]) -> None:
    """A cache folder that cannot be made, or none at all, is named with a hint."""
    (tmp_path / "file").touch()

    blocked = install(tmp_path, **toolchain, CHANDLERY_CACHE=str(tmp_path / "file" / "cache"))
    assert (blocked.returncode, blocked.stdout) == (2, "")
    assert f"cannot make the folder {tmp_path}/file/cache" in blocked.stderr
    nowhere = install(tmp_path, "--find", CHANDLERY_CACHE="", HOME="")
    assert nowhere.returncode == 2
    assert "hint: set CHANDLERY_CACHE" in nowhere.stderr


# ---- where there is none -------------------------------------------------------------------------------------------

TWO_TESTS = ("test_each_test_has_a_bucket_of_its_own", "test_a_missing_toolchain_is_named")


@pytest.mark.parametrize("workers", ["0", "2"])
@pytest.mark.parametrize("required", ["", "1"])
def test_without_a_server_its_tests_are_never_passed_over_in_silence(
    tmp_path: Path, workers: str, required: str
) -> None:
    """Without a server one line tells what was left out and how to get it; where one is required, the tests fail."""
    tests = [f"{__file__}::{name}" for name in TWO_TESTS]
    command = [sys.executable, "-m", "pytest", "-n", workers, "-p", "no:cacheprovider", "-p", "no:randomly"]
    hidden = {"INFLUXD", "XDG_CACHE_HOME", "CHANDLERY_REQUIRE_INFLUXD"}
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    environment |= {
        "PATH": os.defpath,
        "CHANDLERY_CACHE": str(tmp_path),
        "CHANDLERY_REQUIRE_INFLUXD": required,
    }
    done = subprocess.run(
        [*command, *tests], env=environment, capture_output=True, text=True, timeout=120, check=False
    )

    left_out = [line for line in done.stdout.splitlines() if "left out" in line]
    if required:
        assert (done.returncode, left_out) == (1, []), done.stdout
        assert "1 passed, 1 error" in done.stdout
        assert "there is no InfluxDB 2 server, and CHANDLERY_REQUIRE_INFLUXD=1 asks for one" in done.stdout
    else:
        assert done.returncode == 0, done.stdout
        (line,) = left_out
        assert line.startswith("1 InfluxDB test was left out: there is no InfluxDB 2 server; `make influxd`")
        assert "1 passed" in done.stdout
