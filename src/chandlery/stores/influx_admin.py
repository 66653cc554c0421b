"""What an InfluxDB 2 server holds besides points: organisations, buckets, tokens, tasks; through its HTTP API.

All of it needs a token with rights that `chandlery fetch` has no use for: the operator's, or an all-access one.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from chandlery.errors import DatabaseError, StoreUnreadable, UsageError
from chandlery.stores.influx_http import failed

if TYPE_CHECKING:
    from chandlery.stores.influx_http import Answer, InfluxHttp

#: Seconds, by what people call them; the longest that fits comes first.
_LENGTHS = ((86_400, "day"), (3_600, "hour"), (60, "minute"), (1, "second"))
_PAGE = 100
_JSON: Mapping[str, str] = {"Content-Type": "application/json"}


@dataclass(frozen=True, slots=True)
class Bucket:
    """A bucket as the server describes it. `retention` and `shard` are in seconds; retention 0 is for ever."""

    id: str
    name: str
    org_id: str
    retention: int
    shard: int
    description: str = ""

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
            description=str(found.get("description") or ""),
        )


@dataclass(frozen=True, slots=True)
class Token:
    """A token as the server lists it: without its secret. `rights` are pairs of action and bucket id."""

    id: str
    description: str
    active: bool
    rights: frozenset[tuple[str, str]]

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> Token:
        """The token of one JSON object of /api/v2/authorizations."""
        rights = (
            (str(right["action"]), str(right["resource"].get("id", "*")))
            for right in found.get("permissions", [])
            if right["resource"]["type"] == "buckets"
        )
        active = found.get("status") == "active"
        return cls(str(found["id"]), str(found.get("description") or ""), active, frozenset(rights))


@dataclass(frozen=True, slots=True)
class Task:
    """A task as the server describes it."""

    id: str
    name: str
    flux: str
    active: bool


def said_length(seconds: int) -> str:
    """A length of time in words: `for ever` for 0, else such as `30 days`."""
    if seconds == 0:
        return "for ever"
    size, name = next((size, name) for size, name in _LENGTHS if seconds % size == 0)
    count = seconds // size
    return f"{count:,} {name}{'' if count == 1 else 's'}"


async def is_new(http: InfluxHttp) -> bool:
    """Whether nobody has set the server up."""
    answer = await http.ask("GET", "/api/v2/setup")
    if answer.status != 200:
        raise failed(http.place, answer)
    return bool(answer.json().get("allowed"))


async def onboard(http: InfluxHttp, user: str, password: str, retention: int) -> str:
    """Set a new server up: its first user, and the organisation and the bucket of the place (retention in seconds, 0 for ever).

    Returns the operator's token, which the server shows this once. Raises UsageError where it does not take the names.
    """
    place = http.place
    document = {"username": user, "password": password, "org": place.org, "bucket": place.bucket}
    body = json.dumps({**document, "retentionPeriodSeconds": retention}).encode()
    answer = await http.ask("POST", "/api/v2/setup", body=body, headers=_JSON, retry=False)
    if answer.status in (400, 422) and "onboarding" not in answer.said:
        raise UsageError(f"the server does not take these names: {answer.said}", hint="choose others")
    if answer.status != 201:
        raise failed(place, answer)
    return str(answer.json()["auth"]["token"])


class Admin:
    """Looks up and makes what belongs to one organisation. Raises StoreUnreadable where the token may not."""

    def __init__(self, http: InfluxHttp) -> None:
        self._http = http

    # -- organisations -----------------------------------------------------------------------------------------------

    async def organisation(self, name: str) -> str | None:
        """The id of an organisation, None if there is none of that name."""
        answer = await self._http.ask("GET", "/api/v2/orgs", params={"org": name})
        if answer.status == 404:
            return None
        if answer.status == 401:
            raise failed(self._http.place, answer)
        found = self._good(answer, "look up organisations")["orgs"]
        if found:
            return str(found[0]["id"])
        # An empty list: the token may not see it. One that is not there is 404 for whoever asks for its buckets.
        there = await self._http.ask("GET", "/api/v2/buckets", params={"org": name, "limit": "1"})
        if there.status == 404:
            return None
        raise StoreUnreadable(
            f"InfluxDB at {self._http.place.server}: the token is for some buckets only, and may not look at the organisation {name!r}",
            hint="setting up needs the operator's token: --token-file PATH, or INFLUXDB_ADMIN_TOKEN; what was set up needs no more",
        )

    async def make_organisation(self, name: str) -> str:
        """Make an organisation; returns its id."""
        document = {"name": name}
        made = await self._send("POST", "/api/v2/orgs", document, f"make the organisation {name!r}")
        return str(made["id"])

    # -- buckets -----------------------------------------------------------------------------------------------------

    async def buckets(self, org_id: str) -> dict[str, Bucket]:
        """The buckets of an organisation that the token may read, by name."""
        found: dict[str, Bucket] = {}
        after: dict[str, str] = {}
        while True:
            asked = {"orgID": org_id, "limit": str(_PAGE), **after}
            answer = await self._http.ask("GET", "/api/v2/buckets", params=asked)
            page = [Bucket.of(one) for one in self._good(answer, "list buckets")["buckets"]]
            found.update((bucket.name, bucket) for bucket in page)
            if len(page) < _PAGE:
                return found
            after = {"after": page[-1].id}

    async def make_bucket(
        self, org_id: str, name: str, retention: int, shard: int, description: str
    ) -> Bucket:
        """Make a bucket that keeps points for that many seconds, 0 for ever, in shards of so many."""
        document = {
            "orgID": org_id,
            "name": name,
            "description": description,
            "retentionRules": [_rule(retention, shard)],
        }
        return Bucket.of(await self._send("POST", "/api/v2/buckets", document, f"make the bucket {name!r}"))

    async def change_bucket(
        self,
        bucket: Bucket,
        *,
        retention: int | None = None,
        shard: int = 0,
        description: str | None = None,
    ) -> None:
        """Give a bucket another retention (seconds, 0 for ever), with another length of new shards, or description."""
        document: dict[str, Any] = {} if description is None else {"description": description}
        if retention is not None:
            document["retentionRules"] = [_rule(retention, shard)]
        await self._send(
            "PATCH", f"/api/v2/buckets/{bucket.id}", document, f"change the bucket {bucket.name!r}"
        )

    # -- tokens ------------------------------------------------------------------------------------------------------

    async def tokens(self, org_id: str) -> list[Token]:
        """The tokens of an organisation that this one may see."""
        answer = await self._http.ask("GET", "/api/v2/authorizations", params={"orgID": org_id})
        return [Token.of(one) for one in self._good(answer, "list tokens")["authorizations"]]

    async def make_token(self, org_id: str, description: str, rights: Iterable[tuple[str, str]]) -> str:
        """Make a token with these rights, pairs of action and bucket id; returns its secret, which is shown this once."""
        permissions = [
            {"action": action, "resource": {"type": "buckets", "id": bucket, "orgID": org_id}}
            for action, bucket in sorted(rights)
        ]
        document = {"orgID": org_id, "description": description, "permissions": permissions}
        made = await self._send("POST", "/api/v2/authorizations", document, "make tokens")
        return str(made["token"])

    # -- tasks -------------------------------------------------------------------------------------------------------

    async def task(self, org_id: str, name: str) -> Task | None:
        """The task of that name, None if there is none."""
        answer = await self._http.ask("GET", "/api/v2/tasks", params={"orgID": org_id, "name": name})
        for one in self._good(answer, "list tasks")["tasks"]:
            if one["name"] == name:
                return Task(str(one["id"]), name, str(one["flux"]), one.get("status") == "active")
        return None

    async def make_task(self, org_id: str, flux: str, description: str) -> None:
        """Make a task of a script, which names it and says when it runs."""
        document = {"orgID": org_id, "flux": flux, "status": "active", "description": description}
        await self._send("POST", "/api/v2/tasks", document, "make tasks")

    async def change_task(self, task: Task, flux: str) -> None:
        """Give a task another script."""
        await self._send("PATCH", f"/api/v2/tasks/{task.id}", {"flux": flux}, "change tasks")

    # -- how it is asked ---------------------------------------------------------------------------------------------

    async def _send(self, method: str, path: str, document: Mapping[str, Any], what: str) -> Any:
        answer = await self._http.ask(method, path, body=json.dumps(document).encode(), headers=_JSON)
        return self._good(answer, what)

    def _good(self, answer: Answer, what: str) -> Any:
        if answer.status in (401, 403):
            raise self._refusal(answer, what)
        if answer.status in (400, 422):
            raise UsageError(f"InfluxDB at {self._http.place.server} could not {what}: {answer.said}")
        if answer.status not in (200, 201):
            raise failed(self._http.place, answer)
        return answer.json()

    def _refusal(self, answer: Answer, what: str) -> DatabaseError:
        return StoreUnreadable(
            f"InfluxDB at {self._http.place.server}: the token may not {what}: {answer.said}",
            hint="setting up needs the operator's token, or an all-access one of the organisation: --token-file PATH, or INFLUXDB_ADMIN_TOKEN",
        )


def _rule(retention: int, shard: int) -> dict[str, Any]:
    return {"type": "expire", "everySeconds": retention, "shardGroupDurationSeconds": shard}
