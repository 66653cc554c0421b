"""Candles into the bytes of an answer's rows, four digits at a time in numpy rather than row by row in Python."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chandlery.exchange.candles import Candles, Column
from chandlery.exchange.layout import RowLayout

_HIDDEN = b"\0"  # stands where a shorter number has no digit, and is deleted at the end
_FOUR_DIGITS = np.frombuffer(b"".join(b"%04d" % n for n in range(10_000)), dtype=np.uint32)

Letters = NDArray[np.uint8]


def render_rows(
    candles: Candles,
    close_times: NDArray[np.int64],
    layout: RowLayout,
    *,
    contract_decimals: int = 0,
    in_progress: bool = False,
) -> tuple[bytes, NDArray[np.int64]]:
    """Rows in the order of the candles, each followed by a comma, and the offset at which each ends.

    `close_times` are the last milliseconds of the candles; a contract is 10**-contract_decimals of the base currency.
    Where the candles have no common decimal step, numbers get the shortest digits that read back the same.
    """
    if not len(candles):
        return b"", np.empty(0, dtype=np.int64)
    pieces = layout.open_pieces if in_progress else layout.pieces
    if candles.price_decimals is None or candles.volume_decimals is None:
        return _render_floats(candles, close_times, pieces, contract_decimals)
    canvas = _Canvas(len(candles))
    for number, piece in enumerate(pieces):
        if number % 2 == 0:
            canvas.text(piece)
            continue
        column, decimals = _field(candles, close_times, piece, contract_decimals)
        if decimals is None:
            canvas.whole(column)
        else:
            canvas.decimal(column, decimals, layout.decimals)
    canvas.text(",")
    return canvas.rows()


def _field(
    candles: Candles, close_times: NDArray[np.int64], name: str, contract_decimals: int
) -> tuple[Column, int | None]:
    """A field's whole numbers and its decimals, None for one that has none."""
    price, lots = candles.price_decimals or 0, candles.volume_decimals or 0
    if name in {"open", "high", "low", "close"}:
        return getattr(candles, name), price
    if name in {"volume", "taker"}:
        return getattr(candles, name), lots
    if name in {"turnover", "taker_turnover"}:
        return getattr(candles, name), price + lots
    if name == "contracts":
        return candles.volume, lots - contract_decimals
    if name == "vwap":
        return candles.turnover // np.maximum(candles.volume, 1), price
    if name == "time_s":
        return candles.time // 1000, None
    if name in {"closes", "ends"}:
        return close_times + (name == "ends"), None
    return candles.volume if name == "lots" else getattr(candles, name), None


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

    def decimal(self, values: Column, decimals: int, shown: int | None) -> None:
        """A number of `decimals` with `shown` of them (more are cut off), or with its own."""
        if decimals < 0:
            values, decimals = values * 10**-decimals, 0
        if shown is None:
            shown = decimals
        if decimals > shown:
            values, decimals = values // 10 ** (decimals - shown), shown
        step = 10**decimals
        above = values // step
        self.whole(above)
        if shown:
            self.text(".")
            self._lay(_digits((values - above * step) * 10 ** (shown - decimals), shown))

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


def _render_floats(
    candles: Candles, close_times: NDArray[np.int64], pieces: list[str], contract_decimals: int
) -> tuple[bytes, NDArray[np.int64]]:
    """The slow way, for files whose numbers share no decimal step; such files know nothing but prices and volume."""
    prices = dict(zip(("open", "high", "low", "close", "volume"), candles.prices(), strict=True))
    known = {"time": candles.time, "time_s": candles.time // 1000, "closes": close_times, **prices}
    known |= {"ends": close_times + 1}
    known |= {"contracts": prices["volume"] * 10.0**contract_decimals}
    columns = [known.get(name, np.zeros(len(candles), dtype=np.int64)).tolist() for name in pieces[1::2]]
    texts = pieces[2::2]
    rows = [
        (pieces[0] + "".join(_plain(v) + text for v, text in zip(values, texts, strict=True)) + ",").encode()
        for values in zip(*columns, strict=True)
    ]
    return b"".join(rows), np.cumsum([len(row) for row in rows], dtype=np.int64)


def _plain(value: Any) -> str:
    return f"{Decimal(repr(value)):f}"
