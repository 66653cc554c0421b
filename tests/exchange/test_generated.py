"""The generated market: the same everywhere, exact in its sums, with the holes that real ones have."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import numpy as np
import polars as pl
import pytest

from chandlery.exchange import ExchangeSettings, LocalExchange
from chandlery.exchange.generated import GeneratedMarket
from chandlery.exchange.market import TIMEFRAMES
from chandlery.exchange.outages import outages
from chandlery.exchange.shapes import SHAPES, shape_of
from chandlery.exchange.symbols import GENERATED, SWAPS
from chandlery.timeframe import DAY, HOUR, MINUTE

JUNE = 1_717_200_000_000  # 2024-06-01
ONE_MINUTE = TIMEFRAMES["1m"]
BY_ID = {listing.id: listing for listing in GENERATED}


class Still:
    def now_ms(self) -> int:
        return JUNE


@pytest.fixture(scope="module")
def market() -> GeneratedMarket:
    """All pairs of seed 1."""
    return GeneratedMarket(GENERATED, seed=1)


def _digest(market: GeneratedMarket) -> str:
    digest = hashlib.sha256()
    for listing in GENERATED:
        for column in market.candles(listing, ONE_MINUTE, JUNE - 200 * DAY, JUNE - 199 * DAY).columns:
            digest.update(column.tobytes())
    return digest.hexdigest()


def test_every_process_makes_the_same_market(market: GeneratedMarket) -> None:
    """Another process with another hash seed generates the same bytes, another market seed does not."""
    code = (
        "import importlib.util as u\n"
        f"s = u.spec_from_file_location('here', {__file__!r}); m = u.module_from_spec(s); s.loader.exec_module(m)\n"
        "print(m._digest(m.GeneratedMarket(m.GENERATED, seed=1)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)

    assert run.stdout.strip() == _digest(market)
    assert _digest(GeneratedMarket(GENERATED, seed=2)) != _digest(market)


def test_known_values() -> None:
    """The first candles of June 2024 are pinned: a change of the generator would silently change every example."""
    exchange = LocalExchange(ExchangeSettings(), clock=Still())
    row = exchange.truth("BTC/USDT", "1h", JUNE - HOUR, JUNE).row(0)

    assert row[1:] == KNOWN


KNOWN = (52529.28, 52557.16, 52178.39, 52258.43, 823.76146)


@pytest.mark.parametrize("name", ["BTCUSDT", "ZECBNB", "DOGEUSDT"])
def test_any_slice_is_the_same(market: GeneratedMarket, name: str) -> None:
    """Minutes do not depend on which range was asked for."""
    listing, start = BY_ID[name], JUNE - 900 * DAY
    whole = market.candles(listing, ONE_MINUTE, start, start + 3 * DAY)

    for since, until in [(0, 1), (17, 18), (59, 2000), (1439, 1441), (4000, 4320)]:
        part = market.candles(listing, ONE_MINUTE, start + since * MINUTE, start + until * MINUTE)
        expected = whole.between(start + since * MINUTE, start + until * MINUTE)
        for got, wanted in zip(part.columns, expected.columns, strict=True):
            np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("listing", GENERATED, ids=lambda one: one.id)
def test_candles_are_sound(market: GeneratedMarket, listing) -> None:
    """Prices are positive, enclosed by high and low, go on where the last minute ended; taker volume is a part."""
    since = listing.listed + 2 * DAY
    c = market.candles(listing, ONE_MINUTE, since, since + 2 * DAY)

    assert len(c) > 2000
    assert (c.low > 0).all()
    assert (c.high >= np.maximum(c.open, c.close)).all()
    assert (c.low <= np.minimum(c.open, c.close)).all()
    assert (c.taker <= c.volume).all()
    assert (c.taker_turnover <= c.turnover).all()
    if listing.activity == 1:
        assert (c.volume > 0).all()
        joined = np.diff(c.time) == MINUTE
        assert (np.abs(c.open[1:] - c.close[:-1])[joined] <= 1).all()


@pytest.mark.parametrize("timeframe", ["1h", "1d", "1w", "1M"])
@pytest.mark.parametrize("name", ["BTCUSDT", "ZECBNB"])
def test_longer_candles_sum_up_the_minutes(timeframe: str, name: str) -> None:
    """First open, highest high, lowest low, last close and the exact sum of the volumes of the 1m candles."""
    market = GeneratedMarket(GENERATED, seed=1)
    exchange = LocalExchange(ExchangeSettings(), clock=Still())
    frame, listing = TIMEFRAMES[timeframe], BY_ID[name]
    since, until = frame.floor(JUNE - 40 * DAY), frame.floor(JUNE)
    minutes = market.candles(listing, ONE_MINUTE, since, until)
    every = {"1h": "1h", "1d": "1d", "1w": "1w", "1M": "1mo"}[timeframe]
    columns = {name: getattr(minutes, name) for name in ("open", "high", "low", "close", "volume")}
    expected = (
        pl.DataFrame({"time": minutes.time, **columns})
        .with_columns(pl.col("time").cast(pl.Datetime("ms", "UTC")))
        .group_by_dynamic("time", every=every, start_by="datapoint" if timeframe == "1M" else "window")
        .agg(
            pl.col("open").first(),
            pl.col("high").max(),
            pl.col("low").min(),
            pl.col("close").last(),
            pl.col("volume").sum(),
        )
    )
    got = exchange.truth(listing.symbol, timeframe, since, until)

    assert got["time"].equals(expected["time"])
    for column in ("open", "high", "low", "close", "volume"):
        decimals = listing.volume_decimals if column == "volume" else listing.price_decimals
        # As a client reads it: from decimal digits.
        assert got[column].to_list() == [
            float(f"{n // 10**decimals}.{n % 10**decimals:0{decimals}d}") for n in expected[column]
        ]
    assert expected.height >= 1


def test_outages(market: GeneratedMarket) -> None:
    """In an outage no pair has a candle; around it all have; May and June 2024 have none."""
    found = outages(JUNE - 3 * 365 * DAY, JUNE)

    assert 9 <= len(found) <= 24
    assert all(4 * MINUTE <= o.until - o.since <= 304 * MINUTE for o in found)
    for outage in found[-3:]:
        for name in ("BTCUSDT", "ZECBNB"):
            c = market.candles(BY_ID[name], ONE_MINUTE, outage.since - HOUR, outage.until + HOUR)
            assert len(c) == 120
            assert not ((c.time >= outage.since) & (c.time < outage.until)).any()
    assert outages(1_714_521_600_000, 1_719_792_000_000) == []


def test_listing_and_delisting(market: GeneratedMarket) -> None:
    """A pair has candles from its listing to its delisting, to the minute."""
    bcc = BY_ID["BCCUSDT"]
    everything = market.candles(bcc, ONE_MINUTE, 0, JUNE)

    assert bcc.delisted is not None
    assert (everything.time[0], everything.time[-1]) == (bcc.listed, bcc.delisted - MINUTE)
    io = market.candles(BY_ID["IOUSDT"], ONE_MINUTE, JUNE - 7 * DAY, JUNE)
    assert io.time[0] == BY_ID["IOUSDT"].listed > JUNE - 5 * DAY


def test_quiet_pair() -> None:
    """Minutes without a trade are flat and without volume, or left out when asked to; the traded ones are the same."""
    flat = GeneratedMarket(GENERATED, seed=1).candles(BY_ID["ZECBNB"], ONE_MINUTE, JUNE - DAY, JUNE)
    omitted = GeneratedMarket(GENERATED, seed=1, omit_flat=True).candles(
        BY_ID["ZECBNB"], ONE_MINUTE, JUNE - DAY, JUNE
    )
    traded = flat.volume > 0

    assert len(flat) == 1440
    assert 300 < len(omitted) < 700
    for all_minutes, only_traded in zip(flat.columns, omitted.columns, strict=True):
        np.testing.assert_array_equal(all_minutes[traded], only_traded)
    still = np.flatnonzero(~traded[1:]) + 1
    for column in (flat.open, flat.high, flat.low, flat.close):
        np.testing.assert_array_equal(column[still], flat.close[still - 1])
    assert (flat.trades[~traded] == 0).all()


def test_month_sums_do_not_overflow(market: GeneratedMarket) -> None:
    """The turnover of a month of every pair is the sum of its days."""
    for listing in GENERATED:
        c = market.candles(listing, ONE_MINUTE, listing.listed, listing.listed + 31 * DAY)
        assert int(c.turnover.sum()) == sum(c.turnover.tolist())


@pytest.mark.parametrize("name", list(SHAPES))
def test_twenty_pairs_trade(name: str) -> None:
    """Every exchange has twenty pairs of a kind that trade through May 2024 and are listed still; names are unique."""
    may = 1_714_521_600_000
    for kind in (GENERATED, SWAPS):
        pairs = [pair for pair in shape_of(name).pairs if pair in kind]
        trading = [pair for pair in pairs if pair.listed < may and pair.delisted is None]
        assert len(trading) >= 20 or not pairs
        assert len({pair.symbol for pair in pairs}) == len(pairs)
