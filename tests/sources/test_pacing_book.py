"""The file of budgets: shared, remembered, and no worse than forgotten where it is spoilt."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from chandlery.clock import SystemClock
from chandlery.sources.bans import BanBook
from chandlery.sources.limits import RequestLimit
from chandlery.sources.pacing import Pacer
from chandlery.sources.pacing.book import BudgetBook
from chandlery.sources.pacing.tally import BYTES, SPENT, Tally

HOST = "api.x.com"
URL = f"https://{HOST}/candles"
LIMIT = RequestLimit("x", 10, 60_000)


def pacer_of(folder: Path, clock: Any, **options: Any) -> Pacer:
    """The hosts as a new process finds them."""
    options.setdefault("limits", (LIMIT,))
    options.setdefault("share", 1.0)
    return Pacer(clock=clock, state_dir=folder, max_wait_seconds=600, **options)


def wait_of(folder: Path, clock: Any, **options: Any) -> float:
    """How long a new process would wait."""
    return pacer_of(folder, clock, **options).host(HOST).wait_ms(URL)


async def spend(pacer: Pacer, requests: int) -> None:
    """Send so many requests and have their answers."""
    for _ in range(requests):
        async with pacer.host(HOST).turn(URL, 1.0):
            pass


def test_a_new_process_goes_on_with_what_is_left(tmp_path: Path, clock: Any) -> None:
    """What one process has spent counts for the next, until the window is over."""
    asyncio.run(spend(pacer_of(tmp_path, clock), 9))
    assert wait_of(tmp_path, clock) == 0
    asyncio.run(spend(pacer_of(tmp_path, clock), 1))
    assert wait_of(tmp_path, clock) == 60_000
    clock.now += 59_999
    assert 0 < wait_of(tmp_path, clock) <= 1
    clock.now += 1
    assert wait_of(tmp_path, clock) == 0


def test_shares_are_of_what_all_have_used(tmp_path: Path, clock: Any) -> None:
    """Of two processes with different shares each stops where all together have used its own."""
    asyncio.run(spend(pacer_of(tmp_path, clock, share=0.5), 5))
    assert wait_of(tmp_path, clock, share=0.5) == 60_000
    assert wait_of(tmp_path, clock, share=0.8) == 0
    asyncio.run(spend(pacer_of(tmp_path, clock, share=0.8), 3))
    assert wait_of(tmp_path, clock, share=0.8) == 60_000
    assert wait_of(tmp_path, clock, share=1.0) == 0


def test_limits_and_spacing_are_kept_apart(tmp_path: Path, clock: Any) -> None:
    """Each limit of a host has its own place in the file, whichever process came first to it, and so has the spacing
    of requests that fall under none.
    """
    limits = tuple(RequestLimit(name, 5, 60_000, paths=(f"/{name}",)) for name in "abcdefghij")

    async def main(names: str) -> None:
        host = pacer_of(tmp_path, clock, limits=limits, unit_ms=50.0).host(HOST)
        for name in names:
            async with host.turn(f"https://{HOST}/{name}", 1.0):
                pass

    asyncio.run(main("aaabbz"))
    asyncio.run(main("jjjjjaab"))
    host = pacer_of(tmp_path, clock, limits=limits, unit_ms=50.0).host(HOST)
    waits = {name: host.wait_ms(f"https://{HOST}/{name}", 2.0) for name in "abcjz"}
    assert waits == {"a": 60_000, "b": 0, "c": 0, "j": 60_000, "z": 50}


@pytest.mark.parametrize("spoil", ["torn", "foreign", "older", "cut", "empty", "text"])
def test_a_spoilt_file_is_begun_anew(tmp_path: Path, clock: Any, spoil: str) -> None:
    """A file that is torn, cut, foreign or of another version costs what it knew, nothing else; it is shared again."""
    asyncio.run(spend(pacer_of(tmp_path, clock), 10))
    path = next((tmp_path / "hosts").glob("*.budget"))
    whole = path.read_bytes()
    path.write_bytes(
        {
            "torn": whole[:800] + os.urandom(400) + whole[1200:],
            "foreign": os.urandom(5 * BYTES),
            "older": Tally(1.0).bytes()[:8] + b"\1" + whole[9:],
            "cut": whole[: BYTES // 2],
            "empty": b"",
            "text": b'{"version": 1}' * 500,
        }[spoil]
    )
    assert wait_of(tmp_path, clock) == 0
    asyncio.run(spend(pacer_of(tmp_path, clock), 10))
    assert wait_of(tmp_path, clock) == 60_000


@pytest.mark.parametrize("how", ["removed", "cut"])
def test_a_file_that_goes_while_it_is_used_is_made_anew(tmp_path: Path, clock: Any, how: str) -> None:
    """Whoever removes or cuts the file under a running process ends no run, and the next process shares the new one."""
    pacer = pacer_of(tmp_path, clock)
    asyncio.run(spend(pacer, 4))
    path = next((tmp_path / "hosts").glob("*.budget"))
    if how == "removed":
        path.unlink()
    else:
        os.truncate(path, 100)
    asyncio.run(spend(pacer, 10))
    assert wait_of(tmp_path, clock) == 60_000


def test_a_restart_of_the_host_forgets_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a restart of the host, whose own clock begins anew, windows go on by what the wall clock says has passed."""
    clock = Restarted()
    monkeypatch.setattr("chandlery.sources.pacing.book._boot_id", lambda: clock.boot)
    monkeypatch.setattr(BudgetBook, "now", lambda _: clock.monotonic() * 1000)
    asyncio.run(spend(pacer_of(tmp_path, clock), 10))
    clock.boot, clock.up, clock.wall = "second", 20.0, clock.wall + 45_000
    assert wait_of(tmp_path, clock) == pytest.approx(15_000)
    asyncio.run(spend(pacer_of(tmp_path, clock, share=2.0), 1))  # writes it down again
    clock.up, clock.wall = clock.up + 14, clock.wall + 14_000
    assert wait_of(tmp_path, clock) == pytest.approx(1_000)


