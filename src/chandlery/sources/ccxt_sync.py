"""The synchronous ccxt object that `DataPipeline.exchange` hands out, pointed at the same server as everything else."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from chandlery.errors import UnknownExchange
from chandlery.sources.ccxt_client import user_agent
from chandlery.sources.redirect import redirect_url


def sync_client(exchange_id: str, *, url: str | None = None, api_key: str = "", secret: str = "") -> Any:
    """A ccxt exchange object of the synchronous kind, which paces itself.

    `url` stands in for the exchange's own hosts. Keys given here are sent where ccxt signs. It is the caller's own:
    its answers are not checked as a Source's are. Close it with `.session.close()`. Raises UnknownExchange.
    """
    import ccxt

    if exchange_id not in ccxt.exchanges:
        raise UnknownExchange(f"no exchange {exchange_id!r}")
    base = getattr(ccxt, exchange_id)
    made = base if url is None else type(exchange_id, (_Redirected, base), {"chandlery_url": url})
    options: dict[str, Any] = {"enableRateLimit": True, "userAgent": user_agent()}
    if api_key or secret:
        options |= {"apiKey": api_key, "secret": secret}
    return made(options)


class _Redirected:
    """Sends every request of a ccxt class to one server; stands before the class in the bases."""

    chandlery_url: str

    def fetch(self, url: str, method: str = "GET", headers: Any = None, body: Any = None) -> Any:
        """Send one request; ccxt's `fetch`."""
        if urlsplit(url).netloc != urlsplit(self.chandlery_url).netloc:
            url = redirect_url(url, self.chandlery_url)
        return super().fetch(url, method, headers, body)  # type: ignore[misc]
