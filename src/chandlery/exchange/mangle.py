"""Faults that change the body of an answer: a good one goes in, a bad one comes out."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from chandlery.exchange.faults import Strike
from chandlery.timeframe import Timeframe

Rows = list[list[Any]]

PAGE = b"""<!DOCTYPE html>
<html><head><title>Just a moment...</title></head>
<body><h1>Checking your browser before accessing the exchange.</h1>
<p>This process is automatic. Your browser will be redirected shortly.</p></body></html>
"""


def spoil_body(body: bytes, strike: Strike, timeframe: Timeframe | None, now: int) -> bytes | None:
    """The body with the strike's fault in it, None where it has nothing to strike (no rows, nothing to cut)."""
    if strike.kind == "html":
        return PAGE
    if strike.kind == "empty":
        return b""
    if strike.kind == "cut":
        return _cut(body, strike)
    change = _ROWS.get(strike.kind)
    if change is None or timeframe is None:
        return None
    rows: Rows = json.loads(body)
    changed = change(rows, random.Random(strike.draw), timeframe, now)
    return json.dumps(rows, separators=(",", ":")).encode() if changed else None


def _cut(body: bytes, strike: Strike) -> bytes | None:
    """Some bytes from the start: at least none, at most all but one."""
    if not body:
        return None
    wanted = strike.rule.byte
    return body[: strike.draw % len(body) if wanted is None else min(wanted, len(body) - 1)]


def _null_price(rows: Rows, draw: random.Random, _timeframe: Timeframe, _now: int) -> bool:
    if rows:
        draw.choice(rows)[draw.randint(1, 4)] = None
    return bool(rows)


def _duplicate(rows: Rows, draw: random.Random, _timeframe: Timeframe, _now: int) -> bool:
    if rows:
        place = draw.randrange(len(rows))
        rows.insert(place, list(rows[place]))
    return bool(rows)


def _conflict(rows: Rows, draw: random.Random, _timeframe: Timeframe, _now: int) -> bool:
    """The second row of the same open time is a valid candle with another close."""
    if not rows:
        return False
    place = draw.randrange(len(rows))
    other = list(rows[place])
    other[2], other[4] = _times(other[2], "1.02"), _times(other[2], "1.01")
    rows.insert(place + draw.randint(0, 1), other)
    return True


def _shuffle(rows: Rows, draw: random.Random, _timeframe: Timeframe, _now: int) -> bool:
    if len(rows) < 2:
        return False
    before = list(rows)
    draw.shuffle(rows)
    if rows == before:
        rows.reverse()
    return True


def _misalign(rows: Rows, draw: random.Random, timeframe: Timeframe, _now: int) -> bool:
    """All rows from some row on are late by up to half a candle."""
    if not rows:
        return False
    late = draw.randrange(1, timeframe.nominal_ms // 2)
    for row in rows[draw.randrange(len(rows)) :]:
        row[0] += late
        row[6] += late
    return True


def _half_made(rows: Rows, _draw: random.Random, _timeframe: Timeframe, now: int) -> bool:
    """The last closed row as it stood half-way; rows after it are dropped."""
    while rows and rows[-1][6] >= now:
        rows.pop()
    if not rows:
        return False
    row = rows[-1]
    opened, closed = Decimal(row[1]), Decimal(row[4])
    middle = ((opened + closed) / 2).quantize(Decimal(row[4]))
    row[4] = f"{middle:f}"
    row[2] = f"{(max(opened, middle) + Decimal(row[2])) / 2:.8f}"
    row[3] = f"{(min(opened, middle) + Decimal(row[3])) / 2:.8f}"
    for field in (5, 7, 9, 10):
        row[field] = _times(row[field], "0.5")
    row[8] //= 2
    return True


def _times(number: str, factor: str) -> str:
    return f"{Decimal(number) * Decimal(factor):.8f}"


_ROWS: dict[str, Callable[[Rows, random.Random, Timeframe, int], bool]] = {
    "null_price": _null_price,
    "duplicate_rows": _duplicate,
    "conflicting_rows": _conflict,
    "shuffled_rows": _shuffle,
    "misaligned_rows": _misalign,
    "in_progress": _half_made,
}
