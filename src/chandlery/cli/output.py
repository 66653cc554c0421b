"""The one place that prints, and the one that knows the exit codes.

stdout carries data and nothing else: a table, text or bytes, or one JSON document. stderr carries talk: progress, notes,
warnings, errors. A command makes one `Output` and hands everything to it:

    out = Output(quiet=quiet, verbose=verbose)
    out.table(["symbol", "candles"], [["BTC/USDT", 168]])   # data -> stdout
    out.json({"ok": True})                                  # data -> stdout
    out.text("line")                                        # data -> stdout
    with out.binary() as stream: ...                        # data -> stdout, bytes
    out.say("..."), out.note("..."), out.debug("...")       # talk -> stderr (-q silences, -v adds)
    out.warn("...", hint="..."), out.error(error)           # always -> stderr
    out.exit(Exit.INCOMPLETE)                               # ends the command with that code

Errors of `chandlery.errors` may simply be raised: `Group` turns them into `error:` and `hint:` lines and an exit code.
Text that comes from an exchange or a store passes through `visible`, so that no control character reaches a terminal,
and all talk through `redact`, so that no secret does.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import select
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn, TextIO

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException

from chandlery.cli.narrow import Cell, Mark, narrower
from chandlery.cli.slips import refuse_twice, value_error
from chandlery.cli.wrap import wrapped
from chandlery.errors import (
    DatabaseError,
    DataPipelineError,
    ExchangeError,
    SeriesLocked,
    UsageError,
)
from chandlery.redact import redact, visible

if TYPE_CHECKING:
    from rich.console import Console


class Exit(IntEnum):
    """What the exit code of a command says."""

    OK = 0  # all there
    INCOMPLETE = 1  # data incomplete, a series failed, verification failed
    USAGE = 2  # usage or configuration, or nothing to do it on: nothing was started
    EXCHANGE = 3  # the exchange let no series go on
    STORE = 4  # the store failed
    LOCKED = 5  # a series is being written by another process
    INTERRUPTED = 130
    PIPE_CLOSED = 141  # whoever read our output stopped reading


def exit_code_of(error: BaseException) -> Exit:
    """The exit code for an error that ended a command."""
    if isinstance(error, KeyboardInterrupt):
        return Exit.INTERRUPTED
    if isinstance(error, BrokenPipeError):
        return Exit.PIPE_CLOSED
    if isinstance(error, UsageError):
        return Exit.USAGE
    if isinstance(error, SeriesLocked):
        return Exit.LOCKED
    if isinstance(error, DatabaseError):
        return Exit.STORE
    if isinstance(error, ExchangeError):
        return Exit.EXCHANGE
    return Exit.INCOMPLETE


#: A last column narrower than this is not worth breaking its words for.
_LEAST_WORDS = 16

#: The keys of JSON documents whose texts may quote what others said.
_PROSE = frozenset({"message", "hint", "error", "reason"})


class Output:
    """What one command says and to whom. `quiet` leaves warnings and errors only; `verbose` adds details."""

    def __init__(self, *, quiet: bool = False, verbose: int = 0) -> None:
        self.quiet = quiet
        self.verbose = verbose
        #: Takes down what moves on the terminal, such as bars.
        self.settle_terminal: Callable[[], None] = lambda: None

    # -- data: stdout ------------------------------------------------------------------------------------------------

    def text(self, text: str = "") -> None:
        """A line of text, which must be safe already (see `visible`)."""
        print(text, file=sys.stdout)

    def flush(self) -> None:
        """Hand what was written on to the reader now."""
        sys.stdout.flush()

    def json(self, document: Any) -> None:
        """One JSON document; what a terminal might obey is written as an escape of JSON's own."""
        text = json.dumps(_without_secrets(document), indent=2, ensure_ascii=False, allow_nan=False)
        safe = (c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)
        print(text if text.isascii() and "\x7f" not in text else "".join(safe), file=sys.stdout)

    @contextlib.contextmanager
    def binary(self) -> Iterator[BinaryIO]:
        """The standard output for bytes."""
        sys.stdout.flush()
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
        """A table of full width: numbers to the right with thousands separators, None as a dash; in colour on a terminal.

        Only a terminal that is too narrow for it gets less: see `narrow`; last of all the words of its last column
        go on below each other.
        """
        lines = self._table_lines(columns, rows, gap=2)
        if sys.stdout.isatty():
            room = shutil.get_terminal_size().columns
            last: tuple[Sequence[str], Sequence[Sequence[Cell]]] = columns, rows
            for table in [last, *narrower(columns, rows)]:
                if max(width for width, _ in lines) <= room:
                    break
                last, lines = table, self._table_lines(*table, gap=1)
            width = max(width for width, _ in lines)
            words = max((len(_shown(row[-1])) for row in last[1]), default=0)
            if width > room >= width - words + _LEAST_WORDS:  # else a column before the last would be cut
                lines = self._table_lines(*last, gap=1, room=room)
        for _, line in lines:
            self.text(line)

    def _table_lines(
        self, columns: Sequence[str], rows: Sequence[Sequence[Cell]], gap: int, room: int | None = None
    ) -> list[tuple[int, str]]:
        """The lines of a table, each with its width in columns."""
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, gap, 0, 0))
        for number, name in enumerate(columns):
            right = any(_is_number(row[number]) for row in rows)
            wraps = room is not None and number == len(columns) - 1
            table.add_column(
                Text(name), justify="right" if right else "left", no_wrap=not wraps, overflow="fold"
            )
        for row in rows:
            table.add_row(*(Text(_shown(c), style=c.style if isinstance(c, Mark) else "") for c in row))
        console = self.console(sys.stdout, width=room or 100_000)
        with console.capture() as capture:
            console.print(table)
        lines = [line.rstrip() for line in capture.get().splitlines()]
        return [(Text.from_ansi(line).cell_len, line) for line in lines]

    def console(self, stream: TextIO | None = None, width: int | None = None) -> Console:
        """A rich console on stderr, or on the stream given."""
        from rich.console import Console

        return Console(file=stream or sys.stderr, width=width, markup=False, highlight=False, emoji=False)

    # -- talk: stderr ------------------------------------------------------------------------------------------------

    @property
    def stdout_is_terminal(self) -> bool:
        """Whether a person reads stdout."""
        return sys.stdout.isatty()

    @property
    def stderr_is_terminal(self) -> bool:
        """Whether a person reads stderr."""
        return sys.stderr.isatty()

    def show_cursor(self) -> None:
        """Give the terminal its cursor back, which a progress bar hides, before the process ends without a farewell."""
        if self.stderr_is_terminal:
            print("\x1b[?25h", end="", file=sys.stderr, flush=True)

    def say(self, text: str) -> None:
        """What a person wants to know."""
        if not self.quiet:
            self._talk("", text)

    def note(self, text: str) -> None:
        """Something that was decided for the user."""
        if not self.quiet:
            self._talk("note: ", text, "36")

    def debug(self, text: str) -> None:
        """A detail, shown with -v."""
        if self.verbose and not self.quiet:
            self._talk("", text, "2", whole=True)

    def warn(self, text: str, *, hint: str = "") -> None:
        """Something that may go wrong; shown even with -q."""
        self._talk("warning: ", text, "33")
        self._hint(hint)

    def error(self, error: BaseException | str, *, about: str = "") -> None:
        """An error with its hint; `about` says what it belongs to where the message does not."""
        message = (
            error.message if isinstance(error, DataPipelineError) else str(error) or type(error).__name__
        )
        if about:
            message = f"{about}: {_without_start(message, about)}"
        self._talk("error: ", message, "1;31")
        self._hint(error.hint if isinstance(error, DataPipelineError) else "")

    def _hint(self, hint: str) -> None:
        if hint:
            self._talk("hint: ", hint, "36")

    def _talk(self, label: str, text: str, colour: str = "", *, whole: bool = False) -> None:
        lines = [visible(line) for line in redact(text).split("\n")]
        if self.stderr_is_terminal:
            lines = wrapped(label, lines, shutil.get_terminal_size().columns)
        shown = "\n".join(lines)
        if colour and self.stderr_is_terminal and "NO_COLOR" not in os.environ:
            label, shown = (
                ("", f"\x1b[{colour}m{label}{shown}\x1b[0m")
                if whole
                else (f"\x1b[{colour}m{label}\x1b[0m", shown)
            )
        with contextlib.suppress(OSError):
            sys.stdout.flush()  # so that both come in their order where they go to the same place
        with contextlib.suppress(OSError):
            print(label + shown, file=sys.stderr, flush=True)

    def confirm(self, question: str) -> bool:
        """Ask on stderr, read one line of stdin; True for y or yes. Raises UsageError where nobody answers."""
        print(f"{visible(redact(question))} [y/N] ", end="", file=sys.stderr, flush=True)
        try:
            with contextlib.suppress(OSError, ValueError):
                # A library's signal handler may have reads begun again after Ctrl-C; a select never is.
                select.select([sys.stdin], [], [])
            answer = sys.stdin.readline()
        except KeyboardInterrupt:
            print(file=sys.stderr)
            raise
        if not answer:
            print(file=sys.stderr)
            raise UsageError("nobody answered", hint="--yes answers for you")
        return answer.strip().lower() in ("y", "yes")

    # -- the end -----------------------------------------------------------------------------------------------------

    def exit(self, code: Exit) -> NoReturn:
        """End the command with this code."""
        raise typer.Exit(int(code))


