"""One ask: a page of rows that may be believed, however often the exchange must be asked for it.

An answer is refused, and asked for again with back-off, where it cannot be decoded, where rows are no candles of this
series, or where the candle that must be in it is not. Only rows that come with the very same defect in SAME_DEFECTS
answers in a row are handed on as rejected, next to the good ones.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from chandlery.candle import Rejected, SeriesId
from chandlery.errors import BadAnswer, DataPipelineError, ExchangeError, ExchangeRefused, UnknownSymbol
from chandlery.sources.ccxt_client import Client
from chandlery.sources.ccxt_rows import rows_for, rows_to_frame
from chandlery.sources.retry import Patience
from chandlery.timeframe import WEEK, Timeframe
from chandlery.validate import OFF_GRID, arrays_of, check_rows, open_times
from chandlery.when import iso

if TYPE_CHECKING:
    import polars as pl

    from chandlery.clock import Clock
    from chandlery.sources.base import Traffic

log = logging.getLogger("chandlery.sources.asking")

#: So many answers in a row must show the very same defects before the rows are called bad for good.
SAME_DEFECTS = 6
#: So many answers must agree on the last row of an answer before it is believed without a candle after it.
AGREE_AT_END = 3
#: Once answers gave a candle other values: how many more votes than any other its values must have, and after how many
#: votes in all the most will do.
LEAD, VOTES = 2, 12
#: Answers that must have come right in one way of asking, and not in the usual one, before it becomes the usual one.
LEARNT = 2
#: So few candles fit into one answer of any exchange.
SMALL = 100
NO_LIMIT = 1_000_000
#: Seconds before the one repeat of what a refusal for good was answered to: a firewall or a node may err once.
PAUSE_REFUSED = 5.0

Values = tuple[float, ...]
OnRows = Callable[[SeriesId, str, int | None, int, "pl.DataFrame"], "pl.DataFrame"]


@dataclass(slots=True)
class Anchor:
    """A candle that is known to exist: an answer from its open time on must begin with it.

    `votes` counts the answers that gave each set of values: an exchange under load, or one that has just closed the
    candle, may give another value first. `alone` counts the answers that began where they were to begin and held
    nothing after it, `back` those that began before it and ended with it.
    """

    open: int
    votes: Counter[Values] = field(default_factory=Counter)
    alone: int = 0
    back: int = 0

    @property
    def seen(self) -> int:
        """Answers that agree on the values believed now."""
        return max(self.votes.values(), default=0)

    def believes(self, values: Values) -> bool:
        """Whether the votes so far are for these values, which one of them gave.

        Two are enough against values that a candle in progress may have had before it came to these, none the other way.
        """
        count = self.votes[values]
        others = {other: votes for other, votes in self.votes.items() if other != values}
        if not others:
            return True
        if self.votes.total() >= VOTES:
            return count >= 2 and count >= max(others.values())
        return all(
            count >= LEAD
            if _may_become(other, values)
            else count - votes >= LEAD and not _may_become(values, other)
            for other, votes in others.items()
        )


@dataclass(slots=True)
class Rows:
    """The rows of one believed answer: good ones ascending and unique, whatever range they lie in.

    `tail` and `strays` are those of validate.Verdict, `first` and `last` the open times of the first and the last good row,
    None where there is none.
    """

    good: pl.DataFrame
    rejected: tuple[Rejected, ...]
    since: int
    limit: int
    tail: tuple[Rejected, ...] = ()
    strays: int = 0
    first: int | None = field(init=False, default=None)
    last: int | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        times = open_times(self.good)
        if len(times):
            self.first, self.last = int(times[0]), int(times[-1])


def open_at(frame: pl.DataFrame, index: int) -> int:
    """Open time of one row, epoch ms."""
    return int(open_times(frame)[index])


def values_at(frame: pl.DataFrame, index: int) -> Values:
    """Open, high, low, close and volume of one row."""
    return tuple(arrays_of(frame).values[:, index].tolist())


def place_of(frame: pl.DataFrame, moment: int) -> int:
    """Index of the first row of an ascending frame that opens at or after `moment`."""
    return int(open_times(frame).searchsorted(moment))


def has_candle(frame: pl.DataFrame, moment: int) -> bool:
    """Whether an ascending frame has a candle open at `moment`."""
    times = open_times(frame)
    index = int(times.searchsorted(moment))
    return index < len(times) and int(times[index]) == moment


def joined(rows: Rows, other: Rows, frame: Timeframe) -> Rows:
    """Two answers as one, up to where the shorter one ends; a candle that either shows is taken."""
    import polars as pl

    last = min(rows.last or 0, other.last or 0)
    good = pl.concat([other.good, rows.good]).unique("time", keep="first").sort("time")
    good = good.head(place_of(good, last + 1))
    refused = {row.open: row for row in (*rows.rejected, *other.rejected) if row.open is not None}
    kept = tuple(
        row
        for opened, row in sorted(refused.items())
        if opened <= last and not has_candle(good, frame.floor(opened))
    )
    return Rows(good, kept, rows.since, rows.limit, other.tail, rows.strays + other.strays)


@dataclass(slots=True)
class Approach:
    """How an exchange must be asked so that its answers hold the candle that they are to begin with; learnt as it goes.

    Some exchanges leave out the candle at `since`: then an earlier beginning finds it. Some drop the head of a window that
    holds more than they give at once: then a smaller page does. What worked twice is kept.
    """

    shift: int = 0
    most: int = NO_LIMIT
    _worked: Counter[tuple[int, int]] = field(default_factory=Counter)

    def window(self, attempt: int, rows: int) -> tuple[int, int]:
        """How many candles earlier to begin, and how many to ask for at most, at the n-th attempt.

        `rows` is how many the same headless answer had, twice; 0 if it is not that which goes wrong.
        """
        if attempt < 2 or (attempt == 2 and not rows):
            return self.shift, self.most
        if attempt == 2:
            return 1, self.most
        if attempt == 3 and rows > 1:
            return self.shift, min(self.most, rows)
        if attempt == 4 and rows > 2:
            return 1, min(self.most, rows - 1)
        return (1, self.most) if attempt < 5 else (2, min(self.most, SMALL))

    def worked(self, shift: int, most: int) -> None:
        """Note that an answer held its anchor when asked for like that, and did not as usual."""
        self._worked[shift, most] += 1
        if self._worked[shift, most] >= LEARNT:
            self.shift, self.most = shift, most
            self._worked.clear()
            log.debug("pages are asked for %d candles earlier, and of %d candles at most", shift, most)


class Asker:
    """Asks one exchange for candles until an answer may be believed."""

    def __init__(self, client: Client, traffic: Traffic, clock: Clock, *, max_wait_seconds: float) -> None:
        self.client = client
        self.traffic = traffic
        self.clock = clock
        self.max_wait_seconds = max_wait_seconds
        #: Sees the rows of each answer as they came (after series, timeframe, since, limit), and gives them as they count:
        #: volumes in base units.
        self.on_rows: OnRows = lambda _series, _timeframe, _since, _limit, frame: frame
        self.approach = Approach()

    def patience(self) -> Patience:
        """The failures of a new ask."""
        return Patience(self.clock, self.max_wait_seconds, on_retry=self._count_retry)

    def _count_retry(self) -> None:
        self.traffic.retries += 1

    async def rows(
        self,
        series: SeriesId,
        timeframe: str,
        since: int,
        limit: int,
        *,
        now: int,
        grid: Timeframe | None,
        anchor: Anchor | None = None,
        believe: Callable[[Rows], str] = lambda _: "",
        until: int | None = None,
    ) -> Rows:
        """Ask for candles from `since` on until an answer may be believed; raises ExchangeError.

        With an `anchor` the answer must hold that candle with values on which answers agree. `believe` may refuse an
        answer: it returns the reason, or nothing. Refused rows that open at or after `until` are left out: the open
        candle may be anything.
        """
        patience = self.patience()
        defects = _Defects()
        approach = self.approach
        headless: list[tuple[int, int]] = []
        attempt = 0
        refusals = 0
        while True:
            shift, room = 0, NO_LIMIT
            rows = headless[0][0] if len(headless) == 2 and headless[0] == headless[1] else 0
            if anchor is not None:
                shift, room = approach.window(attempt, rows)
            asked = max(0, grid.add(since, -shift) if grid is not None and shift else since)
            wanted = min(limit, room) + shift
            try:
                answer = await self.once(series, timeframe, asked, wanted, now, grid)
                if until is not None:
                    answer.rejected = tuple(r for r in answer.rejected if r.open is None or r.open < until)
                settled = defects.settled(answer, grid, series)
                if anchor is not None and attempt < 2:
                    headless.append(_headless(answer, anchor, grid, wanted))
                _check_anchor(series, answer, anchor)
                if rows and 2 <= attempt < 5:
                    approach.worked(shift, room)
                if not settled:
                    bad = answer.rejected or answer.tail
                    raise BadAnswer(f"{series}: {len(bad)} bad rows: {bad[0].reason}")
                refused = believe(answer)
                if refused:
                    raise BadAnswer(f"{series}: {refused}", hint="the answers stay wrong: run again later")
            except DataPipelineError as error:
                if refusals == 0 and _may_pass(error):
                    refusals += 1
                    log.info("asking once more in %.0f s: %s", PAUSE_REFUSED, error)
                    await self.clock.sleep(PAUSE_REFUSED)
                    self._count_retry()
                    continue
                attempt += 1 if isinstance(error, BadAnswer) else 0
                await patience.failed(error)
                continue
            return answer

    async def once(
        self,
        series: SeriesId,
        timeframe: str,
        since: int | None,
        limit: int,
        now: int,
        grid: Timeframe | None,
    ) -> Rows:
        """One HTTP request, its rows checked one by one. Without `since` the exchange chooses: its newest candles."""
        self.traffic.candle_requests += 1
        params: dict[str, Any] = {} if series.kind == "trade" else {"price": series.kind}
        result, call = await self.client.call("fetch_ohlcv", series.symbol, timeframe, since, limit, params)
        raw = call.rows if call.rows is not None else result
        if not isinstance(raw, list):
            raise BadAnswer(f"{series}: the answer is no list of candles")
        if call.parsed or call.rows is None:
            frame = rows_to_frame(raw, lambda row: row)  # type: ignore[arg-type, return-value]
        else:
            parse, market = self.client.ccxt.parse_ohlcv, call.market
            frame = rows_for(market)(raw, lambda row: parse(row, market))
        if series.kind != "trade":
            frame = frame.with_columns(frame["volume"].fill_nan(0.0))  # mark and index candles have none
        frame = self.on_rows(series, timeframe, since, limit, frame)
        verdict = check_rows(frame, grid, raw, latest=now + WEEK)
        return Rows(verdict.good, verdict.rejected, since or 0, limit, verdict.tail, verdict.strays)


def _may_pass(error: DataPipelineError) -> bool:
    """Whether a refusal that looks final may come from a firewall or a node that erred: the symbol is listed."""
    return isinstance(error, UnknownSymbol) or (
        isinstance(error, ExchangeError) and error.status in (403, 404)
    )


def _headless(answer: Rows, anchor: Anchor, grid: Timeframe | None, limit: int) -> tuple[int, int]:
    """Number of rows and first open time of an answer that lies in the window asked for and begins behind the anchor.

    (0, 0) for any other answer: what is somewhere else went wrong in another way.
    """
    first, last = answer.first or 0, answer.last or 0
    if grid is None or first <= anchor.open or last > grid.add(anchor.open, limit + 1):
        return 0, 0
    return len(answer.good), first


def _may_become(values: Values, other: Values) -> bool:
    """Whether a candle in progress with these values may be closed with the others."""
    opened, high, low, _, volume = values
    return other[0] == opened and other[1] >= high and other[2] <= low and other[4] > volume


def _check_anchor(series: SeriesId, answer: Rows, anchor: Anchor | None) -> None:
    """Refuse an answer without the anchor, or with other values of it than answers agree on."""
    if anchor is None:
        return
    index = place_of(answer.good, anchor.open)
    if index >= len(answer.good) or open_at(answer.good, index) != anchor.open:
        if any(row.open == anchor.open for row in answer.rejected):
            raise BadAnswer(f"{series}: the candle of {iso(anchor.open)} came broken")
        raise BadAnswer(
            f"{series}: asked from {iso(answer.since)}, the candle of {iso(anchor.open)} that was there is not in the answer",
            hint="the exchange ignores where an answer is to begin, or took a candle back",
        )
    values = values_at(answer.good, index)
    anchor.votes[values] += 1
    # An earlier page once more ends with the anchor too, and says nothing of what follows.
    if index == len(answer.good) - 1 and not answer.rejected:
        begins = open_at(answer.good, 0) >= answer.since
        anchor.alone += begins
        anchor.back += not begins
    if not anchor.believes(values):
        raise BadAnswer(f"{series}: the candle of {iso(anchor.open)} has other values than before")


class _Defects:
    """Tells rows that are bad for good from an answer that went wrong once. What a bad row says may change."""

    def __init__(self) -> None:
        self._last: list[tuple[int, str]] = []
        self._count = 0

    def settled(self, answer: Rows, grid: Timeframe | None, series: SeriesId) -> bool:
        """True if the answer has no bad rows, or the same ones as all of the last SAME_DEFECTS answers."""
        # Bad rows at the end of an answer can wait for the next one, if good rows come before them.
        rows = answer.rejected if len(answer.good) > 1 else answer.rejected + answer.tail
        found = sorted((row.open or 0, row.reason) for row in rows)
        if not found:
            self._count = 0
            return True
        self._count = self._count + 1 if found == self._last else 1
        self._last = found
        if self._count < SAME_DEFECTS:
            return False
        if len(found) >= 3 and not len(answer.good) and grid is not None:
            _refuse_other_grid(answer.rejected, series)
        return True


def _refuse_other_grid(found: tuple[Rejected, ...], series: SeriesId) -> None:
    """Not bad rows but another calendar: weeks that begin on Thursdays, days at UTC+8."""
    if found and all(row.reason == OFF_GRID for row in found):
        raise ExchangeRefused(
            f"{series}: no candle opens on the timeframe's grid, for example {iso(found[0].open or 0)}",
            hint="this exchange lays the timeframe on the calendar in another way; fetch a shorter one, such as 1h",
        )
