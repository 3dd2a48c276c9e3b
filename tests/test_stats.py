"""Intervals, paired tests and corrections against their definitions."""

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats

from clora_lab.lab import stats


def test_interval_is_students_and_covers_as_often_as_it_says():
    rng = np.random.default_rng(0)
    draws = rng.normal(3.0, 2.0, size=(2000, 4))
    found = np.array([stats.interval(draw) for draw in draws])
    assert 0.93 < np.mean((found[:, 0] <= 3.0) & (found[:, 1] >= 3.0)) < 0.97
    half = scipy_stats.t.ppf(0.975, 3) * draws.std(axis=1, ddof=1) / 2
    np.testing.assert_allclose(found, draws.mean(axis=1)[:, None] + half[:, None] * [-1, 1])
    assert np.isnan(stats.interval([1.0, 2.0])).all()
    assert stats.interval([2.0] * 4) == (2.0, 2.0)  # and no warning
    with pytest.raises(ValueError, match="`level`"):
        stats.interval([1, 2, 3], level=1.0)


def test_pairs_are_of_one_seed_whatever_their_order():
    rng = np.random.default_rng(2)
    first, second = (pd.Series(rng.normal(size=5), index=range(5)) for _ in range(2))
    found = stats.paired(first, second.sample(frac=1, random_state=1).drop(4))
    lead = (first - second).drop(4)
    assert found.seeds == 4 and found.wins == (lead > 0).sum()
    assert found.difference == pytest.approx(lead.mean())
    assert (found.low, found.high) == pytest.approx(stats.interval(lead))
    assert found.p == pytest.approx(scipy_stats.ttest_rel(first[:4], second[:4]).pvalue)


def test_what_a_pair_cannot_say_is_empty():
    one = stats.paired(pd.Series([1.0]), pd.Series([0.5]))
    assert (one.seeds, one.wins, one.difference) == (1, 1, 0.5) and np.isnan([one.low, one.p]).all()
    same = pd.Series([80.0, 81.0, 82.0])
    alike = stats.paired(same, same)
    assert (alike.low, alike.difference, alike.high) == (0, 0, 0) and np.isnan(alike.p)
    none = stats.paired(same, pd.Series([1.0], index=[9]))
    assert none.seeds == 0 and np.isnan(none.difference)


@pytest.mark.parametrize("values", [[0.4, -0.1, 0.7, 0.2, 0.5], [1.0, -1.0, 0.3], [0.2, 0.3, -0.9, 0.1]])
def test_sign_flip_test_counts_every_pattern(values):
    flips = np.array(list(itertools.product([-1, 1], repeat=len(values))))
    means = np.abs((flips * values).mean(axis=1))
    by_hand = np.mean(means >= abs(np.mean(values)) - 1e-12)
    assert stats.sign_flip_test(values) == pytest.approx(by_hand)


@pytest.mark.parametrize("n", [2, 5, 8])
def test_smallest_p_is_what_all_plus_gives(n):
    assert stats.sign_flip_test(np.arange(1, n + 1)) == stats.smallest_p(n)


@pytest.mark.parametrize("values", [[1.0], [1.0, np.nan], list(range(17)), [[1.0, 2.0]]])
def test_sign_flip_test_refuses_what_it_cannot_count(values):
    with pytest.raises(ValueError, match="2 to 16 finite numbers"):
        stats.sign_flip_test(values)


def test_a_method_that_is_alike_is_told_apart_as_rarely_as_the_level_says():
    rng = np.random.default_rng(5)
    p = [stats.sign_flip_test(rng.normal(size=7)) for _ in range(400)]
    assert np.mean(np.array(p) < 0.05) < 0.08


@pytest.mark.parametrize("comparisons", [1, 3, 6])
def test_seeds_needed_is_the_first_number_that_suffices(comparisons):
    n = stats.seeds_needed(comparisons)
    assert comparisons * stats.smallest_p(n) < 0.05 <= comparisons * stats.smallest_p(n - 1)


def test_holm_keeps_order_and_rejects_what_the_step_down_rule_rejects():
    rng = np.random.default_rng(1)
    for p in rng.uniform(0, 0.1, size=(50, 4)):
        order, rejected = np.argsort(p), np.zeros(4, dtype=bool)
        for step, index in enumerate(order):
            if p[index] > 0.05 / (4 - step):
                break
            rejected[index] = True
        assert (stats.holm(p) <= 0.05).tolist() == rejected.tolist()
        with_hole = stats.holm([p[0], np.nan, *p[1:]])
        np.testing.assert_array_equal(np.delete(with_hole, 1), stats.holm(p))
        assert np.isnan(with_hole[1])
    assert np.isnan(stats.holm([np.nan])).all() and len(stats.holm([])) == 0
    for bad in ([0.5, 1.5], [[0.1]]):
        with pytest.raises(ValueError, match="p_values"):
            stats.holm(bad)


def test_blocks_are_complete_and_none_is_part_of_another():
    index = pd.MultiIndex.from_tuples([("16", 0), ("16", 1), ("16", 2), ("32", 0)], names=["cell", "seed"])
    table = pd.DataFrame({"a": 1.0, "b": 2.0}, index=index)
    assert stats.blocks(table, ["a", "b"]) == [(["16"], [0, 1, 2]), (["16", "32"], [0])]
    table.loc[("16", 1), "a"] = np.nan
    assert stats.blocks(table, ["a", "b"]) == [(["16"], [0, 2]), (["16", "32"], [0])]
    assert stats.blocks(table, ["b"]) == [(["16"], [0, 1, 2]), (["16", "32"], [0])]


def test_pareto_against_the_definition():
    rng = np.random.default_rng(2)
    ratio, accuracy = rng.integers(1, 6, 30), rng.integers(1, 6, 30)
    beaten = [
        any(r <= ratio[i] and a >= accuracy[i] and (r < ratio[i] or a > accuracy[i]) for r, a in
            zip(ratio, accuracy, strict=True))
        for i in range(30)
    ]  # fmt: skip
    assert stats.pareto(ratio, accuracy).tolist() == [not each for each in beaten]
    with pytest.raises(ValueError, match="one length"):
        stats.pareto([1, 2], [1])
