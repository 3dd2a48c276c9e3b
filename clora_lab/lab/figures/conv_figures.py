"""Low-rank convolutions: ways to make a matrix of a kernel, the VGG16 table beside ours, and figures.

A kernel W of shape (k, k, Cin, Cout) has four axes, and a low-rank pair wants a matrix: which axes become its
rows decides what the pair costs and whether it runs as two convolutions (`ways`).

Sources: Zhang et al. 2015 (arXiv:1505.06798) for the pair, loralib's ConvLoRA (Hu et al. 2021,
arXiv:2106.09685) for the slides' factors, Jaderberg et al. 2014 (arXiv:1405.3866) for the spatial one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import keras
import numpy as np
import pandas as pd
from matplotlib.colors import hsv_to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator, PercentFormatter
from matplotlib.transforms import ScaledTranslation

import clora_lab as cl
from clora_lab import _checks, factors
from clora_lab.lab.figures.figure_base import (
    FAINT,
    INK,
    METHOD_STYLES,
    SLIDE_METHODS,
    MissingResults,
    cycle,
    new_figure,
    require,
    set_title,
    shared_legend,
    styled,
)
from clora_lab.lab.figures.figure_tables import slide_table
from clora_lab.lab.names import BASELINES, METHOD_LABELS, dataset_label, method_label
from clora_lab.lab.nets import models
from clora_lab.slides import published
from clora_lab.slides.diagrams import (
    PAIR_FILL,
    W_FILL,
    canvas,
    draw_arrow,
    draw_matrix,
    draw_pair,
    write,
)

WAYS = {
    "pair": "k x k to rank, then 1 x 1",
    "loralib": "one k x k convolution; its kernel is multiplied out first",
    "spatial": "k x 1 to k rank, then 1 x k",
}
FACTORIZATION_LABELS = {
    "loralib": "loralib's factors (slides)",
    "pair": "pair, same rank",
    "pair_equal": "pair, as many parameters as loralib's",
}
MARKERS = {"loralib": "D", "pair": "o", "pair_equal": "s"}


# --- a kernel as a matrix -----------------------------------------------------------------------


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
    size, channels, filters = _shape(kernel_shape)
    rank = _checks.positive_int("rank", rank)
    whole = size * size * channels * filters
    layer = _layer(kernel_shape)
    rows = [("full", size * size * channels, filters, filters, whole, whole, "one k x k convolution")]
    for name in ("pair", "loralib"):
        rule = factors.rule(layer, name)
        count = rule.parameters(rank)
        run = whole if rule.merges else count
        rows.append((name, *rule.matrix_shape, rule.inner(rank), count, run, WAYS[name]))
    count = size * rank * size * (channels + filters)
    sides = (size * channels, size * filters)
    rows.append(("spatial", *sides, size * rank, count, count, WAYS["spatial"]))
    names = ["way", "rows", "columns", "width", "parameters", "multiply_adds", "runs_as"]
    frame = pd.DataFrame(rows, columns=names).set_index("way").rename_axis(None)
    frame.insert(5, "share", frame["parameters"] / whole)
    frame.insert(6, "flops_share", frame["multiply_adds"] / whole)
    return frame


def to_matrix(kernel: np.ndarray, way: str) -> np.ndarray:
    """A kernel as the matrix of one of `WAYS`.

    - "pair": M[(kh, kw, ci), co]; a column is a filter.
    - "loralib": M = (B A)^T, which has the memory order of a kernel (Cout, Cin, k, k).
    - "spatial": M[(kh, ci), (kw, co)].

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
    size, channels, filters = _shape(kernel.shape)
    if way == "spatial":
        return kernel.transpose(0, 2, 1, 3).reshape(size * channels, size * filters)
    return factors.rule(_layer(kernel.shape), way).to_matrix(kernel)


