"""Whole models in, whole models out: compress, finalize, view, and what they refuse."""

import json
import subprocess
import sys

import keras
import nets
import numpy as np
import pytest
from keras import layers, ops

import clora_lab as cl
from clora_lab import methods

# Every kind of model that can be rewritten: a function that builds it, the shapes of its inputs, and the
# paths of the layers that are compressed by default.


def dense(units, name, activation="relu"):
    return layers.Dense(units, activation=activation, name=name)


def built_by_calling():
    model = keras.Sequential([dense(6, "a"), dense(5, "b"), dense(3, "out", None)])
    model(nets.data(2, 8))
    return model


def activation_behind():
    return keras.Sequential(
        [keras.Input((8,)), dense(6, "a"), dense(3, "out", None), layers.Softmax(name="softmax")]
    )


def functional():
    inputs = keras.Input((8,), name="x")
    a = dense(6, "a")(inputs)
    b = dense(6, "b")(a)
    outputs = dense(3, "out", None)(layers.Add(name="add")([a, b]))
    return keras.Model(inputs, outputs, name="functional")


def sequential_in_functional():
    inner = keras.Sequential([keras.Input((8,)), dense(6, "a"), dense(5, "b")], name="inner")
    inputs = keras.Input((8,))
    return keras.Model(inputs, dense(3, "out", None)(inner(inputs)))


def functional_part(name="inner"):
    inputs = keras.Input((8,))
    x = dense(6, "a")(inputs)
    return keras.Model(inputs, dense(8, "b")(x) + inputs, name=name)


def functional_in_functional():
    inputs = keras.Input((8,))
    x = dense(8, "first")(inputs)
    return keras.Model(inputs, dense(3, "out", None)(functional_part()(x)))


def functional_in_sequential():
    return keras.Sequential([keras.Input((8,)), functional_part(), dense(3, "out", None)])


def output_in_inner_model():
    inputs = keras.Input((8,))
    return keras.Model(inputs, functional_part()(dense(8, "first")(inputs)))


def shared_layer():
    inputs = keras.Input((6,))
    twice = dense(6, "twice")
    return keras.Model(inputs, dense(3, "out", None)(twice(twice(inputs))))


def shared_model():
    left, right, part = keras.Input((8,)), keras.Input((8,)), functional_part()
    x = layers.Concatenate()([part(left), part(right)])
    return keras.Model([left, right], dense(3, "out", None)(x))


def shared_between_models():
    shared = dense(8, "shared")
    inner_inputs = keras.Input((8,))
    inner = keras.Model(inner_inputs, dense(8, "a")(shared(inner_inputs)), name="inner")
    inputs = keras.Input((8,))
    return keras.Model(inputs, dense(3, "out", None)(shared(inner(inputs))))


def many_inputs_and_outputs():
    left, right = keras.Input((8,), name="left"), keras.Input((5,), name="right")
    a, b = dense(6, "a")(left), dense(6, "b")(right)
    c = dense(7, "c")(layers.Concatenate()([a, b]))
    return keras.Model([left, right], [dense(3, "out_0", None)(c), dense(2, "out_1", None)(c)])


def operations():
    inputs = keras.Input((8,))
    x = dense(6, "a")(inputs * 2.0)
    x = ops.concatenate([x, ops.tanh(inputs)], axis=-1)
    x = dense(6, "b")(x)
    return keras.Model(inputs, ops.softmax(dense(3, "out", None)(x) / 2.0))


def masked():
    inputs = keras.Input((4,), dtype="int32")
    x = layers.Embedding(10, 6, mask_zero=True, name="embedding")(inputs)
    x = dense(7, "a")(x)
    x = layers.GlobalAveragePooling1D(name="pool")(x)
    return keras.Model(inputs, dense(3, "out", None)(x))


def normalised():
    inputs = keras.Input((8,))
    x = layers.BatchNormalization(name="norm")(dense(6, "a", None)(inputs))
    x = layers.Dropout(0.5, name="dropout")(layers.Activation("relu", name="relu")(x))
    return keras.Model(inputs, dense(3, "out", None)(dense(5, "b")(x)))


