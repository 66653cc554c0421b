"""What every store must do, as a test class: inherit `StoreContract`, give it `make_store` and `reopen`, run pytest.

`make_store(tmp_path)` returns a new store, `reopen(store)` closes it and opens the same one again. pytest is not
imported here, so that the package can be used without it.
"""

from __future__ import annotations

import os
import random
import threading
from functools import partial
from itertools import pairwise
from pathlib import Path

import polars as pl

from chandlery.candle import SCHEMA, CandlePage, Rejected, SeriesId
from chandlery.errors import NoSuchSeries, SeriesLocked, StoreUnreadable
from chandlery.ledger import CONFIRMED_AFTER, Answered, Fact, State, account
from chandlery.stores.base import Ask, Entry, Page, SeriesFact, Store, Written
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
    picture,
    raised,
    random_entry,
    random_hours,
)
from chandlery.timeframe import HOUR
from chandlery.timerange import RangeSet, TimeRange


class StoreContract:
    """The promises of `chandlery.stores.base.Store`, one test each."""

    def make_store(self, tmp_path: Path) -> Store:
        """A new, empty store."""
        raise NotImplementedError

    def reopen(self, store: Store) -> Store:
        """Close the store and open it again; a store that dies with its object is given back as it is."""
        raise NotImplementedError

    # -- candles ------------------------------------------------------------------------------------------------------

    def test_rows_come_back_as_they_went_in(self, tmp_path: Path) -> None:
        """What was written is read back bit for bit, ascending, after opening the store anew."""
        with self.make_store(tmp_path) as store:
            odd = candles(list(range(50))).with_columns(
                volume=pl.Series([0.1 + 0.2, -0.0, 5e-324, 1.7e308] + [0.0] * 46)
            )
            written = Page(CandlePage(SERIES, hours(0, 50), odd, "test", LATER))
            assert store.write([ask(0, 50), written])[1].new == 50
            store = self.reopen(store)
            assert bits(store.candles(SERIES)) == bits(odd)
            assert store.candles(SERIES).schema == SCHEMA
            assert store.opens(SERIES).tolist() == [START + n * HOUR for n in range(50)]
            store.close()

    def test_pages_out_of_order_come_back_in_order(self, tmp_path: Path) -> None:
        """Pages may arrive in any order and in one call; reading sorts them."""
        with self.make_store(tmp_path) as store:
            store.write([page(20, 30), page(0, 10), page(10, 20)])
            assert bits(store.candles(SERIES)) == bits(candles(list(range(30))))

    def test_span_is_half_open(self, tmp_path: Path) -> None:
        """A span holds its beginning and not its end, and may lie anywhere."""
        with self.make_store(tmp_path) as store:
            store.write([page(0, 48)])
            for first, until in (
                (0, 48),
                (5, 6),
                (5, 5),
                (-9, 3),
                (40, 90),
                (-9, -3),
                (60, 70),
                (-(10**6), 10**6),
            ):
                wanted = [n for n in range(48) if first <= n < until]
                assert bits(store.candles(SERIES, hours(first, until))) == bits(candles(wanted)), (
                    first,
                    until,
                )
                assert store.opens(SERIES, hours(first, until)).tolist() == [START + n * HOUR for n in wanted]
            inside = TimeRange(START + 1, START + HOUR + 1)
            assert store.opens(SERIES, inside).tolist() == [START + HOUR]

    def test_unknown_series_is_said_so(self, tmp_path: Path) -> None:
        """Every question about a series that is not kept raises NoSuchSeries and makes nothing."""
        with self.make_store(tmp_path) as store:
            for known in ([], [page(0, 2)]):
                store.write(known)
                for question in (store.ledger, store.candles, store.opens, store.revisions, store.quarantine,
                                 store.check, store.remove):  # fmt: skip
                    error = raised(NoSuchSeries, partial(question, OTHER))
                    assert "ETH/USDT" in str(error)
                    assert error.hint
                assert not store.knows(OTHER)
            assert [s.series for s in store.series()] == [SERIES]

    # -- writing twice, and changes -----------------------------------------------------------------------------------

    def test_writing_again_changes_nothing(self, tmp_path: Path) -> None:
        """The same entries a second time: nothing new, nothing journalled, in one call or in several."""
        bad = Rejected(START + 3 * HOUR, "[3, null]", "close is empty")
        entries: list[Entry] = [
            ask(0, 40),
            SeriesFact(SERIES, Fact(hours(-90, 0), State.BEFORE_LISTING, "listed 2024-01-01")),
            page(0, 10, [0, 1, 2, 4, 9], rejected=(bad,)),
            page(9, 20),
            page(15, 25, at=START + 26 * HOUR),
        ]
        with self.make_store(tmp_path) as store:
            store.write(entries)
            before = picture(store)
            again = store.write(entries)
            for entry in entries:
                again += store.write([entry])
            assert {w.seq for w in again} == {None}
            assert sum(w.new + w.revised + w.quarantined for w in again) == 0
            assert again[2].same == 5
            assert picture(store) == before

    def test_changed_candle_is_a_revision(self, tmp_path: Path) -> None:
        """A stored candle that comes with other values is replaced, and the old values are kept with the new."""
        with self.make_store(tmp_path) as store:
            store.write([ask(0, 10), page(0, 10)])
            changed = candles(list(range(10))).with_columns(
                close=pl.when(pl.col("time").dt.hour() == 4).then(pl.lit(1.5)).otherwise(pl.col("close"))
            )
            result = store.write([Page(CandlePage(SERIES, hours(0, 10), changed, "other", LATER + 5))])
            assert result == [Written(result[0].seq, new=0, same=9, revised=1, quarantined=0)]
            store = self.reopen(store)
            assert bits(store.candles(SERIES)) == bits(changed)
            (revision,) = store.revisions(SERIES)
            old, new = (frame.row(4)[1:] for frame in (candles(list(range(10))), changed))
            assert (revision.open, revision.old, revision.new) == (START + 4 * HOUR, old, new)
            assert (revision.at, revision.source, revision.series) == (LATER + 5, "other", SERIES)
            assert [e.kind for e in store.journal()][-1] == "revision"
            store.close()

    def test_candle_that_a_later_answer_lacks_stays(self, tmp_path: Path) -> None:
        """A stored candle is never taken away by an answer without it."""
        with self.make_store(tmp_path) as store:
            store.write([page(0, 10), page(0, 10, [0, 1]), page(2, 8, [])])
            assert store.candles(SERIES).height == 10

    def test_nothing_of_a_broken_call_stays(self, tmp_path: Path) -> None:
        """When one entry of a call cannot be taken, none of the call is, and the store goes on."""
        with self.make_store(tmp_path) as store:
            store.write([page(0, 5)])
            before = picture(store)
            outside = Page(CandlePage(SERIES, hours(0, 5), candles([1, 7]), "test", LATER))
            raised(
                ValueError, lambda: store.write([ask(0, 90), page(5, 9), page(0, 3, series=OTHER), outside])
            )
            assert picture(store) == before
            assert store.write([page(5, 9)])[0].new == 4

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
            assert store.write([ask(0, 10, clock=START + 7 * HOUR)])[0].seq is None
            assert store.ledger(SERIES).clock == START + 8 * HOUR

    def test_facts_speak_once_for_a_moment(self, tmp_path: Path) -> None:
        """A fact is kept with its reason, neighbours unite, and what has the state already is no news."""
        before = SeriesFact(SERIES, Fact(hours(-9, 0), State.BEFORE_LISTING, "listed"))
        wider = SeriesFact(SERIES, Fact(hours(-20, -3), State.BEFORE_LISTING, "listed"))
        within = SeriesFact(SERIES, Fact(hours(-5, -4), State.BEFORE_LISTING, "another reason"))
        with self.make_store(tmp_path) as store:
            assert [w.seq for w in store.write([before, wider, within])] == [1, 2, None]
            store = self.reopen(store)
            assert store.ledger(SERIES).facts == (Fact(hours(-20, 0), State.BEFORE_LISTING, "listed"),)
            assert [e.kind for e in store.journal()] == ["fact", "fact"]
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

    # -- sealing ------------------------------------------------------------------------------------------------------

    def test_sealing_changes_nothing_that_is_read(self, tmp_path: Path) -> None:
        """Candles, ledger and journal are the same before and after sealing, and later pages lie over what is sealed."""
        with self.make_store(tmp_path) as store:
            store.write([ask(0, 9000), page(0, 4000), page(4000, 9000)])
            before = picture(store)
            store.seal()
            assert picture(store) == before
            store.seal(everything=True)
            assert picture(store) == before
            assert store.seal(everything=True) == 0
            result = store.write([page(3990, 4010, seed=9), page(9000, 9003)])
            assert [(w.new, w.same, w.revised) for w in result] == [(0, 0, 20), (3, 0, 0)]
            wanted = bits(pl.concat([
                candles(list(range(3990))), candles(list(range(3990, 4010)), seed=9), candles(list(range(4010, 9003))),
            ]))  # fmt: skip
            assert bits(store.candles(SERIES)) == wanted
            store.seal(everything=True)
            store = self.reopen(store)
            assert bits(store.candles(SERIES)) == wanted
            assert store.check(SERIES) == []
            store.close()

    # -- together -----------------------------------------------------------------------------------------------------

    def test_random_entries_lead_where_the_reference_leads(self, tmp_path: Path) -> None:
        """Any mix of asks, pages, facts, removals, lapses, seals and reopenings is kept as the store in memory keeps it."""
        seed = int(os.environ.get("CHANDLERY_SEED") or random.SystemRandom().getrandbits(32))
        for turn in range(3):
            dice, place = random.Random(f"{seed} {turn}"), tmp_path / str(turn)
            store, model = self.make_store(place), MemoryStore()
            try:
                for step in range(30):
                    what = f"seed {seed}, turn {turn}, step {step}"
                    entries = [random_entry(dice) for _ in range(dice.choice((1, 1, 2, 5)))]
                    assert store.write(entries) == model.write(entries), what
                    if dice.random() < 0.2:
                        store.seal(everything=dice.random() < 0.5)
                    if dice.random() < 0.1:
                        store = self.reopen(store)
                    if dice.random() < 0.1:
                        span = random_hours(dice)
                        for one in (store, model):
                            if one.knows(SERIES):
                                one.forget(SERIES, span)
                    if dice.random() < 0.03 and model.knows(SERIES):
                        assert store.remove(SERIES) == model.remove(SERIES), what
                    assert picture(store) == picture(model), what
                    for series in (s.series for s in model.series()):
                        opens = store.opens(series)
                        counts = account(store.ledger(series), opens, gaps=False).counts
                        (row,) = [s for s in store.series() if s.series == series]
                        assert (row.absent, row.missing) == (counts[State.ABSENT], counts[State.MISSING]), (
                            what
                        )
                        span = random_hours(dice)
                        assert bits(store.candles(series, span)) == bits(model.candles(series, span)), what
                        assert store.check(series) == [], what
            finally:
                store.close()

    def test_threads_write_side_by_side(self, tmp_path: Path) -> None:
        """Several threads write several series at once; nothing is lost and the journal has no gap."""
        with self.make_store(tmp_path) as store:
            many = [SeriesId("binance", f"C{n}/USDT", "1h") for n in range(4)]
            failed: list[Exception] = []

            def work(series: SeriesId) -> None:
                try:
                    with store.lock(series):
                        for n in range(0, 100, 10):
                            store.write([page(n, n + 10, series=series)])
                except Exception as error:  # noqa: BLE001 - a thread's error is the test's
                    failed.append(error)

            threads = [threading.Thread(target=work, args=(series,)) for series in many]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert failed == []
            assert [bits(store.candles(series)) for series in many] == [bits(candles(list(range(100))))] * 4
            assert [e.seq for e in store.journal()] == list(range(1, 41))

    def test_reader_sees_whole_commits_only(self, tmp_path: Path) -> None:
        """While pages of ten are written and sealed, a reader never sees a part of a page or a candle less than before."""
        with self.make_store(tmp_path) as store:
            store.write([ask(0, 600), page(0, 10)])
            done = threading.Event()
            seen: list[int] = []
            failed: list[Exception] = []

            def read() -> None:
                try:
                    while not done.is_set():
                        seen.append(store.candles(SERIES).height)
                        assert store.ledger(SERIES).answered_ranges.until >= START + seen[-1] * HOUR
                except Exception as error:  # noqa: BLE001 - a thread's error is the test's
                    failed.append(error)

            thread = threading.Thread(target=read)
            thread.start()
            for n in range(10, 600, 10):
                store.write([page(n, n + 10)])
                if n % 100 == 0:
                    store.seal(everything=True)
            done.set()
            thread.join()
            assert failed == []
            assert seen == sorted(seen)
            assert all(height % 10 == 0 for height in seen)

    def test_a_series_has_one_writer(self, tmp_path: Path) -> None:
        """A second lock on a series is refused with the pid of the first, and granted after it; other series are free."""
        with self.make_store(tmp_path) as store:
            with store.lock(SERIES), store.lock(OTHER):
                error = raised(SeriesLocked, store.lock(SERIES).__enter__)
                assert error.pid == os.getpid()
                assert error.retryable
                store.write([page(0, 3), page(0, 3, series=OTHER)])
                waited = threading.Event()

                def wait() -> None:
                    with store.lock(SERIES, wait=True):
                        waited.set()

                thread = threading.Thread(target=wait)
                thread.start()
                assert not waited.wait(0.1)
            assert waited.wait(10)
            thread.join()
            with store.lock(SERIES):
                pass

    def test_closed_store_says_so(self, tmp_path: Path) -> None:
        """After close every use is an error of ours, and closing again is fine."""
        store = self.make_store(tmp_path)
        store.write([page(0, 3)])
        store.close()
        store.close()
        for use in (store.series, lambda: store.candles(SERIES), lambda: store.write([page(3, 4)])):
            assert "closed" in str(raised(StoreUnreadable, use))
