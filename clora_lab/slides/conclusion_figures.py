"""The conclusion as figures: slide 23's table beside ours, paired differences, accuracy against ratio."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator
from matplotlib.transforms import ScaledTranslation

from clora_lab.lab import stats
from clora_lab.lab.figures.figure_base import (
    FAINT,
    INK,
    METHOD_STYLES,
    SLIDE_METHODS,
    MissingResults,
    new_figure,
    require,
    set_title,
    shared_legend,
    styled,
)
from clora_lab.lab.figures.figure_tables import slide_table
from clora_lab.lab.names import METHOD_LABELS, method_label
from clora_lab.slides import audit

COLUMNS = {"ratio_percent": "as the slides count", "ratio_model_percent": "of the whole model"}
TICKS = (2, 5, 10, 20, 50, 100)
END = 140  # of the axis of ratios, in percent: room beside the dense net


def conclusion_table(table: pd.DataFrame) -> Figure:
    """Slide 23's means beside ours, a group of lines for each part and block of cells.

    Blocks with one of the four methods alone have nothing to compare and are left out.

    Args:
        table: by `clora_lab.slides.conclusion.table`.

    Raises:
        MissingResults: no rows, or a column is missing.

    Example:
        >>> fig = conclusion_table(conclusion.table(parts))  # doctest: +SKIP
    """
    require(table, "table", ("part", "cells", "seeds", "method", "mean", "low", "high", "published"))
    lines, single = [], False
    for (part, cells, seeds), block in table.groupby(["part", "cells", "seeds"], sort=False):
        own = block.set_index("method")
        if own.index.isin(SLIDE_METHODS).sum() < 2:
            continue
        count = f"{seeds} seeds" if seeds > 1 else "one seed"
        single |= seeds < stats.MIN_SEEDS
        lines.append({"cells": [f"{part}; rank {cells}; {count}"], "rule": "thin"})
        slides = block["slides"].iloc[0]
        if own["published"].notna().any():
            lines.append({"cells": ["slide 23", *_texts(own, "published", "{:.2f}", "published_sd")]})
        if own["published_same"].notna().any():
            name = f"slide {audit.TABLES[slides]}, same cells"
            lines.append({"cells": [name, *_texts(own, "published_same", "{:.2f}")]})
            lines.append({"cells": ["   from their original", *_texts(own, "published_gap", "{:+.2f}")]})
        measured = {"cells": ["measured", *_texts(own, "mean", "{:.2f}")]}
        best = own.loc[own.index.isin(SLIDE_METHODS), "mean"].round(2)
        measured["bold"] = [1 + SLIDE_METHODS.index(m) for m in best.index[best == best.max()]]
        lines.append(measured)
        if own["low"].notna().any():
            lines.append({"cells": ["   95% interval", *_intervals(own)]})
        lines.append({"cells": ["   from its dense net", *_texts(own, "gap", "{:+.2f}")]})
    head = ["Mean over the cells (%)", "Only WDS", "Bias", "Noise", "Noise & bias"]
    note = "Best measured mean in bold, which is no verdict: section 2 has the test"
    note += "\nFewer than three seeds: no interval" if single else ""
    return slide_table(head, lines, "Conclusion: slide 23 beside ours", note, left=1, left_width=0.33)


def _texts(own: pd.DataFrame, column: str, form: str, spread: str = "") -> list[str]:
    texts = []
    for method in SLIDE_METHODS:
        value = own[column].get(method, np.nan)
        text = "–" if pd.isna(value) else form.format(value).replace("-", "−")
        texts.append(f"{text} ± {own.loc[method, spread]:.2f}" if spread and text != "–" else text)
    return texts


def _intervals(own: pd.DataFrame) -> list[str]:
    found = own.reindex(SLIDE_METHODS)[["low", "high"]]
    return ["–" if pd.isna(low) else f"{low:.2f} to {high:.2f}" for low, high in found.to_numpy()]


@styled
def differences(tests: pd.DataFrame, method: str = "noise_bias") -> Figure:
    """Paired differences of a method from the others, with 95% t intervals, a panel a part.

    Args:
        tests: by `clora_lab.slides.conclusion.paired_tests`, of one part or several.
        method: whose tests they are.

    Raises:
        MissingResults: no rows, or a column is missing.

    Example:
        >>> fig = differences(conclusion.paired_tests(parts))  # doctest: +SKIP
    """
    require(tests, "tests", ("part", "other", "seeds", "difference", "low", "high", "p_t_holm", "verdict"))
    shown = tests[tests["other"] != "svd"]  # the untrained cut is an order of magnitude away
    if shown.empty:
        raise MissingResults("`tests` must hold a comparison with a trained net. Received: SVD alone.")
    groups = list(shown.groupby("part", sort=False))
    heights = [len(rows) + 0.9 for _, rows in groups]
    fig = new_figure(0.9 + 0.29 * sum(heights) + 0.25 * len(groups))
    axes = fig.subplots(len(groups), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    said = []
    for ax, (part, rows) in zip(axes, groups, strict=True):
        for place, row in enumerate(rows.itertuples()):
            style = METHOD_STYLES[row.other]
            error = [[row.difference - row.low], [row.high - row.difference]]
            look = {"color": style["color"], "marker": style["marker"], "capsize": 3, "markersize": 6.5}
            ax.errorbar([row.difference], [place], xerr=error, **look)
            p = f"p = {row.p_t_holm:.2g}" if row.p_t_holm >= 0.001 else "p < 0.001"
            note = f"{row.verdict}, {p}"
            place_at = {"xycoords": ("axes fraction", "data"), "va": "center", "annotation_clip": False}
            ax.annotate(note, (1.02, place), **place_at)
            said.append(f"{method_label(row.other)} {row.difference:+.2f} ({row.verdict})".replace("-", "−"))
        ax.axvline(0, color=INK, linewidth=1.2)
        ax.set_yticks(range(len(rows)), [method_label(other) for other in rows["other"]])
        ax.set_ylim(len(rows) - 0.4, -0.6)
        ax.set_title(f"{part}, rank {rows['cells'].iloc[0]}; {rows['seeds'].iloc[0]} seeds", loc="left")
        ax.grid(axis="y", visible=False)
    name = method_label(method)
    axes[-1].set_xlabel(f"Points of accuracy: {name} minus the other")
    title = f"{name} against the others, paired by seed"
    remark = "95% t interval of each difference; at the right the verdict at 5% and p after Holm's correction"
    set_title(fig, title, remark)
    fig.alt_text = f"{title}: {'; '.join(said)}."
    return fig


@styled
def against_ratio(
    panels: Sequence[tuple[str, pd.DataFrame, str]], title: str, subtitle: str = "", columns: int = 2
) -> Figure:
    """Accuracy against what is left, a panel each, the dense net at 100%, with the Pareto front.

    The front is over the means: the nets that no other beats in both. Nets without training may lie so far
    below that nothing else could be told apart: they then stand at the lower edge, with their value.

    Args:
        panels: (title, points, ratio): points by `clora_lab.slides.conclusion.points`, ratio a key of
            `COLUMNS`.
        title, subtitle: above the panels.
        columns: panels side by side.

    Raises:
        MissingResults: there is no panel, or a column is missing.

    Example:
        >>> frame = pd.DataFrame({"method": ["dense", "wds"], "mean": [85.0, 83.0], "sd": [0.1, 0.2],
        ...     "ratio_model_percent": [100.0, 40.0]})
        >>> against_ratio([("Net", frame, "ratio_model_percent")], "Size").alt_text
        'Size: Net: on the front Only WDS at 40.0% with 83.00%, Dense at 100.0% with 85.00%.'
    """
    if not panels:
        raise MissingResults("`panels` must hold at least one. Received: none.")
    columns = min(columns, len(panels))
    lines = -(-len(panels) // columns)
    fig = new_figure(1.4 + 2.5 * lines)
    axes = fig.subplots(lines, columns, squeeze=False).ravel()
    for _, points, ratio in panels:
        require(points, "points", ("method", "mean", "sd", ratio))
    # One scale for all: that little is saved is to be seen.
    start = min(points[ratio].min() for _, points, ratio in panels) / 1.35
    said = []
    for ax, (name, points, ratio) in zip(axes, panels, strict=False):
        points = points.dropna(subset=["mean", ratio])
        _panel(fig, ax, points, ratio, start)
        ax.set_title(name)
        front = points[stats.pareto(points[ratio], points["mean"])].sort_values(ratio)
        found = [
            f"{method_label(row.method)} at {getattr(row, ratio):.1f}% with {row.mean:.2f}%"
            for row in front.itertuples()
        ]
        said.append(f"{' '.join(name.split())}: on the front {', '.join(found)}")
    for ax in axes[len(panels) :]:
        ax.remove()
    for ax in axes[: len(panels) : columns]:
        ax.set_ylabel("Accuracy (%)")
    shared_legend(fig, axes[: len(panels)], ncols=3)
    set_title(fig, title, subtitle)
    fig.alt_text = f"{title}: {'; '.join(said)}."
    return fig


def _panel(fig: Figure, ax: Axes, points: pd.DataFrame, ratio: str, start: float) -> None:
    trained = points[points["method"] != "svd"]
    trained = points if trained.empty else trained
    spread = trained["sd"].fillna(0)
    low, high = (trained["mean"] - spread).min(), (trained["mean"] + spread).max()
    margin = 0.08 * (high - low) or 1.0
    outliers = points[points["mean"] < low - margin]
    floor = low - (4 if len(outliers) else 1) * margin
    methods = [name for name in METHOD_LABELS if (points["method"] == name).any() and name != "dense"]
    for index, method in enumerate(methods):
        # Nets of one rank have nearly one ratio: side by side, a few points of print apart.
        aside = (index - (len(methods) - 1) / 2) * 2 / 72
        place = {"transform": ax.transData + ScaledTranslation(aside, 0, fig.dpi_scale_trans)}
        mine = points[(points["method"] == method) & ~points.index.isin(outliers.index)]
        style = {**METHOD_STYLES[method], "linestyle": "", "markersize": 5.5, "capsize": 2, "elinewidth": 1.2}
        error = mine["sd"].fillna(0)
        ax.errorbar(mine[ratio], mine["mean"], yerr=error, label=method_label(method), **style, **place)
    dense = points[points["method"] == "dense"]
    look = {"color": INK, "linestyle": "", "marker": "*", "markersize": 10, "capsize": 2}
    ax.errorbar(dense[ratio], dense["mean"], yerr=dense["sd"].fillna(0), label="Dense", **look)
    for row in outliers.itertuples():
        look = {"ha": "center", "va": "bottom", "fontsize": 9, "color": METHOD_STYLES[row.method]["color"]}
        ax.annotate(f"{row.mean:.0f}\n▼", (getattr(row, ratio), floor), **look)
    front = points[stats.pareto(points[ratio], points["mean"])].sort_values(ratio)
    steps = front[[ratio, "mean"]].to_numpy()
    steps = np.vstack([steps, [END, steps[-1, 1]]])  # more parameters than the last one gain nothing
    path = {"drawstyle": "steps-post", "color": FAINT, "linewidth": 1.2, "zorder": 1}
    ax.plot(steps[:, 0], steps[:, 1], label="Pareto front", **path)
    ax.set_xscale("log")
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xticks([tick for tick in TICKS if tick >= start])
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.set(xlim=(start, END), ylim=(floor, high + margin), xlabel=f"Parameters left (%), {COLUMNS[ratio]}")
