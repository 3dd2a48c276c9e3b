"""Widget 3: a rank against size, FLOPs, spectrum and the energy of W that is kept."""

from __future__ import annotations

import dataclasses
import html
import math
from collections.abc import Mapping, Sequence

import ipywidgets
import keras
import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

import clora_lab as cl
from clora_lab import _checks, accounting, graph, rules, targets
from clora_lab.course.widgets.frame import (
    Explorer,
    Reading,
    draw_legend,
    dropdown,
    html_table,
    make_control,
    still_figure,
    write_title,
)
from clora_lab.lab.figures import marks, style
from clora_lab.lab.figures.style import BLUE, FAINT, GREY, INK, ORANGE, RED
from clora_lab.lab.frames import per_cent

HEIGHT = 5.0
WHOLE = "(whole model)"


@dataclasses.dataclass(frozen=True)
class LayerFacts:
    """All that the rank of one layer is chosen by.

    Args:
        name: the layer's path.
        rule: its `clora_lab.rules.Rule`.
        parameters: of the layer as it is, its bias included.
        bias: number of elements of its bias, 0 if it has none.
        flops: 2 x multiply-adds of one example.
        output_shape: of the layer, None where a size is not known.
        output: whether the layer makes the model's output (it is compressed only when it is named).
        singular: the singular values of its matrix, falling, in units of a weight.
    """

    name: str
    rule: rules.Rule
    parameters: int
    bias: int
    flops: int
    output_shape: tuple
    output: bool
    singular: np.ndarray

    def kept(self, rank: int) -> float:
        """Share of the squared singular values, the energy of W, that the best pair of a rank keeps."""
        energy = self.singular**2
        return float(energy[: self.rule.inner(rank)].sum() / (energy.sum() or 1.0))

    def cost(self, rank: int) -> rules.Cost:
        """What the factors of a rank store and compute."""
        return self.rule.cost(rank, self.output_shape)


@dataclasses.dataclass(frozen=True)
class ModelFacts:
    """The layers of a model that can be factored, by name, and the parameters of the whole."""

    name: str
    layers: dict[str, LayerFacts]
    parameters: int
    output_parameters: int

    def chosen(self, layer: str = WHOLE) -> list[LayerFacts]:
        """One layer, or all that `clora_lab.compress` takes by itself (not the output layer)."""
        if layer == WHOLE:
            return [facts for facts in self.layers.values() if not facts.output]
        return [self.layers[_checks.one_of("layer", layer, self.layers)]]


def layer_facts(model: keras.Model, factorization: str = "pair") -> ModelFacts:
    """Read a model once: one singular value decomposition a layer, after which every rank is arithmetic.

    Args:
        model: a built Sequential or Functional model, not compressed.
        factorization: for Conv2D, "pair" or "loralib".

    Raises:
        ValueError: if the model is not built, or no layer of it but the output can be factored.
    """
    graph.check_model(model)
    outputs = graph.output_layers(model)
    paths = dict(graph.walk(model))
    targets.choose(model, paths, None, factorization)
    found = {}
    for path, layer in paths.items():
        if not rules.supported(layer, factorization):
            continue
        rule = rules.rule(layer, factorization)
        kernel = keras.ops.convert_to_numpy(layer.kernel)
        found[path] = LayerFacts(
            name=path,
            rule=rule,
            parameters=layer.count_params(),
            bias=0 if layer.bias is None else math.prod(layer.bias.shape),
            flops=accounting.flops(layer),
            output_shape=accounting.output_shape(layer),
            output=id(layer) in outputs,
            singular=np.linalg.svd(rule.to_matrix(kernel), compute_uv=False).astype("float64"),
        )
    return ModelFacts(
        name=model.name,
        layers=found,
        parameters=model.count_params(),
        output_parameters=sum(p.count_params() for p in paths.values() if id(p) in outputs),
    )


