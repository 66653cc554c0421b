"""Settings: which layer wins, where a value came from, and what is said of a bad one."""

from __future__ import annotations

from pathlib import Path

import pytest

from chandlery.config import load_settings
from chandlery.errors import UsageError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder in which every file gives the exchange URL and the store."""
    (tmp_path / "secrets").mkdir()
    secrets = tmp_path / "secrets" / ".env.binance"
    secrets.write_text(
        "CHANDLERY_STORE=from-secrets\nEXCHANGE_URL=http://secrets:1\nEXCHANGE_API_KEY='key'\n"
    )
    secrets.chmod(0o600)
    (tmp_path / ".env").write_text("CHANDLERY_STORE=from-dotenv\nCHANDLERY_BUDGET=40%\nOTHER_PROGRAM=1\n")
    (tmp_path / "chandlery.toml").write_text('store = "from-toml"\nbudget = "30%"\nrecheck = "12h"\n')
    return tmp_path


def test_each_layer_goes_before_the_next(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flags go before the environment, that before the secrets file, that before .env, that before chandlery.toml."""
    seen = []
    monkeypatch.setenv("CHANDLERY_STORE", "from-environment")
    seen.append(load_settings(folder, store="from-flag").store)
    seen.append(load_settings(folder).store)
    monkeypatch.delenv("CHANDLERY_STORE")
    for path in ("secrets/.env.binance", ".env", "chandlery.toml"):
        seen.append(load_settings(folder).store)
        (folder / path).unlink()
    seen.append(load_settings(folder).store)

    assert seen == ["from-flag", "from-environment", "from-secrets", "from-dotenv", "from-toml", "./candles"]


def test_each_value_tells_where_it_came_from(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`origin` names the flag, the variable, the file or the default of each value."""
    monkeypatch.setenv("CHANDLERY_MAX_WAIT", "1m")
    settings = load_settings(folder, exchange="binance")

    origins = {
        name: settings.origin(name)
        for name in ("exchange", "max_wait", "api_key", "budget", "recheck", "settle")
    }
    assert origins == {
        "exchange": "--exchange",
        "max_wait": "CHANDLERY_MAX_WAIT",
        "api_key": str(folder / "secrets" / ".env.binance"),
        "budget": str(folder / ".env"),
        "recheck": str(folder / "chandlery.toml"),
        "settle": "default",
    }
    assert (settings.max_wait, settings.budget, settings.recheck, settings.settle) == (
        60.0,
        0.4,
        43_200.0,
        None,
    )


def test_the_secrets_file_is_that_of_the_exchange_in_use(folder: Path) -> None:
    """Another exchange does not see binance's secrets file, and no secrets file chooses the exchange."""
    other = folder / "secrets" / ".env.kraken"
    other.write_text("EXCHANGE_API_KEY=other\nEXCHANGE_ID=okx\n")
    other.chmod(0o600)

    assert load_settings(folder).api_key.get_secret_value() == "key"
    kraken = load_settings(folder, exchange="kraken")
    assert (kraken.exchange, kraken.api_key.get_secret_value()) == ("kraken", "other")


def test_secrets_do_not_show(folder: Path) -> None:
    """No key appears in the text of the settings."""
    settings = load_settings(folder)

    assert "key'" not in repr(settings).replace("api_key", "")
    assert settings.api_key.get_secret_value() == "key"


def test_an_empty_variable_counts_as_not_set(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`CHANDLERY_STORE=` in the environment leaves the word to the files."""
    monkeypatch.setenv("CHANDLERY_STORE", "")

    assert load_settings(folder).store == "from-secrets"


def test_secrets_that_others_can_read_are_told_of(folder: Path) -> None:
    """A secrets file with group or world rights is named with its mend; one without is not."""
    assert load_settings(folder).warnings == ()
    (folder / "secrets" / ".env.binance").chmod(0o640)

    (warning,) = load_settings(folder).warnings
    assert "chmod 600" in warning
    assert str(folder / "secrets" / ".env.binance") in warning


@pytest.mark.parametrize(
    ("store", "warns"), [("candles", True), ("influxdb", False), ("influxdb://h:8086/o/b", False)]
)
def test_a_token_that_is_not_used_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: str, warns: bool
) -> None:
    """INFLUXDB_TOKEN without an InfluxDB store is warned of."""
    monkeypatch.setenv("INFLUXDB_TOKEN", "secret-token")

    warnings = load_settings(tmp_path, store=store).warnings
    assert bool(warnings) is warns
    assert "secret-token" not in "".join(warnings)


BAD_VALUES = [
    ("EXCHANGE_ID", "../etc", "exchange id"),
    ("EXCHANGE_URL", "localhost:8088", "http://"),
    ("CHANDLERY_SETTLE", "soon", "30s"),
    ("CHANDLERY_SETTLE", "-1", "30s"),
    ("CHANDLERY_RECHECK", "one day", "24h"),
    ("CHANDLERY_MAX_WAIT", "10 minutes", "10m"),
    ("CHANDLERY_BUDGET", "150%", "100%"),
    ("CHANDLERY_BUDGET", "0", "above 0"),
    ("CHANDLERY_BUDGET", "nan", "above 0"),
    ("CHANDLERY_BUDGET", "much", "80%"),
]


@pytest.mark.parametrize(("variable", "value", "mend"), BAD_VALUES)
def test_a_bad_value_names_key_value_and_mend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, mend: str
) -> None:
    """Each setting refuses what it cannot be, by name and value, with the mend as hint."""
    monkeypatch.setenv(variable, value)

    with pytest.raises(UsageError) as caught:
        load_settings(tmp_path)
    assert variable in caught.value.message
    assert repr(value) in caught.value.message
    assert mend in caught.value.hint


def test_a_bad_value_in_a_file_names_the_file(tmp_path: Path) -> None:
    """What stands wrong in chandlery.toml is told with the file and the key as it stands there."""
    (tmp_path / "chandlery.toml").write_text('budget = "200%"\n')

    with pytest.raises(UsageError, match=r"chandlery\.toml: budget cannot be '200%'"):
        load_settings(tmp_path)


BAD_FILES = [
    ('exchnage = "kraken"', "there is no setting 'exchnage'", "did you mean exchange?"),
    ('zzz = "kraken"', "there is no setting 'zzz'", "there are "),
    ('api_key = "abc"', "api_key is a secret", "EXCHANGE_API_KEY"),
    ("store = ", "not TOML", "lines look like"),
]


@pytest.mark.parametrize(("text", "message", "hint"), BAD_FILES)
def test_a_bad_file_is_an_error_with_its_mend(tmp_path: Path, text: str, message: str, hint: str) -> None:
    """An unknown key names the nearest one, a secret its place, and broken TOML its line."""
    (tmp_path / "chandlery.toml").write_text(text)

    with pytest.raises(UsageError) as caught:
        load_settings(tmp_path)
    assert message in caught.value.message
    assert str(tmp_path / "chandlery.toml") in caught.value.message
    assert hint in caught.value.hint
    assert "abc" not in caught.value.message


def test_a_bare_number_is_seconds(tmp_path: Path) -> None:
    """A settling time without a unit is seconds; other lengths as text need one, save 0; numbers of a file are seconds."""
    (tmp_path / "chandlery.toml").write_text("settle = 5\n")

    assert load_settings(tmp_path).settle == 5.0
    assert load_settings(tmp_path, recheck="0").recheck == 0.0
