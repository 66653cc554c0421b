"""Setting an InfluxDB 2 up for chandlery: what is missing is made, what is there stays as it is, and both are told."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from chandlery.errors import UsageError
from chandlery.stores.influx_admin import Admin, Bucket, said_length
from chandlery.stores.influx_downsample import rerun
from chandlery.stores.influx_tasks import LOOK_BACK, Downsampling, downsampling, task_flux

if TYPE_CHECKING:
    from collections.abc import Sequence

    from chandlery.stores.influx_http import InfluxHttp

_DAY = 86_400
_UNITS = {"h": 3_600, "d": _DAY, "w": 7 * _DAY, "y": 365 * _DAY}
#: The shortest time that a bucket of long candles may keep them: tasks write those of the last days again and again.
_SHORTEST = (LOOK_BACK + 2) * _DAY

#: Days of a shard in new buckets that keep points for a year or more: those of candles, those of long candles that stay
#: for ever. The server's own 7 days make 520 shards of ten years; each costs 18 ms to make and 0.8 MB of its memory.
_SHARD, _LONG_SHARD = 28, 364

State = Literal["made", "there", "changed"]


@dataclass(frozen=True, slots=True)
class Plan:
    """What is wanted besides organisation and bucket. `retention` is in seconds, 0 for ever, None if nothing was said.

    `onboarded` says that organisation and bucket came with the server's own set-up, a moment ago.
    """

    retention: int | None = None
    long: tuple[tuple[Downsampling, int], ...] = ()
    change_retention: bool = False
    new_tokens: bool = False
    onboarded: bool = False


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that was looked up or made. `note` is what else a person should know."""

    kind: Literal["organisation", "bucket", "token", "task", "candles"]
    name: str
    state: State
    note: str = ""


@dataclass(slots=True)
class Outcome:
    """What was done, and the secrets of tokens that were made: shown by the server this once."""

    steps: list[Step] = field(default_factory=list)
    write_token: str = ""
    read_token: str = ""

    @property
    def changed(self) -> bool:
        """Whether anything was made or changed."""
        return any(step.state != "there" for step in self.steps)


def retention_of(text: str) -> int:
    """`INF`, or a length of time such as 12h, 30d, 52w, 5y (of 365 days), in seconds, 0 for ever. Raises UsageError."""
    if text.upper() == "INF":
        return 0
    found = re.fullmatch(r"([1-9][0-9]{0,4})([hdwy])", text)
    if found is None:
        raise UsageError(f"not a retention: {text!r}", hint="write INF, or such as 12h, 30d, 52w, 5y")
    return int(found[1]) * _UNITS[found[2]]


def wanted_long(bucket: str, asked: Sequence[str]) -> tuple[tuple[Downsampling, int], ...]:
    """`1h` or `1d=5y`: the timeframe of long candles, and how long they are kept. Raises UsageError."""
    wanted: dict[str, tuple[Downsampling, int]] = {}
    for text in asked:
        timeframe, _, length = text.partition("=")
        made, retention = downsampling(bucket, timeframe), retention_of(length or "INF")
        if 0 < retention < _SHORTEST:
            raise UsageError(
                f"--downsample {text}: long candles must be kept for {said_length(_SHORTEST)} or more",
                hint=f"tasks write those of the last {LOOK_BACK} days again",
            )
        if timeframe in wanted:
            raise UsageError(f"--downsample {timeframe} was asked for twice", hint="say it once")
        wanted[timeframe] = (made, retention)
    return tuple(wanted.values())


async def set_up(http: InfluxHttp, plan: Plan, outcome: Outcome) -> None:
    """Make what is missing of organisation, buckets, tokens, tasks, and the long candles of new tasks. May run again.

    `outcome` is filled on the way, so that the secrets of tokens are known whatever fails after them. Raises StoreUnreadable where the token may not, UsageError where a bucket of that name is used for something else.
    """
    place, admin = http.place, Admin(http)
    org_id = await admin.organisation(place.org)
    new = org_id is None or plan.onboarded
    outcome.steps.append(Step("organisation", place.org, "made" if new else "there"))
    if org_id is None:
        org_id = await admin.make_organisation(place.org)
    there = await admin.buckets(org_id)
    wanted = [(place.bucket, plan.retention, "")]
    wanted += [(made.target, retention, made.name) for made, retention in plan.long]
    for made, _ in plan.long:
        _refuse_other_use(there.get(made.target), made)
    buckets: list[Bucket] = []
    for name, retention, description in wanted:
        bucket, step = await _bucket(admin, org_id, there.get(name), name, retention, description, plan)
        buckets.append(bucket)
        outcome.steps.append(step)
    await _tokens(admin, org_id, [*buckets, *_other_long(there, place.bucket, buckets)], plan, outcome)
    for made, _ in plan.long:
        outcome.steps.append(await _task(admin, org_id, made))
    if any(step.kind == "task" and step.state != "there" for step in outcome.steps):
        for timeframe, number in (await rerun(http)).items():
            if number:
                outcome.steps.append(Step("candles", timeframe, "made", f"{number:,} of history"))


