"""Low-rank convolutions: the VGG16 table beside ours, and what a trained net holds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from matplotlib.transforms import ScaledTranslation

from clora_lab.lab.data import registry as datasets
from clora_lab.lab.figures import marks, style
from clora_lab.lab.figures.style import INK, new_figure, set_title, shared_legend, styled
from clora_lab.lab.frames import MissingResults, require
from clora_lab.lab.names import BASELINES, METHOD_LABELS, METHODS, method_label
from clora_lab.lab.nets import registry as nets
from clora_lab.slides import published

FACTORIZATION_LABELS = {
    "loralib": "loralib's factors (slides)",
    "pair": "pair, same rank",
    "pair_equal": "pair, as many parameters as loralib's",
}
MARKERS = {"loralib": "D", "pair": "o", "pair_equal": "s"}


# --- what a trained net holds -------------------------------------------------------------------


# --- the study ----------------------------------------------------------------------------------


def conditions(rows: pd.DataFrame) -> str:
    """How rows of the study were made, in words and from the rows alone; for the head of every table.

    Args:
        rows: result rows of the study "vgg16", of one data set, model and recipe.

    Raises:
        ValueError: rows of several of these, or none.

    Example:
        >>> conditions(rows)  # doctest: +SKIP
        'from random initialisation; 5,000 training and 1,000 test images; ...'
    """
    _checks_one(
        rows, "rows", ("dataset", "model", "start", "variant", "precision", "train_size", "test_size")
    )
    first = rows.iloc[0]
    trained = rows.loc[~rows["method"].isin(["dense", "svd"]), "epochs"]
    dense = rows.loc[rows["method"] == "dense", "epochs"]
    slides = 20  # slide 18
    counts = [
        f"{kind} {_range(epochs)}"
        for kind, epochs in (("dense net", dense), ("each compressed net", trained))
        if len(epochs)
    ]
    cut = any(epochs.min() < slides for epochs in (trained, dense) if len(epochs))
    seeds = rows["seed"].nunique()
    parts = [
        nets.entry("vgg16").starts[first["start"]],
        f"{first['train_size']:,} training and {first['test_size']:,} test images",
        f"epochs: {', '.join(counts)}" + (f" (the slides: {slides})" if cut else ""),
        f"recipe '{first['variant']}'",
        "one seed" if seeds == 1 else f"{seeds} seeds",
        {"float32": "float32", "mixed_bfloat16": "computed in bfloat16"}[first["precision"]],
    ]
    if first["model"] != "vgg16":
        parts.insert(0, f"a small net ({first['model']}) stands in for VGG16")
    return "; ".join(parts)


def _range(values: pd.Series) -> str:
    low, high = values.min(), values.max()
    return f"{low}" if low == high else f"{low} to {high}"


def _checks_one(rows: pd.DataFrame, argument: str, names: Sequence[str]) -> None:
    require(rows, argument, names)
    for name in names:
        values = rows[name].drop_duplicates().tolist()
        if len(values) > 1:
            raise ValueError(
                f"`{argument}` must hold one `{name}`. Received several: {values}. "
                "Select the rows of one first."
            )


def compare(rows: pd.DataFrame, split: str = "test") -> pd.DataFrame:
    """Slide 19's table beside ours: a row for each method, pair of ranks and factorization.

    Args:
        rows: result rows of the study "vgg16", of one data set, model and recipe.
        split: whose accuracy, "test" or "validation".

    Returns:
        Percent and points: method, rank, dense_rank, factorization ("" for the dense net), published,
        published_sd, measured (mean over seeds, of the compressed path), sd (empty for one seed), n, gap
        (from the dense net of the same seeds), ratio, ratio_head, ratio_model (the ways of counting:
        `vgg16.CONVENTIONS`), flops (of the dense net's). The slides' cells stand beside loralib's factors,
        which are theirs; published cells that were not measured are there with an empty `measured`.

    Raises:
        ValueError: rows of several data sets, models or recipes, or no row of the split.

    Example:
        >>> compare(rows)[["method", "rank", "published", "measured"]]  # doctest: +SKIP
    """
    _checks_one(rows, "rows", ("dataset", "model", "start", "variant", "precision"))
    keys = ["method", "rank", "dense_rank", "factorization"]
    rows = rows.assign(factorization=rows["factorization"].fillna(""))
    accuracy = rows[(rows["metric"] == "accuracy") & (rows["split"] == split)]
    if accuracy.empty:
        raise MissingResults(f"`rows` must hold accuracies of the split {split!r}. Received: none.")
    # "compressed" sorts before "trained": the compressed path where there is one.
    accuracy = accuracy.sort_values("view").drop_duplicates("config")
    dense = accuracy[accuracy["method"] == "dense"].set_index("seed")["value"]
    accuracy = accuracy.assign(gap=accuracy["value"] - accuracy["seed"].map(dense))
    grouped = accuracy.groupby(keys)
    table = pd.DataFrame(
        {
            "measured": 100 * grouped["value"].mean(),
            "sd": 100 * grouped["value"].std(),
            "n": grouped.size(),
            "gap": 100 * grouped["gap"].mean(),
        }
    )
    metrics = {
        "ratio": "ratio_percent",
        "ratio_head": "ratio_head_percent",
        "ratio_model": "ratio_model_percent",
        "flops": "flops_percent",
    }
    for column, metric in metrics.items():
        table[column] = rows[rows["metric"] == metric].groupby(keys)["value"].mean()
    slides = published.load("vgg16").rename(columns={"conv_rank": "rank"})
    slides["factorization"] = np.where(slides["method"] == "original", "", "loralib")
    slides = slides.replace({"method": {"original": "dense"}}).fillna({"rank": 0, "dense_rank": 0})
    slides = slides.astype({"rank": "int64", "dense_rank": "int64"}).set_index(keys)
    slides = slides[["accuracy_percent", "accuracy_sd", "ratio_percent"]]
    slides.columns = ["published", "published_sd", "published_ratio"]
    table = slides.join(table, how="outer").reset_index()
    order = {name: i for i, name in enumerate((*METHOD_LABELS, "", *FACTORIZATION_LABELS))}
    ranked = {"method": order, "factorization": order}
    table = table.sort_values(
        ["rank", "dense_rank", "factorization", "method"],
        key=lambda column: column.map(ranked[column.name]) if column.name in ranked else column,
    )
    table["n"] = table["n"].astype("Int64")
    return table.reset_index(drop=True)


def comparison_table(rows: pd.DataFrame, split: str = "test") -> Figure:
    """Slide 19's table, typeset: published, and measured with each factorization; baselines below.

    Args:
        rows: result rows of the study "vgg16", of one data set, model and recipe.
        split: whose accuracy.

    Raises:
        ValueError: as `compare`.

    Example:
        >>> fig = comparison_table(rows)  # doctest: +SKIP
    """
    table = compare(rows, split)
    name = datasets.label(rows["dataset"].iloc[0])
    measured = table[table["measured"].notna()]
    ranks = measured.loc[measured["rank"] > 0, ["rank", "dense_rank"]].drop_duplicates()
    methods = [method for method in METHODS if (measured["method"] == method).any()]
    baselines = [method for method in BASELINES if (measured["method"] == method).any()]

    def cells(part, names, value, spread):
        part = part.set_index("method")
        return [_plus_minus(part, name, value, spread) for name in names]

    lines = []
    dense = table[table["method"] == "dense"].iloc[0]
    for label, value in (("published", dense["published"]), ("measured", dense["measured"])):
        text = f"{value:.2f}" if np.isfinite(value) else "–"
        lines.append({"cells": ["dense" if label == "published" else "", "", label, text], "across": True})
    for rank, dense_rank in ranks.itertuples(index=False):
        here = table[(table["rank"] == rank) & (table["dense_rank"] == dense_rank)]
        loralib = here[here["factorization"] == "loralib"]
        start = [f"{rank} / {dense_rank}", _one(loralib["published_ratio"])]
        rule = "thin"
        if loralib["published"].notna().any():
            published_cells = cells(loralib, methods, "published", "published_sd")
            lines.append({"cells": [*start, "published", *published_cells], "rule": rule})
            start, rule = ["", ""], None
        for factorization in FACTORIZATION_LABELS:
            part = here[(here["factorization"] == factorization) & here["measured"].notna()]
            own = part[part["method"].isin(methods)]
            if len(own):
                start[1] = f"{own['ratio'].iloc[0]:.2f}"
                short = factorization.replace("_", " ")
                cells_ = [*start, short, *cells(own, methods, "measured", "sd")]
                lines.append({"cells": cells_} | ({"rule": rule} if rule else {}))
                start, rule = ["", ""], None
    if baselines:
        head = ["Baselines", "", "", *(_short(m) for m in baselines)]
        lines.append({"cells": head, "head": True})
        chosen = measured[measured["method"].isin(baselines)]
        for (rank, dense_rank, factorization), part in chosen.groupby(
            ["rank", "dense_rank", "factorization"]
        ):
            ratio = f"{part['ratio'].iloc[0]:.2f}"
            start = [f"{rank} / {dense_rank}", ratio, factorization.replace("_", " ")]
            lines.append({"cells": [*start, *cells(part, baselines, "measured", "sd")]})
    head = ["Ranks", "Ratio\n(%)", "", *(_short(m) for m in methods)]
    title = f"Published and measured {split} accuracy (%): {_net(rows)} on {name}"
    comparable = rows["model"].iloc[0] == "vgg16" and rows["dataset"].iloc[0].startswith("cifar10")
    remark = "" if comparable else "; published: VGG16 on CIFAR-10, not comparable"
    counted = "Ranks: of convolutions / dense layers; ratio: the slides' count without the output layer"
    subtitle = f"Measured {conditions(rows)}\n{counted}{remark}"
    fig = marks.table(head, lines, title, subtitle, left=3)
    best = measured[~measured["method"].isin(["dense"])]
    if len(best):
        top = best.loc[best["measured"].idxmax()]
        fig.alt_text = (
            f"{title}, measured {conditions(rows)}: dense {dense['measured']:.2f} (published "
            f"{dense['published']:.2f}); the best compressed net is {method_label(top['method'])}, ranks "
            f"{top['rank']}/{top['dense_rank']}, {FACTORIZATION_LABELS[top['factorization']]}, with "
            f"{top['measured']:.2f}. {fig.alt_text}"
        )
    return fig


def _short(method: str) -> str:
    labels = {"bias": "Bias", "noise": "Noise", "noise_bias": "Noise & bias"}
    labels |= {"svd_finetune": "SVD then\nfine-tuning", "scratch": "Low-rank\nfrom scratch"}
    return labels.get(method, method_label(method).replace(", ", ",\n"))


def _net(rows: pd.DataFrame) -> str:
    return "VGG16" if rows["model"].iloc[0] == "vgg16" else "a small VGG"


def _one(values: pd.Series) -> str:
    values = values.dropna()
    return f"{values.iloc[0]:.2f}" if len(values) else ""


def _plus_minus(part: pd.DataFrame, name: str, value: str, spread: str) -> str:
    if name not in part.index or not np.isfinite(part.loc[name, value]):
        return "–"
    sd = part.loc[name, spread]
    return f"{part.loc[name, value]:.2f}" + (f" ± {sd:.2f}" if np.isfinite(sd) else "")


@styled
def accuracy_against_flops(rows: pd.DataFrame, split: str = "test") -> Figure:
    """Each compressed net's accuracy against the work that it needs; the factorization as marker.

    Args:
        rows: result rows of the study "vgg16", of one data set, model and recipe.
        split: whose accuracy.

    Raises:
        ValueError: as `compare`.
        MissingResults: no compressed net was measured.

    Example:
        >>> fig = accuracy_against_flops(rows)  # doctest: +SKIP
    """
    table = compare(rows, split)
    points = table[table["measured"].notna() & (table["method"] != "dense")]
    if points.empty:
        raise MissingResults("`rows` must hold a compressed net. Received: the dense net alone.")
    fig = new_figure(4.2)
    ax = fig.subplots()
    for dense in table.loc[(table["method"] == "dense") & table["measured"].notna(), "measured"]:
        ax.axhline(dense, color=INK, linewidth=1.4, label="Dense, 100% of the FLOPs")
    methods = [name for name in METHOD_LABELS if (points["method"] == name).any()]
    for index, method in enumerate(methods):
        # Nets of one factorization and rank have the same FLOPs: side by side, a few points of print apart.
        aside = ScaledTranslation((index - (len(methods) - 1) / 2) * 7 / 72, 0, fig.dpi_scale_trans)
        mine = points[points["method"] == method]
        for factorization in [name for name in MARKERS if (mine["factorization"] == name).any()]:
            own = mine[mine["factorization"] == factorization]
            look = {
                "marker": MARKERS[factorization],
                "color": style.of_method(method)["color"],
                "markersize": 7,
            }
            ax.plot(own["flops"], own["measured"], linestyle="", transform=ax.transData + aside, **look)
        ax.plot(
            [],
            [],
            linestyle="",
            marker="s",
            color=style.of_method(method)["color"],
            label=method_label(method),
        )
    for name, marker in MARKERS.items():
        if (points["factorization"] == name).any():
            look = {"marker": marker, "markerfacecolor": "white", "markeredgecolor": INK}
            ax.plot([], [], linestyle="", label=FACTORIZATION_LABELS[name], **look)
    ax.set(
        xlabel="FLOPs of a forward pass (% of the dense net's; equal ones side by side)",
        ylabel="Accuracy (%)",
    )
    low, high = table["measured"].min(), table["measured"].max()
    ax.set_ylim(low - 0.08 * (high - low) - 0.5, high + 0.08 * (high - low) + 0.5)
    ax.set_xlim(0, max(105.0, 1.02 * points["flops"].max()))
    ax.xaxis.set_major_formatter(PercentFormatter(100, decimals=0, symbol=""))
    shared_legend(fig, [ax], ncols=2)
    name = datasets.label(rows["dataset"].iloc[0])
    title = f"{split.capitalize()} accuracy against work: {_net(rows)} on {name}"
    set_title(fig, title, f"Measured {conditions(rows)}")
    said = [
        f"{FACTORIZATION_LABELS[name]}: {own['flops'].min():.1f} to {own['flops'].max():.1f}% of the FLOPs, "
        f"{own['measured'].min():.1f} to {own['measured'].max():.1f}% accurate"
        for name in MARKERS
        if len(own := points[points["factorization"] == name])
    ]
    fig.alt_text = f"{title}: {'; '.join(said)}."
    return fig
