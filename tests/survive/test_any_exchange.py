"""Exchanges of any habits, honest about them or not: every slot is accounted for, and no candle is wrong.

The real ccxt classes talk to the local exchange over HTTP, in virtual time. What lies behind the API is drawn: how many rows
an answer really has, which bounds count, the order, what is given for times without a trade, how far back anything is
given, when a candle is final, where weeks begin; and the market: outages, listing, delisting. So is what is believed of it: nothing, the truth,
or something else.
"""

from __future__ import annotations

import asyncio
import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import seed as hypothesis_seed

from chandlery.anchors import forget_learnt
from chandlery.candle import SeriesId
from chandlery.errors import BadAnswer, ExchangeRefused
from chandlery.ledger import State
from chandlery.sources import open_source
from chandlery.sources.profile import Habits, Profile
from chandlery.sources.profile_book import ProfileBook
from chandlery.testing.clock import VirtualClock
from chandlery.testing.source_contract import NOW
from chandlery.testing.source_habits import TrueHabits
from chandlery.testing.source_scenes import Said, Scene, SceneExchange, same_bits, walk
from chandlery.timeframe import DAY, MINUTE, MONDAY, WEEK
from chandlery.timerange import RangeSet, TimeRange

EXAMPLES = 2000
#: The candle in progress. No longer candle has just closed: one that comes late would hide a market that is younger than it.
END = NOW // MINUTE * MINUTE + 437 * MINUTE
#: The classes by how they ask: `since` alone, inclusive (binance) or rounded (bybit); both bounds, inclusive (mexc, coinbase),
#: exclusive (okx), half-open in seconds (kucoin, gate), from the end back (bitget).
CLASSES = ("binance", "bybit", "mexc", "okx", "kucoin", "coinbase", "bitget")


@dataclass(frozen=True)
class Case:
    """An exchange, its market, what is believed of it, and what is asked for."""

    exchange: str
    habits: TrueHabits
    believed: Habits | None
    scene: Scene
    since: int  # candles back from the one in progress
    until: int
    second: int  # of the minute, when it is asked for


@st.composite
def cases(dice: st.DrawFn) -> Case:
    """Anything that an exchange may be."""
    exchange = dice(st.sampled_from(CLASSES))
    page = dice(st.sampled_from([100, 101, 137, 200, 300, 499, 500, 720, 1000]))
    right = dice(st.booleans())
    fresh = dice(st.sampled_from(["final", "final", "changes", "late"]))
    # Only who knows of it can wait for values that change for longer than the usual settling time.
    seconds = 0 if fresh == "final" else dice(st.integers(1, 59 if fresh == "late" or right else 10))
    habits = TrueHabits(
        page=page,
        begin_excluded=dice(st.booleans()),
        end=dice(st.sampled_from(["kept", "included", "excluded"])),
        reversed=dice(st.booleans()),
        # ccxt asks MEXC for 500 candles' time whatever the limit: the newest of them are no answer to anything.
        keeps="oldest" if exchange == "mexc" else dice(st.sampled_from(["newest", "oldest"])),
        bounded=dice(st.booleans()),
        depth=dice(st.sampled_from([0, 0, 0, 300, 720, 2000])),
        finality=seconds,
        fresh="late" if fresh == "late" else "changes",
        shows_open=dice(st.booleans()),
    )
    believed = None
    if right:
        depth = {"*": habits.depth} if habits.depth else {}
        believed = Habits(page=page, depth=depth, depth_by="time", finality=float(seconds))
    elif dice(st.booleans()):
        believed = Habits(page=dice(st.sampled_from([100, 200, 299, 500, 1000, 1500, 5000])))
    span = dice(st.one_of(st.integers(1, 9), st.integers(1, 3500)))
    ago = dice(st.one_of(st.just(0), st.integers(1, 4000)))
    listed = max(10, ago + span + dice(st.one_of(st.integers(-span, span), st.integers(0, 20_000))))
    delisted = dice(st.integers(0, listed - 1)) if exchange == "binance" and dice(st.booleans()) else 0
    holes = []
    for _ in range(dice(st.integers(0, 3))):
        size = dice(st.one_of(st.integers(1, 9), st.integers(10, 300), st.integers(300, 2000)))
        first = dice(st.integers(1, ago + span + 500))
        holes.append(TimeRange(END - first * MINUTE, END + (size - first) * MINUTE))
    scene = Scene(
        "BTC/USDT",
        END - listed * MINUTE,
        END - delisted * MINUTE if delisted else None,
        holes=tuple(holes),
        activity=dice(st.sampled_from([1.0, 1.0, 0.9, 0.33, 0.05])),
        omit=dice(st.booleans()),
        seed=dice(st.integers(1, 1000)),
    )
    return Case(exchange, habits, believed, scene, ago + span, ago, dice(st.integers(0, 59)))


@dataclass(frozen=True)
class Asked:
    """What was said of a case's span, and what is true of it."""

    said: Said
    candles: pl.DataFrame  # all closed candles from the span's beginning to now
    settle: int
    planned: int  # requests that the source expected to need


