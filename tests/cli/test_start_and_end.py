"""What the command line leaves out at its start and its end is not needed."""

from __future__ import annotations

import subprocess
import sys

import pytest

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


EARLY = """
import sys

class Interrupted:
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[1]:
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupted())
import chandlery.__main__
"""


@pytest.mark.parametrize("module", ["typer", "chandlery.cli.output", "chandlery.cli.demo"])
def test_ctrl_c_while_the_program_itself_is_imported(module: str) -> None:
    """Ctrl-C before any command runs ends the program with 130 and without a traceback."""
    done = subprocess.run(
        [sys.executable, "-c", EARLY, module], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


PUT_TOGETHER = """
import sys
from chandlery.cli.main import main

def interrupt(frame, event, arg):
    if frame.f_code.co_name == "get_command":
        sys.setprofile(None)
        raise KeyboardInterrupt

sys.argv = ["chandlery", "--version"]
sys.setprofile(interrupt)
main()
"""


def test_ctrl_c_while_the_commands_are_put_together() -> None:
    """Typer makes the commands before any of them can say how it ended: Ctrl-C is 130 there as well, without a traceback."""
    done = subprocess.run(
        [sys.executable, "-c", PUT_TOGETHER], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
