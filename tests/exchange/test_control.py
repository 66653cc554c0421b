"""The control endpoint: faults, request log and clock at run time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from chandlery.exchange import ExchangeSettings, Fault, Faults, LocalExchange

Http = Callable[..., Any]
START = 1_717_200_000_000


def test_faults(exchange: LocalExchange, http: Http) -> None:
    """POST sets a script (rules as objects or as command-line text), GET shows it, DELETE ends it."""
    script = {"seed": 5, "rules": [{"kind": "html", "requests": [1]}, "429:0.5,retry_after=3"]}
    path = "/_control/faults"

    posted = http(exchange.url, path, {}, method="POST", body=script)

    expected = Faults((Fault("html", requests=(1,)), Fault("429", probability=0.5, retry_after=3)), seed=5)
    assert exchange.faults == expected
    assert posted.json == http(exchange.url, path, {}).json == expected.as_json()
    assert http(exchange.url, "/api/v3/ping", {}).headers["content-type"] == "text/html"
    assert http(exchange.url, path, {}, method="DELETE").json == {"seed": 1, "rules": []}
    assert exchange.faults == Faults()
    http(exchange.url, path, {}, method="POST", body="empty,count=1")
    assert exchange.faults.rules == (Fault("empty", count=1),)


def test_bad_scripts(exchange: LocalExchange, http: Http) -> None:
    """What is not a script is answered with status 400 and the reason, and the old script stays."""
    exchange.faults = before = Faults((Fault("latency", ms=1),))

    for body in (
        {"rules": [{"kind": "flood"}]},
        {"rules": "html"},
        {"rules": [], "sed": 1},
        [7],
        {"kind": "cut", "byte": []},
    ):
        answer = http(exchange.url, "/_control/faults", {}, method="POST", body=body)
        assert answer.status == 400
        assert answer.json["error"]
    empty = http(exchange.url, "/_control/faults", {}, method="POST")
    assert (empty.status, empty.json["error"]) == (400, "the body is not JSON")
    assert exchange.faults == before


def test_requests(exchange: LocalExchange, http: Http) -> None:
    """The log has every request but those to the control endpoint, and DELETE empties it."""
    http(exchange.url, "/api/v3/klines", {"symbol": "BTCUSDT", "interval": "1h", "limit": 1})
    http(exchange.url, "/nothing", {})

    records = http(exchange.url, "/_control/requests", {}).json["requests"]

    assert [(r["number"], r["path"], r["status"], r["fault"]) for r in records] == [
        (1, "/api/v3/klines", 200, None),
        (2, "/nothing", 404, None),
    ]
    assert records[0]["query"] == {"symbol": "BTCUSDT", "interval": "1h", "limit": "1"}
    assert records[0]["time"] == exchange.now_ms()
    assert http(exchange.url, "/_control/requests", {}, method="DELETE").json == {"requests": []}
    assert exchange.requests == []


def test_limits(http: Http) -> None:
    """What was spent of each exchange's limits, refused and banned, and the most that one window held; DELETE counts anew."""
    settings = ExchangeSettings(exchange=("binance", "okx"), clock="2024-06-01T00:00Z,0", weight_limit=3)
    with LocalExchange(settings) as exchange:
        url = exchange.url
        for _ in range(3):
            http(url, "/binance/api/v3/klines", {"symbol": "BTCUSDT", "interval": "1m", "limit": 1})
        http(url, "/okx/api/v5/public/time", {})
        listed = http(url, "/_control/limits", {}).json["limits"]
        again = http(url, "/_control/limits", {}, method="DELETE").json["limits"]

    groups = {(one.pop("exchange"), one.pop("group")): one for one in listed}
    assert [name for exchange_id, name in groups if exchange_id == "binance"] == ["api", "fapi", "dapi"]
    assert groups["binance", "api"] == {
        "limit": 3, "window_ms": 60_000, "rolling": False,
        "requests": 3, "weight": 2, "most_used": 2, "refused": 2, "banned": 0,
    }  # fmt: skip
    assert groups["okx", "time"] == {
        "limit": 3, "window_ms": 2_000, "rolling": True,
        "requests": 1, "weight": 1, "most_used": 1, "refused": 0, "banned": 0,
    }  # fmt: skip
    assert {one["requests"] for one in again} == {0}
    assert {one["limit"] for one in again} == {3}


def test_clock(http: Http) -> None:
    """POST moves the clock or changes its speed; the market follows."""
    with LocalExchange(ExchangeSettings(clock="2024-06-01T00:00Z,0")) as exchange:
        url = exchange.url

        assert http(url, "/_control/clock", {}).json == {"time": START, "speed": 0.0}
        http(url, "/_control/clock", {}, method="POST", body={"time": "2024-06-01T00:02:30Z"})
        assert http(url, "/api/v3/time", {}).json == {"serverTime": START + 150_000}
        query = {"symbol": "BTCUSDT", "interval": "1m", "limit": 1}
        assert http(url, "/api/v3/klines", query).json[0][0] == START + 120_000
        http(url, "/_control/clock", {}, method="POST", body={"speed": 1000})
        assert http(url, "/_control/clock", {}).json["time"] > START + 150_000
        for body in ({}, {"now": 1}, {"speed": -1}, {"time": "noon"}, []):
            assert http(url, "/_control/clock", {}, method="POST", body=body).status == 400


def test_a_clock_from_outside_is_not_moved(exchange: LocalExchange, http: Http) -> None:
    """Where a test brought its own clock, the control endpoint refuses to move it."""
    answer = http(exchange.url, "/_control/clock", {}, method="POST", body={"speed": 0})

    assert answer.status == 400
    assert http(exchange.url, "/_control/clock", {}).json == {"time": exchange.now_ms(), "speed": None}


def test_unknown_names(exchange: LocalExchange, http: Http) -> None:
    """Other names below /_control/ are 404."""
    assert http(exchange.url, "/_control/weather", {}).status == 404
