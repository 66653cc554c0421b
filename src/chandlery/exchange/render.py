"""Candles into the bytes of a klines answer, four digits at a time in numpy rather than row by row in Python."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chandlery.exchange.candles import Candles, Column

_DECIMALS = 8  # as Binance writes prices and volumes
_HIDDEN = b"\0"  # stands where a shorter number has no digit, and is deleted at the end
_FOUR_DIGITS = np.frombuffer(b"".join(b"%04d" % n for n in range(10_000)), dtype=np.uint32)

Letters = NDArray[np.uint8]


def render_rows(candles: Candles, close_times: NDArray[np.int64]) -> tuple[bytes, NDArray[np.int64]]:
    """Rows of twelve fields, each row followed by a comma, and the offset at which each ends.

    Numbers of known decimals get eight of them, as Binance does; others the shortest digits that read back the same.
    """
    if not len(candles):
        return b"", np.empty(0, dtype=np.int64)
    if candles.price_decimals is None or candles.volume_decimals is None:
        return _render_floats(candles, close_times)
    canvas = _Canvas(len(candles))
    price, lots = candles.price_decimals, candles.volume_decimals
    canvas.text("[")
    canvas.whole(candles.time)
    for column in candles.columns[1:5]:
        canvas.decimal(column, price)
    canvas.decimal(candles.volume, lots)
    canvas.text(",")
    canvas.whole(close_times)
    canvas.decimal(candles.turnover, price + lots)
    canvas.text(",")
    canvas.whole(candles.trades)
    canvas.decimal(candles.taker, lots)
    canvas.decimal(candles.taker_turnover, price + lots)
    canvas.text(',"0"],')
    return canvas.rows()


class _Canvas:
    """Rows of equal width: a template of the constant characters, and blocks of digits to lay over it."""

    def __init__(self, rows: int) -> None:
        self._template = ""
        self._blocks: list[tuple[int, Letters]] = []
        self._hidden = np.zeros(rows, dtype=np.int64)  # per row, digits that are not there

    def text(self, text: str) -> None:
        self._template += text

    def whole(self, values: Column) -> None:
        """A number without leading zeros."""
        lowest, width = int(values.min()), len(str(int(values.max())))
        digits = _digits(values, width)
        for place in range(len(str(lowest)), width):
            shown = values >= 10**place
            digits[:, width - 1 - place] *= shown
            self._hidden += ~shown
        self._lay(digits)

    def decimal(self, values: Column, decimals: int) -> None:
        """`,"`, a number with eight decimals (more are cut off), and `"`."""
        if decimals > _DECIMALS:
            values, decimals = values // 10 ** (decimals - _DECIMALS), _DECIMALS
        self.text(',"')
        step = 10**decimals
        above = values // step
        self.whole(above)
        self.text(".")
        self._lay(_digits((values - above * step) * 10 ** (_DECIMALS - decimals), _DECIMALS))
        self.text('"')

    def _lay(self, digits: Letters) -> None:
        self._blocks.append((len(self._template), digits))
        self._template += "0" * digits.shape[1]

    def rows(self) -> tuple[bytes, NDArray[np.int64]]:
        template = np.frombuffer(self._template.encode(), dtype=np.uint8)
        letters = np.tile(template, (len(self._hidden), 1))
        for start, digits in self._blocks:
            letters[:, start : start + digits.shape[1]] = digits
        ends = np.cumsum(len(template) - self._hidden, dtype=np.int64)
        return letters.tobytes().translate(None, _HIDDEN), ends


def _digits(values: Column, width: int) -> Letters:
    """The last `width` decimal digits as characters, a row for each value."""
    rest = values.astype(np.uint32) if width < 10 else values  # half the work where it fits
    chunks = -(-width // 4)
    fours = np.empty((len(values), chunks), dtype=np.uint32)
    for chunk in reversed(range(1, chunks)):
        above = rest // 10_000
        fours[:, chunk] = _FOUR_DIGITS[rest - above * 10_000]
        rest = above
    fours[:, 0] = _FOUR_DIGITS[rest]
    return fours.view(np.uint8)[:, 4 * chunks - width :]


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
