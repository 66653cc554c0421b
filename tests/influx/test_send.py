"""The sender before a real server: what each answer leads to, wherever it falls, and that nothing unacknowledged counts as sent."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from chandlery.errors import DatabaseError, StoreFull, StoreUnreadable
from chandlery.stores import influx_send
from chandlery.stores.influx_http import InfluxHttp
from chandlery.stores.influx_lines import Lines, SeriesTags, encode
from chandlery.stores.influx_place import InfluxPlace
from chandlery.stores.influx_send import BATCH, Refused, Sender
from chandlery.timeframe import DAY

from .fixtures import Bucket
from .proxy import Fault, FaultProxy, Seen
from .test_lines import MINUTE, START, TAGS, frame, influxql

WEEK = 7 * DAY
#: Where a fault falls among four batches.
PLACES = pytest.mark.parametrize("nth", [0, 1, 3], ids=["first", "middle", "last"])


@contextmanager
def sending(
    proxy: FaultProxy, bucket: Bucket, *, patience: float = 20.0, token: str = ""
) -> Iterator[Sender]:
    """A sender to that bucket, through the proxy."""
    place = InfluxPlace(proxy.url, bucket.server.org, bucket.name, token or bucket.token)
    http = InfluxHttp(place, patience=patience)
    try:
        yield Sender(http)
    finally:
        http.close()


@pytest.fixture
def proxy(bucket: Bucket) -> Iterator[FaultProxy]:
    """A proxy before the server of the bucket."""
    with FaultProxy(bucket.server.url) as proxy:
        yield proxy


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of ten lines, so that a few lines are several batches."""
    monkeypatch.setattr(influx_send, "BATCH", 10)


def candles(first: int, count: int, tags: SeriesTags = TAGS) -> Lines:
    """Candles of one minute, numbered from START."""
    return encode(tags, frame([START + n * MINUTE for n in range(first, first + count)]))


def four(bad: dict[int, bytes] | None = None) -> list[Lines]:
    """Four batches of ten lines, with other lines at some places."""
    lines = candles(0, 40).split()
    for place, line in (bad or {}).items():
        lines[place] = line
    return [Lines.of(lines[n : n + 10]) for n in range(0, 40, 10)]


def send(sender: Sender, lines: Sequence[Lines] | Iterator[Lines]) -> list[Refused]:
    """Send from this thread."""
    return sender.http.run(sender.send(lines))


