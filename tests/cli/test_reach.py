"""What an exchange no longer gives, as people and scripts see it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from chandlery.exchange import ExchangeSettings, LocalExchange
from chandlery.sources.profile import SPOT, Habits, Profile
from chandlery.sources.profile_book import ProfileBook

SINCE = ("--since", "2024-05-30", "--until", "2024-06-01")


@pytest.fixture(scope="module")
def kraken() -> Iterator[LocalExchange]:
    """Kraken at half a minute past midnight."""
    settings = ExchangeSettings(exchange=("kraken",), clock="2024-06-01T00:00:30Z,0", weight_limit=0)
    with LocalExchange(settings) as running:
        yield running


def test_plan_and_fetch_say_what_is_out_of_reach(run: Callable[..., Any], kraken: LocalExchange) -> None:
    """Of two days of minutes half a day can be had: plan lists the rest and exits with 0; fetch says so and exits with 1."""
    command = ("BTC/USDT", "-e", "kraken", "-t", "1m", *SINCE, "--exchange-url", kraken.url)
    planned = run("plan", *command)
    assert planned.code == 0, planned.err
    assert "out of reach" in planned.err
    rows = [line.split() for line in planned.out.splitlines() if line.startswith("BTC/USDT")]
    assert [row[2:7] for row in rows] == [
        ["2024-05-31", "12:01", "2024-06-01", "00:00", "719"],
        ["2024-05-30", "00:00", "2024-05-31", "12:01", "2,161"],
    ]

    fetched = run("fetch", *command, "--json")
    assert fetched.code == 1, fetched.err
    assert fetched.json["ok"] is False
    series = fetched.json["series"][0]
    assert (series["written"], series["out_of_reach"], series["absent"]) == (719, 2161, 0)
    note = "kraken gives no 1m candle from before 2024-05-31T12:01:00Z: 2,161 are out of reach"
    assert note in " ".join(fetched.err.split())
    assert "kraken" not in run("plan", *command).err.replace(str(kraken.url), "")  # known by now


def test_a_volume_in_quote_is_told_once(
    run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a learnt profile says that volumes are quote, stderr says so once for all series, and each series has its unit."""
    monkeypatch.setenv("CHANDLERY_STATE", str(tmp_path / "state"))
    learnt = Profile("okxus", {SPOT: Habits(page=100, volume="quote")}, origin="probed")
    ProfileBook(tmp_path / "state").save(learnt)
    settings = ExchangeSettings(exchange="okx", clock="2024-06-01T00:00:30Z,0", weight_limit=0)
    with LocalExchange(settings) as okx:
        url = ("--exchange-url", okx.url)
        fetched = run("fetch", "ETH/USDT", "BTC/USDT", "-e", "okxus", "-t", "1h", *SINCE, *url, "--json")
    assert [one["volume_unit"] for one in fetched.json["series"]] == ["quote", "quote"]
    assert " ".join(fetched.err.split()).count("volumes are in quote, not in the base currency") == 1


def test_what_is_out_of_reach_counts_where_a_date_asked_for_it(
    run: Callable[..., Any], kraken: LocalExchange
) -> None:
    """Both fetch and verify say 1 and "out of reach" where --since was a moment, 0 and "complete" for topping up and listing."""
    url = ("--exchange-url", kraken.url)
    minutes = ("BTC/USDT", "-e", "kraken", "-t", "1m")
    for since in ("2024-05-30", "2d"):
        fetched = run("fetch", *minutes, *url, "--since", since)
        assert fetched.code == 1, fetched.err
        assert fetched.out.rstrip().endswith("out of reach")
        verified = run("verify", "--since", since)
        assert verified.code == 1, verified.err
        assert "repair" not in verified.err

    for wanted in ((), (*minutes, "--since", "listing"), minutes):
        fetched = run("fetch", *wanted, *url)
        assert fetched.code == 0, fetched.err
        assert fetched.out.rstrip().endswith("complete")
    assert run("verify").code == 0
