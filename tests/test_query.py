"""The read side: which series are meant, which candles are read, and how holes are filled."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chandlery.candle import SCHEMA, CandlePage, SeriesId
from chandlery.errors import NoSuchSeries, UnknownTimeframe, UsageError
from chandlery.query import matching, read_candles
from chandlery.stores import open_store
from chandlery.stores.base import Ask, Page, Store
from chandlery.stores.memory import MemoryStore
from chandlery.timerange import TimeRange

START = 1_704_067_200_000  # 2024-01-01
HOUR = 3_600_000
BTC = SeriesId("binance", "BTC/USDT", "1h")
NAIVE = datetime(2024, 1, 1, 22)  # noqa: DTZ001 - that naive times are UTC is what is tested


@pytest.fixture(params=["memory", "embedded"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """An empty store: the reference, and the one that users have."""
    with MemoryStore() if request.param == "memory" else open_store(tmp_path / "candles") as opened:
        yield opened


def keep(store: Store, series: SeriesId, slots: list[int], *, asked: int = 24) -> pl.DataFrame:
    """Store and seal candles at these slots after START of a range of `asked` slots, and return them."""
    frame = series.frame
    opens = [frame.add(frame.floor(START), slot) for slot in slots]
    price = pl.Series(slots, dtype=pl.Float64) + 100.0
    candles = pl.DataFrame(
        {
            "time": pl.Series(opens, dtype=pl.Int64).cast(SCHEMA["time"]),
            "open": price,
            "high": price + 2,
            "low": price - 1,
            "close": price + 1,
            "volume": price / 10,
        }
    )
    span = TimeRange(frame.floor(START), frame.add(frame.floor(START), asked))
    page = CandlePage(series, span, candles, "test", span.until)
    store.write([Ask(series, span, span.until, 0), Page(page)])
    store.seal(series, everything=True)
    return candles


def hours(frame: pl.DataFrame) -> list[int]:
    """The open times as hours after START."""
    return [(t - START) // HOUR for t in frame["time"].dt.epoch("ms")]


def test_bounds_are_half_open(store: Store) -> None:
    """A candle that opens at `since` is read, one that opens at `until` is not."""
    keep(store, BTC, list(range(24)))

    assert hours(store.read(BTC, START + 2 * HOUR, START + 5 * HOUR)) == [2, 3, 4]
    assert hours(store.read(BTC, START + 2 * HOUR + 1, START + 4 * HOUR + 1)) == [3, 4]


def test_bounds_are_read_as_people_write_them(store: Store) -> None:
    """Text, dates and ages are bounds; ages count from the exchange's clock at the latest ask of the series."""
    kept = keep(store, BTC, list(range(24)))

    assert hours(store.read(BTC, "2024-01-01T20:00Z")) == [20, 21, 22, 23]
    assert hours(store.read(BTC, "2h", "now")) == [22, 23]
    assert hours(store.read(BTC, NAIVE, datetime(2024, 1, 1, 23, tzinfo=UTC))) == [22]
    assert store.read(BTC, "listing").equals(kept)
    assert store.read(BTC).equals(kept)


@pytest.mark.parametrize("seconds", [5, 60, 1800, 3599])
def test_an_age_is_so_many_closed_candles(store: Store, seconds: int) -> None:
    """The last 3 hours are the 3 closed candles before the one in progress, at whatever minute was asked."""
    kept = keep(store, BTC, list(range(24)))
    clock = START + 24 * HOUR + seconds * 1000
    store.write([Ask(BTC, TimeRange(START, clock), clock, 10_000)])

    # Within the 10 s of settling the last candle counts as in progress; the store has it here, and gives it.
    assert hours(store.read(BTC, "3h")) == ([20, 21, 22, 23] if seconds < 10 else [21, 22, 23])
    assert hours(store.read(BTC, "1d")) == hours(kept)


