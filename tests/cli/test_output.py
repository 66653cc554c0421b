"""What is printed where, what a terminal never gets to see, and which exit code goes before which."""

from __future__ import annotations

import pytest

from chandlery.cli.output import Exit, Output, exit_code_of, visible
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
