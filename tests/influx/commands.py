"""Running commands in this process, as a user would in an empty folder."""

from __future__ import annotations

import json
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


def chandlery(*words: object, stdin: str | None = None) -> Done:
    """Run a command."""
    from chandlery.cli.main import app

    result = CliRunner().invoke(app, [str(word) for word in words], input=stdin)
    return Done(result.exit_code, result.stdout, result.stderr)
