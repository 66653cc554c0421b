"""A real InfluxDB 2 as a mirror: equal after everything that can happen, down for any time, wiped, tampered with."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.mirroring import assert_equal, caught_up

import chandlery.mirror as mirror_module
from chandlery.candle import SeriesId
from chandlery.errors import DatabaseError, UsageError
from chandlery.exchange import ExchangeSettings, LocalExchange
from chandlery.ledger import Fact, State
from chandlery.mirror import Mirror
from chandlery.sources.base import Volumes
from chandlery.stores import open_store
from chandlery.stores.base import SeriesFact, Store
from chandlery.testing.store_scenes import (
    OTHER,
    SERIES,
    START,
    ask,
    hours,
    page,
    random_entry,
    random_hours,
)
from chandlery.timeframe import HOUR
from chandlery.units import note, noted

from .fixtures import Bucket, StartInfluxd
from .influx_server import InfluxServer
from .proxy import Fault, FaultProxy


@pytest.fixture
def primary(tmp_path: Path) -> Iterator[Store]:
    """An empty embedded store."""
    with open_store(tmp_path / "primary") as store:
        yield store


@pytest.fixture
def target(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """A bucket on the real server."""
    for name, value in bucket.environment.items():
        monkeypatch.setenv(name, value)
    with open_store("influxdb") as store:
        yield store


def test_the_unit_of_volumes_is_carried_and_guarded(primary: Store, target: Store) -> None:
    """The bucket notes what the store notes of a series, and takes no candles of another unit beside its own."""
    primary.write([ask(0, 4), page(0, 3)])
    note(primary, SERIES, Volumes("base", 0.001))
    caught_up(primary, target)
    assert noted(target, SERIES) == Volumes("base", 0.001)
    note(target, SERIES, Volumes("base", 0.01))
    primary.write([page(3, 4)])
    with pytest.raises(DatabaseError, match=r"contracts of 0\.01 in influxdb"):
        caught_up(primary, target)
    assert target.candles(SERIES).height == 3


def test_whatever_happens_to_the_store_arrives(primary: Store, target: Store) -> None:
    """Back-fill out of order, repair, revision, fact, lapse and removal: each time the bucket is equal."""
    steps = [
        lambda: primary.write([ask(0, 100), page(60, 80), page(0, 20, list(range(0, 20, 2)))]),
        lambda: primary.write([page(5, 9, repair=True), page(60, 62, seed=1), page(0, 5, series=OTHER)]),
        lambda: primary.write(
            [SeriesFact(SERIES, Fact(hours(-9, 0), State.BEFORE_LISTING, "listed", START))]
        ),
        lambda: primary.forget(SERIES, hours(10, 70)),
        lambda: primary.write([page(50, 70, [55])]),
        lambda: primary.remove(OTHER),
        lambda: (primary.remove(SERIES), primary.write([ask(3, 9), page(3, 5)])),
    ]
    for number, step in enumerate(steps):
        step()
        assert caught_up(primary, target) > 0
        assert_equal(primary, target, f"step {number}")
        assert caught_up(primary, target) == 0


def test_random_histories_are_mirrored(primary: Store, target: Store, seed: int) -> None:
    """Any mix of entries, lapses, removals and seals is mirrored, whenever the mirror gets to follow."""
    dice = random.Random(seed)
    for step in range(20):
        primary.write([random_entry(dice) for _ in range(dice.choice((1, 2, 5)))])
        if dice.random() < 0.1 and primary.knows(SERIES):
            primary.forget(SERIES, random_hours(dice))
        if dice.random() < 0.05 and primary.knows(SERIES):
            primary.remove(SERIES)
        if dice.random() < 0.4:
            caught_up(primary, target)
            assert_equal(primary, target, f"seed {seed}, step {step}")


def test_a_bucket_is_no_primary(primary: Store, target: Store) -> None:
    """Each host numbers a bucket's journal for itself, so a store handed in open is refused as primary too."""
    with pytest.raises(UsageError, match="mirrors follow a store of files"):
        Mirror(target, primary)


@pytest.mark.parametrize("before", [0, 999 << 20])
def test_a_mirror_that_forgets_its_mark_is_an_error(
    primary: Store, bucket: Bucket, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch, before: int
) -> None:
    """Where marks are acknowledged and not kept, following ends with an error: at no mark, or at one of another past."""
    monkeypatch.setenv("INFLUXDB_TOKEN", bucket.token)
    primary.write([ask(0, 20), page(0, 20)])
    with open_store(bucket.url) as direct:
        direct.set_mark(primary.identity, before)
    proxy.plan(Fault(status=204, times=100, matching=lambda body: b"chandlery_marks" in body))
    mirror = Mirror(
        primary, f"influxdb://{proxy.url.removeprefix('http://')}/{bucket.server.org}/{bucket.name}"
    )
    with pytest.raises(DatabaseError, match="forgets how far it has followed"):
        mirror.follow()
    mirror.close()


