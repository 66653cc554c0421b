"""The package's own event loop: one, in one daemon thread, shared by everything synchronous in the process.

A notebook, a thread and a coroutine may all call a synchronous function: the work runs here, never in the caller's
loop. The thread starts on first use. A forked child has no threads, so it starts a loop of its own; but where the
parent had loaded polars for its work, the child is refused, because polars would wait for threads that are not there.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
import weakref
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, Generic, TypeVar

from chandlery.errors import UsageError

T = TypeVar("T")
Work = Callable[[], Coroutine[Any, Any, T]]

#: Seconds that the end of the process waits for connections that nobody closed.
PATIENCE = 3.0
#: Seconds that a waiting caller sleeps at most before it looks whether somebody pressed Ctrl-C.
AWAKE = 0.25


class _Pool(ThreadPoolExecutor):
    """Threads that still work while the process ends: Python closes every pool before threads and finalizers are done.

    What a pipeline that nobody closed has to do then, such as closing its store, gets a thread of its own, or is done
    at once where the system gives none any more.
    """

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        try:
            return super().submit(fn, *args, **kwargs)
        except RuntimeError:
            done: Future[T] = Future()

        def work() -> None:
            if not done.set_running_or_notify_cancel():
                return
            try:
                done.set_result(fn(*args, **kwargs))
            except BaseException as error:  # noqa: BLE001 - whoever waits must hear of it
                done.set_exception(error)

        try:
            threading.Thread(target=work, name="chandlery-last", daemon=True).start()
        except RuntimeError:
            work()
        return done


class LoopThread:
    """An event loop in a daemon thread of its own; `stop` ends both."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.loop.set_default_executor(_Pool(thread_name_prefix="chandlery"))
        self.pid = os.getpid()
        self.dropped: set[Call[None]] = set()  # work that nobody waits for; `stop` does
        self._thread = threading.Thread(target=self._serve, name="chandlery-loop", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_forever()
        finally:
            self.loop.close()

    @property
    def alive(self) -> bool:
        """Whether the loop still takes work."""
        return self.pid == os.getpid() and self._thread.is_alive() and not self.loop.is_closed()

    @property
    def is_current(self) -> bool:
        """Whether the caller is the loop's own thread."""
        return threading.get_ident() == self._thread.ident

    def stop(self) -> None:
        """Let what is under way end, for PATIENCE seconds at most, then end the thread. Twice is fine."""
        if not self.alive or self.is_current:
            return
        with contextlib.suppress(TimeoutError):  # the process ends; what hangs now is the system's to close
            Call(self, self._drain).result(PATIENCE)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(PATIENCE)

    async def _drain(self) -> None:
        """Wait for the work that nobody waits for, then end whatever else still runs."""
        await asyncio.gather(*(call.wait() for call in list(self.dropped)))
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await asyncio.get_running_loop().shutdown_asyncgens()


class Call(Generic[T]):
    """One piece of work in a loop of another thread. Its result is there once it has unwound, cancelled or not."""

    def __init__(self, thread: LoopThread, work: Work[T]) -> None:
        self._loop = thread.loop
        self._future: Future[T] = Future()
        self._task: asyncio.Task[T] | None = None
        self._loop.call_soon_threadsafe(self._begin, work)

    def _begin(self, work: Work[T]) -> None:
        self._task = self._loop.create_task(work())
        self._task.add_done_callback(self._end)

    def _end(self, task: asyncio.Task[T]) -> None:
        if task.cancelled():
            self._future.set_exception(asyncio.CancelledError())
        elif (error := task.exception()) is not None:
            self._future.set_exception(error)
        else:
            self._future.set_result(task.result())

    def result(self, timeout: float | None = None) -> T:
        """Wait for the work to end, from another thread; raises what it raises, or TimeoutError."""
        return self._future.result(timeout)

    def wait_for_result(self) -> T:
        """`result` without a limit, but awake now and then: a Ctrl-C that the system hands to another thread does not
        wake the main one, which acts on it only once it runs.
        """
        while not self._future.done():
            wait([self._future], AWAKE)
        return self._future.result()

    async def wait(self) -> None:
        """Wait in the loop for the work to end, however it does."""
        await asyncio.wait([asyncio.wrap_future(self._future)])

    def cancel(self) -> None:
        """Ask the work to end, from any thread."""
        self._loop.call_soon_threadsafe(lambda: self._task is not None and self._task.cancel())

    def when_done(self, tell: Callable[[Call[T]], object]) -> None:
        """Call `tell` in the loop's thread once the work has ended."""
        self._future.add_done_callback(lambda _: tell(self))


_start = threading.Lock()
_shared: LoopThread | None = None
_orphan = False


def check_process() -> None:
    """Raise UsageError in a process where nothing could work: forked from one in which chandlery was at work."""
    if _orphan:
        raise UsageError(
            "this process was forked from one that had used chandlery already, and polars cannot go on in such a child",
            hint="start it with multiprocessing's 'spawn' or 'forkserver', or use chandlery only after the fork",
        )


def shared_loop() -> LoopThread:
    """The process's loop; starts it where there is none. Raises UsageError as `check_process` does."""
    global _shared  # noqa: PLW0603 - one loop for each process is the point
    check_process()
    with _start:
        if _shared is None or not _shared.alive:
            _shared = LoopThread()
            # At the end of the process finalizers run last made first: what uses the loop was made after this one.
            weakref.finalize(LoopThread, _shared.stop)
        return _shared


def run_in_loop(work: Work[T]) -> T:
    """Run `work()` in the process's loop and wait for it; Ctrl-C in the caller ends the work before it is raised.

    Raises what the work raises, and UsageError if called from a coroutine that itself runs in this loop, where
    waiting would never end.
    """
    thread = shared_loop()
    if thread.is_current:
        raise UsageError(
            "a synchronous call from inside chandlery's own event loop would wait for itself",
            hint="await the method of AsyncPipeline instead",
        )
    call = Call(thread, work)
    try:
        return call.wait_for_result()
    except KeyboardInterrupt:
        call.cancel()
        # The page in hand is stored or dropped whole; a second Ctrl-C does not wait for that.
        with contextlib.suppress(Exception, asyncio.CancelledError):
            call.wait_for_result()
        raise


def drop_in_loop(thread: LoopThread, work: Work[None]) -> None:
    """Start `work()` in that loop and do not wait: for finalizers, which may run in any thread at any moment."""
    if thread.alive:
        call = Call(thread, work)
        thread.dropped.add(call)
        call.when_done(thread.dropped.discard)


def _after_fork_in_child() -> None:
    global _shared, _start, _orphan  # noqa: PLW0603 - the parent's lock may be held by a thread that the child lacks
    _orphan = _orphan or (_shared is not None and "polars" in sys.modules)
    _shared = None
    _start = threading.Lock()


if hasattr(os, "register_at_fork"):  # not on Windows, which cannot fork
    os.register_at_fork(after_in_child=_after_fork_in_child)