def einsums():
    inputs = keras.Input((4, 6))
    x = layers.EinsumDense("abc,cde->abde", (None, 2, 3), bias_axes="de", name="query")(inputs)
    x = layers.EinsumDense("abcd,cde->abe", (None, 5), bias_axes="e", name="merge")(x)
    x = layers.GlobalAveragePooling1D(name="pool")(x)
    return keras.Model(inputs, dense(3, "out", None)(x))


METHODS = methods.names("slides")
MODELS = {
    nets.sequential: ([(16,)], ["dense_0", "dense_1"]),
    nets.convolutional: ([(8, 8, 3)], ["conv_0", "conv_1", "dense_0"]),
    built_by_calling: ([(8,)], ["a", "b"]),
    activation_behind: ([(8,)], ["a"]),
    functional: ([(8,)], ["a", "b"]),
    sequential_in_functional: ([(8,)], ["inner/a", "inner/b"]),
    functional_in_functional: ([(8,)], ["first", "inner/a", "inner/b"]),
    functional_in_sequential: ([(8,)], ["inner/a", "inner/b"]),
    output_in_inner_model: ([(8,)], ["first", "inner/a"]),
    shared_layer: ([(6,)], ["twice"]),
    shared_model: ([(8,), (8,)], ["inner/a", "inner/b"]),
    shared_between_models: ([(8,)], ["shared", "a"]),
    many_inputs_and_outputs: ([(8,), (5,)], ["a", "b", "c"]),
    operations: ([(8,)], ["a", "b"]),
    masked: ([(4,)], ["a"]),
    normalised: ([(8,)], ["a", "b"]),
    einsums: ([(4, 6)], ["query", "merge"]),
}
every_model = pytest.mark.parametrize("build", MODELS, ids=lambda build: build.__name__)


def make(build):
    return nets.randomise(build())


def inputs_for(build, rows=5):
    if build is masked:
        return [np.array([[1, 2, 0, 0], [3, 0, 0, 0], [4, 5, 6, 7], [8, 9, 0, 0], [1, 1, 1, 1]])]
    return [nets.data(rows, *shape, seed=i) for i, shape in enumerate(MODELS[build][0])]


def flat(value):
    return value if isinstance(value, list) else [value]


