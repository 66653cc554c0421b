"""fetch and plan: what they ask for, store, print and return."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chandlery.candle import SeriesId
from chandlery.exchange import ExchangeSettings, Faults, LocalExchange, parse_fault
from chandlery.stores import open_store
from chandlery.stores.base import Ask
from chandlery.timerange import TimeRange

FETCH_KEYS = ["ok", "seconds", "requests", "retries", "weight", "series", "mirrors"]
SLOT_KEYS = ["absent", "missing", "pending", "quarantined", "before_listing", "after_end", "out_of_reach"]
SERIES_KEYS = [
    "exchange",
    "symbol",
    "timeframe",
    "kind",
    "since",
    "until",
    "fetched",
    "written",
    *SLOT_KEYS,
    "volume_unit",
    "error",
]
WEEK = ("--since", "2024-05-25", "--until", "2024-06-01")
SETTLED = ("--since", "2024-05-20", "--until", "2024-05-30")


def klines(exchange: LocalExchange) -> int:
    """How many requests for candles the exchange has seen."""
    return sum(record.path.endswith("klines") for record in exchange.requests)


def test_fetch_stores_and_reports_in_json(run: Callable[..., Any], tmp_path: Path) -> None:
    """The document has exactly the keys of the contract, stdout holds nothing else, stderr names the absolute store."""
    done = run("fetch", "BTC/USDT", "-t", "1h", "-t", "1d", *WEEK, "--json")

    assert done.code == 0, done.err
    assert list(done.json) == FETCH_KEYS
    assert [list(series) for series in done.json["series"]] == [SERIES_KEYS] * 2
    hour, day = done.json["series"]
    assert (hour["since"], hour["until"]) == ("2024-05-25T00:00:00Z", "2024-06-01T00:00:00Z")
    assert (hour["written"], day["written"], hour["error"]) == (168, 7, None)
    assert str(tmp_path / "candles") in done.err


def test_fetch_prints_a_table_for_people(run: Callable[..., Any]) -> None:
    """Without --json stdout is a table with one line for each series; the sum is talk."""
    done = run("fetch", "BTC/USDT", "ETH/USDT", "-t", "4h", *WEEK)

    assert done.code == 0, done.err
    head, *rows = done.out.splitlines()
    assert head.split() == ["binance", "from", "to", "new", "absent", "missing"]
    assert [row.split()[:2] for row in rows] == [["BTC/USDT", "4h"], ["ETH/USDT", "4h"]]
    assert all(row.split()[-1] == "complete" and " 42 " in row for row in rows)
    assert "84 candles" in done.err


def test_a_second_run_asks_for_no_candle(run: Callable[..., Any], exchange: LocalExchange) -> None:
    """What is there and confirmed is not asked for again, with the symbol named or not."""
    run("fetch", "BTC/USDT", *SETTLED)
    before = klines(exchange)
    again = run("fetch", "BTC/USDT", *SETTLED, "--json")
    kept = run("fetch", "--until", "2024-05-30", "--json")

    assert klines(exchange) == before
    assert (again.code, kept.code) == (0, 0), kept.err
    assert [series["fetched"] for series in again.json["series"] + kept.json["series"]] == [0, 0]


def test_fetch_without_symbol_tops_up_what_is_kept(run: Callable[..., Any]) -> None:
    """Every series kept goes on to now; -t narrows it."""
    run("fetch", "BTC/USDT", "-t", "1h", "-t", "1d", *SETTLED)
    hours = run("fetch", "-t", "1h", "--json").json["series"]
    both = run("fetch", "--json").json["series"]

    assert [(s["timeframe"], s["since"][:10], s["missing"]) for s in hours] == [("1h", "2024-05-20", 0)]
    assert [s["timeframe"] for s in both] == ["1h", "1d"]
    assert run("fetch", "--json").json["ok"]


def test_a_pattern_stands_for_active_markets(run: Callable[..., Any], exchange: LocalExchange) -> None:
    """`*/USDT` fetches every pair that trades, and not the delisted one."""
    done = run("fetch", "*/USDT", "-t", "1d", "--since", "2d", "--until", "2024-06-01", "--json")

    usdt = {symbol for symbol in exchange.symbols if symbol.endswith("/USDT")} - {"BCC/USDT"}
    assert {series["symbol"] for series in done.json["series"]} == usdt
    assert done.code == 0, done.err


def test_an_unknown_symbol_among_good_ones_is_incomplete(run: Callable[..., Any]) -> None:
    """The good one is stored, the unknown one has its error with a hint, the exit code is 1."""
    done = run("fetch", "BTC/USDT", "BTC/USDX", "-t", "1d", *WEEK, "--json")

    good, unknown = done.json["series"]
    assert done.code == 1
    assert (good["written"], good["error"]) == (7, None)
    assert unknown["error"]["kind"] == "UnknownSymbol"
    assert list(unknown["error"]) == ["kind", "message", "hint"]
    assert "BTC/USDT" in unknown["error"]["hint"]
    assert "error: " in done.err


def test_a_new_series_takes_30_days_and_says_so(run: Callable[..., Any]) -> None:
    """Without --since a new series begins 30 days before now, which stderr says."""
    done = run("fetch", "BTC/USDT", "-t", "1d", "--json")

    (series,) = done.json["series"]
    assert series["since"] == "2024-05-03T00:00:00Z"
    assert "30 days" in done.err


def test_listing_begins_where_the_history_does(run: Callable[..., Any]) -> None:
    """`--since listing` fetches a young pair from its first candle."""
    done = run("fetch", "IO/USDT", "-t", "1h", "--since", "listing", "--until", "2024-06-01", "--json")

    (series,) = done.json["series"]
    assert done.code == 0, done.err
    assert (series["since"], series["written"]) == ("2024-05-28T12:00:00Z", 84)


def test_quiet_and_verbose(run: Callable[..., Any]) -> None:
    """-q leaves stderr empty where all went well; -v says more than nothing."""
    quiet = run("fetch", "BTC/USDT", "-t", "1d", *WEEK, "-q")
    loud = run("fetch", "BTC/USDT", "-t", "1d", *WEEK, "-v")

    assert (quiet.code, quiet.err) == (0, "")
    assert len(loud.err.splitlines()) > 2


def test_plan_does_nothing(run: Callable[..., Any], exchange: LocalExchange, tmp_path: Path) -> None:
    """Plan names ranges and costs with the keys of the contract, asks for no candle and makes no store."""
    before = klines(exchange)
    done = run("plan", "BTC/USDT", "-t", "1m", "--since", "30d", "--json")

    assert done.code == 0, done.err
    assert list(done.json) == ["series", "requests", "weight", "seconds"]
    (part,) = done.json["series"][0]["ranges"]
    assert list(part) == ["from", "to", "via", "requests"]
    assert done.json["requests"] >= 30 * 1440 / 1000
    assert klines(exchange) == before
    assert list(tmp_path.iterdir()) == []


def test_plan_in_words(run: Callable[..., Any]) -> None:
    """Plan's table has the range; after the fetch there is nothing left to plan."""
    planned = run("plan", "BTC/USDT", *SETTLED)
    run("fetch", "BTC/USDT", *SETTLED)
    nothing = run("plan", "BTC/USDT", *SETTLED)

    assert "2024-05-20 00:00" in planned.out
    assert "at least 1 request, weight 2" in planned.err
    assert (nothing.code, nothing.out) == (0, "")
    assert "everything is there" in nothing.err


