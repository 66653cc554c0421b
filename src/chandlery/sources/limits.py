"""The request limits of an exchange as data: how much weight per window, which paths count, and what each costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit

_MOST = 1e15  # doubles count exactly up to there


@dataclass(frozen=True, slots=True)
class Cost:
    """What a request to paths that end in `path` weighs.

    `by_limit` are steps (rows asked for at most, weight), ascending, where the weight depends on the parameter `limit`;
    more rows than the last step names weigh `weight`.
    """

    path: str
    weight: float
    by_limit: tuple[tuple[int, float], ...] = ()

    def of(self, query: str) -> float:
        """The weight of a request with that query string."""
        if self.by_limit:
            asked = parse_qs(query).get("limit", ["0"])[0]
            rows = int(asked) if asked.isdecimal() else 0
            for most, weight in self.by_limit:
                if rows <= most:
                    return weight
        return self.weight


@dataclass(frozen=True, slots=True)
class RequestLimit:
    """At most `weight` in a window of `window_ms` for all requests to one host whose path holds one of `paths` (none: all).

    `fixed` windows begin at multiples of their length by the exchange's clock; others roll, so that no stretch of that
    length may hold more. `header` is the one (lower case) that says what is used; `costs` name what does not weigh 1, the
    first that fits counts.
    """

    name: str
    weight: float
    window_ms: int
    fixed: bool = False
    paths: tuple[str, ...] = ()
    header: str = ""
    costs: tuple[Cost, ...] = ()

    def cost(self, url: str) -> float:
        """What a request to `url` costs of this limit; 0 where it does not count."""
        parts = urlsplit(url)
        if self.paths and not any(path in parts.path for path in self.paths):
            return 0.0
        for cost in self.costs:
            if parts.path.endswith(cost.path):
                return cost.of(parts.query)
        return 1.0


def limits_from(items: Sequence[Mapping[str, Any]]) -> tuple[RequestLimit, ...]:
    """Limits as written in a profile; raises KeyError, TypeError or ValueError for what is none."""
    return tuple(
        RequestLimit(
            name=str(item["name"]),
            weight=_positive(item["weight"]),
            window_ms=max(1, int(_positive(item["window_ms"]))),
            fixed=bool(item.get("fixed", False)),
            paths=tuple(item.get("paths", ())),
            header=str(item.get("header", "")).lower(),
            costs=tuple(
                Cost(
                    str(cost["path"]),
                    _positive(cost["weight"]),
                    tuple((int(rows), _positive(weight)) for rows, weight in cost.get("by_limit", ())),
                )
                for cost in item.get("costs", ())
            ),
        )
        for item in items
    )


def _positive(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < _MOST:
        raise ValueError(f"not a number above 0, and below 10**15: {value!r}")
    return float(value)
