#!/usr/bin/env python3
"""Logger configuration for the data pipeline.

`configure_logger(name)` gives a logger a console handler, a daily file rotated at 10 MB (10 old ones kept) and a
separate error file in `logs/` beside this script, or where CHANDLERY_LOGS says. It is chandlery's own.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent

try:
    import chandlery.logs
except ModuleNotFoundError as missing:
    if missing.name != "chandlery":
        raise
    # A checkout that is not installed: the package lies beside this folder.
    sys.path.insert(0, str(HERE.parent / "src"))
    try:
        import chandlery.logs
    except ModuleNotFoundError:
        sys.exit("chandlery is not installed; install it with: pip install chandlery")

logs_dir = os.environ.get("CHANDLERY_LOGS") or str(HERE / "logs")


def configure_logger(name: str | None = None) -> logging.Logger:
    """Configure and return a logger with file and console handlers; None is the root logger."""
    return chandlery.logs.configure_logger(name, folder=logs_dir)
