"""How long the command line takes to start: `chandlery --help` against its limit, and what it must not import.

.venv/bin/python bench/start.py
"""

from __future__ import annotations

import statistics
import subprocess
import sys

from side import machine, measure

RUNS = 15
LIMIT = 0.4
HEAVY = ("ccxt", "polars", "numpy", "matplotlib", "apsw", "aiohttp")
IMPORTED = "import sys, chandlery.cli.main; print(*(name for name in sys.argv[1:] if name in sys.modules))"


def main() -> None:
    """Measure and print."""
    command = [sys.executable, "-m", "chandlery", "--help"]
    runs = [measure(command).wall for _ in range(RUNS)]
    imported = subprocess.run(
        [sys.executable, "-c", IMPORTED, *HEAVY], check=True, capture_output=True, text=True
    )
    print(machine())
    print(f"chandlery --help: {statistics.median(runs):.3f} s (at most {LIMIT}), {max(runs):.3f} s at worst")
    print(f"imported by it, of {', '.join(HEAVY)}: {imported.stdout.strip() or 'none'}")


if __name__ == "__main__":
    main()