def spatial_kernels(down: np.ndarray, up: np.ndarray, kernel_shape: Sequence[int]) -> list[np.ndarray]:
    """The factors of a spatial matrix as the kernels of two convolutions: k x 1, then 1 x k.

    Args:
        down: shape (k Cin, width).
        up: shape (width, k Cout).
        kernel_shape: (k, k, Cin, Cout).

    Example:
        >>> [part.shape for part in spatial_kernels(np.ones((12, 5)), np.ones((5, 24)), (3, 3, 4, 8))]
        [(3, 1, 4, 5), (1, 3, 5, 8)]
    """
    size, channels, filters = _shape(kernel_shape)
    return [down.reshape(size, 1, channels, -1), up.reshape(-1, size, filters).transpose(1, 0, 2)[None]]


def _shape(kernel_shape: Sequence[int]) -> tuple[int, int, int]:
    """(k, Cin, Cout) of the shape of a square kernel."""
    shape = tuple(int(size) for size in kernel_shape)
    if len(shape) != 4 or shape[0] != shape[1] or min(shape) < 1:
        raise ValueError(
            f"`kernel_shape` must be (k, k, Cin, Cout). Received: {shape}. Take that of a Conv2D's kernel."
        )
    return shape[1:]


def _layer(kernel_shape: Sequence[int]) -> keras.layers.Conv2D:
    size, _, channels, filters = (int(n) for n in kernel_shape)
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
        >>> three_matrices().alt_text[-73:]
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
        "spatial": ("(kh, Cin)", "(kw, Cout)"),
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
            "spatial": [f"{size} × 1", f"1 × {size}"],
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


# --- what a trained net holds -------------------------------------------------------------------


