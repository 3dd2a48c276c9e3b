"""The comparison of recorded nets: one tidy frame, which `printing` writes and `figures.compare` draws.

`compare` is the one place where accuracies of several seeds become a mean, where the original net's is taken
off, and where published numbers are laid beside. Nothing here loads Keras.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from clora_lab import methods
from clora_lab.lab import published, stats
from clora_lab.lab.frames import MissingResults, require
from clora_lab.lab.published import Published
from clora_lab.lab.study import Study

NEEDED = ("method", "seed", "config", "split", "view", "metric", "value")
MADE = ("processor", "date", "precision")  # what else a table says of how its rows were computed
PRINTED = ("published", "published_sd", "published_gap", "published_ratio", "difference")
MEASURED = ("measured", "sd", "n", "gap", "low", "high")


# --- the rows of one table ----------------------------------------------------------------------


class _Row(dict):
    """A recorded row as a study's hooks read a run."""

    def only(self, *names):
        return {name: self[name] for name in names}


def parts(rows: pd.DataFrame, study: Study) -> Iterator[tuple[dict, pd.DataFrame]]:
    """The rows of a study table by table, each with the original nets from which its nets started.

    Args:
        rows: recorded rows.
        study: whose they are.

    Yields:
        The columns of `study.apart` with their values in this table, and its rows.

    Raises:
        MissingResults: a column is missing, or there is no row.
    """
    require(rows, "rows", (*NEEDED, *study.apart, *study.cells))
    rows = rows.reset_index(drop=True)
    original = rows["method"] == methods.ORIGINAL
    for _, part in rows[~original].groupby(list(study.apart), sort=False, dropna=False):
        first = _Row(part.iloc[0])
        wanted = {name: first[name] for name in study.apart_of_original}
        wanted |= {name: v for name, v in study.hooks.original(first).items() if name in wanted}
        same = np.logical_and.reduce([original, *(rows[name] == value for name, value in wanted.items())])
        yield first.only(*study.apart), rows.loc[rows.index[same].union(part.index)]


def final_values(rows: pd.DataFrame, split: str, metric: str = "accuracy") -> pd.DataFrame:
    """The accuracy that each finished net has in the end, or another metric: a row a run.

    A net that was compressed while it trained counts by what is left of it, the view "compressed"; "trained"
    is used where no other was recorded.

    Args:
        rows: recorded rows.
        split: "validation" or "test"; what was recorded of the net itself ("seconds") belongs to both.
        metric: "accuracy", "loss" or "seconds".

    Raises:
        MissingResults: there is none.
    """
    found = rows[(rows["metric"] == metric) & rows["split"].isin((split, "model"))]
    if found.empty:
        raise MissingResults(
            f"`rows` must hold the metric {metric!r} of the split {split!r}. Received: none. Choose another "
            "split, or record some."
        )
    return found.sort_values("view", kind="stable").drop_duplicates("config")  # compressed < trained


def by_seed(rows: pd.DataFrame, study: Study, split: str = "test") -> pd.DataFrame:
    """The accuracy of every finished net of one table in percent, a column a method.

    Args:
        rows: of one table, as `parts` gives them.
        study: whose they are.
        split: "test" or "validation".

    Returns:
        Indexed by (cell, seed), cells in the order of their ranks and named as in "16/32"; the original net
        of the seed stands in every cell.

    Raises:
        MissingResults: no accuracy of the split, or of the original net alone.
        ValueError: what no mean should mix, see `compare`.
    """
    _refuse_mixtures(rows, study)
    accuracy = final_values(rows, split)
    small = accuracy[accuracy["method"] != methods.ORIGINAL].sort_values([*study.cells, "seed"])
    if small.empty:
        raise MissingResults(
            f"`rows` must hold compressed nets with an accuracy of the split {split!r}. Received: the "
            "original net alone."
        )
    small = small.assign(cell=cell_names(small, study.cells))
    table = small.pivot(index=["cell", "seed"], columns="method", values="value")
    table = 100 * table.loc[[*small[["cell", "seed"]].drop_duplicates().itertuples(index=False, name=None)]]
    whole = accuracy[accuracy["method"] == methods.ORIGINAL].set_index("seed")["value"]
    table[methods.ORIGINAL] = 100 * whole.reindex(table.index.get_level_values("seed")).to_numpy()
    return table[sorted(table, key=methods.order)].rename_axis(columns=None)


def cell_names(frame: pd.DataFrame, cells: Sequence[str]) -> pd.Series:
    """The cells of a frame as texts: "16", or "16/32" of two ranks.

    Example:
        >>> cell_names(pd.DataFrame({"rank": [16], "dense_rank": [32]}), ("rank", "dense_rank")).item()
        '16/32'
    """
    ranks = frame[list(cells)].astype(int).itertuples(index=False)
    return pd.Series(["/".join(map(str, cell)) for cell in ranks], index=frame.index, dtype="str")


