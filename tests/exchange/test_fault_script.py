"""The rules of a fault script: what a rule matches, how often it strikes, and how it is written."""

from __future__ import annotations

import json
from typing import Any

import pytest

from chandlery.errors import UsageError
from chandlery.exchange import Fault, Faults, parse_fault
from chandlery.exchange.faults import Asked, FaultPlayer, faults_from

MINUTE = 60_000
MIDNIGHT = 1_717_200_000_000


def test_matchers() -> None:
    """A rule strikes only what its path, symbol (either name), interval and startTime range match."""
    klines = {
        "path": "/api/v3/klines",
        "symbol": "BTCUSDT",
        "unified": "BTC/USDT",
        "interval": "1m",
        "start": 500,
    }

    def strikes(fault: Fault, **changed: Any) -> bool:
        return FaultPlayer(Faults((fault,))).next(Asked(**{**klines, **changed}))[1] is not None

    assert strikes(Fault("empty", path="klines", symbol="BTC/USDT", interval="1m", since=500, until=501))
    assert strikes(Fault("empty", symbol="BTCUSDT"))
    assert not strikes(Fault("empty", path="time"))
    assert not strikes(Fault("empty", symbol="ETH/USDT"))
    assert not strikes(Fault("empty", interval="1h"))
    assert not strikes(Fault("empty", since=501))
    assert not strikes(Fault("empty", until=500))
    assert not strikes(Fault("empty", since=0), start=None)


def test_numbers_and_counts() -> None:
    """`requests` picks the numbers, counted over matching requests; `count` bounds how often a rule strikes."""
    asked, other = Asked("/api/v3/klines", "BTCUSDT"), Asked("/api/v3/time")
    numbered = FaultPlayer(Faults((Fault("html", requests=(2, 4), path="klines"),)))
    counted = FaultPlayer(Faults((Fault("html", count=2),)))

    assert [numbered.next(a)[1] is not None for a in (other, asked, other, asked, asked, asked)] == [
        False,
        False,
        False,
        True,
        False,
        True,
    ]
    assert [counted.next(asked)[1] is not None for _ in range(4)] == [True, True, False, False]


def test_order_of_pages_does_not_matter() -> None:
    """A page's fate is the same whenever other pages are asked for, so concurrent clients replay the same script."""
    pages = [Asked("/api/v3/klines", "BTCUSDT", "BTC/USDT", "1m", n * MINUTE) for n in range(200)]
    faults = Faults((Fault("mixed", probability=0.4),), seed=3)
    there, back = FaultPlayer(faults), FaultPlayer(faults)

    forward = {a.start: there.next(a)[1] for a in pages}
    backward = {a.start: back.next(a)[1] for a in reversed(pages)}

    assert forward == backward


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("html", Fault("html")),
        ("html:0.05", Fault("html", probability=0.05)),
        ("429:0.02,retry_after=3", Fault("429", probability=0.02, retry_after=3)),
        ("latency:80", Fault("latency", ms=80)),
        ("latency:80,probability=0.5", Fault("latency", ms=80, probability=0.5)),
        ("502:0.1", Fault("5xx", probability=0.1, status=502)),
        ("5xx,status=500", Fault("5xx", status=500)),
        ("cut,requests=3+4,byte=100", Fault("cut", requests=(3, 4), byte=100)),
        (
            "mixed:0.3,kinds=html+cut,max_in_a_row=4",
            Fault("mixed", 0.3, kinds=("html", "cut"), max_in_a_row=4),
        ),
        (
            "empty,symbol=BTC/USDT,interval=1m,since=2024-06-01,until=2024-06-02T00:00Z,count=5,path=klines",
            Fault(
                "empty",
                symbol="BTC/USDT",
                interval="1m",
                since=MIDNIGHT,
                until=MIDNIGHT + 86_400_000,
                count=5,
                path="klines",
            ),
        ),
    ],
)
def test_reading(text: str, expected: Fault) -> None:
    """A fault reads as it stands on the command line, and its JSON reads back as the same."""
    assert parse_fault(text) == expected
    assert faults_from([json.loads(json.dumps(expected.as_json()))]).rules == (expected,)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "no such fault: ''"),
        ("flood", "no such fault: 'flood'"),
        ("html:often", "probability is 'often'"),
        ("html:1.5", "probability 1.5 is not between 0 and 1"),
        ("html,when=now", "no setting 'when'"),
        ("html,count", "'count' has no value"),
        ("cut,byte=x", "byte is 'x'"),
        ("cut,requests=1+x", "requests is"),
        ("404", "no such fault: '404'"),
        ("5xx,status=404", "status 404"),
        ("mixed,kinds=html+flood", "no such fault: 'flood'"),
        ("mixed,kinds=mixed", "kinds must name other kinds"),
        ("html,since=noon", "not a time"),
    ],
)
def test_what_is_not_a_fault(text: str, complaint: str) -> None:
    """A fault that cannot be is refused with what is wrong in it."""
    with pytest.raises(UsageError, match=complaint.replace("'", ".")):
        parse_fault(text)
