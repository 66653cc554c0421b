"""What a store or a source must do, as test classes to inherit, and a clock that a test owns."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from chandlery.testing.source_contract import SourceContract
    from chandlery.testing.store_contract import StoreContract

__all__ = ["SourceContract", "StoreContract"]


def __getattr__(name: str) -> object:
    """Import late: a test class brings numpy and polars with it."""
    if name == "StoreContract":
        from chandlery.testing.store_contract import StoreContract

        return StoreContract
    if name == "SourceContract":
        from chandlery.testing.source_contract import SourceContract

        return SourceContract
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
