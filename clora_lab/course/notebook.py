"""What the notebooks of the course share: the run mode, recorded rows, sizes of live runs, pictures.

A notebook begins with ``RUN = notebook.mode("recorded")``. Recorded rows come from `results`, with a line
on where they come from; whatever a notebook computes itself, it computes on `dataset()`, at `size(RUN)`.
"""

from __future__ import annotations

import base64
import logging
import os
import tempfile
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import pandas as pd
from IPython.display import Markdown, display
from matplotlib.figure import Figure
from PIL import Image
from tqdm.keras import TqdmCallback

from clora_lab import _checks, studies
from clora_lab.course import words
from clora_lab.lab import runner
from clora_lab.lab.data import registry as datasets
from clora_lab.lab.figures import style
from clora_lab.lab.nets import starts
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
    print(f"RUN = {run!r}: {MODES[run].format(data=datasets.title(dataset(study)))}.")
    return run


def dataset(study: str = "toy") -> str:
    """The data set of live runs: CLORA_DATASET, or what is on this machine, or scikit-learn's digits.

    Nothing is downloaded. For BERT, IMDB counts only where a BERT-Tiny pretrained on it is here too.

    Args:
        study: "toy", "vgg16" or "bert".

    Raises:
        ValueError: CLORA_DATASET names no data set of the study; "digits" stands for what needs no download.
        DatasetDamaged: what is here is damaged.
    """
    among = studies.get(_checks.one_of("study", study, STUDIES)).data
    named = os.environ.get("CLORA_DATASET")
    if named:
        _checks.one_of("CLORA_DATASET", named, dict.fromkeys((*among, "digits")))
        return named if named in among else among[-1]
    found = datasets.resolve("auto", among, download=False)
    if study == "bert" and not (starts.pretrained_dir() / "config.json").is_file():
        return among[-1]
    return found


def size(run: str, dataset: str, study: str = "toy") -> dict:
    """How large a live run is: fields of the toy study's `Experiment`, or arguments of the study's `grid`.

    Args:
        run: the notebook's mode; "full" is the study's size, the others take seconds.
        dataset: one of the study's.
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
        _checks.one_of("dataset", dataset, studies.get(study).data)
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
    names = {experiment.study for experiment in grid}
    if len(names) != 1:
        raise ValueError(f"`grid` must hold experiments of one study. Received: {sorted(names)}.")
    with tempfile.TemporaryDirectory(prefix="clora-live-") as folder:
        store = ResultsStore(folder, names.pop())
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
        >>> show(laws.decay_curve(schedule, total_steps=100))  # doctest: +SKIP
    """
    png = BytesIO()
    text = style.alt_text(fig)
    fig.savefig(png, format="png", dpi=SHOWN_DPI)
    png = _with_palette(png)
    width = round(SHOWN_WIDTH * fig.get_figwidth() / style.WIDTH)
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
