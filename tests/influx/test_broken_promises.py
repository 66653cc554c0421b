"""Ways in which the InfluxDB store was once made to break a promise, each against a real server."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from chandlery.candle import CandlePage, Rejected, SeriesId
from chandlery.errors import DatabaseError, SeriesLocked, StoreUnreadable, UsageError
from chandlery.ledger import State
from chandlery.stores import open_store
from chandlery.stores.base import Ask, Page, Store
from chandlery.stores.influx_ql import JUST_NOW
from chandlery.testing.store_scenes import (
    LATER,
    SERIES,
    START,
    ask,
    bits,
    candles,
    hours,
    page,
    picture,
)
from chandlery.timeframe import DAY, HOUR
from chandlery.timerange import TimeRange

from .fixtures import Bucket
from .proxy import Fault, FaultProxy

ONE, OTHER = (SeriesId("binance", symbol, "1h") for symbol in ("A_B/C", "A/B_C"))


@pytest.fixture
def open_at(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Store]]:
    """Open the bucket at an address of its server."""
    monkeypatch.setenv("INFLUXDB_TOKEN", bucket.token)
    opened: list[Store] = []

    def open_it(address: str) -> Store:
        opened.append(
            open_store(f"influxdb://{address.removeprefix('http://')}/{bucket.server.org}/{bucket.name}")
        )
        return opened[-1]

    yield open_it
    for store in opened:
        store.close()


def test_symbols_of_one_tag_are_kept_apart(bucket: Bucket, open_at: Callable[[str], Store]) -> None:
    """Two symbols whose tags are equal never share a commit or a lock; the first stays whole, the second is refused."""
    store = open_at(bucket.server.url)
    both = [ask(0, 5, series=ONE), ask(0, 5, series=OTHER), page(0, 5, series=ONE), page(0, 5, series=OTHER)]
    with pytest.raises(UsageError, match="A_B_C"):
        store.write(both)
    assert store.series() == []
    assert store.write([page(0, 5, series=ONE)])[0].new == 5
    with pytest.raises(UsageError, match="A_B/C"):
        store.write([page(0, 5, series=OTHER, seed=1)])
    assert bits(store.candles(ONE)) == bits(candles(list(range(5))))
    with store.lock(ONE), pytest.raises(SeriesLocked, match="A/B_C"), store.lock(OTHER):
        pass


def test_a_tag_is_free_again_once_its_symbol_is_removed(
    bucket: Bucket, open_at: Callable[[str], Store]
) -> None:
    """After `remove` another symbol may have the tag, and is listed by its own name."""
    store = open_at(bucket.server.url)
    store.write([page(0, 5, series=ONE)])
    store.remove(ONE)
    assert store.write([page(0, 3, series=OTHER)])[0].new == 3
    assert [one.series for one in store.series()] == [OTHER]


def test_one_bucket_has_one_lock_whatever_its_server_is_called(
    bucket: Bucket, open_at: Callable[[str], Store]
) -> None:
    """Two addresses of one server lead to the same locks and the same row of journal numbers."""
    url = bucket.server.url
    first, second = open_at(url), open_at(url.replace("127.0.0.1", "localhost"))
    with first.lock(SERIES), pytest.raises(SeriesLocked), second.lock(SERIES):
        pass
    for turn, store in enumerate((first, second, first, second)):
        store.write([page(turn * 10, turn * 10 + 10)])
    assert [entry.seq for entry in first.journal()] == [1, 2, 3, 4]


@pytest.mark.parametrize("measurement", ["chandlery_revisions", "chandlery_quarantine", "chandlery_ledger"])
def test_a_note_that_is_acknowledged_and_not_kept_is_noticed(
    measurement: str, bucket: Bucket, proxy: FaultProxy, open_at: Callable[[str], Store]
) -> None:
    """A server that says 204 and keeps nothing is asked once more, then told of; no old value and no refused row is lost."""
    store = open_at(proxy.url)
    store.write([ask(0, 20), page(0, 10)])
    before = picture(store)
    bad = Rejected(START + 3 * HOUR, "[3, null]", "close is empty")
    changed = page(0, 10, seed=1, rejected=(bad,))

    def forgotten(body: bytes) -> bool:
        return f"{measurement},".encode() in body

    proxy.plan(Fault(status=204, matching=forgotten, times=2))
    with pytest.raises(DatabaseError, match="does not give them back"):
        store.write([changed])
    if measurement == "chandlery_revisions":
        assert picture(store) == before
    proxy.heal()
    store.write([changed])
    assert len(store.revisions(SERIES)) == 10
    assert [one.row for one in store.quarantine(SERIES)] == [bad]


def test_a_changed_candle_that_is_not_kept_is_noticed(
    bucket: Bucket, proxy: FaultProxy, open_at: Callable[[str], Store]
) -> None:
    """A change that the server acknowledges and does not make is sent again, then told of: its number says nothing."""
    store = open_at(proxy.url)
    store.write([ask(0, 20), page(0, 10)])
    proxy.plan(Fault(status=204, matching=lambda body: body.startswith(b"ohlcv,"), times=2))
    with pytest.raises(DatabaseError, match="changed candles"):
        store.write([page(0, 10, seed=1)])
    proxy.heal()
    proxy.plan(Fault(status=204, matching=lambda body: body.startswith(b"ohlcv,"), times=1))
    store.write([page(0, 10, seed=1)])
    assert bits(store.candles(SERIES)) == bits(candles(list(range(10)), seed=1))
    assert len(store.revisions(SERIES)) == 10


def test_list_counts_no_row_that_lies_between_candles(
    bucket: Bucket, open_at: Callable[[str], Store]
) -> None:
    """Whole rows of another program between two open times take no slot: absent and missing stay as they are."""
    store = open_at(bucket.server.url)
    store.write([ask(0, 10), page(0, 10, [0, 1, 2, 3, 4, 5, 6, 7, 8])])
    off = candles([3]).with_columns(pl.col("time") + pl.duration(minutes=30))
    values = ",".join(f"{name}={off[name][0]}" for name in ("open", "high", "low", "close", "volume"))
    line = f"ohlcv,exchange=binance,symbol=BTC_USDT,timeframe=1h {values} {START + 3 * HOUR + 30 * 60_000}\n"
    assert bucket.server.write(line.encode(), bucket.name).status == 204
    (summary,) = store.series()
    assert (summary.absent, summary.missing) == (1, 0)


def test_minus_zero_stays_what_it_is_beside_odd_rows(bucket: Bucket, open_at: Callable[[str], Store]) -> None:
    """A volume of -0.0 is read as such where half a candle of another program lies beside it: it is no revision."""
    store = open_at(bucket.server.url)
    odd = candles([0, 1, 2]).with_columns(volume=pl.lit(-0.0))
    written = Page(CandlePage(SERIES, hours(0, 3), odd, "test", LATER))
    store.write([ask(0, 5), written])
    half = f"ohlcv,exchange=binance,symbol=BTC_USDT,timeframe=1h close=1 {START + 4 * HOUR}\n"
    assert bucket.server.write(half.encode(), bucket.name).status == 204
    assert bits(store.candles(SERIES, hours(0, 5))) == bits(odd)
    assert store.write([written])[0].same == 3


def test_a_refused_row_older_than_the_bucket_keeps_is_kept(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a bucket that forgets, a refused row is kept whatever open time it claims; none is counted that is not."""
    monkeypatch.setenv("INFLUXDB_TOKEN", bucket.token)
    now = time.time_ns() // 1_000_000
    name = bucket.server.new_bucket(retention_seconds=30 * 86_400)
    first = SERIES.frame.floor(now - 5 * DAY)
    rows = tuple(Rejected(opened, f"row {opened}", "why") for opened in (0, first, first - 300 * DAY))
    span = TimeRange(first, first + 10 * HOUR)
    with open_store(bucket.server.store_url(name)) as store:
        store.write([Ask(SERIES, span, now, 0)])
        nothing = candles([]).clear()
        done = store.write([Page(CandlePage(SERIES, span, nothing, "test", now, rejected=rows))])
        assert done[0].quarantined == 3
        assert {one.row for one in store.quarantine(SERIES)} == set(rows)


