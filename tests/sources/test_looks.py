"""What an exchange lacks in one answer, or in a few, is not called absent; what it always lacks is, at a bounded cost."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable
from typing import Any

import pytest

from chandlery.candle import SeriesId
from chandlery.errors import BadAnswer
from chandlery.ledger import State
from chandlery.timerange import TimeRange

MINUTE = 60_000
HOUR = 60 * MINUTE
NOW = 1_717_200_030_000
LAST = NOW // MINUTE * MINUTE
BEGIN = LAST - 5000 * MINUTE
SPAN = TimeRange(BEGIN, LAST)
BTC = SeriesId("binance", "BTC/USDT", "1m")


def walked(exchange: Any, opened: Callable[..., Any], walk: Any, span: TimeRange = SPAN) -> Any:
    """Walk a span of an exchange."""

    async def main() -> Any:
        async with exchange.serving() as url, opened(url) as source:
            return await walk(source, BTC, span)

    return asyncio.run(main())


def absent(said: Any) -> list[int]:
    """Open times that a walk called absent."""
    known = {row.open for row in said.rejected} | set(said.times)
    return [t for part in said.answered for t in range(part.since, part.until, MINUTE) if t not in known]


@pytest.mark.parametrize("times", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("status", ["TRADING", "BREAK"])
@pytest.mark.parametrize("repeated", [False, True])
def test_short_answers_in_a_row(
    tiny: Any, opened: Any, walk: Any, make_klines: Any, times: int, status: str, repeated: bool
) -> None:
    """Up to five answers in a row that end too early hide nothing, whether the market trades or not."""
    exchange = tiny(make_klines(BEGIN, 5001))
    exchange.status = status
    left = times

    def answer(query: dict[str, str], due: list[Any]) -> Any:
        nonlocal left
        since = int(query.get("startTime", 0))
        if query["interval"] != "1m" or since < BEGIN + 1500 * MINUTE or not left:
            return due
        left -= 1
        return [r for r in exchange.rows if since - 9 * MINUTE <= r[0] <= since] if repeated else due[:1]

    exchange.answer = answer
    said = walked(exchange, opened, walk)
    assert (said.error, said.facts, absent(said)) == (None, [], [])
    assert said.times == list(range(BEGIN, LAST, MINUTE))


@pytest.mark.parametrize("times", [1, 3, 5])
def test_end_that_is_none(tiny: Any, opened: Any, walk: Any, make_klines: Any, times: int) -> None:
    """A market that no longer trades has not ended where a few answers, at any timeframe, stop."""
    exchange = tiny(make_klines(BEGIN, 5001))
    exchange.status = "BREAK"
    left = times

    def answer(query: dict[str, str], due: list[Any]) -> Any:
        nonlocal left
        if int(query.get("startTime", 0)) < BEGIN + 900 * MINUTE or not left:
            return due
        left -= 1
        return due[:1]

    exchange.answer = answer
    said = walked(exchange, opened, walk)
    assert (said.error, said.facts, absent(said)) == (None, [], [])


@pytest.mark.parametrize("ago", [10, 30])
def test_end_must_be_old(tiny: Any, opened: Any, walk: Any, make_klines: Any, ago: int) -> None:
    """A market that does not trade has ended if its last candle is a day old; a younger silence is missing."""
    exchange = tiny(make_klines(BEGIN, 5001 - ago * 60))
    exchange.status = "BREAK"
    said = walked(exchange, opened, walk)
    assert said.error is None
    assert [fact.state for fact in said.facts] == ([State.AFTER_END] if ago > 24 else [])
    assert len(exchange.asked) < 25
    assert bool(said.left(SPAN)) == (ago < 24)


@pytest.mark.parametrize("times", [1, 2, 4])
@pytest.mark.parametrize(("head", "lost", "step"), [(1, 998, 0), (200, 400, 0), (1, 9, 20), (300, 1, 1)])
def test_holes_of_faulty_answers(
    tiny: Any, opened: Any, walk: Any, make_klines: Any, times: int, head: int, lost: int, step: int
) -> None:
    """Candles that answers lack in their middle are not called absent: few, here or there, or many, always the same."""
    exchange = tiny(make_klines(BEGIN, 5001))
    count = 0

    def answer(_: dict[str, str], due: list[Any]) -> Any:
        nonlocal count
        count += 1
        first = head + step * count
        return due[:first] + due[first + lost :] if 1 < count <= 1 + times else due

    exchange.answer = answer
    said = walked(exchange, opened, walk)
    assert (said.error, absent(said)) == (None, [])
    assert said.times == list(range(BEGIN, LAST, MINUTE))


@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_quiet_market_costs_little_more(
    tiny: Any, opened: Any, walk: Any, make_klines: Any, share: float, seed: int
) -> None:
    """Where minutes without a trade are usual, holes cost no second look: at most 1.15 times the least, and 25."""
    dice = random.Random(seed)
    rows = make_klines(LAST - 60_000 * MINUTE, 60_001)
    rows = [row for n, row in enumerate(rows) if n in (0, 59_999, 60_000) or dice.random() >= share]
    exchange = tiny(rows, page=100)
    span = TimeRange(LAST - 60_000 * MINUTE, LAST)
    said = walked(exchange, opened, walk, span)
    assert said.error is None
    assert said.times == [row[0] for row in rows[:-1]]
    assert not said.left(span)
    least = math.ceil(len(rows) / 99)
    assert len(exchange.asked) <= 1.15 * least + 25, f"seed {seed}, least {least}"


def test_outages_of_a_busy_market_cost_little_more(
    tiny: Any, opened: Any, walk: Any, make_klines: Any, seed: int
) -> None:
    """28 outages in 58 pages cost at most 1.15 times the least number of requests, and 25; all of them are absent."""
    dice = random.Random(seed)
    begin = LAST - 58_000 * MINUTE
    holes: set[int] = set()
    for n in range(28):
        first = dice.randrange(10, 57_900)
        holes.update(range(first, first + (33 if n == 3 else dice.choice((3, 5)))))
    rows = [row for n, row in enumerate(make_klines(begin, 58_001)) if n not in holes]
    exchange = tiny(rows)
    said = walked(exchange, opened, walk, TimeRange(begin, LAST))
    assert (said.error, said.left(TimeRange(begin, LAST))) == (None, said.left(TimeRange(0, 0)))
    assert absent(said) == [begin + n * MINUTE for n in sorted(holes)]
    assert len(exchange.asked) <= 1.15 * len(rows) / 999 + 25, f"seed {seed}"


@pytest.mark.parametrize("status", ["TRADING", "BREAK"])
@pytest.mark.parametrize("longer", [False, True])
def test_first_page_for_ever(
    tiny: Any, opened: Any, walk: Any, make_klines: Any, status: str, longer: bool
) -> None:
    """An exchange that answers with its first page whatever is asked has not ended there: that is an error."""
    exchange = tiny(make_klines(BEGIN, 5001))
    exchange.status = status
    exchange.answer = lambda query, due: (
        due if longer and query["interval"] != "1m" else exchange.aggregated("1m")[:1000]
    )
    said = walked(exchange, opened, walk)
    assert isinstance(said.error, BadAnswer)
    assert said.error.hint
    assert (said.facts, absent(said)) == ([], [])
    assert len(said.times) in (999, 1000)
    assert len(exchange.asked) < 60


def test_large_hole_of_a_quiet_market(tiny: Any, opened: Any, walk: Any, make_klines: Any, seed: int) -> None:
    """On a quiet market an answer that lacks much more than usual is not believed at once."""
    dice = random.Random(seed)
    rows = make_klines(LAST - 30_000 * MINUTE, 30_001)
    rows = [row for n, row in enumerate(rows) if n in (0, 29_999, 30_000) or dice.random() >= 0.5]
    exchange = tiny(rows)
    count = 0

    def answer(_: dict[str, str], due: list[Any]) -> Any:
        nonlocal count
        count += 1
        return due[:300] + due[700:] if count == 13 else due

    exchange.answer = answer
    said = walked(exchange, opened, walk, TimeRange(LAST - 30_000 * MINUTE, LAST))
    assert count > 13
    assert said.times == [row[0] for row in rows[:-1]]


@pytest.mark.parametrize(
    "bad",
    [None, "text", {}, [], [None, "1"], ["x", "1"], [BEGIN // 1000], [0], [10**30], [LAST + 10**11], [BEGIN - 10**10],
     [BEGIN + 2001 * MINUTE], [BEGIN + 2000 * MINUTE + 0.5], [BEGIN + 2000 * MINUTE, "1_0.0"],
     [BEGIN + 2000 * MINUTE, " 10.0"], [BEGIN + 2000 * MINUTE, "\ud800"]],
)  # fmt: skip
def test_one_bad_row(tiny: Any, opened: Any, walk: Any, make_klines: Any, bad: Any) -> None:
    """A row that can never be read, or never placed by itself, costs its slot (or its twin's), and nothing else."""
    exchange = tiny(make_klines(BEGIN, 5001))
    place = BEGIN + 2000 * MINUTE

    def answer(query: dict[str, str], due: list[Any]) -> Any:
        if query["interval"] != "1m":
            return due
        row = bad + due[0][len(bad) :] if isinstance(bad, list) and bad else bad
        return [row if r[0] == place else r for r in due]

    exchange.answer = answer
    said = walked(exchange, opened, walk)
    assert (said.error, absent(said)) == (None, [])
    assert place in {row.open for row in said.rejected}
    assert len(said.rejected) <= 2
    assert not said.left(SPAN)
    assert len(exchange.asked) < 25


@pytest.mark.parametrize("size", [2, 1500])
def test_rows_without_open_time_beside_a_hole(
    tiny: Any, opened: Any, walk: Any, make_klines: Any, size: int
) -> None:
    """Rows that may belong to any slot of a hole leave that hole unanswered: missing, never absent."""
    exchange = tiny(make_klines(BEGIN, 5001))
    part = TimeRange(BEGIN + 2000 * MINUTE, BEGIN + (2000 + size) * MINUTE)

    def answer(query: dict[str, str], due: list[Any]) -> Any:
        if query["interval"] != "1m":
            return due
        return [[None, *r[1:]] if r[0] in part else r for r in due if r[0] != part.since]

    exchange.answer = answer
    said = walked(exchange, opened, walk)
    assert absent(said) == []
    assert said.left(SPAN)
    assert set(said.times) <= set(range(BEGIN, LAST, MINUTE)) - set(range(part.since, part.until, MINUTE))


def test_open_candle_never_readable(tiny: Any, opened: Any, walk: Any, make_klines: Any) -> None:
    """An open candle that is null, with another volume each time, costs nothing."""
    exchange = tiny(make_klines(BEGIN, 5001))
    count = 0

    def answer(_: dict[str, str], due: list[Any]) -> Any:
        nonlocal count
        count += 1
        return [[r[0], None, *r[2:5], str(count), *r[6:]] if r[0] >= LAST else r for r in due]

    exchange.answer = answer
    said = walked(exchange, opened, walk)
    assert (said.error, said.rejected, len(said.times)) == (None, [], 5000)
    assert len(exchange.asked) < 12


def test_series_of_bad_rows_only(tiny: Any, opened: Any, walk: Any, make_klines: Any) -> None:
    """A series of which every row is bad at all times ends in quarantine, in a bounded number of requests."""
    exchange = tiny(make_klines(BEGIN - 1000 * MINUTE, 6001))
    exchange.answer = lambda query, due: (
        [[r[0], None, *r[2:]] for r in due] if query["interval"] == "1m" else due
    )
    said = walked(exchange, opened, walk)
    assert said.error is None
    assert [row.open for row in said.rejected] == list(range(BEGIN, LAST, MINUTE))
    assert len(exchange.asked) < 60


@pytest.mark.parametrize("status", [403, 404, 400])
def test_refused_once(tiny: Any, opened: Any, walk: Any, make_klines: Any, status: int) -> None:
    """A listed symbol that one answer refuses, or does not know, is asked for once more after a pause."""
    from aiohttp import web

    exchange = tiny(make_klines(BEGIN, 5001))
    count = 0

    def answer(_: dict[str, str], due: list[Any]) -> Any:
        nonlocal count
        count += 1
        text = '{"code":-1121,"msg":"Invalid symbol."}' if status == 400 else "<html>no</html>"
        return web.Response(status=status, text=text) if count == 3 else due

    exchange.answer = answer
    said = walked(exchange, opened, walk)
    assert said.error is None
    assert len(said.times) == 5000


def test_no_candle_at_all_is_an_error(tiny: Any, opened: Any, walk: Any) -> None:
    """A listed market of which every answer is empty ends with an error that says so and what to do."""
    said = walked(tiny(), opened, walk)
    assert isinstance(said.error, BadAnswer)
    assert said.error.hint
    assert list(said.left(SPAN)) == [SPAN]
