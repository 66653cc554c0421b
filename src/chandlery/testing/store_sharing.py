"""The store contract, third part: any order of uses, by any number of threads."""

from __future__ import annotations

import os
import random
import threading
from pathlib import Path

from chandlery.candle import SeriesId
from chandlery.errors import SeriesLocked, StoreUnreadable
from chandlery.ledger import State, account
from chandlery.stores.memory import MemoryStore
from chandlery.testing.store_maker import StoreMaker
from chandlery.testing.store_scenes import (
    OTHER,
    SERIES,
    START,
    ask,
    bits,
    candles,
    page,
    picture,
    raised,
    random_entry,
    random_hours,
)
from chandlery.timeframe import HOUR


class SharingContract(StoreMaker):
    """Promises about long use and use by several."""

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
