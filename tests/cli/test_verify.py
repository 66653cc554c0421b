"""verify: the shape of what it says, its exit codes, and what --repair brings."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from chandlery.candle import CandlePage
from chandlery.exchange import ExchangeSettings, Faults, LocalExchange, parse_fault
from chandlery.ledger import Fact, State
from chandlery.stores import open_store
from chandlery.stores.base import Ask, Page, SeriesFact
from chandlery.timerange import TimeRange
from chandlery.when import parse_when

VERIFY_KEYS = [
    *("exchange", "symbol", "timeframe", "kind", "first", "last", "expected", "stored"),
    *("absent", "missing", "pending", "quarantined", "before_listing", "after_end", "out_of_reach"),
    *("duplicates", "invalid", "unexplained", "gaps_total", "gaps", "error"),
]
GAP_KEYS = ["from", "to", "candles", "state", "reason"]
WEEK = ("--since", "2024-05-25", "--until", "2024-06-01")


def test_verify_accounts_for_every_slot(run: Callable[..., Any]) -> None:
    """The document has exactly the keys of the contract; expected is the sum of all states; the exit code is 0."""
    run("fetch", "IO/USDT", "-t", "1h", "-t", "1d", *WEEK)
    done = run("verify", "--json")

    assert done.code == 0, done.err
    assert list(done.json) == ["ok", "series"]
    assert [list(series) for series in done.json["series"]] == [VERIFY_KEYS] * 2
    hour = done.json["series"][0]
    assert hour["expected"] == 168 == hour["stored"] + sum(hour[state] for state in VERIFY_KEYS[8:15])
    assert (hour["stored"], hour["before_listing"], hour["unexplained"]) == (84, 84, 0)
    assert [list(gap) for gap in hour["gaps"]] == [GAP_KEYS] * hour["gaps_total"]
    assert hour["gaps"][0]["state"] == "before_listing"


def test_verify_in_words(run: Callable[..., Any]) -> None:
    """Each series has a line with a sign; -t narrows; --gaps lists what is not stored."""
    run("fetch", "IO/USDT", "-t", "1h", "-t", "1d", *WEEK)
    plain = run("verify")
    listed = run("verify", "IO/USDT", "-t", "1h", "--gaps", "5")

    assert plain.out.count("✅") == 2
    assert "2 of 2 series complete" in plain.err
    assert "before listing" in listed.out.splitlines()[-1]
    assert "2024-05-28 12:00" in listed.out.splitlines()[-1]


def test_a_range_that_was_never_asked_for_is_missing(run: Callable[..., Any]) -> None:
    """Verify over more than was fetched says 1, and how much is missing."""
    run("fetch", "BTC/USDT", "-t", "1d", *WEEK)
    done = run("verify", "--since", "2024-05-20", "--until", "2024-06-01", "--json")

    assert done.code == 1
    assert (done.json["ok"], done.json["series"][0]["missing"]) == (False, 5)
    assert done.json["series"][0]["gaps"][0]["to"] == "2024-05-25T00:00:00Z"


def test_repair_brings_what_is_missing(run: Callable[..., Any]) -> None:
    """After a run that lost a part of its answers, --repair asks again, verifies again, and says 0."""
    faults = Faults((parse_fault("418:1,retry_after=3600,path=klines,symbol=ETH/USDT"),))
    with LocalExchange(ExchangeSettings(clock="2024-06-01T00:01Z,0", faults=faults)) as failing:
        url = ("--exchange-url", failing.url)
        first = run("fetch", "ETH/USDT", "-t", "1h", *WEEK, "--max-wait", "1s", *url)
    before = run("verify", "--json")
    repaired = run("verify", "--repair", "--json")

    assert (first.code, before.code, repaired.code) == (3, 1, 0), repaired.err
    assert (before.json["series"][0]["missing"], repaired.json["series"][0]["missing"]) == (168, 0)
    assert repaired.json["series"][0]["stored"] == 168
    assert "repair brought 168 candles" in repaired.err


def test_repair_that_cannot_reach_the_exchange_says_so(run: Callable[..., Any]) -> None:
    """Where the exchange lets nothing through, --repair ends with 3 and the verdict as it was."""
    faults = Faults((parse_fault("418:1,retry_after=3600,path=klines"),))
    with LocalExchange(ExchangeSettings(clock="2024-06-01T00:01Z,0", faults=faults)) as failing:
        url = ("--exchange-url", failing.url)
        run("fetch", "ETH/USDT", "-t", "1d", *WEEK, "--max-wait", "1s", *url)
        done = run("verify", "--repair", "--json", "--max-wait", "1s", *url)

    assert done.code == 3, done.err
    assert done.json["series"][0]["missing"] == 7


def test_verify_knows_no_such_series(run: Callable[..., Any]) -> None:
    """A series that is not kept is 2, with the nearest that is."""
    run("fetch", "BTC/USDT", "-t", "1d", *WEEK)
    done = run("verify", "BTC/USD")

    assert (done.code, done.out) == (2, "")
    assert "BTC/USDT" in done.err


def test_damage_of_one_series_hides_no_other(run: Callable[..., Any], tmp_path: Path) -> None:
    """A series whose file cannot be read has its fault in its own row; the others are verified; --repair heals it."""
    run("fetch", "BTC/USDT", "ETH/USDT", "-t", "1h", "--since", "2023-11-01", "--until", "2024-02-01")
    file = next(path for path in (tmp_path / "candles").rglob("2023.parquet") if "BTC" in str(path))
    file.unlink()
    file.mkdir()
    done = run("verify", "--json")
    assert done.code == 1
    assert [(s["symbol"], s["unexplained"], s["error"]) for s in done.json["series"]] == [
        ("BTC/USDT", 1464, None), ("ETH/USDT", 0, None),
    ]  # fmt: skip
    assert "unreadable" in done.err
    repaired = run("verify", "--repair", "--json")
    assert repaired.code == 0, repaired.err
    assert [s["stored"] + s["absent"] for s in repaired.json["series"]] == [2208, 2208]


def test_series_that_cannot_be_verified_is_told_and_the_others_are(
    run: Callable[..., Any], tmp_path: Path
) -> None:
    """Where nothing can be said of a series its error stands in its row and object, the rest is verified, and it ends with 4."""
    run("fetch", "BTC/USDT", "ETH/USDT", "-t", "1h", *WEEK)
    with closing(sqlite3.connect(tmp_path / "candles" / "catalogue.sqlite")) as catalogue, catalogue:
        # The answers of one series are not ranges any more.
        catalogue.execute("UPDATE answered SET until = since - 1 WHERE series = 1")
    done = run("verify", "--json")
    plain = run("verify")
    assert (done.code, plain.code) == (4, 4), done.err
    assert [(s["symbol"], s["stored"]) for s in done.json["series"]] == [("BTC/USDT", 0), ("ETH/USDT", 168)]
    assert done.json["series"][0]["error"]["kind"] == "StoreCorrupt"
    assert not done.json["ok"]
    assert plain.out.count("✅") == plain.out.count("❌") == 1


def test_absent_slots_are_asked_again_where_they_are_doubted(run: Callable[..., Any], tmp_path: Path) -> None:
    """--repair leaves absences alone; with --absent it brings the candles that an exchange held back before."""
    run("fetch", "BTC/USDT", "-t", "1h", *WEEK)
    day = 86_400_000
    with open_store(tmp_path / "candles") as store:
        (kept,) = store.series()
        candles = store.candles(kept.series)
        ledger = store.ledger(kept.series)
        store.remove(kept.series)
        page = CandlePage(kept.series, ledger.asked.ranges[0], candles[:60], "test", kept.clock + 30 * day)
        store.write([Ask(kept.series, ledger.asked.ranges[0], kept.clock, 0), Page(page)])
    assert run("verify", "--repair", "--json").json["series"][0]["absent"] == 108
    done = run("verify", "--repair", "--absent", "--json")
    assert done.code == 0, done.err
    assert (done.json["series"][0]["absent"], done.json["series"][0]["stored"]) == (0, 168)
    assert run("verify", "--absent").code == 2


def test_repair_doubts_a_listing_that_was_recorded(run: Callable[..., Any], tmp_path: Path) -> None:
    """--repair asks again for what is said to lie before the listing, though verify finds nothing wrong."""
    run("fetch", "BTC/USDT", "-t", "1h", "--since", "2024-05-29", "--until", "2024-06-01")
    since, until = (parse_when(f"2024-05-{day}", now=0) for day in (25, 29))
    with open_store(tmp_path / "candles") as store:
        (kept,) = store.series()
        span = TimeRange(since, until)
        false = Fact(span, State.BEFORE_LISTING, "the first candle", kept.clock)
        store.write([Ask(kept.series, span, kept.clock, 0), SeriesFact(kept.series, false)])
    assert run("verify").code == 0
    done = run("verify", "--repair", "--json")
    assert (done.code, done.json["series"][0]["stored"]) == (0, 168), done.err


def test_since_listing_is_the_listing_and_not_the_earliest_ask(run: Callable[..., Any]) -> None:
    """Where the listing is not known verify refuses; once it is, what was never asked for is missing; --repair brings it."""
    short = ("BTC/USDT", "-t", "1d", "--since", "2024-05-25", "--until", "2024-06-01")
    run("fetch", *short)
    unknown = run("verify", "--since", "listing")
    assert (unknown.code, unknown.out) == (2, "")
    assert "chandlery fetch BTC/USDT -t 1d -e binance --since listing" in unknown.err
    repaired = run("verify", "--since", "listing", "--repair", "--json")
    assert repaired.code == 0, repaired.err
    whole = repaired.json["series"][0]
    assert whole["expected"] > 1000
    assert whole["first"] < "2021"
    assert whole["before_listing"] == 0
    assert run("verify", "--since", "listing", "--json").json["series"][0]["expected"] == whole["expected"]


def test_what_lies_between_the_listing_and_the_first_ask_was_never_asked_for(
    run: Callable[..., Any], tmp_path: Path
) -> None:
    """A listing that the ledger knows counts from there, and the part that nobody asked for is missing with that reason."""
    run("fetch", "BTC/USDT", "-t", "1d", "--since", "2024-05-25", "--until", "2024-06-01")
    since, until = (parse_when(f"2024-05-{day}", now=0) for day in ("09", "10"))
    with open_store(tmp_path / "candles") as store:
        (kept,) = store.series()
        fact = Fact(TimeRange(since, until), State.BEFORE_LISTING, "the first candle", kept.clock)
        store.write([SeriesFact(kept.series, fact)])
    done = run("verify", "--since", "listing", "--json")
    series = done.json["series"][0]
    assert (done.code, series["expected"], series["missing"]) == (1, 22, 15)
    assert [(g["from"][:10], g["candles"], g["reason"]) for g in series["gaps"]] == [
        ("2024-05-10", 15, "never asked for")
    ]