def opens(bucket: Bucket) -> list[int]:
    """The numbers of the candles that the server has whole."""
    rows = influxql(bucket, 'SELECT open, high, low, close, volume FROM "ohlcv"')
    whole = [row for row in rows if all(row[name] for name in ("open", "high", "low", "close", "volume"))]
    return sorted((int(row["time"]) // 1_000_000 - START) // MINUTE for row in whole)


# ---- what is sent ----------------------------------------------------------------------------------------------------


def test_what_was_sent_is_there(bucket: Bucket, proxy: FaultProxy) -> None:
    """Large pieces are cut and small ones put together to batches of about 5,000 lines; every candle is there once."""
    pieces = [candles(0, 23_456), *(candles(n, 100) for n in range(23_456, 30_056, 100))]
    with sending(proxy, bucket) as sender:
        assert send(sender, pieces) == []

    sizes = [seen.body.count(b"\n") for seen in proxy.writes]
    assert sum(sizes) == 30_056
    assert all(BATCH // 2 <= size <= BATCH * 3 // 2 for size in sizes[:-1])
    assert {tuple(sorted(seen.query.items())) for seen in proxy.writes} == {
        (("bucket", bucket.name), ("org", bucket.server.org), ("precision", "ms"))
    }
    assert opens(bucket) == list(range(30_056))


def test_nothing_to_send_is_no_request(bucket: Bucket, proxy: FaultProxy) -> None:
    """Without a line nothing is asked of the server."""
    with sending(proxy, bucket) as sender:
        assert send(sender, []) == []
        assert send(sender, [Lines(b"", 0)]) == []
    assert proxy.seen == []


def test_a_batch_is_sorted_by_series_and_time(bucket: Bucket, proxy: FaultProxy) -> None:
    """Pieces of several series in one batch travel by series, each series in its own order."""
    names = ["b", "a b", "a", "a b"]
    series = [SeriesTags("ohlcv", "binance", name, "1m") for name in names]
    with sending(proxy, bucket) as sender:
        send(sender, [candles(n * 10, 3, tags) for n, tags in enumerate(series)])

    (seen,) = proxy.writes
    keys = [line.split(b" open=")[0] for line in seen.body.split(b"\n")[:-1]]
    assert [key.split(b",")[2] for key in keys[::3]] == [
        b"symbol=a",
        rb"symbol=a\ b",
        rb"symbol=a\ b",
        b"symbol=b",
    ]
    times = [int(line.rpartition(b" ")[2]) for line in seen.body.split(b"\n")[3:9]]
    assert times == sorted(times)


def test_a_body_is_compressed_only_on_its_way_to_another_machine(
    bucket: Bucket, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To a loopback address lines travel as they are; to any other one they travel packed, and arrive the same."""
    with sending(proxy, bucket) as sender:
        send(sender, [candles(0, 10)])
    names = socket.getaddrinfo

    def resolved(host: str, *rest: Any, **more: Any) -> Any:
        return names("127.0.0.1" if host == "influx.test" else host, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", resolved)
    proxy.url = proxy.url.replace(
        "127.0.0.1", "influx.test"
    )  # the same machine, by a name that does not say so
    with sending(proxy, bucket) as sender:
        send(sender, [candles(10, 10)])

    assert [seen.packed for seen in proxy.writes] == [False, True]
    assert opens(bucket) == list(range(20))


def test_two_batches_are_on_their_way_and_one_is_ready(
    bucket: Bucket, proxy: FaultProxy, small: None
) -> None:
    """While the server holds its answers, two batches are with it, one is ready, and the source is not asked for a fourth."""
    proxy.plan(Fault(hold=0.5, times=2))
    pulled: list[int] = []
    most: list[int] = []

    def source() -> Iterator[Lines]:
        for n in range(20):
            pulled.append(n)
            if not proxy.seen:
                most.append(n)
            yield candles(n * 10, 10)

    with sending(proxy, bucket) as sender:
        assert send(sender, source()) == []

    assert pulled == list(range(20))
    assert max(most) == 2  # two held, one ready
    assert max(seen.at_once for seen in proxy.writes) == 2
    assert opens(bucket) == list(range(200))


def test_lines_come_from_another_thread_than_the_loop(bucket: Bucket, proxy: FaultProxy) -> None:
    """The source runs outside the loop, so that encoding and sending go on side by side, and never twice at once."""
    threads: set[str] = set()
    busy = threading.Lock()

    def source() -> Iterator[Lines]:
        for n in range(5):
            assert busy.acquire(blocking=False)
            threads.add(threading.current_thread().name)
            busy.release()
            yield candles(n * 5_000, 5_000)

    with sending(proxy, bucket) as sender:
        send(sender, source())
    assert threads
    assert "chandlery-loop" not in threads
    assert threading.current_thread().name not in threads


def test_an_error_of_the_source_comes_through(bucket: Bucket, proxy: FaultProxy, small: None) -> None:
    """What the source raises reaches the caller; what was on its way arrives, and nothing more is sent."""

    def source() -> Iterator[Lines]:
        yield from four()[:3]
        raise ValueError("the source broke")

    with sending(proxy, bucket) as sender, pytest.raises(ValueError, match="the source broke"):
        send(sender, source())
    assert opens(bucket) == list(range(proxy.lines_taken))


# ---- lines that the server does not take -----------------------------------------------------------------------------


@PLACES
def test_a_line_that_cannot_be_parsed_is_set_aside(
    bucket: Bucket, proxy: FaultProxy, small: None, nth: int
) -> None:
    """400: the line is found by its name in the answer and returned; all others are stored, in few requests."""
    bad = b"ohlcv,exchange=binance open=NaN 1704067200000"
    with sending(proxy, bucket) as sender:
        refused = send(sender, four({nth * 10 + 4: bad}))

    assert [(one.line, one.kind) for one in refused] == [(bad, "syntax")]
    assert refused[0].reason == "invalid number"
    assert opens(bucket) == [n for n in range(40) if n != nth * 10 + 4]
    assert len(proxy.writes) == 6


def test_many_lines_that_cannot_be_parsed_are_set_aside_together(bucket: Bucket, proxy: FaultProxy) -> None:
    """1 % of 5,000 lines, all refused in one answer, take three requests; they come back in the order of sending."""
    lines = candles(0, 5_000).split()
    bad = {n: b"ohlcv,exchange=e':\\ x open=%d 1e" % n for n in range(7, 5_000, 100)}
    lines = [bad.get(n, line) for n, line in enumerate(lines)]
    with sending(proxy, bucket) as sender:
        refused = send(sender, [Lines.of(lines)])

    assert [one.line for one in refused] == list(bad.values())
    assert {one.kind for one in refused} == {"syntax"}
    assert opens(bucket) == [n for n in range(5_000) if n not in bad]
    assert len(proxy.writes) == 3


def test_a_message_that_names_another_line_does_no_harm(bucket: Bucket, proxy: FaultProxy) -> None:
    """Where the answer names a good line, or none of those sent, the bad one is found by halving and the good one is stored."""
    lines = candles(0, 64).split()
    lines[37] = bad = b"ohlcv open=bad 1704067200000"
    for named in (lines[3], b"no such line"):
        message = f"unable to parse '{named.decode()}': invalid"
        lie = json.dumps({"code": "invalid", "message": message}).encode()
        proxy.plan(
            Fault(status=400, body=lie, times=9, matching=lambda body: bad in body and body.count(b"\n") > 1)
        )
        with sending(proxy, bucket) as sender:
            refused = send(sender, [Lines.of(lines)])
        assert [(one.line, one.kind) for one in refused] == [(bad, "syntax")]
        assert opens(bucket) == [n for n in range(64) if n != 37]
        proxy.heal()


def test_a_400_that_is_not_about_lines_stops(bucket: Bucket, proxy: FaultProxy, small: None) -> None:
    """A 400 that does not say that it could not parse a line refuses no candle: it raises with what was said."""
    proxy.plan(Fault(status=400, body=b"<html>Bad Request</html>", times=99))
    with sending(proxy, bucket) as sender, pytest.raises(DatabaseError, match="answered 400: <html>Bad"):
        send(sender, four())
    assert opens(bucket) == []
    assert len(proxy.writes) <= 2


@PLACES
def test_lines_of_another_field_type_are_set_aside(
    bucket: Bucket, proxy: FaultProxy, small: None, nth: int
) -> None:
    """422: where `volume` is an integer in one week of the bucket, the candles of that week are returned, all others stored."""
    weeks = [START + WEEK * n for n in range(4)]
    planted = f"{TAGS.measurement},exchange=other volume=1i {weeks[nth]}"
    assert bucket.server.write(planted, bucket.name).status == 204
    pieces = [encode(TAGS, frame([week + MINUTE * n for n in range(10)])) for week in weeks]
    with sending(proxy, bucket) as sender:
        refused = send(sender, pieces)

    assert [one.line for one in refused] == pieces[nth].split()
    assert {one.kind for one in refused} == {"type"}
    assert 'input field "volume"' in refused[0].reason
    rows = influxql(bucket, "SELECT close FROM ohlcv WHERE exchange = 'binance'")
    assert len(rows) == 30
    assert len(proxy.writes) == 4  # the answer counts as many as the batch has


def test_one_percent_of_lines_refused_by_type(bucket: Bucket, proxy: FaultProxy) -> None:
    """Of 100 weeks in one run, one whose `volume` was an integer before: its lines come back, and all others are stored."""
    pieces = [
        encode(TAGS, frame([START + WEEK * n + 30 * MINUTE * m for m in range(300)])) for n in range(100)
    ]
    planted = f"ohlcv,exchange=other volume=1i {START + WEEK * 61}"
    assert bucket.server.write(planted, bucket.name).status == 204
    with sending(proxy, bucket) as sender:
        refused = send(sender, pieces)

    assert [one.line for one in refused] == pieces[61].split()
    assert {one.kind for one in refused} == {"type"}
    assert len(influxql(bucket, "SELECT volume FROM ohlcv WHERE exchange = 'binance'")) == 29_700
    assert len(proxy.writes) < 60


def test_the_count_of_dropped_points_is_not_believed_for_other_shards(
    bucket: Bucket, proxy: FaultProxy
) -> None:
    """The server counts the drops of one shard only: those of a second one, and good lines between them, are told apart."""
    weeks = [START + WEEK * n for n in range(5)]
    for n in (1, 3):
        assert bucket.server.write(f"ohlcv,exchange=other low=1i {weeks[n]}", bucket.name).status == 204
    times = [week + MINUTE * n for week in weeks for n in range(7)]
    whole = encode(TAGS, frame(times))
    answer = bucket.server.write(whole.body, bucket.name)
    assert "dropped=7" in answer.text  # of 14: what is relied on here, and why halves are asked about

    with sending(proxy, bucket) as sender:
        refused = send(sender, [whole])
    assert [one.line for one in refused] == whole.split()[7:14] + whole.split()[21:28]


def test_lines_outside_the_retention_are_set_aside(bucket: Bucket, proxy: FaultProxy) -> None:
    """422 for age: candles that the bucket would delete at once are returned as such, the younger ones are stored."""
    day = Bucket(bucket.server, bucket.server.new_bucket(retention_seconds=2 * 86_400, shard_seconds=3_600))
    now = int(time.time() * 1000) // MINUTE * MINUTE
    old = encode(TAGS, frame([now - 9 * DAY + n * MINUTE for n in range(25)]))
    young = encode(TAGS, frame([now - n * MINUTE for n in range(75, 0, -1)]))
    with sending(proxy, day) as sender:
        refused = send(sender, [Lines.of(old.split() + young.split())])

    assert [one.line for one in refused] == old.split()
    assert {one.kind for one in refused} == {"retention"}
    assert "outside retention policy" in refused[0].reason
    assert bucket.server.count(bucket=day.name) == 75


def test_all_kinds_of_refusal_in_one_batch(bucket: Bucket, proxy: FaultProxy, seed: int) -> None:
    """Lines that cannot be parsed, of another type, too old and too large, scattered in one batch, are each told by kind."""
    dice = random.Random(seed)
    place = Bucket(
        bucket.server, bucket.server.new_bucket(retention_seconds=40 * 86_400, shard_seconds=86_400)
    )
    now = int(time.time() * 1000) // DAY * DAY
    assert bucket.server.write(f"ohlcv,exchange=other high=1i {now - 3 * DAY}", place.name).status == 204
    proxy.plan(Fault(status=413, longest=20_000, times=999))
    kinds = {
        "": encode(TAGS, frame([now - 9 * DAY + n * MINUTE for n in range(200)])).split(),
        "type": encode(TAGS, frame([now - 3 * DAY + n * MINUTE for n in range(20)])).split(),
        "retention": encode(TAGS, frame([now - 90 * DAY + n * DAY for n in range(20)])).split(),
        "syntax": [b"ohlcv,exchange=binance open=%dx %d" % (n, now) for n in range(20)],
        "size": [b'long,exchange=binance text="%b" %d' % (b"x" * 20_000, now + n) for n in range(2)],
    }
    mixed = [(line, kind) for kind, lines in kinds.items() for line in lines]
    dice.shuffle(mixed)
    with sending(proxy, place) as sender:
        refused = send(sender, [Lines.of(line for line, _ in mixed)])

    assert [(one.line, one.kind) for one in refused] == [(line, kind) for line, kind in mixed if kind]
    stored = influxql(place, "SELECT close FROM ohlcv WHERE exchange = 'binance'")
    assert len(stored) == 200


def test_a_422_that_is_not_about_lines_stops(bucket: Bucket, proxy: FaultProxy, small: None) -> None:
    """Points dropped for the server's sake, such as too many series, are no bad lines: it raises."""
    said = b'{"code":"unprocessable entity","message":"partial write: max-series-per-database limit exceeded dropped=10"}'
    proxy.plan(Fault(status=422, body=said, times=99))
    with sending(proxy, bucket) as sender, pytest.raises(DatabaseError, match="max-series-per-database"):
        send(sender, four())


@PLACES
def test_a_body_that_is_too_large_is_halved(bucket: Bucket, proxy: FaultProxy, small: None, nth: int) -> None:
    """413: the batch is halved until it fits, later ones are made smaller, and every line is stored."""
    size = len(candles(nth * 10, 10).body)
    proxy.plan(Fault(status=413, longest=size * 6 // 10, skip=nth, times=999))
    with sending(proxy, bucket) as sender:
        assert send(sender, four()) == []

    assert opens(bucket) == list(range(40))
    assert sum(seen.status == 413 for seen in proxy.writes) <= 3


def test_a_line_that_is_too_large_alone_is_set_aside(bucket: Bucket, proxy: FaultProxy) -> None:
    """413 for a single line: it is returned, the others are stored."""
    long = b'other,exchange=binance text="%b" 1704067200000' % (b"x" * 5_000)
    lines = candles(0, 20).split()
    proxy.plan(Fault(status=413, longest=4_000, times=999))
    with sending(proxy, bucket) as sender:
        refused = send(sender, [Lines.of([*lines[:13], long, *lines[13:]])])

    assert [(one.line, one.kind) for one in refused] == [(long, "size")]
    assert opens(bucket) == list(range(20))


# ---- what passes -----------------------------------------------------------------------------------------------------


@PLACES
@pytest.mark.parametrize(
    "fault",
    [
        Fault(status=429, headers={"Retry-After": "0"}, times=3),
        Fault(status=503, headers={"Retry-After": "0"}, times=2),
        Fault(status=500, body=b'{"code":"internal error","message":"timeout"}', times=2),
        Fault(cut="before", times=2),
        Fault(cut="after", times=2),
    ],
    ids=["429", "503", "500", "cut-before", "cut-after"],
)
def test_what_passes_is_waited_for_with_the_same_bytes(
    bucket: Bucket, proxy: FaultProxy, small: None, fault: Fault, nth: int
) -> None:
    """Too busy, starting, in trouble, or a connection lost before or after the server took it: the same bytes again."""
    pieces = four()
    hit = pieces[nth].body
    with sending(proxy, bucket) as sender:
        send(sender, [candles(900, 1)])  # it has answered before: one that never did is not waited for
        proxy.plan(
            Fault(fault.status, fault.headers, fault.body, fault.cut, times=fault.times, matching=hit.__eq__)
        )
        assert send(sender, pieces) == []

    tries = [seen for seen in proxy.writes if seen.body == hit]
    assert [seen.status for seen in tries] == [fault.status] * fault.times + [204]
    assert opens(bucket) == [*range(40), 900]


def test_a_told_wait_is_waited_for(
    bucket: Bucket, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After 429 with Retry-After: 7 nothing is sent before seven seconds were slept."""
    proxy.plan(Fault(status=429, headers={"Retry-After": "7"}, times=1))
    slept: list[float] = []
    sleep = asyncio.sleep

    async def at_once(seconds: float) -> None:
        if threading.current_thread().name == "chandlery-loop":  # not the proxy's
            slept.append(seconds)
        await sleep(0)

    with sending(proxy, bucket) as sender:
        monkeypatch.setattr(asyncio, "sleep", at_once)
        assert send(sender, [candles(0, 10)]) == []
    assert 7.0 in slept
    assert opens(bucket) == list(range(10))


@PLACES
def test_what_does_not_pass_ends_with_an_error(
    bucket: Bucket, proxy: FaultProxy, small: None, nth: int
) -> None:
    """A server in trouble beyond the patience raises; what was acknowledged stays, what was not is not counted as sent."""
    hit = four()[nth].body
    proxy.plan(Fault(status=503, times=10**6, matching=hit.__eq__))
    with sending(proxy, bucket, patience=0.3) as sender, pytest.raises(DatabaseError, match="answered 503"):
        send(sender, four())

    taken = {line for seen in proxy.writes if seen.status == 204 for line in seen.body.split(b"\n")[:-1]}
    assert not taken & set(hit.split(b"\n"))
    assert len(opens(bucket)) == len(taken)


def test_a_full_disk_is_named(bucket: Bucket, proxy: FaultProxy) -> None:
    """A server without space raises StoreFull, whose hint says to make room and restart it."""
    proxy.plan(
        Fault(status=500, body=b'{"message":"engine: write /wal: no space left on device"}', times=10**6)
    )
    with (
        sending(proxy, bucket, patience=0.2) as sender,
        pytest.raises(StoreFull, match="no space left") as error,
    ):
        send(sender, [candles(0, 10)])
    assert "restart" in error.value.hint


def test_a_server_that_was_never_there_is_not_waited_for(bucket: Bucket) -> None:
    """Where nobody has ever answered, the first lost connection raises."""
    with FaultProxy(bucket.server.url) as gone:
        pass
    with (
        sending(gone, bucket, patience=3600) as sender,
        pytest.raises(DatabaseError, match="does not answer"),
    ):
        send(sender, [candles(0, 10)])


# ---- what ends it ----------------------------------------------------------------------------------------------------


@PLACES
@pytest.mark.parametrize("status", [200, 302, 401, 403, 404, 405])
def test_an_answer_that_will_not_change_stops(
    bucket: Bucket, proxy: FaultProxy, small: None, status: int, nth: int
) -> None:
    """No right, no bucket, a redirect or a 200 that is no InfluxDB's: it raises, sends nothing more, and what was acknowledged stays."""
    proxy.plan(Fault(status=status, body=b'{"message":"so it is"}', skip=nth, times=10**6))
    wanted = StoreUnreadable if status in {401, 403, 404} else DatabaseError
    with sending(proxy, bucket) as sender, pytest.raises(wanted, match="so it is") as error:
        send(sender, (candles(n * 10, 10) for n in range(50)))

    assert error.value.hint
    assert nth < len(proxy.writes) <= nth + 2  # the one that failed, and the one that was on its way
    assert len(opens(bucket)) == proxy.lines_taken == nth * 10


def test_a_revoked_token_stops(bucket: Bucket, proxy: FaultProxy, small: None) -> None:
    """The real server's 401 after a token was revoked half-way raises and names the token's setting."""
    token = bucket.server.new_token(write=[bucket.name])

    def source() -> Iterator[Lines]:
        for n in range(50):
            if n == 20:
                bucket.server.revoke(token)
            yield candles(n * 10, 10)

    with sending(proxy, bucket, token=token) as sender, pytest.raises(StoreUnreadable) as error:
        send(sender, source())
    assert "INFLUXDB_TOKEN" in error.value.hint
    assert opens(bucket) == list(range(proxy.lines_taken))
    assert 170 <= proxy.lines_taken <= 200


def test_a_deleted_bucket_stops(bucket: Bucket, proxy: FaultProxy, small: None) -> None:
    """The real server's 404 after the bucket was deleted half-way raises and names the bucket."""

    def source() -> Iterator[Lines]:
        for n in range(50):
            if n == 20:
                bucket.server.delete_bucket(bucket.name)
            yield candles(n * 10, 10)

    with sending(proxy, bucket) as sender, pytest.raises(StoreUnreadable) as error:
        send(sender, source())
    assert bucket.name in error.value.hint
    assert len(proxy.writes) <= 23


def test_what_is_on_its_way_ends_before_the_error_is_told(
    bucket: Bucket, proxy: FaultProxy, small: None
) -> None:
    """A batch that the server holds while another one fails is waited for: nothing is stored after the error was raised."""
    held, fails = four()[:2]
    proxy.plan(Fault(hold=0.4, matching=held.body.__eq__), Fault(status=403, matching=fails.body.__eq__))
    with sending(proxy, bucket) as sender:
        with pytest.raises(StoreUnreadable):
            send(sender, four())
        ended: list[Seen] = list(proxy.writes)
    assert [seen.status for seen in ended] == [403, 204]
    assert opens(bucket) == list(range(10))


def test_cancelling_lets_go_at_once(bucket: Bucket, proxy: FaultProxy, small: None) -> None:
    """A cancelled send, as Ctrl-C makes it, waits for no answer and leaves no task behind."""
    proxy.plan(Fault(hold=3600, times=99))

    third = threading.Event()

    def source() -> Iterator[Lines]:
        for n, piece in enumerate(four()):
            if n == 2:
                third.set()
            yield piece

    async def cancelled(sender: Sender) -> set[asyncio.Task[None]]:
        before = asyncio.all_tasks()
        task = asyncio.create_task(sender.send(source()))
        assert await asyncio.to_thread(third.wait, 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return asyncio.all_tasks() - before

    with sending(proxy, bucket) as sender:
        assert sender.http.run(cancelled(sender)) == set()


def test_a_random_history_of_faults_loses_nothing(
    bucket: Bucket, proxy: FaultProxy, small: None, seed: int, proven_count: Callable[[int], int]
) -> None:
    """Under random passing faults and bad lines, every line is either stored by the real server or returned."""
    dice = random.Random(seed)
    total = 10 * proven_count(400)
    bad = {n: b"ohlcv,n=%d open=x 1" % n for n in range(total) if dice.random() < 0.01}
    lines = [bad.get(n, line) for n, line in enumerate(candles(0, total).split())]
    faults = []
    for _ in range(total // 60):
        skip = dice.randint(0, total // 14)
        status = dice.choice([429, 500, 502, 503, 504])
        kinds = [
            Fault(status=status, skip=skip),
            Fault(cut="before", skip=skip),
            Fault(cut="after", skip=skip),
            Fault(hold=0.02, skip=skip),
            Fault(status=413, longest=400, skip=skip),
        ]
        faults.append(dice.choice(kinds))
    with sending(proxy, bucket) as sender:
        send(sender, [candles(0, 1)])  # it has answered before: one that never did is not waited for
        proxy.plan(*faults)
        refused = send(sender, (Lines.of(lines[n : n + 7]) for n in range(0, total, 7)))

    assert [one.line for one in refused] == list(bad.values())
    assert opens(bucket) == [n for n in range(total) if n not in bad]
