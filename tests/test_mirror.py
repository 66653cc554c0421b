"""Mirrors: what happens to a store reaches them, in order, whatever broke off, and is read back."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import chandlery.mirror as mirror_module
from chandlery.candle import Rejected, SeriesId
from chandlery.errors import DatabaseError, DataPipelineError, UsageError
from chandlery.followers import Followers, check_mirrors
from chandlery.ledger import Fact, State
from chandlery.mirror import Mirror
from chandlery.report import MirrorReport
from chandlery.stores import open_store
from chandlery.stores.base import SeriesFact, Store
from chandlery.testing.store_scenes import (
    OTHER,
    SERIES,
    START,
    ask,
    bits,
    candles,
    hours,
    page,
    random_entry,
    random_hours,
)
from chandlery.timeframe import HOUR

from .mirroring import assert_equal, caught_up


@pytest.fixture
def primary(tmp_path: Path) -> Iterator[Store]:
    """An empty embedded store."""
    with open_store(tmp_path / "primary") as store:
        yield store


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Store]:
    """Another one."""
    with open_store(tmp_path / "mirror") as store:
        yield store


def test_whatever_happens_to_the_store_arrives(primary: Store, target: Store) -> None:
    """Back-fill out of order, repair, revision, fact, refused row, lapse and removal: each time the mirror is equal."""
    bad = Rejected(START + 33 * HOUR, "raw", "why")
    steps = [
        lambda: primary.write([ask(0, 100), page(60, 80), page(0, 20, list(range(0, 20, 2)))]),
        lambda: primary.write([page(20, 40, rejected=(bad,), opens=list(range(20, 30)))]),
        lambda: primary.write([page(5, 9, repair=True), page(60, 62, seed=1), page(0, 5, series=OTHER)]),
        lambda: primary.write(
            [SeriesFact(SERIES, Fact(hours(-9, 0), State.BEFORE_LISTING, "listed", START))]
        ),
        lambda: primary.forget(SERIES, hours(10, 70)),
        lambda: primary.write([page(50, 70, [55])]),
        lambda: primary.remove(OTHER),
        lambda: (primary.remove(SERIES), primary.write([ask(3, 9), page(3, 5)])),
    ]
    for number, step in enumerate(steps):
        step()
        assert caught_up(primary, target) > 0
        assert_equal(primary, target, f"step {number}")
        assert caught_up(primary, target) == 0
    assert [r.open for r in target.revisions(SERIES)] == []


def test_entries_are_followed_in_batches_oldest_first(
    primary: Store, target: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However much there is to catch up with, so many entries go over at once, each batch marked before the next."""
    monkeypatch.setattr(mirror_module, "ENTRIES_AT_ONCE", 10)
    many = [SeriesId("binance", f"C{n}/USDT", "1h") for n in range(5)]
    for n in range(0, 70, 2):
        primary.write([page(n, n + 2, series=many[n % 5])])
    seen: list[tuple[int, int]] = []
    set_mark = target.set_mark

    def watched(name: str, value: int) -> None:
        seen.append((value >> 20, sum(s.candles for s in target.series())))
        set_mark(name, value)

    monkeypatch.setattr(target, "set_mark", watched)
    mirror = Mirror(primary, target)
    assert (mirror.follow(), seen) == (35, [(10, 20), (20, 40), (30, 60), (35, 70)])
    mirror.close()
    assert_equal(primary, target)


def test_random_histories_are_mirrored(tmp_path: Path, seed: int) -> None:
    """Any mix of entries, lapses, removals and seals is mirrored, whenever the mirror gets to follow."""
    for turn in range(2):
        dice = random.Random(f"{seed} {turn}")
        with (
            open_store(tmp_path / f"{turn} primary") as primary,
            open_store("memory:" if turn else tmp_path / f"{turn} mirror") as target,
        ):
            for step in range(40):
                primary.write([random_entry(dice) for _ in range(dice.choice((1, 2, 5)))])
                if dice.random() < 0.1 and primary.knows(SERIES):
                    primary.forget(SERIES, random_hours(dice))
                if dice.random() < 0.05 and primary.knows(SERIES):
                    primary.remove(SERIES)
                if dice.random() < 0.1:
                    primary.seal(everything=True)
                if dice.random() < 0.5:
                    caught_up(primary, target)
                    assert_equal(primary, target, f"seed {seed}, turn {turn}, step {step}")


