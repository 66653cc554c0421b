"""Half-open ranges of time, [since, until) in epoch milliseconds, and sets of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class TimeRange:
    """[since, until) in epoch milliseconds UTC; empty when both are equal."""

    since: int  # inclusive
    until: int  # exclusive

    def __post_init__(self) -> None:
        if self.since > self.until:
            raise ValueError(f"a range must not end before it begins: [{self.since}, {self.until})")

    def __contains__(self, moment: int) -> bool:
        return self.since <= moment < self.until

    def __bool__(self) -> bool:
        return self.since < self.until

    def intersect(self, other: TimeRange) -> TimeRange | None:
        """The part both share, None where they share nothing."""
        since, until = max(self.since, other.since), min(self.until, other.until)
        return TimeRange(since, until) if since < until else None


class RangeSet:
    """An immutable set of moments, kept as sorted ranges that neither touch nor overlap."""

    __slots__ = ("ranges",)

    ranges: tuple[TimeRange, ...]

    def __init__(self, ranges: Iterable[TimeRange] = ()) -> None:
        merged: list[TimeRange] = []
        for current in sorted(r for r in ranges if r):
            if merged and current.since <= merged[-1].until:
                if current.until > merged[-1].until:
                    merged[-1] = TimeRange(merged[-1].since, current.until)
            else:
                merged.append(current)
        self.ranges = tuple(merged)

    @classmethod
    def of(cls, since: int, until: int) -> RangeSet:
        """The set of one range; empty if `until` is not after `since`."""
        return cls([TimeRange(since, until)] if since < until else [])

    def __iter__(self) -> Iterator[TimeRange]:
        return iter(self.ranges)

    def __len__(self) -> int:
        return len(self.ranges)

    def __bool__(self) -> bool:
        return bool(self.ranges)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RangeSet) and self.ranges == other.ranges

    def __hash__(self) -> int:
        return hash(self.ranges)

    def __repr__(self) -> str:
        return "RangeSet(" + ", ".join(f"[{r.since}, {r.until})" for r in self.ranges) + ")"

    def __contains__(self, moment: int) -> bool:
        return any(moment in r for r in self.ranges)

    def __or__(self, other: RangeSet) -> RangeSet:
        return RangeSet((*self.ranges, *other.ranges))

    def __and__(self, other: RangeSet) -> RangeSet:
        shared: list[TimeRange] = []
        mine, theirs = iter(self.ranges), iter(other.ranges)
        a, b = next(mine, None), next(theirs, None)
        while a is not None and b is not None:
            part = a.intersect(b)
            if part is not None:
                shared.append(part)
            if a.until <= b.until:
                a = next(mine, None)
            else:
                b = next(theirs, None)
        return RangeSet(shared)

    def __sub__(self, other: RangeSet) -> RangeSet:
        left: list[TimeRange] = []
        holes = other.ranges
        first = 0
        for whole in self.ranges:
            since = whole.since
            while first < len(holes) and holes[first].until <= since:
                first += 1
            for hole in holes[first:]:
                if hole.since >= whole.until:
                    break
                if hole.since > since:
                    left.append(TimeRange(since, hole.since))
                since = max(since, hole.until)
            if since < whole.until:
                left.append(TimeRange(since, whole.until))
        return RangeSet(left)

    @property
    def since(self) -> int:
        """First moment of the set; ValueError if it is empty."""
        if not self.ranges:
            raise ValueError("an empty set of ranges has no first moment")
        return self.ranges[0].since

    @property
    def until(self) -> int:
        """End of the last range; ValueError if the set is empty."""
        if not self.ranges:
            raise ValueError("an empty set of ranges has no end")
        return self.ranges[-1].until
