"""The coverage ledger: what was asked, what was answered, and from that the state and reason of every slot.

A slot is one open time of a series. The ledger keeps ranges, never slots: what is absent is derived (answered, and no
row there), so a market on which half of all minutes have no trade costs no more than one on which none has.
Pure: no clock, no disk. Ranges are half-open and in epoch milliseconds.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from chandlery.timeframe import DAY, Timeframe
from chandlery.timerange import RangeSet, TimeRange

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

#: A candle answered at least this long after its close is confirmed: no recheck asks for it again.
CONFIRMED_AFTER = DAY


class State(StrEnum):
    """What can be said of a slot."""

    STORED = "stored"
    ABSENT = "absent"  # the source was asked properly and has none
    MISSING = "missing"  # asked for, not answered; also the silent end of a symbol that still trades
    PENDING = "pending"  # not settled when last asked
    QUARANTINED = "quarantined"  # a row came and could not be believed
    BEFORE_LISTING = "before_listing"
    AFTER_END = "after_end"
    OUT_OF_REACH = "out_of_reach"  # older than the exchange can give


#: The states other than stored, in the order in which reports name them: the SLOTS of the JSON output.
SLOTS = tuple(s for s in State if s is not State.STORED)

#: The states that are recorded as ranges of their own rather than derived.
FACTS = (State.BEFORE_LISTING, State.AFTER_END, State.OUT_OF_REACH)


@dataclass(frozen=True, slots=True)
class Answered:
    """A range that the source answered.

    `at` is the exchange's time of the ask, or None once every candle of the range was asked for at least
    CONFIRMED_AFTER past its close, so that no later ask can be owed.
    """

    range: TimeRange
    at: int | None


@dataclass(frozen=True, slots=True)
class Fact:
    """A range whose slots have no candle for a known reason: before the listing, after the end, out of reach.

    `at` is the exchange's time when that was found (0 if nobody knows), or None where every slot of the range had been
    over for at least CONFIRMED_AFTER by then.
    """

    range: TimeRange
    state: State
    reason: str
    at: int | None = 0


@dataclass(frozen=True, slots=True)
class Ledger:
    """Everything known about the slots of one series besides the rows themselves."""

    timeframe: Timeframe
    asked: RangeSet = field(default_factory=RangeSet)
    answered: tuple[Answered, ...] = ()
    facts: tuple[Fact, ...] = ()
    quarantined: tuple[int, ...] = ()  # open times of rows in quarantine that no stored candle has replaced
    clock: int = 0  # the exchange's time at the latest ask
    settle: int = 0  # milliseconds after its end at which a candle counted as closed then

    @property
    def answered_ranges(self) -> RangeSet:
        """All that was answered, whenever."""
        return RangeSet(a.range for a in self.answered)

    def fact_ranges(self, state: State) -> RangeSet:
        """The ranges of one recorded state."""
        return RangeSet(f.range for f in self.facts if f.state is state)


@dataclass(frozen=True, slots=True)
class Gap:
    """A run of neighbouring slots without a candle, all of one state. `until` is the open time after its last one."""

    since: int
    until: int
    candles: int
    state: State
    reason: str


@dataclass(frozen=True, slots=True)
class Account:
    """Every slot of a set of ranges by state. `counts` has every State; `unexplained` should be 0."""

    expected: int
    counts: dict[State, int]
    gaps: tuple[Gap, ...]

    @property
    def unexplained(self) -> int:
        """Slots that no state accounts for (or, negative, that two do)."""
        return self.expected - sum(self.counts.values())


def settled_until(timeframe: Timeframe, now: int, settle: int) -> int:
    """The first open time whose candle is not settled: closed at least `settle` ms before the exchange's `now`."""
    return timeframe.floor(now - settle)


