"""A convolution as 1 x k, then k x 1: the slides' own factorisation, by stock layers."""

from pathlib import Path

import keras
import nets
import numpy as np
import pandas as pd
import pytest
from keras import layers, ops

import clora_lab as cl
from clora_lab import rules
from clora_lab.lab.nets import vgg

SETTINGS = [
    {},
    {"padding": "same"},
    {"strides": 2, "padding": "same"},
    {"strides": (2, 1)},
    {"padding": "same", "dilation_rate": (2, 1)},
    {"size": (5, 3), "padding": "same"},
    {"size": (1, 4)},
    {"size": 1},
    pytest.param(
        {"data_format": "channels_first"},
        marks=pytest.mark.skipif(nets.BACKEND == "tensorflow", reason="not on TensorFlow's CPU"),
    ),
]


def conv(size=3, channels=5, filters=7, **settings):
    shape = (9, 10, channels) if settings.get("data_format") != "channels_first" else (channels, 9, 10)
    layer = layers.Conv2D(filters, size, use_bias=False, name="t", **settings)
    layer.build((None, *shape))
    return nets.randomise(layer), rules.rule(layer, "spatial"), nets.data(2, *shape)


@pytest.mark.parametrize("settings", SETTINGS)
def test_two_convolutions_are_the_kernel_that_the_factors_stand_for(settings):
    layer, rule, x = conv(**settings)
    rng = np.random.default_rng(1)
    factors = [rng.normal(size=f.shape) for f in rule.fresh(2, rng)]
    kernel = rule.compose(factors)
    np.testing.assert_allclose(kernel, np.einsum("zbiq,azqo->abio", *factors), atol=1e-6)
    layer.kernel.assign(kernel)
    value = x
    for stage, factor in zip(rule.chain(2), factors, strict=True):
        stage.build(value.shape)
        stage.kernel.assign(factor)
        value = stage(value)
    np.testing.assert_allclose(ops.convert_to_numpy(value), nets.forward(layer, x), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("settings", SETTINGS)
def test_matrices_and_factors_are_inverse_and_full_rank_is_the_kernel(settings):
    layer, rule, _ = conv(**settings)
    kernel = ops.convert_to_numpy(layer.kernel)
    np.testing.assert_allclose(rule.to_kernel(rule.to_matrix(kernel)), kernel)
    rank = -(-min(rule.matrix_shape) // rule.inner(1))
    factors = rule.decompose(kernel, rank)
    np.testing.assert_allclose(rule.compose(factors), kernel, atol=1e-5)
    back = rule.from_matrices(*rule.to_matrices(factors))
    for one, other in zip(factors, back, strict=True):
        np.testing.assert_array_equal(one, other)


def test_it_is_the_layout_of_the_slides_authors():
    # They reshape B A, B (Cout k, r k) and A (r k, k Cin), to (Cout, k, k, Cin).
    k, channels, filters, rank = 3, 4, 6, 2
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(rank * k, k * channels)), rng.normal(size=(filters * k, rank * k))
    theirs = (b @ a).reshape(filters, k, k, channels).transpose(1, 2, 3, 0)
    _, rule, _ = conv(k, channels, filters)
    # Rows of their B are (filter, line), columns of our up are (line, filter).
    up = b.reshape(filters, k, rank * k).transpose(2, 1, 0).reshape(rank * k, k * filters)
    np.testing.assert_allclose(rule.compose(rule.from_matrices(a.T, up)), theirs, atol=1e-12)


@pytest.mark.parametrize(("size", "rank"), [(3, 2), ((5, 3), 2), ((1, 4), 3), (1, 2)])
def test_counts(size, rank):
    layer, rule, x = conv(size, padding="same")
    height, width = layer.kernel_size
    inner = rank * min(height, width)
    assert rule.parameters(rank) == inner * (width * 5 + height * 7)
    cost = rule.cost(rank, (None, 9, 10, 7))
    assert cost.stored == cost.run == rule.parameters(rank)
    assert cost.flops == 2 * 90 * rule.parameters(rank)
    if height == width:  # as loralib's, and the slides' count
        assert rule.parameters(rank) == height * height * rank * (5 + 7)


def test_flops_follow_the_stride_of_each_stage():
    _, rule, _ = conv(strides=2, padding="same")
    down, up = 3 * 5 * 6, 3 * 6 * 7
    assert rule.cost(2, (None, 5, 5, 7)).flops == 2 * (down * 9 * 5 + up * 5 * 5)


def test_fresh_factors_have_he_variance():
    _, rule, _ = conv(3, 64, 64)
    kernel = rule.compose(rule.fresh(8, np.random.default_rng(0), last_zero=False))
    assert np.var(kernel) == pytest.approx(2 / (9 * 64), rel=0.1)


def test_it_is_the_default_and_ends_in_two_stock_convolutions():
    net = nets.convolutional()
    wrapped = nets.compress(net, 2, targets=["conv_1"])
    assert wrapped.get_layer("conv_1").factorization == "spatial"
    small = cl.finalize(wrapped, force=True)
    down, up = small.get_layer("conv_1_down"), small.get_layer("conv_1")
    assert type(down) is type(up) is layers.Conv2D
    assert (down.kernel_size, up.kernel_size, down.filters) == ((1, 3), (3, 1), 6)
    assert not down.use_bias and down.activation is keras.activations.linear
    assert up.use_bias and up.activation is keras.activations.relu


def test_published_ratios_of_vgg16():
    # slide 19: four of its six rows count the output layer's 5,130 parameters too
    path = Path(__file__).parents[1] / "data" / "published" / "vgg16.csv"
    table = pd.read_csv(path).dropna(subset=["conv_rank"])
    rows = table[["conv_rank", "dense_rank", "ratio_percent"]].drop_duplicates().astype(float)
    assert len(rows) == 6
    net = vgg.vgg16()
    for convolutions, dense, percent in rows.itertuples(index=False):
        left = 0 if dense == 64 else net.get_layer("dense_8").count_params()
        for layer in net.layers:
            if isinstance(layer, layers.Conv2D):
                left += rules.rule(layer).parameters(int(convolutions)) + layer.filters
            elif layer.name in ("dense_6", "dense_7"):
                left += rules.rule(layer).parameters(int(dense)) + layer.units
        assert 100 * left / net.count_params() == pytest.approx(percent, abs=0.01)


def test_a_calibrated_start_is_nearer_on_its_inputs():
    scales = np.geomspace(1.0, 0.01, 5).astype("float32")
    layer, _, x = conv(padding="same")
    net = keras.Sequential([keras.Input((9, 10, 5)), layer])
    seen = nets.data(40, 9, 10, 5, seed=3) * scales
    error = {}
    for init, calibration in (("svd", None), ("activations", seen)):
        method = cl.methods.SVD(init=init)
        small = cl.compress(net, 1, method=method, targets=["t"], calibration=calibration)
        error[init] = np.linalg.norm(nets.forward(small, seen) - nets.forward(net, seen))
    assert error["activations"] < 0.9 * error["svd"]
