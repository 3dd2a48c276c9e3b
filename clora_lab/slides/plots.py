"""Plots of what the slides print or draw: slides 6, 8, 12, 13, 14, 16, 18 and 24.

Companions of `drawings` (the slides' own pictures); `figures` lists them all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from scipy.stats import norm

from clora_lab import _checks, methods
from clora_lab.lab.figures import laws, marks, style, training
from clora_lab.lab.figures.style import (
    BLUE,
    GREEN,
    INK,
    ORANGE,
    RED,
    new_figure,
    set_title,
    shared_legend,
    styled,
)
from clora_lab.lab.frames import (
    MissingResults,
    one_dataset,
    per_cent,
    remedy,
    require,
    seeds_in_words,
    signed,
    subtitle_of,
    wanted_runs,
)
from clora_lab.slides import shapes

FOUR = methods.names("slides")
# Slide 12 prints this note into its plot; 'change' is against the network before the decay.
READING = {"epoch": 20, "decay": 0.23, "accuracy": 0.8007, "change": -0.092}
NOISE_CASES = {  # of slide 15: (method, variant); the variants of another recipe take the place of these
    "Only WDS": ("wds", "slides"),
    "Noise & bias\nuntil the end": ("noise_bias", "noise_to_end"),
    "Scheduled\nnoise & bias": ("noise_bias", "slides"),
}
STAGES = (1.0, 0.66, 0.33, 0.0)  # the decays that slides 8 and 13 draw
PATHS = {  # what is evaluated: history column, colour, hatch
    "original path, d·(W·x + b)": ("val_original_accuracy", BLUE, ""),
    "adapter path, B·A": ("val_compressed_accuracy", ORANGE, "///"),
    "both, what trains": ("val_accuracy", GREEN, "..."),
}


@styled
def trained_parameters(ranks: Sequence[int] = (16, 32, 64)) -> Figure:
    """Slide 6 counted: what fine-tuning and LoRA train of the toy net's two hidden layers.

    Fine-tuning trains the kernels and biases, LoRA the pairs, r·(k + d) for a kernel of shape (k, d).

    Args:
        ranks: r of both pairs.

    Raises:
        ValueError: a rank below 1.

    Example:
        >>> trained_parameters([16]).alt_text[-54:]
        'fine-tuning trains 233,856 parameters, rank 16 22,784.'
    """
    full = shapes.total(shapes.TOY_WRAPPED)
    counts = {f"LoRA, r = {rank}": shapes.remaining(shapes.TOY_WRAPPED, rank, bias=False) for rank in ranks}
    frame = pd.DataFrame({"trained": {"Fine-tuning": full, **counts}})
    fig = new_figure(0.9 + 0.4 * len(frame))
    ax = fig.subplots()
    marks.draw_bars(
        ax, frame, [{"color": [BLUE] + [ORANGE] * len(counts), "edgecolor": INK}], across=True, width=0.66,
        written=lambda n: f"{n:,}" + (f" ({100 * n / full:.1f}%)" if n != full else ""),
    )  # fmt: skip
    ax.set(xlabel="Trained parameters", xlim=(0, 1.2 * full))
    ax.xaxis.set_major_locator(MaxNLocator(4))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    title = "What is trained: the toy net's two hidden layers"
    set_title(fig, title, "Counted from the shapes 784 × 256 and 256 × 128")
    spoken = ", ".join(f"rank {rank} {n:,}" for rank, n in zip(ranks, counts.values(), strict=True))
    fig.alt_text = f"{title}: fine-tuning trains {full:,} parameters, {spoken}."
    return fig


@styled
def stage_accuracies(
    history: pd.DataFrame, method: str = "wds", rank: int = 16, variant: str = "slides"
) -> Figure:
    """Slides 8 and 13 measured: what each path knows at the four stages of the decay.

    For each stage the epoch is taken whose decay is nearest to the drawn one, d = 1, 0.66, 0.33, 0 (the last
    epoch at 0). The bars are validation accuracies, means over the seeds.

    Args:
        history: a row an epoch with the validation accuracies of the three views (fractions).
        method, rank, variant: which runs.

    Raises:
        MissingResults: no such run, or only one view was recorded; one missing view is named in the subtitle.

    Example:
        >>> fig = stage_accuracies(history, method="noise_bias", rank=16)  # doctest: +SKIP
    """
    columns = [column for column, _, _ in PATHS.values()]
    base = ["dataset", "method", "rank", "variant", "seed", "epoch", "decay"]
    require(history, "history", [*base, *columns])
    rows = wanted_runs(history, method=method, rank=rank, variant=variant)
    means = rows.groupby("epoch")[["decay", *columns]].mean()
    paths = {label: path for label, path in PATHS.items() if means[path[0]].notna().any()}
    if len(paths) < 2:
        raise MissingResults(
            f"`history` must hold values of at least two of {columns} for method={method!r}, rank={rank}. "
            f"Received: {[path[0] for path in paths.values()]}. {remedy(history)}"
        )
    epochs = [(means["decay"] - stage).abs().iloc[::-1].idxmin() if stage < 1 else 0 for stage in STAGES]
    epochs[-1] = means.index[-1]
    stages = means.loc[epochs]
    ticks = [f"d = {d:.2f}\nepoch {e}" for e, d in zip(epochs, stages["decay"], strict=True)]
    frame = pd.DataFrame({label: stages[path[0]].to_numpy() for label, path in paths.items()}, index=ticks)
    looks = [
        {"color": color, "hatch": hatch, "edgecolor": INK, "linewidth": 0.8}
        for _, color, hatch in paths.values()
    ]
    fig = new_figure(3.3)
    ax = fig.subplots()
    marks.draw_bars(ax, frame, looks, percent=True, written=lambda value: f"{100 * value:.0f}")
    ax.set(ylabel="Validation accuracy (%)", ylim=(0, 1))
    shared_legend(fig, [ax], ncols=3)
    title = f"What each path knows: {methods.label(method)}, rank {rank}, {one_dataset(rows, 'history')}"
    count = rows["seed"].nunique()
    missing = [label for label in PATHS if label not in paths]
    set_title(
        fig,
        title,
        subtitle_of(f"mean of {count} seeds" if count > 1 else seeds_in_words(rows), missing=missing),
    )
    said = "; ".join(
        f"d = {stage['decay']:.2f}: "
        + ", ".join(f"{label.split(',')[0]} {per_cent(stage[path[0]])}" for label, path in paths.items())
        for _, stage in stages.iterrows()
    )
    fig.alt_text = f"{title}; validation accuracy at {said}."
    return fig


def path_accuracies(history: pd.DataFrame, method: str = "wds", rank: int = 16, **options) -> Figure:
    """Slide 12 measured, see `training.path_accuracies`; the slide's own reading marked on the slides' data.

    Args:
        history, method, rank, **options: as there.

    Example:
        >>> fig = path_accuracies(history, rank=16)  # doctest: +SKIP
    """
    same = isinstance(history, pd.DataFrame) and set(history.get("dataset", ())) == {"fashion_mnist"}
    label = f"Slide 12, d = {READING['decay']}: {per_cent(READING['accuracy'])} "
    label += f"({signed(100 * READING['change'], 1)} points)"
    printed = READING | {"label": label} if same else None
    return training.path_accuracies(history, method, rank, printed=printed, **options)


def noise_variants(
    history: pd.DataFrame, rank: int = 16, variant: str = "slides", to_end: str = "noise_to_end"
) -> Figure:
    """Slide 15: loss and accuracy of Only WDS, and of noise and bias until the end or scheduled.

    Args:
        history: a row an epoch.
        rank: rank of the three runs.
        variant: their recipe.
        to_end: the same without a cut-off of the noise at d < 0.3.

    Raises:
        MissingResults: if none of the three is there; one or two missing are named in the subtitle.

    Example:
        >>> fig = noise_variants(history, rank=16)  # doctest: +SKIP
    """
    names = {"slides": variant, "noise_to_end": to_end}
    cases = {label: (method, names[recipe]) for label, (method, recipe) in NOISE_CASES.items()}
    return training.variant_curves(history, cases, rank, "Noise scheduled or until the end")


@styled
def slide_reading(note: Mapping, original: float, epochs: int = 30) -> Figure:
    """Slide 12 as printed: the one point of its curve that the slide reads off.

    Args:
        note: 'epoch', 'decay', 'accuracy' (fraction), 'change' (fraction, as the slide states it).
        original: accuracy of the uncompressed net that the slides print, a fraction.
        epochs: of the training, for the axis.

    Raises:
        ValueError: an entry of `note` is missing.

    Example:
        >>> note = {"epoch": 20, "decay": 0.23, "accuracy": 0.8007, "change": -0.092}
        >>> slide_reading(note, original=0.8779).alt_text[-45:]
        'from the original accuracy it is −7.7 points.'
    """
    missing = sorted({"epoch", "decay", "accuracy", "change"} - set(note))
    if missing:
        raise ValueError(f"`note` must have the entries {missing}. Received: {sorted(note)}.")
    fig = new_figure(3.1)
    ax = fig.subplots()
    ax.axhline(original, color=INK, label=f"original net, as printed: {per_cent(original, 2)}")
    star = {"linestyle": "", "marker": "*", "markersize": 13, "color": ORANGE, "markeredgecolor": INK}
    label = f"original path alone at d = {note['decay']:g}: {per_cent(note['accuracy'], 2)}"
    ax.plot([note["epoch"]], [note["accuracy"]], label=label, **star)
    stated = f"{100 * note['change']:+.1f} points".replace("-", "−")
    found = f"{100 * (note['accuracy'] - original):+.1f} points".replace("-", "−")
    text = f"epoch {note['epoch']}, d = {note['decay']:g}\nslide: {stated}\n"
    text += f"from {per_cent(original, 2)}: {found}"
    ax.text(note["epoch"] - 0.6, note["accuracy"] - 0.03, text, ha="right", va="top", linespacing=1.4)
    training.accuracy_axis(ax, "Validation accuracy (%)")
    ax.set(xlim=(0, epochs), xlabel="Epoch")
    shared_legend(fig, [ax], ncols=2)
    title = "Each path alone, as published: Only WDS, Fashion-MNIST"
    set_title(fig, title, "The slide prints the numbers of one point; its curves are a picture")
    fig.alt_text = (
        f"{title}: at epoch {note['epoch']}, d = {note['decay']:g}, the original path alone has "
        f"{per_cent(note['accuracy'], 2)}; the slide calls that {stated}, from the original accuracy it is "
        f"{found}."
    )
    return fig


@styled
def noise_law(decays: Sequence[float] = (0.8, 0.5, 0.3), mean: float = 0.5) -> Figure:
    """Slide 14 as its equations: normal densities of W, d·W, the noise n and d·W + n.

    W ~ N(m, σ²), d·W ~ N(d·m, d²σ²), n ~ N((1 − d)·m, (1 − d²)·σ²), so d·W + n ~ N(m, σ²).

    Args:
        decays: d, each in (0, 1), a panel each.
        mean: m in units of σ; above 0, so that the shift of d·W is seen.

    Raises:
        ValueError: no decay, or one outside of (0, 1).

    Example:
        >>> fig = noise_law([0.5])
    """
    decays = [_checks.real("decays", d, 0.0, 1.0) for d in decays]
    if not decays or min(decays) == 0 or max(decays) == 1:
        raise ValueError(f"`decays` must be numbers between 0 and 1, both excluded. Received: {decays}.")
    fig = new_figure(3.3)
    axes = fig.subplots(1, len(decays), sharex=True, sharey=True, squeeze=False)[0]
    x = np.linspace(mean - 4, mean + 4, 401)
    for ax, d in zip(axes, decays, strict=True):
        spread = np.sqrt(1 - d**2)
        moments = {
            "W": (mean, 1),
            "d·W": (d * mean, d),
            "noise n": ((1 - d) * mean, spread),
            "d·W + n": (d * mean + (1 - d) * mean, np.sqrt(d**2 + spread**2)),
        }
        laws.draw_densities(ax, {name: (x, norm.pdf(x, *law)) for name, law in moments.items()})
        ax.set(title=f"d = {d:g}", xlabel="Weight in units of σ")
    axes[0].set(ylim=(0, 1.4), xlim=(x[0], x[-1]), ylabel="Density (1 / σ)")
    axes[0].xaxis.set_major_locator(MaxNLocator(4, integer=True))
    shared_legend(fig, axes[:1], ncols=4)
    title = "The law of the noise, as published"
    set_title(
        fig, title, f"W normal with mean m = {mean:g} σ; n is independent of W, and d·W + n has the law of W"
    )
    said = ", ".join(f"{np.sqrt(1 - d**2):.2f} σ at d = {d:g}" for d in decays)
    fig.alt_text = (
        f"{title}: normal densities of W, d·W, the noise and their sum; the noise has the spread {said}."
    )
    return fig


@styled
def published_accuracies(table: pd.DataFrame, title: str) -> Figure:
    """Slide 16's numbers as a plot: accuracy against the printed ratio, a line a method.

    Args:
        table: as of `published.load("toy")`: method, rank, ratio_percent, accuracy_percent.
        title: above the plot.

    Raises:
        MissingResults: a column is missing.

    Example:
        >>> from clora_lab.lab import published
        >>> fig = published_accuracies(published.load("toy"), "Accuracy against parameters left")
    """
    require(table, "table", ["method", "rank", "ratio_percent", "accuracy_percent"])
    fig = new_figure(3.7)
    ax = fig.subplots()
    cells = table[table["method"] != "original"]
    curves = cells.pivot(index="ratio_percent", columns="method", values="accuracy_percent")[list(FOUR)]
    looks = [{**style.of_method(method), "markersize": 6.5} for method in FOUR]
    marks.draw_lines(ax, curves.rename(columns=methods.label), looks)
    original = table.loc[table["method"] == "original", "accuracy_percent"].item()
    ax.axhline(original, color=INK, linewidth=1.4, label=methods.label(methods.ORIGINAL))
    marks.rank_axis(ax, cells["ratio_percent"], cells["rank"])
    ax.set(xlabel="Parameters left (%), as printed, log scale", ylabel="Accuracy (%)")
    shared_legend(fig, [ax], ncols=3)
    set_title(fig, title, "Published: single runs, validation accuracy, no ±")
    best = cells.loc[cells["accuracy_percent"].idxmax()]
    fig.alt_text = (
        f"{title}: the best printed cell is {methods.label(best['method'])} at rank {best['rank']} with "
        f"{best['accuracy_percent']:.2f}%, the original has {original:.2f}%."
    )
    return fig


@styled
def layer_parameters(conv_rank: int = 16, dense_rank: int = 16) -> Figure:
    """Slide 18 counted: the parameters of each of VGG16's layers, and of the pair that replaces its kernel.

    Args:
        conv_rank, dense_rank: of the pairs, at least 1.

    Raises:
        ValueError: a rank below 1.

    Example:
        >>> fig = layer_parameters(16, 16)
    """
    layers = [*shapes.VGG16_WRAPPED, shapes.VGG16_HEAD]
    rank = {"Conv2D": conv_rank, "Dense": dense_rank}
    places = np.arange(len(layers))
    original = np.array([layer.parameters for layer in layers])
    fig = new_figure(4.9)
    ax = fig.subplots()
    frame = pd.DataFrame({"original layer": original}, index=[layer.name for layer in layers])
    look = {"color": BLUE, "alpha": 0.35, "edgecolor": INK}
    marks.draw_bars(ax, frame, [look], across=True, written=lambda _: "")
    pairs = {"spatial": (RED, "D"), "pair": (GREEN, "o")}
    larger = []
    for name, (color, marker) in pairs.items():
        left = [
            layer.pair(rank[layer.kind], name) + layer.bias
            if layer is not shapes.VGG16_HEAD
            else layer.parameters
            for layer in layers
        ]
        label = {"spatial": "1 × k, then k × 1 (slides)", "pair": "k × k to rank, then 1 × 1"}[name]
        ax.plot(left, places, linestyle="", marker=marker, color=color, label=label, markeredgecolor=INK)
        if name == "spatial":
            larger = [y.name for y, n, m in zip(layers, left, original, strict=True) if n > m]
            total = sum(left)
    ax.set_xscale("log")
    ax.set(xlabel="Parameters, biases included, log scale", xlim=(0.6 * original.min(), 2 * original.max()))
    shared_legend(fig, [ax], ncols=3)
    title = f"VGG16's layers counted, ranks {conv_rank} and {dense_rank}"
    grown = f"; larger than before: {', '.join(larger)}" if larger else ""
    whole = shapes.total(shapes.VGG16)
    set_title(fig, title, f"{total:,} of {whole:,} parameters left with the slides' factors{grown}")
    fig.alt_text = (
        f"{title}: {total:,} of {whole:,} parameters ({100 * total / whole:.2f}%) are left with the slides' "
        f"factors{grown}; dense_8 stays as it is."
    )
    return fig


@styled
def before_after_bars(cases: Sequence[Mapping], title: str, subtitle: str = "") -> Figure:
    """Slide 24: parameters and accuracy before and after the compression, a panel a model.

    Args:
        cases: for each model a mapping with 'name', 'accuracy' and 'parameters' (each before and after, in
            percent); if there are any, 'sd' (of the accuracy after, points), 'model' (percent of the whole
            model's parameters left) and 'table' (the accuracy that a table prints for the same cell).
        title, subtitle: above the panels.

    Raises:
        MissingResults: there is no case.

    Example:
        >>> case = {"name": "A net", "accuracy": (85.0, 80.0), "parameters": (100, 10)}
        >>> before_after_bars([case], "Bars").alt_text
        'Bars: A net, parameters 100% before and 10% after, accuracy 85.00% before and 80.00% after.'
    """
    if not cases:
        raise MissingResults("`cases` must have at least one model. Received: none.")
    fig = new_figure(3.6)
    axes = fig.subplots(1, len(cases), sharey=True, squeeze=False)[0]
    said = []
    for ax, case in zip(axes, cases, strict=True):
        kinds = {"Parameters (%)": "parameters", "Accuracy (%)": "accuracy"}
        frame = pd.DataFrame({name: case[kind] for name, kind in kinds.items()}, index=["before", "after"]).T
        texts = frame.round(2).map("{:g}".format)
        texts.loc["Accuracy (%)"] = frame.loc["Accuracy (%)"].map("{:.2f}".format)
        looks = [{"color": BLUE, "edgecolor": INK}, {"color": ORANGE, "hatch": "///", "edgecolor": INK}]
        marks.draw_bars(ax, frame, looks, written=texts)
        if case.get("sd"):
            after = case["accuracy"][1]
            ax.errorbar([1.2], [after], yerr=[case["sd"]], color=INK, capsize=3)
        paper = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
        marked = {"ha": "center", "color": RED, "bbox": paper}
        line = {"linestyle": "", "marker": "_", "markersize": 22, "markeredgewidth": 2.2}
        if case.get("model") is not None:
            ax.plot([0.2], [case["model"]], color=RED, label="after, of the whole model", **line)
            ax.text(0.2, case["model"] - 3, f"{case['model']:.1f}", va="top", **marked)
        if case.get("table") is not None:
            ax.plot([1.2], [case["table"]], color=RED, label="after, in the slides' table", **line)
            ax.text(1.2, case["table"] - 5, f"{case['table']:.2f}", va="top", **marked)
        ax.set_title(case["name"])
        (p0, p1), (a0, a1) = case["parameters"], case["accuracy"]
        said.append(
            f"{' '.join(case['name'].split())}, parameters {p0:g}% before and {round(p1, 2):g}% after, "
            f"accuracy {a0:.2f}% before and {a1:.2f}% after"
        )
    axes[0].set(ylim=(0, 112), ylabel="Percent")
    axes[0].set_yticks(range(0, 101, 20))
    shared_legend(fig, axes, ncols=4)
    set_title(fig, title, subtitle)
    fig.alt_text = f"{title}: {'; '.join(said)}."
    return fig


def stack(wrapped: Sequence[shapes.Layer], layers: Sequence[shapes.Layer]) -> tuple[list[tuple], list[str]]:
    """Arguments `layers` and `wrapped` of `drawings.layer_stack`, from tables of shapes.

    Example:
        >>> stack(shapes.TOY_WRAPPED, shapes.TOY[:2])
        ([('dense', 'Dense', '256'), ('dense_1', 'Dense', '128')], ['dense', 'dense_1'])
    """
    rows = [(layer.name, layer.kind, " × ".join(map(str, layer.output))) for layer in layers]
    return rows, [layer.name for layer in wrapped]
