"""The sender before a real server: what it sends, how it cuts and sorts it, and how much is on its way at once."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from chandlery.stores.influx_lines import Lines, SeriesTags
from chandlery.stores.influx_send import BATCH

from .fixtures import Bucket
from .proxy import Fault, FaultProxy
from .sending import candles, four, opens, send, sending


def test_what_was_sent_is_there(bucket: Bucket, proxy: FaultProxy) -> None:
    """Large pieces are cut and small ones put together to batches of about 5,000 lines; every candle is there once."""
    pieces = [candles(0, 23_456), *(candles(n, 100) for n in range(23_456, 30_056, 100))]
    with sending(proxy, bucket) as sender:
        assert send(sender, pieces) == []

    sizes = [seen.body.count(b"\n") for seen in proxy.writes]
    assert sum(sizes) == 30_056
    # Two are on their way at once: the last one, which may be small, can arrive before the one before it.
    assert all(BATCH // 2 <= size <= BATCH * 3 // 2 for size in sorted(sizes)[1:])
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
