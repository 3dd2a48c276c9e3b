"""What the slides' authors' code does: the activation inside of what fades, d twice, A by the rank."""

import keras
import nets
import numpy as np
import pytest

import clora_lab as cl
from clora_lab import rules
from clora_lab.methods import Noise, NoiseBias

SCHEDULE = cl.LinearDecay(4)


def small(seed=0):
    """The toy net in small: two hidden layers with ReLU, logits; normal weights."""
    rng = np.random.default_rng(seed)
    model = keras.Sequential(
        [
            keras.Input((20,)),
            keras.layers.Dense(16, activation="relu", name="dense"),
            keras.layers.Dense(12, activation="relu", name="dense_1"),
            keras.layers.Dense(3, name="dense_2"),
        ]
    )
    for weight in model.weights:
        weight.assign(rng.normal(size=weight.shape) * 0.3)
    return model


def wrapped(model, method="bias", seed=0, **settings):
    """Compressed, with random pairs and biases."""
    model_c = nets.compress(model, rank=4, method=method, schedule=SCHEDULE, **settings)
    rng = np.random.default_rng(seed)
    for layer in cl.clora_layers(model_c):
        for weight in layer.trainable_weights:
            weight.assign(0.3 * rng.normal(size=weight.shape))
    return model_c


def set_decay(model, value):
    for layer in cl.clora_layers(model):
        layer.decay.assign(value)


