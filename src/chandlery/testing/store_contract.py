"""What every store must do, as a test class: inherit `StoreContract`, give it `make_store` and `reopen`, run pytest.

`make_store(tmp_path)` returns a new store, `reopen(store)` closes it and opens the same one again. pytest is not
imported here, so that the package can be used without it.
"""

from __future__ import annotations

from chandlery.testing.store_books import BooksContract
from chandlery.testing.store_rows import RowsContract
from chandlery.testing.store_sharing import SharingContract


class StoreContract(RowsContract, BooksContract, SharingContract):
    """The promises of `chandlery.stores.base.Store`, one test each."""
