"""What may be said of means over seeds: intervals, paired tests and their corrections.

Seeds are the independent units everywhere. What one seed stands for has no interval, and cells of one seed
are averaged before anything is tested.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from clora_lab import _checks

MIN_SEEDS = 3  # below it there is no interval and no verdict
MOST_SEEDS = 16  # for which all sign patterns are counted
LEVEL = 0.05


# --- one method ---------------------------------------------------------------------------------


def interval(values: Iterable[float], level: float = 1 - LEVEL) -> tuple[float, float]:
    """Student's t interval of a mean: mean ± t · sd / √n; NaN for fewer than `MIN_SEEDS` values.

    Args:
        values: independent ones, one a seed.
        level: of confidence.

    Returns:
        Its two ends, in the unit of the values.

    Raises:
        ValueError: a level outside of (0, 1).

    Example:
        >>> low, high = interval([1.0, 2.0, 3.0])
        >>> round(low, 3), round(high, 3)
        (-0.484, 4.484)
    """
    if not 0 < _checks.real("level", level, 0.0, 1.0) < 1:
        raise ValueError(f"`level` must be a number between 0 and 1, both excluded. Received: {level!r}.")
    values = np.asarray(list(values), dtype="float64")
    if len(values) < MIN_SEEDS:
        return float("nan"), float("nan")
    low, high = _t_test(values).confidence_interval(level)
    return float(low), float(high)


def _t_test(values: np.ndarray):
    """SciPy's t test of a mean against 0, which warns of values that are all alike: here they may be."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Precision loss", RuntimeWarning)
        return stats.ttest_1samp(values, 0.0)


# --- two methods, paired by seed ----------------------------------------------------------------


class Paired(NamedTuple):
    """One method against another over the seeds that both have; differences are first minus second."""

    seeds: int
    wins: int  # seeds in which the first is ahead
    difference: float  # mean over the seeds
    low: float  # its 95% t interval; NaN below `MIN_SEEDS`
    high: float
    p: float  # of the paired t test, two-sided; NaN for one seed, or if every difference is 0


def paired(first: pd.Series, second: pd.Series) -> Paired:
    """The difference of two methods, seed by seed, with its interval and the p of the paired t test.

    Args:
        first, second: one number a seed, indexed by seed; seeds that one of them lacks are left out.

    Example:
        >>> ours, theirs = pd.Series([85.0, 86.0, 86.0]), pd.Series([84.0, 84.5, 85.5])
        >>> found = paired(ours, theirs)
        >>> found.wins, found.difference, round(found.p, 3)
        (3, 1.0, 0.074)
    """
    differences = (first - second).dropna().to_numpy(dtype="float64")
    low, high = interval(differences)
    tested = len(differences) > 1 and differences.any()
    return Paired(
        seeds=len(differences),
        wins=int((differences > 0).sum()),
        difference=float(differences.mean()) if len(differences) else float("nan"),
        low=low,
        high=high,
        p=float(_t_test(differences).pvalue) if tested else float("nan"),
    )


def sign_flip_test(differences: Sequence[float]) -> float:
    """Two-sided p of the sign-flip permutation test of a mean: P(|mean of ±dᵢ| ≥ |mean of dᵢ|).

    If two methods are alike, each seed's difference is as likely with the other sign. All 2ⁿ patterns of
    signs are counted. R. A. Fisher, The Design of Experiments (1935).

    Args:
        differences: one a seed, 2 to 16 of them.

    Returns:
        p; for n seeds never below `smallest_p(n)`.

    Raises:
        ValueError: too few or too many differences, or one that is no finite number.

    Example:
        >>> sign_flip_test([0.5, 0.7, 1.0, 0.2, 0.4])
        0.0625
    """
    values = np.asarray(differences, dtype="float64")
    if values.ndim != 1 or not 2 <= len(values) <= MOST_SEEDS or not np.isfinite(values).all():
        raise ValueError(
            f"`differences` must be 2 to {MOST_SEEDS} finite numbers, one a seed (of more seeds take a t "
            f"test). Received: {differences!r}."
        )
    found = stats.permutation_test((values,), np.mean, permutation_type="samples", n_resamples=np.inf)
    return float(found.pvalue)


def smallest_p(seeds: int) -> float:
    """The smallest two-sided p of `sign_flip_test`: 2 of the 2ⁿ patterns, all plus and all minus.

    Args:
        seeds: n, at least 1.

    Raises:
        ValueError: fewer than one seed.

    Example:
        >>> smallest_p(5), smallest_p(6)
        (0.0625, 0.03125)
    """
    seeds = _checks.positive_int("seeds", seeds)
    return min(1.0, 2.0 ** (1 - seeds))


def seeds_needed(comparisons: int = 1, level: float = LEVEL) -> int:
    """From how many seeds on the sign-flip test can give p < level after Holm's correction at its strictest.

    Args:
        comparisons: in the family.
        level: of significance.

    Raises:
        ValueError: no comparison, or a level outside of [0.0001, 1].

    Example:
        >>> seeds_needed(1), seeds_needed(3)
        (6, 7)
    """
    comparisons = _checks.positive_int("comparisons", comparisons)
    level = _checks.real("level", level, 1e-4, 1.0)
    return next(n for n in itertools.count(2) if comparisons * smallest_p(n) < level)


