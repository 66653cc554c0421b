"""The sender in trouble: what passes is waited for, what will not ends it, and nothing unacknowledged counts as sent."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable, Iterator

import pytest

from chandlery.errors import DatabaseError, StoreFull, StoreUnreadable
from chandlery.stores.influx_lines import Lines
from chandlery.stores.influx_send import Sender

from .fixtures import Bucket
from .proxy import Fault, FaultProxy, Seen
from .sending import PLACES, candles, four, opens, send, sending

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
