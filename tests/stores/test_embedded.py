"""The embedded store keeps the contract of a store."""

from __future__ import annotations

from pathlib import Path

from chandlery.stores import open_store
from chandlery.stores.base import Store
from chandlery.stores.embedded import EmbeddedStore
from chandlery.testing import StoreContract


class TestEmbeddedStore(StoreContract):
    """All promises, in a folder."""

    def make_store(self, tmp_path: Path) -> Store:
        store = open_store(tmp_path / "candles")
        assert isinstance(store, EmbeddedStore)
        return store

    def reopen(self, store: Store) -> Store:
        store.close()
        return open_store(store.url, create=False)