def test_a_bucket_that_forgets_is_adopted_from_what_it_will_keep(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows about to go are not asked for: a top-up of adopted candles is not refused for their sake."""
    monkeypatch.setenv("INFLUXDB_TOKEN", bucket.token)
    now = time.time_ns() // 1_000_000
    name = bucket.server.new_bucket()
    opens = [SERIES.frame.floor(now - n * DAY) for n in (40, 31, 29, 2, 1)]
    lines = "".join(
        f"ohlcv,exchange=binance,symbol=BTC_USDT,timeframe=1h open=1,high=1,low=1,close=1,volume=1 {opened}\n"
        for opened in opens
    )
    assert bucket.server.write(lines.encode(), name).status == 204
    rules = {"retentionRules": [{"type": "expire", "everySeconds": 30 * 86_400}]}
    bucket.server._wanted(200, "PATCH", f"/api/v2/buckets/{bucket.server.bucket_id(name)}", rules)
    with open_store(bucket.server.store_url(name)) as store:
        (asked,) = store.ledger(SERIES).asked
        assert now - 30 * DAY < asked.since < now - 29 * DAY
        store.write([Ask(SERIES, replace(asked, until=SERIES.frame.floor(now)), now, 0)])
        assert store.account(SERIES).counts[State.STORED] == 3


def test_a_state_folder_that_cannot_be_is_told(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where locks and numbers cannot be kept, the error names the place and the mend."""
    monkeypatch.setenv("INFLUXDB_TOKEN", bucket.token)
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("CHANDLERY_STATE", str(tmp_path / "file" / "state"))
    with open_store(bucket.url) as store:
        with pytest.raises(StoreUnreadable, match="file") as error, store.lock(SERIES):
            pass
        assert "CHANDLERY_STATE" in error.value.hint


def test_a_mapping_made_meanwhile_leads_no_write_astray(
    bucket: Bucket, open_at: Callable[[str], Store]
) -> None:
    """Once questions lead to another bucket, a write is refused before it replaces what it could not see."""
    server = bucket.server
    store = open_at(server.url)
    store.write([ask(0, 20), page(0, 10)])
    document = {
        "bucketID": server.bucket_id(server.new_bucket()),
        "database": bucket.name,
        "retention_policy": "autogen",
        "orgID": server.org_id,
        "default": True,
    }
    made = server._wanted(201, "POST", "/api/v2/dbrps", document)
    time.sleep(JUST_NOW)
    with pytest.raises(StoreUnreadable):
        store.write([page(0, 10, seed=1)])
    assert server.ask("DELETE", f"/api/v2/dbrps/{made['id']}?orgID={server.org_id}", None).status == 204
    assert bits(store.candles(SERIES)) == bits(candles(list(range(10))))
    assert store.write([page(0, 10, seed=1)])[0].revised == 10
