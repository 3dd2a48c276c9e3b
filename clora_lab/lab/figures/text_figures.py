"""BERT on reviews as figures: where its parameters are, what attends to what, slides 21 and 22."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from clora_lab import _checks
from clora_lab.lab import names
from clora_lab.lab.data import registry as datasets
from clora_lab.lab.figures import marks
from clora_lab.lab.frames import MissingResults, require
from clora_lab.lab.names import METHODS, method_label
from clora_lab.lab.nets import registry as nets
from clora_lab.lab.nets.bert import WIDER, WIDER_RANK
from clora_lab.slides import published, shapes
from clora_lab.studies import overview

BERTS = {"bert_tiny": shapes.BERT_TINY, "bert_small": shapes.BERT_SMALL}
SCOPES = {  # what is compressed, in words
    "attention": "attention",
    "encoder": "attention and feed-forward",
    WIDER: "attention, wider feed-forward",
    "model": "attention, feed-forward, pooler and token embedding",
}
SLIDES_EPOCHS = 10  # slide 20
# What one table may not mix; the dense net has no scope and its own number of epochs.
SETTING = ("dataset", "model", "start", "variant", "sequence", "fraction", "dense_epochs")
SETTING_COMPRESSED = (*SETTING, "scope", "epochs")
UNTRAINED = ("dense", "svd")  # what has no epochs of compression
BELOW = (*names.BASELINES, *names.REFERENCES)  # the lines that the slides lack
WHOSE = {"published": "slides", "measured": "ours"}  # short, since the table is full
# Ways to count what remains, with the heads of their columns.
RATIOS = {"ratio": "Slides'\nratio", "ratio_encoder": "Of the\nblocks", "ratio_model": "Of the\nmodel"}


# --- the study ----------------------------------------------------------------------------------


def settings(rows: pd.DataFrame) -> pd.DataFrame:
    """The settings that recorded rows hold: what may not be mixed in one table, and how many runs each has.

    Args:
        rows: result rows of the study "bert".

    Returns:
        A row a setting, the largest first: `SETTING_COMPRESSED`, runs, ranks, seeds (numbers of).

    Raises:
        MissingResults: no rows of compressed nets, or a column is missing.

    Example:
        >>> settings(rows)[["model", "scope", "runs"]]  # doctest: +SKIP
    """
    require(rows, "rows", (*SETTING_COMPRESSED, "method", "rank", "seed", "config"))
    own = rows[~rows["method"].isin(UNTRAINED)]
    if own.empty:
        raise MissingResults(
            f"`rows` must hold trained compressed nets. Received: {sorted(set(rows['method']))}."
        )
    grouped = own.groupby(list(SETTING_COMPRESSED), sort=False)
    table = grouped[["config", "rank", "seed"]].nunique().set_axis(["runs", "ranks", "seeds"], axis=1)
    return table.sort_values("runs", ascending=False, kind="stable").reset_index()


def choose(rows: pd.DataFrame, **wanted) -> pd.DataFrame:
    """The rows of the largest setting that has the wanted values, with the dense nets it started from.

    Args:
        rows: result rows of the study "bert".
        **wanted: values of columns of `SETTING_COMPRESSED`, for instance model="bert_tiny".

    Raises:
        MissingResults: there is no such setting; the message lists those that there are.

    Example:
        >>> tiny = choose(rows, model="bert_tiny", scope="attention")  # doctest: +SKIP
    """
    table = settings(rows)
    for column, value in wanted.items():
        _checks.one_of("wanted", column, SETTING_COMPRESSED)
        table = table[table[column] == value]
    if table.empty:
        found = settings(rows)[["model", "start", "variant", "scope", "sequence"]].to_dict("records")
        raise MissingResults(f"`rows` must hold a setting with {wanted}. Received: {found[:8]}.")
    first = table.iloc[0]

    def alike(columns):
        return np.logical_and.reduce([rows[column] == first[column] for column in columns])

    dense, svd = rows["method"] == "dense", rows["method"] == "svd"
    chosen = (dense & alike(SETTING)) | (svd & alike((*SETTING, "scope")))
    chosen |= ~dense & ~svd & alike(SETTING_COMPRESSED)
    return rows[chosen].reset_index(drop=True)


def conditions(rows: pd.DataFrame) -> str:
    """How rows of one setting were made, in words and from the rows alone; for the head of every table.

    Args:
        rows: by `choose`.

    Raises:
        ValueError: rows of several settings.
        MissingResults: no rows.

    Example:
        >>> conditions(rows)  # doctest: +SKIP
        'BERT-Tiny (pretrained here on IMDB) on IMDB; 20,000 training and 25,000 test reviews of ...'
    """
    first = _one_setting(rows)
    dense, own = rows[rows["method"] == "dense"], rows[~rows["method"].isin(UNTRAINED)]
    counts = [f"dense net at most {first['dense_epochs']}"] if len(dense) else []
    counts += [f"each compressed net {own['epochs'].iloc[0]}"] if len(own) else []
    reduced = min([first["dense_epochs"], *own["epochs"]]) < SLIDES_EPOCHS
    seeds = rows["seed"].nunique()
    words = [
        f"{nets.title(first['model'], first['start'])} on {_data(first)}",
        f"{first['train_size']:,} training and {first['test_size']:,} test reviews of "
        f"{first['sequence']} tokens",
        f"epochs: {', '.join(counts)}" + (f" (the slides: {SLIDES_EPOCHS})" if reduced else ""),
        f"recipe '{first['variant']}'{_taught(own)}",
        "one seed" if seeds == 1 else f"up to {seeds} seeds",
    ]
    wide = _wider_scope(own)
    if wide:
        words.insert(1, f"{SCOPES[wide]} compressed")
    if wide == WIDER:
        words.insert(2, f"feed-forward at {WIDER_RANK:g} times the rank")
    return "; ".join(words)


def _taught(rows: pd.DataFrame) -> str:
    """What rows of compressed nets learned from, where it was not from the labels alone."""
    share = overview.taught(rows)
    if not share:
        return ""
    return f" (taught by the dense net{'' if share == 1.0 else f', {share:.0%} of the loss'})"


def _wider_scope(rows: pd.DataFrame) -> str | None:
    """What rows of one setting compress beyond the slides' attention: a key of `SCOPES`, or None."""
    return next((scope for scope in SCOPES if scope != "attention" and (rows["scope"] == scope).any()), None)