def test_a_wiped_mirror_is_noticed_and_filled(primary: Store, tmp_path: Path) -> None:
    """A mirror whose folder was deleted has no mark: it gets everything from the beginning."""
    place = tmp_path / "mirror"
    primary.write([ask(0, 50), page(0, 50)])
    caught_up(primary, str(place))
    shutil.rmtree(place)
    primary.write([page(40, 60)])

    assert caught_up(primary, str(place)) == 3
    with open_store(place) as target:
        assert_equal(primary, target)


def test_a_mirror_put_back_from_a_backup_goes_on_from_there(primary: Store, tmp_path: Path) -> None:
    """An older mirror has an older mark, and gets what came since."""
    place, backup = tmp_path / "mirror", tmp_path / "backup"
    primary.write([ask(0, 50), page(0, 20)])
    caught_up(primary, str(place))
    shutil.copytree(place, backup)
    primary.write([page(20, 50)])
    caught_up(primary, str(place))
    shutil.rmtree(place)
    backup.rename(place)
    primary.write([page(50, 60)])

    assert caught_up(primary, str(place)) == 2
    with open_store(place) as target:
        assert_equal(primary, target)


@pytest.mark.parametrize("more", [0, 2])
def test_a_store_put_back_from_a_backup_is_followed_anew(tmp_path: Path, more: int) -> None:
    """A store that lost its newest entries and wrote others, fewer or as many, has another past: the mirror follows that
    and says what it has more.
    """
    place, backup, other = tmp_path / "primary", tmp_path / "backup", tmp_path / "mirror"
    with open_store(place) as primary:
        primary.write([ask(0, 50), page(0, 20)])
        shutil.copytree(place, backup)
        primary.write([page(20, 30), page(30, 40)])
        caught_up(primary, str(other))
    shutil.rmtree(place)
    backup.rename(place)
    with open_store(place) as primary, open_store(other) as target:
        primary.write([page(20, 30, seed=4), *(page(n, n + 1, series=OTHER) for n in range(more))])
        mirror = Mirror(primary, target)
        assert mirror.follow() == 3 + more
        with pytest.raises(DatabaseError, match="10 candles that the store has not"):
            mirror.verify()
        assert bits(target.candles(SERIES, hours(20, 30))) == bits(candles(list(range(20, 30)), seed=4))
        assert mirror.behind() == 0
        mirror.close()


