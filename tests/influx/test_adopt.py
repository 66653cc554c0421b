"""A bucket that the original scripts filled: it is shown, read, verified, completed and corrected, without a move."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import UTC, datetime

import polars as pl
import pytest
from influxdb_client import InfluxDBClient, Point
from influxdb_client.client.write_api import SYNCHRONOUS

from chandlery.candle import SCHEMA, CandlePage, SeriesId
from chandlery.errors import UsageError
from chandlery.exchange import ExchangeSettings, LocalExchange
from chandlery.stores import open_store
from chandlery.stores.base import Page
from chandlery.timeframe import DAY, HOUR
from chandlery.timerange import TimeRange

from .commands import chandlery
from .fixtures import Bucket

NOW = int(datetime(2024, 6, 1, 0, 1, tzinfo=UTC).timestamp() * 1000)
#: When the original ran last: in the middle of an hour.
STOPPED = NOW - 3 * DAY + 29 * 60_000
BEGAN = STOPPED - 20 * DAY
Row = tuple[int, float, float, float, float, float]


@pytest.fixture
def influx(influx: Bucket, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """The bucket is the store of every command."""
    monkeypatch.setenv("CHANDLERY_STORE", "influxdb")
    return influx


def original_writes(
    bucket: Bucket, symbol: str, rows: Sequence[Row], exchange: str = "binance", timeframe: str = "1h"
) -> None:
    """Write rows as the original did: Point by Point, times in seconds as datetime, through the client library."""
    points = [
        Point("ohlcv")
        .tag("symbol", symbol.replace("/", "_"))
        .tag("timeframe", timeframe)
        .tag("exchange", exchange)
        .field("open", float(row[1]))
        .field("high", float(row[2]))
        .field("low", float(row[3]))
        .field("close", float(row[4]))
        .field("volume", float(row[5]))
        .time(datetime.fromtimestamp(row[0] / 1000, UTC))
        for row in rows
    ]
    with (
        InfluxDBClient(url=bucket.server.url, token=bucket.token, org=bucket.server.org) as client,
        client.write_api(write_options=SYNCHRONOUS) as writer,
    ):
        writer.write(bucket=bucket.name, record=points)


def truth(exchange: LocalExchange, symbol: str, since: int, until: int) -> list[Row]:
    """The candles that the exchange really has, as rows."""
    frame = exchange.truth(symbol, "1h", since, until)
    return frame.with_columns(pl.col("time").dt.epoch("ms")).rows()


def filled_by_the_original(bucket: Bucket, exchange: LocalExchange, seed: int) -> tuple[list[Row], list[Row]]:
    """A history with holes, a half-finished end, 1 % written twice; returns what is there, and what should be."""
    dice = random.Random(seed)
    should = truth(exchange, "BTC/USDT", BEGAN, STOPPED)
    there = [row for n, row in enumerate(should) if not (100 <= n < 110 or n in (50, 200))]
    opened, first, high, low, _, volume = there[-1]
    there[-1] = (opened, first, high, low, (high + low) / 2, volume / 3)
    original_writes(bucket, "BTC/USDT", there)
    original_writes(bucket, "BTC/USDT", dice.sample(there, len(there) // 100))
    return there, should


def test_what_the_original_wrote_is_shown_read_and_found_wanting(
    influx: Bucket, exchange: LocalExchange, seed: int
) -> None:
    """Without a ledger: `list` counts rows, `show` and `export` give them, `verify` calls the holes missing; no point is
    written meanwhile.
    """
    there, should = filled_by_the_original(influx, exchange, seed)
    original_writes(influx, "ETH/USDC", there[:5], exchange="coinbase")
    original_writes(influx, "BTC/USDT:USDT", there[:7])

    listed = {(s["exchange"], s["symbol"]): s for s in chandlery("list", "--json").json["series"]}
    assert {name: one["candles"] for name, one in listed.items()} == {
        ("binance", "BTC/USDT"): len(there),
        ("binance", "BTC/USDT:USDT"): 7,
        ("coinbase", "ETH/USDC"): 5,
    }
    assert (listed["binance", "BTC/USDT"]["missing"], listed["binance", "BTC/USDT"]["absent"]) == (12, 0)
    assert len(should) - len(there) == 12

    shown = chandlery("show", "BTC/USDT", "-n", "1", "--json").json
    assert [shown[0][name] for name in ("open", "close", "volume")] == [there[-1][i] for i in (1, 4, 5)]
    exported = chandlery("export", "BTC/USDT").out
    frame = pl.read_csv(exported.encode())
    assert frame.rows() == there
    assert chandlery("export", "BTC/USDT:USDT").out.count("\n") == 8

    verified = chandlery("verify", "BTC/USDT", "--json")
    (one,) = verified.json["series"]
    assert verified.code == 1
    assert (one["expected"], one["stored"], one["missing"], one["unexplained"]) == (
        len(should),
        len(there),
        12,
        0,
    )
    assert [(gap["candles"], gap["state"]) for gap in one["gaps"]] == [
        (1, "missing"),
        (10, "missing"),
        (1, "missing"),
    ]
    assert influx.server.count("chandlery_ledger", influx.name, field="n") == 0
    assert influx.server.count("chandlery_check", influx.name, field="nonce") == 0


def test_fetch_completes_and_corrects_it(influx: Bucket, exchange: LocalExchange, seed: int) -> None:
    """Fetch fills the holes and goes on to now; the half-finished candle becomes a revision; a second fetch writes
    nothing; the old rows stay where they are.
    """
    there, _ = filled_by_the_original(influx, exchange, seed)
    should = truth(exchange, "BTC/USDT", BEGAN, NOW - HOUR)
    fetched = chandlery("fetch", "BTC/USDT", "--json")

    assert fetched.code == 0, fetched.err
    (one,) = fetched.json["series"]
    assert one["written"] == len(should) - len(there) + 1
    frame = pl.read_csv(chandlery("export", "BTC/USDT").out.encode())
    assert frame.rows() == should
    assert chandlery("verify", "BTC/USDT").code == 0
    assert influx.server.count(bucket=influx.name) == len(should)
    with open_store(influx.url) as store:
        (revision,) = store.revisions(SeriesId("binance", "BTC/USDT", "1h"))
    assert revision.open == there[-1][0]
    assert revision.old == there[-1][1:]
    assert revision.new == next(row for row in should if row[0] == revision.open)[1:]

    again = chandlery("fetch", "BTC/USDT", "--json")
    assert (again.code, again.json["series"][0]["written"]) == (0, 0)
    assert chandlery("verify", "BTC/USDT", "--json").json["series"][0]["stored"] == len(should)


def test_a_candle_that_the_original_left_open_is_corrected_when_it_has_closed(
    influx: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The original's last candle, still open when chandlery takes over, becomes a revision at the first fetch after its end."""
    with LocalExchange(ExchangeSettings(clock="2024-05-31T23:30Z,0")) as earlier:
        monkeypatch.setenv("EXCHANGE_URL", earlier.url)
        rows = truth(earlier, "BTC/USDT", NOW - 5 * DAY, NOW)
        half = (rows[-1][0] + HOUR, *rows[-1][1:])
        assert half[0] == NOW - NOW % HOUR - HOUR
        original_writes(influx, "BTC/USDT", [*rows, half])
        assert chandlery("fetch", "BTC/USDT").code == 0
    with LocalExchange(ExchangeSettings(clock="2024-06-01T02:01Z,0")) as later:
        monkeypatch.setenv("EXCHANGE_URL", later.url)
        assert chandlery("fetch", "BTC/USDT", "--recheck", "0").code == 0
        closed = later.truth("BTC/USDT", "1h", half[0], half[0] + HOUR)["close"].to_list()
    shown = {row["time"]: row["close"] for row in chandlery("show", "BTC/USDT", "-n", "5", "--json").json}
    assert shown["2024-05-31T23:00:00Z"] == closed[0] != half[4]
    with open_store(influx.url) as store:
        assert [r.open for r in store.revisions(SeriesId("binance", "BTC/USDT", "1h"))] == [half[0]]
    assert chandlery("verify", "BTC/USDT").code == 0


