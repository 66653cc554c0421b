"""What a person at a terminal of 80 columns sees: tables that fit, words that are whole, waits, and Ctrl-C."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chandlery.cli.narrow import Cell, narrower
from chandlery.cli.output import Output
from chandlery.exchange import ExchangeSettings, Faults, LocalExchange, parse_fault

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
COLUMNS = 80
Screen = tuple[int, str]


@pytest.fixture
def terminal(exchange: LocalExchange, tmp_path: Path) -> Callable[..., Screen]:
    """Run a command at a terminal of 80 columns; gives its exit code and all that was shown, colours left out. At the
    text `until` Ctrl-C is typed.
    """

    def command(*args: str, until: str = "", **env: str) -> Screen:
        pid, leader = pty.fork()
        if not pid:
            os.chdir(tmp_path)
            os.environ |= {"EXCHANGE_URL": exchange.url, "TERM": "xterm", **env}
            os.environ.pop("COLUMNS", None)
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 24, COLUMNS, 0, 0))
            os.execv(sys.executable, [sys.executable, "-m", "chandlery", *args])
        shown, deadline, typed = b"", time.monotonic() + 30, not until
        try:
            while time.monotonic() < deadline and (select.select([leader], [], [], 30)[0]):
                shown += os.read(leader, 65536)
                if not typed and until.encode() in shown:
                    typed = bool(os.write(leader, b"\x03"))
        except OSError:
            pass  # the other side has closed
        os.close(leader)
        _, status = os.waitpid(pid, 0)
        return os.waitstatus_to_exitcode(status), ESCAPES.sub("", shown.decode()).replace("\r\n", "\n")

    return command


def _too_long(text: str) -> list[str]:
    return [line for line in text.rpartition("\r")[2].splitlines() if len(line) + line.count("✅") > COLUMNS]


def test_tables_fit_a_terminal_of_80_columns(
    terminal: Callable[..., Screen], run: Callable[..., Any]
) -> None:
    """Every row of fetch, verify, list, plan, markets and show fits, with a symbol listed in the range and gaps in it."""
    symbols = ("BTC/USDT", "IO/USDT")
    run("fetch", *symbols, "--since", "2023-11-30")
    for args in (
        ("fetch", *symbols, "--since", "2023-11-30"), ("verify", "--gaps", "3"), ("list",), ("markets",),
        ("plan", *symbols, "--since", "2022-01-01"), ("show", "BTC/USDT"),
    ):  # fmt: skip
        code, shown = terminal(*args)
        assert code == 0, shown
        assert _too_long(shown) == [], args
    code, shown = terminal("verify", "--gaps", "3")
    assert "the exchange has" in shown
    assert re.search(r"20\d\d-\d\d-\d\d \d\d:00", shown)


def test_errors_are_broken_at_words(terminal: Callable[..., Screen]) -> None:
    """A long error and the lines of a demo end at words; the command in a hint stays in one piece."""
    code, shown = terminal(
        "show", "BTC/USDT", "--store", "./a folder with a name of several words/and another one in it"
    )
    assert code == 2
    assert _too_long(shown) == []
    assert "words/and" in shown


def test_a_narrow_table_keeps_every_number() -> None:
    """Making a table narrower takes zeros, midnights and long words away, never a count."""
    columns = ["binance", "from", "to", "new", "missing", "before listing", ""]
    rows: list[list[Cell]] = [["A/B 1h", "2024-01-01 00:00", "2024-02-01 00:00", 7, 0, 12, "complete"]]
    *_, (heads, cells) = narrower(columns, rows)
    assert (heads, cells) == (
        ["binance", "from", "to", "new", "unlisted", ""],
        [["A/B 1h", "2024-01-01", "2024-02-01", 7, 12, "complete"]],
    )


def test_ctrl_c_at_a_question_ends_at_once(terminal: Callable[..., Screen], run: Callable[..., Any]) -> None:
    """Ctrl-C where remove asks ends with 130 without Enter, and the series stays."""
    run("fetch", "BTC/USDT", "-t", "1d", "--since", "2024-05-25")
    began = time.monotonic()
    code, shown = terminal("remove", "BTC/USDT", until="[y/N]")
    assert code == 130, shown
    assert "interrupted: nothing removed" in shown
    assert time.monotonic() - began < 15
    assert run("list", "--json").json["series"][0]["candles"] == 7


def test_ctrl_c_leaves_no_bar_behind(terminal: Callable[..., Screen]) -> None:
    """After Ctrl-C the bars are gone: what is on the screen last are the lines that say what was done."""
    slow = Faults((parse_fault("latency:500,path=klines"),))
    with LocalExchange(ExchangeSettings(clock="2024-06-01T00:01Z,0", faults=slow)) as exchange:
        code, shown = terminal(
            "fetch", "BTC/USDT", "ETH/USDT", "-t", "1m", "--since", "2024-05-01",
            until="waiting", EXCHANGE_URL=exchange.url,
        )  # fmt: skip
    assert code == 130, shown
    assert "%" not in shown.partition("stopping:")[2]
    assert "interrupted: " in shown.partition("stopping:")[2]


def test_an_exchange_that_is_not_there_is_told_in_words(terminal: Callable[..., Screen]) -> None:
    """While it is asked again a terminal is told; the error names host and cause once, with the mend."""
    code, shown = terminal("markets", EXCHANGE_URL="http://127.0.0.1:1")
    assert code == 3
    text = " ".join(shown.split())
    assert re.search(
        r"note: asked again in \d+ s \(5th time\): binance: cannot reach 127.0.0.1:1: connection ref", text
    )
    assert "cannot reach 127.0.0.1:1: connection refused hint: check the network, or --exchange-url" in text
    assert "ExchangeNotAvailable" not in text


def test_an_error_names_its_series_once(capsys: pytest.CaptureFixture[str]) -> None:
    """Where the message begins with what it is about, or with the exchange of that, this is not said twice."""
    out = Output()
    out.error("binance IO/USDT 1h: it fell", about="binance IO/USDT 1h and 2 more series")
    out.error("binance: it fell", about="binance IO/USDT 1h")
    assert capsys.readouterr().err.splitlines() == [
        "error: binance IO/USDT 1h and 2 more series: it fell",
        "error: binance IO/USDT 1h: it fell",
    ]


def test_the_table_of_a_probe_shows_what_became_of_each_habit(
    terminal: Callable[..., Screen], tmp_path: Path
) -> None:
    """Long values are cut with a sign, so that the last column is on the screen; where nothing is cut --json has all."""
    settings = ExchangeSettings(exchange=("bitget",), clock="2024-06-01T00:01Z,0", weight_limit=0)
    with LocalExchange(settings) as bitget:
        command = ("probe", "bitget", "--quick", "--exchange-url", bitget.url)
        code, shown = terminal(*command, CHANDLERY_STATE=str(tmp_path / "state"))
    assert code == 0, shown
    rows = [line for line in shown.splitlines() if re.match(r"(spot|linear|all) ", line)]
    assert len(rows) > 20
    assert all(line.split()[-1] in ("new", "changed", "same", "unknown") for line in rows), shown
    assert any("…" in line for line in rows)
    assert _too_long("\n".join(rows)) == []


@pytest.mark.parametrize("command", ["exchange", "fetch", "verify", "probe"])
def test_examples_of_the_help_fit(terminal: Callable[..., Screen], command: str) -> None:
    """Examples are not broken, so none is longer than a line of 100 columns."""
    code, shown = terminal(command, "--help")
    assert code == 0
    assert [line for line in shown.splitlines() if len(line) > 100] == []
