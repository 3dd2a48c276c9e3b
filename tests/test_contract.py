"""Every method of the registry on every rule: a line in the registry puts a method under this contract."""

import dataclasses
import warnings

import keras
import nets
import numpy as np
import pytest
from keras import layers, ops

import clora_lab as cl
from clora_lab import methods, rules
from clora_lab.layers import wrapped_layers


def convolution():
    return layers.Conv2D(5, 3, strides=2, padding="same", activation="relu", name="t")


LAYERS = {
    # name: the layer, its inputs
    "dense": (lambda: layers.Dense(7, activation="tanh", name="t"), (6,)),
    "query": (lambda: layers.EinsumDense("abc,cde->abde", (5, 3, 4), bias_axes="de", name="t"), (5, 6)),
    "output": (lambda: layers.EinsumDense("abcd,cde->abe", (5, 7), bias_axes="e", name="t"), (5, 3, 4)),
    "embedding": (lambda: layers.Embedding(11, 6, name="t"), (5,)),
}
LAYERS |= {f"convolution, {name}": (convolution, (6, 6, 4)) for name in rules.FACTORIZATIONS}
CASES = [
    pytest.param(method, case, id=f"{method} on {case}") for method in methods.names() for case in LAYERS
]


def model(case):
    layer, shape = LAYERS[case]
    inputs = keras.Input(shape, dtype="int32" if case == "embedding" else "float32")
    x = layers.Flatten(name="flatten")(layer()(inputs))
    return nets.randomise(keras.Model(inputs, layers.Dense(3, name="head")(x)), seed=2)


def batch(case, seed=0):
    shape = (8, *LAYERS[case][1])
    if case == "embedding":
        return np.random.default_rng(seed).integers(0, 11, shape).astype("int32")
    return nets.data(*shape, seed=seed)


def needed(method):
    """The settings without which a method is not to be had."""
    known = {field.name for field in dataclasses.fields(methods.find(method))}
    return {"schedule": nets.schedule(8)} if "schedule" in known else {}


