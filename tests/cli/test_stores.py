"""copy, diff and --mirror: what they say of two stores, and what they make of them."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chandlery.candle import SeriesId
from chandlery.compare import compare_series, whole_spans
from chandlery.exchange import ExchangeSettings, Faults, LocalExchange, parse_fault
from chandlery.stores import open_store
from chandlery.testing.store_scenes import OTHER, SERIES, ask, page

WEEK = ("--since", "2024-05-20", "--until", "2024-05-27")
DIFF_KEYS = [
    "exchange", "symbol", "timeframe", "kind", "only_a", "only_b", "changed", "days", "answers", "error",
]  # fmt: skip


def assert_equal(one: Path, other: Path) -> None:
    """Both stores keep the same series, candle for candle, with the same counts."""
    with open_store(one, create=False) as a, open_store(other, create=False) as b:
        listed = [
            [(s.series, s.first, s.last, s.candles, s.absent, s.missing) for s in store.series()]
            for store in (a, b)
        ]
        assert listed[0] == listed[1]
        for series, span in whole_spans(a, b).items():
            assert compare_series(a, b, series, [span]).equal


# -- diff ----------------------------------------------------------------------------------------------------------


def test_equal_stores_are_equal(run: Callable[..., Any]) -> None:
    """Two stores filled by the same fetch do not differ: exit 0, a document without days."""
    for store in ("a", "b"):
        run("fetch", "BTC/USDT", "-t", "1h", *WEEK, "--store", store)
    done = run("diff", "a", "b", "--json")

    assert done.code == 0, done.err
    assert (done.json["ok"], [list(s) for s in done.json["series"]]) == (True, [DIFF_KEYS])
    assert done.json["series"][0]["days"] == done.json["series"][0]["answers"] == []
    assert run("diff", "a", "b").out == ""
    assert "1 of 1 series equal" in run("diff", "a", "b").err


def test_differences_are_named_by_day(run: Callable[..., Any], tmp_path: Path) -> None:
    """Candles of one side, other values, answers that one side lacks and series of one side are all told; exit 1."""
    with open_store(tmp_path / "a") as a, open_store(tmp_path / "b") as b:
        a.write([ask(0, 72), page(0, 72, list(range(60)))])
        b.write([ask(0, 72), page(0, 70, [*range(40), *range(41, 60), 65])])
        b.write([page(2, 3, seed=1), page(0, 3, series=OTHER)])
    done = run("diff", "a", "b", "--json")

    assert done.code == 1
    btc, eth = done.json["series"]
    assert (btc["only_a"], btc["only_b"], btc["changed"]) == (1, 1, 1)
    assert btc["days"] == [
        {"day": "2024-01-01", "a": 24, "b": 24, "only_a": [], "only_b": [], "changed": ["2024-01-01T02:00:00Z"]},
        {"day": "2024-01-02", "a": 24, "b": 23, "only_a": ["2024-01-02T16:00:00Z"], "only_b": [], "changed": []},
        {"day": "2024-01-03", "a": 12, "b": 13, "only_a": [], "only_b": ["2024-01-03T17:00:00Z"], "changed": []},
    ]  # fmt: skip
    assert btc["answers"] == [
        {"from": "2024-01-03T22:00:00Z", "to": "2024-01-04T00:00:00Z", "candles": 2, "a": "absent", "b": "unknown"}
    ]  # fmt: skip
    assert (eth["only_b"], eth["error"]) == (3, None)
    table = run("diff", "a", "b")
    assert "only in B" in table.out
    assert "absent" in table.out
    assert "0 of 2 series equal" in table.err


def test_diff_looks_only_where_it_is_told(run: Callable[..., Any], tmp_path: Path) -> None:
    """Symbols, timeframes and a range narrow it; outside of them nothing is compared."""
    with open_store(tmp_path / "a") as a, open_store(tmp_path / "b") as b:
        a.write([ask(0, 72), page(0, 72), page(0, 3, series=OTHER)])
        b.write([ask(0, 72), page(0, 72), page(50, 51, seed=1)])
    assert run("diff", "a", "b").code == 1
    assert run("diff", "a", "b", "ETH/USDT").code == 1
    assert run("diff", "a", "b", "BTC/*", "--until", "2024-01-03").code == 0
    assert run("diff", "a", "b", "BTC/USDT", "--since", "2024-01-03T02:00", "-t", "1h").code == 1
    assert run("diff", "a", "b", "BTC/USDT", "--since", "2024-01-03T03:00").code == 0


@pytest.mark.parametrize(
    "wrong", [("a", "none"), ("none", "a"), ("a", "a", "DOGE/USDT"), ("a", "a", "-t", "5m"), ("a", "s3://x")]
)
def test_nothing_to_compare_is_usage(run: Callable[..., Any], tmp_path: Path, wrong: tuple[str, ...]) -> None:
    """A store or a series that is not there exits with 2, says so, and makes nothing."""
    with open_store(tmp_path / "a") as a:
        a.write([page(0, 3)])
    done = run("diff", *wrong)

    assert (done.code, done.out) == (2, "")
    assert "error: " in done.err
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_damaged_store_exits_with_4(run: Callable[..., Any], tmp_path: Path) -> None:
    """What cannot be read is the error of its series; the others are compared."""
    for name in ("a", "b"):
        with open_store(tmp_path / name) as store:
            store.write([page(0, 30), page(0, 30, series=OTHER)])
            store.seal(everything=True)
    (file,) = (tmp_path / "b").glob("**/symbol=BTC*/**/*.parquet")
    file.unlink()
    done = run("diff", "a", "b", "--json")

    assert done.code == 4
    assert [s["error"] and s["error"]["kind"] for s in done.json["series"]] == ["StoreCorrupt", None]


# -- copy ----------------------------------------------------------------------------------------------------------


def test_copy_makes_an_equal_store(run: Callable[..., Any], tmp_path: Path) -> None:
    """Everything goes over and is compared; a second copy writes nothing."""
    run("fetch", "BTC/USDT", "ETH/USDT", "-t", "1h", "-t", "1d", *WEEK, "--store", "a")
    done = run("copy", "a", "b", "--json")
    again = run("copy", "a", "b", "--json")

    assert done.code == 0, done.err
    assert sum(s["new"] for s in done.json["series"]) == 2 * (168 + 7)
    assert [list(s) for s in done.json["series"]] == [
        [*DIFF_KEYS, "new", "same", "revised", "quarantined"]
    ] * 4
    assert (again.code, sum(s["new"] + s["revised"] for s in again.json["series"])) == (0, 0)
    assert_equal(tmp_path / "a", tmp_path / "b")
    assert run("verify", "--store", "b").code == 0


def test_a_token_is_not_said_to_be_unused_where_stores_are_named(
    run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commands copy and diff keep nothing in the settings' store, and so do not warn that candles are kept there."""
    monkeypatch.setenv("INFLUXDB_TOKEN", "hush-hush")
    with open_store(tmp_path / "a") as a:
        a.write([page(0, 3)])
    for command in ("copy", "diff"):
        done = run(command, "a", "b")
        assert (done.code, "warning" in done.err) == (0, False), done.err


