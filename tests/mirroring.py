"""A mirror brought up to date, and held against its primary: for mirrors of every kind of store."""

from __future__ import annotations

from chandlery.compare import compare_series, whole_spans
from chandlery.mirror import Mirror
from chandlery.stores.base import Store
from chandlery.testing.store_scenes import bits


def caught_up(primary: Store, target: Store | str) -> int:
    """Follow to the end and verify; returns how many journal entries were delivered."""
    mirror = Mirror(primary, target)
    try:
        delivered = mirror.follow()
        mirror.verify()
        assert mirror.behind() == 0
        return delivered
    finally:
        mirror.close()


def assert_equal(primary: Store, target: Store, about: str = "") -> None:
    """Same series, candles, counts and answers; `diff` finds nothing."""
    counts = [
        [(s.series, s.first, s.last, s.candles, s.absent, s.missing) for s in store.series()]
        for store in (primary, target)
    ]
    assert counts[0] == counts[1], about
    for series, span in whole_spans(primary, target).items():
        found = compare_series(primary, target, series, [span])
        assert found.equal, (about, found)
        mine, theirs = primary.ledger(series), target.ledger(series)
        assert (mine.asked, mine.answered_ranges) == (theirs.asked, theirs.answered_ranges), about
        assert bits(primary.candles(series)) == bits(target.candles(series)), about
