"""Pictures of the study of open questions: paired differences from the slides' recipe, and the surface."""

from __future__ import annotations

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from clora_lab.lab import stats
from clora_lab.lab.figures.figure_base import (
    FAINT,
    INK,
    MissingResults,
    new_figure,
    require,
    set_title,
    styled,
)
from clora_lab.studies import future

FAR = 8.0  # points from the slides' recipe: what lies further off stands at the edge, with its value
COLORS = {"better": "#0173b2", "worse": "#c0392b", "not told apart": FAINT}
REFERENCE = {name: future.DEFAULTS[name] for name in future.SURFACE}


@styled
def differences(answers: pd.DataFrame, title: str, subtitle: str = "") -> Figure:
    """Each setting's paired difference from the slides' recipe, with its 95% t interval.

    Args:
        answers: by `clora_lab.studies.future.answers`.
        title, subtitle: above the picture.

    Raises:
        MissingResults: no rows, or a column is missing.

    Example:
        >>> frame = pd.DataFrame({"question": ["start"], "setting": ["SVD"], "difference": [1.0],
        ...     "low": [0.5], "high": [1.5], "accuracy": [87.0], "p_holm": [0.01], "seeds": [5]})
        >>> differences(frame, "Starts").alt_text
        'Starts: SVD +1.00 points (better).'
    """
    require(answers, "answers", ("question", "setting", "difference", "low", "high", "p_holm", "accuracy"))
    if answers.empty:
        raise MissingResults("`answers` must hold at least one setting. Received: none.")
    groups = list(answers.groupby("question", sort=False))
    fig = new_figure(1.1 + 0.235 * len(answers) + 0.34 * len(groups))
    heights = [len(rows) + 0.2 for _, rows in groups]
    axes = fig.subplots(len(groups), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    said = []
    for ax, (name, rows) in zip(axes, groups, strict=True):
        for place, (_, row) in enumerate(rows.iterrows()):
            said.append(_difference(ax, place, row))
        ax.axvline(0, color=INK, linewidth=1.2)
        ax.set_yticks(range(len(rows)), rows["setting"].astype(str))
        ax.set_ylim(len(rows) - 0.5, -0.5)
        ax.set_title(name, loc="left")
        ax.grid(axis="y", visible=False)
    near = answers[answers["difference"].abs() <= FAR]
    ends = near[["low", "high", "difference"]].to_numpy(dtype="float64")
    edge = np.nanmax(np.abs(ends)) if len(ends) else FAR
    axes[-1].set_xlim(-1.08 * max(edge, 0.5), 1.08 * max(edge, 0.5))
    axes[-1].set_xlabel("Points of accuracy from the slides' recipe, paired by seed")
    set_title(fig, title, subtitle)
    fig.alt_text = f"{title}: {'; '.join(said)}."
    return fig


def _difference(ax: Axes, place: int, row: pd.Series) -> str:
    found = stats.verdict(row["difference"], row["p_holm"])
    note = f"{row['accuracy']:.2f}%"
    if abs(row["difference"]) > FAR:
        at_left = row["difference"] < 0
        edge = (0.0, place) if at_left else (1.0, place)
        text = f"◀ {row['difference']:+.1f}" if at_left else f"{row['difference']:+.1f} ▶"
        ax.annotate(
            text.replace("-", "−"), edge, xycoords=("axes fraction", "data"), va="center",
            ha="left" if at_left else "right", color=COLORS[found], annotation_clip=False,
        )  # fmt: skip
    else:
        error = None
        if np.isfinite(row["low"]):
            error = [[row["difference"] - row["low"]], [row["high"] - row["difference"]]]
        marker = {"better": "^", "worse": "v"}.get(found, "o")
        look = {"color": COLORS[found], "marker": marker, "capsize": 3, "markersize": 6}
        ax.errorbar([row["difference"]], [place], xerr=error, **look)
    place_at = {"xycoords": ("axes fraction", "data"), "va": "center", "annotation_clip": False}
    ax.annotate(note, (1.015, place), **place_at)
    return f"{row['setting']} {row['difference']:+.2f} points ({found})".replace("-", "−")


@styled
def surface(table: pd.DataFrame, title: str, subtitle: str = "") -> Figure:
    """The surface as maps, one for each end of the decay: accuracy over spread and gate; the slides' framed.

    Args:
        table: by `clora_lab.studies.future.surface`.
        title, subtitle: above the maps.

    Raises:
        MissingResults: no rows, or a column is missing.

    Example:
        >>> fig = surface(future.surface(rows), "Surface")  # doctest: +SKIP
    """
    require(table, "table", (*future.SURFACE, "accuracy"))
    ends = sorted(table["end"].unique())
    if not ends:
        raise MissingResults("`table` must hold at least one combination. Received: none.")
    fig = new_figure(3.9)
    axes = fig.subplots(1, len(ends), squeeze=False)[0]
    low, high = table["accuracy"].min(), table["accuracy"].max()
    for ax, end in zip(axes, ends, strict=True):
        heat_map(ax, table[table["end"] == end], "accuracy", low, high)
        ax.set_title(f"decay ends at {end:.0%} of the steps", loc="left")
        if ax is not axes[0]:
            ax.set_ylabel("")
    best = table.loc[table["accuracy"].idxmax()]
    set_title(fig, title, subtitle)
    fig.alt_text = (
        f"{title}: mean accuracies from {low:.1f}% to {high:.1f}%, the highest at spread "
        f"{best['noise_spread']:g}, gate {best['noise_gate']:g}, end {best['end']:g}."
    )
    return fig


def heat_map(ax: Axes, part: pd.DataFrame, column: str, low: float, high: float, diverging: bool = False):
    """One map: spread across, gate down, the value written into each cell; the slides' setting framed.

    Args:
        ax: to draw into.
        part: rows of one end of the decay, with `noise_spread`, `noise_gate` and `column`.
        column: what is shown.
        low, high: ends of the colour scale.
        diverging: colours away from 0 instead of from low to high.
    """
    grid = part.pivot(index="noise_gate", columns="noise_spread", values=column)
    colors = {"cmap": "vlag_r", "center": 0.0} if diverging else {"cmap": "crest"}
    sns.heatmap(
        grid, ax=ax, annot=True, fmt="+.1f" if diverging else ".1f", vmin=low, vmax=high, cbar=False,
        linewidths=0.8, annot_kws={"fontsize": 9}, **colors,
    )  # fmt: skip
    ax.invert_yaxis()
    ax.set_xlabel("Spread of the noise (1: the slides')")
    ax.set_ylabel("Noise stops below d")
    ax.set_yticks(ax.get_yticks(), ax.get_yticklabels(), rotation=0)
    if REFERENCE["noise_spread"] in grid.columns and REFERENCE["noise_gate"] in grid.index:
        if (part["end"] == REFERENCE["end"]).all():
            frame(ax, grid, REFERENCE["noise_spread"], REFERENCE["noise_gate"], INK)
    return grid


def frame(ax: Axes, grid: pd.DataFrame, spread: float, gate: float, color: str) -> None:
    """Frame the cell of a setting in a map of `heat_map`."""
    corner = (list(grid.columns).index(spread), list(grid.index).index(gate))
    for width, edge in ((4.5, "white"), (2.2, color)):  # white below: seen on dark cells too
        ax.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor=edge, linewidth=width, clip_on=False))
