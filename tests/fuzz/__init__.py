"""Thousands of broken inputs for every reader: a right answer or one line, and nothing else.

See `python -m tests.fuzz --help`, docs/reliability.md and tests/project/test_fuzz.py.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))  # the tests' own modules
