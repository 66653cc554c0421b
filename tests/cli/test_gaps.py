"""Which gaps verify and fetch tell of, in what words, and how many they leave out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from chandlery.candle import CandlePage
from chandlery.exchange import ExchangeSettings, LocalExchange
from chandlery.stores import open_store
from chandlery.stores.base import Ask, Page
from chandlery.timerange import TimeRange
from chandlery.when import parse_when

DAYS = ("--since", "2024-05-20", "--until", "2024-06-01")


def with_holes(run: Callable[..., Any], folder: Path) -> None:
    """Twelve days of which every other of the first eight is absent, and the last one was never answered."""
    run("fetch", "BTC/USDT", "-t", "1d", *DAYS)
    with open_store(folder / "candles") as store:
        (kept,) = store.series()
        candles, asked = store.candles(kept.series), store.ledger(kept.series).asked.ranges[0]
        store.remove(kept.series)
        answered = TimeRange(asked.since, parse_when("2024-05-31", now=0))
        rows = candles[[0, 2, 4, 6, 8, 9, 10]]
        page = CandlePage(kept.series, answered, rows, "test", kept.clock)
        store.write([Ask(kept.series, asked, kept.clock, 0), Page(page)])


def test_gaps_that_make_a_series_fail_come_first(run: Callable[..., Any], tmp_path: Path) -> None:
    """--gaps 2 lists the missing day before the absent ones, and says how many more there are; JSON keeps it too, by time."""
    with_holes(run, tmp_path)
    told = run("verify", "--gaps", "2")
    rows = told.out.partition("gaps of")[2].splitlines()[1:]
    assert told.code == 1
    assert [("missing" in row, "absent" in row) for row in rows] == [(True, False), (False, True)]
    assert "and 3 more gaps" in told.err

    (series,) = run("verify", "--gaps", "2", "--json").json["series"]
    assert [(gap["from"][:10], gap["state"]) for gap in series["gaps"]] == [
        ("2024-05-21", "absent"), ("2024-05-31", "missing"),
    ]  # fmt: skip
    assert series["gaps_total"] == 5
    assert "more gap" not in run("verify", "--gaps", "5").err


def test_a_silent_end_has_its_own_reason(run: Callable[..., Any], tmp_path: Path) -> None:
    """A market that trades and gives no candle of its last minutes: fetch notes since when, verify gives that as reason."""
    folder = tmp_path / "csv"
    folder.mkdir()
    begin = parse_when("2024-05-31T22:00Z", now=0)
    rows = [f"{begin + n * 60_000},1,2,0.5,1.5,10" for n in range(111)]
    text = "\n".join(["timestamp,open,high,low,close,volume", *rows]) + "\n"
    (folder / "binance_BTC_USDT_1m.csv").write_text(text)
    with LocalExchange(ExchangeSettings(clock="2024-06-01T00:01Z,0", csv=folder)) as quiet:
        wanted = ("BTC/USDT", "-t", "1m", "--since", "2024-05-31T22:00Z", "--exchange-url", quiet.url)
        fetched = run("fetch", *wanted)
    said = "no candle after 2024-05-31T23:50:00Z; the market is quiet"
    assert fetched.code == 1
    assert said in " ".join(fetched.err.split())
    (series,) = run("verify", "--json").json["series"]
    silent = [gap for gap in series["gaps"] if gap["state"] == "missing"]
    assert [gap["reason"].startswith(said) for gap in silent] == [True]


def test_plan_says_what_has_not_closed(run: Callable[..., Any]) -> None:
    """The candle in progress, which fetch counts as pending, is named by plan, so that both account for the same range."""
    wanted = ("BTC/USDT", "-t", "1d", "--since", "2024-05-20")
    assert "1 not closed yet" in run("plan", *wanted).err
    assert run("fetch", *wanted, "--json").json["series"][0]["pending"] == 1
    assert "not closed" not in run("plan", *wanted, "--until", "2024-05-25").err