def test_older_history_joins_what_was_adopted(influx: Bucket, exchange: LocalExchange, seed: int) -> None:
    """A fetch from before the adopted rows brings only those that were not there."""
    there, should = filled_by_the_original(influx, exchange, seed)
    before = truth(exchange, "BTC/USDT", BEGAN - 10 * DAY, BEGAN)
    done = chandlery("fetch", "BTC/USDT", "--since", BEGAN - 10 * DAY, "--until", STOPPED, "--json")

    assert done.code == 0, done.err
    assert done.json["series"][0]["written"] == len(before) + len(should) - len(there) + 1
    assert chandlery("verify").code == 0


# -- symbols that would share a tag ----------------------------------------------------------------------------------

ROWS = [(BEGAN - BEGAN % HOUR + n * HOUR, 1.0, 2.0, 0.5, 1.5, 10.0) for n in range(3)]


@pytest.mark.parametrize("first", ["A_B/C", "A/B_C"])
def test_two_symbols_never_share_a_tag(influx: Bucket, first: str) -> None:
    """Whichever of A_B/C and A/B_C comes second is refused by name, for writing as for reading, and nothing of it is stored."""
    second = "A/B_C" if first == "A_B/C" else "A_B/C"
    with open_store(influx.url) as store:
        store.write([_page(first)])
        with pytest.raises(UsageError, match=first):
            store.write([_page(second)])
        with pytest.raises(UsageError, match=first):
            store.read(SeriesId("binance", second, "1h"))
        assert store.read(SeriesId("binance", first, "1h")).height == 3
        assert [str(kept.series) for kept in store.series()] == [f"binance {first} 1h"]
        assert store.quarantine(SeriesId("binance", first, "1h")) == []
    assert chandlery("show", second).code == 2


