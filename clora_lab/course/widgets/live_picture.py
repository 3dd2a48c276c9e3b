"""The picture of a live training, which grows while the net trains; and its still, of a recorded run."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from clora_lab import methods
from clora_lab.course import notebook
from clora_lab.course.widgets.frame import STYLE, draw_legend, empty_figure, write_title
from clora_lab.lab.data import registry as datasets
from clora_lab.lab.figures import style
from clora_lab.lab.figures.style import GREY, INK, ORANGE
from clora_lab.lab.figures.training import VIEWS
from clora_lab.lab.frames import MissingResults, per_cent, remedy


class TrainingPicture:
    """Accuracy, loss and decay against epoch, in both views; it is filled while the net trains.

    Its artists are made once and only moved afterwards: drawing is done by the training thread, and
    Matplotlib's settings, which belong to all threads, must not change there.

    Args:
        epochs: length of the horizontal axis.
        title: printed above.
    """

    HEIGHT = 4.1

    def __init__(self, epochs: int, title: str):
        self.title = title
        self.figure = empty_figure(self.HEIGHT)
        space = {"left": 0.1, "right": 0.985, "top": 0.89, "bottom": 0.24, "wspace": 0.25}
        with mpl.rc_context(STYLE):
            grid = self.figure.subplots(
                2, 2, sharex=True, height_ratios=[3.6, 1], gridspec_kw={**space, "hspace": 0.13}
            )
            self.axes = dict(zip(("accuracy", "loss"), grid[0], strict=True))
            self.lines = {
                prefix + metric: ax.plot([], [], label=label, markersize=3.5, **look)[0]
                for metric, ax in self.axes.items()
                for label, prefix, look in VIEWS[1:]
            }
            look = {"color": INK, "linestyle": ":", "linewidth": 1.4, "label": "Validation, original"}
            self.dense = {metric: ax.plot([], [], **look)[0] for metric, ax in self.axes.items()}
            self.axes["accuracy"].set(ylim=(0, 1.02), ylabel="Accuracy (%)")
            style.percent_axis(self.axes["accuracy"].yaxis)
            self.axes["loss"].set(ylim=(0, 1), ylabel="Loss (nats)")
            for ax, column, label in zip(grid[1], ("decay", "noise"), ("d", "noise (σ)"), strict=True):
                look = {"color": GREY if column == "decay" else ORANGE, "linewidth": 2}
                self.lines[column] = ax.plot([], [], **look)[0]
                ax.set(ylim=(-0.05, 1.1), yticks=[0, 1], xlabel="Epoch", ylabel=label)
                ax.set_xlim(0, max(epochs, 1))
                ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
            for ax in grid.flat:
                ax.tick_params(labelsize=9, labelcolor=INK)
                ax.yaxis.set_label_coords(-0.145, 0.5)
            draw_legend(self.figure, [grid[0, 0]], ncols=2)
            write_title(self.figure, title)
        self.figure.alt_text = f"{title}: no epoch yet."

    def draw(self, history: pd.DataFrame, original: Mapping[str, float] | None = None) -> Figure:
        """Move the curves to the epochs of `history`; `original`: accuracy and loss before compression."""
        for column, line in self.lines.items():
            if column in history:
                line.set_data(history["epoch"], history[column].astype("float64"))
        for metric, value in (original or {}).items():
            self.dense[metric].set_data(self.axes[metric].get_xlim(), [value, value])
        losses = history.filter(regex="loss$").astype("float64").to_numpy()
        losses = losses[np.isfinite(losses)]
        if len(losses):
            # The compressed path may start at a huge loss, in which the rest would not be seen.
            top = min(losses.max(), 4 * np.median(losses))
            self.axes["loss"].set_ylim(0, 1.08 * top or 1)
        if len(history):
            self.figure.alt_text = f"{self.title}: {training_text(history)}"
        return self.figure


def training_text(history: pd.DataFrame) -> str:
    """What the last epoch of a training says of both views."""
    last = history.iloc[-1]
    return (
        f"at epoch {last['epoch']:.3g}, d = {last['decay']:.3f}, the validation accuracy is "
        f"{per_cent(last['val_accuracy'])} for what trains (d·W + BA) and "
        f"{per_cent(last['val_compressed_accuracy'])} for BA alone."
    )


def live_training_static(
    history: pd.DataFrame | None = None, method: str = "noise_bias", rank: int = 16
) -> Figure:
    """The picture of `live_training` at its end, from recorded epochs: one run, its first seed.

    Args:
        history: recorded epochs, as of `Store.read_history`; None for those of the toy study.
        method, rank: which run.

    Raises:
        MissingResults: if that run is not in `history`.
    """
    if history is None:
        history = notebook.results("toy")[1]
    rows = history[(history["variant"] == "slides") & (history["method"] == method)]
    rows = rows[rows["rank"] == rank].sort_values(["seed", "epoch"])
    if rows.empty:
        raise MissingResults(
            f"`history` must have a run with method={method!r}, rank={rank}. {remedy(history)}"
        )
    rows = rows[rows["config"] == rows["config"].iloc[0]]
    name = datasets.label(rows["dataset"].iloc[0])
    title = f"{methods.label(method)}, rank {rank}, on {name}, recorded"
    picture = TrainingPicture(int(rows["epoch"].max()), title)
    start = rows.iloc[0]  # before the training d·W + BA is the original, since B = 0
    return picture.draw(rows, {"accuracy": start["val_accuracy"], "loss": start["val_loss"]})
