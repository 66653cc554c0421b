"""Every scripted fault, as a bare client sees it."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.client import RemoteDisconnected
from typing import Any

import pytest

from chandlery.exchange import KINDS, Fault, Faults, LocalExchange
from chandlery.exchange.faults import MIXED, Asked, FaultPlayer

MINUTE = 60_000
START = 1_717_200_000_000 - 5000 * MINUTE

Ask = Callable[..., Any]


def _one(exchange: LocalExchange, kind: str, **settings: Any) -> None:
    """Let the next request only go wrong."""
    exchange.faults = Faults((Fault(kind, requests=(1,), **settings),), seed=7)


@pytest.fixture
def good(exchange: LocalExchange, ask: Ask) -> Iterator[list[list[Any]]]:
    """The page that the faults spoil; after the test it is whole again."""
    rows = _page(ask).json
    yield rows
    exchange.faults = Faults()
    assert _page(ask).json == rows


def _page(ask: Ask) -> Any:
    return ask(startTime=START, limit=50)


def test_latency(exchange: LocalExchange, ask: Ask, good: Any) -> None:
    """latency: the answer is right and comes late."""
    _one(exchange, "latency", ms=150)
    begun = time.monotonic()

    assert _page(ask).json == good
    assert time.monotonic() - begun >= 0.15


@pytest.mark.parametrize("status", [429, 418])
def test_refusals(exchange: LocalExchange, ask: Ask, good: Any, status: int) -> None:
    """429 and 418: Binance's -1003 with Retry-After; 418 names the end of the ban."""
    _one(exchange, str(status), retry_after=3)

    answer = _page(ask)

    assert (answer.status, answer.json["code"], answer.headers["retry-after"]) == (status, -1003, "3")
    assert ("banned until 1717200033000." in answer.json["msg"]) == (status == 418)
    assert exchange.requests[-1].fault == str(status)


def test_server_errors(exchange: LocalExchange, ask: Ask, good: Any) -> None:
    """5xx: the given status; 500 in JSON, gateways in HTML."""
    _one(exchange, "5xx", status=500)
    internal = _page(ask)
    _one(exchange, "5xx")
    gateway = _page(ask)

    assert (internal.status, internal.json["code"]) == (500, -1001)
    assert (gateway.status, gateway.body[:15]) == (503, b"<!DOCTYPE html>")


def test_reset(exchange: LocalExchange, ask: Ask, good: Any) -> None:
    """reset: the TCP connection breaks off without an answer."""
    _one(exchange, "reset")

    with pytest.raises((ConnectionResetError, RemoteDisconnected)):
        _page(ask)
    assert (exchange.requests[-1].status, exchange.requests[-1].fault) == (0, "reset")


def test_hang(exchange: LocalExchange, http: Ask, good: Any) -> None:
    """hang: no byte ever comes, while other requests are answered; stopping the exchange does not wait for it."""
    from http.client import HTTPConnection
    from urllib.parse import urlsplit

    _one(exchange, "hang")
    connection = HTTPConnection(urlsplit(exchange.url).netloc, timeout=0.2)
    connection.request("GET", f"/api/v3/klines?symbol=BTCUSDT&interval=1m&startTime={START}")

    with pytest.raises(TimeoutError):
        connection.getresponse()
    assert http(exchange.url, "/api/v3/ping", {}).json == {}
    connection.close()


def test_stop_does_not_wait_for_hanging_requests() -> None:
    """An exchange with a hanging request stops within a second, and the caller's connection breaks."""
    import socket
    from urllib.parse import urlsplit

    with LocalExchange() as exchange:
        exchange.faults = Faults((Fault("hang"),))
        place = urlsplit(exchange.url)
        caller = socket.create_connection((place.hostname, place.port), timeout=5)
        caller.sendall(b"GET /api/v3/ping HTTP/1.1\r\nHost: x\r\n\r\n")
        while not exchange.requests:
            time.sleep(0.005)
        begun = time.monotonic()
    stopped = time.monotonic() - begun

    assert stopped < 1
    with caller, pytest.raises(ConnectionResetError):
        caller.recv(1)


def test_html(exchange: LocalExchange, ask: Ask, good: Any) -> None:
    """html: status 200, and a page for people."""
    _one(exchange, "html")

    answer = _page(ask)

    assert (answer.status, answer.headers["content-type"]) == (200, "text/html")
    assert b"<html>" in answer.body


@pytest.mark.parametrize("byte", [None, 0, 1, 100, 10**9])
def test_cut(exchange: LocalExchange, ask: Ask, good: Any, byte: int | None) -> None:
    """cut: the JSON ends early and the Content-Length agrees; at the byte given, or at one drawn."""
    whole = _page(ask).body
    _one(exchange, "cut", byte=byte)

    answer = _page(ask)

    assert answer.status == 200
    assert int(answer.headers["content-length"]) == len(answer.body) < len(whole)
    assert whole.startswith(answer.body)
    if byte is not None:
        assert len(answer.body) == min(byte, len(whole) - 1)
    with pytest.raises(json.JSONDecodeError):
        json.loads(answer.body)


def test_empty(exchange: LocalExchange, ask: Ask, good: Any) -> None:
    """empty: status 200 and no byte of body."""
    _one(exchange, "empty")

    answer = _page(ask)

    assert (answer.status, answer.body, answer.headers["content-length"]) == (200, b"", "0")
    assert exchange.requests[-1].fault == "empty"


def test_null_price(exchange: LocalExchange, ask: Ask, good: Any) -> None:
    """null_price: exactly one price of the page is null."""
    _one(exchange, "null_price")

    bad = _page(ask).json

    changed = [(n, f) for n, row in enumerate(bad) for f, value in enumerate(row) if value != good[n][f]]
    assert len(changed) == 1
    row, field = changed[0]
    assert field in {1, 2, 3, 4}
    assert bad[row][field] is None


