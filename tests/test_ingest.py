"""The way in: what waits together is committed together, and one bad entry spoils no other."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from chandlery.candle import SCHEMA, CandlePage, SeriesId
from chandlery.errors import DatabaseError
from chandlery.ingest import Door
from chandlery.ledger import State
from chandlery.stores import open_store
from chandlery.stores.base import Ask, Entry, Page, Written
from chandlery.stores.memory import MemoryStore
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


class Held(MemoryStore):
    """A store that says when its first commit has begun and ends it when it may."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.go = threading.Event(), threading.Event()

    def write(self, entries: Sequence[Entry]) -> list[Written]:
        """Store them once that is allowed."""
        self.begun.set()
        assert self.go.wait(10)
        return super().write(entries)


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
        for frame, why in ((shuffled, "must ascend"), (holed, "finite"), (bare, "must have the columns")):
            broken = CandlePage(SERIES, good.answered, frame, "test", NOW)
            with pytest.raises(ValueError, match=f"^binance BTC/USDT 1h: a page.* {why}"):
                door.put_now(Page(broken))
        outside = CandlePage(SERIES, TimeRange(START, START + HOUR), good.candles, "test", NOW)
        with pytest.raises(ValueError, match="must lie inside the range"):
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


def test_every_waiting_event_loop_is_woken() -> None:
    """Entries of several event loops in one batch are all acknowledged; a loop that was closed meanwhile stops nobody."""

    async def put_all(door: Door, first: int) -> list[int]:
        entries = (Page(page(first + n * 10, 10)) for n in range(5))
        return [w.new for w in await asyncio.gather(*(door.put(entry) for entry in entries))]

    async def begin(door: Door) -> None:
        entry = asyncio.ensure_future(door.put(Page(page(800, 10))))
        await asyncio.sleep(0)
        assert not entry.done()

    with Held() as store, ThreadPoolExecutor() as threads:
        door = Door(store)
        door.submit(Ask(SERIES, TimeRange(START, NOW), NOW, 0))
        assert store.begun.wait(10)
        gone = asyncio.new_event_loop()
        gone.run_until_complete(begin(door))
        gone.close()
        runs = [threads.submit(asyncio.run, put_all(door, first)) for first in (0, 100, 200)]
        store.go.set()
        assert [run.result(10) for run in runs] == [[10] * 5] * 3
        door.close_now()
        assert store.candles(SERIES).height == 160


def test_entry_that_is_cancelled_while_it_waits_is_dropped_whole() -> None:
    """Nothing of a cancelled entry is stored, and what waits behind it is."""

    async def put_all(door: Door) -> int:
        first = asyncio.ensure_future(door.put(Page(page(0, 10))))
        await asyncio.to_thread(store.begun.wait, 10)
        cancelled = asyncio.ensure_future(door.put(Page(page(10, 10))))
        last = asyncio.ensure_future(door.put(Page(page(20, 10))))
        await asyncio.sleep(0)
        cancelled.cancel()
        await asyncio.sleep(0)
        store.go.set()
        written = await asyncio.gather(first, last)
        assert cancelled.cancelled()
        await door.close()
        return sum(one.new for one in written)

    with Held() as store:
        assert asyncio.run(put_all(Door(store))) == 20
        assert store.ledger(SERIES).answered_ranges == RangeSet(
            [TimeRange(START, START + 10 * HOUR), TimeRange(START + 20 * HOUR, START + 30 * HOUR)]
        )
