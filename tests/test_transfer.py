"""Bringing a series from one store into another: what arrives, what stays, and what writing twice writes."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from chandlery.candle import CandlePage, Rejected
from chandlery.compare import compare_series, whole_spans
from chandlery.errors import NoSuchSeries, SeriesLocked, StoreCorrupt
from chandlery.ingest import Door
from chandlery.ledger import Answered, Fact, State
from chandlery.stores import open_store
from chandlery.stores.base import Page, SeriesFact, Store
from chandlery.stores.memory import MemoryStore
from chandlery.testing.store_scenes import (
    LATER,
    OTHER,
    SERIES,
    START,
    ask,
    bits,
    candles,
    hours,
    page,
    random_entry,
    random_hours,
)
from chandlery.timeframe import HOUR
from chandlery.timerange import RangeSet
from chandlery.transfer import Transferred, everything, transfer


@pytest.fixture(params=["memory", "embedded"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """An empty store of each kind."""
    url = "memory:" if request.param == "memory" else tmp_path / "target"
    with open_store(url) as store:
        yield store


def bring(source: Store, target: Store, ranges: RangeSet | None = None, *, exact: bool = True) -> Transferred:
    """Transfer every series of the source, whole or those ranges."""
    door, done = Door(target), Transferred()
    try:
        for series, rows in whole_spans(source).items():
            whole = everything(source, series, rows) if ranges is None else ranges
            done += transfer(source, target, series, whole, door=door, exact=exact)
    finally:
        door.close_now()
    return done


def books(store: Store) -> dict[str, object]:
    """What a store counts and knows of each series; the numbers of its journal and its revisions are its own."""
    known = {}
    for one in store.series():
        ledger = store.ledger(one.series)
        facts = tuple(replace(fact, at=None) for fact in ledger.facts)
        known[str(one.series)] = (
            (one.first, one.last, one.candles, one.absent, one.missing), bits(store.candles(one.series)), ledger.asked,
            ledger.answered_ranges, facts, ledger.quarantined, {(q.row, q.resolved) for q in store.quarantine(one.series)},
        )  # fmt: skip
    return known


def test_everything_arrives(target: Store) -> None:
    """Candles bit for bit, answers with their times, asks, facts and refused rows arrive; nothing is said to differ."""
    bad, lost = Rejected(START + 3 * HOUR, "raw", "why"), Rejected(None, "<html>", "no time")
    soon = START + 50 * HOUR
    source = MemoryStore()
    source.write([ask(0, 60, clock=soon, settle=5000), page(0, 20, [0, 1, 2, 5], rejected=(bad, lost))])
    source.write([page(20, 50, at=soon), page(30, 31, seed=1, at=soon + HOUR)])
    source.write([SeriesFact(SERIES, Fact(hours(-9, 0), State.BEFORE_LISTING, "listed", LATER))])
    source.write([page(0, 5, series=OTHER)])

    done = bring(source, target)

    assert done == Transferred(new=4 + 30 + 5, quarantined=2)
    assert books(target) == books(source)
    assert target.ledger(SERIES) == source.ledger(SERIES)
    assert target.ledger(OTHER).answered == (Answered(hours(0, 5), None),)
    for series, span in whole_spans(source).items():
        assert compare_series(source, target, series, [span]).equal


def test_a_second_time_writes_nothing(target: Store) -> None:
    """Brought again, every candle is the same and the target's journal has no news."""
    source = MemoryStore()
    source.write([ask(0, 40), page(0, 30, list(range(0, 30, 2)))])
    source.forget(SERIES, hours(4, 9))
    bring(source, target)
    known, journal = books(target), list(target.journal())

    assert bring(source, target).new == 0
    assert (books(target), list(target.journal())) == (known, journal)