def is_affine(function, width):
    """Whether f(x) - f(0) is linear, on random inputs."""
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=(2, 30, width)).astype("float32")
    zero = function(np.zeros((1, width), "float32"))
    left = function(2.0 * a - 3.0 * b) - zero
    right = 2.0 * (function(a) - zero) - 3.0 * (function(b) - zero)
    return np.allclose(left, right, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("on", ["original", "sum"])
def test_as_coded_the_compressed_net_is_one_affine_map_and_as_written_it_is_not(on):
    model = wrapped(small(), activation_on=on, init="lora")
    set_decay(model, 0.0)
    finished = cl.finalize(model)
    for net in (model, finished):
        assert is_affine(lambda x, net=net: nets.forward(net, x), 20) == (on == "original")
    x = nets.data(9, 20)
    np.testing.assert_allclose(nets.forward(model, x), nets.forward(finished, x), rtol=1e-5, atol=1e-5)


LAYERS = {
    "dense": (lambda: keras.layers.Dense(6, activation="relu", name="target"), (5,)),
    "einsum": (
        lambda: keras.layers.EinsumDense(
            "abc,cde->abde", (5, 2, 3), bias_axes="de", activation="tanh", name="target"
        ),
        (5, 8),
    ),
    "conv": (
        lambda: keras.layers.Conv2D(6, 3, padding="same", activation="relu", name="target"),
        (5, 5, 4),
    ),
}


def one(case):
    build, shape = LAYERS[case]
    x = keras.Input(shape)
    model = keras.Model(x, build()(x))
    rng = np.random.default_rng(1)
    for weight in model.weights:
        weight.assign(rng.normal(size=weight.shape))
    return model, nets.data(3, *shape)


FACTORED = [("dense", None), ("einsum", None), *(("conv", name) for name in rules.FACTORIZATIONS)]


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize(("case", "factorization"), FACTORED)
def test_what_fades_is_the_activated_layer(case, power, factorization):
    model, x = one(case)
    whole = nets.forward(model, x)
    settings = {"targets": ["target"], "factorization": factorization}
    model_c = wrapped(model, activation_on="original", decay_power=power, **settings)
    set_decay(model_c, 0.0)
    rest = nets.forward(model_c, x)
    set_decay(model_c, 0.5)
    np.testing.assert_allclose(nets.forward(model_c, x), 0.5**power * whole + rest, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("on", ["sum", "original"])
@pytest.mark.parametrize(
    ("case", "draw"), [("dense", "output"), ("dense", "kernel"), ("einsum", "kernel"), ("conv", "kernel")]
)
def test_noise_stands_outside_of_the_activation_that_fades(case, on, draw):
    """In training, with a noise of deviation 0 that is m (1 - d) in each element: y is known exactly."""
    model, x = one(case)
    (layer,) = [each for each in model.layers if each.name == "target"]
    settings = {"targets": ["target"], "noise_law": cl.NoiseLaw(spread=0.0), "noise_draw": draw}
    model_c = wrapped(model, "noise", activation_on=on, decay_power=2, **settings)
    (wrapper,) = cl.clora_layers(model_c)
    wrapper.watched = True
    set_decay(model_c, 0.5)
    kernel = keras.ops.convert_to_numpy(layer.kernel)
    mean = kernel.mean(axis=wrapper.stat_axes, keepdims=True)

    def linear(kernel):
        y = wrapper.rule.linear(keras.ops.convert_to_tensor(x), keras.ops.convert_to_tensor(kernel))
        return keras.ops.convert_to_numpy(y)

    def act(y):
        return keras.ops.convert_to_numpy(layer.activation(y))

    noise = linear(0.5 * np.broadcast_to(mean, kernel.shape))
    pair = linear(wrapper.rule.compose(wrapper.factors()))
    plain = linear(kernel) + keras.ops.convert_to_numpy(layer.bias)
    coded, written = 0.25 * act(plain) + pair + noise, act(0.25 * plain + pair + noise)
    found = keras.ops.convert_to_numpy(model_c(x, training=True))
    np.testing.assert_allclose(found, coded if on == "original" else written, rtol=1e-3, atol=1e-3)


# --- the width of A ------------------------------------------------------------------------------------


def limits():
    """Layer -> the half width of the authors' A at rank 4, by Keras' own initialiser in their shapes."""
    five = keras.initializers.VarianceScaling(np.sqrt(5.0), "fan_in", "uniform", seed=0)
    one_ = keras.initializers.VarianceScaling(1.0, "fan_in", "uniform", seed=0)
    return {
        "dense": (keras.layers.Dense(300), (None, 200), five((4, 200))),
        "query": (keras.layers.EinsumDense("abc,cde->abde", (5, 2, 40)), (None, 5, 80), five((4, 80))),
        "output": (keras.layers.EinsumDense("abcd,cde->abe", (5, 80)), (None, 5, 2, 40), five((2, 40, 4))),
        "conv": (keras.layers.Conv2D(50, 3, padding="same"), (None, 9, 9, 40), one_((12, 120))),
    }


@pytest.mark.parametrize("case", ["dense", "query", "output", "conv"])
def test_a_is_as_wide_as_the_authors(case):
    layer, shape, theirs = limits()[case]
    layer.build(shape)
    rule = rules.rule(layer)
    method = NoiseBias(SCHEDULE, init="lora")
    kernel = keras.ops.convert_to_numpy(layer.kernel)
    (down, up), rest = method.factors(rule, kernel, 4, np.random.default_rng(0))
    theirs = keras.ops.convert_to_numpy(theirs)
    assert down.size == theirs.size and not np.any(up) and rest is kernel
    np.testing.assert_allclose(np.abs(down).max(), np.abs(theirs).max(), rtol=0.05)
    np.testing.assert_allclose(down.std(), theirs.std(), rtol=0.1)


def test_by_inputs_it_is_narrower():
    layer = keras.layers.Dense(300)
    layer.build((None, 512))
    rule, kernel = rules.rule(layer), keras.ops.convert_to_numpy(layer.kernel)
    widths = [
        np.abs(Noise(SCHEDULE, init=init).factors(rule, kernel, 16, np.random.default_rng(0))[0][0]).max()
        for init in ("lora", "lora_inputs")
    ]
    np.testing.assert_allclose(widths[0] / widths[1], np.sqrt(512 / 16), rtol=1e-6)
    np.testing.assert_allclose(widths[0] / widths[1], 5.7, atol=0.05)  # as facts of the slides' code say
