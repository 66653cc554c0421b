"""Reading from the right bucket or from none, complete or not at all: before a real server, whatever befalls it."""

from __future__ import annotations

import json
import random
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from chandlery.errors import DatabaseError, StoreUnreadable
from chandlery.stores import influx_ql
from chandlery.stores.influx_http import InfluxHttp
from chandlery.stores.influx_lines import key_of
from chandlery.stores.influx_place import InfluxPlace
from chandlery.stores.influx_read import Reader
from chandlery.stores.influx_rows import OddRows, blocks_of_msgpack, rows_of_json
from chandlery.timerange import TimeRange

from .fixtures import Bucket, StartInfluxd
from .influx_server import InfluxServer
from .proxy import Fault, FaultProxy
from .test_read import ALL, START, TAGS, bits, random_candles, write


@contextmanager
def reading(
    server: InfluxServer,
    bucket: str,
    *,
    token: str = "",
    org: str = "",
    url: str = "",
    patience: float = 20.0,
) -> Iterator[Reader]:
    """A reader of a bucket."""
    place = InfluxPlace(url or server.url, org or server.org, bucket, token or server.token)
    http = InfluxHttp(place, patience=patience)
    try:
        yield Reader(http)
    finally:
        http.close()


# ---- the right bucket or none ----------------------------------------------------------------------------------------


def candle(value: int) -> str:
    """One candle of TAGS whose volume says where it is from."""
    return f"{key_of(TAGS)} open=1,high=2,low=0.5,close=1.5,volume={value} {START}"


def volumes(reader: Reader) -> list[float]:
    """What a reader reads, proving its way anew."""
    reader._ql._proven_until = 0.0
    return list(reader._http.run(reader.candles(TAGS, ALL))["volume"])


def map_database(server: InfluxServer, database: str, policy: str, bucket: str, *, org_id: str = "") -> str:
    """Make a database mapping by hand, as a user would for other programs; returns its id."""
    wanted = {
        "orgID": org_id or server.org_id,
        "bucketID": server.bucket_id(bucket),
        "database": database,
        "retention_policy": policy,
        "default": True,
    }
    answer = server.ask(
        "POST", "/api/v2/dbrps", json.dumps(wanted).encode(), headers={"Content-Type": "application/json"}
    )
    assert answer.status == 201, answer.text
    return str(answer.json["id"])


def test_a_token_that_may_only_read_is_enough(bucket: Bucket) -> None:
    """A token with nothing but the right to read the bucket reads candles, series and texts; a token of another bucket is refused."""
    other = bucket.server.new_bucket()
    bucket.server.write(candle(1), bucket.name)
    bucket.server.write(candle(2), other)

    with reading(bucket.server, bucket.name, token=bucket.server.new_token(read=[bucket.name])) as reader:
        assert volumes(reader) == [1.0]
        assert len(reader._http.run(reader.found())) == 1
        assert reader._http.run(reader.texts("chandlery_ledger", {})) == []
    for token in (bucket.server.new_token(read=[other]), bucket.server.new_token(write=[bucket.name])):
        with (
            reading(bucket.server, bucket.name, token=token) as reader,
            pytest.raises(StoreUnreadable, match=r"no bucket .* that the token may read") as refused,
        ):
            volumes(reader)
        assert "influx setup" in refused.value.hint