def test_duplicate_rows(exchange: LocalExchange, ask: Ask, good: Any) -> None:
    """duplicate_rows: one row is there twice, the same."""
    _one(exchange, "duplicate_rows")

    bad = _page(ask).json

    assert len(bad) == len(good) + 1
    assert [row for n, row in enumerate(bad) if n == 0 or row != bad[n - 1]] == good


def test_conflicting_rows(exchange: LocalExchange, ask: Ask, good: Any) -> None:
    """conflicting_rows: one open time is there twice, the second candle sound in itself but another."""
    _one(exchange, "conflicting_rows")

    bad = _page(ask).json

    (twice,) = [t for t, n in Counter(row[0] for row in bad).items() if n == 2]
    pair = [row for row in bad if row[0] == twice]
    other = next(row for row in pair if row not in good)
    _, opened, high, low, close = (float(v) for v in other[:5])
    assert len(pair) == 2
    assert pair[0] != pair[1]
    assert low <= min(opened, close) <= max(opened, close) <= high


def test_shuffled_rows(exchange: LocalExchange, ask: Ask, good: Any) -> None:
    """shuffled_rows: the same rows in another order."""
    _one(exchange, "shuffled_rows")

    bad = _page(ask).json

    assert bad != good
    assert sorted(bad) == good


def test_misaligned_rows(exchange: LocalExchange, ask: Ask, good: Any) -> None:
    """misaligned_rows: from some row on open times lie between two candles, everything else unchanged."""
    _one(exchange, "misaligned_rows")

    bad = _page(ask).json

    shifts = [b[0] - g[0] for b, g in zip(bad, good, strict=True)]
    late = shifts[-1]
    assert 0 < late < MINUTE
    assert shifts == [0] * shifts.count(0) + [late] * shifts.count(late)
    assert [row[1:6] for row in bad] == [row[1:6] for row in good]


def test_since_ignored(exchange: LocalExchange, ask: Ask, good: Any) -> None:
    """since_ignored: the latest rows come instead of those asked for."""
    latest = ask(limit=50).json
    _one(exchange, "since_ignored")

    assert _page(ask).json == latest != good


def test_in_progress(exchange: LocalExchange, ask: Ask, good: Any) -> None:
    """in_progress: the last row is a sound candle with half the volume, though it is long closed."""
    _one(exchange, "in_progress")

    bad = _page(ask).json

    assert bad[:-1] == good[:-1]
    row, whole = bad[-1], good[-1]
    _, opened, high, low, close, volume = (float(v) for v in row[:6])
    assert (row[0], row[1]) == (whole[0], whole[1])
    assert low <= min(opened, close) <= max(opened, close) <= high <= float(whole[2])
    assert low >= float(whole[3])
    assert volume == float(whole[5]) / 2


def test_what_a_fault_cannot_strike(exchange: LocalExchange, ask: Ask, http: Ask) -> None:
    """Row faults leave other paths, errors and empty pages alone, and the log says so."""
    exchange.faults = Faults((Fault("shuffled_rows"), Fault("null_price")))

    assert http(exchange.url, "/api/v3/ping", {}).json == {}
    assert ask("NOPE").json["code"] == -1121
    assert ask(startTime=10**14).json == []
    assert [record.fault for record in exchange.requests] == [None, None, None]


def _play(faults: Faults, pages: int, tries: int) -> list[list[str | None]]:
    """Which kinds strike each page, asked for until it is answered well or `tries` times."""
    player = FaultPlayer(faults)
    story = []
    for page in range(pages):
        asked = Asked("/api/v3/klines", "BTCUSDT", "BTC/USDT", "1m", page * MINUTE)
        story.append([])
        for _ in range(tries):
            _, strike = player.next(asked)
            player.done(asked, struck=strike is not None)
            story[-1].append(strike.kind if strike else None)
            if strike is None:
                break
    return story


def test_mixed_schedule() -> None:
    """30 % mixed faults, at most 4 in a row on a page: the share is right, every kind comes, the bound holds."""
    faults = Faults((Fault("mixed", probability=0.3, max_in_a_row=4),), seed=11)
    story = _play(faults, 3000, 10)
    struck = [kind for page in story for kind in page if kind]
    total = sum(len(page) for page in story)

    assert 0.27 < len(struck) / total < 0.33
    assert set(struck) == set(MIXED)
    always = _play(Faults((Fault("mixed", max_in_a_row=4),)), 5, 10)
    assert [len(page) for page in always] == [5] * 5
    assert story == _play(faults, 3000, 10)
    assert story != _play(Faults(faults.rules, seed=12), 3000, 10)


def test_in_a_row_counts_all_rules(exchange: LocalExchange, ask: Ask) -> None:
    """A bound on faults in a row counts the strikes of other rules, over HTTP too."""
    exchange.faults = Faults(
        (Fault("html", max_in_a_row=2), Fault("empty", max_in_a_row=3), Fault("latency", ms=1))
    )

    for _ in range(6):
        _page(ask)

    assert [r.fault for r in exchange.requests] == ["html", "html", "empty", None, "html", "html"]


def test_every_kind_is_tested() -> None:
    """This file observes every kind of fault that there is."""
    names = {name for name in globals() if name.startswith("test_")}
    by_other_names = {"429": "refusals", "418": "refusals", "5xx": "server_errors", "mixed": "mixed_schedule"}

    assert {f"test_{by_other_names.get(kind, kind)}" for kind in KINDS} <= names
