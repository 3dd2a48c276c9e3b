"""Published beside measured: the toy project's table typeset, and accuracy against the parameters left."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from clora_lab import methods
from clora_lab.lab.figures import marks
from clora_lab.lab.figures.style import new_figure, set_title, shared_legend, styled, two_lines
from clora_lab.lab.frames import (
    MissingResults,
    one_dataset,
    one_row_each,
    percent_scale,
    remark,
    remedy,
    require,
    spread_in_words,
    subtitle_of,
)

SLIDE_METHODS, BASELINES = methods.names("slides"), methods.names("baselines")
SHOWN = (methods.ORIGINAL, *SLIDE_METHODS, *BASELINES)


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
    table = comparison[comparison["method"].isin(SHOWN)]
    one_row_each(table, "comparison", ["method", "rank"])
    scale = percent_scale(table, "comparison", accuracies)
    notes = remark(table, "split", "{} set"), remark(table, "note")
    table = table.set_index(["method", "rank"])[accuracies + spreads + others].astype("float64")
    table[accuracies + spreads] *= scale
    ranks = sorted({rank for method, rank in table.index if method in SLIDE_METHODS})
    if not ranks:
        raise MissingResults(f"`comparison` must have rows of {list(SLIDE_METHODS)}. {remedy(comparison)}")
    present = set(table.index.get_level_values("method"))
    baselines = [method for method in BASELINES if method in present]
    lines = _table_lines(table, ranks, baselines)
    heights = [line.pop("height", 1.0) for line in lines]
    fig = new_figure(0.75 + 0.215 * sum(heights))
    marks.draw_table(fig.subplots(), lines, heights, COMPARISON_EDGES, left=3)
    counts = table["n_seeds"].dropna()
    seeds = f"measured: {spread_in_words(counts)}" if len(counts) else "nothing measured yet"
    wanted = [(method, rank) for rank in ranks for method in SLIDE_METHODS]
    missing = [
        f"{methods.label(m)}, rank {r}"
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
        found = f"the best measured is {methods.label(method)} at rank {rank} with {best.max():.2f}%"
    dense = means.get((methods.ORIGINAL, 0), np.nan)
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

    def best(group, rank, column):
        values = [cell(method, rank, column) for method in group]
        # Equal as printed is equal: a tie that the reader cannot see is no difference.
        rounded = np.round(values, 2)
        return [3 + index for index in np.flatnonzero(rounded == np.nanmax([*rounded, -np.inf]))]

    def ratio(group, rank, column, form):
        values = [v for method in group if not np.isnan(v := cell(method, rank, column))]
        ends = dict.fromkeys(_number(end(values), form) for end in (min, max) if values)
        return "–".join(ends)

    def block(name, rank, group):
        published = [_number(cell(method, rank, "published_accuracy")) for method in group]
        own = [measured(method, rank) for method in group]
        differences = [_number(cell(method, rank, "difference"), "+.2f") for method in group]
        ratios = [ratio(group, rank, c, form) for c, form in (("published_ratio", "g"), ("ratio", ".2f"))]
        return [
            {"cells": [name, ratios[0], "published", *published], "rule": "thin"},
            {"cells": ["", ratios[1], "measured", *own]},
            {"cells": ["", "", "difference", *differences]},
        ]

    def head(name, second, group):
        cells = [name, second, "", *(two_lines(methods.label(method)) for method in group)]
        return {"cells": cells, "height": 2.1, "rule": "thick", "bold": range(7)}

    lines = [head("Rank", "Ratio\n(%)", SLIDE_METHODS)]
    if (methods.ORIGINAL, 0) in table.index:
        lines += [{**line, "across": True} for line in block(methods.ORIGINAL, 0, [methods.ORIGINAL])]
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


@styled
def accuracy_against_ratio(summary: pd.DataFrame, dataset: str = "fashion_mnist") -> Figure:
    """Slide 16 as a plot: accuracy of each method and baseline against the parameters left.

    Args:
        summary: a row for each (method, rank, split), with the columns method, rank, ratio_percent,
            mean, sd (both fractions, or both percent), n (seeds), split. Each split gets a panel.
            Dense is a band; points of one ratio are spread sideways by a few points of print.
        dataset: what was measured, where `summary` has no column 'dataset'.

    Raises:
        MissingResults: if a column is missing or no compressed network is in it.
        ValueError: if a (method, rank, split) occurs twice or the units are mixed.

    Example:
        >>> fig = accuracy_against_ratio(summary)  # doctest: +SKIP
    """
    require(summary, "summary", ["method", "rank", "ratio_percent", "mean", "sd", "n", "split"])
    name = one_dataset(summary, "summary", dataset)
    one_row_each(summary, "summary", ["method", "rank", "split"])
    scale = percent_scale(summary, "summary", ["mean"])
    points = summary[(summary["method"] != methods.ORIGINAL) & summary["mean"].notna()]
    if points.empty:
        raise MissingResults(
            "`summary` must have rows of compressed networks. "
            f"Received methods: {sorted(summary['method'].unique())}. {remedy(summary)}"
        )
    missing = [methods.label(m) for m in SHOWN if not (summary["method"] == m).any()]
    splits = list(dict.fromkeys(points["split"]))
    fig = new_figure(4.3)
    axes = fig.subplots(1, len(splits), sharey=True, squeeze=False)[0]
    ends, aside = marks.limits(summary), 10 if len(splits) == 1 else 6
    for ax, split in zip(axes, splits, strict=True):
        own = summary[summary["split"] == split]
        marks.draw_points(ax, own, "ratio_percent", aside=aside, scale=scale, ends=ends)
        nets = own[own["method"] != methods.ORIGINAL]
        marks.rank_axis(ax, nets["ratio_percent"], nets["rank"])
        ax.set(xlabel="Parameters left (%), log scale", title=f"{str(split).capitalize()} set")
    axes[0].set_ylabel("Accuracy (%)")
    axes[0].yaxis.set_major_formatter(PercentFormatter(100 / scale, symbol=""))
    shared_legend(fig, axes, ncols=3)
    title = f"Accuracy against parameters left, {name}"
    kind = remark(summary, "variant", "variant: {}")
    set_title(fig, title, subtitle_of(spread_in_words(points["n"]), kind, missing=missing))
    ranks = sorted(points["rank"].unique())
    top = points.loc[points["mean"].idxmax()]
    fig.alt_text = (
        f"{title}, for {points['method'].nunique()} methods at ranks {', '.join(map(str, ranks))}: the best "
        f"is {methods.label(top['method'])} with {scale * top['mean']:.1f}% on the {top['split']} set "
        f"at {top['ratio_percent']:.1f}% of the parameters."
    )
    return fig
