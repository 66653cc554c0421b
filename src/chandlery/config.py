"""Settings: flags > environment > secrets/.env.<exchange> and .env > chandlery.toml > defaults.

`load_settings` reads them all and remembers of each value where it came from. Keys and tokens are SecretStr: they show
in no message and no repr. A key of chandlery.toml that is not known is an error that names the nearest one; a bad value
is an error that names where it stands, the key, the value and the mend.
"""

from __future__ import annotations

import difflib
import os
import re
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, PrivateAttr, SecretStr, ValidationError
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)
from pydantic_settings.sources import DotEnvSettingsSource

from chandlery.errors import UsageError

CONFIG_FILE = "chandlery.toml"
DEFAULT_STORE = "./candles"
_LENGTH = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}


def seconds_of(value: object) -> object:
    """`10m` or `24h` in seconds; a bare number is seconds already. Raises ValueError."""
    if isinstance(value, str):
        found = _LENGTH.fullmatch(value.strip())
        if found is None:
            raise ValueError("write seconds, or a length of time such as 30s, 10m, 24h")
        return float(found[1]) * _UNITS[found[2] or "s"]
    return value


def length_of(value: object) -> object:
    """`10m` or `24h` in seconds; text without a unit could mean anything unless it is 0. Raises ValueError."""
    if isinstance(value, str) and re.fullmatch(r"[\d.]*[1-9][\d.]*", value.strip()):
        raise ValueError(f"say in what unit, such as {value.strip()}m or {value.strip()}h")
    return seconds_of(value)


def share_of(value: object) -> object:
    """`80%` or `0.8` as 0.8. Raises ValueError."""
    if isinstance(value, str):
        text = value.strip()
        try:
            return float(text[:-1]) / 100 if text.endswith("%") else float(text)
        except ValueError:
            raise ValueError("write a share such as 80% or 0.8") from None
    return value


def _in_share(value: float) -> float:
    if not 0 < value <= 1:
        raise ValueError("write a share above 0 and up to 100%")
    return value


def _exchange_id(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_]+", value):
        raise ValueError("write an exchange id as ccxt knows it, such as binance")
    return value.lower()  # as all ids of ccxt are


def _web_address(value: str) -> str:
    if not re.match(r"https?://[^/\s]", value):
        raise ValueError("write an address such as http://127.0.0.1:8088")
    return value