def test_a_ban_ends_the_run_with_3(run: Callable[..., Any], tmp_path: Path) -> None:
    """A told wait longer than --max-wait ends the run with 3 and names the time, and no candle is stored."""
    faults = Faults((parse_fault("418:1,retry_after=3600,path=klines"),))
    with LocalExchange(ExchangeSettings(clock="2024-06-01T00:01Z,0", faults=faults)) as banning:
        done = run(
            "fetch",
            "BTC/USDT",
            "-t",
            "1d",
            *WEEK,
            "--max-wait",
            "1s",
            "--exchange-url",
            banning.url,
            "--json",
        )

    assert done.code == 3, done.err
    assert done.json["series"][0]["error"]["kind"] == "RateLimited"
    assert done.json["series"][0]["missing"] == 7


def test_a_series_that_another_process_writes_is_5(run: Callable[..., Any], tmp_path: Path) -> None:
    """The locked series names the other's pid, the others go on, and the exit code is 5."""
    run("fetch", "BTC/USDT", "-t", "1d", *SETTLED)
    hold = (
        "import sys; from chandlery.stores import open_store; from chandlery.candle import SeriesId\n"
        "store = open_store('candles')\n"
        "with store.lock(SeriesId('binance', 'BTC/USDT', '1d')):\n"
        "    print('held', flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", hold], cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        done = run("fetch", "BTC/USDT", "ETH/USDT", "-t", "1d", *WEEK, "--json")
        holder.communicate("")

    locked, free = done.json["series"]
    assert done.code == 5
    assert locked["error"]["kind"] == "SeriesLocked"
    assert str(holder.pid) in locked["error"]["message"] + locked["error"]["hint"]
    assert (free["error"], free["written"]) == (None, 7)


