"""demo and exchange: the first minute of a new user."""

from __future__ import annotations

import json
import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chandlery.exchange import ExchangeSettings, LocalExchange


def test_the_demo_does_the_main_job(
    run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six series are fetched and verified with a sign each, candles shown, a chart drawn and left as a PNG file;
    settings of the environment play no part.
    """
    monkeypatch.setenv("EXCHANGE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("CHANDLERY_STORE", "elsewhere")
    done = run("demo")

    assert done.code == 0, done.err
    signs = [line.split()[:6] for line in done.out.splitlines() if line.startswith(("✅", "❌"))]
    assert signs == [
        ["✅", symbol, timeframe, str(count), "of", str(count)]
        for symbol in ("BTC/USDT", "ETH/USDT")
        for timeframe, count in (("1h", 168), ("4h", 42), ("1d", 7))
    ]
    assert "2024-05-31 23:00" in done.out
    assert "█" in done.out
    picture = Path(done.out.splitlines()[-1].removeprefix("chart: "))
    assert picture == tmp_path / "chandlery-demo" / "BTC_USDT_1h.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["chandlery-demo"]


def test_a_second_demo_finds_everything_there(run: Callable[..., Any]) -> None:
    """Run again, the demo writes no candle and verifies the same; `list` shows its store."""
    run("demo", "--store", "shop", "-o", "chart.png")
    again = run("demo", "--store", "shop", "-o", "chart.png")

    assert again.code == 0
    assert "0 new" in again.err
    assert again.out.count("✅") == 6
    assert sum(series["candles"] for series in run("list", "--store", "shop", "--json").json["series"]) == 434


def test_the_demo_stays_out_of_a_store_with_other_candles(run: Callable[..., Any]) -> None:
    """Invented candles are never written beside others: 2, with the mend, and nothing changes."""
    with LocalExchange(ExchangeSettings(clock="2024-06-02T00:01Z,0")) as other:
        run("fetch", "BTC/USDT", "-t", "1d", "--since", "7d", "--exchange-url", other.url)
    before = run("list", "--json").out
    done = run("demo", "--store", "candles")

    assert (done.code, done.out) == (2, "")
    assert "other candles" in done.err
    assert "--store" in done.err
    assert run("list", "--json").out == before


def test_the_exchange_command_serves_and_ends(start: Callable[..., subprocess.Popen[str]]) -> None:
    """`chandlery exchange` prints its URL on stdout, answers there with the clock and faults given, and ends on SIGINT."""
    process = start(
        *("exchange", "--port", 0, "--clock", "2024-06-01T00:00Z,0", "--symbol", "BTC/USDT"),
        *("--fault", "503:1,path=ping", "--weight-limit", 0),
    )
    assert process.stdout is not None
    url = process.stdout.readline().strip()
    with urllib.request.urlopen(f"{url}/api/v3/time", timeout=10) as answer:
        assert json.load(answer) == {"serverTime": 1_717_200_000_000}
    with urllib.request.urlopen(f"{url}/api/v3/exchangeInfo", timeout=10) as answer:
        assert [symbol["symbol"] for symbol in json.load(answer)["symbols"]] == ["BTCUSDT"]
    with pytest.raises(urllib.error.HTTPError, match="503"):
        urllib.request.urlopen(f"{url}/api/v3/ping", timeout=10)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)

    assert (process.returncode, out) == (0, "")
    assert url in err
