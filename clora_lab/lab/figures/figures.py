"""Plots of a study from tidy data frames: slides 9, 10, 12, 14, 15 and 16.

Every function takes a history frame (a row an epoch) or a table, and returns a Matplotlib `Figure`
that

- is 6.4 inches wide with text of at least 9 points: readable at a third of a screen and in print,
- tells curves apart by colour (colour-blind safe), line style and marker,
- carries one sentence computed from its data: `alt_text(fig)`, which `save` writes into the files.

The figures are made without pyplot, so none has to be closed; as the last value of a notebook cell,
a figure is shown by itself. Accuracies in the frames are fractions; the axes print percent.
"""

from __future__ import annotations

import numbers
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator, PercentFormatter
from matplotlib.transforms import ScaledTranslation
from scipy.stats import gaussian_kde

# Also for those who draw with these and find them here: course, widgets, derivation, notebooks.
from clora_lab.lab.figures.figure_base import (  # noqa: F401
    BLUE,
    FAINT,
    GREY,
    INK,
    METHOD_STYLES,
    ORANGE,
    RED,
    REMEDY,
    SLIDE_METHODS,
    STYLE,
    WIDTH,
    LabFigure,
    MissingResults,
    alt_text,
    cycle,
    new_figure,
    one_dataset,
    one_row_each,
    per_cent,
    percent_scale,
    remark,
    require,
    runs_of,
    save,
    seeds_in_words,
    set_title,
    shared_legend,
    spread_in_words,
    styled,
    subtitle_of,
    two_lines,
    wanted_runs,
    wrap_title,
)
from clora_lab.lab.figures.figure_tables import comparison_table
from clora_lab.lab.names import DATASET_LABELS, METHOD_LABELS, dataset_label, method_label

# Slide 12 prints this note into its plot; 'change' is against the network before the decay.
SLIDE_12_NOTE = {"epoch": 20, "decay": 0.23, "accuracy": 0.8007, "change": -0.092}
# What is measured: label, prefix of the history columns, line.
TRAINED, COMPRESSED = "Validation, what trains (d·W + BA)", "Validation, compressed (BA alone)"
VIEWS = (
    ("Training", "", {"color": INK, "linestyle": ":", "marker": ""}),
    (TRAINED, "val_", {"color": BLUE, "linestyle": "-", "marker": "o"}),
    (COMPRESSED, "val_compressed_", {"color": RED, "linestyle": "--", "marker": "s"}),
)


# --- drawing ------------------------------------------------------------------------------------


def _over_seeds(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    """Mean and standard deviation over the seeds, indexed by epoch, of the epochs with a value."""
    if column not in rows:
        return pd.DataFrame(columns=["mean", "std"], dtype="float64")
    return rows.dropna(subset=[column]).groupby("epoch")[column].agg(["mean", "std"]).astype("float64")


def _curve(ax: Axes, rows: pd.DataFrame, column: str, label: str, style: Mapping) -> pd.DataFrame:
    """Draw the mean over seeds of `column` against epoch with ±1 sd; return what was drawn."""
    stats = _over_seeds(rows, column)
    if len(stats):
        every = max(1, len(stats) // 6)
        ax.plot(stats.index, stats["mean"], label=label, markevery=every, **style)
        if stats["std"].notna().any():
            low, high = stats["mean"] - stats["std"], stats["mean"] + stats["std"]
            ax.fill_between(stats.index, low, high, color=style["color"], alpha=0.2, linewidth=0)
    return stats


def _accuracy_axis(ax: Axes, label: str = "Accuracy (%)") -> None:
    ax.set_ylabel(label)
    ax.set_ylim(0, 1)
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=""))


def _epoch_axis(ax: Axes, label: str = "Epoch") -> None:
    ax.set_xlabel(label)
    ax.xaxis.set_major_locator(MaxNLocator(4, integer=True))


def _loss_axis(axes: Sequence[Axes]) -> None:
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


