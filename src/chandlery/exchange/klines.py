"""Pages of candles: blocks of them are made into bytes once, and pages are cut out of them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from chandlery.exchange.candles import Candles, aggregate, in_progress, join
from chandlery.exchange.layout import RowLayout
from chandlery.exchange.market import Market
from chandlery.exchange.render import render_rows
from chandlery.exchange.symbols import Listing
from chandlery.timeframe import MINUTE, Timeframe
from chandlery.timerange import TimeRange

if TYPE_CHECKING:
    from numpy.typing import NDArray

_K = TypeVar("_K")
_T = TypeVar("_T")

FOR_EVER = 253_402_300_800_000  # the end of year 9999

_MINUTES_PER_BLOCK = 1 << 18  # bounds the work that one block of long candles costs
_LARGEST_BLOCK, _SMALLEST_BLOCK = 2048, 16  # candles


Key = tuple[str, Timeframe, int, RowLayout]


@dataclass(frozen=True, slots=True)
class _Block:
    """Rendered rows of consecutive slots, each with its comma: the row at a place ends at `ends[place]`.

    `times` ascend; the rows do too, or go the other way round.
    """

    times: NDArray[np.int64]
    rows: bytes
    ends: NDArray[np.int64]
    descending: bool

    def cut(self, first: int, last: int) -> bytes:
        if self.descending:
            first, last = len(self.times) - last, len(self.times) - first
        begin = int(self.ends[first - 1]) if first else 0
        end = int(self.ends[last - 1]) if last else 0
        return self.rows[begin:end]


class KlineBook:
    """Answers rows of candles for a market; rendered blocks are kept up to `memory` bytes.

    With `omit_empty` candles without volume do not exist, as on exchanges that give none where nothing was traded. With
    `whole_contracts` a swap's contract is its smallest lot rather than the listing's own.
    """

    def __init__(
        self,
        market: Market,
        *,
        memory: int = 128 << 20,
        omit_empty: bool = False,
        whole_contracts: bool = False,
    ) -> None:
        self._market = market
        self._whole_contracts = whole_contracts
        self._memory = memory
        self._omit_empty = omit_empty
        self._used = 0
        self._blocks: OrderedDict[Key, _Block] = OrderedDict()
        self._lately_made: dict[tuple[str, Timeframe, int], Candles] = {}
        self._settled_parts: dict[tuple[str, Timeframe, int], Candles] = {}
        self._open_rows: dict[Key, bytes] = {}

    def rows(
        self,
        listing: Listing,
        timeframe: Timeframe,
        layout: RowLayout,
        *,
        since: int = 0,
        until: int = FOR_EVER,
        limit: int,
        now: int,
        newest: bool = False,
    ) -> bytes:
        """The JSON of at most `limit` rows that open in [since, until), with commas between them and no brackets.

        They are the first ones that there are, however long the hole before them, or with `newest` the last ones. The
        candle in progress at `now` is one of them, as it stands then.
        """
        base = self._market.base(listing, timeframe)
        if base is None:
            raise LookupError(timeframe.text)
        current = timeframe.floor(now)
        open_too = since <= current < until
        closed = TimeRange(since, max(since, min(until, current)))
        parts: list[bytes] = []
        if newest:
            if open_too and limit > 0:
                parts.append(self._open_row(listing, timeframe, layout, current, now))
                limit -= bool(parts[0])
            parts.extend(self._backward(listing, timeframe, layout, base, closed, limit))
            parts.reverse()
        else:
            for part, rows in self._forward(listing, timeframe, layout, base, closed, limit):
                parts.append(part)
                limit -= rows
            if limit > 0 and open_too:
                parts.append(self._open_row(listing, timeframe, layout, current, now))
        if layout.descending:
            parts.reverse()
        return b"".join(parts)[:-1]

    def closed(self, listing: Listing, timeframe: Timeframe, since: int, until: int, now: int) -> Candles:
        """Candles that open in [since, until) and are over at `now`."""
        base = self._market.base(listing, timeframe)
        if base is None:
            raise LookupError(timeframe.text)
        first, last = timeframe.ceil(since), min(timeframe.ceil(until), timeframe.floor(now))
        return self._made(listing, timeframe, base, first, max(first, last))

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
        if self._omit_empty:
            candles = candles.pick(candles.volume > 0)
        return aggregate(candles, timeframe) if len(candles) else None

    def _made(
        self, listing: Listing, timeframe: Timeframe, base: Timeframe, since: int, until: int
    ) -> Candles:
        candles = self._market.candles(listing, base, since, until)
        if base != timeframe:
            candles = aggregate(candles, timeframe)
        return candles.pick(candles.volume > 0) if self._omit_empty else candles

    def _settled(self, listing: Listing, base: Timeframe, timeframe: Timeframe, step: int) -> Candles:
        """What is over of the candle in progress, as one candle or none; made once per step of the clock."""
        key = (listing.id, timeframe, step)
        found = self._settled_parts.get(key)
        if found is None:
            found = aggregate(self._market.candles(listing, base, timeframe.floor(step), step), timeframe)
            _remember(self._settled_parts, key, found)
        return found

    def _open_row(
        self, listing: Listing, timeframe: Timeframe, layout: RowLayout, opened: int, now: int
    ) -> bytes:
        key = (listing.id, timeframe, now, layout)
        row = self._open_rows.get(key)
        if row is None:
            candle = self.under_way(listing, timeframe, now)
            closing = np.array([timeframe.next(opened) - 1], dtype=np.int64)
            size = self._contract(listing)
            row = b""
            if candle is not None:
                row = render_rows(candle, closing, layout, contract_decimals=size, in_progress=True)[0]
            _remember(self._open_rows, key, row)
        return row

    def _forward(
        self,
        listing: Listing,
        timeframe: Timeframe,
        layout: RowLayout,
        base: Timeframe,
        wanted: TimeRange,
        limit: int,
    ) -> Iterator[tuple[bytes, int]]:
        span = self._market.span(listing, base)
        since, until = max(wanted.since, timeframe.floor(span.since)), min(wanted.until, span.until)
        if since >= until:
            return
        number = self._block_of(timeframe, since)
        while limit > 0 and self._block_start(timeframe, number) < until:
            block = self._block(listing, timeframe, layout, base, number)
            first, last = np.searchsorted(block.times, [since, until]).tolist()
            last = min(last, first + limit)
            if last > first:
                yield block.cut(first, last), last - first
                limit -= last - first
            number += 1

    def _backward(
        self,
        listing: Listing,
        timeframe: Timeframe,
        layout: RowLayout,
        base: Timeframe,
        wanted: TimeRange,
        limit: int,
    ) -> Iterator[bytes]:
        span = self._market.span(listing, base)
        since, until = max(wanted.since, timeframe.floor(span.since)), min(wanted.until, span.until)
        number = self._block_of(timeframe, until - 1)
        while limit > 0 and self._block_start(timeframe, number + 1) > since:
            block = self._block(listing, timeframe, layout, base, number)
            earliest, last = np.searchsorted(block.times, [since, until]).tolist()
            first = max(earliest, last - limit)
            if last > first:
                yield block.cut(first, last)
                limit -= last - first
            number -= 1

    def _block(
        self, listing: Listing, timeframe: Timeframe, layout: RowLayout, base: Timeframe, number: int
    ) -> _Block:
        key = (listing.id, timeframe, number, layout)
        block = self._blocks.get(key)
        if block is not None:
            self._blocks.move_to_end(key)
            return block
        candles = self._candles_of(listing, timeframe, base, number)
        ordered = candles.pick(slice(None, None, -1)) if layout.descending else candles
        closing = _close_times(ordered, timeframe)
        rendered = render_rows(ordered, closing, layout, contract_decimals=self._contract(listing))
        block = _Block(candles.time, *rendered, layout.descending)
        self._blocks[key] = block
        self._used += _size(block)
        while self._used > self._memory and len(self._blocks) > 1:
            self._used -= _size(self._blocks.popitem(last=False)[1])
        return block

    def _candles_of(self, listing: Listing, timeframe: Timeframe, base: Timeframe, number: int) -> Candles:
        """A block's candles; the last few are kept, as those of columns are wanted for one after the other."""
        key = (listing.id, timeframe, number)
        candles = self._lately_made.get(key)
        if candles is None:
            since, until = self._block_start(timeframe, number), self._block_start(timeframe, number + 1)
            candles = self._made(listing, timeframe, base, since, until)
            _remember(self._lately_made, key, candles, 4)
        return candles

    def _contract(self, listing: Listing) -> int:
        """The decimals of a contract's size."""
        return listing.volume_decimals if self._whole_contracts else listing.contract_decimals

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


def _remember(kept: dict[_K, _T], key: _K, value: _T, most: int = 256) -> None:
    """Keep the latest ones; the oldest goes first."""
    kept[key] = value
    if len(kept) > most:
        del kept[next(iter(kept))]
