"""Exchange profiles where they are kept: those shipped with chandlery, and those that were learnt on this host.

Learnt ones are one JSON file per exchange in `<state folder>/profiles/`, replaced atomically under a kernel lock.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote

from chandlery.errors import UsageError
from chandlery.sources.profile import Habits, Profile, profile_from

log = logging.getLogger("chandlery.sources.profile_book")


@cache
def shipped(exchange: str) -> Profile | None:
    """The profile that chandlery ships for an exchange, parsed once; None where it ships none."""
    if not exchange.isidentifier():  # what is no id of ccxt is no name of a file here
        return None
    import tomllib

    file = files("chandlery.sources") / "profiles" / f"{exchange}.toml"
    if not file.is_file():
        return None
    return profile_from(tomllib.loads(file.read_text("utf-8")), source=f"the shipped {exchange}.toml")


def shipped_ids() -> tuple[str, ...]:
    """The exchanges that chandlery ships a profile for, in alphabetical order."""
    names = (file.name for file in (files("chandlery.sources") / "profiles").iterdir())
    return tuple(sorted(name.removesuffix(".toml") for name in names if name.endswith(".toml")))


class ProfileBook:
    """The profiles that count on this host. `folder` is the state folder (CHANDLERY_STATE, else the user's)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "profiles"

    def path(self, exchange: str) -> Path:
        """Where the learnt profile of an exchange is kept."""
        name = quote(exchange, safe="").replace(".", "%2E")
        return self.folder / f"{name[:200]}.json"

    def load(self, exchange: str) -> Profile | None:
        """What counts for an exchange: what was learnt, and the shipped profile for all that was not; None for neither.

        A unit of volumes that is shipped stays.
        """
        learnt, known = self.learnt(exchange), shipped(exchange)
        return learnt if known is None else known if learnt is None else _over(known, learnt)

    def learnt(self, exchange: str) -> Profile | None:
        """The learnt profile alone. A file that cannot be read as one costs a warning and counts as none."""
        path = self.path(exchange)
        try:
            found = profile_from(json.loads(path.read_bytes()), source=str(path))
            if found.exchange != exchange:
                raise ValueError(f"it is of {found.exchange!r}")
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError, UsageError) as error:
            instead = "the shipped one is taken" if shipped(exchange) else "none is taken"
            log.warning(
                "the learnt profile %s cannot be used, %s: %s; `chandlery probe %s` learns it anew",
                path,
                instead,
                _damage(error, path),
                exchange,
            )
            return None
        return found

    def save(self, profile: Profile) -> Path:
        """Keep a learnt profile in place of the one before; returns its file.

        Raises UsageError, naming the folder, where it cannot be written.
        """
        path = self.path(profile.exchange)
        text = json.dumps(profile.to_dict(), indent=1, sort_keys=True)
        try:
            with self._locked():
                handle, name = tempfile.mkstemp(dir=self.folder, prefix=".new-")
                try:
                    with os.fdopen(handle, "w", encoding="utf-8") as file:
                        file.write(text + "\n")
                        file.flush()
                        os.fsync(file.fileno())
                    Path(name).replace(path)
                except BaseException:
                    Path(name).unlink(missing_ok=True)
                    raise
                _sync(self.folder)
        except OSError as error:
            raise UsageError(
                f"the profile of {profile.exchange} cannot be kept in {path}: {error.strerror or error}",
                hint="make that folder writable, or name another one with CHANDLERY_STATE",
            ) from error
        return path

    @contextmanager
    def _locked(self) -> Iterator[None]:
        import fcntl

        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / ".lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield  # closing the file frees the lock


def _damage(error: Exception, path: Path) -> str:
    """Why a file is no profile, in words that do not name it once more."""
    if isinstance(error, UsageError):
        return error.message.removeprefix(f"{path} is ").removeprefix("no exchange profile: ")
    if isinstance(error, OSError):
        return (error.strerror or str(error)).lower()
    if isinstance(error, json.JSONDecodeError | UnicodeDecodeError):
        return "it is not JSON"
    return "it is nested too deep" if isinstance(error, RecursionError) else str(error)


def _sync(folder: Path) -> None:
    """Make the names in a folder outlive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _over(known: Profile, learnt: Profile) -> Profile:
    """The learnt profile, with what it does not know (limits above all: no probe can ask for them) from the known one."""
    markets = dict(known.markets)
    for kind, habits in learnt.markets.items():
        old = known.markets.get(kind)
        markets[kind] = habits if old is None else _completed(habits, old)
    return replace(
        learnt,
        markets=markets,
        limits=learnt.limits or known.limits,
        anchors={**known.anchors, **learnt.anchors},
        in_flight=learnt.in_flight or known.in_flight,
    )


def _completed(habits: Habits, known: Habits) -> Habits:
    gaps: dict[str, Any] = {
        one.name: getattr(known, one.name) for one in fields(Habits) if getattr(habits, one.name) == "unknown"
    }
    gaps["finality"] = habits.finality or known.finality
    if known.volume != "unknown":
        # Documented, while a probe infers it: a wrong unit would mix volumes of two units in one series.
        gaps["volume"] = known.volume
    return replace(habits, **gaps)
