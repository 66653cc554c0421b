"""The store contract, first part: candles come back as they went in, whatever is written twice, changed or sealed."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import polars as pl

from chandlery.candle import SCHEMA, CandlePage, Rejected
from chandlery.errors import NoSuchSeries
from chandlery.ledger import Fact, State
from chandlery.stores.base import Entry, Page, SeriesFact, Written
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
    picture,
    raised,
)
from chandlery.timeframe import HOUR
from chandlery.timerange import TimeRange


class RowsContract(StoreMaker):
    """Promises about candles."""

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

    def test_pages_of_other_types_are_refused(self, tmp_path: Path) -> None:
        """A page of one candle or of many must have the types of the schema: nothing of another one is cut to fit."""
        with self.make_store(tmp_path) as store:
            store.write([page(0, 5)])
            before = picture(store)
            for many in (1, 3):
                plain = candles(list(range(5, 5 + many)))
                for other in (
                    pl.col("time").cast(pl.Datetime("us", "UTC")),
                    pl.col("volume").cast(pl.Float32),
                ):
                    wrong = Page(CandlePage(SERIES, hours(5, 9), plain.with_columns(other), "test", LATER))
                    raised(ValueError, lambda wrong=wrong: store.write([wrong]))  # type: ignore[misc]
            assert picture(store) == before

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
