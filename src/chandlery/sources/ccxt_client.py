"""The one typed door to ccxt: a strict client of one exchange.

ccxt reads an HTML page, a cut answer or a redirect as "no candles", shares the last answer's headers between
concurrent calls, filters away the rows that show that `since` was ignored, and follows redirects anywhere. So each
client here is a subclass, made at run time (`ccxt_strict`), whose own `fetch` sends the request, and whose hooks see every
answer before ccxt believes it. ccxt ships no types.
"""

from __future__ import annotations

import json
import logging
import ssl
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from importlib.metadata import PackageNotFoundError, version
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import ccxt.async_support

from chandlery.errors import ExchangeError, UnknownExchange
from chandlery.sources.base import Traffic
from chandlery.sources.ccxt_errors import (
    Reply,
    asks_to_wait,
    refused_until,
    to_error,
    unreachable,
    wait_named,
)
from chandlery.sources.ccxt_strict import CALL, COST, Call, StrictMixin, current_call
from chandlery.sources.frozen import FROZEN
from chandlery.sources.http_requests import AnswerTooLarge, Requests
from chandlery.sources.pacing import Host, Pacer, Ticket
from chandlery.sources.page_layouts import KNOWN, Layouts, PageRows, cut_page, with_rows
from chandlery.sources.redirect import redirect_url, redirected

log = logging.getLogger("chandlery.sources.ccxt")

#: An answer larger than this, decoded, is refused: the largest honest one, Binance's exchangeInfo, has about 10 MB.
BODY_LIMIT = 16 * 1024 * 1024

#: Exchanges that declare request weights themselves, in exchangeInfo and headers.
DECLARING = frozenset({"binance", "binanceus", "binanceusdm", "binancecoinm"})

#: What ccxt's own parsers raise where they fall over answers of a shape that they do not know.
_PARSERS_FALL = (KeyError, TypeError, ValueError, AttributeError, IndexError, ArithmeticError)

_STATUSES = frozenset(status.value for status in HTTPStatus)


class _OurFault(Exception):
    """Around an error of our own code, which says nothing of the exchange: that ccxt's parsers fell over an answer."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


class _NotSent(Exception):
    """Instead of a request that was to show its URL only."""

    def __init__(self, url: str, cost: float) -> None:
        super().__init__(url)
        self.url = url
        self.cost = cost


def exchange_ids() -> Sequence[str]:
    """All exchange ids that ccxt knows."""
    ids: Sequence[str] = ccxt.async_support.exchanges
    return ids


def user_agent() -> str:
    """How chandlery names itself to exchanges."""
    try:
        own = version("chandlery")
    except PackageNotFoundError:  # run from a source tree
        own = "0"
    return f"chandlery/{own} ccxt/{ccxt.async_support.__version__}"


def _lenient_json(text: str) -> Any:
    """JSON that ccxt's fast parser refuses, None if it is none: half a surrogate pair or NaN spoils one row, not all."""
    try:
        return json.loads(text) if text[:1] in ("[", "{") else None
    except (ValueError, RecursionError):
        return None