def test_a_range_that_ends_before_it_begins_is_refused(store: Store) -> None:
    """`since` after `until` is a usage error that names both."""
    keep(store, BTC, [0, 1])

    with pytest.raises(UsageError, match=r"since 2024-01-02, until 2024-01-01"):
        store.read(BTC, "2024-01-02", "2024-01-01")


def test_reading_what_is_not_kept_names_it(store: Store) -> None:
    """Reading an unknown series raises NoSuchSeries with its name, with and without a count."""
    keep(store, BTC, [0])

    for last in (None, 3):
        with pytest.raises(NoSuchSeries, match="ETH/USDT"):
            read_candles(store, SeriesId("binance", "ETH/USDT", "1h"), last=last)


@pytest.mark.parametrize(("last", "expected"), [(1, [23]), (3, [9, 22, 23]), (100, [0, 1, 9, 22, 23])])
def test_the_newest_candles(store: Store, last: int, expected: list[int]) -> None:
    """`last` gives the newest stored candles, across holes, and all if there are fewer."""
    keep(store, BTC, [0, 1, 9, 22, 23])

    assert hours(read_candles(store, BTC, last=last)) == expected


def test_the_newest_candles_before_a_moment(store: Store) -> None:
    """`last` with `until` gives the newest before it; with `since` none older than that."""
    keep(store, BTC, list(range(24)))

    assert hours(read_candles(store, BTC, until=START + 10 * HOUR, last=2)) == [8, 9]
    assert hours(read_candles(store, BTC, since=START + 22 * HOUR, last=5)) == [22, 23]
    with pytest.raises(UsageError, match="number of candles: 0"):
        read_candles(store, BTC, last=0)


def test_the_newest_candle_behind_a_long_silence_is_found(store: Store) -> None:
    """The newest candle is found when hundreds of thousands of empty slots follow it."""
    minute = SeriesId("binance", "QUIET/USDT", "1m")
    keep(store, minute, [0, 5], asked=500_000)

    assert read_candles(store, minute, last=2)["open"].to_list() == [100.0, 105.0]


def test_flat_fill_carries_the_last_close(store: Store) -> None:
    """Each hole becomes a row of the close before it with volume 0, marked; real candles are as stored."""
    kept = keep(store, BTC, [2, 3, 6])

    frame = store.read(BTC, fill="flat")

    assert hours(frame) == [2, 3, 4, 5, 6]
    assert frame["filled"].to_list() == [False, False, True, True, False]
    assert frame.row(2)[1:] == (104.0, 104.0, 104.0, 104.0, 0.0, True)
    assert frame.row(3)[1:] == frame.row(2)[1:]
    assert frame.filter(~pl.col("filled")).drop("filled").equals(kept)


def test_null_fill_leaves_the_values_out(store: Store) -> None:
    """With fill="null" a hole is a row of nulls, marked."""
    keep(store, BTC, [2, 4])

    frame = store.read(BTC, fill="null")

    assert frame.row(1)[1:] == (None, None, None, None, None, True)
    assert dict(frame.schema) == {**SCHEMA, "filled": pl.Boolean()}


def test_nothing_is_filled_before_the_first_or_after_the_last_candle(store: Store) -> None:
    """Slots before the first stored candle and after the last one get no row, however wide the range asked for."""
    keep(store, BTC, [5, 7])

    assert hours(store.read(BTC, START, START + 24 * HOUR, fill="flat")) == [5, 6, 7]
    assert hours(store.read(BTC, START, START + 4 * HOUR, fill="flat")) == []
    assert hours(store.read(BTC, START + 9 * HOUR, START + 12 * HOUR, fill="flat")) == []


def test_a_range_inside_a_hole_is_filled_from_before_it(store: Store) -> None:
    """A range that lies in a hole, or begins in one, carries the close of the candle before the range."""
    keep(store, BTC, [1, 10])

    inside = store.read(BTC, START + 4 * HOUR, START + 7 * HOUR, fill="flat")

    assert hours(inside) == [4, 5, 6]
    assert inside["close"].to_list() == [102.0] * 3
    assert inside["filled"].all()
    across = store.read(BTC, START + 8 * HOUR, fill="flat")
    assert across["filled"].to_list() == [True, True, False]


