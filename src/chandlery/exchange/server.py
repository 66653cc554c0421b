"""The HTTP face: requests in, answers or faults out, and a log of both."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import struct
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from email.utils import formatdate
from typing import Any

from aiohttp import web

from chandlery.errors import UsageError
from chandlery.exchange.clock import ExchangeClock, TimeSource, parse_moment, parse_speed
from chandlery.exchange.faults import Asked, FaultPlayer, Faults, Strike, faults_from
from chandlery.exchange.limits import Verdict
from chandlery.exchange.mangle import PAGE, spoil_body
from chandlery.exchange.shape import ApiError, Endpoint, Page, Shape

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
    exchange: str = ""


class ExchangeServer:
    """Handles every request of one local exchange; lives on one event loop.

    Each shape answers below /ID; the first one at / too. Each plays the script of faults by itself.
    """

    def __init__(self, shapes: Sequence[Shape], clock: TimeSource, *, faults: Faults) -> None:
        self._clock = clock
        self._mounts = {shape.id: _Mount(shape) for shape in shapes}
        self._root = self._mounts[shapes[0].id]
        self._log: deque[RequestRecord] = deque(maxlen=_LOGGED)
        self._log_lock = threading.Lock()
        self._count = 0
        self.faults = faults
        self.stopping = asyncio.Event()

    @property
    def faults(self) -> Faults:
        """The script being played; setting one starts it from its beginning."""
        return self._root.player.faults

    @faults.setter
    def faults(self, faults: Faults) -> None:
        for name, mount in self._mounts.items():
            mount.player = FaultPlayer(faults, name)

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
        first, _, rest = path[1:].partition("/")
        mount = self._mounts.get(first)
        if mount is None:
            mount = self._root
        else:
            path = "/" + rest
        found = mount.find(path)
        if found is None:
            self._record(mount, path, {}, 404, None)
            return web.Response(status=404, text=f"no such path: {path}\n")
        endpoint, named = found
        query = {**request.query, **named}
        weight = endpoint.weight if isinstance(endpoint.weight, int) else endpoint.weight(query)
        verdict = mount.shape.limits.spend(weight, endpoint.group)
        headers = mount.shape.headers(verdict)
        if verdict.status != 200:
            refused = self._refuse(mount, verdict, headers)
            self._record(mount, path, query, refused.status, None)
            return refused
        if request.method != "GET":
            self._record(mount, path, query, 405, None)
            return web.Response(status=405, headers=headers, text="only GET is answered here\n")
        return await self._answer(request, mount, endpoint, path, query, headers)

    async def _answer(
        self,
        request: web.BaseRequest,
        mount: _Mount,
        endpoint: Endpoint,
        path: str,
        query: dict[str, str],
        headers: dict[str, str],
    ) -> web.Response:
        """The answer, with what the script of faults makes of it."""
        player, asked = mount.player, mount.asked(endpoint, path, query)
        latency, strike = player.next(asked)
        if latency:
            await self._delay(mount, latency, path, query)
        wanted: Mapping[str, str] = query
        if strike is not None and strike.kind == "since_ignored" and endpoint.candles:
            wanted = endpoint.candles.ignored(query)
        answer: Page | bytes | ApiError
        try:
            answer = endpoint.answer(wanted)
        except ApiError as error:
            answer = error
        if strike is not None and strike.kind in {"reset", "hang"}:
            player.done(asked, struck=True)
            self._record(mount, path, query, 0, strike.kind)
            if strike.kind == "hang":
                await self.stopping.wait()
            _break_off(request)
            return web.Response()
        spoiled = None
        if strike is not None:
            # The latest rows in place of those asked for are a fault only where some were asked for.
            ignorant = strike.kind == "since_ignored" and wanted != query
            spoiled = self._spoil(mount, endpoint.group, strike, answer, headers, ignorant=ignorant)
        player.done(asked, struck=spoiled is not None)
        if spoiled is not None and strike is not None:
            self._record(mount, path, query, spoiled.status, strike.kind)
            return spoiled
        sound = _sound(answer, headers)
        self._record(mount, path, query, sound.status, None)
        return sound

    async def _delay(self, mount: _Mount, ms: int, path: str, query: dict[str, str]) -> None:
        try:
            await asyncio.sleep(ms / 1000)
        except asyncio.CancelledError:  # the caller has hung up
            self._record(mount, path, query, 0, "latency")
            raise

    def _refuse(self, mount: _Mount, verdict: Verdict, headers: dict[str, str]) -> web.Response:
        # The end of a ban is told in the exchange's time; Retry-After is in real seconds.
        speed = self._clock.speed if isinstance(self._clock, ExchangeClock) else 1.0
        until = self._clock.now_ms() + int(verdict.wait_ms * (speed or 1.0))
        return _sound(mount.shape.refusal(verdict, until), headers)

    def _spoil(
        self,
        mount: _Mount,
        group: str,
        strike: Strike,
        answer: Page | bytes | ApiError,
        headers: dict[str, str],
        *,
        ignorant: bool,
    ) -> web.Response | None:
        """The faulty answer, or None where this fault can do nothing to this answer."""
        kind = strike.kind
        if kind in {"429", "418"}:
            verdict = Verdict(int(kind), 0, strike.rule.retry_after * 1000, group)
            return self._refuse(mount, verdict, headers)
        if kind == "5xx" and strike.rule.status == 500:
            return _sound(mount.shape.internal_error(), headers)
        if kind == "5xx":
            page = {**headers, "Content-Type": "text/html"}
            return web.Response(status=strike.rule.status, body=PAGE, headers=page)
        if isinstance(answer, ApiError):
            return None
        if kind == "since_ignored":
            return _sound(answer, headers) if ignorant else None
        spoiled = spoil_body(answer, strike, self._clock.now_ms())
        if spoiled is None:
            return None
        content = "text/html" if kind == "html" else _JSON
        return web.Response(body=spoiled, headers={**headers, "Content-Type": content})

    def _record(
        self, mount: _Mount, path: str, query: Mapping[str, str], status: int, fault: str | None
    ) -> None:
        with self._log_lock:
            self._count += 1
            self._log.append(
                RequestRecord(self._count, path, query, status, self._clock.now_ms(), fault, mount.shape.id)
            )

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
        if name == "limits":
            usages = [(i, usage) for i, m in self._mounts.items() for usage in m.shape.limits.usage()]
            if method == "DELETE":
                for _, usage in usages:
                    usage.clear()
            return {"limits": [{"exchange": exchange, **asdict(usage)} for exchange, usage in usages]}
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


class _Mount:
    """One exchange of the server: its shape, and the script of faults as it plays it."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.player = FaultPlayer(Faults())
        self._patterns = [
            (re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", path)), endpoint)
            for path, endpoint in shape.endpoints.items()
            if "{" in path
        ]

    def find(self, path: str) -> tuple[Endpoint, Mapping[str, str]] | None:
        """The endpoint of a path, and what the path itself says."""
        endpoint = self.shape.endpoints.get(path)
        if endpoint is not None:
            return endpoint, {}
        for pattern, candidate in self._patterns:
            match = pattern.fullmatch(path)
            if match:
                return candidate, match.groupdict()
        return None

    def asked(self, endpoint: Endpoint, path: str, query: Mapping[str, str]) -> Asked:
        """What a rule of faults can see of a request."""
        names = endpoint.candles
        if names is None:
            return Asked(path, query.get("symbol", ""))
        symbol, interval = query.get(names.symbol, ""), query.get(names.interval, "")
        listing = (names.find or self.shape.find)(symbol, query)
        timeframe = self.shape.intervals.get(interval)
        return Asked(
            path,
            symbol,
            listing.symbol if listing else "",
            interval,
            names.begin(query),
            timeframe.text if timeframe else "",
        )


def _sound(answer: Page | bytes | ApiError, headers: dict[str, str]) -> web.Response:
    """An answer as the exchange gives it."""
    content = {**headers, "Content-Type": _JSON}
    if isinstance(answer, ApiError):
        return web.Response(status=answer.status, body=answer.body, headers={**content, **answer.headers})
    return web.Response(body=answer.body if isinstance(answer, Page) else answer, headers=content)
