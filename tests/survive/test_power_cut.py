"""A power cut at any instant: the store opens with no manual step, has everything that it acknowledged, and goes on.

A run of the store is recorded, every operation on its disk in order (recorder.py). At a thousand places of the log the power
is cut: what the disk may then hold (disk.py) is laid out in a folder, and a fresh store is opened on it.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

import apsw
import pytest

from chandlery.candle import Rejected
from chandlery.errors import StoreCorrupt
from chandlery.export import digest
from chandlery.stores import open_store
from chandlery.stores.base import Store
from chandlery.stores.embedded_catalog import Catalogue
from chandlery.testing.store_scenes import OTHER, SERIES, START, ask, hours, page, picture
from chandlery.timeframe import HOUR
from chandlery.verify import verify_series

from .disk import Disk, Operation, lay_out
from .recorder import Recorder

CUTS = 1000
CUTS_AGAIN = 200
PARTS = 4  # so that several workers share them
CONTROL_CUTS = 100
PLACE = "data/candles"
NEW_YEAR = 8784  # hours of 2024: the border of the partitions of 1h
FIRST, LAST = NEW_YEAR - 700, NEW_YEAR + 500

Step = Callable[[Store], Store | None]


def steps() -> list[Step]:
    """What the run does; each step is one commit at most, may be done again, and returns the store if it is another."""
    bad = Rejected(START + (LAST - 100) * HOUR, '["x"]', "close is not a number")
    holed = [n for n in range(LAST - 200, LAST) if n != LAST - 100]
    return [
        _write(ask(FIRST, LAST), ask(0, 60, series=OTHER)),
        _write(page(FIRST, FIRST + 300), page(FIRST + 300, FIRST + 600)),
        *(_write(page(n, n + 1, series=OTHER)) for n in range(12)),
        _write(page(FIRST + 600, LAST - 200)),  # over the border
        _write(page(LAST - 200, LAST, holed, rejected=(bad,))),
        _leave_folder,
        _seal,
        _write(page(NEW_YEAR - 30, NEW_YEAR + 30, seed=5)),  # revisions, sealed and staged
        _reopen,
        *(_write(page(n, n + 1, series=OTHER)) for n in range(12, 18)),
        _seal_everything,
        _write(
            page(FIRST + 10, FIRST + 60, seed=7), page(18, 40, series=OTHER)
        ),  # a sealed partition changes
        _write(page(LAST - 102, LAST - 98)),  # resolves the quarantined row
        _seal_everything,
        _remove_other,
        _write(ask(0, 60, series=OTHER), page(0, 10, series=OTHER, seed=3)),
        *(_write(page(n, n + 1, series=OTHER)) for n in range(10, 20)),
        _seal_everything,
        _reopen,
        _damage,
        _forget,
        _write(page(FIRST, NEW_YEAR, repair=True)),
        _seal_everything,
        _reopen,
        _write(page(20, 60, series=OTHER)),
    ]


def _write(*entries: object) -> Step:
    def step(store: Store) -> None:
        store.write(entries)  # type: ignore[arg-type]

    return step


def _leave_folder(store: Store) -> None:
    """What a sealer leaves that was killed before it synced anything."""
    Path(store.url, "exchange=binance").mkdir(exist_ok=True)


def _seal(store: Store) -> None:
    store.seal()


def _seal_everything(store: Store) -> None:
    store.seal(everything=True)


def _reopen(store: Store) -> Store:
    store.close()
    return open_store(store.url)


def _remove_other(store: Store) -> None:
    if store.knows(OTHER):
        store.remove(OTHER)


def _damage(store: Store) -> None:
    """Let the disk rot under the sealed file of 2024."""
    (file,) = Path(store.url).rglob("symbol=BTC*/**/2024.parquet")
    descriptor = os.open(file, os.O_RDWR)
    os.pwrite(descriptor, b"rot", 100)
    os.fsync(descriptor)
    os.close(descriptor)


def _forget(store: Store) -> None:
    with store.lock(SERIES):
        store.forget(SERIES, hours(FIRST, NEW_YEAR))


# -- what an unbroken run has after each step -----------------------------------------------------------------------


def kept_in(store: Store) -> object:
    """Everything the store gives back; "damaged" where it says that a file is."""
    try:
        return picture(store)
    except StoreCorrupt:
        return "damaged"


def sealed_in(folder: Path) -> dict[str, str]:
    """What a glob for Parquet finds: the digests of the files by path."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*.parquet")
    }


