"""What a probe found, beside what was known before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

from chandlery.sources.limits import RequestLimit
from chandlery.sources.probe_page import Finding
from chandlery.sources.profile import Habits, Profile

#: The habits that a probe asks for, in the order in which they are told.
HABITS = (
    "page", "recent_page", "recent", "depth", "depth_by", "heeds_limit", "begin", "end", "order", "window", "empty", "in_progress", "finality", "volume",
)  # fmt: skip


@dataclass(slots=True)
class Learnt:
    """What was learnt of one kind of market: the symbol it was asked of, and a finding for each of HABITS."""

    kind: str
    symbol: str
    findings: dict[str, Finding] = field(default_factory=dict)

    def value(self, name: str) -> Any:
        """The value of a habit, None where it could not be told."""
        found = self.findings.get(name)
        return None if found is None else found.value


@dataclass(frozen=True, slots=True)
class Habit:
    """One line of the result: a habit as it was learnt (None: not told) and as it was known before (None: not known).

    `state` is "new", "changed", "same" or "unknown".
    """

    market: str
    symbol: str
    name: str
    learnt: Any
    before: Any
    evidence: Sequence[str]

    @property
    def state(self) -> str:
        """What the probe made of what was known."""
        if self.learnt is None:
            return "unknown"
        if self.before is None:
            return "new"
        return "same" if self.learnt == self.before or _agrees(self.learnt, self.before) else "changed"


@dataclass(slots=True)
class Probed:
    """What a probe found. `profile` is what to keep: what was learnt, and what was known before where nothing was."""

    profile: Profile
    markets: list[Learnt]
    anchors: Finding
    requests: int
    limits: str
    problems: list[str] = field(default_factory=list)

    def habits(self, before: Profile | None) -> list[Habit]:
        """Every habit beside what `before` says of it."""
        lines = []
        for one in self.markets:
            known = before.habits(one.kind) if before else None
            for name in HABITS:
                found = one.findings.get(name) or Finding()
                if name == "depth_by" and one.value("depth") == {}:
                    continue  # there is nothing to count
                value = None if known is None else getattr(known, name)
                if value == "unknown" or (name == "finality" and not value):
                    value = None
                if isinstance(value, Mapping):
                    value = dict(value)
                lines.append(Habit(one.kind, one.symbol, name, found.value, value, tuple(found.evidence)))
        symbol = self.markets[0].symbol if self.markets else ""
        anchors = dict(before.anchors) if before else None
        return [
            *lines,
            Habit("all", symbol, "anchors", self.anchors.value, anchors, tuple(self.anchors.evidence)),
        ]


def to_keep(known: Profile, learnt: Sequence[Learnt], anchors: Finding, *, at: int, ccxt: str) -> Profile:
    """The profile to keep: what was told, and `known` for all that was not. `at` is the local time, epoch ms."""
    markets = dict(known.markets)
    markets.update({one.kind: _merged(one, known.habits(one.kind)) for one in learnt if one.value("page")})
    return replace(
        known,
        markets=markets,
        anchors={**known.anchors, **(anchors.value or {})},
        origin="probed",
        at=at,
        ccxt=ccxt,
    )


def _merged(learnt: Learnt, known: Habits | None) -> Habits:
    """The habits that were told, and for the others those known before."""
    habits = known or Habits(page=2)
    told = {
        name: found.value
        for name, found in learnt.findings.items()
        if found.value is not None and not _agrees(found.value, getattr(habits, name))
    }
    return replace(habits, **told)


def _agrees(learnt: Any, known: Any) -> bool:
    """Whether numbers by timeframe say nothing else than those known, which may be of more timeframes."""
    if not isinstance(learnt, Mapping) or not isinstance(known, Mapping) or not learnt:
        return False
    return all(known.get(text, known.get("*")) == number for text, number in learnt.items())


def best_page(most: int, url: str, limits: Sequence[RequestLimit]) -> int:
    """The number of candles up to `most` with the most candles per weight of a request to `url`."""
    path = urlsplit(url).path
    steps = [
        (rows, weight, cost.weight)
        for limit in limits
        for cost in limit.costs
        if cost.by_limit and path.endswith(cost.path) and limit.cost(url)
        for rows, weight in cost.by_limit
    ]
    if not steps:
        return most
    above = min((weight for rows, weight, _ in steps if rows >= most), default=steps[0][2])
    offers = [(most / above, most), *((rows / weight, rows) for rows, weight, _ in steps if 2 <= rows < most)]
    return max(offers)[1]
