"""Places where a test may kill the process, to prove that a kill there loses nothing.

`CHANDLERY_FAILPOINT=NAME:N` makes the N-th passing of the failpoint NAME end the process with SIGKILL, as a power cut
or the OOM killer would: no handler runs, nothing is flushed. Without the variable a failpoint costs one comparison.
"""

from __future__ import annotations

import itertools
import os
import signal

#: Every failpoint there is, in the order in which a page passes them.
NAMES = (
    "page.begin",  # a transaction is open, nothing is written
    "page.staged",  # rows are written, the ledger is not
    "page.commit",  # everything is written, not committed
    "page.committed",  # committed, not acknowledged
    "seal.written",  # the temporary Parquet file is on disk
    "seal.intent",  # the catalogue knows which file is coming
    "seal.renamed",  # the file has its name, the catalogue does not know it
    "seal.commit",  # the catalogue's transaction is written, not committed
    "seal.committed",  # sealed
)

_name, _, _count = os.environ.get("CHANDLERY_FAILPOINT", "").partition(":")
_passings = itertools.count(1)
_fatal = int(_count or "1")
if _name and _name not in NAMES:
    raise ValueError(f"CHANDLERY_FAILPOINT names no failpoint: {_name!r} (there are {', '.join(NAMES)})")


def failpoint(name: str) -> None:
    """Die here if the environment says so."""
    if name == _name and next(_passings) >= _fatal:
        os.kill(os.getpid(), signal.SIGKILL)