class Client:
    """One exchange through ccxt, for one process and one event loop.

    `url` stands in for the exchange's own hosts; `timeout_seconds` is the total time of one request. No key is ever
    sent unless `signed`.
    """

    def __init__(
        self,
        exchange_id: str,
        *,
        pacer: Pacer,
        traffic: Traffic,
        url: str | None = None,
        api_key: str = "",
        secret: str = "",
        signed: bool = False,
        timeout_seconds: float = 30.0,
    ) -> None:
        base = getattr(ccxt.async_support, exchange_id, None) if exchange_id in exchange_ids() else None
        if base is None:
            raise UnknownExchange(f"no exchange {exchange_id!r}")
        quiet = logging.getLogger("ccxt")
        # ccxt logs keys, signatures and whole answers at DEBUG.
        if quiet.getEffectiveLevel() < logging.INFO:
            quiet.setLevel(logging.INFO)
        self.id = exchange_id
        self.pacer = pacer
        self.traffic = traffic
        self.url = url
        self.timeout_seconds = timeout_seconds
        keys = {"apiKey": api_key, "secret": secret} if signed else {}
        strict = type(f"Strict_{exchange_id}", (StrictMixin, base), {"chandlery": self})
        self.ccxt: Any = strict({"enableRateLimit": False, "userAgent": user_agent(), **keys})
        self.ccxt.timeout_on_exit = (
            0  # close() waits a quarter of a second otherwise; no request is under way then
        )
        self.parses_pages = base.parse_ohlcvs is not ccxt.async_support.Exchange.parse_ohlcvs
        if not signed:
            # With this on, some classes load currencies from endpoints that want a key.
            self.ccxt.options["fetchCurrencies"] = False
            self.ccxt.has = {**self.ccxt.has, "fetchCurrencies": False}
        if url:
            self.ccxt.urls = {
                **self.ccxt.urls,
                "api": redirected(self.ccxt.urls.get("api"), url, str(self.ccxt.hostname or "")),
            }
        self.layouts = Layouts() if exchange_id in KNOWN else None
        self.date = ""  # the Date header of the latest answer
        self._requests = Requests(timeout_seconds=timeout_seconds, limit=BODY_LIMIT)
        self._closed = False

    # -- what callers use ------------------------------------------------------------------------------------------

    async def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, Call]:
        """Call a ccxt method by name; raises ExchangeError. Returns its value and what the call saw."""
        call = Call(for_candles=name == "fetch_ohlcv")
        current = [call]
        token = CALL.set(current)
        try:
            return await getattr(self.ccxt, name)(*args, **kwargs), call
        except ExchangeError:
            raise
        except _OurFault as fault:
            raise fault.error from fault.error.__cause__
        except ccxt.BaseError as error:
            raise self._error(error, call.reply) from error
        except _PARSERS_FALL as error:
            # ccxt's own parsers fall over answers of a shape that they do not know.
            raise self._error(ccxt.BadResponse(f"{type(error).__name__}: {error}"), call.reply) from error
        finally:
            CALL.reset(token)
            current.clear()

    async def load_markets(self, *, types: Sequence[str] | None = None) -> Mapping[str, Mapping[str, Any]]:
        """All markets as ccxt has them, by symbol. `types` narrows what binance is asked for (spot, linear, inverse)."""
        if types is not None and isinstance(self.ccxt.options.get("fetchMarkets"), dict):
            self.ccxt.options["fetchMarkets"] = {**self.ccxt.options["fetchMarkets"], "types": list(types)}
        reload = types is not None and bool(self.ccxt.markets)
        markets, _ = await self.call("load_markets", reload)
        FROZEN.add(self)
        found: Mapping[str, Mapping[str, Any]] = markets
        return found

    async def cost_of_candles(
        self, requests: int, symbol: str, timeframe: str, since: int, limit: int
    ) -> tuple[float, float]:
        """Weight and least seconds of that many such asks for candles, by what is declared and left of it now.

        Nothing is sent: ccxt is asked for the URL.
        """
        current = [Call(dry=True)]
        token = CALL.set(current)
        try:
            await self.ccxt.fetch_ohlcv(symbol, timeframe, since, limit)
        except _NotSent as found:
            host, cost = self._host(found.url), found.cost
            weight, seconds = host.weight(found.url, cost), host.seconds(requests, found.url, cost)
            return requests * weight, seconds
        except (ccxt.BaseError, KeyError, TypeError, ValueError, AttributeError) as error:
            log.debug("%s: no URL for candles of %s: %s", self.id, symbol, error)
        finally:
            CALL.reset(token)
            current.clear()
        return float(requests), 0.0

    async def close(self) -> None:
        """Close the connections; twice is fine."""
        self._closed = True
        FROZEN.remove(self)
        self.pacer.close()
        await self._requests.close()
        await self.ccxt.close()

    # -- one request -----------------------------------------------------------------------------------------------

    async def send(self, url: str, method: str, headers: Any, body: Any) -> Any:
        """Send one request within its host's budget; ccxt's `fetch`, made strict."""
        exchange = self.ccxt
        if self.url is not None and urlsplit(url).netloc != urlsplit(self.url).netloc:
            url = redirect_url(url, self.url)  # an address that the class holds outside its table of URLs
        host, cost, call = self._host(url), self._weight(url), current_call()
        if call is not None and call.dry:
            raise _NotSent(url, cost)
        if (again := host.renewal()) is not None:
            token = CALL.set([])  # what it says is none of this call's
            try:
                await self.send(again, "GET", None, None)
            finally:
                CALL.reset(token)
        sent = exchange.prepare_request_headers(headers)
        try:
            async with host.turn(url, cost) as ticket:
                self.traffic.requests += 1
                self.traffic.weight += host.weight(url, cost)
                reply = Reply(url=url)
                if call is not None:
                    call.reply = reply
                raw = await self._exchange_bytes(reply, url, method, sent, body)
                host.report(reply.headers, ticket)
                if asks_to_wait(reply):
                    raise self._refused(host, ticket, reply, ccxt.DDoSProtection(""))
        except _PARSERS_FALL as error:
            raise _OurFault(error) from error  # no answer was parsed yet
        try:
            decoded = self._believed(reply, url, method, raw, sent, body)
        except (ccxt.RateLimitExceeded, ccxt.DDoSProtection) as error:
            raise self._refused(host, ticket, reply, error) from error
        host.went_well()
        return decoded

    def _refused(self, host: Host, ticket: Ticket, reply: Reply, error: Exception) -> ExchangeError:
        """The error for a request that was one too many; nobody sends one before the time in it."""
        wait = wait_named(reply, self.pacer.clock.now_ms())
        until = host.refused(ticket, reply.url, wait, f"HTTP {reply.status}")
        return refused_until(error, reply, exchange=self.id, until=until)

    def _host(self, url: str) -> Host:
        """Who is asked by `url`. Of a server that stands in for exchanges, each path is one exchange."""
        path = urlsplit(self.url).path.rstrip("/") if self.url else ""
        return self.pacer.host(urlsplit(url).netloc + path)

    def _believed(self, reply: Reply, url: str, method: str, raw: bytes, sent: Any, body: Any) -> Any:
        """Decode an answer as ccxt would, with every hook of the exchange's class; raise where it is none."""
        exchange = self.ccxt
        page, text = self._cut(reply, raw)
        status, headers = reply.status, reply.headers
        reason = str(HTTPStatus(status).phrase) if status in _STATUSES else ""
        text = exchange.on_rest_response(status, reason, url, method, headers, text, sent, body)
        decoded = exchange.parse_json(text)
        if decoded is None:
            decoded = _lenient_json(text)
        if page is not None:
            decoded = with_rows(decoded, page)
        exchange.handle_errors(status, reason, url, method, headers, text, decoded, sent, body)
        exchange.handle_http_status_code(status, reason, url, method, "")
        if not 200 <= status < 300:
            raise ccxt.BadResponse(f"{self.id}: HTTP {status} is not an answer")
        if decoded is None and text.isdecimal():
            return text  # the time, as a few exchanges send it
        if not isinstance(decoded, dict | list):
            raise ccxt.BadResponse(f"{self.id}: an answer that is not JSON")
        if isinstance(decoded, dict) and "serverTime" in decoded:
            self._host(url).exchange_says(decoded["serverTime"])
        if isinstance(decoded, dict) and "rateLimits" in decoded:
            self._host(url).declare(decoded["rateLimits"], url)
        return decoded

    def _cut(self, reply: Reply, raw: bytes) -> tuple[PageRows | None, str]:
        """The rows of an answer of candles, if they may stay text, and the answer's text without them."""
        call = current_call()
        if call is None or not call.for_candles or self.layouts is None or reply.status != 200:
            return None, raw.decode("utf-8", "replace")
        page, raw = cut_page(raw, self.layouts)
        return page, raw.decode("utf-8", "replace")

    async def _exchange_bytes(self, reply: Reply, url: str, method: str, headers: Any, body: Any) -> bytes:
        """One HTTP request, redirects not followed, its answer no larger than BODY_LIMIT, within the total time."""
        if self._closed:
            raise ccxt.ExchangeClosedByUser("the source is closed")
        try:
            answer = await self._requests.send(url, method, headers, body)
        except AnswerTooLarge as error:
            raise ccxt.BadResponse(f"{self.id}: {error}") from error
        except TimeoutError as error:
            raise ccxt.RequestTimeout(f"no answer within {self.timeout_seconds:g} s") from error
        except (ssl.SSLCertVerificationError, aiohttp.ClientConnectorCertificateError) as error:
            raise ccxt.PermissionDenied("the server's certificate cannot be verified") from error
        except (aiohttp.ClientError, OSError) as error:
            raise ccxt.ExchangeNotAvailable(unreachable(error, urlsplit(url).netloc)) from error
        except ValueError as error:  # aiohttp, of what is no HTTP
            raise ccxt.BadResponse(f"{self.id}: {error}") from error
        reply.status, reply.headers = answer.status, answer.headers
        self.date = reply.headers.get("date", self.date)
        reply.body = answer.body[:2000].decode("utf-8", "replace")
        return answer.body

    def _weight(self, url: str) -> float:
        # ccxt counts binance's spot weights in units of 50 ms of the 6,000 a minute that are declared: one is 5.
        spot = self.id == "binance" and "/api/v3/" in url
        return COST.get() * 5 if spot else COST.get()

    def _error(self, error: Exception, reply: Reply) -> ExchangeError:
        return to_error(error, reply, exchange=self.id, now=self.pacer.clock.now_ms())
