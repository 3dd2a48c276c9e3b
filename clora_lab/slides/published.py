"""The tables of the slides as data, and ours beside them.

The numbers are those of the C-LoRA slides (Aiffel Online 5th Research, team 3L, December 2023),
transcribed and not corrected; `data/README.md` says what each file holds.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from clora_lab import _checks
from clora_lab.lab import names, tables
from clora_lab.lab.data import registry as datasets
from clora_lab.lab.names import BASELINES, METHODS
from clora_lab.lab.paths import data_dir

STUDIES = ("toy", "vgg16", "bert_tiny", "bert_small", "conclusion")
# What may not differ between the seeds of one mean.
SETTINGS = (
    "init", "epochs", "batch_size", "learning_rate", "lr_schedule", "alpha", "schedule", "begin",
    "end", "floor", "noise_gate", "fraction",
)  # fmt: skip


def load(study: str) -> pd.DataFrame:
    """A table of the slides, as published: slides 16 (toy), 19 (vgg16), 21, 22 (BERT), 23.

    Args:
        study: "toy", "vgg16", "bert_tiny", "bert_small" or "conclusion".

    Returns:
        Data frame with the columns of `data/published/<study>.csv`. Ranks are integers, empty for
        the original net; accuracies, their sd and ratios are in percent.

    Raises:
        ValueError: unknown study.

    Example:

    >>> load("toy")["accuracy_percent"].max()
    87.79
    """
    _checks.one_of("study", study, STUDIES)
    table = pd.read_csv(data_dir() / "published" / f"{study}.csv")
    ranks = [column for column in table.columns if column.endswith("rank")]
    percents = [column for column in table.columns if column.endswith(("_percent", "_sd"))]
    return table.astype(dict.fromkeys(ranks, "Int64") | dict.fromkeys(percents, "float64"))


def compare(
    results: pd.DataFrame,
    study: str = "toy",
    dataset: str = "fashion_mnist",
    variant: str = "slides",
    split: str = "validation",
) -> pd.DataFrame:
    """Published and measured accuracy side by side: mean and sd over seeds, and the differences.

    A C-LoRA net is measured by its compressed path (B·A alone) where that is recorded, else by what
    was trained; the dense net and the baselines likewise.

    Args:
        results: recorded rows (`Store.read()`), accuracies as fractions.
        study: "toy", the only one so far.
        dataset, variant, split: which recorded rows to take.

    Returns:
        Data frame, a row for each method and rank: the dense net (rank 0), every rank with the four
        methods, then the baselines that were measured. Columns, all in percent or points:
        method, rank, published_ratio, ratio (recomputed), published_accuracy,
        published_difference (from the published original), measured_mean, measured_sd (ddof = 1,
        empty for one seed), n_seeds (empty if not measured), measured_difference (from the measured
        dense net, over the seeds that both have), difference (measured - published), dataset, note
        (why the two columns do not compare like with like; `difference` is empty on other data).
        `attrs["title"]` is a title that names the data, `attrs["note"]` all notes in one.

    Raises:
        ValueError: another study, a missing column, or runs that no mean should mix (two settings
            for one method and rank): select rows first.

    Example:

    >>> table = compare(studies.recorded("toy").read())
    >>> table.loc[table["method"] == "noise_bias", ["rank", "measured_mean", "difference"]]
    """
    if study != "toy":
        raise ValueError(f"`study` must be 'toy'. Received: {study!r}. For others use load(study).")
    needed = {"study", "dataset", "variant", "method", "rank", "seed", "split", "view", "metric"}
    missing = sorted((needed | {"value", "config", *SETTINGS}) - set(results.columns))
    if missing:
        raise ValueError(
            f"`results` must have the columns of recorded results. Missing: {missing}. "
            "Pass what Store.read() returns."
        )
    chosen = results[
        (results["study"] == study) & (results["dataset"] == dataset) & (results["variant"] == variant)
    ]
    _refuse_mixtures(chosen)
    measured = _measured(chosen, split)
    table = _published_toy(load(study), measured.index)
    table = table.join(measured, on=["method", "rank"])
    table["difference"] = table["measured_mean"] - table["published_accuracy"]
    notes = []
    if dataset != "fashion_mnist":
        notes.append(f"not comparable: {dataset}")
        table["difference"] = float("nan")
    if split != "validation":
        notes.append(f"published: validation, measured: {split}")
    if variant != "slides":
        notes.append(f"published: the slides' recipe, measured: {variant}")
    table["dataset"] = dataset
    table["note"] = "; ".join(notes)
    table = table[
        ["method", "rank", "published_ratio", "ratio", "published_accuracy"]
        + ["published_difference", "measured_mean", "measured_sd", "n_seeds"]
        + ["measured_difference", "difference", "dataset", "note"]
    ]
    table.attrs["title"] = (
        f"Toy study on {datasets.title(dataset)}, {split}, {variant}: published and measured"
    )
    table.attrs["note"] = "; ".join(notes)
    return table


def _published_toy(published: pd.DataFrame, measured: pd.MultiIndex) -> pd.DataFrame:
    """The rows of the comparison in their order, with what the slides have for each."""
    published = published.replace({"method": {"original": "dense"}}).fillna({"rank": 0})
    published = published.astype({"rank": "int64"}).set_index(["method", "rank"])
    pairs = published.index.union(measured)
    ranks = sorted({rank for method, rank in pairs if method in METHODS})
    order = [("dense", 0), *((method, rank) for rank in ranks for method in METHODS)]
    order += sorted(
        (pair for pair in measured if pair[0] in BASELINES),
        key=lambda pair: (BASELINES.index(pair[0]), pair[1]),
    )
    table = published.reindex(pd.MultiIndex.from_tuples(order, names=["method", "rank"]))
    table = table.rename(
        columns={"ratio_percent": "published_ratio", "accuracy_percent": "published_accuracy"}
    )
    original = table.loc[("dense", 0), "published_accuracy"]
    table["published_difference"] = table["published_accuracy"] - original
    return table.reset_index()


def _measured(chosen: pd.DataFrame, split: str) -> pd.DataFrame:
    """Mean, sd, number of seeds, distance from dense, and ratio, by method and rank."""
    by = ["method", "rank"]
    measured = tables.over_seeds(chosen, by, split).rename(
        columns={"mean": "measured_mean", "sd": "measured_sd", "n": "n_seeds", "gap": "measured_difference"}
    )
    return measured.assign(ratio=chosen[chosen["metric"] == "ratio_percent"].groupby(by)["value"].mean())


def _refuse_mixtures(chosen: pd.DataFrame, keys: Sequence[str] = ("rank",)) -> None:
    for (method, *rank), runs in chosen.groupby(["method", *keys]):
        rank = "/".join(map(str, rank))
        for setting in SETTINGS:
            values = runs[setting].drop_duplicates().tolist()
            if len(values) > 1:
                raise ValueError(
                    f"`results` must hold one setting for each method and rank, but {method}, rank "
                    f"{rank}, has several of `{setting}`: {values}. Select the rows of one first."
                )
        twice = runs.groupby("seed")["config"].nunique()
        if (twice > 1).any():
            raise ValueError(
                f"`results` must hold one run for each method, rank and seed, but {method}, rank "
                f"{rank}, has several `config` of the seeds {twice[twice > 1].index.tolist()}. "
                "Select the rows of one first."
            )


# How the other studies' tables and rows name a cell: column of the published table -> column of the rows.
CELLS = {
    "vgg16": {"conv_rank": "rank", "dense_rank": "dense_rank"},
    "bert_tiny": {"rank": "rank"},
    "bert_small": {"rank": "rank"},
}


def beside(results: pd.DataFrame, study: str, split: str = "test") -> pd.DataFrame:
    """Published and measured accuracy side by side for VGG16 or BERT, a row a cell and method.

    Args:
        results: recorded rows of one dataset, model and recipe (one setting for each method and cell).
        study: "vgg16" (slide 19), "bert_tiny" (21) or "bert_small" (22): whose published table.
        split: of the measured accuracy; the slides do not say theirs.

    Returns:
        Data frame, the dense net first, then every cell with the four methods and the baselines that were
        measured: the ranks, method, published_ratio, ratio (the slides' convention, recomputed),
        for BERT ratio_encoder (all that remains of the encoder blocks), ratio_model (all that remains over
        the whole model), published_accuracy, published_sd,
        published_difference (from the published original), measured_mean, measured_sd (ddof 1, empty for
        one seed), n_seeds, measured_difference (from the measured dense net of the same seeds). All in
        percent or points. Cells that were not measured have empty columns.

    Raises:
        ValueError: an unknown study, or runs that no mean should mix.

    Example:
        >>> beside(studies.recorded("vgg16").read(), "vgg16")  # doctest: +SKIP
    """
    cells = CELLS[_checks.one_of("study", study, CELLS)]
    keys = list(cells.values())
    _refuse_mixtures(results, keys)
    table = load(study).rename(columns={**cells, "ratio_percent": "published_ratio"})
    table = table.rename(columns={"accuracy_percent": "published_accuracy", "accuracy_sd": "published_sd"})
    table = table.replace({"method": {"original": "dense"}}).fillna(dict.fromkeys(keys, 0))
    by = [*keys, "method"]
    table = table.astype(dict.fromkeys(keys, "int64")).set_index(by)
    measured = tables.over_seeds(results, by, split)
    ratios = ["ratio", "ratio_model"] if study == "vgg16" else ["ratio", "ratio_encoder", "ratio_model"]
    for name in ratios:
        measured[name] = results[results["metric"] == f"{name}_percent"].groupby(by)["value"].mean()
    order = {name: place for place, name in enumerate((*names.METHOD_LABELS, *names.REFERENCES))}
    index = sorted(table.index.union(measured.index), key=lambda cell: (*cell[:-1], order[cell[-1]]))
    table = table.reindex(pd.MultiIndex.from_tuples(index, names=by))
    original = table.loc[(*[0] * len(keys), "dense"), "published_accuracy"]
    table["published_difference"] = table["published_accuracy"] - original
    measured = measured.rename(columns={"gap": "measured_difference", "n": "n_seeds"})
    measured = measured.rename(columns={"mean": "measured_mean", "sd": "measured_sd"})
    table = table.join(measured).reset_index()
    columns = [*by, "published_ratio", *ratios, "published_accuracy", "published_sd"]
    columns += ["published_difference", "measured_mean", "measured_sd", "n_seeds", "measured_difference"]
    return table[columns]
