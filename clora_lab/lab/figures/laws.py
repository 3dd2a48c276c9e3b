"""The laws of the training: a schedule as a curve, the densities of W, d·W, the noise and their sum."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from scipy.stats import gaussian_kde

from clora_lab.lab.data import registry as datasets
from clora_lab.lab.figures import marks
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
from clora_lab.lab.frames import require

DENSITY_LOOKS = {
    "W": {"color": INK, "linestyle": "-", "linewidth": 3.2, "alpha": 0.35},
    "d·W": {"color": BLUE, "linestyle": "--"},
    "noise n": {"color": ORANGE, "linestyle": ":", "linewidth": 2.2},
    "d·W + n": {"color": RED, "linestyle": "-."},
}


# --- the decay ----------------------------------------------------------------------------------


@styled
def decay_curve(
    schedule: Callable | Mapping[str, Callable],
    total_steps: int,
    gate: float = 0.3,
    noise: bool = True,
    dataset: str | None = None,
    recorded: pd.DataFrame | None = None,
) -> Figure:
    """The decay factor d against the iteration, phases shaded, with the noise level.

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
        >>> decay_curve(lambda step: np.clip(1 - step / 80, 0, 1), total_steps=100).alt_text[-46:]
        'the noise off from 57 where d falls below 0.3.'
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
    title = "Decay factor" + (f", {datasets.label(dataset)}" if dataset else "")
    if isinstance(schedule, Mapping):
        shown = np.unique(np.linspace(0, total_steps, 401).round().astype(int))
        marks.draw_lines(ax, pd.DataFrame(decays, index=steps).iloc[shown])
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


# --- the noise ----------------------------------------------------------------------------------


def draw_densities(ax: Axes, curves: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> None:
    """Densities of W, d·W, the noise and their sum: name -> (values, density), looks by name."""
    for name, (x, density) in curves.items():
        ax.plot(x, density, label=name, **DENSITY_LOOKS[name])


@styled
def noise_densities(
    weights: np.ndarray | pd.Series,
    decay: float | Sequence[float],
    mean: float | None = None,
    std: float | None = None,
    rng: np.random.Generator | None = None,
    dataset: str | None = None,
) -> Figure:
    """The densities of W, d·W, the noise, and d·W + noise, one panel a decay.

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
        >>> fig.alt_text[:70]
        'Noise fills what W loses: densities of W, d·W, noise and their sum for'
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
        for name, part in zip(DENSITY_LOOKS, (values, d * values, noise, d * values + noise), strict=True):
            if np.ptp(part) < 1e-12:  # d·W at d = 0, the noise at d = 1: one value, so no density
                ax.axvline(part[0], label=name, **DENSITY_LOOKS[name])
            else:
                draw_densities(ax, {name: _density(part)})
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
    named = [getattr(weights, "name", None), dataset and datasets.label(dataset)]
    title = ", ".join(["Noise fills what W loses", *(str(each) for each in named if each)])
    set_title(fig, title, f"{len(values):,} weights, m = {mean:.3g}, σ = {std:.3g}")
    spread = ", ".join(f"{s:.3g} at d = {d:g}" for s, d in zip(sums, decays, strict=True))
    fig.alt_text = (
        f"{title}: densities of W, d·W, noise and their sum for {len(values):,} weights with "
        f"m = {mean:.3g} and σ = {std:.3g}; the standard deviation of d·W + n is {spread}."
    )
    return fig


def _density(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A kernel density estimate from binned counts: exact to a bin, fast for a million weights."""
    counts, edges = np.histogram(values, bins=512)
    centres, counts = (edges[1:] + edges[:-1]) / 2, counts.astype("float64")
    estimate = gaussian_kde(centres, bw_method=len(values) ** -0.2, weights=counts)
    points = np.linspace(edges[0], edges[-1], 400)
    return points, estimate(points)
