"""What the benchmarks share: a local exchange in a process of its own, and whole processes measured by the kernel."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SERVER = """
import json, sys
from pathlib import Path
from chandlery.exchange import ExchangeSettings, serve
given = json.loads(sys.argv[1])
given["csv"] = given["csv"] and Path(given["csv"])
given["symbols"] = tuple(given["symbols"])
serve(ExchangeSettings(**given), on_ready=lambda url: print(url, file=sys.stderr, flush=True))
"""
MINUTE = 60_000


@dataclass(frozen=True, slots=True)
class Measured:
    """A whole process: seconds on the wall, CPU seconds of it and its children, peak memory of its largest process."""

    wall: float
    cpu: float
    peak_mb: float
    output: str


def measure(
    command: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    env: dict[str, str] | None = None,
    codes: Sequence[int] = (0,),
) -> Measured:
    """Run a command to its end; raises RuntimeError with what it printed if it ends with another exit code."""
    began = time.monotonic()
    process = subprocess.Popen(
        [str(part) for part in command], cwd=cwd, env={**os.environ, **(env or {})},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.monotonic() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in codes:
        raise RuntimeError(f"{command[0]} ended with {process.returncode}:\n{output[-3000:]}")
    scale = 1024 if sys.platform == "linux" else 1024 * 1024
    return Measured(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / scale, output)


@contextlib.contextmanager
def exchange(
    symbols: Sequence[str] = (),
    *,
    clock: str | None = None,
    limit: int | None = 0,
    play: str = "binance",
    csv: Path | None = None,
) -> Iterator[str]:
    """A local exchange in its own process; gives its URL. `limit` None: the documented one; `clock` None: real time."""
    given = {
        "symbols": list(symbols), "clock": clock, "weight_limit": limit, "exchange": play,
        "csv": str(csv) if csv else None, "cache_mib": 1024,
    }  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER, json.dumps(given)], stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stderr is not None
        url = process.stderr.readline().strip()
        if not url.startswith("http"):
            raise RuntimeError(f"the local exchange did not start: {url}{process.stderr.read()}")
        yield url
    finally:
        process.terminate()
        process.wait()


def control(url: str, name: str, method: str = "GET", body: object = None) -> Any:
    """Ask the exchange's control endpoint (docs/local-exchange.md)."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{url}/_control/{name}", data=data, method=method)  # noqa: S310
    with urllib.request.urlopen(request) as answer:  # noqa: S310
        return json.load(answer)


def set_latency(url: str, milliseconds: int) -> None:
    """Let every answer come so much later."""
    rules = [f"latency:{milliseconds}"] if milliseconds else []
    control(url, "faults", "POST", {"rules": rules})


def forget(url: str) -> None:
    """Empty the exchange's request log and its count of weight."""
    control(url, "requests", "DELETE")
    control(url, "limits", "DELETE")


def refused(url: str) -> int:
    """Requests that the exchange has answered 429 or 418 since it was told to forget."""
    return sum(int(one["refused"]) + int(one["banned"]) for one in control(url, "limits")["limits"])


def wait_for_turn(url: str) -> None:
    """Wait until a minute of the exchange's clock has just begun, so that none of its weight is used."""
    now = int(control(url, "clock")["time"])
    time.sleep((MINUTE - now % MINUTE + 20) / 1000)


def machine() -> str:
    """What these figures were measured on."""
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), model)
    return f"{os.cpu_count()} x {model}, {platform.system()} {platform.release()}, Python {platform.python_version()}"


def rival(name: str, version: str, folder: Path) -> Path:
    """A virtual environment with a rival from the package index, made once in `folder`; gives its bin folder."""
    home = folder / f"{name}-{version}"
    marker = home / "ready"
    if not marker.exists():
        print(f"installing {name} {version} into {home}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", home], check=True)
        subprocess.run([home / "bin" / "pip", "install", "--quiet", f"{name}=={version}"], check=True)
        marker.write_text(json.dumps({"name": name, "version": version}))
    return home / "bin"
