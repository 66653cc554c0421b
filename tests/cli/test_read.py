"""The commands that read: what show, latest, export and chart print, write and refuse."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from click.testing import Result
from typer.testing import CliRunner

from chandlery.candle import SCHEMA, CandlePage, SeriesId
from chandlery.cli.main import app
from chandlery.cli.read import aligned_numbers
from chandlery.stores import open_store
from chandlery.stores.base import Ask, Page
from chandlery.timerange import TimeRange

START = 1_704_067_200_000  # 2024-01-01
HOUR = 3_600_000


def keep(
    url: Path, symbol: str, slots: list[int], *, timeframe: str = "1h", exchange: str = "binance"
) -> None:
    """Store candles at these slots after START in an embedded store, asked two hours after the last one closed."""
    series = SeriesId(exchange, symbol, timeframe)
    frame = series.frame
    price = pl.Series(slots, dtype=pl.Float64) + 100.5
    candles = pl.DataFrame(
        {
            "time": pl.Series([frame.add(START, s) for s in slots], dtype=pl.Int64).cast(SCHEMA["time"]),
            "open": price,
            "high": price + 2.25,
            "low": price - 1,
            "close": price + 1,
            "volume": price * 10,
        }
    )
    span = TimeRange(START, frame.add(START, slots[-1] + 1))
    with open_store(url) as store:
        clock = span.until + 2 * HOUR
        store.write([Ask(series, span, clock, 0), Page(CandlePage(series, span, candles, "test", clock))])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a store `candles` that holds 48 hours of BTC/USDT with a hole, and 3 days."""
    monkeypatch.chdir(tmp_path)
    keep(tmp_path / "candles", "BTC/USDT", [*range(40), *range(44, 48)])
    keep(tmp_path / "candles", "BTC/USDT", [0, 1, 2], timeframe="1d")
    keep(tmp_path / "candles", "ETH/USDT", [0, 1])
    return tmp_path


def names_in(folder: Path) -> list[str]:
    """The names of what a folder holds, sorted."""
    return sorted(path.name for path in folder.iterdir())


def run(*args: str) -> Result:
    """The command's exit code, stdout and stderr."""
    return CliRunner().invoke(app, list(args))


def test_show_prints_a_table_in_utc(folder: Path) -> None:
    """`show -n 2` prints the newest two candles, times in UTC, decimal points under each other, and nothing else."""
    done = run("show", "BTC/USDT", "-n", "2")

    assert done.exit_code == 0
    assert done.stdout.splitlines() == [
        "time (UTC)         open    high    low  close  volume",
        "2024-01-02 22:00  146.5  148.75  145.5  147.5    1465",
        "2024-01-02 23:00  147.5  149.75  146.5  148.5    1475",
    ]


def test_show_without_bounds_shows_the_newest_and_says_so(folder: Path) -> None:
    """Without bounds the newest 20 are shown, and stderr says of how many."""
    done = run("show", "BTC/USDT")

    assert len(done.stdout.splitlines()) == 21
    assert "newest 20 of 44" in done.stderr


def test_show_as_json(folder: Path) -> None:
    """--json is one array of candles with ISO times and exact numbers."""
    done = run("show", "BTC/USDT", "--since", "2024-01-02T22:00Z", "--json")

    assert json.loads(done.stdout) == [
        {
            "time": "2024-01-02T22:00:00Z",
            "open": 146.5,
            "high": 148.75,
            "low": 145.5,
            "close": 147.5,
            "volume": 1465.0,
        },
        {
            "time": "2024-01-02T23:00:00Z",
            "open": 147.5,
            "high": 149.75,
            "low": 146.5,
            "close": 148.5,
            "volume": 1475.0,
        },
    ]


def test_show_the_last_hours_by_the_clock_of_the_store(folder: Path) -> None:
    """--last counts back from the exchange's clock at the latest fetch: 4h before 02:00 leave two candles."""
    shown = json.loads(run("show", "BTC/USDT", "--last", "4h", "--json").stdout)

    assert [row["time"] for row in shown] == ["2024-01-02T22:00:00Z", "2024-01-02T23:00:00Z"]


