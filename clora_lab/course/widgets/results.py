"""Widget 4: recorded results. Study, method, rank and metric against the ratio, with baselines and ± bars."""

from __future__ import annotations

from collections.abc import Sequence

import ipywidgets
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from clora_lab import _checks
from clora_lab import methods as registry
from clora_lab.course.widgets.frame import (
    Explorer,
    Reading,
    draw_legend,
    dropdown,
    html_table,
    make_control,
    still_figure,
    write_title,
)
from clora_lab.lab.data import registry as datasets
from clora_lab.lab.figures import marks, style
from clora_lab.lab.figures.style import FAINT
from clora_lab.lab.frames import require

HEIGHT = 4.4
METRICS = {"accuracy": "Accuracy (%)", "loss": "Loss (nats)", "seconds": "Training time (s)"}
RATIOS = {"slides": "ratio_percent", "model": "ratio_model_percent"}
RESULT_VIEWS = {"BA alone": "compressed", "what trains (d·W + BA)": "trained"}
ALL_RANKS = "all"


def results_summary(
    results: pd.DataFrame,
    study: str,
    variant: str = "slides",
    split: str = "test",
    metric: str = "accuracy",
    view: str = "compressed",
    ratio: str = "slides",
) -> pd.DataFrame:
    """Mean and standard deviation over the seeds of a metric, beside the ratio, by method and rank.

    Args:
        results: recorded rows, as of `ResultsStore.read`.
        study: "study, dataset", as `studies_in` lists them.
        variant: name of the recipe.
        split: "validation" or "test".
        metric: "accuracy" (fraction), "loss" (nats) or "seconds".
        view: "compressed" (B A alone, where it was measured, else what was trained) or "trained".
        ratio: how parameters are counted, "slides" or "model"; see `clora_lab.CONVENTIONS`.

    Returns:
        A data frame with the columns method, rank, ratio_percent, mean, sd (ddof 1; empty for one seed),
        n (seeds).

    Raises:
        ValueError: if there are no such rows; the message says which there are.
    """
    require(results, "results", ["study", "dataset", "variant", "method", "rank", "seed"])
    rows = studies_in(results)[_checks.one_of("study", study, studies_in(results))]
    rows = rows[rows["variant"] == variant]
    named = {"variant": variant, "split": split, "metric": metric}
    values = rows[rows["metric"] == _checks.one_of("metric", metric, METRICS)]
    if metric != "seconds":
        order = {view: 0, "trained": 1}
        _checks.one_of("view", view, RESULT_VIEWS.values())
        values = values[(values["split"] == split) & values["view"].isin(order)]
        values = values.assign(order=values["view"].map(order)).sort_values("order")
    values = values.drop_duplicates("config")
    if values.empty:
        raise ValueError(
            f"There are no rows of {study} with {named}. Choose another: the variants are "
            f"{sorted(studies_in(results)[study]['variant'].unique())}."
        )
    by = ["method", "rank"]
    column = RATIOS[_checks.one_of("ratio", ratio, RATIOS)]
    frame = values.groupby(by)["value"].agg(mean="mean", sd="std", n="size")
    frame["ratio_percent"] = rows[rows["metric"] == column].groupby(by)["value"].mean()
    return frame.reset_index()[["method", "rank", "ratio_percent", "mean", "sd", "n"]]


