"""What exchanges send, served back over HTTP to the real ccxt classes: our source keeps ccxt's rows, to the bit.

The answers are made here in the layouts of 20 exchanges. With CHANDLERY_RECORDED=FOLDER the same test also runs on the
90 recorded answers of 64 exchanges in `exchange_responses.json.gz` of that folder.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from chandlery.errors import (
    BadAnswer,
    ExchangeError,
    ExchangeRefused,
    ExchangeUnavailable,
    RateLimited,
    UnknownExchange,
    UnknownSymbol,
)
from chandlery.sources.asking import Rows, open_at
from chandlery.sources.ccxt_client import exchange_ids
from chandlery.validate import OFF_GRID

from .answers import Answer, Candle, plain_rows, recorded, serving, source_rows
from .made import layouts, spoilt

#: Recorded answers with rows that may not be kept: how many, and for which reason.
REFUSED = {
    "89-zebpay": (4, OFF_GRID),  # asked for 1h; the rows are minutes, and only the first opens on an hour
}
#: Recorded answers that give no rows: what our source says, and whether it asks again.
NOTHING: dict[str, tuple[type[ExchangeError], bool]] = {
    "20-bithumb": (
        BadAnswer,
        True,
    ),  # the installed class reads the newer API, whose answers are lists of objects
    # ccxt asks these two with a key and an account, and chandlery sends none unless it is told to
    "69-modetrade": (ExchangeRefused, False),
    "88-woofipro": (ExchangeRefused, False),
    # ccxt takes the end of its candles for their open time
    "71-ndax": (ExchangeRefused, False),
}

FOLDER = os.environ.get("CHANDLERY_RECORDED")
RECORDED = recorded(Path(FOLDER)) if FOLDER else []
MADE = [answer.name for answer in layouts(0)]
WRONG = [answer.name for answer in spoilt(0)]


def bits(rows: Sequence[Sequence[float | None]]) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    """Rows of doubles as their bits, so that -0.0 is not 0.0 and the last digit counts."""
    return np.array(rows, dtype=np.float64).reshape(-1, 6).view(np.int64)


def kept(rows: Rows) -> list[Candle]:
    """The good rows as ccxt would give them."""
    frame = rows.good
    return [[open_at(frame, n), *values] for n, (_, *values) in enumerate(frame.iter_rows())]


def ask(answer: Answer, state: Path) -> Rows:
    """One request of our source to an exchange that has this answer."""

    async def main() -> Rows:
        async with serving(answer) as url:
            return await source_rows(answer, url, state)

    return asyncio.run(main())


def check(answer: Answer, state: Path) -> None:
    """Our source keeps ccxt's rows to the bit, in order, and refuses just those that it should."""
    ours = ask(answer, state)
    refused = sorted((row.open or 0, row.reason) for row in (*ours.rejected, *ours.tail))
    assert refused == sorted((opened or 0, reason) for opened, reason in answer.refused)
    bad = {opened for opened, _ in refused}
    plain = [row for row in asyncio.run(plain_rows(answer)) if row[0] not in bad]
    assert np.array_equal(bits(kept(ours)), bits(plain))
    known = [row for row in answer.candles if row[0] not in bad]
    found = kept(ours) if answer.whole else [row for row in kept(ours) if row[0] in {r[0] for r in known}]
    assert np.array_equal(bits(found), bits(known))


@pytest.mark.parametrize("name", WRONG)
def test_wrong_row(name: str, seed: int, tmp_path: Path) -> None:
    """A row that can be no candle is refused with the reason, in every layout, and all others are kept."""
    check(next(answer for answer in spoilt(seed) if answer.name == name), tmp_path)


@pytest.mark.parametrize("name", [*MADE, *(answer.name for answer in RECORDED)])
def test_answer(name: str, seed: int, tmp_path: Path) -> None:
    """An answer comes out as ccxt's own rows, and as the candles put in where it is made; or is refused for a listed reason."""
    answer = next(answer for answer in (*layouts(seed), *RECORDED) if answer.name == name)
    if answer.exchange not in exchange_ids():
        with pytest.raises(UnknownExchange):
            ask(answer, tmp_path)
        return
    if answer.name in NOTHING:
        error, again = NOTHING[answer.name]
        with pytest.raises(error) as caught:
            ask(answer, tmp_path)
        assert caught.value.retryable is again
        return
    if answer.name in REFUSED:
        count, reason = REFUSED[answer.name]
        length = answer.series.frame.nominal_ms
        times = [int(row[0]) for row in answer.candles if row[0] % length]
        assert (len(times), reason) == (count, OFF_GRID)
        answer = replace(answer, refused=[(moment, reason) for moment in times])
    check(answer, tmp_path)


