"""What a month of candles costs on each exchange: `chandlery fetch` against each shape of the local exchange, in turn.

    .venv/bin/python bench/exchanges.py                        # 20 symbols x 30 days of 1m: about half an hour
    .venv/bin/python bench/exchanges.py --write                # the same, and puts the table into docs/exchanges.md
    .venv/bin/python bench/exchanges.py --only okx --symbols 2 --days 2

Each exchange runs at the real time with its documented limits, 20 ms of latency, and candles of its own from files that
are made here; one that leaves candles without a trade out has 5 % of such minutes. What is stored is counted against
the files.

requests: those for candles, as the exchange logged them. least: what a client could do with that knew everything: the
candles that can be had over the profile's page (where an answer covers a length of time instead, that time over it).
budget used: the weight that the exchange counted in the limit that most weight fell under, over the most that it could
have given any client from the first to the last request for candles; a star where the run needed no more than one window.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from side import MINUTE, control, exchange, forget, machine, measure, set_latency, wait_for_turn

from chandlery.sources.profile import LINEAR, SPOT, Habits
from chandlery.sources.profile_book import shipped
from chandlery.timeframe import parse_timeframe

IDS = ("binance", "binanceusdm", "bybit", "okx", "kraken", "coinbase", "kucoin", "mexc", "bitget", "gate")
SWAPS = frozenset({"binanceusdm"})
DAY = 1440
NO_TRADE = 0.05
CANDLES = re.compile(r"kline|candle|OHLC")
PAGE = Path(__file__).parent.parent / "docs" / "exchanges.md"
BEGIN, END = "<!-- bench/exchanges.py writes from here -->", "<!-- to here -->"
HEAD = (
    "| exchange | page | requests | least | ratio | budget used | seconds | 429 | candles | out of reach |\n"
    "|---|---|---|---|---|---|---|---|---|---|\n"
)


@dataclass(frozen=True, slots=True)
class Month:
    """What is asked of one exchange: so many symbols over [since, until), and what its files hold of that."""

    symbols: tuple[str, ...]
    since: int
    until: int
    rows: int

    @property
    def slots(self) -> int:
        """Minutes of one symbol."""
        return (self.until - self.since) // MINUTE


def make_files(name: str, folder: Path, symbols: int, days: int, habits: Habits) -> Month:
    """Files of candles from a day before the range until now, with minutes left out where the exchange omits them."""
    dice = np.random.default_rng(1)
    until = int(time.time() * 1000) // MINUTE * MINUTE - 60 * MINUTE
    since = until - days * DAY * MINUTE
    times = np.arange(since - DAY * MINUTE, until + 180 * MINUTE, MINUTE)
    made, rows = [], 0
    for number in range(1, symbols + 1):
        kept = times[dice.random(len(times)) >= NO_TRADE] if habits.empty == "omitted" else times
        close = np.round(100 * np.exp(np.cumsum(dice.normal(0, 5e-4, len(kept)))), 2)
        opened = np.concatenate(([100.0], close[:-1]))
        spread = np.round(dice.uniform(0, 0.2, len(kept)), 2)
        frame = pl.DataFrame(
            {
                "timestamp_ms": kept,
                "open": opened,
                "high": np.round(np.maximum(opened, close) + spread, 2),
                "low": np.round(np.minimum(opened, close) - spread, 2),
                "close": close,
                "volume": np.round(dice.uniform(0.01, 50, len(kept)), 4),
            }
        )
        base, settle = f"COIN{number:02}", ":USDT" if name in SWAPS else ""
        frame.write_csv(folder / f"{name}_{base}_USDT{settle}_1m.csv")
        made.append(f"{base}/USDT{settle}")
        rows += int(((kept >= since) & (kept < until)).sum())
    return Month(tuple(made), since, until, rows)


def least_requests(month: Month, habits: Habits, now: int) -> int:
    """Requests of a client that knows which candles are there and how many come at once."""
    frame = parse_timeframe("1m")
    reach = habits.reach(frame)
    oldest = (now - month.since) // MINUTE
    newest = (now - month.until) // MINUTE
    far = oldest if reach is None else min(oldest, reach)
    near = min(
        far, max(newest, habits.recent.get("1m", habits.recent.get("*", 0)) if habits.recent_page else 0)
    )
    counted = month.rows / (month.slots * len(month.symbols)) if habits.window == "open" else 1.0
    pages = -(-max(0, far - near) * counted // habits.page)
    pages += -(-max(0, near - newest) * counted // habits.recent_page) if habits.recent_page else 0
    return int(max(1, pages)) * len(month.symbols)


def budget_used(limits: list[dict[str, Any]], first: int, last: int) -> str:
    """The share of the limit that most weight fell under, of what it allows any client between two moments (epoch ms)."""
    one = max(limits, key=lambda usage: int(usage["weight"]))
    length, limit, weight = int(one["window_ms"]), int(one["limit"]), int(one["weight"])
    windows = (last - first) // length + 1 if one["rolling"] else last // length - first // length + 1
    return f"{weight / (limit * windows):.0%}{' *' if weight <= limit else ''}"


def run(name: str, options: argparse.Namespace, scratch: Path) -> str:
    """One exchange: its line of the table."""
    profile = shipped(name)
    habits = profile.habits(LINEAR if name in SWAPS else SPOT) if profile else None
    if habits is None:
        raise SystemExit(f"no profile of {name} is shipped")
    files, state = scratch / name, scratch / f"{name}-state"
    files.mkdir()
    month = make_files(name, files, options.symbols, options.days, habits)
    with exchange(clock=f"{int(time.time() * 1000)},1", limit=None, play=name, csv=files) as url:
        set_latency(url, options.latency)
        wait_for_turn(url)
        forget(url)
        command: list[str | Path] = [sys.executable, "-m", "chandlery", "fetch", *month.symbols, "-e", name]
        command += ["-t", "1m", "--since", str(month.since), "--until", str(month.until)]
        command += ["--store", scratch / f"{name}-store", "--exchange-url", url]
        command += ["--budget", options.budget, "--json", "-q"]
        done = measure(command, env={"CHANDLERY_STATE": str(state)}, codes=(0, 1))
        log = control(url, "requests")["requests"]
        limits = control(url, "limits")["limits"]
    asked = [one for one in log if CANDLES.search(one["path"])]
    least = least_requests(month, habits, max(one["time"] for one in log))
    talk, brace, document = done.output.partition("{\n")
    if not brace:
        raise RuntimeError(f"{name}: the fetch said no JSON:\n{talk[-3000:]}")
    told = json.loads(brace + document)["series"]
    written, beyond, missing = (
        sum(series[key] for series in told) for key in ("written", "out_of_reach", "missing")
    )
    there = (
        f"{written:,}"
        if written + beyond >= month.rows and not missing
        else f"**{written:,} of {month.rows:,}**"
    )
    page = f"{habits.page}/{habits.recent_page}" if habits.recent_page else f"{habits.page}"
    refused = sum(int(one["refused"]) + int(one["banned"]) for one in limits)
    used = budget_used(limits, min(one["time"] for one in asked), max(one["time"] for one in asked))
    shown(name, talk, told)
    return (
        f"| {name} | {page} | {len(asked):,} | {least:,} | {len(asked) / least:.2f} | {used} | {done.wall:.0f} "
        f"| {refused} | {there} | {beyond:,} |\n"
    )


def shown(name: str, talk: str, told: list[dict[str, Any]]) -> None:
    """Say on stderr what went wrong, if anything did."""
    for series in told:
        if series["error"] or series["missing"]:
            print(
                f"{name} {series['symbol']}: {series['missing']} missing, {series['error']}", file=sys.stderr
            )
    if talk.strip():
        print(f"{name}: {talk.strip()[:2000]}", file=sys.stderr)


def write(lines: dict[str, str]) -> None:
    """Put lines of the table between the markers of docs/exchanges.md; those of other exchanges stay."""
    text = PAGE.read_text()
    before, _, rest = text.partition(BEGIN)
    old, end, after = rest.partition(END)
    if not end:
        raise SystemExit(f"{PAGE} has no {BEGIN} ... {END}")
    kept = {line.split("|")[1].strip(): line + "\n" for line in old.splitlines() if line.startswith("| ")}
    kept.pop("exchange", None)
    table = "".join(line for name, line in sorted({**kept, **lines}.items(), key=lambda i: IDS.index(i[0])))
    PAGE.write_text(f"{before}{BEGIN}\n\n{HEAD}{table}\n{END}{after}")


def main() -> None:
    """Run, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", action="append", choices=IDS, metavar="ID")
    parser.add_argument("--symbols", type=int, default=20)
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--latency", type=int, default=20, metavar="MS")
    parser.add_argument("--budget", default="100%", help="share of the limits")
    parser.add_argument("--write", action="store_true", help="put the table into docs/exchanges.md")
    options = parser.parse_args()
    if options.write and (options.symbols, options.days) != (20, 30):
        parser.error("the table of docs/exchanges.md is of 20 symbols and 30 days")
    lines: dict[str, str] = {}
    print(
        f"{options.symbols} symbols x {options.days} days of 1m, {options.latency} ms latency, "
        f"--budget {options.budget}\n{machine()}\n\n{HEAD}",
        end="",
        flush=True,
    )
    for name in options.only or IDS:
        scratch = Path(tempfile.mkdtemp(prefix="chandlery-bench-"))
        try:
            lines[name] = run(name, options, scratch)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        print(lines[name], end="", flush=True)
        if options.write:
            write(lines)


if __name__ == "__main__":
    main()
