"""Deleting points of one InfluxDB bucket: never more than is named. All in epoch ms, ranges half-open."""

from __future__ import annotations

from collections.abc import Mapping

import orjson

from chandlery.errors import StoreUnreadable
from chandlery.stores import influx_query as iql
from chandlery.stores.influx_frames import MS
from chandlery.stores.influx_http import InfluxHttp, failed
from chandlery.stores.influx_lines import MEASUREMENTS
from chandlery.stores.influx_ql import InfluxQl
from chandlery.timerange import TimeRange


async def check_deletable(
    http: InfluxHttp, measurement: str, where: Mapping[str, str], span: TimeRange
) -> None:
    """Raise UsageError where a part is empty or cannot stand in a predicate, and StoreUnreadable where the predicate
    would take candles of other series too, which have more tags than ours.
    """
    iql.delete_predicate(measurement, where)
    kept = iql.clamped(span)
    if not kept or measurement not in MEASUREMENTS.values():
        return
    (meant,) = await InfluxQl(http).rows([iql.select("first(*)", measurement, where, kept)])
    others = [rows.tags for rows in meant if rows.tags != where]
    if others:
        raise StoreUnreadable(
            f"{http.place.bucket} holds {measurement} of {dict(where)} with other tags too: {dict(others[0])}",
            hint="a predicate would delete those too; delete or rename them by hand first",
        )


async def delete_rows(http: InfluxHttp, measurement: str, where: Mapping[str, str], span: TimeRange) -> None:
    """Delete the points of a measurement whose tags equal `where`, in a range; the token must be able to write.

    Raises as `check_deletable` does: nothing is deleted then.
    """
    await check_deletable(http, measurement, where, span)
    predicate = iql.delete_predicate(measurement, where)
    kept = iql.clamped(span)
    if not kept:
        return
    place = http.place
    # The server deletes both ends.
    body = {
        "start": iql.rfc3339(kept.since * MS),
        "stop": iql.rfc3339(kept.until * MS - 1),
        "predicate": predicate,
    }
    answer = await http.ask(
        "POST",
        "/api/v2/delete",
        params={"org": place.org, "bucket": place.bucket},
        body=orjson.dumps(body),
        headers={"Content-Type": "application/json"},
    )
    if answer.status != 204:
        raise failed(place, answer)