def ask(case: Case, state: Path, series: SeriesId, span: TimeRange) -> Asked:
    """Walk the span of a case in virtual time."""
    now = END + case.second * 1000
    clock = VirtualClock(now)
    if case.believed is not None:
        ProfileBook(state).save(Profile(case.exchange, {"spot": case.believed}, origin="probed"))
    with SceneExchange(case.exchange, case.scene, clock=clock, habits=case.habits) as exchange:

        async def main() -> Asked:
            async with open_source(case.exchange, url=exchange.url, clock=clock, state_dir=state) as source:
                moment = await source.now()
                await source.known(series)
                settle = round(source.settle_seconds * 1000)
                said = await walk(source, series, span, now=moment)
                candles = exchange.truth("BTC/USDT", series.timeframe, span.since, END)
                return Asked(said, candles, settle, (await source.estimate(series, span)).requests)

        return asyncio.run(main())


def most_requests(case: Case, asked: Asked, shown: int) -> int:
    """1.15 times the least and 25, and a bounded number for what is unusual: each long hole, what must first be learnt of
    the exchange because no profile tells it, and a market of which nothing at all is shown.
    """
    slots = asked.said.series.frame.count(asked.said.span.since, asked.said.span.until)
    least = max(asked.planned, math.ceil(slots / (case.habits.page - 1 - case.habits.begin_excluded)))
    long = sum(hole.until - hole.since >= 90 * MINUTE for hole in case.scene.holes)
    hidden = bool(case.habits.depth) and not (case.believed and case.believed.depth)
    strange = case.habits.begin_excluded or case.habits.keeps == "newest"
    return math.floor(1.15 * least) + 25 + 15 * long + 20 * (hidden + strange + (not shown))


def check(case: Case, state: Path) -> None:
    """Each slot of the span has a state that is true, and each candle is the exchange's own."""
    series = SeriesId(case.exchange, "BTC/USDT", "1m")
    frame = series.frame
    asked = ask(case, state, series, TimeRange(END - case.since * MINUTE, END - case.until * MINUTE))
    said, now = asked.said, END + case.second * 1000
    times = np.array(asked.candles["time"].to_physical())
    # What it showed: not what is older than it gives, and not what came late.
    reach = frame.add(END, 1 - case.habits.depth) if case.habits.depth else 0
    late = now - case.habits.finality * 1000 if case.habits.fresh == "late" else now
    shown = times[(times >= reach) & (times + MINUTE <= late)]
    if said.error is not None:
        assert isinstance(said.error, BadAnswer)
        assert not len(shown), said.error
    stored = said.candles
    assert stored.join(asked.candles, on=stored.columns, how="anti").is_empty(), "wrong candles"
    there = set(times.tolist()) - set(stored["time"].to_physical().to_list())
    absent = sorted((END - one) // MINUTE for one in there if one in said.answered)
    assert not absent, f"there, and called absent: {absent[:9]} minutes ago"
    for fact in said.facts:
        hidden = sorted((END - one) // MINUTE for one in there if one in fact.range)
        if fact.state is State.OUT_OF_REACH:
            assert case.habits.depth
            hidden = [one for one in hidden if one < case.habits.depth - 12]  # meanwhile some slipped away
        elif fact.state is State.BEFORE_LISTING and case.habits.depth:
            # Candles of the same five minutes as the oldest that is given leave no trace of their own.
            hidden = [one for one in hidden if one > case.habits.depth + 8]
        assert not hidden, f"there, and called {fact.state}: {hidden[:9]} minutes ago"
        assert fact.state is not State.AFTER_END or case.scene.delisted
    assert said.requests <= most_requests(case, asked, len(shown))
    # Only what nothing follows may be left unsaid.
    last = int(shown[-1]) if len(shown) else 0
    settled = RangeSet.of(0, frame.floor(now - asked.settle))
    unsaid = [one for one in said.missing & settled if one.since <= last]
    assert not unsaid, f"nothing said of {unsaid}, though {last} is there"


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_any_exchange(seed: int, proven_count: Callable[[int], int], tmp_path: Path) -> None:
    """Of an exchange of any habits no candle is wrong, none that is there is called absent, and nothing is left unsaid."""

    @hypothesis_seed(seed)
    @settings(
        max_examples=proven_count(EXAMPLES),
        deadline=None,
        database=None,
        print_blob=False,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    @given(cases())
    def hold(case: Case) -> None:
        with tempfile.TemporaryDirectory(dir=tmp_path) as folder:
            check(case, Path(folder))

    hold()


@pytest.mark.parametrize("day", range(7))
def test_weeks_of_any_day(day: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weeks that begin on any day come out exactly where a profile tells the day; where none does, they are refused."""
    habits, scene = TrueHabits(week=day * DAY), Scene("BTC/USDT", END - 200 * WEEK, seed=1)
    for known in (True, False):
        state = tmp_path / str(known)
        monkeypatch.setenv("CHANDLERY_STATE", str(state))
        believed = Habits(page=1000)
        anchors = {"1w": day * DAY} if known else {}
        ProfileBook(state).save(Profile("binance", {"spot": believed}, anchors=anchors, origin="probed"))
        forget_learnt()
        series = SeriesId("binance", "BTC/USDT", "1w")
        last = series.frame.floor(END)
        span = TimeRange(series.frame.add(last, -150), last)
        asked = ask(Case("binance", habits, None, scene, 0, 0, 30), state, series, span)
        if known or day == MONDAY // DAY:
            assert asked.said.error is None
            assert same_bits(asked.said.candles, asked.candles.head(150))
            assert not asked.said.missing
        else:
            assert isinstance(asked.said.error, ExchangeRefused)
            assert asked.said.error.hint
            assert asked.said.candles.is_empty()
    forget_learnt()
