"""How long each explorer takes to answer: from a control's change to the new picture, in milliseconds.

Every control is moved through a few values; a row an explorer. The lab's aim is 200 ms on an idle machine
with two cores; the time for the picture to travel to the browser is not in it. Run it from the repository:

    python benchmarks/widgets.py
"""

import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from clora_lab import studies  # noqa: E402
from clora_lab.course import widgets  # noqa: E402
from clora_lab.lab.nets import mlp  # noqa: E402
from clora_lab.lab.study import PROVENANCE  # noqa: E402

REPEATS = 3


def recorded(seeds: int = 3) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows and epochs with the layout of the recorded ones, of made-up values: only the time counts."""
    rng = np.random.default_rng(0)
    rows, epochs = [], []
    made = dict.fromkeys(PROVENANCE, "made up") | {"train_size": 1, "test_size": 1}
    for one in studies.get("toy").grid(dataset="digits", seed=range(seeds)):
        run = {**one, **made, "config": one.config}
        share = 100.0 if one.is_original else 0.6 * one.rank
        for split, view, metric in (
            ("validation", "trained", "accuracy"),
            ("test", "trained", "accuracy"),
            ("test", "trained", "loss"),
            ("model", "-", "seconds"),
            ("model", "-", "ratio_percent"),
            ("model", "-", "ratio_model_percent"),
        ):
            value = share if "ratio" in metric else rng.uniform(0.8, 0.9)
            rows.append(run | {"split": split, "view": view, "metric": metric, "value": value})
        for epoch in range(31):
            accuracy, loss = rng.uniform(0.5, 0.9, 2)
            values = {"val_accuracy": accuracy, "val_loss": loss}
            values |= {"val_compressed_accuracy": accuracy, "val_compressed_loss": loss}
            epochs.append(run | {"epoch": epoch, **values})
    return pd.DataFrame(rows), pd.DataFrame(epochs)


def values_of(control) -> list:
    """A few values that a control can take."""
    options = getattr(control, "options", None)
    if options is not None:
        values = [option[1] if isinstance(option, tuple) else option for option in options]
        multiple = isinstance(control.value, tuple)
        return [tuple(values[:2]), tuple(values)] if multiple else values
    if isinstance(control.value, bool):
        return [not control.value, control.value]
    if hasattr(control, "min"):
        places = np.linspace(control.min, control.max, 5)
        return [type(control.value)(place) for place in places]
    return [control.value * factor for factor in (0.5, 1.5, 1.0)]


def answers(explorer) -> list[float]:
    """Seconds of every answer to a change of a control."""
    seconds = []
    for name, control in explorer.controls.items():
        for value in values_of(control) * REPEATS:
            begin = time.perf_counter()
            control.value = value
            seconds.append(time.perf_counter() - begin)
        explorer.set(**{name: explorer.defaults[name]})
    return seconds


def main():
    model = mlp.toy_mlp()
    kernel = np.asarray(model.layers[0].kernel)
    explorers = {
        "schedule": widgets.schedule_explorer(),
        "noise, normal": widgets.noise_explorer(),
        "noise, 784 × 256 weights": widgets.noise_explorer({"dense": kernel}),
        "rank, 784-256-128-10": widgets.rank_explorer(model),
        "results": widgets.results_explorer(recorded()[0]),
        "results and curves": widgets.results_explorer(*recorded()),
    }
    table = Table("explorer", title="Answer to a change of a control (ms)")
    for column in ("changes", "median", "95%", "longest", "PNG (kB)"):
        table.add_column(column, justify="right")
    for name, explorer in explorers.items():
        # A value that was set already changes nothing and takes no time.
        times = np.array([each for each in answers(explorer) if each > 0.005]) * 1000
        numbers = [np.median(times), np.quantile(times, 0.95), times.max()]
        size = len(explorer.image.value) / 1000
        table.add_row(name, str(len(times)), *(f"{n:.0f}" for n in numbers), f"{size:.0f}")
    Console().print(table)


if __name__ == "__main__":
    main()