def _listed(value: object) -> object:
    """Text with commas as the texts between them."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


Seconds = Annotated[float, BeforeValidator(seconds_of), Field(ge=0, allow_inf_nan=False)]
Length = Annotated[float, BeforeValidator(length_of), Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, BeforeValidator(share_of), AfterValidator(_in_share)]
ExchangeId = Annotated[str, AfterValidator(_exchange_id)]
WebAddress = Annotated[str, AfterValidator(_web_address)]
StoreUrls = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], NoDecode, BeforeValidator(_listed)]


class Settings(BaseSettings):
    """What holds for one command. Lengths of time are in seconds. Made by `load_settings`."""

    model_config = SettingsConfigDict(
        extra="forbid", frozen=True, populate_by_name=True, env_ignore_empty=True
    )

    exchange: ExchangeId = Field(default="binance", validation_alias="EXCHANGE_ID")
    exchange_url: WebAddress | None = Field(default=None, validation_alias="EXCHANGE_URL")
    api_key: SecretStr = Field(default=SecretStr(""), validation_alias="EXCHANGE_API_KEY")
    secret: SecretStr = Field(default=SecretStr(""), validation_alias="EXCHANGE_SECRET")
    store: str = Field(default=DEFAULT_STORE, validation_alias="CHANDLERY_STORE", min_length=1)
    mirror: StoreUrls = Field(default=(), validation_alias="CHANDLERY_MIRROR")
    state: Path | None = Field(default=None, validation_alias="CHANDLERY_STATE")
    influxdb_url: str | None = Field(default=None, validation_alias="INFLUXDB_URL")
    influxdb_token: SecretStr = Field(default=SecretStr(""), validation_alias="INFLUXDB_TOKEN")
    influxdb_org: str | None = Field(default=None, validation_alias="INFLUXDB_ORG")
    influxdb_bucket: str | None = Field(default=None, validation_alias="INFLUXDB_BUCKET")
    settle: Seconds | None = Field(default=None, validation_alias="CHANDLERY_SETTLE")
    recheck: Length = Field(default=86_400.0, validation_alias="CHANDLERY_RECHECK")
    max_wait: Length = Field(default=600.0, validation_alias="CHANDLERY_MAX_WAIT")
    budget: Share = Field(default=0.8, validation_alias="CHANDLERY_BUDGET")

    _origins: dict[str, str] = PrivateAttr(default_factory=dict)
    _warnings: list[str] = PrivateAttr(default_factory=list)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003
        init_settings: PydanticBaseSettingsSource,
        *others: PydanticBaseSettingsSource,  # noqa: ARG003
        **named: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take what `load_settings` has merged already, so that it can tell where each value came from."""
        return (init_settings,)

    def origin(self, name: str) -> str:
        """Where the value came from, such as `--store`, `CHANDLERY_STORE`, `.env`, `chandlery.toml`, `default`."""
        return self._origins.get(name, "default")

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the user should know about the settings, such as a secrets file that others can read."""
        return tuple(self._warnings)

    @property
    def exposed(self) -> tuple[str, ...]:
        """Those of the warnings that are about secrets which others can read."""
        return tuple(text for text in self._warnings if text.startswith(_EXPOSED))

    @property
    def unused(self) -> tuple[str, ...]:
        """Those of the warnings that are about settings which choose no store."""
        return tuple(text for text in self._warnings if text.startswith(_UNUSED))

    @property
    def uses_influxdb(self) -> bool:
        """Whether the store or a mirror is an InfluxDB."""
        return any(
            url == "influxdb" or url.startswith(("influxdb:", "influxdb+"))
            for url in (self.store, *self.mirror)
        )


#: Secrets are not read from chandlery.toml, which people share and commit.
SECRETS = frozenset(name for name, field in Settings.model_fields.items() if field.annotation is SecretStr)
_VARIABLES = {str(field.validation_alias): name for name, field in Settings.model_fields.items()}
_NAMES = {name: variable for variable, name in _VARIABLES.items()}


@dataclass(frozen=True, slots=True)
class _Layer:
    """Values of one origin by setting. `where` is the file they stand in, None for flags and the environment."""

    values: Mapping[str, Any]
    where: Path | None = None
    flags: bool = False

    def origin(self, name: str) -> str:
        if self.where is not None:
            return str(self.where)
        return "--" + name.replace("_", "-") if self.flags else _NAMES[name]

    def key(self, name: str) -> str:
        if self.where is None:
            return self.origin(name)
        return name if self.where.name == CONFIG_FILE else _NAMES[name]


def load_settings(folder: Path | None = None, **flags: Any) -> Settings:
    """The settings that hold in `folder` (the current one if None), `flags` before all.

    Raises UsageError for an unknown key, a value that cannot be, or a file that cannot be read.
    """
    here = Path() if folder is None else folder
    toml = _Layer(_read_toml(here / CONFIG_FILE), here / CONFIG_FILE)
    dotenv = _Layer(_read_dotenv(here / ".env"), here / ".env")
    environment = _Layer(_known(EnvSettingsSource(Settings)()))
    layers = [_Layer(flags, flags=True), environment, dotenv, toml]
    exchange = next(
        (str(layer.values["exchange"]).lower() for layer in layers if "exchange" in layer.values), "binance"
    )
    files = [dotenv]
    if re.fullmatch(r"[A-Za-z0-9_]+", exchange):
        path = here / "secrets" / f".env.{exchange}"
        # The file of one exchange does not choose another.
        secrets = _Layer({n: v for n, v in _read_dotenv(path).items() if n != "exchange"}, path)
        layers.insert(2, secrets)
        files.insert(0, secrets)
    merged: dict[str, Any] = {}
    origins: dict[str, _Layer] = {}
    for layer in reversed(layers):
        for name, value in layer.values.items():
            merged[name], origins[name] = value, layer
    try:
        settings = Settings(**merged)
    except ValidationError as error:
        raise _bad_value(error, origins, merged) from None
    settings._origins.update((name, layer.origin(name)) for name, layer in origins.items())  # noqa: SLF001
    settings._warnings.extend(_warnings(settings, files))  # noqa: SLF001
    return settings


def _known(found: Mapping[str, Any]) -> dict[str, Any]:
    """The values of known settings, by the setting's name. Environment files hold other programs' variables too."""
    by_name = {_VARIABLES.get(key.upper(), key): value for key, value in found.items()}
    return {name: value for name, value in by_name.items() if name in Settings.model_fields}


def _read_dotenv(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        return _known(DotEnvSettingsSource(Settings, env_file=path, env_file_encoding="utf-8")())
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {path}: {error}", hint="make it readable, or move it away") from None


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise UsageError(
            f"cannot read {path}: {error.strerror}", hint="make it readable, or move it away"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{path} is not TOML: {error}", hint='lines look like: store = "./candles"'
        ) from None
    for key in found:
        if key in SECRETS:
            raise UsageError(
                f"{path}: {key} is a secret and does not belong in this file",
                hint=f"set {_NAMES[key]} in the environment or in secrets/.env.<exchange>",
            )
        if key not in Settings.model_fields:
            names = sorted(set(Settings.model_fields) - SECRETS)
            near = difflib.get_close_matches(key, names, 1, 0.5)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(names)}"
            raise UsageError(f"{path}: there is no setting {key!r}", hint=hint)
    return found


#: What pydantic's own kinds of errors mean here.
_MENDS = {
    "string_too_short": "name a folder, such as ./candles",
    "greater_than_equal": "write 0 or more",
    "float_parsing": "write a number",
    "float_type": "write a number",
    "finite_number": "write a number that is finite",
    "string_type": "write text in quotes",
    "tuple_type": 'write a list of stores, such as ["influxdb", "/mnt/backup/candles"]',
}


def _bad_value(
    error: ValidationError, origins: Mapping[str, _Layer], merged: Mapping[str, Any]
) -> UsageError:
    """The first bad value as an error that says where it stands."""
    first = error.errors(include_url=False, include_context=False)[0]
    place = str(first["loc"][0])
    name = _VARIABLES.get(place, place)
    layer = origins[name]
    where = f"{layer.where}: " if layer.where is not None else ""
    shown = "" if name in SECRETS else f" {merged[name]!r}"
    mend = _MENDS.get(first["type"]) or first["msg"].removeprefix("Value error, ")
    return UsageError(f"{where}{layer.key(name)} cannot be{shown}", hint=mend[:1].lower() + mend[1:])


_EXPOSED = "other users can read the secrets in"
_UNUSED = "INFLUXDB_TOKEN is set and not used:"


def _warnings(settings: Settings, files: list[_Layer]) -> list[str]:
    found = []
    for layer in files:
        if layer.where is None or not SECRETS & set(layer.values) or os.name != "posix":
            continue
        if layer.where.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            found.append(f"{_EXPOSED} {layer.where}; mend it with: chmod 600 {layer.where}")
    if settings.influxdb_token.get_secret_value() and not settings.uses_influxdb:
        found.append(f"{_UNUSED} candles are kept in {settings.store} ({settings.origin('store')})")
    return found
