"""Low-rank convolutions: ways to make a matrix of a kernel, what each costs, and drawings of both.

A kernel W of shape (k, k, Cin, Cout) has four axes, and a low-rank pair wants a matrix: which axes become its
rows decides what the pair costs and whether it runs as two convolutions (`ways`).

Sources: Zhang et al. 2015 (arXiv:1505.06798) for the pair, loralib's ConvLoRA (Hu et al. 2021,
arXiv:2106.09685) for the slides' factors, Jaderberg et al. 2014 (arXiv:1405.3866) for the spatial one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import keras
import numpy as np
import pandas as pd
from matplotlib.colors import hsv_to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from clora_lab import _checks, rules
from clora_lab.lab.figures.style import FAINT, INK, new_figure, set_title, styled
from clora_lab.slides.drawings import PAIR_FILL, W_FILL, canvas, draw_arrow, draw_matrix, draw_pair, write

WAYS = {
    "pair": "k x k to rank, then 1 x 1",
    "loralib": "one k x k convolution; its kernel is multiplied out first",
    "spatial": "1 x k to k rank, then k x 1",
}


def ways(kernel_shape: Sequence[int], rank: int) -> pd.DataFrame:
    """What each way to factor a kernel costs; the first row is the kernel itself.

    The products have the widths r (pair) and k r (loralib, and the spatial one, to have as many parameters).

    Args:
        kernel_shape: (k, k, Cin, Cout).
        rank: r.

    Returns:
        Index "full", then `WAYS`. Columns rows, columns (of the matrix), width (of the product), parameters,
        multiply_adds (for one position of the output), share (of the kernel's parameters), flops_share,
        runs_as.

    Raises:
        ValueError: no square kernel, or a rank below 1.

    Example:
        >>> ways((3, 3, 64, 128), 16)[["rows", "columns", "width", "parameters", "multiply_adds"]]
                 rows  columns  width  parameters  multiply_adds
        full      576      128    128       73728          73728
        pair      576      128     16       11264          11264
        loralib   192      384     48       27648          73728
        spatial   192      384     48       27648          27648
    """
    *_, filters = _shape(kernel_shape)
    rank = _checks.positive_int("rank", rank)
    whole, layer = math.prod(kernel_shape), _layer(kernel_shape)
    rows = [("full", whole // filters, filters, filters, whole, whole, "one k x k convolution")]
    for name, runs_as in WAYS.items():
        rule = rules.rule(layer, name)
        cost = rule.cost(rank, (None, 1, 1, filters))
        rows.append((name, *rule.matrix_shape, rule.inner(rank), cost.stored, cost.flops // 2, runs_as))
    names = ["way", "rows", "columns", "width", "parameters", "multiply_adds", "runs_as"]
    frame = pd.DataFrame(rows, columns=names).set_index("way").rename_axis(None)
    frame.insert(5, "share", frame["parameters"] / whole)
    frame.insert(6, "flops_share", frame["multiply_adds"] / whole)
    return frame


def to_matrix(kernel: np.ndarray, way: str) -> np.ndarray:
    """A kernel as the matrix of one of `WAYS`.

    - "pair": M[(kh, kw, ci), co]; a column is a filter.
    - "loralib": M = (B A)^T, which has the memory order of a kernel (Cout, Cin, k, k).
    - "spatial": M[(kw, ci), (kh, co)].

    Args:
        kernel: shape (k, k, Cin, Cout).
        way: a key of `WAYS`.

    Raises:
        ValueError: another way, or no square kernel.

    Example:
        >>> to_matrix(np.zeros((3, 3, 4, 8)), "spatial").shape
        (12, 24)
    """
    _checks.one_of("way", way, WAYS)
    kernel = np.asarray(kernel)
    return rules.rule(_layer(kernel.shape), way).to_matrix(kernel)


def _shape(kernel_shape: Sequence[int]) -> tuple[int, int, int]:
    """(k, Cin, Cout) of the shape of a square kernel."""
    shape = tuple(int(size) for size in kernel_shape)
    if len(shape) != 4 or shape[0] != shape[1] or min(shape) < 1:
        raise ValueError(
            f"`kernel_shape` must be (k, k, Cin, Cout). Received: {shape}. Take that of a Conv2D's kernel."
        )
    return shape[1:]


def _layer(kernel_shape: Sequence[int]) -> keras.layers.Conv2D:
    size, channels, filters = _shape(kernel_shape)
    layer = keras.layers.Conv2D(filters, size, padding="same")
    layer.build((None, None, None, channels))
    return layer


@styled
def three_matrices(kernel_shape: Sequence[int] = (3, 3, 3, 4)) -> Figure:
    """One kernel as three matrices, each element coloured by its place in the k x k window.

    Args:
        kernel_shape: (k, k, Cin, Cout); a small one, so that single elements can be seen.

    Raises:
        ValueError: no square kernel, one larger than 5 x 5, or a matrix with more than 100 rows.

    Example:
        >>> three_matrices().alt_text[-74:]
        'pair 27 × 4, loralib 9 × 12, spatial 9 × 12; one filter is framed in each.'
    """
    size, channels, filters = _shape(kernel_shape)
    if size > 5 or size * size * channels > 100:
        raise ValueError(
            "`kernel_shape` must be at most 5 x 5 with at most 100 weights a filter. "
            f"Received: {tuple(kernel_shape)}."
        )
    place = np.arange(size * size).reshape(size, size, 1, 1)
    places = np.broadcast_to(place, (size, size, channels, filters))
    owners = np.broadcast_to(np.arange(filters), places.shape)
    # The row of the window as hue, its column as lightness: both survive a print in grey, if with effort.
    hues = np.array([0.58, 0.09, 0.42, 0.92, 0.75])[:size]
    row, column = np.divmod(np.arange(size * size), size)
    light = np.linspace(1.0, 0.62, size)[column]
    depth = np.linspace(0.22, 0.8, size)[column]
    colors = hsv_to_rgb(np.stack([hues[row], depth, light], axis=-1))
    matrices = {way: to_matrix(places, way) for way in WAYS}
    fig = new_figure(4.1)
    widths = [max(matrix.shape[1], 5) for matrix in matrices.values()]
    window, *axes = fig.subplots(1, 4, width_ratios=[5, *widths])
    window.imshow(colors[place[..., 0, 0]], interpolation="nearest")
    window.set_title("the window\nof one filter")
    for (i, j), number in np.ndenumerate(place[..., 0, 0]):
        window.text(j, i, number + 1, ha="center", va="center")
    shown = {
        "pair": ("(kh, kw, Cin)", "Cout"),
        "loralib": ("Cin · k", "Cout · k"),
        "spatial": ("(kw, Cin)", "(kh, Cout)"),
    }
    for ax, (way, matrix) in zip(axes, matrices.items(), strict=True):
        ax.imshow(colors[matrix], interpolation="nearest", aspect="equal")
        if matrix.shape[0] < 20:  # else there is no room for digits that can be read
            for (i, j), number in np.ndenumerate(matrix):
                ax.text(j, i, number + 1, ha="center", va="center")
        own = to_matrix(owners, way)[0]
        for j in np.flatnonzero(own == 0):
            frame = {"fill": False, "edgecolor": INK, "linewidth": 2.0, "clip_on": False}
            ax.add_patch(Rectangle((j - 0.5, -0.5), 1, matrix.shape[0], **frame))
        ax.set_title(f"{way}\n{matrix.shape[0]} × {matrix.shape[1]}")
        ax.set(ylabel=f"rows: {shown[way][0]}", xlabel=f"columns:\n{shown[way][1]}")
    for ax in (window, *axes):
        ax.set(xticks=[], yticks=[])
        ax.grid(visible=False)
    title = f"Three ways to make a matrix of a {size} × {size} kernel, {channels} channels, {filters} filters"
    set_title(fig, title, "Number and colour: place in the window; framed: the first filter")
    sizes = ", ".join(f"{way} {m.shape[0]} × {m.shape[1]}" for way, m in matrices.items())
    fig.alt_text = f"{title}: {sizes}; one filter is framed in each."
    return fig


@styled
def low_rank_convolution(kernel_shape: Sequence[int] = (3, 3, 128, 256), rank: int = 16) -> Figure:
    """What runs: the full convolution, and what each of `WAYS` puts in its place, with what it costs.

    Args:
        kernel_shape: (k, k, Cin, Cout).
        rank: r.

    Raises:
        ValueError: no square kernel, or a rank below 1.

    Example:
        >>> fig = low_rank_convolution((3, 3, 64, 64), rank=8)
    """
    table = ways(kernel_shape, rank)
    size, channels, filters = _shape(kernel_shape)
    most = max(channels, filters)
    title = f"A {size} × {size} convolution from {channels} to {filters} channels at rank {rank}"
    fig, ax = canvas(4.25, title, "A box is a feature map, as high as it has channels (square-root scale)")
    said = []
    for index, (way, row) in enumerate(table.iterrows()):
        y = 3.68 - 1.02 * index  # of the middle of the line
        heights = {n: 0.1 + 0.62 * np.sqrt(n / most) for n in (channels, filters, row["width"])}

        def box(x, count, fill="#eeeeee", y=y, heights=heights):
            height = heights[count]
            draw_matrix(ax, x - 0.09, y - height / 2, 0.18, height, fill=fill)
            write(ax, x, y - 0.45, f"{count}", fontsize=9)

        kernels = {
            "full": [f"{size} × {size}"],
            "loralib": [f"{size} × {size}"],
            "pair": [f"{size} × {size}", "1 × 1"],
            "spatial": [f"1 × {size}", f"{size} × 1"],
        }[way]
        write(ax, 0.15, y, way, ha="left", weight="bold")
        stops = [1.15, 2.45, 3.75] if len(kernels) == 2 else [1.15, 3.75]
        box(stops[0], channels)
        if len(kernels) == 2:
            box(stops[1], row["width"], PAIR_FILL)
        box(stops[-1], filters)
        for left, right, text in zip(stops, stops[1:], kernels, strict=False):
            draw_arrow(ax, (left + 0.12, y), (right - 0.12, y))
            write(ax, (left + right) / 2, y + 0.14, text)
        if way == "loralib":
            draw_pair(ax, 1.62, y - 0.42, 0.42, 0.32, labels=("", ""))
            write(ax, 2.12, y - 0.27, "B·A, multiplied first", ha="left", color=FAINT)
        if way == "full":
            draw_matrix(ax, 1.72, y - 0.4, 0.24, 0.24, fill=W_FILL)
            write(ax, 2.12, y - 0.28, "W", ha="left", color=FAINT)
        cost = f"{row['parameters']:,} parameters ({100 * row['share']:.1f}%)"
        work = f"{row['multiply_adds']:,} multiply-adds ({100 * row['flops_share']:.1f}%)"
        write(ax, 4.02, y, f"{cost}\n{work}", ha="left")
        said.append(f"{way} {row['parameters']:,} parameters and {row['multiply_adds']:,} multiply-adds")
    fig.alt_text = f"{title}, a position of the output: {'; '.join(said)}."
    return fig
