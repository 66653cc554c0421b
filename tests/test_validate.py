"""What may be stored as a candle and what may not."""

from __future__ import annotations

import json
import math
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chandlery.candle import SCHEMA
from chandlery.errors import BadAnswer
from chandlery.timeframe import parse_timeframe
from chandlery.validate import check_rows, raw_text

MINUTE = parse_timeframe("1m")
T0 = 1_700_000_040_000 // 60_000 * 60_000


def frame_of(rows: list[Any]) -> pl.DataFrame:
    """Rows of [open time, open, high, low, close, volume] as a frame."""
    return pl.DataFrame(rows, schema={**SCHEMA, "time": pl.Int64}, orient="row").cast(dict(SCHEMA))


GOOD = [10.0, 12.0, 9.0, 11.0, 3.0]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ([T0 + 1, *GOOD], "open time is not on the timeframe's grid"),
        ([T0, math.nan, 12.0, 9.0, 11.0, 3.0], "a price is not a finite number"),
        ([T0, 10.0, math.inf, 9.0, 11.0, 3.0], "a price is not a finite number"),
        ([T0, 10.0, 12.0, 9.0, 11.0, math.nan], "volume is not a finite number"),
        ([T0, 10.0, 12.0, 0.0, 11.0, 3.0], "a price is not above zero"),
        ([T0, -10.0, 12.0, -11.0, 11.0, 3.0], "a price is not above zero"),
        ([T0, 10.0, 12.0, 9.0, 11.0, -3.0], "volume is below zero"),
        ([T0, 10.0, 12.0, 10.5, 11.0, 3.0], "low is above open or close"),
        ([T0, 10.0, 10.5, 9.0, 11.0, 3.0], "high is below open or close"),
    ],
)
def test_refused(row: list[float], reason: str) -> None:
    """Each thing that cannot be true of a candle is refused with its reason and raw text, its neighbours are kept."""
    verdict = check_rows(frame_of([row, [T0 + 60_000, *GOOD]]), MINUTE, ["raw one", "raw two"])
    assert [(r.open, r.reason, r.raw) for r in verdict.rejected] == [(row[0], reason, '"raw one"')]
    assert len(verdict.good) == 1


def test_spikes_are_kept() -> None:
    """A price a thousand times its neighbours may have happened."""
    verdict = check_rows(frame_of([[T0, *GOOD], [T0 + 60_000, 10.0, 12_000.0, 9.0, 11.0, 0.0]]), MINUTE)
    assert len(verdict.good) == 2


def test_duplicates() -> None:
    """Equal duplicates become one row; of rows that differ at one open time, none is kept."""
    other = [10.0, 12.0, 9.0, 11.5, 3.0]
    rows = [[T0, *GOOD], [T0, *GOOD], [T0 + 60_000, *GOOD], [T0 + 60_000, *other], [T0 + 60_000, *GOOD]]
    verdict = check_rows(frame_of(rows), MINUTE)
    assert verdict.good["time"].dt.epoch("ms").to_list() == [T0]
    assert [r.open for r in verdict.rejected] == [T0 + 60_000] * 3


@pytest.mark.parametrize("factor", [1e-3, 1e3])
def test_wrong_unit(factor: float) -> None:
    """Open times in seconds or microseconds condemn the whole answer."""
    with pytest.raises(BadAnswer, match="milliseconds"):
        check_rows(frame_of([[int((T0 + n * 60_000) * factor), *GOOD] for n in range(2)]), MINUTE)


PRICE = st.one_of(st.floats(1, 20), st.sampled_from([math.nan, math.inf, -1.0, 0.0]))


@given(
    st.lists(
        st.tuples(st.integers(0, 12).map(lambda n: T0 + n * 30_000), PRICE, PRICE, PRICE, PRICE, PRICE),
        max_size=25,
    )
)
def test_no_row_is_lost_and_none_bad_is_kept(rows: list[Any]) -> None:
    """Every row is kept, dropped as an equal duplicate, or refused; what is kept is sound, ascending and unique."""
    verdict = check_rows(frame_of([list(row) for row in rows]), MINUTE)
    times = verdict.good["time"].dt.epoch("ms").to_list()
    assert times == sorted(set(times))
    for time, o, h, low, c, v in verdict.good.with_columns(pl.col("time").dt.epoch("ms")).iter_rows():
        assert time % 60_000 == 0
        assert 0 < low <= min(o, c) <= max(o, c) <= h < math.inf
        assert 0 <= v < math.inf
    kept = set(verdict.good.with_columns(pl.col("time").dt.epoch("ms")).iter_rows())
    refused = {json.loads(row.raw)[0] for row in verdict.rejected}
    for row in rows:
        assert row in kept or row[0] in refused
    assert not {row[0] for row in kept} & {r.open for r in verdict.rejected if "differ" in r.reason}


def minutes(*numbers: int) -> pl.DataFrame:
    """Sound rows, a minute for each number; below zero they stand for themselves."""
    return frame_of([[T0 + n * 60_000 if n >= 0 else n, *GOOD] for n in numbers])


@pytest.mark.parametrize("wrong", [T0 // 1000, 0, -1, -2, T0 * 1000, T0 - 525_600 * 60_000])
def test_row_gets_the_free_place_between_its_neighbours(wrong: int) -> None:
    """A row whose open time cannot be true is refused at the one slot that its neighbours leave free."""
    rows = frame_of([[t, *GOOD] for t in (T0, T0 + 60_000, wrong, T0 + 180_000, T0 + 240_000)])
    for answer in (rows, rows.reverse()):
        verdict = check_rows(answer, MINUTE, latest=T0 + 10**9)
        assert [row.open for row in verdict.rejected] == [T0 + 120_000]
        assert verdict.good["time"].dt.epoch("ms").to_list() == [T0 + n * 60_000 for n in (0, 1, 3, 4)]
        assert verdict.strays == 0


def test_row_with_its_neighbours_open_time() -> None:
    """A row that says it opens when its neighbour does takes the free slot between; neither of the two is kept."""
    other = [10.0, 12.0, 9.0, 11.5, 3.0]
    rows = frame_of([[T0, *GOOD], [T0 + 120_000, *other], [T0 + 120_000, *GOOD], [T0 + 180_000, *GOOD]])
    assert [row.open for row in check_rows(rows, MINUTE).rejected] == [T0 + 60_000, T0 + 120_000]
    twice = check_rows(minutes(0, 2, 2, 3), MINUTE)
    assert (len(twice.good), twice.rejected) == (3, ())


def test_row_without_a_certain_place_is_a_stray() -> None:
    """A row that may belong to any of two free slots gets none of them, and counts as a stray."""
    verdict = check_rows(minutes(0, 1, -1, 4, 5), MINUTE)
    assert [row.open for row in verdict.rejected] == [None]
    assert verdict.strays == 1
    assert check_rows(minutes(0, 1, -1, -2, 4, 5), MINUTE).strays == 0
    assert [row.reason for row in check_rows(minutes(0, 1, -1), MINUTE).tail] == ["no open time"]


def test_shuffled_rows_are_no_strays() -> None:
    """An answer in no order says nothing against its open times."""
    order = [(n * 37) % 101 for n in range(101)]
    verdict = check_rows(minutes(*order), MINUTE)
    assert (len(verdict.good), verdict.rejected, verdict.strays) == (101, (), 0)


def test_raw_text_can_be_stored() -> None:
    """Half of a surrogate pair in a row's text becomes its escape, because no database takes it."""
    assert raw_text(["\ud800"]).encode() == b'["\\ud800"]'
