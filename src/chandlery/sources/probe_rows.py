"""What the rows of answers say: nothing traded, the candle in progress, the unit of the volume."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from chandlery.sources.probe_asking import Ask, ProbeAsker, Seen, raw_numbers
from chandlery.sources.probe_page import Finding
from chandlery.timeframe import MINUTE, Timeframe

#: Markets that are looked at for times without a trade, and the minutes looked at.
QUIET_MARKETS, QUIET_MINUTES = 4, 120
#: The same where no tickers tell which are quiet.
QUIET_GUESSED = 2
#: Currencies that most is traded against: what is traded against another one is quiet.
BUSY = frozenset({"USDT", "USDC", "USD", "EUR", "BTC", "KRW", "JPY", "FDUSD", "TRY"})


def quiet_markets(markets: Sequence[Mapping[str, Any]], tickers: Mapping[str, Any] | None) -> list[str]:
    """Symbols of markets in which little is traded, the likeliest first: by turnover where tickers tell it."""
    symbols = [str(market["symbol"]) for market in markets]
    if tickers:
        told = [((tickers.get(symbol) or {}).get("quoteVolume"), symbol) for symbol in symbols]
        ranked = sorted((float(v), symbol) for v, symbol in told if isinstance(v, int | float) and v > 0)
        if len(ranked) >= QUIET_MARKETS:
            return [ranked[len(ranked) * share // 100][1] for share in (15, 30, 5, 50)]
    quotes = [market.get("quote") for market in markets]
    rank = {
        s: (m.get("quote") in BUSY, quotes.count(m.get("quote")))
        for s, m in zip(symbols, markets, strict=True)
    }
    # Exchanges list what is new, and small, last.
    symbols.reverse()
    return sorted(symbols, key=lambda s: rank[s])[:QUIET_GUESSED]


async def tell_empty(asker: ProbeAsker, main: str, quiet: Sequence[str], frame: Timeframe) -> Finding:
    """What is given for a time without a trade: a flat candle without volume, or none.

    Slots without a candle count only where the main market has candles at the same time, and where they are missing twice.
    """
    found = Finding()
    reference: Seen | None = None
    for symbol in quiet:
        since = frame.add(asker.current(frame), -QUIET_MINUTES)
        ask = Ask(symbol, frame, since, QUIET_MINUTES // 2)
        seen = await asker.ask(ask)
        found.note(seen)
        flat = _flat(seen.candles)
        if seen.count < 3 or (not seen.holes and flat < 2):
            continue
        if not seen.holes:
            found.evidence.append(f"{flat} of {seen.count} candles of {symbol} have no volume and one price")
            found.value = "flat"
            return found
        if seen.holes < 2 or _without_volume(seen.candles):
            continue
        again = await asker.ask(ask)
        if reference is None:
            reference = await asker.ask(Ask(main, frame, since, QUIET_MINUTES // 2))
        found.note(again, reference)
        missing = _missing(seen) & _missing(again)
        if len(missing) >= 2 and missing == _missing(seen) and missing <= set(reference.times.tolist()):
            found.evidence.append(
                f"{len(missing)} candles between the first and the last of {symbol} are not there"
            )
            found.value = "omitted"
            return found
    return found


def _flat(candles: pl.DataFrame) -> int:
    """How many candles have one price and no volume."""
    one = (pl.col("high") == pl.col("low")) & (pl.col("open") == pl.col("close")) & (pl.col("volume") == 0)
    return len(candles.filter(one))


def _without_volume(candles: pl.DataFrame) -> int:
    return len(candles.filter(pl.col("volume") == 0))


def _missing(seen: Seen) -> set[int]:
    """Slots between the first and the last row that have none."""
    if not seen.count:
        return set()
    return set(seen.ask.frame.opens(seen.first, seen.last).tolist()) - set(seen.times.tolist())


async def tell_in_progress(asker: ProbeAsker, symbol: str, frame: Timeframe) -> tuple[Finding, Seen]:
    """Whether the last row may be the candle in progress: once it is, or twice it is the one before."""
    found = Finding()
    since = frame.add(asker.current(frame), -24)
    told: list[bool] = []
    while True:
        seen = await asker.ask(Ask(symbol, frame, since, 30))
        found.note(seen)
        current = asker.current(frame)
        # A candle that has just opened need not be there before its first trade.
        if seen.last == current:
            found.value = True
            return found, seen
        if seen.last == frame.add(current, -1) and asker.now() - current > MINUTE:
            told.append(False)
        if len(told) == 2 or len(found.evidence) > 3 or seen.last != frame.add(current, -1):
            found.value = False if len(told) == 2 else None
            return found, seen


def tell_volume(answers: Sequence[Seen], contract_size: float | None) -> Finding:
    """The unit of the volume, by another number of the exchange's own rows that is its turnover, or its base volume."""
    found = Finding()
    for seen in answers:
        unit = _unit(seen, contract_size)
        if unit is None:
            continue
        value, name = unit
        found.value = value
        found.note(seen)
        found.evidence.append(
            f"field {name} of the rows over the volume lies between low and high"
            + (f", times the contract size {contract_size:g}" if value == "contracts" else "")
            if value != "quote"
            else f"the volume over field {name} of the rows lies between low and high"
        )
        return found
    return found


