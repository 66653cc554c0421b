"""Two stores compared: sums by day over exact bits, what differs within a day, and what the ledgers say otherwise."""

from __future__ import annotations

import hashlib
import random
import struct
from pathlib import Path

import polars as pl

from chandlery.candle import VALUES, CandlePage, Rejected, SeriesId
from chandlery.compare import (
    DaySum,
    answer_differences,
    compare_series,
    daily_sums,
    differences,
    whole_spans,
)
from chandlery.ledger import Fact, State
from chandlery.stores import open_store
from chandlery.stores.base import Page, SeriesFact
from chandlery.stores.memory import MemoryStore
from chandlery.testing.store_scenes import LATER, OTHER, SERIES, START, ask, candles, hours, page
from chandlery.timeframe import DAY, HOUR
from chandlery.timerange import TimeRange


def store_of(*entries: object) -> MemoryStore:
    """A store in memory that took those entries."""
    store = MemoryStore()
    store.write(entries)  # type: ignore[arg-type]
    return store


def told(one: MemoryStore, other: MemoryStore) -> list[tuple[int, int, int, str, str]]:
    """What the ledgers say otherwise: hours from and to, slots, and both words."""
    return [
        ((d.range.since - START) // HOUR, (d.range.until - START) // HOUR, d.candles, d.a, d.b)
        for d in answer_differences(one, other, SERIES)
    ]


def test_sums_are_those_of_the_bytes(tmp_path: Path) -> None:
    """Each UTC day has its count and the BLAKE2b of its times and columns, whatever the store and its partitions."""
    opens = [*range(5), *range(30, 72)]
    with open_store(tmp_path / "kept") as store:
        store.write([page(0, 72, opens)])
        store.seal(everything=True)
        found = list(daily_sums(store, SERIES, hours(0, 72)))
    frame = candles(opens)
    for one, hours_of_day in zip(found, (range(5), range(30, 48), range(48, 72)), strict=True):
        rows = [opens.index(n) for n in hours_of_day]
        data = struct.pack(f"<{len(rows)}q", *(START + n * HOUR for n in hours_of_day))
        for name in VALUES:
            data += struct.pack(f"<{len(rows)}d", *(frame[name][row] for row in rows))
        digest = hashlib.blake2b(data, digest_size=8).hexdigest()
        assert one == DaySum(START + hours_of_day[0] // 24 * DAY, len(rows), digest)


def test_every_bit_counts() -> None:
    """Values that compare equal but are not, and the smallest step of a double, are differences."""
    frame = candles([0]).with_columns(volume=pl.lit(0.0))
    one = store_of(Page(CandlePage(SERIES, hours(0, 1), frame, "test", LATER)))
    for value in (-0.0, 5e-324):
        changed = frame.with_columns(volume=pl.lit(value))
        other = store_of(Page(CandlePage(SERIES, hours(0, 1), changed, "test", LATER)))
        (day,) = differences(one, other, SERIES, hours(0, 24))
        assert (day.a, day.b, day.only_a, day.only_b, day.changed) == (1, 1, 0, 0, 1)


def test_days_name_what_differs_up_to_a_number() -> None:
    """A day tells all counts and the first open times of each kind; equal days are not told; a range is half-open."""
    one = store_of(page(0, 96, [n for n in range(96) if not 50 <= n < 60]))
    other = store_of(page(0, 96), page(70, 75, seed=1))
    day, _ = differences(one, other, SERIES, hours(0, 96), listed=3)
    assert (day.day, day.a, day.b, day.only_a, day.only_b, day.changed) == (START + 2 * DAY, 14, 24, 0, 10, 2)
    assert day.first_only_b == tuple(START + n * HOUR for n in (50, 51, 52))
    assert day.first_changed == tuple(START + n * HOUR for n in (70, 71))
    assert [d.day for d in differences(one, other, SERIES, hours(72, 73))] == [START + 3 * DAY]
    assert list(differences(one, other, SERIES, hours(75, 96))) == []


def test_random_differences_are_all_found(seed: int) -> None:
    """Whatever was taken from, put into and changed in a copy, exactly that is told."""
    dice = random.Random(seed)
    for turn in range(20):
        opens = [n for n in range(400) if dice.random() < 0.7]
        gone = set(dice.sample(opens, dice.randrange(10)))
        more = set(dice.sample([n for n in range(400) if n not in opens], dice.randrange(10)))
        kept = [n for n in opens if n not in gone]
        other_values = set(dice.sample(kept, dice.randrange(10)))
        one = store_of(page(0, 400, opens))
        other = store_of(page(0, 400, sorted({*kept, *more})))
        for n in other_values:
            other.write([page(n, n + 1, seed=1)])
        days = list(differences(one, other, SERIES, hours(0, 400), listed=1000))
        for wanted, name in ((gone, "first_only_a"), (more, "first_only_b"), (other_values, "first_changed")):
            found = {(t - START) // HOUR for day in days for t in getattr(day, name)}
            assert found == wanted, f"seed {seed}, turn {turn}"


def test_a_gap_known_to_one_only_is_told() -> None:
    """Absent in one and unasked, unanswered or not settled in the other; what both lack for the same reason is equal."""
    one = store_of(ask(0, 40), page(0, 20, list(range(10))))
    other = store_of(ask(0, 15), page(0, 10))
    assert told(one, other) == [(10, 20, 10, "absent", "unknown")]
    assert told(other, one) == [(10, 20, 10, "unknown", "absent")]
    other.write([page(10, 20, [])])
    assert told(one, other) == []


def test_facts_and_refused_rows_are_told() -> None:
    """What is said for a reason on one side, and a row that is in quarantine on one side only."""
    one = store_of(ask(0, 10), SeriesFact(SERIES, Fact(hours(0, 4), State.BEFORE_LISTING, "listed", LATER)))
    other = store_of(ask(0, 10))
    assert told(one, other) == [(0, 4, 4, "before_listing", "unknown")]
    one.write([page(5, 7, [], rejected=(Rejected(START + 5 * HOUR, "raw", "why"),))])
    other.write([page(5, 7, [])])
    assert told(one, other)[1:] == [(5, 6, 1, "quarantined", "unknown")]


def test_slots_that_hold_a_candle_are_no_matter_of_answers() -> None:
    """Where an answer was let go of but the candle is still there, both stores have the same."""
    one, other = store_of(ask(0, 10), page(0, 10)), store_of(ask(0, 10), page(0, 10))
    other.forget(SERIES, hours(2, 8))
    assert told(one, other) == []
    assert compare_series(one, other, SERIES, [hours(0, 10)]).equal


def test_long_and_short_candles_are_summed_alike() -> None:
    """Months, weeks and seconds: every candle is in one sum."""
    for timeframe, step in (("1w", 7 * DAY), ("1s", 1000)):
        series = SeriesId("binance", "BTC/USDT", timeframe)
        first = series.frame.ceil(START)
        frame = candles(list(range(300))).with_columns(
            time=pl.Series([first + n * step for n in range(300)]).cast(pl.Datetime("ms", "UTC"))
        )
        span = TimeRange(first, first + 300 * step)
        store = store_of(Page(CandlePage(series, span, frame, "test", LATER + 5000 * DAY)))
        sums = list(daily_sums(store, series, span))
        assert sum(day.candles for day in sums) == 300
        assert len({day.day for day in sums}) == len(sums)


def test_series_of_either_store_are_found() -> None:
    """Every series of both, with a range wide enough for each; one that is in one store only differs."""
    one, other = store_of(page(5, 10)), store_of(page(0, 7), page(0, 1, series=OTHER))
    spans = whole_spans(one, other)
    assert list(spans) == [SERIES, OTHER]
    assert spans[SERIES] == TimeRange(START, START + 9 * HOUR + 1)
    found = compare_series(one, other, OTHER, [spans[OTHER]])
    assert (found.in_a, found.in_b, found.only_b, found.equal) == (False, True, 1, False)