@pytest.mark.parametrize("first", ["A_B/C", "A/B_C"])
def test_an_adopted_series_is_whose_it_is_claimed_to_be(influx: Bucket, first: str) -> None:
    """Rows tagged A_B_C are listed as A_B/C; once one of the two symbols has been written, the other is refused."""
    second = "A/B_C" if first == "A_B/C" else "A_B/C"
    original_writes(influx, "A_B_C", ROWS)
    assert [s["symbol"] for s in chandlery("list", "--json").json["series"]] == ["A_B/C"]
    with open_store(influx.url) as store:
        store.write([_page(first)])
        with pytest.raises(UsageError, match=first):
            store.write([_page(second)])
    assert [s["symbol"] for s in chandlery("list", "--json").json["series"]] == [first]


def _page(symbol: str) -> Page:
    frame = pl.DataFrame(ROWS, orient="row", schema=list(SCHEMA)).cast(dict(SCHEMA))
    span = TimeRange(ROWS[0][0], ROWS[-1][0] + HOUR)
    return Page(CandlePage(SeriesId("binance", symbol, "1h"), span, frame, "test", NOW))


# -- what other programs wrote there ---------------------------------------------------------------------------------


def test_rows_of_other_programs_break_nothing_and_are_told(
    influx: Bucket, exchange: LocalExchange, seed: int
) -> None:
    """Rows with another tag, other fields, some of the five or times between milliseconds are no candles: they are not
    counted, not shown, not deleted, and what of a series is broken is told by verify.
    """
    there, _ = filled_by_the_original(influx, exchange, seed)
    key = "ohlcv,symbol=BTC_USDT,timeframe=1h,exchange=binance"
    whole = "open=1,high=1,low=1,close=1,volume=1"
    inside = there[0][0] + 50 * HOUR  # one of the holes
    lines = [
        f"{key},market=spot {whole} {inside}000000",
        f"{key} vwap=3.5,trades=7i {there[5][0]}000000",  # extra fields of a whole candle
        f"{key} open=1,close=2 {inside}000000",  # less than a candle
        f"{key} {whole} {inside}000001",
        f"ohlcv,symbol=ETH_USDT,timeframe=soon,exchange=binance {whole} {inside}000000",
        f"ohlcv,symbol=ETH_USDT {whole} {inside}000000",
        f'ohlcv,symbol=ETH_USDT,timeframe=1h,exchange=binance note="hello" {inside}000000',
        f"trades,symbol=BTC_USDT price=1 {inside}000000",
    ]
    for line in lines:
        answer = influx.server.write(line, influx.name, precision="ns")
        assert answer.status == 204, answer.text

    listed = chandlery("list", "--json")
    assert [(s["symbol"], s["candles"]) for s in listed.json["series"]] == [("BTC/USDT", len(there))]
    assert "warning: ohlcv holds series with other tags than exchange, symbol, timeframe" in listed.err
    assert pl.read_csv(chandlery("export", "BTC/USDT").out.encode()).rows() == there
    verified = chandlery("verify")
    assert verified.code == 1
    assert "row has not all five fields in binance BTC/USDT 1h" in verified.err
    fetched = chandlery("fetch", "BTC/USDT")
    assert fetched.code == 0, fetched.err
    should = truth(exchange, "BTC/USDT", BEGAN, NOW - HOUR)
    assert pl.read_csv(chandlery("export", "BTC/USDT").out.encode()).rows() == should
    assert influx.server.count("ohlcv", influx.name, field="trades") == 1
    assert influx.server.count("trades", influx.name, field="price") == 1


