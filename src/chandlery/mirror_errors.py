"""What is said of a mirror that cannot be one, or is not what it should be."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

from chandlery.candle import SeriesId
from chandlery.compare import SeriesDifference
from chandlery.errors import DatabaseError, DataPipelineError, UsageError

#: Series that an error names, with what each failed at.
NAMED = 5


def same_store(url: str) -> UsageError:
    """The error for a mirror that is what it should mirror."""
    return UsageError(
        f"the mirror {url} is the store itself", hint="name another folder or bucket with --mirror"
    )


def not_followed(url: str) -> UsageError:
    """The error for mirrors of a store that cannot be followed."""
    return UsageError(
        f"mirrors follow a store of files, and {url} is an InfluxDB",
        hint="keep files as the store and name InfluxDB with --mirror, or bring it over with chandlery copy",
    )


def differs(primary: str, mirror: str, wrong: Sequence[SeriesDifference]) -> DatabaseError:
    """The error for a mirror that is not equal to its store after everything was delivered."""
    first = min(wrong, key=lambda found: found.series)
    parts = [
        f"{count:,} {words}"
        for count, words in (
            (first.only_a, "candles not there"),
            (first.only_b, "candles that the store has not"),
            (first.changed, "candles with other values"),
            (sum(a.candles for a in first.answers), "slots known otherwise"),
        )
        if count
    ]
    more = f", and {len(wrong) - 1:,} more series" if len(wrong) > 1 else ""
    return DatabaseError(
        f"the mirror {mirror} differs from its store after it was delivered: {first.series} ({', '.join(parts)}){more}",
        hint=f"chandlery diff {shlex.quote(primary)} {shlex.quote(mirror)} shows where",
    )


def not_taken(mirror: str, failed: Mapping[SeriesId, DataPipelineError]) -> DatabaseError:
    """The error that names the series that a mirror could not take, and why."""
    order = sorted(failed, key=lambda s: (s.exchange, s.symbol, s.timeframe, s.kind))
    said = [
        text if text.startswith(str(series)) else f"{series}: {text}"
        for series in order[:NAMED]
        for text in [failed[series].message]
    ]
    more = f"; and {len(order) - NAMED:,} more" if len(order) > NAMED else ""
    hint = failed[order[0]].hint
    return DatabaseError(
        f"the mirror {mirror} did not take {_count(len(order))}: {'; '.join(said)}{more}", hint=hint
    )


def _count(series: int) -> str:
    return "one series" if series == 1 else f"{series:,} series"
