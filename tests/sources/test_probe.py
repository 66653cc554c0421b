"""`probe`: what is learnt of an exchange by asking it, against every exchange that the local one plays."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from chandlery.errors import ExchangeError, RateLimited
from chandlery.exchange import ExchangeSettings, Fault, Faults, LocalExchange
from chandlery.exchange.shapes import SHAPES, bybit
from chandlery.exchange.shapes.okx import Okx
from chandlery.sources import open_source
from chandlery.sources.ccxt_rest import CcxtRest
from chandlery.sources.probe import probe_exchange
from chandlery.sources.probe_asking import LONGEST_BAN
from chandlery.sources.probe_result import HABITS, Probed, best_page
from chandlery.sources.probe_time import _settled
from chandlery.sources.profile import Profile
from chandlery.sources.profile_book import shipped
from chandlery.testing.clock import VirtualClock

NOW = 1_717_200_030_000  # 2024-06-01T00:00:30Z

#: What the local exchange does otherwise than the shipped profile says, and why that is right.
OTHERWISE: dict[tuple[str, str, str], tuple[Any, str]] = {
    ("coinbase", "spot", "page"): (
        301,
        "300 intervals with both bounds in it; shipped is what ccxt pages by",
    ),
}
#: Seeds with which a wrong habit was once learnt.
FAULT_SEEDS = {"okx": 18, "kraken": 111, "coinbase": 17, "mexc": 18, "gate": 111}
#: What cannot be told of the local exchange, and why.
UNTOLD: dict[tuple[str, str], str] = {
    ("kucoin", "end"): "ccxt ignores `until` next to `since`",
    ("kraken", "end"): "there is no such parameter",
    ("kraken", "volume"): "rows hold no turnover, and the local exchange has no ticker",
    ("kraken", "depth_by"): "the last 720 rows are flat where nothing was traded: rows and time are the same",
    ("coinbase", "volume"): "as of kraken",
    ("mexc", "volume"): "contracts come in columns, without the turnover",
    ("*", "heeds_limit"): "a bounded window may end there by itself",
    ("*", "empty"): "no swap of the generated market is quiet",
    ("*", "depth_by"): "there is no depth",
    ("*", "finality"): "nothing is shipped of it",
    ("bitget", "depth"): "all requests are spent by then",
}


class Bench:
    """Probes exchanges that the local one plays, in a state folder of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        #: Requests that the exchange of the latest probe has logged.
        self.logged = 0

    def probe(
        self,
        name: str,
        faults: Faults | None = None,
        *,
        ccxt_id: str = "",
        pairs: tuple[str, ...] = (),
        **options: Any,
    ) -> Probed:
        """Probe one exchange, asked by the class of `ccxt_id` if that is another one."""
        clock = VirtualClock(NOW)
        settings = ExchangeSettings(exchange=(name,), weight_limit=0, symbols=pairs)

        async def main(url: str) -> Probed:
            async with open_source(ccxt_id or name, url=url, clock=clock, state_dir=self.folder) as source:
                assert isinstance(source, CcxtRest)
                return await probe_exchange(source, **options)

        with LocalExchange(settings, clock=clock) as exchange:
            exchange.faults = faults or Faults()
            try:
                return asyncio.run(main(exchange.url_of(name)))
            finally:
                self.logged = len(exchange.requests)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """What probes."""
    return Bench(tmp_path)


def expected(name: str, kind: str, habit: str) -> Any:
    """The shipped profile's fact, or what the local exchange does otherwise."""
    if (name, kind, habit) in OTHERWISE:
        return OTHERWISE[name, kind, habit][0]
    known = shipped(name)
    habits = None if known is None else known.habits(kind)
    return None if habits is None else getattr(habits, habit)


def differences(name: str, probed: Probed) -> list[str]:
    """What was learnt and is not so. Numbers by timeframe need not be all that are known."""
    wrong = []
    for one in probed.markets:
        for habit in HABITS:
            learnt, fact = one.value(habit), expected(name, one.kind, habit)
            if learnt is None or habit == "finality" or fact == "unknown":
                continue
            if isinstance(learnt, dict) and learnt:
                same = all(fact.get(text, fact.get("*")) == number for text, number in learnt.items())
            else:
                same = learnt == (dict(fact) if isinstance(learnt, dict) else fact)
            if not same:
                wrong.append(f"{one.kind} {habit}: {learnt}, not {fact}")
    anchors = probed.anchors.value
    known = shipped(name)
    if anchors is not None and known is not None and anchors != dict(known.anchors):
        wrong.append(f"anchors: {anchors}, not {dict(known.anchors)}")
    return wrong


@pytest.mark.parametrize("name", list(SHAPES))
def test_learns_the_shipped_facts(bench: Bench, name: str) -> None:
    """What a probe learns of each exchange that is played equals what is shipped, in fewer than 60 requests."""
    probed = bench.probe(name, before=shipped(name))

    assert probed.requests == bench.logged < 60
    assert differences(name, probed) == []
    assert {one.state for one in probed.habits(probed.profile)} <= {"same", "unknown"}
    untold = {habit for one in probed.markets for habit in HABITS if one.value(habit) is None}
    assert {h for h in untold if (name, h) not in UNTOLD and ("*", h) not in UNTOLD} == set()
    for one in probed.markets:
        assert all(one.findings[habit].evidence for habit in ("page", "begin", "order", "in_progress"))
        assert one.value("finality") == 10.0


