#!/usr/bin/env python3
"""Test of the data pipeline: load BTC/USDT and ETH/USDT at 1h, 4h and 1d for the last 7 days, and verify each.

    python data-pipeline/test_data_pipeline.py

Prints a line with ✅ or ❌ for each symbol and timeframe; ends with 0 only if all six are there. EXCHANGE_URL points it
at another server, such as `chandlery exchange`.
"""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

from data_pipeline import DataPipeline, DataPipelineError, settings_folder
from logger import configure_logger

from chandlery import ExchangeUnavailable, NoSuchSeries, SeriesId, open_store
from chandlery.config import load_settings
from chandlery.ledger import State
from chandlery.pipeline import chosen_store
from chandlery.verify import verify_series
from chandlery.when import parse_when

if TYPE_CHECKING:
    from chandlery.when import Moment

SYMBOLS = ("BTC/USDT", "ETH/USDT")
TIMEFRAMES = ("1h", "4h", "1d")
START_DATE = "7d"  # ago, by the exchange's clock

logger = logging.getLogger("test_data_pipeline")


def verify_data_in_influxdb(symbol: str, timeframe: str, start_date: Moment) -> bool:
    """Whether the data is where it was written, whatever the store is.

    True only if there are candles since `start_date` and every slot from there to the exchange's time of the last fetch
    is accounted for: stored, absent on the exchange, or not closed yet.
    """
    settings = load_settings(settings_folder())
    series = SeriesId(settings.exchange, symbol, timeframe)
    try:
        with open_store(chosen_store(settings), create=False, settings=settings) as store:
            clock = store.ledger(series).clock
            verdict = verify_series(store, series, since=parse_when(start_date, now=clock), until=clock)
    except NoSuchSeries:
        logger.warning("No data found for %s (%s)", symbol, timeframe)
        return False
    except DataPipelineError as error:
        logger.error("Error querying the store: %s", error)
        return False
    counts = verdict.account.counts
    stored = counts[State.STORED]
    others = ", ".join(f"{n} {state.value}" for state, n in counts.items() if n and state is not State.STORED)
    logger.info("Found %s records for %s (%s)%s", stored, symbol, timeframe, f"; {others}" if others else "")
    return verdict.ok and stored > 0


def main() -> int:
    """Load and verify; returns the exit code."""
    configure_logger("test_data_pipeline")
    passed = 0
    down: DataPipelineError | None = None
    try:
        with DataPipeline() as pipeline:
            for symbol in SYMBOLS:
                for timeframe in TIMEFRAMES:
                    try:
                        if down is not None:
                            raise down
                        fine, reason = load_and_verify(pipeline, symbol, timeframe), ""
                    except DataPipelineError as error:
                        fine, reason = False, f": {error}"
                        if isinstance(error, ExchangeUnavailable):
                            down = error  # nothing answers: the others need not wait for it too
                    print(f"{'✅' if fine else '❌'} {symbol} {timeframe}{reason}", flush=True)
                    passed += fine
    except DataPipelineError as error:  # not even a pipeline
        print(f"❌ {error}" + (f" (hint: {error.hint})" if error.hint else ""))
        return 1
    total = len(SYMBOLS) * len(TIMEFRAMES)
    print(f"{passed} of {total} passed")
    return 0 if passed == total else 1


def load_and_verify(pipeline: DataPipeline, symbol: str, timeframe: str) -> bool:
    """Load one series and verify it; raises DataPipelineError where nothing could be loaded."""
    report = pipeline.fetch_and_store(symbol, timeframe, START_DATE)
    return verify_data_in_influxdb(symbol, timeframe, START_DATE) and bool(report)


if __name__ == "__main__":
    sys.exit(main())
