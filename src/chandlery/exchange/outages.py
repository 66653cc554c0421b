"""When the generated market stood still: no pair has a candle then, as in the holes of real exchanges.

The times are fixed: they depend neither on the seed nor on the pair. None touches May and June 2024, which examples use.
"""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np

from chandlery.exchange.noise import key_of, lane, scramble
from chandlery.timeframe import DAY, MINUTE
from chandlery.timerange import TimeRange

_STRETCH = 45 * DAY  # each of these holds one outage or none
_KEY = key_of("outages of the generated market")
_LONG, _SHORT, _SHARE_LONG, _SHARE_NONE = 300, 90, 13_000, 16_000  # minutes; shares of 65,536
_CALM = TimeRange(
    int(datetime(2024, 5, 1, tzinfo=UTC).timestamp()) * 1000,
    int(datetime(2024, 7, 1, tzinfo=UTC).timestamp()) * 1000,
)


def outages(since: int, until: int) -> list[TimeRange]:
    """Outages that touch [since, until), ascending; whole minutes."""
    if since >= until:
        return []
    stretches = np.arange(since // _STRETCH - 1, until // _STRETCH + 1, dtype=np.int64)
    bits = scramble(_KEY, stretches)
    found = []
    for stretch, whether, where, length, size in zip(
        stretches.tolist(), *(lane(bits, n).tolist() for n in range(4)), strict=True
    ):
        if whether < _SHARE_NONE:
            continue
        longest = _LONG if size < _SHARE_LONG else _SHORT
        minutes = 4 + length * longest // 65_536
        start = stretch * _STRETCH + where * _STRETCH // 65_536 // MINUTE * MINUTE
        outage = TimeRange(start, start + minutes * MINUTE)
        calm = outage.until > _CALM.since and outage.since < _CALM.until
        if not calm and outage.until > since and outage.since < until:
            found.append(outage)
    return found
