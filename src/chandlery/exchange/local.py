"""Starting and stopping a local exchange, from Python (a thread of its own) or as a program."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Self

from aiohttp import web

from chandlery.errors import UsageError
from chandlery.exchange.clock import ExchangeClock, TimeSource, parse_clock
from chandlery.exchange.csvfiles import CsvMarket
from chandlery.exchange.faults import Faults
from chandlery.exchange.generated import GeneratedMarket
from chandlery.exchange.klines import KlineBook
from chandlery.exchange.market import Market
from chandlery.exchange.server import ExchangeServer, RequestRecord
from chandlery.exchange.settings import ExchangeSettings
from chandlery.exchange.shape import Shape
from chandlery.exchange.shapes import shape_of
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
        markets = _markets(self.settings)
        self._clock = clock or _clock(self.settings, markets.values())
        self._shapes = {name: self._shape(name, market) for name, market in markets.items()}
        self._server = ExchangeServer(list(self._shapes.values()), self._clock, faults=self.settings.faults)
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
        """The unified symbols it has, listed and delisted; of the first exchange, if it plays several."""
        return self.symbols_of(self.settings.exchanges[0])

    def symbols_of(self, exchange: str) -> list[str]:
        """The unified symbols of one of the exchanges that it plays."""
        return [listing.symbol for listing in self._shapes[exchange].market.listings.values()]

    def url_of(self, exchange: str) -> str:
        """Where one of the exchanges that it plays is found."""
        return f"{self._url}/{self._shapes[exchange].id}"

    def now_ms(self) -> int:
        """The exchange's time."""
        return self._clock.now_ms()

    def forget_requests(self) -> None:
        """Empty the log of requests."""
        self._server.forget_requests()

    def truth(
        self, symbol: str, timeframe: str, since: int, until: int, *, exchange: str | None = None
    ) -> pl.DataFrame:
        """What a perfect client would have stored of [since, until): the closed candles, as chandlery's frames.

        Columns `time` (Datetime ms UTC), `open high low close volume` (Float64, in the base currency), ascending. `exchange`
        names one of several. Raises `UsageError` for a symbol or timeframe that is not served.
        """
        import polars as pl

        shape = self._shapes[exchange or self.settings.exchanges[0]]
        listing = self._listing(shape, symbol)
        frame = shape.timeframes().get(timeframe)
        if frame is None or shape.market.base(listing, frame) is None:
            raise UsageError(f"the local exchange has no {timeframe!r} candles of {symbol}")
        candles = shape.book.closed(listing, frame, since, until, self._clock.now_ms())
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

    def _shape(self, name: str, market: Market) -> Shape:
        kind = shape_of(name)
        memory = (self.settings.cache_mib << 20) // len(self.settings.exchanges)
        book = KlineBook(
            market, memory=memory, omit_empty=kind.omits_empty, whole_contracts=kind.whole_contracts
        )
        paced = self._clock.paced_ms if isinstance(self._clock, ExchangeClock) else self._clock.now_ms
        return kind(market, book, self._clock, kind.make_limits(self.settings.weight_limit, paced))

    @staticmethod
    def _listing(shape: Shape, symbol: str) -> Listing:
        listings = shape.market.listings.values()
        for listing in listings:
            if symbol in {listing.symbol, listing.id}:
                return listing
        served = ", ".join(listing.symbol for listing in listings)
        raise UsageError(f"the local exchange has no pair {symbol!r}", hint=f"there are: {served}")


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


def _markets(settings: ExchangeSettings) -> dict[str, Market]:
    """A market for each exchange: its own files, or its pairs of the generated one."""
    wanted = settings.listings() if settings.csv is None else []
    markets: dict[str, Market] = {}
    for name in settings.exchanges:
        shape = shape_of(name)
        if settings.csv is not None:
            settled = all(pair.settle for pair in shape.pairs)
            markets[name] = CsvMarket(settings.csv, name, shape.timeframes(), settled=settled)
        else:
            pairs = [listing for listing in wanted if listing in shape.pairs]
            markets[name] = GeneratedMarket(pairs, seed=settings.seed, omit_flat=settings.omit_flat)
    return markets


def _clock(settings: ExchangeSettings, markets: Iterable[Market]) -> ExchangeClock:
    if settings.clock is not None:
        return ExchangeClock(*parse_clock(settings.clock))
    ends = [market.last_close for market in markets if isinstance(market, CsvMarket)]
    return ExchangeClock(max(ends) + MINUTE) if ends else ExchangeClock()
