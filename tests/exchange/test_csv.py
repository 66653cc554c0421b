"""Candles from CSV files: served to the last bit, refused where they are not candles."""

from __future__ import annotations

import gzip
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chandlery.errors import UsageError
from chandlery.exchange import ExchangeSettings, LocalExchange

HOUR, DAY = 3_600_000, 86_400_000
START = 1_704_067_200_000  # 2024-01-01, a Monday
HEADER = "timestamp_ms,open,high,low,close,volume\n"

Http = Callable[..., Any]


def _rows(
    times: list[int], seed: int, decimals: int = 2
) -> list[tuple[int, float, float, float, float, float]]:
    draw = random.Random(seed)
    rows = []
    for time in times:
        four = sorted(round(draw.uniform(10, 90_000), decimals) for _ in range(4))
        low, a, b, high = four
        rows.append((time, a, high, low, b, round(draw.uniform(0, 5000), 6)))
    return rows


def _write(path: Path, rows: list[tuple[Any, ...]], header: str = HEADER) -> None:
    text = header + "".join(",".join(str(v) for v in row) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


def _served(exchange: LocalExchange, http: Http, interval: str) -> list[list[float]]:
    rows: list[list[Any]] = []
    while True:
        start = rows[-1][0] + 1 if rows else 0
        query = {"symbol": "BTCUSDT", "interval": interval, "startTime": start, "limit": 1000}
        page = http(exchange.url, "/api/v3/klines", query).json
        rows += page
        if len(page) < 1000:
            return [[r[0], *(float(v) for v in r[1:6])] for r in rows]


@pytest.mark.parametrize("suffix", ["csv", "csv.gz"])
def test_served_doubles_are_the_files(tmp_path: Path, http: Http, suffix: str) -> None:
    """Every time and double of a file with holes comes back exactly, by default a minute after its end."""
    times = [START + n * HOUR for n in range(3000) if not 100 <= n < 133 and n % 97]
    rows = _rows(times, seed=5)
    _write(tmp_path / f"binance_BTC_USDT_1h.{suffix}", rows)

    with LocalExchange(ExchangeSettings(csv=tmp_path, weight_limit=0)) as exchange:
        assert times[-1] + HOUR + 60_000 <= exchange.now_ms() < times[-1] + HOUR + 120_000
        assert _served(exchange, http, "1h") == [list(row) for row in rows]
        truth = exchange.truth("BTC/USDT", "1h", 0, exchange.now_ms())
        assert truth["close"].to_list() == [row[4] for row in rows]


@pytest.mark.parametrize("ugly", [1e-12, 0.1 + 0.2, 123456.78901234567, 1e17, 5e-324])
def test_any_double_survives(tmp_path: Path, http: Http, ugly: float) -> None:
    """Numbers of no common decimal step are served in their shortest digits, without exponents."""
    rows = [(START, ugly, ugly, ugly, ugly, ugly), (START + HOUR, 1.5, 2.5, 0.5, 1.0, 0.0)]
    _write(tmp_path / "binance_BTC_USDT_1h.csv", rows)

    with LocalExchange(ExchangeSettings(csv=tmp_path, clock="2024-01-01T01:30Z,0")) as exchange:
        query = {"symbol": "BTCUSDT", "interval": "1h"}
        answer = http(exchange.url, "/api/v3/klines", query).json

    assert [float(v) for v in answer[0][1:6]] == [ugly] * 5
    assert all("e" not in v for v in answer[0][1:6])
    assert answer[1][0] == START + HOUR
    assert float(answer[1][4]) == 1.25


def test_timeframes_not_given_are_made_of_the_shortest(tmp_path: Path, http: Http) -> None:
    """With 1h and 1d files, 4h and 1w are sums of the hours, 1d is the file's, and 1m is not there."""
    hours = _rows([START + n * HOUR for n in range(24 * 21)], seed=6)
    days = _rows([START + n * DAY for n in range(21)], seed=7)
    _write(tmp_path / "binance_BTC_USDT_1h.csv", hours)
    _write(tmp_path / "binance_BTC_USDT_1d.csv", days)

    with LocalExchange(ExchangeSettings(csv=tmp_path)) as exchange:
        assert _served(exchange, http, "1d") == [list(row) for row in days]
        weeks = _served(exchange, http, "1w")
        quarters = _served(exchange, http, "4h")
        minute = http(exchange.url, "/api/v3/klines", {"symbol": "BTCUSDT", "interval": "1m"})

    for served, size in ((weeks, 24 * 7), (quarters, 4)):
        groups = [hours[n : n + size] for n in range(0, len(hours), size)]
        assert [row[:5] for row in served] == [
            [g[0][0], g[0][1], max(r[2] for r in g), min(r[3] for r in g), g[-1][4]] for g in groups
        ]
        sums = [sum(round(r[5] * 10**6) for r in g) / 10**6 for g in groups]
        assert [row[5] for row in served] == sums
    assert minute.json["code"] == -1120


def test_eight_hours_do_not_make_twelve(tmp_path: Path, http: Http) -> None:
    """A timeframe that the shortest one does not fill without a remainder is not offered."""
    _write(tmp_path / "binance_BTC_USDT_8h.csv", _rows([START + n * 8 * HOUR for n in range(6)], seed=8))

    with LocalExchange(ExchangeSettings(csv=tmp_path)) as exchange:
        codes = {
            tf: http(exchange.url, "/api/v3/klines", {"symbol": "BTCUSDT", "interval": tf}).status
            for tf in ("8h", "12h", "1d", "1w", "1M")
        }

    assert codes == {"8h": 200, "12h": 400, "1d": 200, "1w": 200, "1M": 200}


def test_markets_are_the_files(tmp_path: Path, http: Http) -> None:
    """Pairs, ticks and lots come from the files; files of other exchanges are left alone."""
    _write(tmp_path / "binance_BTC_USDT_1h.csv", _rows([START], seed=1))
    _write(tmp_path / "binance_eth_btc_1h.csv", [(START, 0.05123, 0.05123, 0.05123, 0.05123, 7)])
    _write(tmp_path / "kraken_XRP_USD_1h.csv", _rows([START], seed=1))

    with LocalExchange(ExchangeSettings(csv=tmp_path)) as exchange:
        symbols = {s["symbol"]: s for s in http(exchange.url, "/api/v3/exchangeInfo", {}).json["symbols"]}
        assert exchange.symbols == ["BTC/USDT", "ETH/BTC"]

    ticks = {name: s["filters"][0]["tickSize"] for name, s in symbols.items()}
    assert ticks == {"BTCUSDT": "0.01000000", "ETHBTC": "0.00001000"}


GOOD = f"{START},1,2,0.5,1.5,3\n"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("timestamp_ms,open,high,low,close\n1,2,3,4,5\n", "line 1: no column 'volume'"),
        ("open,high,low,close,volume\n1,2,3,4,5\n", "line 1: no column 'timestamp_ms'"),
        (HEADER, "no candles in it"),
        ("", "cannot be read as CSV"),
        (HEADER + GOOD + GOOD, f"line 3: the time {START} stands there twice"),
        (
            HEADER + GOOD + f"{START - HOUR},1,2,0.5,1.5,3\n",
            f"line 3: the time {START - HOUR} comes after {START}",
        ),
        (HEADER + GOOD + f"{START + HOUR},1,x,0.5,1.5,3\n", "line 3: high is 'x', which is not a number"),
        (HEADER + GOOD + f"{START + HOUR},1,nan,0.5,1.5,3\n", "line 3: high is 'nan', which is not a number"),
        (HEADER + GOOD + f"{START + HOUR},1,,0.5,1.5,3\n", "line 3: high is None, which is not a number"),
        (HEADER + f"{START}.5,1,2,0.5,1.5,3\n", "line 2: timestamp_ms is"),
        (HEADER + f"{START + 1},1,2,0.5,1.5,3\n", f"line 2: no 1h candle opens at {START + 1}"),
        (HEADER + f"{START // 1000},1,2,0.5,1.5,3\n", "line 2: no 1h candle opens at"),
        (HEADER + f"{START},1,2,1.2,1.5,3\n", "line 2: these cannot be one candle"),
        (HEADER + f"{START},1,2,0.5,1.5,-3\n", "line 2: these cannot be one candle"),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, text: str, complaint: str) -> None:
    """A bad file is refused before the start, with its name, the line, what is wrong there, and what to do."""
    path = tmp_path / "binance_BTC_USDT_1h.csv"
    path.write_text(text)

    with pytest.raises(UsageError) as caught:
        LocalExchange(ExchangeSettings(csv=tmp_path))

    assert str(path) in caught.value.message
    assert complaint in caught.value.message
    assert caught.value.hint


def test_bad_folders_are_refused(tmp_path: Path) -> None:
    """A folder that is not there, is empty, or holds strange or clashing names is refused with the name."""
    cases: dict[str, list[str]] = {
        "no candle files of binance": [],
        "not a name of a candle file": ["prices.csv"],
        "no timeframe '7m'": ["binance_BTC_USDT_7m.csv"],
        "both called ABC": ["binance_AB_C_1h.csv", "binance_A_BC_1h.csv"],
        "there twice": ["binance_BTC_USDT_1h.csv", "binance_BTC_USDT_1h.csv.gz"],
    }
    for number, (complaint, names) in enumerate(cases.items()):
        folder = tmp_path / str(number)
        folder.mkdir()
        for name in names:
            _write(folder / name, [(START, 1, 1, 1, 1, 1)])
        with pytest.raises(UsageError, match=complaint):
            LocalExchange(ExchangeSettings(csv=folder))
    with pytest.raises(UsageError, match="not a folder"):
        LocalExchange(ExchangeSettings(csv=tmp_path / "nowhere"))
