"""A disk that keeps only what was synced, and what a power cut may leave of it.

recorder.py notes the file operations of a real run in the order in which they were issued. For any place in that log
`Disk` tells what a power cut there may leave: what was synced is there; of what was written but not synced every block
of 512 bytes is kept, dropped or torn, as the dice fall; a name that was made, changed or removed since its folder was
synced may be as it was before or as it is now. That is less than the usual file systems promise, and all that POSIX does.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

BLOCK = 512

Kind = Literal[
    "create", "write", "truncate", "sync", "sync_folder", "rename", "unlink", "mkdir", "rmdir", "done"
]


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation on a path below the recorder's root; `number` is an offset, a size, or a step that is done."""

    kind: Kind
    path: str
    number: int = 0
    data: bytes = b""
    target: str = ""


class Outcome:
    """What one power cut does to everything that was not synced."""

    def __init__(self, dice: random.Random, length: int) -> None:
        self._dice = dice
        self._kept = dice.choice((0.0, 1.0, dice.random(), dice.random()))
        self._names = dice.choice((0.0, 1.0, dice.random()))
        # A journalling file system keeps changes of names in order, up to one of them; another keeps any of them.
        self._names_until = dice.choice((None, max(0, length - int(dice.expovariate(0.1)))))

    def keeps_name(self, at: int) -> bool:
        """Whether the change of a name, the `at`-th operation of the log, is kept."""
        if self._names_until is not None:
            return at < self._names_until
        return self._dice.random() < self._names

    def keeps_size(self) -> bool:
        """Whether a cut of a file's length is kept."""
        return self._dice.random() < self._kept

    def of_block(self, length: int) -> int:
        """How many bytes of a written block of that length are kept, from its beginning."""
        if self._dice.random() < self._kept:
            return length
        return self._dice.randrange(length + 1) if self._kept and self._dice.random() < 0.2 else 0


@dataclass(slots=True)
class File:
    """A file's bytes: as they were last synced, as its process sees them, and the changes in between."""

    synced: bytes = b""
    now: bytearray = field(default_factory=bytearray)
    changes: list[Operation] = field(default_factory=list)

    def change(self, operation: Operation) -> None:
        """Write or truncate."""
        self.changes.append(operation)
        _apply(self.now, operation)

    def sync(self) -> None:
        """Make everything written so far durable."""
        self.synced = bytes(self.now)
        self.changes.clear()

    def left(self, outcome: Outcome) -> bytes:
        """The bytes after a power cut."""
        left = bytearray(self.synced)
        for change in self.changes:
            if change.kind == "truncate":
                if outcome.keeps_size():
                    _apply(left, change)
                continue
            place, until = change.number, change.number + len(change.data)
            while place < until:
                end = min(until, (place // BLOCK + 1) * BLOCK)
                kept = outcome.of_block(end - place)
                if kept:
                    low = place - change.number
                    _apply(left, Operation("write", "", place, change.data[low : low + kept]))
                place = end
        return bytes(left)


def _apply(content: bytearray, change: Operation) -> None:
    if change.kind == "truncate":
        del content[change.number :]
        content.extend(bytes(change.number - len(content)))
        return
    content.extend(bytes(max(0, change.number - len(content))))  # a hole reads as zeros
    content[change.number : change.number + len(change.data)] = change.data


@dataclass(slots=True)
class Folder:
    """A folder's names: as they were last synced, as processes see them, and the changes in between.

    A change is a set of names with what they mean from then on (None: nothing); it is kept or lost as one.
    """

    synced: dict[str, File | Folder] = field(default_factory=dict)
    now: dict[str, File | Folder] = field(default_factory=dict)
    changes: list[tuple[int, dict[str, File | Folder | None]]] = field(default_factory=list)

    def change(self, at: int, names: dict[str, File | Folder | None]) -> None:
        """Let names mean something else."""
        self.changes.append((at, names))
        _rename(self.now, names)

    def sync(self) -> None:
        """Make the names durable, not what they stand for."""
        self.synced = dict(self.now)
        self.changes.clear()

    def left(self, outcome: Outcome) -> dict[str, File | Folder]:
        """The names after a power cut."""
        left = dict(self.synced)
        for at, names in self.changes:
            if outcome.keeps_name(at):
                _rename(left, names)
        return left


def _rename(names: dict[str, File | Folder], changes: dict[str, File | Folder | None]) -> None:
    for name, meaning in changes.items():
        if meaning is None:
            names.pop(name, None)
        else:
            names[name] = meaning


class Disk:
    """The disk after the first operations of a log; `advance` takes it further.

    It begins with `files`, as `left` returns them, all durable, after so many steps `done`.
    """

    def __init__(
        self, log: Sequence[Operation], files: dict[str, bytes] | None = None, *, done: int = 0
    ) -> None:
        self._log = log
        self._root = Folder()
        self.at = 0
        self.done = done  # steps that were acknowledged
        for path, data in (files or {}).items():
            parent, _, name = path.rstrip("/").rpartition("/")
            place = self._find(parent)
            assert isinstance(place, Folder)
            place.now[name] = Folder() if path.endswith("/") else File(data, bytearray(data))
            place.sync()

    def advance(self, at: int) -> None:
        """Take in the operations before the `at`-th."""
        while self.at < at:
            self._take(self._log[self.at])
            self.at += 1

    def _take(self, operation: Operation) -> None:
        if operation.kind == "done":
            self.done = operation.number
            return
        if operation.kind == "sync_folder":
            found = self._find(operation.path)
            assert isinstance(found, Folder)
            found.sync()
            return
        parent, _, name = operation.path.rpartition("/")
        place = self._find(parent)
        assert isinstance(place, Folder)
        match operation.kind:
            case "create":
                place.change(self.at, {name: File()})
            case "mkdir":
                place.change(self.at, {name: Folder()})
            case "unlink" | "rmdir":
                place.change(self.at, {name: None})
            case "rename":
                folder, _, target = operation.target.rpartition("/")
                assert folder == parent, "a rename into another folder is not modelled"
                place.change(self.at, {target: place.now[name], name: None})
            case _:
                file = place.now[name]
                assert isinstance(file, File)
                if operation.kind == "sync":
                    file.sync()
                else:
                    file.change(operation)

    def _find(self, path: str) -> File | Folder:
        found: File | Folder = self._root
        for name in filter(None, path.split("/")):
            assert isinstance(found, Folder)
            found = found.now[name]
        return found

    def now(self) -> dict[str, bytes]:
        """Every file by its path, as processes see it."""
        return _flat(self._root, lambda folder: folder.now, lambda file: bytes(file.now))

    def left(self, dice: random.Random) -> dict[str, bytes]:
        """Every file by its path, and every folder with a trailing slash, that a power cut leaves."""
        outcome = Outcome(dice, self.at)
        return _flat(self._root, lambda folder: folder.left(outcome), lambda file: file.left(outcome))


def _flat(
    folder: Folder, names: Callable[[Folder], dict[str, File | Folder]], content: Callable[[File], bytes]
) -> dict[str, bytes]:
    flat: dict[str, bytes] = {}
    for name, meaning in names(folder).items():
        if isinstance(meaning, File):
            flat[name] = content(meaning)
        else:
            flat[name + "/"] = b""
            flat |= {f"{name}/{below}": data for below, data in _flat(meaning, names, content).items()}
    return flat


def lay_out(files: dict[str, bytes], root: Path) -> None:
    """Make the files and folders below `root`."""
    for path, data in files.items():
        place = root / path
        if path.endswith("/"):
            place.mkdir(parents=True)
        else:
            place.write_bytes(data)
