"""What an import costs: the heavy libraries come late, and only where they are used."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("ccxt", "polars", "apsw", "aiohttp", "matplotlib", "pandas", "influxdb_client")


def heavy_modules_after(code: str) -> list[str]:
    """Run the code in a new interpreter and return which heavy libraries it loaded."""
    report = f"import sys; print('loaded:', *(name for name in {HEAVY!r} if name in sys.modules))"
    script = f"try:\n    exec({code!r})\nfinally:\n    {report}"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.rpartition("loaded:")[2].split()


def test_the_check_itself_sees_a_heavy_module() -> None:
    """A script that imports polars is reported as having loaded it."""
    assert heavy_modules_after("import polars") == ["polars"]


def test_importing_chandlery_is_light() -> None:
    """`import chandlery` loads none of the heavy libraries."""
    assert heavy_modules_after("import chandlery") == []


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_and_version_are_light(option: str) -> None:
    """`chandlery --help` and `--version` load none of the heavy libraries and exit with 0."""
    code = f"import sys; sys.argv = ['chandlery', {option!r}]; from chandlery.cli.main import main; main()"

    assert heavy_modules_after(code) == []


def test_importing_chandlery_touches_no_logger() -> None:
    """`import chandlery` leaves the root logger without handlers and at its level."""
    code = "import logging; import chandlery; root = logging.getLogger(); print(root.handlers, root.level)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )

    assert done.stdout.split("\n")[0] == "[] 30"


@pytest.mark.parametrize("name", ["DataPipeline", "AsyncPipeline", "open_store", "SeriesId", "TimeRange"])
def test_public_names_come_from_the_package(name: str) -> None:
    """Each public name of the README can be had from `chandlery` and is listed in `__all__`."""
    code = f"import chandlery; assert {name!r} in chandlery.__all__; print(getattr(chandlery, {name!r}))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )

    assert done.returncode == 0, done.stderr