def test_a_mapping_made_by_hand_never_leads_astray(bucket: Bucket) -> None:
    """A mapping of our name to another bucket is gone around, or refused where it cannot be; one to our bucket is used."""
    server = bucket.server
    other = server.new_bucket()
    server.write(candle(1), bucket.name)
    server.write(candle(2), other)
    tokens = [server.token, server.new_token(read=[bucket.name])]

    beside = map_database(server, bucket.name, "weekly", other)
    for token in tokens:
        with reading(server, bucket.name, token=token) as reader:
            assert volumes(reader) == [1.0]
    before = map_database(server, bucket.name, "autogen", other)
    for token in tokens:
        with reading(server, bucket.name, token=token) as reader:
            with pytest.raises(StoreUnreadable, match="mapping named like the bucket") as refused:
                volumes(reader)
            assert "dbrp delete" in refused.value.hint
    ours = map_database(server, "elsewhere", "autogen", bucket.name)
    for token in tokens:
        with reading(server, bucket.name, token=token) as reader:
            assert volumes(reader) == [1.0]
    for mapping in (beside, before, ours):
        assert server.ask("DELETE", f"/api/v2/dbrps/{mapping}?orgID={server.org_id}").status == 204
    with reading(server, bucket.name) as reader:
        assert volumes(reader) == [1.0]


def test_a_bucket_of_the_same_name_elsewhere_is_not_read(start_influxd: StartInfluxd) -> None:
    """A token that sees two organisations with a bucket of one name is refused with the mend; a token of one reads its own."""
    server = start_influxd()
    first = server.bucket_id("trading")
    made = server.ask(
        "POST", "/api/v2/orgs", b'{"name": "second"}', headers={"Content-Type": "application/json"}
    )
    org_id = made.json["id"]
    wanted = json.dumps({"orgID": org_id, "name": "trading", "retentionRules": []}).encode()
    second = server.ask("POST", "/api/v2/buckets", wanted, headers={"Content-Type": "application/json"}).json[
        "id"
    ]
    server.write(candle(1))
    assert (
        server.ask("POST", "/api/v2/write?org=second&bucket=trading&precision=ms", candle(2).encode()).status
        == 204
    )
    grant = [{"action": "read", "resource": {"type": "buckets", "id": second, "orgID": org_id}}]
    body = json.dumps({"orgID": org_id, "permissions": grant}).encode()
    token = server.ask(
        "POST", "/api/v2/authorizations", body, headers={"Content-Type": "application/json"}
    ).json["token"]

    for org in ("second", server.org):
        with reading(server, "trading", org=org) as reader:
            with pytest.raises(StoreUnreadable, match="several organisations") as refused:
                volumes(reader)
            assert "may read only the one" in refused.value.hint
    with reading(server, "trading", org="second", token=token) as reader:
        assert volumes(reader) == [2.0]
    # Where only the other organisation has one, the way is proven, but the administrator's token does not lead there.
    server.ask("DELETE", f"/api/v2/buckets/{first}")
    with (
        reading(server, "trading", org="second") as reader,
        pytest.raises(StoreUnreadable, match="does not find the bucket"),
    ):
        volumes(reader)


def test_a_bucket_with_a_slash_in_its_name_is_read(bucket: Bucket) -> None:
    """The bucket `a/b` is database `a`, policy `b` to the server, and is read; the bucket `a` beside it is another."""
    slashed = bucket.server.new_bucket(f"{bucket.name}/weekly")
    bucket.server.write(candle(1), bucket.name)
    bucket.server.write(candle(2), slashed)

    for name, value in ((bucket.name, 1.0), (slashed, 2.0)):
        with reading(bucket.server, name) as reader:
            assert volumes(reader) == [value]


def test_what_stands_in_the_way_is_named(bucket: Bucket) -> None:
    """A wrong token, an unknown organisation, an unknown bucket, a bucket deleted and a token revoked half-way are errors that say so."""
    server = bucket.server
    with (
        reading(server, bucket.name, token="wrong") as reader,
        pytest.raises(StoreUnreadable, match="does not take the token"),
    ):
        volumes(reader)
    with reading(server, bucket.name, org="nobody") as reader, pytest.raises(StoreUnreadable, match="nobody"):
        volumes(reader)
    with reading(server, "nowhere") as reader, pytest.raises(StoreUnreadable, match="nowhere"):
        volumes(reader)
    for half_way in ("deleted", "revoked"):
        name = server.new_bucket()
        token = server.new_token(read=[name])
        server.write(candle(1), name)
        with reading(server, name, token=token) as reader:
            assert volumes(reader) == [1.0]
            if half_way == "deleted":
                server.delete_bucket(name)
            else:
                server.revoke(token)
            with pytest.raises(StoreUnreadable):  # though its way was proven a moment ago
                reader._http.run(reader.candles(TAGS, ALL))
            with pytest.raises(StoreUnreadable):
                reader._http.run(reader.counts([(TAGS, ALL[0])]))


