"""Running a command's coroutine so that Ctrl-C ends it well: once cancels it, twice ends the process at once."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from chandlery.cli.output import Exit, Output
from chandlery.cli.waits import telling_waits

T = TypeVar("T")


def run_until_interrupted(out: Output, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run `work()` in a fresh event loop and return what it returns.

    SIGINT and SIGTERM cancel it: what is being committed is finished, what has not begun is dropped. Then
    KeyboardInterrupt is raised. A second signal ends the process at once with exit code 130.
    """
    import asyncio

    signalled = False

    async def main() -> T:
        loop = asyncio.get_running_loop()
        task = asyncio.ensure_future(work())

        def interrupt() -> None:
            nonlocal signalled
            if signalled:
                out.show_cursor()
                os._exit(Exit.INTERRUPTED)
            signalled = True
            out.settle_terminal()
            out.say("stopping: the page in hand is finished or dropped (again to end at once)")
            task.cancel()

        caught: list[signal.Signals] = []
        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                try:
                    loop.add_signal_handler(number, interrupt)
                    caught.append(number)
                except (NotImplementedError, RuntimeError, ValueError):
                    break  # not in the main thread, or a system without signals: Python's own handling stays
            return await task
        finally:
            for number in caught:
                loop.remove_signal_handler(number)

    try:
        with telling_waits(out):
            return asyncio.run(main())
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
    except BaseExceptionGroup as group:
        # A task group hands on errors in a group; a command has one reason to end.
        raise _first(group) from None


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
