"""Budgets against models of exchanges that count requests as they arrive, with latencies by chance."""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st

from chandlery.sources.limits import RequestLimit
from chandlery.sources.pacing.budget import Budget, Spent
from chandlery.sources.pacing.tally import Tally

BOOT = 3.6e6  # the host has been up for an hour


@dataclass
class Rolling:
    """At most `weight` in any stretch of `window` ms, as the exchange counts arrivals."""

    weight: float
    window: float
    spent: deque[tuple[float, float]] = field(default_factory=deque)
    refused: int = 0
    counted: float = 0.0

    def arrives(self, at: float, weight: float) -> float:
        while self.spent and self.spent[0][0] <= at - self.window:
            self.spent.popleft()
        used = sum(w for _, w in self.spent) + weight
        if used > self.weight + 1e-9:
            self.refused += 1
        else:
            self.spent.append((at, weight))
            self.counted += weight
        return used


@dataclass
class Fixed:
    """At most `weight` from one multiple of `window` ms to the next, by the exchange's clock, `ahead` of the host's."""

    weight: float
    window: float
    ahead: float
    turn: float = 0.0
    used: float = 0.0
    refused: int = 0
    counted: float = 0.0

    def arrives(self, at: float, weight: float) -> float:
        turn = (at + self.ahead) // self.window
        if turn != self.turn:
            self.turn, self.used = turn, 0.0
        self.used += weight
        if self.used > self.weight + 1e-9:
            self.refused += 1
        else:
            self.counted += weight
        return self.used


@dataclass
class Program:
    """One process that asks as fast as its budget lets it."""

    budget: Budget
    in_flight: int
    weights: tuple[float, ...]
    flying: int = 0


@dataclass
class Run:
    """Programs that share a tally, an exchange, and the time between them."""

    server: Rolling | Fixed
    programs: list[Program]
    trip: Callable[[], tuple[float, float]]
    dice: random.Random
    header: str = ""
    now: float = BOOT
    sent: int = 0

    def go(self, length: float) -> float:
        """Ask for `length` ms; returns the weight that the exchange counted."""
        tally = Tally(1.0)
        events: list[tuple[float, int, str, Program, Spent | None, dict[str, str]]] = []
        number = 0

        def at(when: float, what: str, who: Program, spent: Spent | None, headers: dict[str, str]) -> None:
            nonlocal number
            number += 1
            heapq.heappush(events, (when, number, what, who, spent, headers))

        for program in self.programs:
            at(self.now + self.dice.random() * 50, "try", program, None, {})
        end = self.now + length
        while events and events[0][0] <= end:
            self.now, _, what, who, spent, headers = heapq.heappop(events)
            if what == "arrives":
                assert spent is not None
                used = self.server.arrives(self.now, spent.weight)
                if self.header:
                    headers[self.header] = f"{used:.0f}"
                continue
            if what == "answer":
                assert spent is not None
                who.flying -= 1
                who.budget.answered(tally, self.now, spent)
                who.budget.report(tally, self.now, headers, spent)
                if who.flying == who.in_flight - 1:
                    at(self.now, "try", who, None, {})
                continue
            weight = self.dice.choice(who.weights)
            wait = who.budget.wait_ms(tally, self.now, weight)
            if wait > 0:
                at(self.now + wait, "try", who, None, {})
                continue
            spent = who.budget.spend(tally, self.now, weight)
            self.sent += 1
            who.flying += 1
            there, back = self.trip()
            said: dict[str, str] = {}
            at(self.now + there, "arrives", who, spent, said)
            at(self.now + there + back, "answer", who, spent, said)
            if who.flying < who.in_flight:
                at(self.now, "try", who, None, {})
        return self.server.counted


def trips(dice: random.Random, typical: float) -> Callable[[], tuple[float, float]]:
    """Latencies there and back: around the typical one, now and then ten times as long."""

    def trip() -> tuple[float, float]:
        slow = 10.0 if dice.random() < 0.02 else 1.0
        return dice.uniform(0, typical) * slow, dice.uniform(0, typical) * slow

    return trip


@settings(max_examples=60, deadline=None)
@given(
    most=st.integers(1, 60),
    window=st.sampled_from([200, 1_000, 2_000, 30_000]),
    latency=st.floats(0.001, 0.5),
    in_flight=st.integers(1, 40),
    programs=st.integers(1, 3),
    weights=st.sampled_from([(1.0,), (3.0,), (1.0, 2.0, 5.0)]),
    share=st.sampled_from([1.0, 0.8, 0.5]),
    seed=st.integers(0, 2**32),
)
def test_a_rolling_window_never_holds_more_than_its_limit(
    most: int,
    window: int,
    latency: float,
    in_flight: int,
    programs: int,
    weights: tuple[float, ...],
    share: float,
    seed: int,
) -> None:
    """However late requests arrive and answers come, no stretch of a window's length holds more than the limit, in
    one process or several.
    """
    dice = random.Random(seed)
    limit = RequestLimit("x", max(most, *weights), window)
    typical = min(window * latency, 200.0)
    asking = [Program(Budget(limit, share), in_flight, weights) for _ in range(programs)]
    run = Run(Rolling(limit.weight, window), asking, trips(dice, typical), dice)
    counted = run.go(min(window * 12.0, 120_000))
    note(f"{run.sent} sent, {counted} counted")
    assert run.server.refused == 0
    assert run.sent > 1


