"""The exchange's time: as it tells it, and between two askings the local clock and by how much the exchange's differs.

ccxt chooses endpoints and ends of pages by the time; a local clock that is wrong would choose the wrong ones.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from chandlery.errors import BadAnswer
from chandlery.sources.ccxt_errors import http_date
from chandlery.sources.edges import DAWN
from chandlery.sources.retry import persist
from chandlery.timeframe import DAY
from chandlery.validate import LATEST
from chandlery.when import iso

if TYPE_CHECKING:
    from chandlery.clock import Clock
    from chandlery.sources.ccxt_client import Client
    from chandlery.sources.retry import Patience

log = logging.getLogger("chandlery.sources.exchange_clock")

#: The exchange's time and the Date of the same answer (whole seconds) may be this far apart, in ms.
CLOCKS_AGREE = 60_000
#: Two answers agree on the time if the later one says at most this much more, in ms.
CLOCK_JUMP = 300_000
#: Asks for the time after which the Date header settles it, if the time runs too fast for answers to agree.
CLOCK_ASKS = 4
#: Answers carry the time in whole seconds, and take a while: so far apart, in ms, the clocks may be unless they differ.
DRIFT = 3_000


class ExchangeClock:
    """Knows the exchange's time once it was asked for; until then it is the local one."""

    def __init__(self, client: Client, clock: Clock, patience: Callable[[], Patience]) -> None:
        self._client = client
        self._clock = clock
        self._patience = patience
        self._offset = 0
        #: The Date header of the latest answer; None where it does not agree with what is told.
        self._date: str | None = None
        self._warned = False

    def now_ms(self) -> int:
        """The exchange's time, epoch ms, as far as it is known, without asking."""
        return self._clock.now_ms() + self._offset

    def answered(self) -> None:
        """Look at the Date header of the answer that came last: a clock may run faster or slower, or stand still."""
        date = self._client.date
        if self._date is None or date == self._date:
            return
        self._date = date
        moment = http_date(date)
        if moment is not None and abs(self.now_ms() - moment) > DRIFT:
            self._offset = moment - self._clock.now_ms()

    async def ask(self) -> int:
        """The exchange's time, epoch ms: what it says, else the Date of the last answer, else the local clock.

        A time that does not agree with the Date header of its own answer, or with the local clock where there is none,
        is asked for again; where the two keep apart, the earlier one is taken, so that no open candle counts as closed.
        """
        if self._client.ccxt.has.get("fetchTime"):
            moment, date = await self._told()
        else:
            date = http_date(self._client.date)
            if date is None:
                self._warn(f"{self._client.id} does not tell its time; the local clock is used")
            moment = self._clock.now_ms() if date is None else date
        self._offset = moment - self._clock.now_ms()
        self._date = "" if date is not None and abs(moment - date) <= DRIFT else None
        return moment

    async def _told(self) -> tuple[int, int | None]:
        """The time that the exchange tells, once answers agree on it, and the Date of the answer."""
        patience = self._patience()
        last: int | None = None
        agreeing = asked = 0
        while True:
            moment, date = await persist(self._ask_once, patience)
            if date is not None and abs(moment - date) <= CLOCKS_AGREE:
                return moment, date
            if date is None and moment <= self._clock.now_ms() + DAY:
                return moment, date
            agreeing = agreeing + 1 if last is not None and 0 <= moment - last <= CLOCK_JUMP else 1
            last = moment
            asked += 1
            if agreeing >= (2 if date is not None else 3) or (date is not None and asked >= CLOCK_ASKS):
                break
            await patience.failed(
                BadAnswer(f"{self._client.id} says that it is {iso(moment)}", hint="run again")
            )
        if date is None:
            return moment, date
        self._warn(
            f"{self._client.id} says {iso(moment)} in an answer of {iso(date)}; the earlier one is taken"
        )
        return min(moment, date), date

    async def _ask_once(self) -> tuple[int, int | None]:
        """The time that one answer tells, and its Date header if it has one; raises BadAnswer for what is no time."""
        moment, call = await self._client.call("fetch_time")
        if not isinstance(moment, int | float) or not DAWN <= moment < LATEST:
            raise BadAnswer(
                f"{self._client.id} tells no time: {str(moment)[:40]}", hint="epoch milliseconds are expected"
            )
        date = http_date(call.reply.headers.get("date", ""))
        return int(moment), date if date is not None and date >= DAWN else None

    def _warn(self, text: str) -> None:
        if not self._warned:
            self._warned = True
            log.warning("%s", text)