def _refuse_other_use(bucket: Bucket | None, made: Downsampling) -> None:
    if bucket is not None and bucket.description not in ("", made.name):
        raise UsageError(
            f"the bucket {bucket.name!r} is there already, and says it is for {bucket.description!r}",
            hint=f"rename it, or give it the description {made.name!r}",
        )


def _other_long(there: dict[str, Bucket], source: str, asked: Sequence[Bucket]) -> list[Bucket]:
    """Buckets of long candles that an earlier set-up made: a new token is for them too."""
    names = {bucket.name for bucket in asked}
    return [
        bucket
        for bucket in there.values()
        if bucket.name not in names
        and bucket.description.startswith("chandlery: ")
        and bucket.description.endswith(f" candles of {source}, in {bucket.name}")
    ]


async def _bucket(
    admin: Admin,
    org_id: str,
    bucket: Bucket | None,
    name: str,
    retention: int | None,
    description: str,
    plan: Plan,
) -> tuple[Bucket, Step]:
    shard = _shard(retention or 0, is_long=bool(description))
    if bucket is None:
        made = await admin.make_bucket(org_id, name, retention or 0, shard, description)
        return made, Step("bucket", name, "made", f"keeps points {_kept(retention or 0)}")
    state: State = "made" if plan.onboarded and not description else "there"
    note = f"keeps points {_kept(bucket.retention)}"
    if retention is not None and retention != bucket.retention:
        if plan.change_retention:
            await admin.change_bucket(bucket, retention=retention, shard=shard)
            state, note = "changed", f"keeps points {_kept(retention)}, before {_kept(bucket.retention)}"
        else:
            note += f", not {_kept(retention)} as asked: --change-retention changes that"
    elif retention is None and bucket.retention:
        note += "; --retention INF --change-retention would keep them for ever"
    if state == "made":
        await admin.change_bucket(bucket, retention=bucket.retention, shard=shard)
    if description and not bucket.description:
        await admin.change_bucket(bucket, description=description)
        state = "changed"
    return bucket, Step("bucket", name, state, note)


def _shard(retention: int, *, is_long: bool) -> int:
    """Seconds of a new shard of a bucket: points go a shard at a time, and none may be longer than the retention."""
    if retention == 0 and is_long:
        return _LONG_SHARD * _DAY
    if retention == 0 or retention >= 365 * _DAY:
        return _SHARD * _DAY
    # The server's own lengths, which it does not apply by itself where a bucket's retention is changed.
    return 3_600 if retention < 2 * _DAY else _DAY if retention < 180 * _DAY else 7 * _DAY


def _kept(retention: int) -> str:
    return said_length(retention) if retention == 0 else f"for {said_length(retention)}"


async def _tokens(admin: Admin, org_id: str, buckets: Sequence[Bucket], plan: Plan, outcome: Outcome) -> None:
    source = buckets[0].name
    reads = frozenset(("read", bucket.id) for bucket in buckets)
    writes = reads | {("write", bucket.id) for bucket in buckets}
    known = await admin.tokens(org_id)
    for description, rights in (
        (f"chandlery: reads and writes {source}", writes),
        (f"chandlery: reads {source}", reads),
    ):
        same = [token for token in known if token.description == description and token.active]
        if not same or plan.new_tokens:
            secret = await admin.make_token(org_id, description, rights)
            if rights is writes:
                outcome.write_token = secret
            else:
                outcome.read_token = secret
            older = ", ".join(token.id for token in same)
            note = f"older ones stay valid (`influx auth delete -i ID`): {older}" if older else ""
            outcome.steps.append(Step("token", description, "made", note))
            continue
        note = "the server shows it only once; --new-tokens makes another"
        if not any(token.rights >= rights for token in same):
            note = "it may not use all of these buckets; --new-tokens makes one that may"
        outcome.steps.append(Step("token", description, "there", note))


async def _task(admin: Admin, org_id: str, made: Downsampling) -> Step:
    flux = task_flux(made)
    task = await admin.task(org_id, made.name)
    if task is None:
        await admin.make_task(
            org_id, flux, "made by `chandlery influx setup`, which keeps its script as it is"
        )
        return Step("task", made.name, "made", "runs with the rights of the token's user")
    note = "" if task.active else "it is not active"
    if task.flux == flux:
        return Step("task", made.name, "there", note)
    await admin.change_task(task, flux)
    return Step("task", made.name, "changed", note)