def test_a_token_that_is_not_used_is_warned_of(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With INFLUXDB_TOKEN set and a folder as store, each command warns, without the token."""
    monkeypatch.setenv("INFLUXDB_TOKEN", "hush-hush")
    run_fetch = run("fetch", "BTC/USDT", "-t", "1d", *WEEK, "-q")
    run_list = run("list")

    for done in (run_fetch, run_list):
        assert "warning: INFLUXDB_TOKEN is set and not used" in done.err
        assert "hush" not in done.out + done.err


def test_an_exchange_that_does_not_answer_is_3_and_makes_no_store(
    run: Callable[..., Any], tmp_path: Path
) -> None:
    """Where not even the markets can be had, each series carries the error, stderr has it once, and no store is made."""
    faults = Faults((parse_fault("418:1,retry_after=3600"),))
    with LocalExchange(ExchangeSettings(clock="2024-06-01T00:01Z,0", faults=faults)) as banning:
        args = ("BTC/USDT", "ETH/USDT", *WEEK, "--max-wait", "1s", "--exchange-url", banning.url)
        done = run("fetch", *args, "--json")

    assert done.code == 3, done.err
    assert [list(series) for series in done.json["series"]] == [SERIES_KEYS] * 2
    assert {series["error"]["kind"] for series in done.json["series"]} == {"RateLimited"}
    assert done.err.count("error: ") == 1
    assert list(tmp_path.iterdir()) == []


def test_series_of_several_exchanges_are_topped_up_together(run: Callable[..., Any]) -> None:
    """Each series kept is asked of its own exchange; -e narrows; tables then name the exchange."""
    run("fetch", "BTC/USDT", "-t", "1d", *SETTLED)
    run("fetch", "BTC/USDT", "-t", "1d", *SETTLED, "-e", "binanceus")
    both = run("fetch", "--json")
    one = run("fetch", "-e", "binanceus", "--json")
    table = run("list").out

    assert both.code == 0, both.err
    assert [(s["exchange"], s["missing"]) for s in both.json["series"]] == [("binance", 0), ("binanceus", 0)]
    assert [s["exchange"] for s in one.json["series"]] == ["binanceus"]
    assert [line.split()[0] for line in table.splitlines()] == ["series", "binance", "binanceus"]


def test_an_exchange_that_is_gone_stops_no_other(run: Callable[..., Any]) -> None:
    """Where one exchange of the store cannot be asked any more, its series has the error and the others go on."""
    run("fetch", "BTC/USDT", "-t", "1d", *SETTLED)
    gone = SeriesId("agoneexchange", "BTC/USDT", "1d")
    now = 1_717_200_060_000
    with open_store("candles") as store, store.lock(gone):
        store.write([Ask(gone, TimeRange(now - 86_460_000, now - 60_000), now, 10_000)])
    done = run("fetch", "--json")

    failed, good = done.json["series"]
    assert done.code == 1, done.err
    assert (failed["exchange"], failed["error"]["kind"]) == ("agoneexchange", "UnknownExchange")
    assert (good["error"], good["missing"], good["until"]) == (None, 0, "2024-06-02T00:00:00Z")


def test_run_that_is_refused_at_its_start_says_what_is_missing(run: Callable[..., Any]) -> None:
    """Where the exchange says nothing at all, the report names the range asked for and calls all of it missing."""
    faults = Faults((parse_fault("418:1,retry_after=3600"),))
    with LocalExchange(ExchangeSettings(clock="2024-06-01T00:01Z,0", faults=faults)) as banning:
        url = ("--exchange-url", banning.url, "--max-wait", "1s")
        done = run(
            "fetch", "BTC/USDT", "-t", "1h", "--since", "2024-05-25", "--until", "2024-06-01", "--json", *url
        )
    assert done.code == 3, done.err
    (series,) = done.json["series"]
    assert (series["since"], series["until"]) == ("2024-05-25T00:00:00Z", "2024-06-01T00:00:00Z")
    assert series["missing"] == 168


def test_range_without_a_slot_makes_nothing(run: Callable[..., Any], tmp_path: Path) -> None:
    """A range in which no candle opens is wrong usage that names range and timeframe; no store is made."""
    done = run("fetch", "BTC/USDT", "-t", "1h", "--since", "2024-05-25T00:10", "--until", "2024-05-25T00:50")
    assert (done.code, done.out) == (2, "")
    assert "1h" in done.err
    assert "2024-05-25T00:10" in done.err
    assert not (tmp_path / "candles").exists()


def test_the_time_is_asked_for_once(monkeypatch: pytest.MonkeyPatch, run: Callable[..., Any]) -> None:
    """A fetch and a plan ask the exchange's time once each, for the times typed and for what is closed."""
    with LocalExchange(ExchangeSettings(clock="2024-06-01T00:01Z,0")) as exchange:
        monkeypatch.setenv("EXCHANGE_URL", exchange.url)
        for number, command in enumerate(("fetch", "plan"), start=1):
            done = run(command, "BTC/USDT", "-t", "1h", *WEEK)
            assert done.code == 0, done.err
            assert sum(record.path.endswith("/time") for record in exchange.requests) == number