def studies_in(results: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The rows of each study and data set, by 'study, printed name of the data set'."""
    return {
        f"{study}, {datasets.label(dataset)}": rows
        for (study, dataset), rows in results.groupby(["study", "dataset"])
    }


def results_curves(
    history: pd.DataFrame,
    study: str,
    variant: str,
    methods: Sequence[str],
    rank: int,
    metric: str = "accuracy",
    view: str = "compressed",
) -> pd.DataFrame:
    """Mean over the seeds of the validation metric by epoch, a column a method.

    Args:
        history: recorded epochs, as of `ResultsStore.read_history`.
        rank: of the methods that have one; the dense net is taken along.
        others: see `results_summary`.
    """
    rows = studies_in(history).get(study, history.iloc[:0])
    rows = rows[(rows["variant"] == variant) & rows["rank"].isin([0, rank])]
    own = f"val_{metric}" if view == "trained" else f"val_compressed_{metric}"
    values = rows[own].fillna(rows[f"val_{metric}"])  # the baselines have but one view
    frame = rows.assign(value=values).pivot_table("value", "epoch", "method", aggfunc="mean")
    return frame[[method for method in methods if method in frame]]


def _results_view(
    fig, results, history, study, variant="slides", methods=(), rank=ALL_RANKS, split="test",
    metric="accuracy", view="compressed", ratio="slides",
):  # fmt: skip
    summary = results_summary(results, study, variant, split, metric, view, ratio)
    points = summary[summary["method"].isin(methods)]
    if rank != ALL_RANKS:
        points = points[points["rank"].isin([0, rank])]
    if points.empty:
        has = summary[["method", "rank"]].drop_duplicates()
        has = ", ".join(f"{m} {r}" for m, r in has.itertuples(index=False))
        raise ValueError(f"No rows for this choice. Choose a method and rank among: {has}.")
    space = {"left": 0.1, "right": 0.985, "top": 0.91, "bottom": 0.335, "wspace": 0.2}
    axes = fig.subplots(1, 1 if history is None else 2, squeeze=False, gridspec_kw=space)[0]
    scale = 100 if metric == "accuracy" else 1
    top = (points["mean"] + points["sd"].fillna(0.0)).max()
    ends = (0.0, 1.08 * top) if metric == "seconds" else None  # no training takes no time: it is no outlier
    marks.draw_points(axes[0], points, "ratio_percent", scale=scale, ends=ends)
    nets = points[points["method"] != registry.ORIGINAL]
    if len(nets):
        marks.rank_axis(axes[0], nets["ratio_percent"], nets["rank"])
    for ax in axes:
        ax.set_ylabel(METRICS[metric])
        if metric == "accuracy":
            ax.yaxis.set_major_formatter(PercentFormatter(1, symbol=""))
    axes[0].set_xlabel("Parameters left (%), log scale")
    if history is not None:
        first = min([r for r in points["rank"] if r] or [0]) if rank == ALL_RANKS else rank
        wanted = [method for method in methods if method in set(points["method"])]
        _result_curves(axes[1], history, study, variant, wanted, first, metric, view)
    draw_legend(fig, axes, ncols=3)
    where = "" if metric == "seconds" else f", {split} set"
    title = f"{METRICS[metric].partition(' (')[0]} against parameters left: {study}{where}"
    write_title(fig, title)
    shown = _results_text(points, metric)
    counts = f"means ± 1 sd, of up to {points['n'].max()} seeds" if points["n"].max() > 1 else "one seed"
    fig.alt_text = f"{title}, variant {variant}, {counts}: " + "; ".join(
        f"{m} {v}" for m, v in zip(shown["method, rank"], shown["value"], strict=True)
    )
    baseline = (summary["method"] == registry.ORIGINAL).any()
    remark = "" if baseline else f"No dense net is recorded in the variant {variant}."
    return Reading(f"<p>{counts.capitalize()}.</p>{html_table(shown)}", remark)


def _result_curves(ax, history, study, variant, methods, rank, metric, view) -> None:
    if metric not in ("accuracy", "loss"):
        ax.set_axis_off()
        ax.text(0.5, 0.5, "There are no curves\nof this metric.", ha="center", color=FAINT)
        return
    curves = results_curves(history, study, variant, methods, rank, metric, view)
    for method in curves:
        marks.draw_curve(ax, curves[method].dropna(), registry.label(method), style.of_method(method))
    ax.set_xlabel(f"Epoch (validation, rank {rank})")
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))


def _results_text(points: pd.DataFrame, metric: str) -> pd.DataFrame:
    scale, unit = (100, "%") if metric == "accuracy" else (1, "")
    points = points.sort_values(
        ["rank", "method"], key=lambda c: c.map(registry.order) if c.name == "method" else c
    )
    spread = points["sd"].map(lambda sd: "" if np.isnan(sd) else f" ± {scale * sd:.2f}")
    ranks = points["rank"].map(lambda rank: f", {rank}" if rank else "")
    return pd.DataFrame(
        {
            "method, rank": points["method"].map(registry.label) + ranks,
            "parameters left (%)": points["ratio_percent"].map("{:.2f}".format),
            "value": points["mean"].map(lambda mean: f"{scale * mean:.2f}") + spread + unit,
            "seeds": points["n"],
        }
    )


def results_explorer(results: pd.DataFrame, history: pd.DataFrame | None = None) -> Explorer:
    """Widget 4: study, method, rank and metric against the ratio, with baselines and ± bars.

    Args:
        results: recorded rows, as of `ResultsStore.read`.
        history: recorded epochs, as of `ResultsStore.read_history`, for curves beside the points.

    Raises:
        ValueError: if `results` has no rows or lacks columns.

    Example:
        >>> widget = results_explorer(results, history)  # doctest: +SKIP
        >>> widget.controls["rank"].value = 16  # doctest: +SKIP
    """
    first = _first_results(results)
    methods = first.pop("methods")
    labels = [(registry.label(method), method) for method in methods]
    variants = list(dict.fromkeys(results["variant"]))
    ranks = sorted(int(rank) for rank in results["rank"].unique() if rank)
    controls = {
        "study": dropdown("study", first["study"], list(studies_in(results))),
        "variant": dropdown("variant", first["variant"], variants),
        "methods": make_control(
            ipywidgets.SelectMultiple, "methods", methods, options=labels, rows=len(labels)
        ),
        "rank": dropdown("rank", ALL_RANKS, [ALL_RANKS, *ranks]),
        "metric": dropdown("metric", "accuracy", list(METRICS)),
        "split": dropdown("data", "test", ["validation", "test"]),
        "view": dropdown("evaluated", "compressed", list(RESULT_VIEWS.items())),
        "ratio": dropdown("ratio counted as", "slides", list(RATIOS)),
    }

    def view(fig, **settings):
        return _results_view(fig, results, history, **settings)

    return Explorer(view, controls, 4.4)


def _first_results(results: pd.DataFrame) -> dict:
    """The settings that are shown first, with every method that is recorded."""
    needed = ["study", "dataset", "variant", "method", "rank", "seed", "split", "view", "metric"]
    require(results, "results", [*needed, "value", "config"])
    study, rows = next(iter(studies_in(results).items()))
    variants = list(dict.fromkeys(rows["variant"]))
    variant = "slides" if "slides" in variants else variants[0]
    recorded = set(results["method"])
    methods = tuple(name for name in registry.ENTRIES if name in recorded)
    return {"study": study, "variant": variant, "methods": methods}


def results_explorer_static(results: pd.DataFrame, history: pd.DataFrame | None = None, **settings) -> Figure:
    """The picture of `results_explorer`, as a figure; settings as the widget's controls."""
    settings = {**_first_results(results), **settings}
    return still_figure(_results_view, 4.4, results=results, history=history, **settings)
