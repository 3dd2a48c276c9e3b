"""Curves of runs: loss and accuracy against epoch, each path alone, variants and methods side by side.

Every function takes a history frame (a row an epoch). Accuracies in the frames are fractions; the axes print
percent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from clora_lab import methods
from clora_lab.lab.figures import marks, style
from clora_lab.lab.figures.style import (
    BLUE,
    FAINT,
    GREY,
    INK,
    ORANGE,
    RED,
    new_figure,
    set_title,
    shared_legend,
    styled,
)
from clora_lab.lab.frames import (
    MissingResults,
    one_dataset,
    per_cent,
    remedy,
    require,
    runs_of,
    seeds_in_words,
    signed,
    subtitle_of,
    wanted_runs,
)

RECIPE = "slides"  # whose curves are drawn where no other is named
# What is measured: label, prefix of the history columns, look.
TRAINED, COMPRESSED = "Validation, what trains (d·W + BA)", "Validation, compressed (BA alone)"
VIEWS = (
    ("Training", "", {"color": INK, "linestyle": ":", "marker": ""}),
    (TRAINED, "val_", {"color": BLUE, "linestyle": "-", "marker": "o"}),
    (COMPRESSED, "val_compressed_", {"color": RED, "linestyle": "--", "marker": "s"}),
)
PATHS = (
    ("Original path alone (d·W)", "val_original_accuracy", VIEWS[1][2]),
    ("Adapter path alone (BA)", "val_compressed_accuracy", VIEWS[2][2]),
)
RUN = ("dataset", "method", "rank", "variant", "seed", "epoch")  # columns of every history


# --- drawing ------------------------------------------------------------------------------------


def over_seeds(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    """Mean and standard deviation over the seeds, indexed by epoch, of the epochs with a value."""
    if column not in rows:
        return pd.DataFrame(columns=["mean", "std"], dtype="float64")
    return rows.dropna(subset=[column]).groupby("epoch")[column].agg(["mean", "std"]).astype("float64")


def draw_history(ax: Axes, rows: pd.DataFrame, column: str, label: str, look: Mapping) -> pd.Series:
    """Draw the mean over seeds of `column` against epoch with ±1 sd; return what was drawn."""
    stats = over_seeds(rows, column)
    marks.draw_curve(ax, stats["mean"], label, look, stats["std"])
    return stats["mean"]


def accuracy_axis(ax: Axes, label: str = "Accuracy (%)") -> None:
    """Fractions from 0 to 1, printed in percent."""
    ax.set(ylabel=label, ylim=(0, 1))
    style.percent_axis(ax.yaxis)


def epoch_axis(ax: Axes) -> None:
    """A few whole epochs."""
    ax.set_xlabel("Epoch")
    ax.xaxis.set_major_locator(MaxNLocator(4, integer=True))


def loss_axis(axes: Sequence[Axes]) -> None:
    """Label axes that share losses; logarithmic where the first losses would flatten the rest."""
    lines = [line.get_ydata() for ax in axes for line in ax.lines]
    low, high = (np.min(np.concatenate(lines)), np.max(np.concatenate(lines))) if lines else (1, 1)
    label = "Loss (nats)"
    if low > 0 and high > 10 * low:
        label = "Loss (nats), log scale"
        low, high = low / 1.15, high * 1.15
        ticks = (np.array([1, 2, 5]) * 10.0 ** np.arange(-6, 7)[:, None]).ravel()
        ticks = ticks[(ticks >= low) & (ticks <= high)]
        for ax in axes:
            ax.set_yscale("log")
            ax.yaxis.set_minor_locator(NullLocator())
            ax.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
            ax.set_ylim(low, high)
    axes[0].set_ylabel(label)


def draw_decay(ax: Axes, rows: pd.DataFrame) -> None:
    """The decay against epoch as a strip below a panel."""
    decay = over_seeds(rows, "decay")["mean"]
    ax.fill_between(decay.index, decay, color=GREY, alpha=0.35, linewidth=0)
    ax.plot(decay.index, decay, color=FAINT, linewidth=1.2)
    ax.set(ylim=(0, 1.05), yticks=[0, 1], ylabel="Decay d")
    epoch_axis(ax)


def _of(rows: pd.DataFrame, variant: str) -> str:
    return "" if variant == RECIPE else f"variant {variant}"


# --- one run ------------------------------------------------------------------------------------


@styled
def training_curves(
    history: pd.DataFrame, method: str = "wds", rank: int = 16, variant: str = RECIPE
) -> Figure:
    """Loss and accuracy against epoch, in training and in both views of validation.

    Args:
        history: a row an epoch (accuracy as a fraction, loss in nats); other runs are left out.
        method, rank, variant: which run; several seeds become a mean with a band of ±1 sd.

    Raises:
        MissingResults: if `history` has no such run; the message says what it has.

    Example:
        >>> fig = training_curves(history, method="wds", rank=16)  # doctest: +SKIP
    """
    require(history, "history", [*RUN, "decay"])
    rows = wanted_runs(history, method=method, rank=rank, variant=variant)
    fig = new_figure(4.1)
    grid = fig.subplots(2, 2, sharex=True, height_ratios=[4, 1])
    drawn, missing = {}, []
    for ax, metric in zip(grid[0], ("loss", "accuracy"), strict=True):
        for label, prefix, look in VIEWS:
            drawn[prefix + metric] = draw_history(ax, rows, prefix + metric, label, look)
            if drawn[prefix + metric].empty:
                missing.append(prefix + metric)
    loss_axis(grid[0, :1])
    accuracy_axis(grid[0, 1])
    for ax in grid[1]:
        draw_decay(ax, rows)
    shared_legend(fig, grid[0], ncols=2)
    title = f"{methods.label(method)}, rank {rank}, on {one_dataset(rows, 'history')}"
    set_title(fig, title, subtitle_of(seeds_in_words(rows), _of(rows, variant), missing=missing))
    ends = [
        f"{label[:1].lower() + label[1:]} {per_cent(mean.iloc[-1])}"
        for label, prefix, _ in VIEWS
        if len(mean := drawn[prefix + "accuracy"])
    ]
    fig.alt_text = (
        f"{title}: loss and accuracy against epoch while d falls from {rows['decay'].max():g} to "
        f"{rows['decay'].min():g}; accuracy at epoch {rows['epoch'].max()}: {'; '.join(ends)}; "
        f"{seeds_in_words(rows)}."
    )
    return fig


@styled
def path_accuracies(
    history: pd.DataFrame,
    method: str = "wds",
    rank: int = 16,
    variant: str = RECIPE,
    note_decay: float = 0.23,
    printed: Mapping | None = None,
) -> Figure:
    """Accuracy of the adapter path alone (BA) and of the original path alone (d·W).

    Scaling W by d leaves the order of the outputs nearly as it was: the original path stays
    accurate almost until d = 0. The epoch whose decay is nearest to `note_decay` is annotated.

    Args:
        history: a row an epoch with val_compressed_accuracy and val_original_accuracy (fractions).
        method, rank, variant: which run.
        note_decay: the decay at which the plot is read off.
        printed: a reading of others to mark: 'label', 'epoch' and 'accuracy' (a fraction).

    Raises:
        MissingResults: if the run or either path's accuracy is missing.

    Example:
        >>> fig = path_accuracies(history, rank=16)  # doctest: +SKIP
    """
    require(history, "history", [*RUN, "decay"])
    rows = wanted_runs(history, method=method, rank=rank, variant=variant)
    fig = new_figure(4.1)
    ax, strip = fig.subplots(2, sharex=True, height_ratios=[4, 1])
    drawn = []
    for label, column, look in PATHS:
        drawn.append(draw_history(ax, rows, column, label, look))
        if drawn[-1].empty:
            raise MissingResults(
                f"`history` must hold values of {column!r} for method={method!r}, rank={rank}. "
                f"Received: none in {len(rows)} rows. {remedy(rows)}"
            )
    original, adapter = drawn
    decay = over_seeds(rows, "decay")["mean"].reindex(original.index)
    epoch = (decay - note_decay).abs().idxmin()
    reading = f"{per_cent(original[epoch])} ({signed(100 * (original[epoch] - original.iloc[0]), 1)} points)"
    ax.annotate(
        f"epoch {epoch}, d = {decay[epoch]:.2f}:\n{reading}",
        (epoch, original[epoch]),
        xytext=(0.05, 0.5),
        textcoords="axes fraction",
        va="center",
        arrowprops={"arrowstyle": "->", "color": INK, "linewidth": 1.2},
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5},
    )
    if printed is not None:
        star = {"linestyle": "", "marker": "*", "markersize": 11, "color": ORANGE, "markeredgecolor": INK}
        ax.plot([printed["epoch"]], [printed["accuracy"]], label=printed["label"], **star)
    accuracy_axis(ax, "Validation accuracy (%)")
    draw_decay(strip, rows)
    shared_legend(fig, [ax], ncols=2)
    title = f"Each path alone: {methods.label(method)}, rank {rank}, {one_dataset(rows, 'history')}"
    set_title(fig, title, subtitle_of(seeds_in_words(rows)))
    fig.alt_text = (
        f"{title}: at epoch {epoch}, with d = {decay[epoch]:.2f}, the validation accuracy of the "
        f"original path alone is {reading}; at the last epoch it has "
        f"{per_cent(original.iloc[-1])} and the adapter path alone {per_cent(adapter.iloc[-1])}."
    )
    return fig


# --- several runs -------------------------------------------------------------------------------


@styled
def variant_curves(
    history: pd.DataFrame, cases: Mapping[str, tuple[str, str]], rank: int = 16, title: str = "Variants"
) -> Figure:
    """Loss and accuracy against epoch of several cases side by side.

    Args:
        history: a row an epoch.
        cases: title of the column -> (method, variant).
        rank: of all of them.
        title: above the panels; rank and dataset are added.

    Raises:
        MissingResults: if none of the cases is there; what is missing is named in the subtitle.

    Example:
        >>> cases = {"until the end": ("noise", "noise_to_end"), "scheduled": ("noise", "slides")}
        >>> fig = variant_curves(history, cases, rank=16)  # doctest: +SKIP
    """
    require(history, "history", RUN)
    runs = {
        label: runs_of(history, method=method, variant=variant, rank=rank)
        for label, (method, variant) in cases.items()
    }
    missing = [" ".join(label.split()) for label, rows in runs.items() if rows.empty]
    if len(missing) == len(runs):
        raise MissingResults(f"`history` must have rows of {missing} at rank {rank}. {remedy(history)}")
    fig = new_figure(4.7)
    grid = fig.subplots(2, len(runs), sharex=True, sharey="row", squeeze=False)
    ends = []
    for (upper, lower), (label, rows) in zip(grid.T, runs.items(), strict=True):
        upper.set_title(label)
        for ax, metric in ((upper, "loss"), (lower, "accuracy")):
            for view, prefix, look in VIEWS:
                mean = draw_history(ax, rows, prefix + metric, view, look)
            if not ax.lines:
                ax.text(0.5, 0.5, "not measured", transform=ax.transAxes, ha="center", color=FAINT)
            elif len(mean) and metric == "accuracy":
                ends.append(f"{' '.join(label.split())} {per_cent(mean.iloc[-1])}")
        epoch_axis(lower)
    loss_axis(grid[0])
    accuracy_axis(grid[1, 0])
    shared_legend(fig, grid.flat, ncols=2)
    present = pd.concat(list(runs.values()))
    title = f"{title}: rank {rank}, {one_dataset(present, 'history')}"
    set_title(fig, title, subtitle_of(seeds_in_words(present), missing=missing))
    fig.alt_text = (
        f"{title}: loss and accuracy against epoch; validation accuracy of BA alone at the last "
        f"epoch, {present['epoch'].max()}: {', '.join(ends) or 'not measured'}."
    )
    return fig


@styled
def method_curves(
    history: pd.DataFrame, variant: str = RECIPE, shown: Sequence[str] = methods.names("slides")
) -> Figure:
    """Validation accuracy against epoch, methods (columns) by ranks (rows), both views.

    Args:
        history: a row an epoch; the ranks are those that it has for the methods.
        variant: which recipe.
        shown: methods.

    Raises:
        MissingResults: if no method has rows; single gaps are marked in the grid and subtitle.

    Example:
        >>> fig = method_curves(history)  # doctest: +SKIP
    """
    require(history, "history", RUN)
    chosen = history[history["method"].isin(shown) & (history["variant"] == variant)]
    if chosen.empty:
        raise MissingResults(
            f"`history` must have rows of {list(shown)} with variant={variant!r}. "
            f"Received methods: {sorted(history['method'].unique())}. {remedy(history)}"
        )
    ranks = sorted(chosen["rank"].unique())
    fig = new_figure(1.5 + 1.4 * len(ranks))
    grid = fig.subplots(len(ranks), len(shown), sharex=True, sharey=True, squeeze=False)
    missing, ends = [], []
    for line, rank in zip(grid, ranks, strict=True):
        for ax, method in zip(line, shown, strict=True):
            rows = runs_of(chosen, method=method, rank=rank)
            name = methods.label(method)
            for label, prefix, look in VIEWS[1:]:
                mean = draw_history(ax, rows, f"{prefix}accuracy", label, look)
            if not ax.lines:
                missing.append(f"{name}, rank {rank}")
                ax.text(0.5, 0.5, "no rows", transform=ax.transAxes, ha="center", color=FAINT)
            elif len(mean):
                final = per_cent(mean.iloc[-1])
                ends.append(f"{name} rank {rank} {final}")
                ax.text(0.06, 0.45, final, transform=ax.transAxes, weight="bold")
        accuracy_axis(line[0], f"Rank {rank}\naccuracy (%)")
    for ax, method in zip(grid[0], shown, strict=True):
        ax.set_title(style.two_lines(methods.label(method)))
    for ax in grid[-1]:
        epoch_axis(ax)
    shared_legend(fig, grid.flat, ncols=2)
    title = f"Validation accuracy by method and rank, {one_dataset(chosen, 'history')}"
    numbers = "number in a panel: BA alone, last epoch"
    subtitle = subtitle_of(seeds_in_words(chosen), _of(chosen, variant), numbers, missing=missing)
    set_title(fig, title, subtitle)
    fig.alt_text = f"{title}, of BA alone at the last epoch: {', '.join(ends) or 'not measured'}."
    return fig