@pytest.mark.parametrize("name", list(SHAPES))
def test_faults_teach_nothing_wrong(bench: Bench, name: str) -> None:
    """With one answer in ten broken, a probe learns the same or nothing, and sends no more requests."""
    seed = FAULT_SEEDS.get(name, 10)
    print(f"fault seed {seed}")
    banned = False
    probed: Probed | None = None
    try:
        faults = Faults((Fault("mixed", probability=0.1, max_in_a_row=4),), seed=seed)
        probed = bench.probe(name, faults, before=shipped(name))
    except RateLimited as error:
        banned = error.until is not None and error.until > NOW + LONGEST_BAN
    assert bench.logged < 60
    assert banned if probed is None else differences(name, probed) == []


def test_known_numbers_of_more_timeframes_stay(bench: Bench) -> None:
    """Where the reach of recent pages that was measured at 1m is the known one, those of other timeframes are kept."""
    known = shipped("bitget")
    assert known is not None

    probed = bench.probe("bitget", before=known, symbols=("BTC/USDT",), quick=True)

    assert probed.markets[0].value("recent") == {"1m": 41_760}
    assert probed.profile.markets["spot"].recent == known.markets["spot"].recent
    assert len(known.markets["spot"].recent) > 1


def test_changed_page_sizes_are_measured(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Page sizes and the reach of recent ones are the server's, not those shipped or known to ccxt."""
    monkeypatch.setattr(Okx, "history_rows", 37)
    monkeypatch.setattr(Okx, "recent_rows", 137)

    probed = bench.probe("okx", ccxt_id="myokx", symbols=("BTC/USDT",), before=shipped("okx"))

    (spot,) = probed.markets
    assert (spot.value("page"), spot.value("recent_page"), spot.value("recent")) == (37, 137, {"*": 1439})
    assert probed.profile.markets["spot"].page == 37


def test_exclusive_bounds_are_told(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """An exchange that nothing is shipped of, with pages of 137 and both bounds excluded, is learnt as that."""
    inclusive = bybit.Bybit.page

    def exclusive(
        self: Any, *args: Any, since: int | None = None, until: int | None = None, **rest: Any
    ) -> Any:
        since = None if since is None else since + 1
        return inclusive(self, *args, since=since, until=None if until is None else until - 1, **rest)

    monkeypatch.setattr(bybit.Bybit, "page", exclusive)
    monkeypatch.setattr(bybit, "_MOST_ROWS", 137)

    probed = bench.probe("bybit", ccxt_id="bybiteu")

    (spot,) = probed.markets
    assert shipped("bybiteu") is None
    assert (spot.value("page"), spot.value("begin"), spot.value("end")) == (137, "exclusive", "exclusive")
    assert (spot.value("order"), spot.value("window"), spot.value("empty")) == ("descending", "open", "flat")


def test_young_market_has_no_depth_limit(bench: Bench) -> None:
    """Where a market was not listed before, nothing is said of how far back candles can be had."""
    for name in ("binance", "kraken"):
        probed = bench.probe(name, pairs=("IO/USDT",), quick=True)
        assert probed.markets[0].value("page") in (720, 1000)
        assert probed.markets[0].value("depth") is None


@pytest.mark.parametrize("kind", ["empty", "html", "cut", "5xx"])
def test_broken_answers_are_no_habit(bench: Bench, kind: str) -> None:
    """Where no answer holds candles, nothing is learnt: the probe ends with an error, in fewer than 60 requests."""
    with pytest.raises(ExchangeError):
        bench.probe("binance", Faults((Fault(kind, path="klines"),)), quick=True)
    assert bench.logged < 60


def test_what_is_not_told_stays_known(bench: Bench) -> None:
    """The profile to keep has what was learnt, and what was known before where nothing was: a swap's empty candles."""
    known = shipped("binanceusdm")
    assert known is not None

    probed = bench.probe("binanceusdm", quick=True, before=known)

    kept = probed.profile.markets["linear"]
    assert probed.markets[0].value("empty") is None
    assert kept.empty == known.markets["linear"].empty == "flat"
    assert kept.page == 499  # fewer than come, because they are cheaper
    assert probed.profile.limits == known.limits
    assert (probed.profile.origin, probed.profile.at) == ("probed", pytest.approx(NOW, abs=60_000))
    assert {one.state for one in probed.habits(known)} <= {"same", "unknown", "new"}
    again = bench.probe("binanceusdm", quick=True, before=probed.profile)
    assert {one.state for one in again.habits(probed.profile)} == {"same", "unknown"}


def test_cheapest_page() -> None:
    """The page with the most candles for its weight is taken, by the weights of the endpoint that was asked."""
    known = shipped("binanceusdm")
    assert known is not None
    url = "https://fapi.binance.com/fapi/v1/klines?limit=1000"
    assert best_page(1000, url, known.limits) == 499
    assert best_page(300, url, known.limits) == 300
    assert best_page(1000, "https://fapi.binance.com/fapi/v1/time", known.limits) == 1000
    assert best_page(1000, url, Profile("binanceusdm", {}).limits) == 1000


@pytest.mark.parametrize(
    ("looks", "seconds"),
    [
        ("AAA", 10.0),
        ("BAA", 16.0),  # twice the 8 s after which it was as it stayed
        ("BBA", None),
        ("ABA", None),
        ("AA", None),
        ("", None),
    ],
)
def test_finality_of_looks(looks: str, seconds: float | None) -> None:
    """A candle is final twice the time after which it was seen to change no more, and unknown where it still did."""
    values = {"A": (1.0,), "B": (2.0,)}
    seen = [(after, values[look]) for after, look in zip((2.0, 8.0, 40.0), looks, strict=False)]
    assert _settled(seen) == seconds