def assert_same_outputs(one, other, atol=1e-5):
    assert len(flat(one)) == len(flat(other))
    for a, b in zip(flat(one), flat(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=atol)


def names_of_weights(model):
    return [layer.name for layer in model._flatten_layers(recursive=False) if layer.weights]


def wrapped_names(model):
    return [layer.name for layer in cl.clora_layers(model)]


def disturb(model, seed=9):
    """Random pairs and new biases, as after training."""
    rng = np.random.default_rng(seed)
    for layer in cl.clora_layers(model):
        for weight in [*layer.pair_weights, *([layer.bias] if layer.has_bias else [])]:
            weight.assign(rng.normal(size=weight.shape) / 5)
    return model


# compress


@every_model
def test_compressed_model_equals_the_original_at_step_0(build):
    model, x = make(build), inputs_for(build)
    before, outputs = nets.weights(model), nets.forward(model, *x)
    compressed = nets.compress(model, init="svd")
    assert sorted(wrapped_names(compressed)) == sorted(p.split("/")[-1] for p in MODELS[build][1])
    assert_same_outputs(nets.forward(compressed, *x), outputs)
    assert_same_outputs(nets.forward(nets.compress(model, init="lora"), *x), outputs)
    nets.assert_same_weights(nets.weights(model), before)
    assert_same_outputs(nets.forward(model, *x), outputs)
    assert not compressed.compiled and not cl.clora_layers(model)
    assert names_of_weights(compressed) == names_of_weights(model)


@every_model
def test_finalized_model_equals_the_wrapped_one_at_d_0(build):
    model, x = make(build), inputs_for(build)
    compressed = disturb(nets.compress(model, alpha=4.0))
    nets.set_decay(compressed, 0.0)
    before, outputs = nets.weights(compressed), nets.forward(compressed, *x)
    small = cl.finalize(compressed)
    assert_same_outputs(nets.forward(small, *x), outputs)
    assert_same_outputs(outputs, nets.forward(compressed, *x), atol=0)
    nets.assert_same_weights(nets.weights(compressed), before)
    for layer in small._flatten_layers():
        assert type(layer).__module__.startswith("keras."), layer
    assert all(layer.trainable for layer in small._flatten_layers())
    # W is gone: at this point, only the pairs are left of what was compressed
    stored = sum(layer.remaining_parameters for layer in cl.clora_layers(compressed))
    kept = model.count_params() - sum(
        layer.rule.kernel_size + (layer.base.bias is not None) * np.prod(layer.rule.bias_shape)
        for layer in cl.clora_layers(compressed)
    )
    assert small.count_params() == stored + kept


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("factorization", ["pair", "loralib"])
def test_finalize_for_each_method_and_factorization(method, factorization):
    model, x = nets.convolutional(), nets.data(3, 8, 8, 3)
    compressed = nets.compress(model, method=method, factorization=factorization)
    disturb(compressed)
    nets.set_decay(compressed, 0.0)
    small = cl.finalize(compressed)
    assert_same_outputs(nets.forward(small, x), nets.forward(compressed, x))
    names = [layer.name for layer in small.layers]
    pairs = ["dense_0"] if factorization == "loralib" else ["conv_0", "conv_1", "dense_0"]
    assert [name for name in names if name.endswith("_down")] == [f"{name}_down" for name in pairs]
    assert (small.get_layer("dense_0").bias is not None) == ("bias" in method)
    assert small.get_layer("conv_0").activation is keras.activations.relu


def test_finalize_by_numpy():
    compressed = disturb(nets.compress(nets.sequential(), rank=3, alpha=6.0, targets="dense_0"))
    nets.set_decay(compressed, 0.0)
    layer = compressed.get_layer("dense_0")
    down, up = (ops.convert_to_numpy(weight) for weight in layer.pair_weights)
    small = cl.finalize(compressed)
    first, second = small.get_layer("dense_0_down"), small.get_layer("dense_0")
    np.testing.assert_array_equal(ops.convert_to_numpy(first.kernel), down)
    np.testing.assert_allclose(ops.convert_to_numpy(second.kernel), 2.0 * up, rtol=1e-6)
    np.testing.assert_array_equal(ops.convert_to_numpy(second.bias), ops.convert_to_numpy(layer.bias))
    assert first.bias is None and first.activation is keras.activations.linear


def test_scratch_can_be_finalized_at_once_and_needs_no_schedule():
    x = nets.data(4, 16)
    compressed = cl.compress(nets.sequential(), rank=2, init="scratch")
    assert_same_outputs(nets.forward(cl.finalize(compressed), x), nets.forward(compressed, x))


def test_masks_are_respected():
    model = make(masked)
    compressed = disturb(nets.compress(model))
    nets.set_decay(compressed, 0.0)
    small = cl.finalize(compressed)
    x = np.array([[1, 2, 0, 0]])
    for net in (model, compressed, small):
        embedded = net.get_layer("embedding")(ops.convert_to_tensor(x))
        hidden = net.get_layer("a_down")(embedded) if net is small else embedded
        hidden = net.get_layer("a")(hidden)
        alone = ops.convert_to_numpy(hidden)[:, :2].mean(axis=1, keepdims=False)
        head = net.get_layer("out")
        expected = ops.convert_to_numpy(head(alone))
        np.testing.assert_allclose(nets.forward(net, x), expected, rtol=1e-4, atol=1e-5)


def test_adapted_normalization_keeps_what_it_learned():
    norm = layers.Normalization(name="norm")
    norm.adapt(3 * nets.data(50, 8) + 2)
    model = keras.Sequential([keras.Input((8,)), norm, dense(6, "a"), dense(3, "out", None)])
    x = nets.data(4, 8)
    compressed = nets.compress(model)
    assert_same_outputs(nets.forward(compressed, x), nets.forward(model, x))
    small = cl.finalize(compressed, force=True)
    scaled = ops.convert_to_numpy(small.get_layer("norm")(x))
    np.testing.assert_allclose(scaled, ops.convert_to_numpy(norm(x)), rtol=1e-5)


def test_a_compiled_model_gives_an_uncompiled_one():
    model = make(functional)
    model.compile("adam", "mse")
    compressed = nets.compress(model)
    assert model.compiled and not compressed.compiled
    assert getattr(compressed, "optimizer", None) is None
    compressed.compile("adam", "mse")
    assert not cl.finalize(compressed, force=True).compiled and compressed.compiled


def test_mixed_precision_is_kept():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = make(functional)
    finally:
        keras.config.set_dtype_policy("float32")
    x = nets.data(4, 8)
    compressed = nets.compress(model)
    small = cl.finalize(compressed, force=True)
    for net in (compressed, small):
        assert net.get_layer("a").compute_dtype == "bfloat16"
        assert {weight.dtype for weight in net.weights} == {"float32"}
    outputs = [ops.convert_to_numpy(ops.cast(net(x), "float32")) for net in (model, compressed)]
    np.testing.assert_allclose(*outputs, atol=0.05)


def test_same_seed_same_model_and_each_layer_its_own():
    model = make(functional)
    one, same, other = (nets.compress(model, rank=2, seed=seed) for seed in (1, 1, 2))
    down = [ops.convert_to_numpy(net.get_layer("a").pair_weights[0]) for net in (one, same, other)]
    np.testing.assert_array_equal(down[0], down[1])
    assert (down[0] != down[2]).all()
    seeds = [layer.seed for layer in cl.clora_layers(one)]
    assert len(set(seeds)) == 2


# Targets and ranks


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        ("a", ["inner/a"]),
        (["first"], ["first"]),
        ("inner/b", ["inner/b"]),
        ("inner/*", ["inner/a", "inner/b"]),
        (["b", "first", "b"], ["first", "inner/b"]),
        ("?", ["inner/a", "inner/b"]),
        ("out", ["out"]),
        (lambda layer: layer.name in ("a", "out"), ["inner/a", "out"]),
        (lambda layer: getattr(layer, "units", 0) == 8, ["first", "inner/b"]),
        (None, ["first", "inner/a", "inner/b"]),
    ],
)
def test_targets(targets, expected):
    compressed = nets.compress(make(functional_in_functional), targets=targets)
    inner = compressed.get_layer("inner")
    found = [layer.name for layer in compressed.layers if isinstance(layer, cl.CLoRA)]
    found += [f"inner/{layer.name}" for layer in inner.layers if isinstance(layer, cl.CLoRA)]
    assert sorted(found) == sorted(expected)


