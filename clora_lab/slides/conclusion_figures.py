"""The conclusion as figures: slide 23's table beside ours, and paired differences."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from clora_lab import methods
from clora_lab.lab import stats
from clora_lab.lab.figures import marks, style
from clora_lab.lab.frames import MissingResults, plus_minus, require, signed
from clora_lab.slides import conclusion, printed


def conclusion_table(table: pd.DataFrame) -> Figure:
    """Slide 23's means beside ours, a group of lines for each part and block of cells.

    Blocks with one of the four methods alone have nothing to compare and are left out.

    Args:
        table: by `clora_lab.slides.conclusion.table`.

    Raises:
        MissingResults: no rows, or a column is missing.

    Example:
        >>> fig = conclusion_table(conclusion.table(parts))  # doctest: +SKIP
    """
    require(table, "table", ("part", "cells", "seeds", "method", "mean", "low", "high", "published"))
    lines, single = [], False
    for (part, cells, seeds), block in table.groupby(["part", "cells", "seeds"], sort=False):
        own = block.set_index("method")
        if own.index.isin(conclusion.METHODS).sum() < 2:
            continue
        count = f"{seeds} seeds" if seeds > 1 else "one seed"
        single |= seeds < stats.MIN_SEEDS
        lines.append({"cells": [f"{part}; rank {cells}; {count}"], "rule": "thin"})
        slides = block["slides"].iloc[0]
        if own["published"].notna().any():
            pairs = own.reindex(conclusion.METHODS)[["published", "published_sd"]].to_numpy()
            lines.append({"cells": ["slide 23", *(plus_minus(*pair) for pair in pairs)]})
        if own["published_same"].notna().any():
            name = f"slide {printed.TABLES[slides]}, same cells"
            lines.append({"cells": [name, *_texts(own, "published_same", plus_minus)]})
            lines.append({"cells": ["   from their original", *_texts(own, "published_gap", signed)]})
        measured = {"cells": ["measured", *_texts(own, "mean", plus_minus)]}
        best = own.loc[own.index.isin(conclusion.METHODS), "mean"].round(2)
        measured["bold"] = [1 + conclusion.METHODS.index(m) for m in best.index[best == best.max()]]
        lines.append(measured)
        if own["low"].notna().any():
            lines.append({"cells": ["   95% interval", *_intervals(own)]})
        lines.append({"cells": ["   from its dense net", *_texts(own, "gap", signed)]})
    head = ["Mean over the cells (%)", "Only WDS", "Bias", "Noise", "Noise & bias"]
    note = "Best measured mean in bold, which is no verdict: section 2 has the test"
    note += "\nFewer than three seeds: no interval" if single else ""
    return marks.table(head, lines, "Conclusion: slide 23 beside ours", note, left=1, left_width=0.33)


def _texts(own: pd.DataFrame, column: str, form: Callable[[float], str]) -> list[str]:
    values = own[column].reindex(conclusion.METHODS)
    return ["–" if np.isnan(value) else form(value) for value in values]


def _intervals(own: pd.DataFrame) -> list[str]:
    found = own.reindex(conclusion.METHODS)[["low", "high"]]
    return ["–" if pd.isna(low) else f"{low:.2f} to {high:.2f}" for low, high in found.to_numpy()]


def differences(tests: pd.DataFrame, method: str = "noise_bias") -> Figure:
    """Paired differences of a method from the others, with 95% t intervals, a panel a part.

    Args:
        tests: by `clora_lab.slides.conclusion.paired_tests`, of one part or several.
        method: whose tests they are.

    Raises:
        MissingResults: no rows, or a column is missing.

    Example:
        >>> fig = differences(conclusion.paired_tests(parts))  # doctest: +SKIP
    """
    require(tests, "tests", ("part", "other", "seeds", "difference", "low", "high", "p_t_holm", "verdict"))
    trained = tests["other"].map(methods.trains).astype(bool)  # an untrained cut is an order of magnitude off
    shown = tests[trained]
    if shown.empty:
        raise MissingResults("`tests` must hold a comparison with a trained net. Received: SVD alone.")
    name = methods.label(method)
    part, other = shown["part"].astype(str), shown["other"]
    p = [f"p = {value:.2g}" if value >= 0.001 else "p < 0.001" for value in shown["p_t_holm"]]
    return marks.differences(
        shown.assign(
            group=part + ", rank " + shown["cells"] + "; " + shown["seeds"].astype(str) + " seeds",
            name=other.map(methods.label),
            note=shown["verdict"] + ", " + p,
        ),
        f"{name} against the others, paired by seed",
        f"Points of accuracy: {name} minus the other",
        "95% t interval of each difference; at the right the verdict at 5% and p after Holm's correction",
        looks=lambda rows: [{**style.of_method(name), "linestyle": "-"} for name in rows["other"]],
        unit="",
    )
