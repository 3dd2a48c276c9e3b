"""Pictures of a comparison by `tables.compare`: typeset, and accuracy against size or work."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator, PercentFormatter
from matplotlib.transforms import ScaledTranslation

from clora_lab import methods
from clora_lab.lab import stats
from clora_lab.lab.figures import marks, style
from clora_lab.lab.figures.style import FAINT, INK, new_figure, set_title, shared_legend, styled
from clora_lab.lab.frames import (
    MissingResults,
    one_dataset,
    one_row_each,
    plus_minus,
    remark,
    remedy,
    require,
    signed,
    spread_in_words,
    subtitle_of,
)
from clora_lab.lab.tables import cell_names

SLIDES, BASELINES = methods.names("slides"), methods.names("baselines")
# The columns that begin a line of `table`, with their heads: what tells lines apart, and what remains.
LEFT = {"cell": "Rank", "ratio": "Ratio\n(%)", "kind": ""}
COLUMN = 13  # letters of a method's label in the head of a column


# --- typeset ------------------------------------------------------------------------------------


def table(
    frame: pd.DataFrame,
    title: str,
    subtitle: str = "",
    left: Mapping[str, str] = LEFT,
    published: bool = True,
    difference: bool = False,
    apart: str = "",
    below: Sequence[str] = methods.names("baselines", "references"),
    digits: int = 1,
    largest: bool = False,
    kinds: Mapping[str, str] = {},
    **options,
) -> Figure:
    """A comparison, typeset: a group of lines a cell, a column a method, the baselines below.

    The best of a line is bold, unless it is alone; equal as printed is equal.

    Args:
        frame: by `tables.compare`, of one table or of several that differ in the column `apart`.
        title, subtitle: above the table.
        left: the columns that begin a line, with their heads: "cell" (the rank, of two "16 / 32"), "kind"
            (whose line it is), and names of ratios.
        published, difference: whether a cell has a line of the published numbers and one of the differences.
        apart: column that tells the measured lines of a cell apart.
        below: the methods below; those that were not measured are left out.
        digits: of the ratios.
        largest: a line has the largest of its nets' ratios, and not both ends.
        kinds: printed names of "published" and "measured", where the width asks for others.
        **options: of `marks.table`: lang, left_width.

    Raises:
        MissingResults: nothing to print, or a missing column.
        ValueError: a line would have two numbers for one method.

    Example:
        >>> fig = table(frame, "Published and measured")  # doctest: +SKIP
    """
    require(frame, "frame", ["method", "published", "measured", "sd", "difference"])
    cells, tell = list(frame.attrs["cells"]), [apart] if apart else []
    one_row_each(frame, "frame", [*cells, *tell, "method"])
    measured = frame[frame["measured"].notna()]
    others = [name for name in below if (measured["method"] == name).any()]
    groups = [SLIDES] if frame["method"].isin(SLIDES).any() else []
    groups += [others[first : first + len(SLIDES)] for first in range(0, len(others), len(SLIDES))]
    if not groups:
        raise MissingResults(f"`frame` must have rows of {[*SLIDES, *below]}. {remedy(frame)}")
    start = len(left)

    def line(own, group, kind, first, column, spread="", **more):
        own = own.set_index("method").reindex(group)
        rounded = own[column].round(2)
        if column == "difference":
            texts = ["–" if np.isnan(value) else signed(value) for value in own[column]]
        else:
            spreads = own[spread] if spread in own else np.full(len(own), np.nan)
            texts = [plus_minus(*pair) for pair in zip(own[column], spreads, strict=True)]
            if rounded.count() > 1:
                more["bold"] = [start + i for i in np.flatnonzero(rounded == rounded.max())]
        small = own[[methods.family(name) != "references" for name in group]]  # of those all remains
        shares = {name: _share(small[name], digits, largest) for name in left if name in own}
        if column != "measured":
            shares = dict.fromkeys(shares, "")
            if column == "published":
                shares["ratio"] = next((f"{v:g}" for v in own["published_ratio"].dropna()), "")
        named = {"cell": first, "kind": kinds.get(kind, kind), **shares}
        return {"cells": [*(named[name] for name in left), *texts], **more}

    def block(own, group, first):
        """The lines of a cell, the first with its name."""
        lines = []
        if published and own["published"].notna().any():
            beside = own[own["published"].notna()]
            lines.append(line(beside, group, "published", first, "published", "published_sd"))
        for kind, part in own.groupby(apart) if apart else [("measured", own)]:
            if part["measured"].notna().any():
                kind = str(kind).replace("_", " ")
                lines.append(line(part, group, kind, "" if lines else first, "measured", "sd"))
        if difference and own["difference"].notna().any():
            lines.append(line(own, group, "difference", "", "difference"))
        return lines

    lines, original = [], frame[frame["method"] == methods.ORIGINAL].drop_duplicates("measured")
    if original[["published", "measured"]].notna().any(axis=None):
        own = original.drop(columns=tell).assign(**dict.fromkeys(tell, "measured"))
        name = methods.ORIGINAL if "kind" in left else "–"
        lines += [{**each, "across": True} for each in block(own, [methods.ORIGINAL], name)]
    for group in groups:
        if group is not groups[0]:
            lines.append({"cells": [*left.values(), *map(_head, group)], "head": True})
        for cell, own in frame[frame["method"].isin(group)].groupby(cells):
            found = block(own, group, " / ".join(map(str, cell)))
            ruled = {"rule": "thin"} if group is SLIDES else {}
            lines += [ruled | each if each is found[0] else each for each in found]
    head = [*left.values(), *map(_head, groups[0])]
    return marks.table(head, lines, title, subtitle, left=start, **options)


def _head(method: str) -> str:
    return textwrap.fill(methods.label(method), COLUMN, break_on_hyphens=False)


def _share(values: pd.Series, digits: int, largest: bool) -> str:
    """What remains of the nets of a line: one number, or two ends where methods differ (biases)."""
    values = values.dropna()
    ends = [f"{end:.{digits}f}" for end in (values.min(), values.max()) if len(values)][largest:]
    return "–".join(dict.fromkeys("100" if float(end) == 100 else end for end in ends)) or "–"


def comparison_table(frame: pd.DataFrame) -> Figure:
    """One table of a comparison with its differences, as slide 16's: title, notes and alt text from its rows.

    Args:
        frame: by `tables.compare`, of one table.

    Raises:
        MissingResults, ValueError: as `table`.

    Example:
        >>> fig = comparison_table(frame)  # doctest: +SKIP
    """
    require(frame, "frame", ["dataset", "method", "published", "measured", "n", "note"])
    cells, nets = list(frame.attrs["cells"]), frame[frame["method"].isin(SLIDES)]
    kind = "Published and measured" if frame["published"].notna().any() else "Measured"
    title = f"{kind} accuracy (%), {one_dataset(frame, 'frame')}"
    counts = frame["n"].dropna()
    seeds = f"measured: {spread_in_words(counts)}" if len(counts) else "nothing measured yet"
    lacking = nets[nets["measured"].isna()]
    missing = [
        f"{methods.label(method)}, rank {cell}"
        for method, cell in zip(lacking["method"], cell_names(lacking, cells), strict=True)
    ]
    words = subtitle_of(remark(frame, "note"), seeds, "best of a line in bold", missing=missing)
    fig = table(frame, title, words, difference=True, digits=2)
    count = len(nets[cells].drop_duplicates())
    said = "no method measured"
    own = nets[nets["measured"].notna()]
    if len(own):
        best = own.loc[[own["measured"].idxmax()]].iloc[0]
        ranks = "/".join(str(best[name]) for name in cells)
        said = f"the best measured is {methods.label(best['method'])} at rank {ranks} with "
        said += f"{best['measured']:.2f}%"
    for value in frame.loc[frame["method"] == methods.ORIGINAL, "measured"].dropna():
        said += f", the dense network has {value:.2f}%"
    fig.alt_text = f"{title}: table of {count} ranks by {len(SLIDES)} methods; {said}."
    return fig


# --- against size and work ----------------------------------------------------------------------


@styled
def accuracy_against_ratio(frame: pd.DataFrame) -> Figure:
    """Accuracy of each method and baseline against the parameters left, a panel a split.

    The original net is a band; points of one ratio are spread sideways by a few points of print.

    Args:
        frame: by `tables.compare`, of one table in one split or in both.

    Raises:
        MissingResults: a column is missing, or no compressed net is in it.
        ValueError: a method, rank and split occur twice.

    Example:
        >>> fig = accuracy_against_ratio(frame)  # doctest: +SKIP
    """
    require(frame, "frame", ["method", "rank", "ratio", "measured", "sd", "n", "split"])
    name = one_dataset(frame, "frame")
    one_row_each(frame, "frame", ["method", "rank", "split"])
    frame = frame[frame["measured"].notna()].reset_index(drop=True)
    nets = frame[frame["method"] != methods.ORIGINAL]
    if nets.empty:
        raise MissingResults(
            "`frame` must have rows of compressed networks. "
            f"Received methods: {sorted(frame['method'].unique())}. {remedy(frame)}"
        )
    shown = (methods.ORIGINAL, *SLIDES, *BASELINES)
    missing = [methods.label(each) for each in shown if not (frame["method"] == each).any()]
    splits = list(dict.fromkeys(nets["split"]))
    fig = new_figure(4.3)
    axes = fig.subplots(1, len(splits), sharey=True, squeeze=False)[0]
    ends, aside = marks.limits(frame, "measured"), 10 if len(splits) == 1 else 6
    for ax, split in zip(axes, splits, strict=True):
        marks.draw_points(ax, frame[frame["split"] == split], "ratio", "measured", aside=aside, ends=ends)
        own = nets[nets["split"] == split]
        marks.rank_axis(ax, own["ratio"], own["rank"])
        ax.set(xlabel="Parameters left (%), log scale", title=f"{str(split).capitalize()} set")
    axes[0].set_ylabel("Accuracy (%)")
    axes[0].yaxis.set_major_formatter(PercentFormatter(100, symbol=""))
    shared_legend(fig, axes, ncols=3)
    title = f"Accuracy against parameters left, {name}"
    kind = remark(frame, "variant", "variant: {}")
    set_title(fig, title, subtitle_of(spread_in_words(nets["n"]), kind, missing=missing))
    ranks = sorted(nets["rank"].unique())
    top = nets.loc[nets["measured"].idxmax()]
    fig.alt_text = (
        f"{title}, for {nets['method'].nunique()} methods at ranks {', '.join(map(str, ranks))}: the best is "
        f"{methods.label(top['method'])} with {top['measured']:.1f}% on the {top['split']} set at "
        f"{top['ratio']:.1f}% of the parameters."
    )
    return fig


@styled
def accuracy_against_flops(
    frame: pd.DataFrame, title: str, subtitle: str = "", apart: str = "factorization", named: Mapping = {}
) -> Figure:
    """Accuracy of each compressed net against the work that it needs; the tables by their marker.

    Args:
        frame: by `tables.compare`, of tables that differ in the column `apart`, with the column "flops".
        title, subtitle: above the picture.
        apart: column that tells the tables apart, at most four.
        named: value of that column -> printed name.

    Raises:
        MissingResults: a column is missing, or no compressed net was measured.

    Example:
        >>> fig = accuracy_against_flops(frame, "Accuracy against work")  # doctest: +SKIP
    """
    require(frame, "frame", ["method", "measured", "flops", apart])
    frame = frame[frame["measured"].notna()]
    points = frame[frame["method"] != methods.ORIGINAL]
    if points.empty:
        raise MissingResults("`frame` must hold a compressed net. Received: the original net alone.")
    looks = dict(zip(dict.fromkeys(points[apart]), "Dos^", strict=False))
    fig = new_figure(4.2)
    ax = fig.subplots()
    for value in frame.loc[frame["method"] == methods.ORIGINAL, "measured"].unique():
        ax.axhline(value, color=INK, linewidth=1.4, label="Dense, 100% of the FLOPs")
    found = sorted(points["method"].unique(), key=methods.order)
    for index, method in enumerate(found):
        # Nets of one table and rank have the same FLOPs: side by side, a few points of print apart.
        aside = ax.transData + ScaledTranslation(
            (index - (len(found) - 1) / 2) * 7 / 72, 0, fig.dpi_scale_trans
        )
        color, mine = style.of_method(method)["color"], points[points["method"] == method]
        for value, marker in looks.items():
            own = mine[mine[apart] == value]
            look = {"marker": marker, "color": color, "markersize": 7, "linestyle": ""}
            ax.plot(own["flops"], own["measured"], transform=aside, **look)
        ax.plot([], [], linestyle="", marker="s", color=color, label=methods.label(method))
    words = {value: named.get(value, str(value).replace("_", " ")) for value in looks}
    for value, marker in looks.items():
        look = {"marker": marker, "markerfacecolor": "white", "markeredgecolor": INK, "linestyle": ""}
        ax.plot([], [], label=words[value], **look)
    ax.set(
        xlabel="FLOPs of a forward pass (% of the dense net's; equal ones side by side)",
        ylabel="Accuracy (%)",
    )
    low, high = frame["measured"].min(), frame["measured"].max()
    ax.set_ylim(low - 0.08 * (high - low) - 0.5, high + 0.08 * (high - low) + 0.5)
    ax.set_xlim(0, max(105.0, 1.02 * points["flops"].max()))
    style.percent_axis(ax.xaxis, 100)
    shared_legend(fig, [ax], ncols=2)
    set_title(fig, title, subtitle)
    said = [
        f"{words[value]}: {own['flops'].min():.1f} to {own['flops'].max():.1f}% of the FLOPs, "
        f"{own['measured'].min():.1f} to {own['measured'].max():.1f}% accurate"
        for value, own in points.groupby(apart, sort=False)
    ]
    fig.alt_text = f"{title}: {'; '.join(said)}."
    return fig


TICKS = (2, 5, 10, 20, 50, 100)
END = 140  # of the axis of ratios, in percent: room beside the original net


@styled
def fronts(
    panels: Sequence[tuple[str, pd.DataFrame, str]],
    title: str,
    subtitle: str = "",
    columns: int = 2,
    counted: Mapping[str, str] = {},
) -> Figure:
    """Accuracy against what is left, a panel each, the original net at 100%, with the Pareto front.

    The front is over the means: the nets that no other beats in both. Nets without training may lie so far
    below that nothing else could be told apart: they then stand at the lower edge, with their value.

    Args:
        panels: (title, table, ratio): rows by `tables.compare`, and the name of one of its ratios.
        title, subtitle: above the panels.
        columns: panels side by side.
        counted: ratio -> how it counts, in words for the axis.

    Raises:
        MissingResults: there is no panel, or a column is missing.

    Example:
        >>> frame = pd.DataFrame({"method": ["dense", "wds"], "measured": [85.0, 83.0], "sd": [0.1, 0.2],
        ...     "ratio_model": [100.0, 40.0]})
        >>> fronts([("Net", frame, "ratio_model")], "Size").alt_text
        'Size: Net: on the front Only WDS at 40.0% with 83.00%, Dense at 100.0% with 85.00%.'
    """
    if not panels:
        raise MissingResults("`panels` must hold at least one. Received: none.")
    for _, points, ratio in panels:
        require(points, "points", ("method", "measured", "sd", ratio))
    columns = min(columns, len(panels))
    lines = -(-len(panels) // columns)
    fig = new_figure(1.4 + 2.5 * lines)
    axes = fig.subplots(lines, columns, squeeze=False).ravel()
    # One scale for all: that little is saved is to be seen.
    start = min(points[ratio].min() for _, points, ratio in panels) / 1.35
    said = []
    for ax, (name, points, ratio) in zip(axes, panels, strict=False):
        points = points.dropna(subset=["measured", ratio])
        front = points[stats.pareto(points[ratio], points["measured"])].sort_values(ratio)
        ends = marks.limits(points, "measured", below=1)
        if (points["measured"] < ends[0]).any():
            ends = marks.limits(points, "measured", below=4)  # room for what stands at the edge
        look = {"aside": 2, "size": 5.5, "ends": ends, "band": False}
        marks.draw_points(ax, points, ratio, "measured", **look)
        steps = front[[ratio, "measured"]].to_numpy()
        steps = np.vstack([steps, [END, steps[-1, 1]]])  # more parameters than the last one gain nothing
        path = {"drawstyle": "steps-post", "color": FAINT, "linewidth": 1.2, "zorder": 1}
        ax.plot(steps[:, 0], steps[:, 1], label="Pareto front", **path)
        ax.set_xscale("log")
        ax.xaxis.set_minor_locator(NullLocator())
        ax.set_xticks([tick for tick in TICKS if tick >= start])
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis = ", ".join(["Parameters left (%)", *([counted[ratio]] if ratio in counted else [])])
        ax.set(xlim=(start, END), xlabel=axis, title=name)
        found = [
            f"{methods.label(row['method'])} at {row[ratio]:.1f}% with {row['measured']:.2f}%"
            for row in front.to_dict("records")
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
