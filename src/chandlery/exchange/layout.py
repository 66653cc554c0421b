"""How an exchange writes candles: the text of a row, or of an element of each column, with fields in angle brackets."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

#: What may stand in angle brackets. Decimals: prices, volume and taker (base currency), turnover and taker_turnover (quote
#: currency), contracts (volume in contracts), vwap. Whole numbers: time, closes and ends (milliseconds; the last one of the
#: candle, the first one after it), time_s (seconds), trades, lots (volume in the smallest step).
FIELDS = frozenset(
    "time time_s closes ends open high low close volume turnover taker taker_turnover contracts vwap trades lots".split()  # noqa: SIM905
)
_FIELD = re.compile(r"<([a-z_]+)>")


class RowLayout:
    """One layout of rows, such as `RowLayout('["<time>","<open>","<high>","<low>","<close>","<volume>"]')`.

    `decimals` is how many of them each decimal number has (more are cut off); None is the pair's own number.
    `descending` puts the newest row first. `in_progress` is the text of the row of the candle that is not over yet, where
    that differs. Raises `ValueError` for a text that is not the JSON of a list or an object of known fields.
    """

    def __init__(
        self,
        row: str,
        *,
        decimals: int | None = None,
        descending: bool = False,
        in_progress: str | None = None,
    ) -> None:
        self.decimals = decimals
        self.descending = descending
        #: Text and names of fields in turns, beginning with text.
        self.pieces = _FIELD.split(row)
        self.open_pieces = _FIELD.split(in_progress or row)
        unknown = {*self.pieces[1::2], *self.open_pieces[1::2]} - FIELDS
        if unknown:
            raise ValueError(f"no field of a candle: {', '.join(sorted(unknown))}")
        #: Where each field stands in a decoded row: indexes of a list, names of an object.
        self.places: Mapping[str, tuple[Any, ...]] = _places(row)


class ColumnLayout:
    """Candles as an object of lists, such as `ColumnLayout({"time": "<time_s>", "open": "<open>", "vol": "<contracts>"})`.

    Raises `ValueError` as `RowLayout` does.
    """

    def __init__(self, columns: Mapping[str, str]) -> None:
        #: The elements of each list, by its name.
        self.columns = {name: RowLayout(text) for name, text in columns.items()}
        #: A candle as the list of its elements in all columns.
        self.rows = RowLayout("[" + ",".join(columns.values()) + "]")


def _places(row: str) -> dict[str, tuple[Any, ...]]:
    decoded = json.loads(re.sub(r'"?<([a-z_]+)>"?', r'"<\1>"', row))
    items = decoded.items() if isinstance(decoded, dict) else enumerate(decoded)
    places: dict[str, tuple[Any, ...]] = {}
    for place, value in items:
        match = _FIELD.fullmatch(value) if isinstance(value, str) else None
        if match:
            places[match[1]] = (*places.get(match[1], ()), place)
    return places
