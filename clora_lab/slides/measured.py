"""The figures of the slides from recorded rows: the toy project's, and the tables of the other studies.

What is not recorded is not drawn: the functions raise `MissingResults`, which says how to compute it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from clora_lab import methods, studies
from clora_lab.lab import frames, tables
from clora_lab.lab.figures import compare, laws, marks, style, training
from clora_lab.lab.frames import MissingResults
from clora_lab.lab.nets import registry as nets
from clora_lab.slides import plots, printed, recompute

FOUR = methods.names("slides")
RATIOS = {  # with the head of their column
    "ratio": "Ratio\n(%)",
    "ratio_encoder": "Blocks\n(%)",  # BERT's
    "ratio_model": "Model\n(%)",
}


# --- the toy project ----------------------------------------------------------------------------

# A recipe of the slides -> the same with noise until the end; the first that is recorded is drawn.
TO_END = {"slides": "noise_to_end", "as_written": "as_written_to_end", "as_coded": "as_coded_to_end"}
CODED = "as_coded"


def recipe_of(rows: pd.DataFrame) -> str:
    """The recipe of recorded rows that stands for the slides' own."""
    there = set(rows.loc[rows["method"].isin(FOUR), "variant"])
    return next((name for name in TO_END if name in there), studies.get("toy").fields["variant"].default)


