"""Questions in InfluxQL, to the right bucket or to none.

`/query` knows no buckets, only a database and a retention policy, which the server looks up in the organisation that the
token was made in. Each bucket has a mapping of its name by itself (`trading` is database `trading`, policy `autogen`;
`a/b` is database `a`, policy `b`); one that somebody made goes before it, and may lead to another bucket. So the way is
proven before it is used: over all organisations that the token can see, the database and policy lead to one bucket, ours.
A token that may read the bucket may see all of this.

Source: InfluxDB 2.9.1, `dbrp/service.go`, `v1/coordinator/shard_mapper.go`, `influxql/query/executor.go`.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar
from urllib.parse import urlencode

from chandlery.errors import DatabaseError, StoreUnreadable
from chandlery.stores.influx_http import InfluxHttp, failed
from chandlery.stores.influx_rows import Block, QueryFailed, Rows, blocks_of_msgpack, rows_of_json

#: Seconds that a proven way is taken to be the way still.
PROVEN_FOR = 5.0
#: Seconds for which even an answer that is not what it should be does not have it proven anew.
JUST_NOW = 0.5
_PAGE = 100
# What a server that stops says with status 200 (its `tsdb/shard.go`, `index.go`, `series_file.go`, `executor.go`).
_CLOSING = re.compile(
    "engine is closed|shard is disabled|index is closing|series (file|partition) closed|query interrupted"
)
_LONGEST_PAUSE = 3.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Way:
    """The database and the retention policy that lead to the bucket."""

    database: str
    policy: str


class InfluxQl:
    """Asks InfluxQL questions about the bucket of `http.place`."""

    def __init__(self, http: InfluxHttp) -> None:
        self._http = http
        self._way: Way | None = None
        self._proven_until = 0.0

    async def rows(self, statements: Sequence[str], *, signed: bool = False) -> list[list[Rows]]:
        """The series that answer each statement, complete; times in epoch ns; `signed` keeps the sign of -0.0.

        Raises StoreUnreadable where the bucket cannot be read, DatabaseError for anything else that is no answer.
        """
        return await self._answered(statements, "application/json", partial(rows_of_json, signed=signed))

    async def blocks(self, statements: Sequence[str]) -> list[list[Block]]:
        """As `rows` for statements of floats, much faster; raises OddRows where some are not there."""
        return await self._answered(statements, "application/x-msgpack", blocks_of_msgpack)

    async def _answered(
        self, statements: Sequence[str], form: str, parse: Callable[[bytes, int], list[list[T]]]
    ) -> list[list[T]]:
        pause = 0.1
        while True:
            try:
                return parse(await self._ask("; ".join(statements), form), len(statements))
            except QueryFailed as error:
                # While it stops, or deletes the bucket, a server says so for a moment, with status 200.
                if not _CLOSING.search(str(error)) or pause > _LONGEST_PAUSE:
                    raise self._refused(str(error)) from None
            self._proven_until = 0.0
            await asyncio.sleep(pause)
            pause *= 2

    async def _ask(self, query: str, form: str) -> bytes:
        way = await self.way()
        asked = {
            "q": query,
            "db": way.database,
            "rp": way.policy,
            "epoch": "ns",
            "chunked": "true",
        }
        headers = {"Accept": form, "Content-Type": "application/x-www-form-urlencoded"}
        answer = await self._http.ask("POST", "/query", body=urlencode(asked).encode(), headers=headers)
        if answer.status != 200:
            raise failed(self._http.place, answer)
        return answer.body

    def _refused(self, said: str) -> DatabaseError:
        self._proven_until = 0.0
        place = self._http.place
        if "database not found" in said or "retention policy" in said:
            return StoreUnreadable(
                f"InfluxDB at {place.server} does not find the bucket {place.bucket!r} for InfluxQL: {said}",
                hint=f"was it deleted? `chandlery influx setup` makes one; if not, the token must be one of the "
                f"organisation {place.org!r}, with the right to read that bucket",
            )
        return DatabaseError(f"InfluxDB at {place.server} could not answer: {said}", hint="its log says more")

    def doubt(self) -> bool:
        """Have the way proven anew before the next question, unless it was just now; returns whether it will be."""
        if time.monotonic() < self._proven_until - PROVEN_FOR + JUST_NOW:
            return False
        self._proven_until = 0.0
        return True

    async def way(self) -> Way:
        """The proven way to the bucket; raises StoreUnreadable where there is none, with the mend."""
        if self._way is None or time.monotonic() > self._proven_until:
            self._way = await self._prove()
            self._proven_until = time.monotonic() + PROVEN_FOR
        return self._way

    async def _prove(self) -> Way:
        place = self._http.place
        named = await self._get("/api/v2/buckets", org=place.org, name=place.bucket)
        ours = next((found for found in named["buckets"] if found["name"] == place.bucket), None)
        if ours is None:
            raise StoreUnreadable(
                f"InfluxDB at {place.server}: there is no bucket {place.bucket!r} in {place.org!r} that the token may read",
                hint="check INFLUXDB_BUCKET, and the rights of INFLUXDB_TOKEN; `chandlery influx setup` makes both",
            )
        others = await self._organisations() - {ours["orgID"]}
        leading = (await self._get("/api/v2/dbrps", orgID=ours["orgID"], bucketID=ours["id"]))["content"]
        elsewhere = False
        for mapping in sorted(leading, key=lambda found: not found.get("virtual", False)):
            way = Way(mapping["database"], mapping["retention_policy"])
            if await self._buckets(way, ours["orgID"]) != [ours["id"]]:
                continue
            if not any([await self._buckets(way, other) for other in others]):
                return way
            elsewhere = True
        raise self._no_way(str(ours["id"]), elsewhere=elsewhere, mapped=bool(leading))

    def _no_way(self, bucket: str, *, elsewhere: bool, mapped: bool) -> StoreUnreadable:
        place = self._http.place
        where = f"InfluxDB at {place.server}"
        if elsewhere:
            return StoreUnreadable(
                f"{where}: the token sees a bucket {place.bucket!r} in several organisations, and InfluxQL could take the wrong one",
                hint=f"use a token that may read only the one of {place.org!r}; `chandlery influx setup` makes such tokens",
            )
        if mapped:
            return StoreUnreadable(
                f"{where}: somebody's database mapping named like the bucket {place.bucket!r} leads to another bucket",
                hint="find it with `influx v1 dbrp list`, and delete it with `influx v1 dbrp delete`",
            )
        return StoreUnreadable(
            f"{where}: no database mapping leads to the bucket {place.bucket!r}; this release makes none by itself",
            hint=f"update InfluxDB, or make one: `influx v1 dbrp create --bucket-id {bucket} --db {place.bucket} --rp autogen --default`",
        )

    async def _buckets(self, way: Way, organisation: str) -> list[str]:
        """The ids of the buckets that a way leads to, exactly as a query finds them."""
        found = await self._get("/api/v2/dbrps", orgID=organisation, db=way.database, rp=way.policy)
        return [str(mapping["bucketID"]) for mapping in found["content"]]

    async def _organisations(self) -> set[str]:
        """The organisations of all buckets that the token may read."""
        found: set[str] = set()
        after: dict[str, str] = {}
        while True:
            page = (await self._get("/api/v2/buckets", limit=str(_PAGE), **after))["buckets"]
            found |= {str(bucket["orgID"]) for bucket in page}
            if len(page) < _PAGE:
                return found
            after = {"after": str(page[-1]["id"])}

    async def _get(self, path: str, **params: str) -> Any:
        answer = await self._http.ask("GET", path, params=params)
        if answer.status != 200:
            raise failed(self._http.place, answer)
        return answer.json()