def rank_table(facts: ModelFacts, rank: int, layer: str = WHOLE, keep_bias: bool = True) -> pd.DataFrame:
    """What a rank stores, computes and keeps: one row a compressed layer, their sum last.

    Args:
        facts: of `layer_facts`.
        rank: of every pair.
        layer: a layer's name, or `WHOLE`.
        keep_bias: whether each pair gets a bias, as the methods "bias" and "noise_bias" do.

    Returns:
        A data frame with the columns layer, max_rank, break_even_rank, original_parameters, parameters,
        original_flops, flops, energy_kept (fraction of the squared singular values; of the sum: of all).

    Raises:
        ValueError: if a layer does not allow the rank; the message names the limit.

    Example:
        >>> facts = layer_facts(toy_mlp())  # doctest: +SKIP
        >>> rank_table(facts, 16)["parameters"].tolist()  # doctest: +SKIP
        [16896, 6272, 23168]
    """
    chosen = facts.chosen(layer)
    for each in chosen:
        rules.check_rank(each.rule, rank)
    rows = [
        {
            "layer": each.name,
            "max_rank": each.rule.max_rank,
            "break_even_rank": each.rule.break_even_rank,
            "original_parameters": each.parameters,
            "parameters": each.cost(rank).stored + keep_bias * math.prod(each.rule.bias_shape),
            "original_flops": each.flops,
            "flops": each.cost(rank).flops,
            "energy_kept": each.kept(rank),
        }
        for each in chosen
    ]
    frame = pd.DataFrame(rows)
    total = frame[["original_parameters", "parameters", "original_flops", "flops"]].sum()
    energy = np.array([(each.singular**2).sum() for each in chosen])
    total = {
        "layer": "sum",
        "max_rank": int(frame["max_rank"].min()),
        "break_even_rank": _break_even(chosen),
        **total.astype("int64").to_dict(),
        "energy_kept": float(energy @ frame["energy_kept"] / (energy.sum() or 1.0)),
    }
    return pd.concat([frame, pd.DataFrame([total])], ignore_index=True)[list(frame.columns)]


def _break_even(chosen: Sequence[LayerFacts]) -> int:
    """The smallest rank at which the pairs together are no smaller than the kernels."""
    kernels = sum(each.rule.kernel_size for each in chosen)
    return math.ceil(kernels / sum(each.rule.parameters(1) for each in chosen))


def rank_ratios(facts: ModelFacts, rank: int, layer: str = WHOLE, keep_bias: bool = True) -> dict[str, float]:
    """The compression ratio under each convention of `clora_lab.CONVENTIONS`, as fractions.

    The same as `clora_lab.ratio` of the compressed model, which need not be made for it.

    Args: see `rank_table`.
    """
    total = rank_table(facts, rank, layer, keep_bias).iloc[-1]
    left, before = int(total["parameters"]), int(total["original_parameters"])
    counted = left
    if not keep_bias:  # the slides count a bias for each compressed layer that had one
        counted += sum(each.bias for each in facts.chosen(layer))
    return {
        "slides": counted / facts.parameters,
        "slides_head": (counted + facts.output_parameters) / facts.parameters,
        "model": (facts.parameters - before + left) / facts.parameters,
        "layers": left / before,
    }


def _rank_view(fig, facts, layer=WHOLE, rank=16, keep_bias=True):
    table, ratios = (f(facts, rank, layer, keep_bias) for f in (rank_table, rank_ratios))
    chosen, total = facts.chosen(layer), table.iloc[-1]
    space = {"left": 0.11, "right": 0.97, "top": 0.87, "bottom": 0.18, "hspace": 0.6, "wspace": 0.44}
    (spectrum, energy), (size, bars) = fig.subplots(2, 2, gridspec_kw=space)
    for each, look in zip(chosen, _layer_styles(len(chosen)), strict=True):
        ranks = np.arange(1, len(each.singular) + 1) / each.rule.inner(1)
        kept = np.cumsum(each.singular**2) / ((each.singular**2).sum() or 1.0)
        marks.draw_curve(spectrum, pd.Series(each.singular, ranks), each.name, look)
        marks.draw_curve(energy, pd.Series(100 * kept, ranks), each.name, look)
    spectrum.set(title="Singular values of W", ylabel="Units of weight")
    energy.set(title="Energy of W that is kept", ylabel="Percent", ylim=(0, 104))
    energy.yaxis.set_major_locator(FixedLocator([0, 25, 50, 75, 100]))
    most, even = int(total["max_rank"]), int(total["break_even_rank"])
    ends = np.array([0, max(most, math.ceil(1.15 * even))])
    pairs = ends * sum(each.rule.parameters(1) for each in chosen)
    size.plot(ends, pairs, color=RED, label="pair (B·A)")
    size.axhline(sum(each.rule.kernel_size for each in chosen), color=INK, label="W")
    size.plot([even], [even * pairs[1] / ends[1]], marker="o", color=INK, linestyle="")
    place = {"xycoords": "axes fraction", "va": "top", "bbox": {"facecolor": "white", "lw": 0, "pad": 1}}
    size.annotate(f"break-even: rank {even}", (0.03, 0.97), **place)
    size.axvline(even, color=FAINT, linestyle=":", linewidth=1.4)
    size.set(title="Parameters of kernels", xlim=ends, ylim=(0, 1.35 * pairs[1]))
    size.yaxis.set_major_formatter(FuncFormatter(_thousands))
    for ax in (spectrum, energy, size):
        ax.axvline(rank, color=RED, linewidth=1.2, linestyle="--")
        ax.set_xlabel("Rank r")
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    for ax in (spectrum, size):
        ax.yaxis.set_major_locator(MaxNLocator(4))
    spectrum.set_ylim(bottom=0)
    _ratio_bars(bars, ratios)
    draw_legend(fig, [spectrum, size], ncols=4)
    where = f"all layers of {facts.name}" if layer == WHOLE else f"layer {layer} of {facts.name}"
    title = f"Rank {rank} for {where}"
    write_title(fig, title)
    fig.alt_text = (
        f"{title}: {total['parameters']:,} of {total['original_parameters']:,} parameters, "
        f"{per_cent(total['energy_kept'])} of the energy kept, break-even at rank {even}; ratio "
        + ", ".join(f"{name} {per_cent(value)}" for name, value in ratios.items())
    ) + "."
    over = rank >= even
    remark = f"At rank {rank} the pairs are no smaller than W: choose a rank below {even}." if over else ""
    return Reading(_rank_text(table, facts), remark)


