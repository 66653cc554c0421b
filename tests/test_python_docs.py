"""docs/python.md: every example runs as it stands there, one after the other."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import pytest

import chandlery as ch
from chandlery.exchange import ExchangeSettings, LocalExchange

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "python.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```python\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)


def test_every_example_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The page's examples, in order, in one folder, against a local exchange at 2024-06-01."""
    monkeypatch.chdir(tmp_path)
    space: dict[str, Any] = {"__name__": "example"}
    before = {name: list(logging.getLogger(name).handlers) for name in ("my_program", "chandlery")}
    try:
        with LocalExchange(ExchangeSettings(clock="2024-06-01T00:10Z")) as exchange:
            monkeypatch.setenv("EXCHANGE_URL", exchange.url)
            for number, example in enumerate(EXAMPLES, 1):
                exec(compile(example, f"docs/python.md, example {number}", "exec", dont_inherit=True), space)
    finally:
        for name, handlers in before.items():
            for handler in set(logging.getLogger(name).handlers) - set(handlers):
                logging.getLogger(name).removeHandler(handler)
                handler.close()

    said = capsys.readouterr().out
    assert len(EXAMPLES) == 7
    assert re.search(r"^(\d+) candles written; \1 in the store$", said, re.MULTILINE), said
    assert "BTC/NONE" in said
    assert space["frame"].height >= 160
    assert "filled" in space["filled"].columns
    assert len(space["rows"]) == 24


def test_every_public_error_is_named() -> None:
    """The page names each error that the package exports."""
    errors = [
        name
        for name in ch.__all__
        if isinstance(getattr(ch, name), type) and issubclass(getattr(ch, name), Exception)
    ]

    assert [name for name in errors if f"`{name}`" not in PAGE] == []
