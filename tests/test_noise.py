"""The scheduled noise: its law, by moments and by distribution, and the equality of the two draws.

The columns of a noise kernel are independent and equally distributed where m and s are the same, so one
kernel with very many output units is very many draws.
"""

import keras
import nets
import numpy as np
import pytest
from keras import ops
from scipy import stats

from clora_lab import noise

MEAN, STD, DECAY = 0.3, 0.7, 0.6
DRAWS = 60_000
# Of a batch that has correlated rows of different lengths; (B, in)
X = nets.data(3, 5) * [[1.0], [0.5], [2.0]] + [[0.4], [0.4], [0.0]]
X = X.astype("float32")


def seeds(number=1):
    return keras.random.SeedGenerator(number)


def full(value, size=DRAWS):
    return ops.full((size,), value, dtype="float32")


def draw_kernel(inputs, decay=DECAY, mean=MEAN, std=STD, seed=1, draws=DRAWS, xla=False):
    return noise.kernel_noise((inputs, draws), decay, mean, std, seeds(seed), xla)


def draw_direct(x, **arguments):
    return ops.matmul(x, draw_kernel(x.shape[1], **arguments))


def draw_output(x, decay=DECAY, mean=MEAN, std=STD, seed=2, draws=DRAWS, xla=False):
    return noise.output_noise(x, decay, full(mean, draws), full(std, draws), seeds(seed), xla)


BOTH = {"direct": draw_direct, "output": draw_output}


def expected_moments(x, decay=DECAY):
    mean, variance = (1 - decay) * MEAN, (1 - decay**2) * STD**2
    return mean * x.sum(axis=1), variance * x @ x.T


# The law of the slides


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.6, 0.95, 1.0])
def test_moments_formula(decay):
    mean, std = np.array([0.0, -0.2, 1.0]), np.array([0.5, 1.0, 2.0])
    noise_mean, noise_std = noise.moments(decay, mean, std)
    np.testing.assert_allclose(noise_mean, mean - decay * mean)
    np.testing.assert_allclose(noise_std**2, std**2 - decay**2 * std**2)


def test_no_noise_at_full_decay_and_the_law_of_w_at_none():
    assert noise.moments(1.0, MEAN, STD) == (0.0, 0.0)
    assert noise.moments(0.0, MEAN, STD) == (MEAN, STD)


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.9])
def test_kernel_noise_has_the_moments_of_each_unit(decay):
    mean, std = nets.data(1, 4, seed=3), np.abs(nets.data(1, 4, seed=4))
    tensors = ops.convert_to_tensor(mean), ops.convert_to_tensor(std)
    drawn = ops.convert_to_numpy(noise.kernel_noise((DRAWS, 4), decay, *tensors, seeds()))
    expected_mean, expected_std = (1 - decay) * mean[0], np.sqrt(1 - decay**2) * std[0]
    error = 4 * expected_std / np.sqrt(DRAWS)
    assert (np.abs(drawn.mean(axis=0) - expected_mean) < error).all()
    assert (np.abs(drawn.std(axis=0) - expected_std) < error).all()
    correlation = np.corrcoef(drawn.T)[np.triu_indices(4, 1)]
    assert (np.abs(correlation) < 4 / np.sqrt(DRAWS)).all()


def test_kernel_noise_is_normal_by_kolmogorov_smirnov():
    drawn = ops.convert_to_numpy(draw_kernel(1))[0]
    law = stats.norm((1 - DECAY) * MEAN, np.sqrt(1 - DECAY**2) * STD)
    assert stats.kstest(drawn, law.cdf).pvalue > 0.001
    # the test has the power to see an error of 5% in the standard deviation
    assert stats.kstest(drawn * 1.05, law.cdf).pvalue < 1e-5


@pytest.mark.parametrize("decay", [0.3, 0.8])
def test_faded_kernel_plus_noise_keeps_the_law_of_w(decay):
    # slide 14: W ~ N(m, s^2) and n independent, so d W + n ~ N(m, s^2)
    kernel = np.random.default_rng(5).normal(MEAN, STD, DRAWS)
    total = decay * kernel + ops.convert_to_numpy(draw_kernel(1, decay=decay))[0]
    assert stats.kstest(total, stats.norm(MEAN, STD).cdf).pvalue > 0.001


# The two draws


@pytest.mark.parametrize("draw", BOTH)
@pytest.mark.parametrize("decay", [0.0, 0.6, 0.95])
def test_mean_and_whole_covariance(draw, decay):
    mean, covariance = expected_moments(X, decay)
    y = ops.convert_to_numpy(BOTH[draw](X, decay=decay))  # (B, draws)
    variance = np.diag(covariance)
    assert (np.abs(y.mean(axis=1) - mean) < 4 * np.sqrt(variance / DRAWS)).all()
    # the standard error of a covariance of normal numbers
    error = np.sqrt((np.outer(variance, variance) + covariance**2) / DRAWS)
    assert (np.abs(np.cov(y) - covariance) < 4 * error + 1e-6).all()