def _layer_styles(count: int) -> list[dict]:
    if count <= 6:
        return [{**look, "marker": ""} for look in style.cycle(count)]
    colors = mpl.colormaps["viridis"](np.linspace(0, 0.9, count))
    return [{"color": color, "linewidth": 1.2} for color in colors]


def _thousands(value: float, position=None) -> str:
    for unit, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= unit:
            return f"{value / unit:g}{letter}"
    return f"{value:g}"


def _ratio_bars(ax: Axes, ratios: Mapping[str, float]) -> None:
    frame = 100 * pd.DataFrame({"ratio": ratios})
    look = {"color": [INK, GREY, ORANGE, BLUE], "alpha": 0.75}
    marks.draw_bars(ax, frame, [look], written=lambda value: f"{value:.2f}%", across=True, width=0.66)
    ax.axvline(100, color=FAINT, linewidth=1)
    limit = 1.32 * max(100.0, frame["ratio"].max())
    ax.set(title="Ratio, by convention", xlim=(0, limit), xlabel="Percent of the original")


def _rank_text(table: pd.DataFrame, facts: ModelFacts) -> str:
    shown = pd.DataFrame({"layer": table["layer"]})
    shown["largest rank"] = table["max_rank"]
    shown["break-even rank"] = table["break_even_rank"]
    for name, label in (("parameters", "parameters"), ("flops", "FLOPs an example")):
        before, after = table[f"original_{name}"], table[name]
        shown[label] = [f"{b:,} → {a:,}" for b, a in zip(before, after, strict=True)]
    shown["energy kept"] = table["energy_kept"].map(per_cent)
    meanings = "; ".join(f"<b>{n}</b>: {html.escape(t)}" for n, t in cl.CONVENTIONS.items())
    return (
        f"{html_table(shown)}<p>{html.escape(facts.name)}: {facts.parameters:,} parameters in all.</p>"
        f"<details><summary>What the four ratios count</summary>{meanings}.</details>"
    )


def rank_explorer(model: keras.Model, factorization: str = "pair") -> Explorer:
    """Widget 3: a layer or the whole model and a rank against size, FLOPs, spectrum and energy kept.

    The ratio is shown under each convention of `clora_lab.CONVENTIONS`, the break-even rank is marked.

    Args: see `layer_facts`.

    Example:
        >>> widget = rank_explorer(keras.Sequential(
        ...     [keras.Input((64,)), keras.layers.Dense(32), keras.layers.Dense(10)]))
        >>> widget.controls["rank"].value = 4
    """
    facts = layer_facts(model, factorization)
    largest = max(each.rule.max_rank for each in facts.layers.values())
    controls = {
        "layer": dropdown("layer", WHOLE, [WHOLE, *facts.layers]),
        "rank": make_control(ipywidgets.IntSlider, "rank r", _first_rank(facts), min=0, max=largest + 4),
        "keep_bias": make_control(ipywidgets.Checkbox, "keep a bias c", True),
    }

    def view(fig, **settings):
        return _rank_view(fig, facts, **settings)

    return Explorer(view, controls, 5.0)


def _first_rank(facts: ModelFacts) -> int:
    return min(16, *(each.rule.max_rank for each in facts.chosen()), _break_even(facts.chosen()))


def rank_explorer_static(model: keras.Model, rank: int | None = None, factorization: str = "pair") -> Figure:
    """The picture of `rank_explorer` for the whole model, as a figure."""
    facts = layer_facts(model, factorization)
    return still_figure(_rank_view, 5.0, facts=facts, rank=rank or _first_rank(facts))