def test_copy_deletes_nothing_and_says_so(run: Callable[..., Any], tmp_path: Path) -> None:
    """Candles of TO that FROM has not stay: exit 1, with the commands that make both equal, which they do."""
    with open_store(tmp_path / "a") as a, open_store(tmp_path / "b") as b:
        a.write([ask(0, 20), page(0, 20, [1, 2, 3])])
        b.write([page(0, 5)])
    done = run("copy", "a", "b")

    assert done.code == 1
    assert "2 candles that are not in the source" in done.err
    assert f"chandlery remove BTC/USDT -t 1h -e binance --store {tmp_path / 'b'}" in done.err
    run("remove", "BTC/USDT", "-t", "1h", "-e", "binance", "--store", "b", "--yes")
    assert run("copy", "a", "b").code == 0
    assert_equal(tmp_path / "a", tmp_path / "b")


def test_copy_onto_itself_is_refused(run: Callable[..., Any], tmp_path: Path) -> None:
    """One store under two names is no copy: exit 2."""
    with open_store(tmp_path / "a") as a:
        a.write([page(0, 3)])
    (tmp_path / "link").symlink_to("a")
    for other in ("a", "./a", "link", f"file:{tmp_path / 'a'}"):
        done = run("copy", "a", other)
        assert (done.code, "are one store" in done.err) == (2, True)


