"""The form in which the embedded store stages candles: every bit comes back, damage is seen, and it is small."""

from __future__ import annotations

import zlib
from pathlib import Path

import apsw
import numpy as np
import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from chandlery.candle import VALUES, CandlePage
from chandlery.stores import open_store
from chandlery.stores.base import Page
from chandlery.stores.embedded_blob import Block, Staged, pack, unpack, unpack_times
from chandlery.testing.store_scenes import LATER, SERIES, START, ask, bits, candles, hours, picture

MINUTE = 60_000

#: A column: whole numbers below the limit, that many decimal places, and a few numbers that are put into it.
DECIMALS = st.tuples(st.integers(0, 8), st.sampled_from([9, 1000, 2**31 - 1, 2**33, 2**53]))
ODD = st.floats(width=64) | st.sampled_from([-0.0, 5e-324, 2147483647.0, 2147483648.0, -2147483648.0, 1e300])
COLUMN = st.tuples(DECIMALS, st.lists(ODD, max_size=2))
ROWS = st.sampled_from([1, 2, 31, 32, 33, 64, 257])


def same(one: Block | None, other: Block) -> bool:
    """Whether two blocks are the same bit for bit, NaNs and the signs of zeros too."""
    return (
        one is not None
        and one.times.dtype == np.int64
        and one.values.dtype == np.float64
        and one.times.tobytes() == other.times.tobytes()
        and one.values.shape == other.values.shape
        and one.values.tobytes() == other.values.tobytes()
    )


def times_of(rows: int, *, even: bool, dice: np.random.Generator) -> np.ndarray:
    """So many open times, a minute apart or one to three of them."""
    steps = np.full(rows, 1) if even else dice.integers(1, 4, rows)
    return START + np.cumsum(steps).astype(np.int64) * MINUTE


def as_before(block: Block) -> Staged:
    """A block as schemas 2 and 3 of the catalogue staged it: doubles, and no end that says how they are kept."""
    new = pack(block)
    data = (block.times.tobytes() if new.step is None else b"") + block.values.tobytes()
    return new._replace(data=data, crc=zlib.crc32(data))


def decimals(rows: int, places: int = 2) -> Block:
    """A block of evenly spaced candles of which all columns are small decimals."""
    dice = np.random.default_rng(places)
    values = dice.integers(1, 10**9, (5, rows)) / 10.0**places
    return Block(times_of(rows, even=True, dice=dice), values)


def cents(first: int, until: int, *, seed: int = 0) -> pl.DataFrame:
    """Candles of those hours with two decimal places."""
    return candles(list(range(first, until)), seed=seed).with_columns(pl.col(*VALUES).round(2))


def page(first: int, until: int, *, seed: int = 0) -> Page:
    """A page of such candles."""
    return Page(CandlePage(SERIES, hours(first, until), cents(first, until, seed=seed), "test", LATER))


@given(ROWS, st.booleans(), st.lists(COLUMN, min_size=5, max_size=5), st.integers(0, 2**32))
@example(257, True, [((2, 1000), [-0.0])] * 5, 1)
@example(257, False, [((8, 9), [float("nan")]), *[((0, 2**53), [float("inf")])] * 4], 2)
def test_every_bit_of_a_block_comes_back(
    rows: int, even: bool, columns: list[tuple[tuple[int, int], list[float]]], seed: int
) -> None:
    """Decimals of 0 to 8 places, doubles of all kinds among them, even times and uneven ones are what they were."""
    dice = np.random.default_rng(seed)
    values = np.empty((5, rows))
    for row, ((places, limit), odd) in zip(values, columns, strict=True):
        row[:] = dice.integers(-limit, limit, rows, endpoint=True) / 10.0**places
        row[dice.integers(0, rows, len(odd))] = odd
    block = Block(times_of(rows, even=even, dice=dice), values)
    staged = pack(block)
    assert same(unpack(staged), block)
    assert unpack_times(staged).tobytes() == block.times.tobytes()
    assert same(unpack(as_before(block)), block)
    assert len(staged.data) <= len(as_before(block).data)


@given(ROWS, st.integers(0, 2**32))
def test_arbitrary_doubles_come_back(rows: int, seed: int) -> None:
    """Any 64 bits are a double, and all of them come back, from a part of a larger block as well."""
    dice = np.random.default_rng(seed)
    values = dice.integers(0, 2**64, (5, rows + 9), dtype=np.uint64, endpoint=False).view(np.float64)
    block = Block(times_of(rows + 9, even=True, dice=dice), values).part(4, 4 + rows)
    staged = pack(block)
    assert same(unpack(staged), block)
    assert len(staged.data) == rows * 40


@pytest.mark.parametrize("places", range(9))
def test_decimals_take_half(places: int) -> None:
    """A page of decimals of any number of places up to 8 is staged in 20 bytes a candle and five more."""
    block = decimals(1000, places)
    staged = pack(block)
    assert len(staged.data) == 20 * 1000 + 5
    assert same(unpack(staged), block)


