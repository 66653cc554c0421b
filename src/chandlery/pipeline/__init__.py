"""DataPipeline and AsyncPipeline: the short way in from Python.

    with DataPipeline("binance") as pipeline:
        rows = pipeline.fetch_ohlcv("BTC/USDT", "1h")                     # what the exchange has now; nothing is stored
        report = pipeline.fetch_and_store("BTC/USDT", "1h", "2024-01-01")  # fetched, checked, stored, accounted for

Both classes are one core. `AsyncPipeline` lives in the caller's event loop; `DataPipeline` keeps one in the package's
own loop, so it works in scripts, threads, notebooks and inside a running loop.
"""

from __future__ import annotations

from chandlery.pipeline.blocking import DataPipeline
from chandlery.pipeline.choices import chosen_store
from chandlery.pipeline.core import MAX_RETRIES, RETRY_DELAY, AsyncPipeline
from chandlery.pipeline.outcome import FetchReport

__all__ = ["MAX_RETRIES", "RETRY_DELAY", "AsyncPipeline", "DataPipeline", "FetchReport", "chosen_store"]
