"""What an InfluxDB store vouches for, against a list of every slot: right after any answers, resets and losses."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable

import numpy as np
import pytest

from chandlery.stores.influx_tally import Tally, after_answer, outside, put, short
from chandlery.timerange import RangeSet, TimeRange

SLOTS = 60
HISTORIES = 3_000


def opens(rows: set[int]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Ascending open times."""
    return np.array(sorted(rows), dtype=np.int64)


@pytest.mark.parametrize("shard", [0, 17])
def test_tallies_follow_any_history(shard: int, seed: int, proven_count: Callable[[int], int]) -> None:
    """After any answers, crashes and resets the tallies count just the rows of what was answered; each loss is noticed."""
    for number in range(proven_count(HISTORIES)):
        rng = random.Random(f"{seed} {shard} {number}")
        rows: set[int] = set()
        answered = RangeSet()
        held: tuple[Tally, ...] = ()
        for _ in range(rng.randint(1, 12)):
            since = rng.randrange(SLOTS - 1)
            span = TimeRange(since, rng.randint(since + 1, SLOTS))
            kind = rng.choice(("answer", "answer", "crash", "reset"))
            drawn = {one for one in range(span.since, span.until) if rng.random() < 0.3}
            if kind == "crash":  # rows without a ledger
                rows |= {one for one in drawn if one not in answered}
            elif kind == "reset":
                left = outside(held, span)
                counted = [Tally(r.since, r.until, sum(one in r for one in rows)) for r in left]
                held = put(held, span, counted)
                answered -= RangeSet([span])
            else:
                before = opens({one for one in rows if one in span})
                rows |= drawn
                after = opens({one for one in rows if one in span})
                edges = range(shard, SLOTS, shard) if shard else ()
                cuts = sorted({span.since, span.until, *(e for e in edges if span.since < e < span.until)})
                parts = [TimeRange(one, other) for one, other in itertools.pairwise(cuts)]
                held = put(held, span, after_answer(held, parts, before, after, 0 if shard else 20))
                answered |= RangeSet([span])
            note = f"seed {seed}, shard {shard}, history {number}: {held}"
            assert list(held) == sorted(held), note
            assert RangeSet(one.range for one in held) == answered, note
            assert all(one.rows == sum(row in one.range for row in rows) for one in held), note
        inside = sorted(one for one in rows if one in answered)
        assert not short(held, opens(set(inside))), note
        if inside:
            gone = rng.choice(inside)
            (found,) = short(held, opens(rows - {gone}))
            assert found.rows == 1, note
            assert gone in found.range, note