def _one_setting(rows: pd.DataFrame) -> pd.Series:
    """The first row, if all are of one setting."""
    require(rows, "rows", ("method",))
    own = rows[~rows["method"].isin(UNTRAINED)]
    for part, columns in ((rows, (*SETTING, "train_size", "test_size")), (own, ("scope", "epochs"))):
        require(rows, "rows", columns)  # that is also: there are rows
        for name in columns:
            values = part[name].drop_duplicates().tolist()
            if len(values) > 1:
                raise ValueError(
                    f"`rows` must hold one `{name}`. Received several: {values}. Select them with choose()."
                )
    return rows.iloc[0]


def comparable(rows: pd.DataFrame) -> bool:
    """Whether the slides have a table of the same data, model and scope to set beside rows of one setting."""
    own = rows[rows["method"] != "dense"]
    same = set(own["model"]) <= set(BERTS) and set(own["dataset"]) == {"imdb"}
    return bool(same and set(own["scope"]) == {"attention"})


def compare(rows: pd.DataFrame, split: str = "test") -> pd.DataFrame:
    """Slide 21's or 22's table beside ours, and the honest ratios, by `published.beside`.

    Args:
        rows: of one setting, see `choose`.
        split: whose accuracy, "test" or "validation".

    Returns:
        The columns of `published.beside`. Where the slides have no such table
        (`comparable`), the published columns are empty and there are no rows but the measured ones.

    Raises:
        ValueError: rows of several settings.
        MissingResults: no accuracy of the split.

    Example:
        >>> compare(rows)[["rank", "method", "published_accuracy", "measured_mean"]]  # doctest: +SKIP
    """
    model = _one_setting(rows)["model"]
    if not ((rows["metric"] == "accuracy") & (rows["split"] == split)).any():
        raise MissingResults(f"`rows` must hold accuracies of the split {split!r}. Received: none.")
    table = published.beside(rows, model if model in BERTS else "bert_tiny", split)
    if not comparable(rows):
        table = table[table["measured_mean"].notna()].reset_index(drop=True)
        table.loc[:, [column for column in table if column.startswith("published")]] = np.nan
    return table