def _decay_strip(ax: Axes, rows: pd.DataFrame) -> None:
    stats = _over_seeds(rows, "decay")
    ax.fill_between(stats.index, stats["mean"], color=GREY, alpha=0.35, linewidth=0)
    ax.plot(stats.index, stats["mean"], color=FAINT, linewidth=1.2)
    ax.set(ylim=(0, 1.05), yticks=[0, 1], ylabel="Decay d")


# --- slide 9 ------------------------------------------------------------------------------------


@styled
def decay_curve(
    schedule: Callable | Mapping[str, Callable],
    total_steps: int,
    gate: float = 0.3,
    noise: bool = True,
    dataset: str | None = None,
    recorded: pd.DataFrame | None = None,
) -> Figure:
    """Slide 9: the decay factor d against the iteration, phases shaded, with the noise level.

    noise level = sqrt(1 − d²) while d ≥ gate, and 0 below, in units of σ, W's standard deviation.

    Args:
        schedule: maps an array of steps to an array of d in [0, 1]; or a mapping name -> schedule,
            to compare several (then without the phases, and with the gate alone for the noise).
        total_steps: iterations (optimiser updates) of the whole training, at least 1.
        gate: the noise is off once d is below it.
        noise: draw the noise level, or the gate.
        dataset: what the training is of, for the title.
        recorded: a row an epoch with 'step' and 'decay', drawn as points over the schedule.

    Raises:
        MissingResults: if `recorded` lacks a column or has no rows.
        ValueError: if `total_steps` is below 1, no schedule is given, or a schedule does not return
            a finite value for each step.

    Example:
        >>> fig = decay_curve(lambda step: np.clip(1 - step / 80, 0, 1), total_steps=100)
    """
    if not isinstance(total_steps, numbers.Integral) or total_steps < 1:
        raise ValueError(f"`total_steps` must be an integer of at least 1. Received: {total_steps!r}.")
    schedules = dict(schedule) if isinstance(schedule, Mapping) else {"": schedule}
    if not schedules:
        raise ValueError("`schedule` must hold at least one schedule. Received: an empty mapping.")
    steps = np.arange(total_steps + 1)
    decays = {name: _decay_values(each, steps, name) for name, each in schedules.items()}
    fig = new_figure(3.3)
    ax = fig.subplots()
    title = "Decay factor" + (f", {dataset_label(dataset)}" if dataset else "")
    if isinstance(schedule, Mapping):
        shown = np.unique(np.linspace(0, total_steps, 401).round().astype(int))
        for (name, decay), style in zip(decays.items(), cycle(len(decays)), strict=True):
            ax.plot(steps[shown], decay[shown], label=name, markevery=len(shown) // 8 or 1, **style)
        if noise:
            ax.axhline(gate, color=FAINT, linewidth=1, linestyle=(0, (1, 2)))
            note = f"noise off below d = {gate:g}"
            ax.text(0.01 * total_steps, gate - 0.02, note, va="top", color=FAINT)
        subtitle = f"{len(decays)} schedules, {total_steps:,} iterations"
        halves = [f"{name} at {_half_step(steps, decay)}" for name, decay in decays.items()]
        text = "first at or below 0.5: " + ", ".join(halves)
    else:
        subtitle, text = _one_schedule(ax, steps, decays[""], gate, noise)
    if recorded is not None:
        require(recorded, "recorded", ["step", "decay"])
        points = {"linestyle": "", "marker": "o", "color": ORANGE, "markeredgecolor": INK}
        ax.plot(recorded["step"], recorded["decay"], label="d recorded after each epoch", **points)
    shared_legend(fig, [ax], ncols=4 if recorded is None else 2)
    ax.set(xlabel="Iteration (optimiser updates)", xlim=(0, total_steps), ylim=(-0.03, 1.18))
    ax.set_yticks(np.linspace(0, 1, 6))
    ax.set_ylabel("Decay factor d" if len(decays) > 1 or not noise else "d;  noise in units of σ")
    ax.xaxis.set_major_locator(MaxNLocator(6))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    set_title(fig, title, subtitle)
    fig.alt_text = f"{title} against iteration over {total_steps:,} iterations, {text}."
    return fig


def _decay_values(schedule: Callable, steps: np.ndarray, name: str) -> np.ndarray:
    values = np.asarray(schedule(steps), dtype="float64")
    if values.shape != steps.shape or not np.isfinite(values).all():
        raise ValueError(
            f"`schedule` {name!r} must return one finite value a step for an array of {len(steps)} "
            f"steps. Received: shape {values.shape}, {(~np.isfinite(values)).sum()} not finite."
        )
    return values


def _half_step(steps: np.ndarray, decay: np.ndarray) -> str:
    below = steps[decay <= 0.5]
    return f"iteration {below[0]:,.0f}" if len(below) else "no iteration"


def _one_schedule(ax, steps, decay, gate, noise) -> tuple[str, str]:
    """Draw a schedule with its phases; return subtitle and description."""
    left, arriving = (np.flatnonzero(np.abs(decay - d) > 1e-9) for d in decay[[0, -1]])
    moving = len(left) > 0
    begin, end = (left[0] - 1, arriving[-1] + 1) if moving else (steps[-1], steps[-1])
    off = np.flatnonzero(decay < gate)[:1] if noise else []
    phases = {"warm-up": (0, begin), "decay": (begin, end), "cool-down": (end, steps[-1])}
    for (name, (left, right)), shade in zip(phases.items(), (0.10, 0.0, 0.22), strict=True):
        if right > left:
            ax.axvspan(left, right, color=GREY, alpha=shade, linewidth=0)
            x, align = (left + right) / 2, "center"
            if right - left < 0.16 * steps[-1]:  # too narrow: named from the outer edge inwards
                x, align = (left, "left") if left == 0 else (right, "right")
            ax.text(x, 1.15, f" {name} ", ha=align, va="top", style="italic")
    # A thousand points and the corners: every step would only make the files large.
    corners = [begin, end, *off, *(np.array(off) - 1).clip(0)]
    shown = np.union1d(np.linspace(0, steps[-1], 1001).round(), corners).astype(int)
    ax.plot(steps[shown], decay[shown], color=BLUE, linewidth=2.4, label="decay d: what is left of W")
    text = f"at {decay[0]:.3g} until {begin:,}, then to {decay[-1]:.3g} at {end:,}"
    if noise:
        level = np.where(decay >= gate, np.sqrt(np.clip(1 - decay**2, 0, None)), 0.0)
        ax.plot(steps[shown], level[shown], color=RED, linestyle="--", label="noise level √(1 − d²)")
    for step in off:
        label = f"noise off\nonce d < {gate:g}"
        aside = {"xytext": (8, 12), "textcoords": "offset points", "color": RED}
        ax.annotate(label, (step, gate), **aside)
        text += f", the noise off from {step:,} where d falls below {gate:g}"
    phases = f"decay from {begin:,} to {end:,}" if moving else "no decay"
    return f"{steps[-1]:,} iterations, {phases}", text


# --- slide 10 -----------------------------------------------------------------------------------


@styled
def training_curves(
    history: pd.DataFrame, method: str = "wds", rank: int = 16, variant: str = "slides"
) -> Figure:
    """Slide 10: loss and accuracy against epoch, in training and in both views of validation.

    Args:
        history: a row an epoch (accuracy as a fraction, loss in nats); other runs are left out.
        method, rank, variant: which run; several seeds become a mean with a band of ±1 sd.

    Raises:
        MissingResults: if `history` has no such run; the message says what it has.

    Example:
        >>> fig = training_curves(history, method="wds", rank=16)  # doctest: +SKIP
    """
    require(history, "history", ["dataset", "method", "rank", "variant", "seed", "epoch", "decay"])
    rows = wanted_runs(history, method=method, rank=rank, variant=variant)
    fig = new_figure(4.1)
    grid = fig.subplots(2, 2, sharex=True, height_ratios=[4, 1])
    drawn, missing = {}, []
    for ax, metric in zip(grid[0], ("loss", "accuracy"), strict=True):
        for label, prefix, style in VIEWS:
            drawn[prefix + metric] = _curve(ax, rows, prefix + metric, label, style)
            if drawn[prefix + metric].empty:
                missing.append(prefix + metric)
    _loss_axis(grid[0, :1])
    _accuracy_axis(grid[0, 1])
    for ax in grid[1]:
        _decay_strip(ax, rows)
        _epoch_axis(ax)
    shared_legend(fig, grid[0], ncols=2)
    title = f"{method_label(method)}, rank {rank}, on {one_dataset(rows, 'history')}"
    kind = "" if variant == "slides" else f"variant {variant}"
    set_title(fig, title, subtitle_of(seeds_in_words(rows), kind, missing=missing))
    ends = [
        f"{label[:1].lower() + label[1:]} {per_cent(stats['mean'].iloc[-1])}"
        for label, prefix, _ in VIEWS
        if len(stats := drawn[prefix + "accuracy"])
    ]
    fig.alt_text = (
        f"{title}: loss and accuracy against epoch while d falls from {rows['decay'].max():g} to "
        f"{rows['decay'].min():g}; accuracy at epoch {rows['epoch'].max()}: {'; '.join(ends)}; "
        f"{seeds_in_words(rows)}."
    )
    return fig


# --- slide 12 -----------------------------------------------------------------------------------


@styled
def path_accuracies(
    history: pd.DataFrame,
    method: str = "wds",
    rank: int = 16,
    variant: str = "slides",
    note_decay: float = SLIDE_12_NOTE["decay"],
) -> Figure:
    """Slide 12: accuracy of the adapter path alone (BA) and of the original path alone (d·W).

    Scaling W by d leaves the order of the outputs nearly as it was: the original path stays
    accurate almost until d = 0. The epoch whose decay is nearest to `note_decay` is annotated.

    Args:
        history: a row an epoch with val_compressed_accuracy and val_original_accuracy (fractions).
        method, rank, variant: which run.
        note_decay: the decay at which the slide reads the plot off (slide 12: 0.23 at epoch 20).

    Raises:
        MissingResults: if the run or either path's accuracy is missing.

    Example:
        >>> fig = path_accuracies(history, rank=16)  # doctest: +SKIP
    """
    require(history, "history", ["dataset", "method", "rank", "variant", "seed", "epoch", "decay"])
    rows = wanted_runs(history, method=method, rank=rank, variant=variant)
    fig = new_figure(4.1)
    ax, strip = fig.subplots(2, sharex=True, height_ratios=[4, 1])
    paths = (
        ("Original path alone (d·W)", "val_original_accuracy", BLUE, "-", "o"),
        ("Adapter path alone (BA)", "val_compressed_accuracy", RED, "--", "s"),
    )
    drawn = {}
    for label, column, color, line, marker in paths:
        style = {"color": color, "linestyle": line, "marker": marker}
        drawn[column] = _curve(ax, rows, column, label, style)
        if drawn[column].empty:
            raise MissingResults(
                f"`history` must hold values of {column!r} for method={method!r}, rank={rank}. "
                f"Received: none in {len(rows)} rows. {REMEDY}"
            )
    original = drawn["val_original_accuracy"]["mean"]
    decay = _over_seeds(rows, "decay")["mean"].reindex(original.index)
    epoch = (decay - note_decay).abs().idxmin()
    change = 100 * (original[epoch] - original.iloc[0])
    dataset = one_dataset(rows, "history")
    reading = f"{per_cent(original[epoch])} ({change:+.1f} points)".replace("-", "−")
    note = f"epoch {epoch}, d = {decay[epoch]:.2f}:\n{reading}"
    ax.annotate(
        note,
        (epoch, original[epoch]),
        xytext=(0.05, 0.5),
        textcoords="axes fraction",
        va="center",
        arrowprops={"arrowstyle": "->", "color": INK, "linewidth": 1.2},
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5},
    )
    if dataset == DATASET_LABELS["fashion_mnist"]:
        slide = SLIDE_12_NOTE
        label = f"Slide 12, d = {slide['decay']}: {per_cent(slide['accuracy'])} "
        label += f"({100 * slide['change']:+.1f} points)".replace("-", "−")
        star = {"linestyle": "", "marker": "*", "markersize": 11, "color": ORANGE}
        ax.plot([slide["epoch"]], [slide["accuracy"]], label=label, **star, markeredgecolor=INK)
    _accuracy_axis(ax, "Validation accuracy (%)")
    _decay_strip(strip, rows)
    _epoch_axis(strip)
    shared_legend(fig, [ax], ncols=2)
    title = f"Each path alone: {method_label(method)}, rank {rank}, {dataset}"
    set_title(fig, title, subtitle_of(seeds_in_words(rows)))
    fig.alt_text = (
        f"{title}: at epoch {epoch}, with d = {decay[epoch]:.2f}, the validation accuracy of the "
        f"original path alone is {reading}; at the last epoch it has "
        f"{per_cent(original.iloc[-1])} and the adapter path alone "
        f"{per_cent(drawn['val_compressed_accuracy']['mean'].iloc[-1])}."
    )
    return fig


