"""A host's budgets: what the exchange allows is spent up to a share, by all processes of this host together, and never a
request goes out during a ban.

What an exchange allows is data (`limits.RequestLimit`), and what it declares itself or says in its answers counts before
that. `host.Host` says when a request may go, `budget` how one limit is counted, `tally` and `book` keep it in a file that
processes share and a restart finds again. Bans are in `chandlery.sources.bans`.
"""

from __future__ import annotations

from chandlery.sources.pacing.declared import UNTIL_DECLARED
from chandlery.sources.pacing.host import IN_FLIGHT, Host, Ticket
from chandlery.sources.pacing.pacer import Pacer

__all__ = ["IN_FLIGHT", "UNTIL_DECLARED", "Host", "Pacer", "Ticket"]
