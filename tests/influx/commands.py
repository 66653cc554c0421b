"""Running commands in this process, as a user would in an empty folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from typer.testing import CliRunner

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

    @property
    def lines(self) -> dict[str, str]:
        """The lines of an environment file on stdout."""
        return dict(line.split("=", 1) for line in self.out.splitlines())


Run = Callable[..., Done]


def chandlery(*words: object, stdin: str | None = None, **environment: str) -> Done:
    """Run a command; names in capitals are variables of its environment."""
    from chandlery.cli.main import app

    result = CliRunner().invoke(app, [str(word) for word in words], input=stdin, env=environment)
    return Done(result.exit_code, result.stdout, result.stderr)


def steps(done: Done) -> dict[str, str]:
    """What `influx setup --json` did with each thing, by kind and name."""
    return {f"{step['kind']} {step['name']}": step["state"] for step in done.json["steps"]}
