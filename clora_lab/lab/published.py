"""Published tables, as printed and not corrected: `data/README.md` says what each file holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from clora_lab import _checks
from clora_lab.lab.paths import data_dir

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Published:
    """Which published table the rows of a study may be laid beside, and where.

    Args:
        table: name of the file in `data/published`.
        cells: column of that table -> column of the rows; together they name a cell.
        where: column of the rows -> the values for which the two compare.
        split: the split whose accuracy was published; "" where that is not told.
        epochs: length of the training behind it; 0 where that is not told.

    Example:
        >>> table = Published("toy", {"rank": "rank"}, {"dataset": ("fashion_mnist",)})
        >>> table.compares({"dataset": "digits"})
        False
    """

    table: str
    cells: Mapping[str, str]
    where: Mapping[str, Sequence]
    split: str = ""
    epochs: int = 0

    def compares(self, row: Mapping) -> bool:
        """Whether a row (or a run) of a compressed net may be laid beside this table."""
        return all(row[column] in values for column, values in self.where.items())


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
        >>> float(load("toy")["accuracy_percent"].max())
        87.79
    """
    import pandas as pd  # here, so that a study's page loads without

    folder = data_dir() / "published"
    _checks.one_of("table", table, sorted(path.stem for path in folder.glob("*.csv")))
    frame = pd.read_csv(folder / f"{table}.csv")
    ranks = [column for column in frame.columns if column.endswith("rank")]
    percents = [column for column in frame.columns if column.endswith(("_percent", "_sd"))]
    return frame.astype(dict.fromkeys(ranks, "Int64") | dict.fromkeys(percents, "float64"))
