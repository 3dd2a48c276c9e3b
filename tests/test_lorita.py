"""LoRITa: composed layers, their penalty, and what truncation leaves."""

import keras
import nets
import numpy as np
import pytest
from keras import layers, ops

import clora_lab as cl
from clora_lab import rules
from clora_lab.layers import wrapped_layers
from clora_lab.methods.lorita import collapsed


def dense(**settings):
    net = nets.sequential((12, 10, 3))
    return net, cl.compress(net, 3, method="lorita", **settings)


def convolutional(rank=3, **settings):
    net = nets.convolutional()
    return net, nets_compress(net, rank, **settings)


def nets_compress(net, rank, **settings):
    return cl.compress(net, rank, method=cl.methods.LoRITa(**settings), targets=["conv_*", "dense_0"])


def disturb(net, seed=5):
    rng = np.random.default_rng(seed)
    for layer in wrapped_layers(net):
        for weight in layer.weights:
            weight.assign(weight + 0.1 * rng.normal(size=weight.shape))
    return net


@pytest.mark.parametrize("factors", [1, 2, 3, 4])
def test_the_stages_are_those_of_the_paper(factors):
    net, composed = dense(factors=factors)
    stages = composed.get_layer("dense_0").stages
    assert [tuple(stage.kernel.shape) for stage in stages] == [(16, 16)] * (factors - 1) + [(16, 12)]
    assert [stage.use_bias for stage in stages] == [False] * (factors - 1) + [True]
    _, composed = convolutional(factors=factors)
    stages = composed.get_layer("conv_1").stages
    assert [tuple(s.kernel.shape) for s in stages] == [(3, 3, 6, 8)] + [(1, 1, 8, 8)] * (factors - 1)
    assert stages[-1].activation is keras.activations.relu
    assert all(stage.activation is keras.activations.linear for stage in stages[:-1])


@pytest.mark.parametrize("factors", [1, 2, 3])
def test_the_product_of_the_stages_is_the_composed_layer(factors):
    net, composed = convolutional(factors=factors)
    disturb(composed)
    x = nets.data(2, 8, 8, 3)
    values = {"conv_0": x, "conv_1": nets.data(2, 4, 4, 6), "dense_0": nets.data(2, 128)}
    for layer in wrapped_layers(composed):
        bias = ops.convert_to_numpy(layer.stages[-1].bias)
        single = type(net.get_layer(layer.name)).from_config(layer.original_config())
        single.build(values[layer.name].shape)
        single.set_weights([collapsed(layer), bias])
        expected = nets.forward(single, values[layer.name])
        np.testing.assert_allclose(nets.forward(layer, values[layer.name]), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("factors", [1, 2, 3])
def test_the_start_has_the_smallest_penalty_and_keras_adds_it_to_the_loss(factors):
    # min sum |W_i|^2 = N sum sigma^(2/N)
    net, composed = dense(factors=factors, weight_decay=0.02)
    layer = composed.get_layer("dense_0")
    singular = np.linalg.svd(ops.convert_to_numpy(net.get_layer("dense_0").kernel), compute_uv=False)
    own = 0.01 * factors * np.sum(singular ** (2 / factors))
    assert float(sum(layer.losses)) == pytest.approx(own, rel=1e-4)
    np.testing.assert_allclose(collapsed(layer), net.get_layer("dense_0").kernel, atol=1e-5)


def test_random_start_is_not_the_original():
    net, composed = dense(init="random")
    assert np.abs(collapsed(composed.get_layer("dense_0")) - net.get_layer("dense_0").kernel).max() > 0.1


@pytest.mark.parametrize("factorization", rules.FACTORIZATIONS)
def test_local_truncation_is_the_svd_of_the_product(factorization):
    net = nets.convolutional()
    method = cl.methods.LoRITa(factors=2)
    composed = disturb(
        cl.compress(net, 2, method=method, targets=["conv_1", "dense_0"], factorization=factorization)
    )
    small = cl.finalize(composed)
    twin = keras.models.clone_model(net)
    twin.set_weights(net.get_weights())
    for layer in wrapped_layers(composed):
        best = layer.rule.compose(layer.rule.decompose(collapsed(layer), 2))
        twin.get_layer(layer.name).set_weights([best, ops.convert_to_numpy(layer.stages[-1].bias)])
    x = nets.data(2, 8, 8, 3)
    np.testing.assert_allclose(nets.forward(small, x), nets.forward(twin, x), rtol=1e-3, atol=1e-4)


def test_global_truncation_keeps_the_largest_singular_values_within_the_parameters():
    net = keras.Sequential(
        [keras.Input((8,)), layers.Dense(8, name="a"), layers.Dense(8, name="b"), layers.Dense(2)]
    )
    strong, weak = np.diag(np.arange(8.0, 0, -1)), 0.01 * np.diag(np.arange(8.0, 0, -1))
    net.get_layer("a").kernel.assign(strong)
    net.get_layer("b").kernel.assign(weak)
    small = {
        how: cl.finalize(cl.compress(net, 3, method="lorita", truncation=how)) for how in ("local", "global")
    }
    ranks = {how: [model.get_layer(f"{n}_down").units for n in "ab"] for how, model in small.items()}
    assert ranks == {"local": [3, 3], "global": [5, 1]}
    assert small["local"].count_params() == small["global"].count_params()


def test_singular_values_die_under_the_penalty():
    # a map of rank 3 learned by a full layer: what it does not need goes to zero in a product of three
    x = nets.data(64, 16)
    y = x @ nets.data(16, 3, seed=1) @ nets.data(3, 12, seed=2) / 4
    left = {}
    for factors, decay in ((1, 0.0), (3, 0.03)):
        net = keras.Sequential([keras.Input((16,)), layers.Dense(12, name="t"), layers.Activation("linear")])
        nets.randomise(net)
        method = cl.methods.LoRITa(factors=factors, weight_decay=decay)
        composed = cl.compress(net, 3, method=method, targets=["t"])
        composed.compile(keras.optimizers.Adam(0.01), "mse", jit_compile=False)
        composed.fit(x, y, epochs=60, batch_size=16, shuffle=False, verbose=0)
        singular = np.linalg.svd(collapsed(composed.get_layer("t")), compute_uv=False)
        left[factors] = singular[3] / singular[2]
    assert left[3] < 0.05 < left[1]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"factors": 0}, "`factors` must be an integer of at least 1"),
        ({"weight_decay": -1.0}, "`weight_decay` must be a number"),
        ({"truncation": "globl"}, "Did you mean 'global'"),
        ({"init": "svdd"}, "Did you mean 'svd'"),
        ({"factor": 2}, "Did you mean 'factors'"),
    ],
)
def test_bad_settings_are_named(settings, words):
    with pytest.raises(ValueError, match=words):
        dense(**settings)
