"""Candles as arrays, as the columnar blob in which an arrived page is staged, and as Parquet bytes. Pure."""

from __future__ import annotations

import io
import sys
import zlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import polars as pl

from chandlery.candle import COLUMNS, SCHEMA, VALUES

if TYPE_CHECKING:
    from numpy.typing import NDArray

if sys.byteorder != "little":  # pragma: no cover
    raise ImportError("the embedded store keeps little-endian numbers and was not written for this computer")


_FEW = 1000  # rows
#: Bytes that are compressed at a time: a fifth faster than 1 MB, for a hundredth of the size.
_DATA_PAGE = 128 << 10
#: Powers of ten: a column of decimals is staged as the whole numbers that one of these divides, if they are int32.
_SCALES = np.array([1, 10, 100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000], np.float64)
#: In the end of a staged block, where a column's decimal places stand: it is kept as doubles.
_DOUBLES = 255
_FEWEST = 32  # rows; what fewer would save is not worth the search
_SAMPLE = 8  # rows that the decimal places are guessed from


class Block(NamedTuple):
    """Candles as arrays: open times (n), ascending and unique, and values (5, n)."""

    times: NDArray[np.int64]
    values: NDArray[np.float64]

    def part(self, low: int, high: int) -> Block:
        """Candles number `low` up to but not including `high`."""
        return Block(self.times[low:high], self.values[:, low:high])

    def between(self, since: int, until: int) -> Block:
        """Candles that open in [since, until)."""
        return self.part(int(np.searchsorted(self.times, since)), int(np.searchsorted(self.times, until)))


class Staged(NamedTuple):
    """A block as it lies in the catalogue. `step` is its even spacing in ms; without one the blob begins with the times.

    Then come the columns that are whole numbers of 10**-k, as int32, the other columns, as doubles, and an end of five
    bytes: the k of each column in the order of candle.VALUES, or _DOUBLES. Where no column is kept as int32 there is no
    end, and so it is in all blocks of the catalogue's schemas 2 and 3. Without an end the length is a multiple of 8;
    with one it is odd (a multiple of 4, and 5), so neither is ever taken for the other.
    """

    first: int
    last: int
    rows: int
    step: int | None
    data: bytes
    crc: int

    @property
    def end(self) -> bytes:
        """The five bytes that say how the columns are kept, none if all are doubles without a word about it."""
        return self.data[-len(VALUES) :] if len(self.data) % 8 else b""


def pack(block: Block, guess: bytes = b"") -> Staged:
    """A block, not empty, as it is staged. `guess` is the end of one that was alike: it saves time, where it holds."""
    times, values = block
    rows = len(times)
    first, last = int(times[0]), int(times[-1])
    step: int | None = 0
    if rows > 1:
        step = int(times[1]) - first
        if last - first != step * (rows - 1) or not (np.diff(times) == step).all():
            step = None
    found = _as_whole(values, guess) if rows >= _FEWEST else None
    if found is None:
        data = values.tobytes()
    else:
        places, whole = found
        kept = places != _DOUBLES
        if kept.all():
            data = whole.tobytes() + places.tobytes()
        else:
            data = whole[kept].tobytes() + values[~kept].tobytes() + places.tobytes()
    if step is None:
        data = times.tobytes() + data
    return Staged(first, last, rows, step, data, zlib.crc32(data))


