"""What a commit puts down beside the candles: numbered points of our own, gathered and sent together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from chandlery.candle import SeriesId
from chandlery.errors import DatabaseError
from chandlery.stores.base import JournalEntry, JournalKind
from chandlery.stores.influx_events import (
    LEDGER,
    STAMPS,
    Books,
    Event,
    Retention,
    event_text,
    in_pieces,
    stamp,
)
from chandlery.stores.influx_lines import Lines, SeriesTags, joined, key_of, named, tags_of, text_line
from chandlery.timerange import TimeRange

if TYPE_CHECKING:
    from chandlery.stores.influx_read import Reader
    from chandlery.stores.influx_send import Sender


@dataclass(frozen=True, slots=True)
class Sink:
    """What a commit needs to know of where it goes."""

    reader: Reader
    sender: Sender
    retention: Retention
    writer: str  # tag of this host's points, so that those of another never take their place
    #: The numbers of the journal, ours alone while it is held: `async with numbers() as take:` and `take()` is the next one.
    numbers: Callable[[], AbstractAsyncContextManager[Callable[[], int]]]


class Notebook:
    """The notes of one commit. `books` are those of its series; each note takes the next number of its series' book.

    `now` is the local time in epoch ms.
    """

    def __init__(self, sink: Sink, books: Mapping[SeriesId, Books], now: int) -> None:
        self.sink = sink
        self.books = dict(books)
        self.tags: dict[SeriesId, SeriesTags] = {series: tags_of(series) for series in books}
        self.now = now
        self._lines: list[Lines] = []
        self._asks: dict[
            tuple[str, SeriesId], list[tuple[int, int]]
        ] = {}  # open time and number of each note

    def journal(
        self,
        series: SeriesId,
        span: TimeRange,
        kind: JournalKind,
        take: Callable[[], int],
        source: str = "",
        rows: int = 0,
    ) -> JournalEntry:
        """What the journal will have of the next news; `take` gives it its number."""
        return JournalEntry(take(), series, span, kind, self.now, source, rows)

    def event(self, series: SeriesId, event: Event) -> None:
        """Put down an event of the ledger, in the pieces in which the bucket keeps it."""
        for piece in in_pieces(event, self.sink.retention, self.now):
            seq = None if piece.journal is None else piece.journal.seq
            self.note(LEDGER, series, piece.span.since, partial(event_text, piece, series), seq)

    def note(
        self,
        measurement: str,
        series: SeriesId,
        opened: int,
        text: Callable[[int], str],
        seq: int | None = None,
    ) -> None:
        """Put down one point of ours, to be sent with the next ones; `text` is given its number."""
        if opened < self.sink.retention.horizon(self.now):
            return  # it would vanish at once, as the candles that it speaks of have
        number = self.books[series].number + 1
        self.books[series] = replace(self.books[series], number=number)
        fields: dict[str, str | int | float] = {"n": number, "entry": text(number)}
        if seq is not None:
            fields["seq"] = seq
        tags = replace(self.tags[series], measurement=measurement)
        key = key_of(tags, {"kind": series.kind, "writer": self.sink.writer})
        self._lines.append(Lines.of([text_line(key, fields, stamp(opened, number))]))
        self._asks.setdefault((measurement, series), []).append((stamp(opened, 0) // STAMPS, number))

    async def send(self) -> None:
        """Send what was put down, and count it back. A note that is refused or not kept ends the commit: without it
        nothing is answered, and no old value replaced.
        """
        notes, self._lines = self._lines, []
        asks, self._asks = self._asks, {}
        if not notes:
            return
        for attempt in (1, 2):
            refused = await self.sink.sender.send([joined(notes)], precision="ns")
            if refused:
                raise DatabaseError(
                    f"InfluxDB refuses an entry of the ledger: {refused[0].reason}",
                    hint="is another program writing into chandlery's measurements of this bucket?",
                )
            counted = await self.sink.reader.noted([self._ask(*one) for one in asks.items()])
            if all(have >= len(put) for have, put in zip(counted, asks.values(), strict=True)):
                return
            if attempt == 2:
                raise DatabaseError(
                    "InfluxDB acknowledged entries of the ledger and does not give them back",
                    hint="its log says more; run again: what is missing is fetched anew",
                )

    def _ask(
        self, what: tuple[str, SeriesId], put: Sequence[tuple[int, int]]
    ) -> tuple[str, Mapping[str, str], TimeRange, int]:
        """What to count these notes by: measurement, tags, range of open times, and the number that all are above."""
        measurement, series = what
        tags = {**named(self.tags[series]), "kind": series.kind, "writer": self.sink.writer}
        opens = [opened for opened, _ in put]
        return measurement, tags, TimeRange(min(opens), max(opens) + 1), min(n for _, n in put) - 1
