"""What the tests of stores are made of: pages, asks, whole pictures of a store, and random entries."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TypeVar

import polars as pl

from chandlery.candle import SCHEMA, VALUES, CandlePage, Rejected, SeriesId, no_candles
from chandlery.ledger import Fact, State
from chandlery.stores.base import Ask, Entry, NoFact, Page, SeriesFact, Store
from chandlery.timeframe import DAY, HOUR
from chandlery.timerange import TimeRange

E = TypeVar("E", bound=Exception)

START = 1_704_067_200_000  # 2024-01-01
LATER = START + 400 * DAY  # the exchange's time in most tests: all is confirmed
SERIES = SeriesId("binance", "BTC/USDT", "1h")
OTHER = SeriesId("binance", "ETH/USDT", "1h")


def hours(first: int, until: int) -> TimeRange:
    """[first, until) in hours after START."""
    return TimeRange(START + first * HOUR, START + until * HOUR)


def candles(opens: list[int], *, seed: int = 0) -> pl.DataFrame:
    """Candles that open so many hours after START, with values that depend on seed and hour only."""
    columns = {"time": [START + n * HOUR for n in opens]}
    values = {
        name: [float((n * 7 + i * 13 + seed * 101) % 997) / 3 for n in opens] for i, name in enumerate(VALUES)
    }
    return pl.DataFrame({**columns, **values}, schema=SCHEMA)


def page(
    first: int,
    until: int,
    opens: list[int] | None = None,
    *,
    series: SeriesId = SERIES,
    seed: int = 0,
    at: int = LATER,
    rejected: tuple[Rejected, ...] = (),
    repair: bool = False,
) -> Page:
    """A page that answers those hours, full unless `opens` says which hours have a candle."""
    frame = candles(list(range(first, until)) if opens is None else opens, seed=seed)
    return Page(CandlePage(series, hours(first, until), frame, "test", at, rejected=rejected), repair=repair)


def ask(first: int, until: int, *, series: SeriesId = SERIES, clock: int = LATER, settle: int = 0) -> Ask:
    """An ask for those hours."""
    return Ask(series, hours(first, until), clock, settle)


def raised(kind: type[E], call: Callable[[], object]) -> E:
    """The error of that kind that the call raises; AssertionError if it raises none."""
    try:
        call()
    except kind as error:
        return error
    raise AssertionError(f"no {kind.__name__} was raised")


def bits(frame: pl.DataFrame) -> list[tuple[int, ...]]:
    """Open times and the bits of the values, so that -0.0 is not 0.0 and nan is itself."""
    whole = frame.select(pl.col("time").to_physical(), *(pl.col(v).reinterpret(signed=True) for v in VALUES))
    return whole.rows()


def picture(store: Store) -> dict[str, object]:
    """Everything that a store gives back, without times of committing, to compare two stores or two moments."""
    kept = {}
    for summary in store.series():
        series = summary.series
        frame = store.candles(series)
        assert store.opens(series).tolist() == frame["time"].to_physical().to_list()
        kept[str(series)] = (
            summary, store.ledger(series), bits(frame), store.revisions(series), store.quarantine(series),
        )  # fmt: skip
    told = [(e.seq, e.series, e.range, e.kind, e.source, e.rows) for e in store.journal()]
    return {"kept": kept, "journal": told}


def random_hours(dice: random.Random) -> TimeRange:
    """Some hours around START."""
    first = dice.randrange(-20, 300)
    return hours(first, first + dice.choice((0, 1, 2, 10, 60)))


def random_entry(dice: random.Random) -> Entry:
    """An ask, a fact or a page of one of two series, often overlapping what came before."""
    series = dice.choice((SERIES, SERIES, SERIES, OTHER))
    span = random_hours(dice)
    clock = START + dice.choice((30 * HOUR, 200 * HOUR, 300 * HOUR, 500 * HOUR, 400 * DAY))
    choice = dice.random()
    if choice < 0.2:
        return Ask(series, span, clock, dice.choice((0, 5000)))
    if choice < 0.3:
        state = dice.choice((State.BEFORE_LISTING, State.AFTER_END, State.OUT_OF_REACH))
        return SeriesFact(series, Fact(span, state, dice.choice(("one", "two")), clock))
    if choice < 0.33:
        return NoFact(series, span)
    slots = [(t - START) // HOUR for t in range(span.since, span.until, HOUR)]
    filled = [n for n in slots if dice.random() < 0.8]
    rejected = tuple(
        Rejected(dice.choice((None, START + n * HOUR, START + n * HOUR + 5)), dice.choice("ab"), "why")
        for n in slots if n not in filled and dice.random() < 0.2
    )  # fmt: skip
    frame = candles(filled, seed=dice.choice((0, 0, 0, 1))) if filled else no_candles()
    made = CandlePage(series, span, frame, "test", clock, rejected=rejected)
    return Page(made, repair=dice.random() < 0.1)