def test_show_fills_holes_when_asked(folder: Path) -> None:
    """--fill gives each hole a marked row, in the table and in JSON; nothing is filled without it."""
    bounds = ("--since", "2024-01-02T15:00Z", "--until", "2024-01-02T18:00Z")

    assert len(run("show", "BTC/USDT", *bounds).stdout.splitlines()) == 2
    lines = run("show", "BTC/USDT", *bounds, "--fill", "flat").stdout.splitlines()
    assert [line.endswith("filled") for line in lines] == [True, False, True, True]
    nulls = json.loads(run("show", "BTC/USDT", *bounds, "--fill", "null", "--json").stdout)
    assert [(row["open"], row["filled"]) for row in nulls] == [(139.5, False), (None, True), (None, True)]


def test_latest_says_how_fresh_it_is(folder: Path) -> None:
    """`latest` prints the newest candle on stdout and its age at the latest fetch on stderr."""
    done = run("latest", "BTC/USDT", "--json")

    assert [row["time"] for row in json.loads(done.stdout)] == ["2024-01-02T23:00:00Z"]
    assert "closed 2024-01-03T00:00:00Z, 2 candles behind" in done.stderr
    assert "up to date" in run("latest", "BTC/USDT", "-t", "1d").stderr


@pytest.mark.parametrize("command", ["show", "latest", "chart", "export"])
def test_what_is_not_kept_is_named(folder: Path, command: str) -> None:
    """An unknown symbol, timeframe or exchange exits with 2 and says what there is."""
    for args, named, hint in (
        (["XMR/USDT"], "XMR/USDT", "ETH/USDT"),
        (["BTC/USDT", "-t", "4h"], "4h", "1h, 1d"),
        (["BTC/USDT", "-e", "kraken"], "kraken", "binance"),
    ):
        done = run(command, *args)
        assert (done.exit_code, done.stdout) == (2, "")
        assert named in done.stderr
        assert hint in done.stderr


@pytest.mark.parametrize("command", ["show", "latest", "chart", "export"])
def test_without_a_store_none_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    """Where no store is, reading exits with 2 and leaves the folder empty."""
    monkeypatch.chdir(tmp_path)

    done = run(command, "BTC/USDT")

    assert (done.exit_code, done.stdout) == (2, "")
    assert names_in(tmp_path) == []


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (["show", "BTC/USDT", "--since", "2024-01-03", "--until", "2024-01-02"], "before it begins"),
        (["show", "BTC/USDT", "--since", "yesterdayish"], "yesterdayish"),
        (["show", "BTC/USDT", "--since", "1d", "--last", "2d"], "--last"),
        (["show", "BTC/USDT", "--last", "2024-01-01"], "not an age"),
        (["show", "BTC/USDT", "--fill", "linear"], "linear"),
        (["show", "BTC/USDT", "-n", "0"], "--count"),
        (["show", "BTC/USDT", "-t", "1h", "-t", "1d"], "2 series"),
        (["chart", "BTC/USDT", "-o", "x.html"], "HTML"),
        (["chart", "BTC/USDT", "-o", "no/x.png"], "no such folder"),
        (["chart", "BTC/USDT", "--until", "2024-01-01"], "nothing to draw"),
        (["export", "BTC/USDT", "-o", "x.csv", "--format", "parquet"], "contradicts"),
        (["export", "BTC/USDT", "-o", "x.xlsx"], "x.xlsx"),
        (["export", "BTC/USDT", "-o", "no/x.csv"], "no such folder"),
        (["export", "BTC/USDT", "--format", "feather"], "feather"),
    ],
)
def test_what_cannot_be_is_refused(folder: Path, args: list[str], named: str) -> None:
    """Contradictions and bad values exit with 2, name the value, give a hint, and write nothing."""
    done = run(*args)

    assert (done.exit_code, done.stdout) == (2, "")
    assert named in done.stderr
    assert "hint:" in done.stderr
    assert names_in(folder) == ["candles"]


