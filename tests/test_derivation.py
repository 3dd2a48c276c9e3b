"""The derivation's helpers: each formula against simulation or by hand, each failure with its message."""

import numpy as np
import pytest

from clora_lab.course import derivation
from clora_lab.lab.figures import style

SIZE = 200_000


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.fixture(scope="module")
def weights():
    return rng(1).normal(0.3, 0.7, SIZE)


@pytest.fixture(scope="module")
def batch():
    """Three rows of different length that are correlated, (3, 40)."""
    return rng(2).normal(size=(3, 40)) * [[1.0], [0.5], [2.0]] + 0.4


# --- independent or not -----------------------------------------------------------------------------


def test_variance_factor_is_one_without_correlation_and_largest_at_root_half():
    decays = np.linspace(0, 1, 101)
    np.testing.assert_array_equal(derivation.variance_factor(decays), 1.0)
    assert derivation.variance_factor(0.5**0.5, 0.4) == pytest.approx(1.4)
    assert derivation.variance_factor(decays, 0.4).max() <= 1.4


@pytest.mark.parametrize("correlation", [-0.8, 0.0, 0.5, 1.0])
@pytest.mark.parametrize("decay", [0.0, 0.4, 0.9])
def test_drawn_noise_has_the_slides_moments_and_the_given_correlation(weights, decay, correlation):
    noise = derivation.draw_noise(weights, decay, rng(3), correlation)
    spread = np.sqrt(1 - decay**2) * weights.std()
    assert noise.mean() == pytest.approx((1 - decay) * weights.mean(), abs=5 * spread / SIZE**0.5)
    assert noise.std() == pytest.approx(spread, rel=0.01)
    assert np.corrcoef(noise, weights)[0, 1] == pytest.approx(correlation, abs=0.012)
    factor = np.var(decay * weights + noise) / weights.var()
    assert factor == pytest.approx(derivation.variance_factor(decay, correlation), rel=0.015)


def test_noise_per_unit_keeps_each_unit_where_noise_per_kernel_mixes_them():
    kernel = rng(4).normal([1.0, -2.0], [0.1, 3.0], size=(SIZE, 2))
    for axis, mean, std in ((0, [0.5, -1.0], [0.1, 3.0]), (None, [-0.25, -0.25], [kernel.std()] * 2)):
        noise = derivation.draw_noise(kernel, 0.5, rng(5), axis=axis)
        np.testing.assert_allclose(noise.mean(axis=0), mean, atol=0.03)
        np.testing.assert_allclose(noise.std(axis=0), 0.75**0.5 * np.array(std), rtol=0.02)


@pytest.mark.parametrize("options", [{"decay": 1.1}, {"decay": 0.5, "correlation": -1.5}])
def test_draw_noise_refuses(weights, options):
    with pytest.raises(ValueError, match="must be .*1"):
        derivation.draw_noise(weights, rng=rng(), **options)


# --- laws other than the normal one -----------------------------------------------------------------


def test_sampled_laws_have_mean_0_std_1_and_their_own_kurtosis():
    for name, kurtosis in (("normal", 0.0), ("uniform", -1.2), ("Laplace", 3.0)):
        found = derivation.describe(derivation.sample_laws(SIZE, rng())[name])
        assert found["mean"] == pytest.approx(0, abs=0.01)
        assert found["std"] == pytest.approx(1, abs=0.01)
        assert found["excess_kurtosis"] == pytest.approx(kurtosis, abs=0.25)
        assert (found["ks"] > 0.02) == (name != "normal")


def test_describe_is_free_of_place_and_scale_and_sees_skewness():
    values = rng().exponential(size=SIZE)
    one, other = derivation.describe(values), derivation.describe(5 - 3 * values)
    assert one["skewness"] == pytest.approx(2, abs=0.1)
    assert other["skewness"] == pytest.approx(-one["skewness"])
    assert other["excess_kurtosis"] == pytest.approx(one["excess_kurtosis"])
    with pytest.raises(ValueError, match="must not all be equal"):
        derivation.describe(np.ones(4))


def test_law_table_agrees_with_the_cumulants():
    samples = derivation.sample_laws(SIZE, rng()) | {"skewed": rng(1).exponential(size=SIZE)}
    table = derivation.law_table(samples, [1.0, 0.7, 0.3], rng(2))
    assert len(table) == 12
    assert table["mean_shift"].abs().max() < 0.02
    assert (table["std_ratio"] - 1).abs().max() < 0.02
    np.testing.assert_allclose(table["skewness"], table["expected_skewness"], atol=0.06)
    np.testing.assert_allclose(table["excess_kurtosis"], table["expected_kurtosis"], atol=0.25)
    skewed = table[table["law"] == "skewed"].set_index("d")
    assert skewed.loc[0.7, "expected_skewness"] == pytest.approx(0.7**3 * skewed.loc[1.0, "skewness"])
    assert skewed["ks"].is_monotonic_decreasing  # towards the normal law


