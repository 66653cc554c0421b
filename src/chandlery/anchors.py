"""Where the candles of an exchange open, if not where they usually do: weeks that begin on Thursday, days of UTC+8.

Usually weeks open on Monday, and everything else that has a fixed length is counted from 1970-01-01 UTC. `USUAL_NOT` names
the exchanges known to differ (docs/exchanges.md says from where); what `chandlery probe` has learnt of others is read from
the user's state folder, so it holds for all stores of this user.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from chandlery.state import state_folder
from chandlery.timeframe import HOUR, Timeframe, parse_timeframe

THURSDAY = 0  # 1970-01-01 was one
#: No candle is further from 1970 than this: the end of the year 2100, in ms.
LAST_MOMENT = 4_133_980_800_000
_DAY_OF_UTC8 = -8 * HOUR
_WEEKS_OF_THURSDAY = {"1w": THURSDAY}

#: Exchange id -> timeframe -> a moment at which one of its candles opens (epoch ms).
USUAL_NOT: Mapping[str, Mapping[str, int]] = {
    "gate": _WEEKS_OF_THURSDAY,
    "gateio": _WEEKS_OF_THURSDAY,
    "htx": {"1d": _DAY_OF_UTC8},
    "huobi": {"1d": _DAY_OF_UTC8},
    "hyperliquid": _WEEKS_OF_THURSDAY,
    "kraken": _WEEKS_OF_THURSDAY,
    "kucoin": _WEEKS_OF_THURSDAY,
}


def frame_of(exchange: str, timeframe: str) -> Timeframe:
    """The timeframe as that exchange lays it on the calendar; raises UnknownTimeframe for text that is none."""
    usual = parse_timeframe(timeframe)
    # Nothing shorter than six hours is known to be laid otherwise, and months have no anchor.
    if usual.fixed_ms is None or usual.fixed_ms < 6 * HOUR:
        return usual
    anchor = USUAL_NOT.get(exchange, {}).get(timeframe)
    if anchor is None and exchange.isidentifier():  # an id of ccxt, not a tag that somebody else wrote
        anchor = _learnt(state_folder() / "profiles" / f"{exchange}.json").get(timeframe)
    return usual if anchor is None else parse_timeframe(timeframe, anchor)


def forget_learnt() -> None:
    """Read what was learnt anew, because it has changed on disk."""
    _learnt.cache_clear()


def anchors_from(data: Mapping[str, Any]) -> dict[str, int]:
    """The anchors in a profile as written; raises ValueError, TypeError or AttributeError for what are none."""
    given = data.get("anchors", {}).items()
    return {
        str(text): whole(anchor, f"anchor of {text}", -LAST_MOMENT, LAST_MOMENT) for text, anchor in given
    }


def whole(value: object, name: str, least: int, most: int) -> int:
    """A whole number within bounds, as written; raises ValueError, naming it, for anything else."""
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"{name} = {value!r:.40}, which is no whole number from {least} to {most}")
    return value


@lru_cache(maxsize=64)
def _learnt(path: Path) -> Mapping[str, int]:
    """The anchors of a learnt profile; none where there is no such file, or one that cannot be read."""
    try:
        return anchors_from(json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return {}
