"""Published, as coded and as written, side by side: the slides' numbers and what one line of code is worth.

The slides write f( d (W x + b) + s B A x ); their authors' code has d f(W x + b) + s B A x, and so ends in
linear layers (`clora_lab.slides.coded` has the whole list). Both are recipes of each study, "as_written" and
"as_coded" in `clora_lab.lab.settings`, on the same data from the same original nets.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import pandas as pd
from rich.console import Console

from clora_lab import methods
from clora_lab.lab import printing, stats, tables
from clora_lab.lab.frames import MissingResults, plus_minus, signed, spread_in_words
from clora_lab.lab.study import Study
from clora_lab.studies.toy import SOFTMAX

RECIPES = {"as_coded": "as coded", "as_written": "as written"}
SHORT = {
    "published": "slides",
    "written - coded": "worth",
}  # heads that leave the methods a line of 80 columns


def side_by_side(rows: pd.DataFrame, study: Study, split: str = "validation") -> pd.DataFrame:
    """Both recipes beside the published numbers: a row a cell and method of the slides.

    Args:
        rows: recorded rows of the study, of one data set and net.
        study: whose they are.
        split: "validation", which the toy project's slides print, or "test".

    Returns:
        Columns: those of `study.cells`, method, published; for each recipe its mean accuracy in percent
        (named as the recipe), `<recipe>_sd`, `<recipe>_n`, `<recipe>_difference` from the published one;
        and `worth`, as written minus as coded, the mean over the seeds that both have, with `worth_low` and
        `worth_high`, Student's 95% interval, and `worth_p`, p of the paired t test, corrected after Holm for
        all cells (all three empty where there are too few seeds).

    Raises:
        MissingResults: one of the recipes has no row.

    Example:
        >>> from clora_lab import studies
        >>> side_by_side(studies.recorded("toy").read(), studies.get("toy"))  # doctest: +SKIP
    """
    by = [*study.cells, "method"]
    own = rows[rows["method"].isin(methods.names("slides")) & rows["variant"].isin(RECIPES)]
    if missing := [name for name in RECIPES if name not in set(own["variant"])]:
        raise MissingResults(
            f"`rows` must hold both recipes, {' and '.join(RECIPES)}. Missing: {missing}. Run: python -m "
            f"clora_lab reproduce {study.name} variant={','.join(RECIPES)}"
        )
    frame = tables.compare(pd.concat([own, rows[rows["method"] == methods.ORIGINAL]]), study, split)
    frame = frame[frame["method"] != methods.ORIGINAL]
    found = frame.drop_duplicates(by).set_index(by)[["published"]]
    values = tables.final_values(own, split).set_index([*by, "variant", "seed"])["value"]
    for recipe in RECIPES:
        part = frame[frame["variant"] == recipe].set_index(by)
        found[recipe] = part["measured"]
        found[[f"{recipe}_{name}" for name in ("sd", "n", "difference")]] = part[["sd", "n", "difference"]]
    found = found[found[list(RECIPES)].notna().any(axis=1)]
    for cell, pairs in (100 * values.unstack("variant")).groupby(level=by):
        one = stats.paired(pairs["as_written"], pairs["as_coded"])
        names = [f"worth{name}" for name in ("", "_low", "_high", "_p")]
        found.loc[cell, names] = one.difference, one.low, one.high, one.p
    found["worth_p"] = stats.holm(found["worth_p"].to_numpy())
    found = found.reset_index()
    found.attrs = {"cells": study.cells, "split": split, "title": study.title_of(own.iloc[0])}
    return found


def softmax(rows: pd.DataFrame, split: str = "validation") -> pd.Series | None:
    """Accuracies of the plain softmax regression in percent, indexed by seed; None where there is none."""
    own = rows[rows["model"] == SOFTMAX]
    if own.empty:
        return None
    return 100 * tables.final_values(own, split).set_index("seed")["value"]


def texts(table: pd.DataFrame) -> pd.DataFrame:
    """The table as texts for printing; by `side_by_side`."""
    shown = {"rank": tables.cell_names(table, table.attrs["cells"])}
    shown["method"] = table["method"].map(methods.label)
    if table["published"].notna().any():
        shown["published"] = table["published"].map("{:.2f}".format)
    for recipe, head in RECIPES.items():
        pairs = zip(table[recipe], table[f"{recipe}_sd"], strict=True)
        shown[head] = [plus_minus(*pair) if np.isfinite(pair[0]) else "" for pair in pairs]
    shown["written - coded"] = ["" if np.isnan(value) else f"{value:+.2f}" for value in table["worth"]]
    return pd.DataFrame(shown)


def in_words(table: pd.DataFrame, softmax_: pd.Series | None = None) -> str:
    """What came out, in a few sentences.

    Args:
        table: by `side_by_side`.
        softmax_: by `softmax`.
    """
    said = []
    for recipe, head in RECIPES.items():
        gaps = table[f"{recipe}_difference"].dropna()
        if len(gaps):
            least, most, mean = (signed(value) for value in (gaps.min(), gaps.max(), gaps.mean()))
            said.append(
                f"{head.capitalize()}, the {len(gaps)} cells lie {least} to {most} from the published ones, "
                f"{mean} in the mean."
            )
    worth = table["worth"].dropna()
    if len(worth):
        more = f"{signed(worth.min())} to {signed(worth.max())}"
        said.append(f"The activation on the sum is worth {more} points, {signed(worth.mean())} in the mean.")
    if softmax_ is not None:
        at = plus_minus(softmax_.mean(), softmax_.std())
        best = table["as_coded"].max()
        side = "above every net as coded" if softmax_.mean() > best else "not above every net as coded"
        said.append(f"A plain softmax regression has {at}%, {side} (the best of them {best:.2f}%).")
    return " ".join(said)


def _note(table: pd.DataFrame) -> str:
    counts = pd.concat([table[f"{recipe}_n"].dropna() for recipe in RECIPES])
    said = f"{table.attrs['title']}: {table.attrs['split']} accuracy in percent, {spread_in_words(counts)}"
    return f"{said}; the slides' numbers: one run each" if table["published"].notna().any() else said


def sides(rows: pd.DataFrame, study: Study) -> Iterator[tuple[pd.DataFrame, pd.Series | None]]:
    """`side_by_side` and `softmax` for each data set, net and factorization that has both recipes.

    The split is the one that the study's published numbers are of, "test" where that is not told. A grid
    that moved settings beside its recipes has no such table, and is left out.
    """
    split = study.published[0].split or "test"
    whole = dataclasses.replace(study, apart=tuple(name for name in study.apart if name != "variant"))
    own = rows[rows["variant"].isin(RECIPES) | (rows["method"] == methods.ORIGINAL)]
    for what, part in tables.parts(own, whole) if len(own) else ():
        if study.apart_in(part) is not study or not set(RECIPES) <= set(part["variant"]):
            continue
        data = [name for name in whole.apart_of_original if name != "model"]
        same = np.logical_and.reduce([rows[name] == what[name] for name in data])
        yield side_by_side(part, study, split), softmax(rows[same], split)


def report(rows: pd.DataFrame, study: Study) -> None:
    """Print the tables in 80 columns, and what came out; nothing where a recipe is missing."""
    for table, plain in sides(rows, study):
        printing.show(texts(table).rename(columns=SHORT), "As coded and as written", _note(table))
        Console().print(in_words(table, plain), highlight=False)


def markdown(rows: pd.DataFrame, study: Study) -> str:
    """The same for the README; "" where a recipe is missing."""
    return "\n\n".join(
        f"{printing.to_markdown(texts(table))}\n\n{_note(table)}. {in_words(table, plain)}"
        for table, plain in sides(rows, study)
    )