def toy_figures(
    results: pd.DataFrame, history: pd.DataFrame, dataset: str, recipe: str = ""
) -> dict[str, Callable[[], Figure]]:
    """File stem -> function that draws it, for slides 9, 10, 12, 14, 15 and 16 on one dataset's rows.

    Slides 10, 12 and 15 show the smallest recorded rank, 16 on Fashion-MNIST. Slide 14 shows the first
    layer of the trained dense net, which is trained if it is not cached.

    Args:
        results, history: recorded rows of the toy study.
        dataset: whose.
        recipe: which one's nets; by default `recipe_of` the rows.

    Raises:
        ValueError: if there is no compressed net among the rows. A drawing raises it too, if its rows
            are missing; the message says how to get them.
    """
    history = history[history["dataset"] == dataset]
    results = results[results["dataset"] == dataset]
    recipe = recipe or recipe_of(results)
    ranks = results.loc[results["rank"] > 0, "rank"]
    if ranks.empty:
        raise ValueError(f"`results` has no compressed net of {dataset!r}. {frames.remedy()}")
    rank, steps = int(ranks.min()), int(history["step"].max())
    toy = studies.get("toy")
    first = toy.run(dataset=dataset, method=toy.methods[0], rank=rank)
    one = history[history["seed"] == history["seed"].min()]
    kinds = dict.fromkeys(results.loc[results["metric"] == "accuracy", "split"])

    @functools.cache
    def both():
        return pd.concat([tables.compare(results, toy, split) for split in kinds])

    def decay():
        run = one[(one["method"] == toy.methods[0]) & (one["rank"] == rank) & (one["variant"] == recipe)]
        points = run if len(run) else None
        return laws.decay_curve(first.decay(steps), steps, dataset=dataset, recorded=points)

    def noise():
        import keras  # takes seconds, which the other figures need not

        from clora_lab.lab import bench

        net, _, _ = bench.original_net(first)
        weights = np.ravel(keras.ops.convert_to_numpy(net.get_layer("dense").kernel))
        weights = pd.Series(weights, name="first dense layer")
        return laws.noise_densities(weights, [0.8, 0.5, 0.3], dataset=dataset)

    def table():
        own = both()
        own = own[(own["variant"] == recipe) & (own["split"] == "validation")]
        return compare.comparison_table(own)

    def against_ratio(variant):
        return compare.accuracy_against_ratio(both()[both()["variant"] == variant])

    return {
        "slide_09_decay": decay,
        "slide_10_training": lambda: training.training_curves(one, rank=rank, variant=recipe),
        "slide_12_paths": lambda: plots.path_accuracies(one, rank=rank, variant=recipe),
        "slide_14_noise": noise,
        "slide_15_variants": lambda: plots.noise_variants(history, rank, recipe, TO_END[recipe]),
        "slide_16_methods": lambda: training.method_curves(history, recipe),
        "slide_16_table": table,
    } | {
        f"accuracy_against_ratio_{variant}": functools.partial(against_ratio, variant)
        for variant in (recipe, "cosine")
        if (results["variant"] == variant).any()
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
        except (frames.MissingResults, ValueError) as error:  # no such rows, or of several settings
            missing.append(f"{stem}: {error}")
            continue
        files += style.save(figure, Path(folder) / stem)
    return files, missing


def _rows(folder: Path, study: str) -> pd.DataFrame:
    store = studies.recorded(study, folder)
    if not store.exists():
        raise MissingResults(
            f"Not measured yet: there are no recorded rows of the study {study!r}. "
            f"Compute them with: python -m clora_lab reproduce {study}"
        )
    return store.read()


def toy(folder: Path, stem: str, recipe: str = "") -> Figure:
    """A figure of `toy_figures` from the recorded rows on Fashion-MNIST.

    Args:
        folder: of the recorded rows.
        stem: which of them; "{}" in it stands for the recipe.
        recipe: as for `toy_figures`.

    Raises:
        MissingResults: its rows are missing.
    """
    rows = _rows(folder, "toy")
    rows = rows[rows["dataset"] == "fashion_mnist"]
    if not (rows["rank"] > 0).any():
        raise MissingResults(
            "Not measured yet: no recorded rows of the toy study on Fashion-MNIST. "
            "Compute them with: python -m clora_lab reproduce toy"
        )
    recipe = recipe or recipe_of(rows)
    if not (rows["variant"] == recipe).any():
        raise MissingResults(
            f"Not measured yet: no recorded rows of the recipe {recipe!r} on Fashion-MNIST. Compute them "
            f"with: python -m clora_lab reproduce toy variant={recipe}"
        )
    stem = stem.format(recipe)
    available = toy_figures(rows, studies.recorded("toy", folder).read_history(), "fashion_mnist", recipe)
    if stem not in available:
        raise MissingResults(f"Not measured yet: the rows for {stem} are missing. {frames.remedy(rows)}")
    return available[stem]()


def stages(folder: Path, method: str, recipe: str = "") -> Figure:
    """Slides 8 and 13 from recorded rows: what each path knows at the four stages, at the smallest rank."""
    rows = _rows(folder, "toy")
    rows = rows[(rows["dataset"] == "fashion_mnist") & (rows["rank"] > 0)]
    history = studies.recorded("toy", folder).read_history()
    history = history[history["dataset"] == "fashion_mnist"]
    rank = int(rows["rank"].min()) if len(rows) else 16
    return plots.stage_accuracies(history, method, rank, recipe or recipe_of(rows))


def cells_of(folder: Path, study: str, model: str) -> tuple[str, pd.DataFrame]:
    """The recorded table of a model that stands beside the slides', and in words what was measured.

    Of several tables the one in the slides' own recipe comes first, then the one with what the slides
    compress, then the one with the most nets; the words say how many others there are.

    Args:
        folder: of the recorded rows.
        study: name of the file, "vgg16" or "bert".
        model: which rows of it.

    Returns:
        The title of the table, and its rows as `tables.compare` gives them.

    Raises:
        MissingResults: there are no rows.
        ValueError: runs that no mean should mix.

    Example:
        >>> words, table = cells_of("data/results", "vgg16", "vgg16")  # doctest: +SKIP
    """
    home, rows = studies.get(study), _rows(Path(folder), study)
    rows = rows[rows["model"] == model]
    if not (rows["method"].isin(FOUR) & (rows["metric"] == "accuracy")).any():
        raise MissingResults(
            f"Not measured yet: the recorded rows of the study {study!r} hold none of {nets.label(model)}. "
            f"Compute them with: python -m clora_lab reproduce {study}"
        )
    split = "test" if (rows["split"] == "test").any() else "validation"
    found = [
        (title, table[table["measured"].notna()])
        for title, table in tables.each(tables.compare(rows, home, split))
        if table.loc[table["measured"].notna(), "method"].isin(FOUR).any()
    ]

    def near(each):
        table = each[1]
        own = table["variant"].iloc[0] == home.fields["variant"].default
        return own, table["published"].notna().any(), table["method"].isin(FOUR).sum()

    title, table = max(found, key=near)
    words, others = f"{title}; {split} set", len(found) - 1
    if others:
        words += f"; {others} more setting{'s' if others > 1 else ''} in the recorded rows"
    return words, table


def table(folder: Path, study: str, model: str, lang: str = "en") -> Figure:
    """Slides 19, 21 and 22 from recorded rows: mean ± sd over seeds, baselines below, honest ratios beside.

    Args:
        folder: of the recorded rows.
        study: name of the file, "vgg16" or "bert".
        model: which rows of it.
        lang: language of the title.

    Raises:
        MissingResults: there are no rows of the model.

    Example:
        >>> fig = table("data/results", "vgg16", "vgg16")  # doctest: +SKIP
    """
    words, table = cells_of(folder, study, model)
    two = len(table.attrs["cells"]) > 1
    left = {name: head for name, head in RATIOS.items() if name in table and table[name].notna().any()}
    title = {"en": f"{nets.label(model)}, measured", "ko": f"{nets.label(model)} (직접 측정)"}[lang]
    key = "; ranks: convolutions / dense layers" if two else ""
    note = f"Accuracy in percent, {frames.spread_in_words(table['n'])}; best of a line in bold{key}\n{words}"
    return compare.table(
        table, title, note, {**left, "cell": "Ranks" if two else "Rank"}, published=False,
        below=[name for name in methods.names("baselines") if methods.trains(name)], lang=lang,
    )  # fmt: skip


def _models(folder: Path) -> dict[str, tuple[str, pd.DataFrame]]:
    """What was measured of each model."""
    found = {}
    for study, model in (
        ("vgg16", "vgg16"),
        ("bert", "bert_tiny"),
        ("bert", "bert_small"),
        ("bert", "minilm"),
    ):
        try:
            found[model] = cells_of(folder, study, model)
        except MissingResults:
            continue
    return found


def conclusion(folder: Path, lang: str) -> Figure:
    """Slide 23 from recorded rows: for each model the mean over the cells that all four methods have."""
    models = _models(folder)
    if not models:
        raise MissingResults(
            "Not measured yet: no recorded rows of VGG16 or BERT. "
            "Compute them with: python -m clora_lab reproduce vgg16, and reproduce bert"
        )
    columns, notes = {}, []
    for model, (setting, cells) in models.items():
        table = cells.pivot_table(index=list(cells.attrs["cells"]), columns="method", values="measured")
        table = table.reindex(columns=FOUR).dropna()
        columns[model] = table.mean()
        notes.append(f"{nets.label(model)}: {len(table)} cells; {setting}")
    lines = []
    for method in FOUR:
        texts, strong = [], []
        for index, values in enumerate(columns.values(), start=1):
            texts.append("–" if pd.isna(values[method]) else f"{values[method]:.2f}")
            if round(values[method], 2) == values.round(2).max():
                strong.append(index)
        lines.append({"cells": [methods.label(method), *texts], "bold": strong})
    title = {"en": "Conclusion, measured", "ko": "결론 (직접 측정)"}[lang]
    missing = [nets.label(m) for m in ("vgg16", "bert_tiny", "bert_small") if m not in models]
    note = "\n".join(notes) + (f"\nNot measured yet: {', '.join(missing)}" if missing else "")
    head = ["Mean over the cells (%)", *map(nets.label, models)]
    return marks.table(head, lines, title, note, left=1, lang=lang, left_width=0.31)


def bars(folder: Path) -> Figure:
    """Slide 24 from recorded rows: the same cells as the slide's bars."""
    cases, missing = [], []
    for mark in printed.as_printed("marked").query("mark == 'chosen'").itertuples():
        try:
            study = "bert" if mark.study in recompute.BERTS else mark.study
            _, cells = cells_of(folder, study, mark.study)
        except MissingResults:
            missing.append(nets.label(mark.study))
            continue
        chosen = (cells["method"] == mark.method) & (cells["rank"] == int(mark.rank))
        if mark.dense_rank:
            chosen &= cells["dense_rank"] == int(mark.dense_rank)
        dense = cells[cells["method"] == methods.ORIGINAL]
        if not chosen.any() or dense.empty:
            missing.append(nets.label(mark.study))
            continue
        row = cells[chosen].iloc[0]
        cases.append(
            {
                "name": f"{nets.label(mark.study)}\n{methods.label(mark.method)}",
                "parameters": (100.0, row["ratio"]),
                "accuracy": (dense["measured"].iloc[0], row["measured"]),
                "sd": None if pd.isna(row["sd"]) else row["sd"],
                "model": None if pd.isna(row["ratio_model"]) else row["ratio_model"],
            }
        )
    if not cases:
        raise MissingResults(
            f"Not measured yet: the cells of the slide's bars ({', '.join(missing)}). "
            "Compute them with: python -m clora_lab reproduce vgg16, and reproduce bert"
        )
    note = f"Not measured yet: {', '.join(missing)}" if missing else ""
    return plots.before_after_bars(cases, "Before and after, measured", note)