@settings(max_examples=30, deadline=None)
@given(
    most=st.integers(10, 100),
    window=st.sampled_from([500, 2_000, 30_000]),
    programs=st.integers(1, 3),
    seed=st.integers(0, 2**32),
)
def test_a_rolling_window_is_used(most: int, window: int, programs: int, seed: int) -> None:
    """With answers in a hundredth of the window at least nine tenths of what is allowed are used."""
    dice = random.Random(seed)
    limit = RequestLimit("x", most, window)
    asking = [Program(Budget(limit, 1.0), 64, (1.0,)) for _ in range(programs)]

    def trip() -> tuple[float, float]:
        return dice.uniform(0, window / 200), dice.uniform(0, window / 200)

    run = Run(Rolling(most, window), asking, trip, dice)
    counted = run.go(window * 20.0)
    assert run.server.refused == 0
    assert counted >= 0.9 * most * 20


@settings(max_examples=60, deadline=None)
@given(
    most=st.integers(20, 300),
    ahead=st.floats(1e12, 1e12 + 120_000),
    known=st.booleans(),
    headers=st.booleans(),
    latency=st.floats(0.1, 150),
    in_flight=st.integers(1, 40),
    programs=st.integers(1, 3),
    seed=st.integers(0, 2**32),
)
def test_a_fixed_window_never_holds_more_than_its_limit(
    most: int,
    ahead: float,
    known: bool,
    headers: bool,
    latency: float,
    in_flight: int,
    programs: int,
    seed: int,
) -> None:
    """Windows by the exchange's clock never hold more than the limit, whether that clock is known, told in an answer on
    its way for a while, or not known at all, and whether answers say what was used or not.
    """
    dice = random.Random(seed)
    header = "x-mbx-used-weight-1m" if headers else ""
    limit = RequestLimit("x", most, 60_000, fixed=True, header=header)
    asking = [Program(Budget(limit, 1.0), in_flight, (1.0, 2.0)) for _ in range(programs)]
    server = Fixed(most, 60_000, ahead)
    run = Knowing(server, asking, trips(dice, latency), dice, header)
    run.back = dice.uniform(0, latency) if known else None
    counted = run.go(400_000)
    note(f"{run.sent} sent, {counted} counted")
    assert server.refused == 0
    # Seven turns lie in that time; not known, they are waited for as if windows rolled.
    assert counted >= 5 * most * (1.0 if latency * most / in_flight < 20_000 else 0.0)


class Knowing(Run):
    """A run in which the exchange's time is told first, in an answer that was `back` ms on its way."""

    back: float | None = None

    def go(self, length: float) -> float:
        if self.back is not None:
            first = self.programs[0].budget
            assert isinstance(self.server, Fixed)
            offset = math.floor(self.now - self.back + self.server.ahead) - self.now
            known = Tally(1.0)
            first.set_clock(known, self.now, offset, self.back)
            for program in self.programs:
                program.budget = Clocked(first.limit, first.share, known)
        return super().go(length)


class Clocked(Budget):
    """A budget to whose tally the exchange's clock is told at its first use."""

    def __init__(self, limit: RequestLimit, share: float, known: Tally) -> None:
        super().__init__(limit, share)
        self.known = known

    def wait_ms(self, tally: Tally, now: float, weight: float) -> float:
        tally.cells[6:9] = self.known.cells[6:9]
        return super().wait_ms(tally, now, weight)


def test_a_killed_process_holds_its_share_for_a_while_only() -> None:
    """Requests whose answers never came count as long as they may have arrived late, and then no more."""
    budget, tally = Budget(RequestLimit("x", 10, 2_000), 1.0), Tally(1.0)
    for _ in range(10):
        assert budget.wait_ms(tally, BOOT, 1) == 0
        budget.spend(tally, BOOT, 1)
    assert budget.wait_ms(tally, BOOT + 1_999, 1) > 0
    assert budget.wait_ms(tally, BOOT + 6_999, 1) > 0
    assert budget.wait_ms(tally, BOOT + 7_000, 10) == 0


