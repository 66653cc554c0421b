"""Places where a test may kill the process, to prove that a kill there loses nothing.

`CHANDLERY_FAILPOINT=NAME:N` makes the N-th passing of the failpoint NAME end the process with SIGKILL, as a power cut
or the OOM killer would: no handler runs, nothing is flushed. Without the variable a failpoint costs one comparison.
"""

from __future__ import annotations

import itertools
import os
import signal

#: The failpoints of the embedded store, in the order in which a page passes them.
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
#: Those of the InfluxDB store, in the order in which a commit passes them.
INFLUX_NAMES = (
    "influx.read",  # what is there already was read, nothing is written
    "influx.revised",  # changes of candles are recorded, the candles are not yet changed
    "influx.rows",  # the server has acknowledged the rows, they are not counted back
    "influx.counted",  # the rows are there, the ledger does not know it
    "influx.noted",  # the ledger has it, not acknowledged
)

_name, _, _count = os.environ.get("CHANDLERY_FAILPOINT", "").partition(":")
_passings = itertools.count(1)
_fatal = int(_count or "1")
if _name and _name not in (*NAMES, *INFLUX_NAMES):
    raise ValueError(
        f"CHANDLERY_FAILPOINT names no failpoint: {_name!r} (there are {', '.join((*NAMES, *INFLUX_NAMES))})"
    )


def failpoint(name: str) -> None:
    """Die here if the environment says so."""
    if name == _name and next(_passings) >= _fatal:
        os.kill(os.getpid(), signal.SIGKILL)
