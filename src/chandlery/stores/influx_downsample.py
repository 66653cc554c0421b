"""Making long candles of 1m ones now: all of history, or the ranges that a back-fill or a repair has touched."""

from __future__ import annotations

import asyncio
import csv
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from chandlery.errors import DatabaseError, StoreUnreadable
from chandlery.ledger import State, regions
from chandlery.stores import influx_tasks
from chandlery.stores.influx_admin import Bucket
from chandlery.stores.influx_http import failed
from chandlery.stores.influx_lines import tags_of
from chandlery.stores.influx_tasks import Downsampling
from chandlery.timeframe import DAY
from chandlery.timerange import RangeSet, TimeRange
from chandlery.when import parse_when

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from chandlery.candle import SeriesId
    from chandlery.ledger import Ledger
    from chandlery.stores.base import Store
    from chandlery.stores.influx_http import InfluxHttp
    from chandlery.stores.influx_lines import SeriesTags

#: Long candles that one query makes, and minutes that it reads, over all series: bounds what the server holds at once, and
#: how long it is silent. 35,000 of 2.1 million minutes take 3.5 s.
_MOST, _MOST_MINUTES = 50_000, 5_000_000
#: Names of buckets that are asked for at once.
_AT_ONCE = 8
_FOR_EVER = RangeSet.of(0, 7_258_118_400_000)  # until 2200


@dataclass(frozen=True, slots=True)
class Target:
    """A bucket of long candles, and what they are made of."""

    made: Downsampling
    bucket: Bucket


async def targets(http: InfluxHttp) -> list[Target]:
    """The buckets that `chandlery influx setup --downsample` made for the bucket of `http`, as far as the token may read.

    They are asked for by the names that they can have: a list of all buckets comes in pages out of which the server takes
    what the token may not read, so that nothing tells the last page. Raises StoreUnreadable where it may not ask.
    """
    gate = asyncio.Semaphore(_AT_ONCE)

    async def one(made: Downsampling) -> Target | None:
        async with gate:
            answer = await http.ask(
                "GET", "/api/v2/buckets", params={"org": http.place.org, "name": made.target}
            )
        if answer.status == 404:
            return None
        if answer.status != 200:
            raise failed(http.place, answer)
        found = [Bucket.of(bucket) for bucket in answer.json()["buckets"]]
        ours = [bucket for bucket in found if bucket.description == made.name]
        return Target(made, ours[0]) if ours else None

    asked = [influx_tasks.downsampling(http.place.bucket, text) for text in influx_tasks.LONG]
    known = await asyncio.gather(*map(one, asked))
    return sorted((t for t in known if t is not None), key=lambda target: target.made.minutes)


async def rerun(
    http: InfluxHttp,
    ranges: RangeSet | None = None,
    *,
    tags: SeriesTags | None = None,
    ledger: Ledger | None = None,
    into: Sequence[Target] | None = None,
) -> dict[str, int]:
    """Make the long candles anew that have minutes in `ranges` (all of history if None); returns how many by timeframe.

    Written are candles whose minutes are all there. With `tags`, of that 1m series only; with its `ledger` too, also those
    that lack minutes, where it says that the exchange has none: every slot answered, none refused. To be called after
    candles arrived, were repaired or revised further back than tasks look (influx_tasks.LOOK_BACK days), and for quiet
    markets after every fetch. `into` saves looking the targets up; nothing is done where there are none. Raises StoreUnreadable or DatabaseError.
    """
    made: dict[str, int] = {}
    for target in await targets(http) if into is None else into:
        done = await _rerun_one(http, target, ranges or _FOR_EVER, tags, ledger)
        made[target.made.timeframe] = made.get(target.made.timeframe, 0) + done
    return made