def silent_end(ledger: Ledger, gaps: Sequence[Gap]) -> Gap | None:
    """The gap of slots that were asked for and not answered up to the latest ask, None where there is none.

    `gaps` are in order of time. So it looks where a market that still trades has fallen silent.
    """
    end = settled_until(ledger.timeframe, ledger.clock, ledger.settle)
    for gap in reversed(gaps):
        if gap.since < end:
            asked = gap.since in ledger.asked
            return gap if gap.state is State.MISSING and gap.until >= end and asked else None
    return None


def aligned(timeframe: Timeframe, wanted: TimeRange) -> TimeRange:
    """The same slots as `wanted`, from an open time to an open time."""
    since = timeframe.ceil(wanted.since)
    return TimeRange(since, max(since, timeframe.ceil(wanted.until)))


def to_ask(
    ledger: Ledger,
    wanted: TimeRange,
    *,
    now: int,
    settle: int,
    recheck: int,
    active: bool = False,
    repair: bool = False,
) -> RangeSet:
    """The settled slots of `wanted` that are not answered, or are owed another look.

    A candle answered less than `recheck` ms (at most CONFIRMED_AFTER) after its close is owed one, because exchanges
    correct fresh candles; so is a slot after the end or out of reach that was as young when that was found. With a
    longer `recheck` everything younger than that is asked again. `active` says that the market trades (again), which
    puts every end in doubt; `repair` doubts every fact.
    """
    frame = ledger.timeframe
    whole = aligned(frame, wanted)
    settled = RangeSet.of(whole.since, min(whole.until, settled_until(frame, now, settle)))
    owed = RangeSet(
        part for answer in ledger.answered for part in _owed(frame, answer.range, answer.at, now, recheck)
    )
    known = RangeSet(
        part
        for fact in ledger.facts
        if not repair and not (active and fact.state is State.AFTER_END)
        for part in RangeSet([fact.range]) - RangeSet(_owed_fact(frame, fact, now, recheck))
    )
    return (settled - ledger.answered_ranges - known) | (settled & owed)


def _owed(frame: Timeframe, said: TimeRange, at: int | None, now: int, recheck: int) -> list[TimeRange]:
    """The parts of a range that must be looked at once more, where `at` is the time of the look before."""
    if recheck <= 0:
        return []
    edges: list[int] = []
    if at is not None:
        edges.append(first_unconfirmed(frame, at, min(recheck, CONFIRMED_AFTER)))
    if recheck > CONFIRMED_AFTER:
        edges.append(first_unconfirmed(frame, now, recheck))
    return [TimeRange(max(said.since, edge), said.until) for edge in edges if edge < said.until]


def _owed_fact(frame: Timeframe, fact: Fact, now: int, recheck: int) -> list[TimeRange]:
    """The same of a fact. When a market was listed does not change with a day, so only a longer recheck doubts that."""
    at = None if fact.state is State.BEFORE_LISTING else fact.at
    return _owed(frame, fact.range, at, now, recheck)


def first_unconfirmed(timeframe: Timeframe, at: int, recheck: int) -> int:
    """The first open time whose candle had not been closed for `recheck` ms at the time `at`."""
    return timeframe.floor(at - recheck)