def test_a_share_of_less_than_one_request_is_kept() -> None:
    """Of one request a second, 80 % is one in 1.25 seconds; one that weighs more than the share goes alone."""
    budget, tally = Budget(RequestLimit("x", 1, 1_000), 0.8), Tally(1.0)
    budget.answered(tally, BOOT + 50, budget.spend(tally, BOOT, 1))
    assert budget.wait_ms(tally, BOOT + 50, 1) == pytest.approx(1_250)
    fixed, other = Budget(RequestLimit("x", 10, 60_000, fixed=True), 1.0), Tally(2.0)
    assert fixed.wait_ms(other, BOOT, 20) == 0
    fixed.spend(other, BOOT, 20)
    assert fixed.wait_ms(other, BOOT, 1) > 0


def test_what_others_use_counts() -> None:
    """What the exchange reports above what is ours is counted once, however many answers tell of it."""
    limit = RequestLimit("x", 100, 60_000, fixed=True, header="x-mbx-used-weight-1m")
    budget, tally = Budget(limit, 1.0), Tally(1.0)
    first, second = budget.spend(tally, BOOT, 2), budget.spend(tally, BOOT, 2)
    for number, spent in enumerate((first, second)):
        budget.answered(tally, BOOT + 80, spent)
        budget.report(tally, BOOT + 80, {"x-mbx-used-weight-1m": str(72 + 2 * number)}, spent)
    assert budget.look(tally, BOOT + 100) == 74
    assert budget.wait_ms(tally, BOOT + 100, 26) == 0
    assert budget.wait_ms(tally, BOOT + 100, 27) > 0


def test_a_lower_count_is_a_new_window() -> None:
    """Where the exchange's clock is not known, an answer to a later request that counts less says that its window has
    turned; one that was only overtaken on its way does not.
    """
    limit = RequestLimit("x", 100, 60_000, fixed=True, header="x-mbx-used-weight-1m")
    budget, tally = Budget(limit, 1.0), Tally(1.0)

    def answer(spent: Spent, at: float, used: int) -> None:
        budget.answered(tally, BOOT + at, spent)
        budget.report(tally, BOOT + at, {"x-mbx-used-weight-1m": str(used)}, spent)

    answer(budget.spend(tally, BOOT, 2), 50, 80)
    third, fourth = budget.spend(tally, BOOT + 5_000, 2), budget.spend(tally, BOOT + 5_000, 2)
    answer(fourth, 6_000, 84)
    answer(third, 6_000, 82)
    assert budget.wait_ms(tally, BOOT + 7_000, 20) > 50_000
    answer(budget.spend(tally, BOOT + 7_000, 2), 8_000, 2)
    # The two that were sent after the answer that counted 84 may be of either window.
    assert budget.look(tally, BOOT + 8_000) == 6
    assert budget.wait_ms(tally, BOOT + 8_000, 94) == 0


@pytest.mark.parametrize(
    ("name", "headers", "weight"),
    [
        ("gw-ratelimit-remaining", {"gw-ratelimit-remaining": "1500", "gw-ratelimit-limit": "2000"}, 500),
        ("x-bapi-limit-status", {"x-bapi-limit-status": "40", "x-bapi-limit": "50"}, 10),
        ("x-mbx-used-weight-1m", {"x-mbx-used-weight-1m": "77"}, 77),
        ("gw-ratelimit-remaining", {"gw-ratelimit-remaining": "1500"}, 3),
        ("x-mbx-used-weight-1m", {"x-mbx-used-weight-1m": "-5"}, 3),
        ("", {"x-mbx-used-weight-1m": "77"}, 3),
    ],
)
def test_headers_say_what_is_used(name: str, headers: dict[str, str], weight: float) -> None:
    """What answers say of a budget is read in each of the ways that exchanges say it; nonsense is passed over."""
    budget, tally = Budget(RequestLimit("x", 1_000, 30_000, header=name), 1.0), Tally(1.0)
    spent = budget.spend(tally, BOOT, 3)
    budget.answered(tally, BOOT + 80, spent)
    budget.report(tally, BOOT + 80, headers, spent)
    assert budget.look(tally, BOOT + 80) == weight


def test_the_least_time_begins_with_what_is_left() -> None:
    """A plan counts what is left of the window first, then windows: nothing is waited for what fits."""
    budget, tally = Budget(RequestLimit("x", 10, 2_000), 1.0), Tally(1.0)
    assert budget.least_ms(tally, BOOT, 10, 1) == 0
    assert budget.least_ms(tally, BOOT, 11, 1) == 2_000
    assert budget.least_ms(tally, BOOT, 40, 1) == 6_000
    for _ in range(4):
        budget.answered(tally, BOOT, budget.spend(tally, BOOT, 1))
    assert budget.least_ms(tally, BOOT + 500, 6, 1) == 0
    assert budget.least_ms(tally, BOOT + 500, 7, 1) == 1_500
    assert budget.least_ms(tally, BOOT + 500, 30, 1) == pytest.approx(5_500)
