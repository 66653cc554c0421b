"""The HTTP requests of a client: which proxy they take, and how much they read."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import web

from chandlery.sources.http_requests import AnswerTooLarge, Requests


async def _serve(seen: list[tuple[str, str]], size: int = 2) -> tuple[web.ServerRunner, str]:
    async def answer(request: web.BaseRequest) -> web.Response:
        seen.append((request.headers.get("Host", ""), request.headers.get("Authorization", "")))
        return web.Response(body=b"[" + b" " * (size - 2) + b"]", headers={"X-Seen": "yes"})

    server = web.Server(answer)
    runner = web.ServerRunner(server)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    return runner, f"http://{host}:{port}"


def _bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "NETRC"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def test_the_proxy_of_the_environment_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request goes to the proxy that HTTP_PROXY names, with the host asked for in it."""

    async def run() -> None:
        seen: list[tuple[str, str]] = []
        runner, proxy = await _serve(seen)
        _bare(monkeypatch)
        monkeypatch.setenv("HTTP_PROXY", proxy)
        requests = Requests(timeout_seconds=10, limit=1000)
        try:
            answer = await requests.send("http://exchange.invalid/time?a=%20b", "GET", {}, None)
        finally:
            await requests.close()
            await runner.cleanup()
        assert (answer.status, answer.body, answer.headers["x-seen"]) == (200, b"[]", "yes")
        assert [host for host, _ in seen] == ["exchange.invalid"]

    asyncio.run(run())


def test_no_proxy_goes_straight(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that NO_PROXY names is asked without the proxy."""

    async def run() -> None:
        seen: list[tuple[str, str]] = []
        runner, url = await _serve(seen)
        _bare(monkeypatch)
        monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        requests = Requests(timeout_seconds=10, limit=1000)
        try:
            assert (await requests.send(url, "GET", {}, None)).status == 200
        finally:
            await requests.close()
            await runner.cleanup()
        assert len(seen) == 1

    asyncio.run(run())


def test_passwords_of_a_netrc_are_not_sent(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """What a .netrc says about the host stays at home: only what the user gave chandlery is sent."""

    async def run() -> None:
        seen: list[tuple[str, str]] = []
        runner, url = await _serve(seen)
        _bare(monkeypatch)
        place = tmp_path_factory.mktemp("netrc") / "netrc"
        place.write_text("machine 127.0.0.1 login user password secret\n")
        place.chmod(0o600)
        monkeypatch.setenv("NETRC", str(place))
        requests = Requests(timeout_seconds=10, limit=1000)
        try:
            assert (await requests.send(url, "GET", {}, None)).status == 200
        finally:
            await requests.close()
            await runner.cleanup()
        assert [authorization for _, authorization in seen] == [""]

    asyncio.run(run())


def test_answers_of_any_size_up_to_the_limit() -> None:
    """An answer of as many bytes as allowed comes whole, however many pieces it arrives in; one more is refused."""

    async def run() -> None:
        size = 3_000_000
        runner, url = await _serve([], size)
        try:
            for limit, fits in ((size, True), (size - 1, False)):
                requests = Requests(timeout_seconds=10, limit=limit)
                try:
                    if fits:
                        assert len((await requests.send(url, "GET", {}, None)).body) == size
                    else:
                        with pytest.raises(AnswerTooLarge, match="2999999 bytes"):
                            await requests.send(url, "GET", {}, None)
                finally:
                    await requests.close()
        finally:
            await runner.cleanup()

    asyncio.run(run())
