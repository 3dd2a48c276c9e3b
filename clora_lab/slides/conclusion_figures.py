"""The conclusion as figures: slide 23's table beside ours, paired differences, accuracy against ratio."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from clora_lab.lab import stats
from clora_lab.lab.figures import marks, style
from clora_lab.lab.figures.style import FAINT, new_figure, set_title, shared_legend, styled
from clora_lab.lab.frames import MissingResults, require
from clora_lab.lab.names import METHODS, method_label
from clora_lab.slides import printed

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
        if own.index.isin(METHODS).sum() < 2:
            continue
        count = f"{seeds} seeds" if seeds > 1 else "one seed"
        single |= seeds < stats.MIN_SEEDS
        lines.append({"cells": [f"{part}; rank {cells}; {count}"], "rule": "thin"})
        slides = block["slides"].iloc[0]
        if own["published"].notna().any():
            lines.append({"cells": ["slide 23", *_texts(own, "published", "{:.2f}", "published_sd")]})
        if own["published_same"].notna().any():
            name = f"slide {printed.TABLES[slides]}, same cells"
            lines.append({"cells": [name, *_texts(own, "published_same", "{:.2f}")]})
            lines.append({"cells": ["   from their original", *_texts(own, "published_gap", "{:+.2f}")]})
        measured = {"cells": ["measured", *_texts(own, "mean", "{:.2f}")]}
        best = own.loc[own.index.isin(METHODS), "mean"].round(2)
        measured["bold"] = [1 + METHODS.index(m) for m in best.index[best == best.max()]]
        lines.append(measured)
        if own["low"].notna().any():
            lines.append({"cells": ["   95% interval", *_intervals(own)]})
        lines.append({"cells": ["   from its dense net", *_texts(own, "gap", "{:+.2f}")]})
    head = ["Mean over the cells (%)", "Only WDS", "Bias", "Noise", "Noise & bias"]
    note = "Best measured mean in bold, which is no verdict: section 2 has the test"
    note += "\nFewer than three seeds: no interval" if single else ""
    return marks.table(head, lines, "Conclusion: slide 23 beside ours", note, left=1, left_width=0.33)


def _texts(own: pd.DataFrame, column: str, form: str, spread: str = "") -> list[str]:
    texts = []
    for method in METHODS:
        value = own[column].get(method, np.nan)
        text = "–" if pd.isna(value) else form.format(value).replace("-", "−")
        texts.append(f"{text} ± {own.loc[method, spread]:.2f}" if spread and text != "–" else text)
    return texts


def _intervals(own: pd.DataFrame) -> list[str]:
    found = own.reindex(METHODS)[["low", "high"]]
    return ["–" if pd.isna(low) else f"{low:.2f} to {high:.2f}" for low, high in found.to_numpy()]


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
    name = method_label(method)
    part, other = shown["part"].astype(str), shown["other"]
    p = [f"p = {value:.2g}" if value >= 0.001 else "p < 0.001" for value in shown["p_t_holm"]]
    return marks.differences(
        shown.assign(
            group=part + ", rank " + shown["cells"] + "; " + shown["seeds"].astype(str) + " seeds",
            name=other.map(method_label),
            note=shown["verdict"] + ", " + p,
        ),
        f"{name} against the others, paired by seed",
        f"Points of accuracy: {name} minus the other",
        "95% t interval of each difference; at the right the verdict at 5% and p after Holm's correction",
        looks=lambda rows: [{**style.of_method(name), "linestyle": "-"} for name in rows["other"]],
        unit="",
    )


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
        _panel(ax, points, ratio, start)
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


def _panel(ax: Axes, points: pd.DataFrame, ratio: str, start: float) -> None:
    low, high = marks.limits(points, below=1)
    if (points["mean"] < low).any():
        low, high = marks.limits(points, below=4)  # room for what stands at the edge
    marks.draw_points(ax, points, ratio, aside=2, size=5.5, ends=(low, high), band=False)
    front = points[stats.pareto(points[ratio], points["mean"])].sort_values(ratio)
    steps = front[[ratio, "mean"]].to_numpy()
    steps = np.vstack([steps, [END, steps[-1, 1]]])  # more parameters than the last one gain nothing
    path = {"drawstyle": "steps-post", "color": FAINT, "linewidth": 1.2, "zorder": 1}
    ax.plot(steps[:, 0], steps[:, 1], label="Pareto front", **path)
    ax.set_xscale("log")
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xticks([tick for tick in TICKS if tick >= start])
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.set(xlim=(start, END), xlabel=f"Parameters left (%), {COLUMNS[ratio]}")
