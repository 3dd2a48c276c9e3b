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
from clora_lab.lab.paths import data_dir
from clora_lab.lab.settings import Run

MODES = {
    "recorded": "the recorded rows of the studies appear at once; small live runs use {data}",
    "quick": "everything is computed here and now, in small, on {data}",
    "full": "everything is computed here and now, as in the study, on {data}: this can take hours",
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
    return studies.get(study).resolve("auto", download=False)


def size(run: str, dataset: str, study: str = "toy") -> dict:
    """How large a live run is: arguments of the study's `grid`.

    Args:
        run: the notebook's mode; "full" is the study's size, the others take about a minute a notebook.
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
    home = studies.get(_checks.one_of("study", study, STUDIES))
    _checks.one_of("dataset", dataset, home.data)
    if run == "full":
        return {name: home.fields[name].default for name in ("epochs", "fraction")}
    return dict(home.small[dataset])


def run_live(grid: Sequence[Run]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Carry out runs here and now, with a progress bar, and return (rows, history).

    Nothing is recorded and nothing recorded is used, but dense nets are cached.

    Args:
        grid: runs of one study, for instance ``studies.get("toy").grid(dataset=DATASET)``.

    Raises:
        ValueError: the grid is empty, or of several studies.
    """
    names = {run.study for run in grid}
    if len(names) != 1:
        raise ValueError(f"`grid` must hold runs of one study. Received: {sorted(names)}.")
    with tempfile.TemporaryDirectory(prefix="clora-live-") as folder:
        store = studies.recorded(names.pop(), folder)
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
        (rows, history, text): data frames as a `Store` reads them, and Markdown by `words.provenance`.

    Raises:
        ResultsMissing: nothing is recorded of this study and data set.

    Example:
        >>> rows, history, source = results("toy")  # doctest: +SKIP
    """
    folder = results_dir()
    store = studies.recorded(study, folder)
    rows = store.read() if store.exists() else pd.DataFrame({"dataset": []})
    rows = rows[rows["dataset"] == dataset].reset_index(drop=True)
    if rows.empty:
        raise ResultsMissing(
            f"No rows of the study {study!r} on {dataset} are recorded in {folder}. Compute them: set "
            f"RUN = 'quick', or run python -m clora_lab reproduce {study} dataset={dataset}."
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
