"""A bucket that does not keep what it was given: deleted rows, an old backup, foreign values. Verify says so and mends it.

And the promises that name a store, kept by this one: never invents, accounts for every slot, never overwrites silently.
"""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest
from tests.influx.fixtures import StartInfluxd

from chandlery.candle import SeriesId
from chandlery.exchange import LocalExchange

from .influx_run import Run, check_whole, delete, fetch_words, plant, running

SERIES = SeriesId("binance", "BTC/USDT", "15m")
SPAN = "2023-06-01/2023-12-01"
WORDS = fetch_words([SERIES.symbol], SERIES.timeframe, SPAN)
SLOTS = 183 * 96


def check_noticed_and_healed(run: Run, lost: int) -> None:
    """Verify exits with 1 and says how many candles lack; with --repair it brings just them back."""
    verified = run.command("verify", "--store", "influxdb")
    assert verified.code == 1, verified.out
    assert f"{lost:,} candles of {SERIES} that were written are not there" in verified.err
    healed = run.command("verify", "--repair", "--store", "influxdb")
    assert healed.code == 0, healed.out + healed.err
    check_whole(run, [(SERIES, SPAN)], WORDS)


def test_rows_deleted(run: Run, seed: int) -> None:
    """Any stretch of candles deleted behind the program's back is noticed, counted, and fetched anew; no more than that."""
    assert run.command(*WORDS).code == 0
    truth = run.truth(SERIES, SPAN)
    rng = random.Random(f"{seed} deleted")
    since = rng.randrange(truth.height - 300)
    gone = truth[since : since + rng.randint(1, 300)]
    first, last = (f"{moment:%Y-%m-%dT%H:%M:%SZ}" for moment in (gone["time"][0], gone["time"][-1]))
    delete(run, first, last, '_measurement="ohlcv"')
    asked = run.candles_asked
    check_noticed_and_healed(run, gone.height)
    assert run.candles_asked <= asked + 4, (
        f"seed {seed}: the whole series was fetched for {gone.height} candles"
    )


@pytest.mark.slow
def test_all_rows_deleted(run: Run) -> None:
    """A series whose candles are all gone is not taken for one that never had any."""
    assert run.command(*WORDS).code == 0
    delete(run, "1970-01-01T00:00:00Z", "2100-01-01T00:00:00Z", '_measurement="ohlcv"')
    check_noticed_and_healed(run, run.truth(SERIES, SPAN).height)


@pytest.mark.slow
def test_old_backup_restored(exchange: LocalExchange, start_influxd: StartInfluxd, tmp_path: Path) -> None:
    """A server put back from an old copy of its points: what lacks is missing again, and comes with the next fetch."""
    server = start_influxd()
    with running(exchange, server, tmp_path / "run") as run:
        half = fetch_words([SERIES.symbol], SERIES.timeframe, "2023-06-01/2023-09-01")
        assert run.command(*half).code == 0
        server.stop()
        shutil.copytree(server.engine, tmp_path / "backup")
        server.start()
        assert run.command(*WORDS).code == 0
        with run.store() as store:
            numbers = [entry.seq for entry in store.journal()]
        server.stop()
        shutil.rmtree(server.engine)
        shutil.copytree(tmp_path / "backup", server.engine)
        server.start()
        verified = run.command(
            "verify", "--store", "influxdb", "--since", "2023-06-01", "--until", "2023-12-01"
        )
        assert verified.code == 1, verified.out
        again = run.command(*WORDS)
        assert again.code == 0, again.err
        with run.store() as store:
            anew = [entry.seq for entry in store.journal()]
        assert anew == sorted(set(anew)), "a journal number was given twice"
        assert numbers
        check_whole(run, [(SERIES, SPAN)], WORDS)


@pytest.mark.slow
def test_candles_lost_in_part(exchange: LocalExchange, start_influxd: StartInfluxd, tmp_path: Path) -> None:
    """Candles of which a shard was lost, while the ledger of their neighbours stayed, are noticed and fetched anew."""
    server = start_influxd()
    with running(exchange, server, tmp_path / "run") as run:
        assert run.command(*WORDS).code == 0
        server.stop()
        shards = sorted(path for path in (server.engine / "data").glob("*/autogen/*") if path.is_dir())
        wal = sorted(path for path in (server.engine / "wal").glob("*/autogen/*") if path.is_dir())
        middle = shards[len(shards) // 2]
        for folder in (middle, *(path for path in wal if path.name == middle.name)):
            for file in [*folder.rglob("*.tsm"), *folder.rglob("*.wal")]:
                file.unlink()
        server.start()
        verified = run.command(
            "verify", "--store", "influxdb", "--since", "2023-06-01", "--until", "2023-12-01"
        )
        assert verified.code == 1, verified.out
        healed = run.command(
            "verify", "--repair", "--store", "influxdb", "--since", "2023-06-01", "--until", "2023-12-01"
        )
        assert healed.code == 0, healed.out + healed.err
        with run.store() as store:
            assert store.candles(SERIES).equals(run.truth(SERIES, SPAN))


def test_accounts_for_every_slot(run: Run) -> None:
    """Never invents: a slot without a candle is absent, and stored and absent are all slots that were asked for."""
    assert run.command(*WORDS).code == 0
    truth = run.truth(SERIES, SPAN)
    assert truth.height < SLOTS, "this market has no holes"
    (found,) = run.command("verify", "--store", "influxdb", "--json").json["series"]
    assert (found["expected"], found["stored"]) == (SLOTS, truth.height)
    assert found["absent"] == SLOTS - truth.height
    assert found["unexplained"] == found["missing"] == found["pending"] == found["quarantined"] == 0
    assert run.server.count("ohlcv", run.bucket, field="volume") == truth.height


def test_changed_candle_is_a_revision(run: Run) -> None:
    """Another value in a candle's place is recorded before it is put right: never a silent overwrite."""
    truth = run.truth(SERIES, SPAN)
    at = truth.height // 2
    row = truth.row(at, named=True)
    opened = int(truth["time"].dt.epoch("ms")[at])
    other = row["volume"] + 1.0
    plant(
        run,
        "ohlcv,symbol=BTC_USDT,timeframe=15m,exchange=binance "
        f"open={row['open']},high={row['high']},low={row['low']},close={row['close']},volume={other} {opened}",
    )
    fetched = run.command(*WORDS)
    assert fetched.code == 0, fetched.err
    with run.store() as store:
        (revision,) = store.revisions(SERIES)
    assert (revision.open, revision.old[4], revision.new[4]) == (opened, other, row["volume"])
    check_whole(run, [(SERIES, SPAN)], WORDS)


def test_candle_of_which_a_part_is_there(run: Run) -> None:
    """A candle with fewer than five fields, written by another hand, is no candle: noticed, and made whole."""
    assert run.command(*WORDS).code == 0
    row = run.truth(SERIES, SPAN).row(1000, named=True)
    stamp = f"{row['time']:%Y-%m-%dT%H:%M:%SZ}"
    delete(run, stamp, stamp, '_measurement="ohlcv"')
    opened = round(row["time"].timestamp() * 1000)
    plant(run, f"ohlcv,symbol=BTC_USDT,timeframe=15m,exchange=binance close={row['close']} {opened}")
    verified = run.command("verify", "--store", "influxdb")
    assert verified.code == 1, verified.out
    assert "has not all five fields" in verified.err
    healed = run.command("verify", "--repair", "--store", "influxdb")
    assert healed.code == 0, healed.out + healed.err
    check_whole(run, [(SERIES, SPAN)], WORDS)
