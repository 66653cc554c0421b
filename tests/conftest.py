"""What every test stands on: a clean environment, folders of its own, and one seed that is printed."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import pytest

from chandlery import redact

from .influx import fixtures as influx_fixtures

# Settings of whoever runs the tests, which no test may see.
CLEARED_PREFIXES = ("CHANDLERY_", "EXCHANGE_", "INFLUXDB_", "XDG_")
# How the tests are run, which every worker and every test may see.
RUN_VARIABLES = ("CHANDLERY_PROVE", "CHANDLERY_RECORDED", "CHANDLERY_REQUIRE_INFLUXD", "CHANDLERY_SEED")

ORIGINAL_ENVIRONMENT: Mapping[str, str] = MappingProxyType(dict(os.environ))


def pytest_configure(config: pytest.Config) -> None:
    """Settle the one seed of this run before pytest-randomly and the workers of xdist ask for theirs."""
    if not hasattr(config, "workerinput"):
        chosen = config.getoption("randomly_seed", "default")
        seed = os.environ.get("CHANDLERY_SEED") or (str(chosen) if isinstance(chosen, int) else "")
        if seed and not seed.isdecimal():
            raise pytest.UsageError(f"CHANDLERY_SEED is not a whole number: {seed!r}")
        os.environ["CHANDLERY_SEED"] = seed or str(random.SystemRandom().getrandbits(32))
        config.option.randomly_seed = int(os.environ["CHANDLERY_SEED"])
    if os.environ.get("CHANDLERY_PROVE", "") not in ("", "full"):
        raise pytest.UsageError(f"CHANDLERY_PROVE is 'full' or unset, not {os.environ['CHANDLERY_PROVE']!r}")
    config.pluginmanager.register(influx_fixtures, "chandlery-influxd")  # its pytest_configure runs at once
    for name in set(os.environ) - set(RUN_VARIABLES):
        if name.startswith(CLEARED_PREFIXES):
            del os.environ[name]


def pytest_report_header() -> str:
    """Say how to run the same again."""
    counts = (
        "full counts" if _proves_in_full() else "a tenth of the full counts (CHANDLERY_PROVE=full for all)"
    )
    return f"chandlery: CHANDLERY_SEED={os.environ['CHANDLERY_SEED']} repeats this run; {counts}"


def _proves_in_full() -> bool:
    return os.environ.get("CHANDLERY_PROVE") == "full"


@pytest.fixture(scope="session")
def seed() -> int:
    """The seed of this run: fresh, or CHANDLERY_SEED. It is printed in the header."""
    return int(os.environ["CHANDLERY_SEED"])


@pytest.fixture(scope="session")
def proven_count() -> Callable[[int], int]:
    """Turn a full count into the count for this run: all of it in `make prove`, else a tenth, at least 1."""
    return lambda full: full if _proves_in_full() else max(1, full // 10)


@pytest.fixture(scope="session")
def original_environment() -> Mapping[str, str]:
    """The environment that pytest was started with, for the few tests that install packages."""
    return ORIGINAL_ENVIRONMENT


@pytest.fixture(scope="session")
def _font_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # matplotlib looks at every font once per folder: one folder per run, not one per test.
    return tmp_path_factory.mktemp("matplotlib")


@pytest.fixture(autouse=True)
def clean_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory, _font_cache: Path
) -> None:
    """Give each test a home and a state folder of its own, and no setting from outside."""
    home = tmp_path_factory.mktemp("home")
    # What one test keeps secret, such as the token "wrong", is a word that another may print.
    monkeypatch.setattr(redact, "_kept", set())
    for name in os.environ:
        if name.startswith(CLEARED_PREFIXES) and name not in RUN_VARIABLES:
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("CHANDLERY_STATE", str(home / "state"))
    monkeypatch.setenv("MPLCONFIGDIR", str(_font_cache))
    monkeypatch.setenv("TZ", "UTC")
    monkeypatch.setenv("COLUMNS", "120")
