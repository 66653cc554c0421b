"""What InfluxQL answers, decoded: candles from MessagePack without a loop, everything else from JSON. Pure.

MessagePack carries each double in its eight bytes, so that a candle comes back bit for bit, and a row of whole candles is
always 55 bytes, so that numpy reads them all at once. CSV would be slower, and keeps silent about errors: where a query
fails, its CSV is an empty answer with status 200.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from chandlery.errors import DatabaseError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_DOUBLE = 0xCB
_INT64, _UINT64 = 0xD3, 0xCF


def _signed(digits: str) -> int | float:
    return -0.0 if digits == "-0" else int(digits)


class OddRows(Exception):
    """Rows that are not all whole candles: a field is not there, or is no float. Ask for them as JSON."""


class QueryFailed(Exception):
    """The server's own words about a statement that it could not answer."""


@dataclass(slots=True)
class Rows:
    """Rows of one series: its tags (empty ones left out), the names of its columns, and the rows; times in epoch ns."""

    name: str
    tags: Mapping[str, str]
    columns: Sequence[str]
    values: list[list[Any]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Block:
    """Rows without gaps of one series: times in epoch ns, and a column of doubles for each field."""

    tags: Mapping[str, str]
    times: NDArray[np.int64]
    doubles: Sequence[NDArray[np.float64]]


def rows_of_json(body: bytes, statements: int, *, signed: bool = False) -> list[list[Rows]]:
    """The series that answer each statement; raises QueryFailed with the server's words, DatabaseError if it is cut.

    The server writes -0.0 as -0, which is the whole number 0 to a reader of JSON: with `signed` it stays what it was.
    """
    found: list[list[Rows]] = [[] for _ in range(statements)]
    done: set[int] = set()
    for line in body.split(b"\n"):
        if not line.strip():
            continue
        try:
            document = json.loads(line, parse_int=_signed) if signed else orjson.loads(line)
            results = document.get("results", [])
        except (ValueError, AttributeError):
            raise _cut() from None
        if "error" in document:
            raise QueryFailed(str(document["error"]))
        for result in results:
            if "error" in result:
                raise QueryFailed(str(result["error"]))
            number = int(result["statement_id"])
            _finish(done, number, partial=bool(result.get("partial")))
            for part in result.get("series", []):
                _add(found[number], part)
    if done != set(range(statements)):
        raise _cut()
    return found


def _finish(done: set[int], number: int, *, partial: bool) -> None:
    """The last answer to a statement is the one that is not partial."""
    if partial:
        done.discard(number)
    else:
        done.add(number)


def _add(found: list[Rows], part: dict[str, Any]) -> None:
    tags = {name: value for name, value in part.get("tags", {}).items() if value}
    name = str(part.get("name", ""))
    if not found or found[-1].tags != tags or found[-1].name != name:
        found.append(Rows(name, tags, part["columns"]))
    found[-1].values.extend(part.get("values") or [])


def blocks_of_msgpack(body: bytes, statements: int) -> list[list[Block]]:
    """The blocks of rows that answer each statement, in their order.

    Raises QueryFailed with the server's words, OddRows if a row is not a time and doubles, DatabaseError if it is cut.
    """
    found: list[list[Block]] = [[] for _ in range(statements)]
    done: set[int] = set()
    reader = _Reader(body)
    try:
        while reader.at < len(body):
            for result in reader.value()["results"]:
                if "error" in result:
                    raise QueryFailed(result["error"])
                number = result["statement_id"]
                _finish(done, number, partial=result.get("partial", False))
                for part in result.get("series", ()):
                    tags = {name: value for name, value in part.get("tags", {}).items() if value}
                    times, doubles = part["values"]
                    found[number].append(Block(tags, times, doubles))
    except (struct.error, KeyError, TypeError, IndexError, ValueError, AttributeError):
        raise _cut() from None
    if done != set(range(statements)):
        raise _cut()
    return found


class _Reader:
    """So much of MessagePack as an answer is made of; the array under "values" becomes numpy arrays."""

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.at = 0

    def value(self) -> Any:
        """The next value, whatever it is."""
        kind = self._number(">B")
        if kind < 0x80:
            return kind
        if kind < 0x90 or kind in (0xDE, 0xDF):
            return self._map(kind & 0x0F if kind < 0x90 else self._number(">H" if kind == 0xDE else ">I"))
        if kind < 0xA0 or kind in (0xDC, 0xDD):
            size = kind & 0x0F if kind < 0xA0 else self._number(">H" if kind == 0xDC else ">I")
            return [self.value() for _ in range(size)]
        if kind < 0xC0 or kind in (0xD9, 0xDA, 0xDB):
            size = kind & 0x1F if kind < 0xC0 else self._number({0xD9: ">B", 0xDA: ">H", 0xDB: ">I"}[kind])
            return self._text(size)
        if kind in (0xC2, 0xC3):
            return kind == 0xC3
        numbers = {0xCC: ">B", 0xCD: ">H", 0xCE: ">I", 0xD0: ">b", 0xD1: ">h", 0xD2: ">i"}
        return self._number(numbers[kind])

    def _map(self, size: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for _ in range(size):
            name = self.value()
            found[name] = self._rows(len(found["columns"]) - 1) if name == "values" else self.value()
        return found

    def _rows(self, fields: int) -> tuple[NDArray[np.int64], list[NDArray[np.float64]]]:
        kind = self._number(">B")
        size = kind & 0x0F if 0x90 <= kind < 0xA0 else self._number({0xDC: ">H", 0xDD: ">I"}[kind])
        row = _row(fields)
        if self.at + size * row.itemsize > len(self.body):
            raise OddRows  # rows with gaps are shorter; where the answer is cut, the JSON will tell
        rows = np.frombuffer(self.body, row, size, self.at)
        whole = (rows["array"] == 0x91 + fields) & np.isin(rows["int"], (_INT64, _UINT64))
        for number in range(fields):
            whole &= rows[f"is_double{number}"] == _DOUBLE
        if not whole.all():
            raise OddRows
        self.at += rows.nbytes
        doubles = [rows[f"double{number}"].astype(np.float64) for number in range(fields)]
        return rows["time"].astype(np.int64), doubles

    def _number(self, form: str) -> int:
        (found,) = struct.unpack_from(form, self.body, self.at)
        self.at += struct.calcsize(form)
        return int(found)

    def _text(self, size: int) -> str:
        if self.at + size > len(self.body):
            raise ValueError
        self.at += size
        return self.body[self.at - size : self.at].decode()


@lru_cache
def _row(fields: int) -> np.dtype[np.void]:
    """A row as it lies in the answer: each value after a byte that says what it is."""
    row: list[tuple[str, str]] = [("array", "u1"), ("int", "u1"), ("time", ">i8")]
    for number in range(fields):
        row += [(f"is_double{number}", "u1"), (f"double{number}", ">f8")]
    return np.dtype(row)


def _cut() -> DatabaseError:
    return DatabaseError(
        "an answer of InfluxDB ended too early, or is none",
        hint="ask again; is INFLUXDB_URL an InfluxDB 2?",
    )
