"""What README.md says about InfluxDB works as typed."""

from __future__ import annotations

import shlex
import stat
from pathlib import Path

import pytest

from chandlery.exchange import ExchangeSettings, LocalExchange

from .commands import CLOCK, chandlery
from .fixtures import StartInfluxd

README = Path(__file__).resolve().parents[2] / "README.md"


def test_the_commands_of_the_readme(
    start_influxd: StartInfluxd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a server that nobody has set up, each command of the section ends with 0 and the candles are there."""
    section = README.read_text().partition("## Into InfluxDB 2")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("    ")]
    server = start_influxd(onboard=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("INFLUXDB_URL", server.url)  # on the user's machine it is the default, localhost:8086
    assert lines[0].startswith("    docker compose -f deploy/compose.yaml up")
    with LocalExchange(ExchangeSettings(clock=f"{CLOCK},0")) as exchange:
        monkeypatch.setenv("EXCHANGE_URL", exchange.url)
        for line in lines[1:]:
            program, *words = shlex.split(line, comments=True)
            assert program == "chandlery"
            done = chandlery(*words)
            assert done.code == 0, (line, done.err)
        since = 1_704_067_200_000  # 2024-01-01
        there = [
            (symbol, exchange.truth(symbol, "1h", since, exchange.now_ms()).height)
            for symbol in ("BTC/USDT", "ETH/USDT")
        ]
        series = chandlery("list", "--store", "influxdb", "--json").json["series"]

    assert [(s["symbol"], s["candles"]) for s in series] == there
    assert there[0][1] > 3_600
    assert stat.S_IMODE((tmp_path / "secrets" / ".env.binance").stat().st_mode) == 0o600
    assert len(lines) == 4