def test_recorded_answers_are_all_there() -> None:
    """The recorded file, where it is given, has 90 answers of 64 exchanges, and all but a few are still readable."""
    if not FOLDER:
        assert RECORDED == []
        return
    exchanges = Counter(answer.exchange for answer in RECORDED)
    assert (len(RECORDED), len(exchanges)) == (90, 64)
    readable = [a for a in RECORDED if a.exchange in exchange_ids() and a.name not in NOTHING]
    assert len(readable) >= 80


_ERRORS: Sequence[tuple[str, int, object, type[ExchangeError]]] = (
    ("binance", 400, {"code": -1121, "msg": "Invalid symbol."}, UnknownSymbol),
    ("binance", 429, {"code": -1003, "msg": "Too much request weight used."}, RateLimited),
    ("binance", 418, {"code": -1003, "msg": "Way too much request weight used; IP banned."}, RateLimited),
    ("binance", 500, {"code": -1001, "msg": "Internal error."}, ExchangeUnavailable),
    ("bybit", 200, {"retCode": 10001, "retMsg": "Not supported symbols", "result": {}}, UnknownSymbol),
    (
        "bybit",
        200,
        {"retCode": 10001, "retMsg": "params error: Interval Invalid", "result": {}},
        ExchangeRefused,
    ),
    ("bybit", 200, {"retCode": 10006, "retMsg": "Too many visits!", "result": {}}, RateLimited),
    ("okx", 200, {"code": "51001", "msg": "Instrument ID doesn't exist", "data": []}, UnknownSymbol),
    ("okx", 429, {"code": "50011", "msg": "Too Many Requests", "data": []}, RateLimited),
    (
        "okx",
        200,
        {"code": "50001", "msg": "Service temporarily unavailable", "data": []},
        ExchangeUnavailable,
    ),
    ("kraken", 200, {"error": ["EQuery:Unknown asset pair"]}, UnknownSymbol),
    ("kraken", 200, {"error": ["EGeneral:Too many requests"]}, RateLimited),
    ("kraken", 200, {"error": ["EService:Unavailable"]}, ExchangeUnavailable),
    ("coinbase", 429, {"error": "rate_limit_exceeded", "message": "Rate limit exceeded"}, RateLimited),
    ("kucoin", 429, {"code": "429000", "msg": "Too Many Requests"}, RateLimited),
    ("mexc", 429, {"code": 429, "msg": "Too Many Requests"}, RateLimited),
    ("mexc", 400, {"code": -1121, "msg": "Invalid symbol."}, UnknownSymbol),
    ("bitget", 429, {"code": "429", "msg": "Too Many Requests"}, RateLimited),
    ("gate", 429, {"label": "TOO_MANY_REQUESTS", "message": "Request Rate limit Exceeded"}, RateLimited),
    ("gate", 400, {"label": "INVALID_CURRENCY_PAIR", "message": "unknown pair"}, UnknownSymbol),
    ("bitstamp", 502, "<html>Bad gateway</html>", ExchangeUnavailable),
    ("okx", 200, "<html>Just a moment</html>", BadAnswer),
    ("bybit", 200, '{"retCode":0,"retMsg":"OK","result":{"list":[["17000028', BadAnswer),
    ("kucoin", 200, "", BadAnswer),
    ("binance", 200, '"a text"', BadAnswer),
)


@pytest.mark.parametrize(("exchange", "status", "body", "ours"), _ERRORS)
def test_error_answer(
    exchange: str, status: int, body: object, ours: type[ExchangeError], tmp_path: Path
) -> None:
    """An answer that is an error, in the exchange's own words, says whether asking again can help, and is no candle."""
    answer = Answer("error", exchange, "BTC/USDT", "1h", body, [], status=status)
    with pytest.raises(ExchangeError) as caught:
        ask(answer, tmp_path)
    assert type(caught.value) is ours, caught.value
    assert caught.value.retryable is (ours in (RateLimited, ExchangeUnavailable, BadAnswer))


@pytest.mark.parametrize("exchange", ["binance", "gate"])
def test_object_where_a_list_belongs(exchange: str, tmp_path: Path) -> None:
    """Some classes take the values of any object for rows: none of them is kept, and each is named."""
    rows = ask(Answer("error", exchange, "BTC/USDT", "1h", {"detail": "no list"}, []), tmp_path)
    assert not len(rows.good)
    assert [row.raw for row in (*rows.rejected, *rows.tail)] == ['"no list"']