def _as_whole(
    values: NDArray[np.float64], guess: bytes
) -> tuple[NDArray[np.uint8], NDArray[np.int32]] | None:
    """The columns (5, n) as int32, and the decimal places (5) of each, _DOUBLES where int32 would not be the same.

    None if that is so of every column. What counts is that the division gives back every bit, so neither -0.0 nor NaN
    nor a number that int32 cannot hold passes.
    """
    bits = values.view(np.int64)
    with np.errstate(invalid="ignore", over="ignore"):
        if guess and _DOUBLES not in guess:
            places = np.frombuffer(guess, np.uint8)
            whole, same = _tried(values, bits, _SCALES[places][:, None])
            if same.all():
                return places, whole
        every = max(1, values.shape[1] // _SAMPLE)
        places = _decimal_places(values[:, ::every])
        while (places != _DOUBLES).any():
            scales = _SCALES[np.minimum(places, len(_SCALES) - 1)][:, None]
            whole, same = _tried(values, bits, scales)
            if same.all():
                return places, whole
            wrong = np.flatnonzero(~same.all(axis=1) & (places != _DOUBLES))
            if not len(wrong):
                return places, whole
            for column in wrong:  # the guess was too low, or too high for the greatest numbers
                row = int(same[column].argmin())
                needed = _decimal_places(values[column : column + 1, row : row + 1])[0]
                places[column] = needed if needed > places[column] else _DOUBLES
    return None


def _decimal_places(values: NDArray[np.float64]) -> NDArray[np.uint8]:
    """How many decimal places give all numbers of a column back, for each of the columns (m, n); else _DOUBLES."""
    values = values[:, None, :]
    _, same = _tried(values, values.view(np.int64), _SCALES[:, None])
    whole_column: NDArray[np.bool_] = np.logical_and.reduce(same, axis=2)
    return np.where(whole_column.any(axis=1), whole_column.argmax(axis=1), _DOUBLES).astype(np.uint8)


def _tried(
    values: NDArray[np.float64], bits: NDArray[np.int64], scales: NDArray[np.float64]
) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """The numbers as whole ones, and which of them, divided by their scale, have the very same bits again."""
    scaled = values * scales
    whole = np.rint(scaled, out=scaled).astype(np.int32)
    return whole, np.divide(whole, scales, out=scaled).view(np.int64) == bits


def unpack(staged: Staged) -> Block | None:
    """The block again, of either form; None if its bytes are not those that were packed."""
    first, _, rows, step, data, crc = staged
    begin = 0 if step is not None else rows * 8
    end = staged.end
    doubles = end.count(_DOUBLES) if end else len(VALUES)
    wholes = len(VALUES) - doubles
    if len(data) != begin + rows * (4 * wholes + 8 * doubles) + len(end) or zlib.crc32(data) != crc:
        return None
    if step is None:
        times = np.frombuffer(data, "<i8", rows)
    else:
        times = first + np.arange(rows, dtype=np.int64) * step
    if not end:
        return Block(times, np.frombuffer(data, "<f8", offset=begin).reshape(5, rows))
    places = np.frombuffer(end, np.uint8)
    kept = places != _DOUBLES
    if (places[kept] >= len(_SCALES)).any():
        return None
    whole = np.frombuffer(data, "<i4", wholes * rows, begin).reshape(wholes, rows)
    if not doubles:
        return Block(times, whole / _SCALES[places][:, None])
    values = np.empty((len(VALUES), rows))
    values[kept] = whole / _SCALES[places[kept]][:, None]
    rest = np.frombuffer(data, "<f8", doubles * rows, begin + wholes * rows * 4)
    values[~kept] = rest.reshape(doubles, rows)
    return Block(times, values)


def unpack_times(staged: Staged) -> NDArray[np.int64]:
    """The open times alone."""
    if staged.step is None:
        return np.frombuffer(staged.data, "<i8", staged.rows)
    return staged.first + np.arange(staged.rows, dtype=np.int64) * staged.step


def empty() -> Block:
    """No candles."""
    return Block(np.empty(0, np.int64), np.empty((5, 0), np.float64))


def overlay(blocks: Sequence[Block]) -> Block:
    """All blocks as one; of candles that open at the same time the one of the later block stays."""
    filled = [block for block in blocks if len(block.times)]
    if not filled:
        return empty()
    if len(filled) == 1:
        return filled[0]
    times = np.concatenate([block.times for block in filled])
    values = np.concatenate([block.values for block in filled], axis=1)
    if (times[1:] > times[:-1]).all():
        return Block(times, values)
    order = np.argsort(times, kind="stable")
    times = times[order]
    stays = np.append(times[1:] != times[:-1], True)
    return Block(times[stays], values[:, order[stays]])


def overlay_times(parts: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """The open times of all parts, ascending and unique."""
    if len(parts) == 1:
        return parts[0]
    times: NDArray[np.int64] = np.concatenate(parts) if parts else np.empty(0, np.int64)
    if (times[1:] > times[:-1]).all():
        return times
    times.sort(kind="stable")  # of runs that ascend it merely merges; np.unique takes a hundred times as long
    first = np.ones(len(times), np.bool_)
    first[1:] = times[1:] != times[:-1]
    return times[first]


def to_frame(block: Block) -> pl.DataFrame:
    """A block as a frame of candle.SCHEMA."""
    columns = [pl.Series("time", block.times, dtype=pl.Int64).cast(SCHEMA["time"])]
    columns += [pl.Series(name, block.values[i], dtype=pl.Float64) for i, name in enumerate(VALUES)]
    return pl.DataFrame(columns)


def from_frame(frame: pl.DataFrame) -> Block:
    """A frame of candle.SCHEMA as a block."""
    times = frame["time"].to_physical().to_numpy()
    return Block(times, np.array([frame[name].to_numpy() for name in VALUES]).reshape(5, len(times)))


def to_parquet(block: Block, metadata: Mapping[str, str]) -> bytes:
    """A block as the bytes of a Parquet file with that key-value metadata."""
    # In a file of a few hundred rows statistics and loose compression would be a tenth of it, and skip nothing.
    small = len(block.times) < _FEW
    buffer = io.BytesIO()
    to_frame(block).write_parquet(
        buffer,
        compression="zstd",
        compression_level=19 if small else 2,  # 3 takes longer and saves nothing
        statistics=not small,
        row_group_size=1 << 20,
        data_page_size=_DATA_PAGE,
        metadata=dict(metadata),
    )
    return buffer.getvalue()


def from_parquet(data: bytes, *, times_only: bool = False) -> pl.DataFrame:
    """The candles, or only their `time`, of a file that `to_parquet` made."""
    columns = ["time"] if times_only else list(COLUMNS)
    return pl.read_parquet(io.BytesIO(data), columns=columns, use_pyarrow=False)
