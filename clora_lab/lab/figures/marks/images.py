"""Maps of a value over two settings, and matrices as images."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from clora_lab.lab.figures.style import new_figure, set_title, styled
from clora_lab.lab.frames import MissingResults, require


def draw_heat(
    ax: Axes,
    frame: pd.DataFrame,
    x: str,
    y: str,
    value: str,
    ends: tuple[float, float],
    diverging: bool = False,
    framed: Mapping[tuple, str] | None = None,
) -> str:
    """`heat` into axes: a value over two settings, written into each cell.

    Args:
        ax: to draw into.
        frame: a row a cell, with the columns x (across), y (upwards) and value.
        ends: of the colour scale.
        diverging: colours away from 0 instead of from low to high.
        framed: (x, y) -> colour of the frame around that cell; one that is not there is left out.

    Returns:
        The ends, as "from 81.2 to 84.0".
    """
    grid = frame.pivot(index=y, columns=x, values=value)
    colors = {"cmap": "vlag_r", "center": 0.0} if diverging else {"cmap": "crest"}
    sns.heatmap(
        grid, ax=ax, annot=True, fmt="+.1f" if diverging else ".1f", vmin=ends[0], vmax=ends[1], cbar=False,
        linewidths=0.8, annot_kws={"fontsize": 9}, **colors,
    )  # fmt: skip
    ax.invert_yaxis()
    ax.set_yticks(ax.get_yticks(), ax.get_yticklabels(), rotation=0)
    for (across, up), color in (framed or {}).items():
        if across in grid.columns and up in grid.index:
            corner = (list(grid.columns).index(across), list(grid.index).index(up))
            for width, edge in ((4.5, "white"), (2.2, color)):  # white below: seen on dark cells too
                look = {"fill": False, "edgecolor": edge, "linewidth": width, "clip_on": False}
                ax.add_patch(Rectangle(corner, 1, 1, **look))
    return f"from {frame[value].min():.1f} to {frame[value].max():.1f}"


@styled
def heat(
    panels: Mapping[str, pd.DataFrame],
    x: str,
    y: str,
    value: str,
    title: str,
    xlabel: str,
    ylabel: str,
    subtitle: str = "",
    framed: Mapping[str, Mapping[tuple, str]] | None = None,
) -> Figure:
    """A figure of maps on one colour scale, a panel each: a value over two settings.

    Args:
        panels: title of the panel -> rows, see `draw_heat`.
        x, y, value: names of columns.
        title, subtitle, xlabel, ylabel: texts.
        framed: title of the panel -> its framed cells.

    Raises:
        MissingResults: no panel, a column is missing, or there is no row.

    Example:
        >>> frame = pd.DataFrame({"gate": [0, 1], "spread": [1, 1], "accuracy": [80.0, 81.5]})
        >>> heat({"all": frame}, "spread", "gate", "accuracy", "Map", "Spread", "Gate").alt_text
        'Map: all: from 80.0 to 81.5.'
    """
    if not panels:
        raise MissingResults("`panels` must hold at least one map. Received: none.")
    for rows in panels.values():
        require(rows, "panels", (x, y, value))
    every = pd.concat(list(panels.values()))[value]
    fig = new_figure(3.9)
    axes = fig.subplots(1, len(panels), squeeze=False)[0]
    said = []
    for ax, (name, rows) in zip(axes, panels.items(), strict=True):
        found = draw_heat(ax, rows, x, y, value, (every.min(), every.max()), framed=(framed or {}).get(name))
        said.append(f"{name}: {found}")
        ax.set_title(name, loc="left")
        ax.set(xlabel=xlabel, ylabel=ylabel if ax is axes[0] else "")
    set_title(fig, title, subtitle)
    fig.alt_text = f"{title}: {'; '.join(said)}."
    return fig


def draw_image(ax: Axes, array: np.ndarray, limit: float | None = None, **look):
    """A matrix as an image without ticks; with a limit in blue (negative) and red, 0 in the middle."""
    if limit is not None:
        look = {"cmap": "RdBu_r", "vmin": -limit, "vmax": limit, **look}
    image = ax.imshow(array, interpolation="nearest", **look)
    ax.set(xticks=[], yticks=[])
    ax.grid(visible=False)
    return image


@styled
def matrices(parts: Mapping[str, np.ndarray], title: str, subtitle: str = "") -> Figure:
    """Matrices side by side as images on one colour scale, from blue (negative) to red.

    Args:
        parts: name -> matrix; at most four.
        title, subtitle: texts.

    Raises:
        ValueError: a part is not a matrix, or there are none or more than four.

    Example:
        >>> matrices({"W": np.eye(2), "2 W": 2 * np.eye(2)}, "Two").alt_text
        'Two: the entries of W (2 × 2, sd 0.5), 2 W (2 × 2, sd 1) as coloured images.'
    """
    arrays = {name: np.asarray(part, dtype="float64") for name, part in parts.items()}
    if not 1 <= len(arrays) <= 4 or any(array.ndim != 2 for array in arrays.values()):
        raise ValueError(
            "`parts` must hold one to four matrices. Received shapes: "
            f"{[array.shape for array in arrays.values()]}."
        )
    limit = max(np.quantile(np.abs(array), 0.995) for array in arrays.values()) or 1.0
    fig = new_figure(2.6)
    axes = fig.subplots(1, len(arrays), squeeze=False)[0]
    for ax, (name, array) in zip(axes, arrays.items(), strict=True):
        image = draw_image(ax, array, limit, aspect="auto")
        ax.set_title(f"{name}\n{array.shape[0]} × {array.shape[1]}")
    fig.colorbar(image, ax=axes, label="Value of an entry", shrink=0.9)
    set_title(fig, title, subtitle)
    sizes = [f"{n} ({a.shape[0]} × {a.shape[1]}, sd {a.std():.3g})" for n, a in arrays.items()]
    fig.alt_text = f"{title}: the entries of {', '.join(sizes)} as coloured images."
    return fig
