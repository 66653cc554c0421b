"""Names that try to be more than names: no symbol, exchange, timeframe or bucket reads, writes or deletes what it is not."""

from __future__ import annotations

import polars as pl
import pytest

from chandlery.candle import SCHEMA, CandlePage, SeriesId
from chandlery.errors import DataPipelineError, UsageError
from chandlery.exchange import ExchangeSettings, LocalExchange
from chandlery.exchange.symbols import GENERATED, Listing
from chandlery.stores import open_store
from chandlery.stores.base import Page, Store
from chandlery.timeframe import HOUR
from chandlery.timerange import TimeRange

from .commands import CLOCK, chandlery
from .fixtures import Bucket

START = 1_717_113_600_000
HOSTILE = [
    'X"); drop(columns: ["_value"]); from(bucket: "b',
    'X") |> drop() //',
    "X' OR 1=1 --",
    "X' OR ''='",
    'X" OR "symbol" = "BTC_USDT',
    "X'; DROP MEASUREMENT ohlcv; SELECT * FROM ohlcv WHERE symbol = '",
    'X" OR _measurement="ohlcv" OR symbol="',
    "X,symbol=BTC_USDT",
    "X open=1,high=1,low=1,close=1,volume=1 1717200000000\nohlcv,symbol=BTC_USDT",
    "X\\",
    "X\\' OR 1=1",
    'X\\" OR 1=1',
    "X=Y Z",
    "${X}",
    "/.*/",
    "Ж漢🕯\u202e\u0301",
    "X\u0000Y",
    "X\tY",
    "BTC/USDT'/**/OR/**/'1'='1",
    "*",
    " BTC/USDT",
    "BTC/USDT ",
]
DECOY = SeriesId("binance", "BTC/USDT", "1h")


