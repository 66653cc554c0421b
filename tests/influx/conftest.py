"""What several InfluxDB tests stand on: an exchange, settings that name the bucket, a reader of it, and a proxy before it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from chandlery.exchange import ExchangeSettings, LocalExchange
from chandlery.stores import influx_send
from chandlery.stores.influx_http import InfluxHttp
from chandlery.stores.influx_place import InfluxPlace
from chandlery.stores.influx_read import Reader

from .commands import CLOCK, Done, Run, chandlery
from .fixtures import Bucket
from .proxy import FaultProxy


@pytest.fixture(scope="module")
def exchange() -> Iterator[LocalExchange]:
    """A local exchange whose clock stands still."""
    with LocalExchange(ExchangeSettings(clock=f"{CLOCK},0")) as running:
        yield running


@pytest.fixture
def influx(
    bucket: Bucket, exchange: LocalExchange, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Bucket:
    """A bucket whose server, organisation, name and token are in the environment, and an exchange to ask."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EXCHANGE_URL", exchange.url)
    for name, value in bucket.environment.items():
        monkeypatch.setenv(name, value)
    return bucket


@pytest.fixture
def reader(bucket: Bucket) -> Iterator[Reader]:
    """A reader of the test's bucket, as its administrator."""
    place = InfluxPlace(bucket.server.url, bucket.server.org, bucket.name, bucket.token)
    http = InfluxHttp(place, patience=20.0)
    try:
        yield Reader(http)
    finally:
        http.close()


@pytest.fixture
def proxy(bucket: Bucket) -> Iterator[FaultProxy]:
    """A proxy before the server of the bucket."""
    with FaultProxy(bucket.server.url) as proxy:
        yield proxy


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of ten lines, so that a few lines are several batches."""
    monkeypatch.setattr(influx_send, "BATCH", 10)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run `chandlery influx …` in an empty folder; names in capitals are variables of its environment."""
    monkeypatch.chdir(tmp_path)

    def command(*args: object, **environment: str) -> Done:
        return chandlery("influx", *args, **environment)

    return command


@pytest.fixture
def admin(bucket: Bucket, run: Run) -> Run:
    """Run `chandlery influx setup` as the administrator of the common server, on a bucket of the test's own."""

    def command(*args: object, **environment: str) -> Done:
        named = ("--url", bucket.server.url, "--org", bucket.server.org, "--bucket", bucket.name)
        return run("setup", *named, *args, **{"INFLUXDB_ADMIN_TOKEN": bucket.token, **environment})

    return command
