"""The log of what a run does to its disk: every file operation below a folder, in order, through SQLite and through `os`."""

from __future__ import annotations

import fcntl
import io
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import apsw

from .disk import Kind, Operation


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

    def xLock(self, level: int) -> None:  # noqa: N802
        try:
            super().xLock(level)
        except apsw.IOError as error:
            # The last connection tries, as it closes, to lock a file that it may only read; SQLite expects that to fail,
            # apsw does not.
            raise apsw.BusyError(str(error)) from error

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
