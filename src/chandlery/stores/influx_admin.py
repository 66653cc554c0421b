"""What an InfluxDB 2 server holds besides points: organisations, buckets, tokens; through its HTTP API."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

#: Seconds, by what people call them; the longest that fits comes first.
_LENGTHS = ((604_800, "week"), (86_400, "day"), (3_600, "hour"), (60, "minute"), (1, "second"))


@dataclass(frozen=True, slots=True)
class Bucket:
    """A bucket as the server describes it. `retention` and `shard` are in seconds; retention 0 is for ever."""

    id: str
    name: str
    org_id: str
    retention: int
    shard: int

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> Bucket:
        """The bucket of one JSON object of /api/v2/buckets."""
        rules = found.get("retentionRules") or [{}]
        return cls(
            id=str(found["id"]),
            name=str(found["name"]),
            org_id=str(found["orgID"]),
            retention=int(rules[0].get("everySeconds", 0)),
            shard=int(rules[0].get("shardGroupDurationSeconds", 0)),
        )


def said_length(seconds: int) -> str:
    """A length of time in words: `for ever` for 0, else such as `30 days`."""
    if seconds == 0:
        return "for ever"
    size, name = next((size, name) for size, name in _LENGTHS if seconds % size == 0)
    if name == "week":
        size, name = 86_400, "day"
    count = seconds // size
    return f"{count:,} {name}{'' if count == 1 else 's'}"