def test_rank_by_pattern_the_first_that_matches():
    rank = {"inner/a": 1, "first": np.int64(4), "*": 3}
    compressed = nets.compress(make(functional_in_functional), rank=rank)
    assert {layer.name: layer.rank for layer in cl.clora_layers(compressed)} == {
        "first": 4,
        "a": 1,
        "b": 3,
    }


# Training


@pytest.mark.parametrize("build", [functional, nets.sequential], ids=["Functional", "Sequential"])
@pytest.mark.parametrize("method", METHODS)
def test_only_factors_and_new_bias_train(build, method):
    model = make(build)
    (shape,) = MODELS[build][0]
    compressed = disturb(nets.compress(model, method=method, init="svd"))
    pairs = [weight for layer in cl.clora_layers(compressed) for weight in layer.pair_weights]
    if "bias" in method:
        pairs += [layer.bias for layer in cl.clora_layers(compressed)]
    assert {id(weight) for weight in compressed.trainable_weights} == {id(w) for w in pairs}
    original, before = nets.weights(model), nets.weights(compressed)
    free = [id(weight) in {id(w) for w in pairs} for weight in compressed.weights]
    nets.train(compressed, nets.data(4, *shape), nets.data(4, 3), optimizer=keras.optimizers.SGD(0.1))
    after = nets.weights(compressed)
    for is_free, name in zip(free, before, strict=True):
        if name.endswith("/decay"):
            assert after[name] < 1.0
        else:
            assert np.any(after[name] != before[name]) == is_free, name
    nets.assert_same_weights(nets.weights(model), original)


def test_everything_else_is_frozen_or_not():
    def trains(model):
        return {layer.name for layer in model.layers if layer.trainable_weights}

    model = make(normalised)
    assert trains(nets.compress(model, targets="a")) == {"a"}
    free = nets.compress(model, targets="a", freeze=False)
    assert trains(free) == {"a", "norm", "b", "out"}
    frozen = [weight.name for weight in free.get_layer("a").non_trainable_weights]
    assert {"kernel", "bias", "decay"} <= set(frozen)  # W and b stay frozen


