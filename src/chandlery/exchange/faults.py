"""Scripted faults: which requests go wrong, and how, decided by seed and request, never by chance.

Whether a fault strikes depends on the seed, the rule, the page asked for (path, symbol, interval, startTime) and how
often that page was asked for; so the order of concurrent requests does not change the script.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from chandlery.errors import UsageError

KINDS: Mapping[str, str] = {
    "latency": "wait `ms` before answering",
    "429": "too many requests, with Retry-After",
    "418": "banned, with Retry-After and the end of the ban in the text",
    "5xx": "a server error; `status` is 500 to 599",
    "reset": "break the TCP connection off",
    "hang": "never answer",
    "html": "an HTML page with status 200",
    "cut": "JSON cut at `byte` (or anywhere) with a Content-Length that agrees",
    "empty": "an empty body with status 200",
    "null_price": "one price is null",
    "duplicate_rows": "one row is there twice",
    "conflicting_rows": "one open time is there twice, with different values",
    "shuffled_rows": "rows out of order",
    "misaligned_rows": "open times that lie between two candles",
    "since_ignored": "the latest rows instead of those asked for",
    "in_progress": "the last row as it stood half-way, though the candle is closed",
    "mixed": "one of `kinds`, a different one each time",
}
#: Faults that change rows: they strike pages of candles only.
ROW_KINDS = frozenset(
    {
        "null_price",
        "duplicate_rows",
        "conflicting_rows",
        "shuffled_rows",
        "misaligned_rows",
        "since_ignored",
        "in_progress",
    }
)
#: What "mixed" draws from: all but latency and those that a client can only wait out (hang) or find by asking again.
MIXED = ("429", "418", "5xx", "reset", "html", "cut", "empty", "null_price", "duplicate_rows", "conflicting_rows",
         "shuffled_rows", "misaligned_rows", "since_ignored")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Fault:
    """One rule. It strikes requests that match `path`, `symbol`, `interval` and `since <= startTime < until`.

    Of those it strikes the numbers in `requests` (the first is 1), or else each with `probability`; at most `count` in
    all, and never more than `max_in_a_row` times one after the other on the same page (other rules' strikes count).
    `path` matches the end of the request's path, so "klines" will do; `symbol` and `interval` are the exchange's names or
    the unified ones. Where several exchanges are served, each plays the script by itself, `exchange` names one of them.
    """

    kind: str
    probability: float = 1.0
    requests: tuple[int, ...] = ()
    max_in_a_row: int | None = None
    count: int | None = None
    path: str | None = None
    symbol: str | None = None
    interval: str | None = None
    since: int | None = None
    until: int | None = None
    ms: int = 0
    retry_after: int = 1
    status: int = 503
    byte: int | None = None
    kinds: tuple[str, ...] = MIXED
    exchange: str | None = None

    def __post_init__(self) -> None:
        for kind in (self.kind, *(self.kinds if self.kind == "mixed" else ())):
            if kind not in KINDS:
                raise UsageError(f"no such fault: {kind!r}", hint="there are: " + ", ".join(KINDS))
        if not 0 <= self.probability <= 1:
            raise UsageError(f"fault {self.kind}: probability {self.probability} is not between 0 and 1")
        if not 500 <= self.status <= 599:
            raise UsageError(f"fault {self.kind}: status {self.status} is not between 500 and 599")
        if self.kind == "mixed" and (not self.kinds or "mixed" in self.kinds):
            raise UsageError("fault mixed: kinds must name other kinds, such as kinds=html+cut+429")

    def as_json(self) -> dict[str, Any]:
        """Only what differs from the defaults, with tuples as lists."""
        plain: dict[str, Any] = {"kind": self.kind}
        for field in dataclasses.fields(self)[1:]:
            value = getattr(self, field.name)
            if value != field.default:
                plain[field.name] = list(value) if isinstance(value, tuple) else value
        return plain


@dataclass(frozen=True, slots=True)
class Faults:
    """Rules, tried in order (the first that strikes wins; latency adds to any other), and the seed of their draws."""

    rules: tuple[Fault, ...] = ()
    seed: int = 1

    def as_json(self) -> dict[str, Any]:
        """The JSON of the control endpoint."""
        return {"seed": self.seed, "rules": [rule.as_json() for rule in self.rules]}


@dataclass(frozen=True, slots=True)
class Asked:
    """What a rule can see of a request."""

    path: str
    symbol: str = ""
    unified: str = ""
    interval: str = ""
    start: int | None = None
    timeframe: str = ""

    @property
    def candles(self) -> bool:
        """Whether it asks for candles."""
        return bool(self.interval) or self.path.endswith("klines")

    @property
    def page(self) -> str:
        """The name of the page asked for."""
        return f"{self.path} {self.symbol} {self.interval} {self.start}"


@dataclass(frozen=True, slots=True)
class Strike:
    """What is to go wrong with one answer: the rule, its kind (drawn, for "mixed") and a number to draw details from."""

    rule: Fault
    kind: str
    draw: int


class FaultPlayer:
    """Plays a script: told of every request to one exchange, it says what goes wrong with it."""

    def __init__(self, faults: Faults, exchange: str = "") -> None:
        self.faults = faults
        self._exchange = exchange
        self._matched: Counter[int] = Counter()
        self._visits: Counter[tuple[int, str]] = Counter()
        self._struck: Counter[int] = Counter()
        self._in_a_row: Counter[str] = Counter()

    def next(self, asked: Asked) -> tuple[int, Strike | None]:
        """Milliseconds of latency, and the strike, if any. Call `done` with the outcome."""
        latency = 0
        strike: Strike | None = None
        for number, rule in enumerate(self.faults.rules):
            if rule.exchange not in {None, self._exchange} or not _matches(rule, asked):
                continue
            self._matched[number] += 1
            self._visits[number, asked.page] += 1
            if strike is not None and rule.kind != "latency":
                continue
            drawn = self._draw(number, rule, asked)
            if drawn is None:
                continue
            if rule.kind == "latency":
                latency += rule.ms
            else:
                strike = drawn
            self._struck[number] += 1
        return latency, strike

    def done(self, asked: Asked, struck: bool) -> None:
        """Keep count of how many answers for a page went wrong in a row."""
        if struck:
            self._in_a_row[asked.page] += 1
        else:
            del self._in_a_row[asked.page]

    def _draw(self, number: int, rule: Fault, asked: Asked) -> Strike | None:
        if rule.count is not None and self._struck[number] >= rule.count:
            return None
        if rule.max_in_a_row is not None and self._in_a_row[asked.page] >= rule.max_in_a_row:
            return None
        name = f"{self.faults.seed} {number} {self._visits[number, asked.page]} {asked.page}"
        digest = blake2b(name.encode(), digest_size=16).digest()
        chance, draw = int.from_bytes(digest[:8], "big") / 2**64, int.from_bytes(digest[8:], "big")
        if rule.requests:
            if self._matched[number] not in rule.requests:
                return None
        elif chance >= rule.probability:
            return None
        kind = rule.kind
        if kind == "mixed":
            able = [k for k in rule.kinds if k not in ROW_KINDS or asked.candles]
            if not able:
                return None
            kind, draw = able[draw % len(able)], draw // len(able)
        return Strike(rule, kind, draw)


def _matches(rule: Fault, asked: Asked) -> bool:
    if rule.path is not None and not asked.path.endswith(rule.path):
        return False
    if rule.symbol is not None and rule.symbol not in {asked.symbol, asked.unified}:
        return False
    if rule.interval is not None and rule.interval not in {asked.interval, asked.timeframe}:
        return False
    if rule.kind in ROW_KINDS and not asked.candles:
        return False
    if rule.since is None and rule.until is None:
        return True
    start = asked.start
    return start is not None and (rule.since or 0) <= start and (rule.until is None or start < rule.until)


_NUMBERS = {"max_in_a_row", "count", "ms", "retry_after", "status", "byte"}
_TEXTS = {"path", "symbol", "interval", "exchange"}
_MOMENTS = {"since", "until"}
_GRAMMAR = "write KIND[:PROBABILITY][,name=value...], such as html:0.05 or 429:0.02,retry_after=3 or latency:80 (milliseconds)"


def parse_fault(text: str) -> Fault:
    """Read one fault as it stands on the command line; raises `UsageError`.

    `html:0.05`, `429:0.02,retry_after=3`, `latency:80`, `cut,requests=3+4,byte=100`, `503:0.1,max_in_a_row=4`,
    `mixed:0.3,kinds=html+cut+reset,symbol=BTC/USDT`.
    """
    head, *pairs = text.split(",")
    kind, colon, number = (part.strip() for part in head.partition(":"))
    values: dict[str, Any] = {"kind": kind}
    if kind.isdigit() and kind[0] == "5":
        values |= {"kind": "5xx", "status": int(kind)}
    if colon:
        values["ms" if kind == "latency" else "probability"] = number
    for pair in pairs:
        name, equals, value = (part.strip() for part in pair.partition("="))
        if not equals:
            raise UsageError(f"fault {text!r}: {pair!r} has no value", hint=_GRAMMAR)
        values[name] = value.split("+") if name in {"requests", "kinds"} else value
    return fault_from(values)


def fault_from(values: Mapping[str, Any]) -> Fault:
    """Make a rule of names and values (text, numbers, lists); raises `UsageError` naming what is wrong."""
    from chandlery.exchange.clock import parse_moment

    kind = str(values.get("kind", ""))
    made: dict[str, Any] = {}
    for name, value in values.items():
        try:
            if name == "probability":
                made[name] = float(value)
            elif name in _NUMBERS:
                made[name] = None if value is None else int(value)
            elif name == "requests":
                made[name] = tuple(int(number) for number in value)
            elif name == "kinds":
                made[name] = tuple(str(one) for one in value)
            elif name in _MOMENTS:
                made[name] = None if value is None else parse_moment(str(value))
            elif name in _TEXTS or name == "kind":
                made[name] = None if value is None else str(value)
            else:
                known = ", ".join(f.name for f in dataclasses.fields(Fault)[1:])
                raise UsageError(f"fault {kind}: no setting {name!r}", hint=f"there are: {known}")
        except (TypeError, ValueError):
            raise UsageError(
                f"fault {kind}: {name} is {value!r}, which is not a number", hint=_GRAMMAR
            ) from None
    return Fault(**made)


def faults_from(document: Any) -> Faults:
    """Read the control endpoint's JSON: one rule, a list of rules, or {"seed", "rules"}; raises `UsageError`."""
    if isinstance(document, Mapping) and "rules" in document:
        unknown = set(document) - {"seed", "rules"}
        seed, rules = document.get("seed", 1), document["rules"]
        if unknown or not isinstance(seed, int):
            raise UsageError("a script of faults has a number `seed` and a list `rules`, and nothing else")
    else:
        seed, rules = 1, document if isinstance(document, list) else [document]
    if not isinstance(rules, list):
        raise UsageError("`rules` must be a list of faults")
    made = []
    for rule in rules:
        if isinstance(rule, str):
            made.append(parse_fault(rule))
        elif isinstance(rule, Mapping):
            made.append(fault_from(rule))
        else:
            raise UsageError(f"not a fault: {rule!r}", hint=_GRAMMAR)
    return Faults(tuple(made), seed)
