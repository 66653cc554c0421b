"""Long candles of a real server: made at set-up of what is there, and by `influx downsample` of what came later."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from typer.testing import CliRunner

from chandlery.exchange import ExchangeSettings, LocalExchange
from chandlery.stores.influx_lines import encode, tags_of
from chandlery.timeframe import HOUR

from .commands import Run, steps
from .fixtures import Bucket

YEAR = 365 * 86_400
SINCE = int(datetime(2024, 3, 1, tzinfo=UTC).timestamp() * 1000)


def test_history_is_downsampled_at_set_up(bucket: Bucket, admin: Run, run: Run) -> None:
    """Set-up makes the long candles of what is there; ranges filled later are made with `influx downsample`."""
    with LocalExchange(ExchangeSettings(clock="2024-06-01T00:01Z,0", symbols=("BTC/USDT",))) as exchange:
        minutes = exchange.truth("BTC/USDT", "1m", SINCE, SINCE + 4 * HOUR)
    from chandlery.candle import SeriesId

    lines = encode(tags_of(SeriesId("binance", "BTC/USDT", "1m")), minutes).split()
    bucket.server.write(b"\n".join(lines[:130]), bucket.name)
    done = admin("--downsample", "1h", "--json")
    assert steps(done)["candles 1h"] == "made"
    target = f"{bucket.name}_1h"
    assert bucket.server.count("ohlcv", target) == 2
    bucket.server.write(b"\n".join(lines[130:]), bucket.name)
    environment = {**bucket.environment, "INFLUXDB_TOKEN": done.json["environment"]["INFLUXDB_TOKEN"]}
    again = run("downsample", "--since", "2024-03-01T02:00Z", "--json", **environment)
    assert again.code == 0, again.err
    assert again.json["candles"] == {"1h": 2}
    assert bucket.server.count("ohlcv", target) == 4


def test_a_quiet_market_is_downsampled_after_a_fetch(bucket: Bucket, admin: Run, run: Run) -> None:
    """Fetched minutes of a market that leaves some out become all the hours that the exchange itself has, and list and show them."""
    shown = admin("--downsample", "1h", "--json").json["environment"]
    environment = {**bucket.environment, "INFLUXDB_TOKEN": shown["INFLUXDB_TOKEN"]}
    settings = ExchangeSettings(clock="2024-06-01T00:01Z,0", omit_flat=True, seed=7)
    with LocalExchange(settings) as quiet:
        spans = (SINCE, SINCE + 24 * HOUR)
        symbol = min(quiet.symbols, key=lambda s: quiet.truth(s, "1m", *spans).height or 9999)
        hours = quiet.truth(symbol, "1h", *spans)
        from chandlery.cli.main import app

        for what in (
            ("fetch", symbol, "-t", "1m", "--since", "2024-03-01", "--until", "2024-03-02"),
            ("list",),
        ):
            args = [*what, "--store", "influxdb"]
            done = CliRunner().invoke(app, args, env={**environment, "EXCHANGE_URL": quiet.url})
            assert done.exit_code == 0, done.stderr
    made = run("downsample", "--json", **environment)
    assert made.json["candles"] == {"1h": hours.height}, made.err
    target = bucket.server.store_url(f"{bucket.name}_1h")
    from chandlery.stores import open_store

    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        with open_store(target, create=False) as kept:
            (series,) = [one.series for one in kept.series()]
            found = kept.read(series)
    assert (series.symbol, series.timeframe) == (symbol, "1h")
    assert found.select("time", "open", "high", "low", "close").equals(
        hours.select("time", "open", "high", "low", "close")
    )


def test_downsampling_without_a_target_is_told(bucket: Bucket, run: Run) -> None:
    """`influx downsample` where set-up made no bucket of long candles ends with 2 and names the mend."""
    done = run("downsample", **bucket.environment)
    assert done.code == 2
    assert "setup --downsample" in done.err