class Restarted(SystemClock):
    """The machine's clocks, set by hand."""

    boot, up, wall = "first", 5_000.0, 1_717_200_000_000

    def now_ms(self) -> int:
        return self.wall

    def monotonic(self) -> float:
        return self.up


def test_a_wall_clock_that_is_set_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows go by the host's own clock: setting the wall clock, back or forward, neither frees nor blocks them."""
    clock = Restarted()
    monkeypatch.setattr(BudgetBook, "now", lambda _: clock.monotonic() * 1000)
    asyncio.run(spend(pacer_of(tmp_path, clock), 10))
    for moved in (-3_600_000, 86_400_000):
        clock.wall += moved
        assert wait_of(tmp_path, clock) == 60_000
    clock.up += 60
    assert wait_of(tmp_path, clock) == 0


def test_times_to_come_count_for_nothing(tmp_path: Path, clock: Any) -> None:
    """A file that was written at a time to come blocks nobody."""
    asyncio.run(spend(pacer_of(tmp_path, clock), 10))
    clock.now -= 1_800_000
    assert wait_of(tmp_path, clock) == 0


def test_a_folder_that_cannot_be_written_costs_a_warning(
    tmp_path: Path, clock: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Where there can be no file the budget is kept for this process alone, and it is said once."""
    (tmp_path / "hosts").write_text("in the way")
    pacer = pacer_of(tmp_path, clock)
    with caplog.at_level(logging.WARNING):
        asyncio.run(spend(pacer, 10))
    assert pacer.host(HOST).wait_ms(URL) == 60_000
    assert len([r for r in caplog.records if "not shared with other processes" in r.getMessage()]) == 1


def test_old_limits_make_room(tmp_path: Path, clock: Any) -> None:
    """The file does not grow without end: of more limits than it holds, those not used for longest are forgotten."""

    async def main() -> None:
        for number in range(80):
            limit = RequestLimit(f"x{number}", 1, 3_600_000)
            clock.now += 10
            await spend(pacer_of(tmp_path, clock, limits=(limit,)), 1)

    asyncio.run(main())
    path = next((tmp_path / "hosts").glob("*.budget"))
    assert path.stat().st_size <= 32 * BYTES
    assert wait_of(tmp_path, clock, limits=(RequestLimit("x79", 1, 3_600_000),)) > 0
    assert wait_of(tmp_path, clock, limits=(RequestLimit("x0", 1, 3_600_000),)) == 0


def test_many_processes_count_every_request(tmp_path: Path) -> None:
    """Processes that spend at the same time lose none of each other's requests."""
    code = (
        "import sys; from pathlib import Path; from chandlery.clock import SystemClock\n"
        "from chandlery.sources.pacing.book import BudgetBook\n"
        "from chandlery.sources.pacing.budget import Budget\n"
        "from chandlery.sources.limits import RequestLimit\n"
        "book = BudgetBook(Path(sys.argv[1]), 'h', SystemClock())\n"
        "budget = Budget(RequestLimit('x', 1, 1000), 1.0)\n"
        "for _ in range(2000):\n"
        "    with book.held() as held:\n"
        "        assert held\n"
        "        now = book.now()\n"
        "        tally = book.tally(budget.key, now)\n"
        "        budget.spend(tally, now, 1)\n"
        "        book.keep(tally, now)\n"
    )
    running = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)]) for _ in range(3)]
    assert [one.wait(60) for one in running] == [0, 0, 0]
    assert spent_of(tmp_path) == 6_000


