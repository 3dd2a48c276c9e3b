"""Words and numbers of the notebooks: where rows come from, how many seeds, how a number is written."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from clora_lab.lab.data import registry as datasets


def provenance(rows: pd.DataFrame) -> str:
    """One line of Markdown: which data, runs, seeds, versions, processor and dates stand behind rows.

    Args:
        rows: result rows, recorded or live.

    Raises:
        ValueError: `rows` is empty or lacks a column.
    """
    columns = ["dataset", "config", "seed", "backend", "backend_version", "keras_version", "date"]
    columns += ["clora_version", "python", "processor"]
    missing = [column for column in columns if column not in rows]
    if missing or rows.empty:
        raise ValueError(
            f"`rows` must be result rows with the columns {columns}. Missing: {missing}; rows: {len(rows)}."
        )

    def each(*columns):
        return ", ".join(sorted(rows[list(columns)].drop_duplicates().astype(str).agg(" ".join, axis=1)))

    data = ", ".join(sorted({datasets.label(name) for name in rows["dataset"]}))
    return (
        f"*Where these numbers come from: {data}; {rows['config'].nunique()} runs, "
        f"{counted(rows['seed'])}; {each('backend', 'backend_version')}, Keras "
        f"{each('keras_version')}, Python {each('python')}, clora_lab {each('clora_version')}; "
        f"{each('processor')}; {span(rows['date'])}.*"
    )


def counted(seeds: Iterable[int]) -> str:
    """How many seeds, and which.

    Example:
        >>> counted([1, 0, 1])
        '2 seeds (0, 1)'
    """
    found = sorted(int(seed) for seed in set(seeds))
    if len(found) == 1:
        return f"one seed ({found[0]})"
    return f"{len(found)} seeds ({', '.join(map(str, found))})"


def span(dates: Iterable[str]) -> str:
    """The first and the last of dates as they sort.

    Example:
        >>> span(["2026-01-03", "2026-01-02"])
        '2026-01-02 to 2026-01-03'
    """
    first, last = min(dates), max(dates)
    return first if first == last else f"{first} to {last}"
