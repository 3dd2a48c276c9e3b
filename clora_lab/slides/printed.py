"""What the slides print, digit by digit: their tables, numbers in running text, and the cells they pick out.

Every cell is read as text, since the digits tell the precision. Sources: `data/published/` (the slides'
tables, `claims.csv` for numbers in text and notes, `marked.csv` for the cells that they pick out).
"""

from __future__ import annotations

import pandas as pd

from clora_lab.lab.nets import registry as nets
from clora_lab.lab.paths import data_dir

TABLES = {"toy": 16, "vgg16": 19, "bert_tiny": 21, "bert_small": 22}  # name of the table -> slide


def as_printed(name: str) -> pd.DataFrame:
    """A file of `data/published/` as text, every cell as printed: the digits tell the precision.

    Example:
        >>> as_printed("vgg16")["ratio_percent"].iloc[1]
        '6.90'
    """
    return pd.read_csv(data_dir() / "published" / f"{name}.csv", dtype=str, keep_default_na=False)


def tolerance(printed: str) -> float:
    """Half a unit of the last printed digit.

    Example:
        >>> tolerance("15.25"), tolerance("-4")
        (0.005, 0.5)
    """
    return 0.5 * 10.0 ** -len(printed.partition(".")[2])


def cells_of(study: str) -> pd.DataFrame:
    """A table's cells of the four methods as numbers; `change` in points from the original."""
    table = as_printed(study)
    # VGG16's rank is the convolutions', as in the recorded rows.
    table = table.rename(columns={"conv_rank": "rank", "accuracy_percent": "accuracy"})
    table["accuracy"] = table["accuracy"].astype(float)
    cells = table[table["method"] != "original"].copy()
    cells["change"] = cells["accuracy"] - table.loc[table["method"] == "original", "accuracy"].item()
    return cells


def table_cell(study: str, method: str, rank: str, dense_rank: str = "") -> float:
    """An accuracy of a slide's table, in percent; of VGG16 `rank` is the convolutions'.

    Example:
        >>> table_cell("vgg16", "wds", "32", "32")
        76.81
    """
    cells = cells_of(study)
    chosen = (cells["method"] == method) & (cells["rank"] == rank)
    if "dense_rank" in cells:
        chosen &= cells["dense_rank"] == dense_rank
    return cells.loc[chosen, "accuracy"].item()


def lines_of(study: str) -> list[tuple[dict, str]]:
    """(ranks as integers, ratio as printed) of each line of a table, from the top."""
    names = [name for name in ("rank", "dense_rank") if name in cells_of(study)]
    lines = cells_of(study).drop_duplicates(names)
    ranks = lines[names].astype(int).to_dict("records")
    return list(zip(ranks, lines["ratio_percent"], strict=True))


def original_of(study: str) -> float:
    """The accuracy of the uncompressed net, in percent.

    Example:
        >>> original_of("vgg16")
        85.36
    """
    table = as_printed(study)
    return float(table.loc[table["method"] == "original", "accuracy_percent"].item())


def table_ratio(study: str, *ranks: int) -> float:
    """A printed ratio, in percent; VGG16 has two ranks, the convolutions' first.

    Example:
        >>> table_ratio("vgg16", 32, 32)
        13.72
    """
    return next(float(ratio) for found, ratio in lines_of(study) if tuple(found.values()) == ranks)


def cell_as_printed(study: str, method: str, rank: str, dense_rank: str = "") -> str:
    """An accuracy of a slide's table, with the digits of the print."""
    table = as_printed(study).rename(columns={"conv_rank": "rank"})
    chosen = (table["method"] == method) & (table["rank"] == rank)
    if dense_rank:
        chosen &= table["dense_rank"] == dense_rank
    return table.loc[chosen, "accuracy_percent"].item()


def label(study: str) -> str:
    """The printed name of a table's net."""
    return nets.label(study) if study in nets.ENTRIES else "Toy"