def test_a_candle_changed_behind_our_back_is_found(primary: Store, tmp_path: Path) -> None:
    """On a day that was touched since, what is read back differs from the store and is sent again; a lost candle too."""
    place = tmp_path / "mirror"
    primary.write([ask(0, 50), page(0, 40)])
    caught_up(primary, str(place))
    with open_store(place) as target:
        target.write([page(30, 31, seed=9)])
    primary.write([page(40, 41)])
    caught_up(primary, str(place))

    with open_store(place) as target:
        assert_equal(primary, target)
        assert [(r.open - START) // HOUR for r in target.revisions(SERIES)] == [30, 30]


def test_what_still_differs_is_an_error_each_time(primary: Store, target: Store) -> None:
    """A candle that only the mirror has is not deleted: it is told, with the command that shows it, until it is gone."""
    primary.write([ask(0, 50), page(0, 40, list(range(30)))])
    target.write([page(30, 31)])
    for _ in range(2):
        mirror = Mirror(primary, target)
        mirror.follow()
        with pytest.raises(DatabaseError, match="1 candles that the store has not") as error:
            mirror.verify()
        assert error.value.hint.startswith("chandlery diff ")
        mirror.close()
    target.remove(SERIES)
    target.set_mark(primary.identity, 0)
    caught_up(primary, target)
    assert_equal(primary, target)


def test_the_store_itself_is_no_mirror(primary: Store, tmp_path: Path) -> None:
    """By another path it is found out before or while it is followed; a copy of the folder is a mirror like any other."""
    primary.write([page(0, 3)])
    (tmp_path / "link").symlink_to(tmp_path / "primary")
    for mirrors in (
        [str(tmp_path / "link")],
        [f"file:{primary.url}"],
        ["m", "./m"],
        ["memory:"],
        ["s3://x/y"],
    ):
        with pytest.raises(UsageError):
            check_mirrors(primary.url, mirrors)
    for url in ("influxdb", "influxdb+https://127.0.0.1:1/org/bucket"):
        with pytest.raises(UsageError, match="mirrors follow a store of files") as error:
            check_mirrors(url, [str(tmp_path / "other")])
        assert "chandlery copy" in error.value.hint
    check_mirrors(primary.url, [str(tmp_path / "other"), str(tmp_path / "another")])
    with open_store(tmp_path / "link") as same, pytest.raises(UsageError, match="is the store itself"):
        Mirror(primary, same).follow()
    shutil.copytree(tmp_path / "primary", tmp_path / "copy")
    primary.write([page(3, 5)])
    caught_up(primary, str(tmp_path / "copy"))
    with open_store(tmp_path / "copy") as target:
        assert_equal(primary, target)


def test_two_followers_share_a_mirror(primary: Store, target: Store, seed: int) -> None:
    """Two that follow into one mirror at once, while the store is written, leave it equal."""
    dice = random.Random(seed)
    failed: list[DataPipelineError] = []
    done = threading.Event()

    def follow() -> None:
        mirror = Mirror(primary, target)
        try:
            while not done.is_set():
                mirror.follow()
        except DataPipelineError as error:
            failed.append(error)
        finally:
            mirror.close()

    threads = [threading.Thread(target=follow) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(40):
        primary.write([random_entry(dice)])
    done.set()
    for thread in threads:
        thread.join()
    assert failed == []
    caught_up(primary, target)
    assert_equal(primary, target, f"seed {seed}")


def test_a_locked_series_is_come_back_to(
    primary: Store, target: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While another process writes one series in the mirror the others arrive; it arrives once it is free, or is told of."""
    primary.write([page(0, 5), page(0, 5, series=OTHER)])
    monkeypatch.setattr(mirror_module, "LOCK_PATIENCE", 0.0)
    mirror = Mirror(primary, target)
    with target.lock(SERIES):
        assert mirror.follow() == 2
        with pytest.raises(DatabaseError, match="is being written"):
            mirror.verify()
        assert [s.series for s in target.series()] == [OTHER]
        assert mirror.behind() == 1
    mirror.verify()
    assert mirror.behind() == 0
    mirror.close()
    assert_equal(primary, target)


def test_a_series_that_cannot_be_delivered_holds_up_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others arrive, now and later; it is named and counted as behind by each run, until it arrives too."""
    monkeypatch.setattr(mirror_module, "ENTRIES_AT_ONCE", 3)
    place, many = tmp_path / "primary", [SeriesId("binance", f"C{n}/USDT", "1h") for n in range(9)]
    with open_store(place) as primary, open_store(tmp_path / "mirror") as target:
        primary.write([page(0, 50)])
        primary.seal(everything=True)
        (file,) = place.glob("**/*.parquet")
        file.rename(tmp_path / "away")
        for start in (0, 5, 10):
            primary.write([page(start, start + 5, series=one) for one in many])
            mirror = Mirror(primary, target)
            assert mirror.follow() == (9 if start else 10)
            with pytest.raises(DatabaseError, match=r"did not take one series: .*BTC/USDT"):
                mirror.verify()
            assert mirror.behind() == 1
            mirror.close()
            assert {s.series: s.candles for s in target.series()} == dict.fromkeys(many, start + 5)
        primary.write([page(60, 62)])
        (tmp_path / "away").rename(file)
        assert caught_up(primary, target) == 1
        assert_equal(primary, target)
        assert not target.mark(f"{primary.identity} behind")


def test_a_series_left_behind_and_removed_is_removed(primary: Store, target: Store) -> None:
    """What became of a series since it was left behind is made good as well: its removal, and what came after that."""
    primary.write([page(0, 9), page(0, 9, series=OTHER)])
    caught_up(primary, target)
    for series in (SERIES, OTHER):
        primary.remove(series)
    primary.write([page(20, 22)])
    mirror = Mirror(primary, target)
    with target.lock(SERIES), target.lock(OTHER), pytest.MonkeyPatch.context() as patch:
        patch.setattr(mirror_module, "LOCK_PATIENCE", 0.0)
        mirror.follow()
        assert mirror.behind() == 3
    mirror.close()
    caught_up(primary, target)
    assert_equal(primary, target)


KILLED = """
import sys, chandlery.mirror as m
from chandlery.stores import open_store
m.ENTRIES_AT_ONCE = 3
mirror = m.Mirror(open_store(sys.argv[1]), sys.argv[2])
mirror.follow()
"""


@pytest.mark.parametrize("failpoint", ["page.begin", "page.staged", "page.commit", "page.committed"])
def test_killed_while_it_catches_up_it_goes_on(
    primary: Store, tmp_path: Path, failpoint: str, seed: int
) -> None:
    """A process killed at any step of a commit into the mirror leaves one that the next run makes equal."""
    dice = random.Random(f"{seed} {failpoint}")
    for n in range(0, 60, 3):
        primary.write([page(n, n + 3, series=(SERIES, OTHER)[n % 2])])
    place, marks = tmp_path / "mirror", []
    for _ in range(2):
        passing = dice.randrange(1, 7)
        process = subprocess.run(
            [sys.executable, "-c", KILLED, primary.url, str(place)],
            env={**os.environ, "CHANDLERY_FAILPOINT": f"{failpoint}:{passing}"},
            check=False,
        )
        assert process.returncode == -signal.SIGKILL
        with open_store(place) as target:
            marks.append(target.mark(primary.identity) >> 20)
    assert 0 <= marks[0] <= marks[1] < 20
    caught_up(primary, str(place))
    with open_store(place) as target:
        assert_equal(primary, target, f"seed {seed}, killed at {marks}")


# -- beside a run ------------------------------------------------------------------------------------------------------


def test_followers_catch_up_at_the_end_of_a_run(primary: Store, tmp_path: Path) -> None:
    """Started beside a run, they hold everything when it is finished, and say so."""

    async def run() -> list[MirrorReport]:
        followers = Followers(primary, [str(tmp_path / "one"), str(tmp_path / "two")]).start()
        for n in range(0, 50, 5):
            await asyncio.to_thread(primary.write, [page(n, n + 5)])
        return await followers.finish()

    reports = asyncio.run(run())
    assert [r.as_json() for r in reports] == [
        {"url": str(tmp_path / name), "ok": True, "behind": 0, "error": None} for name in ("one", "two")
    ]
    for name in ("one", "two"):
        with open_store(tmp_path / name, create=False) as target:
            assert_equal(primary, target)


def test_a_dead_mirror_is_told_of_and_another_one_goes_on(primary: Store, tmp_path: Path) -> None:
    """A mirror that cannot be opened costs no other one anything; its report names why, and not how far it is."""
    (tmp_path / "file").write_text("not a folder")

    async def run() -> list[MirrorReport]:
        followers = Followers(primary, [str(tmp_path / "file"), str(tmp_path / "two")]).start()
        await asyncio.to_thread(primary.write, [page(0, 5)])
        return await followers.finish()

    dead, alive = asyncio.run(run())
    assert (dead.ok, dead.behind, alive.ok) == (False, None, True)
    assert "is a file" in str(dead.error)
