"""Writing settings into an environment file that holds secrets: other lines stay, and nobody else can ever read it."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path

from chandlery.errors import UsageError

_PLAIN = re.compile(r"[A-Za-z0-9_./:=@%+,-]+")
_ASSIGNMENT = re.compile(r"\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=")


def line_of(name: str, value: str) -> str:
    """`NAME=value`, in quotes where it needs them. Raises UsageError for what a line cannot hold."""
    if _PLAIN.fullmatch(value):
        return f"{name}={value}"
    if not value.isprintable() or "${" in value:
        raise UsageError(
            f"{name} cannot be {value!r}", hint="an environment file cannot hold control characters or ${"
        )
    quoted = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"{name}='{quoted}'"


def save_settings(path: Path, values: Mapping[str, str]) -> None:
    """Set these variables in the file, which is made with its folder if it is not there; mode 0600, in one step.

    Lines of other variables stay as they are. Raises UsageError where it cannot be written.
    """
    place = path.resolve()  # a link stays a link
    try:
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        old = place.read_text(encoding="utf-8") if place.exists() else ""
        text = _changed(old, values)
        # mkstemp makes it with mode 0600 before anything is in it.
        descriptor, name = tempfile.mkstemp(prefix=f"{place.name}.", dir=place.parent)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(place)
        except BaseException:
            with contextlib.suppress(OSError):
                Path(name).unlink()
            raise
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot write {path}: {error}", hint="name another file with --save-to") from None


def _changed(text: str, values: Mapping[str, str]) -> str:
    left = dict(values)
    lines: list[str] = []
    for line in text.splitlines():
        found = _ASSIGNMENT.match(line)
        name = found[1].upper() if found else ""
        if name not in values:
            lines.append(line)
        elif name in left:  # a second line of the same name would go before the first
            lines.append(line_of(name, left.pop(name)))
    lines += [line_of(name, value) for name, value in left.items()]
    return "".join(f"{line}\n" for line in lines)
