"""What may be stored as a candle and what may not."""

from __future__ import annotations

import math
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chandlery.candle import SCHEMA
from chandlery.errors import BadAnswer
from chandlery.timeframe import parse_timeframe
from chandlery.validate import check_rows

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
        check_rows(frame_of([[int(T0 * factor), *GOOD]]), MINUTE)


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
    refused = {row.open for row in verdict.rejected}
    for row in rows:
        assert row in kept or row[0] in refused
    assert not {row[0] for row in kept} & {r.open for r in verdict.rejected if "differ" in r.reason}
