"""HTTP requests as every exchange gets them: one session, redirects not followed, answers of a bounded size."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any
from urllib.request import getproxies, proxy_bypass

import aiohttp
from yarl import URL

log = logging.getLogger("chandlery.sources.http")

#: What is read from a connection before it is told to wait: a page of candles arrives without a pause.
_READ_AHEAD = 1 << 20
_CONNECTIONS = 64


class AnswerTooLarge(Exception):
    """An answer of more bytes than were allowed."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer: its status, its headers (names in lower case) and its bytes, decompressed."""

    status: int
    headers: dict[str, str]
    body: bytes


class Requests:
    """The connections of one client. Proxies are those of the environment: HTTP_PROXY, HTTPS_PROXY, NO_PROXY."""

    def __init__(self, *, timeout_seconds: float, limit: int) -> None:
        self.limit = limit
        self._timeout = aiohttp.ClientTimeout(total=timeout_seconds)
        self._session: aiohttp.ClientSession | None = None
        self._proxies: dict[tuple[str, str], str | None] = {}

    async def send(self, url: str, method: str, headers: Any, body: Any) -> Answer:
        """Send one request; raises AnswerTooLarge, TimeoutError, aiohttp.ClientError or OSError."""
        target = URL(url, encoded=True)
        data = body.encode() if isinstance(body, str) else body
        async with self._opened().request(
            method,
            target,
            data=data,
            headers=headers,
            timeout=self._timeout,
            allow_redirects=False,
            proxy=self._proxy(target),
        ) as response:
            chunks: list[bytes] = []
            size = 0
            while chunk := await response.content.readany():
                size += len(chunk)
                if size > self.limit:
                    raise AnswerTooLarge(f"an answer of more than {self.limit} bytes")
                chunks.append(chunk)
            found = {name.lower(): value for name, value in response.headers.items()}
            return Answer(response.status, found, chunks[0] if len(chunks) == 1 else b"".join(chunks))

    async def close(self) -> None:
        """Close the connections; twice is fine."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            # `trust_env` would look the proxy up for every request, in threads, and send passwords of a .netrc.
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=_CONNECTIONS, happy_eyeballs_delay=0.25),
                read_bufsize=_READ_AHEAD,
            )
        return self._session

    def _proxy(self, url: URL) -> str | None:
        """The proxy that the environment names for this host, looked up once."""
        key = url.scheme, url.host or ""
        if key not in self._proxies:
            found = None if proxy_bypass(key[1]) else getproxies().get(key[0])
            if found and not found.startswith("http://"):
                log.warning("the proxy %s is not used: only http:// ones can be", URL(found).with_user(None))
                found = None
            self._proxies[key] = found or None
        return self._proxies[key]
