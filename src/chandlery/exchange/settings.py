"""What the local exchange is told before it starts."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from chandlery.errors import UsageError
from chandlery.exchange.faults import Faults
from chandlery.exchange.shapes import SHAPES, shape_of
from chandlery.exchange.symbols import Listing


@dataclass(frozen=True, slots=True)
class ExchangeSettings:
    """Settings of a local exchange.

    `port` 0 takes a free one. `csv` is a folder of candles to serve instead of the generated market. `clock` is
    "TIME[,SPEED]"; without it the generated market runs at the real time, one from files a minute after its last candle.
    `symbols` names pairs of the generated market, empty for all of them. `exchange` is the exchange to play, or several.
    `weight_limit` takes the place of its documented request limit (weight per minute for Binance, requests per window
    for others), 0 for no limit. `omit_flat` leaves minutes without a trade out. `faults` is the script to start with. `cache_mib` bounds
    the memory for rendered pages.
    """

    host: str = "127.0.0.1"
    port: int = 0
    csv: Path | None = None
    clock: str | None = None
    seed: int = 1
    symbols: tuple[str, ...] = ()
    weight_limit: int | None = None
    omit_flat: bool = False
    faults: Faults = field(default_factory=Faults)
    exchange: str | tuple[str, ...] = "binance"
    cache_mib: int = 128

    def __post_init__(self) -> None:
        for name in self.exchanges:
            if name not in SHAPES:
                raise UsageError(
                    f"the local exchange cannot play {name!r}", hint=f"it plays {', '.join(SHAPES)}"
                )
        if not self.exchanges or len(set(self.exchanges)) < len(self.exchanges):
            raise UsageError("the local exchange plays one exchange or several different ones")
        if self.weight_limit is not None and self.weight_limit < 0:
            raise UsageError(f"a weight limit of {self.weight_limit} cannot be", hint="0 is no limit")
        if self.cache_mib < 1:
            raise UsageError(
                f"a cache of {self.cache_mib} MiB cannot be", hint="1 or more; a page takes about 0.2"
            )
        if not 0 <= self.port <= 65535:
            raise UsageError(f"not a port: {self.port}", hint="0 takes a free one")

    @property
    def exchanges(self) -> tuple[str, ...]:
        """The exchanges to play; the first one is served at / too."""
        return (self.exchange,) if isinstance(self.exchange, str) else self.exchange

    def listings(self) -> list[Listing]:
        """The pairs of the generated market that are served, of all exchanges; raises `UsageError` for an unknown name."""
        traded: dict[str, Listing] = {}
        for exchange in self.exchanges:
            traded |= {listing.id: listing for listing in shape_of(exchange).pairs}
        known = {name: listing for listing in traded.values() for name in (listing.symbol, listing.id)}
        for name in self.symbols:
            if name not in known:
                pairs = ", ".join(listing.symbol for listing in traded.values())
                raise UsageError(f"the generated market has no pair {name!r}", hint=f"there are: {pairs}")
        return [known[name] for name in self.symbols] or list(traded.values())
