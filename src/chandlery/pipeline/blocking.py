"""DataPipeline: AsyncPipeline for callers that do not await."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, Self, TypeVar

from chandlery.loop import LoopThread, drop_in_loop, run_in_loop, shared_loop
from chandlery.pipeline.core import RETRY_DELAY, AsyncPipeline
from chandlery.pipeline.outcome import FetchReport

if TYPE_CHECKING:
    from chandlery.config import Settings
    from chandlery.stores.base import Store
    from chandlery.when import Moment

T = TypeVar("T")


class DataPipeline:
    """`AsyncPipeline` for callers that do not await: same arguments, same methods, from any thread.

    Works in scripts, notebooks and inside a running event loop (which it blocks while it waits: await AsyncPipeline
    there if that matters). One event loop in a daemon thread serves all pipelines of the process. Use it as `with`, or
    call `close`. A pipeline does not survive a fork: make it in the child.
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
        async def make() -> AsyncPipeline:
            return AsyncPipeline(
                exchange_id,
                store=store,
                mirrors=mirrors,
                exchange_url=exchange_url,
                signed=signed,
                retry_delay=retry_delay,
                folder=folder,
            )

        loop = shared_loop()
        self._core = run_in_loop(make)
        self._forgotten = weakref.finalize(self, _close_forgotten, loop, self._core)

    def fetch_ohlcv(
        self,
        symbol: str,
        timeframe: str = "1h",
        since: Moment | None = None,
        limit: int = 1000,
        retry_count: int = 0,
    ) -> list[list[float]]:
        """What the exchange has now, checked, the open candle included; nothing is stored.

        As AsyncPipeline.fetch_ohlcv: rows [epoch ms, open, high, low, close, volume]. Raises ExchangeError.
        """
        return self._run(lambda: self._core.fetch_ohlcv(symbol, timeframe, since, limit, retry_count))

    def fetch_and_store(
        self, symbol: str, timeframe: str, start_date: Moment, end_date: Moment | None = None
    ) -> FetchReport:
        """Fetch what is missing of [start_date, end_date), store it, and account for every slot of it.

        As AsyncPipeline.fetch_and_store: true only if everything is there; raises ExchangeError, DatabaseError.
        """
        return self._run(lambda: self._core.fetch_and_store(symbol, timeframe, start_date, end_date))

    @property
    def settings(self) -> Settings:
        """What holds for this pipeline, and where each value came from."""
        return self._core.settings

    @property
    def store(self) -> Store:
        """The store, opened (and made) if it is not yet. Raises DatabaseError."""
        return self._core.store

    @property
    def exchange(self) -> Any:
        """The synchronous ccxt object of the exchange, made when asked for and closed with the pipeline."""
        return self._core.exchange

    def close(self) -> None:
        """Let what is being stored end, then close connections and the store. Twice is fine."""
        if self._forgotten.detach() is not None and self._core.is_ours:
            run_in_loop(self._core.close)

    def _run(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        self._core.check_usable()
        return run_in_loop(work)

    def __enter__(self) -> Self:
        self._core.check_usable()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return repr(self._core).replace("AsyncPipeline", type(self).__name__)


def _close_forgotten(loop: LoopThread, core: AsyncPipeline) -> None:
    """Close what nobody closed, without waiting: it may be the garbage collector that calls."""
    drop_in_loop(loop, core.close)
