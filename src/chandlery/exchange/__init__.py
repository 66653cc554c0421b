"""The local exchange: an HTTP server in the shape of Binance's spot API, for trying programs on.

It serves a generated market or candles from files, at any time and speed, with scripted faults. See
docs/local-exchange.md. The names below are imported when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chandlery.exchange.faults import KINDS, Fault, Faults, parse_fault
    from chandlery.exchange.local import LocalExchange, serve
    from chandlery.exchange.server import RequestRecord
    from chandlery.exchange.settings import ExchangeSettings

__all__ = [
    "KINDS",
    "ExchangeSettings",
    "Fault",
    "Faults",
    "LocalExchange",
    "RequestRecord",
    "parse_fault",
    "serve",
]

_HOMES = {
    "KINDS": "faults",
    "ExchangeSettings": "settings",
    "Fault": "faults",
    "Faults": "faults",
    "LocalExchange": "local",
    "RequestRecord": "server",
    "parse_fault": "faults",
    "serve": "local",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
