"""The way to an InfluxDB 2 server: one aiohttp session in a loop of its own, answers as they are, waits that pass.

Asynchronous inside; `InfluxHttp.run` is the way in for the synchronous methods of a store, from any thread.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import os
import time
import weakref
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import aiohttp

from chandlery.errors import DatabaseError, StoreFull, StoreUnreadable, UsageError
from chandlery.loop import Call, LoopThread, drop_in_loop
from chandlery.stores.influx_place import InfluxPlace

log = logging.getLogger("chandlery.stores")

T = TypeVar("T")

#: Seconds that a server which has answered before may be away before a call gives up. A restart takes one to three.
PATIENCE = 60.0
#: Seconds that one request may take without a byte coming back.
SILENCE = 60.0
#: A wait that the server asks for is taken up to this many seconds.
LONGEST_WAIT = 3600.0
#: Bytes of an answer that may wait to be read. With aiohttp's 64 kB a year of 1m takes half as long again.
READ_BUFFER = 1 << 20
#: Answers that can pass by themselves: too busy, starting, or in trouble that ends.
PASSING = frozenset({408, 429, 499, 500, 502, 503, 504})
_NO_SPACE = "no space left"
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server said: the HTTP status, its body, and its header names in lower case."""

    status: int
    body: bytes
    headers: Mapping[str, str]

    @property
    def said(self) -> str:
        """The server's message, however it is wrapped; at most 500 characters."""
        text = self.body.decode("utf-8", "replace")
        try:
            found = json.loads(text)
            text = str(found.get("message") or found.get("error") or text)
        except (ValueError, AttributeError):
            pass
        return text[:500] or f"status {self.status}"

    def json(self) -> Any:
        """The body as JSON; raises DatabaseError if it is none."""
        try:
            return json.loads(self.body)
        except ValueError:
            raise DatabaseError(
                f"an answer of InfluxDB is not JSON: {self.said[:100]!r}",
                hint="is INFLUXDB_URL an InfluxDB 2?",
            ) from None


