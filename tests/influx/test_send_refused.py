"""Lines that a real server does not take: each is told by kind, wherever it stands, and all others are stored."""

from __future__ import annotations

import json
import random
import time

import pytest

from chandlery.errors import DatabaseError
from chandlery.stores.influx_lines import Lines, encode
from chandlery.timeframe import DAY

from .fixtures import Bucket
from .proxy import Fault, FaultProxy
from .scenes import MINUTE, START, TAGS, frame, influxql
from .sending import PLACES, candles, four, opens, send, sending

WEEK = 7 * DAY


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
