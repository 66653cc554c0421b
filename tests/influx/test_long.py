"""Long candles follow the minutes that a store takes in: back-filled, revised, found absent, or left by an earlier run."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import polars as pl
import pytest

from chandlery.candle import SCHEMA, VALUES, CandlePage, SeriesId
from chandlery.ingest import Door
from chandlery.stores import open_store
from chandlery.stores.base import Ask, Page
from chandlery.stores.influx import InfluxStore
from chandlery.stores.influx_tasks import Downsampling
from chandlery.testing.store_scenes import START
from chandlery.timeframe import DAY, HOUR, MINUTE
from chandlery.timerange import TimeRange

from .fixtures import Bucket
from .test_tasks import kept, target_of

SERIES = SeriesId("binance", "BTC/USDT", "1m")
LATER = START + 400 * DAY


@pytest.fixture
def hourly(bucket: Bucket) -> Downsampling:
    """A bucket of hours, made beside the bucket of minutes."""
    return target_of(bucket, "1h")


@pytest.fixture
def open_one(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], InfluxStore]]:
    """Open the store, as often as needed."""
    monkeypatch.setenv("INFLUXDB_TOKEN", bucket.token)
    opened: list[InfluxStore] = []

    def open_it() -> InfluxStore:
        store = open_store(bucket.url)
        assert isinstance(store, InfluxStore)
        opened.append(store)
        return store

    yield open_it
    for store in opened:
        store.close()


def minutes(first: int, until: int, *, high: float = 3.0, without: frozenset[int] = frozenset()) -> Page:
    """A page that answers those minutes after START."""
    opens = [START + n * MINUTE for n in range(first, until) if n not in without]
    values = {"open": 1.0, "high": high, "low": 0.5, "close": 2.0, "volume": 10.0}
    frame = pl.DataFrame(
        {"time": opens, **{name: [values[name]] * len(opens) for name in VALUES}}, schema=SCHEMA
    )
    span = TimeRange(START + first * MINUTE, START + until * MINUTE)
    return Page(CandlePage(SERIES, span, frame, "test", LATER))


def hours_kept(bucket: Bucket, hourly: Downsampling) -> dict[int, tuple[float, float]]:
    """High and volume of the hours that there are, by their number after START."""
    frame = kept(bucket, hourly, "BTC_USDT")
    rows = frame.select("time", "high", "volume").rows()
    return {(opened - START) // HOUR: (high, volume) for opened, high, volume in rows}


def through_a_door(store: InfluxStore, *pages: Page) -> None:
    """Store pages as a run does, to its end."""
    door = Door(store)
    door.put_now(Ask(SERIES, TimeRange(START, START + 10 * HOUR), LATER, 0))
    for page in pages:
        door.put_now(page)
    door.close_now()


def test_hours_follow_a_back_fill(
    bucket: Bucket, hourly: Downsampling, open_one: Callable[[], InfluxStore]
) -> None:
    """Minutes that arrive years late, in any order, make the hours that they complete, and no others."""
    store = open_one()
    through_a_door(store, minutes(120, 200), minutes(0, 60))
    assert hours_kept(bucket, hourly) == {0: (3.0, 600.0), 2: (3.0, 600.0)}
    through_a_door(store, minutes(60, 120), minutes(200, 240))
    assert sorted(hours_kept(bucket, hourly)) == [0, 1, 2, 3]


def test_hours_follow_revisions_and_absences(
    bucket: Bucket, hourly: Downsampling, open_one: Callable[[], InfluxStore]
) -> None:
    """A changed minute changes its hour; an hour of which the exchange has fewer minutes is made of those."""
    store = open_one()
    through_a_door(store, minutes(0, 60), minutes(60, 90))
    through_a_door(store, minutes(10, 11, high=9.0), minutes(90, 120, without=frozenset({100, 101})))
    assert hours_kept(bucket, hourly) == {0: (9.0, 600.0), 1: (3.0, 580.0)}


def test_what_an_ended_run_left_is_made_by_the_next(
    bucket: Bucket, hourly: Downsampling, open_one: Callable[[], InfluxStore]
) -> None:
    """Minutes of a run that was ended before it made hours of them are seen to by the next one, from the journal."""
    first = open_one()
    first.write([Ask(SERIES, TimeRange(START, START + 10 * HOUR), LATER, 0), minutes(0, 120)])
    first.close()
    assert hours_kept(bucket, hourly) == {}
    through_a_door(open_one(), minutes(300, 360))
    assert sorted(hours_kept(bucket, hourly)) == [0, 1, 5]


def test_without_long_candles_nothing_is_made(open_one: Callable[[], InfluxStore]) -> None:
    """A bucket without buckets of long candles seals nothing and sets no mark."""
    store = open_one()
    through_a_door(store, minutes(0, 120))
    assert store.seal(everything=True) == 0
    assert store.mark("long candles") == 0