# --- slide 14 -----------------------------------------------------------------------------------


@styled
def noise_densities(
    weights: np.ndarray | pd.Series,
    decay: float | Sequence[float],
    mean: float | None = None,
    std: float | None = None,
    rng: np.random.Generator | None = None,
    dataset: str | None = None,
) -> Figure:
    """Slide 14: the densities of W, d·W, the noise, and d·W + noise, one panel a decay.

    W ~ N(m, σ²), n ~ N((1 − d)·m, (1 − d²)·σ²) independent of W, so d·W + n ~ N(m, σ²) for every d.
    The gate is not applied here: the noise is drawn for each decay that is asked for.

    Args:
        weights: values of W, shape (n,), at least 2 that differ; a Series gives the title its name.
        decay: d in [0, 1], or several.
        mean, std: m and σ of the noise; of the weights themselves where left out.
        rng: source of the noise; the same default each time.
        dataset: what W was trained on, for the title.

    Raises:
        ValueError: if `weights` is not one-dimensional or not finite, or a number is out of range.

    Example:
        >>> fig = noise_densities(np.random.default_rng(1).normal(size=500), decay=[0.9, 0.5])
    """
    values = np.asarray(weights, dtype="float64")
    if values.ndim != 1 or not np.isfinite(values).all() or len(values) < 2 or np.ptp(values) == 0:
        raise ValueError(
            "`weights` must be a one-dimensional array of finite values that are not all equal "
            f"(flatten a kernel with .ravel()). Received: shape {values.shape}."
        )
    decays = np.atleast_1d(np.asarray(decay, dtype="float64"))
    if decays.size == 0 or not ((decays >= 0) & (decays <= 1)).all():
        raise ValueError(f"`decay` must be a number in [0, 1], or several. Received: {decay!r}.")
    mean = values.mean() if mean is None else mean
    std = values.std() if std is None else std
    if not std > 0:
        raise ValueError(f"`std` must be above 0. Received: {std!r}.")
    rng = rng or np.random.default_rng(0)
    columns = min(3, len(decays))
    lines = -(-len(decays) // columns)
    fig = new_figure(1.2 + 2.0 * lines)
    axes = fig.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).ravel()
    sums = []
    for ax, d in zip(axes, decays, strict=False):
        noise = rng.normal((1 - d) * mean, np.sqrt(1 - d**2) * std, size=values.shape)
        sums.append((d * values + noise).std())
        _density(ax, values, "W", color=INK, linestyle="-", linewidth=3.2, alpha=0.35)
        _density(ax, d * values, "d·W", color=BLUE, linestyle="--")
        _density(ax, noise, "noise n", color=ORANGE, linestyle=":", linewidth=2.2)
        _density(ax, d * values + noise, "d·W + n", color=RED, linestyle="-.")
        ax.set_title(f"d = {d:g}")
        ax.set_xlabel("Value of a weight")
    # A narrow d·W would press the others to the ground; its peak may leave the panel.
    peak = max(line.get_ydata().max() for line in axes[0].lines if line.get_label() == "W")
    axes[0].set(ylim=(0, 2.2 * peak), xlim=(mean - 4 * std, mean + 4 * std))
    axes[0].xaxis.set_major_locator(MaxNLocator(4))
    axes[0].yaxis.set_major_locator(MaxNLocator(4))
    for ax in axes[::columns]:
        ax.set_ylabel("Density\n(1 / unit of weight)")
    for ax in axes[len(decays) :]:
        ax.remove()
    shared_legend(fig, axes[:1], ncols=4)
    named = [getattr(weights, "name", None), dataset and dataset_label(dataset)]
    title = ", ".join(["Noise fills what W loses", *(str(each) for each in named if each)])
    set_title(fig, title, f"{len(values):,} weights, m = {mean:.3g}, σ = {std:.3g}")
    spread = ", ".join(f"{s:.3g} at d = {d:g}" for s, d in zip(sums, decays, strict=True))
    fig.alt_text = (
        f"{title}: densities of W, d·W, noise and their sum for {len(values):,} weights with "
        f"m = {mean:.3g} and σ = {std:.3g}; the standard deviation of d·W + n is {spread}."
    )
    return fig


