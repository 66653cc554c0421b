"""An answer whose candles come as columns: a list of open times, a list of opening prices, and so on.

ccxt makes rows of them, of which each number is looked up on its own, and then parses the rows. Here its parser is shown
columns of made-up numbers, which tell what it makes of which column; the real ones become arrays as they are. Whatever
is not plain (another value than a number, columns of unequal length, a value beside them) is left to the usual way.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from chandlery.sources.page_layouts import TIMES, Layout, UnreadRows

if TYPE_CHECKING:
    from chandlery.sources.page_layouts import Columns, Layouts, ParseRow

#: ccxt's way from columns by name to rows.
Convert = Callable[[dict[str, list[object]]], list[object]]

#: More columns than these are none of candles.
_MOST_COLUMNS = 50


class ColumnRows(UnreadRows):
    """The rows of an answer that are columns still."""

    def __init__(
        self, data: dict[str, list[object]], convert: Convert, name: Hashable, layouts: Layouts
    ) -> None:
        self.names = tuple(data)
        super().__init__(len(data[self.names[0]]))
        self.data = data
        self.convert = convert
        self.name = name
        self.layouts = layouts
        self._columns: Columns | None = None

    def columns(self, market: str, parse_row: ParseRow) -> Columns | None:
        """The columns that are a candle's, by what ccxt makes of them for this market."""
        for digits in TIMES if self._columns is None else ():
            learn = partial(learnt_columns, self.names, digits, self.convert, parse_row)
            layout = self.layouts.known((market, self.name, self.names, digits), learn)
            if layout is not None and (found := self._arrays(layout)) is not None:
                self._columns = found
                break
        return self._columns

    def _decode(self) -> list[object]:
        return self.convert(self.data)

    def _arrays(self, layout: Layout) -> Columns | None:
        times = self.data[self.names[layout.time]]
        columns = [self.data[self.names[field]] for field in layout.values]
        # A bool is an int to Python, and text of a number is one to numpy: only these very types are taken.
        if set(map(type, times)) != {int} or not all(set(map(type, c)) <= {int, float} for c in columns):
            return None
        with suppress(OverflowError):  # a whole number of any length is JSON
            opened, values = np.array(times, dtype=np.int64), np.array(columns, dtype=np.float64)
            least = 10 ** (layout.digits - 1)
            if least <= int(opened.min()) and int(opened.max()) < 10 * least and np.isfinite(values).all():
                return opened * TIMES[layout.digits], values
        return None


def column_rows(data: object, convert: Convert, name: Hashable, layouts: Layouts) -> list[object]:
    """The rows of `data`: not made yet where it is nothing but columns of equal length, else as `convert` makes them.

    `name` tells one way to convert from another.
    """
    if isinstance(data, dict) and 0 < len(data) <= _MOST_COLUMNS:
        columns = data.values()
        if all(type(column) is list for column in columns):
            lengths = set(map(len, columns))
            if len(lengths) == 1 and lengths != {0}:
                return ColumnRows(data, convert, name, layouts)
    return convert(data)  # type: ignore[arg-type]


def learnt_columns(
    names: tuple[str, ...], digits: int, convert: Convert, parse_row: ParseRow
) -> Layout | None:
    """Which column is what, shown by two rows of made-up numbers of so many digits; None if that is not to be seen."""
    # Cubes, because none of them is the mean of two others; of each column an even and an odd one.
    count, least = len(names), 15 * 10 ** (digits - 2)
    made = [[least + (index + row * (count | 1)) ** 3 for row in (0, 1)] for index in range(count)]
    rows = convert({name: list(column) for name, column in zip(names, made, strict=True)})
    if len(rows) != 2:
        return None
    layouts = [
        _traced([column[turn] for column in made], digits, parse_row(row)) for turn, row in enumerate(rows)
    ]
    return layouts[0] if layouts[0] == layouts[1] else None


def _traced(made: list[int], digits: int, parsed: object) -> Layout | None:
    """Where the made-up numbers of a row came out."""
    if not isinstance(parsed, list) or len(parsed) != 6:
        return None
    time, *values = parsed
    fields = {number: index for index, number in enumerate(made)}
    found = [fields.get(value) for value in values]
    opened = {number * TIMES[digits]: index for number, index in fields.items()}.get(time)
    known = tuple(field for field in found if field is not None)
    return None if opened is None or len(known) < len(found) else Layout(opened, digits, known)
