"""Reading tidy frames: what a table or a figure asks of its rows, and says where they do not give it.

Rows are recorded runs or epochs; every error names the argument, what is there, and how to get the rest.
Loads pandas alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from clora_lab.lab.data import registry as datasets


class MissingResults(ValueError):
    """The frame lacks rows or columns that are needed; the message names them and a remedy."""


def remedy(frame: pd.DataFrame | None = None) -> str:
    """The command that computes what is missing; of the study that the frame's rows name.

    Example:
        >>> remedy(), remedy(pd.DataFrame({"study": ["bert"]}))[-14:]
        ('Compute them with: python -m clora_lab reproduce STUDY', 'reproduce bert')
    """
    named = frame["study"].dropna().unique() if isinstance(frame, pd.DataFrame) and "study" in frame else ()
    return f"Compute them with: python -m clora_lab reproduce {named[0] if len(named) == 1 else 'STUDY'}"


def require(frame: pd.DataFrame, argument: str, columns: Iterable[str]) -> None:
    """Refuse what is no frame, has not these columns, or has no rows.

    Raises:
        ValueError: no data frame.
        MissingResults: a column is missing, or there is no row.
    """
    if not isinstance(frame, pd.DataFrame):
        raise ValueError(f"`{argument}` must be a pandas DataFrame. Received: {type(frame).__name__}.")
    missing = [column for column in columns if column not in frame.columns]
    if missing:
        raise MissingResults(
            f"`{argument}` must have the columns {missing}. Received: {list(frame.columns)}. {remedy(frame)}"
        )
    if frame.empty:
        raise MissingResults(f"`{argument}` must have at least one row. Received: 0 rows. {remedy(frame)}")


def one_dataset(frame: pd.DataFrame, argument: str, default: str = "") -> str:
    """The printed name of the one dataset in `frame`, or of `default` if it has no such column."""
    names = frame["dataset"].unique() if "dataset" in frame else [default]
    if len(names) > 1:
        raise ValueError(
            f"`{argument}` must hold one dataset. Received: {sorted(map(str, names))}; "
            f"select one, as in {argument}[{argument}['dataset'] == {str(names[0])!r}]."
        )
    return datasets.label(names[0])


def one_row_each(frame: pd.DataFrame, argument: str, keys: list[str]) -> None:
    """Refuse a frame with several rows for one value of the keys."""
    twice = frame[frame.duplicated(keys)]
    if len(twice):
        raise ValueError(
            f"`{argument}` must have one row for each of {keys}. "
            f"Received several for: {twice[keys].to_dict('records')[:4]}; select one setting first."
        )


def one_setting(rows: pd.DataFrame, argument: str, names: Sequence[str]) -> None:
    """Refuse rows that differ in one of these columns."""
    require(rows, argument, names)
    for name in names:
        values = rows[name].drop_duplicates().tolist()
        if len(values) > 1:
            raise ValueError(
                f"`{argument}` must hold one `{name}`. Received several: {values}. "
                "Select the rows of one first."
            )


def runs_of(history: pd.DataFrame, **wanted) -> pd.DataFrame:
    """The rows of `history` with the given values: one run a seed at most, or an error says why."""
    rows = history
    for column, value in wanted.items():
        rows = rows[rows[column] == value]
    if len(rows):
        one_dataset(rows, "history")
    twice = rows.duplicated(["seed", "epoch"])
    if twice.any():
        identity = ("study", "model", "init", "config")
        mixed = {c: sorted(map(str, rows[c].unique())) for c in identity if c in rows}
        mixed = {column: values for column, values in mixed.items() if len(values) > 1}
        raise ValueError(
            f"`history` must hold one run a seed for {wanted}. Received: several, which differ in "
            f"{mixed or 'nothing (repeated rows)'}; select one setting first."
        )
    return rows


def wanted_runs(history: pd.DataFrame, **wanted) -> pd.DataFrame:
    """As `runs_of`, and there must be some.

    Raises:
        MissingResults: no rows; the message says which there are.
    """
    rows = runs_of(history, **wanted)
    if rows.empty:
        has = history[list(wanted)].drop_duplicates().to_dict("records")
        raise MissingResults(
            f"`history` must have rows with {wanted}. Received rows with: {has[:8]}. {remedy(history)}"
        )
    return rows


def percent_scale(frame: pd.DataFrame, argument: str, columns: list[str]) -> float:
    """100 for fractions, 1 for percent, read off the values: no accuracy is below 1 percent."""
    values = frame[columns].astype("float64").to_numpy()
    values = values[np.isfinite(values)]
    if len(values) and values.max() > 1 and values.min() <= 1:
        raise ValueError(
            f"`{argument}` must have all of {columns} as fractions or all in percent. "
            f"Received: values from {values.min():g} to {values.max():g}."
        )
    return 1.0 if len(values) and values.max() > 1 else 100.0


# --- in words -----------------------------------------------------------------------------------


def spread_in_words(counts: pd.Series) -> str:
    """What a mean over so many seeds is to be called; `counts` has a number for each mean.

    Example:
        >>> spread_in_words(pd.Series([3, 5])), spread_in_words(pd.Series([1, 1]))
        ('mean ± 1 sd of 3 to 5 seeds', 'one seed')
    """
    low, high = counts.min(), counts.max()
    if high == 1:
        return "one seed"
    return f"mean ± 1 sd of {high:g} seeds" if low == high else f"mean ± 1 sd of {low:g} to {high:g} seeds"


def seeds_in_words(rows: pd.DataFrame) -> str:
    """How many seeds the curves stand for, in words."""
    seeds = sorted(rows["seed"].unique())
    if len(seeds) == 1:
        return f"one seed ({seeds[0]})"
    return spread_in_words(rows.groupby(["method", "rank", "variant"])["seed"].nunique())


def remark(frame: pd.DataFrame, column: str, form: str = "{}") -> str:
    """What an optional column says of all rows, for a subtitle."""
    values = [str(value) for value in frame[column].dropna().unique()] if column in frame else []
    return form.format(" and ".join(values)) if any(values) else ""


def subtitle_of(*parts: str, missing: Sequence[str] = ()) -> str:
    """Parts joined to one line; what is missing goes to a line of its own.

    Example:
        >>> subtitle_of("one seed", "", "test set", missing=["rank 8"])
        'One seed, test set\\nNo rows for: rank 8'
    """
    line = ", ".join(part for part in parts if part)
    line = line[:1].upper() + line[1:]
    if missing:
        line += "\nNo rows for: " + ("; ".join(missing[:3]))
        line += f" and {len(missing) - 3} more" if len(missing) > 3 else ""
    return line


def per_cent(value: float, digits: int = 1) -> str:
    """A fraction as text in percent.

    Example:
        >>> per_cent(0.8779)
        '87.8%'
    """
    return f"{100 * value:.{digits}f}%"


def signed(value: float, digits: int = 2) -> str:
    """A difference as text, with its sign, and a true minus.

    Example:
        >>> signed(-0.2), signed(1.166)
        ('−0.20', '+1.17')
    """
    return f"{value:+.{digits}f}".replace("-", "−")


def plus_minus(mean: float, sd: float = float("nan")) -> str:
    """A mean with its spread as text; "–" for what is not there.

    Example:
        >>> plus_minus(83.741, 0.2), plus_minus(83.741), plus_minus(float("nan"))
        ('83.74 ± 0.20', '83.74', '–')
    """
    if not np.isfinite(mean):
        return "–"
    return f"{mean:.2f}" + (f" ± {sd:.2f}" if np.isfinite(sd) else "")
