"""Running commands: in this process against a real local exchange, and as real processes where that is the point."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from chandlery.exchange import ExchangeSettings, LocalExchange

CLOCK = "2024-06-01T00:01Z"


@dataclass(frozen=True)
class Done:
    """What a command left: its exit code, stdout and stderr."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The document on stdout."""
        return json.loads(self.out)


Run = Callable[..., Done]


@pytest.fixture(scope="session")
def exchange() -> Iterator[LocalExchange]:
    """A local exchange whose clock stands still, shared by tests that leave it as it is."""
    with LocalExchange(ExchangeSettings(clock=f"{CLOCK},0")) as running:
        yield running


@pytest.fixture
def run(exchange: LocalExchange, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command in an empty folder, in this process, with EXCHANGE_URL at the local exchange."""
    from chandlery.cli.main import app

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EXCHANGE_URL", exchange.url)

    def command(*args: object, stdin: str | None = None) -> Done:
        result = CliRunner().invoke(app, [str(a) for a in args], input=stdin)
        return Done(result.exit_code, result.stdout, result.stderr)

    return command


@pytest.fixture
def start(exchange: LocalExchange, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a command as a process of its own; whatever still runs at the end is ended."""
    begun: list[subprocess.Popen[str]] = []

    def command(*args: object, **env: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "chandlery", *map(str, args)],
            cwd=tmp_path,
            env={**os.environ, "EXCHANGE_URL": exchange.url, **env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        begun.append(process)
        return process

    yield command
    for process in begun:
        if process.poll() is None:
            process.kill()
        process.communicate()
