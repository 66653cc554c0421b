"""ccxt's errors and HTTP's status as chandlery's errors: try again, wait as told, or give up.

Class alone is wrong: ccxt calls a 403 `ExchangeNotAvailable`, which looks worth retrying, and gives 429 and 418 of
Binance a class that is no `RateLimitExceeded`. So the status decides first, then the class.
"""

from __future__ import annotations

import difflib
import os
import re
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from urllib.parse import urlsplit

import aiohttp
import ccxt

from chandlery.errors import (
    BadAnswer,
    ExchangeError,
    ExchangeRefused,
    ExchangeUnavailable,
    RateLimited,
    UnknownSymbol,
    UnknownTimeframe,
)
from chandlery.sources.bans import LONGEST_WAIT_MS
from chandlery.when import iso

#: How long to stay away where the exchange names no time.
DEFAULT_WAIT_MS = {429: 5_000, 418: 120_000}
#: A header that names less than this names no wait: zero, or a date that is past, is no leave to ask at once.
_SHORTEST_WAIT_MS = 1_000
#: How long Bybit's 403 for "access too frequent" lasts; it names no time.
_FREQUENT_WAIT_MS = 600_000

_BANNED_UNTIL = re.compile(r"banned until\s+(\d{13})")
_THROTTLED_UNTIL = re.compile(r"EService: ?Throttled: ?(\d{10})\b")  # Kraken
_TOO_FREQUENT = re.compile(r"access too frequent|EService: ?Throttled", re.IGNORECASE)
_REFUSED_BODY = 1_000  # a refusal is short
_NO_TIMEFRAME = re.compile(r'"code":\s*-1120\b|invalid (interval|timeframe|granularity)', re.IGNORECASE)
# The words of others, which a walk that looks through longer timeframes takes for a refusal as any.
_REFUSED_TIMEFRAME = re.compile(
    r"invalid period\b|granularity (argument )?is invalid|parameter (bar|granularity) error"
    r"|type of candlestick is currently not provided|invalid (argument:|request parameter) `?interval\b",
    re.IGNORECASE,
)
_HINT_TIMEFRAME = "this server does not offer the timeframe, though ccxt lists it"
# Kraken's words for it, which ccxt 4.5.90 does not know: a bare ExchangeError would be asked again and again.
_NO_SYMBOL = re.compile(r"\bEQuery:Unknown asset pair\b")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]+")


@dataclass(slots=True)
class Reply:
    """What one HTTP request came back with: status 0 if nothing did. Header names are lower case."""

    url: str = ""
    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str = ""


#: First match wins; a subclass stands before its base. None: the status or its absence decides, retryable.
CLASSES: tuple[tuple[type[Exception], type[ExchangeError]], ...] = (
    (ccxt.RateLimitExceeded, RateLimited),
    (ccxt.DDoSProtection, RateLimited),
    (ccxt.BadResponse, BadAnswer),  # NullResponse is one
    (ccxt.ChecksumError, BadAnswer),
    (ccxt.UnsubscribeError, BadAnswer),
    (ccxt.InvalidNonce, ExchangeUnavailable),
    (
        ccxt.OperationFailed,
        ExchangeUnavailable,
    ),  # NetworkError, RequestTimeout, ExchangeNotAvailable, OnMaintenance
    (ccxt.BadSymbol, UnknownSymbol),
    (ccxt.BadRequest, ExchangeRefused),
    (ccxt.AuthenticationError, ExchangeRefused),
    (ccxt.OperationRejected, ExchangeRefused),  # RestrictedLocation, MarketClosed, ManualInteractionNeeded
    (ccxt.ArgumentsRequired, ExchangeRefused),
    (ccxt.InsufficientFunds, ExchangeRefused),
    (ccxt.InvalidAddress, ExchangeRefused),
    (ccxt.InvalidOrder, ExchangeRefused),
    (ccxt.NotSupported, ExchangeRefused),
    (ccxt.InvalidProxySettings, ExchangeRefused),
    (ccxt.ExchangeClosedByUser, ExchangeRefused),
)
#: ccxt raises its bare ExchangeError for a message that it does not know: nothing says that it is permanent.
UNMATCHED: type[ExchangeError] = ExchangeUnavailable

_PERMANENT = frozenset({400, 401, 403, 404, 405, 410, 451})
_HINTS = {
    401: "the exchange wants a key; chandlery sends none unless --signed asks for it",
    403: "the exchange or a firewall before it refuses this host",
    404: "check the exchange URL: nothing answers at that path",
    451: "the exchange refuses the country of this host",
}


