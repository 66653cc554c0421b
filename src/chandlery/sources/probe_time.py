"""When a candle no longer changes, and where long candles open."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime

from chandlery.sources.probe_asking import Ask, ProbeAsker, Seen
from chandlery.sources.probe_page import Finding
from chandlery.timeframe import HOUR, MINUTE, Timeframe
from chandlery.when import iso

#: Seconds after the end of a candle at which it may be looked at, and the longest time that waiting for it may take.
MOMENTS, LONGEST = (2.0, 8.0, 14.0, 40.0), 75.0
#: What one candle that did not change says at most: other ones may be late.
LEAST_FINALITY = 10.0
#: Looks at one candle; the last two must agree.
LOOKS = 3

Values = tuple[float, ...]


async def tell_finality(
    asker: ProbeAsker, symbols: Mapping[str, str], frame: Timeframe, tell: Callable[[str], None]
) -> dict[str, Finding]:
    """Seconds after its end until a candle of one minute no longer changes, for each kind of market.

    One candle that closes now is looked at several times. As it is only one, the time is twice the last one at which it
    was seen to change, and never less than LEAST_FINALITY.
    """
    found = {kind: Finding() for kind in symbols}
    start = asker.now()
    end = frame.next(asker.current(frame))
    moments = [after for after in MOMENTS if end + after * 1000 - start <= LONGEST * 1000]
    if len(moments) < LOOKS or frame.fixed_ms != MINUTE or asker.left < LOOKS * len(symbols):
        return found
    looks = [*moments[: LOOKS - 1], moments[-1]]
    last = (end - start) / 1000 + looks[-1]
    tell(f"watching the candle that closes at {iso(end)} for {looks[-1]:g} s: {last:.0f} s from now")
    closing = frame.add(end, -1)
    told: dict[str, list[tuple[float, Values]]] = {kind: [] for kind in symbols}
    for after in looks:
        await asker.clock.sleep(max(0.0, (end + after * 1000 - asker.now()) / 1000))
        for kind, symbol in symbols.items():
            seen = await asker.ask(Ask(symbol, frame, frame.add(closing, -2), 5))
            rows = seen.candles.filter(seen.candles["time"].dt.epoch("ms") == closing)
            if len(rows):
                told[kind].append(((asker.now() - end) / 1000, rows.row(0)[1:]))
                found[kind].evidence.append(
                    f"{told[kind][-1][0]:.1f} s after its end: {list(rows.row(0)[1:])}"
                )
    for kind, values in told.items():
        found[kind].value = _settled(values)
    return found


def _settled(looks: Sequence[tuple[float, Values]]) -> float | None:
    """By looks (seconds after the end, values): the seconds to wait, None where the last two looks differ."""
    if len(looks) < LOOKS or looks[-1][1] != looks[-2][1]:
        return None
    changing = [after for after, values in looks if values != looks[-1][1]]
    if not changing:
        return LEAST_FINALITY
    still = next(after for after, _ in looks if after > changing[-1])
    return float(max(LEAST_FINALITY, math.ceil(2 * still)))


async def tell_anchors(
    asker: ProbeAsker, symbol: str, frames: Sequence[Timeframe], seen: Sequence[Seen]
) -> Finding:
    """Where candles open that do not open where they usually do, by timeframe; the value is {} where all do.

    `seen` are answers that there are already. What is unusual counts once two answers show it. The value is None where
    nothing unusual was found, and not every timeframe was answered.
    """
    found = Finding(value={})
    odd_day = left_out = False
    for frame in sorted(frames, key=lambda frame: -frame.nominal_ms):
        usual_hours = frame.fixed_ms is not None and frame.fixed_ms < 24 * HOUR
        if frame.nominal_ms < 6 * HOUR or (usual_hours and not odd_day):
            continue
        have = next((one for one in seen if one.ask.frame == frame and one.count > 1), None)
        if have is None and asker.left < 2:
            left_out = True
            continue
        if have is None:
            since = frame.add(asker.current(frame), -3)
            have = await asker.ask(Ask(symbol, frame, since, 5))
        place = _place(have)
        if place is None:
            left_out = True
            continue
        found.note(have)
        if place == _usual(frame):
            continue
        others = [one for one in seen if one is not have and one.ask.frame == frame and one.ask != have.ask]
        if place not in [_place(one) for one in others]:
            answer, again = await asker.vote(have.ask, _place)
            if again is None or answer != place:
                left_out = True
                continue
            found.note(again)
        if frame.fixed_ms is None:
            found.evidence.append(f"{frame.text} does not open on the first of a month")
            continue
        found.value[frame.text] = place
        odd_day = odd_day or frame.text == "1d"
    if left_out and not found.value:
        found.value = None
    return found


def _usual(frame: Timeframe) -> int:
    return frame.anchor % frame.fixed_ms if frame.fixed_ms else 0


def _place(seen: Seen) -> int | None:
    """Where candles open inside their length; for months 0 for the first moment of one, else 1."""
    if seen.count < 2:
        return None
    frame = seen.ask.frame
    if frame.fixed_ms is not None:
        return seen.first % frame.fixed_ms
    opens = [datetime.fromtimestamp(int(t) / 1000, UTC) for t in seen.times]
    return int(any((one.day, one.hour, one.minute) != (1, 0, 0) for one in opens))
