"""The script test_data_pipeline.py is a program that users run, not a test for pytest."""

from __future__ import annotations

collect_ignore = ["test_data_pipeline.py"]
