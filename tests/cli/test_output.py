"""What is printed where, what a terminal never gets to see, and which exit code goes before which."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from chandlery.cli.output import Exit, Output, exit_code_of
from chandlery.cli.runreport import exit_code_of_run
from chandlery.errors import (
    BadAnswer,
    DataPipelineError,
    ExchangeUnavailable,
    NoSuchSeries,
    RateLimited,
    SeriesLocked,
    StoreCorrupt,
    StoreFull,
    UnknownSymbol,
    UsageError,
)
from chandlery.redact import visible

STORE, LOCKED, DOWN, UNKNOWN = (
    StoreFull("full"),
    SeriesLocked("locked"),
    ExchangeUnavailable("down"),
    UnknownSymbol("what"),
)

RUNS: list[tuple[list[DataPipelineError], int, bool, Exit]] = [
    ([], 2, True, Exit.OK),
    ([], 2, False, Exit.INCOMPLETE),
    ([UNKNOWN], 2, True, Exit.INCOMPLETE),
    ([DOWN], 2, True, Exit.INCOMPLETE),
    ([DOWN, DOWN], 2, True, Exit.EXCHANGE),
    ([DOWN, UNKNOWN], 2, True, Exit.EXCHANGE),
    ([DOWN, LOCKED], 2, True, Exit.LOCKED),
    ([DOWN, LOCKED, STORE], 3, True, Exit.STORE),
    ([STORE], 5, True, Exit.STORE),
]


@pytest.mark.parametrize(("errors", "series", "complete", "expected"), RUNS)
def test_the_first_that_holds_of_4_5_3_1_0(
    errors: list[DataPipelineError], series: int, complete: bool, expected: Exit
) -> None:
    """A store failure goes before a lock, that before the exchange, that before incomplete data."""
    assert exit_code_of_run(errors, series, complete=complete) == expected


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (UsageError("x"), 2),
        (UnknownSymbol("x"), 2),
        (NoSuchSeries("x"), 2),
        (ExchangeUnavailable("x"), 3),
        (RateLimited("x"), 3),
        (BadAnswer("x"), 3),
        (StoreCorrupt("x"), 4),
        (SeriesLocked("x"), 5),
        (KeyboardInterrupt(), 130),
        (BrokenPipeError(), 141),
        (RuntimeError("x"), 1),
    ],
)
def test_an_error_that_ends_a_command_has_one_exit_code(error: BaseException, expected: int) -> None:
    """Each kind of error maps to the exit code of the contract."""
    assert exit_code_of(error) == expected


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("BTC/USDT", "BTC/USDT"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("two\nlines\r", "two\\nlines\\r"),
        ("abc\u202exyz", "abc\\u202exyz"),
        ("比特币/USDT", "比特币/USDT"),
        ("\udcff", "\\udcff"),
    ],
)
def test_control_characters_are_written_out(text: str, shown: str) -> None:
    """Escapes, line breaks, direction marks and lone surrogates become visible; letters of any script stay."""
    assert visible(text) == shown


def test_a_table_elsewhere_than_on_a_terminal_is_plain(capsys: pytest.CaptureFixture[str]) -> None:
    """Columns are aligned, numbers to the right with separators, long cells stay whole, and nothing is coloured."""
    long = "x" * 300
    Output().table(["symbol", "candles"], [["BTC/USDT", 1234567], [long, None], ["\x1b[2J", 5]])

    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["symbol", "candles"]
    assert lines[1].split() == ["BTC/USDT", "1,234,567"]
    assert lines[2].split() == [long, "-"]
    assert lines[3].split() == ["\\x1b[2J", "5"]
    assert len({len(line) for line in lines}) == 1


def test_talk_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    """Notes, warnings and errors leave stdout empty; an error brings its hint on a line of its own."""
    out = Output()
    out.say("said")
    out.note("noted")
    out.debug("not shown")
    out.warn("beware")
    out.error(UsageError("wrong \x1b[0m", hint="mend it"), about="binance X")

    seen = capsys.readouterr()
    assert seen.out == ""
    assert seen.err.splitlines() == [
        "said",
        "note: noted",
        "warning: beware",
        "error: binance X: wrong \\x1b[0m",
        "hint: mend it",
    ]


def test_quiet_leaves_warnings_and_errors(capsys: pytest.CaptureFixture[str]) -> None:
    """With -q only what may go wrong or went wrong is said."""
    out = Output(quiet=True, verbose=1)
    out.say("said")
    out.note("noted")
    out.debug("detail")
    out.warn("beware")

    assert capsys.readouterr().err == "warning: beware\n"


def test_a_terminal_gets_colours_and_bars() -> None:
    """On a terminal a table's head is bold, a mark has its colour, no cell is cut, and a run shows its progress."""
    script = (
        "from chandlery.cli.narrow import Mark\n"
        "from chandlery.cli.output import Output\n"
        "from chandlery.cli.progress import RunProgress\n"
        "from chandlery.candle import SeriesId\n"
        "out = Output()\n"
        "series = [SeriesId('binance', f'S{n}/USDT', '1h') for n in range(30)]\n"
        "with RunProgress(out) as progress:\n"
        "    for one in series: progress.started(one, 1000)\n"
        "    for one in series: progress.advanced(one, 500)\n"
        "    progress.note(None, 'noted')\n"
        "out.table(['symbol', 'state'], [['x' * 120, Mark('bad', 'red')]])\n"
    )
    leader, follower = pty.openpty()
    env = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "80"}
    process = subprocess.Popen([sys.executable, "-c", script], stdout=follower, stderr=follower, env=env)
    os.close(follower)
    shown = b""
    try:
        while part := os.read(leader, 65536):
            shown += part
    except OSError:
        pass  # the other side has closed
    os.close(leader)

    assert process.wait(timeout=20) == 0
    text = shown.decode()
    assert "binance S9/USDT 1h" in text
    assert "binance S10/USDT 1h" not in text
    assert "all series" in text
    assert "note: " in text
    assert "x" * 120 in text
    assert "\x1b[31mbad" in text


