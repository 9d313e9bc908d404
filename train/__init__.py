"""The programs, such as `python -m train.main` and `python -m train.evaluate`."""

import contextlib
import os
import signal
import sys
import time
from pathlib import Path

if sys.argv[:1] == ["-m"]:  # its value while Python is still looking for the program
    # Until `console.run` takes over, Ctrl-C ends the process without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

STARTED = time.monotonic()
"""When the process started, by `time.monotonic`; without /proc, when it imported this package."""
with contextlib.suppress(OSError, IndexError, ValueError):
    # The 22nd field, in clock ticks since the system started. `allocator` does not change it.
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    STARTED -= time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
