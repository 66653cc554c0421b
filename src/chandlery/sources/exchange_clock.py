"""The exchange's time between two askings for it: the local clock, and by how much the exchange's differs.

ccxt chooses endpoints and ends of pages by the time; a local clock that is wrong would choose the wrong ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from chandlery.sources.ccxt_errors import http_date

if TYPE_CHECKING:
    from chandlery.clock import Clock

#: Answers carry the time in whole seconds, and take a while: so far apart, in ms, the clocks may be unless they differ.
AGREE = 3_000


class ExchangeClock:
    """Knows the exchange's time once it was told; until then it is the local one."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._offset = 0
        self._date: str | None = (
            None  # the Date header of the latest answer; None: it does not agree with what is told
        )

    def now_ms(self) -> int:
        """The exchange's time, epoch ms, as far as it is known."""
        return self._clock.now_ms() + self._offset

    def told(self, moment: int, date: int | None) -> None:
        """Take the time that the exchange told, in an answer with that Date header."""
        self._offset = moment - self._clock.now_ms()
        self._date = "" if date is not None and abs(moment - date) <= AGREE else None

    def answered(self, date: str) -> None:
        """Take the Date header of an answer that has just come: a clock may run faster or slower, or stand still."""
        if self._date is None or date == self._date:
            return
        self._date = date
        moment = http_date(date)
        if moment is not None and abs(self.now_ms() - moment) > AGREE:
            self._offset = moment - self._clock.now_ms()