def test_export_to_stdout_is_csv(folder: Path) -> None:
    """Without -o the csv goes to stdout, and nothing else does."""
    done = run("export", "ETH/USDT")

    assert done.exit_code == 0
    assert done.stdout == (
        "timestamp,open,high,low,close,volume\n"
        "1704067200000,100.5,102.75,99.5,101.5,1005.0\n"
        "1704070800000,101.5,103.75,100.5,102.5,1015.0\n"
    )


@pytest.mark.parametrize("ending", ["csv", "parquet", "jsonl"])
def test_export_into_a_file(folder: Path, ending: str) -> None:
    """-o writes the format of the ending, several series by pattern and timeframe, and says how much on stderr."""
    done = run("export", "*/USDT", "-t", "1h", "-t", "1d", "-o", f"all.{ending}")

    assert (done.exit_code, done.stdout) == (0, "")
    assert f"wrote 49 candles of 3 series to all.{ending}" in done.stderr
    read = {"csv": pl.read_csv, "parquet": pl.read_parquet, "jsonl": pl.read_ndjson}[ending]
    frame = read(folder / f"all.{ending}")
    counts = frame.group_by("symbol", "timeframe").len().sort("symbol", "timeframe").rows()
    assert counts == [("BTC/USDT", "1d", 3), ("BTC/USDT", "1h", 44), ("ETH/USDT", "1h", 2)]
    assert names_in(folder) == [f"all.{ending}", "candles"]


def test_parquet_goes_through_a_pipe(folder: Path) -> None:
    """`export --format parquet` writes a whole Parquet file to a stdout that is no terminal."""
    command = [sys.executable, "-m", "chandlery", "export", "BTC/USDT", "--format", "parquet"]
    done = subprocess.run(command, capture_output=True, timeout=60, check=False, cwd=folder)

    assert done.returncode == 0, done.stderr
    assert pl.read_parquet(io.BytesIO(done.stdout)).height == 44


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
def test_parquet_is_refused_on_a_terminal(folder: Path) -> None:
    """A terminal gets no binary: exit 2 and a hint to -o."""
    import pty

    main, sub = pty.openpty()
    command = [sys.executable, "-m", "chandlery", "export", "BTC/USDT", "--format", "parquet"]
    done = subprocess.run(
        command, stdout=sub, stderr=subprocess.PIPE, text=True, timeout=60, check=False, cwd=folder
    )
    os.close(sub)
    os.close(main)

    assert done.returncode == 2
    assert "-o candles.parquet" in done.stderr


