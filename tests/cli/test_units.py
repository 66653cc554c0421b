"""The unit of a series' volumes, as fetch keeps it when what is known of the exchange changes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from chandlery.candle import SeriesId
from chandlery.exchange import ExchangeSettings, LocalExchange
from chandlery.sources.base import VolumeUnit
from chandlery.sources.profile import LINEAR, Habits, Profile
from chandlery.sources.profile_book import ProfileBook
from chandlery.stores import open_store

#: An exchange in the shape of OKX for which no profile is shipped; one contract of its swap is 0.01 BTC.
MYOKX = "myokx"
SWAP, SPOT_PAIR = "BTC/USDT:USDT", "BTC/USDT"
SERIES = SeriesId(MYOKX, SWAP, "1h")


@pytest.fixture(scope="module")
def okx() -> Iterator[LocalExchange]:
    """OKX at half a minute past midnight."""
    settings = ExchangeSettings(exchange="okx", clock="2024-06-01T00:00:30Z,0", weight_limit=0)
    with LocalExchange(settings) as running:
        yield running


@pytest.fixture
def learn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[VolumeUnit], Path]:
    """Put a learnt profile with that unit of the volumes of swaps into the state folder."""
    monkeypatch.setenv("CHANDLERY_STATE", str(tmp_path / "state"))
    book = ProfileBook(tmp_path / "state")

    def save(unit: VolumeUnit) -> Path:
        return book.save(Profile(MYOKX, {LINEAR: Habits(page=100, volume=unit)}, origin="probed"))

    return save


def test_a_learnt_unit_never_mixes_with_stored_volumes(
    run: Callable[..., Any], okx: LocalExchange, learn: Callable[[VolumeUnit], Path], tmp_path: Path
) -> None:
    """Volumes stored in contracts stay alone when a probe has learnt the unit: an error names both units and the mend,
    the exit code is 1, another series of the run goes on, and the mend works.
    """

    def fetch(*wanted: str, until: str) -> Any:
        since = ("--since", "2024-05-29", "--until", until)
        return run("fetch", *wanted, "-e", MYOKX, "-t", "1h", *since, "--exchange-url", okx.url, "--json")

    first = fetch(SWAP, until="2024-05-30")
    assert first.code == 0, first.err
    assert first.json["series"][0]["volume_unit"] == "unknown"
    with open_store(tmp_path / "candles") as store:
        before, asked = store.candles(SERIES), store.ledger(SERIES).asked

    profile = learn("contracts")
    clash = fetch(SWAP, SPOT_PAIR, until="2024-05-31")
    assert clash.code == 1, clash.err
    swap, spot = sorted(clash.json["series"], key=lambda one: one["symbol"] != SWAP)
    assert (swap["volume_unit"], swap["fetched"], swap["written"]) == ("unknown", 0, 0)
    assert swap["error"]["kind"] == "VolumeUnitChanged"
    assert swap["error"]["message"] == (
        f"{SERIES} is stored with volumes in an unknown unit, as {MYOKX} gives them, and would now get them in base units,"
        " made of contracts of 0.01: nothing was written"
    )
    removal = f"chandlery remove {SWAP} -e {MYOKX} -t 1h --store {tmp_path / 'candles'}"
    assert swap["error"]["hint"].endswith(removal)  # from wherever it is typed, it is this store's series
    assert (spot["error"], spot["written"]) == (None, 48)
    with open_store(tmp_path / "candles") as store:
        assert store.candles(SERIES).equals(before)
        assert store.ledger(SERIES).asked == asked

    planned = run("plan", SWAP, "-e", MYOKX, "-t", "1h", "--since", "2d", "--exchange-url", okx.url, "--json")
    assert planned.json["series"][0]["error"]["kind"] == "VolumeUnitChanged"

    text = profile.read_text()
    profile.unlink()  # the old knowledge is put back
    assert fetch(SWAP, until="2024-05-31").code == 0
    profile.write_text(text)
    assert fetch(SWAP, until="2024-06-01").code == 1
    assert run("remove", SWAP, "-e", MYOKX, "-t", "1h", "--yes").code == 0
    anew = fetch(SWAP, until="2024-06-01")
    assert (anew.code, anew.json["series"][0]["volume_unit"]) == (0, "base")
    with open_store(tmp_path / "candles") as store:
        rows = store.candles(SERIES)
    assert rows.height == 72
    given = okx.truth(SWAP, "1h", *_bounds(rows), exchange="okx")
    assert rows["volume"].to_list() == (given["volume"].to_numpy() / 100).tolist()


def test_a_name_for_the_same_numbers_is_no_change(
    run: Callable[..., Any], okx: LocalExchange, learn: Callable[[VolumeUnit], Path]
) -> None:
    """What was of unknown unit and turns out to be base, as it comes, goes on, is called base, and stays so when the
    profile is lost; another name then is a clash.
    """

    def fetch(until: str) -> tuple[int, str]:
        since = ("--since", "2024-05-29", "--until", until)
        done = run("fetch", SWAP, "-e", MYOKX, "-t", "1h", *since, "--exchange-url", okx.url, "--json")
        return done.code, json.loads(done.out)["series"][0]["volume_unit"]

    assert fetch("2024-05-30") == (0, "unknown")
    profile = learn("base")
    assert fetch("2024-05-31") == (0, "base")
    profile.unlink()
    assert fetch("2024-05-31T12:00Z") == (0, "base")
    learn("quote")
    assert fetch("2024-06-01") == (1, "base")


def _bounds(rows: Any) -> tuple[int, int]:
    opens = rows["time"].dt.epoch("ms")
    return opens[0], opens[-1] + 1