def test_an_error_inside_an_answer_is_an_error(bucket: Bucket, reader: Reader) -> None:
    """A statement that fails behind status 200, first or last, is an error with the server's words, in either encoding."""
    bucket.server.write(candle(1), bucket.name)
    good = 'SELECT "close" FROM "ohlcv" GROUP BY *'
    bad = 'SELECT derivative("close", 0s) FROM "ohlcv"'

    with pytest.raises(DatabaseError, match="duration argument must be positive"):
        reader._http.run(reader._ql.blocks([bad]))
    for statements in ([bad, good], [good, bad]):
        with pytest.raises(DatabaseError, match=r"duration argument|not executed"):
            reader._http.run(reader._ql.rows(statements))
    with pytest.raises(DatabaseError, match="failed to parse query"):
        reader._http.run(reader._ql.rows(["SELEKT"]))


# ---- complete or an error --------------------------------------------------------------------------------------------


def test_no_beginning_of_an_answer_passes_for_all_of_it(bucket: Bucket, reader: Reader, seed: int) -> None:
    """Cut at any of 3,000 places, at the end of each chunk too, an answer of 25,000 candles is never taken for a smaller one."""
    write(bucket.server, bucket.name, TAGS, random_candles(25_000, seed))
    statement = 'SELECT "open", "close" FROM "ohlcv" GROUP BY *'
    packed = reader._http.run(reader._ql._ask(statement, "application/x-msgpack"))
    text = reader._http.run(reader._ql._ask(f"{statement}; {statement}", "application/json"))
    assert sum(len(block.times) for block in blocks_of_msgpack(packed, 1)[0]) == 25_000
    assert [len(rows[0].values) for rows in rows_of_json(text, 2)] == [25_000, 25_000]

    dice = random.Random(seed)
    chunks = [place for place in range(len(packed)) if packed.startswith(b"\x81\xa7results", place)]
    assert len(chunks) == 3
    for place in [*chunks, *(dice.randrange(len(packed)) for _ in range(3000))]:
        with pytest.raises((DatabaseError, OddRows)):
            blocks_of_msgpack(packed[:place], 1)
    lines = [place + 1 for place, byte in enumerate(text) if byte == 10][:-1]
    for place in [*lines, *(dice.randrange(len(text) - 2) for _ in range(20))]:
        with pytest.raises(DatabaseError):
            rows_of_json(text[:place], 2)


@pytest.mark.parametrize(
    "said", ["engine is closed", "shard is disabled", "tsdb: series file closed", "query interrupted"]
)
def test_a_server_that_is_closing_is_asked_again(bucket: Bucket, said: str) -> None:
    """What a server says with status 200 while it stops, in either encoding, costs a question each and no candle."""
    bucket.server.write(candle(1), bucket.name)
    packed = b"\x81\xa7results\x91\x81\xa5error" + bytes([0xA0 + len(said)]) + said.encode()
    text = json.dumps({"results": [{"statement_id": 0, "error": said}]}).encode()
    with FaultProxy(bucket.server.url) as proxy, reading(bucket.server, bucket.name, url=proxy.url) as reader:
        proxy.plan(Fault(status=200, body=packed, path="/query"))
        assert reader._http.run(reader.opens(TAGS, [TimeRange(START, START + 1)])).tolist() == [START]
        proxy.plan(Fault(status=200, body=text, path="/query"))
        assert reader._http.run(reader.counts([(TAGS, ALL[0])])) == [1]
        assert sum(seen.path == "/query" for seen in proxy.seen) == 4


