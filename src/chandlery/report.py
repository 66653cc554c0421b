"""What a run tells: while it goes on (`Progress`) and at its end (reports with the JSON shape of the contract)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from chandlery.candle import SeriesId
from chandlery.errors import DataPipelineError
from chandlery.ledger import SLOTS, State
from chandlery.timerange import TimeRange
from chandlery.when import iso


@dataclass(slots=True)
class SeriesReport:
    """What a run did for one series: candles that arrived, candles newly written, and every slot of its span.

    `reach_asked` says that the caller named the moment since when, so that what is out of reach counts as not there.
    `volume_unit` is that of its volumes: "base", or "quote", "contracts" or "unknown" where they cannot be put into it.
    """

    series: SeriesId
    span: TimeRange
    fetched: int = 0
    written: int = 0
    counts: dict[State, int] = field(default_factory=lambda: dict.fromkeys(State, 0))
    error: DataPipelineError | None = None
    volume_unit: str = "base"
    revised: int = 0  # of those written, candles that were there with other values
    reach_asked: bool = False

    @property
    def ok(self) -> bool:
        """Whether everything asked for is there: no error, nothing missing, in quarantine or, where it counts, out of reach."""
        return self.only_out_of_reach and not (self.reach_asked and self.counts[State.OUT_OF_REACH])

    @property
    def only_out_of_reach(self) -> bool:
        """Whether everything that the exchange still gives is there."""
        return self.error is None and not self.counts[State.MISSING] and not self.counts[State.QUARANTINED]

    def as_json(self) -> dict[str, Any]:
        """The series' part of `fetch --json`."""
        return {
            **series_json(self.series),
            "since": iso(self.span.since),
            "until": iso(self.span.until),
            "fetched": self.fetched,
            "written": self.written,
            **slots_json(self.counts),
            "volume_unit": self.volume_unit,
            "error": error_json(self.error),
        }


@dataclass(frozen=True, slots=True)
class MirrorReport:
    """How far a mirror has followed. `behind` counts the journal entries that it lacks, None if nobody knows."""

    url: str
    behind: int | None
    error: DataPipelineError | None = None

    @property
    def ok(self) -> bool:
        """Whether it holds all that its store holds, verified."""
        return self.error is None and self.behind == 0

    def as_json(self) -> dict[str, Any]:
        """The mirror's part of `fetch --json`."""
        return {"url": self.url, "ok": self.ok, "behind": self.behind, "error": error_json(self.error)}


@dataclass(slots=True)
class RunReport:
    """What a run did and spent. `weight` is in the exchange's own units."""

    seconds: float
    requests: int
    retries: int
    weight: float
    series: list[SeriesReport]
    mirrors: list[MirrorReport] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether every series is; mirrors speak for themselves."""
        return all(s.ok for s in self.series)

    def as_json(self) -> dict[str, Any]:
        """The document of `fetch --json`."""
        return {
            "ok": self.ok,
            "seconds": round(self.seconds, 3),
            "requests": self.requests,
            "retries": self.retries,
            "weight": self.weight,
            "series": [s.as_json() for s in self.series],
            "mirrors": [m.as_json() for m in self.mirrors],
        }


@dataclass(frozen=True, slots=True)
class PlannedRange:
    """A range that a run would ask for, and what that costs at least."""

    range: TimeRange
    via: str
    requests: int
    weight: float
    seconds: float


@dataclass(frozen=True, slots=True)
class SeriesPlan:
    """What a run would ask for of one series, and what of it is older than its exchange gives.

    `pending` counts the candles at the end of its span that have not closed, which are not asked for.
    """

    series: SeriesId
    span: TimeRange
    ranges: list[PlannedRange]
    error: DataPipelineError | None = None
    out_of_reach: list[TimeRange] = field(default_factory=list)
    pending: int = 0

    def as_json(self) -> dict[str, Any]:
        """The series' part of `plan --json`."""
        return {
            **series_json(self.series),
            "since": iso(self.span.since),
            "until": iso(self.span.until),
            "ranges": [
                {"from": iso(r.range.since), "to": iso(r.range.until), "via": r.via, "requests": r.requests}
                for r in self.ranges
            ],
            "out_of_reach": [
                {
                    "from": iso(r.since),
                    "to": iso(r.until),
                    "candles": self.series.frame.count(r.since, r.until),
                }
                for r in self.out_of_reach
            ],
            "error": error_json(self.error),
        }


@dataclass(frozen=True, slots=True)
class PlanReport:
    """What a run would ask for and cost."""

    series: list[SeriesPlan]

    @property
    def requests(self) -> int:
        """Requests for candles, at least."""
        return sum(r.requests for s in self.series for r in s.ranges)

    @property
    def weight(self) -> float:
        """Their weight in the exchange's own units."""
        return sum(r.weight for s in self.series for r in s.ranges)

    @property
    def seconds(self) -> float:
        """How long the exchange's budget makes that last."""
        return sum(r.seconds for s in self.series for r in s.ranges)

    def as_json(self) -> dict[str, Any]:
        """The document of `plan --json`."""
        return {
            "series": [s.as_json() for s in self.series],
            "requests": self.requests,
            "weight": self.weight,
            "seconds": round(self.seconds, 3),
        }


class Progress(Protocol):
    """Who wants to know how a run goes. Called in the event loop; must return at once."""

    def started(self, series: SeriesId, slots: int) -> None:
        """A series is begun; so many slots are to be asked for."""

    def advanced(self, series: SeriesId, slots: int) -> None:
        """So many more slots of it are answered."""

    def note(self, series: SeriesId | None, text: str) -> None:
        """Something worth telling a person."""

    def finished(self, report: SeriesReport) -> None:
        """A series is done, well or not."""


class Silent:
    """A Progress that nobody watches."""

    def started(self, series: SeriesId, slots: int) -> None:
        """Say nothing."""

    def advanced(self, series: SeriesId, slots: int) -> None:
        """Say nothing."""

    def note(self, series: SeriesId | None, text: str) -> None:
        """Say nothing."""

    def finished(self, report: SeriesReport) -> None:
        """Say nothing."""


def series_json(series: SeriesId) -> dict[str, Any]:
    """The four keys that name a series in JSON output."""
    return {
        "exchange": series.exchange,
        "symbol": series.symbol,
        "timeframe": series.timeframe,
        "kind": series.kind,
    }


def slots_json(counts: dict[State, int]) -> dict[str, int]:
    """SLOTS: the number of slots in each state other than stored."""
    return {state.value: counts[state] for state in SLOTS}


def error_json(error: DataPipelineError | None) -> dict[str, str] | None:
    """An error as JSON output shows it."""
    return None if error is None else {"kind": error.kind, "message": error.message, "hint": error.hint}
