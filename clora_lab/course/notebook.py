"""What the notebooks of the course share: the run mode, recorded rows, sizes of live runs, pictures.

A notebook begins with ``RUN = notebook.mode("recorded")``. Recorded rows come from `results`, with a line
on where they come from; whatever a notebook computes itself, it computes on `dataset()`, at `size(RUN)`.
"""

from __future__ import annotations

import base64
import logging
import os
import tempfile
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
from IPython.display import Markdown, display
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator, PercentFormatter
from PIL import Image
from tqdm.keras import TqdmCallback

from clora_lab import _checks
from clora_lab.course import words
from clora_lab.lab import runner
from clora_lab.lab.data import cifar, datasets, text
from clora_lab.lab.figures import figures
from clora_lab.lab.nets import bert_models
from clora_lab.lab.paths import data_dir
from clora_lab.lab.results import ResultsStore

MODES = {
    "recorded": "the recorded rows of the studies appear at once; small live runs use {data}",
    "quick": "everything is computed here and now, in small, on {data}",
    "full": "everything is computed here and now, as in the study, on {data}: this can take hours",
}
# Of live runs: epochs, and share of the training images. Sized for about a minute a notebook.
SIZES = {
    "fashion_mnist": {"epochs": 12, "fraction": 0.1},
    "digits": {"epochs": 20, "fraction": 1.0},
}
FULL = {"epochs": 30, "fraction": 1.0}
# The same for VGG16, as arguments of `vgg16.grid`: a small net, few images and a few hundred steps.
SIZES_VGG16 = {"model": "small_vgg", "part": "tiny", "variants": ("short",), "epochs": 8, "dense_epochs": 8}
SIZES_VGG16 |= {"batch_size": 10}  # so that 300 images give a few hundred steps
# And for BERT, of `bert.grid`: generated reviews from chance; of IMDB a part, from the pretrained shape.
_BERT = {
    "variants": ("short",),
    "ranks": (16,),
    "methods": ("wds", "noise_bias", "svd", "svd_finetune", "lora"),
}
SIZES_BERT = {
    "synthetic": {**_BERT, "start": "random", "sequence": 32, "batch_size": 16, "epochs": 8}
    | {"dense_epochs": 8, "patience": 8, "learning_rate": 1e-3, "dense_learning_rate": 1e-3},
    "imdb": {**_BERT, "start": "pretrained_here", "sequence": 64, "fraction": 0.05, "epochs": 4}
    | {"dense_epochs": 3},
}
STUDIES = ("toy", "vgg16", "bert")
SHOWN_DPI, SHOWN_WIDTH = 130, 640  # drawn at this dpi, shown at this width in pixels


class ResultsMissing(FileNotFoundError):
    """There are no recorded rows of a study; the message names the folder and the remedy."""


# --- how a notebook runs ------------------------------------------------------------------------


def mode(run: str = "recorded", study: str = "toy") -> str:
    """The run mode of a notebook, checked; prints what it means, and quietens TensorFlow's log.

    Args:
        run: "recorded", "quick" or "full"; the environment variable CLORA_RUN, if set, goes before it.
        study: "toy", "vgg16" or "bert": whose data are named.

    Returns:
        The mode.

    Raises:
        ValueError: for another mode.

    Example:
        >>> RUN = mode("quick")  # doctest: +SKIP
    """
    # Every net that a notebook trains is traced anew, which TensorFlow would warn of at length.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    run = _checks.one_of("RUN", os.environ.get("CLORA_RUN") or run, MODES)
    titles = {**datasets.TITLES, **cifar.TITLES, **text.TITLES}
    print(f"RUN = {run!r}: {MODES[run].format(data=titles[dataset(study)])}.")
    return run