def explained(ledger: Ledger, wanted: RangeSet) -> RangeSet:
    """The part of `wanted` in which every slot is a candle, or known to have none: nothing may come there any more."""
    sure = (State.ABSENT, State.BEFORE_LISTING, State.AFTER_END)
    parts = [ranges for state, ranges in regions(ledger, wanted) if state in sure]
    frame = ledger.timeframe
    refused = (frame.floor(opened) for opened in ledger.quarantined)
    return RangeSet(part for ranges in parts for part in ranges) - RangeSet(
        TimeRange(opened, frame.next(opened)) for opened in refused
    )


def rerun_series(
    http: InfluxHttp,
    store: Store,
    series: Mapping[SeriesId, RangeSet | None],
    into: Sequence[Target] | None = None,
) -> dict[str, int]:
    """`rerun` for 1m series of a store, each with its ledger and the ranges that were touched (None: all of history).

    Series of other timeframes are passed over. Returns how many long candles were written, by timeframe; empty where
    the bucket has no targets. From any thread; raises as `rerun` does.
    """
    minutes = {one: ranges for one, ranges in series.items() if one.timeframe == influx_tasks.SOURCE}
    if not minutes:
        return {}
    known = http.run(targets(http)) if into is None else into
    made = dict.fromkeys((target.made.timeframe for target in known), 0)
    for one, ranges in minutes.items() if known else ():
        work = rerun(http, ranges, tags=tags_of(one), ledger=store.ledger(one), into=known)
        for timeframe, number in http.run(work).items():
            made[timeframe] += number
    return made


async def _rerun_one(
    http: InfluxHttp, target: Target, ranges: RangeSet, tags: SeriesTags | None, ledger: Ledger | None
) -> int:
    made = target.made
    firsts = await _query(http, influx_tasks.first_flux(made.source, tags))
    if not firsts:
        return 0
    now = time.time_ns() // 1_000_000
    first = min(parse_when(row["_time"], now=now) for row in firsts)
    kept = now - target.bucket.retention * 1000 if target.bucket.retention else 0
    frame = made.frame
    wanted = influx_tasks.touched(made, ranges) & RangeSet.of(
        max(frame.floor(first), frame.ceil(kept)), frame.floor(now)
    )
    # Where the ledger explains every slot, the minutes that are there are all there will be.
    whole = RangeSet()
    if ledger is not None and tags is not None:
        whole = influx_tasks.whole(made, explained(ledger, wanted))
    most = min(_MOST, _MOST_MINUTES // made.minutes) // len(firsts)
    most = max(most, DAY // frame.nominal_ms)  # many series that are mostly past must not make it crawl
    written = 0
    for part, least in ((whole, 1), (wanted - whole, None)):
        for piece in influx_tasks.pieces(made, part, most):
            written += await _made(http, influx_tasks.range_flux(made, piece, tags=tags, least=least))
    return written


async def _made(http: InfluxHttp, flux: str) -> int:
    return sum(int(row["_value"]) for row in await _query(http, flux))


async def _query(http: InfluxHttp, flux: str) -> list[Mapping[str, str]]:
    """The rows of a Flux query; raises with the server's words, those that come in the middle of an answer too."""
    content = {"Content-Type": "application/vnd.flux", "Accept": "application/csv"}
    where = {"org": http.place.org}
    answer = await http.ask("POST", "/api/v2/query", params=where, body=flux.encode(), headers=content)
    if answer.status in (401, 403) or (answer.status != 200 and "permission" in answer.said):
        raise StoreUnreadable(
            f"InfluxDB at {http.place.server}: the token may not downsample: {answer.said}",
            hint="it must be allowed to write to the buckets of long candles: `chandlery influx setup --new-tokens` makes one",
        )
    if answer.status != 200:
        raise failed(http.place, answer)
    rows: list[Mapping[str, str]] = []
    for table in answer.body.decode().replace("\r\n", "\n").split("\n\n"):
        rows += csv.DictReader(table.strip("\n").split("\n")) if table.strip() else []
    for row in rows:
        if row.get("error"):
            raise DatabaseError(
                f"InfluxDB at {http.place.server} could not downsample: {row['error']}",
                hint="its log says more",
            )
    return rows
