"""Limits that an exchange declares itself: `rateLimits` of Binance's exchangeInfo."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chandlery.sources.limits import RequestLimit

_UNITS = {"SECOND": 1_000, "MINUTE": 60_000, "HOUR": 3_600_000, "DAY": 86_400_000}
#: Answers say in a header of this name, with the window behind it ("1m"), what was used.
USED_WEIGHT = "x-mbx-used-weight-"
#: What an exchange that declares its limits is taken to allow before it has done so; weights are those of ccxt.
UNTIL_DECLARED = (RequestLimit("declared", 1200, 60_000, fixed=True, header=USED_WEIGHT + "1m"),)


def declared_weights(rate_limits: object) -> Mapping[int, tuple[str, float]]:
    """The limits on weight by the length of their window in ms: its short name ("1m") and the weight, above 0."""
    found: dict[int, tuple[str, float]] = {}
    for item in rate_limits if isinstance(rate_limits, list) else ():
        weight = _weight(item)
        if weight is not None:
            window, name, limit = weight
            found[window] = name, limit
    return found


def _weight(item: Any) -> tuple[int, str, float] | None:
    """One entry; None where it sets no limit on weight."""
    if not isinstance(item, dict) or item.get("rateLimitType") != "REQUEST_WEIGHT":
        return None
    unit, count, limit = item.get("interval"), item.get("intervalNum", 1), item.get("limit")
    if unit not in _UNITS or not isinstance(count, int) or not isinstance(limit, int | float):
        return None
    if limit <= 0 or count <= 0:
        return None
    return _UNITS[unit] * count, f"{count}{unit[0].lower()}", float(limit)