def dataset(study: str = "toy") -> str:
    """The data set of live runs: CLORA_DATASET, or what is on this machine, or scikit-learn's digits.

    For the toy study that is "fashion_mnist" if it is cached, else "digits"; for VGG16 "cifar10_jpeg" if
    CLORA_CIFAR10 names a folder, "cifar10" if Keras has it cached, else "digits32"; for BERT "imdb" if it is
    here (CLORA_IMDB) and so is a BERT-Tiny pretrained on it, else "synthetic". Nothing is downloaded. A
    damaged Fashion-MNIST or IMDB gives its own name, so that loading it says what is damaged.

    Args:
        study: "toy", "vgg16" or "bert".

    Raises:
        ValueError: CLORA_DATASET names no data set of the study; "digits" is one of all.
    """
    _checks.one_of("study", study, STUDIES)
    name = os.environ.get("CLORA_DATASET")
    if study == "vgg16":
        if name:
            choices = {**cifar.TITLES, "digits": "the toy study's name of digits32"}
            name = _checks.one_of("CLORA_DATASET", name, choices)
            return "digits32" if name == "digits" else name
        if cifar.folder():
            return "cifar10_jpeg"
        return "cifar10" if cifar.cached() else "digits32"
    if study == "bert":
        if name:
            choices = {**text.TITLES, "digits": "the toy study's; here it means synthetic"}
            name = _checks.one_of("CLORA_DATASET", name, choices)
            return "synthetic" if name == "digits" else name
        here = all(row["state"] != "missing" for row in text.status())
        return "imdb" if here and (bert_models.pretrained_dir() / "config.json").is_file() else "synthetic"
    if name:
        return _checks.one_of("CLORA_DATASET", name, SIZES)
    files = datasets.status()
    states = set(files.loc[files["dataset"] == "fashion_mnist", "state"])
    return "fashion_mnist" if states == {"intact"} or "damaged" in states else "digits"


def size(run: str, dataset: str, study: str = "toy") -> dict:
    """How large a live run is: fields of the toy study's `Experiment`, or arguments of the study's `grid`.

    Args:
        run: the notebook's mode; "full" is the study's size, the others take seconds.
        dataset: "fashion_mnist" or "digits"; for VGG16 one of `cifar.TITLES`; "imdb" or "synthetic" for BERT.
        study: "toy", "vgg16" or "bert".

    Raises:
        ValueError: for another mode, data set or study.

    Example:
        >>> size("full", "digits")
        {'epochs': 30, 'fraction': 1.0}
        >>> size("quick", "digits32", study="vgg16")["model"]
        'small_vgg'
    """
    _checks.one_of("run", run, MODES)
    if _checks.one_of("study", study, STUDIES) == "vgg16":
        _checks.one_of("dataset", dataset, cifar.TITLES)
        return {} if run == "full" else dict(SIZES_VGG16)
    if study == "bert":
        small = SIZES_BERT[_checks.one_of("dataset", dataset, SIZES_BERT)]
        whole = {"start": small["start"]} if dataset == "synthetic" else {}  # a vocabulary of its own
        return whole if run == "full" else dict(small)
    small = SIZES[_checks.one_of("dataset", dataset, SIZES)]
    return dict(FULL if run == "full" else small)


