"""A real Jupyter kernel: cells use both pipelines while the kernel's own event loop runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Empty
from typing import Any

import pytest
from jupyter_client.manager import KernelManager

from chandlery.exchange import ExchangeSettings, LocalExchange

# What ipykernel and zmq say about themselves is not about chandlery.
pytestmark = pytest.mark.filterwarnings("ignore")

Cell = Callable[[str], str]


@pytest.fixture(scope="module")
def cell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cell]:
    """Runs code as a cell of one kernel, with a local exchange in EXCHANGE_URL; returns what it wrote and its value."""
    folder = tmp_path_factory.mktemp("notebook")
    with LocalExchange(ExchangeSettings(clock="2024-06-01T00:10Z")) as exchange:
        manager = KernelManager(kernel_name="python3")
        manager.kernel_spec.argv[0] = sys.executable
        env = {
            **os.environ,
            "EXCHANGE_URL": exchange.url,
            "CHANDLERY_STATE": str(folder / "state"),
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "IPYTHONDIR": str(folder / "ipython"),
            "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        }
        manager.start_kernel(cwd=str(folder), env=env)
        client = manager.client()
        client.start_channels()
        try:
            client.wait_for_ready(timeout=60)
            yield lambda code: run_cell(client, code)
        finally:
            client.stop_channels()
            manager.shutdown_kernel(now=True)


def run_cell(client: Any, code: str) -> str:
    """Execute one cell; returns its output, stderr included, or fails with its traceback."""
    request = client.execute(code)
    said: list[str] = []
    while True:
        try:
            message = client.get_iopub_msg(timeout=60)
        except Empty:
            pytest.fail(f"the cell did not end: {code}")
        if message["parent_header"].get("msg_id") != request:
            continue
        content = message["content"]
        match message["msg_type"]:
            case "stream":
                said.append(content["text"])
            case "execute_result":
                said.append(content["data"]["text/plain"])
            case "error":
                pytest.fail("\n".join(content["traceback"]))
            case "status" if content["execution_state"] == "idle":
                return "".join(said).strip()


def test_the_synchronous_pipeline_works_in_a_cell(cell: Cell) -> None:
    """With the kernel's loop running, a cell fetches, stores and reads; nothing is said on stderr."""
    assert cell("import asyncio; asyncio.get_running_loop().is_running()") == "True"
    cell("import chandlery as ch; pipeline = ch.DataPipeline()")

    assert cell("len(pipeline.fetch_ohlcv('BTC/USDT', '1h', limit=24))") == "24"
    assert cell("report = pipeline.fetch_and_store('BTC/USDT', '4h', '7d'); bool(report)") == "True"
    assert (
        cell("pipeline.store.read(ch.SeriesId('binance', 'BTC/USDT', '4h')).height == report.written > 40")
        == "True"
    )


def test_the_async_pipeline_is_awaited_in_a_cell(cell: Cell) -> None:
    """Top-level `async with` and `await` use the kernel's own loop, beside a synchronous pipeline in the same cell."""
    code = (
        "import chandlery as ch\n"
        "async with ch.AsyncPipeline(store='async') as awaited:\n"
        "    with ch.DataPipeline(store='sync') as waited:\n"
        "        one = await awaited.fetch_and_store('ETH/USDT', '1d', '30d')\n"
        "        two = waited.fetch_and_store('ETH/USDT', '1d', '30d')\n"
        "(one.written, bool(one)) == (two.written, bool(two)) and one.written"
    )

    assert cell(code) == "29"


def test_an_interrupted_cell_leaves_the_pipeline_usable(cell: Cell, tmp_path: Path) -> None:
    """KeyboardInterrupt during a long wait comes out of the cell, and the next cell goes on with the same pipeline."""
    code = (
        "import os, signal, threading, chandlery as ch\n"
        "from chandlery.exchange import LocalExchange, ExchangeSettings, Faults, Fault\n"
        "slow = LocalExchange(ExchangeSettings(clock='2024-06-01T00:10Z', faults=Faults((Fault('hang', path='klines'),))))\n"
        "slow.start()\n"
        "hanging = ch.DataPipeline(exchange_url=slow.url)\n"
        "threading.Timer(1.5, os.kill, (os.getpid(), signal.SIGINT)).start()\n"
        "try:\n"
        "    hanging.fetch_ohlcv('BTC/USDT')\n"
        "    print('an answer')\n"
        "except KeyboardInterrupt:\n"
        "    print('interrupted')\n"
        "slow.faults = Faults()\n"
        "print(len(hanging.fetch_ohlcv('BTC/USDT', limit=3)))\n"
        "hanging.close(); slow.stop()"
    )

    assert cell(code).split() == ["interrupted", "3"]
