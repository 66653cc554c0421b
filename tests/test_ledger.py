"""The ledger accounts for every slot once, and its algebra agrees with a model that keeps every slot on its own."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from chandlery.candle import SeriesId
from chandlery.ledger import (
    CONFIRMED_AFTER,
    FACTS,
    Answered,
    Fact,
    Ledger,
    State,
    account,
    settled_until,
    to_ask,
    with_answer,
)
from chandlery.stores.base import Ask
from chandlery.stores.rules import after_ask, after_fact, facts_said, without_facts
from chandlery.timeframe import HOUR, parse_timeframe
from chandlery.timerange import RangeSet, TimeRange

FRAME = parse_timeframe("1h")
SLOTS = 72  # the hours that everything here happens in: three days, so that some answers are confirmed and some are not

hours = st.integers(0, SLOTS)
spans = st.tuples(hours, hours).map(lambda pair: TimeRange(min(pair) * HOUR, max(pair) * HOUR))
times = st.integers(0, SLOTS + 48).map(lambda n: n * HOUR + 10_000)
# Only closed candles are answered.
answers = st.lists(
    st.tuples(spans.filter(bool), times).map(lambda pair: (pair[0], max(pair[1], pair[0].until))), max_size=8
)
found = st.builds(Fact, spans, st.sampled_from(FACTS), st.sampled_from(["why", "because"]), times)
# A fact, or a range whose facts hold no longer.
several_facts = st.lists(st.one_of(found, spans), max_size=6)
facts = st.lists(st.builds(Fact, spans, st.sampled_from(FACTS), st.just("why")), max_size=3).map(tuple)


def answered_one_by_one(several: list[tuple[TimeRange, int]]) -> Ledger:
    """A ledger that took the answers in order."""
    ledger = Ledger(FRAME)
    for span, at in several:
        ledger = replace(ledger, answered=with_answer(ledger, span, at))
    return ledger


def is_confirmed(slot: int, at: int) -> bool:
    """Whether an answer at `at` finds the candle of that slot closed long enough."""
    return (slot + 1) * HOUR + CONFIRMED_AFTER <= at


@given(answers)
def test_answered_is_what_was_answered(several: list[tuple[TimeRange, int]]) -> None:
    """The answered ranges are disjoint, ascending, and together exactly what was answered; confirmed stays confirmed."""
    ledger = answered_one_by_one(several)
    parts = [a.range for a in ledger.answered]
    assert all(a.until <= b.since for a, b in itertools.pairwise(parts))
    assert RangeSet(parts) == RangeSet(span for span, _ in several)
    for slot in range(SLOTS):
        mine = [at for span, at in several if slot * HOUR in span]
        kept = [a.at for a in ledger.answered if slot * HOUR in a.range]
        if any(is_confirmed(slot, at) for at in mine):
            assert kept == [None]
        elif mine:
            assert kept[0] is not None
            assert kept[0] <= max(mine)


@given(answers, st.sampled_from([3 * HOUR, 5 * HOUR, CONFIRMED_AFTER]))
def test_same_answers_again_take_nothing_back(several: list[tuple[TimeRange, int]], recheck: int) -> None:
    """An answer taken again leaves the answered ranges as they are, and nothing is owed that was not owed before."""
    ledger = answered_one_by_one(several)
    whole, now = TimeRange(0, SLOTS * HOUR), 99 * SLOTS * HOUR
    owed = to_ask(ledger, whole, now=now, settle=0, recheck=recheck)
    for span, at in several:
        again = replace(ledger, answered=with_answer(ledger, span, at))
        assert again.answered_ranges == ledger.answered_ranges
        assert not to_ask(again, whole, now=now, settle=0, recheck=recheck) - owed


@given(answers, times, st.sampled_from([0, HOUR, 5 * HOUR, CONFIRMED_AFTER]))
def test_what_is_owed_is_never_forgotten(
    several: list[tuple[TimeRange, int]], now: int, recheck: int
) -> None:
    """A settled slot is asked again if it was never answered, or only less than the recheck time after its close."""
    ledger = answered_one_by_one(several)
    asked = to_ask(ledger, TimeRange(0, SLOTS * HOUR), now=now, settle=0, recheck=recheck)
    for slot in range(SLOTS):
        mine = [at for span, at in several if slot * HOUR in span]
        settled = (slot + 1) * HOUR <= now
        owed = settled and not any((slot + 1) * HOUR + recheck <= at for at in mine)
        if not mine:
            assert (slot * HOUR in asked) == settled
        elif owed and recheck:
            assert slot * HOUR in asked
        if settled and any(is_confirmed(slot, at) for at in mine):
            assert slot * HOUR not in asked
        if not settled:
            assert slot * HOUR not in asked


def facts_one_by_one(several: list[Fact | TimeRange]) -> Ledger:
    """A ledger that was told the facts in order."""
    ledger = Ledger(FRAME)
    for one in several:
        changed = after_fact(ledger, one) if isinstance(one, Fact) else without_facts(ledger, one)
        ledger = changed or ledger
    return ledger


@settings(max_examples=200)
@given(several_facts)
def test_the_latest_fact_speaks_for_a_slot(several: list[Fact | TimeRange]) -> None:
    """Each slot has the state and reason of the latest fact that holds it, none if that was withdrawn; told again, no news."""
    ledger = facts_one_by_one(several)
    assert all(a.range.until <= b.range.since for a, b in itertools.pairwise(ledger.facts))
    for slot in range(SLOTS):
        last = None
        for one in several:
            if slot * HOUR in (one.range if isinstance(one, Fact) else one):
                last = one if isinstance(one, Fact) else None
        mine = [f for f in ledger.facts if slot * HOUR in f.range]
        assert [(f.state, f.reason) for f in mine] == ([(last.state, last.reason)] if last else [])
        if last and last.at is not None:
            # Its time is its own or an earlier one, so that no later look is forgotten.
            assert (mine[0].at is None) <= is_confirmed(slot, last.at)
            assert mine[0].at is None or mine[0].at <= last.at
    if several and isinstance(several[-1], Fact):
        assert after_fact(ledger, several[-1]) is None
    for fact in ledger.facts:
        again = after_fact(ledger, replace(fact, at=(SLOTS + 99) * HOUR))
        assert again is None or facts_said(again) == facts_said(ledger)


@settings(max_examples=200)
@given(
    several_facts, answers, times, st.sampled_from([0, HOUR, CONFIRMED_AFTER, 9 * CONFIRMED_AFTER]),
    st.booleans(), st.booleans(),
)  # fmt: skip
def test_what_is_said_to_be_nowhere_is_doubted(
    several: list[Fact | TimeRange],
    said: list[tuple[TimeRange, int]],
    now: int,
    recheck: int,
    active: bool,
    repair: bool,
) -> None:
    """A slot of a fact is asked again by repair, after the end of a market that trades again, and while it is young."""
    ledger = replace(facts_one_by_one(several), answered=answered_one_by_one(said).answered)
    asked = to_ask(
        ledger, TimeRange(0, SLOTS * HOUR), now=now, settle=0, recheck=recheck, active=active, repair=repair
    )
    bare = to_ask(replace(ledger, facts=()), TimeRange(0, SLOTS * HOUR), now=now, settle=0, recheck=recheck)
    assert not asked - bare
    for slot in range(SLOTS):
        mine = [f for f in ledger.facts if slot * HOUR in f.range]
        if not mine or slot * HOUR not in bare or slot * HOUR in ledger.answered_ranges:
            assert (slot * HOUR in asked) == (slot * HOUR in bare)
            continue
        (fact,) = mine
        doubted = repair or (active and fact.state is State.AFTER_END)
        if recheck > CONFIRMED_AFTER:
            doubted |= (slot + 1) * HOUR + recheck > now
        if recheck and fact.state is not State.BEFORE_LISTING and fact.at is not None:
            doubted |= (slot + 1) * HOUR + min(recheck, CONFIRMED_AFTER) > fact.at
        assert (slot * HOUR in asked) == doubted


@given(answers, several_facts, spans, times, times)
def test_a_clock_that_goes_back_takes_back_what_it_could_not_know(
    said: list[tuple[TimeRange, int]],
    several: list[Fact | TimeRange],
    wanted: TimeRange,
    ahead: int,
    clock: int,
) -> None:
    """After an ask with an earlier clock nothing is answered or a fact that is not settled by it, and the rest stays."""
    before = replace(
        facts_one_by_one(several), answered=answered_one_by_one(said).answered,
        asked=RangeSet.of(0, SLOTS * HOUR), clock=max(ahead, clock) + 1, settle=0,
    )  # fmt: skip
    after = after_ask(before, Ask(SeriesId("a", "B/C", "1h"), wanted, min(ahead, clock), 0)) or before
    settled = settled_until(FRAME, min(ahead, clock), 0)
    late, early = RangeSet.of(settled, 999 * SLOTS * HOUR), RangeSet.of(0, settled)
    for mine, kept in (
        (before.answered_ranges, after.answered_ranges),
        (RangeSet(f.range for f in before.facts), RangeSet(f.range for f in after.facts)),
    ):
        assert not kept & late
        assert kept == mine & early
    counts = account(after, np.array([], dtype=np.int64)).counts
    assert counts[State.PENDING] == max(0, SLOTS - settled // HOUR)


def test_candles_of_a_clock_that_was_ahead_are_looked_at_again() -> None:
    """The last day that was answered by a clock that was days ahead is owed another look, whatever that clock confirmed."""
    before = replace(
        answered_one_by_one([(TimeRange(0, 60 * HOUR), 300 * HOUR)]),
        asked=RangeSet.of(0, 300 * HOUR),
        clock=300 * HOUR,
    )
    assert before.answered == (Answered(TimeRange(0, 60 * HOUR), None),)
    after = after_ask(before, Ask(SeriesId("a", "B/C", "1h"), TimeRange(0, 100 * HOUR), 100 * HOUR, 0))
    assert after is not None
    asked = to_ask(after, TimeRange(0, 100 * HOUR), now=100 * HOUR, settle=0, recheck=HOUR)
    assert asked == RangeSet.of(36 * HOUR, 100 * HOUR)
    again = with_answer(after, TimeRange(36 * HOUR, 60 * HOUR), 100 * HOUR)
    assert again == (Answered(TimeRange(0, 60 * HOUR), None),)


def test_live_candles_are_one_range() -> None:
    """Candles answered one by one as they close are one range, still owed another look, until that look confirms them."""
    live = [(TimeRange(n * HOUR, (n + 1) * HOUR), (n + 1) * HOUR + 10_000) for n in range(SLOTS)]
    ledger = answered_one_by_one(live)
    assert ledger.answered == (Answered(TimeRange(0, SLOTS * HOUR), HOUR + 10_000),)
    whole = TimeRange(0, SLOTS * HOUR)
    assert to_ask(ledger, whole, now=SLOTS * HOUR, settle=0, recheck=HOUR) == RangeSet([whole])
    late = SLOTS * HOUR + CONFIRMED_AFTER
    assert with_answer(ledger, whole, late) == (Answered(whole, None),)


@settings(max_examples=200)
@given(
    st.lists(spans, max_size=4), answers, facts, st.sets(st.integers(0, SLOTS - 1)), st.sets(st.integers(0, SLOTS - 1)),
    times, st.sampled_from([0, 10_000, 2 * HOUR]),
)  # fmt: skip
def test_every_slot_is_accounted_for_once(
    asked: list[TimeRange],
    several: list[tuple[TimeRange, int]],
    known: tuple[Fact, ...],
    rows: set[int],
    refused: set[int],
    clock: int,
    settle: int,
) -> None:
    """Each slot has the state that a slot-by-slot model gives it, the sums agree, and the gaps are the slots without rows."""
    ledger = replace(
        answered_one_by_one(several),
        asked=RangeSet(asked),
        facts=known,
        quarantined=tuple(sorted(n * HOUR for n in refused)),
        clock=clock,
        settle=settle,
    )
    stored = np.array(sorted(n * HOUR for n in rows), dtype=np.int64)
    found = account(ledger, stored)
    expected = [slot for slot in range(SLOTS) if slot * HOUR in ledger.asked]
    states = {slot: _state(ledger, slot, rows, refused) for slot in expected}
    assert found.expected == len(expected)
    assert found.unexplained == 0
    for state in State:
        assert found.counts[state] == sum(said is state for said in states.values()), state
    told = [(slot, gap.state) for gap in found.gaps for slot in range(gap.since // HOUR, gap.until // HOUR)]
    assert told == [(slot, state) for slot, state in states.items() if state is not State.STORED]
    assert all(gap.candles == (gap.until - gap.since) // HOUR for gap in found.gaps)


def _state(ledger: Ledger, slot: int, rows: set[int], refused: set[int]) -> State:
    opened = slot * HOUR
    if slot in rows:
        return State.STORED
    if slot in refused:
        return State.QUARANTINED
    if opened in ledger.answered_ranges:
        return State.ABSENT
    for state in FACTS:
        if any(opened in fact.range for fact in ledger.facts if fact.state is state):
            return state
    # A fact of an empty range says nothing.
    early = [f.range.since for f in ledger.facts if f.state is State.BEFORE_LISTING and f.range]
    if early and opened < min(early):
        return State.BEFORE_LISTING
    return State.MISSING if opened + HOUR <= ledger.clock - ledger.settle else State.PENDING


def test_there_is_nothing_before_a_known_listing_however_far_back() -> None:
    """Slots before the first candle are before the listing even where nobody asked for them."""
    listed = Fact(TimeRange(9 * HOUR, 10 * HOUR), State.BEFORE_LISTING, "the first candle opens at ten")
    ledger = Ledger(
        FRAME, asked=RangeSet.of(9 * HOUR, 12 * HOUR), answered=(), facts=(listed,), clock=100 * HOUR
    )
    found = account(ledger, np.array([10 * HOUR, 11 * HOUR], dtype=np.int64), RangeSet.of(0, 12 * HOUR))
    assert found.counts[State.BEFORE_LISTING] == 10
    assert found.counts[State.MISSING] == 0
    assert [(gap.since, gap.until, gap.reason) for gap in found.gaps] == [(0, 10 * HOUR, listed.reason)]


def test_what_was_never_asked_for_is_told_apart_from_what_was_not_answered() -> None:
    """A missing run that crosses the border of what was asked is two gaps, each with its reason; stored rows split it."""
    asked = RangeSet([TimeRange(5 * HOUR, 10 * HOUR)])
    ledger = Ledger(FRAME, asked=asked, clock=100 * HOUR)
    rows = np.array([2 * HOUR, 7 * HOUR], dtype=np.int64)
    found = account(ledger, rows, RangeSet([TimeRange(0, 12 * HOUR)]))
    never, lost = "never asked for", "asked for, not answered"
    assert [(g.since // HOUR, g.until // HOUR, g.candles, g.reason) for g in found.gaps] == [
        (0, 2, 2, never), (3, 5, 2, never), (5, 7, 2, lost), (8, 10, 2, lost), (10, 12, 2, never),
    ]  # fmt: skip
    assert (found.counts[State.MISSING], found.unexplained) == (10, 0)
