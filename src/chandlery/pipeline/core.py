"""AsyncPipeline: fetching from one exchange into one store, in the caller's event loop."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar

from chandlery.errors import DatabaseError, ExchangeError, RateLimited, SeriesLocked, UsageError
from chandlery.loop import check_process
from chandlery.pipeline.choices import chosen_store, settings_for, source_for, store_for
from chandlery.pipeline.outcome import FetchReport
from chandlery.pipeline.turns import turn
from chandlery.when import LISTING, parse_when

if TYPE_CHECKING:
    from chandlery.backfill import Backfill, Want
    from chandlery.candle import SeriesId
    from chandlery.report import RunReport
    from chandlery.stores.base import Store
    from chandlery.when import Moment

log = logging.getLogger("chandlery.pipeline")

T = TypeVar("T")

#: How often `fetch_ohlcv` asks again after a network error.
MAX_RETRIES = 3
#: Seconds that it waits before the first repeat; twice that before the second, and so on.
RETRY_DELAY = 5.0


class AsyncPipeline:
    """Fetches candles of one exchange and stores them; use it as `async with`, in one event loop.

    `exchange_id` is ccxt's (None: EXCHANGE_ID, else binance). `store` is an open Store, which stays the caller's to
    close, or a URL or path (None: CHANDLERY_STORE, else InfluxDB if INFLUXDB_TOKEN is set, else `./candles`); it is
    opened when something is first stored. `mirrors` are URLs or paths of stores that are kept equal to it (None:
    CHANDLERY_MIRROR, else `mirror` of chandlery.toml). `exchange_url` is the server asked in place of the exchange itself
    (None: EXCHANGE_URL). API keys are sent only if `signed`. `retry_delay` is in seconds. `chandlery.toml`, `.env` and
    `secrets/.env.<exchange>` are looked for in `folder`, by default the current one.

    Raises UnknownExchange for an id that ccxt does not know, and UsageError for settings that cannot be.
    """

    def __init__(
        self,
        exchange_id: str | None = None,
        *,
        store: Store | str | os.PathLike[str] | None = None,
        mirrors: Sequence[str | os.PathLike[str]] | None = None,
        exchange_url: str | None = None,
        signed: bool = False,
        retry_delay: float = RETRY_DELAY,
        folder: str | os.PathLike[str] | None = None,
    ) -> None:
        check_process()
        self._pid = os.getpid()
        self._closed = False
        self._store: Store | None = None
        self._borrowed = False
        place: str | None = None
        if isinstance(store, str | os.PathLike):
            place = os.fspath(store)
        elif store is not None:
            self._store, self._borrowed = store, True
        self.settings = settings_for(
            folder,
            None if mirrors is None else tuple(os.fspath(url) for url in mirrors),
            exchange=exchange_id,
            exchange_url=exchange_url,
            store=place,
        )
        if self.settings.mirror:
            from chandlery.followers import check_mirrors

            here = chosen_store(self.settings) if self._store is None else self._store.url
            check_mirrors(here, self.settings.mirror, self.settings)
        self._signed = signed
        self._retry_delay = retry_delay
        self._client: Any = None
        self._turns: dict[SeriesId, asyncio.Lock] = {}
        self._opening = threading.Lock()
        self._source = source_for(self.settings, signed=signed)
        log.info("Initialized DataPipeline with exchange: %s", self.settings.exchange)

    async def fetch_ohlcv(
        self,
        symbol: str,
        timeframe: str = "1h",
        since: Moment | None = None,
        limit: int = 1000,
        retry_count: int = 0,
    ) -> list[list[float]]:
        """What the exchange has now, checked, the open candle included; nothing is stored.

        Returns rows [open time in epoch ms, open, high, low, close, volume], ascending: the first `limit` from `since`,
        or the last `limit` without it; never more than the exchange gives in one answer. Network errors are asked again
        after 5, 10 and 15 seconds; `retry_count` says how many of these 3 repeats are used up already.
        Raises ExchangeError.
        """
        self.check_usable()
        _check_limit(limit)
        log.info("Fetching %s OHLCV data for %s since %s", timeframe, symbol, since)

        series = self._series(symbol, timeframe)
        await self._source.known(series)
        # Only an age counts from the exchange's now; other moments need no request.
        now = await self._source.now() if isinstance(since, str) else 0
        if since == LISTING:
            first = await self._source.listing(series)
        else:
            first = None if since is None else parse_when(since, now=now)
        frame = await self._with_retries(lambda: self._source.latest(series, first, limit), retry_count)
        kept = frame.tail(limit) if since is None else frame.head(limit)
        rows = [list(row) for row in kept.with_columns(kept["time"].dt.epoch("ms")).rows()]
        log.info("Fetched %s candles for %s", len(rows), symbol)
        return rows

    async def fetch_and_store(
        self, symbol: str, timeframe: str, start_date: Moment, end_date: Moment | None = None
    ) -> FetchReport:
        """Fetch what is missing of [start_date, end_date), store it, and account for every slot of it.

        A moment is a date, datetime, epoch ms or text such as `2024-01-01`, `7d` (ago) or `listing`; naive ones are
        UTC. `end_date` None is the exchange's now; only closed candles are stored. The report is true only if
        everything asked for is there; what came before an error is kept, and the report's `error` names it. Raises
        ExchangeError or DatabaseError where nothing could be had or kept, UsageError for a range that cannot be.
        A mirror that fails is named under `mirrors` of the report and raises nothing.
        """
        from chandlery.backfill import Backfill, Want

        self.check_usable()
        series = self._series(symbol, timeframe)
        async with self._turns.setdefault(series, asyncio.Lock()):
            await self._source.known(series)  # a wrong name must not make a store
            now = await self._source.now()
            since: int | Literal["listing"] = (
                "listing" if start_date == LISTING else parse_when(start_date, now=now)
            )
            until = None if end_date is None else parse_when(end_date, now=now)
            if since != "listing" and since >= (now if until is None else min(now, until)):
                raise UsageError(
                    f"start_date {start_date!r} is not before {'now' if until is None else repr(end_date)}",
                    hint="ranges are half-open, [start_date, end_date); naive times are UTC",
                )
            store = await asyncio.to_thread(lambda: self.store)
            backfill = Backfill(
                self._source, store, settle=self.settings.settle, recheck=round(self.settings.recheck * 1000)
            )
            async with turn(store.url, series):
                run = await self._run(backfill, Want(series, since, until))
        error = run.series[0].error
        if error is None:
            log.info("Stored %s %s candles for %s in %s", run.series[0].written, timeframe, symbol, store.url)
        else:
            if isinstance(error, SeriesLocked):
                error.hint = (
                    "wait for that process to end and call again, or give each process a store of its own"
                )
            log.error("%s: %s", series, error)
            if isinstance(error, DatabaseError) or not run.series[0].fetched:
                raise error
        return FetchReport(run)

    @property
    def store(self) -> Store:
        """The store, opened (and made) if it is not yet. Raises DatabaseError."""
        self.check_usable()
        with self._opening:
            if self._store is None:
                self._store = store_for(self.settings)
            return self._store

    @property
    def exchange(self) -> Any:
        """The synchronous ccxt object of the exchange, made when asked for and closed with the pipeline.

        It talks to the same server. It has API keys only if the pipeline is `signed`, and paces itself.
        """
        self.check_usable()
        if self._client is None:
            from chandlery.sources.ccxt_sync import sync_client

            settings = self.settings
            self._client = sync_client(
                settings.exchange,
                url=settings.exchange_url,
                api_key=settings.api_key.get_secret_value() if self._signed else "",
                secret=settings.secret.get_secret_value() if self._signed else "",
            )
        return self._client

    async def close(self) -> None:
        """Let what is being stored end, then close connections and the store, unless that was handed in open.
        Twice is fine.
        """
        if self._closed or not self.is_ours:
            return
        self._closed = True
        for under_way in list(self._turns.values()):
            async with under_way:
                pass
        try:
            await self._source.close()
        finally:
            if self._client is not None and self._client.session is not None:
                self._client.session.close()
            if self._store is not None and not self._borrowed:
                await asyncio.to_thread(self._store.close)

    async def __aenter__(self) -> Self:
        self.check_usable()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        state = " closed" if self._closed else ""
        return f"<{type(self).__name__} {self.settings.exchange}{state}>"

    @property
    def is_ours(self) -> bool:
        """Whether this process made the pipeline, rather than the one that it was forked from."""
        return self._pid == os.getpid()

    # -- inside ------------------------------------------------------------------------------------------------------

    def check_usable(self) -> None:
        """Raise UsageError if the pipeline is closed, or was made in the process that this one was forked from."""
        if self._closed:
            raise UsageError(
                "this pipeline is closed", hint="make a new one, such as: with DataPipeline() as pipeline:"
            )
        if not self.is_ours:
            raise UsageError(
                f"this pipeline was made in another process ({self._pid})",
                hint="make one after the fork: connections cannot be shared between processes",
            )

    async def _run(self, backfill: Backfill, want: Want) -> RunReport:
        """Run the back-fill while the mirrors follow; one that fails is told of in the report."""
        from chandlery.followers import Followers

        followers = Followers(backfill.store, self.settings.mirror, settings=self.settings).start()
        try:
            run = await backfill.run([want])
            run.mirrors = await followers.finish()
        finally:
            followers.stop()
        for mirror in run.mirrors:
            if not mirror.ok:
                log.error("mirror %s: %s", mirror.url, mirror.error or f"{mirror.behind} entries behind")
        return run

    def _series(self, symbol: str, timeframe: str) -> SeriesId:
        from chandlery.candle import SeriesId

        return SeriesId(self.settings.exchange, symbol, timeframe)

    async def _with_retries(self, ask: Callable[[], Coroutine[Any, Any, T]], used: int) -> T:
        """Ask, and again after errors that can pass, until MAX_RETRIES repeats are used."""
        while True:
            try:
                return await ask()
            except ExchangeError as error:
                if not error.retryable:
                    log.error("Exchange error: %s", error)
                    raise
                used += 1
                wait = self._wait_before(error, used)
                if wait is None:
                    log.error("Failed to fetch OHLCV data after %s attempts: %s", used, error)
                    raise
                log.warning(
                    "Network error, retrying in %gs (attempt %s/%s): %s", wait, used, MAX_RETRIES, error
                )
                await asyncio.sleep(wait)

    def _wait_before(self, error: ExchangeError, attempt: int) -> float | None:
        """Seconds to wait before that repeat, None if there should be none."""
        if attempt > MAX_RETRIES:
            return None
        wait = self._retry_delay * attempt
        if isinstance(error, RateLimited) and error.until is not None:
            told = error.until / 1000 - time.time()
            return None if told > self.settings.max_wait else max(wait, told)
        return wait


def _check_limit(limit: object) -> None:
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise UsageError(f"not a number of candles: {limit!r}", hint="limit is 1 or more")