def _density(ax: Axes, values: np.ndarray, label: str, **style) -> None:
    """A kernel density estimate from binned counts: exact to a bin, fast for a million weights."""
    if np.ptp(values) < 1e-12:  # d·W at d = 0, the noise at d = 1: one value, so no density
        ax.axvline(values[0], label=label, **style)
        return
    counts, edges = np.histogram(values, bins=512)
    estimate = gaussian_kde(
        (edges[1:] + edges[:-1]) / 2,
        bw_method=len(values) ** -0.2,
        weights=counts.astype("float64"),
    )
    points = np.linspace(edges[0], edges[-1], 400)
    ax.plot(points, estimate(points), label=label, **style)


# --- slide 15 -----------------------------------------------------------------------------------


@styled
def variant_curves(history: pd.DataFrame, rank: int = 16) -> Figure:
    """Slide 15: loss and accuracy of Only WDS, and of noise and bias until the end or scheduled.

    Args:
        history: a row an epoch; the variant "noise_to_end" has no cut-off of the noise at d < 0.3.
        rank: rank of the three runs.

    Raises:
        MissingResults: if none of the three is there; one or two missing are named in the subtitle.

    Example:
        >>> fig = variant_curves(history, rank=16)  # doctest: +SKIP
    """
    require(history, "history", ["dataset", "method", "rank", "variant", "seed", "epoch"])
    cases = {
        "Only WDS": ("wds", "slides"),
        "Noise & bias\nuntil the end": ("noise_bias", "noise_to_end"),
        "Scheduled\nnoise & bias": ("noise_bias", "slides"),
    }
    runs = {
        label: runs_of(history, method=method, variant=variant, rank=rank)
        for label, (method, variant) in cases.items()
    }
    missing = [label.replace("\n", " ") for label, rows in runs.items() if rows.empty]
    if len(missing) == len(runs):
        raise MissingResults(f"`history` must have rows of {missing} at rank {rank}. {REMEDY}")
    fig = new_figure(4.7)
    grid = fig.subplots(2, len(runs), sharex=True, sharey="row")
    ends = []
    for (upper, lower), (label, rows) in zip(grid.T, runs.items(), strict=True):
        upper.set_title(label)
        for ax, metric in ((upper, "loss"), (lower, "accuracy")):
            for view, prefix, style in VIEWS:
                stats = _curve(ax, rows, prefix + metric, view, style)
            if not ax.lines:
                ax.text(0.5, 0.5, "not measured", transform=ax.transAxes, ha="center", color=FAINT)
            elif len(stats) and metric == "accuracy":
                ends.append(f"{label.replace(chr(10), ' ')} {per_cent(stats['mean'].iloc[-1])}")
        _epoch_axis(lower)
    _loss_axis(grid[0])
    _accuracy_axis(grid[1, 0])
    shared_legend(fig, grid.flat, ncols=2)
    present = pd.concat(list(runs.values()))
    title = f"Noise scheduled or until the end: rank {rank}, {one_dataset(present, 'history')}"
    set_title(fig, title, subtitle_of(seeds_in_words(present), missing=missing))
    fig.alt_text = (
        f"{title}: loss and accuracy against epoch; validation accuracy of BA alone at the last "
        f"epoch, {present['epoch'].max()}: {', '.join(ends) or 'not measured'}."
    )
    return fig