def class_of(error: Exception) -> type[ExchangeError]:
    """The class for a ccxt error, its status left aside."""
    for theirs, ours in CLASSES:
        if isinstance(error, theirs):
            return ours
    return UNMATCHED


def to_error(error: Exception, reply: Reply, *, exchange: str, now: int) -> ExchangeError:
    """The error to raise for what ccxt raised, and the reply that it came from. `now` is the local clock, epoch ms."""
    ours = _to_error(error, reply, exchange=exchange, now=now)
    ours.status = reply.status
    return ours


def _to_error(error: Exception, reply: Reply, *, exchange: str, now: int) -> ExchangeError:
    status = reply.status
    said = f"{exchange}: {describe(error, reply).removeprefix(exchange).lstrip(': ')}"
    if asks_to_wait(reply):
        return _told_to_wait(said, reply, now + wait_told(reply, now))
    if status >= 500 or status == 408:
        return ExchangeUnavailable(said, hint="the exchange is down or overloaded; run again later")
    ours = class_of(error)
    if status == 400 and _NO_TIMEFRAME.search(reply.body):
        return UnknownTimeframe(said, hint=_HINT_TIMEFRAME)
    if status in (200, 400) and _REFUSED_TIMEFRAME.search(reply.body[:_REFUSED_BODY]):
        return ExchangeRefused(said, hint=_HINT_TIMEFRAME)
    if ours is UNMATCHED and _NO_SYMBOL.search(reply.body):
        return UnknownSymbol(said, hint=f"`chandlery markets -e {exchange}` lists its symbols")
    if status in _PERMANENT and ours is not UnknownSymbol:
        return ExchangeRefused(said, hint=_HINTS.get(status, "") + _below(reply, exchange))
    if ours is RateLimited:
        return RateLimited(said, hint="the exchange asks for fewer requests; lower --budget")
    if ours is ExchangeUnavailable and not status:
        return ExchangeUnavailable(said, hint="check the network, or --exchange-url")
    return ours(said)


def _below(reply: Reply, exchange: str) -> str:
    """Where to look for an exchange that a server may have below its own path; no exchange's own server names a port."""
    parts = urlsplit(reply.url)
    if (
        reply.status != HTTPStatus.NOT_FOUND
        or parts.path.startswith(f"/{exchange}/")
        or ":" not in parts.netloc
    ):
        return ""
    there = clean(f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}/{exchange}")
    return f"; one server may carry several exchanges, each under its id: try {there}"


def describe(error: Exception, reply: Reply) -> str:
    """What happened in one line, without URL (it may carry a signature) and without control characters."""
    if not reply.status:
        # Ours, see `unreachable`, or of ccxt, which names the exchange once more.
        return shortened(clean(str(error))) or _words(type(error).__name__)
    said = shortened(clean(reply.body))
    if isinstance(error, ccxt.BadResponse) and 200 <= reply.status < 300:
        return f"an answer that cannot be read (HTTP {reply.status})" + (f": {said}" if said else ", empty")
    return f"HTTP {reply.status}" + (f": {said}" if said else f" {_phrase(reply.status)}".rstrip())


def instead_of(symbol: str, exchange: str, listed: Iterable[str]) -> str:
    """The hint for a symbol that an exchange does not list: the nearest that it does, or where swaps are."""
    names = list(listed)
    if ":" in symbol and names and not any(":" in name for name in names):
        swaps = f"{exchange}futures"
        return f"{exchange} lists spot only" + (f"; swaps are at {swaps}" if swaps in ccxt.exchanges else "")
    near = difflib.get_close_matches(symbol.upper(), names, n=4, cutoff=0.5)
    return (
        f"did you mean {', '.join(near)}?" if near else f"`chandlery markets -e {exchange}` lists its symbols"
    )


def unreachable(error: Exception, host: str) -> str:
    """Why no answer came from `host`, in words."""
    cause: object = getattr(error, "os_error", error)
    if isinstance(error, aiohttp.ServerDisconnectedError | ConnectionResetError):
        return f"{host} closed the connection without an answer"
    if isinstance(error, aiohttp.ClientPayloadError):
        return f"the answer of {host} was cut off"
    if isinstance(cause, socket.gaierror):
        return f"cannot reach {host}: its name is not known"
    if isinstance(cause, OSError) and cause.errno:
        return f"cannot reach {host}: {os.strerror(cause.errno).lower()}"
    return f"cannot reach {host}: {shortened(clean(str(error))) or _words(type(error).__name__)}"


