"""The way in: what waits together is committed together, and one bad entry spoils no other."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from chandlery.candle import SCHEMA, CandlePage, SeriesId
from chandlery.errors import DatabaseError
from chandlery.ingest import Door
from chandlery.ledger import State
from chandlery.stores import open_store
from chandlery.stores.base import Ask, Page
from chandlery.timeframe import HOUR
from chandlery.timerange import RangeSet, TimeRange

SERIES = SeriesId("binance", "BTC/USDT", "1h")
START = int(datetime(2024, 1, 1, tzinfo=UTC).timestamp() * 1000)
NOW = START + 1000 * HOUR


def page(first: int, candles: int, *, price: float = 100.0) -> CandlePage:
    """A page of flat candles, the first of them `first` hours after START."""
    opens = [START + (first + n) * HOUR for n in range(candles)]
    columns: dict[str, list[float]] = {name: [price] * candles for name in ("open", "high", "low", "close")}
    frame = pl.DataFrame({"time": opens, **columns, "volume": [1.0] * candles}, schema=SCHEMA)
    return CandlePage(SERIES, TimeRange(opens[0], opens[-1] + HOUR), frame, "test", NOW)


@pytest.mark.parametrize("url", ["memory:", "embedded"])
def test_many_pages_at_once_are_all_stored(url: str, tmp_path: Path) -> None:
    """Pages handed in side by side are all there after their acknowledgement, and journalled in order."""

    async def put_all() -> list[int]:
        door = Door(store)
        await door.put(Ask(SERIES, TimeRange(START, NOW), NOW, 0))
        written = await asyncio.gather(*(door.put(Page(page(n * 10, 10))) for n in range(50)))
        await door.close()
        return [w.new for w in written]

    with open_store(tmp_path / "candles" if url == "embedded" else url) as store:
        assert asyncio.run(put_all()) == [10] * 50
        assert store.candles(SERIES).height == 500
        account = store.account(SERIES)
        assert account.counts[State.STORED] == 500
        assert account.counts[State.MISSING] == 500
        numbers = [entry.seq for entry in store.journal()]
        assert numbers == sorted(set(numbers))


def test_page_with_a_broken_form_is_refused_before_the_store() -> None:
    """A page that is not sorted, not finite, of other columns or outside its range never reaches the store."""
    good = page(0, 3)
    shuffled = good.candles.reverse()
    holed = good.candles.with_columns(close=pl.Series([1.0, float("nan"), 1.0]))
    bare = good.candles.drop("volume")
    with open_store("memory:") as store:
        door = Door(store)
        for frame in (shuffled, holed, bare):
            broken = CandlePage(SERIES, good.answered, frame, "test", NOW)
            with pytest.raises(ValueError, match="a page of binance BTC/USDT 1h"):
                door.put_now(Page(broken))
        outside = CandlePage(SERIES, TimeRange(START, START + HOUR), good.candles, "test", NOW)
        with pytest.raises(ValueError, match="outside"):
            door.put_now(Page(outside))
        door.close_now()
        assert not store.series()


def test_nothing_enters_after_the_end() -> None:
    """Whoever comes after close is told; closing twice does no harm."""
    with open_store("memory:") as store:
        door = Door(store)
        door.put_now(Page(page(0, 3)))
        door.close_now()
        door.close_now()
        with pytest.raises(DatabaseError, match="closed"):
            door.put_now(Page(page(3, 3)))
        assert store.ledger(SERIES).answered_ranges == RangeSet.of(START, START + 3 * HOUR)
