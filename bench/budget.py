"""How much of an exchange's budget a long download uses: `chandlery fetch` under Binance's limits, the exchange counting.

    .venv/bin/python bench/budget.py                          # 10,000,000 candles, --budget 100%: about four minutes
    .venv/bin/python bench/budget.py --budget 80%             # of the configured share, about five
    .venv/bin/python bench/budget.py --processes 2            # two at once, one CHANDLERY_STATE
    .venv/bin/python bench/budget.py --candles 4000000 --limit 3000      # shorter

The local exchange plays Binance in real time: 6,000 weight in each minute of its clock, 2 a page of 1,000 candles. The
run starts right after a minute has begun, with nothing used, and the exchange's own request log is what is counted.

Share of the budget used: the weight of all answered requests in the minutes that the run used from its first request
to their end, over limit x share x the number of those minutes. The first minute counts whole, the start of the program
included. The last one, in which the work ran out, is no measure of pace: it is left out of the share, and printed with
the second of its last request. Beside it stands a figure without any choice: the least seconds in which any client
could send that weight (it can not end before the minute begins in which the last weight is due), and the seconds taken.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from side import MINUTE, Measured, control, exchange, forget, machine, measure, set_latency, wait_for_turn

SYMBOLS = ("BTC/USDT", "ETH/USDT", "BNB/USDT", "XRP/USDT")
END = 1_717_200_000_000  # 2024-06-01T00:00Z
#: What the exchange's documentation says that a request weighs; all others weigh 1.
WEIGHTS = {"/api/v3/klines": 2, "/api/v3/exchangeInfo": 20, "/api/v3/ticker/price": 2}


@dataclass(frozen=True, slots=True)
class Spent:
    """Weight by minute of the exchange's clock (epoch ms of its beginning), and when the first and last request came."""

    minutes: dict[int, int]
    first: int
    last: int
    requests: int
    refused: int

    @property
    def weight(self) -> int:
        """All of it."""
        return sum(self.minutes.values())

    def share(self, allowed: float) -> float | None:
        """Weight over what was allowed in all minutes but the last; None if there is only one."""
        whole = [weight for minute, weight in self.minutes.items() if minute != self.last // MINUTE * MINUTE]
        return sum(whole) / (allowed * len(whole)) if whole else None

    def least_seconds(self, allowed: float) -> float:
        """The least time from the first request to the last in which any client can send this weight."""
        more = -(-self.weight // max(1, int(allowed))) - 1
        return max(0, self.first // MINUTE * MINUTE + more * MINUTE - self.first) / 1000


def spent(url: str) -> Spent:
    """What the exchange has logged since it was told to forget; raises RuntimeError if that is not what it counted."""
    log: list[dict[str, Any]] = control(url, "requests")["requests"]
    weights: Counter[int] = Counter()
    for one in log:
        if one["status"] not in (418, 429):
            weights[one["time"] // MINUTE * MINUTE] += WEIGHTS.get(one["path"], 1)
    counted = sum(int(one["weight"]) for one in control(url, "limits")["limits"])
    if counted != weights.total():
        raise RuntimeError(
            f"the request log holds a weight of {weights.total()}, the exchange counted {counted}"
        )
    times = [one["time"] for one in log]
    minutes = {m: weights[m] for m in range(min(weights), max(weights) + 1, MINUTE)}  # idle minutes too
    return Spent(minutes, min(times), max(times), len(log), len(times) - sum(_answered(one) for one in log))


def _answered(one: dict[str, Any]) -> bool:
    return one["status"] not in (418, 429)


def fetch(
    url: str, symbols: tuple[str, ...], candles: int, budget: str, folder: Path, state: Path
) -> Measured:
    """One process that fetches so many candles of each symbol into a fresh store; it ends with 0 only if complete."""
    folder.mkdir(parents=True)
    command: list[str | Path] = [sys.executable, "-m", "chandlery", "fetch", *symbols, "-t", "1m"]
    command += ["--since", str(END - candles * MINUTE), "--until", str(END), "--budget", budget]
    command += ["--store", folder / "candles", "--exchange-url", url, "--json", "-q"]
    return measure(command, env={"CHANDLERY_STATE": str(state)})


def main() -> None:
    """Run, and print what the exchange counted."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--candles", type=int, default=10_000_000, help="of all four symbols together")
    parser.add_argument("--budget", default="100%", help="share of the limit")
    parser.add_argument("--processes", type=int, choices=[1, 2], default=1)
    parser.add_argument("--limit", type=int, default=6_000, help="weight a minute")
    parser.add_argument("--latency", type=int, default=80, metavar="MS")
    options = parser.parse_args()
    each = options.candles // len(SYMBOLS)
    allowed = options.limit * float(options.budget.rstrip("%")) / 100
    scratch = Path(tempfile.mkdtemp(prefix="chandlery-bench-"))
    try:
        with exchange(SYMBOLS, limit=options.limit) as url:
            set_latency(url, options.latency)
            wait_for_turn(url)
            forget(url)
            parts = [SYMBOLS[n :: options.processes] for n in range(options.processes)]
            with ThreadPoolExecutor(len(parts)) as pool:
                runs = [
                    pool.submit(fetch, url, part, each, options.budget, scratch / str(n), scratch / "state")
                    for n, part in enumerate(parts)
                ]
                done = [run.result() for run in runs]
            found = spent(url)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    print(
        f"{options.candles:,} candles of 1m, {options.processes} process(es), {options.limit:,} weight a minute, "
        f"--budget {options.budget}, {options.latency} ms latency\n{machine()}\n"
    )
    report(found, done, options.limit, allowed)


def report(found: Spent, done: list[Measured], limit: int, allowed: float) -> None:
    """Weight by minute, the share, the time beside the least possible, and what was refused."""
    for number, run in enumerate(done, start=1):
        told = json.loads(run.output[run.output.index("{") :])
        stored = sum(series["written"] for series in told["series"])
        print(
            f"process {number}: {stored:,} candles written, {told['requests']:,} requests, {run.wall:.1f} s, "
            f"{run.cpu:.1f} CPU s, {run.peak_mb:.0f} MB"
        )
    print(f"\n{'minute':>7}{'weight':>9}{'of the limit':>14}{'of the share':>14}")
    ends = found.last // MINUTE * MINUTE
    for number, (minute, weight) in enumerate(found.minutes.items(), start=1):
        note = f"   until its second {(found.last - minute) / 1000:.1f}" if minute == ends else ""
        print(f"{number:7}{weight:9,}{weight / limit:14.1%}{weight / allowed:14.1%}{note}")
    share = found.share(allowed)
    told_share = f"{share:.1%}" if share is not None else "none to tell: it all went into one minute"
    took = (found.last - found.first) / 1000
    print(f"\nshare of the allowed weight used in all minutes but the last: {told_share}")
    print(f"most in one minute: {max(found.minutes.values()):,} of {limit:,}")
    print(
        f"first request to last: {took:.1f} s; least possible for this weight: {found.least_seconds(allowed):.1f} s"
    )
    print(f"{found.requests:,} requests, weight {found.weight:,}; refused (429, 418): {found.refused}")


if __name__ == "__main__":
    main()
