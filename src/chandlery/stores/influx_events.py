"""What an InfluxDB store notes beside the candles: numbered events per series, and the books that they add up to. Pure.

A bucket can neither commit several points together nor change one safely, so the ledger is kept as events that are only
ever added. An event is a JSON text stamped with the open time that it speaks of, so that a bucket's retention takes it
together with its candles: in a bucket that forgets, an event is cut where the bucket's shards are, for they go whole.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from chandlery.candle import Rejected, SeriesId
from chandlery.ledger import Answered, Fact, Ledger, State, with_answer
from chandlery.stores.base import JournalEntry, Revision
from chandlery.stores.influx_tally import Tally, put
from chandlery.stores.rules import after_fact, hull, without_answers
from chandlery.timerange import RangeSet, TimeRange

#: The measurements of ours. The candles' own are `ohlcv`, `ohlcv_mark` and `ohlcv_index`.
LEDGER, QUARANTINE, REVISIONS = "chandlery_ledger", "chandlery_quarantine", "chandlery_revisions"
MARKS = "chandlery_marks"
#: Events of one series that may share an open time before their stamps repeat: a millisecond has so many nanoseconds.
STAMPS = 1_000_000
#: The widest range that a stamp can hold (int64 nanoseconds).
_FIRST_MS, _LAST_MS = -(9_223_372_036_854 - 1), 9_223_372_036_854 - 1
#: What a bucket forgets within these ms is not named as what can be kept: a fetch takes time too.
MARGIN = 900_000
#: A raw text longer than this is kept up to here: the server takes strings of 64 KB.
RAW_LIMIT = 30_000

Refusal = tuple[Rejected, int, str]  # row, at, source


@dataclass(frozen=True, slots=True)
class Retention:
    """How a bucket forgets: candles older than `keep` ms, a shard of `shard` ms at a time. `keep` 0 is never."""

    keep: int = 0
    shard: int = 0

    def horizon(self, now: int) -> int:
        """The first open time that the bucket still takes at the local time `now`."""
        return now - self.keep if self.keep else _FIRST_MS

    def cut(self, span: TimeRange, now: int) -> list[TimeRange]:
        """`span` without what the bucket takes no more, cut where its shards are."""
        if not self.keep or not self.shard:
            return [span]
        since = max(span.since, self.horizon(now))
        parts = []
        while since < span.until:
            until = min(span.until, self._shard_end(since))
            parts.append(TimeRange(since, until))
            since = until
        return parts or ([span] if span.since >= self.horizon(now) else [])

    def together(self, one: int, other: int) -> bool:
        """Whether the two moments are forgotten at once."""
        return not self.shard or self._shard_end(one) == self._shard_end(other)

    def _shard_end(self, moment: int) -> int:
        # The server counts shards from the first day of the year 1.
        return moment + self.shard - (moment + 62_135_596_800_000) % self.shard


@dataclass(frozen=True, slots=True)
class Event:
    """One note: what it is, the range it speaks of, and its details. `journal` is set where the journal has it as news."""

    kind: str
    span: TimeRange
    details: Mapping[str, Any]
    journal: JournalEntry | None = None


@dataclass(frozen=True, slots=True)
class Books:
    """All that is noted of one series. `number` is that of its latest event; without any event it is not kept."""

    series: SeriesId
    ledger: Ledger
    number: int = 0
    kept: bool = False
    tallies: tuple[Tally, ...] = ()  # rows that should be there
    refused: tuple[Refusal, ...] = ()
    revisions: tuple[Revision, ...] = ()
    adopted: bool = field(default=False)  # made out from rows that somebody else wrote, and not noted yet

    @property
    def total(self) -> int:
        """How many candles the ledger vouches for."""
        return sum(one.rows for one in self.tallies)


def ask_event(ledger: Ledger, span: TimeRange) -> Event:
    """The range was asked for; `ledger` is what holds since, with its clock and settling."""
    return Event("ask", span, {"clock": ledger.clock, "settle": ledger.settle})


def answer_event(span: TimeRange, at: int, vouched: Sequence[Tally] = ()) -> Event:
    """The range was answered at the exchange's time `at`, and so many rows are there now."""
    return Event("answer", span, {"at": at, **({"tally": list(vouched)} if vouched else {})})