@given(
    st.lists(st.integers(0, 8) | st.just(255), min_size=5, max_size=5),
    st.integers(0, 8),
    st.integers(0, 2**32),
)
def test_a_guess_changes_no_candle(guess: list[int], places: int, seed: int) -> None:
    """Whatever the block before was like, every bit comes back, and no column that fits into int32 takes more."""
    dice = np.random.default_rng(seed)
    values = dice.integers(-(2**31), 2**31, (5, 40)) / 10.0**places
    values[:, 0] = -(2**31) / 10.0**places
    block = Block(times_of(40, even=True, dice=dice), values)
    staged = pack(block, bytes(guess))
    assert same(unpack(staged), block)
    assert len(staged.data) == 20 * 40 + 5


@pytest.mark.parametrize("even", [True, False])
@pytest.mark.parametrize("column", range(5))
def test_an_odd_column_does_not_spoil_the_others(column: int, even: bool) -> None:
    """One column that int32 cannot hold is kept as doubles; the other four take half."""
    dice = np.random.default_rng(column)
    block = Block(times_of(101, even=even, dice=dice), decimals(101).values)
    block.values[column, 50] = 1e15 / 3
    staged = pack(block)
    assert len(staged.data) == 101 * (4 * 4 + 8 + (0 if even else 8)) + 5
    assert same(unpack(staged), block)


def test_the_number_with_most_places_counts() -> None:
    """Places are guessed from a few rows: one row elsewhere that has more raises them, and is not rounded."""
    block = decimals(1000, 1)
    block.values[:] = np.floor(block.values / 1e5)
    for places in range(1, 6):
        block.values[2, places] = 7 + 10.0**-places
        staged = pack(block)
        assert len(staged.data) == 20_005
        assert same(unpack(staged), block)


@pytest.mark.parametrize("even", [True, False])
@pytest.mark.parametrize("odd", [0, 2, 5])
def test_damage_is_none(odd: int, even: bool) -> None:
    """Each flipped bit, each cut and each added byte of a block of either form is seen, and raises nothing."""
    dice = np.random.default_rng(odd)
    block = Block(times_of(40, even=even, dice=dice), decimals(40).values)
    block.values[:odd] /= 3
    for good in (pack(block), as_before(block)):
        data = good.data
        assert same(unpack(good), block)
        assert bool(len(data) % 8) == (odd < 5 and good == pack(block))
        for place in range(len(data)):
            bad = bytearray(data)
            bad[place] ^= 1 << place % 8
            assert unpack(good._replace(data=bytes(bad))) is None
        for bad in (b"", data[:4], data[:-1], data[:-5], data[:-8], data + b"\0", data + bytes(8)):
            assert unpack(good._replace(data=bytes(bad))) is None
        for rows in (-1, 0, 1, 39, 41):
            assert unpack(good._replace(rows=rows)) is None


def test_an_end_that_nobody_writes_is_none() -> None:
    """Decimal places beyond 8 are not taken for a scale, even where the checksum fits."""
    good = pack(decimals(40))
    for places in (9, 128, 254):
        data = good.data[:-1] + bytes([places])
        assert unpack(good._replace(data=data, crc=zlib.crc32(data))) is None


def test_a_store_of_version_3_is_read_and_brought_up(tmp_path: Path) -> None:
    """Its staged blocks are doubles: they are read where they lie, kept by the first writer, joined and sealed by it."""
    place = tmp_path / "old"
    catalogue = place / "catalogue.sqlite"
    with open_store(place) as store:
        store.write([ask(0, 9000), page(0, 1000), page(1000, 1010), page(990, 1005, seed=1)])
        store.set_mark("any", 9)
        before, name = picture(store), store.identity
    database = apsw.Connection(str(catalogue))
    columns = "first, last, rows, step, data, crc"
    for number, *columns_of_one in list(database.execute(f"SELECT id, {columns} FROM staged")):
        block = unpack(Staged(*columns_of_one))
        assert block is not None
        old = as_before(block)
        database.execute("UPDATE staged SET data = ?, crc = ? WHERE id = ?", (old.data, old.crc, number))
    database.execute("PRAGMA user_version = 3")
    database.close()

    def staged_bytes() -> list[tuple[int, bytes]]:
        return list(apsw.Connection(str(catalogue)).execute("SELECT rows, data FROM staged ORDER BY id"))

    written = staged_bytes()
    assert [len(data) == 40 * rows for rows, data in written] == [True] * len(written)
    with open_store(place, create=False) as store:  # read only: nothing of it changes
        assert (picture(store), store.identity, store.mark("any")) == (before, name, 9)
        assert list(store.check(SERIES)) == []
        assert apsw.Connection(str(catalogue)).execute("PRAGMA user_version").get == 3
        assert store.write([page(1010, 2010)])[0].new == 1000
    assert apsw.Connection(str(catalogue)).execute("PRAGMA user_version").get == 4
    assert staged_bytes()[: len(written)] == written
    assert staged_bytes()[len(written) :] != []
    assert all(len(data) == 20 * rows + 5 for rows, data in staged_bytes()[len(written) :])
    with open_store(place, create=False) as store:
        assert (store.identity, store.mark("any")) == (name, 9)
        assert list(store.check(SERIES)) == []
        whole = bits(store.candles(SERIES))
        assert bits(store.candles(SERIES, hours(1010, 2010))) == bits(cents(1010, 2010))
        store.seal(everything=True)
        assert bits(store.candles(SERIES)) == whole
        assert list(store.check(SERIES)) == []
    assert staged_bytes() == []
