"""Tables of recorded results: summaries as data frames, and their text form for the terminal."""

from __future__ import annotations

import pandas as pd
from rich.console import Console
from rich.table import Table

from clora_lab.lab.names import METHOD_LABELS, VARIANTS


def final_accuracy(results: pd.DataFrame) -> pd.DataFrame:
    """The accuracy of each finished net: one row a run and split.

    A C-LoRA net counts by its compressed path (the finalized net); `view` "trained" is used where no
    other was recorded (dense net and baselines).

    Args:
        results: recorded rows, as `ResultsStore.read()` gives them.
    """
    accuracy = results[(results["metric"] == "accuracy") & (results["split"] != "model")]
    # "compressed" sorts before "trained": the compressed path where there is one.
    return accuracy.sort_values("view").drop_duplicates(["config", "split"])


def over_seeds(results: pd.DataFrame, by: list[str], split: str) -> pd.DataFrame:
    """Accuracy of the finished nets over seeds, for rows of one dataset, model and recipe.

    Args:
        results: recorded rows.
        by: columns that name a cell, for instance ["method", "rank"].
        split: "validation" or "test".

    Returns:
        Indexed by `by`: mean and sd (ddof 1, empty for one seed) in percent, n (seeds), gap (mean distance
        in points from the dense net of the same seeds; empty without one).
    """
    accuracy = final_accuracy(results)
    accuracy = accuracy[accuracy["split"] == split]
    dense = accuracy[accuracy["method"] == "dense"].set_index("seed")["value"]
    accuracy = accuracy.assign(
        value=100 * accuracy["value"],
        gap=100 * (accuracy["value"] - dense.reindex(accuracy["seed"]).to_numpy()),
    )
    cells = accuracy.groupby(by)
    table = cells["value"].agg(mean="mean", sd="std", n="size").astype({"n": "Int64"})
    return table.assign(gap=cells["gap"].mean())


def summarise(results: pd.DataFrame) -> pd.DataFrame:
    """Accuracy of the finished nets over seeds: one row for each dataset, variant, method, rank and split.

    A C-LoRA net counts by its compressed path (the finalized net); `view` "trained" is used where no
    other was recorded (dense net and baselines).

    Args:
        results: recorded rows, as `ResultsStore.read()` gives them.

    Returns:
        Columns dataset, variant, method, rank, split, ratio_percent (the slides' convention), mean, sd
        (ddof 1, empty for one seed; fractions), n (seeds), gap (mean distance in points from the dense
        net of the same seeds and recipe).

    Example:
        >>> summarise(store.read())  # doctest: +SKIP
    """
    accuracy = final_accuracy(results)
    by = ["dataset", "variant", "method", "rank", "split"]
    dense = accuracy[accuracy["method"] == "dense"]
    dense = dense.set_index(["dataset", "lr_schedule", "seed", "split"])["value"]
    keys = pd.MultiIndex.from_frame(accuracy[["dataset", "lr_schedule", "seed", "split"]])
    accuracy = accuracy.assign(gap=100 * (accuracy["value"].to_numpy() - dense.reindex(keys).to_numpy()))
    table = accuracy.groupby(by)["value"].agg(mean="mean", sd="std", n="size")
    table["gap"] = accuracy.groupby(by)["gap"].mean()
    ratio = results[results["metric"] == "ratio_percent"].groupby(by[:-1])["value"].mean()
    table = table.reset_index().join(ratio.rename("ratio_percent"), on=by[:-1])
    order = {name: place for place, name in enumerate((*METHOD_LABELS, *VARIANTS))}
    table = table.sort_values(
        ["dataset", "variant", "split", "rank", "method"],
        key=lambda column: column.map(order) if column.name in ("method", "variant") else column,
    )
    return table[[*by, "ratio_percent", "mean", "sd", "n", "gap"]].reset_index(drop=True)


def compact(comparison: pd.DataFrame) -> pd.DataFrame:
    """`published.compare`'s table in the few columns that fit a terminal, numbers as text.

    Args:
        comparison: what `clora_lab.slides.published.compare` returns.
    """
    frame = pd.DataFrame({"method": comparison["method"], "rank": comparison["rank"]})
    frame["ratio %"] = comparison["ratio"].fillna(comparison["published_ratio"]).map("{:.1f}".format)
    frame["published"] = comparison["published_accuracy"]
    frame["measured"] = [
        f"{mean:.2f}" + ("" if pd.isna(sd) else f" ± {sd:.2f}") if pd.notna(mean) else ""
        for mean, sd in zip(comparison["measured_mean"], comparison["measured_sd"], strict=True)
    ]
    frame["n"] = comparison["n_seeds"]
    frame["diff."] = comparison["difference"]
    frame["gap"] = comparison["measured_difference"]
    return frame


