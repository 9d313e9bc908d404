"""The memory allocator of a training process on Linux."""

import os
import sys

# glibc's malloc gives large blocks back to the system at once and gets them anew, page by page:
# a step of the whole network at batch 128 touches 8 GB. Huge pages and keeping what was freed
# made it 1.5 times faster on two cores.
TUNABLES = ":".join(
    [
        "glibc.malloc.hugetlb=1",
        "glibc.malloc.arena_max=1",
        "glibc.malloc.mmap_threshold=80000000000",
        "glibc.malloc.trim_threshold=160000000000",
    ]
)


def restart_tuned() -> None:
    """Starts the process anew with `TUNABLES`, which glibc reads at a process's start only.

    It keeps its number and its arguments. Where GLIBC_TUNABLES is set, be it to nothing, nothing
    happens; another C library ignores it.
    """
    if sys.platform == "linux" and "GLIBC_TUNABLES" not in os.environ:
        os.environ["GLIBC_TUNABLES"] = TUNABLES
        os.execv(sys.executable, sys.orig_argv)