def with_answer(ledger: Ledger, answered: TimeRange, at: int) -> tuple[Answered, ...]:
    """The answered ranges after `answered` was answered at the exchange's time `at`: sorted, disjoint, merged.

    Part of the new range that is confirmed for good carries at=None, so that history merges into one row; the rest
    keeps the later of the two times where it was answered before. Candles answered one by one as they close become one
    range with the earliest of their times, so a stream costs the ledger one row.
    """
    confirmed = first_unconfirmed(ledger.timeframe, at, CONFIRMED_AFTER)
    edge = min(max(confirmed, answered.since), answered.until)
    new: list[Answered] = []
    if edge > answered.since:
        new.append(Answered(TimeRange(answered.since, edge), None))
    if edge < answered.until:
        new.append(Answered(TimeRange(edge, answered.until), at))
    # Only what overlaps or touches the new range can change: a ledger of thousands of ranges costs no more.
    low = bisect_left(ledger.answered, answered.since, key=lambda a: a.range.until)
    high = bisect_right(ledger.answered, answered.until, key=lambda a: a.range.since)
    near = ledger.answered[low:high]
    if not any(old.range.since < answered.until and answered.since < old.range.until for old in near):
        return ledger.answered[:low] + _merged(ledger.timeframe, [*near, *new]) + ledger.answered[high:]
    kept: list[Answered] = []
    for old in near:
        # A confirmed range stays confirmed, whatever is asked again inside it later.
        rivals = [n.range for n in new if n.at is None or (old.at is not None and n.at >= old.at)]
        kept.extend(Answered(part, old.at) for part in RangeSet([old.range]) - RangeSet(rivals))
    taken = RangeSet(k.range for k in kept)
    fresh = [Answered(part, n.at) for n in new for part in RangeSet([n.range]) - taken]
    return ledger.answered[:low] + _merged(ledger.timeframe, [*kept, *fresh]) + ledger.answered[high:]


def _merged(frame: Timeframe, answers: Iterable[Answered]) -> tuple[Answered, ...]:
    merged: list[Answered] = []
    for answer in sorted(answers, key=lambda a: a.range.since):
        last = merged[-1] if merged else None
        if last is not None and last.range.until == answer.range.since and _one(frame, last, answer):
            at = answer.at if last.at is None or answer.at is None else min(last.at, answer.at)
            merged[-1] = Answered(TimeRange(last.range.since, answer.range.until), at)
        else:
            merged.append(answer)
    return tuple(merged)


def _one(frame: Timeframe, last: Answered, answer: Answered) -> bool:
    """Whether two neighbours may be kept as one range, which then has the earlier of their times.

    Candles that arrive live are each answered at a time of their own. The one answered later may take the earlier
    time if it was answered within two candles of its opening: it is owed another look by either.
    """
    if last.at == answer.at:
        return True
    if last.at is None or answer.at is None:
        return False
    later = last if last.at > answer.at else answer
    assert later.at is not None
    return frame.slot(later.at) - frame.slot(later.range.since) <= 2


def regions(ledger: Ledger, wanted: RangeSet) -> list[tuple[State, RangeSet]]:
    """`wanted` cut into disjoint regions, each with the state of its slots that hold no row. The order is by strength.

    What was answered is absent whatever else is said of it; a fact is stronger than pending or missing. Before a known
    listing there is nothing, however far back.
    """
    settled = settled_until(ledger.timeframe, ledger.clock, ledger.settle)
    left = wanted
    cut: list[tuple[State, RangeSet]] = []
    claims: list[tuple[State, RangeSet]] = [(State.ABSENT, ledger.answered_ranges)]
    claims += [(state, ledger.fact_ranges(state)) for state in FACTS]
    early = ledger.fact_ranges(State.BEFORE_LISTING)
    if wanted and early and early.since > wanted.since:
        claims.append((State.BEFORE_LISTING, RangeSet.of(wanted.since, early.since)))
    if wanted:
        claims.append((State.PENDING, RangeSet.of(settled, max(settled, wanted.until))))
    for state, ranges in claims:
        cut.append((state, left & ranges))
        left -= ranges
    cut.append((State.MISSING, left))
    return cut


