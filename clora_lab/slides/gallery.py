"""The slides' figures of the toy project, drawn from recorded rows and saved."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from clora_lab import studies
from clora_lab.lab import bench, frames, tables
from clora_lab.lab.figures import compare, laws, style, training
from clora_lab.slides import plots


def toy_figures(
    results: pd.DataFrame, history: pd.DataFrame, dataset: str
) -> dict[str, Callable[[], Figure]]:
    """File stem -> function that draws it, for slides 9, 10, 12, 14, 15 and 16 on one dataset's rows.

    Slides 10, 12 and 15 show the smallest recorded rank, 16 on Fashion-MNIST. Slide 14 shows the first
    layer of the trained dense net, which is trained if it is not cached.

    Raises:
        ValueError: if there is no compressed net among the rows. A drawing raises it too, if its rows
            are missing; the message says how to get them.
    """
    history = history[history["dataset"] == dataset]
    results = results[results["dataset"] == dataset]
    ranks = results.loc[results["rank"] > 0, "rank"]
    if ranks.empty:
        raise ValueError(f"`results` has no compressed net of {dataset!r}. {frames.remedy()}")
    rank, steps = int(ranks.min()), int(history["step"].max())
    toy = studies.get("toy")
    first = toy.run(dataset=dataset, method=toy.methods[0], rank=rank)
    one = history[history["seed"] == history["seed"].min()]
    kinds = dict.fromkeys(results.loc[results["metric"] == "accuracy", "split"])
    both = pd.concat([tables.compare(results, toy, split) for split in kinds])

    def decay():
        run = one[(one["method"] == toy.methods[0]) & (one["rank"] == rank) & (one["variant"] == "slides")]
        points = run if len(run) else None
        return laws.decay_curve(first.decay(steps), steps, dataset=dataset, recorded=points)

    def noise():
        net, _, _ = bench.original_net(first)
        weights = np.ravel(keras.ops.convert_to_numpy(net.get_layer("dense").kernel))
        weights = pd.Series(weights, name="first dense layer")
        return laws.noise_densities(weights, [0.8, 0.5, 0.3], dataset=dataset)

    def table():
        own = both[(both["variant"] == "slides") & (both["split"] == "validation")]
        return compare.comparison_table(own)

    def against_ratio(variant):
        return compare.accuracy_against_ratio(both[both["variant"] == variant])

    return {
        "slide_09_decay": decay,
        "slide_10_training": lambda: training.training_curves(one, rank=rank),
        "slide_12_paths": lambda: plots.path_accuracies(one, rank=rank),
        "slide_14_noise": noise,
        "slide_15_variants": lambda: plots.noise_variants(history, rank=rank),
        "slide_16_methods": lambda: training.method_curves(history),
        "slide_16_table": table,
    } | {
        f"accuracy_against_ratio_{variant}": functools.partial(against_ratio, variant)
        for variant in ("slides", "cosine")
        if (both["variant"] == variant).any()
    }


def save_toy_figures(results, history, dataset: str, folder: Path) -> tuple[list[Path], list[str]]:
    """Draw all of `toy_figures` into a folder as PNG and SVG.

    Returns:
        The files, and a line for each figure whose rows are missing.
    """
    files, missing = [], []
    for stem, draw in toy_figures(results, history, dataset).items():
        try:
            figure = draw()
        except frames.MissingResults as error:
            missing.append(f"{stem}: {error}")
            continue
        files += style.save(figure, Path(folder) / stem)
    return files, missing
