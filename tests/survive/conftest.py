"""What the survival tests of InfluxDB stand on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.influx.influx_server import InfluxServer

from chandlery.exchange import LocalExchange

from .influx_run import Run, running, still_exchange


@pytest.fixture(scope="module")
def exchange() -> Iterator[LocalExchange]:
    """An exchange that waits for nobody."""
    with still_exchange() as running_exchange:
        yield running_exchange


@pytest.fixture
def run(exchange: LocalExchange, influxd: InfluxServer, tmp_path: Path) -> Iterator[Run]:
    """Commands into a bucket of their own."""
    with running(exchange, influxd, tmp_path) as made:
        yield made
