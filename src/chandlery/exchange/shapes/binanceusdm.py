"""Binance USD-M futures: /fapi/v1, linear perpetual swaps.

Assumed: windows of time, refusals and bans are as on spot, and an ended contract stays listed as SETTLING with its history.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from chandlery.exchange.shape import CandleQuery, Endpoint, Query, whole
from chandlery.exchange.shapes.binance import BinanceApi
from chandlery.exchange.symbols import SWAPS, Listing

_PERPETUAL_ENDS = 4_133_404_800_000  # what stands for no delivery date


class BinanceUsdm(BinanceApi):
    """Weight by the number of candles asked for, up to 1,500 of them."""

    id = "binanceusdm"
    pairs = SWAPS
    host = "fapi"
    weight_limits: ClassVar[Mapping[str, int]] = {"fapi": 2400}
    most_rows = 1500
    settled = True

    def table(self) -> dict[str, Endpoint]:
        """The endpoints."""
        return {
            "/fapi/v1/ping": Endpoint(lambda _query: b"{}", group=self.host),
            "/fapi/v1/time": Endpoint(self.time, group=self.host),
            "/fapi/v1/exchangeInfo": Endpoint(self._all_contracts, group=self.host),
            "/fapi/v1/klines": Endpoint(self.klines, _weight, self.host, CandleQuery(find=self.find)),
            "/fapi/v1/ticker/price": Endpoint(self.ticker_price, _price_weight, self.host),
        }

    def _all_contracts(self, _query: Query) -> bytes:
        return self.exchange_info({})

    def info(self) -> dict[str, Any]:
        """The margin assets besides."""
        return {**super().info(), "futuresType": "U_MARGINED", "assets": _ASSETS}

    def symbol_info(self, listing: Listing) -> dict[str, Any]:
        """Contract, status and filters."""
        return {
            "symbol": self.name(listing),
            "pair": self.name(listing),
            "contractType": "PERPETUAL",
            "deliveryDate": listing.delisted or _PERPETUAL_ENDS,
            "onboardDate": listing.listed,
            "status": "SETTLING" if self.over(listing) else "TRADING",
            "maintMarginPercent": "2.5000",
            "requiredMarginPercent": "5.0000",
            "baseAsset": listing.base,
            "quoteAsset": listing.quote,
            "marginAsset": listing.settle,
            "pricePrecision": listing.price_decimals,
            "quantityPrecision": listing.volume_decimals,
            "baseAssetPrecision": 8,
            "quotePrecision": 8,
            "underlyingType": "COIN",
            "underlyingSubType": [],
            "triggerProtect": "0.0500",
            "liquidationFee": "0.012500",
            "marketTakeBound": "0.05",
            "filters": [
                {
                    "filterType": "PRICE_FILTER",
                    "minPrice": listing.tick,
                    "maxPrice": "1000000",
                    "tickSize": listing.tick,
                },
                {
                    "filterType": "LOT_SIZE",
                    "minQty": listing.lot,
                    "maxQty": "1000000",
                    "stepSize": listing.lot,
                },
                {"filterType": "MIN_NOTIONAL", "notional": "5"},
            ],
            "orderTypes": ["LIMIT", "MARKET"],
            "timeInForce": ["GTC", "IOC", "FOK", "GTX"],
        }


def _weight(query: Query) -> int:
    """1 for fewer than 100 candles, 2 for fewer than 500, 5 for up to 1,000, else 10; 500 are the default."""
    limit = whole(query.get("limit")) or 500
    return 1 if limit < 100 else 2 if limit < 500 else 5 if limit <= 1000 else 10


def _price_weight(query: Query) -> int:
    return 1 if "symbol" in query else 2


_ASSETS = [{"asset": "USDT", "marginAvailable": True, "autoAssetExchange": "-10000"}]
