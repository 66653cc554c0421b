"""A fault proxy before a real InfluxDB: it forwards what it is asked, but for what a test has planned, and remembers all.

with FaultProxy(server.url) as proxy:
    proxy.plan(Fault(status=503, headers={"Retry-After": "0.1"}, skip=1, times=2))
    ...
    assert [seen.status for seen in proxy.writes] == [204, 503, 503, 204]
"""

from __future__ import annotations

import asyncio
import gzip
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal, Self

import aiohttp
from aiohttp import web

WRITE = "/api/v2/write"


@dataclass(slots=True)
class Fault:
    """What happens to the requests of one path: let `skip` of them pass, then befall `times` of them.

    `status` is answered instead of the server; `cut` ends the connection without an answer, before or after the server
    took the request; `hold` waits so many seconds first; `longest` befalls only larger bodies; `matching` only those
    it says.
    """

    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    cut: Literal["", "before", "after"] = ""
    hold: float = 0.0
    skip: int = 0
    times: int = 1
    longest: int = -1
    matching: Callable[[bytes], bool] | None = None
    path: str = WRITE

    def befalls(self, path: str, body: bytes) -> bool:
        """Whether it befalls this request, which is counted."""
        if self.times <= 0 or path != self.path or len(body) <= self.longest:
            return False
        if self.matching is not None and not self.matching(body):
            return False
        if self.skip:
            self.skip -= 1
            return False
        self.times -= 1
        return True


@dataclass(frozen=True, slots=True)
class Seen:
    """A request and what became of it: status 0 where the connection was cut. The body is as unpacked."""

    method: str
    path: str
    query: Mapping[str, str]
    body: bytes
    packed: bool
    status: int
    at_once: int  # requests on their way when it came, itself included


class FaultProxy:
    """Listens on 127.0.0.1 in a thread of its own while it is a context."""

    def __init__(self, server: str) -> None:
        self.server = server
        self.url = ""
        self.seen: list[Seen] = []
        self._faults: list[Fault] = []
        self._under_way = 0
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._ended: asyncio.Event
        self._thread = threading.Thread(target=self._serve, name="fault-proxy", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        if not self._ready.wait(10):
            raise RuntimeError("the proxy did not start")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join(10)

    def plan(self, *faults: Fault) -> None:
        """Let these befall the coming requests; of several, the first that fits."""
        self._faults.extend(faults)

    def heal(self) -> None:
        """Forget every plan."""
        self._faults.clear()

    @property
    def writes(self) -> list[Seen]:
        """The requests to write, in the order in which they ended."""
        return [seen for seen in self.seen if seen.path == WRITE]

    @property
    def lines_taken(self) -> int:
        """Lines of all writes that were answered with 204."""
        return sum(seen.body.count(b"\n") for seen in self.writes if seen.status == 204)

    def _serve(self) -> None:
        self._loop.run_until_complete(self._run())
        self._loop.close()

    async def _run(self) -> None:
        self._ended = asyncio.Event()
        application = web.Application(client_max_size=1 << 30)
        application.router.add_route("*", "/{any:.*}", self._handle)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        async with aiohttp.ClientSession(auto_decompress=False) as self._session:
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            self._ready.set()
            await self._ended.wait()
            await runner.cleanup()

    async def _handle(self, request: web.Request) -> web.Response:
        self._under_way += 1
        at_once = self._under_way
        status = 0
        body = b""
        try:
            body = await request.read()  # as unpacked by aiohttp
            answer = await self._answer(request, body)
            status = answer.status
            return answer
        finally:
            self._under_way -= 1
            packed = request.headers.get("Content-Encoding") == "gzip"
            self.seen.append(
                Seen(request.method, request.path, dict(request.query), body, packed, status, at_once)
            )

    async def _answer(self, request: web.Request, body: bytes) -> web.Response:
        fault = next((one for one in self._faults if one.befalls(request.path, body)), Fault())
        await asyncio.sleep(fault.hold)
        if fault.status:
            return web.Response(status=fault.status, headers=fault.headers, body=fault.body)
        if fault.cut == "before":
            raise self._cut(request)
        answer = await self._forward(request, body)
        if fault.cut == "after":
            raise self._cut(request)
        return answer

    async def _forward(self, request: web.Request, body: bytes) -> web.Response:
        left_out = {"host", "content-length", "transfer-encoding", "connection"}
        headers = {name: value for name, value in request.headers.items() if name.lower() not in left_out}
        if headers.get("Content-Encoding") == "gzip":
            body = gzip.compress(body, 1)
        url = f"{self.server}{request.raw_path}"
        async with self._session.request(
            request.method, aiohttp.client.URL(url, encoded=True), data=body, headers=headers
        ) as reply:
            found = await reply.read()
            kept = {name: value for name, value in reply.headers.items() if name.lower() not in left_out}
            return web.Response(status=reply.status, headers=kept, body=found)

    @staticmethod
    def _cut(request: web.Request) -> Exception:
        if request.transport is not None:
            request.transport.abort()
        return ConnectionResetError("cut by the test")
