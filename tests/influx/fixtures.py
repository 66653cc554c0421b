"""What InfluxDB tests stand on: real servers, and buckets of their own. tests/conftest.py gives it to all folders.

A test that asks for `influxd_program`, or for a fixture that stands on it, is an InfluxDB test. Where there is no influxd,
these tests are left out, all of them and with a line at the end that says so; with CHANDLERY_REQUIRE_INFLUXD=1 they fail.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from .influx_server import InfluxServer, NoServer, find_program

REQUIRE = "CHANDLERY_REQUIRE_INFLUXD"
HOW = "`make influxd` builds it, once (docs/influxdb-server.md)"
_LEFT_OUT = pytest.StashKey[int]()

StartInfluxd = Callable[..., InfluxServer]


@dataclass(frozen=True, slots=True)
class Bucket:
    """A bucket that nothing else writes to, on a server that other tests use too."""

    server: InfluxServer
    name: str

    @property
    def url(self) -> str:
        """Its store URL: influxdb://HOST:PORT/ORG/BUCKET."""
        return self.server.store_url(self.name)

    @property
    def token(self) -> str:
        """The administrator's token."""
        return self.server.token

    @property
    def environment(self) -> Mapping[str, str]:
        """The variables that name it: INFLUXDB_URL, INFLUXDB_TOKEN, INFLUXDB_ORG, INFLUXDB_BUCKET."""
        return {
            "INFLUXDB_URL": self.server.url,
            "INFLUXDB_TOKEN": self.server.token,
            "INFLUXDB_ORG": self.server.org,
            "INFLUXDB_BUCKET": self.name,
        }


def pytest_configure(config: pytest.Config) -> None:
    """Look for a server once, before the settings that say where are cleared, and hand it to the workers of xdist."""
    if hasattr(config, "workerinput"):
        return
    if os.environ.get(REQUIRE, "") not in ("", "0", "1"):
        raise pytest.UsageError(f"{REQUIRE} is '1' or unset, not {os.environ[REQUIRE]!r}")
    try:
        program = find_program()
    except NoServer as error:
        raise pytest.UsageError(str(error)) from None
    os.environ["INFLUXD"] = str(program or "")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the InfluxDB tests out where there is no server and none is required."""
    if os.environ["INFLUXD"] or os.environ.get(REQUIRE) == "1":
        return
    left_out = [item for item in items if "influxd_program" in getattr(item, "fixturenames", ())]
    if left_out:
        config.stash[_LEFT_OUT] = len(left_out)
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Tell xdist's controller, which collects nothing itself, how many were left out."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["influxdb_tests_left_out"] = session.config.stash.get(_LEFT_OUT, 0)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Every worker collects the same tests: take the number of any."""
    number = getattr(node, "workeroutput", {}).get("influxdb_tests_left_out", 0)
    if number:
        node.config.stash[_LEFT_OUT] = number


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Say in one line what was left out, and how to get it."""
    if number := config.stash.get(_LEFT_OUT, 0):
        tests = "1 InfluxDB test was" if number == 1 else f"{number} InfluxDB tests were"
        terminalreporter.write_line(f"{tests} left out: there is no InfluxDB 2 server; {HOW}", yellow=True)


@pytest.fixture(scope="session")
def influxd_program() -> Path:
    """The influxd that was found."""
    if not os.environ["INFLUXD"]:
        pytest.fail(f"there is no InfluxDB 2 server, and {REQUIRE}=1 asks for one; {HOW}", pytrace=False)
    return Path(os.environ["INFLUXD"])


@pytest.fixture(scope="session")
def influxd(influxd_program: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[InfluxServer]:
    """A server for the tests that leave it running: one for each worker, with a bucket for each test."""
    with InfluxServer(influxd_program, tmp_path_factory.mktemp("influxd")) as server:
        yield server


@pytest.fixture
def bucket(influxd: InfluxServer) -> Bucket:
    """A new bucket on the common server; its points stay for ever."""
    return Bucket(influxd, influxd.new_bucket())


@pytest.fixture
def start_influxd(influxd_program: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartInfluxd]:
    """Start a server of the test's own, to be killed, filled up or set up: takes what InfluxServer takes after `folder`."""
    started: list[InfluxServer] = []

    def start(*arguments: str, **options: Any) -> InfluxServer:
        server = InfluxServer(influxd_program, tmp_path_factory.mktemp("influxd"), *arguments, **options)
        started.append(server)
        return server

    yield start
    for server in started:
        server.kill()