def test_a_series_locked_in_the_target_is_told(run: Callable[..., Any], tmp_path: Path) -> None:
    """The others are copied; exit 5, as for every run."""
    with open_store(tmp_path / "a") as a, open_store(tmp_path / "b") as b:
        a.write([page(0, 3), page(0, 3, series=OTHER)])
        with b.lock(SERIES):
            done = run("copy", "a", "b", "--json")
        assert [s.series for s in b.series()] == [OTHER]
    assert done.code == 5
    assert [s["error"] and s["error"]["kind"] for s in done.json["series"]] == ["SeriesLocked", None]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_copy_goes_on(
    number: signal.Signals,
    start: Callable[..., subprocess.Popen[str]],
    run: Callable[..., Any],
    tmp_path: Path,
) -> None:
    """Ended in the middle, it is run again and brings the rest."""
    with open_store(tmp_path / "a") as a:
        for n in range(0, 200_000, 20_000):
            a.write([page(n, n + 20_000, series=SeriesId("binance", f"C{n}/USDT", "1h"))])
    process = start("copy", "a", "b")
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and not list((tmp_path / "b").glob("**/*.parquet")):
        time.sleep(0.005)
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert process.returncode in (130, -signal.SIGKILL), err

    assert run("copy", "a", "b").code == 0
    assert_equal(tmp_path / "a", tmp_path / "b")


# -- mirrors -------------------------------------------------------------------------------------------------------


def test_a_fetch_feeds_its_mirrors(run: Callable[..., Any], tmp_path: Path) -> None:
    """Each mirror holds all that the store does when the run ends, back-fills and repairs too, and the document says so."""
    done = run("fetch", "BTC/USDT", *WEEK, "--mirror", "m1", "--mirror", "m2", "--json")

    assert done.code == 0, done.err
    assert done.json["mirrors"] == [
        {"url": name, "ok": True, "behind": 0, "error": None} for name in ("m1", "m2")
    ]
    earlier = run("fetch", "BTC/USDT", "--since", "2024-05-01", "--until", "2024-05-05", "--mirror", "m1")
    assert (earlier.code, "mirror m1: up to date" in earlier.err) == (0, True)
    with open_store(tmp_path / "candles") as store:
        series = SeriesId("binance", "BTC/USDT", "1h")
        span = next(iter(store.ledger(series).answered_ranges))
        store.forget(series, span)
    repaired = run("verify", "--repair", "--mirror", "m1", "--mirror", "m2")
    assert repaired.code == 0, repaired.err
    for name in ("m1", "m2"):
        assert_equal(tmp_path / "candles", tmp_path / name)


def test_a_fetch_with_nothing_to_fetch_feeds_them_too(run: Callable[..., Any], tmp_path: Path) -> None:
    """A mirror named later, or an exchange that is down, is no reason for a mirror to be behind."""
    run("fetch", "BTC/USDT", "-t", "1d", *WEEK)
    assert run("fetch", "BTC/USDT", "-t", "1d", *WEEK, "--mirror", "m1").code == 0
    faults = Faults((parse_fault("418:1,retry_after=3600"),))
    with LocalExchange(ExchangeSettings(clock="2024-06-01T00:01Z,0", faults=faults)) as banning:
        url = ("--exchange-url", banning.url, "--max-wait", "1s")
        down = run("fetch", "BTC/USDT", *WEEK, "--mirror", "m2", *url)
    assert down.code == 3
    for name in ("m1", "m2"):
        assert_equal(tmp_path / "candles", tmp_path / name)


def test_a_mirror_that_is_down_costs_no_candle(run: Callable[..., Any], tmp_path: Path) -> None:
    """A mirror that cannot be used is told of with exit 4; the store has everything, and the next run catches up."""
    (tmp_path / "m").write_text("in the way")
    done = run("fetch", "BTC/USDT", *WEEK, "--mirror", "m", "--json")

    assert (done.code, done.json["ok"]) == (4, True)
    (mirror,) = done.json["mirrors"]
    assert (mirror["ok"], mirror["behind"], mirror["error"]["kind"]) == (False, None, "StoreUnreadable")
    assert done.json["series"][0]["written"] == 168
    (tmp_path / "m").unlink()
    assert run("fetch", "--mirror", "m").code == 0
    assert_equal(tmp_path / "candles", tmp_path / "m")


