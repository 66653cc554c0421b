"""The package's own event loop: any caller may use it, it survives a fork, and it ends with the process."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from chandlery.errors import UsageError
from chandlery.loop import run_in_loop, shared_loop


async def where() -> tuple[str, int]:
    """Name of the thread that runs this coroutine, and the loop's identity."""
    await asyncio.sleep(0)
    return threading.current_thread().name, id(asyncio.get_running_loop())


def test_every_caller_shares_one_loop_in_one_thread() -> None:
    """From the main thread, twenty other threads and a running loop, work runs in the same loop elsewhere."""

    async def inside() -> tuple[str, int]:
        return run_in_loop(where)

    with ThreadPoolExecutor(20) as pool:
        threads = list(pool.map(lambda _: run_in_loop(where), range(20)))
    found = {run_in_loop(where), asyncio.run(inside()), *threads}

    assert found == {("chandlery-loop", id(shared_loop().loop))}
    assert sum(thread.name == "chandlery-loop" for thread in threading.enumerate()) == 1


def test_an_error_comes_out_as_it_was_raised() -> None:
    """An exception of the work is raised in the caller, the very same object."""
    error = KeyError("mine")

    async def fail() -> None:
        raise error

    with pytest.raises(KeyError) as caught:
        run_in_loop(fail)
    assert caught.value is error


def test_waiting_for_itself_is_refused() -> None:
    """A synchronous call from a coroutine of the loop itself is a clear error instead of a deadlock."""

    async def inside() -> None:
        run_in_loop(where)

    with pytest.raises(UsageError, match="wait for itself"):
        run_in_loop(inside)


def test_ctrl_c_ends_the_work_before_it_is_raised() -> None:
    """KeyboardInterrupt while waiting cancels the coroutine and comes out only after its clean-up has run."""
    steps: list[str] = []
    started = threading.Event()

    async def work() -> None:
        started.set()
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.05)
            steps.append("cleaned")

    def interrupt() -> None:
        started.wait(10)
        time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    began = time.monotonic()
    # A shell starts what it runs in the background with SIGINT ignored, and Python leaves that so.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            run_in_loop(work)
    finally:
        signal.signal(signal.SIGINT, before)
    assert steps == ["cleaned"]
    assert time.monotonic() - began < 20
    assert run_in_loop(where)[0] == "chandlery-loop"


FORK = """
import asyncio, os, sys, threading
from chandlery.loop import run_in_loop, shared_loop

async def thread(): return threading.current_thread().name

assert run_in_loop(thread) == "chandlery-loop"
parent = shared_loop()
child = os.fork()
if child == 0:
    fine = run_in_loop(thread) == "chandlery-loop" and shared_loop() is not parent and not parent.alive
    sys.exit(0 if fine else 1)
_, status = os.waitpid(child, 0)
assert os.waitstatus_to_exitcode(status) == 0
assert shared_loop() is parent and run_in_loop(thread) == "chandlery-loop"
"""

LEFT_BEHIND = """
import asyncio
from chandlery.loop import Call, drop_in_loop, run_in_loop, shared_loop

async def endless():
    try:
        await asyncio.sleep(3600)
    finally:
        print("cancelled")

async def closing():
    await asyncio.sleep(0.05)
    print("closed")

Call(shared_loop(), endless)
drop_in_loop(shared_loop(), closing)
print("end")
"""


def test_a_forked_child_gets_a_loop_of_its_own() -> None:
    """After os.fork the child starts its own loop, the parent's goes on, and both processes end well."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORK],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")


def test_the_process_ends_in_good_order() -> None:
    """At exit, dropped work is waited for, what still runs is cancelled, and nothing is said on stderr."""
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-c", LEFT_BEHIND],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == ["end", "closed", "cancelled"]
    assert time.monotonic() - began < 10
