"""Where chandlery keeps what belongs to this host and user rather than to a store: bans, budgets, locks of servers."""

from __future__ import annotations

import os
from pathlib import Path


def state_folder() -> Path:
    """CHANDLERY_STATE, else the user's state folder. It need not exist yet."""
    named = os.environ.get("CHANDLERY_STATE")
    if named:
        return Path(named)
    import platformdirs

    return Path(platformdirs.user_state_dir("chandlery"))
