"""What a person sees of a run while it goes on: bars on a terminal, a line per series with -v elsewhere; all on stderr."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from chandlery.cli.output import Output
from chandlery.redact import visible

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

    from chandlery.candle import SeriesId
    from chandlery.report import SeriesReport

#: Series that have a bar of their own at once; the others wait in line or are in the sum.
BARS = 10


@dataclass(slots=True)
class _Line:
    """One series under way."""

    slots: int
    done: int = 0
    bar: TaskID | None = None


@dataclass
class RunProgress:
    """A `chandlery.report.Progress` for people. Use it as a context manager; it takes the terminal while it is open."""

    out: Output
    order: Sequence[SeriesId] = ()  # as typed, which is how bars are sorted
    under_way: dict[SeriesId, _Line] = field(default_factory=dict)
    finished_series: int = 0
    slots_done: int = 0
    _waiting: deque[SeriesId] = field(default_factory=deque)
    _done: deque[TaskID] = field(default_factory=deque)
    _bars: Bars | None = None
    _over: bool = False
    _total: TaskID | None = None
    _began: float = field(default_factory=time.monotonic)

    def __enter__(self) -> Self:
        self.out.settle_terminal = self.stop
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Take the bars down for good."""
        self._over = True
        if self._bars is not None:
            self._bars.stop()
            self._bars = None

    # -- called by the run -------------------------------------------------------------------------------------------

    def started(self, series: SeriesId, slots: int) -> None:
        """A series is begun; so many slots are to be asked for."""
        self.under_way[series] = _Line(slots)
        if not slots or self._over or self.out.quiet or not self.out.stderr_is_terminal:
            return
        if self._bars is None:
            self._bars = _new_bars(self.out)
            self._bars.start()
        self._waiting.append(series)
        self._show_more()
        self._sum_up()

    def advanced(self, series: SeriesId, slots: int) -> None:
        """So many more slots of it are answered."""
        line = self.under_way.get(series)
        self.slots_done += slots
        if line is None:
            return
        line.done = min(line.slots, line.done + slots)
        if self._bars is not None and line.bar is not None:
            self._bars.update(line.bar, completed=line.done)
            self._sum_up()

    def note(self, series: SeriesId | None, text: str) -> None:
        """Something worth telling a person."""
        self.out.note(text if series is None or text.startswith(str(series)) else f"{series}: {text}")

    def finished(self, report: SeriesReport) -> None:
        """A series is done, well or not."""
        line = self.under_way.pop(report.series, None)
        self.finished_series += 1
        if self._bars is not None and line is not None and line.bar is not None:
            if report.error is None:
                self._bars.update(line.bar, completed=line.slots, done=True)
                self._done.append(line.bar)
            else:
                self._bars.remove_task(line.bar)
            self._show_more()
        self.out.debug(f"{report.series}: {report.fetched:,} candles arrived, {report.written:,} new")

    # -- bars --------------------------------------------------------------------------------------------------------

    def _show_more(self) -> None:
        assert self._bars is not None
        shown = sum(line.bar is not None for line in self.under_way.values())
        while self._waiting and shown < BARS:
            if shown + len(self._done) >= BARS:
                self._bars.remove_task(self._done.popleft())
            series = self._waiting.popleft()
            line = self.under_way.get(series)
            if line is not None:
                rank = self.order.index(series) if series in self.order else len(self.order)
                line.bar = self._bars.add_task(
                    visible(series), total=line.slots, completed=line.done, rank=rank, done=False
                )
                shown += 1

    def _sum_up(self) -> None:
        """A bar for everything, once there are more series than bars."""
        assert self._bars is not None
        if self._total is None:
            if not self._waiting:
                return
            self._total = self._bars.add_task("all series", total=None, rank=math.inf, done=False)
        left = sum(line.slots - line.done for line in self.under_way.values())
        self._bars.update(self._total, total=self.slots_done + left, completed=self.slots_done)


def _new_bars(out: Output) -> Bars:
    from rich import progress

    class State(progress.ProgressColumn):
        """How far a series is, how quickly that goes, and how long it will take."""

        left = progress.TimeRemainingColumn(compact=True)

        def render(self, task: progress.Task) -> str:
            if task.fields["done"]:
                return "✓"
            if not task.completed:
                return "waiting"
            speed = "" if task.speed is None else f"{task.speed:,.0f} candles/s "
            return f"{task.percentage:3.0f}% {speed}{self.left.render(task).plain}"

    class InOrder(progress.Progress):
        """Bars in the order of their ranks."""

        def get_renderables(self) -> Iterable[RenderableType]:
            yield self.make_tasks_table(sorted(self.tasks, key=lambda task: task.fields["rank"]))

    return InOrder(
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(bar_width=None),
        State(),
        console=out.console(),
        transient=True,
        expand=True,
    )
