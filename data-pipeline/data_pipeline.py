#!/usr/bin/env python3
"""Data pipeline: fetch OHLCV data from exchanges with ccxt, check it and store it.

The names of the original script over the package chandlery: `DataPipeline` with `fetch_ohlcv`, `fetch_and_store` and
`close`, its errors, and its settings from the environment, `secrets/.env.<exchange>` and `.env` (of the current folder,
else of the folder above this script). The store is CHANDLERY_STORE, else InfluxDB if INFLUXDB_TOKEN is set, else
`./candles`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from logger import HERE, configure_logger

import chandlery
from chandlery import DatabaseError, DataPipelineError, ExchangeError
from chandlery.config import load_settings
from chandlery.pipeline import MAX_RETRIES, RETRY_DELAY

if TYPE_CHECKING:
    from influxdb_client import InfluxDBClient
    from influxdb_client.client.write_api import WriteApi

__all__ = [
    "EXCHANGE_API_KEY",
    "EXCHANGE_ID",
    "EXCHANGE_SECRET",
    "INFLUXDB_BUCKET",
    "INFLUXDB_ORG",
    "INFLUXDB_TOKEN",
    "INFLUXDB_URL",
    "MAX_RETRIES",
    "RETRY_DELAY",
    "DataPipeline",
    "DataPipelineError",
    "DatabaseError",
    "ExchangeError",
    "logger",
    "settings_folder",
]

logger = configure_logger("data_pipeline")
configure_logger("chandlery")


def settings_folder() -> Path:
    """Where settings files are: the current folder if it has any, else the one above this script, as ever."""
    here = Path.cwd()
    has_any = (here / "secrets").is_dir() or (here / ".env").is_file() or (here / "chandlery.toml").is_file()
    return here if has_any else HERE.parent


_settings = load_settings(settings_folder())

# InfluxDB configuration
INFLUXDB_URL = _settings.influxdb_url or "http://localhost:8086"
INFLUXDB_TOKEN = _settings.influxdb_token.get_secret_value() or None
INFLUXDB_ORG = _settings.influxdb_org
INFLUXDB_BUCKET = _settings.influxdb_bucket

# Exchange configuration
EXCHANGE_ID = _settings.exchange
EXCHANGE_API_KEY = _settings.api_key.get_secret_value()
EXCHANGE_SECRET = _settings.secret.get_secret_value()


class DataPipeline(chandlery.DataPipeline):
    """Pipeline for fetching OHLCV data and storing it; chandlery's, with this folder's settings.

    Without `exchange_id` it is EXCHANGE_ID. See `chandlery.DataPipeline` for the other arguments.
    """

    def __init__(self, exchange_id: str | None = None, **options: Any) -> None:
        super().__init__(exchange_id, **{"folder": settings_folder(), **options})
        self._influx_client: InfluxDBClient | None = None
        self._write_api: WriteApi | None = None

    @property
    def influx_client(self) -> InfluxDBClient:
        """The official client of the settings' InfluxDB, made when asked for and closed with the pipeline.

        The pipeline itself does without it. Raises DatabaseError where chandlery[original] is not installed.
        """
        if self._influx_client is None:
            try:
                from influxdb_client import InfluxDBClient
            except ModuleNotFoundError as missing:
                raise DatabaseError(
                    f"the official client is not installed: {missing}",
                    hint="pip install 'chandlery[original]' brings it",
                ) from missing
            settings = self.settings
            self._influx_client = InfluxDBClient(
                url=settings.influxdb_url or INFLUXDB_URL,
                token=settings.influxdb_token.get_secret_value() or None,
                org=settings.influxdb_org,
            )
        return self._influx_client

    @property
    def write_api(self) -> WriteApi:
        """Its synchronous write API, made when asked for and closed with the pipeline."""
        if self._write_api is None:
            client = self.influx_client
            from influxdb_client.client.write_api import SYNCHRONOUS

            self._write_api = client.write_api(write_options=SYNCHRONOUS)
        return self._write_api

    def close(self) -> None:
        """Let what is being stored end, then close connections and the store. Twice is fine."""
        for made in (self._write_api, self._influx_client):
            if made is not None:
                made.close()
        self._write_api = self._influx_client = None
        super().close()
