"""The exchanges that the local exchange can play, a file each."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from chandlery.exchange.shape import Shape

#: ccxt's id of an exchange, and the class of its shape.
SHAPES: Mapping[str, str] = {
    "binance": "BinanceSpot",
    "binanceusdm": "BinanceUsdm",
    "bybit": "Bybit",
    "okx": "Okx",
    "kraken": "Kraken",
    "coinbase": "Coinbase",
    "kucoin": "Kucoin",
    "mexc": "Mexc",
    "bitget": "Bitget",
    "gate": "Gate",
}


def shape_of(exchange: str) -> type[Shape]:
    """The shape of an exchange of `SHAPES`; imported when it is asked for."""
    module = import_module(f"chandlery.exchange.shapes.{exchange}")
    shape: type[Shape] = getattr(module, SHAPES[exchange])
    return shape
