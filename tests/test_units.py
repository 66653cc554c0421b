"""The unit of a series' volumes: noted once, compared before anything is written, carried along by copies and mirrors."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl
import pytest

from chandlery.backfill import Backfill, Want
from chandlery.candle import CandlePage, SeriesId
from chandlery.errors import DatabaseError, StoreUnreadable, VolumeUnitChanged
from chandlery.exchange import ExchangeSettings, LocalExchange
from chandlery.ingest import Door
from chandlery.mirror import Mirror
from chandlery.report import SeriesReport
from chandlery.sources import open_source
from chandlery.sources.base import Volumes, VolumeUnit
from chandlery.sources.profile import LINEAR, Habits, Profile
from chandlery.sources.profile_book import ProfileBook
from chandlery.stores import open_store
from chandlery.stores.base import Ask, Page, Store
from chandlery.stores.memory import MemoryStore
from chandlery.testing.store_scenes import SERIES, ask, bits, candles, page
from chandlery.timeframe import DAY, HOUR
from chandlery.timerange import RangeSet, TimeRange
from chandlery.transfer import everything, transfer
from chandlery.units import note, noted
from chandlery.when import parse_when

from .mirroring import caught_up

NOW = parse_when("2024-06-20T12:30Z", now=0)
SWAP = "BTC/USDT:USDT"
#: Gate's swaps come in contracts, as its shipped profile says; one is 0.0001 BTC. myokx has OKX's shape and no profile.
GATE, MYOKX = SeriesId("gate", SWAP, "1h"), SeriesId("myokx", SWAP, "1h")
CONTRACT = 0.0001
CONTRACTS = Volumes("base", CONTRACT)


class Counted(MemoryStore):
    """A store in memory that counts how often marks are read and set."""

    def __init__(self) -> None:
        super().__init__()
        self.read_marks = self.marks_set = 0

    def mark(self, name: str) -> int:
        """As the store has it, counted."""
        self.read_marks += 1
        return super().mark(name)

    def set_mark(self, name: str, value: int) -> None:
        """As the store has it, counted."""
        self.marks_set += 1
        super().set_mark(name, value)


@pytest.fixture(scope="module")
def server() -> Iterator[LocalExchange]:
    """Gate and OKX at half past twelve, for ever."""
    settings = ExchangeSettings(exchange=("gate", "okx"), clock="2024-06-20T12:30Z,0", weight_limit=0)
    with LocalExchange(settings) as running:
        yield running


@pytest.fixture(params=["memory", "embedded"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """An empty store of each kind."""
    with open_store("memory:" if request.param == "memory" else tmp_path / "store") as made:
        yield made


Fetch = Callable[..., tuple[SeriesReport, int]]


@pytest.fixture
def fetch(server: LocalExchange, tmp_path: Path) -> Fetch:
    """Run one series with a source of its own; returns its report and how many requests for candles that took."""

    def run(
        store: Store, series: SeriesId, since: int, until: int, **options: bool
    ) -> tuple[SeriesReport, int]:
        async def once() -> tuple[SeriesReport, int]:
            url = server.url_of("gate" if series.exchange == "gate" else "okx")
            async with open_source(series.exchange, url=url, state_dir=tmp_path / "state") as source:
                backfill = Backfill(source, store, recheck=0, **options)
                report = await backfill.run([Want(series, since, until)])
                return report.series[0], source.traffic.candle_requests

        return asyncio.run(once())

    return run


def _learn(tmp_path: Path, unit: VolumeUnit) -> None:
    habits = {LINEAR: Habits(page=100, volume=unit)}
    ProfileBook(tmp_path / "state").save(Profile("myokx", habits, origin="probed"))


def _truth(server: LocalExchange, since: int, until: int) -> pl.DataFrame:
    return server.truth(SWAP, "1h", since, until, exchange="gate")


def _stored_before(store: Store, series: SeriesId, rows: pl.DataFrame) -> None:
    """Hourly candles in the store as a chandlery that noted no unit has left them."""
    opens = rows["time"].dt.epoch("ms")
    span = TimeRange(opens[0], opens[-1] + HOUR)
    store.write([Ask(series, span, NOW, 0), Page(CandlePage(series, span, rows, "test", NOW))])


# -- what a store remembers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "volumes",
    [
        *map(Volumes, ("base", "quote", "contracts", "unknown")),
        *(Volumes("base", t) for t in (1e-8, 0.01, 1e9)),
    ],
)
def test_every_unit_is_remembered_to_the_bit(store: Store, volumes: Volumes) -> None:
    """What is noted of a series comes back as it was, of that series only; nothing is noted until it is."""
    assert noted(store, SERIES) is None
    note(store, SERIES, volumes)
    assert noted(store, SERIES) == volumes
    assert noted(store, SeriesId("binance", "BTC/USDT", "1h", "mark")) is None


def test_a_unit_of_a_newer_chandlery_is_not_guessed(store: Store, fetch: Fetch) -> None:
    """A mark that means nothing here ends the series with an error of the store; it is not taken for no mark."""
    store.set_mark("gate/BTC%2FUSDT%3AUSDT/1h/trade volumes", 77)
    with pytest.raises(StoreUnreadable, match="77"):
        noted(store, GATE)
    _stored_before(store, GATE, candles([0, 1]))
    assert isinstance(fetch(store, GATE, NOW - DAY, NOW)[0].error, StoreUnreadable)


# -- runs ------------------------------------------------------------------------------------------------------------


def test_a_run_reads_one_mark_and_the_first_one_sets_it(fetch: Fetch) -> None:
    """A new series costs the setting of one mark, every later run the reading of one."""
    with Counted() as store:
        assert fetch(store, GATE, NOW - 2 * DAY, NOW - DAY)[0].ok
        assert (store.read_marks, store.marks_set) == (0, 1)
        assert noted(store, GATE) == CONTRACTS
        assert fetch(store, GATE, NOW - 2 * DAY, NOW)[0].ok
        assert (store.read_marks, store.marks_set) == (2, 1)  # one of them is this test's


@pytest.mark.parametrize("options", [{}, {"repair": True}])
def test_another_contract_size_is_another_unit(
    store: Store, fetch: Fetch, server: LocalExchange, options: dict[str, bool]
) -> None:
    """Where contracts had another size when candles were stored, nothing is asked for and nothing changes, by repair neither."""
    assert fetch(store, GATE, NOW - 2 * DAY, NOW - DAY)[0].ok
    note(store, GATE, Volumes("base", 0.01))
    before, journal = bits(store.candles(GATE)), list(store.journal())
    report, requests = fetch(store, GATE, NOW - 2 * DAY, NOW, **options)
    assert isinstance(report.error, VolumeUnitChanged)
    assert "contracts of 0.01, and would now get them in base units, made of contracts of 0.0001:" in str(
        report.error
    )
    assert requests == 0
    assert bits(store.candles(GATE)) == before
    assert list(store.journal()) == journal


def test_where_nothing_is_stored_nothing_can_be_mixed(store: Store, fetch: Fetch) -> None:
    """The unit of a series that was removed, or never got a candle, holds up no new candles."""
    note(store, GATE, Volumes("quote"))
    assert fetch(store, GATE, NOW - 2 * DAY, NOW - DAY)[0].ok
    assert noted(store, GATE) == CONTRACTS
    store.remove(GATE)
    store.write([Ask(GATE, TimeRange(NOW - DAY, NOW), NOW, 0)])
    note(store, GATE, Volumes("quote"))
    assert fetch(store, GATE, NOW - 2 * DAY, NOW - DAY)[0].ok
    assert noted(store, GATE) == CONTRACTS


# -- stores of before --------------------------------------------------------------------------------------------------


def test_candles_without_a_unit_are_held_against_the_exchange(
    store: Store, fetch: Fetch, server: LocalExchange
) -> None:
    """Candles of which nobody noted the unit are taken over where the exchange gives the same volumes now, for one request
    and once.
    """
    _stored_before(store, GATE, _truth(server, NOW - 4 * DAY, NOW - 2 * DAY))
    report, requests = fetch(store, GATE, NOW - 3 * DAY, NOW - 2 * DAY)
    assert (report.ok, requests, noted(store, GATE)) == (True, 1, CONTRACTS)
    report, requests = fetch(store, GATE, NOW - 3 * DAY, NOW - 2 * DAY)
    assert (report.ok, requests) == (True, 0)


def test_candles_in_contracts_of_before_are_found_out(
    store: Store, fetch: Fetch, server: LocalExchange
) -> None:
    """Candles of which nobody noted the unit, and that are in contracts, stay alone: each run says so, the later ones
    without a request.
    """
    given = _truth(server, NOW - 4 * DAY, NOW - 2 * DAY).with_columns(pl.col("volume") / CONTRACT)
    _stored_before(store, GATE, given)
    before, journal = bits(store.candles(GATE)), list(store.journal())
    asked = []
    for _ in range(2):
        report, requests = fetch(store, GATE, NOW - 4 * DAY, NOW)
        assert isinstance(report.error, VolumeUnitChanged)
        assert report.volume_unit == "unknown"
        asked.append(requests)
    assert asked == [1, 0]
    assert bits(store.candles(GATE)) == before
    assert list(store.journal()) == journal


def test_candles_that_cannot_be_compared_go_by_the_documentation(
    store: Store, fetch: Fetch, tmp_path: Path
) -> None:
    """Where the exchange no longer gives what is stored without a unit, a shipped unit counts as theirs; a learnt one does not."""
    old = candles(list(range(-20_000, -19_990)))  # before Gate's 10,000 candles, and before OKX's first
    _stored_before(store, GATE, old)
    assert fetch(store, GATE, NOW - DAY, NOW)[0].error is None
    assert noted(store, GATE) == CONTRACTS
    _learn(tmp_path, "contracts")
    _stored_before(store, MYOKX, old.with_columns(pl.col("time").dt.offset_by("-20y")))
    report, _ = fetch(store, MYOKX, NOW - DAY, NOW)
    assert isinstance(report.error, VolumeUnitChanged)
    assert "nobody noted the unit" in report.error.message
    assert store.candles(MYOKX).height == 10


def test_candles_taken_as_they_came_need_no_comparison(store: Store, fetch: Fetch) -> None:
    """What no profile converts is noted without a request: older candles came as they are, too."""
    spot = SeriesId("gate", "BTC/USDT", "1h")
    _stored_before(store, spot, candles([0, 1]))
    report, requests = fetch(store, spot, NOW - DAY, NOW)
    assert (report.ok, requests, noted(store, spot)) == (True, 1, Volumes("base"))


# -- copies and mirrors ------------------------------------------------------------------------------------------------


def _copy(source: Store, target: Store, *, exact: bool = False) -> None:
    door = Door(target)
    try:
        ranges = everything(source, SERIES, TimeRange(0, NOW))
        transfer(source, target, SERIES, RangeSet(ranges), door=door, exact=exact)
    finally:
        door.close_now()


def test_a_copy_has_the_unit_of_its_original(store: Store) -> None:
    """A copied series carries its unit, also into a store that noted another one for a series that it keeps no more."""
    source = MemoryStore()
    source.write([ask(0, 4), page(0, 3)])
    note(source, SERIES, CONTRACTS)
    note(store, SERIES, Volumes("quote"))
    _copy(source, store)
    assert noted(store, SERIES) == CONTRACTS


def test_a_copy_mixes_no_units(store: Store) -> None:
    """A series that the target keeps in another unit is not copied; where both are as they came, the better name is kept."""
    source = MemoryStore()
    source.write([ask(0, 4), page(0, 3)])
    store.write([ask(4, 8), page(4, 7)])
    note(source, SERIES, CONTRACTS)
    note(store, SERIES, Volumes("quote"))
    before = bits(store.candles(SERIES))
    with pytest.raises(
        VolumeUnitChanged, match=r"quote currency.* in base units, made of contracts of 0\.0001"
    ):
        _copy(source, store)
    assert bits(store.candles(SERIES)) == before
    note(source, SERIES, Volumes("unknown"))
    _copy(source, store)
    assert store.candles(SERIES).height == 6
    assert noted(store, SERIES) == Volumes("quote")


def test_nothing_is_claimed_for_candles_without_a_unit(store: Store) -> None:
    """A copy beside candles of which nobody noted the unit notes none; a mirror, which is to be equal, does."""
    source = MemoryStore()
    source.write([ask(0, 4), page(0, 3)])
    note(source, SERIES, CONTRACTS)
    store.write([ask(4, 8), page(4, 7)])
    _copy(source, store)
    assert noted(store, SERIES) is None
    _copy(source, store, exact=True)
    assert noted(store, SERIES) == CONTRACTS


def test_mirrors_carry_units_and_take_no_others(store: Store, tmp_path: Path) -> None:
    """A mirror notes what its store notes, compares once a run, follows a series that was removed and begun anew in another
    unit, and names a series that it keeps in another one.
    """
    target = Counted()
    store.write([ask(0, 4), page(0, 3)])
    note(store, SERIES, CONTRACTS)
    caught_up(store, target)
    assert noted(target, SERIES) == CONTRACTS
    mirror = Mirror(store, target)
    counts = []
    for hour in (3, 4, 5):
        store.write([page(hour, hour + 1)])
        before = target.read_marks
        mirror.follow()
        counts.append(target.read_marks - before)
    assert counts[1] == counts[2] == counts[0] - 1
    store.remove(SERIES)
    note(store, SERIES, Volumes("quote"))
    store.write([ask(0, 4), page(0, 3, seed=1)])
    mirror.follow()
    mirror.close()
    assert noted(target, SERIES) == Volumes("quote")
    note(target, SERIES, Volumes("contracts"))
    store.write([page(3, 4, seed=1)])
    with pytest.raises(DatabaseError, match="contracts, as binance gives them in memory:"):
        caught_up(store, target)
    assert target.candles(SERIES).height == 3
