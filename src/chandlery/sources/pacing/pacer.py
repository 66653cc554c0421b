"""The hosts of one exchange client, with the limits that its exchange sets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from chandlery.sources.bans import BanBook
from chandlery.sources.limits import RequestLimit
from chandlery.sources.pacing.book import BudgetBook
from chandlery.sources.pacing.host import IN_FLIGHT, Host

if TYPE_CHECKING:
    from chandlery.clock import Clock


class Pacer:
    """The hosts of one exchange client.

    `share` of each of `limits` is spent. Requests that fall under none of them are spaced by `unit_ms`, ccxt's
    `rateLimit`, as far as it is given. `in_flight` is the most requests under way to a host, 0 for the usual number.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        state_dir: Path,
        max_wait_seconds: float,
        share: float,
        limits: Sequence[RequestLimit] = (),
        unit_ms: float | None = None,
        in_flight: int = 0,
    ) -> None:
        self.clock = clock
        self.state_dir = state_dir
        self.max_wait_seconds = max_wait_seconds
        self.share = share
        self.limits = limits
        self.unit_ms = unit_ms
        self.in_flight = in_flight if in_flight > 0 else IN_FLIGHT
        self._hosts: dict[str, Host] = {}

    def host(self, name: str) -> Host:
        """The budget of one host ("api.binance.com", "127.0.0.1:8080", "127.0.0.1:8080/okx")."""
        found = self._hosts.get(name)
        if found is None:
            found = self._hosts[name] = Host(
                name,
                bans=BanBook(self.state_dir, name, self.clock),
                book=BudgetBook(self.state_dir, name, self.clock),
                max_wait_seconds=self.max_wait_seconds,
                share=self.share,
                limits=self.limits,
                unit_ms=self.unit_ms,
                in_flight=self.in_flight,
            )
        return found

    def close(self) -> None:
        """Close the files of every host."""
        for host in self._hosts.values():
            host.close()
