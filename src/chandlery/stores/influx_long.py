"""Long candles kept up with their minutes: what the journal says of 1m series since the last time is made anew.

It follows the journal by its number, as a mirror does, so a run that was ended early is made good by the next one.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from chandlery.stores.influx_books import read_journal
from chandlery.stores.influx_downsample import Target, rerun_series, targets
from chandlery.stores.influx_tasks import SOURCE
from chandlery.timerange import RangeSet

if TYPE_CHECKING:
    from chandlery.candle import SeriesId
    from chandlery.stores.base import Store
    from chandlery.stores.influx_http import InfluxHttp
    from chandlery.stores.influx_numbers import Numbers
    from chandlery.stores.influx_read import Reader

#: The mark, with the name of the host's writer, up to which journal number long candles are made.
MARK = "long candles"


class LongCandles:
    """The buckets of long candles that belong to one store, if there are any. From any thread."""

    def __init__(self, store: Store, http: InfluxHttp, reader: Reader, numbers: Numbers) -> None:
        self._store, self._http, self._reader, self._numbers = store, http, reader, numbers
        self._turn = threading.Lock()
        self._targets: list[Target] | None = None
        self._wanted = False

    def touched(self, series: SeriesId) -> None:
        """Something of the series changed."""
        self._wanted = self._wanted or (series.timeframe == SOURCE and series.kind == "trade")

    def catch_up(self, *, always: bool = False) -> int:
        """Make anew what changed since the last time; returns how many long candles were written.

        Nothing is asked of the server where nothing was touched, unless `always`.
        """
        with self._turn:
            if not (self._wanted or always):
                return 0
            if self._targets is None:
                self._targets = self._http.run(targets(self._http))
            self._wanted = False
            if not self._targets:
                return 0
            try:
                return self._make(self._targets)
            except BaseException:
                self._wanted = True
                raise

    def _make(self, into: list[Target]) -> int:
        # Each host numbers what it writes by itself, and follows just that.
        writer = self._numbers.writer
        mark = f"{MARK} {writer}"
        entries = self._http.run(read_journal(self._reader, self._store.mark(mark), writer))
        touched: dict[SeriesId, RangeSet] = {}
        for entry in entries:
            if entry.kind not in ("ask", "remove") and entry.series.kind == "trade":
                touched[entry.series] = touched.get(entry.series, RangeSet()) | RangeSet([entry.range])
        kept = {series: ranges for series, ranges in touched.items() if self._store.knows(series)}
        made = sum(rerun_series(self._http, self._store, kept, into).values())
        if entries:
            self._store.set_mark(mark, entries[-1].seq)
        return made
