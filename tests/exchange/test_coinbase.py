"""What is special about Coinbase's API, as a bare client and the real ccxt class see it."""

from __future__ import annotations

from typing import Any

import ccxt.async_support as ccxt

from chandlery.exchange.outages import outages
from chandlery.exchange.shapes import shape_of

MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
MIDNIGHT = 1_717_200_000_000  # 2024-06-01


def _coinbase(several: Any, **query: Any) -> Any:
    product = query.pop("product", "BTC-USDT")
    path = f"/api/v3/brokerage/market/products/{product}/candles"
    return several.get("coinbase", path, **{"granularity": "ONE_MINUTE", **query})


def test_coinbase_windows(several: Any) -> None:
    """Rows descend, `start` and `end` are included and both wanted, more than 300 intervals between them are refused."""
    end = MIDNIGHT // 1000 - 3600
    start = end - 300 * 60

    def rows(**query: Any) -> list[int]:
        return [int(row["start"]) for row in _coinbase(several, **query).json["candles"]]

    assert rows(start=start, end=end) == list(range(end, start - 1, -60))
    assert rows(start=start + 1, end=end - 1) == list(range(end - 60, start, -60))
    assert rows(start=start, end=end, limit=2) == [end, end - 60]
    for query, word in (
        ({"start": start - 1, "end": end}, "less than 300"),
        ({"start": start}, "start and end"),
        ({"end": end}, "start and end"),
        ({"start": end, "end": start}, "start and end"),
        ({"start": start, "end": end, "granularity": "FOUR_HOUR"}, "granularity"),
        ({"start": start, "end": end, "product": "BTC-NOPE"}, "ProductID"),
        ({"start": start, "end": end, "product": "BCC-USDT"}, "ProductID"),
    ):
        answer = _coinbase(several, **query)
        assert (answer.status, answer.json["error"]) == (400, "INVALID_ARGUMENT")
        assert word in answer.json["message"]


def test_coinbase_leaves_out_what_saw_no_trade(several: Any) -> None:
    """Minutes without a trade have no row, for the real class too, and a window without any is an empty list."""
    since = MIDNIGHT - 300 * MINUTE

    page = several.talk("coinbase", lambda c: c.fetch_ohlcv("ZEC/BNB", "1m", since=since, limit=299))

    truth = several.truth("coinbase", "ZEC/BNB", "1m", since, since + 300 * MINUTE)
    assert 60 < len(truth) < 150
    assert page == truth
    assert all(row[5] > 0 for row in page)
    outage = outages(MIDNIGHT - 100 * DAY, MIDNIGHT)[-1]
    window = {"start": outage.since // 1000, "end": outage.until // 1000 - 60}
    assert _coinbase(several, **window).json == {"candles": []}


def test_coinbase_products(several: Any) -> None:
    """One product or some of them by name, none that is delisted, no futures; the timeframes are those of ccxt's class."""
    products = "/api/v3/brokerage/market/products"
    one = several.get("coinbase", f"{products}/ETH-BTC").json
    some = several.get("coinbase", products, product_ids="ETH-BTC,BCC-USDT,NOPE").json
    gone = several.get("coinbase", f"{products}/BCC-USDT")
    futures = several.get("coinbase", products, product_type="FUTURE").json

    assert some == {"products": [one], "num_products": 1}
    assert (one["product_id"], one["price_increment"]) == ("ETH-BTC", "0.00001")
    assert (gone.status, gone.json["error"]) == (404, "NOT_FOUND")
    assert futures == {"products": [], "num_products": 0}
    assert set(ccxt.coinbase().timeframes) == set(shape_of("coinbase").timeframes())
    now = several.get("coinbase", "/api/v3/brokerage/time").json
    assert now["epochMillis"] == str(several.clock.now)