def test_original_keeps_its_weights_while_both_are_trained():
    model, x, y = make(functional), nets.data(8, 8), nets.data(8, 3)
    compressed = nets.compress(model, alpha=1.0)
    before = nets.weights(model)
    nets.train(compressed, x, y, epochs=2)
    nets.assert_same_weights(nets.weights(model), before)
    small = cl.finalize(compressed, force=True)
    kept = nets.weights(compressed)
    nets.train(small, x, y, callbacks=[])
    nets.assert_same_weights(nets.weights(compressed), kept)
    trained = nets.weights(compressed)
    nets.train(model, x, y, callbacks=[])
    nets.assert_same_weights(nets.weights(compressed), trained)
    assert np.isfinite(nets.forward(compressed, x)).all()


# Saving


def fitted(model, x, y, epochs):
    history = nets.train(model, x, y, epochs=epochs, optimizer=keras.optimizers.Adam(0.01))
    return history["decay"]


@pytest.mark.parametrize(
    ("build", "method"),
    [(functional_in_functional, "noise_bias"), (nets.convolutional, "bias"), (einsums, "noise")],
)
def test_saved_in_mid_training_it_goes_on_as_if_nothing_had_been(build, method, tmp_path):
    (shape,) = MODELS[build][0]
    model = nets.compress(make(build), method=method, schedule=nets.schedule(total_steps=8))
    x, y = nets.data(8, *shape), nets.data(8, model.outputs[0].shape[-1])
    assert fitted(model, x, y, 2) == pytest.approx([1 - 2 / 6.4, 1 - 4 / 6.4])
    model.save(tmp_path / "half.keras")
    again = keras.models.load_model(tmp_path / "half.keras")
    nets.assert_same_weights(
        {k: v for k, v in zip(nets.weights(model), nets.weights(again).values(), strict=True)},
        nets.weights(model),
    )
    assert int(again.optimizer.iterations) == 4
    assert [layer.schedule for layer in cl.clora_layers(again)] == [
        layer.schedule for layer in cl.clora_layers(model)
    ]
    assert fitted(again, x, y, 2) == fitted(model, x, y, 2) == pytest.approx([1 - 6 / 6.4, 0.0])
    for one, other in zip(model.weights, again.weights, strict=True):
        np.testing.assert_allclose(
            ops.convert_to_numpy(one), ops.convert_to_numpy(other), rtol=1e-4, atol=1e-5
        )
    assert_same_outputs(nets.forward(cl.finalize(again), x), nets.forward(cl.finalize(model), x))


LOADER = """
import json, sys
import numpy as np, keras
model = keras.models.load_model(sys.argv[1])
outputs = model(np.load(sys.argv[2]))
np.save(sys.argv[3], keras.ops.convert_to_numpy(outputs))
print(json.dumps([name for name in sys.modules if name.startswith("clora")]))
"""


@pytest.mark.parametrize("factorization", ["pair", "loralib"])
def test_finalized_model_loads_where_this_package_was_never_imported(factorization, tmp_path):
    inputs = keras.Input((8, 8, 3))
    part = nets.convolutional()
    compressed = disturb(
        nets.compress(keras.Model(inputs, ops.tanh(part(inputs))), factorization=factorization)
    )
    nets.set_decay(compressed, 0.0)
    small, x = cl.finalize(compressed), nets.data(3, 8, 8, 3)
    paths = [str(tmp_path / name) for name in ("small.keras", "x.npy", "y.npy")]
    small.save(paths[0])
    np.save(paths[1], x)
    run = subprocess.run([sys.executable, "-c", LOADER, *paths], capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout.splitlines()[-1]) == []
    assert_same_outputs(np.load(paths[2]), nets.forward(compressed, x))


# view


@pytest.mark.parametrize("method", METHODS)
def test_views_show_one_path_and_put_everything_back(method):
    model = make(functional)
    compressed = disturb(nets.compress(model, method=method, targets="a", alpha=4.0))
    nets.set_decay(compressed, 0.6)
    x, before = nets.data(4, 8), nets.weights(compressed)
    hidden = keras.Model(compressed.inputs, compressed.get_layer("a").output)
    layer, original = compressed.get_layer("a"), model.get_layer("a")
    down, up = layer.pair_matrices()
    fading = 0.6 * (x @ ops.convert_to_numpy(original.kernel) + ops.convert_to_numpy(original.bias))
    low = x @ down @ up + (ops.convert_to_numpy(layer.bias) if layer.has_bias else 0)
    expected = {"trained": fading + low, "compressed": low, "original": fading}
    for path, value in expected.items():
        with cl.view(compressed, path) as shown:
            assert shown is compressed
            seen = nets.forward(hidden, x)
        np.testing.assert_allclose(seen, np.maximum(value, 0), rtol=1e-4, atol=1e-5)
        nets.assert_same_weights(nets.weights(compressed), before)