def run_live(grid: Sequence[runner.Run]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Carry out experiments here and now, with a progress bar, and return (rows, history).

    Nothing is recorded and nothing recorded is used, but dense nets are cached (`experiments.dense_net`).

    Args:
        grid: experiments of one study, for instance ``toy_grid(DATASET, **size(RUN, DATASET))``.

    Raises:
        ValueError: the grid is empty, or of several studies.
    """
    studies = {experiment.study for experiment in grid}
    if len(studies) != 1:
        raise ValueError(f"`grid` must hold experiments of one study. Received: {sorted(studies)}.")
    with tempfile.TemporaryDirectory(prefix="clora-live-") as folder:
        store = ResultsStore(folder, studies.pop())
        rows = runner.run_grid(list(grid), store)
        return rows, store.read_history()


def progress(name: str) -> TqdmCallback:
    """A Keras callback that shows a bar of epochs with the time left, gone when training is over.

    Args:
        name: what is trained.
    """
    return TqdmCallback(verbose=0, desc=name, leave=False)


# --- recorded rows ------------------------------------------------------------------------------


def results_dir() -> Path:
    """The folder of the recorded rows: the one that CLORA_RESULTS names, or the lab's own."""
    return Path(os.environ.get("CLORA_RESULTS") or data_dir() / "results")


def results(study: str = "toy", dataset: str = "fashion_mnist") -> tuple[pd.DataFrame, pd.DataFrame, str]:
    """The recorded rows of a study, its history, and a line on where they come from.

    They are read from `data_dir() / "results"`, or from the folder that CLORA_RESULTS names.

    Args:
        study: name of the study.
        dataset: whose rows.

    Returns:
        (rows, history, text): data frames as `ResultsStore` gives them, and Markdown by `words.provenance`.

    Raises:
        ResultsMissing: nothing is recorded of this study and data set.

    Example:
        >>> rows, history, source = results("toy")  # doctest: +SKIP
    """
    folder = results_dir()
    store = ResultsStore(folder, study)
    rows = store.read() if store.path.exists() else pd.DataFrame({"dataset": []})
    rows = rows[rows["dataset"] == dataset].reset_index(drop=True)
    if rows.empty:
        raise ResultsMissing(
            f"No rows of the study {study!r} on {dataset} are recorded in {folder}. Compute them: set "
            f"RUN = 'quick', or run python -m clora_lab reproduce {study} --dataset {dataset}."
        )
    history = store.read_history()
    history = history[history["dataset"] == dataset].reset_index(drop=True)
    return rows, history, words.provenance(rows)


# --- what a notebook shows ----------------------------------------------------------------------


def show(fig: Figure) -> None:
    """Display a figure of the lab as a PNG with its description, as alt text and as plain text.

    Raises:
        ValueError: the figure carries no description.

    Example:
        >>> show(figures.decay_curve(schedule, total_steps=100))  # doctest: +SKIP
    """
    png = BytesIO()
    text = figures.alt_text(fig)
    fig.savefig(png, format="png", dpi=SHOWN_DPI)
    png = _with_palette(png)
    width = round(SHOWN_WIDTH * fig.get_figwidth() / figures.WIDTH)
    picture = {"image/png": base64.b64encode(png.getvalue()).decode(), "text/plain": text}
    display(picture, metadata={"image/png": {"alt": text, "width": width}}, raw=True)


def _with_palette(png: BytesIO) -> BytesIO:
    """The picture in at most 256 colours, near a third of the size: most figures of the lab have fewer."""
    small = BytesIO()
    picture = Image.open(png).convert("RGB")
    picture.quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(
        small, "PNG", optimize=True
    )
    return small


def say(text: str) -> None:
    """Display Markdown, for instance a line by `words.provenance`."""
    display(Markdown(text))


@figures.styled
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
        >>> fig = lines(pd.DataFrame({"d": [1.0, 0.5, 0.0]}), "Decay", "Step", "d")
    """
    styles = _styles(frame)
    fig = figures.new_figure(3.4)
    ax = fig.subplots()
    for (name, column), style in zip(frame.items(), styles, strict=True):
        column = column.dropna()
        ax.plot(column.index, column, label=name, markevery=max(1, len(column) // 8), **style)
    _finish(fig, ax, frame, title, subtitle, percent, xlabel=xlabel, ylabel=ylabel, **axes)
    if ax.get_xscale() == "log":
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    for name, place in (marks or {}).items():
        _mark(ax, name, place)
    columns = [(name, column.dropna()) for name, column in frame.items()]
    ends = [
        f"{name} from {_number(c.iloc[0], percent)} to {_number(c.iloc[-1], percent)}" for name, c in columns
    ]
    first, last = _number(frame.index[0]), _number(frame.index[-1])
    fig.alt_text = f"{title}: {ylabel} against {xlabel} from {first} to {last}; {'; '.join(ends)}."
    return fig


def _mark(ax, name: str, place: float) -> None:
    """A vertical line with its name on the side that has more room."""
    ax.axvline(place, color=figures.FAINT, linewidth=1.2, linestyle=(0, (2, 2)))
    left = ax.transAxes.inverted().transform(ax.transData.transform((place, 0)))[0] > 0.5
    where = {"xytext": (-4 if left else 4, 4), "ha": "right" if left else "left"}
    paper = {"facecolor": "white", "edgecolor": "none", "pad": 1}
    look = {"textcoords": "offset points", "color": figures.FAINT, "bbox": paper}
    ax.annotate(name, (place, 0), xycoords=("data", "axes fraction"), **where, **look)


@figures.styled
def bars(
    frame: pd.DataFrame,
    title: str,
    ylabel: str,
    subtitle: str = "",
    percent: bool = False,
    **axes,
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
        >>> fig = bars(pd.DataFrame({"accuracy": [0.9, 0.8]}, index=["LoRA", "full"]), "A", "B")
    """
    styles = _styles(frame)
    fig = figures.new_figure(3.4)
    ax = fig.subplots()
    width = 0.8 / frame.shape[1]
    places = np.arange(len(frame))
    for index, ((name, column), style) in enumerate(zip(frame.items(), styles, strict=True)):
        hatch = ("", "//", "..", "xx", "\\\\", "++", "oo")[index]
        offset = (index - (frame.shape[1] - 1) / 2) * width
        drawn = ax.bar(
            places + offset, column, 0.94 * width, label=name, color=style["color"], alpha=0.75,
            hatch=hatch, edgecolor="white",
        )  # fmt: skip
        written = [f"{100 * value:.1f}" if percent else _number(value) for value in column]
        ax.bar_label(drawn, written, padding=2, fontsize=9)
    ax.set_xticks(places, [str(name) for name in frame.index])
    ax.grid(axis="x", visible=False)
    ax.margins(y=0.12)
    _finish(fig, ax, frame, title, subtitle, percent, ylabel=ylabel, **axes)
    values = [
        f"{group}: " + ", ".join(f"{name} {_number(value, percent)}" for name, value in row.items())
        for group, row in frame.iterrows()
    ]
    fig.alt_text = f"{title}, {ylabel}: {'; '.join(values)}."
    return fig


@figures.styled
def matrices(parts: Mapping[str, np.ndarray], title: str, subtitle: str = "") -> Figure:
    """Matrices side by side as images on one colour scale, from blue (negative) to red.

    Args:
        parts: name -> matrix; at most four.
        title, subtitle: texts.

    Raises:
        ValueError: a part is not a matrix, or there are none or more than four.

    Example:
        >>> fig = matrices({"W": np.eye(3), "2 W": 2 * np.eye(3)}, "A matrix and its double")
    """
    arrays = {name: np.asarray(part, dtype="float64") for name, part in parts.items()}
    if not 1 <= len(arrays) <= 4 or any(array.ndim != 2 for array in arrays.values()):
        raise ValueError(
            "`parts` must hold one to four matrices. Received shapes: "
            f"{[array.shape for array in arrays.values()]}."
        )
    limit = max(np.quantile(np.abs(array), 0.995) for array in arrays.values()) or 1.0
    fig = figures.new_figure(2.6)
    axes = fig.subplots(1, len(arrays), squeeze=False)[0]
    for ax, (name, array) in zip(axes, arrays.items(), strict=True):
        look = {"cmap": "RdBu_r", "vmin": -limit, "vmax": limit, "aspect": "auto"}
        image = ax.imshow(array, interpolation="nearest", **look)
        ax.set_title(f"{name}\n{array.shape[0]} × {array.shape[1]}")
        ax.set(xticks=[], yticks=[])
    fig.colorbar(image, ax=axes, label="Value of an entry", shrink=0.9)
    figures.set_title(fig, title, subtitle)
    sizes = [f"{n} ({a.shape[0]} × {a.shape[1]}, sd {a.std():.3g})" for n, a in arrays.items()]
    fig.alt_text = f"{title}: the entries of {', '.join(sizes)} as coloured images."
    return fig


def _styles(frame: pd.DataFrame) -> list[dict]:
    if frame.empty or not 1 <= frame.shape[1] <= 7:
        raise ValueError(
            f"`frame` must have rows and one to seven columns of numbers. Received shape: {frame.shape}."
        )
    return figures.cycle(frame.shape[1])


def _finish(fig, ax, frame, title, subtitle, percent, **axes) -> None:
    ax.set(**axes)
    if percent:
        ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=""))
    if frame.shape[1] > 1:
        letters = 10 + max(len(str(name)) for name in frame.columns)  # of an entry with its line
        figures.shared_legend(fig, [ax], ncols=max(1, min(frame.shape[1], 90 // letters)))
    figures.set_title(fig, title, subtitle)


def _number(value, percent: bool = False) -> str:
    return f"{100 * value:.1f}%" if percent else f"{value:,.4g}"