def fact_event(fact: Fact) -> Event:
    """A fact holds from now on."""
    return Event("fact", fact.range, {"state": fact.state.value, "reason": fact.reason, "at": fact.at})


def reset_event(ledger: Ledger, span: TimeRange, *, answers: bool, facts: bool) -> Event:
    """Within the range, answers or facts (or both) are from now on just those of `ledger`."""
    details: dict[str, Any] = {}
    if answers:
        details["answered"] = [
            [part.since, part.until, a.at]
            for a in ledger.answered
            for part in RangeSet([a.range]) & RangeSet([span])
        ]
    if facts:
        details["facts"] = [
            [part.since, part.until, f.state.value, f.reason, f.at]
            for f in ledger.facts
            for part in RangeSet([f.range]) & RangeSet([span])
        ]
    return Event("reset", span, details)


def reach(ledger: Ledger) -> TimeRange:
    """The smallest range that holds everything the ledger speaks of."""
    whole = RangeSet([hull(ledger), *(f.range for f in ledger.facts)])
    return TimeRange(whole.since, whole.until) if whole else TimeRange(0, 0)


def in_pieces(event: Event, retention: Retention, now: int) -> Iterator[Event]:
    """The event as the bucket can keep it. News for the journal go with the last piece, which is kept longest."""
    parts = retention.cut(event.span, now) if event.span else [event.span]
    for part in parts:
        details = dict(event.details)
        if len(parts) > 1 or part != event.span:
            for name in ("answered", "facts"):
                if name in details:
                    details[name] = _clipped(details[name], part)
            if "tally" in details:
                details["tally"] = [one for one in details["tally"] if retention.together(one[0], part.since)]
        yield Event(event.kind, part, details, event.journal if part is parts[-1] else None)


def _clipped(rows: Iterable[Sequence[Any]], part: TimeRange) -> list[list[Any]]:
    clipped = [[max(since, part.since), min(until, part.until), *rest] for since, until, *rest in rows]
    return [row for row in clipped if row[0] < row[1]]


def stamp(open_ms: int, number: int) -> int:
    """The point's timestamp in ns: the open time, and within its millisecond the event's number."""
    return min(max(open_ms, _FIRST_MS), _LAST_MS) * STAMPS + number % STAMPS


def event_text(event: Event, series: SeriesId, number: int) -> str:
    """The event as it is kept."""
    found: dict[str, Any] = {
        "n": number,
        "symbol": series.symbol,
        "event": event.kind,
        "range": [event.span.since, event.span.until],
        **event.details,
    }
    if event.journal is not None:
        j = event.journal
        found["journal"] = [j.seq, j.kind, j.range.since, j.range.until, j.committed_at, j.source, j.rows]
    return json.dumps(found, separators=(",", ":"))


def refusal_text(refusal: Refusal, series: SeriesId, number: int) -> str:
    """A refused row as it is kept; of a raw text beyond RAW_LIMIT the beginning."""
    row, at, source = refusal
    raw = row.raw if len(row.raw) <= RAW_LIMIT else row.raw[:RAW_LIMIT] + "…"
    found = {"n": number, "symbol": series.symbol, "open": row.open, "raw": raw, "reason": row.reason}
    return json.dumps({**found, "at": at, "source": source}, separators=(",", ":"))


def revision_text(revision: Revision, number: int) -> str:
    """A revision as it is kept."""
    found = {"n": number, "symbol": revision.series.symbol, "open": revision.open, "old": revision.old}
    return json.dumps(
        {**found, "new": revision.new, "at": revision.at, "source": revision.source}, separators=(",", ":")
    )


