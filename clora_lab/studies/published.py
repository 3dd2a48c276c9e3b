"""The tables of the slides as data, and ours beside them.

The numbers are those of the C-LoRA slides (Aiffel Online 5th Research, team 3L, December 2023),
transcribed and not corrected; `data/README.md` says what each file holds.
"""

from __future__ import annotations

import pandas as pd

from clora_lab import _checks
from clora_lab.studies.datasets import TITLES
from clora_lab.studies.paths import data_dir

STUDIES = ("toy", "vgg16", "bert_tiny", "bert_small", "conclusion")
METHODS = ("wds", "bias", "noise", "noise_bias")
BASELINES = ("svd", "svd_finetune", "scratch")
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
        results: recorded rows (`ResultsStore.read()`), accuracies as fractions.
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

    >>> table = compare(ResultsStore("data/results", "toy").read())
    >>> table.loc[table["method"] == "noise_bias", ["rank", "measured_mean", "difference"]]
    """
    if study != "toy":
        raise ValueError(f"`study` must be 'toy'. Received: {study!r}. For others use load(study).")
    needed = {"study", "dataset", "variant", "method", "rank", "seed", "split", "view", "metric"}
    missing = sorted((needed | {"value", "config", *SETTINGS}) - set(results.columns))
    if missing:
        raise ValueError(
            f"`results` must have the columns of recorded results. Missing: {missing}. "
            "Pass what ResultsStore.read() returns."
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
        f"Toy study on {TITLES.get(dataset, dataset)}, {split}, {variant}: published and measured"
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
    accuracy = chosen[(chosen["metric"] == "accuracy") & (chosen["split"] == split)]
    # "compressed" sorts before "trained": the compressed path where there is one.
    accuracy = accuracy.sort_values("view").drop_duplicates("config")
    accuracy = accuracy.set_index(["method", "rank", "seed"])["value"].mul(100)
    dense = accuracy[accuracy.index.get_level_values("method") == "dense"].droplevel([0, 1])
    seeds = accuracy.index.get_level_values("seed")
    gap = accuracy - dense.reindex(seeds).to_numpy()
    by = ["method", "rank"]
    ratio = chosen[chosen["metric"] == "ratio_percent"].groupby(by)["value"].mean()
    return pd.DataFrame(
        {
            "measured_mean": accuracy.groupby(by).mean(),
            "measured_sd": accuracy.groupby(by).std(),
            "n_seeds": accuracy.groupby(by).size().astype("Int64"),
            "measured_difference": gap.groupby(by).mean(),
            "ratio": ratio,
        }
    )


def _refuse_mixtures(chosen: pd.DataFrame) -> None:
    for (method, rank), runs in chosen.groupby(["method", "rank"]):
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
