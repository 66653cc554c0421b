"""Faults that change the body of an answer: a good one goes in, a bad one comes out."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from chandlery.exchange.faults import Strike
from chandlery.exchange.shape import Page

PAGE = b"""<!DOCTYPE html>
<html><head><title>Just a moment...</title></head>
<body><h1>Checking your browser before accessing the exchange.</h1>
<p>This process is automatic. Your browser will be redirected shortly.</p></body></html>
"""


def spoil_body(page: Page | bytes, strike: Strike, now: int) -> bytes | None:
    """The answer with the strike's fault in it, None where it has nothing to strike (no rows, nothing to cut)."""
    body = page.body if isinstance(page, Page) else page
    if strike.kind == "html":
        return PAGE
    if strike.kind == "empty":
        return b""
    if strike.kind == "cut":
        return _cut(body, strike)
    change = _ROWS.get(strike.kind)
    if change is None or not isinstance(page, Page):
        return None
    document = place = json.loads(body)
    for step in page.path:
        place = place[step]
    rows = [list(row) for row in zip(*(place[name] for name in page.columns), strict=True)]
    changed = change(_Rows(rows if page.columns else place, page), random.Random(strike.draw), now)
    for number, name in enumerate(page.columns):
        place[name] = [row[number] for row in rows]
    return json.dumps(document, separators=(",", ":")).encode() if changed else None


class _Rows:
    """The decoded rows of a page, and where in them the fields of a candle stand."""

    def __init__(self, rows: list[Any], page: Page) -> None:
        self.rows = rows
        self.timeframe = page.timeframe
        self.newest = 0 if page.layout.descending else -1
        self._places = page.layout.places

    def get(self, row: Any, field: str) -> Any:
        """A field as it is written, None where the layout has no such field."""
        places = self._places.get(field, ())
        return row[places[0]] if places else None

    def put(self, row: Any, field: str, change: Callable[[Any], Any]) -> None:
        """Change a field everywhere it stands; text stays text, numbers numbers."""
        for place in self._places.get(field, ()):
            old = row[place]
            new = change(old)
            if new is not None and not isinstance(old, str):
                new = float(new) if isinstance(old, float) else int(Decimal(new))
            row[place] = new if new is None or not isinstance(old, str) else str(new)

    def opened(self, row: Any) -> int:
        """The open time in milliseconds."""
        time = self.get(row, "time")
        return int(self.get(row, "time_s")) * 1000 if time is None else int(time)


def _cut(body: bytes, strike: Strike) -> bytes | None:
    """Some bytes from the start: at least none, at most all but one."""
    if not body:
        return None
    wanted = strike.rule.byte
    return body[: strike.draw % len(body) if wanted is None else min(wanted, len(body) - 1)]


def _null_price(page: _Rows, draw: random.Random, _now: int) -> bool:
    if page.rows:
        row = draw.choice(page.rows)
        page.put(row, ("open", "high", "low", "close")[draw.randint(1, 4) - 1], lambda _old: None)
    return bool(page.rows)


def _duplicate(page: _Rows, draw: random.Random, _now: int) -> bool:
    rows = page.rows
    if rows:
        place = draw.randrange(len(rows))
        rows.insert(place, rows[place].copy())
    return bool(rows)


def _conflict(page: _Rows, draw: random.Random, _now: int) -> bool:
    """The second row of the same open time is a valid candle with another close."""
    rows = page.rows
    if not rows:
        return False
    place = draw.randrange(len(rows))
    other = rows[place].copy()
    high = page.get(other, "high")
    page.put(other, "high", lambda _old: _times(high, "1.02"))
    page.put(other, "close", lambda _old: _times(high, "1.01"))
    rows.insert(place + draw.randint(0, 1), other)
    return True


def _shuffle(page: _Rows, draw: random.Random, _now: int) -> bool:
    rows = page.rows
    if len(rows) < 2:
        return False
    before = list(rows)
    draw.shuffle(rows)
    if rows == before:
        rows.reverse()
    return True


def _misalign(page: _Rows, draw: random.Random, _now: int) -> bool:
    """All rows from some row on are late by up to half a candle, whole seconds where times are."""
    rows = page.rows
    if not rows:
        return False
    late = draw.randrange(1, page.timeframe.nominal_ms // 2)
    late_s = max(1, late // 1000)
    for row in rows[draw.randrange(len(rows)) :]:
        page.put(row, "time", lambda old: int(old) + late)
        page.put(row, "closes", lambda old: int(old) + late)
        page.put(row, "ends", lambda old: int(old) + late)
        page.put(row, "time_s", lambda old: int(old) + late_s)
    return True


def _half_made(page: _Rows, _draw: random.Random, now: int) -> bool:
    """The last closed row as it stood half-way; rows after it are dropped."""
    rows = page.rows
    while rows and page.timeframe.next(page.opened(rows[page.newest])) > now:
        rows.pop(page.newest)
    if not rows:
        return False
    row = rows[page.newest]
    opened, high, low, closed = (_exact(page.get(row, name)) for name in ("open", "high", "low", "close"))
    middle = ((opened + closed) / 2).quantize(closed)
    page.put(row, "close", lambda _old: f"{middle:f}")
    page.put(row, "high", lambda _old: f"{(max(opened, middle) + high) / 2:.8f}")
    page.put(row, "low", lambda _old: f"{(min(opened, middle) + low) / 2:.8f}")
    for field in ("volume", "turnover", "taker", "taker_turnover", "contracts"):
        page.put(row, field, lambda old: _times(old, "0.5"))
    for field in ("trades", "lots"):
        page.put(row, field, lambda old: int(old) // 2)
    return True


def _exact(number: Any) -> Decimal:
    return Decimal(str(number))


def _times(number: Any, factor: str) -> str:
    return f"{_exact(number) * Decimal(factor):.8f}"


_ROWS: dict[str, Callable[[_Rows, random.Random, int], bool]] = {
    "null_price": _null_price,
    "duplicate_rows": _duplicate,
    "conflicting_rows": _conflict,
    "shuffled_rows": _shuffle,
    "misaligned_rows": _misalign,
    "in_progress": _half_made,
}
