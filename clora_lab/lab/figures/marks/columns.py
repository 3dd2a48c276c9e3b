"""Bars: a group a row of a frame, a bar a column; side by side or stacked, upright or across."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from clora_lab.lab.figures import style
from clora_lab.lab.figures.marks.curves import check_columns, finish, number
from clora_lab.lab.figures.style import new_figure, styled


def draw_bars(
    ax: Axes,
    frame: pd.DataFrame,
    looks: Sequence[Mapping] | None = None,
    percent: bool = False,
    written: Callable[[float], str] | pd.DataFrame | None = None,
    across: bool = False,
    stacked: bool = False,
    width: float = 0.8,
) -> str:
    """`bars` into axes: a group a row, in it a bar a column.

    Args:
        ax: to draw into.
        frame: numbers; the index names the groups.
        looks: colour, hatch and edge of each column; by default those of `style.cycle`.
        percent: the numbers are fractions, and the axis prints percent.
        written: number -> text at the bar, or the texts in a frame of the same shape; by default four
            digits, or percent.
        across: horizontal bars, the first group on top.
        stacked: one bar a group, of parts.
        width: of a group.

    Returns:
        Every value, as "r 4: LoRA 91.0%, full 93.0%".
    """
    looks = looks or [
        {"color": look["color"], "alpha": 0.75, "hatch": hatch, "edgecolor": "white"}
        for look, hatch in zip(style.cycle(frame.shape[1]), style.HATCHES, strict=False)
    ]
    places, below = np.arange(len(frame)), np.zeros(len(frame))
    pitch = width if stacked else width / frame.shape[1]
    thick = pitch if stacked else 0.94 * pitch
    paper = {"facecolor": "white", "edgecolor": "none", "pad": 1, "alpha": 0.85}
    place = {"label_type": "center", "bbox": paper} if stacked else {"padding": 2}
    for index, ((name, column), look) in enumerate(zip(frame.items(), looks, strict=True)):
        at = places if stacked else places + (index - (frame.shape[1] - 1) / 2) * pitch
        if across:
            drawn = ax.barh(at, column, thick, left=below, label=name, **look)
        else:
            drawn = ax.bar(at, column, thick, bottom=below, label=name, **look)
        if isinstance(written, pd.DataFrame):
            texts = written[name].tolist()
        else:
            texts = [written(value) if written else number(value, percent).rstrip("%") for value in column]
        ax.bar_label(drawn, texts, fontsize=9, **place)
        below = below + column.to_numpy() if stacked else below
    groups, values = (ax.yaxis, ax.xaxis) if across else (ax.xaxis, ax.yaxis)
    groups.set_ticks(places, [str(name) for name in frame.index])
    ax.grid(axis=groups.axis_name, visible=False)
    if across:
        ax.invert_yaxis()
    if percent:
        style.percent_axis(values)
    return "; ".join(
        f"{group}: " + ", ".join(f"{name} {number(value, percent)}" for name, value in row.items())
        for group, row in frame.iterrows()
    )


@styled
def bars(
    frame: pd.DataFrame, title: str, ylabel: str, subtitle: str = "", percent: bool = False, **axes
) -> Figure:
    """A figure of grouped bars: a group for each row of `frame`, a bar for each column.

    Args:
        frame: numbers, at most seven columns; the index names the groups.
        title, subtitle, ylabel: texts.
        percent: the numbers are fractions, and the axis prints percent.
        **axes: properties of the axes.

    Raises:
        ValueError: `frame` has no numbers or too many columns.

    Example:
        >>> bars(pd.DataFrame({"left": [0.9, 0.8]}, index=["LoRA", "full"]), "A", "B", percent=True).alt_text
        'A, B: LoRA: left 90.0%; full: left 80.0%.'
    """
    check_columns(frame)
    fig = new_figure(3.4)
    ax = fig.subplots()
    said = draw_bars(ax, frame, percent=percent)
    ax.margins(y=0.12)
    ax.set(ylabel=ylabel, **axes)
    finish(fig, ax, frame, title, subtitle)
    fig.alt_text = f"{title}, {ylabel}: {said}."
    return fig