def shortened(text: str, most: int = 200) -> str:
    """The words of `text` that fit."""
    if len(text) <= most:
        return text
    head, blank, _ = text[:most].rpartition(" ")
    return f"{head if blank else text[:most]} ..."


def _words(name: str) -> str:
    """The name of a class as words: NetworkError is "network error"."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


def clean(text: str) -> str:
    """`text` fit for a terminal and a log line."""
    return _CONTROL.sub(" ", text).strip()


def asks_to_wait(reply: Reply) -> bool:
    """Whether status or body say by themselves that there were too many requests, whatever ccxt makes of them."""
    if reply.status in DEFAULT_WAIT_MS or (reply.status == 503 and _retry_after(reply) is not None):
        return True
    return len(reply.body) < _REFUSED_BODY and _TOO_FREQUENT.search(reply.body) is not None


def refused_until(error: Exception, reply: Reply, *, exchange: str, until: int) -> RateLimited:
    """The error to raise for a request that was one too many, with the time before which none may follow."""
    said = f"{exchange}: {describe(error, reply).removeprefix(exchange).lstrip(': ')}"
    ours = _told_to_wait(said, reply, until)
    ours.status = reply.status
    return ours


def _told_to_wait(said: str, reply: Reply, until: int) -> RateLimited:
    ban = reply.status == 418 or (reply.status == 403 and asks_to_wait(reply))
    word = "banned this host" if ban else "asks to wait"
    return RateLimited(
        f"{said} (until {iso(until)})", hint=f"the exchange {word} until {iso(until)}", until=until, ban=ban
    )


def wait_told(reply: Reply, now: int) -> int:
    """Milliseconds to stay away: the longest sane time that header and body name, else the default of the status."""
    told = wait_named(reply, now)
    return DEFAULT_WAIT_MS.get(reply.status, 5_000) if told is None else told


def wait_named(reply: Reply, now: int) -> int | None:
    """Milliseconds to stay away by what headers and body name, or what is known of the kind of ban; None for neither."""
    told = [
        wait
        for wait in (_retry_after(reply), _until_in_body(reply, now), _until_reset(reply, now))
        if wait is not None
    ]
    if told:
        return min(max(*told, _SHORTEST_WAIT_MS), LONGEST_WAIT_MS)
    if reply.status == 403 and asks_to_wait(reply):
        return _FREQUENT_WAIT_MS
    return None if reply.status != 418 else DEFAULT_WAIT_MS[418]


def _retry_after(reply: Reply) -> int | None:
    text = reply.headers.get("retry-after", "").strip()
    try:
        seconds = float(text)
    except ValueError:
        moment = http_date(text)
        sent = http_date(reply.headers.get("date", ""))
        if moment is None or sent is None:
            return None
        seconds = (moment - sent) / 1000
    # Negative is junk; so is NaN, which compares false. Infinity is clamped by the caller.
    return round(min(seconds, 1e9) * 1000) if seconds * 1000 >= _SHORTEST_WAIT_MS else None


def _until_in_body(reply: Reply, now: int) -> int | None:
    if (found := _BANNED_UNTIL.search(reply.body)) is not None:
        return _wait_until(int(found[1]), reply, now)
    if (found := _THROTTLED_UNTIL.search(reply.body)) is not None:
        return _wait_until(int(found[1]) * 1000, reply, now)
    return None


def _until_reset(reply: Reply, now: int) -> int | None:
    """What headers say of a budget that is used up: Bybit's moment, KuCoin's milliseconds."""
    moment = reply.headers.get("x-bapi-limit-reset-timestamp", "")
    if reply.headers.get("x-bapi-limit-status") == "0" and moment.isdecimal() and len(moment) == 13:
        return _wait_until(int(moment), reply, now)
    wait = reply.headers.get("gw-ratelimit-reset", "")
    if reply.headers.get("gw-ratelimit-remaining") == "0" and wait.isdecimal() and len(wait) < 10:
        return int(wait)
    return None


def _wait_until(moment: int, reply: Reply, now: int) -> int | None:
    """Milliseconds until a moment of the exchange's clock; its Date header says what that shows, if it came."""
    wait = moment - (http_date(reply.headers.get("date", "")) or now)
    return wait if 0 <= wait <= LONGEST_WAIT_MS else None


def http_date(text: str) -> int | None:
    """A Date header as epoch ms, None if it is none."""
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError):
        return None
    aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    return round(aware.timestamp() * 1000)
