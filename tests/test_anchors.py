"""Where candles open on exchanges that lay them otherwise, and that a fetch, a verify and a read go by it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from chandlery.anchors import THURSDAY, forget_learnt, frame_of
from chandlery.candle import SeriesId
from chandlery.errors import UnknownTimeframe
from chandlery.timeframe import DAY, HOUR, MONDAY, WEEK


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A state folder of its own."""
    monkeypatch.setenv("CHANDLERY_STATE", str(tmp_path))
    forget_learnt()
    yield tmp_path
    forget_learnt()


def learn(state: Path, exchange: str, text: str) -> None:
    """Put a learnt profile into the state folder."""
    (state / "profiles").mkdir(exist_ok=True)
    (state / "profiles" / f"{exchange}.json").write_text(text)
    forget_learnt()


def test_weeks_of_thursday() -> None:
    """A week of an exchange that begins it on Thursday opens on Thursday, elsewhere on Monday."""
    moment = 1_717_200_000_000  # a Saturday
    assert SeriesId("kucoin", "BTC/USDT", "1w").frame.floor(moment) % WEEK == THURSDAY
    assert SeriesId("binance", "BTC/USDT", "1w").frame.floor(moment) % WEEK == MONDAY


def test_shorter_timeframes_are_the_same_everywhere() -> None:
    """Minutes, hours and months are laid the same way on every exchange."""
    for text in ("1m", "1h", "4h", "1M"):
        assert frame_of("kucoin", text) == frame_of("binance", text)


def test_days_of_utc8() -> None:
    """A day that an exchange counts by UTC+8 opens at 16:00 UTC."""
    assert frame_of("htx", "1d").floor(1_717_200_000_000) % DAY == 16 * HOUR


def test_learnt_anchor(state: Path) -> None:
    """What was learnt of an exchange holds for its series."""
    learn(state, "oddex", json.dumps({"anchors": {"1w": 2 * DAY, "1d": 5 * HOUR}}))
    assert SeriesId("oddex", "BTC/USDT", "1w").frame.floor(1_717_200_000_000) % WEEK == 2 * DAY
    assert SeriesId("oddex", "BTC/USDT", "1d").frame.floor(1_717_200_000_000) % DAY == 5 * HOUR


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        '{"anchors": 3}',
        '{"anchors": {"1w": "x"}}',
        '{"anchors": {"1w": 1e400}}',
        '{"anchors": {"1w": 99999999999999999999}}',
        pytest.param("[" * 100_000, id="deep"),
    ],
)
def test_damaged_profile(state: Path, text: str) -> None:
    """A learnt profile that cannot be read leaves the usual grid."""
    learn(state, "oddex", text)
    assert frame_of("oddex", "1w").anchor == MONDAY


def test_name_that_is_no_id(state: Path) -> None:
    """An exchange tag that is no id of ccxt never leads out of the folder of profiles."""
    (state / "away.json").write_text(json.dumps({"anchors": {"1w": 2 * DAY}}))
    assert frame_of("../away", "1w").anchor == MONDAY


def test_no_timeframe() -> None:
    """Text that is no timeframe is refused."""
    with pytest.raises(UnknownTimeframe):
        frame_of("kucoin", "1x")
