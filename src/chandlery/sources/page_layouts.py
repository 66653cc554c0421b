"""Which number of a row is what: learnt from ccxt's own parser, which is shown rows of made-up numbers.

So no table of layouts can grow old, and a page that is read here gives the rows that ccxt would give.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from chandlery.sources.page_text import Carved, Form, carve

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    #: Open times (n) in epoch ms, and open, high, low, close and volume (5, n).
    Columns = tuple[NDArray[np.int64], NDArray[np.float64]]

ParseRow = Callable[[object], Sequence[object]]

#: Exchanges whose parsers look at a row's numbers one by one, so that made-up rows tell all about them (tested).
KNOWN = frozenset(
    "binance binanceus binanceusdm binancecoinm bybit okx kraken coinbase kucoin mexc bitget gate".split()  # noqa: SIM905
)
#: How many digits a time has, and what makes milliseconds of it: seconds from 2001 on, milliseconds from 2001 on.
TIMES: Mapping[int, int] = {10: 1000, 13: 1}


class Layout(NamedTuple):
    """The fields of a row that are a candle's: the time, its digits, and open, high, low, close, volume."""

    time: int
    digits: int
    values: tuple[int, ...]


class UnreadRows(list[object], ABC):
    """The rows of an answer that were not made. Who looks into the list after all finds them.

    What C code sees of it are as many times None, so that a copy made there has rows that are refused, not none.
    """

    def __init__(self, count: int) -> None:
        super().__init__([None] * count)
        self._rows: list[object] | None = None

    @abstractmethod
    def columns(self, market: str, parse_row: ParseRow) -> Columns | None:
        """Open times (n) in epoch ms and values (5, n) of the rows; None where they must be parsed one by one.

        `parse_row` is ccxt's parser for rows of that market.
        """

    def decoded(self) -> list[object]:
        """The rows as ccxt's parser of rows gets them."""
        if self._rows is None:
            self._rows = self._decode()
        return self._rows

    @abstractmethod
    def _decode(self) -> list[object]:
        """Make the rows."""

    def __iter__(self) -> Iterator[object]:
        return iter(self.decoded())

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, str):  # ccxt looks for an error's code in whatever has come
            raise TypeError("list indices must be integers or slices, not str")
        return self.decoded()[index]

    def __eq__(self, other: object) -> bool:
        return self.decoded() == other

    __hash__ = None  # type: ignore[assignment]  # as a list has it


class PageRows(UnreadRows):
    """The rows of an answer that are text still."""

    def __init__(self, carved: Carved, layouts: Layouts) -> None:
        super().__init__(len(carved))
        self.carved = carved
        self.layouts = layouts

    def columns(self, market: str, parse_row: ParseRow) -> Columns | None:
        """The rows as columns, by the layout of their market."""
        return self.layouts.columns(self, market, parse_row)

    def _decode(self) -> list[object]:
        found = orjson.loads(self.carved.json())
        assert isinstance(found, list)
        return found


#: What stands in an answer where its rows were; with its quotes it is JSON.
_MARK = "rows, as text"


def cut_page(body: bytes, layouts: Layouts) -> tuple[PageRows | None, bytes]:
    """The rows of an answer and the answer with a mark in their place; no rows and all of it where that cannot be."""
    found = carve(body)
    if found is None or _MARK.encode() in found[0] + found[2]:
        return None, body
    head, carved, tail = found
    return PageRows(carved, layouts), b'%b"%b"%b' % (head, _MARK.encode(), tail)


def with_rows(document: object, rows: PageRows) -> object:
    """A decoded answer with its rows at the mark. They count as a list of rows that nobody has looked at."""
    if document == [_MARK]:
        return rows
    if isinstance(document, dict):
        return {key: with_rows(value, rows) for key, value in document.items()}
    return [with_rows(value, rows) for value in document] if isinstance(document, list) else document


class Layouts:
    """The layouts of one exchange's markets, as they were learnt."""

    def __init__(self) -> None:
        self._known: dict[Hashable, Layout | None] = {}

    def known(self, key: Hashable, learn: Callable[[], Layout | None]) -> Layout | None:
        """What `learn` found the first time that it was asked for under this key; None if that was nothing."""
        if key not in self._known:
            with suppress(Exception):  # a parser of another project, shown made-up rows: anything can happen
                self._known[key] = learn()
        return self._known.setdefault(key, None)

    def columns(self, rows: PageRows, market: str, parse_row: ParseRow) -> Columns | None:
        """The rows of a page as columns; None where they must be parsed one by one."""
        carved = rows.carved
        layout = self.known((market, carved.form), lambda: learnt(carved, parse_row))
        if layout is None:
            return None
        found = carved.table(layout.time, layout.values)
        if found is None or found[1] != layout.digits:
            return None
        times, digits, values = found
        return times if TIMES[digits] == 1 else times * TIMES[digits], values


def learnt(carved: Carved, parse_row: ParseRow) -> Layout | None:
    """The layout that ccxt's parser shows by what it makes of two rows of made-up numbers; None if it is none."""
    row = orjson.loads(carved.first())
    layouts = [_traced(carved.form, row, turn, parse_row) for turn in (1, 2)]
    return layouts[0] if layouts[0] == layouts[1] else None


def _traced(form: Form, row: Any, turn: int, parse_row: ParseRow) -> Layout | None:
    """Where the numbers of one made-up row come out again."""
    made: dict[int, int] = {}  # the number of each field
    fake = row.copy()
    for index, field in enumerate(form.fields):
        if field.before is None:
            continue
        old = row[field.key]
        digits = len(str(old))
        # A number that may be a time stays one, for a parser that tells seconds by their digits.
        base = 1_500_000_000 if digits == 10 else 1_500_000_000_000 if digits == 13 else 5_000
        made[index] = base + (17 * index if turn == 1 else 1_000 - 19 * index)
        fake[field.key] = str(made[index]) if field.quoted else made[index]
    time, *values = parse_row(fake)
    if len(values) != 5:
        return None
    fields = [_only(made, value) for value in values]
    for digits, factor in TIMES.items():
        opened = _only({i: n * factor for i, n in made.items() if len(str(n)) == digits}, time)
        if opened is not None and None not in fields:
            return Layout(opened, digits, tuple(field for field in fields if field is not None))
    return None


def _only(made: Mapping[int, int], value: object) -> int | None:
    found = [index for index, number in made.items() if value == number]
    return found[0] if len(found) == 1 else None


def symbol_of(market: Mapping[str, object] | None) -> str:
    """The symbol of a market as ccxt has it."""
    return str((market or {}).get("symbol"))