def test_what_another_program_spoiled_is_repaired_or_told(
    influx: Bucket, exchange: LocalExchange, seed: int
) -> None:
    """Rows whose values no candle has, and rows with too few fields, are fetched anew by --repair, and nothing around
    them; rows between candles are told with what to do, and once they are deleted all is well.
    """
    assert chandlery("fetch", "BTC/USDT", "--since", BEGAN, "--until", STOPPED).code == 0
    before = chandlery("export", "BTC/USDT").out
    first = int(before.splitlines()[1].partition(",")[0])
    key = "ohlcv,symbol=BTC_USDT,timeframe=1h,exchange=binance"
    between = first + 7 * HOUR + 1
    lines = [
        f"{key} low=9e9 {first + 3 * HOUR}",  # spoils a candle
        f"{key} high=-1 {first + 4 * HOUR}",
        f"{key} open=1,high=1,low=1,close=1,volume=1 {between}",
        f"{key} open=1 {between + 1}",
        f"{key} open=1 {first - 100 * DAY}",  # nobody asked for that
    ]
    for line in lines:
        assert influx.server.write(line, influx.name).status == 204
    verified = chandlery("verify")
    assert verified.code == 1
    assert " invalid" in verified.out
    assert "2 rows lie between the candles of binance BTC/USDT 1h" in verified.err
    assert "influx delete" in verified.err

    repaired = chandlery("verify", "--repair")
    assert repaired.code == 1
    assert "repair brought 2 candles" in repaired.err
    with open_store(influx.url) as store:
        opens = [r.open for r in store.revisions(SeriesId("binance", "BTC/USDT", "1h"))]
    assert opens == [first + 3 * HOUR, first + 4 * HOUR]
    where = f"/api/v2/delete?org={influx.server.org}&bucket={influx.name}"
    text = datetime.fromtimestamp(between / 1000, UTC).isoformat(timespec="milliseconds")[:-6]
    body = f'{{"start":"{text}Z","stop":"{text[:-1]}9Z","predicate":"_measurement=\\"ohlcv\\""}}'
    assert influx.server.ask("POST", where, body.encode()).status == 204
    done = chandlery("verify", "--repair")
    assert done.code == 0, done.err
    assert "lie between" not in done.err
    assert chandlery("verify").code == 0
    assert chandlery("export", "BTC/USDT").out == before


def test_a_series_that_cannot_be_removed_keeps_its_ledger(influx: Bucket) -> None:
    """Where rows with a further tag would be deleted too, `remove` ends with 4 before anything is changed."""
    assert chandlery("fetch", "BTC/USDT", "--since", BEGAN, "--until", STOPPED).code == 0
    before = chandlery("list", "--json").out, chandlery("verify", "--json").out
    odd = f"ohlcv,symbol=BTC_USDT,timeframe=1h,exchange=binance,market=spot close=1 {BEGAN}"
    assert influx.server.write(odd, influx.name).status == 204

    removed = chandlery("remove", "BTC/USDT", "--yes")
    assert removed.code == 4
    assert "with other tags too" in removed.err
    assert (chandlery("list", "--json").out, chandlery("verify", "--json").out) == before
