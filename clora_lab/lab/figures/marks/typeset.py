"""Tables: head and lines of cells, typeset."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from clora_lab.lab.figures import style
from clora_lab.lab.figures.style import INK, new_figure, set_title, styled


def draw_table(ax: Axes, lines: Sequence[dict], heights: Sequence[float], edges, left: int) -> None:
    """Typeset lines of cells into empty axes.

    Args:
        ax: to draw into.
        lines: for each line a dict with 'cells' (texts), and if wanted 'bold' (column numbers), 'across' (the
            cell after the left ones stands in the middle of the rest), 'rule' ("thin" or "thick", above).
        heights: of each line, in heights of one.
        edges: (place in parts of the width, alignment) of each column.
        left: number of the narrow columns that begin a line.
    """
    ax.set(xlim=(0, 1), ylim=(sum(heights), 0))
    ax.axis("off")
    middle = (edges[left][0] + edges[-1][0]) / 2
    top = 0.0
    for line, height in zip(lines, heights, strict=True):
        if rule := line.get("rule"):
            ax.axhline(top, color=INK, linewidth=1.4 if rule == "thick" else 0.6)
        for index, text in enumerate(line["cells"]):
            x, align = edges[index] if index < left or not line.get("across") else (middle, "center")
            weight = "bold" if index in line.get("bold", ()) else "normal"
            ax.text(x, top + height / 2, text, ha=align, va="center", weight=weight)
        top += height
    ax.axhline(top, color=INK, linewidth=1.4, clip_on=False)


@styled
def table(
    head: Sequence[str],
    lines: Sequence[dict],
    title: str,
    subtitle: str = "",
    left: int = 2,
    lang: str = "en",
    left_width: float | Sequence[float] = 0.11,
) -> Figure:
    """A typeset table: a bold head, lines of cells, a rule above each group.

    Args:
        head: names of the columns; a line break is kept.
        lines: as in `draw_table`; one with 'head' is another head.
        title, subtitle: above the table.
        left: number of the narrow columns that begin a line.
        lang: language of the texts; "ko" sets a font with Hangul where there is one.
        left_width: of the left columns, as parts of the table's; one number for all, or one for each.

    Raises:
        ValueError: no lines, or a line with more cells than the head.

    Example:
        >>> table(["Rank", "Only WDS"], [{"cells": ["16", "82.10"]}], "A table", left=1).alt_text
        'A table: Rank 16: Only WDS 82.10.'
    """
    style.use_language(lang)
    lines = [{"cells": list(head), "head": True}, *lines]
    if len(lines) == 1 or any(len(line["cells"]) > len(head) for line in lines):
        raise ValueError(
            f"`lines` must be at least one line of at most {len(head)} cells, one a column of `head`. "
            f"Received: {[len(line['cells']) for line in lines[1:]]} cells."
        )
    widths = [left_width] * left if np.isscalar(left_width) else list(left_width)
    starts = np.cumsum([0.0, *widths])
    wide = (1 - starts[-1]) / max(len(head) - left, 1)
    edges = [(start, "left") for start in starts[:-1]]
    edges += [(starts[-1] + (index + 0.5) * wide, "center") for index in range(len(head) - left)]
    rows, heights = [], []
    for line in lines:
        line = dict(line)
        if line.pop("head", False):
            line |= {"bold": range(len(head)), "rule": "thick"}
        rows.append(line)
        heights.append(0.15 + 0.95 * (1 + max(cell.count("\n") for cell in line["cells"])))
    rows[1] = {"rule": "thin", **rows[1]}
    fig = new_figure(0.6 + 0.17 * (2 + subtitle.count("\n") + len(subtitle) // 90) + 0.2 * sum(heights))
    draw_table(fig.subplots(), rows, heights, edges, left)
    set_title(fig, title, subtitle)
    fig.alt_text = f"{title}: {spoken(head, lines[1:], left)}."
    return fig


def spoken(head: Sequence[str], lines: Sequence[dict], left: int) -> str:
    """The lines of a table as one sentence, see `table`."""
    said = []
    for line in lines:
        cells = [" ".join(cell.split()) for cell in line["cells"]]
        if line.get("head"):
            head = cells
            continue
        names = [" ".join(name.split()) for name in head]
        start = ", ".join(f"{n} {c}".strip() for n, c in zip(names[:left], cells[:left], strict=False) if c)
        if line.get("across"):
            said.append(f"{start}: {cells[left]}")
        else:
            pairs = zip(names[left:], cells[left:], strict=False)
            said.append(f"{start}: " + ", ".join(f"{n} {c}" for n, c in pairs if c))
    return "; ".join(said)
