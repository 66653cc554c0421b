"""Lines on their way into InfluxDB: in batches, two in flight, each line acknowledged or accounted for.

Only a 204 acknowledges. What the server refuses for a line's own sake is found, set aside and returned; whatever else it
answers ends the sending with an error. What may have been stored already is sent again with the same bytes: the same
point twice is one point.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from chandlery.stores.influx_http import Answer, InfluxHttp, failed, packed
from chandlery.stores.influx_lines import Lines, joined

#: Lines that a batch has, about: from half of that to half as many more.
BATCH = 5_000
#: Bytes that a batch has at most, unless one line has more.
BATCH_BYTES = 1_000_000
#: Batches on their way at once. More are no faster.
IN_FLIGHT = 2
#: Seconds that a request on its way has to come to an end after another one has failed: as long as the server itself
#: takes at most, so that nothing is stored after the caller was told.
LAST_WORDS = 10.0
#: How often the lines that an answer names are set aside before a part is halved instead.
_NAMINGS = 4
_UNABLE = "unable to parse '"
_DROPPED = re.compile(r"\bdropped[= ](\d+)")
_KEY = re.compile(rb"(?:[^\\ ]|\\.)*", re.DOTALL)

Kind = Literal["syntax", "type", "retention", "size"]


@dataclass(frozen=True, slots=True)
class Refused:
    """A line that the server does not take, without its newline; the server's reason; and its kind.

    `syntax`: it cannot be parsed. `type`: a field has another type in the bucket. `retention`: the bucket would delete
    it at once. `size`: it alone is too large a body.
    """

    line: bytes
    reason: str
    kind: Kind


class Sender:
    """Sends lines to the bucket that `http` asks. One `send` at a time, or several: they share nothing but the server."""

    def __init__(self, http: InfluxHttp) -> None:
        self.http = http
        self.batch_bytes = BATCH_BYTES  # less once the server has said that a body was too large

    async def send(self, lines: Iterable[Lines], *, precision: str = "ms") -> list[Refused]:
        """Send all lines; returns those that the server does not take, in the order of sending.

        When it returns, all others are acknowledged. `lines` is pulled from only as fast as they are taken, in another
        thread, one piece at a time: two batches are on their way, and one is made ready. A piece holds one series; a
        point should come only once, because batches may overtake each other.

        Raises DatabaseError where the server does not answer, or takes nothing (StoreUnreadable for 401, 403 and 404),
        and whatever `lines` raises. Then nothing more is sent, and what was acknowledged stays.
        """
        delivery = _Delivery(self, precision)
        batches = _batches(lines, self)
        flying: set[asyncio.Task[None]] = set()
        number = 0
        try:
            while (batch := await asyncio.to_thread(next, batches, None)) is not None:
                if len(flying) == IN_FLIGHT:
                    flying = await _landed(flying)
                flying.add(asyncio.create_task(delivery.deliver(number, batch)))
                number += 1
            while flying:
                flying = await _landed(flying)
        except BaseException as error:
            delivery.is_open = False
            if flying and isinstance(error, Exception):  # not where somebody pressed Ctrl-C
                await asyncio.wait(flying, timeout=LAST_WORDS)
            for task in flying:
                task.cancel()
            await asyncio.gather(*flying, return_exceptions=True)
            raise
        return [line for n in sorted(delivery.refused) for line in delivery.refused[n]]


async def _landed(flying: set[asyncio.Task[None]]) -> set[asyncio.Task[None]]:
    """Wait until one or more have come to an end, and return the others; raises what they raised."""
    done, others = await asyncio.wait(flying, return_when=asyncio.FIRST_COMPLETED)
    await asyncio.gather(*done)
    return others


class _Ended(Exception):
    """Another batch has failed: this one stops where it is."""


class _Delivery:
    """One `send`: it is open until a batch fails, and knows the refused lines of each batch by its number."""

    def __init__(self, sender: Sender, precision: str) -> None:
        place = sender.http.place
        self.is_open = True
        self.refused: dict[int, list[Refused]] = {}
        self._sender = sender
        self._params = {"org": place.org, "bucket": place.bucket, "precision": precision}

    async def deliver(self, number: int, batch: Lines) -> None:
        """Get every line of a batch acknowledged, or refused for its own sake."""
        answer: Answer | None = await self._post(batch.body)
        if answer is not None and answer.status == 204:
            return
        lines = batch.split()
        refused: dict[int, Refused] = {}
        waiting = [(list(range(len(lines))), _NAMINGS)]
        while waiting:
            part, namings = waiting.pop()
            given = [lines[n] for n in part]
            if answer is None:
                answer = await self._post(b"\n".join(given) + b"\n")
            if answer.status != 204:
                if found := self._refusals(answer, given):
                    refused |= dict(zip(part, found, strict=True))
                else:
                    waiting += self._smaller(answer, part, given, namings)
            answer = None
        self.refused[number] = [refused[n] for n in sorted(refused)]

    async def _post(self, body: bytes) -> Answer:
        if not self.is_open:
            raise _Ended
        http = self._sender.http
        headers: dict[str, str] = {}
        if not http.place.is_loopback:
            body, headers = await asyncio.to_thread(packed, http.place, body)
        headers["Content-Type"] = "text/plain; charset=utf-8"
        return await http.ask("POST", "/api/v2/write", params=self._params, body=body, headers=headers)

    def _refusals(self, answer: Answer, given: Sequence[bytes]) -> list[Refused] | None:
        """All lines of a part, if the answer refuses each; None if it refuses some; raises if it is not about lines."""
        message = _message(answer)
        if answer.status == 413:
            return [Refused(given[0], answer.said, "size")] if len(given) == 1 else None
        if answer.status == 400 and _UNABLE in message:
            reasons = _named(message)
            if len(given) == 1:
                return [Refused(given[0], reasons.get(given[0], answer.said), "syntax")]
            whole = all(line in reasons for line in given)
            return [Refused(line, reasons[line], "syntax") for line in given] if whole else None
        if answer.status == 422 and (kind := _kind(message)):
            # The server counts for the first shard that answers, and goes on with the others: a smaller number says
            # nothing, not even that no more are left once so many have been found.
            whole = len(given) == 1 or [str(len(given))] == _DROPPED.findall(message)[:1]
            return [Refused(line, answer.said, kind) for line in given] if whole else None
        raise failed(self._sender.http.place, answer)

    def _smaller(
        self, answer: Answer, part: list[int], given: Sequence[bytes], namings: int
    ) -> list[tuple[list[int], int]]:
        """The two parts to go on with, the first one last: lines that the answer names and the others, or two halves."""
        if answer.status == 413:
            size = sum(map(len, given)) + len(given)
            self._sender.batch_bytes = max(1, min(self._sender.batch_bytes, size // 2))
        if answer.status == 400 and namings:
            reasons = _named(_message(answer))
            named = [n for n, line in zip(part, given, strict=True) if line in reasons]
            if 0 < len(named) < len(part):
                others = [n for n, line in zip(part, given, strict=True) if line not in reasons]
                return [
                    (named, 0),
                    (others, namings - 1),
                ]  # `named` is sent too: the answer's word is not enough
        middle = len(part) // 2
        return [(part[middle:], namings), (part[:middle], namings)]


# ---- answers -------------------------------------------------------------------------------------------------------


def _message(answer: Answer) -> str:
    """The server's whole message; empty if the answer is none of InfluxDB's."""
    try:
        found = json.loads(answer.body)
        return str(found["message"])
    except (ValueError, KeyError, TypeError):
        return ""


def _named(message: str) -> dict[bytes, str]:
    """The lines that `unable to parse '<line>': <reason>` may mean, and the reasons. A line may hold `': ` itself."""
    named = {}
    for piece in message.split(_UNABLE)[1:]:
        for found in re.finditer("': ", piece):
            named[piece[: found.start()].encode()] = piece[found.end() :].strip()[:500]
    return named


def _kind(message: str) -> Literal["type", "retention"] | None:
    """Why points were dropped, if it is for their own sake."""
    if "retention policy" in message:  # first: its message goes on with tags, which may hold any text
        return "retention"
    return "type" if "field type conflict" in message else None


# ---- batches -------------------------------------------------------------------------------------------------------


def _batches(pieces: Iterable[Lines], sender: Sender) -> Iterator[Lines]:
    """Small pieces put together and large ones cut, the pieces of a batch sorted by series."""
    batch: list[Lines] = []
    count = size = 0
    for piece in pieces:
        for part in _cut(piece, sender.batch_bytes):
            over = count + part.count > BATCH * 3 // 2 or size + len(part.body) > sender.batch_bytes
            if batch and over:
                yield _sorted(batch)
                batch, count, size = [], 0, 0
            batch.append(part)
            count += part.count
            size += len(part.body)
            if count >= BATCH:
                yield _sorted(batch)
                batch, count, size = [], 0, 0
    if batch:
        yield _sorted(batch)


def _cut(piece: Lines, most: int) -> Iterator[Lines]:
    """A piece in parts of about a batch each."""
    size = len(piece.body)
    parts = max(round(piece.count / BATCH), -(-size // most))
    if parts <= 1:
        if piece.count:
            yield piece
        return
    step = min(
        -(-size // parts) + 200, most
    )  # a little more, so that what whole lines leave is no part of its own
    since = 0
    while since < size:
        until = piece.body.rfind(b"\n", since, since + step) + 1 or piece.body.index(b"\n", since) + 1
        part = piece.body[since:until]
        yield Lines(part, part.count(b"\n"))
        since = until


def _sorted(batch: list[Lines]) -> Lines:
    if len(batch) > 1:
        batch.sort(key=_key)
    return joined(batch)


def _key(piece: Lines) -> bytes:
    """The key of a piece's series: what stands before the first space that is not escaped."""
    found = _KEY.match(piece.body)
    return found.group() if found else b""