@dataclass
class Truth:
    """The unbroken run: what is kept and what is sealed after so many steps, and the digest at its end."""

    kept: list[object] = field(default_factory=list)
    sealed: list[dict[str, str]] = field(default_factory=list)
    digest: str = ""


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Truth:
    """A run that nothing breaks and nobody records."""
    folder = tmp_path_factory.mktemp("unbroken") / PLACE
    truth, store = Truth(), open_store(folder)
    truth.kept.append(picture(store))
    truth.sealed.append({})
    for step in steps():
        store = step(store) or store
        truth.kept.append(kept_in(store))
        truth.sealed.append(sealed_in(folder))
    truth.digest = digest(store)
    store.close()
    return truth


def record(
    root: Path,
    *,
    deaf: frozenset[str] = frozenset(),
    during: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> list[Operation]:
    """The log of the run on a disk of its own; it says everything that the run did to the disk."""
    recorder = Recorder(root, deaf=deaf)
    with recorder.recording(), during():
        (root / PLACE).parent.mkdir()  # as a run leaves it that was killed before it synced anything
        store = open_store(root / PLACE)
        for number, step in enumerate(steps(), 1):
            store = step(store) or store
            recorder.done(number)
        disk = Disk(recorder.log)
        disk.advance(len(recorder.log))
        there = {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}
        noted = {path: data for path, data in disk.now().items() if not path.endswith("/")}
        assert noted == {path: data for path, data in there.items() if not path.endswith("-shm")}
        store.close()
    return recorder.log


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> list[Operation]:
    """The log of a run of the store as it is."""
    return record(tmp_path_factory.mktemp("recorded"))


# -- cutting the power ----------------------------------------------------------------------------------------------


def places(log: list[Operation], count: int, dice: random.Random) -> list[int]:
    """Where to cut: half spread evenly, a quarter beside operations that order others, a quarter in the store's making."""
    ends = ("sync", "sync_folder", "rename", "unlink", "rmdir", "mkdir", "done")
    sharp = [at + after for at, operation in enumerate(log) if operation.kind in ends for after in (0, 1)]
    made = next(at for at, operation in enumerate(log) if operation.kind == "done")
    chosen: list[int] = []
    for among, share in (
        (range(len(log) + 1), count - 2 * (count // 4)),
        (sharp, count // 4),
        (range(made), count // 4),
    ):
        chosen += [among[int((n + dice.random()) * len(among) / share)] for n in range(share)]
    return sorted(chosen)


def check_left(root: Path, done: int, truth: Truth) -> None:
    """Everything of the steps done is there, and of the step in work all or nothing; then the run goes on to its end."""
    folder, plan = root / PLACE, steps()
    last = min(done + 1, len(plan))
    either = (done, last)
    for path, sha256 in sealed_in(folder).items():
        assert sha256 in [truth.sealed[n].get(path) for n in either], f"a glob sees {path}, which never was"
    gone = truth.sealed[done].keys() & truth.sealed[last].keys() - sealed_in(folder).keys()
    assert not gone, f"sealed files are gone: {gone}"
    store = open_store(folder)
    try:
        kept = kept_in(store)
        assert kept in [truth.kept[n] for n in either], "not what was acknowledged"
        if kept != "damaged":
            check_ledgers(store)
        for step in plan[done:]:
            store = step(store) or store
        assert picture(store) == truth.kept[-1]
        assert digest(store) == truth.digest
        assert not [problem for summary in store.series() for problem in store.check(summary.series)]
    finally:
        store.close()
    assert sealed_in(folder) == truth.sealed[-1]
    usual = {Path(path).name for path in truth.sealed[-1]}
    usual |= {"catalogue.sqlite", "catalogue.sqlite-wal", "catalogue.sqlite-shm"}
    left = {path.name for path in folder.rglob("*") if path.is_file()} - usual
    assert not [name for name in left if not name.endswith((".lock", ".parquet.damaged"))]
    with apsw.Connection(str(folder / "catalogue.sqlite")) as catalogue:
        assert catalogue.pragma("integrity_check") == "ok"
        assert catalogue.pragma("auto_vacuum") == 2, "the catalogue would never give space back"


def check_ledgers(store: Store) -> None:
    """No series has a slot that nothing accounts for, or rows that are not what was written."""
    for summary in store.series():
        verdict = verify_series(store, summary.series)
        assert verdict.unexplained == 0
        assert not verdict.problems


def check_cut(disk: Disk, dice: random.Random, truth: Truth, root: Path) -> Exception | None:
    """Cut the power where the disk is now; returns what was wrong with what it left."""
    root.mkdir()
    try:
        leave(disk.left(dice), dice, root)
        check_left(root, disk.done, truth)
    except Exception as error:  # noqa: BLE001 - the caller says where it was, and the control wants it
        return error
    finally:
        shutil.rmtree(root)
    return None


def leave(files: dict[str, bytes], dice: random.Random, root: Path) -> None:
    """Lay out what a power cut left, with what may lie beside it."""
    lay_out(files, root)
    shared = root / PLACE / "catalogue.sqlite-shm"
    if shared.with_name("catalogue.sqlite").exists() and dice.random() < 0.3:
        shared.write_bytes(dice.randbytes(32768))  # shared memory that the system happened to write out


def cut(
    log: list[Operation], at: Iterable[int], dice: random.Random, truth: Truth, place: Path
) -> Iterator[tuple[str, Exception]]:
    """Cut the power at these ascending places; yields what was wrong, each with where it was."""
    disk = Disk(log)
    for number, where in enumerate(at):
        disk.advance(where)
        error = check_cut(disk, dice, truth, place / str(number))
        if error is not None:
            following = log[where] if where < len(log) else None
            told = f"{following.kind} {following.path}" if following else "the end"
            yield f"after {disk.done} steps, {where} operations, before {told}", error


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder in memory, where there is one: what is cut is a model, so no real disk need be waited for."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory, prefix="chandlery-cuts-") as folder:
        yield Path(folder)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("part", range(PARTS))
def test_power_cut_loses_nothing(
    part: int,
    log: list[Operation],
    truth: Truth,
    place: Path,
    seed: int,
    proven_count: Callable[[int], int],
) -> None:
    """Wherever the power is cut, what was acknowledged is there, and going on ends as an unbroken run does."""
    dice = random.Random(f"{seed} {part}")
    wrong = list(cut(log, places(log, proven_count(CUTS // PARTS), dice), dice, truth, place))
    for where, error in wrong:
        print(f"{where}: {type(error).__name__}: {str(error)[:300]}")
    if wrong:
        raise AssertionError(f"seed {seed}: {len(wrong)} cuts, the first {wrong[0][0]}") from wrong[0][1]


def _unsynchronized() -> AbstractContextManager[object]:
    opened = Catalogue._open_writer

    def loosened(catalogue: Catalogue) -> apsw.Connection:
        connection = opened(catalogue)
        connection.pragma("synchronous", "OFF")
        return connection

    return mock.patch.object(Catalogue, "_open_writer", loosened)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_power_cut_during_recovery(
    log: list[Operation], truth: Truth, place: Path, seed: int, proven_count: Callable[[int], int]
) -> None:
    """When the power fails again while the store is opened after a cut, or at its next steps, nothing is lost either."""
    dice = random.Random(f"{seed} again")
    first, plan = Disk(log), steps()
    for number, where in enumerate(places(log, proven_count(CUTS_AGAIN), dice)):
        first.advance(where)
        root = place / f"{number} first"
        root.mkdir()
        files = first.left(dice)
        leave(files, dice, root)
        recorder = Recorder(root)
        with recorder.recording():
            store = open_store(root / PLACE)
            kept_in(store)
            for done, step in enumerate(plan[first.done : first.done + 2], first.done + 1):
                store = step(store) or store
                recorder.done(done)
        store.close()
        shutil.rmtree(root)
        again = Disk(recorder.log, files, done=first.done)
        again.advance(dice.randrange(len(recorder.log) + 1))
        error = check_cut(again, dice, truth, place / f"{number} again")
        if error is not None:
            raise AssertionError(f"seed {seed}: cut at {where}, again after {again.at} more") from error


@pytest.mark.parametrize("without", ["synchronous=FULL", "fsync of files", "fsync of folders"])
def test_store_that_does_not_sync_is_caught(
    without: str, truth: Truth, place: Path, seed: int, tmp_path: Path
) -> None:
    """The same run without SQLite's syncs, or without those of files or folders, loses something: the test has teeth."""
    if without == "synchronous=FULL":
        log = record(tmp_path, during=_unsynchronized)
    else:
        log = record(tmp_path, deaf=frozenset({without.removeprefix("fsync of ")}))
    dice = random.Random(f"{seed} {without}")
    late = [at for at in places(log, CONTROL_CUTS, dice) if at > len(log) // 2]  # when there is much to lose
    found = next(cut(log, late, dice, truth, place), None)
    assert found is not None, f"seed {seed}: {len(late)} cuts without {without} lost nothing"
