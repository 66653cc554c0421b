"""What was sent under one limit, in 256 numbers that processes share.

Requests under way are kept by when they were sent, answered ones by when their answer came, because the exchange counted
each at some moment between the two. A request whose answer never comes (its process was killed, say) counts as one that
arrived `GRACE_MS` after it was sent. All times are milliseconds of the host's own clock, which runs on evenly and is the
same in all its processes (see `book.BudgetBook`).
"""

from __future__ import annotations

import math
import zlib
from array import array

#: Size of a tally: 256 doubles.
CELLS = 256
BYTES = CELLS * 8
#: A request reaches the exchange this long after it was sent, or never.
GRACE_MS = 5_000.0

_MAGIC = float(0x43484C4459_01)  # with the version of this layout
_FLYING, _DONE = 24, 90  # records of requests under way, and of answered ones
_FLYING_T, _FLYING_W = 24, 24 + _FLYING
_DONE_T, _DONE_W = 24 + 2 * _FLYING, 24 + 2 * _FLYING + _DONE
_CRC = CELLS - 1
_NOTHING = 1e-6

# Cells by number.
MAGIC, KEY, BOOT, WRITTEN, SKEW = 0, 1, 2, 3, 4
DECLARED = 5  # weight that the exchange declares: -1 not known, 0 none
OFFSET, OFFSET_AT, SLACK = (
    6,
    7,
    8,
)  # the exchange's clock less the host's, when that was seen, how sure it is; -1 unknown
CAP, CAP_AT = (
    10,
    23,
)  # weight at which the exchange refused for less than we believed in, and since when; 0 for none
SPENT = 9  # weight of all requests ever sent
REPORTED, REPORTED_SENT, REPORTED_AT = (
    11,
    12,
    13,
)  # a count by the exchange, when it was asked, and when it came
FREE_AT = 14  # for requests that are spaced: when the next may go
_HEAD, _TAIL, _BEGAN, _FLYING_HEAD, _FLYING_TAIL, _FLYING_BEGAN = 15, 16, 17, 18, 19, 20
_DONE_SUM, _FLYING_SUM = 21, 22  # of the weights in all records
_TIMES = (OFFSET_AT, CAP_AT, REPORTED_SENT, REPORTED_AT, FREE_AT, _BEGAN, _FLYING_BEGAN)


class Tally:
    """One limit's numbers; `cells` may be read and set by the names above."""

    __slots__ = ("cells",)

    def __init__(self, key: float) -> None:
        self.cells = array("d", bytes(BYTES))
        self.cells[MAGIC], self.cells[KEY] = _MAGIC, key
        self.cells[DECLARED] = self.cells[OFFSET_AT] = -1.0

    # -- as bytes --------------------------------------------------------------------------------------------------

    @classmethod
    def read(cls, data: bytes, key: float | None = None) -> Tally | None:
        """The tally that was written as `data`; None where that is none, or one of another version or key."""
        if len(data) != BYTES:
            return None
        found = cls.__new__(cls)
        found.cells = array("d", data)
        cells = found.cells
        known = cells[MAGIC] == _MAGIC and key in (None, cells[KEY])
        return found if known and cells[_CRC] == zlib.crc32(data[:-8]) else None

    def bytes(self) -> bytes:
        """The tally as `read` takes it."""
        self.cells[_CRC] = zlib.crc32(memoryview(self.cells)[:_CRC])
        return self.cells.tobytes()

    def moved(self, by: float, now: float) -> None:
        """Add `by` to every time, none of which may then lie after `now`."""
        cells = self.cells
        for at in (*_TIMES, *range(_FLYING_T, _FLYING_T + _FLYING), *range(_DONE_T, _DONE_T + _DONE)):
            cells[at] = min(cells[at] + by, now)

    # -- requests --------------------------------------------------------------------------------------------------

    def used(self) -> float:
        """Weight of all requests that count still."""
        return self.cells[_DONE_SUM] + self.cells[_FLYING_SUM]

    def flying(self) -> float:
        """Weight of the requests under way."""
        return self.cells[_FLYING_SUM]

    def last(self) -> float:
        """When the latest answer came."""
        return self.cells[_DONE_T + int(self.cells[_HEAD]) % _DONE]

    def expire(self, before: float) -> None:
        """Forget answers that came at `before` or earlier, and requests that cannot have arrived after it."""
        cells = self.cells
        tail, head = int(cells[_TAIL]), int(cells[_HEAD])
        while tail <= head and cells[_DONE_T + tail % _DONE] <= before:
            self._take(_DONE_W + tail % _DONE, _DONE_SUM)
            tail += 1
        cells[_TAIL] = tail
        tail, head = int(cells[_FLYING_TAIL]), int(cells[_FLYING_HEAD])
        while tail <= head and cells[_FLYING_T + tail % _FLYING] + GRACE_MS <= before:
            self._take(_FLYING_W + tail % _FLYING, _FLYING_SUM)
            tail += 1
        cells[_FLYING_TAIL] = tail

    def _take(self, at: int, total: int, weight: float = math.inf) -> None:
        """Take weight, or all there is, from a record and its sum."""
        cells = self.cells
        weight = min(weight, cells[at])
        cells[at] -= weight
        left = cells[total] - weight
        # Fractions need not add up to zero exactly.
        cells[total] = left if left > _NOTHING else 0.0

    def send(self, now: float, weight: float, window: float) -> int:
        """Count a request that is about to be sent; returns the record to name when its answer comes."""
        cells = self.cells
        head = int(cells[_FLYING_HEAD])
        if now - cells[_FLYING_BEGAN] > (window + GRACE_MS) / (_FLYING - 4):
            head += 1
            cells[_FLYING_HEAD], cells[_FLYING_BEGAN] = head, now
        at = head % _FLYING
        cells[_FLYING_TAIL] = min(max(cells[_FLYING_TAIL], head - _FLYING + 1), head)
        cells[_FLYING_T + at] = now
        cells[_FLYING_W + at] += weight
        cells[_FLYING_SUM] += weight
        cells[SPENT] += weight
        return head

    def answered(self, record: int, now: float, weight: float, window: float, begin: float) -> None:
        """The answer to a request has come, or will not; `begin` is when the window of now began."""
        if int(self.cells[_FLYING_HEAD]) - record < _FLYING:
            self._take(_FLYING_W + record % _FLYING, _FLYING_SUM, weight)
        self.add(now, weight, window, begin)

    def add(self, now: float, weight: float, window: float, begin: float) -> None:
        """Count weight that was used until now. Records are as long as a small part of the window, and end with it."""
        cells = self.cells
        head = int(cells[_HEAD])
        if cells[_BEGAN] < max(begin, now - window / (_DONE - 10)) and head - int(cells[_TAIL]) < _DONE - 1:
            head += 1
            cells[_HEAD], cells[_BEGAN] = head, now
            self._take(_DONE_W + head % _DONE, _DONE_SUM)
        cells[_TAIL] = min(cells[_TAIL], head)
        at = head % _DONE
        cells[_DONE_T + at] = now
        cells[_DONE_W + at] += weight
        cells[_DONE_SUM] += weight

    def free_at(self, weight: float) -> float | None:
        """When so much weight of answered requests was used, the last of it; None where not so much was."""
        cells = self.cells
        for record in range(int(cells[_TAIL]), int(cells[_HEAD]) + 1):
            weight -= cells[_DONE_W + record % _DONE]
            if weight <= _NOTHING:
                return cells[_DONE_T + record % _DONE]
        return None
