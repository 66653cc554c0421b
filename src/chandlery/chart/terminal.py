"""A chart as text: one column per candle, two heights per line, volume as a row of blocks."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

from chandlery.chart.bars import Bars, decimals_for, padded, ticks

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# Each half of a cell holds nothing, wick or body: the cell's sign is found by (upper half, lower half).
_NONE, _WICK, _BODY = 0, 1, 2
_LINES = {
    (0, 0): " ",
    (0, 1): "╷",
    (1, 0): "╵",
    (1, 1): "│",
    (0, 2): "╻",
    (2, 0): "╹",
    (2, 2): "┃",
    (1, 2): "╽",
    (2, 1): "╿",
}
# Without colours what falls is drawn solid.
_BLOCKS = {**_LINES, (0, 2): "▄", (2, 0): "▀", (2, 2): "█", (1, 2): "▄", (2, 1): "▀"}
_LEVELS = " ▁▂▃▄▅▆▇█"
_GREEN, _RED, _DIM, _BOLD, _PLAIN = "\x1b[32m", "\x1b[31m", "\x1b[2m", "\x1b[1m", "\x1b[0m"
_LABEL = 13  # columns on the right for prices
_VOLUME_LINES = 3


def text_bars(width: int) -> int:
    """How many bars a chart of that many columns has room for."""
    return max(10, width - _LABEL)


def draw_text(bars: Bars, *, width: int = 80, height: int = 24, colour: bool = False) -> str:
    """The bars as at most `height` lines (at least 14) of at most `width` columns (at least 40), with escape codes only
    if `colour`. Ends without a line break.
    """
    width, height = max(40, width), max(14, height)
    lines = height - _VOLUME_LINES - 5
    columns = _Columns(bars, text_bars(width))
    low, high = padded(float(bars.low.min()), float(bars.high.max()))
    cells = _price_cells(bars, columns, lines, low, high, colour)
    labels = _price_labels(low, high, lines)
    out = [
        _styled(_cut(bars.title, width), _BOLD, colour),
        _styled(_cut(bars.range_text, width), _DIM, colour),
    ]
    out += [
        _painted(row, columns.up, colour) + " " + _styled("┤ " + label if label else "│", _DIM, colour)
        for row, label in zip(cells, labels, strict=True)
    ]
    out += _volume_rows(bars, columns, colour)
    rule, times = _time_rows(bars, columns)
    out += [_styled(rule, _DIM, colour), _styled(times, _DIM, colour)]
    if not colour:
        out.append("┃ up  █ down  space: no candle")
    return "\n".join(line.rstrip() for line in out)


class _Columns:
    """Which column of the canvas each bar stands in: `each` columns per slot, the bar in the first of them."""

    def __init__(self, bars: Bars, width: int) -> None:
        import numpy as np

        first = int(bars.slot[0])
        slots = int(bars.slot[-1]) - first + 1
        self.each = max(1, min(3, width // slots))
        self.width = max(slots * self.each, 24)
        self.first = first
        self.of_bar = (bars.slot - first) * self.each
        self.up = np.ones(self.width, dtype=np.bool_)
        self.up[self.of_bar] = bars.close >= bars.open


def _price_cells(
    bars: Bars, columns: _Columns, lines: int, low: float, high: float, colour: bool
) -> list[list[str]]:
    """The canvas of the price panel as signs, the highest line first."""
    import numpy as np

    halves = 2 * lines
    fine = np.zeros((halves, columns.width), dtype=np.int8)

    def level(price: NDArray[np.float64]) -> NDArray[np.int64]:
        return np.clip(((high - price) / (high - low) * halves).astype(np.int64), 0, halves - 1)

    y = np.arange(halves)[:, None]
    body_top, body_end = level(np.maximum(bars.open, bars.close)), level(np.minimum(bars.open, bars.close))
    drawn = np.where((y >= level(bars.high)) & (y <= level(bars.low)), _WICK, _NONE)
    fine[:, columns.of_bar] = np.where((y >= body_top) & (y <= body_end), _BODY, drawn)
    up = columns.up
    return [
        [
            (_LINES if colour or up[n] else _BLOCKS)[int(a), int(b)]
            for n, (a, b) in enumerate(zip(fine[2 * row], fine[2 * row + 1], strict=True))
        ]
        for row in range(lines)
    ]


def _price_labels(low: float, high: float, lines: int) -> list[str]:
    """A price for every fourth line, the price at the middle of that line."""
    step = (high - low) / lines
    digits = decimals_for(step)
    labels = [f"{high - (row + 0.5) * step:,.{digits}f}" for row in range(lines)]
    shown = [
        label if len(label) <= _LABEL - 3 else f"{high - (row + 0.5) * step:.4g}"
        for row, label in enumerate(labels)
    ]
    return [label if row % 4 == 1 else "" for row, label in enumerate(shown)]


def _volume_rows(bars: Bars, columns: _Columns, colour: bool) -> list[str]:
    import numpy as np

    top = float(bars.volume.max())
    eighths = np.zeros(columns.width, dtype=np.int64)
    if top > 0:
        # A volume that is not 0 is seen, however small beside the greatest.
        eighths[columns.of_bar] = np.ceil(bars.volume / top * 8 * _VOLUME_LINES)
    rows = []
    for line in reversed(range(_VOLUME_LINES)):
        signs = [_LEVELS[min(8, max(0, int(e) - 8 * line))] for e in eighths]
        label = f"┤ vol {_short(top)}" if line == _VOLUME_LINES - 1 else "│"
        rows.append(_painted(signs, columns.up, colour) + " " + _styled(label, _DIM, colour))
    return rows


def _time_rows(bars: Bars, columns: _Columns) -> tuple[str, str]:
    """The axis and the times under it; a text that would touch its neighbour is left out."""
    rule = ["─"] * columns.width
    times = [" "] * (columns.width + 12)
    free = 0
    for place, text in ticks(bars, max(2, columns.width // 10)):
        column = round((place - columns.first) * columns.each)
        if 0 <= column < columns.width:
            start = max(0, column - len(text) // 2)
            rule[column] = "┬"
            if start >= free and start + len(text) <= len(times):
                times[start : start + len(text)] = text
                free = start + len(text) + 2
    return "".join(rule) + "─┘", "".join(times)


def _painted(signs: list[str], up: NDArray[np.bool_], colour: bool) -> str:
    if not colour:
        return "".join(signs)
    keys = [(_GREEN if up[n] else _RED) if sign != " " else "" for n, sign in enumerate(signs)]
    runs = groupby(zip(keys, signs, strict=True), key=lambda pair: pair[0])
    return "".join(_styled("".join(s for _, s in run), key, bool(key)) for key, run in runs)


def _styled(text: str, style: str, colour: bool) -> str:
    return f"{style}{text}{_PLAIN}" if colour and text else text


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 3] + "..."


def _short(value: float) -> str:
    """A volume in at most six signs, such as 12.3k."""
    for factor, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:.3g}{unit}"
    return f"{value:.3g}"