def _without_start(message: str, about: str) -> str:
    """The message without what it is about, or the exchange of that, where it begins with it."""
    series = about.partition(" and ")[0]
    for start in (about, series, series.partition(" ")[0]):
        message = message.removeprefix(f"{start}: ")
    return message.removeprefix(f"{series} ")


def _without_secrets(document: Any, *, prose: bool = False) -> Any:
    """The document with secrets masked in what is prose: the texts of errors, never data such as symbols."""
    if isinstance(document, dict):
        return {key: _without_secrets(value, prose=key in _PROSE) for key, value in document.items()}
    if isinstance(document, list | tuple):
        return [_without_secrets(value, prose=prose) for value in document]
    return redact(document) if prose and isinstance(document, str) else document


def _is_number(cell: Cell) -> bool:
    return isinstance(cell, int | float) or (
        isinstance(cell, Mark) and cell.text.replace(",", "").isdecimal()
    )


def _shown(cell: Cell) -> str:
    if cell is None:
        return "-"
    if isinstance(cell, Mark):
        return visible(cell.text)
    if isinstance(cell, int):
        return f"{cell:,}"
    return visible(cell)


class Group(TyperGroup):
    """The group of all commands: the one place where what went wrong becomes words and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; a reader that has gone is told of by the exit code alone."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise typer.Exit(_reader_gone()) from None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that is named; refuses an exchange that is given twice where one is meant."""
        found = super().resolve_command(ctx, args)
        refuse_twice(found[1], ctx, found[2])
        return found

    def main(self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any) -> NoReturn:  # type: ignore[override]
        """Run a command and leave with its exit code."""
        extra.pop("standalone_mode", None)
        _open_streams()
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")  # an encoding without ✅ is no reason to fail
        code: int
        try:
            code = super().main(args, prog_name or "chandlery", standalone_mode=False, **extra) or 0
            sys.stdout.flush()
        except BrokenPipeError:
            code = _reader_gone()
        except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - the last stop of every error
            code = _told(error, list(sys.argv if args is None else args))
            try:
                sys.stdout.flush()
            except (OSError, ValueError):
                _reader_gone()  # told already
        sys.exit(int(code))


