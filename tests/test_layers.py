"""The wrapper layer: each method's forward pass against NumPy, with and without training."""

import keras
import nets
import numpy as np
import pytest
from keras import layers, ops

import clora_lab as cl
from clora_lab import methods
from clora_lab.layers import CLoRA
from clora_lab.noise import NoiseLaw

RANK, ALPHA = 2, 6.0
METHODS = methods.names("slides")
SCALE = ALPHA / RANK


def numpy_of(value):
    return ops.convert_to_numpy(value).astype("float64")


def wrap(layer, *shape, seed=0, **arguments):
    """A built CLoRA layer around W and b that are random, as are the pair and the new bias."""
    layer.build((None, *shape))
    nets.randomise(layer, seed)
    arguments = {"method": "wds", "rank": RANK, "alpha": ALPHA, **arguments}
    wrapped = CLoRA(type(layer).from_config(layer.get_config()), **arguments)
    wrapped.build((None, *shape))
    bias = None if layer.bias is None else numpy_of(layer.bias)
    nets.start(wrapped, numpy_of(layer.kernel), bias)
    rng = np.random.default_rng(seed + 1)
    for weight in [*wrapped.pair_weights, *([wrapped.bias] if wrapped.has_bias else [])]:
        weight.assign(rng.normal(size=weight.shape) / 3)
    return layer, wrapped


def dense(units=7, inputs=5, **arguments):
    return wrap(layers.Dense(units, activation="relu", name="dense"), inputs, **arguments)


def oracle(layer, wrapped, x, decay, noise=0.0):
    """f(d (W x + b) + s B A x (+ n x) (+ c)), slides 8 and 13, for Dense."""
    down, up = (numpy_of(weight) for weight in wrapped.pair_weights)
    y = decay * (x @ numpy_of(layer.kernel) + numpy_of(layer.bias)) + SCALE * x @ down @ up
    y = y + noise
    if wrapped.has_bias:
        y = y + numpy_of(wrapped.bias)
    return y, np.maximum(y, 0)


def outputs(wrapped, x, decay, training):
    nets.set_decay(wrapped, decay)
    return nets.forward(wrapped, x, training=training)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("decay", [1.0, 0.7, 0.3, 0.1, 0.0])
