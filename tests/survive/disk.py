"""A disk that keeps only what was synced: a log of what a run did to it, and what a power cut may leave.

The file operations of a real run are noted in the order in which they were issued (`Recorder`). For any place in the log
`Disk` tells what a power cut there may leave: what was synced is there; of what was written but not synced every block
of 512 bytes is kept, dropped or torn, as the dice fall; a name that was made, changed or removed since its folder was
synced may be as it was before or as it is now. That is less than the usual file systems promise, and all that POSIX does.
"""

from __future__ import annotations

import fcntl
import io
import os
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import apsw

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


# -- what a power cut leaves ----------------------------------------------------------------------------------------


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
    """The disk after the first operations of a log; `advance` takes it further."""

    def __init__(self, log: Sequence[Operation]) -> None:
        self._log = log
        self._root = Folder()
        self.at = 0
        self.done = 0  # steps that were acknowledged

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


# -- what a run does to a disk --------------------------------------------------------------------------------------


class Recorder:
    """Notes what this process does below `root`: through SQLite, and through the functions of `os`.

    `deaf` leaves out fsync of files, or of folders, as if the store had not called it. SQLite's shared memory is not
    noted: it is no file's content, and SQLite makes it anew.
    """

    def __init__(self, root: Path, *, deaf: frozenset[str] = frozenset()) -> None:
        self.log: list[Operation] = []
        self._root = f"{root}/"
        self._deaf = deaf
        self._open: dict[int, str] = {}  # descriptors of files that may be written, and of folders
        self._os = {name: getattr(os, name) for name in _SEEN}

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Note everything while this lasts."""
        disk = _TracedDisk(self)
        try:
            with ExitStack() as stack:
                for name in _SEEN:
                    seen = self._open_file if name == "open" else getattr(self, f"_{name}")
                    stack.enter_context(mock.patch.object(os, name, seen))
                stack.enter_context(mock.patch.object(fcntl, "fcntl", self._fcntl))
                yield
        finally:
            disk.unregister()

    def done(self, step: int) -> None:
        """Note that everything of a step was acknowledged."""
        self.log.append(Operation("done", "", step))

    def note(self, kind: Kind, path: object, number: int = 0, data: bytes = b"", target: str = "") -> None:
        """Note an operation, if it is one on this disk."""
        relative = self.below(path)
        if relative is not None and not relative.endswith("-shm"):
            self.log.append(Operation(kind, relative, number, data, target))

    def below(self, path: object) -> str | None:
        """The path below the root, empty for the root itself, None if it is elsewhere."""
        text = f"{os.fspath(path)}/" if isinstance(path, str | os.PathLike) else ""
        return text.removeprefix(self._root)[:-1] if text.startswith(self._root) else None

    # Each of these does what its namesake in `os` does, and notes it.

    def _open_file(self, path: Any, flags: int, mode: int = 0o777, **more: Any) -> int:
        fresh = flags & os.O_CREAT and not os.path.lexists(path)
        descriptor: int = self._os["open"](path, flags, mode, **more)
        self._open.pop(descriptor, None)
        if fresh:
            self.note("create", path)
        elif flags & os.O_TRUNC:
            self.note("truncate", path)
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_DIRECTORY) and self.below(path) is not None:
            self._open[descriptor] = str(path)
        return descriptor

    def _close(self, descriptor: int) -> None:
        self._os["close"](descriptor)
        self._open.pop(descriptor, None)

    def _write(self, descriptor: int, data: Any) -> int:
        place = os.lseek(descriptor, 0, os.SEEK_CUR) if descriptor in self._open else 0
        written: int = self._os["write"](descriptor, data)
        if descriptor in self._open:
            self.note("write", self._open[descriptor], place, bytes(data)[:written])
        return written

    def _pwrite(self, descriptor: int, data: bytes, place: int) -> int:
        written: int = self._os["pwrite"](descriptor, data, place)
        if descriptor in self._open:
            self.note("write", self._open[descriptor], place, bytes(data)[:written])
        return written

    def _ftruncate(self, descriptor: int, size: int) -> None:
        self._os["ftruncate"](descriptor, size)
        if descriptor in self._open:
            self.note("truncate", self._open[descriptor], size)

    def _fsync(self, descriptor: int) -> None:
        self._os["fsync"](descriptor)
        self._note_sync(descriptor)

    def _fcntl(self, descriptor: Any, command: int, *more: Any) -> Any:
        answer = _FCNTL(descriptor, command, *more)
        if command == getattr(fcntl, "F_FULLFSYNC", None):  # what macOS has for fsync
            self._note_sync(descriptor)
        return answer

    def _note_sync(self, descriptor: int) -> None:
        path = self._open.get(descriptor)
        if path is not None and Path(path).is_dir():
            if "folders" not in self._deaf:
                self.note("sync_folder", path)
        elif path is not None and "files" not in self._deaf:
            self.note("sync", path)

    def _fdopen(self, descriptor: int, mode: str = "r", *more: Any, **named: Any) -> Any:
        if mode == "wb" and descriptor in self._open:
            return io.BufferedWriter(_Raw(descriptor))
        return self._os["fdopen"](descriptor, mode, *more, **named)

    def _replace(self, source: Any, target: Any) -> None:
        self._os["replace"](source, target)
        self.note("rename", source, target=self.below(target) or "")

    def _unlink(self, path: Any, **more: Any) -> None:
        self._os["unlink"](path, **more)
        self.note("unlink", path)

    def _mkdir(self, path: Any, mode: int = 0o777, **more: Any) -> None:
        self._os["mkdir"](path, mode, **more)
        self.note("mkdir", path)

    def _rmdir(self, path: Any, **more: Any) -> None:
        self._os["rmdir"](path, **more)
        self.note("rmdir", path)


_FCNTL = fcntl.fcntl
_SEEN = (
    "open",
    "close",
    "write",
    "pwrite",
    "ftruncate",
    "fsync",
    "fdopen",
    "replace",
    "unlink",
    "mkdir",
    "rmdir",
)


class _Raw(io.RawIOBase):
    """A descriptor that is written through `os.write`, so that it is seen."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def write(self, data: Any) -> int:
        return os.write(self._descriptor, data)

    def close(self) -> None:
        if not self.closed:
            super().close()
            os.close(self._descriptor)