def _unit(seen: Seen, contract_size: float | None) -> tuple[str, object] | None:
    """The unit that a field of the rows proves, and that field."""
    traded = [
        (raw_numbers(row), low, high, volume)
        for row, (low, high, volume) in zip(
            seen.raw, seen.candles.select("low", "high", "volume").iter_rows(), strict=False
        )
        if volume > 0
    ]
    if not seen.own_rows or len(traded) < 20 or min(low for _, low, _, _ in traded) < 2:
        return None  # where a price is about 1, turnover and volume are about the same
    size = contract_size or 1.0
    for name in traded[0][0]:
        pairs = [(row.get(name, 0.0), low, high, volume) for row, low, high, volume in traded]
        if _between([(n / v, lo, hi) for n, lo, hi, v in pairs]):
            return "base", name
        if size != 1.0 and _between([(n / v / size, lo, hi) for n, lo, hi, v in pairs]):
            return "contracts", name
        if all(n > 0 for n, *_ in pairs) and _between([(v / n, lo, hi) for n, lo, hi, v in pairs]):
            return "quote", name
    return None


def _between(ratios: Sequence[tuple[float, float, float]]) -> bool:
    """Whether each number lies between its low and its high, give or take what is rounded off; a few need not."""
    fitting = sum(low * 0.995 <= ratio <= high * 1.005 for ratio, low, high in ratios)
    return fitting >= 0.95 * len(ratios)


async def tell_volume_by_ticker(
    asker: ProbeAsker, symbol: str, hours: Seen, contract_size: float | None
) -> Finding:
    """The unit of the volume, by the volumes of the last 24 hours that the exchange's ticker tells."""
    found = Finding()
    if hours.count < 20 or hours.candles["close"].min() < 2:  # type: ignore[operator]
        return found
    ticker = await asker.other("fetch_ticker", symbol)
    if not isinstance(ticker, Mapping):
        return found
    last_day = hours.candles.sort("time").tail(25)
    volume = float(last_day["volume"].sum())
    turnover = float((last_day["volume"] * last_day["close"]).sum())
    size = contract_size or 1.0
    base, quote = (ticker.get(name) for name in ("baseVolume", "quoteVolume"))
    found.note(hours)
    found.evidence.append(
        f"candles of 25 hours: volume {volume:g}, times price {turnover:g}; fetch_ticker: base {base}, quote {quote}"
    )
    if _near(turnover, quote) and (size != 1.0 or _near(volume, base)):
        found.value = "base"
    elif size != 1.0 and _near(turnover * size, quote):
        found.value = "contracts"
    elif _near(volume, quote):
        found.value = "quote"
    return found


def _near(own: float, told: object) -> bool:
    """Whether 25 hours and the ticker's 24 are about the same."""
    return isinstance(told, int | float) and told > 0 and 0.85 <= own / told <= 1.25
