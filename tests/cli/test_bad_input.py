"""What cannot be: a clear error, a hint, the right exit code, and no store made."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chandlery.exchange import LocalExchange

CASES: dict[str, tuple[tuple[str, ...], int, str, str]] = {
    "unknown exchange": (("fetch", "BTC/USDT", "-e", "binanze"), 2, "binanze", "binance"),
    "unknown symbol": (("fetch", "BTC/USDX"), 2, "BTC/USDX", "BTC/USDT"),
    "unknown symbols": (("fetch", "BTC/USDX", "ETH/USDX"), 2, "BTC/USDX", "BTC/USDT"),
    "pattern without match": (("fetch", "*/GBP"), 2, "*/GBP", ""),
    "no timeframe": (("fetch", "BTC/USDT", "-t", "soon"), 2, "soon", ""),
    "timeframe not offered": (("fetch", "BTC/USDT", "-t", "7h"), 2, "7h", ""),
    "since after until": (
        ("fetch", "BTC/USDT", "--since", "2024-05-02", "--until", "2024-05-01"),
        2,
        "2024-05-02",
        "half-open",
    ),
    "since is until": (
        ("fetch", "BTC/USDT", "--since", "2024-05-02", "--until", "2024-05-02"),
        2,
        "2024-05-02",
        "half-open",
    ),
    "since in the future": (("fetch", "BTC/USDT", "--since", "2030-01-01"), 2, "2030-01-01", "2024-06-01"),
    "no time": (("fetch", "BTC/USDT", "--since", "yesterday"), 2, "yesterday", "7d"),
    "no length": (("fetch", "BTC/USDT", "--settle", "soon"), 2, "--settle", "30s"),
    "no share": (("fetch", "BTC/USDT", "--budget", "200%"), 2, "200%", "100%"),
    "no web address": (("fetch", "BTC/USDT", "--exchange-url", "localhost"), 2, "localhost", "http://"),
    "signed without a key": (
        ("fetch", "BTC/USDT", "--signed"),
        2,
        "EXCHANGE_API_KEY",
        "secrets/.env.binance",
    ),
    "recheck without a unit": (
        ("fetch", "BTC/USDT", "--recheck", "24"),
        2,
        "--recheck cannot be '24'",
        "24h",
    ),
    "wait without a unit": (("plan", "BTC/USDT", "--recheck", "0.5"), 2, "--recheck cannot be '0.5'", "0.5h"),
    "store without a name": (("list", "--store="), 2, "--store cannot be ''", "./candles"),
    "no candle at all": (("show", "BTC/USDT", "-n", "0"), 2, "--count cannot be '0'", "1 or more"),
    "seed no number": (("exchange", "--seed", "x"), 2, "--seed cannot be 'x'", "a whole number"),
    "markets of a base": (("markets", "btc"), 2, "btc", "'BTC/*'"),
    "exchange like none": (("markets", "-e", "nosuch"), 2, "nosuch", "All ids: https://"),
    "unknown option": (("fetch", "--sinze", "1d"), 2, "--sinze", "--help"),
    "unknown command": (("fetsch",), 2, "fetsch", "--help"),
    "plan without symbol": (("plan",), 2, "SYMBOL", "--help"),
    "plan unknown symbol": (("plan", "BTC/USDX"), 2, "BTC/USDX", "BTC/USDT"),
    "markets without match": (("markets", "ABC/DEF*"), 2, "ABC/DEF*", "markets"),
    "nothing there to top up": (("fetch",), 2, "candles", ""),
    "nothing there to list": (("list",), 2, "candles", ""),
    "nothing there to verify": (("verify",), 2, "candles", ""),
    "nothing there to remove": (("remove", "BTC/USDT", "--yes"), 2, "candles", ""),
    "nothing there to seal": (("seal",), 2, "candles", ""),
    "fault unknown": (("exchange", "--fault", "gremlins"), 2, "gremlins", ""),
    "fault badly written": (("exchange", "--fault", "html:often"), 2, "html", ""),
    "clock unreadable": (("exchange", "--clock", "noon"), 2, "noon", ""),
    "csv folder missing": (("exchange", "--csv", "nowhere"), 2, "nowhere", ""),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_told_and_makes_no_store(case: str, run: Callable[..., Any], tmp_path: Path) -> None:
    """The error names the thing, a hint the mend, stdout stays empty, and the folder too."""
    args, code, names, mend = CASES[case]
    done = run(*args)

    assert (done.code, done.out) == (code, ""), done.err
    errors = [line for line in done.err.splitlines() if line.startswith("error: ")]
    hints = [line for line in done.err.splitlines() if line.startswith("hint: ")]
    assert len(errors) == 1
    assert names in errors[0]
    assert hints
    assert mend in hints[0]
    assert "Traceback" not in done.err
    assert list(tmp_path.iterdir()) == []


def test_hostile_text_is_never_sent_raw(run: Callable[..., Any]) -> None:
    """A symbol with terminal escapes comes back written out."""
    done = run("fetch", "BTC\x1b[2J/USDT\x07")

    assert done.code == 2
    assert "\x1b" not in done.err + done.out
    assert "\x07" not in done.err
    assert "\\x1b[2J" in done.err


def test_a_file_where_the_store_should_be(run: Callable[..., Any], tmp_path: Path) -> None:
    """A store path that is a file is 4 for writing and reading, and the file stays as it is."""
    (tmp_path / "candles").write_text("mine")
    for args in (("fetch", "BTC/USDT", "--since", "2d"), ("list",), ("verify",)):
        done = run(*args)
        assert done.code == 4, done.err
        assert "error: " in done.err
        assert "hint: " in done.err
        assert str(tmp_path / "candles") in done.err
    assert (tmp_path / "candles").read_text() == "mine"


def test_a_folder_without_rights(run: Callable[..., Any]) -> None:
    """A store that cannot be made is 4, with a hint."""
    done = run("fetch", "BTC/USDT", "--since", "2d", "--store", "/proc/self/candles")

    assert done.code == 4, done.err
    assert "/proc/self/candles" in done.err
    assert "hint: " in done.err


def test_a_full_disk_is_4_and_a_later_run_goes_on(
    run: Callable[..., Any], tmp_path: Path, exchange: LocalExchange
) -> None:
    """Where files may not grow, fetch ends with 4 and says so; what was stored before stays, and with space again the
    same command completes it.
    """
    args = ("fetch", "BTC/USDT", "-t", "1m", "--since", "2024-05-01", "--until", "2024-05-30", "--json")
    done = subprocess.run(
        [sys.executable, "-m", "chandlery", *args],
        cwd=tmp_path,
        env={**os.environ, "EXCHANGE_URL": exchange.url},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, 600_000)),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    before = run("verify", "--json").json["series"][0]
    again = run(*args)

    assert done.returncode == 4, done.stderr
    assert "no space left" in done.stderr
    assert "hint: " in done.stderr
    assert json.loads(done.stdout)["series"][0]["error"]["kind"] == "StoreFull"
    assert 0 < before["missing"] < before["expected"]
    assert (again.code, again.json["series"][0]["written"]) == (0, before["missing"])
