"""`chandlery influx setup --save`: what is written to the environment file, and what stays as it was."""

from __future__ import annotations

import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest

from chandlery.cli.dotenv import line_of, save_settings
from chandlery.config import load_settings
from chandlery.errors import UsageError

YEAR = 365 * 86_400
SINCE = int(datetime(2024, 3, 1, tzinfo=UTC).timestamp() * 1000)


def test_saving_keeps_other_lines(tmp_path: Path) -> None:
    """Other variables, comments and their order stay; ours are replaced where they stand, doubles go, mode becomes 0600."""
    path = tmp_path / ".env"
    path.write_text("# mine\nEXCHANGE_API_KEY=abc\nexport INFLUXDB_TOKEN=old\nA='b c'\nINFLUXDB_TOKEN=older")
    path.chmod(0o644)
    save_settings(path, {"INFLUXDB_TOKEN": "new==", "INFLUXDB_ORG": "it's mine"})
    assert (
        path.read_text()
        == "# mine\nEXCHANGE_API_KEY=abc\nINFLUXDB_TOKEN=new==\nA='b c'\nINFLUXDB_ORG='it\\'s mine'\n"
    )
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "value", ["plain-_./:=@", "a b", "it's", 'a"b', "a\\b", "a#b", " lead", "$HOME", "ü ☃", "a\\'b"]
)
def test_saved_values_are_read_back(tmp_path: Path, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is saved is what the settings read back, whatever characters it has."""
    monkeypatch.chdir(tmp_path)
    save_settings(Path("secrets/.env.binance"), {"INFLUXDB_ORG": value})
    assert load_settings().influxdb_org == value


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    """Where the file is a link, what it leads to is replaced."""
    (tmp_path / "real").write_text("A=1\n")
    (tmp_path / "link").symlink_to("real")
    save_settings(tmp_path / "link", {"B": "2"})
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "A=1\nB=2\n"


def test_a_value_that_no_line_holds_is_refused() -> None:
    """A newline cannot be smuggled into an environment file, nor what its readers would replace."""
    for value in ("a\nEXCHANGE_URL=http://evil", "a\x00", "${HOME}"):
        with pytest.raises(UsageError, match="INFLUXDB_ORG"):
            line_of("INFLUXDB_ORG", value)
