"""Starting and stopping a local exchange, from Python (a thread of its own) or as a program."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self

from aiohttp import web

from chandlery.errors import UsageError
from chandlery.exchange.binance import BinanceApi
from chandlery.exchange.clock import ExchangeClock, TimeSource, parse_clock
from chandlery.exchange.csvfiles import CsvMarket
from chandlery.exchange.faults import Faults
from chandlery.exchange.generated import GeneratedMarket
from chandlery.exchange.klines import KlineBook
from chandlery.exchange.limits import RequestLimits
from chandlery.exchange.market import TIMEFRAMES, Market
from chandlery.exchange.server import ExchangeServer, RequestRecord
from chandlery.exchange.settings import ExchangeSettings
from chandlery.exchange.symbols import Listing
from chandlery.timeframe import MINUTE

if TYPE_CHECKING:
    import polars as pl


class LocalExchange:
    """A local exchange that runs in a thread of its own, for use from any code.

        with LocalExchange(ExchangeSettings(clock="2024-06-01T00:00Z")) as exchange:
            ...                                  # talk to exchange.url

    `clock` is any object with `now_ms()`; it takes the place of the settings' clock, so that a test can share a virtual
    one with the exchange. Raises `UsageError` where the settings or the files to serve are not right.
    """

    def __init__(self, settings: ExchangeSettings | None = None, *, clock: TimeSource | None = None) -> None:
        self.settings = settings or ExchangeSettings()
        self._market = _market(self.settings)
        self._clock = clock or _clock(self.settings, self._market)
        paced = self._clock.paced_ms if isinstance(self._clock, ExchangeClock) else self._clock.now_ms
        self._limits = RequestLimits(self.settings.weight_limit, paced)
        self._book = KlineBook(self._market, memory=self.settings.cache_mib << 20)
        self._api = BinanceApi(self._market, self._book, self._clock, self._limits)
        self._server = ExchangeServer(
            self._api,
            self._market,
            self._clock,
            self._limits,
            faults=self.settings.faults,
            name=self.settings.exchange,
        )
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._url = ""
        self._failure: BaseException | None = None

    @property
    def url(self) -> str:
        """Where it listens, such as http://127.0.0.1:41234; empty before the start."""
        return self._url

    @property
    def requests(self) -> list[RequestRecord]:
        """The last requests (200,000 at most), oldest first, without those to the control endpoint."""
        return self._server.requests()

    @property
    def faults(self) -> Faults:
        """The script of faults being played; setting one starts it from its beginning."""
        return self._server.faults

    @faults.setter
    def faults(self, faults: Faults) -> None:
        self._server.faults = faults

    @property
    def symbols(self) -> list[str]:
        """The unified symbols it has, listed and delisted."""
        return [listing.symbol for listing in self._market.listings.values()]

    def now_ms(self) -> int:
        """The exchange's time."""
        return self._clock.now_ms()

    def forget_requests(self) -> None:
        """Empty the log of requests."""
        self._server.forget_requests()

    def truth(self, symbol: str, timeframe: str, since: int, until: int) -> pl.DataFrame:
        """What a perfect client would have stored of [since, until): the closed candles, as chandlery's frames.

        Columns `time` (Datetime ms UTC), `open high low close volume` (Float64), ascending. Raises `UsageError` for a
        symbol or timeframe that is not served.
        """
        import polars as pl

        listing = self._listing(symbol)
        frame = TIMEFRAMES.get(timeframe)
        if frame is None or self._market.base(listing, frame) is None:
            raise UsageError(f"the local exchange has no {timeframe!r} candles of {symbol}")
        candles = self._book.closed(listing, frame, since, until, self._clock.now_ms())
        columns = dict(zip(("open", "high", "low", "close", "volume"), candles.prices(), strict=True))
        opens = pl.Series("time", candles.time).cast(pl.Datetime("ms", "UTC"))
        return pl.DataFrame([opens, *(pl.Series(name, column) for name, column in columns.items())])

    def start(self) -> Self:
        """Listen and answer in a thread of its own; returns when it is ready."""
        ready = threading.Event()
        self._thread = threading.Thread(
            target=self._serve_thread, args=(ready,), name="local-exchange", daemon=True
        )
        self._thread.start()
        ready.wait()
        if self._failure is not None:
            self._thread.join()
            raise self._failure
        return self

    def stop(self) -> None:
        """Stop listening, break hanging requests off and end the thread; harmless if it does not run."""
        thread, loop = self._thread, self._loop
        if thread is None or loop is None:
            return
        with contextlib.suppress(RuntimeError):  # the loop is closed already
            loop.call_soon_threadsafe(self._server.stopping.set)
        thread.join()
        self._thread = self._loop = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    async def run(self, on_ready: Callable[[str], None]) -> None:
        """Listen and answer on the running loop until `stopping`; calls `on_ready` with the URL."""
        runner = web.ServerRunner(
            # A handler ends when its caller hangs up, so that hanging answers do not pile up.
            web.Server(self._server.handle, access_log=None, handler_cancellation=True),
            shutdown_timeout=0.5,
        )
        await runner.setup()
        site = web.TCPSite(runner, self.settings.host, self.settings.port)
        try:
            await site.start()
        except OSError as error:
            await runner.cleanup()
            raise UsageError(
                f"cannot listen on {self.settings.host}:{self.settings.port}: {error.strerror or error}",
                hint="choose another --port (0 takes a free one) or --host",
            ) from error
        port = runner.addresses[0][1]
        host = f"[{self.settings.host}]" if ":" in self.settings.host else self.settings.host
        self._url = f"http://{host}:{port}"
        on_ready(self._url)
        await self._server.stopping.wait()
        await runner.cleanup()

    def request_stop(self) -> None:
        """Ask `run` to end; to be called on its loop."""
        self._server.stopping.set()

    def _serve_thread(self, ready: threading.Event) -> None:
        async def main() -> None:
            self._loop = asyncio.get_running_loop()
            await self.run(lambda _url: ready.set())

        self._server.stopping = asyncio.Event()
        self._failure = None
        try:
            asyncio.run(main())
        except BaseException as error:  # noqa: BLE001 - handed to the thread that waits for the start
            self._failure = error
        finally:
            ready.set()

    def _listing(self, symbol: str) -> Listing:
        for listing in self._market.listings.values():
            if symbol in {listing.symbol, listing.id}:
                return listing
        raise UsageError(
            f"the local exchange has no pair {symbol!r}", hint=f"there are: {', '.join(self.symbols)}"
        )


def serve(settings: ExchangeSettings, on_ready: Callable[[str], None] = lambda _url: None) -> None:
    """Run a local exchange until SIGINT or SIGTERM, then end cleanly; prints nothing.

    `on_ready` is called with the URL once it listens. Raises `UsageError` where it cannot start. Main thread only.
    """
    exchange = LocalExchange(settings)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, exchange.request_stop)
        await exchange.run(on_ready)

    asyncio.run(main())


def _market(settings: ExchangeSettings) -> Market:
    if settings.csv is not None:
        return CsvMarket(settings.csv, settings.exchange)
    return GeneratedMarket(settings.listings(), seed=settings.seed, omit_flat=settings.omit_flat)


def _clock(settings: ExchangeSettings, market: Market) -> ExchangeClock:
    if settings.clock is not None:
        return ExchangeClock(*parse_clock(settings.clock))
    if isinstance(market, CsvMarket):
        return ExchangeClock(market.last_close + MINUTE)
    return ExchangeClock()
