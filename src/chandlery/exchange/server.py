"""The HTTP face: requests in, answers or faults out, and a log of both."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from email.utils import formatdate
from typing import Any

from aiohttp import web

from chandlery.errors import UsageError
from chandlery.exchange.binance import ApiError, BinanceApi, refusal
from chandlery.exchange.clock import ExchangeClock, TimeSource, parse_moment, parse_speed
from chandlery.exchange.faults import Asked, FaultPlayer, Faults, Strike, faults_from
from chandlery.exchange.limits import RequestLimits, Verdict
from chandlery.exchange.mangle import PAGE, spoil_body
from chandlery.exchange.market import TIMEFRAMES, Market

_JSON = "application/json;charset=UTF-8"
_LOGGED = 200_000


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """One request: `time` is the exchange's, `status` 0 where no answer was sent, `fault` the kind that struck."""

    number: int
    path: str
    query: Mapping[str, str]
    status: int
    time: int
    fault: str | None


class ExchangeServer:
    """Handles every request of one local exchange; lives on one event loop."""

    def __init__(
        self,
        api: BinanceApi,
        market: Market,
        clock: TimeSource,
        limits: RequestLimits,
        *,
        faults: Faults,
        name: str,
    ) -> None:
        self._api = api
        self._market = market
        self._clock = clock
        self._limits = limits
        self._prefix = f"/{name}"
        self._log: deque[RequestRecord] = deque(maxlen=_LOGGED)
        self._log_lock = threading.Lock()
        self._count = 0
        self._player = FaultPlayer(faults)
        self.stopping = asyncio.Event()

    @property
    def faults(self) -> Faults:
        """The script being played; setting one starts it from its beginning."""
        return self._player.faults

    @faults.setter
    def faults(self, faults: Faults) -> None:
        self._player = FaultPlayer(faults)

    def requests(self) -> list[RequestRecord]:
        """The last requests (200,000 at most), oldest first, without those to the control endpoint."""
        with self._log_lock:
            return list(self._log)

    def forget_requests(self) -> None:
        """Empty the log and start counting anew."""
        with self._log_lock:
            self._log.clear()
            self._count = 0

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request; the Date of the answer is the exchange's own."""
        response = await self._handle(request)
        response.headers["Date"] = formatdate(self._clock.now_ms() / 1000, usegmt=True)
        return response

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        path = request.path
        if path.startswith("/_control/"):
            return await self._control(request)
        path = path.removeprefix(self._prefix)
        endpoint = self._api.endpoints.get(path)
        if endpoint is None:
            self._record(path, {}, 404, None)
            return web.Response(status=404, text=f"no such path: {path}\n")
        query = dict(request.query)
        verdict = self._limits.spend(endpoint.weight)
        headers = {"X-MBX-USED-WEIGHT": str(verdict.used), "X-MBX-USED-WEIGHT-1M": str(verdict.used)}
        if verdict.status != 200:
            self._record(path, query, verdict.status, None)
            return self._refuse(verdict, headers)
        if request.method != "GET":
            self._record(path, query, 405, None)
            return web.Response(status=405, headers=headers, text="only GET is answered here\n")
        return await self._answer(request, path, query, headers)

    async def _answer(
        self, request: web.BaseRequest, path: str, query: dict[str, str], headers: dict[str, str]
    ) -> web.Response:
        """The answer, with what the script of faults makes of it."""
        player, asked = self._player, self._asked(path, query)
        latency, strike = player.next(asked)
        if latency:
            await self._delay(latency, path, query)
        ignored = {"startTime", "endTime"} if strike is not None and strike.kind == "since_ignored" else set()
        try:
            status, body = (
                200,
                self._api.endpoints[path].answer(
                    {name: value for name, value in query.items() if name not in ignored}
                ),
            )
        except ApiError as error:
            status, body = error.status, error.body
        if strike is not None and strike.kind in {"reset", "hang"}:
            player.done(asked, struck=True)
            self._record(path, query, 0, strike.kind)
            if strike.kind == "hang":
                await self.stopping.wait()
            _break_off(request)
            return web.Response()
        spoiled = None if strike is None else self._spoil(query, strike, status, body, headers)
        player.done(asked, struck=spoiled is not None)
        if spoiled is not None and strike is not None:
            self._record(path, query, spoiled.status, strike.kind)
            return spoiled
        self._record(path, query, status, None)
        return web.Response(status=status, body=body, headers={**headers, "Content-Type": _JSON})

    async def _delay(self, ms: int, path: str, query: dict[str, str]) -> None:
        try:
            await asyncio.sleep(ms / 1000)
        except asyncio.CancelledError:  # the caller has hung up
            self._record(path, query, 0, "latency")
            raise

    def _asked(self, path: str, query: Mapping[str, str]) -> Asked:
        symbol, start = query.get("symbol", ""), query.get("startTime", "")
        listing = self._market.listings.get(symbol)
        unified = listing.symbol if listing else ""
        begin = int(start) if start.isascii() and start.isdigit() else None
        return Asked(path, symbol, unified, query.get("interval", ""), begin)

    def _refuse(self, verdict: Verdict, headers: dict[str, str]) -> web.Response:
        # The end of the ban is told in the exchange's time; Retry-After is in real seconds.
        speed = self._clock.speed if isinstance(self._clock, ExchangeClock) else 1.0
        until = self._clock.now_ms() + int(verdict.wait_ms * (speed or 1.0))
        error = refusal(verdict, self._limits.limit, until)
        headers |= {"Retry-After": str(verdict.retry_after), "Content-Type": _JSON}
        return web.Response(status=error.status, body=error.body, headers=headers)

    def _spoil(
        self, query: dict[str, str], strike: Strike, status: int, body: bytes, headers: dict[str, str]
    ) -> web.Response | None:
        """The faulty answer, or None where this fault can do nothing to this answer."""
        kind = strike.kind
        if kind in {"429", "418"}:
            return self._refuse(Verdict(int(kind), 0, strike.rule.retry_after * 1000), headers)
        if kind == "5xx":
            return _server_error(strike.rule.status, headers)
        if status != 200:
            return None
        if kind == "since_ignored":
            spoiled: bytes | None = body if "startTime" in query else None
        else:
            timeframe = TIMEFRAMES.get(query.get("interval", ""))
            spoiled = spoil_body(body, strike, timeframe, self._clock.now_ms())
        if spoiled is None:
            return None
        content = "text/html" if kind == "html" else _JSON
        return web.Response(body=spoiled, headers={**headers, "Content-Type": content})

    def _record(self, path: str, query: Mapping[str, str], status: int, fault: str | None) -> None:
        with self._log_lock:
            self._count += 1
            self._log.append(RequestRecord(self._count, path, query, status, self._clock.now_ms(), fault))

    async def _control(self, request: web.BaseRequest) -> web.Response:
        """Faults, request log and clock at run time; documented in docs/local-exchange.md."""
        try:
            answer = self._control_answer(
                request.method, request.path.removeprefix("/_control/"), await request.read()
            )
        except UsageError as error:
            return web.json_response({"error": error.message, "hint": error.hint}, status=400)
        if answer is None:
            return web.json_response({"error": f"no {request.method} {request.path}"}, status=404)
        return web.json_response(answer)

    def _control_answer(self, method: str, name: str, body: bytes) -> Any:
        if name == "faults":
            if method in {"POST", "PUT"}:
                self.faults = faults_from(_document(body))
            elif method == "DELETE":
                self.faults = Faults()
            return self.faults.as_json()
        if name == "requests":
            if method == "DELETE":
                self.forget_requests()
            return {"requests": [asdict(record) for record in self.requests()]}
        if name == "clock":
            if method in {"POST", "PUT"}:
                self._set_clock(_document(body))
            speed = self._clock.speed if isinstance(self._clock, ExchangeClock) else None
            return {"time": self._clock.now_ms(), "speed": speed}
        return None

    def _set_clock(self, document: Any) -> None:
        if not isinstance(self._clock, ExchangeClock):
            raise UsageError("the clock of this exchange belongs to who started it", hint="set that clock")
        if not isinstance(document, dict) or not document or set(document) - {"time", "speed"}:
            raise UsageError(
                "a clock is set with `time`, `speed` or both",
                hint='{"time": "2024-06-01T00:00Z", "speed": 0}',
            )
        moment = parse_moment(str(document["time"])) if "time" in document else self._clock.now_ms()
        speed = parse_speed(str(document["speed"])) if "speed" in document else self._clock.speed
        self._clock.set(moment, speed)


def _document(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        raise UsageError("the body is not JSON", hint="docs/local-exchange.md shows what to send") from None


def _break_off(request: web.BaseRequest) -> None:
    """Close the connection with a TCP reset rather than in good order."""
    transport = request.transport
    if transport is not None:
        raw = transport.get_extra_info("socket")
        if raw is not None:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()


def _server_error(status: int, headers: dict[str, str]) -> web.Response:
    if status == 500:
        error = ApiError(-1001, "Internal error; unable to process your request. Please try again.", 500)
        return web.Response(status=500, body=error.body, headers={**headers, "Content-Type": _JSON})
    return web.Response(status=status, body=PAGE, headers={**headers, "Content-Type": "text/html"})
