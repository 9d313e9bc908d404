"""The programs: `python -m train.main`, `python -m train.evaluate`."""

import signal
import sys
import time

if sys.argv[:1] == ["-m"]:  # as Python has it while it looks for the program
    # Ctrl-C ends the process without a traceback until `console.run` takes over.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

STARTED = time.monotonic()
"""When the process began to import them."""
