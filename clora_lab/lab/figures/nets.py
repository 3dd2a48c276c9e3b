"""What is in a net: where its parameters are, its filters, spectra of its kernels, what attends to what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import keras
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

import clora_lab as cl
from clora_lab.lab.figures import marks, style
from clora_lab.lab.figures.style import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    PINK,
    new_figure,
    set_title,
    shared_legend,
    styled,
)
from clora_lab.lab.frames import require

PART_LOOKS = {
    name: {"color": color, "hatch": hatch, "alpha": 0.75, "edgecolor": "white"}
    for name, color, hatch in (
        ("embeddings", GREY, ""),
        ("attention", BLUE, "///"),
        ("feed-forward", ORANGE, "..."),
        ("layer norms", PINK, ""),
        ("pooler", GREEN, "xx"),
    )
}
MAX_TOKENS = 24  # on an axis; more could not be read


# --- where the parameters are -------------------------------------------------------------------


@styled
def where_parameters(
    nets: Mapping[str, Mapping[str, pd.Series]], title: str, subtitle: str = "", least: float = 8.0
) -> Figure:
    """Parameters by part, a bar for each state of each net, in percent of the net's first state.

    Args:
        nets: name of the net -> state ("before", "rank 16") -> parameters, indexed by `PART_LOOKS`.
        title, subtitle: texts.
        least: percent below which a part has no number.

    Example:
        >>> before = pd.Series({"embeddings": 60, "attention": 40})
        >>> states = {"before": before, "after": before - [0, 20]}
        >>> where_parameters({"Net": states}, "Where").alt_text
        'Where: Net of 100, attention 40.0% before, then 80.0% are left.'
    """
    shares, said = {}, []
    for name, states in nets.items():
        first, *_, last = states.values()
        whole = first.sum()
        shares |= {f"{name}\n{state}": 100 * counts / whole for state, counts in states.items()}
        said.append(
            f"{name} of {whole:,}, attention {100 * first['attention'] / whole:.1f}% before, "
            f"then {100 * last.sum() / whole:.1f}% are left"
        )
    frame = pd.DataFrame(shares).T
    fig = new_figure(3.5)
    ax = fig.subplots()
    marks.draw_bars(
        ax, frame, [PART_LOOKS[part] for part in frame], across=True, stacked=True,
        width=0.66, written=lambda share: f"{share:.1f}" if share > least else "",
    )  # fmt: skip
    for place, total in enumerate(frame.sum(axis=1)):
        ax.text(total + 0.8, place, f"{total:.1f}%", va="center", weight="bold")
    ax.set(xlabel="Parameters (% of the original backbone)", xlim=(0, 112))
    ax.set_xticks(range(0, 101, 20))
    shared_legend(fig, [ax], ncols=3)
    set_title(fig, title, subtitle)
    fig.alt_text = f"{title}: {'; '.join(said)}."
    return fig


# --- kernels ------------------------------------------------------------------------------------


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
                marks.draw_image(ax, np.clip(0.5 + part / (2 * limit), 0, 1))
            else:
                marks.draw_image(ax, part, limit)
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
        >>> from clora_lab.lab.nets import registry
        >>> net = registry.find("small_vgg")()
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
        >>> from clora_lab.lab.nets import registry
        >>> net = registry.find("small_vgg")()
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
        >>> from clora_lab.lab.nets import registry
        >>> net = registry.find("small_vgg")()
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
    looks = [{"color": INK, "linestyle": "-"}, *style.cycle(len(nets) - 1)]
    for ax in axes.flat[len(layers) :]:
        ax.set_visible(False)
    for ax, layer in zip(axes.flat, layers, strict=False):
        own = table[(table["layer"] == layer) & (table["value"] > 0)]
        for net, look in zip(nets, looks, strict=True):
            rows = own[own["net"] == net]
            marks.draw_curve(ax, rows.set_index("index")["value"], net, look, markers=5)
        ax.set_yscale("log")
        style.log_axis(ax.yaxis)
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


# --- what attends to what -----------------------------------------------------------------------


@styled
def attention_maps(
    maps: Mapping[str, np.ndarray],
    tokens: Sequence[str],
    heads: Sequence[tuple[int, int]],
    title: str,
    subtitle: str = "",
) -> Figure:
    """What attends to what in one text: a column a net, a line a head; dark is much.

    Args:
        maps: name of the net -> shape (blocks, heads, T, T), T at least the number of tokens.
        tokens: of the text, [CLS] and [SEP] included, without padding; at most `MAX_TOKENS`.
        heads: (block, head) of each line; at most four.
        title, subtitle: texts.

    Raises:
        ValueError: no maps, maps of several shapes, a head that is not there, or too many tokens or heads.

    Example:
        >>> uniform = np.full((1, 1, 3, 3), 1 / 3)
        >>> fig = attention_maps({"dense": uniform}, ["[CLS]", "good", "[SEP]"], [(0, 0)], "Attention")
    """
    arrays = {name: np.asarray(array) for name, array in maps.items()}
    found = {array.shape for array in arrays.values()}
    shape = found.pop() if len(found) == 1 else ()
    if len(shape) != 4 or len(arrays) > 3:
        raise ValueError(
            "`maps` must hold one to three arrays of one shape (blocks, heads, T, T). Received the shapes: "
            f"{[array.shape for array in arrays.values()]}. Choose one text."
        )
    count = len(tokens)
    if not 1 <= count <= min(MAX_TOKENS, shape[-1]):
        raise ValueError(
            f"`tokens` must be 1 to {min(MAX_TOKENS, shape[-1])} tokens. Received: {count}. "
            "Take a shorter text."
        )
    wrong = [head for head in heads if not (0 <= head[0] < shape[0] and 0 <= head[1] < shape[1])]
    if wrong or not 1 <= len(heads) <= 4:
        raise ValueError(
            f"`heads` must be one to four (block, head) below {shape[:2]}. Received: {list(heads)}."
        )
    side = min(0.16 * count + 0.25, 4.75 / len(arrays))  # inches; names, labels and scale take the rest
    fig = new_figure(0.75 + len(heads) * (side + 0.3) + 0.75)
    axes = fig.subplots(len(heads), len(arrays), squeeze=False, sharex=True, sharey=True)
    limit = max(
        array[block, head, :count, :count].max() for array in arrays.values() for block, head in heads
    )
    said = []
    for line, (block, head) in zip(axes, heads, strict=True):
        for ax, (name, array) in zip(line, arrays.items(), strict=True):
            shown = array[block, head, :count, :count]
            image = marks.draw_image(ax, shown, cmap="Blues", vmin=0, vmax=limit)
            ax.set_title(f"{name}: block {block}, head {head}")
            query, key = np.unravel_index(shown.argmax(), shown.shape)
            said.append(
                f"{name}, block {block}, head {head}: most, {shown.max():.2f}, from {tokens[query]!r} to "
                f"{tokens[key]!r}"
            )
    for ax in axes[:, 0]:
        ax.set_yticks(range(count), tokens)
        ax.set_ylabel("token that looks")
    for ax in axes[-1]:
        ax.set_xticks(range(count), tokens, rotation=90)
        ax.set_xlabel("token looked at")
    bar = fig.colorbar(image, ax=axes, shrink=0.6, label="Share of a token's attention (%)")
    style.percent_axis(bar.ax.yaxis)
    set_title(fig, title, subtitle)
    fig.alt_text = f"{title}, {count} tokens: {'; '.join(said)}."
    return fig
