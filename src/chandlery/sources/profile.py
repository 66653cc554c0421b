"""What is known of an exchange, as data: page sizes, bounds, order, depth, empty candles, finality, anchors, units, limits.

Profiles are shipped for some exchanges (`profiles/<id>.toml`, each fact with where it is from), learnt for others by
`chandlery probe`, and only ever save requests: nothing that is believed of candles rests on them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal, get_args, get_origin, get_type_hints

from chandlery.anchors import LAST_MOMENT, anchors_from, whole
from chandlery.errors import UsageError
from chandlery.sources.base import VolumeUnit
from chandlery.sources.limits import RequestLimit, limits_from
from chandlery.timeframe import Timeframe

#: The kinds of market that a profile knows, by what ccxt says of a market.
SPOT, LINEAR = "spot", "linear"

#: What no profile can truly say more of: requests at once, candles in one answer, candles back from now.
MOST_IN_FLIGHT, MOST_ROWS, MOST_CANDLES = 1000, 1_000_000, 1_000_000_000

Bound = Literal["inclusive", "exclusive", "unknown"]
Order = Literal["ascending", "descending", "unknown"]
Window = Literal["open", "bounded", "unknown"]
Empty = Literal["omitted", "flat", "unknown"]
DepthBy = Literal["rows", "time"]


@dataclass(frozen=True, slots=True)
class Habits:
    """How one exchange gives candles of one kind of market, asked through ccxt.

    Numbers of candles by timeframe are mappings from its text to the number, "*" for all others.
    """

    #: Candles that one answer holds at most, however many are asked for.
    page: int
    #: The same for timeframes of which there are fewer, whatever their age.
    pages: Mapping[str, int] = field(default_factory=dict)
    #: The same for recent candles, and how many candles back from now those are; empty where it is the same.
    recent_page: int = 0
    recent: Mapping[str, int] = field(default_factory=dict)
    #: How many candles back from now are given at all; empty: all of them.
    depth: Mapping[str, int] = field(default_factory=dict)
    #: What the depth counts: "rows" that are there, or "time" in candles, whether there are rows or not.
    depth_by: DepthBy = "rows"
    #: Whether an answer holds no more candles than were asked for.
    heeds_limit: bool = True
    #: Whether the candle that opens at `since` is in the answer as ccxt asks, and the one that opens at `until`.
    begin: Bound = "unknown"
    end: Bound = "unknown"
    #: Order of the rows as they come.
    order: Order = "unknown"
    #: "open": the next candles after `since`, however far; "bounded": those of a page's length of time after it.
    window: Window = "unknown"
    #: What is given for a time without a trade.
    empty: Empty = "unknown"
    #: Whether the last row may be the candle in progress.
    in_progress: bool = True
    #: Seconds after its end until a candle no longer changes; 0: not known.
    finality: float = 0.0
    #: Unit of the volume as ccxt gives it.
    volume: VolumeUnit = "unknown"

    def page_at(self, frame: Timeframe, age: int) -> int:
        """Candles of one answer that begins with the candle `age` candles before the one in progress."""
        if frame.text in self.pages:
            return self.pages[frame.text]
        return self.recent_page if self.recent_page and age < _of(self.recent, frame) else self.page

    def reach(self, frame: Timeframe) -> int | None:
        """How many candles back, the one in progress included, can be had; None: all."""
        return _of(self.depth, frame) or None

    @property
    def depth_is_time(self) -> bool:
        """Whether the depth says what moment the oldest candle is of: not where times without a trade have no row."""
        return self.depth_by == "time" or self.empty == "flat"


def _of(numbers: Mapping[str, int], frame: Timeframe) -> int:
    return numbers.get(frame.text, numbers.get("*", 0))


@dataclass(frozen=True, slots=True)
class Profile:
    """One exchange. `markets` maps SPOT and LINEAR to their habits; `anchors` maps timeframes that do not open where
    they usually do (weeks on Monday, all else counted from 1970-01-01 UTC) to where one does, in ms.
    """

    exchange: str
    markets: Mapping[str, Habits]
    limits: tuple[RequestLimit, ...] = ()
    anchors: Mapping[str, int] = field(default_factory=dict)
    #: Most requests under way at once; 0: the usual number.
    in_flight: int = 0
    #: "shipped" or "probed", when (epoch ms, 0 for shipped), and with which ccxt.
    origin: str = "shipped"
    at: int = 0
    ccxt: str = ""

    def habits(self, kind: str) -> Habits | None:
        """The habits for a kind of market, None where nothing is known."""
        return self.markets.get(kind)

    def to_dict(self) -> dict[str, Any]:
        """As JSON or TOML can hold it; `profile_from` reads it back."""
        return asdict(self)


def profile_from(data: Mapping[str, Any], *, source: str) -> Profile:
    """A profile as written; raises UsageError, naming `source`, for what is none."""
    try:
        return Profile(
            exchange=str(data["exchange"]),
            markets={kind: _habits(item) for kind, item in data["markets"].items()},
            limits=limits_from(data.get("limits", ())),
            anchors=anchors_from(data),
            in_flight=whole(data.get("in_flight", 0), "in_flight", 0, MOST_IN_FLIGHT),
            origin=str(data.get("origin", "shipped")),
            at=whole(data.get("at", 0), "at", 0, LAST_MOMENT),
            ccxt=str(data.get("ccxt", "")),
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        raise UsageError(
            f"{source} is no exchange profile: {_in_words(error)}",
            hint="learn it anew with `chandlery probe`, or remove the file",
        ) from error


def _in_words(error: Exception) -> str:
    """What is wrong with a profile: our own words where a value is, else what Python stumbled over, in plain ones."""
    if isinstance(error, KeyError):
        return f"{error.args[0]} is not there"
    if isinstance(error, TypeError | AttributeError):
        return "a list, a name or a number stands where something else belongs"
    return "it is nested too deep" if isinstance(error, RecursionError) else str(error)


def _habits(item: Mapping[str, Any]) -> Habits:
    names = {one.name for one in fields(Habits)}
    page = whole(item["page"], "page", 0, MOST_ROWS)
    habits = replace(Habits(page=page), **{k: v for k, v in item.items() if k in names})
    if habits.page < 2 or (habits.recent_page and habits.recent_page < habits.page):
        raise ValueError(f"a page of {habits.page} candles, of recent ones {habits.recent_page}")
    for name, legal in get_type_hints(Habits).items():
        value = getattr(habits, name)
        if get_args(legal) and get_origin(legal) is Literal and value not in get_args(legal):
            raise ValueError(f"{name} = {value!r}")
        if legal in (int, bool) and type(value) is not legal:
            raise ValueError(f"{name} = {value!r}")
    whole(habits.recent_page, "recent_page", 0, MOST_ROWS)
    for name, most in (("pages", MOST_ROWS), ("recent", MOST_CANDLES), ("depth", MOST_CANDLES)):
        for text, count in getattr(habits, name).items():
            whole(count, f"{name} of {text}", 1, most)
    finality: object = habits.finality
    number = isinstance(finality, int | float) and not isinstance(finality, bool)
    if not number or not 0 <= habits.finality <= 86_400:
        raise ValueError(f"finality = {finality!r:.40}, which are no seconds of a day")
    return habits
