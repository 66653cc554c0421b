"""A real InfluxDB 2 server of a test's own: started, killed, started again, asked.

It speaks to the server with nothing but the standard library, so that what the product says can be held against it.
Fixtures are in fixtures.py. A script outside the tests gets it so:

    sys.path.insert(0, str(PROJECT / "tests" / "influx"))
    from influx_server import InfluxServer, find_program
"""

from __future__ import annotations

import atexit
import contextlib
import csv
import http.client
import json
import os
import random
import secrets
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

INSTALL = Path(__file__).resolve().parents[2] / "tools" / "influxd" / "install"
# Below the ports that systems give to outgoing connections, so that a server that was killed finds its own again.
PORTS = range(12_000, 32_000)
START_SECONDS = 60.0
STOP_SECONDS = 60.0

# No proxy: the server is on this host.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class NoServer(Exception):
    """The server did not start, or did not do what a test's set-up asked of it."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server answered: status, headers (names in lower case), body."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode()

    @property
    def json(self) -> Any:
        """The body as a JSON document."""
        return json.loads(self.body)


def find_program() -> Path | None:
    """The InfluxDB 2 server that `tools/influxd/install --find` finds, or None; raises NoServer if INFLUXD is wrong."""
    found = subprocess.run([INSTALL, "--find"], capture_output=True, text=True, check=False)
    if found.returncode == 1:
        return None
    if found.returncode:
        raise NoServer(found.stderr.strip())
    return Path(found.stdout.rstrip("\n"))


class InfluxServer:
    """An influxd on a loopback port, with its data, its log and its home in `folder`.

    `arguments` go to influxd after ours. `engine` is the folder of its points, if not one in `folder` (a small tmpfs,
    say). With `onboard=False` the server is as new: nobody has set it up, and `token` is empty.
    """

    def __init__(
        self,
        program: Path,
        folder: Path,
        *arguments: str,
        org: str = "chandlery",
        bucket: str = "trading",
        engine: Path | None = None,
        environment: Mapping[str, str] | None = None,
        onboard: bool = True,
    ) -> None:
        self.program = program
        self.folder = folder
        self.arguments: Sequence[str] = arguments
        self.environment = dict(environment or {})
        self.engine = engine or folder / "engine"
        self.log = folder / "influxd.log"
        self.org = org
        self.org_id = ""
        self.bucket = bucket
        self.token = ""
        self.port = 0
        self.process: subprocess.Popen[bytes] | None = None
        self._authorizations: dict[str, str] = {}
        folder.mkdir(parents=True, exist_ok=True)
        for attempt in range(5):  # another program may take the port in between
            self.port = _free_port()
            try:
                self.start()
                break
            except NoServer as error:
                if attempt == 4 or "address already in use" not in str(error):
                    raise
        if onboard:
            self._onboard()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """Where its API is."""
        return f"http://127.0.0.1:{self.port}"

    def store_url(self, bucket: str | None = None) -> str:
        """The store URL of a bucket, without the token: influxdb://HOST:PORT/ORG/BUCKET."""
        parts = (urllib.parse.quote(part, safe="") for part in (self.org, bucket or self.bucket))
        return f"influxdb://127.0.0.1:{self.port}/{'/'.join(parts)}"

    @property
    def is_running(self) -> bool:
        """Whether its process is there."""
        return self.process is not None and self.process.poll() is None

    def start(self) -> None:
        """Start it, on the port and the data it had, and wait until it answers; raises NoServer with its log's end."""
        if self.process and self.process.poll() is None:
            raise NoServer("it runs already")
        options = {
            "http-bind-address": f"127.0.0.1:{self.port}",
            "bolt-path": self.folder / "influxd.bolt",
            "sqlite-path": self.folder / "influxd.sqlite",
            "engine-path": self.engine,
        }
        ours = [f"--{name}={value}" for name, value in options.items()]
        command = [str(self.program), "run", "--reporting-disabled", *ours, *self.arguments]
        kept = {name: value for name, value in os.environ.items() if not name.startswith("INFLUX")}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                cwd=self.folder,  # influxd reads a config file of the folder that it is started in
                env={**kept, "HOME": str(self.folder), **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C in a terminal is for the tests
            )
        atexit.register(self.kill)
        until = time.monotonic() + START_SECONDS
        while not self._is_ready():
            if not self.is_running or time.monotonic() > until:
                self.kill()
                raise NoServer(f"influxd did not start: {self.log_end()}")
            time.sleep(0.02)

    def stop(self) -> None:
        """End it with SIGTERM and wait until it is gone; does nothing if it is not there."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it with SIGKILL and wait until it is gone; does nothing if it is not there."""
        self._end(signal.SIGKILL)

    def log_end(self, characters: int = 3000) -> str:
        """The end of its log."""
        return self.log.read_text(errors="replace")[-characters:]

    def new_bucket(
        self, name: str | None = None, *, retention_seconds: int = 0, shard_seconds: int | None = None
    ) -> str:
        """Make a bucket (retention 0: points stay for ever) and return its name."""
        rule = {"type": "expire", "everySeconds": retention_seconds}
        if shard_seconds:
            rule["shardGroupDurationSeconds"] = shard_seconds
        wanted = {"orgID": self.org_id, "name": name or f"b{secrets.token_hex(6)}", "retentionRules": [rule]}
        made = self._wanted(201, "POST", "/api/v2/buckets", wanted)
        return str(made["name"])

    def bucket_id(self, name: str) -> str:
        """The id of a bucket; raises NoServer if there is none of that name."""
        found = self._wanted(200, "GET", f"/api/v2/buckets?{urllib.parse.urlencode({'name': name})}")
        if len(found["buckets"]) != 1:
            raise NoServer(f"there is no bucket {name!r}")
        return str(found["buckets"][0]["id"])

    def delete_bucket(self, name: str) -> None:
        """Delete a bucket with all that is in it."""
        self._wanted(204, "DELETE", f"/api/v2/buckets/{self.bucket_id(name)}")

    def new_token(
        self,
        *,
        read: Iterable[str] = (),
        write: Iterable[str] = (),
        permissions: Iterable[Mapping[str, Any]] = (),
    ) -> str:
        """Make a token that may read and write these buckets, and what `permissions` say in the API's own form."""
        named = [("read", name) for name in read] + [("write", name) for name in write]
        wanted = [*permissions]
        for action, name in named:
            resource = {"type": "buckets", "id": self.bucket_id(name), "orgID": self.org_id}
            wanted.append({"action": action, "resource": resource})
        made = self._wanted(
            201, "POST", "/api/v2/authorizations", {"orgID": self.org_id, "permissions": wanted}
        )
        self._authorizations[made["token"]] = made["id"]
        return str(made["token"])

    def revoke(self, token: str) -> None:
        """Delete a token that `new_token` made."""
        self._wanted(204, "DELETE", f"/api/v2/authorizations/{self._authorizations.pop(token)}")

    def write(
        self,
        lines: str | bytes,
        bucket: str | None = None,
        *,
        precision: str = "ms",
        token: str | None = None,
    ) -> Answer:
        """Send line protocol; returns the server's answer (204: stored)."""
        where = {"org": self.org, "bucket": bucket or self.bucket, "precision": precision}
        body = lines.encode() if isinstance(lines, str) else lines
        return self.ask("POST", f"/api/v2/write?{urllib.parse.urlencode(where)}", body, token=token)

    def query(self, flux: str, *, token: str | None = None) -> str:
        """Run a Flux query; returns its CSV; raises NoServer with the server's words if it is refused."""
        content = {"Content-Type": "application/vnd.flux", "Accept": "application/csv"}
        path = f"/api/v2/query?{urllib.parse.urlencode({'org': self.org})}"
        answer = self.ask("POST", path, flux.encode(), headers=content, token=token)
        if answer.status != 200:
            raise NoServer(f"{answer.status} {answer.text}")
        return answer.text

    def rows(self, flux: str, *, token: str | None = None) -> list[dict[str, str]]:
        """Run a Flux query; returns the rows of all its tables, each value as the server writes it."""
        rows: list[dict[str, str]] = []
        for block in self.query(flux, token=token).replace("\r\n", "\n").split("\n\n"):
            rows += csv.DictReader(block.strip("\n").split("\n")) if block.strip() else []
        for row in rows:
            row.pop("", None)  # the annotation's column
        return rows

    def count(self, measurement: str = "ohlcv", bucket: str | None = None, *, field: str = "close") -> int:
        """How many points of a measurement have that field, over all series and all time."""
        flux = (
            f"from(bucket: {json.dumps(bucket or self.bucket)}) |> range(start: 1677-09-22T00:00:00Z, stop: 2262-04-11T00:00:00Z)"
            f" |> filter(fn: (r) => r._measurement == {json.dumps(measurement)} and r._field == {json.dumps(field)})"
            " |> group() |> count()"
        )
        return sum(int(row["_value"]) for row in self.rows(flux))

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        token: str | None = None,
        timeout: float = 60.0,
    ) -> Answer:
        """Any request to its API, as the administrator if no token is given; raises OSError if nobody answers."""
        request = urllib.request.Request(
            self.url + path, body, dict(headers or {"Content-Type": "text/plain"}), method=method
        )
        if shown := self.token if token is None else token:
            request.add_header("Authorization", f"Token {shown}")
        try:
            with _OPENER.open(request, timeout=timeout) as answer:
                return Answer(answer.status, _lower(answer.headers.items()), answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, _lower(error.headers.items()), error.read())
        except http.client.HTTPException as error:  # it ended in the middle of its answer
            raise ConnectionError(repr(error)) from error

    def _wanted(self, status: int, method: str, path: str, document: Any = None) -> Any:
        body = None if document is None else json.dumps(document).encode()
        answer = self.ask(method, path, body, headers={"Content-Type": "application/json"})
        if answer.status != status:
            raise NoServer(f"{method} {path}: {answer.status} {answer.text}")
        return answer.json if answer.body else None

    def _is_ready(self) -> bool:
        with contextlib.suppress(OSError):
            return self.ask("GET", "/health", timeout=5).status == 200
        return False

    def _onboard(self) -> None:
        first = {
            "username": "admin",
            "password": secrets.token_hex(12),
            "org": self.org,
            "bucket": self.bucket,
        }
        try:
            made = self._wanted(201, "POST", "/api/v2/setup", {**first, "retentionPeriodSeconds": 0})
        except BaseException:
            self.kill()
            raise
        self.token = made["auth"]["token"]
        self.org_id = made["org"]["id"]

    def _end(self, with_signal: signal.Signals) -> None:
        if self.process is None:
            return
        if self.process.poll() is None:
            os.killpg(self.process.pid, with_signal)
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
                raise NoServer(f"influxd did not end: {self.log_end()}") from None
        self.process = None
        atexit.unregister(self.kill)


def _lower(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers}


def _free_port() -> int:
    # Not the tests' own randomness: workers have the same seed.
    dice = random.SystemRandom()
    for _ in range(200):
        port = dice.choice(PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise NoServer("no free port on 127.0.0.1")
