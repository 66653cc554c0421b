"""Tables that are too wide for the terminal, made narrower step by step, the least loss first."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Mark:
    """A table cell in a rich style, which is left out where stdout is no terminal."""

    text: str
    style: str


Cell = str | int | float | Mark | None
Table = tuple[list[str], list[list[Cell]]]

#: Heads and words of ours by shorter ones.
_HEADS = {
    "before listing": "unlisted",
    "after end": "ended",
    "out of reach": "too old",
    "quarantined": "refused",
    "duplicates": "twice",
}
_WORDS = {"complete": "✅", "incomplete": "❌", "out of reach": "❌", "failed": "❌"}
#: Counts that say nothing where they are 0 in every row.
_RARE = frozenset({"absent", "missing", "pending", *_HEADS, *_HEADS.values()})
#: The longest value of a habit in a narrow table.
_VALUE = 24
_TIME = re.compile(r"\d{4}-\d{2}-\d{2} \d{2}:\d{2}(:\d{2})?")


def narrower(columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> Iterator[Table]:
    """The table in narrower and narrower forms."""
    table: Table = (list(columns), [list(row) for row in rows])
    steps = (
        _with_cut_values,
        _without_midnight,
        _with_marks,
        _with_short_heads,
        _without_zeros,
        _without_state,
        _without_year,
    )
    for step in (*steps, _by_days):
        table = step(*table)
        yield table


def _times(rows: Sequence[Sequence[Cell]], number: int) -> list[str]:
    """The cells of a column of times; empty if it is none."""
    cells = [row[number] for row in rows if row[number] not in (None, "")]
    return [str(c) for c in cells] if all(isinstance(c, str) and _TIME.fullmatch(c) for c in cells) else []


def _cut(rows: list[list[Cell]], number: int, begin: int, end: int | None) -> None:
    for row in rows:
        cell = row[number]
        row[number] = cell[begin:end] if isinstance(cell, str) else cell


def _with_cut_values(columns: list[str], rows: list[list[Cell]]) -> Table:
    """Values of habits cut where they are long: what became of them stands behind them, --json has them whole."""
    if "habit" not in columns:
        return columns, rows
    return columns, [
        [f"{c[: _VALUE - 1].rstrip()}…" if isinstance(c, str) and len(c) > _VALUE else c for c in row]
        for row in rows
    ]


def _without_midnight(columns: list[str], rows: list[list[Cell]]) -> Table:
    """Days alone where every time is a midnight."""
    for number in range(len(columns)):
        times = _times(rows, number)
        if times and all(time.endswith(" 00:00") for time in times):
            _cut(rows, number, 0, 10)
    return columns, rows


def _with_marks(columns: list[str], rows: list[list[Cell]]) -> Table:
    """Signs in place of the words of a verdict."""
    return columns, [
        [replace(c, text=_WORDS.get(c.text, c.text)) if isinstance(c, Mark) else c for c in row]
        for row in rows
    ]


def _with_short_heads(columns: list[str], rows: list[list[Cell]]) -> Table:
    return [_HEADS.get(name, name) for name in columns], rows


def _without_zeros(columns: list[str], rows: list[list[Cell]]) -> Table:
    """Only the counts that are not 0 everywhere."""
    kept = [
        n
        for n, name in enumerate(columns)
        if name not in _RARE or any(row[n] not in (0, None) for row in rows)
    ]
    return [columns[n] for n in kept], [[row[n] for n in kept] for row in rows]


def _without_state(columns: list[str], rows: list[list[Cell]]) -> Table:
    """Gaps without their state where there is a reason, which says more."""
    kept = [n for n, name in enumerate(columns) if name != "state" or "reason" not in columns]
    return [columns[n] for n in kept], [[row[n] for n in kept] for row in rows]


def _without_year(columns: list[str], rows: list[list[Cell]]) -> Table:
    """A column of times of one year says it once, in its head."""
    heads = list(columns)
    for number, name in enumerate(columns):
        times = _times(rows, number)
        if name == "time (UTC)" and len({time[:4] for time in times}) == 1:
            heads[number] = f"{times[0][:4]} (UTC)"
            _cut(rows, number, 5, None)
    return heads, rows


def _by_days(columns: list[str], rows: list[list[Cell]]) -> Table:
    """The bounds of series to the day; those of gaps have to be exact."""
    if "reason" in columns:
        return columns, rows
    for number, name in enumerate(columns):
        if name in ("from", "to", "first", "last") and _times(rows, number):
            _cut(rows, number, 0, 10)
    return columns, rows
