"""The programs, such as `python -m train.main` and `python -m train.evaluate`."""

import signal
import sys
import time

if sys.argv[:1] == ["-m"]:  # its value while Python is still looking for the program
    # Until `console.run` takes over, Ctrl-C ends the process without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

STARTED = time.monotonic()
"""When this package was imported, which is about when the process started."""
