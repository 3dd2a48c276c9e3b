"""Published tables, as printed and not corrected: `data/README.md` says what each file holds."""

from __future__ import annotations

import pandas as pd

from clora_lab import _checks
from clora_lab.lab.paths import data_dir


def load(table: str) -> pd.DataFrame:
    """A published table.

    Args:
        table: name of its file in `data/published`, such as "toy".

    Returns:
        Data frame with the columns of the file. Ranks are integers, empty for the original net; accuracies,
        their sd and ratios are in percent.

    Raises:
        ValueError: there is no such table; the nearest name is suggested.

    Example:
        >>> load("toy")["accuracy_percent"].max()
        87.79
    """
    folder = data_dir() / "published"
    _checks.one_of("table", table, sorted(path.stem for path in folder.glob("*.csv")))
    frame = pd.read_csv(folder / f"{table}.csv")
    ranks = [column for column in frame.columns if column.endswith("rank")]
    percents = [column for column in frame.columns if column.endswith(("_percent", "_sd"))]
    return frame.astype(dict.fromkeys(ranks, "Int64") | dict.fromkeys(percents, "float64"))
