"""Signals that stop a training run in an orderly way: finish the step, save, exit."""

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from types import FrameType

from train import console


class StopRequest:
    """Remembers whether a signal such as SIGTERM or Ctrl-C has asked the run to stop.

    Attributes:
      signal: The signal that came, or None.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    @classmethod
    @contextlib.contextmanager
    def listen(cls, to: Sequence[signal.Signals]) -> "Iterator[StopRequest]":
        """Notes the first of these signals; a second one ends the process at once."""
        request = cls()

        def note(number: int, frame: FrameType | None) -> None:
            request.signal = signal.Signals(number)
            for each in previous:
                signal.signal(each, signal.SIG_DFL)
            console.say(f"{request.signal.name}: finishing the step and saving", sys.stderr)

        previous = {each: signal.signal(each, note) for each in to}
        try:
            yield request
        finally:
            for each, handler in previous.items():
                signal.signal(each, handler)

    @staticmethod
    @contextlib.contextmanager
    def pass_on() -> Iterator[None]:
        """Turns the first Ctrl-C into a SIGTERM, which JAX reports to all processes of a run."""

        def send(number: int, frame: FrameType | None) -> None:
            signal.signal(signal.SIGINT, previous)
            console.say("SIGINT: all processes finish the step and save", sys.stderr)
            os.kill(os.getpid(), signal.SIGTERM)

        previous = signal.signal(signal.SIGINT, send)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, previous)

    def check(self, save: Callable[[], None], steps_done: int) -> None:
        """Saves and exits if a signal came.

        Raises:
          SystemExit: With status 128 + the signal's number.
        """
        if self.signal:
            save()
            console.say(f"saving step {steps_done}; run the same command to continue there")
            sys.exit(128 + self.signal)
