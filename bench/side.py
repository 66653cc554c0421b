"""What the benchmarks share: a local exchange in a process of its own, and whole processes measured by the kernel."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

SERVER = """
import sys
from chandlery.exchange import ExchangeSettings, parse_fault, serve
from chandlery.exchange.faults import Faults
limit, clock, symbols, faults = int(sys.argv[1]), sys.argv[2], tuple(sys.argv[3].split(",")), sys.argv[4:]
settings = ExchangeSettings(cache_mib=1024, weight_limit=limit, clock=clock, symbols=symbols, faults=Faults(tuple(map(parse_fault, faults))))
serve(settings, on_ready=lambda url: print(url, file=sys.stderr, flush=True))
"""


@dataclass(frozen=True, slots=True)
class Measured:
    """A whole process: seconds on the wall, CPU seconds of it and its children, peak memory of its largest process."""

    wall: float
    cpu: float
    peak_mb: float
    output: str


def measure(
    command: Sequence[str | Path], *, cwd: Path | None = None, env: dict[str, str] | None = None
) -> Measured:
    """Run a command to its end; raises RuntimeError with what it printed if it fails."""
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
    if process.returncode:
        raise RuntimeError(f"{command[0]} ended with {process.returncode}:\n{output[-3000:]}")
    scale = 1024 if sys.platform == "linux" else 1024 * 1024
    return Measured(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / scale, output)


@contextlib.contextmanager
def exchange(
    symbols: Sequence[str], *, clock: str, limit: int = 0, faults: Sequence[str] = ()
) -> Iterator[str]:
    """A local exchange in its own process; gives its URL."""
    command = [sys.executable, "-c", SERVER, str(limit), clock, ",".join(symbols), *faults]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        url = process.stderr.readline().strip()
        if not url.startswith("http"):
            raise RuntimeError(f"the local exchange did not start: {url}{process.stderr.read()}")
        yield url
    finally:
        process.terminate()
        process.wait()


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