def test_the_newest_candles_can_be_filled(store: Store) -> None:
    """With `last` and `fill` the holes between the newest candles get rows, which `last` does not count."""
    keep(store, BTC, [0, 5, 8])

    assert hours(read_candles(store, BTC, last=2, fill="null")) == [5, 6, 7, 8]
    assert hours(read_candles(store, BTC, until=START, last=2, fill="null")) == []


def test_months_are_filled_by_the_calendar(store: Store) -> None:
    """A missing month is one row, at the first of that month."""
    monthly = SeriesId("binance", "BTC/USDT", "1M")
    keep(store, monthly, [0, 3])

    assert [t.isoformat()[:10] for t in store.read(monthly, fill="flat")["time"]] == [
        "2024-01-01",
        "2024-02-01",
        "2024-03-01",
        "2024-04-01",
    ]


@given(
    slots=st.sets(st.integers(0, 40)),
    since=st.integers(0, 45),
    length=st.integers(0, 45),
    fill=st.sampled_from(["flat", "null"]),
)
def test_a_filled_range_is_a_slice_of_the_filled_whole(
    slots: set[int], since: int, length: int, fill: str
) -> None:
    """Filling a range gives the same rows as filling everything and cutting the range out; nothing stored is lost."""
    store = MemoryStore()
    kept = keep(store, BTC, sorted(slots), asked=45)
    first, end = START + since * HOUR, START + (since + length) * HOUR

    whole = store.read(BTC, fill=fill)
    part = store.read(BTC, first, end, fill=fill)

    inside = pl.col("time").dt.epoch("ms").is_between(first, end, closed="left")
    assert part.equals(whole.filter(inside))
    assert whole.filter(~pl.col("filled")).drop("filled").equals(kept)
    assert np.all(np.diff(np.array(hours(whole))) == 1)


def test_an_unknown_way_to_fill_is_refused(store: Store) -> None:
    """Any other `fill` is a usage error that names it."""
    keep(store, BTC, [0])

    with pytest.raises(UsageError, match="'linear'"):
        store.read(BTC, fill="linear")


def test_a_frame_becomes_pandas(store: Store) -> None:
    """`.to_pandas()` keeps times in UTC and values as doubles."""
    pytest.importorskip("pyarrow", reason="the pandas extra is not installed")
    keep(store, BTC, [0, 2])

    table = store.read(BTC, fill="flat").to_pandas()

    assert str(table["time"].dt.tz) == "UTC"
    assert table["close"].tolist() == [101.0, 101.0, 103.0]


def full_store() -> MemoryStore:
    """A store of several exchanges, symbols and timeframes."""
    store = MemoryStore()
    for exchange, symbol, timeframe in (
        ("binance", "BTC/USDT", "1h"),
        ("binance", "BTC/USDT", "1d"),
        ("binance", "ETH/USDT", "1h"),
        ("binance", "ETH/BTC", "1h"),
        ("kraken", "BTC/USDT", "1h"),
        ("binance", "[x]/USDT", "1h"),
    ):
        keep(store, SeriesId(exchange, symbol, timeframe), [0])
    return store


def names(store: Store, patterns: list[str], **narrow: object) -> list[str]:
    """The matching series as text."""
    return [str(s.series) for s in matching(store, patterns, **narrow)]  # type: ignore[arg-type]


def test_symbols_and_patterns_choose_series() -> None:
    """Symbols are taken as they are, patterns by `*` and `?`, narrowed by exchange and timeframe, in the store's order."""
    store = full_store()

    assert names(store, ["BTC/USDT"]) == ["binance BTC/USDT 1h", "binance BTC/USDT 1d", "kraken BTC/USDT 1h"]
    assert names(store, ["*/BTC", "ETH/*"], exchange="binance") == [
        "binance ETH/BTC 1h",
        "binance ETH/USDT 1h",
    ]
    assert names(store, ["B?C/USDT"], exchange="binance", timeframes=["1d"]) == ["binance BTC/USDT 1d"]
    assert len(names(store, [])) == 6


