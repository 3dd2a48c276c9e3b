"""The VGG16 and BERT studies as tables: recorded rows, part by part, beside the slides' where they can be."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from clora_lab import _checks
from clora_lab.lab import names, tables
from clora_lab.lab.data import registry as datasets
from clora_lab.lab.nets import registry as nets
from clora_lab.slides import published

# What makes rows comparable: one table each. The last one is no property of the dense net.
PARTS = {
    "vgg16": ("dataset", "model", "start", "train_size", "variant", "factorization"),
    "bert": ("dataset", "model", "start", "sequence", "fraction", "variant", "scope"),
}
STUDIES = tuple(PARTS)


def parts(rows: pd.DataFrame, study: str) -> Iterator[tuple[str, pd.DataFrame]]:
    """The rows of a study in parts that make a table each, the dense net's with every one.

    Args:
        rows: recorded rows of the study.
        study: "vgg16" or "bert".

    Yields:
        (title, rows): the title names net, start, data, how much of it, recipe, and what is compressed how.

    Raises:
        ValueError: unknown study.
    """
    *shared, own = PARTS[_checks.one_of("study", study, PARTS)]
    for _, found in rows.groupby(list(shared), sort=False):
        dense = found[found["method"] == "dense"]
        for kind, part in found[found["method"] != "dense"].groupby(own, sort=False):
            yield _title(part, study, kind), rows.loc[dense.index.union(part.index)]


def _title(part: pd.DataFrame, study: str, kind: str) -> str:
    first = part.iloc[0]
    sizes = f"{first['train_size']:,} training, {first['test_size']:,} test"
    if study == "vgg16":
        data, things = datasets.title(first["dataset"]), "images"
    else:
        data, things = datasets.title(first["dataset"]), f"texts of {first['sequence']} tokens"
    net = nets.title(first["model"], first["start"])
    trained = part.loc[part["epochs"] > 0, "epochs"]
    epochs = f"{trained.max()} epochs from a dense net of {first['dense_epochs']}"
    share = taught(part)
    if share:
        epochs += f", which gives {share:.0%} of the loss"
    return f"{net} on {data} ({sizes} {things}), recipe '{first['variant']}' ({epochs}), {kind}"


def taught(rows: pd.DataFrame) -> float:
    """Share of the loss that the dense net gave in the training of these rows; 0 where none is recorded."""
    if "distillation" not in rows or rows.empty:
        return 0.0
    return pd.to_numeric(rows["distillation"]).fillna(0.0).max()


def comparable(part: pd.DataFrame) -> str | None:
    """The slides' table that a part may be laid beside: its name, or None."""
    first = part[part["method"] != "dense"].iloc[0]
    if first["dataset"] in ("cifar10", "cifar10_jpeg") and first["model"] == "vgg16":
        return "vgg16" if first["factorization"] == "loralib" else None
    if first["dataset"] == "imdb" and first["scope"] == "attention":
        return first["model"] if first["model"] in published.CELLS else None
    return None


def table(part: pd.DataFrame, split: str = "test") -> pd.DataFrame:
    """A part as a compact table of text, see `tables.compact_beside`.

    Args:
        part: rows as `parts` yields them.
        split: "test" or "validation".
    """
    slides = comparable(part)
    like = "vgg16" if "dense_rank" in part else "bert_tiny"
    return tables.compact_beside(published.beside(part, slides or like, split), slides is not None)


def markdown(rows: pd.DataFrame, study: str, split: str = "test") -> str:
    """The README's tables of a study: what was measured, with the published accuracy where it compares.

    Args:
        rows: recorded rows of the study.
        study: "vgg16" or "bert".
        split: "test" or "validation".
    """
    blocks = []
    for title, part in parts(rows, study):
        shown = table(part, split)
        shown = shown[shown["measured"] != ""]
        shown["method"] = shown["method"].map(names.method_label)
        head = " | ".join(f"{column}".replace(" %", ", %") for column in shown.columns)
        lines = [f"| {head} |", "|" + "---|" * shown.shape[1]]
        lines += [f"| {' | '.join(map(_cell, row))} |" for row in shown.itertuples(index=False)]
        made = [part["backend"] + " " + part["backend_version"], "Keras " + part["keras_version"]]
        made += [part[column] for column in ("processor", "date", "precision") if column in part]
        said = ", ".join(" and ".join(values.unique()) for values in made)
        lines += ["", f"{title}; {split} accuracy in percent; {said}."]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def _cell(value) -> str:
    if pd.isna(value):
        return ""
    return f"{value:.2f}" if isinstance(value, float) else str(value)
