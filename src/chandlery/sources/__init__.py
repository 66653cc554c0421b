"""Sources of candles: `open_source` gives the one for an exchange. Importing this imports neither ccxt nor polars."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import TYPE_CHECKING

from chandlery.errors import UnknownExchange, UsageError

if TYPE_CHECKING:
    from chandlery.clock import Clock
    from chandlery.sources.base import Source


#: Where ccxt lists the ids of its exchanges.
IDS_URL = "https://github.com/ccxt/ccxt/wiki/Exchange-Markets"


def open_source(
    exchange_id: str,
    *,
    url: str | None = None,
    api_key: str = "",
    secret: str = "",
    signed: bool = False,
    clock: Clock | None = None,
    state_dir: Path | None = None,
    max_wait_seconds: float = 600,
    budget: float = 0.8,
    settle_seconds: float | None = None,
    timeout_seconds: float = 30.0,
) -> Source:
    """The source for an exchange of ccxt, for use in one event loop; close it, or use it as `async with`.

    `url` stands in for the exchange's own hosts. `budget` is the share of its declared limits to spend (0 to 1);
    a wait that it orders longer than `max_wait_seconds` raises RateLimited. `settle_seconds` after its end a candle counts as
    closed (None: as the exchange's profile says, else 10). Bans and learnt profiles are remembered in `state_dir`
    (default: CHANDLERY_STATE, else the user's state folder). Raises UnknownExchange, UsageError, ExchangeRefused.
    """
    if not 0 < budget <= 1:
        raise UsageError(
            f"not a share of the exchange's budget: {budget:g}", hint="write a share above 0 % up to 100 %"
        )
    if url is not None and not url.startswith(("http://", "https://")):
        raise UsageError(f"not an exchange URL: {url!r}", hint="write it as http://HOST:PORT or https://HOST")
    from chandlery.sources.ccxt_client import exchange_ids
    from chandlery.sources.ccxt_rest import CcxtRest

    if exchange_id not in exchange_ids():
        near = difflib.get_close_matches(exchange_id.lower(), exchange_ids(), n=4, cutoff=0.4)
        hint = (f"did you mean {', '.join(near)}? " if near else "") + f"All ids: {IDS_URL}"
        raise UnknownExchange(f"ccxt knows no exchange {exchange_id!r}", hint=hint)
    return CcxtRest(
        exchange_id,
        url=url,
        api_key=api_key,
        secret=secret,
        signed=signed,
        clock=clock,
        state_dir=state_dir,
        max_wait_seconds=max_wait_seconds,
        budget=budget,
        settle_seconds=settle_seconds,
        timeout_seconds=timeout_seconds,
    )
