"""Verify: account for every slot of a series from what the store holds, without asking anybody else."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from chandlery.candle import SeriesId
from chandlery.errors import DataPipelineError
from chandlery.ledger import Account, Gap, Ledger, State, aligned, silent_end
from chandlery.report import error_json, series_json, slots_json
from chandlery.stores.base import Problem, Store, pieces
from chandlery.timerange import RangeSet
from chandlery.validate import check_rows
from chandlery.when import iso

#: How many gaps the JSON output lists unless told otherwise.
GAPS_LISTED = 1000


@dataclass(frozen=True, slots=True)
class SeriesVerdict:
    """What verify found of one series. `first` and `last` are open times in epoch ms of candles in the span."""

    series: SeriesId
    first: int | None
    last: int | None
    account: Account
    duplicates: int
    invalid: int  # rows that cannot be candles: off the grid, not numbers, low above high
    unexplained: (
        int  # slots that no state accounts for, rows that the store says it holds and cannot give back
    )
    problems: tuple[Problem, ...]
    reach_asked: bool  # whether the caller said since when, so that what is out of reach counts as not there
    error: DataPipelineError | None = None  # why nothing could be said of the series

    @property
    def ok(self) -> bool:
        """Whether every slot is accounted for and nothing is wrong with what is there."""
        counts = self.account.counts
        bad = sum(counts[state] for state in self.faulty) + self.invalid + self.duplicates + self.unexplained
        return bad == 0 and not self.problems and self.error is None

    @property
    def faulty(self) -> tuple[State, ...]:
        """The states whose slots make the series fail."""
        reach = (State.OUT_OF_REACH,) if self.reach_asked else ()
        return State.MISSING, State.QUARANTINED, *reach

    def first_gaps(self, most: int) -> list[Gap]:
        """At most so many gaps: those that make it fail first, then the others, each in order of time."""
        return sorted(self.account.gaps, key=lambda gap: gap.state not in self.faulty)[:most]

    def as_json(self, gaps: int = GAPS_LISTED) -> dict[str, Any]:
        """The series' part of `verify --json`, with at most `gaps` gaps listed in order of time, none that makes it fail left out for another."""
        found = self.account.gaps
        return {
            **series_json(self.series),
            "first": None if self.first is None else iso(self.first),
            "last": None if self.last is None else iso(self.last),
            "expected": self.account.expected,
            "stored": self.account.counts[State.STORED],
            **slots_json(self.account.counts),
            "duplicates": self.duplicates,
            "invalid": self.invalid,
            "unexplained": self.unexplained,
            "gaps_total": len(found),
            "gaps": [
                {
                    "from": iso(gap.since),
                    "to": iso(gap.until),
                    "candles": gap.candles,
                    "state": gap.state.value,
                    "reason": gap.reason,
                }
                for gap in sorted(self.first_gaps(gaps), key=lambda gap: gap.since)
            ],
            "error": error_json(self.error),
        }


def verify_series(
    store: Store, series: SeriesId, *, since: int | None = None, until: int | None = None
) -> SeriesVerdict:
    """Account for every slot of [since, until), by default of all that was ever asked of the series.

    A part of the span that was never asked for is missing. Raises NoSuchSeries; damage is part of the verdict.
    """
    ledger = store.ledger(series)
    frame = ledger.timeframe
    wanted = ledger.asked
    if since is not None or until is not None:
        low = since if since is not None else (wanted.since if wanted else 0)
        high = until if until is not None else (wanted.until if wanted else 0)
        wanted = RangeSet(aligned(frame, r) for r in RangeSet.of(low, high))
    problems = store.check(series)
    damaged = wanted & RangeSet(p.range for p in problems if p.kind == "lost" and p.range is not None)
    readable = wanted - damaged
    account = store.account(series, readable)
    lost = sum(frame.count(r.since, r.until) for r in damaged)
    invalid, first, last = _look(store, series, readable)
    return SeriesVerdict(
        series=series,
        first=first,
        last=last,
        account=Account(account.expected + lost, account.counts, _said_of_the_end(ledger, account.gaps)),
        duplicates=sum(p.candles for p in problems if p.kind == "duplicate"),
        invalid=invalid,
        unexplained=lost + account.unexplained + sum(p.candles for p in problems if p.kind == "ledger"),
        problems=tuple(problems),
        reach_asked=since is not None,
    )


def cannot_verify(series: SeriesId, error: DataPipelineError) -> SeriesVerdict:
    """The verdict on a series of which nothing can be said."""
    nothing = Account(0, dict.fromkeys(State, 0), ())
    return SeriesVerdict(series, None, None, nothing, 0, 0, 0, (), reach_asked=False, error=error)


def _said_of_the_end(ledger: Ledger, gaps: tuple[Gap, ...]) -> tuple[Gap, ...]:
    """The gaps, with what may be the reason where candles came to an end before now."""
    end = silent_end(ledger, gaps)
    if end is None:
        return gaps
    last = iso(ledger.timeframe.add(end.since, -1))
    reason = f"no candle after {last}; the market is quiet, the exchange is late, or the fetch was broken off"
    return tuple(replace(gap, reason=reason) if gap is end else gap for gap in gaps)


def _look(store: Store, series: SeriesId, wanted: RangeSet) -> tuple[int, int | None, int | None]:
    """How many stored rows of `wanted` are no candles, and the first and last open time there."""
    invalid = 0
    first: int | None = None
    last: int | None = None
    for span in wanted:
        for piece in pieces(series.frame, span):
            candles = store.candles(series, piece)
            if candles.height:
                opens = candles["time"].to_physical()
                first = int(opens[0]) if first is None else first
                last = int(opens[-1])
                invalid += candles.height - check_rows(candles, series.frame).good.height
    return invalid, first, last


__all__ = ["GAPS_LISTED", "SeriesVerdict", "cannot_verify", "verify_series"]
