"""list, markets, remove, seal, and the help of all commands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chandlery.cli.main import app

COMMANDS = [
    command.name or command.callback.__name__ for command in app.registered_commands if command.callback
]
WEEK = ("--since", "2024-05-25", "--until", "2024-06-01")


def test_list_in_json(run: Callable[..., Any], tmp_path: Path) -> None:
    """The document has exactly the keys of the contract."""
    run("fetch", "BTC/USDT", "-t", "1d", *WEEK)
    done = run("list", "--json")

    assert done.code == 0
    assert list(done.json) == ["store", "series"]
    assert done.json["store"] == str(tmp_path / "candles")
    assert done.json["series"] == [
        {
            "exchange": "binance",
            "symbol": "BTC/USDT",
            "timeframe": "1d",
            "kind": "trade",
            "first": "2024-05-25T00:00:00Z",
            "last": "2024-05-31T00:00:00Z",
            "candles": 7,
            "absent": 0,
            "missing": 0,
        }
    ]


def test_list_in_words(run: Callable[..., Any]) -> None:
    """One line for each series kept, shortest timeframe first."""
    run("fetch", "BTC/USDT", "-t", "1d", "-t", "4h", *WEEK)
    done = run("list")

    head, *rows = done.out.splitlines()
    assert head.split() == ["binance", "first", "last", "candles", "absent", "missing", "as", "of"]
    assert [row.split()[:2] for row in rows] == [["BTC/USDT", "4h"], ["BTC/USDT", "1d"]]


def test_markets(run: Callable[..., Any]) -> None:
    """Markets lists symbol, kind, whether it trades, and timeframes, for people and as JSON."""
    table = run("markets", "B*/USDT")
    document = run("markets", "B*/USDT", "--json").json

    assert [line.split()[:3] for line in table.out.splitlines()[1:]] == [
        ["BCC/USDT", "spot", "no"],
        ["BNB/USDT", "spot", "yes"],
        ["BTC/USDT", "spot", "yes"],
    ]
    assert table.out.splitlines()[1].endswith("1w 1M")
    assert {m["symbol"]: m["active"] for m in document["markets"]} == {
        "BCC/USDT": False,
        "BNB/USDT": True,
        "BTC/USDT": True,
    }
    assert "1h" in document["timeframes"]


def test_remove_asks_first(run: Callable[..., Any]) -> None:
    """No keeps everything with 1, nobody to ask is 2, yes removes what was named and nothing else."""
    run("fetch", "BTC/USDT", "ETH/USDT", "-t", "1d", *WEEK)
    declined = run("remove", "BTC/USDT", stdin="n\n")
    unasked = run("remove", "BTC/USDT")
    assert [s["symbol"] for s in run("list", "--json").json["series"]] == ["BTC/USDT", "ETH/USDT"]
    removed = run("remove", "BTC/USDT", stdin="y\n")

    assert (declined.code, unasked.code, removed.code) == (1, 2, 0), removed.err
    assert "7 candles" in declined.err
    assert "--yes" in unasked.err
    assert [s["symbol"] for s in run("list", "--json").json["series"]] == ["ETH/USDT"]
    assert run("remove", "ETH/*", "--yes").code == 0
    assert run("list").code == 2


def test_seal_all_makes_every_candle_a_parquet_row(run: Callable[..., Any], tmp_path: Path) -> None:
    """After `seal --all` a glob of Parquet files holds all candles."""
    import polars as pl

    run("fetch", "BTC/USDT", "-t", "1h", *WEEK)
    done = run("seal", "--all")

    assert done.code == 0, done.err
    assert "sealed 1 partition" in done.err
    assert pl.read_parquet(tmp_path / "candles" / "**" / "*.parquet").height == 168


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_and_an_example(command: str, run: Callable[..., Any]) -> None:
    """`--help` exits with 0, says what the command does and every option of it, and ends with an example."""
    done = run(command, "--help")

    assert done.code == 0
    body, _, examples = done.out.rpartition("Example")
    assert f"chandlery {command}" in examples
    options = body.partition("Options:")[2]
    assert all(len(line.split()) > 1 for line in options.splitlines() if line.strip().startswith("-"))


def test_no_command_shows_the_help_on_stderr(run: Callable[..., Any]) -> None:
    """`chandlery` alone is a usage error that shows what there is."""
    done = run()

    assert (done.code, done.out) == (2, "")
    assert "fetch" in done.err


def test_every_command_of_this_issue_is_there() -> None:
    """The commands are those of the contract, and none that does not work yet."""
    assert sorted(COMMANDS) == sorted(
        [
            "fetch",
            "plan",
            "verify",
            "list",
            "show",
            "latest",
            "export",
            "chart",
            "markets",
            "remove",
            "seal",
            "copy",
            "diff",
            "exchange",
            "demo",
            "probe",
        ]
    )


def test_what_only_reads_does_not_warn_of_secrets(run: Callable[..., Any], tmp_path: Path) -> None:
    """A secrets file that others can read is a warning of the commands that use it, not of list, show and verify."""
    run("fetch", "BTC/USDT", "-t", "1d", "--since", "2024-05-30")
    (tmp_path / "secrets").mkdir()
    file = tmp_path / "secrets" / ".env.binance"
    file.write_text("EXCHANGE_API_KEY=aaaaaaaa\n")
    file.chmod(0o644)
    assert "chmod 600" in run("fetch", "BTC/USDT", "-t", "1d").err
    for args in (("list",), ("show", "BTC/USDT", "-t", "1d"), ("verify",)):
        done = run(*args)
        assert (done.code, "chmod" in done.err) == (0, False), done.err


def test_the_store_is_named_once_with_v(run: Callable[..., Any]) -> None:
    """-v names the store of a writing command once, as commands that write do anyway."""
    run("fetch", "BTC/USDT", "-t", "1d", "--since", "2024-05-30")
    for args in (("fetch", "-v"), ("list", "-v"), ("remove", "BTC/USDT", "--yes", "-v")):
        assert run(*args).err.count("store: ") == 1, args


def test_a_timeframe_that_is_not_kept(run: Callable[..., Any]) -> None:
    """A timeframe alone that no series has is named with those that there are."""
    run("fetch", "BTC/USDT", "-t", "1d", "--since", "2024-05-30")
    done = run("verify", "-t", "4h")
    assert done.code == 2
    assert "no series of timeframe 4h is kept" in done.err
    assert "there are 1d" in done.err


def test_one_market_is_one(run: Callable[..., Any]) -> None:
    """The sum agrees in number."""
    assert run("markets", "BTC/USDT").err.endswith("1 market of binance\n")
