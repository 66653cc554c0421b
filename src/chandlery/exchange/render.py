"""Candles into the bytes of a klines answer, digit by digit in numpy rather than row by row in Python."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chandlery.exchange.candles import Candles, Column

_DECIMALS = 8  # as Binance writes prices and volumes

Bytes = NDArray[np.uint8]
Mask = NDArray[np.bool_]


def render_rows(candles: Candles, close_times: NDArray[np.int64]) -> tuple[bytes, NDArray[np.int64]]:
    """Rows of twelve fields, each followed by a comma, and the offset at which each row ends.

    Numbers of known decimals get eight of them, as Binance does; others the shortest digits that read back the same.
    """
    if not len(candles):
        return b"", np.empty(0, dtype=np.int64)
    if candles.price_decimals is None or candles.volume_decimals is None:
        return _render_floats(candles, close_times)
    canvas = _Canvas(len(candles))
    price, lots = candles.price_decimals, candles.volume_decimals
    canvas.text(b"[")
    canvas.whole(candles.time)
    for column in candles.columns[1:5]:
        canvas.decimal(column, price)
    canvas.decimal(candles.volume, lots)
    canvas.text(b",")
    canvas.whole(close_times)
    canvas.decimal(candles.turnover, price + lots)
    canvas.text(b",")
    canvas.whole(candles.trades)
    canvas.decimal(candles.taker, lots)
    canvas.decimal(candles.taker_turnover, price + lots)
    canvas.text(b',"0"],')
    return canvas.rows()


class _Canvas:
    """Characters as columns: column j holds the j-th character of every row, and a mask of those that count."""

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._columns: list[Bytes] = []
        self._masks: list[Mask | None] = []

    def text(self, text: bytes) -> None:
        for character in text:
            self._add(np.full(self._rows, character, dtype=np.uint8), None)

    def whole(self, values: Column) -> None:
        """A number without leading zeros."""
        width, lowest = len(str(int(values.max()))), int(values.min())
        for place, digit in zip(reversed(range(width)), _digits(values, width), strict=True):
            self._add(digit, None if place == 0 or lowest >= 10**place else values >= 10**place)

    def decimal(self, values: Column, decimals: int) -> None:
        """`,"` and a number with its point and eight decimals (its own, then zeros), and `"`."""
        self.text(b',"')
        step = 10**decimals
        above = values // step
        self.whole(above)
        self.text(b".")
        for digit in _digits(values - above * step, decimals):
            self._add(digit, None)
        self.text(b"0" * (_DECIMALS - decimals) + b'"')

    def _add(self, column: Bytes, mask: Mask | None) -> None:
        self._columns.append(column)
        self._masks.append(mask)

    def rows(self) -> tuple[bytes, NDArray[np.int64]]:
        letters = np.column_stack(self._columns)
        width = letters.shape[1]
        if all(mask is None for mask in self._masks):
            return letters.tobytes(), np.arange(1, self._rows + 1, dtype=np.int64) * width
        shown = np.ones(letters.shape, dtype=np.bool_)
        for number, mask in enumerate(self._masks):
            if mask is not None:
                shown[:, number] = mask
        return letters[shown].tobytes(), np.cumsum(shown.sum(axis=1), dtype=np.int64)


def _digits(values: Column, width: int) -> list[Bytes]:
    """The last `width` decimal digits as characters, the highest first."""
    rest = values.astype(np.uint32) if width < 10 else values  # half the work where it fits
    digits: list[Bytes] = []
    for _ in range(width):
        tens = rest // 10
        digits.append((rest - tens * 10 + 48).astype(np.uint8))
        rest = tens
    return digits[::-1]


def _render_floats(candles: Candles, close_times: NDArray[np.int64]) -> tuple[bytes, NDArray[np.int64]]:
    """The slow way, for files whose numbers share no decimal step."""
    columns = [c.tolist() for c in candles.prices()]
    rows = [
        f'[{time},{",".join(_quoted(v) for v in values)},{closed},"0",0,"0","0","0"],'.encode()
        for time, closed, *values in zip(candles.time.tolist(), close_times.tolist(), *columns, strict=True)
    ]
    return b"".join(rows), np.cumsum([len(row) for row in rows], dtype=np.int64)


def _quoted(value: Any) -> str:
    return f'"{Decimal(repr(value)):f}"'