def compact_beside(comparison: pd.DataFrame, comparable: bool = True) -> pd.DataFrame:
    """`published.beside`'s table in the few columns that fit a terminal, numbers as text.

    Args:
        comparison: what `clora_lab.slides.published.beside` returns.
        comparable: whether the published numbers are of the same data; without it they are left out, and
            so are the cells that were not measured.
    """
    if not comparable:
        comparison = comparison[comparison["measured_mean"].notna()]
    ranks = [column for column in ("rank", "dense_rank") if column in comparison]
    frame = pd.DataFrame({"rank": comparison[ranks].astype(str).agg("/".join, axis=1)})
    frame["method"] = comparison["method"]
    frame["ratio %"] = comparison["ratio"].fillna(comparison["published_ratio"]).map("{:.2f}".format)
    if "ratio_encoder" in comparison:
        frame["of encoder"] = comparison["ratio_encoder"]
    frame["of model"] = comparison["ratio_model"]
    for name in ("published", "measured"):
        middle = "accuracy" if name == "published" else "mean"
        frame[name] = [
            f"{mean:.2f}" + ("" if pd.isna(sd) else f" ± {sd:.2f}") if pd.notna(mean) else ""
            for mean, sd in zip(comparison[f"{name}_{middle}"], comparison[f"{name}_sd"], strict=True)
        ]
        frame[f"{name} gap"] = comparison[f"{name}_difference"]
    frame["n"] = comparison["n_seeds"]
    return frame if comparable else frame.drop(columns=["published", "published gap"])


def show(frame: pd.DataFrame, title: str, caption: str = "", console: Console | None = None) -> None:
    """Print a data frame as a table; empty cells stay empty, floats get two digits."""
    table = Table(title=title, title_justify="left", caption=caption, header_style="bold")
    for column in frame.columns:
        numeric = pd.api.types.is_numeric_dtype(frame[column])
        table.add_column(str(column).replace("_", " "), justify="right" if numeric else "left")
    for row in frame.itertuples(index=False):
        table.add_row(*(_cell(value) for value in row))
    (console or Console()).print(table)


def _cell(value) -> str:
    if pd.isna(value):
        return ""
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def markdown(results: pd.DataFrame, dataset: str = "fashion_mnist", split: str = "test") -> str:
    """The README's results table: accuracy in percent by recipe and method, a column a rank.

    Args:
        results: recorded rows.
        dataset, split: which of them.

    Returns:
        A Markdown table and a line on what it was measured with.

    Example:
        >>> print(markdown(store.read()))  # doctest: +SKIP
    """
    rows = results[results["dataset"] == dataset]
    summary = summarise(rows)
    summary = summary[summary["split"] == split].copy()
    summary["cell"] = [
        f"{100 * row.mean:.2f}" + ("" if pd.isna(row.sd) else f" ± {100 * row.sd:.2f}")
        for row in summary.itertuples()
    ]
    ranks = sorted(summary.loc[summary["rank"] > 0, "rank"].unique())
    ratios = summary[summary["rank"] > 0].groupby("rank")["ratio_percent"].median()
    head = [f"rank {rank}, {ratios[rank]:.1f}% left" for rank in ranks]
    lines = [f"| recipe | method | {' | '.join(head)} |", "|---|---|" + "---|" * len(ranks)]
    for variant, part in summary.groupby("variant", sort=False):
        for method in METHOD_LABELS:
            cells = part[part["method"] == method].set_index("rank")["cell"]
            if method == "dense" and len(cells):
                lines.append(
                    f"| {variant} | dense, 100% left | " + " | ".join([cells[0]] * len(ranks)) + " |"
                )
            elif len(cells):
                values = [cells.get(rank, "") for rank in ranks]
                lines.append(f"| {variant} | {method} | {' | '.join(values)} |")
    counts = summary["n"]
    seeds = f"{counts.min()}" if counts.nunique() == 1 else f"{counts.min()} to {counts.max()}"
    last = rows.iloc[-1]
    lines += [
        "",
        f"Accuracy on the {split} images of {dataset} in percent, mean ± standard deviation over {seeds} "
        f"seeds; {last['backend']} {last['backend_version']}, Keras {last['keras_version']}, "
        f"{last['processor']}, {rows['date'].min()}.",
    ]
    return "\n".join(lines)
