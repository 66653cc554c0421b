"""What is damaged in an embedded store is found and told, never read as a candle."""

from __future__ import annotations

import os
import random

import apsw
import pytest

from chandlery.errors import (
    StoreCorrupt,
)
from chandlery.stores import open_store
from chandlery.stores.embedded import EmbeddedStore
from chandlery.testing.store_scenes import (
    SERIES,
    START,
    ask,
    bits,
    candles,
    hours,
    page,
)
from chandlery.timeframe import DAY
from chandlery.verify import verify_series


def test_damaged_file_is_found_told_and_fetched_again(store: EmbeddedStore, seed: int) -> None:
    """A flipped bit is never read as a candle; check says what is lost, forget sets it aside, a new page heals it."""
    store.write([ask(0, 20000, clock=START + 1000 * DAY), page(0, 20000)])
    store.seal(everything=True)
    file = next(store.folder.rglob("2025.parquet"))
    damaged = bytearray(file.read_bytes())
    dice = random.Random(seed)
    damaged[dice.randrange(len(damaged))] ^= 1 << dice.randrange(8)
    file.write_bytes(damaged)
    with pytest.raises(StoreCorrupt, match=r"2025\.parquet"):
        store.candles(SERIES)
    assert store.candles(SERIES, hours(0, 8784)).height == 8784
    (problem,) = store.check(SERIES)
    assert (problem.kind, problem.candles, problem.range) == ("lost", 8760, hours(8784, 17544))
    with store.lock(SERIES):
        store.forget(SERIES, problem.range)
    assert store.check(SERIES) == []
    assert store.candles(SERIES).height == 20000 - 8760
    assert (store.series()[0].absent, store.series()[0].missing) == (0, 8760)
    assert [path.name for path in store.folder.rglob("*damaged*")] == ["2025.parquet.damaged"]
    assert store.write([page(8784, 17544, repair=True)])[0].new == 8760
    store.seal(everything=True)
    assert bits(store.candles(SERIES)) == bits(candles(list(range(20000))))


@pytest.mark.parametrize("how", ["removed", "cut"])
def test_missing_or_cut_file_is_corrupt(store: EmbeddedStore, how: str) -> None:
    """A sealed file that is gone or cut short is an error, for every question that needs it, and never fewer candles."""
    store.write([ask(0, 9000), page(0, 9000)])
    store.seal(everything=True)
    file = next(store.folder.rglob("2024.parquet"))
    if how == "removed":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-5])
    for question in (store.candles, store.opens, lambda s: store.write([page(0, 9000, series=s)])):
        with pytest.raises(StoreCorrupt):
            question(SERIES)
    assert store.remove(SERIES) == 9000


def test_damaged_staged_block_is_found(store: EmbeddedStore) -> None:
    """Staged candles carry a checksum: a flipped bit in the catalogue is told, not read."""
    store.write([ask(0, 100), page(0, 100)])
    store.close()
    catalogue = apsw.Connection(str(store.folder / "catalogue.sqlite"))
    ((number, blob),) = catalogue.execute("SELECT id, data FROM staged").fetchall()
    catalogue.execute(
        "UPDATE staged SET data = ? WHERE id = ?", (blob[:9] + bytes([blob[9] ^ 4]) + blob[10:], number)
    )
    catalogue.close()
    with open_store(store.url) as again:
        with pytest.raises(StoreCorrupt):
            again.candles(SERIES)
        assert [p.candles for p in again.check(SERIES)] == [100]
        again.forget(SERIES, hours(0, 100))
        assert again.write([page(0, 100)])[0].new == 100
        assert bits(again.candles(SERIES)) == bits(candles(list(range(100))))


@pytest.mark.parametrize("how", ["link", "dead link", "folder", "pipe"])
def test_file_that_cannot_be_read_is_damage_of_its_partition(store: EmbeddedStore, how: str) -> None:
    """Whatever lies in the place of a sealed file, only its candles are lost; forget sets it aside, a new page heals it."""
    store.write([ask(0, 20000, clock=START + 1000 * DAY), page(0, 20000)])
    store.seal(everything=True)
    file = next(store.folder.rglob("2025.parquet"))
    elsewhere = file.rename(store.folder.parent / "elsewhere")
    if how == "link":
        file.symlink_to(elsewhere)
    elif how == "dead link":
        file.symlink_to(elsewhere.with_name("nothing"))
    elif how == "pipe":
        os.mkfifo(file)
    else:
        file.mkdir()
        (file / "x").touch()
    with pytest.raises(StoreCorrupt, match=r"2025\.parquet is unreadable"):
        store.candles(SERIES)
    assert store.candles(SERIES, hours(0, 8784)).height == 8784
    (problem,) = store.check(SERIES)
    assert (problem.kind, problem.candles, problem.range) == ("lost", 8760, hours(8784, 17544))
    assert "unreadable" in problem.message
    with store.lock(SERIES):
        store.forget(SERIES, hours(8784, 17544))
    assert store.check(SERIES) == []
    assert [path.name for path in store.folder.rglob("*damaged*")] == ["2025.parquet.damaged"]
    assert store.write([page(8784, 17544, repair=True)])[0].new == 8760
    store.seal(everything=True)
    assert bits(store.candles(SERIES)) == bits(candles(list(range(20000))))


def test_verify_counts_what_is_staged_beside_a_damaged_file(store: EmbeddedStore) -> None:
    """Staged candles of a damaged partition cannot be read without it: verify says so and still gives a verdict."""
    store.write([ask(0, 200, clock=START + 1000 * DAY), page(0, 100)])
    store.seal(everything=True)
    store.write([page(100, 200)])
    file = next(store.folder.rglob("2024.parquet"))
    file.write_bytes(b"x")
    verdict = verify_series(store, SERIES)
    assert not verdict.ok
    assert verdict.account.expected == 200
    store.forget(SERIES, hours(0, 200))
    assert store.candles(SERIES).height == 100
