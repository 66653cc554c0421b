"""Lines of talk that are longer than the terminal is wide."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence


def wrapped(label: str, lines: Sequence[str], room: int) -> list[str]:
    """Lines broken at words where they are longer than the terminal is wide; a command at the end stays in one line."""
    found: list[str] = []
    for number, line in enumerate(lines):
        first = " " * len(label) if not number else ""
        if len(first + line) <= room:
            found.append(line)
            continue
        whole = re.sub(r"\bchandlery [a-z]+ .*$", lambda m: m[0].replace(" ", "\0"), line)
        indent = line[: len(line) - len(line.lstrip())]
        parts = textwrap.wrap(
            whole.strip(), max(room, 20), initial_indent=first + indent, subsequent_indent=indent,
            break_long_words=False, break_on_hyphens=False,
        )  # fmt: skip
        found += [part.replace("\0", " ")[len(first) if not n else 0 :] for n, part in enumerate(parts)]
    return found