class _TracedDisk(apsw.VFS):
    """SQLite's usual way to files, which every connection takes that is opened while this is registered."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self.base = apsw.vfs_names()[0]
        super().__init__("traced", self.base, makedefault=True)

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:  # noqa: N802
        return _TracedFile(self, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802
        super().xDelete(filename, syncdir)
        self.recorder.note("unlink", filename)
        if syncdir:
            self.recorder.note("sync_folder", Path(filename).parent)


class _TracedFile(apsw.VFSFile):
    def __init__(self, disk: _TracedDisk, name: Any, flags: list[int]) -> None:
        self._recorder = disk.recorder
        self._path = name.filename() if isinstance(name, apsw.URIFilename) else name
        fresh = self._path is not None and not os.path.lexists(self._path)
        # The first sync of a journal or log that SQLite may have made syncs the folder too (os_unix.c, UNIXFILE_DIRSYNC).
        logs = apsw.SQLITE_OPEN_WAL | apsw.SQLITE_OPEN_MAIN_JOURNAL | apsw.SQLITE_OPEN_SUPER_JOURNAL
        self._syncs_folder = bool(flags[0] & logs and flags[0] & apsw.SQLITE_OPEN_CREATE)
        super().__init__(disk.base, name, flags)
        if fresh:
            self._recorder.note("create", self._path)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        super().xWrite(data, offset)
        self._recorder.note("write", self._path, offset, bytes(data))

    def xTruncate(self, newsize: int) -> None:  # noqa: N802
        super().xTruncate(newsize)
        self._recorder.note("truncate", self._path, newsize)

    def xSync(self, flags: int) -> None:  # noqa: N802
        super().xSync(flags)
        self._recorder.note("sync", self._path)
        if self._syncs_folder:
            self._recorder.note("sync_folder", Path(self._path).parent)
            self._syncs_folder = False
