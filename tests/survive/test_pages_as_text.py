"""Ten thousand random pages and ten thousand spoilt ones: read as text they are what reading row by row makes of them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.sources.page_maker import MARKETS, Reader, answer, mutated, random_rows, rendered, same

PAGES = 10_000


@pytest.mark.parametrize("spoilt", [False, True], ids=["random", "spoilt"])
@pytest.mark.parametrize(("exchange", "symbol"), MARKETS)
def test_pages_as_text(
    exchange: str, symbol: str, spoilt: bool, tmp_path: Path, seed: int, proven_count: Callable[[int], int]
) -> None:
    """Frames are equal to the bit, raw rows and refusals too; of random pages none is read row by row."""
    rng = random.Random(f"{seed} {exchange} {symbol} {spoilt}")
    count = proven_count(-(-PAGES // len(MARKETS)))

    async def run() -> None:
        text = Reader(exchange, symbol, tmp_path, by_text=True)
        slow = Reader(exchange, symbol, tmp_path, by_text=False)
        try:
            for _ in range(count):
                body = rendered(answer(exchange, symbol, random_rows(rng)))
                if spoilt:
                    body = mutated(rng, body)
                assert same(await text.read(body), await slow.read(body)), body
            if not spoilt:
                assert text.read_as_columns == count
        finally:
            await text.client.close()
            await slow.client.close()

    asyncio.run(run())
