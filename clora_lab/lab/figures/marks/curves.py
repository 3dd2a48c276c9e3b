"""Lines: one curve a column of a frame, over its index."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from clora_lab.lab.figures import style
from clora_lab.lab.figures.style import FAINT, new_figure, set_title, shared_legend, styled


def number(value: float, percent: bool = False) -> str:
    """A value as text: four digits, or percent of a fraction.

    Example:
        >>> number(1234.5678), number(0.8779, percent=True)
        ('1,235', '87.8%')
    """
    return f"{100 * value:.1f}%" if percent else f"{value:,.4g}"


def draw_curve(
    ax: Axes, mean: pd.Series, label: str, look: Mapping, sd: pd.Series | None = None, markers: int = 6
) -> None:
    """One curve over its index, with about so many markers, and a band of ± 1 sd where there is one."""
    if mean.empty:
        return
    ax.plot(mean.index, mean, label=label, **{"markevery": max(1, len(mean) // markers), **look})
    if sd is not None and sd.notna().any():
        ax.fill_between(mean.index, mean - sd, mean + sd, color=look["color"], alpha=0.2, linewidth=0)


def draw_lines(
    ax: Axes, frame: pd.DataFrame, looks: Sequence[Mapping] | None = None, percent: bool = False
) -> str:
    """`lines` into axes: a curve a column.

    Args:
        ax: to draw into.
        frame: numbers; the index is the horizontal axis.
        looks: colour, marker and linestyle of each column; by default those of `style.cycle`.
        percent: the numbers are fractions, and the axis prints percent.

    Returns:
        The ends of each curve, as "d from 1 to 0".
    """
    said = []
    for (name, column), look in zip(frame.items(), looks or style.cycle(frame.shape[1]), strict=True):
        column = column.dropna()
        draw_curve(ax, column, name, look, markers=8)
        said.append(f"{name} from {number(column.iloc[0], percent)} to {number(column.iloc[-1], percent)}")
    if percent:
        style.percent_axis(ax.yaxis)
    return "; ".join(said)


@styled
def lines(
    frame: pd.DataFrame,
    title: str,
    xlabel: str,
    ylabel: str,
    subtitle: str = "",
    percent: bool = False,
    marks: Mapping[str, float] | None = None,
    **axes,
) -> Figure:
    """A figure of curves, one a column of `frame`, over its index.

    Args:
        frame: numbers, at most seven columns; the index is the horizontal axis.
        title, subtitle, xlabel, ylabel: texts, the labels with units.
        percent: the numbers are fractions, and the axis prints percent.
        marks: name -> place of a vertical line on the horizontal axis.
        **axes: properties of the axes, for instance ``ylim=(0, 1)`` or ``yscale="log"``.

    Raises:
        ValueError: `frame` has no numbers or too many columns.

    Example:
        >>> lines(pd.DataFrame({"d": [1.0, 0.5, 0.0]}), "Decay", "Step", "d").alt_text
        'Decay: d against Step from 0 to 2; d from 1 to 0.'
    """
    check_columns(frame)
    fig = new_figure(3.4)
    ax = fig.subplots()
    said = draw_lines(ax, frame, percent=percent)
    ax.set(xlabel=xlabel, ylabel=ylabel, **axes)
    finish(fig, ax, frame, title, subtitle)
    if ax.get_xscale() == "log":
        style.log_axis(ax.xaxis)
    for name, place in (marks or {}).items():
        draw_mark(ax, name, place)
    first, last = number(frame.index[0]), number(frame.index[-1])
    fig.alt_text = f"{title}: {ylabel} against {xlabel} from {first} to {last}; {said}."
    return fig


def draw_mark(ax: Axes, name: str, place: float) -> None:
    """A vertical line with its name on the side that has more room."""
    ax.axvline(place, color=FAINT, linewidth=1.2, linestyle=(0, (2, 2)))
    left = ax.transAxes.inverted().transform(ax.transData.transform((place, 0)))[0] > 0.5
    where = {"xytext": (-4 if left else 4, 4), "ha": "right" if left else "left"}
    paper = {"facecolor": "white", "edgecolor": "none", "pad": 1}
    look = {"textcoords": "offset points", "color": FAINT, "bbox": paper}
    ax.annotate(name, (place, 0), xycoords=("data", "axes fraction"), **where, **look)


def check_columns(frame: pd.DataFrame) -> None:
    """Refuse a frame that is empty, or has more columns than can be told apart."""
    if frame.empty or not 1 <= frame.shape[1] <= len(style.SERIES):
        raise ValueError(
            f"`frame` must have rows and one to seven columns of numbers. Received shape: {frame.shape}."
        )


def finish(fig: Figure, ax: Axes, frame: pd.DataFrame, title: str, subtitle: str) -> None:
    """Titles, and a legend where there are several columns."""
    if frame.shape[1] > 1:
        letters = 10 + max(len(str(name)) for name in frame.columns)  # of an entry with its line
        shared_legend(fig, [ax], ncols=max(1, min(frame.shape[1], 90 // letters)))
    set_title(fig, title, subtitle)
