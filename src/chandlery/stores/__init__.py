"""Stores: where candles, ledger and journal are kept. `open_store` picks one by its URL."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chandlery.errors import UsageError
from chandlery.stores.influx_place import is_influx_url, place_of

if TYPE_CHECKING:
    from pathlib import Path

    from chandlery.config import Settings
    from chandlery.stores.base import Store

__all__ = ["open_store"]


def open_store(
    url: str | Path = "./candles", *, create: bool = True, settings: Settings | None = None
) -> Store:
    """Open the store at `url`: a path or `file:PATH` for an embedded one, `influxdb://HOST:PORT/ORG/BUCKET` (or just
    `influxdb`) for an InfluxDB 2, `memory:` for one that dies with the process.

    The token for InfluxDB is INFLUXDB_TOKEN, and with just `influxdb` all else comes from INFLUXDB_URL, _ORG and
    _BUCKET: those of `settings`, or of `load_settings()` if None. Nothing is written before the first entry. Raises
    NoSuchStore if nothing is there and `create` is False, StoreUnreadable if what is there is not a store or may not be
    used, DatabaseError if a server does not answer, UsageError for a URL of another kind.
    """
    text = str(url)
    scheme, colon, rest = text.partition(":")
    if text == "memory:":
        from chandlery.stores.memory import MemoryStore

        return MemoryStore()
    if is_influx_url(text):
        from chandlery.config import load_settings
        from chandlery.stores.influx import InfluxStore

        settings = settings or load_settings()
        return InfluxStore(place_of(text, settings), folder=settings.state)
    if colon and scheme == "file":
        # file:/a, file:///a and file:a are all in use; two slashes and a host are not.
        text = rest[2:] if rest.startswith("///") else rest
        if rest.startswith("//") and not rest.startswith("///"):
            raise UsageError(f"not a store: {url!r} names a host", hint="write file:PATH or just PATH")
    elif "://" in text:
        raise UsageError(
            f"not a store: no kind of store is called {scheme!r}",
            hint="write a folder's path, or influxdb://HOST:8086/ORG/BUCKET",
        )
    if not text or "\0" in text:
        raise UsageError(
            f"not a store: {str(url)!r} is not a path", hint="a store is a folder; write its path"
        )
    from chandlery.stores.embedded import EmbeddedStore

    return EmbeddedStore(text, create=create)
