"""Real runs of the program against a real exchange and a real InfluxDB, and what must hold of the bucket afterwards."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from tests.influx.commands import Done
from tests.influx.influx_server import InfluxServer
from typer.testing import CliRunner

from chandlery.candle import SeriesId
from chandlery.errors import NoSuchSeries
from chandlery.exchange import ExchangeSettings, LocalExchange
from chandlery.stores import open_store
from chandlery.stores.base import Store
from chandlery.stores.influx import InfluxStore
from chandlery.when import parse_when

#: The moment at which an exchange's clock stands still. All candles of the tests are settled then.
CLOCK = "2024-06-01T00:00Z,0"


class Run:
    """Commands with INFLUXDB_* set to one bucket and EXCHANGE_URL to one local exchange."""

    def __init__(
        self,
        exchange: LocalExchange,
        server: InfluxServer,
        bucket: str,
        folder: Path,
        patch: pytest.MonkeyPatch,
    ) -> None:
        self.exchange = exchange
        self.server = server
        self.folder = folder
        self.begun: list[subprocess.Popen[str]] = []
        self._patch = patch
        folder.mkdir(parents=True, exist_ok=True)
        patch.chdir(folder)
        patch.setenv("EXCHANGE_URL", exchange.url)
        patch.setenv("INFLUXDB_URL", server.url)
        patch.setenv("INFLUXDB_ORG", server.org)
        self.use_bucket(bucket)
        self.use_token(server.token)

    def use_bucket(self, name: str) -> None:
        """Work on this bucket from now on."""
        self.bucket = name
        self._patch.setenv("INFLUXDB_BUCKET", name)

    def use_token(self, token: str) -> None:
        """Show this token from now on."""
        self._patch.setenv("INFLUXDB_TOKEN", token)

    def start(
        self, *words: object, stdout: Any = subprocess.PIPE, stderr: Any = subprocess.PIPE, **environment: str
    ) -> subprocess.Popen[str]:
        """Start a command as a process of its own."""
        process = subprocess.Popen(
            [sys.executable, "-m", "chandlery", *map(str, words)],
            cwd=self.folder,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            text=True,
        )
        self.begun.append(process)
        return process

    def command(self, *words: object) -> Done:
        """Run a command in this process."""
        from chandlery.cli.main import app

        result = CliRunner().invoke(app, [str(word) for word in words])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Done(result.exit_code, result.stdout, result.stderr)

    @contextlib.contextmanager
    def store(self) -> Iterator[InfluxStore]:
        """The bucket as a store, with a memory of its own."""
        with open_store(self.server.store_url(self.bucket)) as store:
            assert isinstance(store, InfluxStore)
            yield store

    def end(self) -> None:
        """End whatever still runs."""
        for process in self.begun:
            if process.poll() is None:
                process.kill()
            process.communicate()

    @property
    def candles_asked(self) -> int:
        """How many requests for candles the exchange has seen."""
        return sum(record.path.endswith("/klines") for record in self.exchange.requests)

    def wait_for_requests(self, number: int, process: subprocess.Popen[str]) -> None:
        """Wait until the exchange was asked for candles so often. Fails if the process ends before."""
        while self.candles_asked < number:
            if process.poll() is not None:
                out, err = process.communicate()
                raise AssertionError(
                    f"the run was over before request {number}: {process.returncode} {out} {err}"
                )
            time.sleep(0.001)

    def truth(self, series: SeriesId, span: str) -> pl.DataFrame:
        """What a perfect client would have of SINCE/UNTIL."""
        return truth_of(self.exchange, series, span)


@contextlib.contextmanager
def running(
    exchange: LocalExchange, server: InfluxServer, folder: Path, *, bucket: str | None = None
) -> Iterator[Run]:
    """A run into a bucket of its own; whatever it started is ended."""
    with pytest.MonkeyPatch.context() as patch:
        run = Run(exchange, server, bucket or server.new_bucket(), folder, patch)
        try:
            yield run
        finally:
            run.end()


def still_exchange(**settings: Any) -> LocalExchange:
    """An exchange whose clock stands still, without limits."""
    return LocalExchange(ExchangeSettings(clock=CLOCK, weight_limit=0, **settings))


def truth_of(exchange: LocalExchange, series: SeriesId, span: str) -> pl.DataFrame:
    """What a perfect client would have of SINCE/UNTIL."""
    since, until = (parse_when(text, now=0) for text in span.split("/"))
    return exchange.truth(series.symbol, series.timeframe, since, until)


def fetch_words(symbols: Sequence[str], timeframe: str, span: str, *more: str) -> list[str]:
    """`fetch` into InfluxDB of SINCE/UNTIL."""
    since, until = span.split("/")
    return [
        "fetch",
        *symbols,
        "-t",
        timeframe,
        "--since",
        since,
        "--until",
        until,
        "--store",
        "influxdb",
        *more,
    ]


def check_ledger(
    store: Store, series: SeriesId, truth: pl.DataFrame, note: str = "", *, planted: int | None = None
) -> int:
    """What the ledger claims is there, bit for bit, and nothing is that the exchange has not; returns claimed candles.

    `planted` is the open time of a candle that another hand wrote: what the ledger does not claim may still be that.
    """
    try:
        answered = store.ledger(series).answered_ranges  # before the rows: a run may be under way
        stored = store.candles(series)
    except NoSuchSeries:
        return 0
    wrong = stored.join(truth, on=stored.columns, how="anti")
    if planted is not None:
        wrong = wrong.filter(pl.col("time").dt.epoch("ms") != planted)
    assert wrong.is_empty(), f"{note}: stored candles are not the exchange's: {wrong}"
    opens = pl.col("time").to_physical()
    claims = pl.any_horizontal(
        pl.lit(value=False), *(opens.is_between(r.since, r.until, closed="left") for r in answered)
    )
    claimed = truth.filter(claims)
    lost = claimed.join(stored, on=stored.columns, how="anti")
    assert lost.is_empty(), f"{note}: the ledger claims candles of {series} that are not there: {lost}"
    return claimed.height


def check_whole(
    run: Run, wanted: Sequence[tuple[SeriesId, str]], words: Sequence[str], note: str = ""
) -> None:
    """All is there bit for bit, once, and verified; running again asks for no candle and writes nothing."""
    with run.store() as store:
        for series, span in wanted:
            assert store.candles(series).equals(run.truth(series, span)), f"{note}: {series} differs"
        numbers = [entry.seq for entry in store.journal()]
    assert numbers == list(range(1, len(numbers) + 1)), f"{note}: journal numbers {numbers}"
    points = points_of(run)
    asked = run.candles_asked
    again = run.command(*words, "--json")
    assert again.code == 0, f"{note}: {again.err}"
    assert run.candles_asked == asked, f"{note}: a complete series was asked for again"
    assert [one["written"] for one in again.json["series"]] == [0] * len(again.json["series"])
    assert points_of(run) == points, f"{note}: a complete series was written again"
    verified = run.command("verify", "--store", "influxdb", "--json")
    assert verified.code == 0, f"{note}: {verified.out} {verified.err}"
    assert verified.json["ok"]


def points_of(run: Run) -> dict[str, int]:
    """How many points the bucket has of candles and of each measurement of ours, asked in Flux."""
    fields = {"ohlcv": "volume", "chandlery_ledger": "entry", "chandlery_revisions": "entry"}
    fields["chandlery_quarantine"] = "entry"
    return {name: run.server.count(name, run.bucket, field=field) for name, field in fields.items()}


def plant(run: Run, lines: str) -> None:
    """Write lines (precision ms) behind the program's back."""
    answer = run.server.write(lines, run.bucket)
    assert answer.status == 204, answer.text


def delete(run: Run, start: str, stop: str, predicate: str) -> None:
    """Delete points behind the program's back."""
    path = f"/api/v2/delete?org={run.server.org}&bucket={run.bucket}"
    body = json.dumps({"start": start, "stop": stop, "predicate": predicate}).encode()
    answer = run.server.ask("POST", path, body, headers={"Content-Type": "application/json"})
    assert answer.status == 204, answer.text