@pytest.mark.parametrize("path", ["compressed", "original", "trained"])
def test_view_puts_everything_back_after_an_exception(path):
    compressed = disturb(nets.compress(make(functional)))
    before = nets.weights(compressed)
    with pytest.raises(KeyboardInterrupt), cl.view(compressed, path):
        raise KeyboardInterrupt
    nets.assert_same_weights(nets.weights(compressed), before)


def test_compressed_view_is_what_finalize_gives():
    compressed = disturb(nets.compress(make(functional_in_functional)))
    x = nets.data(4, 8)
    with cl.view(compressed, "compressed"):
        seen = nets.forward(compressed, x)
    assert_same_outputs(nets.forward(cl.finalize(compressed, force=True), x), seen)


def test_view_of_a_frozen_model():
    compressed = disturb(nets.compress(make(functional)))
    x = nets.data(4, 8)
    with cl.view(compressed, "original"):
        seen = nets.forward(compressed, x)
    compressed.trainable = False
    with cl.view(compressed, "original"):
        np.testing.assert_array_equal(nets.forward(compressed, x), seen)


def test_view_inside_of_training_and_evaluation():
    compressed = nets.compress(make(functional), method="bias", alpha=1.0)
    x, y = nets.data(8, 8), nets.data(8, 3)
    seen = {}

    class Look(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            for path in ("trained", "compressed"):
                with cl.view(self.model, path):
                    seen[path] = self.model.evaluate(x, y, verbose=0, batch_size=8)

    plain = nets.compress(make(functional), method="bias", alpha=1.0)
    nets.train(compressed, x, y, epochs=2, callbacks=[cl.DecayCallback(), Look()])
    nets.train(plain, x, y, epochs=2)
    nets.assert_same_weights(  # looking changes nothing
        dict(enumerate(nets.weights(compressed).values())),
        dict(enumerate(nets.weights(plain).values())),
    )
    for path, value in seen.items():
        with cl.view(compressed, path):
            expected = ((nets.forward(compressed, x) - y) ** 2).mean()
        assert value == pytest.approx(expected, rel=1e-4)
    assert abs(seen["trained"] - seen["compressed"]) > 1e-3


def test_unknown_view_suggests_the_nearest():
    with pytest.raises(ValueError, match="`path` must be one of") as error:
        with cl.view(nets.compress(make(functional)), "compress"):
            pass
    assert "Received: 'compress'. Did you mean 'compressed'?" in str(error.value)


# Refusals


def refuse(message, *parts, model=None, rank=2, **arguments):
    model = make(functional) if model is None else model
    arguments.setdefault("schedule", nets.schedule())
    before = nets.weights(model) if isinstance(model, keras.Model) and model.built else None
    with pytest.raises(ValueError, match=message) as error:
        cl.compress(model, rank, **arguments)
    for part in parts:
        assert part in str(error.value)
    if before is not None:
        nets.assert_same_weights(nets.weights(model), before)


@pytest.mark.parametrize("rank", [0, -2, 2.0, True, "2", None])
def test_impossible_rank(rank):
    refuse("`rank` must be an integer of at least 1", f"Received: {rank!r}", rank=rank)
    refuse("`rank` must be an integer of at least 1", f"Received: {rank!r}", rank={"*": rank})


def test_rank_larger_than_the_kernel():
    refuse("`rank` of layer 'a' must be at most 6", "(8, 6)", "Received: 7", "smaller rank", rank=7)


def test_rank_mapping_without_a_pattern_for_a_target():
    refuse("`rank` has no pattern for target 'b'", "{'a': 2}", "'*'", rank={"a": 2})


@pytest.mark.parametrize(
    ("argument", "value", "near"),
    [
        ("method", "noise-bias", "noise_bias"),
        ("init", "svdd", "svd"),
        ("factorization", "lora_lib", "loralib"),
        ("noise_gate", "schedule", "scheduled"),
        ("noise_draw", "kernels", "kernel"),
    ],
)
@pytest.mark.parametrize("build", [functional, nets.convolutional], ids=["dense", "conv"])
def test_unknown_name_suggests_the_nearest(argument, value, near, build):
    targets = "conv_*" if build is nets.convolutional else None
    refuse(
        f"`{argument}` must be one of",
        f"Received: {value!r}. Did you mean {near!r}?",
        model=make(build),
        targets=targets,
        **{argument: value},
    )


def test_unknown_factorization_of_a_net_of_convolutions_only():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, name="conv")(inputs)
    x = layers.Conv2D(4, 3, name="head")(x)
    model = keras.Model(inputs, x)
    refuse("`factorization` must be one of", "Did you mean 'pair'", model=model, factorization="par")


