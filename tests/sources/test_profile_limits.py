"""The limits that profiles declare are those that the local exchange enforces, endpoint by endpoint."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from chandlery.exchange import ExchangeSettings, LocalExchange
from chandlery.exchange.limits import RequestLimits
from chandlery.exchange.shapes import SHAPES
from chandlery.sources.profile_book import shipped

#: What neither chandlery nor ccxt on its behalf asks for.
NEVER = ("ping", "uiKlines", "ticker/price", "margin/currencies")


class _Clock:
    def now_ms(self) -> int:
        return 1_717_200_000_000


@pytest.fixture(scope="module")
def playing() -> Iterator[LocalExchange]:
    """One server that plays every exchange, with the documented limits."""
    with LocalExchange(ExchangeSettings(exchange=tuple(SHAPES)), clock=_Clock()) as exchange:
        yield exchange


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_limits_are_those_of_the_local_exchange(name: str, playing: LocalExchange) -> None:
    """For each endpoint that counts: the same weight of a request, the same weight and length of the window."""
    profile = shipped(name)
    assert profile is not None
    shape, compared = playing._shapes[name], 0
    for path, endpoint in shape.endpoints.items():
        if any(part in path for part in NEVER):
            continue
        for limit in (None, 1, 99, 100, 499, 500, 1000, 1500):
            query = {} if limit is None else {"limit": str(limit)}
            weight = endpoint.weight(query) if callable(endpoint.weight) else endpoint.weight
            url = f"https://host{path.replace('{settle}', 'usdt')}" + (f"?limit={limit}" if limit else "")
            counted = [one for one in profile.limits if one.cost(url)]
            assert len(counted) == 1 or path.startswith("/dapi/"), (path, [one.name for one in counted])
            if not counted:
                continue
            if (
                limit is not None or endpoint.candles is None
            ):  # ccxt always sends a limit with candles, if there is one
                assert counted[0].cost(url) == weight, (url, weight)
            compared += 1
            fresh = shape.make_limits(None, _Clock().now_ms)
            spent = 0
            while (verdict := fresh.spend(1, endpoint.group)).status == 200:
                spent += 1
            assert counted[0].weight == spent, path
            if not isinstance(fresh, RequestLimits) and verdict.status == 429:
                assert counted[0].window_ms == verdict.wait_ms, path
    assert compared