def test_other_values_become_revisions(target: Store) -> None:
    """A candle that the target has otherwise is replaced, and the old values are kept as a revision there."""
    source = MemoryStore()
    source.write([page(0, 10)])
    target.write([page(0, 10, seed=3)])

    assert bring(source, target, RangeSet([hours(2, 5)])).revised == 3
    assert [(r.open - START) // HOUR for r in target.revisions(SERIES)] == [2, 3, 4]
    assert bits(target.candles(SERIES, hours(0, 6))) == bits(
        candles([0, 1], seed=3).vstack(candles([2, 3, 4])).vstack(candles([5], seed=3))
    )


def test_rows_without_an_answer_come_unclaimed(target: Store) -> None:
    """Candles whose answers were let go of arrive, and the target says as little about their slots as the source."""
    source = MemoryStore()
    source.write([ask(0, 20), page(0, 20, [0, 1, 2, 5, 6, 7, 12, 15])])
    source.forget(SERIES, hours(1, 13))

    bring(source, target)

    assert target.ledger(SERIES).answered_ranges == RangeSet([hours(0, 1), hours(13, 20)])
    assert books(target) == books(source)


def test_many_holes_are_let_go_of_together(target: Store) -> None:
    """A thousand runs of rows without an answer lapse in a few goes; what either store answers in between stays."""
    source = MemoryStore()
    source.write([ask(0, 2010), page(0, 2000, list(range(0, 2000, 2)))])
    source.forget(SERIES, hours(0, 2000))
    source.write([page(900, 903, [901])])
    target.write([ask(0, 2010), page(1200, 1204, [1201]), page(2004, 2006, [])])
    lapses = _lapses(target)

    bring(source, target, exact=False)

    kept = RangeSet([hours(900, 903), hours(1200, 1204), hours(2004, 2006)])
    assert target.ledger(SERIES).answered_ranges == kept
    assert target.candles(SERIES).height == 1000 + 2
    assert 0 < _lapses(target) - lapses < 20


def test_a_transfer_that_fails_claims_nothing(tmp_path: Path) -> None:
    """Where the source breaks off in the middle, the target answers none of the rows that came without an answer."""
    with open_store(tmp_path / "source") as source, open_store("memory:") as target:
        source.write([ask(0, 60_000), page(0, 60_000)])
        source.forget(SERIES, hours(0, 60_000))
        source.seal(everything=True)
        max((tmp_path / "source").glob("**/*.parquet")).unlink()
        with pytest.raises(StoreCorrupt):
            bring(source, target, RangeSet([hours(0, 60_000)]), exact=False)
        assert target.candles(SERIES).height == 50_000
        assert target.ledger(SERIES).answered == ()


def _lapses(store: Store) -> int:
    return sum(entry.kind == "repair" for entry in store.journal())


def test_what_only_the_target_has_stays(target: Store) -> None:
    """Its candles are not deleted, exact or not; its own answers are let go of only where it is to be exact."""
    source = MemoryStore()
    source.write([ask(0, 10), page(0, 10, [1, 2])])
    target.write([ask(0, 30), page(0, 30, list(range(30)))])

    bring(source, target, exact=False)
    assert target.candles(SERIES).height == 30
    assert target.ledger(SERIES).answered_ranges == RangeSet([hours(0, 30)])
    bring(source, target)
    assert target.candles(SERIES).height == 30
    assert target.ledger(SERIES).answered_ranges == RangeSet([hours(0, 10)])
    difference = compare_series(source, target, SERIES, [hours(0, 30)])
    assert (difference.only_a, difference.only_b, difference.changed) == (0, 28, 0)


def test_an_older_source_does_not_set_the_clock_back(target: Store) -> None:
    """A copy from a store that was asked earlier keeps what the target learnt since; a mirror goes back with its store."""
    source = MemoryStore()
    source.write([ask(0, 40, clock=START + 20 * HOUR), page(0, 20, at=START + 20 * HOUR)])
    target.write([ask(10, 40, clock=START + 40 * HOUR), page(10, 40, at=START + 40 * HOUR)])

    bring(source, target, exact=False)
    assert target.ledger(SERIES).answered_ranges == RangeSet([hours(0, 40)])
    assert target.ledger(SERIES).clock == START + 40 * HOUR
    bring(source, target)
    assert target.ledger(SERIES).answered_ranges == RangeSet([hours(0, 20)])
    assert target.ledger(SERIES).clock == START + 20 * HOUR


def test_long_series_go_over_in_pages(target: Store) -> None:
    """Of 120,000 slots no page holds more than 50,000 candles."""
    source, seen = MemoryStore(), []
    opens = list(range(120_000))
    frame = candles(opens)
    source.write([Page(CandlePage(SERIES, hours(0, 120_000), frame, "test", START + 130_000 * HOUR))])
    door = Door(target)
    submit = door.submit
    door.submit = lambda entry: seen.append(entry) or submit(entry)  # type: ignore[method-assign, func-returns-value]

    transfer(source, target, SERIES, RangeSet([hours(0, 120_000)]), door=door)
    door.close_now()

    assert [entry.page.candles.height for entry in seen] == [50_000, 50_000, 20_000]
    assert bits(target.candles(SERIES)) == bits(frame)


def test_a_locked_series_and_an_unknown_one_are_said(target: Store) -> None:
    """Who writes the series in the target goes first; what the source does not keep cannot be brought."""
    source, door = MemoryStore(), Door(target)
    source.write([page(0, 3)])
    with target.lock(SERIES), pytest.raises(SeriesLocked):
        transfer(source, target, SERIES, RangeSet([hours(0, 3)]), door=door)
    with pytest.raises(NoSuchSeries):
        transfer(source, target, OTHER, RangeSet([hours(0, 3)]), door=door)
    assert target.series() == []


def test_random_histories_arrive(target: Store, seed: int) -> None:
    """Whatever mix of entries and lapses made the source, after each of many steps the target counts and holds the same."""
    dice, source = random.Random(seed), MemoryStore()
    for step in range(40):
        source.write([random_entry(dice) for _ in range(dice.choice((1, 2, 5)))])
        if dice.random() < 0.2 and source.knows(SERIES):
            source.forget(SERIES, random_hours(dice))
        if dice.random() < 0.7:
            bring(source, target)
            assert books(target) == books(source), f"seed {seed}, step {step}"
            assert all(
                compare_series(source, target, series, [span]).equal
                for series, span in whole_spans(source).items()
            ), f"seed {seed}, step {step}"
