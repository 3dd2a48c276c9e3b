"""Points: a net each, a measure against what it costs, in the look of its method."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from matplotlib.transforms import ScaledTranslation

from clora_lab import methods
from clora_lab.lab.figures import style
from clora_lab.lab.figures.style import INK, new_figure, set_title, shared_legend, styled
from clora_lab.lab.frames import require


def untrained(frame: pd.DataFrame) -> pd.Series:
    """Which rows are of a method that trains nothing: they may lie far below all others."""
    return ~frame["method"].map(methods.trains)


def limits(frame: pd.DataFrame, y: str = "mean", spread: str = "sd", below: float = 2) -> tuple[float, float]:
    """Ends of an axis that shows all of the trained nets ± 1 sd; what lies below belongs at its edge.

    Args:
        frame: a row a net: method, and the columns y and spread.
        below: room at the lower end, in margins of 8% of the range.
    """
    shown = frame if untrained(frame).all() else frame[~untrained(frame)]
    sd = shown[spread].fillna(0)
    low, high = (shown[y] - sd).min(), (shown[y] + sd).max()
    margin = 0.08 * (high - low) or 0.01 * high
    return low - below * margin, high + margin


def draw_points(
    ax: Axes,
    frame: pd.DataFrame,
    x: str,
    y: str = "mean",
    spread: str = "sd",
    aside: float = 6.0,
    size: float = 6.5,
    scale: float = 1.0,
    ends: tuple[float, float] | None = None,
    band: bool = True,
) -> str:
    """`points` into axes: a net a point with ± 1 sd, in the look of its method.

    Points of one place stand side by side; what lies beyond the axis stands at its edge, with its value.

    Args:
        ax: to draw into.
        frame: a row a net: method, x, y, spread (empty for one seed).
        x, y, spread: names of columns.
        aside: distance of two methods of one place, in points of print.
        size: of a marker, in points.
        scale: 100 where the values are fractions and are to be written in percent.
        ends: of the vertical axis; by default `limits`.
        band: the original net is a level with a band, else a star of its own place.

    Returns:
        The best, as "the best is Only WDS with 83.0 at 9.9".
    """
    low, high = ends or limits(frame, y, spread)
    original = frame["method"] == methods.ORIGINAL
    nets = frame[~original & frame[y].notna()]
    found = sorted(nets["method"].unique(), key=methods.order)
    for index, method in enumerate(found):
        shift = (index - (len(found) - 1) / 2) * aside / 72
        place = ax.transData + ScaledTranslation(shift, 0, ax.figure.dpi_scale_trans)
        look = {**style.of_method(method), "linestyle": "", "markersize": size}
        own = nets[nets["method"] == method]
        ax.errorbar(
            own[x], own[y], yerr=own[spread].fillna(0), label=methods.label(method), transform=place,
            capsize=2.5, elinewidth=1.4, **look,
        )  # fmt: skip
        edge = {"ha": "center", "fontsize": 9, "color": look["color"]}
        for at, value in own[[x, y]].itertuples(index=False):
            written = f"{scale * value:.{1 if scale * value > 1 else 2}f}"
            if value < low:
                ax.annotate(f"{written}\n▼", (at, low), va="bottom", **edge)
            elif value > high:
                ax.annotate(f"▲\n{written}", (at, high), va="top", **edge)
    label = methods.label(methods.ORIGINAL)
    for row in frame[original].to_dict("records"):
        sd = 0.0 if np.isnan(row[spread]) else row[spread]
        if band:
            ax.axhspan(row[y] - sd, row[y] + sd, color=INK, alpha=0.15, linewidth=0)
            ax.axhline(row[y], color=INK, linewidth=1.4, label=label)
        else:
            star = {"color": INK, "linestyle": "", "marker": "*", "markersize": 10, "capsize": 2}
            ax.errorbar([row[x]], [row[y]], yerr=[sd], label=label, **star)
    ax.set_ylim(low, high)
    if nets.empty:
        return "no compressed net"
    top = nets.loc[nets[y].idxmax()]
    return f"the best is {methods.label(top['method'])} with {scale * top[y]:.1f} at {top[x]:.1f}"


def rank_axis(ax: Axes, ratios: pd.Series, ranks: pd.Series) -> None:
    """A logarithmic axis of ratios, with a tick and its rank at the median of each rank's."""
    places = ratios.groupby(ranks).median().sort_values()
    ax.set_xscale("log")
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xticks(places, [f"{ratio:.1f}\nrank {rank}" for rank, ratio in places.items()])
    ax.set_xlim(ratios.min() / 1.5, ratios.max() * 1.5)
    ax.grid(axis="x", visible=False)


@styled
def points(frame: pd.DataFrame, x: str, title: str, xlabel: str, ylabel: str, subtitle: str = "") -> Figure:
    """A figure of nets as points: a measure against what they cost, ± 1 sd, in the looks of their methods.

    Args:
        frame: a row a net: method, mean, sd and the column `x`.
        x: what is across, for instance "ratio_percent".
        title, subtitle, xlabel, ylabel: texts.

    Raises:
        MissingResults: a column is missing, or there is no row.

    Example:
        >>> frame = pd.DataFrame({"method": ["dense", "wds"], "mean": [85.0, 83.0], "sd": [0.1, 0.2]})
        >>> points(frame.assign(left=[100, 40]), "left", "Size", "Left (%)", "Accuracy (%)").alt_text
        'Size: Accuracy (%) against Left (%); the best is Only WDS with 83.0 at 40.0.'
    """
    require(frame, "frame", ("method", "mean", "sd", x))
    fig = new_figure(4.2)
    ax = fig.subplots()
    said = draw_points(ax, frame, x)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    shared_legend(fig, [ax], ncols=3)
    set_title(fig, title, subtitle)
    fig.alt_text = f"{title}: {ylabel} against {xlabel}; {said}."
    return fig
