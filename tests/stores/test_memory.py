"""The store in memory keeps the contract of a store."""

from __future__ import annotations

from pathlib import Path

from chandlery.stores import open_store
from chandlery.stores.base import Store
from chandlery.stores.memory import MemoryStore
from chandlery.testing import StoreContract


class TestMemoryStore(StoreContract):
    """The reference."""

    def make_store(self, tmp_path: Path) -> Store:
        store = open_store("memory:")
        assert isinstance(store, MemoryStore)
        return store

    def reopen(self, store: Store) -> Store:
        return store
