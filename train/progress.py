"""The progress of an epoch on the terminal."""

import sys
import time
from typing import Self

from tqdm import tqdm

# Short, because the values need most of a terminal's 80 columns.
BAR = "{desc} |{bar}| {n_fmt}/{total_fmt} {remaining} left{postfix}"


class Progress:
    """A progress bar on a terminal; elsewhere a line every `LINE_SECONDS`.

    Args:
      title: For example "epoch 3/100".
      done: Steps of the epoch that were taken before.
      total: Steps of the epoch.
    """

    LINE_SECONDS = 30.0

    def __init__(self, title: str, done: int, total: int):
        self._title = title
        self._total = total
        self._bar = tqdm(
            desc=title,
            initial=done,
            total=total,
            leave=False,
            dynamic_ncols=True,
            bar_format=BAR,
            disable=not sys.stderr.isatty(),
        )
        self._first, self._started = done, time.monotonic()
        self._last_line = self._started

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.close()

    def update(self, done: int, values: dict[str, str]) -> None:
        """Shows how many steps are done, and values such as the loss."""
        text = " ".join(f"{name} {value}" for name, value in values.items())
        if not self._bar.disable:
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.update(done - self._bar.n)
        elif (now := time.monotonic()) - self._last_line > self.LINE_SECONDS:
            self._last_line = now
            left = (now - self._started) / (done - self._first) * (self._total - done)
            time_left = tqdm.format_interval(left)
            print(f"[{self._title}] step {done}/{self._total} {text} left {time_left}", flush=True)
