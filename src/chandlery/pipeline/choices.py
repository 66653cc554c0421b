"""What settings mean for a pipeline: which exchange it asks, which store it writes."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from chandlery.errors import DataPipelineError, UnknownExchange
from chandlery.stores.influx_place import is_influx_url

if TYPE_CHECKING:
    from chandlery.config import Settings
    from chandlery.sources.base import Source
    from chandlery.stores.base import Store

log = logging.getLogger("chandlery.pipeline")


def chosen_store(settings: Settings) -> str:
    """URL of the store that the settings mean for a DataPipeline: named anywhere, else InfluxDB if there is a token for
    it, else the default. A token that a mirror needs chooses no store.
    """
    mirrored = any(is_influx_url(url) for url in settings.mirror)
    if settings.origin("store") == "default" and settings.influxdb_token.get_secret_value() and not mirrored:
        return "influxdb"
    return settings.store


def settings_for(
    folder: str | os.PathLike[str] | None, mirror: tuple[str, ...] | None = None, **given: str | None
) -> Settings:
    """The settings that hold in `folder`, what is `given` (exchange, exchange_url, store) and `mirror` before all.

    From then on no log line shows their secrets. Raises UsageError, and UnknownExchange for an id that none can be.
    """
    from chandlery.config import load_settings
    from chandlery.redact import keep_secret

    exchange_id = given["exchange"]
    if exchange_id is not None and not re.fullmatch(r"[A-Za-z0-9_]+", exchange_id):
        raise UnknownExchange(
            f"Invalid exchange ID: {exchange_id!r}", hint="exchange ids are those of ccxt, such as binance"
        )
    flags: dict[str, object] = {name: value for name, value in given.items() if value is not None}
    if mirror is not None:
        flags["mirror"] = mirror
    settings = load_settings(None if folder is None else Path(folder), **flags)
    if chosen_store(settings) == settings.store:
        for warning in settings.warnings:
            log.warning(warning)
    keep_secret(*(s.get_secret_value() for s in (settings.api_key, settings.secret, settings.influxdb_token)))
    return settings


def source_for(settings: Settings, *, signed: bool) -> Source:
    """The source of the settings' exchange; raises UnknownExchange with the original's words."""
    from chandlery.sources import open_source

    try:
        return open_source(
            settings.exchange,
            url=settings.exchange_url,
            api_key=settings.api_key.get_secret_value() if signed else "",
            secret=settings.secret.get_secret_value() if signed else "",
            signed=signed,
            state_dir=settings.state,
            max_wait_seconds=settings.max_wait,
            budget=settings.budget,
        )
    except UnknownExchange as error:
        log.error("Invalid exchange ID: %s", settings.exchange)
        raise UnknownExchange(f"Invalid exchange ID: {settings.exchange}", hint=error.hint) from error
    except DataPipelineError:
        raise
    except Exception as error:
        log.error("Failed to initialize DataPipeline: %s", error)
        raise DataPipelineError(f"Failed to initialize DataPipeline: {error}") from error


def store_for(settings: Settings) -> Store:
    """The settings' store, opened, and made if it is not there; raises DatabaseError."""
    from chandlery.stores import open_store

    return open_store(chosen_store(settings), settings=settings)