def compress(case, method, rank):
    arguments = needed(method)
    if case.startswith("convolution"):
        arguments["factorization"] = case.split(", ")[1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", cl.BreakEvenWarning)  # the nets are tiny
        return cl.compress(model(case), rank, method=method, targets=["t"], **arguments)


def full_rank(case):
    found = model(case).get_layer("t")
    name = case.split(", ")[1] if case.startswith("convolution") else None
    return rules.rule(found, name).max_rank


def at_the_end(net):
    """The net as it is when the decay is over, for methods that decay."""
    for layer in cl.clora_layers(net):
        if not methods.of(layer).keeps_original:
            layer.decay.assign(0.0)
    return net


def train(net, case, batches=1):
    net.compile(keras.optimizers.SGD(0.05), "mse", run_eagerly=True, jit_compile=False)
    x, y = batch(case), nets.data(8, 3, seed=3)
    callbacks = cl.callbacks_for(net)
    return net.fit(x, y, batch_size=8, epochs=batches, shuffle=False, verbose=0, callbacks=callbacks).history


def same(one, other, x, **tolerance):
    np.testing.assert_allclose(nets.forward(one, x), nets.forward(other, x), **tolerance)


@pytest.mark.parametrize(("method", "case"), CASES)
def test_at_full_rank_it_starts_as_the_original(method, case):
    if not methods.find(method).starts_from_original:
        pytest.skip("starts from random values, as documented")
    net = compress(case, method, full_rank(case))
    same(net, model(case), batch(case), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("method", "case"), CASES)
def test_a_step_trains_what_the_method_trains_and_leaves_a_net_that_goes_on(method, case, tmp_path):
    net, cls = compress(case, method, 2), methods.find(method)
    before = {weight.path: ops.convert_to_numpy(weight).copy() for weight in net.trainable_weights}
    frozen = {weight.path: ops.convert_to_numpy(weight).copy() for weight in net.get_layer("head").weights}
    assert bool(before) and bool(set(frozen) & set(before)) == (not cls.starts_from_original)
    history = train(net, case, batches=2)
    assert np.isfinite(history["loss"]).all()
    moved = [w.path for w in net.trainable_weights if np.any(ops.convert_to_numpy(w) != before[w.path])]
    assert moved  # the bias at least; a factor behind a zero moves one step later
    if cls.starts_from_original:
        for weight in net.get_layer("head").weights:
            np.testing.assert_array_equal(ops.convert_to_numpy(weight), frozen[weight.path])
    net.save(tmp_path / "net.keras")
    again = keras.saving.load_model(tmp_path / "net.keras")
    same(again, net, batch(case), rtol=1e-5, atol=1e-6)
    assert [type(layer) for layer in wrapped_layers(again)] == [type(layer) for layer in wrapped_layers(net)]
    losses = [
        other.fit(batch(case), nets.data(8, 3, seed=3), verbose=0, callbacks=cl.callbacks_for(other)).history
        for other in (again, net)
    ]
    assert losses[0]["loss"] == pytest.approx(losses[1]["loss"], rel=1e-4)


@pytest.mark.parametrize(("method", "case"), CASES)
def test_the_finished_net_is_what_trained_and_costs_what_was_said(method, case, tmp_path):
    net = compress(case, method, full_rank(case) if methods.find(method).truncates else 2)
    train(net, case)
    at_the_end(net)
    small, original = cl.finalize(net), model(case)
    same(small, net, batch(case), rtol=1e-3, atol=1e-4)
    assert not wrapped_layers(small) and all(layer.trainable for layer in small.layers)
    assert all(type(layer).__module__.startswith("keras.") for layer in small.layers)
    one, other = (cl.report(original, each).set_index("layer").loc["t"] for each in (net, small))
    if methods.find(method).keeps_original:
        assert other["parameters"] == other["original_parameters"] and not other["compressed"]
    else:
        columns = ["parameters", "run_parameters", "flops", "compressed"]
        assert list(one[columns]) == list(other[columns])
    small.save(tmp_path / "small.keras")
    same(keras.saving.load_model(tmp_path / "small.keras"), small, batch(case), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", methods.names())
def test_inside_attention(method):
    inputs = keras.Input((5, 8))
    x = layers.MultiHeadAttention(2, 4, name="attention")(inputs, inputs)
    original = nets.randomise(keras.Model(inputs, layers.Dense(3, name="head")(x)))
    truncates = methods.find(method).truncates
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", cl.BreakEvenWarning)
        rank = 8 if truncates else 2
        net = cl.compress(original, rank, method=method, targets="attention/*", **needed(method))
    data = nets.data(4, 5, 8)
    net.compile(keras.optimizers.SGD(0.05), "mse", run_eagerly=True, jit_compile=False)
    net.fit(data, nets.data(4, 5, 3, seed=1), verbose=0, callbacks=cl.callbacks_for(net))
    at_the_end(net)
    small = cl.finalize(net)
    same(small, net, data, rtol=1e-3, atol=1e-4)
    if not truncates:
        assert (small.count_params() < original.count_params()) != methods.find(method).keeps_original


def test_the_registry_and_its_classes_agree():
    for entry in methods.REGISTRY:
        if entry.home:
            assert methods.find(entry.name).name == entry.name
            assert getattr(methods, entry.home.split(":")[1]) is methods.find(entry.name)
    assert set(methods.FAMILIES) >= {entry.family for entry in methods.REGISTRY}
    slides = methods.names("slides")
    assert slides == tuple(name for name in cl.layers.FORMS if name in slides)


def test_an_unknown_method_or_setting_gets_the_nearest():
    net = nets.sequential()
    with pytest.raises(ValueError, match="Did you mean 'noise_bias'"):
        cl.compress(net, 2, method="noise_bia", schedule=nets.schedule())
    with pytest.raises(ValueError, match="Did you mean 'init'"):
        cl.compress(net, 2, method="svd", inits="svd")
    with pytest.raises(ValueError, match="has its settings already"):
        cl.compress(net, 2, method=cl.methods.SVD(), alpha=3.0)


@pytest.mark.parametrize("name", methods.names())
def test_a_method_is_made_again_from_its_dict(name):
    method = methods.get(name, **needed(name))
    assert methods.get(method.to_dict()) == method and methods.get(method) is method
