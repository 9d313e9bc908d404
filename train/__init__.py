"""The programs: `python -m train.main`, `python -m train.evaluate`."""

import time

STARTED = time.monotonic()
"""When the process began to import them."""
