"""What a test class of the store contract is given: a way to make a store, and one to open it again."""

from __future__ import annotations

from pathlib import Path

from chandlery.stores.base import Store


class StoreMaker:
    """Makes the stores that the promises are tested on; whoever inherits a contract overrides both methods."""

    def make_store(self, tmp_path: Path) -> Store:
        """A new, empty store."""
        raise NotImplementedError

    def reopen(self, store: Store) -> Store:
        """Close the store and open it again; a store that dies with its object is given back as it is."""
        raise NotImplementedError
