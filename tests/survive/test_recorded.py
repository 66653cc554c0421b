"""A history with real-looking holes, served from a file: what comes out is what the file holds, and verify counts it.

The file is made here in the shape of Binance's BTC/USDT 1h from 2017 to 2024: 28 outages, 128 absent candles, the
longest 33 hours from 2018-02-08 01:00. With CHANDLERY_RECORDED=FOLDER the same test also runs on the recorded file
`binance_BTC_USDT_1h.csv.gz` of that folder (see docs/exchanges.md for where such a file comes from).
"""

from __future__ import annotations

import gzip
import json
import os
import random
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from chandlery.exchange import ExchangeSettings, LocalExchange
from chandlery.timeframe import HOUR
from chandlery.when import parse_when

NAME = "binance_BTC_USDT_1h.csv.gz"
FIRST = parse_when("2017-08-17T04:00Z", now=0)
LAST = parse_when("2024-04-21T23:00Z", now=0)
LONGEST = (parse_when("2018-02-08T01:00Z", now=0), 33)
GAPS = 28
ABSENT = 128


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, seed: int) -> Path:
    """A folder with one file of the shape described above."""
    rng = random.Random(seed)
    slots = (LAST - FIRST) // HOUR + 1
    keep = np.ones(slots, dtype=bool)
    start = (LONGEST[0] - FIRST) // HOUR
    keep[start : start + LONGEST[1]] = False
    sizes = [3] * 20 + [5] * 7
    assert (len(sizes) + 1, sum(sizes) + LONGEST[1]) == (GAPS, ABSENT)
    for size in sizes:
        while True:
            at = rng.randrange(10, slots - 50)
            if keep[at - 1 : at + size + 1].all():
                break
        keep[at : at + size] = False
    numbers = np.random.default_rng(seed)
    close = np.round(4000 * np.exp(np.cumsum(numbers.normal(0, 0.004, slots))), 2)
    opened = np.concatenate(([4000.0], close[:-1]))
    frame = pl.DataFrame(
        {
            "timestamp_ms": FIRST + np.arange(slots) * HOUR,
            "open": opened,
            "high": np.maximum(opened, close) + np.round(numbers.uniform(0, 30, slots), 2),
            "low": np.minimum(opened, close) - np.round(numbers.uniform(0, 30, slots), 2),
            "close": close,
            "volume": numbers.uniform(0, 5000, slots),  # full doubles, seventeen digits
        }
    ).filter(pl.Series(keep))
    folder = tmp_path_factory.mktemp("made")
    with gzip.open(folder / NAME, "wb") as file:
        file.write(frame.write_csv().encode())
    return folder


def folders() -> list[str]:
    """What to run on: the made file, and a recorded one where the caller has it."""
    return ["made", *([os.environ["CHANDLERY_RECORDED"]] if "CHANDLERY_RECORDED" in os.environ else [])]


@pytest.mark.parametrize("which", folders())
def test_file_comes_out_as_it_went_in(
    which: str, made: Path, tmp_path: Path, original_environment: Mapping[str, str]
) -> None:
    """The export equals the file in times and doubles; verify reports 28 gaps, 128 absent candles and 0 missing."""
    folder = made if which == "made" else Path(which)
    command = [sys.executable, "-m", "chandlery"]
    shared = ["BTC/USDT", "-t", "1h", "--store", str(tmp_path / "candles")]
    with gzip.open(folder / NAME, "rb") as file:
        given = pl.read_csv(
            file.read(),
            schema_overrides=dict.fromkeys(["open", "high", "low", "close", "volume"], pl.Float64),
        )
    first, last = given["timestamp_ms"][0], given["timestamp_ms"][-1]
    with LocalExchange(ExchangeSettings(csv=folder, weight_limit=0)) as exchange:
        span = ["--since", str(first), "--until", str(last + HOUR)]
        fetch = [*command, "fetch", *shared, *span, "--exchange-url", exchange.url]
        subprocess.run(fetch, check=True, timeout=120)
    out = tmp_path / "export.csv"
    subprocess.run([*command, "export", *shared, "-o", str(out)], check=True, timeout=120)
    exported = pl.read_csv(
        out, schema_overrides=dict.fromkeys(["open", "high", "low", "close", "volume"], pl.Float64)
    )
    assert exported.columns == ["timestamp", "open", "high", "low", "close", "volume"]
    assert np.array_equal(exported.to_numpy(), given.select(pl.nth(range(6))).to_numpy())

    found = subprocess.run(
        [*command, "verify", *shared, "--json"], check=True, timeout=120, stdout=subprocess.PIPE
    )
    verdict = json.loads(found.stdout)["series"][0]
    assert (verdict["gaps_total"], verdict["absent"], verdict["missing"]) == (GAPS, ABSENT, 0)
    longest = max(verdict["gaps"], key=lambda gap: gap["candles"])
    assert (longest["from"], longest["candles"]) == ("2018-02-08T01:00:00Z", LONGEST[1])
