"""Thousands of broken inputs for every reader: each gives a right answer or a one-line error.

See `python -m tests.fuzz --help`, docs/reliability.md and tests/project/test_fuzz.py.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))  # modules shared with the tests
