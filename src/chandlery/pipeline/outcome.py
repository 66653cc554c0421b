"""What a fetch_and_store did, as fields."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chandlery.report import RunReport


class FetchReport(Mapping[str, Any]):
    """What `fetch_and_store` did. True only if everything asked for is there.

    Its keys, which are attributes too, are those of `chandlery fetch --json`: of the run (ok, seconds, requests,
    retries, weight, series, mirrors) and of its one series (exchange, symbol, timeframe, kind, since, until, fetched, written,
    absent, missing, pending, quarantined, before_listing, after_end, out_of_reach, volume_unit, error). Times are ISO 8601
    UTC.
    """

    ok: bool
    seconds: float
    requests: int
    retries: int
    weight: float
    series: list[dict[str, Any]]
    mirrors: list[dict[str, Any]]
    exchange: str
    symbol: str
    timeframe: str
    kind: str
    since: str
    until: str
    fetched: int
    written: int
    absent: int
    missing: int
    pending: int
    quarantined: int
    before_listing: int
    after_end: int
    out_of_reach: int
    volume_unit: str
    error: dict[str, str] | None

    def __init__(self, run: RunReport) -> None:
        document = run.as_json()
        self._fields: dict[str, Any] = {**document, **document["series"][0]}

    def __getitem__(self, key: str) -> Any:
        return self._fields[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name not in self._fields:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return self._fields[name]

    def __bool__(self) -> bool:
        return bool(self._fields["ok"])

    def __repr__(self) -> str:
        shown = ", ".join(f"{key}={value!r}" for key, value in self._fields.items() if key != "series")
        return f"{type(self).__name__}({shown})"