@pytest.mark.parametrize("schedule", [None, "linear", lambda step: 1.0])
def test_missing_schedule(schedule):
    refuse("`schedule` must be a clora_lab schedule", "LinearDecay(", repr(schedule), schedule=schedule)


@pytest.mark.parametrize("targets", ["aa", ["a", "aa"], ("inner/*",)])
def test_target_that_matches_nothing(targets):
    wrong = targets if isinstance(targets, str) else targets[-1]
    refuse(f"Target '{wrong[:2]}", "matches no layer", "['a', 'b', 'add', 'out']", targets=targets)


def test_unknown_target_suggests_the_nearest():
    model = nets.sequential()
    refuse("Target 'dense1' matches no layer", "Did you mean 'dense_1'", model=model, targets="dense1")


def test_predicate_that_holds_for_no_layer():
    refuse("The predicate `targets` holds for none of the layers", "'out'", targets=lambda layer: False)


def test_empty_targets():
    refuse("`targets` is empty", "None for all layers", targets=[])


def test_nothing_but_an_output_layer():
    model = keras.Sequential([keras.Input((4,)), layers.Flatten(), dense(3, "out", None)])
    refuse("no layer to compress beside its output layer", "'out'", model=model)


def test_target_without_supported_factors():
    refuse("Layer 'norm' of type BatchNorm", "Supported: Dense", model=make(normalised), targets="norm")


class Block(layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.project = layers.Dense(8, name="project")

    def build(self, input_shape):
        self.project.build(input_shape)

    def call(self, x):
        return x + self.project(x)


def test_target_inside_of_a_layer_with_code_of_its_own():
    inputs = keras.Input((8,))
    model = keras.Model(inputs, dense(3, "out", None)(dense(8, "a")(Block(name="block")(inputs))))
    refuse("Target 'project' lies inside of layer 'block' \\(Block\\)", model=model, targets="project")
    x = nets.data(4, 8)
    compressed = nets.compress(model, targets="a")  # beside it is no obstacle
    assert_same_outputs(nets.forward(compressed, x), nets.forward(model, x))


@pytest.mark.parametrize("model", [keras.Sequential(), keras.Sequential([layers.Dense(3)])])
def test_unbuilt_model(model):
    refuse("is not built", "model.build(input_shape)", model=model)


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(3)

    def call(self, x):
        return self.dense(x)


def test_subclassed_model():
    model = Subclassed()
    model(nets.data(2, 4))
    refuse("subclassed model \\(Subclassed\\)", "Functional", model=model)


class FunctionalWithCode(keras.Model):
    """Built as a Functional model, but its call() is not what its graph says."""

    def __init__(self, **kwargs):
        inputs = keras.Input((8,))
        super().__init__(inputs, dense(3, "out", None)(dense(6, "a")(inputs)), **kwargs)

    def call(self, x, training=None, mask=None):
        return 2 * super().call(x, training=training, mask=mask)


def test_functional_model_with_a_call_of_its_own():
    refuse("subclassed model \\(FunctionalWithCode\\)", model=FunctionalWithCode())


@pytest.mark.parametrize("model", ["model.keras", None, layers.Dense(3)])
def test_not_a_model(model):
    refuse("`model` must be a keras.Model", f"Received: {type(model).__name__}", model=model or 3.0) if (
        model is not None
    ) else refuse("`model` must be a keras.Model", "Received: float", model=3.0)


@pytest.mark.parametrize("build", [functional, functional_in_functional, nets.sequential])
def test_compressing_twice(build):
    compressed = nets.compress(make(build))
    refuse("is compressed already", "compress the original model again", model=compressed)


def test_finalize_before_the_decay_is_over():
    compressed = nets.compress(make(functional))
    compressed.get_layer("b").decay.assign(0.25)
    compressed.get_layer("a").decay.assign(0.0)
    with pytest.raises(ValueError, match="The decay is not over") as error:
        cl.finalize(compressed)
    assert "{'b': 0.25}" in str(error.value) and "force=True" in str(error.value)
    assert cl.finalize(compressed, force=True).count_params() > 0


def test_finalize_a_plain_model():
    model = make(functional)
    with pytest.raises(ValueError, match="Model 'functional' has no CLoRA layers.*compress"):
        cl.finalize(model)
    small = cl.finalize(nets.compress(model), force=True)
    with pytest.raises(ValueError, match="nothing to finalize"):
        cl.finalize(small)


def test_the_output_layer_is_found_behind_a_normalisation():
    model = keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(5, name="hidden"),
            keras.layers.Dense(3, name="head"),
            keras.layers.BatchNormalization(),
            keras.layers.Softmax(),
        ]
    )
    compressed = cl.compress(model, rank=1, schedule=cl.LinearDecay(10))
    assert [layer.name for layer in cl.clora_layers(compressed)] == ["hidden"]


