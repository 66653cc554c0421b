"""Reading the books of an InfluxDB store: events, refused rows and revisions of one series or of all."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from chandlery.candle import SeriesId
from chandlery.errors import DataPipelineError, UsageError
from chandlery.ledger import Ledger
from chandlery.stores.base import JournalEntry
from chandlery.stores.influx_events import LEDGER, QUARANTINE, REVISIONS, Books, books_of, journal_entry
from chandlery.stores.influx_lines import SeriesTags, named, tags_of
from chandlery.stores.influx_read import EVER
from chandlery.stores.influx_tally import recounted, short
from chandlery.stores.rules import without_answers
from chandlery.timerange import RangeSet, TimeRange

if TYPE_CHECKING:
    from chandlery.stores.influx_read import Found, Reader, Text

_KINDS = {"ohlcv": "trade", "ohlcv_mark": "mark", "ohlcv_index": "index"}
_Name = tuple[str, str, str, str]  # exchange, symbol tag, timeframe, kind


def check_apart(named: Iterable[SeriesId]) -> None:
    """Raise UsageError if two of the series would have the same tags: one would overwrite the other."""
    found: dict[SeriesTags, SeriesId] = {}
    for series in named:
        other = found.setdefault(tags_of(series), series)
        if other != series:
            raise _same_tags(other.symbol, series)


async def read_books(reader: Reader, series: SeriesId, oldest: int) -> Books:
    """The books of one series, whether it is kept or not; rows without any are adopted from `oldest` on.

    Raises UsageError where the bucket keeps another symbol under the same tag.
    """
    tags = tags_of(series)
    where = {**named(tags), "kind": series.kind}
    texts = await asyncio.gather(*(reader.texts(one, where) for one in (LEDGER, QUARANTINE, REVISIONS)))
    events, refusals, revisions = ([json.loads(t.text) for t in part] for part in texts)
    removed = max((found["n"] for found in events if found["event"] == "remove"), default=0)
    for found in events:
        if found["symbol"] != series.symbol and found["n"] > removed:
            raise _same_tags(found["symbol"], series)
    books = books_of(series, events, refusals, revisions)
    if not books.kept:
        edges = await reader.edges(tags)
        if edges is None and reader.doubt():  # or has somebody led the questions to another bucket?
            return await read_books(reader, series, oldest)
        return books if edges is None else _adopted(books, edges, oldest)
    return await _resolved(reader, books)


async def without_lost(reader: Reader, books: Books, horizon: int) -> Books:
    """The books without the answers of ranges in which fewer candles are than were written there.

    What is not there any more is missing, and is asked for again: nothing says that the exchange has none. `horizon` is
    where the bucket forgets.
    """
    vouched = [one for one in books.tallies if one.since >= horizon]
    total = sum(one.rows for one in vouched)
    tags, span = tags_of(books.series), TimeRange(max(horizon, EVER.since), EVER.until)
    if not total or (await reader.counts([(tags, span)], whole=False))[0] >= total:
        return books
    opens = await reader.opens(tags, [span])
    lost = RangeSet(one.range for one in short(vouched, opens))
    return replace(
        books, ledger=without_answers(books.ledger, lost), tallies=recounted(books.tallies, lost, opens)
    )


async def read_all(reader: Reader, oldest: int) -> tuple[list[Books], dict[SeriesTags, Found]]:
    """The books of every series that is kept, and what rows there are of each by its tags."""
    texts = await asyncio.gather(*(reader.texts(one, {}) for one in (LEDGER, QUARANTINE, REVISIONS)))
    events, refusals, revisions = map(_by_name, texts)
    made = [
        books_of(_series(name, _symbol(found)), found, refusals.get(name, ()), revisions.get(name, ()))
        for name, found in events.items()
    ]
    noted = {tags_of(books.series): books.total for books in made if books.kept}
    rows = {found.tags: found for found in await reader.found(noted)}
    kept = [await _resolved(reader, books) for books in made if books.kept]
    for tags, found in rows.items():
        series = None if tags in noted else series_of(tags)
        if series is not None:
            numbered = events.get((tags.exchange, tags.symbol, tags.timeframe, series.kind), ())
            kept.append(_adopted(books_of(series, numbered), found, oldest))
    return kept, rows


async def read_journal(reader: Reader, after: int = 0, writer: str | None = None) -> list[JournalEntry]:
    """Everything that is news with a number above `after`, in the order of the numbers; of one host if it is named."""
    where = {} if writer is None else {"writer": writer}
    entries = []
    for name, events in _by_name(await reader.texts(LEDGER, where, above=("seq", after))).items():
        for event in events:
            entry = journal_entry(event, _series(name, event["symbol"]))
            if entry is not None:
                entries.append(entry)
    return sorted(entries, key=lambda e: e.seq)


def series_of(tags: SeriesTags) -> SeriesId | None:
    """The series that rows of unknown origin most likely are; None if they can be no series of ours.

    A tag has lost the `/` of its symbol: of several underscores the last one stood for it, as quote currencies have none.
    """
    pair, colon, settled = tags.symbol.partition(":")
    base, underscore, quote = pair.rpartition("_")
    symbol = f"{base}/{quote}" if underscore else pair
    try:
        return SeriesId(tags.exchange, f"{symbol}{colon}{settled}", tags.timeframe, _KINDS[tags.measurement])
    except DataPipelineError:
        return None


def _by_name(texts: Iterable[Text]) -> dict[_Name, list[dict[str, Any]]]:
    found: dict[_Name, list[dict[str, Any]]] = defaultdict(list)
    for one in texts:
        tags = one.tags
        name = (
            tags.get("exchange", ""),
            tags.get("symbol", ""),
            tags.get("timeframe", ""),
            tags.get("kind", ""),
        )
        found[name].append(json.loads(one.text))
    return found


def _series(name: _Name, symbol: str) -> SeriesId:
    exchange, _, timeframe, kind = name
    return SeriesId(exchange, symbol, timeframe, kind)


def _symbol(events: Iterable[Mapping[str, Any]]) -> str:
    """The symbol of the latest event: once a series is removed, another may have its tags."""
    return str(max(events, key=lambda event: int(event["n"]))["symbol"])


def _same_tags(kept: str, series: SeriesId) -> UsageError:
    return UsageError(
        f"{kept} is kept in this bucket under the tag {tags_of(series).symbol}, which {series.symbol} would share",
        hint="keep one of them in another bucket",
    )


def _adopted(books: Books, found: Found, oldest: int) -> Books:
    """Books for rows that somebody else wrote: all from the first to the last was asked for, and nothing answered.

    What the bucket is about to forget, before `oldest`, is not asked for. The rows count as stored; fetch asks once for
    the whole range, which finds the holes and checks what is there.
    """
    frame = books.series.frame
    hull = TimeRange(frame.floor(found.first), frame.next(frame.floor(found.last)))
    if oldest > hull.since:
        hull = TimeRange(min(frame.ceil(oldest), hull.until), hull.until)
    ledger = Ledger(frame, asked=RangeSet([hull]), clock=hull.until)
    return replace(books, ledger=ledger, kept=True, adopted=True)


async def _resolved(reader: Reader, books: Books) -> Books:
    """With what is in quarantine: refused open times whose slots no stored candle has taken."""
    refused = {row.open for row, _, _ in books.refused if row.open is not None}
    if not refused:
        return books
    frame = books.series.frame
    slots = RangeSet(TimeRange(frame.floor(one), frame.next(frame.floor(one))) for one in refused)
    stored = set((await reader.opens(tags_of(books.series), list(slots))).tolist())
    waiting = tuple(sorted(one for one in refused if frame.floor(one) not in stored))
    return replace(books, ledger=replace(books.ledger, quarantined=waiting))