@pytest.mark.parametrize("taken", [True, False])
def test_a_colliding_tag_holds_up_no_other_series(
    primary: Store, target: Store, monkeypatch: pytest.MonkeyPatch, taken: bool
) -> None:
    """Of two symbols with one tag the bucket takes one and names the other, until one of them is removed."""
    monkeypatch.setattr(mirror_module, "ENTRIES_AT_ONCE", 4)
    first, second = (SeriesId("binance", symbol, "1h") for symbol in ("A_B/C", "A/B_C"))
    many = [SeriesId("binance", f"G{n}/USDT", "1h") for n in range(9)]
    primary.write([page(0, 5, series=first)])
    caught_up(primary, target)
    primary.write([page(0, 9, series=one) for one in (second, *many)])
    for _ in range(2):
        primary.write([page(9, 12, series=many[0])])
        mirror = Mirror(primary, target)
        mirror.follow()
        with pytest.raises(DatabaseError, match=r"did not take one series: .*A/B_C"):
            mirror.verify()
        assert mirror.behind() == 1
        mirror.close()
        assert [s.series for s in target.series()] == [first, *many]
    primary.remove(first if taken else second)
    caught_up(primary, target)
    assert_equal(primary, target)
    assert not target.mark(f"{primary.identity} behind")


def test_a_history_older_than_the_retention_holds_up_no_other_series(
    primary: Store, influxd: InfluxServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is too old is named; the others arrive, and all of it once the bucket keeps candles for ever."""
    monkeypatch.setenv("INFLUXDB_TOKEN", influxd.token)
    name = influxd.new_bucket(retention_seconds=90 * 86400)
    now = int(time.time() * 1000) // HOUR - START // HOUR
    primary.write([page(0, 50), page(now - 99, now - 50, series=OTHER, at=START + now * HOUR)])
    mirror = Mirror(primary, influxd.store_url(name))
    mirror.follow()
    with pytest.raises(DatabaseError, match=r"did not take one series: .*BTC/USDT"):
        mirror.verify()
    mirror.close()
    with open_store(influxd.store_url(name)) as target:
        assert [s.series for s in target.series()] == [OTHER]
    rules = {"retentionRules": [{"type": "expire", "everySeconds": 0}]}
    path = f"/api/v2/buckets/{influxd.bucket_id(name)}"
    assert influxd.ask("PATCH", path, json.dumps(rules).encode()).status == 200
    caught_up(primary, influxd.store_url(name))
    with open_store(influxd.store_url(name)) as target:
        assert_equal(primary, target)


# -- real runs -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exchange() -> Iterator[LocalExchange]:
    """A local exchange whose clock stands still."""
    with LocalExchange(ExchangeSettings(clock="2024-06-01T00:01Z,0")) as running:
        yield running


class Runs:
    """Real `chandlery` processes in one folder, with one bucket as mirror."""

    def __init__(self, folder: Path, exchange: LocalExchange, server: InfluxServer, bucket: str) -> None:
        self.folder = folder
        self.mirror = server.store_url(bucket)
        self.environment = {
            **os.environ, "EXCHANGE_URL": exchange.url, "INFLUXDB_TOKEN": server.token,
        }  # fmt: skip

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Begin a command."""
        return subprocess.Popen(
            [sys.executable, "-m", "chandlery", *words], cwd=self.folder, env=self.environment,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def run(self, *words: str) -> tuple[int, str, str]:
        """Run a command to its end: exit code, stdout, stderr."""
        process = self.start(*words)
        out, err = process.communicate(timeout=120)
        return process.returncode, out, err

    def fetch(self, *words: str) -> tuple[int, dict[str, Any], str]:
        """Fetch with the mirror: exit code, document, stderr."""
        code, out, err = self.run("fetch", "BTC/USDT", *words, "--mirror", self.mirror, "--json")
        return code, json.loads(out), err

    def differ(self) -> str:
        """What `chandlery diff` says of store and mirror; nothing where they are equal."""
        code, out, err = self.run("diff", "candles", self.mirror)
        assert code == (1 if out else 0), err
        return out


WEEK = ("-t", "1h", "--since", "2024-05-20", "--until", "2024-05-27")
MONTH = ("-t", "1m", "--since", "2024-04-01", "--until", "2024-05-01")


@pytest.fixture
def runs(tmp_path: Path, exchange: LocalExchange, bucket: Bucket) -> Runs:
    """Commands in an empty folder, with an empty bucket."""
    return Runs(tmp_path, exchange, bucket.server, bucket.name)


def test_down_for_a_whole_fetch_it_catches_up_later(
    tmp_path: Path, exchange: LocalExchange, start_influxd: StartInfluxd
) -> None:
    """The run fetches everything, says that the mirror is down and exits with 4; the next one makes it equal."""
    server = start_influxd()
    runs = Runs(tmp_path, exchange, server, server.bucket)
    server.stop()
    code, document, err = runs.fetch(*WEEK)

    assert (code, document["ok"], document["series"][0]["written"]) == (4, True, 168), err
    assert [(m["url"], m["ok"], m["behind"]) for m in document["mirrors"]] == [(runs.mirror, False, None)]
    assert f"mirror {runs.mirror}" in err
    server.start()
    code, document, err = runs.fetch(*WEEK)
    assert (code, document["mirrors"][0]["ok"], document["mirrors"][0]["behind"]) == (0, True, 0), err
    assert runs.differ() == ""


def test_the_server_killed_beside_a_fetch(
    tmp_path: Path, exchange: LocalExchange, start_influxd: StartInfluxd
) -> None:
    """Killed while the mirror is fed and started again, it is equal at the end of that run or of the next."""
    server = start_influxd()
    runs = Runs(tmp_path, exchange, server, server.bucket)
    process = runs.start("fetch", "BTC/USDT", *MONTH, "--mirror", runs.mirror)
    wait_for_points(server, server.bucket)
    server.kill()
    server.start()
    _, err = process.communicate(timeout=120)

    assert process.returncode in (0, 4), err
    code, document, err = runs.fetch(*MONTH)
    assert (code, document["series"][0]["missing"]) == (0, 0), err
    assert runs.differ() == ""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_fetch_ended_while_it_feeds_the_mirror(runs: Runs, bucket: Bucket, number: signal.Signals) -> None:
    """Ended in the middle of catching up, the next run goes on from the mark, to equality."""
    assert runs.run("fetch", "BTC/USDT", *MONTH)[0] == 0
    process = runs.start("fetch", "BTC/USDT", *MONTH, "--mirror", runs.mirror)
    wait_for_points(bucket.server, bucket.name)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode in (-signal.SIGKILL, 130), err

    code, document, err = runs.fetch(*MONTH)
    assert (code, document["mirrors"][0]["ok"]) == (0, True), err
    assert runs.differ() == ""


def test_a_wiped_bucket_is_filled_again(runs: Runs, bucket: Bucket) -> None:
    """A bucket that was deleted and made anew has no mark, and gets everything."""
    assert runs.fetch(*WEEK)[0] == 0
    bucket.server.delete_bucket(bucket.name)
    bucket.server.new_bucket(bucket.name)
    code, document, err = runs.fetch(*WEEK)
    assert (code, document["mirrors"][0]["ok"]) == (0, True), err
    assert runs.differ() == ""


def test_a_point_changed_behind_our_back_is_found(runs: Runs, bucket: Bucket) -> None:
    """On a day that was touched since, another program's values are found by the read-back and put right."""
    assert runs.fetch("-t", "1h", "--since", "2024-05-20", "--until", "2024-05-26T12:00")[0] == 0
    line = "ohlcv,exchange=binance,symbol=BTC_USDT,timeframe=1h open=1,high=1,low=1,close=1,volume=1"
    opened = 1716710400000  # 2024-05-26T08:00Z
    assert bucket.server.write(f"{line} {opened}", bucket.name).status == 204
    assert "2024-05-26" in runs.differ()
    code, document, err = runs.fetch(*WEEK)
    assert (code, document["mirrors"][0]["ok"]) == (0, True), err
    assert runs.differ() == ""


def test_copy_there_and_back(runs: Runs, tmp_path: Path) -> None:
    """Copied into a bucket and from there into a new folder, every candle and answer is what it was."""
    assert runs.run("fetch", "*/USDT", *WEEK)[0] == 0
    code, _, err = runs.run("copy", "candles", runs.mirror)
    assert code == 0, err
    code, _, err = runs.run("copy", runs.mirror, "back")
    assert code == 0, err
    with open_store(tmp_path / "candles") as one, open_store(tmp_path / "back") as other:
        assert_equal(one, other)


def wait_for_points(server: InfluxServer, bucket: str) -> None:
    """Until candles arrive in the bucket."""
    deadline = time.monotonic() + 60
    while server.count(bucket=bucket) < 1000:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_bucket_that_is_not_there_is_told_before_the_run(runs: Runs) -> None:
    """A mirror in a bucket that does not exist never catches up: exit 2 before anything is asked or made."""
    code, out, err = runs.run("fetch", "BTC/USDT", *WEEK, "--mirror", f"{runs.mirror}x")
    assert (code, out) == (2, ""), err
    assert "bucket" in err
    assert not (runs.folder / "candles").exists()