# A start that looks at activations


def convolutions_and_dense():
    inputs = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(6, 3, activation="relu", name="conv")(inputs)
    x = dense(5, "a")(layers.Flatten(name="flatten")(x))
    return nets.randomise(keras.Model(inputs, dense(3, "out", None)(x)))


@pytest.mark.parametrize("size", [1, 33])  # fewer inputs than directions; more than one batch
def test_activation_aware_start_leaves_the_net_as_it_was(size):
    model, x = convolutions_and_dense(), nets.data(size, 8, 8, 3)
    wrapped = cl.compress(model, 2, schedule=nets.schedule(), init="activations", calibration=x)
    test = nets.data(4, 8, 8, 3, seed=1)
    np.testing.assert_allclose(nets.forward(wrapped, test), nets.forward(model, test), rtol=1e-3, atol=1e-3)
    assert not any("call" in vars(layer) for layer in model.layers)


def test_activation_aware_start_is_nearer_than_the_svd_on_its_inputs():
    model = nets.sequential((12, 10, 3))
    x = nets.data(200, 16) * np.linspace(0.01, 2.0, 16, dtype="float32")
    errors = {}
    for init, calibration in {"svd": None, "activations": x}.items():
        wrapped = cl.compress(model, 3, schedule=nets.schedule(), init=init, calibration=calibration)
        down, up = cl.clora_layers(wrapped)[0].pair_matrices()
        errors[init] = np.linalg.norm(x @ (ops.convert_to_numpy(model.layers[0].kernel) - down @ up))
    assert errors["activations"] < 0.95 * errors["svd"]


def test_calibration_as_a_dict_of_inputs():
    inputs = {name: keras.Input((4,), name=name) for name in ("left", "right")}
    x = layers.Concatenate(name="both")(list(inputs.values()))
    model = nets.randomise(keras.Model(inputs, dense(3, "out", None)(dense(5, "a")(x))))
    x = {"left": nets.data(9, 4), "right": nets.data(9, 4, seed=1)}
    wrapped = cl.compress(model, 2, schedule=nets.schedule(), init="activations", calibration=x)
    value, expected = (ops.convert_to_numpy(net(x)) for net in (wrapped, model))
    np.testing.assert_allclose(value, expected, atol=1e-4)


@pytest.mark.parametrize(
    "arguments",
    [{"init": "activations"}, {"init": "svd", "calibration": nets.data(3, 16)}],
    ids=["no inputs", "inputs for nothing"],
)
def test_calibration_and_its_start_belong_together(arguments):
    with pytest.raises(ValueError, match="`calibration`"):
        cl.compress(nets.sequential(), 2, schedule=nets.schedule(), **arguments)


def test_an_empty_calibration_is_refused():
    with pytest.raises(ValueError, match="`calibration` is empty"):
        cl.compress(
            nets.sequential(), 2, schedule=nets.schedule(), init="activations", calibration=nets.data(0, 16)
        )
