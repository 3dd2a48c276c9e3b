"""Differences with their intervals, around 0."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from clora_lab.lab.figures.style import FAINT, INK, new_figure, set_title, styled
from clora_lab.lab.frames import require, signed

BESIDE_AXES = {"xycoords": ("axes fraction", "data"), "va": "center", "annotation_clip": False}

VERDICTS = {
    "better": {"color": "#0173b2", "marker": "^"},
    "worse": {"color": "#c0392b", "marker": "v"},
    "not told apart": {"color": FAINT, "marker": "o"},
}
FAR = 8.0  # points: a difference further off stands at the edge, with its value


def draw_differences(
    ax: Axes, frame: pd.DataFrame, looks: Sequence[Mapping] | None = None, unit: str = " points"
) -> str:
    """`differences` into axes: a line a comparison, with its interval, around 0.

    Args:
        ax: to draw into.
        frame: a row a comparison: name, difference, low, high (of the interval; empty without one),
            verdict (a key of `VERDICTS`), note (text at the right).
        looks: colour and marker of each row; by default its verdict's.
        unit: after a value in the words.

    Returns:
        Every difference, as "SVD +1.00 points (better)".
    """
    said = []
    for place, row in enumerate(frame.to_dict("records")):
        look = dict(looks[place] if looks else VERDICTS[row["verdict"]])
        value = row["difference"]
        if abs(value) > FAR:
            at, align, text = (0.0, "left", "◀ {}") if value < 0 else (1.0, "right", "{} ▶")
            text = text.format(signed(value, 1))
            ax.annotate(text, (at, place), ha=align, color=look["color"], **BESIDE_AXES)
        else:
            error = None
            if np.isfinite(row["low"]):
                error = [[value - row["low"]], [row["high"] - value]]
            look = {"capsize": 3, "markersize": 6} | look
            ax.errorbar([value], [place], xerr=error, **look)
        ax.annotate(row["note"], (1.015, place), **BESIDE_AXES)
        said.append(f"{row['name']} {signed(value)}{unit} ({row['verdict']})")
    ax.axvline(0, color=INK, linewidth=1.2)
    ax.set_yticks(range(len(frame)), frame["name"].astype(str))
    ax.set_ylim(len(frame) - 0.5, -0.5)
    ax.grid(axis="y", visible=False)
    return "; ".join(said)


@styled
def differences(
    frame: pd.DataFrame,
    title: str,
    xlabel: str,
    subtitle: str = "",
    looks: Callable | None = None,
    unit: str = " points",
) -> Figure:
    """A figure of differences with intervals, a panel a group, on one axis with 0 in the middle.

    Args:
        frame: a row a comparison: group, name, difference, low, high, verdict, note; see
            `draw_differences`.
        title, subtitle, xlabel: texts, the label with its unit.
        looks: frame of a group -> looks of its rows; by default those of the verdicts.
        unit: after a value in the alt text.

    Raises:
        MissingResults: a column is missing, or there is no row.

    Example:
        >>> frame = pd.DataFrame({"group": ["start"], "name": ["SVD"], "difference": [1.0], "low": [0.5],
        ...     "high": [1.5], "verdict": ["better"], "note": ["87.00%"]})
        >>> differences(frame, "Starts", "Points").alt_text
        'Starts: SVD +1.00 points (better).'
    """
    require(frame, "frame", ("group", "name", "difference", "low", "high", "verdict", "note"))
    groups = list(frame.groupby("group", sort=False))
    fig = new_figure(1.1 + 0.235 * len(frame) + 0.34 * len(groups))
    heights = [len(rows) + 0.2 for _, rows in groups]
    axes = fig.subplots(len(groups), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    said = []
    for ax, (name, rows) in zip(axes, groups, strict=True):
        said.append(draw_differences(ax, rows, looks and looks(rows), unit))
        ax.set_title(name, loc="left")
    near = frame[frame["difference"].abs() <= FAR]
    ends = near[["low", "high", "difference"]].to_numpy(dtype="float64")
    edge = 1.08 * max(np.nanmax(np.abs(ends)) if len(ends) else FAR, 0.5)
    axes[-1].set_xlim(-edge, edge)
    axes[-1].set_xlabel(xlabel)
    set_title(fig, title, subtitle)
    fig.alt_text = f"{title}: {'; '.join(said)}."
    return fig
