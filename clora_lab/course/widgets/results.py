"""Widget 4: recorded results. A table's methods and ranks against what is left, with baselines and ± bars."""

from __future__ import annotations

import functools
from collections.abc import Iterable

import ipywidgets
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from clora_lab import _checks, studies
from clora_lab import methods as registry
from clora_lab.course.widgets.frame import (
    Explorer,
    Reading,
    View,
    draw_legend,
    dropdown,
    html_table,
    make_control,
    still_figure,
    write_title,
)
from clora_lab.lab import tables
from clora_lab.lab.data import registry as datasets
from clora_lab.lab.figures import marks, style
from clora_lab.lab.figures.style import FAINT
from clora_lab.lab.frames import require

HEIGHT = 4.4
METRICS = {"accuracy": "Accuracy (%)", "loss": "Loss (nats)", "seconds": "Training time (s)"}
RATIOS = {"slides": "ratio", "model": "ratio_model"}  # convention -> column of a comparison
VIEWS = {"BA alone": "compressed", "what trains (d·W + BA)": "trained"}
ALL_RANKS = "all"
TOLD = ("dataset", "variant")  # in the name of every table, first and last


def results_tables(results: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The rows of each table by its name: study, data set, what else tells it apart, and recipe.

    Args:
        results: recorded rows of one or several studies.

    Raises:
        MissingResults: a column is missing, or there is no row of a compressed net.
    """
    require(results, "results", ["study", "config"])
    found = {}
    for name, rows in results.groupby("study", sort=False):
        study = studies.get(name)
        parts = list(tables.parts(rows, study))
        told = [n for n in study.apart if n not in TOLD and len({what[n] for what, _ in parts}) > 1]
        for what, part in parts:
            words = [datasets.label(what["dataset"]), *(str(what[n]) for n in told), what["variant"]]
            found[", ".join([name, *words])] = part
    require(pd.DataFrame({"table": list(found)}), "results", ["table"])
    return found


def results_summary(
    rows: pd.DataFrame,
    split: str = "test",
    metric: str = "accuracy",
    view: str = "compressed",
    ratio: str = "slides",
) -> pd.DataFrame:
    """Mean and standard deviation over the seeds of a metric, beside the ratio, by rank and method.

    Args:
        rows: of one table, see `results_tables`.
        split: "validation" or "test".
        metric: "accuracy" (percent), "loss" (nats) or "seconds".
        view: "compressed" (B A alone, where it was measured, else what was trained) or "trained".
        ratio: how parameters are counted, "slides" or "model"; see `clora_lab.CONVENTIONS`.

    Returns:
        A data frame in the order of `clora_lab.lab.tables.compare`: cell ("16", or "16/32" of two ranks),
        method, ratio_percent, mean, sd (empty for one seed), n (seeds).

    Raises:
        ValueError: there are no such rows, or they mix what no mean should.
    """
    study = studies.get(rows["study"].iloc[0])
    _checks.one_of("metric", metric, METRICS)
    if _checks.one_of("view", view, VIEWS.values()) == "trained":
        rows = rows[rows["view"] != "compressed"]
    frame = tables.compare(rows, study, split, metric)
    frame = frame[frame["measured"].notna()]
    column = RATIOS[_checks.one_of("ratio", ratio, RATIOS)]
    require(frame, "rows", [column])
    frame = frame.assign(cell=tables.cell_names(frame, study.cells))
    names = {column: "ratio_percent", "measured": "mean"}
    return frame.rename(columns=names)[["cell", "method", "ratio_percent", "mean", "sd", "n"]]


def results_curves(
    history: pd.DataFrame, configs: Iterable[str], metric: str = "accuracy", view: str = "compressed"
) -> pd.DataFrame:
    """Mean over the seeds of the validation metric by epoch, a column a method, in the registry's order.

    Args:
        history: recorded epochs, as of the study's store.
        configs: names of the runs, of one cell and of the original nets.
        metric: "accuracy" (percent) or "loss" (nats).
        view: see `results_summary`.
    """
    rows = history[history["config"].isin(set(configs))]
    own = f"val_{metric}" if view == "trained" else f"val_compressed_{metric}"
    values = rows[own].fillna(rows[f"val_{metric}"])  # the baselines have but one view
    values = 100 * values if metric == "accuracy" else values
    frame = rows.assign(value=values).pivot_table("value", "epoch", "method", aggfunc="mean")
    return frame[sorted(frame, key=registry.order)]


def _view_of(parts: dict[str, pd.DataFrame], history: pd.DataFrame | None) -> View:
    """The view of some tables; what it computes of one it keeps, since only the picture must be quick."""

    summary_of = functools.cache(lambda table, *settings: results_summary(parts[table], *settings))
    curves_of = functools.cache(
        lambda table, cell, *settings: results_curves(history, _configs(parts[table], cell), *settings)
    )

    def view(
        fig, table, methods, rank=ALL_RANKS, split="test", metric="accuracy", view="compressed",
        ratio="slides",
    ):  # fmt: skip
        summary = summary_of(table, split, metric, view, ratio)
        points = _chosen(summary, methods, rank)
        nets = points[points["method"] != registry.ORIGINAL]
        space = {"left": 0.1, "right": 0.985, "top": 0.91, "bottom": 0.335, "wspace": 0.2}
        axes = fig.subplots(1, 1 if history is None else 2, squeeze=False, gridspec_kw=space)[0]
        _draw_points(axes[0], points, nets, metric)
        axes[0].set(ylabel=METRICS[metric], xlabel="Parameters left (%), log scale")
        if history is not None:
            cell = rank if rank != ALL_RANKS else next(iter(nets["cell"]), "")
            curves = None if metric == "seconds" else curves_of(table, cell, metric, view)
            _draw_curves(axes[1], curves, points["method"], cell, METRICS[metric])
        draw_legend(fig, axes, ncols=3)
        what, _, recipe = table.rpartition(", ")
        title = f"{METRICS[metric].partition(' (')[0]} against parameters left: {what}"
        title += "" if metric == "seconds" else f", {split} set"
        write_title(fig, title)
        shown = _texts(points, metric)
        most = points["n"].max()
        counts = f"means ± 1 sd, of up to {most} seeds" if most > 1 else "one seed"
        fig.alt_text = f"{title}, variant {recipe}, {counts}: " + "; ".join(
            f"{m} {v}" for m, v in zip(shown["method, rank"], shown["value"], strict=True)
        )
        whole = (summary["method"] == registry.ORIGINAL).any()
        remark = "" if whole else f"No dense net is recorded in the variant {recipe}."
        return Reading(f"<p>{counts.capitalize()}.</p>{html_table(shown)}", remark)

    return view


def _chosen(summary: pd.DataFrame, methods, rank: str) -> pd.DataFrame:
    """The nets of some methods and a rank, and the original net if it is among the methods."""
    original = summary["method"] == registry.ORIGINAL
    wanted = summary["method"].isin(methods) & (original | (summary["cell"] == rank) | (rank == ALL_RANKS))
    if not wanted.any():
        has = ", ".join(summary.loc[~original, ["method", "cell"]].agg(" ".join, axis=1))
        raise ValueError(f"No rows for this choice. Choose a method and rank among: {has}.")
    return summary[wanted]


def _draw_points(ax, points: pd.DataFrame, nets: pd.DataFrame, metric: str) -> None:
    top = (points["mean"] + points["sd"].fillna(0.0)).max()
    ends = (
        (-0.05 * top, 1.08 * top) if metric == "seconds" else None
    )  # no training takes no time: it is no outlier
    marks.draw_points(ax, points, "ratio_percent", ends=ends)
    if len(nets):
        marks.rank_axis(ax, nets["ratio_percent"], nets["cell"])


def _configs(rows: pd.DataFrame, cell: str) -> pd.Series:
    """The names of the runs of a cell of a table, and of its original nets."""
    runs = rows.drop_duplicates("config")
    own = tables.cell_names(runs, studies.get(rows["study"].iloc[0]).cells) == cell
    return runs.loc[own | (runs["method"] == registry.ORIGINAL), "config"]


def _draw_curves(ax, curves: pd.DataFrame | None, methods: Iterable[str], cell: str, ylabel: str) -> None:
    if curves is None:
        ax.set_axis_off()
        ax.text(0.5, 0.5, "There are no curves\nof this metric.", ha="center", color=FAINT)
        return
    for method in curves.columns.intersection(pd.unique(methods), sort=False):
        marks.draw_curve(ax, curves[method].dropna(), registry.label(method), style.of_method(method))
    ax.set(xlabel=f"Epoch (validation, rank {cell})", ylabel=ylabel)
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))


def _texts(points: pd.DataFrame, metric: str) -> pd.DataFrame:
    unit = "%" if metric == "accuracy" else ""
    spread = points["sd"].map(lambda sd: "" if np.isnan(sd) else f" ± {sd:.2f}")
    ranks = (", " + points["cell"]).where(points["method"] != registry.ORIGINAL, "")
    return pd.DataFrame(
        {
            "method, rank": points["method"].map(registry.label) + ranks,
            "parameters left (%)": points["ratio_percent"].map("{:.2f}".format),
            "value": points["mean"].map("{:.2f}".format) + spread + unit,
            "seeds": points["n"],
        }
    )


def results_explorer(results: pd.DataFrame, history: pd.DataFrame | None = None) -> Explorer:
    """Widget 4: a table, its methods, ranks and metrics against the ratio, with baselines and ± bars.

    Args:
        results: recorded rows, as the store of a study reads them.
        history: recorded epochs, as the same store reads them, for curves beside the points.

    Raises:
        ValueError: if `results` has no rows or lacks columns.

    Example:
        >>> widget = results_explorer(results, history)  # doctest: +SKIP
        >>> widget.controls["rank"].value = "16"  # doctest: +SKIP
    """
    parts = results_tables(results)
    first = _first(parts)
    cells = {}  # name -> its ranks
    for rows in parts.values():
        columns = studies.get(rows["study"].iloc[0]).cells
        nets = rows.loc[rows["method"] != registry.ORIGINAL, list(columns)].drop_duplicates()
        cells |= dict(zip(tables.cell_names(nets, columns), nets.itertuples(index=False), strict=True))
    labels = [(registry.label(method), method) for method in first["methods"]]
    controls = {
        "table": dropdown("table", first["table"], list(parts)),
        "methods": make_control(
            ipywidgets.SelectMultiple, "methods", first["methods"], options=labels, rows=len(labels)
        ),
        "rank": dropdown("rank", ALL_RANKS, [ALL_RANKS, *sorted(cells, key=cells.get)]),
        "metric": dropdown("metric", "accuracy", list(METRICS)),
        "split": dropdown("data", "test", ["validation", "test"]),
        "view": dropdown("evaluated", "compressed", list(VIEWS.items())),
        "ratio": dropdown("ratio counted as", "slides", list(RATIOS)),
    }

    return Explorer(_view_of(parts, history), controls, HEIGHT)


def _first(parts: dict[str, pd.DataFrame]) -> dict:
    """What is shown first: the first table, with every method that is recorded in any."""
    recorded = {method for rows in parts.values() for method in rows["method"].unique()}
    return {"table": next(iter(parts)), "methods": tuple(sorted(recorded, key=registry.order))}


def results_explorer_static(results: pd.DataFrame, history: pd.DataFrame | None = None, **settings) -> Figure:
    """The picture of `results_explorer`, as a figure; settings as the widget's controls."""
    parts = results_tables(results)
    return still_figure(_view_of(parts, history), HEIGHT, **{**_first(parts), **settings})