def test_forward_pass_in_inference(method, decay):
    layer, wrapped = dense(method=method)
    x = nets.data(4, 5)
    value = outputs(wrapped, x, decay, training=False)
    np.testing.assert_allclose(value, oracle(layer, wrapped, x, decay)[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ["wds", "bias"])
@pytest.mark.parametrize("decay", [1.0, 0.7, 0.0])
def test_forward_pass_in_training_without_noise(method, decay):
    layer, wrapped = dense(method=method)
    x = nets.data(4, 5)
    value = outputs(wrapped, x, decay, training=True)
    np.testing.assert_allclose(value, oracle(layer, wrapped, x, decay)[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ["noise", "noise_bias"])
@pytest.mark.parametrize("decay", [1.0, 0.29, 0.0])
def test_no_noise_while_the_gate_is_closed(method, decay):
    layer, wrapped = dense(method=method)
    x = nets.data(4, 5)
    value = outputs(wrapped, x, decay, training=True)
    np.testing.assert_allclose(value, oracle(layer, wrapped, x, decay)[1], rtol=1e-4, atol=1e-5)


UNITS = 3000  # many: each unit draws its noise by itself, so one call is many draws


def assert_standard_normal(noise):
    """For each row of numbers: mean 0 and standard deviation 1."""
    n = noise.shape[-1]
    assert (np.abs(noise.mean(axis=-1)) < 4.5 / np.sqrt(n)).all()
    assert (np.abs(noise.std(axis=-1) - 1) < 4.5 / np.sqrt(2 * n)).all()


@pytest.mark.parametrize("draw", ["auto", "kernel", "output"])
@pytest.mark.parametrize("method", ["noise", "noise_bias"])
@pytest.mark.parametrize("decay", [0.9, 0.31])
def test_mean_and_spread_of_the_noise_in_training(method, draw, decay):
    layer, wrapped = wrap(layers.Dense(UNITS, name="dense"), 5, method=method, noise_draw=draw)
    x = nets.data(4, 5)
    kernel = numpy_of(layer.kernel)
    noise_mean = (1 - decay) * kernel.mean(axis=0)  # per output unit
    spread = np.sqrt(1 - decay**2) * np.linalg.norm(x, axis=1)[:, None] * kernel.std(axis=0)
    mean = oracle(layer, wrapped, x, decay, noise=x.sum(axis=1)[:, None] * noise_mean)[0]
    assert_standard_normal((outputs(wrapped, x, decay, training=True) - mean) / spread)


@pytest.mark.parametrize("factorization", ["pair", "loralib"])
def test_noise_of_a_convolution_is_that_of_the_whole_kernel(factorization):
    layer, wrapped = wrap(
        layers.Conv2D(UNITS, 3, name="conv"), 5, 5, 2, method="noise", factorization=factorization
    )
    x = nets.data(1, 5, 5, 2)
    quiet, loud = (outputs(wrapped, x, 0.5, training)[0] for training in (False, True))
    kernel = numpy_of(layer.kernel)
    patches = np.array([[x[0, i : i + 3, j : j + 3] for j in range(3)] for i in range(3)])
    mean = 0.5 * kernel.mean() * patches.sum(axis=(2, 3, 4))
    spread = np.sqrt(0.75) * kernel.std() * np.sqrt((patches**2).sum(axis=(2, 3, 4)))
    assert_standard_normal((loud - quiet - mean[..., None]) / spread[..., None])


@pytest.mark.parametrize(
    ("equation", "shape"), [("abc,cde->abde", (None, 50, 60)), ("abc,dec->abde", (None, 50, 60))]
)
def test_noise_of_an_einsum_is_per_unit(equation, shape):
    layer, wrapped = wrap(layers.EinsumDense(equation, shape, name="query"), 4, 5, method="noise")
    x = nets.data(1, 4, 5)
    quiet, loud = (outputs(wrapped, x, 0.5, training)[0] for training in (False, True))
    axis = 0 if equation == "abc,cde->abde" else 2
    kernel = numpy_of(layer.kernel)
    mean = 0.5 * kernel.mean(axis=axis) * x[0].sum(axis=-1)[:, None, None]
    spread = np.sqrt(0.75) * kernel.std(axis=axis)
    spread = spread * np.linalg.norm(x[0], axis=-1)[:, None, None]
    assert_standard_normal(((loud - quiet - mean) / spread).reshape(4, -1))


@pytest.mark.parametrize(
    ("layer", "shape", "call"),
    [
        (lambda: layers.Dense(4, name="w"), (3, 5), lambda x, w: x @ w),
        (
            lambda: layers.EinsumDense("abc,cde->abde", (None, 2, 3), bias_axes="de", name="w"),
            (3, 5),
            lambda x, w: np.einsum("abc,cde->abde", x, w),
        ),
        (
            lambda: layers.EinsumDense("abcd,cde->abe", (None, 4), bias_axes="e", name="w"),
            (3, 2, 3),
            lambda x, w: np.einsum("abcd,cde->abe", x, w),
        ),
        (
            lambda: layers.EinsumDense("ab...,bc->ac...", 4, bias_axes="c", name="w"),
            (5, 3),
            lambda x, w: np.einsum("ab...,bc->ac...", x, w),
        ),
    ],
    ids=["Dense on sequences", "query", "attention output", "right ellipsis"],
)
@pytest.mark.parametrize("method", METHODS)
def test_forward_pass_of_other_layers(layer, shape, call, method):
    layer, wrapped = wrap(layer(), *shape, method=method)
    x = nets.data(2, *shape)
    low = wrapped.rule.to_kernel(np.matmul(*wrapped.pair_matrices()))
    y = 0.6 * (call(x, numpy_of(layer.kernel)) + numpy_of(layer.bias)) + call(x, low)
    if wrapped.has_bias:
        y = y + numpy_of(wrapped.bias)
    np.testing.assert_allclose(outputs(wrapped, x, 0.6, False), y, rtol=1e-3, atol=1e-4)
    loud = outputs(wrapped, x, 0.6, True)
    if wrapped.has_noise:
        assert np.isfinite(loud).all() and np.abs(loud - y).max() > 0.01
    else:
        np.testing.assert_allclose(loud, y, rtol=1e-3, atol=1e-4)
    assert wrapped.compute_output_shape((2, *shape)) == layer.compute_output_shape((2, *shape))


CONV = [
    {},
    {"strides": 2, "padding": "same"},
    {"dilation_rate": 2},
    {"use_bias": False},
    pytest.param(
        {"data_format": "channels_first"},
        marks=pytest.mark.skipif(
            nets.BACKEND == "tensorflow", reason="TensorFlow has no such convolution on the CPU"
        ),
    ),
]


@pytest.mark.parametrize("settings", CONV)
@pytest.mark.parametrize("factorization", ["pair", "loralib"])
def test_forward_pass_of_convolutions(settings, factorization):
    shape = (2, 8, 8) if "data_format" in settings else (8, 8, 2)
    layer, wrapped = wrap(
        layers.Conv2D(4, 3, name="conv", **settings), *shape, method="bias", factorization=factorization
    )
    x = nets.data(2, *shape)
    original = numpy_of(layer(x))
    layer.kernel.assign(wrapped.rule.to_kernel(np.matmul(*wrapped.pair_matrices())))
    if layer.bias is not None:
        layer.bias.assign(np.zeros(4))
    view = (4, 1, 1) if "data_format" in settings else (4,)
    low = numpy_of(layer(x)) + numpy_of(wrapped.bias).reshape(view)
    for training in (False, True):
        value = outputs(wrapped, x, 0.6, training)
        np.testing.assert_allclose(value, 0.6 * original + low, rtol=1e-3, atol=1e-4)
    assert tuple(wrapped.compute_output_shape(x.shape)) == value.shape


@pytest.mark.parametrize("gate", ["scheduled", "until_end", "never", 0.5])
def test_gate_decides_when_there_is_noise(gate):
    _, wrapped = dense(method="noise", noise_gate=gate)
    x = nets.data(4, 5)
    for decay in (1.0, 0.6, 0.4, 0.2, 0.0):
        quiet = outputs(wrapped, x, decay, training=False)
        loud = outputs(wrapped, x, decay, training=True)
        is_open = wrapped.noise_gate(np.float32(decay)) == 1.0
        assert (np.abs(loud - quiet).max() > 1e-3) == is_open, decay


@pytest.mark.parametrize("draw", ["auto", "kernel", "output"])
def test_noise_is_drawn_anew_at_each_call_and_never_in_inference(draw):
    _, wrapped = dense(method="noise", noise_draw=draw)
    x = nets.data(4, 5)
    one, two = (outputs(wrapped, x, 0.5, training=True) for _ in range(2))
    assert np.abs(one - two).max() > 1e-3
    one, two = (outputs(wrapped, x, 0.5, training=False) for _ in range(2))
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("rows", [2, 40])
def test_automatic_draw_takes_few_rows_and_many(rows):
    # 2 rows of 20 numbers: drawn in output space; 40 rows: as a kernel. The law is the same.
    _, wrapped = wrap(layers.Dense(3, name="dense"), 20, method="noise")
    x = nets.data(rows, 20)
    value = outputs(wrapped, x, 0.5, training=True) - outputs(wrapped, x, 0.5, training=False)
    assert value.shape == (rows, 3) and np.isfinite(value).all() and value.std() > 0.1


def test_same_seed_same_noise():
    x = nets.data(4, 5)
    one, same, other = (
        outputs(dense(method="noise", seed=seed)[1], x, 0.5, training=True) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).max() > 1e-3


# Weights


@pytest.mark.parametrize("method", METHODS)
def test_what_trains_and_what_is_frozen(method):
    layer, wrapped = dense(method=method)
    shapes = [tuple(weight.shape) for weight in wrapped.trainable_weights]
    assert shapes == [(7,)] * ("bias" in method) + [(5, RANK), (RANK, 7)]
    frozen = {weight.name: numpy_of(weight) for weight in wrapped.non_trainable_weights}
    np.testing.assert_array_equal(frozen["kernel"], numpy_of(layer.kernel))
    np.testing.assert_array_equal(frozen["bias"], numpy_of(layer.bias))
    assert frozen["decay"] == 1.0
    noise = {"noise_mean", "noise_std"} if "noise" in method else set()
    assert set(frozen) - {"kernel", "bias", "decay"} == noise
    expected = RANK * (5 + 7) + 7 * ("bias" in method)
    assert wrapped.remaining_parameters == expected
    assert sum(np.prod(shape) for shape in shapes) == expected


def test_new_bias_starts_at_zero_and_noise_knows_w():
    layer = layers.Dense(7, name="dense")
    layer.build((None, 5))
    wrapped = CLoRA(layers.Dense(7, name="dense"), rank=2, method="noise_bias")
    wrapped.build((None, 5))
    kernel = numpy_of(layer.kernel)
    nets.start(wrapped, kernel, np.ones(7))
    assert not numpy_of(wrapped.bias).any()
    np.testing.assert_allclose(numpy_of(wrapped.noise_mean)[0], kernel.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(numpy_of(wrapped.noise_std)[0], kernel.std(axis=0), atol=1e-6)


@pytest.mark.parametrize("init", ["lora", "svd", "orthogonal"])
@pytest.mark.parametrize("method", METHODS)
def test_start_is_the_original_layer(init, method):
    layer = layers.Dense(7, activation="tanh", name="dense")
    layer.build((None, 5))
    nets.randomise(layer)
    wrapped = CLoRA(layers.Dense(7, activation="tanh", name="dense"), rank=2, method=method, init=init)
    wrapped.build((None, 5))
    nets.start(wrapped, numpy_of(layer.kernel), numpy_of(layer.bias))
    x = nets.data(4, 5)
    for training in (False, True):  # d = 1: no noise either
        value = nets.forward(wrapped, x, training=training)
        np.testing.assert_allclose(value, numpy_of(layer(x)), atol=1e-6)


def test_scratch_has_no_w_and_no_noise():
    _, wrapped = dense(method="noise_bias", init="scratch")
    assert wrapped.base is None and not wrapped.has_noise
    assert {weight.name for weight in wrapped.weights} == {"bias", "decay", "kernel"}
    assert float(wrapped.decay) == 0.0
    down, up = (numpy_of(weight) for weight in wrapped.pair_weights)
    x = nets.data(4, 5)
    expected = np.maximum(SCALE * x @ down @ up + numpy_of(wrapped.bias), 0)
    for training in (False, True):
        value = nets.forward(wrapped, x, training=training)
        np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-5)


def test_pair_matrices_carry_the_scale():
    _, wrapped = dense()
    down, up = wrapped.pair_matrices()
    np.testing.assert_allclose(down, numpy_of(wrapped.pair_weights[0]))
    np.testing.assert_allclose(up, SCALE * numpy_of(wrapped.pair_weights[1]), rtol=1e-6)
    assert wrapped.scale == SCALE


def test_pair_weights_of_a_frozen_layer():
    _, wrapped = dense()
    wrapped.trainable = False
    assert [tuple(weight.shape) for weight in wrapped.pair_weights] == [(5, RANK), (RANK, 7)]


# Mixed precision


@pytest.mark.parametrize("method", METHODS)
def test_mixed_precision_computes_low_and_keeps_float32(method):
    layer, wrapped = wrap(layers.Dense(7, dtype="mixed_bfloat16", name="dense"), 5, method=method)
    assert wrapped.compute_dtype == "bfloat16"
    assert {weight.dtype for weight in wrapped.weights} == {"float32"}
    x = nets.data(4, 5)
    nets.set_decay(wrapped, 0.6)
    for training in (False, True):
        assert keras.backend.standardize_dtype(wrapped(x, training=training).dtype) == "bfloat16"
    value = ops.convert_to_numpy(ops.cast(wrapped(x), "float32"))
    np.testing.assert_allclose(value, oracle(layer, wrapped, x, 0.6)[0], rtol=0.05, atol=0.05)


@pytest.mark.parametrize("draw", ["kernel", "output"])
def test_mixed_precision_does_not_round_the_noise_level(draw):
    # 0.9985 is 1 in bfloat16, where there would be no noise at all
    _, wrapped = wrap(
        layers.Dense(400, dtype="mixed_bfloat16", name="dense"), 5, method="noise", noise_draw=draw
    )
    decay = 0.9985
    wrapped.base.kernel.assign(np.zeros((5, 400)))
    wrapped.base.bias.assign(np.zeros(400))
    wrapped.noise_std.assign(np.ones((1, 400)))
    wrapped.noise_mean.assign(np.zeros((1, 400)))
    wrapped.pair_weights[1].assign(np.zeros((RANK, 400)))
    nets.set_decay(wrapped, decay)
    x = np.ones((2, 5), "float32") * [[1.0], [-1.0]]
    value = ops.convert_to_numpy(ops.cast(wrapped(x.astype("float32"), training=True), "float32"))
    assert value.std() == pytest.approx(np.sqrt(5 * (1 - decay**2)), rel=0.15)


def test_mixed_precision_gate_is_exact():
    # 0.2999 is above 0.3 in bfloat16
    _, wrapped = wrap(layers.Dense(7, dtype="mixed_bfloat16", name="dense"), 5, method="noise")
    nets.set_decay(wrapped, 0.2999)
    x = nets.data(4, 5)
    value, quiet = (
        ops.convert_to_numpy(ops.cast(wrapped(x, training=training), "float32")) for training in (True, False)
    )
    np.testing.assert_array_equal(value, quiet)


# Config


@pytest.mark.parametrize("layer", ["dense", "conv", "einsum"])
def test_config_round_trip(layer):
    original = {
        "dense": layers.Dense(4, activation="gelu", name="w"),
        "conv": layers.Conv2D(4, 3, padding="same", name="w"),
        "einsum": layers.EinsumDense("abc,cde->abde", (None, 2, 3), bias_axes="de", name="w"),
    }[layer]
    wrapped = CLoRA(
        original,
        rank=3,
        method="noise",
        schedule=cl.CosineDecay(100, begin=0.1),
        alpha=7.0,
        init="svd",
        factorization="loralib",
        noise_gate="until_end",
        noise_draw="kernel",
        seed=5,
    )
    config = wrapped.get_config()
    again = CLoRA.from_config(config)
    assert again.get_config() == config
    assert again.name == "w" and again.schedule == wrapped.schedule
    assert again.noise_gate == cl.NoiseGate(0.0) and again.original_config() == original.get_config()
    data = keras.saving.serialize_keras_object(wrapped)
    assert keras.saving.deserialize_keras_object(data).get_config() == config


def test_activation_regulariser_and_mask_of_the_layer_are_kept():
    layer = layers.Dense(4, activation="tanh", activity_regularizer=keras.regularizers.L2(0.1), name="w")
    wrapped = CLoRA(layer, rank=2, method="wds")
    wrapped.build((None, 5))
    assert wrapped.activation is keras.activations.tanh and wrapped.supports_masking
    outputs = numpy_of(wrapped(nets.data(2, 5)))
    (loss,) = (float(numpy_of(loss)) for loss in wrapped.losses)
    assert loss == pytest.approx(0.1 * (outputs**2).sum() / 2, rel=1e-4)  # Keras: over the batch


# Bad input


@pytest.mark.parametrize(
    ("argument", "value", "near"),
    [
        ("method", "noisebias", "noise_bias"),
        ("init", "SVD", "svd"),
        ("factorization", "pairs", "pair"),
        ("noise_gate", "untilend", "until_end"),
        ("noise_draw", "outputs", "output"),
    ],
)
def test_unknown_name_suggests_the_nearest(argument, value, near):
    with pytest.raises(ValueError, match=f"`{argument}` must be one of") as error:
        CLoRA(layers.Dense(4), **{"rank": 2, argument: value})
    assert f"Received: {value!r}. Did you mean {near!r}?" in str(error.value)


@pytest.mark.parametrize("rank", [0, -1, 2.5, True, None])
def test_impossible_rank(rank):
    with pytest.raises(ValueError, match="`rank` must be an integer of at least 1") as error:
        CLoRA(layers.Dense(4), rank=rank)
    assert f"Received: {rank!r}" in str(error.value)


def test_rank_larger_than_the_kernel():
    wrapped = CLoRA(layers.Dense(4, name="w"), rank=5)
    with pytest.raises(ValueError, match="`rank` of layer 'w' must be at most 4"):
        wrapped.build((None, 6))


@pytest.mark.parametrize("alpha", [0, -1.0, "32", None])
def test_impossible_alpha(alpha):
    with pytest.raises(ValueError, match="`alpha` must be a number") as error:
        CLoRA(layers.Dense(4), rank=2, alpha=alpha)
    assert f"Received: {alpha!r}" in str(error.value)


def test_training_call_without_the_callback_warns():
    _, wrapped = dense()
    with pytest.warns(cl.DecayNotMovingWarning, match="Layer 'dense' .*DecayCallback"):
        wrapped(nets.data(4, 5), training=True)


def test_inference_does_not_warn(recwarn):
    _, wrapped = dense()
    wrapped(nets.data(4, 5), training=False)
    assert not [w for w in recwarn if w.category is cl.DecayNotMovingWarning]


# Other noise than the slides'


@pytest.mark.parametrize("draw", ["kernel", "output"])
@pytest.mark.parametrize("law", [{"spread": 2.0}, {"mean": 0.0}, {"per": "matrix"}, {"per": "unit"}], ids=str)
def test_a_noise_law_moves_mean_and_spread(law, draw):
    law = NoiseLaw(**law)
    layer, wrapped = wrap(
        layers.Dense(UNITS, name="dense"), 5, method="noise", noise_draw=draw, noise_law=law
    )
    x, kernel, decay = nets.data(4, 5), numpy_of(layer.kernel), 0.5
    axis = None if law.per == "matrix" else 0
    mean = law.mean * (1 - decay) * kernel.mean(axis=axis) * x.sum(axis=1)[:, None]
    spread = law.spread * np.sqrt(1 - decay**2) * kernel.std(axis=axis) * np.linalg.norm(x, axis=1)[:, None]
    without = oracle(layer, wrapped, x, decay)[0]
    assert_standard_normal((outputs(wrapped, x, decay, training=True) - without - mean) / spread)


def test_noise_of_a_convolution_can_be_per_filter():
    law = NoiseLaw(per="unit")
    layer, wrapped = wrap(layers.Conv2D(4, 3, name="conv"), 5, 5, 2, method="noise", noise_law=law)
    kernel = numpy_of(layer.kernel)
    np.testing.assert_allclose(numpy_of(wrapped.noise_std).ravel(), kernel.std(axis=(0, 1, 2)), rtol=1e-5)


def test_empirical_noise_draws_elements_of_w():
    layer, wrapped = wrap(
        layers.Dense(UNITS, use_bias=False, name="dense"), 1,
        method="noise", rank=1, noise_law=NoiseLaw(kind="empirical", per="matrix"),
    )  # fmt: skip
    x, kernel = np.ones((1, 1), dtype="float32"), numpy_of(layer.kernel)
    loud, quiet = (outputs(wrapped, x, 0.5, training)[0] for training in (True, False))
    drawn = (loud - quiet - 0.5 * kernel.mean()) / np.sqrt(0.75)
    # W is uniform in ±[0.1, 0.5]: a normal draw would fill the gap around 0.
    assert (np.abs(drawn) < 0.05).mean() < 0.02
    assert np.abs(drawn).max() < 0.6


def test_empirical_noise_cannot_be_drawn_as_outputs():
    with pytest.raises(ValueError, match="noise_draw"):
        CLoRA(layers.Dense(3), 2, noise_draw="output", noise_law=NoiseLaw(kind="empirical"))


def test_a_noise_law_survives_saving(tmp_path):
    model = cl.compress(
        nets.sequential(), 2, schedule=nets.schedule(), noise_law=NoiseLaw(0.5, 0.0, "matrix", "empirical")
    )
    model.save(tmp_path / "net.keras")
    loaded = keras.saving.load_model(tmp_path / "net.keras")
    for old, new in zip(cl.clora_layers(model), cl.clora_layers(loaded), strict=True):
        assert new.noise_law == old.noise_law
        np.testing.assert_array_equal(numpy_of(new.noise_quantiles), numpy_of(old.noise_quantiles))