def comparison_table(rows: pd.DataFrame, split: str = "test") -> Figure:
    """Slide 21 or 22, typeset: published and measured, three ratios, and what the slides lack below.

    Args:
        rows: of one setting, see `choose`.
        split: whose accuracy.

    Raises:
        ValueError, MissingResults: as `compare`.

    Example:
        >>> fig = comparison_table(choose(rows, model="bert_tiny"))  # doctest: +SKIP
    """
    table = compare(rows, split)
    first = rows.iloc[0]
    measured = table[table["measured_mean"].notna()]
    others = [method for method in BELOW if (measured["method"] == method).any()]

    def line(kind, part, methods, start, **more):
        part = part.set_index("method")
        columns = ("published_accuracy", "published_sd")
        columns = columns if kind == "published" else ("measured_mean", "measured_sd")
        cells = [_plus_minus(part, method, *columns) for method in methods]
        best = part.reindex(methods)[columns[0]].round(2)
        bold = [
            len(start) + 1 + index
            for index, value in enumerate(best)
            if value == best.max() and best.count() > 1
        ]
        return {"cells": [*start, WHOSE[kind], *cells], "bold": bold, **more}

    lines, dense = [], table[table["method"] == "dense"]
    for kind, column in (("published", "published_accuracy"), ("measured", "measured_mean")):
        if len(dense) and np.isfinite(dense[column].iloc[0]):
            cell = _plus_minus(dense.set_index("method"), "dense", column, f"{kind}_sd")
            start = ["dense" if not lines else "", *(["100"] * 3 if not lines else [""] * 3)]
            lines.append({"cells": [*start, WHOSE[kind], cell], "across": True})
    own = table[table["method"].isin(METHODS)]
    for rank, part in own.groupby("rank"):
        start, more = [str(rank)], {"rule": "thin"}
        if part["published_accuracy"].notna().any():
            shares = [f"{part['published_ratio'].iloc[0]:g}", "", ""]
            lines.append(line("published", part, METHODS, [*start, *shares], **more))
            start, more = [""], {}
        if part["measured_mean"].notna().any():
            shares = [_most(part[name]) for name in RATIOS]
            lines.append(line("measured", part, METHODS, [*start, *shares], **more))
    head = ["Rank", *RATIOS.values(), ""]
    if others:
        lines.append({"cells": [*head, *map(_short, others)], "head": True})
        for rank, part in measured[measured["method"].isin(others)].groupby("rank"):
            small = part[part["method"].isin(names.BASELINES)]
            shares = [_most(small[name]) for name in RATIOS]
            lines.append(line("measured", part, others, [str(rank), *shares]))
    data = datasets.title(first["dataset"]).split(" (")[0]
    wide = _wider_scope(rows)
    what = f", {SCOPES[wide]}" if wide else ""
    title = f"{nets.label(first['model'])} on {data}{what}: {split} accuracy (%)"
    kind = "Published and measured" if table["published_accuracy"].notna().any() else "Measured"
    keys = "Left: percent that remain, with a bias; best of a line in bold"
    if "lora" in others:
        keys += "; of LoRA's net 100% remain"
    subtitle = f"{kind}: {conditions(rows)}\n{keys}"
    fig = marks.table([*head, *map(_short, METHODS)], lines, title, subtitle, left=5, left_width=0.085)
    small = measured[measured["method"].isin(METHODS)]
    if len(small):
        top = small.loc[small["measured_mean"].idxmax()]
        fig.alt_text = (
            f"{title}, measured with {conditions(rows)}; the best C-LoRA net is "
            f"{method_label(top['method'])}, rank {top['rank']}, with {top['measured_mean']:.2f}. "
            + fig.alt_text
        )
    return fig


def trained_and_remaining(rows: pd.DataFrame, rank: int) -> pd.DataFrame:
    """What trains and what remains in the end, as fractions of the dense net: LoRA against compression.

    Args:
        rows: of one setting, see `choose`.
        rank: whose nets.

    Returns:
        Indexed by the methods' printed names: trained, remains (fractions).

    Raises:
        MissingResults: there is no dense net, or none of that rank.

    Example:
        >>> trained_and_remaining(rows, 16).loc["LoRA fine-tuning (all of W stays)"]  # doctest: +SKIP
    """
    _one_setting(rows)
    sizes = rows[rows["metric"].isin(["parameters", "trainable_parameters"])]
    table = sizes.pivot_table(index=["rank", "method"], columns="metric", values="value")
    if ("dense" not in table.index.get_level_values("method")) or rank not in table.index:
        raise MissingResults(
            f"`rows` must hold the dense net and nets of rank {rank}. Received: {list(table.index)}."
        )
    whole = table.loc[(0, "dense"), "parameters"]
    order = [name for name in (*names.METHOD_LABELS, *names.REFERENCES) if name not in ("dense", "svd")]
    chosen = table.loc[rank].reindex([name for name in order if name in table.loc[rank].index])
    chosen = pd.concat([table.loc[0], chosen])[["trainable_parameters", "parameters"]] / whole
    return chosen.set_axis(["trained", "remains"], axis=1).rename(index=method_label)


def _data(row: pd.Series) -> str:
    title = datasets.title(row["dataset"])
    return title + ("" if row["fraction"] == 1.0 else f", {100 * row['fraction']:.3g}%")


def _short(method: str) -> str:
    labels = {"bias": "Bias", "noise": "Noise", "noise_bias": "Noise & bias", "lora": "LoRA\nfine-tuning"}
    labels |= {"svd": "SVD, no\ntraining", "svd_finetune": "SVD then\nfine-tuning"}
    return {**labels, "scratch": "Low-rank\nfrom scratch"}.get(method, method_label(method))


def _most(values: pd.Series) -> str:
    """The largest: a bias, which two of the methods keep, makes a difference of a few tenths."""
    return "" if values.isna().all() else f"{values.max():.1f}"


def _plus_minus(part: pd.DataFrame, method: str, value: str, spread: str) -> str:
    if method not in part.index or not np.isfinite(part.loc[method, value]):
        return "–"
    sd = part.loc[method, spread]
    return f"{part.loc[method, value]:.2f}" + (f" ± {sd:.2f}" if np.isfinite(sd) else "")