def _refuse_mixtures(rows: pd.DataFrame, study: Study) -> None:
    """Refuse rows of which some mean would mix two settings, or two runs of one seed."""
    checked = [name for name in study.must_agree if name in rows]
    runs = rows.drop_duplicates("config")
    for (method, *cell), own in runs.groupby(["method", *study.cells]):
        named = f"{method}, rank {'/'.join(map(str, cell))}"
        for name in checked:
            values = own[name].drop_duplicates().tolist()
            if len(values) > 1:
                raise ValueError(
                    f"`rows` must hold one setting for each method and cell, but {named}, has several of "
                    f"`{name}`: {values}. Select the rows of one first."
                )
        twice = own.loc[own.duplicated("seed"), "seed"].unique().tolist()
        if twice:
            raise ValueError(
                f"`rows` must hold one run for each method, cell and seed, but {named}, has several "
                f"`config` of the seeds {twice}. Select the rows of one first."
            )


# --- the comparison -----------------------------------------------------------------------------


def compare(rows: pd.DataFrame, study: Study, split: str = "test", metric: str = "accuracy") -> pd.DataFrame:
    """What was measured, over seeds, beside what was published: a row a table, cell and method.

    Args:
        rows: recorded rows of the study, as its store reads them.
        study: whose they are; it says which rows make a table, what a mean may hold, which shares were
            recorded, and which published table belongs beside.
        split: "test" or "validation".
        metric: "accuracy"; or "loss" (nats) or "seconds", beside which nothing was published.

    Returns:
        Tables one after the other; in each the original net first, then cell by cell the methods in the
        order of their registry. Columns, in percent and points:

        - the columns of `study.apart`, which tell tables apart, and of `study.cells`; method; split
        - published, published_sd, published_gap (from the published original), published_ratio: where a
          published table is of the same data, else empty. Cells that were not measured are there too.
        - measured, sd (ddof 1; empty for one seed), n (seeds), gap (from the original nets of the same seeds,
          mean of the pairs), low, high (Student's 95% interval of the mean; empty below three seeds)
        - difference (measured - published)
        - what remains, means over the seeds: every share of `study.ratios`, as "ratio" for the metric
          "ratio_percent", and whatever else was recorded of the net itself ("parameters", "flops")
        - note: why published and measured do not compare like with like

        `each` takes the tables apart again; their titles are in `attrs`, which a selection of rows keeps.

    Raises:
        MissingResults: no compressed net, no accuracy of the split, or a missing column.
        ValueError: runs that no mean should mix (two settings for one method and cell, or two runs of one
            seed): select rows first.

    Example:
        >>> from clora_lab import studies
        >>> toy = studies.recorded("toy").read()
        >>> table = compare(toy[toy["variant"] == "slides"], studies.get("toy"))
        >>> table.round(2).to_dict("records")[0]["measured"]
        87.39
    """
    frames, titles, made = [], {}, {}
    for what, part in parts(rows, study):
        frames.append(table_of(part, study, split, metric).assign(**what, split=split))
        titles[_key(what.values())] = study.describe(part)
        made[_key(what.values())] = _made(part)
    if not frames:
        raise MissingResults("`rows` must hold a compressed net. Received: the original net alone.")
    frame = pd.concat(frames, ignore_index=True)
    costs = [name for name in frame if name not in (*what, *study.cells, "method", "split", "note")]
    costs = [name for name in costs if name not in (*PRINTED, *MEASURED)]
    shares = [name.removesuffix("_percent") for name in study.ratios]
    costs.sort(key=lambda name: (shares.index(name) if name in shares else len(shares), name))
    first = [name for name in what if name not in study.cells]
    order = [*first, *study.cells, "method", "split", *PRINTED[:-1], *MEASURED, PRINTED[-1], *costs, "note"]
    frame = frame[order]
    frame.attrs |= {"apart": tuple(what), "cells": study.cells, "titles": titles, "made": made}
    return frame


