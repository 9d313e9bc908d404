"""Runs `train.main` and sends it signals at the N-th call of a function.

usage: kill_at.py SIGNAL[,SIGNAL] MODULE:FUNCTION before|after N [arguments of train.main]
"""

import functools
import importlib
import os
import signal
import sys


def kill_at(signals: str, target: str, when: str, count: int) -> None:
    module_name, _, path = target.partition(":")
    owner = importlib.import_module(module_name)
    *parents, name = path.split(".")
    owner = functools.reduce(getattr, parents, owner)
    function, calls = getattr(owner, name), 0

    def send():
        for name in signals.split(","):
            os.kill(os.getpid(), signal.Signals[name])

    def wrapped(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls == count and when == "before":
            send()
        result = function(*args, **kwargs)
        if calls == count and when == "after":
            send()
        return result

    setattr(owner, name, wrapped)


if __name__ == "__main__":
    kill_at(*sys.argv[1:4], int(sys.argv[4]))
    from train import console, main

    sys.argv = ["train.main", *sys.argv[5:]]
    console.start(main.main)