def test_mirrors_of_the_settings(
    run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """chandlery.toml and the environment name mirrors; what is typed goes before both."""
    (tmp_path / "chandlery.toml").write_text('mirror = ["m1", "m2"]\n')
    run("fetch", "BTC/USDT", "-t", "1d", *WEEK)
    assert {p.name for p in tmp_path.iterdir() if p.is_dir()} == {"candles", "m1", "m2"}
    monkeypatch.setenv("CHANDLERY_MIRROR", "m3, m4")
    run("fetch")
    run("fetch", "--mirror", "m5")
    assert {p.name for p in tmp_path.iterdir() if p.is_dir()} == {"candles", "m1", "m2", "m3", "m4", "m5"}
    (tmp_path / "chandlery.toml").write_text("mirror = 3\n")
    monkeypatch.delenv("CHANDLERY_MIRROR")
    wrong = run("fetch")
    assert (wrong.code, "chandlery.toml: mirror cannot be 3" in wrong.err) == (2, True)


@pytest.mark.parametrize("named", [["./candles"], ["m", "./m"], ["memory:"], ["ftp://x/y"]])
def test_a_mirror_that_cannot_be_one_is_refused(
    run: Callable[..., Any], tmp_path: Path, named: list[str]
) -> None:
    """The store itself, one store twice, or no store at all: exit 2 before anything is begun."""
    done = run("fetch", "BTC/USDT", *WEEK, *(word for url in named for word in ("--mirror", url)))
    assert (done.code, list(tmp_path.iterdir())) == (2, [])


@pytest.mark.parametrize("command", [("fetch", "BTC/USDT", *WEEK), ("verify", "--repair")])
def test_an_influxdb_is_mirrored_by_nothing(
    run: Callable[..., Any], tmp_path: Path, command: tuple[str, ...]
) -> None:
    """Mirrors of an InfluxDB are refused before anything is begun, with what to do instead: exit 2."""
    done = run(*command, "--store", "influxdb://127.0.0.1:1/org/bucket", "--mirror", "m")

    assert (done.code, list(tmp_path.iterdir())) == (2, [])
    assert "mirrors follow a store of files" in done.err
    assert "chandlery copy" in done.err


def test_an_interrupted_fetch_leaves_a_mirror_that_catches_up(
    start: Callable[..., subprocess.Popen[str]], run: Callable[..., Any], tmp_path: Path
) -> None:
    """Ctrl-C and SIGKILL in the middle of a run: the next one makes store and mirror complete and equal."""
    slow = Faults((parse_fault("latency:50,path=klines"),))
    span = ("--since", "2024-05-01", "--until", "2024-05-20")
    with LocalExchange(ExchangeSettings(clock="2024-06-01T00:01Z,0", faults=slow)) as exchange:
        for number in (signal.SIGKILL, signal.SIGINT):
            exchange.forget_requests()
            process = start(
                "fetch", "BTC/USDT", "-t", "1m", *span, "--mirror", "m", EXCHANGE_URL=exchange.url
            )
            deadline = time.monotonic() + 30
            while (
                sum(r.path.endswith("klines") for r in exchange.requests) < 10 and time.monotonic() < deadline
            ):
                time.sleep(0.02)
            process.send_signal(number)
            _, err = process.communicate(timeout=30)
            assert process.returncode == (130 if number is signal.SIGINT else -signal.SIGKILL), err
        exchange.faults = Faults()
        done = run("fetch", "BTC/USDT", "-t", "1m", *span, "--mirror", "m", "--exchange-url", exchange.url)
    assert done.code == 0, done.err
    assert_equal(tmp_path / "candles", tmp_path / "m")


def test_a_wiped_mirror_is_filled(run: Callable[..., Any], tmp_path: Path) -> None:
    """A mirror whose folder was deleted has everything again after the next run."""
    run("fetch", "BTC/USDT", *WEEK, "--mirror", "m")
    shutil.rmtree(tmp_path / "m")
    assert run("fetch", "BTC/USDT", *WEEK, "--mirror", "m").code == 0
    assert_equal(tmp_path / "candles", tmp_path / "m")
