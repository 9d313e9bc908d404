"""How a report looks: the colours of its page and of its figures, for light and dark screens."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Theme:
    """The colours on one background.

    Attributes:
      background: Of the page; figures are transparent.
      text: Text and axes.
      quiet: Captions and notes.
      line: Borders and grid lines.
      tile: Background of the boxes with the main results.
      focus: Outline of what the keyboard has selected.
      colormap: Matplotlib's name for the colours of the confusion matrix.
      groups: Colours of the groups of runs, the best group's first.
    """

    background: str
    text: str
    quiet: str
    line: str
    tile: str
    focus: str
    colormap: str
    groups: tuple[str, ...]


THEMES = {
    "light": Theme(
        background="#ffffff",
        text="#1f2328",
        quiet="#57606a",
        line="#d0d7de",
        tile="#f6f8fa",
        focus="#0a5cad",
        colormap="Blues",
        # Okabe and Ito, "Color Universal Design" (2008), without yellow and black.
        groups=("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b07d00", "#56b4e9"),
    ),
    "dark": Theme(
        background="#12161c",
        text="#e6edf3",
        quiet="#9aa5b1",
        line="#3a424c",
        tile="#1b222b",
        focus="#6cb6ff",
        colormap="Blues_r",
        # The same hues, lighter.
        groups=("#6cb6ff", "#ff9a5c", "#4fd1a5", "#f0a6d0", "#f2cc60", "#a5d8ff"),
    ),
}

NEUTRAL = "gray"
"""What belongs to no group; can be seen in both themes."""

SPLIT_LINES = {"train": ":", "valid": "--", "test": "-"}
"""Matplotlib's line style for each split."""

GROUP_MARKERS = "osD^vPX"
"""Matplotlib's marker for each group, for lines that meet and for eyes that confuse two colours."""