class InfluxHttp:
    """Asks one InfluxDB server. Close it to let go of connections and thread.

    `patience` is in seconds: how long a server that has answered before may be away. One that never did is not waited for.
    """

    def __init__(self, place: InfluxPlace, *, patience: float = PATIENCE) -> None:
        self.place = place
        self.patience = patience
        self._thread: LoopThread | None = None
        self._session: aiohttp.ClientSession | None = None
        self._let_go: weakref.finalize[..., InfluxHttp] | None = None
        self._closed = False
        self._pid = os.getpid()
        self._has_answered = False
        self._given_up: set[tuple[str, str]] = set()  # questions that patience was lost over

    # -- from any thread ---------------------------------------------------------------------------------------------

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in this object's loop and wait for it; Ctrl-C ends it first."""
        try:
            self.check_open()
            if self._thread is None or not self._thread.alive:
                self._thread, self._session = LoopThread(), None
        except BaseException:
            work.close()
            raise
        call = Call(self._thread, lambda: work)
        try:
            return call.wait_for_result()
        except KeyboardInterrupt:
            call.cancel()
            raise

    def close(self) -> None:
        """Let go of everything; twice is fine."""
        if self._closed:
            return
        if self._session is not None and self._thread is not None and self._thread.alive:
            self.run(self._session.close())
        self._closed = True
        if self._let_go is not None:
            self._let_go.detach()
        if self._thread is not None:
            self._thread.stop()

    def check_open(self) -> None:
        """Raise StoreUnreadable once it is closed, and in a fork of the process that made it."""
        if self._closed:
            raise StoreUnreadable(f"the store {self.place.url} is closed", hint="open it again")
        if self._pid != os.getpid():
            raise StoreUnreadable(
                f"the store {self.place.url} was opened by process {self._pid}, of which this is a fork",
                hint="open the store again in each process",
            )

    # -- inside the loop ---------------------------------------------------------------------------------------------

    async def ask(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        retry: bool = True,
    ) -> Answer:
        """One question, asked again (the same bytes) while what stands in its way can pass, for `patience` seconds.

        Returns any final answer, good or bad: what a status means is the caller's to know. Raises DatabaseError where
        no answer came, or only passing ones until the patience was over; from then on it is waited for no more until
        such a question is answered. Without `retry` it is asked once, and a passing status is returned.
        """
        question = (method, path)
        end = time.monotonic() + (0 if question in self._given_up else self.patience)
        pause = _FIRST_PAUSE
        while True:
            answer, trouble = await self._once(method, path, params, body, headers)
            if answer is not None and (not retry or not _can_pass(answer)):
                self._has_answered = True
                self._given_up.discard(question)
                return answer
            wait = pause
            if answer is not None:
                self._has_answered = True
                wait = max(pause, told_wait(answer))
            if not retry or not self._has_answered or time.monotonic() + wait > end:
                self._given_up.add(question)
                raise self._gave_up(answer, trouble)
            log.warning(
                "InfluxDB at %s: %s; asking again in %.1f s",
                self.place.server,
                trouble if answer is None else f"{answer.status} {answer.said}",
                wait,
            )
            await asyncio.sleep(wait)
            pause = min(pause * 2, _LONGEST_PAUSE)

    async def _once(
        self,
        method: str,
        path: str,
        params: Mapping[str, str] | None,
        body: bytes | None,
        headers: Mapping[str, str] | None,
    ) -> tuple[Answer | None, str]:
        """An answer, or why there is none."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=SILENCE),
                auto_decompress=True,
                read_bufsize=READ_BUFFER,
            )
            assert self._thread is not None
            # Whoever forgets to close it is not scolded for it by aiohttp at the end of the program.
            self._let_go = weakref.finalize(self, _close, self._thread, self._session)
        sent = {"Authorization": f"Token {self.place.token}", **(headers or {})}
        if not self.place.token:
            del sent["Authorization"]  # a new server is onboarded without one
        if self.place.is_loopback:
            sent.setdefault(
                "Accept-Encoding", "identity"
            )  # the server's compressor is slower than the loopback
        try:
            async with self._session.request(
                method,
                self.place.server + path,
                params=params,
                data=body,
                headers=sent,
                allow_redirects=False,
            ) as reply:
                found = await reply.read()
                low = {name.lower(): value for name, value in reply.headers.items()}
                return Answer(reply.status, found, low), ""
        except aiohttp.InvalidURL:
            raise UsageError(f"not an address: {self.place.server}", hint="check INFLUXDB_URL") from None
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            # aiohttp says so of plain HTTP too.
            return None, str(error).replace(" ssl:default", "") or type(error).__name__

    def _gave_up(self, answer: Answer | None, trouble: str) -> DatabaseError:
        where = f"InfluxDB at {self.place.server}"
        if answer is None:
            return DatabaseError(
                f"{where} does not answer: {trouble}",
                hint="is it running, and is INFLUXDB_URL right? what is not there yet comes with the next run",
            )
        return failed(self.place, answer)


def _close(thread: LoopThread, session: aiohttp.ClientSession) -> None:
    """Close what nobody uses any more, from any thread, without waiting."""
    drop_in_loop(thread, session.close)
    if thread.alive and not thread.is_current:
        thread.stop()


def _can_pass(answer: Answer) -> bool:
    """Whether asking again may help. A server whose disk was full refuses all writes until it is started anew."""
    return answer.status in PASSING and _NO_SPACE not in answer.said


def told_wait(answer: Answer) -> float:
    """Seconds that the answer asks to wait, 0 if it names none, an hour at most."""
    try:
        return min(max(float(answer.headers.get("retry-after", "0")), 0.0), LONGEST_WAIT)
    except ValueError:
        return 0.0


def failed(place: InfluxPlace, answer: Answer) -> DatabaseError:
    """The error for an answer that is not what was asked for, with the mend for each status."""
    said, where = answer.said, f"InfluxDB at {place.server}"
    if answer.status == 401:
        return StoreUnreadable(
            f"{where} does not take the token: {said}", hint="check INFLUXDB_TOKEN; it may have been revoked"
        )
    if answer.status == 403:
        return StoreUnreadable(
            f"{where}: the token may not do that: {said}",
            hint=f"give it read and write rights on the bucket {place.bucket}",
        )
    if answer.status == 404:
        return StoreUnreadable(
            f"{where}: {said}",
            hint=f"check the organisation {place.org!r} and the bucket {place.bucket!r}; `chandlery influx setup` makes them",
        )
    if _NO_SPACE in said:
        return StoreFull(
            f"{where} has no space left on its disk: {said}",
            hint="make room, then restart influxd: it goes on refusing writes until then; nothing acknowledged is lost",
        )
    return DatabaseError(f"{where} answered {answer.status}: {said}", hint="its log says more")


def packed(place: InfluxPlace, body: bytes) -> tuple[bytes, dict[str, str]]:
    """The body as it should travel, and the header that says so: compressed unless the server is on this host."""
    if place.is_loopback:
        return body, {}
    return gzip.compress(body, 1), {"Content-Encoding": "gzip"}