def test_unit_spread_against_simulation():
    kernel = rng(6).normal([0.0, 1.0], [0.2, 1.0], size=(SIZE, 2))
    table = derivation.unit_spread(kernel, 0.6)
    for axis, column in ((0, "per_unit"), (None, "whole")):
        drawn = 0.6 * kernel + derivation.draw_noise(kernel, 0.6, rng(7), axis=axis)
        np.testing.assert_allclose(table[column], drawn.std(axis=0), rtol=0.01)
    assert np.ptp(table["whole"]) < np.ptp(table["std"])


# --- the draw in output space -----------------------------------------------------------------------


def test_both_draws_have_the_law_and_a_wrong_one_is_seen(batch):
    law = {"decay": 0.6, "mean": 0.3, "std": 0.7}
    drawn = derivation.two_draws(batch, draws=20_000, **law)
    drawn["wrong"] = 1.1 * drawn["output"]
    table = derivation.draws_table(drawn, batch, **law)
    assert (table.loc[["direct", "output"], "mean_error"] < 4).all()
    assert (table.loc[["direct", "output"], "covariance_error"] < 0.06).all()
    assert (table.loc[["direct", "output"], "smallest_p"] > 1e-3).all()
    assert table.loc["wrong", "smallest_p"] < 1e-6 and table.loc["wrong", "covariance_error"] > 0.1


def test_conditional_noise_is_what_regression_finds(batch):
    # E[n | y] of jointly normal n and y is linear in y: least squares over many draws finds it
    noise = rng(8).normal(0.2, 0.5, size=(40, SIZE))
    y = batch @ noise
    seen = derivation.conditional_noise(batch, y, 0.2, 0.5)
    np.testing.assert_allclose(batch @ seen, y, atol=1e-8)  # the batch cannot tell the difference
    design = np.vstack([np.ones(SIZE), y])
    slopes = np.linalg.lstsq(design.T, noise[:2].T, rcond=None)[0]
    np.testing.assert_allclose(slopes.T @ design[:, :50], seen[:2, :50], atol=0.03)


def test_gradients_agree_on_average_and_the_conditional_one_is_quieter(batch):
    table = derivation.gradient_table(batch, 0.6, 0.1, 0.7, 20_000, rng(9))
    assert 0.7 < table.loc["mean_difference", "direct"] < 1.3  # standard errors: 1 is expected
    assert table.loc["share", "direct"] == 1.0
    assert 3 / 40 < table.loc["share", "output"] < 0.6


def test_time_draws_measures_both():
    timed = derivation.time_draws(4, 32, 8, repeats=3)
    assert timed["direct"] > 0 and timed["output"] > 0
    assert timed["ratio"] == pytest.approx(timed["direct"] / timed["output"])


# --- the figures ------------------------------------------------------------------------------------


def test_correlation_plot_lays_simulation_on_algebra(weights):
    fig = derivation.correlation_plot(weights[:50_000], [-0.5, 0.5], rng())
    lines = {line.get_label(): line for line in fig.axes[0].lines}
    for correlation in (-0.5, 0.5):
        points = lines[f"ρ = {correlation:g}, simulated"]
        expected = derivation.variance_factor(points.get_xdata(), correlation)
        np.testing.assert_allclose(points.get_ydata(), expected, rtol=0.04)
        drawn = lines[f"ρ = {correlation:g}, algebra"].get_ydata()
        assert np.abs(drawn - 1).max() == pytest.approx(0.5, abs=1e-3)
    assert "1.5 for ρ = 0.5" in style.alt_text(fig)


def test_quantile_plot_draws_standardised_quantiles():
    samples = {name: 5 + 2 * values for name, values in derivation.sample_laws(SIZE, rng()).items()}
    fig = derivation.quantile_plot(samples, dataset="digits")
    lines = {line.get_label(): line for line in fig.axes[0].lines}
    assert set(lines) == {*samples, "a normal law"}
    np.testing.assert_allclose(lines["normal"].get_ydata(), lines["normal"].get_xdata(), atol=0.35)
    assert lines["uniform"].get_ydata().max() == pytest.approx(3**0.5, abs=0.02)
    assert lines["Laplace"].get_ydata().max() > 5
    assert "scikit-learn digits" in style.alt_text(fig) and "uniform -1.2" in style.alt_text(fig)
    with pytest.raises(ValueError, match="at least one sample"):
        derivation.quantile_plot({})
