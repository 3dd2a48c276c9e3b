"""Which pair stands for which layer: shapes, counts, start values and refusals."""

import keras
import nets
import numpy as np
import pytest
from keras import layers, ops

import clora_lab as cl
from clora_lab import factorize, rules

CHANNELS_FIRST = pytest.param(
    {"data_format": "channels_first"},
    marks=pytest.mark.skipif(
        nets.BACKEND == "tensorflow", reason="TensorFlow has no channels_first convolution on the CPU"
    ),
)
EINSUMS = {
    # name: equation, output_shape, bias_axes, input shape, contracted, produced sizes
    "query": ("abc,cde->abde", (None, 3, 4), "de", (2, 5, 6), (6,), (3, 4)),
    "output": ("abcd,cde->abe", (None, 7), "e", (2, 5, 3, 4), (3, 4), (7,)),
    "left": ("...x,xy->...y", 7, "y", (2, 5, 3, 6), (6,), (7,)),
    "right": ("ab...,bc->ac...", 7, "c", (2, 6, 5), (6,), (7,)),
    "right, no bias": ("ab...,bc->ac...", 7, None, (2, 6, 5), (6,), (7,)),
    "left, no bias": ("...x,xy->...y", 7, None, (2, 4, 6), (6,), (7,)),
    "plain": ("ab,bc->ac", 7, None, (2, 6), (6,), (7,)),
    "fixed length": ("abc,cde->abde", (5, 3, 4), "de", (2, 5, 6), (6,), (3, 4)),
    "no bias": ("abc,cde->abde", (None, 3, 4), None, (2, 5, 6), (6,), (3, 4)),
    "transposed": ("abc,dc->abd", (None, 7), "d", (2, 5, 6), (6,), (7,)),
}


def built(layer, *shape):
    layer.build((None, *shape))
    return nets.randomise(layer)


def einsum(name):
    equation, output_shape, bias_axes, input_shape, *_ = EINSUMS[name]
    layer = layers.EinsumDense(equation, output_shape, bias_axes=bias_axes)
    layer.build((None, *input_shape[1:]))
    return nets.randomise(layer)


def conv(factorization="pair", inputs=(9, 9, 5), filters=7, size=3, **arguments):
    if arguments.get("data_format") == "channels_first":
        inputs = (inputs[2], *inputs[:2])
    layer = built(layers.Conv2D(filters, size, **arguments), *inputs)
    return layer, rules.rule(layer, factorization), nets.data(2, *inputs)


def through_pair(rule, rank, x, down, up):
    """x -> x down up, by the layers of the pair."""
    pair = rule.chain(rank)
    value, kernels = x, rule.from_matrices(down, up)
    for layer in pair:
        value = layer(value)
    weights = [weight for layer in pair for weight in layer.weights]
    for weight, kernel in zip(weights, kernels, strict=True):
        assert tuple(weight.shape) == np.shape(kernel)
        weight.assign(kernel)
    for layer in pair:
        x = layer(x)
    assert sum(layer.count_params() for layer in pair) == rule.parameters(rank)
    return ops.convert_to_numpy(x)


def linear(layer, kernel, x):
    """The layer without bias, with another kernel."""
    bias = layer.bias
    layer.kernel.assign(kernel)
    value = ops.convert_to_numpy(layer(x))
    if bias is not None:
        layer.kernel.assign(np.zeros_like(kernel))
        value = value - ops.convert_to_numpy(layer(x))
        layer.kernel.assign(kernel)
    return value


def random_pair(rule, rank, seed=0):
    inputs, outputs = rule.matrix_shape
    inner = rule.inner(rank)
    return nets.data(inputs, inner, seed=seed), nets.data(inner, outputs, seed=seed + 1)


# The pair computes what a kernel of low rank computes