def test_a_kill_in_the_middle_loses_nothing(tmp_path: Path) -> None:
    """A process that is killed while it spends leaves a whole file, without its lock, with all it had counted."""
    code = (
        "import sys; from pathlib import Path; from chandlery.clock import SystemClock\n"
        "from chandlery.sources.pacing.book import BudgetBook\n"
        "from chandlery.sources.pacing.budget import Budget\n"
        "from chandlery.sources.limits import RequestLimit\n"
        "book = BudgetBook(Path(sys.argv[1]), 'h', SystemClock())\n"
        "budget = Budget(RequestLimit('x', 1, 1000), 1.0)\n"
        "done = 0\n"
        "while True:\n"
        "    with book.held():\n"
        "        now = book.now()\n"
        "        tally = book.tally(budget.key, now)\n"
        "        budget.spend(tally, now, 1)\n"
        "        book.keep(tally, now)\n"
        "    done += 1\n"
        "    if done % 50 == 0: print(done, flush=True)\n"
    )
    told = 0
    for _ in range(4):
        with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE) as one:
            assert one.stdout is not None
            for _ in range(20):
                said = int(one.stdout.readline())
            os.kill(one.pid, signal.SIGKILL)
            said = max([said, *(int(line) for line in one.stdout if line.endswith(b"\n"))])
        told += said
        assert told <= spent_of(tmp_path) <= told + 50
        told = int(spent_of(tmp_path))


def spent_of(folder: Path) -> float:
    """Weight that was ever spent, of the limit that the processes above have."""
    from chandlery.sources.pacing.budget import Budget

    book = BudgetBook(folder, "h", SystemClock())
    with book.held() as held:
        assert held
        return book.tally(Budget(RequestLimit("x", 1, 1000), 1.0).key, book.now()).cells[SPENT]


def test_a_process_that_stands_still_with_the_lock_stops_no_other(tmp_path: Path, clock: Any) -> None:
    """Others wait for the file a moment, without sending anything, and go on when they have it."""
    import fcntl

    pacer = pacer_of(tmp_path, clock)
    asyncio.run(spend(pacer, 1))
    path = next((tmp_path / "hosts").glob("*.budget"))
    with path.open("r+b") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert pacer.host(HOST).wait_ms(URL) > 0
    assert pacer.host(HOST).wait_ms(URL) == 0


def test_a_ban_is_kept_beside_the_budget(tmp_path: Path, clock: Any) -> None:
    """A ban that another process was told of is waited for, whatever is left of the budget."""
    asyncio.run(spend(pacer_of(tmp_path, clock), 1))
    BanBook(tmp_path, HOST, clock).note(clock.now_ms() + 5_000, "HTTP 418", clock.now_ms())
    assert wait_of(tmp_path, clock) == 5_000
