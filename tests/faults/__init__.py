"""Kills and faults by the hundred: a run ends as if nothing had happened, or says what is wrong.

See `python -m tests.faults --help`, docs/reliability.md and tests/project/test_faults.py.
"""