def test_dense_pair():
    layer = built(layers.Dense(7), 6)
    rule = rules.rule(layer)
    down, up = random_pair(rule, 3)
    assert down.shape == (6, 3) and up.shape == (3, 7)
    x = nets.data(2, 6)
    np.testing.assert_allclose(through_pair(rule, 3, x, down, up), x @ down @ up, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", EINSUMS)
def test_einsum_pair(name):
    equation, _, _, shape, contracted, produced = EINSUMS[name]
    layer = einsum(name)
    rule = rules.rule(layer)
    assert rule.matrix_shape == (np.prod(contracted), np.prod(produced))
    down, up = random_pair(rule, 2)
    down_kernel, up_kernel = rule.from_matrices(down, up)
    assert down_kernel.shape == (*contracted, 2) and up_kernel.shape == (2, *produced)
    x = nets.data(*shape)
    kernel = rule.to_kernel(down @ up)
    expected = np.einsum(equation, x, kernel)
    np.testing.assert_allclose(through_pair(rule, 2, x, down, up), expected, rtol=1e-4, atol=1e-4)
    value = ops.convert_to_numpy(rule.linear(x, kernel))
    np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", EINSUMS)
def test_einsum_bias_shape(name):
    layer = einsum(name)
    rule = rules.rule(layer)
    if layer.bias is not None:
        assert rule.bias_shape == tuple(layer.bias.shape)
    else:  # one for each produced unit
        assert np.prod(rule.bias_shape) == rule.matrix_shape[1]
        np.zeros(ops.shape(layer(nets.data(*EINSUMS[name][3])))) + np.zeros(rule.bias_view)


CONV_SETTINGS = [
    {},
    {"strides": 2, "padding": "same"},
    {"strides": (2, 1)},
    {"padding": "same", "dilation_rate": 2},
    {"size": 1},
    {"use_bias": False},
    CHANNELS_FIRST,
]


@pytest.mark.parametrize("settings", [*CONV_SETTINGS, {"size": (3, 2)}])
def test_conv_pair(settings):
    layer, rule, x = conv("pair", **settings)
    k1, k2, channels, filters = layer.kernel.shape
    down, up = random_pair(rule, 4)
    kernels = rule.from_matrices(down, up)
    assert [kernel.shape for kernel in kernels] == [(k1, k2, channels, 4), (1, 1, 4, filters)]
    kernel = np.einsum("abcr,rf->abcf", kernels[0], up)
    np.testing.assert_allclose(rule.to_kernel(down @ up), kernel, rtol=1e-4, atol=1e-5)
    expected = linear(layer, kernel, x)
    np.testing.assert_allclose(through_pair(rule, 4, x, down, up), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("settings", CONV_SETTINGS)
def test_conv_loralib(settings):
    layer, rule, x = conv("loralib", **settings)
    k, _, channels, filters = layer.kernel.shape
    down, up = random_pair(rule, 4)
    assert down.shape == (channels * k, 4 * k) and up.shape == (4 * k, filters * k)
    # loralib: (B A).view(weight.shape), its weight being (Cout, Cin, k, k)
    kernel = (up.T @ down.T).reshape(filters, channels, k, k).transpose(2, 3, 1, 0)
    np.testing.assert_allclose(rule.to_kernel(down @ up), kernel, rtol=1e-4, atol=1e-5)
    expected = linear(layer, kernel, x)
    np.testing.assert_allclose(through_pair(rule, 4, x, down, up), expected, rtol=1e-3, atol=1e-3)


def all_rules():
    yield "dense", rules.rule(built(layers.Dense(7), 6))
    for name in EINSUMS:
        yield name, rules.rule(einsum(name))
    for factorization in rules.FACTORIZATIONS:
        yield factorization, conv(factorization)[1]


@pytest.mark.parametrize("rule", [pytest.param(rule, id=name) for name, rule in all_rules()])
def test_matrix_and_kernel_are_inverse(rule):
    kernel = nets.data(*rule.kernel_shape)
    matrix = rule.to_matrix(kernel)
    assert matrix.shape == rule.matrix_shape and matrix.size == rule.kernel_size
    np.testing.assert_array_equal(rule.to_kernel(matrix), kernel)
    down, up = random_pair(rule, 2)
    for given, back in zip((down, up), rule.to_matrices(rule.from_matrices(down, up)), strict=True):
        np.testing.assert_array_equal(back, given)


@pytest.mark.parametrize(
    ("layer", "shape", "axes"),
    [
        (lambda: layers.Dense(7), (6,), (0,)),
        (lambda: layers.Conv2D(7, 3), (9, 9, 5), (0, 1, 2, 3)),
        (lambda: layers.EinsumDense("abc,cde->abde", (None, 3, 4)), (5, 6), (0,)),
        (lambda: layers.EinsumDense("abcd,cde->abe", (None, 7)), (5, 3, 4), (0, 1)),
    ],
)
def test_axes_of_the_noise_moments(layer, shape, axes):
    # per output unit for Dense and EinsumDense, of the whole kernel for Conv2D
    assert rules.rule(built(layer(), *shape)).stat_axes == axes


# Counts


@pytest.mark.parametrize(("rank", "parameters"), [(16, 23_168), (32, 45_952), (64, 91_520)])
def test_toy_parameters_of_the_slides(rank, parameters):
    found = [rules.rule(built(layers.Dense(n), m)) for m, n in ((784, 256), (256, 128))]
    biases = 256 + 128
    assert sum(rule.parameters(rank) for rule in found) + biases == parameters
    assert parameters == rank * (784 + 256) + rank * (256 + 128) + biases
    assert nets.toy().count_params() == 235_146


@pytest.mark.parametrize("rank", [1, 4])
def test_parameters_by_formula(rank):
    assert rules.rule(built(layers.Dense(7), 6)).parameters(rank) == rank * (6 + 7)
    assert rules.rule(einsum("output")).parameters(rank) == rank * (3 * 4 + 7)
    assert conv("pair")[1].parameters(rank) == rank * (3 * 3 * 5 + 7)
    assert conv("loralib")[1].parameters(rank) == 3 * 3 * rank * (5 + 7)


@pytest.mark.parametrize("rule", [pytest.param(rule, id=name) for name, rule in all_rules()])
def test_break_even_rank(rule):
    rank = rule.break_even_rank
    assert rule.parameters(rank) >= rule.kernel_size > rule.parameters(rank - 1)


def test_break_even_rank_formula():
    # in out / (in + out), rounded up: 784 * 256 / 1040 = 192.98...
    assert rules.rule(built(layers.Dense(256), 784)).break_even_rank == 193
    assert rules.rule(built(layers.Dense(10), 10)).break_even_rank == 5  # exactly 5


def test_break_even_warning_has_the_numbers():
    model = nets.sequential()  # dense_0: 16 x 12 = 192; rank 7: 7 * 28 = 196; 192 / 28 = 6.86
    with pytest.warns(cl.BreakEvenWarning) as caught:
        cl.compress(model, 7, schedule=nets.schedule(), targets="dense_0")
    (message,) = [str(w.message) for w in caught if w.category is cl.BreakEvenWarning]
    for part in ("rank 7", "'dense_0'", "196 parameters", "192", "from rank 7 on"):
        assert part in message


def test_no_warning_below_break_even(recwarn):
    cl.compress(nets.sequential(), 6, schedule=nets.schedule(), targets="dense_0")
    assert not [w for w in recwarn if w.category is cl.BreakEvenWarning]


def test_flops_by_formula():
    layer, rule, x = conv("pair", strides=2, padding="same")
    # 9 x 9 at stride 2 gives 5 x 5 positions
    assert rule.flops(rule.kernel_shape, (None, 5, 5, 7)) == 2 * (3 * 3 * 5 * 7) * 25
    assert rules.rule(built(layers.Dense(7), 6)).flops((6, 7), (None, 7)) == 2 * 6 * 7
    assert rules.rule(built(layers.Dense(7), 4, 6)).flops((6, 7), (None, 4, 7)) == 2 * 6 * 7 * 4
    assert rules.rule(einsum("query")).flops((6, 3, 4), (None, 5, 3, 4)) == 2 * 6 * 12 * 5
    assert rules.rule(einsum("query")).flops((6, 3, 4), (None, None, 3, 4)) == 2 * 6 * 12


# Start values


@pytest.mark.parametrize("rank", [1, 3, 6])
def test_truncated_svd_is_the_best_of_its_rank(rank):
    matrix = nets.data(9, 6)
    down, up = factorize.truncated_svd(matrix, rank)
    assert down.shape == (9, rank) and up.shape == (rank, 6)
    singular = np.linalg.svd(matrix, compute_uv=False)
    error = np.linalg.norm(matrix - down @ up)
    # Eckart & Young: the error of the best one is what the other singular values hold
    assert error == pytest.approx(np.sqrt((singular[rank:] ** 2).sum()), abs=1e-5)
    rng = np.random.default_rng(1)
    for _ in range(20):  # and no neighbour is better
        near = (down + 0.01 * rng.normal(size=down.shape)) @ (up + 0.01 * rng.normal(size=up.shape))
        assert np.linalg.norm(matrix - near) > error
    np.testing.assert_allclose(down.T @ down, up @ up.T, atol=1e-6)  # shared evenly


def test_truncated_svd_beyond_full_rank_is_padded():
    matrix = nets.data(4, 3)
    down, up = factorize.truncated_svd(matrix, 5)
    assert down.shape == (4, 5) and up.shape == (5, 3)
    np.testing.assert_allclose(down @ up, matrix, atol=1e-6)


def start(init, rule, rank=3, alpha=32.0, seed=0):
    kernel = nets.data(*rule.kernel_shape)
    scale = alpha / rank
    rng = np.random.default_rng(seed)
    return kernel, scale, nets.start_matrices(init, rule, kernel, rank, scale, rng)


@pytest.mark.parametrize("init", ["lora", "svd", "orthogonal"])
@pytest.mark.parametrize("rule", [pytest.param(rule, id=name) for name, rule in all_rules()])
def test_start_reproduces_the_kernel(init, rule):
    kernel, scale, (down, up, rest) = start(init, rule)
    np.testing.assert_allclose(rest + scale * rule.to_kernel(down @ up), kernel, atol=1e-5)
    if init == "svd":
        singular = np.linalg.svd(rule.to_matrix(kernel), compute_uv=False)
        best = np.sqrt((singular[rule.inner(3) :] ** 2).sum())
        assert np.linalg.norm(rest) == pytest.approx(best, abs=1e-4)
    else:
        assert not up.any() and down.any()


@pytest.mark.parametrize(("rule", "scale"), [("dense", 5**0.5), ("conv", 1.0)])
def test_lora_start_by_the_inputs_is_uniform_in_its_range(rule, scale):
    # variance scaling, fan_in, uniform: limit = sqrt(3 scale / fan_in)
    rule = rules.rule(built(layers.Dense(9), 600)) if rule == "dense" else conv()[1]
    _, _, (down, _, _) = start("lora_inputs", rule)
    limit = np.sqrt(3 * scale / rule.matrix_shape[0])
    assert np.abs(down).max() <= limit and np.abs(down).max() > 0.95 * limit
    assert abs(down.mean()) < 0.15 * limit


def test_orthogonal_start_has_orthonormal_columns():
    _, _, (down, _, _) = start("orthogonal", rules.rule(built(layers.Dense(9), 8)))
    np.testing.assert_allclose(down.T @ down, np.eye(3), atol=1e-6)


def test_scratch_has_no_w_and_keeps_the_size_of_its_input():
    rule = rules.rule(built(layers.Dense(500), 400))
    _, scale, (down, up, rest) = start("scratch", rule, rank=64)
    assert not rest.any()
    # He et al. 2015: the product has the variance 2 / inputs
    assert np.var(scale * down @ up) == pytest.approx(2 / 400, rel=0.1)


@pytest.mark.parametrize("init", ["lora", "orthogonal", "scratch"])
def test_start_depends_on_the_seed_only(init):
    rule = rules.rule(built(layers.Dense(7), 6))
    one, same, other = (start(init, rule, seed=seed)[2][0] for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert (one != other).all()


# Refusals


def test_grouped_convolution_is_refused():
    layer = built(layers.Conv2D(6, 3, groups=2, name="grouped"), 9, 9, 4)
    for factorization in rules.FACTORIZATIONS:
        with pytest.raises(ValueError, match="Conv2D 'grouped' has groups=2") as error:
            rules.rule(layer, factorization)
        assert "Leave the layer out of `targets`" in str(error.value)
        assert not rules.supported(layer, factorization)


def test_loralib_needs_a_square_kernel():
    layer = built(layers.Conv2D(6, (3, 1), name="slim"), 9, 9, 4)
    with pytest.raises(ValueError, match="3 x 1 kernel.*Use factorization='pair'"):
        rules.rule(layer, "loralib")
    assert rules.supported(layer, "pair")


@pytest.mark.parametrize("equation", ["abc,acd->abd", "abc,bcd->abd", "ab,b->ab"])
def test_kernel_axes_shared_by_input_and_output_are_refused(equation):
    shape = (2, 3, 4) if equation.startswith("abc") else (2, 3)
    layer = layers.EinsumDense(equation, shape[1:-1] + (5,) if len(shape) == 3 else (3,), name="mix")
    layer.build(shape)
    with pytest.raises(ValueError, match="EinsumDense 'mix' with equation=") as error:
        rules.rule(layer)
    assert equation in str(error.value) and not rules.supported(layer)


@pytest.mark.parametrize(
    "layer",
    [
        layers.DepthwiseConv2D(3, name="other"),
        layers.Conv1D(3, 3, name="other"),
        layers.BatchNormalization(name="other"),
    ],
)
def test_layer_without_supported_factors(layer):
    with pytest.raises(ValueError, match=f"'other' of type {type(layer).__name__} has no") as error:
        rules.rule(layer)
    assert "Supported: Dense, EinsumDense, Conv2D" in str(error.value)


def test_unbuilt_layer():
    with pytest.raises(ValueError, match="Layer 'early' can't be factored: it is not built"):
        rules.rule(layers.Dense(3, name="early"))


def test_layer_with_a_call_of_its_own():
    class Doubled(layers.Dense):
        def call(self, inputs):
            return 2 * super().call(inputs)

    with pytest.raises(ValueError, match="Doubled has a call\\(\\) of its own"):
        rules.rule(built(Doubled(3), 4))


def test_layer_with_built_in_lora():
    layer = built(layers.Dense(3), 4)
    layer.enable_lora(2)
    with pytest.raises(ValueError, match="Keras' own LoRA is enabled"):
        rules.rule(layer)


def test_quantised_layer():
    layer = built(layers.Dense(3), 4)
    layer.quantize("int8")
    with pytest.raises(ValueError, match="it is quantised \\(int8\\)"):
        rules.rule(layer)


def test_unknown_factorization_suggests_the_nearest():
    layer = built(layers.Conv2D(6, 3), 9, 9, 4)
    with pytest.raises(ValueError, match="`factorization` must be one of") as error:
        rules.rule(layer, "loralip")
    assert "Received: 'loralip'. Did you mean 'loralib'?" in str(error.value)


def test_not_a_layer_is_not_supported():
    assert not rules.supported("dense") and not rules.supported(None)


@pytest.mark.parametrize("rank", [0, -3, 2.0, True, "2", None])
def test_rank_that_is_no_positive_integer(rank):
    rule = rules.rule(built(layers.Dense(7), 6))
    with pytest.raises(ValueError, match="`rank` must be an integer of at least 1") as error:
        rules.check_rank(rule, rank)
    assert f"Received: {rank!r}" in str(error.value)


@pytest.mark.parametrize(
    ("factorization", "limit"), [("dense", 6), ("pair", 7), ("loralib", 7), ("output", 7)]
)
def test_rank_larger_than_the_kernel(factorization, limit):
    found = dict(all_rules())
    assert rules.check_rank(found[factorization], limit) == limit
    with pytest.raises(ValueError, match=f"must be at most {limit}") as error:
        rules.check_rank(found[factorization], limit + 1)
    assert f"Received: {limit + 1}" in str(error.value) and "smaller rank" in str(error.value)


def test_numpy_integers_are_ranks():
    assert rules.check_rank(rules.rule(built(layers.Dense(7), 6)), np.int64(3)) == 3


# Extension


def test_a_new_layer_type_is_one_rule():
    class Scaled(keras.layers.Layer):
        pass

    @rules.rule.register
    def _(layer: Scaled, factorization: str = "pair"):
        return "a rule"

    assert rules.rule(Scaled()) == "a rule"


# The start that looks at activations


@pytest.mark.parametrize("name", EINSUMS)
def test_rows_times_matrix_is_the_einsum(name):
    layer, x = einsum(name), nets.data(*EINSUMS[name][3])
    rule = rules.rule(layer)
    kernel = ops.convert_to_numpy(layer.kernel)
    product = ops.convert_to_numpy(rule.rows(x)) @ rule.to_matrix(kernel)
    expected = linear(layer, kernel, x)
    if name.startswith("right"):  # the produced axis is not the last one
        expected = np.moveaxis(expected, 1, -1)
    np.testing.assert_allclose(np.reshape(product, expected.shape), expected, atol=1e-5)


@pytest.mark.parametrize(
    "settings", [{}, {"strides": 2, "padding": "same"}, {"dilation_rate": 2}, CHANNELS_FIRST]
)
def test_rows_times_matrix_is_the_convolution(settings):
    layer, rule, x = conv(**settings)
    kernel = ops.convert_to_numpy(layer.kernel)
    product = ops.convert_to_numpy(rule.rows(x)) @ rule.to_matrix(kernel)
    expected = linear(layer, kernel, x)
    if settings.get("data_format") == "channels_first":
        expected = np.moveaxis(expected, 1, -1)
    np.testing.assert_allclose(np.reshape(product, expected.shape), expected, atol=1e-4)


def test_activation_aware_svd_is_the_best_for_its_inputs():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 12)) @ np.diag(np.linspace(0.1, 3.0, 12)) @ rng.normal(size=(12, 12))
    matrix, gram = rng.normal(size=(12, 9)), x.T @ x / len(x)
    down, up = factorize.activation_aware_svd(matrix, 4, gram)
    error = np.linalg.norm(x @ (matrix - down @ up))
    tail = np.linalg.svd(x @ matrix, compute_uv=False)[4:]  # what no product of rank 4 can reach below
    assert error == pytest.approx(np.sqrt((tail**2).sum()), rel=1e-2)
    plain = np.matmul(*factorize.truncated_svd(matrix, 4))
    assert error < np.linalg.norm(x @ (matrix - plain))
    assert np.linalg.norm(matrix - down @ up) > np.linalg.norm(matrix - plain)


def test_inputs_that_never_vary_are_no_obstacle():
    matrix = np.random.default_rng(0).normal(size=(5, 4))
    down, up = factorize.activation_aware_svd(matrix, 2, np.zeros((5, 5)))
    assert np.isfinite(down).all() and np.isfinite(up).all()


@pytest.mark.parametrize("gram", [np.eye(4), np.full((5, 5), np.nan)])
def test_an_impossible_gram_matrix_is_refused(gram):
    with pytest.raises(ValueError, match="`gram`"):
        factorize.activation_aware_svd(np.ones((5, 4)), 2, gram)


def test_loralib_has_no_rows():
    _, rule, x = conv("loralib")
    with pytest.raises(ValueError, match="another factorization"):
        rule.rows(x)


def test_svd_copy_leaves_the_whole_kernel_to_decay():
    rule = dict(all_rules())["dense"]
    kernel, scale, (down, up, rest) = start("svd_copy", rule)
    np.testing.assert_array_equal(rest, kernel)
    _, _, (down_svd, up_svd, _) = start("svd", rule)
    np.testing.assert_allclose(down @ up, down_svd @ up_svd)