class CuttingProxy:
    """Forwards to a server, and ends the connection for good after so many bytes of each of its first answers."""

    def __init__(self, port: int, cuts: list[int]) -> None:
        self.cuts = cuts
        self.done: list[int] = []
        self._server = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Take no more connections."""
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._server))
            threading.Thread(target=self._copy, args=(client, server, False), daemon=True).start()
            threading.Thread(target=self._copy, args=(server, client, True), daemon=True).start()

    def _copy(self, source: socket.socket, target: socket.socket, answers: bool) -> None:
        seen = 0
        with source, target:
            try:
                while data := source.recv(65536):
                    if answers and self.cuts and seen + len(data) > self.cuts[0]:
                        target.sendall(data[: self.cuts[0] - seen])
                        self.done.append(self.cuts.pop(0))
                        for end in (target, source):
                            end.shutdown(socket.SHUT_RDWR)
                        return
                    seen += len(data)
                    target.sendall(data)
            except OSError:
                return


def test_an_answer_that_is_cut_is_asked_for_again(bucket: Bucket, seed: int) -> None:
    """Six connections that end in the middle of an answer cost a question each and not one candle."""
    frame = random_candles(50_000, seed)
    write(bucket.server, bucket.name, TAGS, frame)
    dice = random.Random(seed)
    # More than all that the proof of the way answers together, so that it falls into the candles.
    proxy = CuttingProxy(bucket.server.port, [dice.randrange(100_000, 1_000_000) for _ in range(6)])
    try:
        with reading(bucket.server, bucket.name, url=proxy.url) as reader:
            for _ in range(4):
                assert bits(reader._http.run(reader.candles(TAGS, ALL))) == bits(frame)
    finally:
        proxy.close()
    assert len(proxy.done) == 6


def test_reads_survive_a_restart(start_influxd: StartInfluxd, seed: int) -> None:
    """While the server is killed three times and stopped twice, each read gives all 60,000 candles, and none fails."""
    server = start_influxd()
    frame = random_candles(60_000, seed)
    write(server, "trading", TAGS, frame)
    wanted = bits(frame)
    ended = threading.Event()
    dice = random.Random(seed)

    def trouble() -> None:
        for end in (server.kill, server.stop, server.kill, server.stop, server.kill):
            time.sleep(dice.uniform(0.05, 0.4))
            end()
            server.start()
        ended.set()

    with reading(server, "trading", patience=60) as reader:
        assert bits(reader._http.run(reader.candles(TAGS, ALL))) == wanted
        troubled = threading.Thread(target=trouble)
        troubled.start()
        try:
            reads = 0
            while not ended.is_set() or not reads:
                assert bits(reader._http.run(reader.candles(TAGS, ALL))) == wanted
                assert reader._http.run(reader.counts([(TAGS, ALL[0])])) == [60_000]
                reads += 1
        finally:
            troubled.join()


def test_the_way_is_proven_again_after_a_while(
    bucket: Bucket, reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mapping that leads astray is noticed as soon as the last proof is old, by a reader that has read before."""
    monkeypatch.setattr(influx_ql, "PROVEN_FOR", 0.0)
    other = bucket.server.new_bucket()
    bucket.server.write(candle(1), bucket.name)
    bucket.server.write(candle(2), other)
    assert list(reader._http.run(reader.candles(TAGS, ALL))["volume"]) == [1.0]

    mapping = map_database(bucket.server, bucket.name, "autogen", other)
    with pytest.raises(StoreUnreadable, match="leads to another bucket"):
        reader._http.run(reader.candles(TAGS, ALL))
    bucket.server.ask("DELETE", f"/api/v2/dbrps/{mapping}?orgID={bucket.server.org_id}")
