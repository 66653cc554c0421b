"""`python -m chandlery`, the same as `chandlery`."""

from __future__ import annotations

from chandlery.cli.main import main

if __name__ == "__main__":
    main()
