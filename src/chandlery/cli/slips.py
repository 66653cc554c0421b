"""Values that are none for their option, in our words instead of a library's."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import Any

from typer.exceptions import TyperException

from chandlery.errors import UsageError

#: What typer says of a value, and our mend; the first group is a bound.
_VALUE_MENDS = (
    (re.compile(r"greater than or equal to ([-\d.]+)"), "write {} or more"),
    (re.compile(r"less than or equal to ([-\d.]+)"), "write {} or less"),
    (re.compile(r"valid (?:integer|int)"), "write a whole number"),
    (re.compile(r"valid (?:number|float)"), "write a number"),
)


def value_error(error: Any, message: str, args: Sequence[str]) -> UsageError | None:
    """A value that is none for its option, with what it was and what to write; None for other mistakes."""
    names = list(getattr(getattr(error, "param", None), "opts", ()))
    for pattern, mend in _VALUE_MENDS:
        found = pattern.search(message)
        if not found or not names:
            continue
        given = [after for name, after in itertools.pairwise(args) if name in names]
        given += [arg.partition("=")[2] for arg in args if arg.partition("=")[0] in names and "=" in arg]
        shown = f" {given[-1]!r}" if given else " that"
        return UsageError(f"{names[-1]} cannot be{shown}", hint=mend.format(*found.groups()))
    return None


def refuse_twice(command: Any, context: Any, args: Sequence[str]) -> None:
    """Raise UsageError where a command that takes one exchange is given several: the last alone would count."""
    parser = command.make_parser(type(context)(command, parent=context))
    try:
        order = parser.parse_args(list(args))[2]
    except TyperException:  # the command itself says what is wrong with its arguments
        return
    if sum(one.name == "exchange" and not one.multiple and "-e" in one.opts for one in order) > 1:
        raise UsageError("-e is given more than once", hint="name one exchange; run the command for each")