def test_a_symbol_with_signs_of_a_pattern_is_found() -> None:
    """A symbol such as `[x]/USDT` is found under its own name."""
    assert names(full_store(), ["[x]/USDT"]) == ["binance [x]/USDT 1h"]


def test_case_counts() -> None:
    """`btc/usdt` is not `BTC/USDT`, but the hint says so."""
    with pytest.raises(NoSuchSeries, match="btc/usdt") as caught:
        matching(full_store(), ["btc/usdt"])

    assert "did you mean BTC/USDT" in caught.value.hint


@pytest.mark.parametrize(
    ("patterns", "narrow", "named", "hint"),
    [
        (["BTC/USDT", "XMR/EUR"], {}, "XMR/EUR", "symbols kept: "),
        (["ETH/USTD"], {}, "ETH/USTD", "did you mean ETH/USDT"),
        (["ETH/USDT"], {"timeframes": ["1h", "4h"]}, "ETH/USDT 4h", "timeframes kept of ETH/USDT: 1h"),
        (["BTC/USDT"], {"exchange": "okx"}, "okx", "exchanges kept: binance, kraken"),
        (["*/EUR"], {}, "*/EUR", "symbols kept: "),
    ],
)
def test_what_is_not_there_is_named(
    patterns: list[str], narrow: dict[str, object], named: str, hint: str
) -> None:
    """NoSuchSeries names what is not kept, and its hint says what there is."""
    with pytest.raises(NoSuchSeries) as caught:
        names(full_store(), patterns, **narrow)

    assert named in caught.value.message
    assert hint in caught.value.hint


def test_an_empty_store_says_that_it_is_empty() -> None:
    """In a store without series every pattern, and none, raises NoSuchSeries with a way on."""
    for patterns in ([], ["BTC/USDT"]):
        with pytest.raises(NoSuchSeries, match="keeps no series") as caught:
            matching(MemoryStore(), patterns)
        assert "chandlery fetch" in caught.value.hint


def test_a_timeframe_that_is_none_is_refused() -> None:
    """`1x` is not looked for: it raises UnknownTimeframe."""
    with pytest.raises(UnknownTimeframe, match="1x"):
        matching(full_store(), ["BTC/USDT"], timeframes=["1x"])


def documented_programs() -> list[str]:
    """The Python of docs/reading.md that is marked to be run."""
    text = (Path(__file__).parents[1] / "docs" / "reading.md").read_text(encoding="utf-8")
    return re.findall(r"<!-- run.*?-->\n```python\n(.*?)```", text, flags=re.DOTALL)


@pytest.mark.parametrize("number", range(3))
def test_the_programs_of_the_page_run(number: int, tmp_path: Path) -> None:
    """Each program of docs/reading.md runs on a store as the page describes it, and its globs see every candle."""
    with open_store(tmp_path / "candles") as opened:
        keep(opened, BTC, [*range(10), *range(12, 24)])
    program = documented_programs()[number]
    checks = (
        "assert (frame.height, gapless.height, newest.height, len(table)) == (22, 24, 22, 22); assert week.equals(frame)",
        "import hashlib; assert digest(ch.open_store('candles'), btc) == hashlib.sha256(open('btc.csv', 'rb').read()).hexdigest()",
        "assert (by_polars.height, len(by_pandas), by_duckdb) == (22, 22, [('BTC/USDT', '1h', 22)]), by_duckdb",
    )

    done = subprocess.run(
        [sys.executable, "-c", f"{program}\n{checks[number]}"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=tmp_path,
    )

    assert done.returncode == 0, done.stderr
    assert len(documented_programs()) == 3