@styled
def filters(kernels: Mapping[str, np.ndarray], title: str, subtitle: str = "", count: int = 12) -> Figure:
    """Filters of one layer as images, a line a net: those with the largest norm in the first net.

    Of a kernel with three input channels a filter is shown in colour, grey being 0. Of any other, the input
    channel with the largest norm is shown, in blue (negative) and red. Each line has its own scale.

    Args:
        kernels: name of the net -> kernel (k, k, Cin, Cout), all of one shape.
        title, subtitle: texts.
        count: how many filters.

    Raises:
        ValueError: no kernels, or of several shapes.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> fig = filters({"before": rng.normal(size=(3, 3, 3, 16))}, "Filters of a layer")
    """
    arrays = {name: np.asarray(kernel, "float64") for name, kernel in kernels.items()}
    shapes = {array.shape for array in arrays.values()}
    if len(shapes) != 1 or any(len(shape) != 4 for shape in shapes):
        raise ValueError(
            "`kernels` must hold kernels (k, k, Cin, Cout) of one shape. Received the shapes: "
            f"{[array.shape for array in arrays.values()]}. Choose one layer."
        )
    first = next(iter(arrays.values()))
    order = np.argsort(-np.sum(first**2, axis=(0, 1, 2)))[:count]
    channel = np.sum(first**2, axis=(0, 1)).argmax(axis=0)  # of each filter, the strongest input
    fig = new_figure(0.7 + 0.6 * len(arrays) + 0.15 * subtitle.count("\n"))
    axes = fig.subplots(len(arrays), len(order), squeeze=False)
    said = []
    for line, (name, array) in zip(axes, arrays.items(), strict=True):
        in_color = array.shape[2] == 3
        parts = [array[..., i] if in_color else array[:, :, channel[i], i] for i in order]
        limit = max(np.quantile(np.abs(parts), 0.995), 1e-12)
        for ax, part in zip(line, parts, strict=True):
            if in_color:
                ax.imshow(np.clip(0.5 + part / (2 * limit), 0, 1), interpolation="nearest")
            else:
                ax.imshow(part, cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
            ax.set(xticks=[], yticks=[])
            ax.grid(visible=False)
        line[0].set_ylabel(name, rotation=0, ha="right", va="center")
        away = np.linalg.norm(array - first) / np.linalg.norm(first)
        said.append(f"{' '.join(name.split())} (distance from the first, relative: {away:.2f})")
    set_title(fig, title, subtitle)
    fig.alt_text = f"{title}: {len(order)} filters as images, for {'; '.join(said)}."
    return fig


def kept_kernels(model: keras.Model) -> dict[str, np.ndarray]:
    """The kernel that each pair of a compressed net stands for: layer name -> s B A as a kernel.

    Args:
        model: made by `clora_lab.compress`.

    Raises:
        ValueError: there is no wrapped layer.

    Example:
        >>> net = models.small_vgg()
        >>> wrapped = cl.compress(net, 4, init="svd", schedule=cl.LinearDecay(1), targets="block3_conv*")
        >>> {name: kernel.shape for name, kernel in kept_kernels(wrapped).items()}
        {'block3_conv1': (3, 3, 32, 64), 'block3_conv2': (3, 3, 64, 64)}
    """
    found = {}
    for layer in cl.clora_layers(model):
        down, up = layer.pair_matrices()
        found[layer.name] = layer.rule.to_kernel(down @ up)
    if not found:
        raise ValueError(f"Model {model.name!r} has no wrapped layers. Make it with clora_lab.compress().")
    return found


def spectra_table(dense: keras.Model, wrapped: keras.Model) -> pd.DataFrame:
    """Singular values of each compressed layer's matrix M: of the dense net, and of what its pair holds.

    Args:
        dense: the net that was given to `compress`.
        wrapped: what `compress` made of it, trained or not.

    Returns:
        A row for each layer, net ("dense", "kept") and index (from 1): layer, net, index, value, energy (the
        share of the squared values up to this one). Values of "kept" that are 0 by its rank are left out.

    Raises:
        ValueError: there is no wrapped layer.

    Example:
        >>> net = models.small_vgg()
        >>> wrapped = cl.compress(net, 4, init="svd", schedule=cl.LinearDecay(1), targets="block3_conv1")
        >>> table = spectra_table(net, wrapped)
        >>> table.groupby("net", sort=False).size().to_dict()
        {'dense': 64, 'kept': 4}
    """
    kept = kept_kernels(wrapped)
    parts = []
    for layer in cl.clora_layers(wrapped):
        rule = layer.rule
        kernel = keras.ops.convert_to_numpy(dense.get_layer(layer.name).kernel)
        for net, own, width in (
            ("dense", kernel, None),
            ("kept", kept[layer.name], rule.inner(layer.rank)),
        ):
            values = np.linalg.svd(np.asarray(rule.to_matrix(own), "float64"), compute_uv=False)[:width]
            energy = np.cumsum(values**2) / max(np.sum(values**2), 1e-300)
            index = np.arange(1, len(values) + 1)
            frame = {"layer": layer.name, "net": net, "index": index, "value": values, "energy": energy}
            parts.append(pd.DataFrame(frame))
    return pd.concat(parts, ignore_index=True)


@styled
def spectra(table: pd.DataFrame, title: str, subtitle: str = "") -> Figure:
    """Per-layer spectra: singular values of the dense net, and of what the pair keeps, a panel a layer.

    Args:
        table: as `spectra_table` gives it, or several of them with other names of nets; at most nine layers.
        title, subtitle: texts.

    Raises:
        MissingResults: a column is missing, or there is no row.
        ValueError: more than nine layers.

    Example:
        >>> net = models.small_vgg()
        >>> wrapped = cl.compress(net, 4, init="svd", schedule=cl.LinearDecay(1))
        >>> fig = spectra(spectra_table(net, wrapped), "Spectra")
    """
    require(table, "table", ["layer", "net", "index", "value"])
    layers, nets = list(dict.fromkeys(table["layer"])), list(dict.fromkeys(table["net"]))
    if len(layers) > 9:
        raise ValueError(f"`table` must hold at most nine layers. Received: {layers}. Select some of them.")
    columns = min(3, len(layers))
    lines = -(-len(layers) // columns)
    fig = new_figure(1.2 + 1.55 * lines)
    axes = fig.subplots(lines, columns, squeeze=False)
    styles = [{"color": INK, "linestyle": "-"}, *cycle(len(nets) - 1)]
    for ax in axes.flat[len(layers) :]:
        ax.set_visible(False)
    for ax, layer in zip(axes.flat, layers, strict=False):
        own = table[(table["layer"] == layer) & (table["value"] > 0)]
        for net, style in zip(nets, styles, strict=True):
            rows = own[own["net"] == net]
            every = max(1, len(rows) // 5)
            ax.plot(rows["index"], rows["value"], label=net, **{**style, "markevery": every})
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_minor_locator(NullLocator())
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        # What lies within rounding of 0 would push all else together.
        ax.set_ylim(bottom=max(own["value"].min(), 1e-3 * own["value"].max()))
        ax.set_title(layer)
    for ax in axes[:, 0]:
        ax.set_ylabel("Singular value")
    for column in range(columns):
        below = [ax for ax in axes[:, column] if ax.get_visible()]
        below[-1].set_xlabel("Index")
    shared_legend(fig, [axes.flat[0]], ncols=3)
    set_title(fig, title, subtitle)
    counts = table.groupby(["layer", "net"], sort=False).size()
    said = [f"{layer} " + " and ".join(f"{counts[layer, n]} ({n})" for n in nets) for layer in layers]
    fig.alt_text = f"{title}: number of singular values drawn: {'; '.join(said)}."
    return fig


# --- the study ----------------------------------------------------------------------------------


def conditions(rows: pd.DataFrame) -> str:
    """How rows of the study were made, in words and from the rows alone; for the head of every table.

    Args:
        rows: result rows of the study "vgg16", of one data set, model and recipe.

    Raises:
        ValueError: rows of several of these, or none.

    Example:
        >>> conditions(rows)  # doctest: +SKIP
        'from random initialisation; 5,000 training and 1,000 test images; ...'
    """
    _checks_one(
        rows, "rows", ("dataset", "model", "start", "variant", "precision", "train_size", "test_size")
    )
    first = rows.iloc[0]
    trained = rows.loc[~rows["method"].isin(["dense", "svd"]), "epochs"]
    dense = rows.loc[rows["method"] == "dense", "epochs"]
    slides = 20  # slide 18
    counts = [
        f"{kind} {_range(epochs)}"
        for kind, epochs in (("dense net", dense), ("each compressed net", trained))
        if len(epochs)
    ]
    cut = any(epochs.min() < slides for epochs in (trained, dense) if len(epochs))
    seeds = rows["seed"].nunique()
    parts = [
        models.VGG16_STARTS[first["start"]],
        f"{first['train_size']:,} training and {first['test_size']:,} test images",
        f"epochs: {', '.join(counts)}" + (f" (the slides: {slides})" if cut else ""),
        f"recipe '{first['variant']}'",
        "one seed" if seeds == 1 else f"{seeds} seeds",
        {"float32": "float32", "mixed_bfloat16": "computed in bfloat16"}[first["precision"]],
    ]
    if first["model"] != "vgg16":
        parts.insert(0, f"a small net ({first['model']}) stands in for VGG16")
    return "; ".join(parts)


def _range(values: pd.Series) -> str:
    low, high = values.min(), values.max()
    return f"{low}" if low == high else f"{low} to {high}"


def _checks_one(rows: pd.DataFrame, argument: str, names: Sequence[str]) -> None:
    require(rows, argument, names)
    for name in names:
        values = rows[name].drop_duplicates().tolist()
        if len(values) > 1:
            raise ValueError(
                f"`{argument}` must hold one `{name}`. Received several: {values}. "
                "Select the rows of one first."
            )


def compare(rows: pd.DataFrame, split: str = "test") -> pd.DataFrame:
    """Slide 19's table beside ours: a row for each method, pair of ranks and factorization.

    Args:
        rows: result rows of the study "vgg16", of one data set, model and recipe.
        split: whose accuracy, "test" or "validation".

    Returns:
        Percent and points: method, rank, dense_rank, factorization ("" for the dense net), published,
        published_sd, measured (mean over seeds, of the compressed path), sd (empty for one seed), n, gap
        (from the dense net of the same seeds), ratio, ratio_head, ratio_model (the ways of counting:
        `vgg16.CONVENTIONS`), flops (of the dense net's). The slides' cells stand beside loralib's factors,
        which are theirs; published cells that were not measured are there with an empty `measured`.

    Raises:
        ValueError: rows of several data sets, models or recipes, or no row of the split.

    Example:
        >>> compare(rows)[["method", "rank", "published", "measured"]]  # doctest: +SKIP
    """
    _checks_one(rows, "rows", ("dataset", "model", "start", "variant", "precision"))
    keys = ["method", "rank", "dense_rank", "factorization"]
    rows = rows.assign(factorization=rows["factorization"].fillna(""))
    accuracy = rows[(rows["metric"] == "accuracy") & (rows["split"] == split)]
    if accuracy.empty:
        raise MissingResults(f"`rows` must hold accuracies of the split {split!r}. Received: none.")
    # "compressed" sorts before "trained": the compressed path where there is one.
    accuracy = accuracy.sort_values("view").drop_duplicates("config")
    dense = accuracy[accuracy["method"] == "dense"].set_index("seed")["value"]
    accuracy = accuracy.assign(gap=accuracy["value"] - accuracy["seed"].map(dense))
    grouped = accuracy.groupby(keys)
    table = pd.DataFrame(
        {
            "measured": 100 * grouped["value"].mean(),
            "sd": 100 * grouped["value"].std(),
            "n": grouped.size(),
            "gap": 100 * grouped["gap"].mean(),
        }
    )
    metrics = {
        "ratio": "ratio_percent",
        "ratio_head": "ratio_head_percent",
        "ratio_model": "ratio_model_percent",
        "flops": "flops_percent",
    }
    for column, metric in metrics.items():
        table[column] = rows[rows["metric"] == metric].groupby(keys)["value"].mean()
    slides = published.load("vgg16").rename(columns={"conv_rank": "rank"})
    slides["factorization"] = np.where(slides["method"] == "original", "", "loralib")
    slides = slides.replace({"method": {"original": "dense"}}).fillna({"rank": 0, "dense_rank": 0})
    slides = slides.astype({"rank": "int64", "dense_rank": "int64"}).set_index(keys)
    slides = slides[["accuracy_percent", "accuracy_sd", "ratio_percent"]]
    slides.columns = ["published", "published_sd", "published_ratio"]
    table = slides.join(table, how="outer").reset_index()
    order = {name: i for i, name in enumerate((*METHOD_LABELS, "", *FACTORIZATION_LABELS))}
    ranked = {"method": order, "factorization": order}
    table = table.sort_values(
        ["rank", "dense_rank", "factorization", "method"],
        key=lambda column: column.map(ranked[column.name]) if column.name in ranked else column,
    )
    table["n"] = table["n"].astype("Int64")
    return table.reset_index(drop=True)


def comparison_table(rows: pd.DataFrame, split: str = "test") -> Figure:
    """Slide 19's table, typeset: published, and measured with each factorization; baselines below.

    Args:
        rows: result rows of the study "vgg16", of one data set, model and recipe.
        split: whose accuracy.

    Raises:
        ValueError: as `compare`.

    Example:
        >>> fig = comparison_table(rows)  # doctest: +SKIP
    """
    table = compare(rows, split)
    name = dataset_label(rows["dataset"].iloc[0])
    measured = table[table["measured"].notna()]
    ranks = measured.loc[measured["rank"] > 0, ["rank", "dense_rank"]].drop_duplicates()
    methods = [method for method in SLIDE_METHODS if (measured["method"] == method).any()]
    baselines = [method for method in BASELINES if (measured["method"] == method).any()]

    def cells(part, names, value, spread):
        part = part.set_index("method")
        return [_plus_minus(part, name, value, spread) for name in names]

    lines = []
    dense = table[table["method"] == "dense"].iloc[0]
    for label, value in (("published", dense["published"]), ("measured", dense["measured"])):
        text = f"{value:.2f}" if np.isfinite(value) else "–"
        lines.append({"cells": ["dense" if label == "published" else "", "", label, text], "across": True})
    for rank, dense_rank in ranks.itertuples(index=False):
        here = table[(table["rank"] == rank) & (table["dense_rank"] == dense_rank)]
        loralib = here[here["factorization"] == "loralib"]
        start = [f"{rank} / {dense_rank}", _one(loralib["published_ratio"])]
        rule = "thin"
        if loralib["published"].notna().any():
            published_cells = cells(loralib, methods, "published", "published_sd")
            lines.append({"cells": [*start, "published", *published_cells], "rule": rule})
            start, rule = ["", ""], None
        for factorization in FACTORIZATION_LABELS:
            part = here[(here["factorization"] == factorization) & here["measured"].notna()]
            own = part[part["method"].isin(methods)]
            if len(own):
                start[1] = f"{own['ratio'].iloc[0]:.2f}"
                short = factorization.replace("_", " ")
                cells_ = [*start, short, *cells(own, methods, "measured", "sd")]
                lines.append({"cells": cells_} | ({"rule": rule} if rule else {}))
                start, rule = ["", ""], None
    if baselines:
        head = ["Baselines", "", "", *(_short(m) for m in baselines)]
        lines.append({"cells": head, "head": True})
        chosen = measured[measured["method"].isin(baselines)]
        for (rank, dense_rank, factorization), part in chosen.groupby(
            ["rank", "dense_rank", "factorization"]
        ):
            ratio = f"{part['ratio'].iloc[0]:.2f}"
            start = [f"{rank} / {dense_rank}", ratio, factorization.replace("_", " ")]
            lines.append({"cells": [*start, *cells(part, baselines, "measured", "sd")]})
    head = ["Ranks", "Ratio\n(%)", "", *(_short(m) for m in methods)]
    title = f"Published and measured {split} accuracy (%): {_net(rows)} on {name}"
    comparable = rows["model"].iloc[0] == "vgg16" and rows["dataset"].iloc[0].startswith("cifar10")
    remark = "" if comparable else "; published: VGG16 on CIFAR-10, not comparable"
    counted = "Ranks: of convolutions / dense layers; ratio: the slides' count without the output layer"
    subtitle = f"Measured {conditions(rows)}\n{counted}{remark}"
    fig = slide_table(head, lines, title, subtitle, left=3)
    best = measured[~measured["method"].isin(["dense"])]
    if len(best):
        top = best.loc[best["measured"].idxmax()]
        fig.alt_text = (
            f"{title}, measured {conditions(rows)}: dense {dense['measured']:.2f} (published "
            f"{dense['published']:.2f}); the best compressed net is {method_label(top['method'])}, ranks "
            f"{top['rank']}/{top['dense_rank']}, {FACTORIZATION_LABELS[top['factorization']]}, with "
            f"{top['measured']:.2f}. {fig.alt_text}"
        )
    return fig


def _short(method: str) -> str:
    labels = {"bias": "Bias", "noise": "Noise", "noise_bias": "Noise & bias"}
    labels |= {"svd_finetune": "SVD then\nfine-tuning", "scratch": "Low-rank\nfrom scratch"}
    return labels.get(method, method_label(method).replace(", ", ",\n"))


def _net(rows: pd.DataFrame) -> str:
    return "VGG16" if rows["model"].iloc[0] == "vgg16" else "a small VGG"


def _one(values: pd.Series) -> str:
    values = values.dropna()
    return f"{values.iloc[0]:.2f}" if len(values) else ""


def _plus_minus(part: pd.DataFrame, name: str, value: str, spread: str) -> str:
    if name not in part.index or not np.isfinite(part.loc[name, value]):
        return "–"
    sd = part.loc[name, spread]
    return f"{part.loc[name, value]:.2f}" + (f" ± {sd:.2f}" if np.isfinite(sd) else "")


@styled
def accuracy_against_flops(rows: pd.DataFrame, split: str = "test") -> Figure:
    """Each compressed net's accuracy against the work that it needs; the factorization as marker.

    Args:
        rows: result rows of the study "vgg16", of one data set, model and recipe.
        split: whose accuracy.

    Raises:
        ValueError: as `compare`.
        MissingResults: no compressed net was measured.

    Example:
        >>> fig = accuracy_against_flops(rows)  # doctest: +SKIP
    """
    table = compare(rows, split)
    points = table[table["measured"].notna() & (table["method"] != "dense")]
    if points.empty:
        raise MissingResults("`rows` must hold a compressed net. Received: the dense net alone.")
    fig = new_figure(4.2)
    ax = fig.subplots()
    for dense in table.loc[(table["method"] == "dense") & table["measured"].notna(), "measured"]:
        ax.axhline(dense, color=INK, linewidth=1.4, label="Dense, 100% of the FLOPs")
    methods = [name for name in METHOD_LABELS if (points["method"] == name).any()]
    for index, method in enumerate(methods):
        # Nets of one factorization and rank have the same FLOPs: side by side, a few points of print apart.
        aside = ScaledTranslation((index - (len(methods) - 1) / 2) * 7 / 72, 0, fig.dpi_scale_trans)
        mine = points[points["method"] == method]
        for factorization in [name for name in MARKERS if (mine["factorization"] == name).any()]:
            own = mine[mine["factorization"] == factorization]
            look = {
                "marker": MARKERS[factorization],
                "color": METHOD_STYLES[method]["color"],
                "markersize": 7,
            }
            ax.plot(own["flops"], own["measured"], linestyle="", transform=ax.transData + aside, **look)
        ax.plot(
            [], [], linestyle="", marker="s", color=METHOD_STYLES[method]["color"], label=method_label(method)
        )
    for name, marker in MARKERS.items():
        if (points["factorization"] == name).any():
            look = {"marker": marker, "markerfacecolor": "white", "markeredgecolor": INK}
            ax.plot([], [], linestyle="", label=FACTORIZATION_LABELS[name], **look)
    ax.set(
        xlabel="FLOPs of a forward pass (% of the dense net's; equal ones side by side)",
        ylabel="Accuracy (%)",
    )
    low, high = table["measured"].min(), table["measured"].max()
    ax.set_ylim(low - 0.08 * (high - low) - 0.5, high + 0.08 * (high - low) + 0.5)
    ax.set_xlim(0, max(105.0, 1.02 * points["flops"].max()))
    ax.xaxis.set_major_formatter(PercentFormatter(100, decimals=0, symbol=""))
    shared_legend(fig, [ax], ncols=2)
    name = dataset_label(rows["dataset"].iloc[0])
    title = f"{split.capitalize()} accuracy against work: {_net(rows)} on {name}"
    set_title(fig, title, f"Measured {conditions(rows)}")
    said = [
        f"{FACTORIZATION_LABELS[name]}: {own['flops'].min():.1f} to {own['flops'].max():.1f}% of the FLOPs, "
        f"{own['measured'].min():.1f} to {own['measured'].max():.1f}% accurate"
        for name in MARKERS
        if len(own := points[points["factorization"] == name])
    ]
    fig.alt_text = f"{title}: {'; '.join(said)}."
    return fig