@pytest.fixture
def influx(influx: Bucket, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """The bucket is the store of every command."""
    monkeypatch.setenv("CHANDLERY_STORE", "influxdb")
    return influx


def page(series: SeriesId, start: float = 1.0) -> Page:
    """Five hours whose prices say whose they are."""
    rows = [(START + n * HOUR, start, start + 1, start / 2, start + 0.5, float(n)) for n in range(5)]
    frame = pl.DataFrame(rows, orient="row", schema=list(SCHEMA)).cast(dict(SCHEMA))
    return Page(CandlePage(series, TimeRange(START, START + 5 * HOUR), frame, "test", START + 9 * HOUR))


def taken(store: Store, series: SeriesId, start: float) -> bool:
    """Whether the store takes a series and gives it back; one that it refuses is refused by name."""
    try:
        store.write([page(series, start)])
    except UsageError:
        return False
    assert store.read(series)["open"].to_list() == [start] * 5
    return True


def test_hostile_symbols_and_exchanges_are_kept_apart_or_refused(influx: Bucket) -> None:
    """Each hostile symbol or exchange name reads back its own candles or is refused; taking one out takes nothing else."""
    with open_store(influx.url) as store:
        assert taken(store, DECOY, 77.0)
        named = [SeriesId("binance", name, "1h") for name in HOSTILE if name.strip() != DECOY.symbol]
        named += [SeriesId(name, "ETH/USDT", "1h") for name in HOSTILE]
        kept = [series for n, series in enumerate(named) if taken(store, series, 100.0 + n)]
        assert len(kept) > 20
        assert {s.series for s in store.series()} == {DECOY, *kept}
        assert [s.candles for s in store.series()] == [5] * (len(kept) + 1)
        for number, series in enumerate(kept):
            assert store.opens(series).tolist() == [START + n * HOUR for n in range(5)]
            assert store.check(series) == []
            assert store.remove(series) == 5
            assert influx.server.count(bucket=influx.name) == 5 * (len(kept) - number)
        assert store.read(DECOY)["open"].to_list() == [77.0] * 5


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_words_on_the_command_line_do_nothing(name: str, influx: Bucket) -> None:
    """As symbol, exchange or timeframe of any command it is unknown or refused: exit code 2, nothing shown, nothing changed."""
    with open_store(influx.url) as store:
        store.write([page(DECOY)])
    written = {
        m: influx.server.count(m, influx.name, field=f)
        for m, f in (("ohlcv", "close"), ("chandlery_ledger", "n"))
    }
    commands = [
        *(("-e", name, *words) for words in (("list",), ("show", "BTC/USDT"), ("fetch", "BTC/USDT"))),
        *(
            (*words, name)
            for words in (("show",), ("latest",), ("verify",), ("remove", "--yes"), ("export",), ("fetch",))
        ),
        *(
            (*words, "-t", name)
            for words in (("show", "BTC/USDT"), ("remove", "BTC/USDT", "--yes"), ("verify",))
        ),
    ]
    for words in commands:
        ordered = (*words[2:3], *words[:2], *words[3:]) if words[0] == "-e" else words
        if name == "*" and ordered[-1] == "*" and "-t" not in ordered:
            continue  # a pattern, which means all series and all markets
        done = chandlery(*ordered)
        assert done.code == 2, (ordered, done.out, done.err)
        assert done.out == ""
        assert "Traceback" not in done.err
        assert done.err.count("error: ") == 1
    assert written == {
        m: influx.server.count(m, influx.name, field=f)
        for m, f in (("ohlcv", "close"), ("chandlery_ledger", "n"))
    }


@pytest.mark.parametrize("name", ["b'1' OR 1=1", "b\\", "b 1,x=y", "Ж漢🕯", "b) |> drop() //", "b%2F1", "b/1"])
def test_a_bucket_may_have_any_name(name: str, influx: Bucket) -> None:
    """A bucket with quotes (double ones it cannot have), spaces, slashes or letters of any script is written, read and named in the store URL."""
    influx.server.new_bucket(name)
    url = influx.server.store_url(name)
    assert chandlery("fetch", "BTC/USDT", "--since", "2024-05-31", "--store", url).code == 0
    listed = chandlery("list", "--json", "--store", url)
    assert listed.json["store"] == url
    assert listed.json["series"][0]["candles"] == 24
    assert chandlery("verify", "--store", url).code == 0
    assert chandlery("remove", "BTC/USDT", "--yes", "--store", url).code == 0
    assert chandlery("list", "--store", url).code == 2
    assert influx.server.count(bucket=influx.name) == 0
    influx.server.delete_bucket(name)


#: What the assets of an exchange are called. Its own ids of the pairs are harmless, as an exchange would see to.
BASES = ['Q")|>drop()//', "Q' OR 1=1", "Q\\", "Q,symbol=BTC_USDT", "Q R=1", "Q\nR", "Ж漢"]


class Odd(Listing):
    """A pair whose assets have hostile names."""

    @property
    def id(self) -> str:
        """The exchange's own name, such as Q3USDT."""
        return f"Q{BASES.index(self.base)}{self.quote}"


def test_an_exchange_with_hostile_market_names(influx: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an exchange calls its markets is a name and nothing else: each is stored under it or refused, the others whole."""
    model = GENERATED[0]
    hostile = tuple(Odd(base, "USDT", 2, 5, model.listed, price=9.0, volume=3.0) for base in BASES)
    monkeypatch.setattr("chandlery.exchange.shapes.binance.BinanceSpot.pairs", (model, *hostile))
    with LocalExchange(ExchangeSettings(clock=f"{CLOCK},0")) as odd:
        monkeypatch.setenv("EXCHANGE_URL", odd.url)
        offered = {m["symbol"] for m in chandlery("markets", "--json").json["markets"]}
        fetched = chandlery("fetch", "*", "--since", "2024-05-31", "--json")
    found = {s["symbol"]: s for s in fetched.json["series"]}
    assert set(found) == offered
    assert len(offered) == len(BASES) + 1
    assert found["BTC/USDT"]["error"] is None
    refused = {symbol for symbol, one in found.items() if one["error"]}
    assert all(found[symbol]["error"]["hint"] for symbol in refused), [found[s]["error"] for s in refused]
    assert len(refused) <= 2
    kept = {s["symbol"]: s["candles"] for s in chandlery("list", "--json").json["series"]}
    assert kept == dict.fromkeys(offered - refused, 24)
    assert chandlery("verify").code == 0
    assert influx.server.count(bucket=influx.name) == 24 * len(kept)


def test_errors_of_hostile_names_are_errors_of_ours(influx: Bucket) -> None:
    """Reading any hostile series raises an error of chandlery's tree, never one of the server's language."""
    with open_store(influx.url) as store:
        for name in HOSTILE:
            for series in (SeriesId("binance", name, "1h"), SeriesId(name, "BTC/USDT", "1h")):
                with pytest.raises(DataPipelineError) as caught:
                    store.read(series)
                assert "parse" not in str(caught.value)
