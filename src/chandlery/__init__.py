"""chandlery: complete, checked OHLCV candles from any exchange that ccxt speaks to, with a proof that nothing is missing.

    import chandlery as ch

    with ch.DataPipeline("binance") as pipeline:
        report = pipeline.fetch_and_store("BTC/USDT", "1h", "7d")
    frame = ch.open_store("./candles").read(ch.SeriesId("binance", "BTC/USDT", "1h"))

The names below are imported when they are first used: `import chandlery` costs nothing and touches no logger but its own.
"""

from __future__ import annotations

import concurrent.futures.thread  # noqa: F401 - Python refuses its first import in threads that outlive the main one
import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chandlery.candle import SeriesId
    from chandlery.errors import (
        BadAnswer,
        DatabaseError,
        DataPipelineError,
        ExchangeError,
        ExchangeRefused,
        ExchangeUnavailable,
        NoSuchSeries,
        NoSuchStore,
        RateLimited,
        SeriesLocked,
        StoreCorrupt,
        StoreFull,
        StoreUnreadable,
        UnknownExchange,
        UnknownSymbol,
        UnknownTimeframe,
        UsageError,
        VolumeUnitChanged,
    )
    from chandlery.logs import configure_logger
    from chandlery.pipeline import AsyncPipeline, DataPipeline, FetchReport
    from chandlery.sources import open_source
    from chandlery.stores import open_store
    from chandlery.timerange import TimeRange

    __version__: str

__all__ = [
    "AsyncPipeline",
    "BadAnswer",
    "DataPipeline",
    "DataPipelineError",
    "DatabaseError",
    "ExchangeError",
    "ExchangeRefused",
    "ExchangeUnavailable",
    "FetchReport",
    "NoSuchSeries",
    "NoSuchStore",
    "RateLimited",
    "SeriesId",
    "SeriesLocked",
    "StoreCorrupt",
    "StoreFull",
    "StoreUnreadable",
    "TimeRange",
    "UnknownExchange",
    "UnknownSymbol",
    "UnknownTimeframe",
    "UsageError",
    "VolumeUnitChanged",
    "__version__",
    "configure_logger",
    "open_source",
    "open_store",
]

_HOMES = {
    "AsyncPipeline": "pipeline",
    "DataPipeline": "pipeline",
    "FetchReport": "pipeline",
    "SeriesId": "candle",
    "TimeRange": "timerange",
    "configure_logger": "logs",
    "open_source": "sources",
    "open_store": "stores",
}

# A library says nothing until a program asks for it.
logging.getLogger(__name__).addHandler(logging.NullHandler())


def __getattr__(name: str) -> Any:
    if name == "__version__":
        value: Any = _version()
    elif name in __all__:
        value = getattr(import_module(f"{__name__}.{_HOMES.get(name, 'errors')}"), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(__name__)
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "0+unknown"