@pytest.mark.parametrize("draw", BOTH)
def test_outputs_are_jointly_normal_by_kolmogorov_smirnov(draw):
    mean, covariance = expected_moments(X)
    y = ops.convert_to_numpy(BOTH[draw](X))
    # Whitened rows are standard normal and independent; so is any mixture of them, of length 1.
    white = np.linalg.solve(np.linalg.cholesky(covariance), y - mean[:, None])
    for row in [*white, white.sum(axis=0) / np.sqrt(len(X))]:
        assert stats.kstest(row, "norm").pvalue > 0.001


def test_the_two_draws_agree_in_law():
    direct, output = (ops.convert_to_numpy(draw(X)) for draw in BOTH.values())
    for weights in np.vstack([np.eye(3), nets.data(4, 3, seed=6)]):
        assert stats.ks_2samp(weights @ direct, weights @ output).pvalue > 0.001


def test_output_draw_has_the_moments_of_each_unit():
    mean, std = np.repeat([0.3, -1.0], DRAWS // 2), np.repeat([0.7, 0.1], DRAWS // 2)
    mean, std = ops.cast(mean, "float32"), ops.cast(std, "float32")
    y = ops.convert_to_numpy(noise.output_noise(X, DECAY, mean, std, seeds()))
    for half, m, s in ((y[:, : DRAWS // 2], 0.3, 0.7), (y[:, DRAWS // 2 :], -1.0, 0.1)):
        spread = np.sqrt((1 - DECAY**2) * s**2 * (X**2).sum(axis=1))
        error = 4 * spread / np.sqrt(DRAWS / 2)
        assert (np.abs(half.mean(axis=1) - (1 - DECAY) * m * X.sum(axis=1)) < error).all()
        assert (np.abs(half.std(axis=1) - spread) < error).all()


# Gradients


def loss(y):
    """Not linear, and with a product of two rows: the mean over the draws."""
    return ops.mean(ops.sum(y**2, axis=0) + ops.tanh(y[0]) * y[1] + 0.1 * y[2] ** 3)


@pytest.mark.parametrize("draw", BOTH)
def test_mean_gradient_is_that_of_the_law(draw):
    # f = sum of y_b^2: E df/dx_b = 2 E[n n^T] x_b = 2 (variance I + mean^2 11^T) x_b
    mean, variance = (1 - DECAY) * MEAN, (1 - DECAY**2) * STD**2
    second = variance * np.eye(5) + mean**2 * np.ones((5, 5))
    gradient = nets.gradient(lambda x: ops.mean(ops.sum(BOTH[draw](x) ** 2, axis=0)), X)
    np.testing.assert_allclose(gradient, 2 * X @ second, atol=0.06)


def test_gradients_of_the_two_draws_agree_on_average():
    many = {"draws": 4 * DRAWS}
    direct = nets.gradient(lambda x: loss(draw_direct(x, **many)), X)
    output = nets.gradient(lambda x: loss(draw_output(x, **many)), X)
    assert np.abs(direct).min() > 0.03  # there is something to compare
    np.testing.assert_allclose(output, direct, atol=0.06)


# Degenerate batches


@pytest.mark.parametrize(
    "x",
    [
        np.zeros((4, 6)),
        np.ones((4, 6)),
        np.vstack([nets.data(2, 6), nets.data(2, 6)]),
        np.vstack([nets.data(3, 6), np.zeros((1, 6))]),
        nets.data(12, 6),
        1e4 * nets.data(4, 6),
        1e-4 * nets.data(4, 6),
    ],
    ids=["zero", "equal", "duplicates", "one zero row", "more rows than inputs", "large", "small"],
)
def test_degenerate_batches_stay_finite_and_right(x):
    x = x.astype("float32")
    mean, covariance = expected_moments(x)
    size = np.sqrt(np.diag(covariance).mean())
    y = ops.convert_to_numpy(draw_output(x))
    assert np.isfinite(y).all()
    assert (np.abs(y.mean(axis=1) - mean) <= 5 * size / np.sqrt(DRAWS) + 1e-6 * size).all()
    np.testing.assert_allclose(np.cov(y), covariance, atol=0.06 * size**2 + 1e-30)
    gradient = nets.gradient(lambda x: ops.mean(draw_output(x, draws=10) ** 2), x)
    assert np.isfinite(gradient).all()


def test_equal_rows_get_equal_noise():
    x = np.repeat(nets.data(1, 6), 2, axis=0)
    y = ops.convert_to_numpy(draw_output(x))
    # up to the jitter, whose variance is a share of 1e-5 of the noise's own
    assert np.abs(y[0] - y[1]).max() < 0.05 * y.std()


def test_low_precision_inputs_give_float32_noise():
    y = draw_output(ops.cast(X, "bfloat16"), draws=10)
    assert keras.backend.standardize_dtype(y.dtype) == "float32"


# Seeds and cost


@pytest.mark.parametrize("draw", BOTH)
def test_same_seed_same_noise_and_another_at_each_draw(draw):
    first, again, other = (ops.convert_to_numpy(BOTH[draw](X, seed=seed, draws=4)) for seed in (7, 7, 8))
    np.testing.assert_array_equal(first, again)
    assert (first != other).all()
    generator = seeds()
    one, two = (ops.convert_to_numpy(noise.standard_normal((4,), generator)) for _ in range(2))
    assert (one != two).all()


def test_drawn_seed_stands_for_one_draw_of_its_generator():
    seed = noise.DrawnSeed(seeds(3).next())
    expected = keras.random.normal((5,), seed=seeds(3), dtype="float32")
    for _ in range(2):
        drawn = noise.standard_normal((5,), seed)
        np.testing.assert_array_equal(ops.convert_to_numpy(drawn), ops.convert_to_numpy(expected))


@pytest.mark.skipif(nets.BACKEND != "tensorflow", reason="the generator of TensorFlow under XLA")
def test_normal_numbers_under_xla():
    import tensorflow as tf

    @tf.function(jit_compile=True)
    def draw(seed):
        return noise.standard_normal((DRAWS,), noise.DrawnSeed(seed), xla=True)

    first, second = (draw(tf.constant([1, k])).numpy() for k in range(2))
    assert np.isfinite(first).all() and (first != second).mean() > 0.99
    assert stats.kstest(first, "norm").pvalue > 0.001
    assert abs(np.corrcoef(first, second)[0, 1]) < 4 / np.sqrt(DRAWS)


@pytest.mark.parametrize(
    ("rows", "inputs", "expected"),
    [(30, 784, True), (30, 256, True), (64, 256, True), (65, 784, False), (30, 100, False)],
)
def test_which_draw_is_cheaper(rows, inputs, expected):
    assert bool(noise.prefers_output(rows, inputs)) is expected
    tensors = ops.convert_to_tensor(rows), ops.convert_to_tensor(inputs)
    assert bool(noise.prefers_output(*tensors)) is expected


# Laws


def test_the_default_law_is_the_slides():
    assert noise.NoiseLaw.get(None) == noise.NoiseLaw(1.0, 1.0, "layer", "normal")
    law = noise.NoiseLaw(spread=0.5, kind="empirical")
    assert noise.NoiseLaw.get(law.to_dict()) == law and noise.NoiseLaw.get(law) is law


@pytest.mark.parametrize(
    ("field", "value"), [("spread", -0.1), ("mean", -1.0), ("per", "row"), ("kind", "uniform")]
)
def test_a_law_out_of_range_is_refused_by_name(field, value):
    with pytest.raises(ValueError, match=field):
        noise.NoiseLaw(**{field: value})


def test_something_else_than_a_law_is_refused():
    with pytest.raises(ValueError, match="NoiseLaw"):
        noise.NoiseLaw.get(0.5)


def compiled(draw):
    """A draw under TensorFlow's XLA."""
    import tensorflow as tf

    return tf.function(draw, jit_compile=True)()


@pytest.mark.parametrize(
    "xla",
    [
        False,
        pytest.param(
            True, marks=pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="is TensorFlow's")
        ),
    ],
)
def test_empirical_noise_has_the_distribution_of_the_elements(xla):
    elements = np.random.default_rng(3).exponential(size=20_000)  # skewed: mean 1, variance 1
    table = ops.convert_to_tensor(noise.quantiles_of(elements))
    seed = noise.DrawnSeed(seeds(4).next())

    def draw():
        return noise.kernel_noise((DRAWS,), 0.0, MEAN, STD, seed, xla, table)

    drawn = compiled(draw) if xla else draw()
    drawn = (ops.convert_to_numpy(drawn) - MEAN) / STD + 1.0
    assert stats.ks_2samp(drawn, elements).statistic < 0.02
    assert drawn.mean() == pytest.approx(1.0, abs=0.02) and drawn.std() == pytest.approx(1.0, abs=0.02)


def test_quantiles_of_equal_values_are_zero():
    assert not noise.quantiles_of(np.full(7, 3.0)).any()
