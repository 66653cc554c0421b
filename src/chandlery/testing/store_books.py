"""The store contract, second part: ledger, quarantine, journal and list tell what happened to the candles."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from chandlery.candle import Rejected, SeriesId
from chandlery.ledger import CONFIRMED_AFTER, Answered, Fact, State
from chandlery.sources.base import Volumes
from chandlery.stores.base import Ask, NoFact, SeriesFact, Written
from chandlery.testing.store_maker import StoreMaker
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
)
from chandlery.timeframe import HOUR
from chandlery.timerange import RangeSet
from chandlery.units import note, noted


class BooksContract(StoreMaker):
    """Promises about what is kept beside the candles."""

    # -- ledger -------------------------------------------------------------------------------------------------------

    def test_ledger_keeps_what_was_asked_and_answered(self, tmp_path: Path) -> None:
        """Asks unite, answers unite once they are confirmed, and clock and settling are those of the latest ask."""
        with self.make_store(tmp_path) as store:
            store.write(
                [ask(0, 10, clock=LATER), ask(5, 20, clock=LATER + 1, settle=7), page(0, 4), page(4, 12)]
            )
            store = self.reopen(store)
            ledger = store.ledger(SERIES)
            assert ledger.timeframe == SERIES.frame
            assert ledger.asked == RangeSet([hours(0, 20)])
            assert ledger.answered == (Answered(hours(0, 12), None),)
            assert (ledger.clock, ledger.settle, ledger.facts) == (LATER + 1, 7, ())
            store.close()

    def test_half_the_minutes_absent_cost_a_few_ranges(self, tmp_path: Path) -> None:
        """A market with every other candle absent has a ledger as short as a full one, and the right sums."""
        with self.make_store(tmp_path) as store:
            store.write([ask(0, 1000)])
            for n in range(0, 1000, 100):
                store.write([page(n, n + 100, list(range(n, n + 100, 2)))])
            ledger = store.ledger(SERIES)
            assert len(ledger.asked) + len(ledger.answered) + len(ledger.facts) == 2
            (summary,) = store.series()
            assert (summary.candles, summary.absent, summary.missing) == (500, 500, 0)

    def test_fresh_answers_keep_their_time_until_confirmed(self, tmp_path: Path) -> None:
        """A range answered soon after its close has the time of the answer; a later answer confirms it silently."""
        soon = START + 11 * HOUR
        with self.make_store(tmp_path) as store:
            store.write([ask(0, 10, clock=soon), page(0, 10, at=soon)])
            assert store.ledger(SERIES).answered == (Answered(hours(0, 10), soon),)
            known = len(list(store.journal()))
            assert store.write([page(0, 10, at=soon + CONFIRMED_AFTER)]) == [Written(None, same=10)]
            assert store.ledger(SERIES).answered == (Answered(hours(0, 10), None),)
            assert len(list(store.journal())) == known

    def test_ask_that_moves_no_slot_is_not_written(self, tmp_path: Path) -> None:
        """An ask inside what was asked is news only if a slot of it is pending no more."""
        with self.make_store(tmp_path) as store:
            assert store.write([ask(0, 10, clock=START + 5 * HOUR)])[0].seq == 1
            assert store.write([ask(2, 9, clock=START + 5 * HOUR + 9)])[0].seq is None
            assert store.series()[0].missing == 5
            assert store.write([ask(2, 9, clock=START + 8 * HOUR)])[0].seq == 2
            assert store.series()[0].missing == 8
            assert store.write([ask(0, 10, clock=START + 8 * HOUR - 1)])[0].seq == 3
            assert store.series()[0].missing == 7
            assert store.write([ask(0, 10, clock=START + 8 * HOUR - 9)])[0].seq is None
            assert store.ledger(SERIES).clock == START + 8 * HOUR - 1

    def test_clock_that_goes_back_was_ahead(self, tmp_path: Path) -> None:
        """An ask with an earlier clock makes what is not settled by it pending; the candles there are looked at again."""
        with self.make_store(tmp_path) as store:
            store.write([ask(0, 20, clock=START + 40 * HOUR), page(0, 12, at=START + 40 * HOUR)])
            assert store.series()[0].missing == 8
            store.seal(everything=True)
            assert store.write([ask(0, 11, clock=START + 11 * HOUR)])[0].seq == 3
            store = self.reopen(store)
            assert store.ledger(SERIES).answered_ranges == RangeSet([hours(0, 11)])
            assert (store.series()[0].absent, store.series()[0].missing) == (0, 0)
            assert store.account(SERIES).counts[State.PENDING] == 8
            assert store.candles(SERIES).height == 12
            late = START + 13 * HOUR
            store.write([ask(0, 13, clock=late)])
            assert (store.series()[0].absent, store.series()[0].missing) == (0, 1)
            assert store.write([page(11, 13, seed=1, at=late)])[0] == Written(5, new=1, revised=1)
            assert [r.open for r in store.revisions(SERIES)] == [START + 11 * HOUR]
            assert (store.series()[0].candles, store.series()[0].missing) == (13, 0)
            assert store.check(SERIES) == []
            store.close()

    def test_the_latest_fact_speaks_for_a_moment(self, tmp_path: Path) -> None:
        """A fact is kept with its reason, neighbours unite, what was said already is no news, what is new replaces it."""
        before = SeriesFact(SERIES, Fact(hours(-9, 0), State.BEFORE_LISTING, "listed", LATER))
        wider = SeriesFact(SERIES, Fact(hours(-20, -3), State.BEFORE_LISTING, "listed", LATER))
        within = SeriesFact(SERIES, Fact(hours(-5, -4), State.OUT_OF_REACH, "another", LATER))
        with self.make_store(tmp_path) as store:
            assert [w.seq for w in store.write([before, wider, before, within])] == [1, 2, None, 3]
            store = self.reopen(store)
            assert store.ledger(SERIES).facts == (
                Fact(hours(-20, -5), State.BEFORE_LISTING, "listed", None),
                Fact(hours(-5, -4), State.OUT_OF_REACH, "another", None),
                Fact(hours(-4, 0), State.BEFORE_LISTING, "listed", None),
            )
            assert [e.kind for e in store.journal()] == ["fact", "fact", "fact"]
            store.close()

    def test_a_fact_that_holds_no_longer_leaves_its_slots_missing(self, tmp_path: Path) -> None:
        """A fact keeps its time until it is confirmed, which is no news; withdrawn, what is not answered is missing."""
        soon = START + 11 * HOUR
        ended = Fact(hours(4, 10), State.AFTER_END, "gone", soon)
        with self.make_store(tmp_path) as store:
            store.write([ask(0, 10, clock=soon), page(0, 4, at=soon), SeriesFact(SERIES, ended)])
            assert (store.ledger(SERIES).facts, store.series()[0].missing) == ((ended,), 0)
            late = SeriesFact(SERIES, replace(ended, at=LATER))
            assert store.write([late, late]) == [Written(None), Written(None)]
            store = self.reopen(store)
            assert store.ledger(SERIES).facts == (replace(ended, at=None),)
            assert [
                w.seq for w in store.write([NoFact(SERIES, hours(2, 7)), NoFact(SERIES, hours(2, 7))])
            ] == [4, None]
            assert store.ledger(SERIES).facts == (Fact(hours(7, 10), State.AFTER_END, "gone", None),)
            assert store.series()[0].missing == 3
            assert [e.kind for e in store.journal()] == ["ask", "rows", "fact", "fact"]
            store.close()

    def test_quarantine_is_resolved_by_a_candle(self, tmp_path: Path) -> None:
        """A refused row is kept once with its raw text, counts as quarantined, and is resolved by a good candle."""
        bad = Rejected(START + 3 * HOUR, '[3, "x\n\0"]', "close is not a number")
        lost = Rejected(None, "<html>", "no time")
        with self.make_store(tmp_path) as store:
            store.write([ask(0, 6)])
            assert store.write([page(0, 6, [0, 1, 2, 4, 5], rejected=(bad, lost, bad))])[0].quarantined == 2
            assert store.write([page(0, 6, [0, 1, 2, 4, 5], rejected=(bad, lost))])[0] == Written(
                None, same=5
            )
            store = self.reopen(store)
            assert store.ledger(SERIES).quarantined == (bad.open,)
            assert [(q.row, q.resolved, q.source, q.at) for q in store.quarantine(SERIES)] == [
                (bad, False, "test", LATER), (lost, False, "test", LATER),
            ]  # fmt: skip
            assert (store.series()[0].absent, store.series()[0].missing) == (0, 0)
            store.write([page(2, 5)])
            assert store.ledger(SERIES).quarantined == ()
            assert [q.resolved for q in store.quarantine(SERIES)] == [True, False]
            late = Rejected(START + 4 * HOUR, "again", "worse")
            store.write([page(4, 5, [], rejected=(late,))])
            assert [q.resolved for q in store.quarantine(SERIES)] == [True, False, True]
            store.close()

    def test_forget_makes_answers_missing_and_keeps_rows(self, tmp_path: Path) -> None:
        """What was let go of is missing, but for the candles that are there; a new answer finds those the same."""
        with self.make_store(tmp_path) as store:
            store.write([ask(0, 20), page(0, 20, list(range(0, 20, 2)))])
            with store.lock(SERIES):
                store.forget(SERIES, hours(4, 10))
            assert store.ledger(SERIES).answered_ranges == RangeSet([hours(0, 4), hours(10, 20)])
            assert (store.series()[0].absent, store.series()[0].missing) == (7, 3)
            assert store.candles(SERIES).height == 10
            assert [e.kind for e in store.journal()] == ["ask", "rows", "repair"]
            store = self.reopen(store)
            assert store.write([page(4, 10, repair=True)])[0] == Written(4, new=3, same=3)
            assert (store.series()[0].absent, store.series()[0].missing, store.series()[0].candles) == (
                7,
                0,
                13,
            )
            assert store.check(SERIES) == []
            store.close()

    # -- journal, list, remove ----------------------------------------------------------------------------------------

    def test_journal_tells_every_change_in_order(self, tmp_path: Path) -> None:
        """One entry a change, numbered upwards without a gap, with kind, range, source and number of rows."""
        with self.make_store(tmp_path) as store:
            store.write([ask(0, 20), page(0, 10), page(10, 15, [])])
            store.write([page(0, 5, seed=1), page(15, 20, repair=True), page(0, 3, series=OTHER)])
            store.remove(OTHER)
            store = self.reopen(store)
            told = list(store.journal())
            assert [e.seq for e in told] == list(range(1, 8))
            assert [(e.kind, e.range, e.rows, e.series) for e in told] == [
                ("ask", hours(0, 20), 0, SERIES),
                ("rows", hours(0, 10), 10, SERIES),
                ("absence", hours(10, 15), 0, SERIES),
                ("revision", hours(0, 5), 5, SERIES),
                ("repair", hours(15, 20), 5, SERIES),
                ("rows", hours(0, 3), 3, OTHER),
                ("remove", hours(0, 3), 3, OTHER),
            ]
            assert told[1].source == "test"
            assert all(a.committed_at <= b.committed_at for a, b in pairwise(told))
            assert list(store.journal(4)) == told[4:]
            assert list(store.journal(2, 3)) == told[2:5]
            assert list(store.journal(99)) == list(store.journal(0, 0)) == []
            store.close()

    def test_series_are_listed_in_order_with_their_sums(self, tmp_path: Path) -> None:
        """Summaries stand by exchange, symbol, length and kind, and agree with the ledger slot by slot."""
        named = [
            SeriesId("a", "X/Y", "1m"), SeriesId("a", "X/Y", "1h"), SeriesId("a", "X/Y", "1h", "mark"),
            SeriesId("a", "X/Y", "1d"), SeriesId("a", "X/Y", "1M"), SeriesId("a", "Z/Y", "1m"), SeriesId("b", "A/B", "1m"),
        ]  # fmt: skip
        with self.make_store(tmp_path) as store:
            assert store.series() == []
            for series in random.Random(3).sample(named, len(named)):
                store.write([Ask(series, hours(0, 5), LATER, 0)])
            assert [s.series for s in store.series()] == [named[i] for i in (0, 2, 1, 3, 4, 5, 6)]
            assert all((s.first, s.last, s.candles) == (None, None, 0) for s in store.series())

    def test_removed_series_is_gone_and_may_come_back(self, tmp_path: Path) -> None:
        """Removing takes candles, ledger, revisions and quarantine; written anew, the series starts from nothing."""
        bad = Rejected(START + 8 * HOUR, "raw", "why")
        with self.make_store(tmp_path) as store:
            store.write(
                [
                    ask(0, 9),
                    page(0, 8),
                    page(0, 8, seed=2),
                    page(8, 9, [], rejected=(bad,)),
                    page(0, 2, series=OTHER),
                ]
            )
            store.seal(everything=True)
            assert store.remove(SERIES) == 8
            store = self.reopen(store)
            assert [s.series for s in store.series()] == [OTHER]
            assert not store.knows(SERIES)
            assert store.write([page(2, 4)])[0].new == 2
            assert bits(store.candles(SERIES)) == bits(candles([2, 3]))
            assert store.revisions(SERIES) == []
            assert store.quarantine(SERIES) == []
            assert store.ledger(SERIES).asked == RangeSet()
            store.close()

    # -- identity and marks -------------------------------------------------------------------------------------------

    def test_identity_is_kept_and_no_other_store_has_it(self, tmp_path: Path) -> None:
        """A store names itself the same after it was opened anew; another store has another name."""
        with self.make_store(tmp_path / "one") as store, self.make_store(tmp_path / "two") as other:
            mine = store.identity
            assert mine
            assert mine != other.identity
            store.write([page(0, 3)])
            store = self.reopen(store)
            assert store.identity == mine
            store.close()

    def test_marks_are_kept_by_name_and_are_no_news(self, tmp_path: Path) -> None:
        """A mark is 0 until it is set, the last number counts, names are apart, and the journal hears of none."""
        with self.make_store(tmp_path) as store:
            assert store.mark('a b:c/ü=,"') == 0
            store.write([page(0, 3)])
            store.set_mark('a b:c/ü=,"', 7)
            store.set_mark("other", 1 << 40)
            store.set_mark('a b:c/ü=,"', 5)
            store.remove(SERIES)
            store = self.reopen(store)
            assert (store.mark('a b:c/ü=,"'), store.mark("other"), store.mark("none")) == (5, 1 << 40, 0)
            assert [e.kind for e in store.journal()] == ["rows", "remove"]
            assert store.series() == []
            store.close()

    def test_the_unit_of_volumes_is_remembered_to_the_bit(self, tmp_path: Path) -> None:
        """What volumes are in, by what factor too, is given back as it was noted, of each series its own."""
        with self.make_store(tmp_path) as store:
            for volumes in (
                Volumes("quote"),
                Volumes("base", 0.1),
                Volumes("base", 1e-8),
                Volumes("base", 1e9),
            ):
                note(store, SERIES, volumes)
                store = self.reopen(store)
                assert noted(store, SERIES) == volumes
            assert noted(store, OTHER) is None
            store.close()

    def test_refused_rows_come_without_an_answer(self, tmp_path: Path) -> None:
        """A page that answers nothing may bring refused rows; nothing else changes."""
        bad = Rejected(START + 3 * HOUR, "raw", "why")
        with self.make_store(tmp_path) as store:
            store.write([ask(0, 6), page(0, 2)])
            assert store.write([page(3, 3, rejected=(bad,))])[0].quarantined == 1
            assert store.write([page(3, 3, rejected=(bad,))])[0] == Written(None)
            store = self.reopen(store)
            assert store.ledger(SERIES).answered_ranges == RangeSet([hours(0, 2)])
            assert [(q.row, q.resolved) for q in store.quarantine(SERIES)] == [(bad, False)]
            assert (store.series()[0].candles, store.series()[0].missing) == (2, 3)
            store.close()