# --- slide 16 -----------------------------------------------------------------------------------


@styled
def method_curves(history: pd.DataFrame, variant: str = "slides") -> Figure:
    """Slide 16: validation accuracy against epoch, methods (columns) by ranks (rows), both views.

    Args:
        history: a row an epoch; the ranks are those that it has for the four methods.
        variant: which recipe.

    Raises:
        MissingResults: if no method has rows; single gaps are marked in the grid and subtitle.

    Example:
        >>> fig = method_curves(history)  # doctest: +SKIP
    """
    require(history, "history", ["dataset", "method", "rank", "variant", "seed", "epoch"])
    chosen = history[history["method"].isin(SLIDE_METHODS) & (history["variant"] == variant)]
    if chosen.empty:
        raise MissingResults(
            f"`history` must have rows of {list(SLIDE_METHODS)} with variant={variant!r}. "
            f"Received methods: {sorted(history['method'].unique())}. {REMEDY}"
        )
    ranks = sorted(chosen["rank"].unique())
    fig = new_figure(1.5 + 1.4 * len(ranks))
    grid = fig.subplots(len(ranks), len(SLIDE_METHODS), sharex=True, sharey=True, squeeze=False)
    missing, ends = [], []
    for line, rank in zip(grid, ranks, strict=True):
        for ax, method in zip(line, SLIDE_METHODS, strict=True):
            rows = runs_of(chosen, method=method, rank=rank)
            for label, prefix, style in VIEWS[1:]:
                stats = _curve(ax, rows, f"{prefix}accuracy", label, style)
            if not ax.lines:
                missing.append(f"{method_label(method)}, rank {rank}")
                ax.text(0.5, 0.5, "no rows", transform=ax.transAxes, ha="center", color=FAINT)
            elif len(stats):
                final = per_cent(stats["mean"].iloc[-1])
                ends.append(f"{method_label(method)} rank {rank} {final}")
                ax.text(0.06, 0.45, final, transform=ax.transAxes, weight="bold")
        _accuracy_axis(line[0], f"Rank {rank}\naccuracy (%)")
    for ax, method in zip(grid[0], SLIDE_METHODS, strict=True):
        ax.set_title(two_lines(method_label(method)))
    for ax in grid[-1]:
        _epoch_axis(ax)
    shared_legend(fig, grid.flat, ncols=2)
    title = f"Validation accuracy by method and rank, {one_dataset(chosen, 'history')}"
    kind = "" if variant == "slides" else f"variant {variant}"
    numbers = "number in a panel: BA alone, last epoch"
    set_title(fig, title, subtitle_of(seeds_in_words(chosen), kind, numbers, missing=missing))
    fig.alt_text = f"{title}, of BA alone at the last epoch: {', '.join(ends) or 'not measured'}."
    return fig


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
    points = summary[(summary["method"] != "dense") & summary["mean"].notna()]
    if points.empty:
        raise MissingResults(
            "`summary` must have rows of compressed networks. "
            f"Received methods: {sorted(summary['method'].unique())}. {REMEDY}"
        )
    methods = [method for method in METHOD_LABELS if (points["method"] == method).any()]
    missing = [method_label(m) for m in METHOD_LABELS if not (summary["method"] == m).any()]
    splits = list(dict.fromkeys(points["split"]))
    fig = new_figure(4.3)
    axes = fig.subplots(1, len(splits), sharey=True, squeeze=False)[0]
    for ax, split in zip(axes, splits, strict=True):
        rows = points[points["split"] == split]
        for index, method in enumerate(methods):
            shift = (index - (len(methods) - 1) / 2) * (10 if len(splits) == 1 else 6)
            aside = ScaledTranslation(shift / 72, 0, fig.dpi_scale_trans)
            style = {**METHOD_STYLES[method], "linestyle": "", "markersize": 6.5, "capsize": 2.5}
            mine = rows[rows["method"] == method]
            ax.errorbar(
                mine["ratio_percent"],
                mine["mean"],
                yerr=mine["sd"].fillna(0),
                label=method_label(method),
                transform=ax.transData + aside,
                elinewidth=1.4,
                **style,
            )
        uncompressed = (summary["method"] == "dense") & (summary["split"] == split)
        for dense in summary[uncompressed].itertuples():
            spread = 0 if np.isnan(dense.sd) else dense.sd
            ax.axhspan(dense.mean - spread, dense.mean + spread, color=INK, alpha=0.15, linewidth=0)
            ax.axhline(dense.mean, color=INK, linewidth=1.4, label=METHOD_LABELS["dense"])
        marks = rows.groupby("rank")["ratio_percent"].median().sort_values()
        ax.set_xscale("log")
        ax.xaxis.set_minor_locator(NullLocator())
        ax.set_xticks(marks, [f"{ratio:.1f}\nrank {rank}" for rank, ratio in marks.items()])
        ax.set_xlim(rows["ratio_percent"].min() / 1.5, rows["ratio_percent"].max() * 1.5)
        ax.grid(axis="x", visible=False)
        ax.set(xlabel="Parameters left (%), log scale", title=f"{str(split).capitalize()} set")
    # Limits by hand, since autoscaling leaves out what is shifted sideways. The untrained cut may lie so
    # far below that nothing else could be told apart: it then stands at the edge, with its value.
    shown = summary[summary["method"] != "svd"] if (points["method"] != "svd").any() else summary
    spread = shown["sd"].fillna(0)
    low, high = (shown["mean"] - spread).min(), (shown["mean"] + spread).max()
    margin = 0.08 * (high - low) or 0.01 * high
    axes[0].set_ylim(low - 2 * margin, high + margin)
    for ax, split in zip(axes, splits, strict=True):
        below = (points["split"] == split) & (points["mean"] < low - 2 * margin)
        for row in points[below].itertuples():
            ax.annotate(
                f"{scale * row.mean:.1f}\n▼",
                (row.ratio_percent, low - 2 * margin),
                ha="center",
                va="bottom",
                fontsize=9,
                color=METHOD_STYLES[row.method]["color"],
            )
    axes[0].set_ylabel("Accuracy (%)")
    axes[0].yaxis.set_major_formatter(PercentFormatter(100 / scale, symbol=""))
    shared_legend(fig, axes, ncols=3)
    title = f"Accuracy against parameters left, {name}"
    kind = remark(summary, "variant", "variant: {}")
    set_title(fig, title, subtitle_of(spread_in_words(points["n"]), kind, missing=missing))
    ranks = sorted(points["rank"].unique())
    top = points.loc[points["mean"].idxmax()]
    fig.alt_text = (
        f"{title}, for {len(methods)} methods at ranks {', '.join(map(str, ranks))}: the best is "
        f"{method_label(top['method'])} with {scale * top['mean']:.1f}% on the {top['split']} set "
        f"at {top['ratio_percent']:.1f}% of the parameters."
    )
    return fig


FIGURES: dict[str, Callable[..., Figure]] = {
    "slide_09": decay_curve,
    "slide_10": training_curves,
    "slide_12": path_accuracies,
    "slide_14": noise_densities,
    "slide_15": variant_curves,
    "slide_16_curves": method_curves,
    "slide_16_table": comparison_table,
    "slide_16_ratio": accuracy_against_ratio,
}
