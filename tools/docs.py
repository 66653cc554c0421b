"""Make the generated parts of README.md and docs/commands.md anew: what commands print, and their help.

    python tools/docs.py            rewrite the blocks, draw the picture
    python tools/docs.py --check    exit with 1 if they differ from what the commands print now, or there is no picture

A block begins with a comment that says what to run, and ends with `<!-- end -->`:

    <!-- run: chandlery fetch BTC/USDT --since 7d -->     the command and what it prints, on stdout and stderr
    <!-- help: fetch -->                                  the help of a command
    <!-- python -->                                       the statements that stand there, and what they print

The picture, docs/chart.png, is drawn from the store of README.md. It is not compared: versions of fonts and of libraries
draw it differently.

Commands run in this process, in an empty folder per file, against a local exchange whose clock stands still.
"""

from __future__ import annotations

import contextlib
import difflib
import doctest
import io
import os
import re
import shlex
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT / "src"))

FILES = ("README.md", "docs/commands.md")
PICTURE = "docs/chart.png"
PICTURE_COMMAND = "chandlery chart BTC/USDT -t 1h --last 5d"
CLOCK = "2024-06-01T00:01Z,0"
#: Where the empty folder lies, as the pages show it.
SHOWN_FOLDER = "/home/you"
BLOCK = re.compile(r"(<!-- (run|help|python)(?:: ([^\n]*?))? -->\n)(.*?)(<!-- end -->)", re.DOTALL)
SETTINGS = ("CHANDLERY_", "EXCHANGE_", "INFLUXDB_")


def main(check: bool) -> int:
    """Rewrite or check every file; returns the exit code."""
    stale = 0
    with local_exchange():
        for name in FILES:
            path = PROJECT / name
            before = path.read_text(encoding="utf-8")
            after = rendered(before, PROJECT / PICTURE if name == "README.md" and not check else None)
            missing = commands_without_section(after) if name == "docs/commands.md" else []
            for command in missing:
                print(f"{name}: no section for the command {command}", file=sys.stderr)
            stale += bool(missing)
            if before == after:
                continue
            if check:
                print("".join(difference(name, before, after)), file=sys.stderr)
                stale += 1
            else:
                path.write_text(after, encoding="utf-8")
                print(f"wrote {name}")
    if not is_png(PROJECT / PICTURE):
        print(f"{PICTURE}: no picture", file=sys.stderr)
        stale += 1
    if check and stale:
        print("the generated parts differ: run make docs", file=sys.stderr)
    return 1 if stale else 0


def difference(name: str, before: str, after: str) -> Iterator[str]:
    """What would change, as a diff."""
    return difflib.unified_diff(
        before.splitlines(keepends=True), after.splitlines(keepends=True), name, f"{name} (made anew)"
    )


@contextlib.contextmanager
def local_exchange() -> Iterator[None]:
    """A local exchange whose clock stands still, and an environment without anybody's settings."""
    from chandlery.exchange import ExchangeSettings, LocalExchange

    for name in list(os.environ):
        if name.startswith(SETTINGS):
            del os.environ[name]
    with tempfile.TemporaryDirectory() as state, LocalExchange(ExchangeSettings(clock=CLOCK)) as exchange:
        os.environ |= {"CHANDLERY_STATE": state, "EXCHANGE_URL": exchange.url, "COLUMNS": "88", "LINES": "24"}
        yield


def rendered(text: str, picture: Path | None = None) -> str:
    """The text with every block made anew, in one empty folder; draws the picture from what is kept there then."""
    home = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            done = BLOCK.sub(lambda found: filled(found, folder), text)
            if picture is not None:
                output_of(f"{PICTURE_COMMAND} -o {shlex.quote(str(picture))}")
            return done
        finally:
            os.chdir(home)


def is_png(path: Path) -> bool:
    """Whether there is a picture."""
    return path.is_file() and path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def filled(found: re.Match[str], folder: str) -> str:
    """One block with its contents made anew."""
    opening, kind, what, old, end = found.groups()
    if kind == "python":
        body = fenced("python", python_session(old))
    elif kind == "help":
        body = fenced("text", output_of(f"chandlery {what} --help"))
    else:
        body = fenced("console", f"$ {what}\n{output_of(what)}")
    real = str(Path(folder).resolve())
    return opening + body.replace(real, SHOWN_FOLDER).replace(folder, SHOWN_FOLDER) + end


def fenced(language: str, text: str) -> str:
    """A fenced block; trailing blanks go."""
    text = re.sub(r"http://127\.0\.0\.1:\d+", "http://127.0.0.1:8088", text)
    text = re.sub(
        r'"seconds": [0-9.]+', '"seconds": 0.25', text
    )  # the one number that differs from run to run
    lines = [line.rstrip() for line in text.splitlines()]
    return "\n".join([f"```{language}", *lines, "```", ""])


def output_of(command: str) -> str:
    """What the command prints on both streams, in order. Ends the program if the command fails."""
    from typer.testing import CliRunner

    from chandlery.cli.main import app

    words = shlex.split(command, comments=True)
    if words[0] != "chandlery":
        raise SystemExit(f"not a command of chandlery: {command}")
    result = CliRunner().invoke(app, words[1:])
    if result.exit_code != 0:
        raise SystemExit(f"{command} ended with {result.exit_code}:\n{result.output}")
    return result.output


def python_session(old: str) -> str:
    """The statements of a Python session with what they print now."""
    scope: dict[str, Any] = {}
    lines: list[str] = []
    for example in doctest.DocTestParser().get_examples("\n".join(old.splitlines()[1:-1]) + "\n"):
        first, *more = example.source.rstrip("\n").split("\n")
        lines += [f">>> {first}", *(f"... {line}" for line in more)]
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(example.source, "<docs>", "single"), scope)  # noqa: S102 - our own pages
        lines += printed.getvalue().splitlines()
    return "\n".join(lines)


def commands_without_section(text: str) -> list[str]:
    """Commands that docs/commands.md does not describe."""
    from chandlery.cli.main import app

    names = [command.name or getattr(command.callback, "__name__", "") for command in app.registered_commands]
    return [name for name in names if f"\n## {name}\n" not in text or f"<!-- help: {name} -->" not in text]


if __name__ == "__main__":
    sys.exit(main(check="--check" in sys.argv[1:]))