def account(
    ledger: Ledger, stored: NDArray[np.int64], wanted: RangeSet | None = None, *, gaps: bool = True
) -> Account:
    """Account for every slot of `wanted` (all that was ever asked if None).

    `stored` holds the open times of the rows that are there, ascending and unique; those off the grid or outside
    `wanted` are not counted. Listing the gaps costs the most; `gaps=False` leaves them out.
    """
    import numpy as np

    frame = ledger.timeframe
    whole = RangeSet(aligned(frame, r) for r in (ledger.asked if wanted is None else wanted))
    rows = stored[frame.aligned(stored)]
    refused = np.array(sorted({frame.floor(q) for q in ledger.quarantined}), dtype=np.int64)
    if len(refused):
        refused = np.setdiff1d(refused, rows, assume_unique=True)
    counts = dict.fromkeys(State, 0)
    found: list[Gap] = []
    expected = sum(frame.count(r.since, r.until) for r in whole)
    for state, region in regions(ledger, whole):
        for part in region:
            here = rows[np.searchsorted(rows, part.since) : np.searchsorted(rows, part.until)]
            bad = refused[np.searchsorted(refused, part.since) : np.searchsorted(refused, part.until)]
            counts[State.STORED] += len(here)
            counts[State.QUARANTINED] += len(bad)
            counts[state] += frame.count(part.since, part.until) - len(here) - len(bad)
            if gaps:
                taken = np.union1d(here, bad) if len(bad) else here
                for piece, reason in _reasons(ledger, state, part):
                    inside = taken[np.searchsorted(taken, piece.since) : np.searchsorted(taken, piece.until)]
                    found += _runs(frame, piece, inside, state, reason)
                found += [Gap(int(b), frame.next(int(b)), 1, State.QUARANTINED, "row refused") for b in bad]
    return Account(expected, counts, tuple(_joined(found)))


def joined_accounts(parts: Sequence[Account]) -> Account:
    """The account of several disjoint sets of ranges as one."""
    counts = {state: sum(p.counts[state] for p in parts) for state in State}
    gaps = _joined([g for p in parts for g in p.gaps])
    return Account(sum(p.expected for p in parts), counts, tuple(gaps))


def _runs(
    frame: Timeframe, part: TimeRange, taken: NDArray[np.int64], state: State, reason: str
) -> list[Gap]:
    """The runs of slots of `part` that `taken` (ascending open times in it) leaves free."""
    import numpy as np

    first, last = frame.slot(part.since), frame.slot(frame.ceil(part.until))  # [first, last)
    slots = np.concatenate(([first - 1], frame.slots(taken), [last]))
    before = np.flatnonzero(np.diff(slots) > 1)
    return [
        Gap(
            frame.open_of(int(slots[i]) + 1),
            frame.open_of(int(slots[i + 1])),
            int(slots[i + 1] - slots[i]) - 1,
            state,
            reason,
        )
        for i in before
    ]


def _joined(found: Sequence[Gap]) -> list[Gap]:
    """Neighbouring gaps of equal state and reason as one, in order of time."""
    joined: list[Gap] = []
    for gap in sorted(found, key=lambda g: g.since):
        last = joined[-1] if joined else None
        if last and last.until == gap.since and last.state is gap.state and last.reason == gap.reason:
            joined[-1] = Gap(last.since, gap.until, last.candles + gap.candles, gap.state, gap.reason)
        else:
            joined.append(gap)
    return joined


def _reasons(ledger: Ledger, state: State, part: TimeRange) -> list[tuple[TimeRange, str]]:
    """`part` cut where the reason for its gaps changes: what is missing may be so because nobody asked for it."""
    if state is not State.MISSING:
        return [(part, _reason(ledger, state, part))]
    whole, asked = RangeSet([part]), RangeSet(aligned(ledger.timeframe, r) for r in ledger.asked)
    return [(piece, "asked for, not answered") for piece in whole & asked] + [
        (piece, "never asked for") for piece in whole - asked
    ]


def _reason(ledger: Ledger, state: State, part: TimeRange) -> str:
    if state in FACTS:
        for fact in ledger.facts:
            if fact.state is state and fact.range.intersect(part):
                return fact.reason
        # Only before the listing are there slots of a state that no fact names (see `regions`).
        return min((f for f in ledger.facts if f.state is state), key=lambda f: f.range).reason
    return {
        State.ABSENT: "the exchange has no candle",
        State.PENDING: "not settled when last asked",
    }.get(state, "")
