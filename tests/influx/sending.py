"""What the tests of the sender stand on: a sender behind a proxy, batches of candles, and which of them the server has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from chandlery.stores.influx_http import InfluxHttp
from chandlery.stores.influx_lines import Lines, SeriesTags, encode
from chandlery.stores.influx_place import InfluxPlace
from chandlery.stores.influx_send import Refused, Sender

from .fixtures import Bucket
from .proxy import FaultProxy
from .scenes import MINUTE, START, TAGS, frame, influxql

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
