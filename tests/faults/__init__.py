"""Hundreds of kills and faults: a run must recover exactly, or be refused with an error.

See `python -m tests.faults --help`, docs/reliability.md and tests/project/test_faults.py.
"""