def test_a_reader_that_leaves_is_no_error(folder: Path) -> None:
    """`export | head` ends quietly with 141."""
    keep(folder / "candles", "BIG/USDT", list(range(50_000)), timeframe="1m")
    command = [sys.executable, "-m", "chandlery", "export", "BIG/USDT", "-t", "1m"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith("timestamp,")
        process.stdout.close()
        talk = process.stderr.read()
        assert (process.wait(timeout=60), talk) == (141, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("args", [["export", "BTC/USDT", "-o", "/dev/full"], ["export", "BTC/USDT"]])
def test_a_full_disk_exits_with_4(folder: Path, args: list[str]) -> None:
    """Without room for the export, in the file or behind stdout, the exit code is 4 and the error says so."""
    with Path("/dev/full").open("wb") as full:
        command = [sys.executable, "-m", "chandlery", *args]
        done = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False, cwd=folder
        )

    assert done.returncode == 4, done.stderr
    assert "no space left" in done.stderr.lower()
    assert "Traceback" not in done.stderr


def test_chart_in_the_terminal(folder: Path) -> None:
    """Without -o a chart is printed: title, range, candles, no escape codes where stdout is no terminal."""
    done = run("chart", "BTC/USDT")
    lines = done.stdout.splitlines()

    assert done.exit_code == 0
    assert lines[0] == "BTC/USDT  1h  binance"
    assert lines[1] == "2024-01-01 00:00 to 2024-01-03 00:00 UTC, 44 candles"
    assert "┃" in done.stdout
    assert "\x1b" not in done.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
@pytest.mark.parametrize(("extra", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_chart_has_colours_on_a_terminal_only(folder: Path, extra: dict[str, str], coloured: bool) -> None:
    """On a terminal the chart is coloured, unless NO_COLOR is set."""
    import pty

    main, sub = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80", "LINES": "24", **extra}
    if not extra:
        environment.pop("NO_COLOR", None)
    command = [sys.executable, "-m", "chandlery", "chart", "BTC/USDT"]
    with subprocess.Popen(
        command, stdout=sub, stderr=subprocess.DEVNULL, cwd=folder, env=environment
    ) as process:
        os.close(sub)
        shown = b""
        try:
            while piece := os.read(main, 65536):
                shown += piece
        except OSError:
            pass  # Linux says so when the other end is closed.
        assert process.wait(timeout=60) == 0
    os.close(main)

    assert "┃" in shown.decode()
    assert (b"\x1b[3" in shown) is coloured


def test_chart_as_a_picture(folder: Path) -> None:
    """-o x.png writes a PNG, says so on stderr, and replaces what was there."""
    (folder / "x.png").write_text("before")

    done = run("chart", "BTC/USDT", "-t", "1d", "-o", "x.png")

    assert (done.exit_code, done.stdout) == (0, "")
    assert "drew 3 candles into x.png" in done.stderr
    assert (folder / "x.png").read_bytes().startswith(b"\x89PNG")
    assert names_in(folder) == ["candles", "x.png"]


def test_hostile_symbols_cannot_move_the_cursor(folder: Path) -> None:
    """A symbol with escape codes is shown written out, in errors, notes and charts."""
    keep(folder / "candles", "\x1b]0;owned\x07/USDT", list(range(30)))

    for args in (["chart", "*owned*"], ["latest", "*owned*"], ["show", "\x1b[2J"], ["show", "*USDT"]):
        done = run(*args)
        assert "\x1b" not in done.stdout + done.stderr
        assert "\\x1b" in done.stdout + done.stderr


def test_reading_needs_no_write_rights(folder: Path) -> None:
    """show, export and chart work on a store that may not be written to."""
    paths = [folder / "candles", *(folder / "candles").rglob("*")]
    modes = {path: path.stat().st_mode for path in paths}
    for path in paths:
        path.chmod(0o555 if path.is_dir() else 0o444)
    command = [sys.executable, "-m", "chandlery"]
    if os.geteuid() == 0:
        # Rights do not bind root: let go of the power over them, as any other user has none.
        command = ["setpriv", "--bounding-set=-dac_override", "--inh-caps=-dac_override", "--", *command]
    try:
        for args in (["show", "BTC/USDT"], ["export", "BTC/USDT", "-o", "x.csv"], ["chart", "BTC/USDT"]):
            done = subprocess.run(
                [*command, *args], capture_output=True, text=True, timeout=60, check=False, cwd=folder
            )
            assert done.returncode == 0, done.stderr
    finally:
        for path, mode in modes.items():
            path.chmod(mode)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.0, 0.1 + 0.2, None], ["  x", "1.0", "0.3", "  -"]),
        ([1465.0, 1475.0], ["   x", "1465", "1475"]),
        ([0.00001234, 12.5], ["          x", " 0.00001234", "12.50000000"]),
        ([5e-324, 1e22, -0.0], ["     x", "5e-324", " 1e+22", "     0"]),
        ([67123.45, 67123.0], ["       x", "67123.45", "67123.00"]),
    ],
)
def test_numbers_are_aligned_without_noise(values: list[float | None], expected: list[str]) -> None:
    """Columns have one number of decimals, 0.1 + 0.2 is 0.3, and extremes keep their exponent."""
    assert aligned_numbers("x", values) == expected
