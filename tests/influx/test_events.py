"""The ledger as events: whatever happened, the events add up to it, also in a bucket that forgets its oldest shards."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from chandlery.candle import SeriesId
from chandlery.ledger import Ledger, State, account, with_answer
from chandlery.stores.base import Ask, NoFact, Page, SeriesFact
from chandlery.stores.influx_events import (
    STAMPS,
    Event,
    Retention,
    answer_event,
    ask_event,
    books_of,
    event_text,
    fact_event,
    in_pieces,
    reach,
    reset_event,
    stamp,
)
from chandlery.stores.rules import after, without_answers
from chandlery.testing.store_scenes import OTHER, SERIES, START, hours, random_entry, random_hours
from chandlery.timeframe import DAY, HOUR
from chandlery.timerange import RangeSet, TimeRange

NOTHING = np.empty(0, dtype=np.int64)


class History:
    """A ledger that random entries lead to, and the events that a bucket was given meanwhile."""

    def __init__(self, retention: Retention, now: int) -> None:
        self.retention, self.now = retention, now
        self.ledger = Ledger(SERIES.frame)
        self.kept: list[tuple[int, dict[str, Any]]] = []  # stamp in ns, event

    def note(self, event: Event) -> None:
        """Keep an event as the store does."""
        for piece in in_pieces(event, self.retention, self.now):
            number = len(self.kept) + 1
            self.kept.append((stamp(piece.span.since, number), json.loads(event_text(piece, SERIES, number))))

    def take(self, entry: Ask | SeriesFact | NoFact | Page) -> None:
        """Do what the store does with an entry, rows aside."""
        old = self.ledger
        if isinstance(entry, Page):
            page = entry.page
            if page.answered:
                self.ledger = replace(old, answered=with_answer(old, page.answered, page.at))
                self.note(answer_event(page.answered, page.at))
            return
        changed, _ = after(old, entry)
        if changed is None:
            return
        self.ledger = changed
        if isinstance(entry, SeriesFact):
            self.note(fact_event(entry.fact))
        elif isinstance(entry, NoFact):
            self.note(reset_event(changed, entry.range, answers=False, facts=True))
        else:
            if (changed.answered, changed.facts) != (old.answered, old.facts):
                self.note(reset_event(changed, reach(old), answers=True, facts=True))
            self.note(ask_event(changed, entry.range))

    def forget(self, span: TimeRange) -> None:
        """Let go of answers."""
        self.ledger = without_answers(self.ledger, RangeSet([span]))
        self.note(reset_event(self.ledger, span, answers=True, facts=False))

    def read(self, since_ns: int = -(1 << 63)) -> Ledger:
        """What the events add up to that a bucket holds which has dropped everything stamped before."""
        return books_of(SERIES, [event for at, event in self.kept if at >= since_ns]).ledger


def random_history(dice: random.Random, retention: Retention, now: int, *, listings: bool = True) -> History:
    """Many entries and lapses of one series."""
    history = History(retention, now)
    for _ in range(60):
        entry = random_entry(dice)
        if (entry.page.series if isinstance(entry, Page) else entry.series) == OTHER:
            continue
        listing = isinstance(entry, SeriesFact) and entry.fact.state is State.BEFORE_LISTING
        if listing and not listings:
            continue
        history.take(entry)
        if dice.random() < 0.1:
            history.forget(random_hours(dice))
    return history


def test_events_add_up_to_the_ledger(seed: int) -> None:
    """In a bucket that keeps everything, the events of any history are its ledger, range by range, in any order."""
    for turn in range(30):
        dice = random.Random(f"{seed} {turn}")
        history = random_history(dice, Retention(), START + 500 * DAY)
        dice.shuffle(history.kept)
        assert history.read() == replace(history.ledger, quarantined=()), f"seed {seed}, turn {turn}"


@pytest.mark.parametrize("shard", [HOUR, 6 * HOUR, DAY, 7 * DAY])
def test_a_dropped_shard_takes_just_its_own_events(shard: int, seed: int) -> None:
    """In a bucket that forgets, every slot that is left has the state that it had, whichever shards were dropped."""
    retention = Retention(keep=900 * DAY, shard=shard)
    for turn in range(12):
        dice = random.Random(f"{seed} {shard} {turn}")
        # Before a listing there is nothing however far back, so one in the midst of candles would speak for other shards.
        history = random_history(dice, retention, START + 500 * DAY, listings=False)
        edge = START + dice.randrange(-30, 320) * HOUR
        (*_, last) = retention.cut(TimeRange(edge - shard, edge + 1), START + 500 * DAY)
        left = RangeSet([TimeRange(last.since, START + 400 * HOUR)])
        read = history.read(last.since * STAMPS)
        if not read.asked:  # the clock went with the last ask
            continue
        read = replace(read, clock=history.ledger.clock, settle=history.ledger.settle)
        found = account(read, NOTHING, left & history.ledger.asked)
        wanted = account(history.ledger, NOTHING, left & history.ledger.asked)
        said = [(g.since, g.until, g.state) for g in found.gaps]
        assert said == [(g.since, g.until, g.state) for g in wanted.gaps], f"seed {seed}, turn {turn}"


def test_stamps_of_one_open_time_differ() -> None:
    """A million events in a row that speak of one open time have stamps of their own within its millisecond."""
    assert stamp(START, 7) == START * STAMPS + 7
    assert len({stamp(START, n) for n in range(1, STAMPS, 997)}) == len(range(1, STAMPS, 997))
    assert stamp(START, STAMPS - 1) < stamp(START + 1, STAMPS)
    assert -(1 << 63) < stamp(-(1 << 62), 3) < stamp(1 << 62, 3) < 1 << 63


def test_what_the_bucket_takes_no_more_is_left_out() -> None:
    """An event that reaches below the horizon is kept from there on; one that lies below it is not kept."""
    now = START + 100 * DAY
    retention = Retention(keep=30 * DAY, shard=DAY)
    pieces = list(in_pieces(answer_event(hours(0, 100 * 24), now), retention, now))
    assert pieces[0].span.since == now - 30 * DAY
    assert pieces[-1].span.until == START + 100 * DAY
    assert all(piece.span.until - piece.span.since <= DAY for piece in pieces)
    assert list(in_pieces(answer_event(hours(0, 24), now), retention, now)) == []


def test_an_event_of_a_later_version_is_passed_over() -> None:
    """What this version does not know changes nothing that it knows."""
    series = SeriesId("binance", "BTC/USDT", "1h")
    events = [
        {"n": 1, "event": "ask", "range": [START, START + HOUR], "clock": 5, "settle": 0},
        {"n": 2, "event": "certificate", "range": [START, START + HOUR], "by": "whom"},
    ]
    assert books_of(series, events).ledger == books_of(series, events[:1]).ledger
    assert books_of(series, events).number == 2
