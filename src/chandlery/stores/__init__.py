"""Stores: where candles, ledger and journal are kept. `open_store` picks one by its URL."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chandlery.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from chandlery.stores.base import Store

__all__ = ["open_store"]


def open_store(url: str | Path = "./candles", *, create: bool = True) -> Store:
    """Open the store at `url`: a path or `file:PATH` for an embedded one, `memory:` for one that dies with the process.

    Nothing is written before the first entry. Raises NoSuchStore if nothing is there and `create` is False,
    StoreUnreadable if what is there is not a store, UsageError for a URL of another kind.
    """
    text = str(url)
    scheme, colon, rest = text.partition(":")
    if text == "memory:":
        from chandlery.stores.memory import MemoryStore

        return MemoryStore()
    if scheme in ("influxdb", "influxdb+https", "influxdb+http"):
        raise UsageError(
            f"this release has no InfluxDB store yet: {text!r}",
            hint="name a folder, such as --store ./candles",
        )
    if colon and scheme == "file":
        # file:/a, file:///a and file:a are all in use; two slashes and a host are not.
        text = rest[2:] if rest.startswith("///") else rest
        if rest.startswith("//") and not rest.startswith("///"):
            raise UsageError(f"not a store: {url!r} names a host", hint="write file:PATH or just PATH")
    elif "://" in text:
        raise UsageError(
            f"not a store: no kind of store is called {scheme!r}", hint="a store is a folder; write its path"
        )
    if not text or "\0" in text:
        raise UsageError(
            f"not a store: {str(url)!r} is not a path", hint="a store is a folder; write its path"
        )
    from chandlery.stores.embedded import EmbeddedStore

    return EmbeddedStore(text, create=create)