def _open_streams() -> None:
    """Let no closed stream of ours become the number of a file that is opened later, and be written into.

    Ends the program where stdout is closed: data would have nowhere to go.
    """
    if sys.stdin is None:
        sys.stdin = Path(os.devnull).open(encoding="utf-8")  # noqa: SIM115 - open as long as we are
    if sys.stdout is None:
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - open as long as we are
        if sys.stderr is not None:
            Output().error(UsageError("stdout is closed", hint=">/dev/null drops what a command prints"))
        sys.exit(Exit.USAGE)
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - open as long as we are


def _told(error: BaseException, args: Sequence[str]) -> int:
    """Say what went wrong; returns the exit code."""
    out = Output()
    if isinstance(error, KeyboardInterrupt):
        out.error("interrupted")
        return Exit.INTERRUPTED
    if isinstance(error, DataPipelineError):
        out.error(error)
    elif isinstance(error, TyperException):
        return _told_usage(error, args)
    elif isinstance(error, OSError):
        out.error(
            f"{error.strerror or error}: {error.filename}" if error.filename else error.strerror or str(error)
        )
        return Exit.STORE
    else:
        out.error(f"{type(error).__name__}: {error}")
        if {"-v", "-vv", "--verbose"} & set(args):
            out.say("".join(traceback.format_exception(error)).rstrip())
        else:
            out._hint("this is a fault of chandlery; -v shows where it happened")  # noqa: SLF001
    return exit_code_of(error)


def _told_usage(error: Any, args: Sequence[str]) -> int:
    """A wrong option or argument; the bare command group shows its help instead."""
    out = Output()
    message = error.format_message()
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError":
        if message:
            print(message, file=sys.stderr)
        return Exit.USAGE
    path = context.command_path if context is not None else "chandlery"
    told = value_error(error, message, args)
    out.error(told or UsageError(message, hint=f"{path} --help shows what there is"))
    return Exit.USAGE


def _reader_gone() -> int:
    """The output was closed by its reader: keep the interpreter from complaining about it at exit."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return Exit.PIPE_CLOSED
