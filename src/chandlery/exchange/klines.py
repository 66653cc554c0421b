"""Pages of klines: blocks of candles are made into bytes once, and pages are cut out of them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from chandlery.exchange.candles import Candles, aggregate, in_progress, join
from chandlery.exchange.market import Market
from chandlery.exchange.render import render_rows
from chandlery.exchange.symbols import Listing
from chandlery.timeframe import MINUTE, Timeframe

if TYPE_CHECKING:
    from numpy.typing import NDArray

_T = TypeVar("_T")

_MINUTES_PER_BLOCK = 1 << 18  # bounds the work that one block of long candles costs
_LARGEST_BLOCK, _SMALLEST_BLOCK = 2048, 16  # candles


@dataclass(frozen=True, slots=True)
class _Block:
    """Rendered rows of consecutive slots: row i is rows[ends[i - 1]:ends[i]], with its comma."""

    times: NDArray[np.int64]
    rows: bytes
    ends: NDArray[np.int64]

    def cut(self, first: int, last: int) -> bytes:
        begin = int(self.ends[first - 1]) if first else 0
        end = int(self.ends[last - 1]) if last else 0
        return self.rows[begin:end]


class KlineBook:
    """Answers klines for a market; rendered blocks are kept up to `memory` bytes."""

    def __init__(self, market: Market, *, memory: int = 128 << 20) -> None:
        self._market = market
        self._memory = memory
        self._used = 0
        self._blocks: OrderedDict[tuple[str, str, int], _Block] = OrderedDict()
        self._settled_parts: dict[tuple[str, str, int], Candles] = {}
        self._open_rows: dict[tuple[str, str, int], bytes] = {}

    def page(
        self,
        listing: Listing,
        timeframe: Timeframe,
        *,
        start: int | None,
        end: int | None,
        limit: int,
        now: int,
    ) -> bytes:
        """The JSON body: `limit` candles from `start` on, or the last ones; both bounds are on open times, inclusive.

        The candle in progress at `now` is part of it, as it stands then.
        """
        base = self._market.base(listing, timeframe)
        if base is None:
            raise LookupError(timeframe.text)
        current = timeframe.floor(now)
        last = current if end is None else min(end, current)
        parts: list[bytes] = []
        left = limit
        if start is not None:
            until = min(last + 1, current)
            for part, rows in self._forward(listing, timeframe, base, start=start, until=until, limit=limit):
                parts.append(part)
                left -= rows
            if left > 0 and start <= current <= last:
                parts.append(self._open_row(listing, timeframe, current, now))
        else:
            if current <= last:
                parts.append(self._open_row(listing, timeframe, current, now))
                left -= bool(parts[0])
            until = min(last + 1, current)
            parts.extend(self._backward(listing, timeframe, base, until=until, limit=left))
            parts.reverse()
        return b"[" + b"".join(parts)[:-1] + b"]"

    def closed(self, listing: Listing, timeframe: Timeframe, since: int, until: int, now: int) -> Candles:
        """Candles that open in [since, until) and are over at `now`."""
        base = self._market.base(listing, timeframe)
        if base is None:
            raise LookupError(timeframe.text)
        first, last = timeframe.ceil(since), min(timeframe.ceil(until), timeframe.floor(now))
        made = self._market.candles(listing, base, first, max(first, last))
        return made if base == timeframe else aggregate(made, timeframe)

    def under_way(self, listing: Listing, timeframe: Timeframe, now: int) -> Candles | None:
        """The candle in progress with its values at `now`; None if nothing was traded in it yet."""
        base = self._market.base(listing, timeframe)
        if base is None:
            raise LookupError(timeframe.text)
        step = base.floor(now)
        parts = [self._settled(listing, base, timeframe, step)]
        whole = self._market.candles(listing, base, step, step + 1)
        if len(whole) and now > step:
            parts.append(in_progress(whole, now - step, base.next(step) - step))
        candles = join(parts)
        return aggregate(candles, timeframe) if len(candles) else None

    def _settled(self, listing: Listing, base: Timeframe, timeframe: Timeframe, step: int) -> Candles:
        """What is over of the candle in progress, as one candle or none; made once per step of the clock."""
        key = (listing.id, timeframe.text, step)
        found = self._settled_parts.get(key)
        if found is None:
            found = aggregate(self._market.candles(listing, base, timeframe.floor(step), step), timeframe)
            _remember(self._settled_parts, key, found)
        return found

    def _open_row(self, listing: Listing, timeframe: Timeframe, opened: int, now: int) -> bytes:
        key = (listing.id, timeframe.text, now)
        row = self._open_rows.get(key)
        if row is None:
            candle = self.under_way(listing, timeframe, now)
            closing = np.array([timeframe.next(opened) - 1], dtype=np.int64)
            row = b"" if candle is None else render_rows(candle, closing)[0]
            _remember(self._open_rows, key, row)
        return row

    def _forward(
        self, listing: Listing, timeframe: Timeframe, base: Timeframe, *, start: int, until: int, limit: int
    ) -> Iterator[tuple[bytes, int]]:
        span = self._market.span(listing, base)
        start, until = max(start, timeframe.floor(span.since)), min(until, span.until)
        if start >= until:
            return
        number = self._block_of(timeframe, start)
        while limit > 0 and self._block_start(timeframe, number) < until:
            block = self._block(listing, timeframe, base, number)
            first, last = np.searchsorted(block.times, [start, until]).tolist()
            last = min(last, first + limit)
            if last > first:
                yield block.cut(first, last), last - first
                limit -= last - first
            number += 1

    def _backward(
        self, listing: Listing, timeframe: Timeframe, base: Timeframe, *, until: int, limit: int
    ) -> Iterator[bytes]:
        span = self._market.span(listing, base)
        since, until = timeframe.floor(span.since), min(until, span.until)
        number = self._block_of(timeframe, until - 1)
        while limit > 0 and self._block_start(timeframe, number + 1) > since:
            block = self._block(listing, timeframe, base, number)
            last = int(np.searchsorted(block.times, until))
            first = max(0, last - limit)
            if last > first:
                yield block.cut(first, last)
                limit -= last - first
            number -= 1

    def _block(self, listing: Listing, timeframe: Timeframe, base: Timeframe, number: int) -> _Block:
        key = (listing.id, timeframe.text, number)
        block = self._blocks.get(key)
        if block is not None:
            self._blocks.move_to_end(key)
            return block
        since, until = self._block_start(timeframe, number), self._block_start(timeframe, number + 1)
        candles = self._market.candles(listing, base, since, until)
        if base != timeframe:
            candles = aggregate(candles, timeframe)
        block = _Block(candles.time, *render_rows(candles, _close_times(candles, timeframe)))
        self._blocks[key] = block
        self._used += _size(block)
        while self._used > self._memory and len(self._blocks) > 1:
            self._used -= _size(self._blocks.popitem(last=False)[1])
        return block

    @staticmethod
    def _block_of(timeframe: Timeframe, moment: int) -> int:
        return timeframe.slot(moment) // _candles_per_block(timeframe)

    @staticmethod
    def _block_start(timeframe: Timeframe, number: int) -> int:
        return timeframe.open_of(number * _candles_per_block(timeframe))


def _candles_per_block(timeframe: Timeframe) -> int:
    wanted = _MINUTES_PER_BLOCK * MINUTE // timeframe.nominal_ms
    return max(_SMALLEST_BLOCK, min(_LARGEST_BLOCK, 1 << max(0, wanted.bit_length() - 1)))


def _close_times(candles: Candles, timeframe: Timeframe) -> NDArray[np.int64]:
    if timeframe.fixed_ms is not None:
        return np.asarray(candles.time + (timeframe.fixed_ms - 1))
    return np.array([timeframe.next(opened) - 1 for opened in candles.time.tolist()], dtype=np.int64)


def _size(block: _Block) -> int:
    return len(block.rows) + block.times.nbytes + block.ends.nbytes + 200


def _remember(kept: dict[tuple[str, str, int], _T], key: tuple[str, str, int], value: _T) -> None:
    """Keep the latest few hundred; the oldest goes first."""
    kept[key] = value
    if len(kept) > 256:
        del kept[next(iter(kept))]