def test_json_holds_nothing_that_a_terminal_obeys(capsys: pytest.CaptureFixture[str]) -> None:
    """Control characters, direction marks and lone surrogates are escaped; the document still says the same."""
    text = "BTC\x1b[2J \x7f \x9b \u202e \ud800 比特币"
    Output().json({"symbol": text})

    shown = capsys.readouterr().out
    assert all(c.isprintable() or c == "\n" for c in shown)
    assert "比特币" in shown
    assert json.loads(shown) == {"symbol": text}


def test_an_encoding_without_signs_is_no_reason_to_fail(run: Callable[..., Any], tmp_path: Path) -> None:
    """Verify prints its signs as escapes where stdout cannot hold them."""
    run("fetch", "BTC/USDT", "-t", "1d", "--since", "2024-05-25", "--until", "2024-06-01")
    command = [sys.executable, "-m", "chandlery", "verify"]
    env = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, timeout=60, check=False)

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1].startswith(b"\\u2705")


SECRETS = {"EXCHANGE_API_KEY": "canary+key/4711", "INFLUXDB_TOKEN": "canary-token-4712"}


@pytest.mark.parametrize("source", ["environment", "file"])
@pytest.mark.parametrize("as_json", [False, True])
def test_no_secret_reaches_the_terminal(
    source: str, as_json: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Callable[..., Any]
) -> None:
    """A key or token that an exchange quotes in its error is masked in text and in JSON, wherever it was set."""
    if source == "file":
        (tmp_path / ".env").write_text("".join(f"{k}={v}\n" for k, v in SECRETS.items()))
        (tmp_path / ".env").chmod(0o600)
    else:
        for name, value in SECRETS.items():
            monkeypatch.setenv(name, value)
    said = " ".join(["you sent", *SECRETS.values()])
    with _refusing(said) as url:
        done = run("fetch", "BTC/USDT", "--exchange-url", url, "-v", *(["--json"] if as_json else []))

    assert done.code == 3, done.err
    assert "you sent" in done.err
    assert as_json == ("you sent" in done.out)
    assert "canary" not in done.out + done.err
    assert "***" in done.err


@contextlib.contextmanager
def _refusing(said: str) -> Iterator[str]:
    """A server that refuses everything in those words."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps({"code": -2015, "msg": said}).encode()
            self.send_response(401)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - likewise
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize("command", ["list", "verify", "markets", "--version", "--help", "fetch"])
def test_a_closed_stdout_is_told(command: str, tmp_path: Path) -> None:
    """Without a stdout nothing begins: one error line with a hint, and exit code 2."""
    script = f'exec "{sys.executable}" -m chandlery {command} >&-'
    done = subprocess.run(
        ["sh", "-c", script], cwd=tmp_path, stderr=subprocess.PIPE, text=True, timeout=30, check=False
    )

    assert (done.returncode, done.stderr.splitlines()) == (
        2,
        ["error: stdout is closed", "hint: >/dev/null drops what a command prints"],
    )


@pytest.mark.parametrize("streams", ["2>&-", "<&- 2>&-", "<&-"])
def test_closed_streams_beside_stdout_are_no_fault(streams: str, tmp_path: Path) -> None:
    """Who closes stdin or stderr gets the data and the exit code, and nothing else."""
    script = f'exec "{sys.executable}" -m chandlery --version {streams}'
    done = subprocess.run(["sh", "-c", script], cwd=tmp_path, capture_output=True, timeout=30, check=False)

    assert (done.returncode, done.stdout.split()[0]) == (0, b"chandlery")


def test_a_stdout_that_takes_nothing_is_told_once(tmp_path: Path) -> None:
    """Where the disk under stdout is full, that is the error, without a traceback."""
    script = f'exec "{sys.executable}" -m chandlery --help >/dev/full'
    done = subprocess.run(
        ["sh", "-c", script], cwd=tmp_path, stderr=subprocess.PIPE, text=True, timeout=30, check=False
    )

    assert (done.returncode, done.stderr) == (4, "error: No space left on device\n")


def test_the_version_needs_no_installation(tmp_path: Path) -> None:
    """--version answers in a checkout that was never installed."""
    blind = "import sys, importlib.metadata as m\n"
    blind += "def version(name): raise m.PackageNotFoundError(name)\n"
    blind += "m.version = version\nsys.argv = ['chandlery', '--version']\n"
    blind += "from chandlery.cli.main import main\nmain()"
    done = subprocess.run(
        [sys.executable, "-c", blind], cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False
    )

    assert (done.returncode, done.stdout) == (0, "chandlery 0+unknown\n"), done.stderr


def test_the_first_line_of_every_help_is_whole() -> None:
    """The list of commands cuts no sentence at 80 columns."""
    script = "from chandlery.cli.main import app; app()"
    env = {**os.environ, "COLUMNS": "80"}
    done = subprocess.run(
        [sys.executable, "-c", script, "--help"],
        env=env,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )

    listed = done.stdout.split("Commands:")[1].split("Examples:")[0]
    assert "..." not in listed
    assert listed.count("\n") >= 12