# --- many comparisons ---------------------------------------------------------------------------


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Holm's step-down correction: p₍ᵢ₎ → max over j ≤ i of min(1, (m − j + 1) · p₍ⱼ₎).

    S. Holm, A simple sequentially rejective multiple test procedure, Scand. J. Statist. 6 (1979).

    Args:
        p_values: of the m comparisons of a family. A NaN is no comparison: it stays and does not count.

    Returns:
        Adjusted p values in the same order.

    Raises:
        ValueError: a value outside of [0, 1].

    Example:
        >>> holm([0.01, 0.04, float("nan"), 0.03]).tolist()
        [0.03, 0.06, nan, 0.06]
    """
    values = np.asarray(p_values, dtype="float64")
    compared = np.flatnonzero(~np.isnan(values)) if values.ndim == 1 else []
    if values.ndim != 1 or not ((values[compared] >= 0) & (values[compared] <= 1)).all():
        raise ValueError(f"`p_values` must be numbers in [0, 1]. Received: {p_values!r}.")
    order = compared[np.argsort(values[compared])]
    steps = np.minimum(1.0, values[order] * np.arange(len(order), 0, -1))
    adjusted = np.full_like(values, np.nan)
    adjusted[order] = np.maximum.accumulate(steps)
    return adjusted


VERDICTS = ("better", "worse", "not told apart")


def verdict(difference: float, p: float, level: float = LEVEL) -> str:
    """What a difference and its corrected p allow to say: one of `VERDICTS`; a p of NaN tells nothing apart.

    Example:
        >>> verdict(1.2, 0.01), verdict(-1.2, 0.01), verdict(1.2, 0.2)
        ('better', 'worse', 'not told apart')
    """
    if not p < level:
        return "not told apart"
    return "better" if difference > 0 else "worse"


# --- many cells ---------------------------------------------------------------------------------


def blocks(table: pd.DataFrame, methods: Sequence[str]) -> list[tuple[list[str], list[int]]]:
    """The sets of cells and seeds in which every one of the methods was measured, none part of another.

    A mean over cells must have the same cells for each seed and method. Where some cells have more seeds than
    others there are several such blocks: many cells with few seeds, few cells with many.

    Args:
        table: indexed by (cell, seed), a column a method.
        methods: columns of it.

    Returns:
        (cells, seeds) of each, the most seeds first, then the most cells.

    Example:
        >>> index = pd.MultiIndex.from_tuples([("16", 0), ("16", 1), ("32", 0)], names=["cell", "seed"])
        >>> blocks(pd.DataFrame({"ours": [80.0, 81.0, 82.0]}, index=index), ["ours"])
        [(['16'], [0, 1]), (['16', '32'], [0])]
    """
    whole = table[list(methods)].dropna().reset_index()
    seeds = whole.groupby("cell", sort=False)["seed"].agg(frozenset)
    found = []
    for wanted in sorted(set(seeds), key=lambda each: (-len(each), sorted(each))):
        cells = [cell for cell, has in seeds.items() if wanted <= has]
        if not any(set(cells) <= set(other) and wanted <= set(more) for other, more in found):
            found.append((cells, sorted(int(seed) for seed in wanted)))
    return sorted(found, key=lambda block: (-len(block[1]), -len(block[0])))


def seed_means(table: pd.DataFrame, cells: Sequence[str], seeds: Sequence[int]) -> pd.DataFrame:
    """The mean over the cells for each seed: one independent number a seed and method.

    Args:
        table: indexed by (cell, seed), a column a method.
        cells, seeds: a block of it, see `blocks`.

    Returns:
        Indexed by seed; a method that lacks a cell of the block is left out.
    """
    chosen = table.loc[[(cell, seed) for cell in cells for seed in seeds]]
    return chosen.dropna(axis="columns").groupby("seed").mean()


def pareto(ratio: Sequence[float], accuracy: Sequence[float]) -> np.ndarray:
    """Which points no other point beats: none has at most their parameters and at least their accuracy.

    Args:
        ratio: of the parameters left, smaller is better.
        accuracy: larger is better. Equal points are beaten by none of each other.

    Returns:
        Booleans.

    Raises:
        ValueError: not one ratio for each accuracy.

    Example:
        >>> pareto([10, 20, 30], [80, 85, 84]).tolist()
        [True, True, False]
    """
    ratio, accuracy = np.asarray(ratio, dtype="float64"), np.asarray(accuracy, dtype="float64")
    if ratio.ndim != 1 or ratio.shape != accuracy.shape:
        raise ValueError(
            "`ratio` and `accuracy` must be two lists of one length. "
            f"Received shapes: {ratio.shape}, {accuracy.shape}."
        )
    no_worse = (ratio[:, None] <= ratio) & (accuracy[:, None] >= accuracy)
    better = (ratio[:, None] < ratio) | (accuracy[:, None] > accuracy)
    return ~(no_worse & better).any(axis=0)
