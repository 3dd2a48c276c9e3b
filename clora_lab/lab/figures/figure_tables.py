"""Typeset tables: slide 16's, published beside measured; and any other of the slides, in one form."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from clora_lab.lab.figures.figure_base import (
    INK,
    REMEDY,
    SLIDE_METHODS,
    MissingResults,
    new_figure,
    one_dataset,
    one_row_each,
    percent_scale,
    remark,
    require,
    set_title,
    spread_in_words,
    styled,
    subtitle_of,
    two_lines,
)
from clora_lab.lab.names import METHOD_LABELS, method_label
from clora_lab.slides.diagrams import use_language


@styled
def comparison_table(comparison: pd.DataFrame, dataset: str = "fashion_mnist") -> Figure:
    """Slide 16's table, typeset: published, measured mean ± sd over seeds, and their difference.

    The best accuracy of each line is bold. The baselines, which the slides lack, stand below.

    Args:
        comparison: a row for each (method, rank), dense at rank 0, with the columns method, rank,
            published_accuracy, measured_mean, measured_sd, n_seeds, difference, published_ratio,
            ratio (both ratios in percent); values may be missing. Accuracies are all fractions, or
            all percent. The columns 'split' and 'note', if there, are named in the subtitle.
        dataset: what was measured, where `comparison` has no column 'dataset'.

    Raises:
        MissingResults: if a column is missing, or there is no row of the slides' methods.
        ValueError: if a (method, rank) occurs twice or the units are mixed.

    Example:
        >>> fig = comparison_table(comparison)  # doctest: +SKIP
    """
    accuracies = ["published_accuracy", "measured_mean"]
    spreads = ["measured_sd", "difference"]
    others = ["n_seeds", "published_ratio", "ratio"]
    require(comparison, "comparison", ["method", "rank", *accuracies, *spreads, *others])
    name = one_dataset(comparison, "comparison", dataset)
    table = comparison[comparison["method"].isin(METHOD_LABELS)]
    one_row_each(table, "comparison", ["method", "rank"])
    scale = percent_scale(table, "comparison", accuracies)
    notes = remark(table, "split", "{} set"), remark(table, "note")
    table = table.set_index(["method", "rank"])[accuracies + spreads + others].astype("float64")
    table[accuracies + spreads] *= scale
    ranks = sorted({rank for method, rank in table.index if method in SLIDE_METHODS})
    if not ranks:
        raise MissingResults(f"`comparison` must have rows of {list(SLIDE_METHODS)}. {REMEDY}")
    present = set(table.index.get_level_values("method"))
    baselines = [method for method in ("svd", "svd_finetune", "scratch") if method in present]
    lines = _table_lines(table, ranks, baselines)
    heights = [line.pop("height", 1.0) for line in lines]
    fig = new_figure(0.75 + 0.215 * sum(heights))
    _typeset(fig.subplots(), lines, heights)
    counts = table["n_seeds"].dropna()
    seeds = f"measured: {spread_in_words(counts)}" if len(counts) else "nothing measured yet"
    wanted = [(method, rank) for rank in ranks for method in SLIDE_METHODS]
    missing = [
        f"{method_label(m)}, rank {r}"
        for m, r in wanted
        if (m, r) not in table.index or np.isnan(table.loc[(m, r), "measured_mean"])
    ]
    title = f"Published and measured accuracy (%), {name}"
    parts = (*notes, seeds, "best of a line in bold")
    set_title(fig, title, subtitle_of(*parts, missing=missing))
    means = table["measured_mean"].dropna()
    best = means[means.index.isin(SLIDE_METHODS, level=0)]
    found = "no method measured"
    if len(best):
        method, rank = best.idxmax()
        found = f"the best measured is {method_label(method)} at rank {rank} with {best.max():.2f}%"
    dense = means.get(("dense", 0), np.nan)
    found += "" if np.isnan(dense) else f", the dense network has {dense:.2f}%"
    fig.alt_text = f"{title}: table of {len(ranks)} ranks by {len(SLIDE_METHODS)} methods; {found}."
    return fig


def _number(value: float, form: str = ".2f") -> str:
    return "–" if value is None or np.isnan(value) else format(value, form).replace("-", "−")


def _table_lines(table: pd.DataFrame, ranks: list[int], baselines: list[str]) -> list[dict]:
    """The table as lines of text: 'cells' by column, 'bold' columns, 'rule' above the line."""

    def cell(method, rank, column):
        return table[column].get((method, rank), np.nan)

    def measured(method, rank):
        mean, sd = cell(method, rank, "measured_mean"), cell(method, rank, "measured_sd")
        return _number(mean) + ("" if np.isnan(sd) else f" ± {sd:.2f}")

    def best(methods, rank, column):
        values = [cell(method, rank, column) for method in methods]
        # Equal as printed is equal: a tie that the reader cannot see is no difference.
        rounded = np.round(values, 2)
        return [3 + index for index in np.flatnonzero(rounded == np.nanmax([*rounded, -np.inf]))]

    def ratio(methods, rank, column, form):
        values = [v for method in methods if not np.isnan(v := cell(method, rank, column))]
        ends = dict.fromkeys(_number(end(values), form) for end in (min, max) if values)
        return "–".join(ends)

    def block(name, rank, methods):
        published = [_number(cell(method, rank, "published_accuracy")) for method in methods]
        own = [measured(method, rank) for method in methods]
        differences = [_number(cell(method, rank, "difference"), "+.2f") for method in methods]
        ratios = [ratio(methods, rank, c, form) for c, form in (("published_ratio", "g"), ("ratio", ".2f"))]
        return [
            {"cells": [name, ratios[0], "published", *published], "rule": "thin"},
            {"cells": ["", ratios[1], "measured", *own]},
            {"cells": ["", "", "difference", *differences]},
        ]

    def head(name, second, methods):
        cells = [name, second, "", *(two_lines(method_label(method)) for method in methods)]
        return {"cells": cells, "height": 2.1, "rule": "thick", "bold": range(7)}

    lines = [head("Rank", "Ratio\n(%)", SLIDE_METHODS)]
    if ("dense", 0) in table.index:
        lines += [{**line, "across": True} for line in block("dense", 0, ["dense"])]
    for rank in ranks:
        lines += block(str(rank), rank, SLIDE_METHODS)
        lines[-3]["bold"] = best(SLIDE_METHODS, rank, "published_accuracy")
        lines[-2]["bold"] = best(SLIDE_METHODS, rank, "measured_mean")
    if baselines:
        lines.append(head("Baselines,\nnot in the slides", "", baselines))
    for rank in sorted({rank for method, rank in table.index if method in baselines}):
        own = [measured(method, rank) for method in baselines]
        cells = [str(rank), ratio(baselines, rank, "ratio", ".2f"), "measured", *own]
        lines.append({"cells": cells, "bold": best(baselines, rank, "measured_mean")})
    return lines


# Where the columns of `comparison_table` stand, in parts of the width, and how they are aligned.
COMPARISON_EDGES = [(0.0, "left"), (0.205, "right"), (0.23, "left")]
COMPARISON_EDGES += [(0.425 + 0.16 * column, "center") for column in range(4)]


def _typeset(
    ax: Axes, lines: list[dict], heights: list[float], edges=COMPARISON_EDGES, left: int = 3
) -> None:
    """Print lines of cells; one that goes 'across' has its cell after the `left` ones in the middle."""
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
def slide_table(
    head: Sequence[str],
    lines: Sequence[dict],
    title: str,
    subtitle: str = "",
    left: int = 2,
    lang: str = "en",
    left_width: float = 0.11,
) -> Figure:
    """A table of the slides, typeset: a bold head, lines of cells, a rule above each group.

    Args:
        head: names of the columns; a line break is kept.
        lines: for each line a dict with 'cells' (texts), and if wanted 'bold' (column numbers), 'across' (the
            first cell after the left ones stands in the middle of the rest), 'rule' ("thin" above the line),
            'head' (the line is another head).
        title, subtitle: above the table.
        left: number of the narrow columns that begin a line.
        lang: language of the texts; "ko" sets a font with Hangul where there is one.
        left_width: of each of the left columns, as a part of the table's.

    Raises:
        ValueError: no lines, or a line with more cells than the head.

    Example:
        >>> fig = slide_table(["Rank", "Only WDS"], [{"cells": ["16", "82.10"]}], "A table", left=1)
        >>> fig.alt_text
        'A table: Rank 16: Only WDS 82.10.'
    """
    use_language(lang)
    lines = [{"cells": list(head), "head": True}, *lines]
    if len(lines) == 1 or any(len(line["cells"]) > len(head) for line in lines):
        raise ValueError(
            f"`lines` must be at least one line of at most {len(head)} cells, one a column of `head`. "
            f"Received: {[len(line['cells']) for line in lines[1:]]} cells."
        )
    start = left * left_width
    wide = (1 - start) / max(len(head) - left, 1)
    edges = [(index * left_width, "left") for index in range(left)]
    edges += [(start + (index + 0.5) * wide, "center") for index in range(len(head) - left)]
    rows, heights = [], []
    for line in lines:
        line = dict(line)
        if line.pop("head", False):
            line |= {"bold": range(len(head)), "rule": "thick"}
        rows.append(line)
        heights.append(0.15 + 0.95 * (1 + max(cell.count("\n") for cell in line["cells"])))
    rows[1] = {"rule": "thin", **rows[1]}
    fig = new_figure(0.6 + 0.17 * (2 + subtitle.count("\n") + len(subtitle) // 90) + 0.2 * sum(heights))
    _typeset(fig.subplots(), rows, heights, edges, left)
    set_title(fig, title, subtitle)
    fig.alt_text = f"{title}: {_spoken(head, lines[1:], left)}."
    return fig


def _spoken(head: Sequence[str], lines: Sequence[dict], left: int) -> str:
    """The lines of a table as one sentence."""
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
