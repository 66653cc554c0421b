"""The InfluxDB store keeps the contract of a store, on a real server."""

from __future__ import annotations

from pathlib import Path

import pytest

from chandlery.stores import open_store
from chandlery.stores.base import Store
from chandlery.stores.influx import InfluxStore
from chandlery.testing import StoreContract

from .influx_server import InfluxServer


class TestInfluxStore(StoreContract):
    """All promises, in buckets of one server."""

    @pytest.fixture(autouse=True)
    def _server(self, influxd: InfluxServer, monkeypatch: pytest.MonkeyPatch) -> None:
        self.server = influxd
        monkeypatch.setenv("INFLUXDB_TOKEN", influxd.token)

    def make_store(self, tmp_path: Path) -> Store:
        store = open_store(self.server.store_url(self.server.new_bucket()))
        assert isinstance(store, InfluxStore)
        return store

    def reopen(self, store: Store) -> Store:
        store.close()
        return open_store(store.url, create=False)
