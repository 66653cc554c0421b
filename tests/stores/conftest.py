"""An embedded store to test on."""

from __future__ import annotations

from pathlib import Path

import pytest

from chandlery.stores import open_store
from chandlery.stores.embedded import EmbeddedStore


@pytest.fixture
def store(tmp_path: Path) -> EmbeddedStore:
    """An empty store."""
    opened = open_store(tmp_path / "place" / "candles")
    assert isinstance(opened, EmbeddedStore)
    return opened