def journal_entry(found: Mapping[str, Any], series: SeriesId) -> JournalEntry | None:
    """What the journal has of a kept event."""
    if "journal" not in found:
        return None
    seq, kind, since, until, committed_at, source, rows = found["journal"]
    return JournalEntry(seq, series, TimeRange(since, until), kind, committed_at, source, rows)


def books_of(
    series: SeriesId,
    events: Iterable[Mapping[str, Any]],
    refusals: Iterable[Mapping[str, Any]] = (),
    revisions: Iterable[Mapping[str, Any]] = (),
) -> Books:
    """The books that the kept texts of one series add up to, in any order."""
    ordered = sorted(events, key=lambda e: (e["n"], e["range"][0]))
    ledger, removed, kept = Ledger(series.frame), 0, False
    tallies: tuple[Tally, ...] = ()
    for event in ordered:
        if event["event"] == "remove":
            ledger, removed, kept, tallies = Ledger(series.frame), event["n"], False, ()
        else:
            ledger, kept = _after(ledger, event), True
            if "tally" in event:
                tallies = put(tallies, TimeRange(*event["range"]), (Tally(*one) for one in event["tally"]))
    rows = sorted((r for r in refusals if r["n"] > removed), key=lambda r: int(r["n"]))
    changes = sorted((r for r in revisions if r["n"] > removed), key=lambda r: int(r["n"]))
    numbers = [e["n"] for e in ordered] + [r["n"] for r in (*rows, *changes)]
    return Books(
        series,
        ledger,
        number=max(numbers, default=0),
        kept=kept,
        tallies=tallies,
        refused=tuple(
            (Rejected(r["open"], r["raw"], r["reason"]), int(r["at"]), str(r["source"])) for r in rows
        ),
        revisions=_told_once(_revision(series, r) for r in changes),
    )


def _after(ledger: Ledger, event: Mapping[str, Any]) -> Ledger:
    span = TimeRange(*event["range"])
    match event["event"]:
        case "ask":
            asked = ledger.asked | RangeSet([span])
            return replace(ledger, asked=asked, clock=event["clock"], settle=event["settle"])
        case "answer":
            return replace(ledger, answered=with_answer(ledger, span, event["at"])) if span else ledger
        case "fact":
            fact = Fact(span, State(event["state"]), event["reason"], event["at"])
            return after_fact(ledger, fact) or ledger
        case "reset":
            return _after_reset(ledger, span, event)
    return ledger  # of a kind that this version does not know


def _after_reset(ledger: Ledger, span: TimeRange, event: Mapping[str, Any]) -> Ledger:
    within = RangeSet([span])
    if "answered" in event:
        left = without_answers(ledger, within).answered
        new = [Answered(TimeRange(since, until), at) for since, until, at in event["answered"]]
        ledger = replace(ledger, answered=tuple(sorted([*left, *new], key=lambda a: a.range.since)))
    if "facts" in event:
        kept = [replace(f, range=part) for f in ledger.facts for part in RangeSet([f.range]) - within]
        kept += [Fact(TimeRange(s, u), State(state), why, at) for s, u, state, why, at in event["facts"]]
        ledger = replace(ledger, facts=tuple(sorted(kept, key=lambda f: f.range)))
    return ledger


def _revision(series: SeriesId, found: Mapping[str, Any]) -> Revision:
    old, new = (tuple(map(float, found[name])) for name in ("old", "new"))
    return Revision(series, found["open"], old, new, found["at"], found["source"])


def _told_once(revisions: Iterable[Revision]) -> tuple[Revision, ...]:
    """Without the repeats of a run that was ended between noting a change and making it."""
    told: dict[int, Revision] = {}
    kept: list[Revision] = []
    for one in revisions:
        before = told.get(one.open)
        if before is None or (before.old, before.new) != (one.old, one.new):
            kept.append(one)
        told[one.open] = one
    return tuple(kept)
