"""What the command line leaves out at its start and its end is not needed."""

from __future__ import annotations

import subprocess
import sys

CIRCLE = """
import sys

class Circle:
    def __init__(self):
        self.me = self

    def __del__(self):
        print("looked at")

Circle()
sys.argv = ["chandlery", "--version"]
from chandlery.cli.main import main
main()
"""


def printed(code: str) -> list[str]:
    """The lines that the code prints in a new interpreter, which ends with 0."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_the_end_does_not_look_for_circles() -> None:
    """The process ends with all its output, and without a search for objects that hold one another."""
    lines = printed(CIRCLE.replace("Circle()\nsys", "import gc; gc.disable(); Circle()\nsys"))

    assert len(lines) == 1
    assert lines[0].startswith("chandlery ")
