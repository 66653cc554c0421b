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
    raise ImportError("the embedded store keeps little-endian numbers and was not written for this machine")


_FEW = 1000  # rows
#: Bytes that are compressed at a time: a fifth faster than 1 MB, for a hundredth of the size.
_DATA_PAGE = 128 << 10


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
    """A block as it lies in the catalogue. `step` is its even spacing in ms; without one the blob begins with the times."""

    first: int
    last: int
    rows: int
    step: int | None
    data: bytes
    crc: int


def pack(block: Block) -> Staged:
    """A block, not empty, as it is staged."""
    times, values = block
    rows = len(times)
    first, last = int(times[0]), int(times[-1])
    step: int | None = 0
    if rows > 1:
        step = int(times[1]) - first
        if last - first != step * (rows - 1) or not (np.diff(times) == step).all():
            step = None
    data = values.tobytes() if step is not None else times.tobytes() + values.tobytes()
    return Staged(first, last, rows, step, data, zlib.crc32(data))


def unpack(staged: Staged) -> Block | None:
    """The block again; None if its bytes are not those that were packed."""
    first, _, rows, step, data, crc = staged
    if len(data) != rows * 8 * (5 if step is not None else 6) or zlib.crc32(data) != crc:
        return None
    if step is None:
        times = np.frombuffer(data, "<i8", rows)
        return Block(times, np.frombuffer(data, "<f8", offset=rows * 8).reshape(5, rows))
    times = first + np.arange(rows, dtype=np.int64) * step
    return Block(times, np.frombuffer(data, "<f8").reshape(5, rows))


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