def table_of(rows: pd.DataFrame, study: Study, split: str = "test", metric: str = "accuracy") -> pd.DataFrame:
    """The rows of one table, as `parts` gives them, compared: see `compare`, whose first columns it lacks.

    Args:
        rows: recorded rows, with the original net's; what `study.apart` tells apart may stand side by side.
        study: whose they are.
        split: "test" or "validation".
        metric: as for `compare`.
    """
    _refuse_mixtures(rows, study)
    by = [*study.cells, "method"]
    values, scale = final_values(rows, split, metric), 100 if metric == "accuracy" else 1
    whole = values[values["method"] == methods.ORIGINAL].set_index("seed")["value"]
    values = values.assign(
        value=scale * values["value"],
        gap=scale * (values["value"] - whole.reindex(values["seed"]).to_numpy()),
    )
    cells = values.groupby(by)
    table = cells["value"].agg(measured="mean", sd="std", n="size").astype({"n": "Int64"})
    table["gap"] = cells["gap"].mean()
    table[["low", "high"]] = [stats.interval(values) for _, values in cells["value"]]
    for cost in rows.loc[rows["split"] == "model", "metric"].unique():
        if cost != "seconds":
            own = rows[rows["metric"] == cost].groupby(by)["value"].mean()
            table[cost.removesuffix("_percent")] = own
    compressed = rows[rows["method"] != methods.ORIGINAL].iloc[0]
    printed = study.published if metric == "accuracy" else ()
    beside = next((each for each in printed if each.compares(compressed)), None)
    table = _beside(beside, study.cells).join(table, how="outer")
    note = "; ".join(_unlike(beside, rows, split)) if beside is not None else ""
    table = table.assign(difference=table["measured"] - table["published"], note=note)
    order = sorted(table.index, key=lambda cell: (*cell[:-1], methods.order(cell[-1])))
    return table.reindex(order).reset_index()


def _unlike(beside: Published, rows: pd.DataFrame, split: str) -> Iterator[str]:
    """Why a published table and these rows do not compare like with like."""
    if beside.split and beside.split != split:
        yield f"published: {beside.split}, measured: {split}"
    epochs = rows.loc[rows["method"] != methods.ORIGINAL, "epochs"].max()
    if beside.epochs and beside.epochs != epochs:
        yield f"published: {beside.epochs} epochs, measured: {epochs}"


def _beside(beside: Published | None, cells: Sequence[str]) -> pd.DataFrame:
    """A published table with the names of this frame, indexed like it; without one, no rows."""
    names = {"accuracy_percent": "published", "accuracy_sd": "published_sd"}
    names["ratio_percent"] = "published_ratio"
    by = [*cells, "method"]
    if beside is None:
        index = pd.MultiIndex.from_arrays([pd.array([], "int64")] * len(cells) + [pd.array([], "str")])
        return pd.DataFrame(index=index.set_names(by), columns=[*PRINTED[:-1]], dtype="float64")
    table = published.load(beside.table).rename(columns={**beside.cells, **names})
    table = table.replace({"method": {"original": methods.ORIGINAL}}).fillna(dict.fromkeys(cells, 0))
    table = table.astype(dict.fromkeys(cells, "int64")).set_index(by)
    original = table.xs(methods.ORIGINAL, level="method")["published"].item()
    return table.assign(published_gap=table["published"] - original).reindex(columns=[*PRINTED[:-1]])


def _made(rows: pd.DataFrame) -> tuple[tuple[str, ...], ...]:
    """Backend, Keras, processors, dates: how rows were computed, every value once."""
    found = [rows["backend"] + " " + rows["backend_version"], "Keras " + rows["keras_version"]]
    found += [rows[name] for name in MADE if name in rows]
    return tuple(tuple(values.astype(str).unique()) for values in found)


def trained_and_remaining(table: pd.DataFrame, rank: int) -> pd.DataFrame:
    """What trains and what remains in the end, as fractions of the original net.

    Args:
        table: by `each`, with the columns "parameters" and "trainable_parameters".
        rank: whose nets.

    Returns:
        Indexed by the methods' printed names: trained, remains (fractions). Methods that train nothing are
        left out.

    Raises:
        MissingResults: there is no original net, or none of that rank.
    """
    require(table, "table", ("method", "rank", "parameters", "trainable_parameters"))
    sizes = table[table["parameters"].notna()]
    whole = sizes[sizes["method"] == methods.ORIGINAL]
    own = sizes[(sizes["rank"] == rank) & sizes["method"].map(methods.trains)]
    if whole.empty or own.empty:
        found = sizes[["rank", "method"]].to_numpy().tolist()
        raise MissingResults(
            f"`table` must hold the original net and nets of rank {rank}. Received: {found}."
        )
    chosen = pd.concat([whole, own]).drop_duplicates("method").set_index("method")
    shares = chosen[["trainable_parameters", "parameters"]] / whole["parameters"].iloc[0]
    return shares.set_axis(["trained", "remains"], axis=1).rename(index=methods.label).rename_axis(None)


def each(frame: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """The tables of a comparison one by one.

    Args:
        frame: by `compare`, or a selection of its rows.

    Yields:
        The title, which names net, data and recipe, and the rows.
    """
    for key, table in frame.groupby(list(frame.attrs["apart"]), sort=False, dropna=False):
        table.attrs = {**frame.attrs, "made_on": frame.attrs["made"][_key(key)]}
        yield frame.attrs["titles"][_key(key)], table.reset_index(drop=True)


def _key(values) -> tuple:
    """What names a table, with None for what its method has not got: two NaN are not equal."""
    return tuple(None if pd.isna(value) else value for value in values)
