"""Where an InfluxDB 2 store is: server, organisation, bucket and token, from a URL and the settings."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlsplit

from chandlery.errors import UsageError
from chandlery.redact import keep_secret

if TYPE_CHECKING:
    from chandlery.config import Settings

#: The schemes of a store URL, each with the one that the server is spoken to in.
SCHEMES = {"influxdb": "http", "influxdb+http": "http", "influxdb+https": "https"}
DEFAULT_PORT = 8086
_SHAPE = "write influxdb://HOST:8086/ORG/BUCKET (or influxdb+https://…), with INFLUXDB_TOKEN set"


def is_influx_url(url: str) -> bool:
    """Whether a store URL means an InfluxDB."""
    scheme, colon, _ = url.partition(":")
    return url == "influxdb" or (bool(colon) and scheme in SCHEMES)


@dataclass(frozen=True, slots=True)
class InfluxPlace:
    """One bucket of one server. `server` is its address, such as `http://127.0.0.1:8086`, without a slash at its end."""

    server: str
    org: str
    bucket: str
    token: str = field(default="", repr=False, compare=False)

    def __post_init__(self) -> None:
        keep_secret(self.token)

    @property
    def url(self) -> str:
        """The store URL, complete and without the token."""
        scheme, _, host = self.server.partition("://")
        kind = "influxdb+https" if scheme == "https" else "influxdb"
        return f"{kind}://{host}/{quote(self.org, safe='')}/{quote(self.bucket, safe='')}"

    @property
    def is_loopback(self) -> bool:
        """Whether the server is on this host, where compressing costs more than it saves."""
        return urlsplit(self.server).hostname in ("localhost", "127.0.0.1", "::1")


def place_of(url: str, settings: Settings) -> InfluxPlace:
    """The place that a store URL means; plain `influxdb` takes server, organisation and bucket from the settings.

    The token is always that of the settings. Raises UsageError naming what is missing or cannot be.
    """
    token = settings.influxdb_token.get_secret_value()
    if not token:
        raise UsageError(
            f"the store {url} needs a token, and INFLUXDB_TOKEN is not set",
            hint="set it in the environment or in secrets/.env.<exchange>; `chandlery influx setup` makes one",
        )
    if not token.isascii() or not token.isprintable():
        raise UsageError("INFLUXDB_TOKEN holds characters that no token has", hint="copy it anew")
    if url == "influxdb":
        return _from_settings(settings, token)
    parts = urlsplit(url)
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise UsageError(
            "an InfluxDB store URL holds neither a user nor a query", hint=_SHAPE
        )  # and is not shown: it may hold a secret
    names = [unquote(name) for name in parts.path.removeprefix("/").split("/")]
    if not parts.hostname or len(names) != 2 or not all(names):
        raise UsageError(f"not an InfluxDB store: {url!r}", hint=_SHAPE)
    try:
        port = parts.port or DEFAULT_PORT
    except ValueError:
        raise UsageError(f"not an InfluxDB store: {url!r} has no port that can be", hint=_SHAPE) from None
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return InfluxPlace(f"{SCHEMES[parts.scheme]}://{host}:{port}", names[0], names[1], token)


def _from_settings(settings: Settings, token: str) -> InfluxPlace:
    given = {"INFLUXDB_ORG": settings.influxdb_org, "INFLUXDB_BUCKET": settings.influxdb_bucket}
    missing = [name for name, value in given.items() if not value]
    if missing:
        raise UsageError(
            f"the store influxdb needs {' and '.join(missing)}",
            hint="set them in the environment or in secrets/.env.<exchange>",
        )
    server = (settings.influxdb_url or f"http://localhost:{DEFAULT_PORT}").rstrip("/")
    parts = urlsplit(server)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
        shown = "that" if "@" in server else repr(server)  # before an @ there may be a password
        raise UsageError(
            f"INFLUXDB_URL cannot be {shown}",
            hint=f"write an address such as http://localhost:{DEFAULT_PORT}",
        )
    return InfluxPlace(server, str(settings.influxdb_org), str(settings.influxdb_bucket), token)
