"""Embeddings as pairs: the look-up against NumPy, its noise and masks, counts, and what is refused."""

import keras
import nets
import numpy as np
import pytest
from keras import layers, ops

import clora_lab as cl
from clora_lab import factorize, methods, rules
from clora_lab.layers import CLoRA

VOCABULARY, WIDTH, RANK, ALPHA = 11, 6, 2, 6.0
METHODS = methods.names("slides")
SCALE = ALPHA / RANK
IDS = np.array([[1, 2, 2, 0], [3, 10, 0, 0], [2, 1, 4, 5]])

Reversible = getattr(layers, "ReversibleEmbedding", None)
needs_reversible = pytest.mark.skipif(Reversible is None, reason="this Keras has no ReversibleEmbedding")
KINDS = [layers.Embedding, pytest.param(Reversible, marks=needs_reversible)]


def numpy_of(value):
    return ops.convert_to_numpy(ops.cast(value, "float32")).astype("float64")


def built(layer, seed=0):
    layer.build((None, 4))
    return nets.randomise(layer, seed)


def wrap(layer=None, seed=0, **arguments):
    """An embedding and a `CLoRA` around it; the pair and the new bias are random."""
    layer = built(layers.Embedding(VOCABULARY, WIDTH, name="table") if layer is None else layer, seed)
    arguments = {"method": "wds", "rank": RANK, "alpha": ALPHA, **arguments}
    wrapped = CLoRA(type(layer).from_config(layer.get_config()), **arguments)
    wrapped.build((None, 4))
    nets.start(wrapped, numpy_of(layer.embeddings), None)
    return layer, disturb(wrapped, seed)


def disturb(model, seed=0):
    rng = np.random.default_rng(seed + 1)
    for layer in cl.clora_layers(model) if isinstance(model, keras.Model) else [model]:
        for weight in [*layer.pair_weights, *([layer.bias] if layer.has_bias else [])]:
            weight.assign(rng.normal(size=weight.shape) / 3)
    return model


def oracle(layer, wrapped, ids, decay):
    """d W[ids] + s down[ids] up (+ c)."""
    down, up = (numpy_of(weight) for weight in wrapped.pair_weights)
    y = decay * numpy_of(layer.embeddings)[ids] + SCALE * down[ids] @ up
    return y + (numpy_of(wrapped.bias) if wrapped.has_bias else 0.0)


def outputs(wrapped, ids, decay, training=False):
    nets.set_decay(wrapped, decay)
    return nets.forward(wrapped, ids, training=training)


# The rule


@pytest.mark.parametrize("shape", [(5,), (2, 3), (2, 3, 2)])
def test_pair_is_a_look_up_and_a_product(shape):
    rule = rules.rule(built(layers.Embedding(VOCABULARY, WIDTH, name="table")))
    ids = np.random.default_rng(0).integers(0, VOCABULARY, shape)
    down, up = nets.data(VOCABULARY, RANK), nets.data(RANK, WIDTH, seed=1)
    pair = rule.chain(RANK)
    value = ids
    for layer in pair:
        value = layer(value)
    assert [type(layer) for layer in pair] == [layers.Embedding, layers.Dense]
    assert sum(layer.count_params() for layer in pair) == rule.parameters(RANK)
    for layer, kernel in zip(pair, rule.from_matrices(down, up), strict=True):
        layer.weights[0].assign(kernel)
    value = ops.convert_to_numpy(pair[1](pair[0](ids)))
    assert value.shape == (*shape, WIDTH)
    np.testing.assert_allclose(value, down[ids] @ up, rtol=1e-5, atol=1e-6)
    one_hot = np.eye(VOCABULARY, dtype="float32")[ids]
    np.testing.assert_allclose(value, one_hot @ (down @ up), rtol=1e-5, atol=1e-6)
    looked_up = rule.linear(rule.to_inputs(ids, "float32"), down @ up)
    np.testing.assert_allclose(ops.convert_to_numpy(looked_up), value, rtol=1e-5, atol=1e-6)


def test_counts_by_formula():
    rule = rules.rule(built(layers.Embedding(30, 8)))
    assert rule.matrix_shape == rule.kernel_shape == (30, 8) and rule.bias_shape == (8,)
    assert rule.parameters(3) == 3 * (30 + 8) and rule.max_rank == 8
    assert rule.break_even_rank == 7  # 240 / 38 = 6.3
    assert rule.flops((30, 8), (None, 5, 8)) == 0
    assert rule.cost(3, (None, 5, 8)).flops == 2 * 3 * 8 * 5
    assert rule.cost(3, (None, None, 8)).flops == 2 * 3 * 8  # an unknown length counts once


def test_moments_of_the_inputs_are_the_frequencies_of_the_tokens():
    rule = rules.rule(built(layers.Embedding(VOCABULARY, WIDTH)))
    moment, number = rule.second_moment(ops.convert_to_tensor(IDS))
    rows = ops.convert_to_numpy(rule.rows(ops.convert_to_tensor(IDS)))
    assert number == len(rows) == IDS.size
    np.testing.assert_array_equal(np.diag(moment), rows.T @ rows)


def test_supported_only_where_look_ups_are_asked_for():
    layer = built(layers.Embedding(VOCABULARY, WIDTH))
    assert rules.supported(layer, look_ups=True) and not rules.supported(layer)
    assert not rules.supported(layers.Embedding(3, 4), look_ups=True)  # not built


# The forward passes


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", METHODS)
def test_forward_pass_in_inference(method, kind):
    layer, wrapped = wrap(kind(VOCABULARY, WIDTH, name="table"), method=method)
    for decay in (1.0, 0.6, 0.1, 0.0):
        expected = oracle(layer, wrapped, IDS, decay)
        np.testing.assert_allclose(outputs(wrapped, IDS, decay), expected, rtol=1e-4, atol=1e-5)
    assert tuple(wrapped.compute_output_shape(IDS.shape)) == expected.shape


@pytest.mark.parametrize("method", METHODS)
def test_forward_pass_in_training_without_noise(method):
    layer, wrapped = wrap(method=method)
    for decay in (1.0, 0.2, 0.0) if "noise" in method else (1.0, 0.6, 0.0):  # no noise below 0.3
        value = outputs(wrapped, IDS, decay, training=True)
        np.testing.assert_allclose(value, oracle(layer, wrapped, IDS, decay), rtol=1e-4, atol=1e-5)


def drawn(decay=0.6, width=3000, method="noise", **arguments):
    """n, of shape (4, width), by one call in which each of 4 tokens occurs; and W."""
    layer, wrapped = wrap(layers.Embedding(4, width, name="table"), method=method, **arguments)
    ids = np.arange(4)[None]
    quiet, loud = (outputs(wrapped, ids, decay, training)[0] for training in (False, True))
    return loud.astype("float64") - quiet, numpy_of(layer.embeddings)


def assert_standard_normal(noise):
    n = noise.shape[-1]
    assert (np.abs(noise.mean(axis=-1)) < 4.5 / np.sqrt(n)).all()
    assert (np.abs(noise.std(axis=-1) - 1) < 4.5 / np.sqrt(2 * n)).all()


@pytest.mark.parametrize("draw", ["auto", "kernel", "output"])
@pytest.mark.parametrize("method", ["noise", "noise_bias"])
def test_noise_is_that_of_a_dense_layer_on_one_hot_rows(method, draw):
    noise, kernel = drawn(0.6, method=method, noise_draw=draw)
    standard = (noise - 0.4 * kernel.mean(axis=0)) / (0.8 * kernel.std(axis=0))
    assert_standard_normal(standard)
    assert np.abs(np.corrcoef(standard) - np.eye(4)).max() < 0.1  # each token has its own


@pytest.mark.parametrize(
    "law", [cl.NoiseLaw(spread=0.5, mean=0.0), cl.NoiseLaw(per="matrix"), cl.NoiseLaw(kind="empirical")]
)
def test_laws_of_the_noise(law):
    noise, kernel = drawn(0.6, noise_law=law)
    axis = None if law.per == "matrix" else 0
    mean, std = law.mean * kernel.mean(axis=axis), law.spread * kernel.std(axis=axis)
    assert_standard_normal((noise - 0.4 * mean) / (0.8 * std))


@pytest.mark.parametrize("method", ["noise", "noise_bias"])
def test_a_token_has_the_same_noise_wherever_it_stands(method):
    _, wrapped = wrap(method=method)
    quiet = outputs(wrapped, IDS, 0.6)
    loud = outputs(wrapped, IDS, 0.6, training=True)
    noise = loud - quiet
    for token in np.unique(IDS):
        here = noise[token == IDS]
        np.testing.assert_allclose(here, np.broadcast_to(here[0], here.shape), atol=1e-5)
    assert np.abs(noise[0, 0] - noise[0, 1]).max() > 1e-3  # tokens 1 and 2
    again = outputs(wrapped, IDS, 0.6, training=True)
    assert np.abs(again - loud).max() > 1e-3  # a new step


def test_ids_are_exact_in_mixed_precision():
    # bfloat16 holds the integers up to 256
    table = layers.Embedding(1000, WIDTH, dtype="mixed_bfloat16", name="table")
    layer, wrapped = wrap(table, method="noise")
    assert {weight.dtype for weight in wrapped.weights} == {"float32"}
    ids = np.array([[257, 258, 259, 999]])
    nets.set_decay(wrapped, 0.6)
    for given in (ids, ids.astype("float32")):
        value = wrapped(given)
        assert keras.backend.standardize_dtype(value.dtype) == "bfloat16"
        np.testing.assert_allclose(numpy_of(value), oracle(layer, wrapped, ids, 0.6), atol=0.05)
    # Noise of the size of W, 0.3, on the right rows; the pair alone differs by more from row to row.
    with pytest.warns(cl.DecayNotMovingWarning):
        noise = numpy_of(wrapped(ids, training=True)) - oracle(layer, wrapped, ids, 0.6)
    assert 0.1 < np.abs(noise).max() < 1.5


def test_what_trains_and_what_is_frozen():
    layer, wrapped = wrap(method="noise_bias")
    assert [tuple(weight.shape) for weight in wrapped.trainable_weights] == [
        (WIDTH,),
        (VOCABULARY, RANK),
        (RANK, WIDTH),
    ]
    frozen = {weight.name: weight for weight in wrapped.non_trainable_weights}
    assert set(frozen) == {"decay", "noise_mean", "noise_std", "embeddings"}
    np.testing.assert_allclose(numpy_of(frozen["embeddings"]), numpy_of(layer.embeddings))
    assert wrapped.remaining_parameters == RANK * (VOCABULARY + WIDTH) + WIDTH


@pytest.mark.parametrize("kind", KINDS)
def test_config_round_trip(kind):
    table = kind(VOCABULARY, WIDTH, mask_zero=True, embeddings_regularizer="l2", name="table")
    wrapped = CLoRA(table, rank=RANK, schedule=cl.LinearDecay(10), method="noise")
    again = CLoRA.from_config(wrapped.get_config())
    assert again.get_config() == wrapped.get_config() and again.supports_masking
    assert again.original_config() == table.get_config()
    assert wrapped.base.embeddings_regularizer is None  # of a W that does not train


# Start values


def start(init, rows=40, width=12, rank=3, gram=None):
    rule = rules.rule(built(layers.Embedding(rows, width)))
    kernel, scale = nets.data(rows, width), 4.0
    rng = np.random.default_rng(0)
    return rule, kernel, scale, nets.start_matrices(init, rule, kernel, rank, scale, rng, gram)


@pytest.mark.parametrize("init", ["lora", "svd", "orthogonal"])
def test_start_reproduces_the_table(init):
    _, kernel, scale, (down, up, rest) = start(init)
    np.testing.assert_allclose(rest + scale * down @ up, kernel, atol=1e-5)


def test_rows_of_the_start_have_the_size_of_the_hidden_layer_of_a_dense_one():
    # sum_i x_i down_i over `inputs` unit variances has f = sqrt(5) as variance, and so has one row here.
    _, _, _, (down, up, _) = start("lora", rows=4000)
    limit = np.sqrt(3 * np.sqrt(5))
    assert 0.98 * limit < np.abs(down).max() <= limit and not up.any()
    assert np.var(down) == pytest.approx(np.sqrt(5), rel=0.05)
    _, _, _, (down, up, _) = start("orthogonal", rows=4000)
    np.testing.assert_allclose(down.T @ down, 4000 * np.eye(3), atol=1e-6)
    assert not up.any()


def test_scratch_has_rows_of_the_size_of_the_tables():
    _, kernel, scale, (down, up, rest) = start("scratch", rows=2000, width=200, rank=100)
    assert not rest.any()
    assert np.var(scale * down @ up) == pytest.approx(np.var(kernel), rel=0.1)


def test_svd_copy_keeps_the_table():
    _, kernel, scale, (down, up, rest) = start("svd_copy")
    best_down, best_up = factorize.truncated_svd(kernel, 3)
    np.testing.assert_array_equal(rest, kernel)
    np.testing.assert_allclose(scale * down @ up, best_down @ best_up, atol=1e-6)


def test_activations_weight_the_tokens_by_their_frequency():
    frequencies = np.random.default_rng(1).dirichlet(np.full(40, 0.3))
    _, kernel, scale, (down, up, rest) = start("activations", gram=frequencies)
    *_, (whole_down, whole_up, _) = start("activations", gram=np.diag(frequencies))
    np.testing.assert_allclose(down @ up, whole_down @ whole_up, atol=1e-5)
    np.testing.assert_allclose(rest + scale * down @ up, kernel, atol=1e-5)
    plain = np.matmul(*factorize.truncated_svd(kernel, 3))

    def error(product):
        return frequencies @ ((kernel - product) ** 2).sum(axis=1)

    assert error(scale * down @ up) < 0.9 * error(plain)
    with pytest.raises(ValueError, match="`gram` must be finite numbers .*shape \\(3,\\)"):
        factorize.activation_aware_svd(kernel, 3, np.ones(3))


# Whole models


def bag(kind=layers.Embedding, mask=True, seed=0, **arguments):
    """The mean of the tokens' vectors; padding counts only without a mask."""
    inputs = keras.Input((None,), dtype="int32", name="ids")
    x = kind(VOCABULARY, WIDTH, mask_zero=mask, name="table", **arguments)(inputs)
    x = layers.Dense(7, activation="tanh", name="a")(x)
    x = layers.GlobalAveragePooling1D(name="pool")(x)
    return nets.randomise(keras.Model(inputs, layers.Dense(3, name="out")(x), name="bag"), seed)


def chain(seed=0):
    """The same as a Sequential model, which knows its length."""
    return nets.randomise(
        keras.Sequential(
            [
                keras.Input((4,), dtype="int32"),
                layers.Embedding(VOCABULARY, WIDTH, mask_zero=True, name="table"),
                layers.GlobalAveragePooling1D(name="pool"),
                layers.Dense(3, name="out"),
            ]
        ),
        seed,
    )


def reversible_bag():
    return bag(Reversible)


MODELS = [bag, chain, pytest.param(reversible_bag, marks=needs_reversible)]


def wrapped_names(model):
    return [layer.name for layer in cl.clora_layers(model)]


@pytest.mark.parametrize("build", MODELS)
@pytest.mark.parametrize("method", METHODS)
def test_finalize_by_numpy(build, method):
    compressed = disturb(nets.compress(build(), RANK, method=method, targets="table", alpha=ALPHA))
    nets.set_decay(compressed, 0.0)
    wrapped = compressed.get_layer("table")
    down, up = (numpy_of(weight) for weight in wrapped.pair_weights)
    small = cl.finalize(compressed)
    first, second = small.get_layer("table_down"), small.get_layer("table")
    assert type(first) is layers.Embedding and type(second) is layers.Dense
    np.testing.assert_allclose(numpy_of(first.embeddings), down, rtol=1e-6)
    np.testing.assert_allclose(numpy_of(second.kernel), SCALE * up, rtol=1e-5)
    assert (second.bias is not None) == ("bias" in method)
    if "bias" in method:
        np.testing.assert_array_equal(numpy_of(second.bias), numpy_of(wrapped.bias))
    np.testing.assert_allclose(nets.forward(small, IDS), nets.forward(compressed, IDS), rtol=1e-4, atol=1e-5)
    assert all(layer.trainable for layer in small.layers)


@pytest.mark.parametrize("build", MODELS)
@pytest.mark.parametrize("init", ["lora", "svd", "orthogonal"])
def test_compressed_model_equals_the_original_at_step_0(build, init):
    model = build()
    before, expected = nets.weights(model), nets.forward(model, IDS)
    compressed = nets.compress(model, RANK, init=init, targets="table")
    np.testing.assert_allclose(nets.forward(compressed, IDS), expected, rtol=1e-4, atol=1e-5)
    nets.assert_same_weights(nets.weights(model), before)


@pytest.mark.parametrize("build", MODELS)
def test_padding_is_masked_as_before(build):
    model = build()
    compressed = disturb(nets.compress(model, RANK, targets="table", init="svd"))
    nets.set_decay(compressed, 0.0)
    small = cl.finalize(compressed)
    x = ops.convert_to_tensor(IDS)
    for net in (model, compressed, small):
        first = net.get_layer("table_down" if net is small else "table")
        mask = keras.src.backend.get_keras_mask(first(x))
        np.testing.assert_array_equal(ops.convert_to_numpy(mask), IDS != 0)
        hidden = first(ops.convert_to_tensor([[1, 2, 2]]))
        hidden = net.get_layer("table")(hidden) if net is small else hidden
        if build is not chain:
            hidden = net.get_layer("a")(hidden)
        mean = ops.convert_to_numpy(hidden).mean(axis=1)  # of the three tokens of the first text alone
        expected = ops.convert_to_numpy(net.get_layer("out")(mean))
        np.testing.assert_allclose(nets.forward(net, IDS)[:1], expected, rtol=1e-4, atol=1e-5)


def test_without_a_mask_there_is_none():
    model = bag(mask=False)
    compressed = disturb(nets.compress(model, RANK, targets="table"))
    for net in (compressed, cl.finalize(compressed, force=True)):
        padded = np.array([[1, 2, 0, 0]])
        value = nets.forward(net, padded)
        assert np.abs(value - nets.forward(net, padded[:, :2])).max() > 1e-3


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("method", ["bias", "noise_bias"])
def test_training_ends_in_the_small_net(method, jit):
    if jit and nets.BACKEND == "torch":
        pytest.skip("PyTorch compiles by torch.compile")
    model = bag()
    compressed = nets.compress(model, RANK, method=method, targets=["*", "table"], init="svd")
    assert wrapped_names(compressed) == ["table", "a", "out"]
    before = nets.weights(compressed)
    x, y = np.tile(IDS, (8, 1)), nets.data(24, 3)
    history = nets.train(compressed, x, y, epochs=2, jit_compile=jit)
    assert history["decay"][0] < 1.0 and history["decay"][-1] == 0.0 and np.isfinite(history["loss"]).all()
    after = nets.weights(compressed)
    changed = {name for name in before if np.any(before[name] != after[name])}
    assert any("down/embeddings" in name for name in changed)
    assert not any("base" in name for name in changed)
    small = cl.finalize(compressed)
    np.testing.assert_allclose(nets.forward(small, IDS), nets.forward(compressed, IDS), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_views(method):
    model = chain()
    compressed = disturb(nets.compress(model, RANK, method=method, targets="table", alpha=ALPHA))
    nets.set_decay(compressed, 0.6)
    layer = compressed.get_layer("table")
    table, before = numpy_of(model.get_layer("table").embeddings), nets.weights(compressed)
    low = np.matmul(*layer.pair_matrices())[IDS] + (numpy_of(layer.bias) if layer.has_bias else 0)
    expected = {"trained": 0.6 * table[IDS] + low, "compressed": low, "original": 0.6 * table[IDS]}
    for path, value in expected.items():
        with cl.view(compressed, path):
            np.testing.assert_allclose(nets.forward(layer, IDS), value, rtol=1e-4, atol=1e-5)
        nets.assert_same_weights(nets.weights(compressed), before)


@pytest.mark.parametrize("build", MODELS)
@pytest.mark.parametrize("finalized", [False, True], ids=["compressed", "finalized"])
def test_a_saved_model_is_the_same(build, finalized, tmp_path):
    model = disturb(nets.compress(build(), RANK, targets="table"))
    nets.set_decay(model, 0.25)
    model = cl.finalize(model, force=True) if finalized else model
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(nets.forward(loaded, IDS), nets.forward(model, IDS), atol=1e-6)
    recipe = cl.load_recipe(cl.save_recipe(model, tmp_path / "recipe"))
    np.testing.assert_allclose(nets.forward(recipe, IDS), nets.forward(model, IDS), atol=1e-6)
    if finalized:
        assert {type(layer).__module__.split(".")[0] for layer in loaded.layers} == {"keras"}
    else:
        nets.set_decay(loaded, 0.0)
        assert cl.finalize(loaded).count_params() == cl.finalize(model, force=True).count_params()


def test_saved_in_mid_training_it_goes_on_as_if_nothing_had_been(tmp_path):
    compressed = nets.compress(chain(), RANK, targets="table", schedule=nets.schedule(8))
    x, y = np.tile(IDS, (4, 1))[:8], nets.data(8, 3)
    nets.train(compressed, x, y, epochs=2, optimizer=keras.optimizers.Adam(0.01))
    compressed.save(tmp_path / "half.keras")
    again = keras.models.load_model(tmp_path / "half.keras")
    for model in (compressed, again):
        assert nets.train(model, x, y, epochs=2)["decay"][-1] == 0.0
    for one, other in zip(compressed.weights, again.weights, strict=True):
        np.testing.assert_allclose(numpy_of(one), numpy_of(other), rtol=1e-4, atol=1e-5)


def test_what_is_not_the_tables_is_carried_over():
    model = bag(activity_regularizer=keras.regularizers.L2(0.1), embeddings_constraint="non_neg")
    compressed = nets.compress(model, RANK, targets="table")
    assert compressed.get_layer("table").activity_regularizer is not None
    small = cl.finalize(compressed, force=True)
    assert small.get_layer("table").activity_regularizer is not None
    assert small.get_layer("table_down").activity_regularizer is None
    assert small.get_layer("table_down").embeddings_constraint is None
    for net in (compressed, small):  # over the vectors of the sum, once
        hidden = keras.Model(net.input, net.get_layer("table").output)(IDS)
        net(IDS)
        (loss,) = (float(numpy_of(loss)) for loss in net.losses)
        assert loss == pytest.approx(0.1 * (numpy_of(hidden) ** 2).sum() / len(IDS), rel=1e-3)


def test_calibration_of_activations():
    model = bag()
    texts = np.random.default_rng(0).choice(VOCABULARY, (50, 8), p=np.r_[0.5, np.full(10, 0.05)])
    compressed = nets.compress(model, RANK, targets="table", init="activations", calibration=texts)
    wrapped, table = compressed.get_layer("table"), numpy_of(model.get_layer("table").embeddings)
    frequencies = np.bincount(texts.ravel(), minlength=VOCABULARY) / texts.size
    expected = np.matmul(*factorize.activation_aware_svd(table, RANK, np.diag(frequencies)))
    np.testing.assert_allclose(np.matmul(*wrapped.pair_matrices()), expected, atol=1e-5)
    np.testing.assert_allclose(nets.forward(compressed, IDS), nets.forward(model, IDS), rtol=1e-4, atol=1e-5)


def test_rank_by_energy():
    model = bag()
    table = model.get_layer("table")
    table.embeddings.assign(np.outer(np.arange(1.0, VOCABULARY + 1), np.arange(1.0, WIDTH + 1)))
    compressed = nets.compress(model, 0.9, targets="table")
    assert compressed.get_layer("table").rank == 1


# Targets


def two_tables():
    ids, kinds = keras.Input((4,), dtype="int32", name="ids"), keras.Input((4,), dtype="int32", name="kinds")
    x = layers.Embedding(VOCABULARY, WIDTH, name="token_embedding")(ids)
    x = layers.Add(name="add")([x, layers.Embedding(5, WIDTH, name="kind_embedding")(kinds)])
    x = layers.LayerNormalization(name="embedding_norm")(x)
    x = layers.Dense(7, name="a")(x)
    return nets.randomise(keras.Model([ids, kinds], layers.Dense(3, name="out")(x)))


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (None, ["a"]),
        ("*", ["a", "out"]),
        (["*", "token_embedding"], ["token_embedding", "a", "out"]),
        ("token_embedding", ["token_embedding"]),
        ("token*", ["token_embedding"]),
        ("*embedding*", ["token_embedding", "kind_embedding"]),
        (lambda layer: isinstance(layer, layers.Embedding), ["token_embedding", "kind_embedding"]),
        (lambda layer: layer.name in ("token_embedding", "a"), ["token_embedding", "a"]),
    ],
)
def test_embeddings_are_compressed_only_where_they_are_meant(targets, expected):
    model = two_tables()
    compressed = nets.compress(model, RANK, targets=targets, init="svd")
    assert sorted(wrapped_names(compressed)) == sorted(expected)
    x = [IDS, IDS % 5]
    np.testing.assert_allclose(nets.forward(compressed, *x), nets.forward(model, *x), rtol=1e-4, atol=1e-5)


def test_a_table_in_an_inner_model_and_used_twice():
    inner_ids = keras.Input((4,), dtype="int32")
    inner = keras.Model(inner_ids, layers.Embedding(VOCABULARY, WIDTH, name="table")(inner_ids), name="inner")
    left, right = keras.Input((4,), dtype="int32"), keras.Input((4,), dtype="int32")
    x = layers.Concatenate()([inner(left), inner(right)])
    model = nets.randomise(keras.Model([left, right], layers.Dense(3, name="out")(x)))
    compressed = disturb(nets.compress(model, RANK, targets="inner/*"))
    nets.set_decay(compressed, 0.0)
    small = cl.finalize(compressed)
    x = [IDS, IDS[::-1]]
    np.testing.assert_allclose(nets.forward(small, *x), nets.forward(compressed, *x), rtol=1e-4, atol=1e-5)
    assert [layer.name for layer in small.get_layer("inner").layers][1:] == ["table_down", "table"]


# Accounting


@pytest.mark.parametrize("build", MODELS)
@pytest.mark.parametrize("method", ["wds", "bias"])
def test_report_and_ratio_by_hand(build, method):
    model = build()
    compressed = nets.compress(model, RANK, method=method, targets="table")
    pair = RANK * (VOCABULARY + WIDTH) + WIDTH * (method == "bias")
    rest = model.count_params() - VOCABULARY * WIDTH
    length = 4 if build is chain else 1  # an unknown one counts once
    small = cl.finalize(compressed, force=True)
    assert small.count_params() == pair + rest
    for net in (compressed, small):
        frame = cl.report(model, net).set_index("layer")
        row = frame.loc["table"]
        assert row["compressed"] and row["type"] == type(model.get_layer("table")).__name__
        assert row["original_parameters"] == VOCABULARY * WIDTH
        assert row["parameters"] == row["run_parameters"] == pair
        assert row["original_flops"] == 0 and row["flops"] == 2 * RANK * WIDTH * length
        assert frame.loc["total", "parameters"] == pair + rest
        assert cl.ratio(model, net, "model") == (pair + rest) / model.count_params()
        assert cl.ratio(model, net, "layers") == pair / (VOCABULARY * WIDTH)
        assert cl.ratio(model, net, "slides") == pair / model.count_params()  # it had no bias to count


def test_a_table_made_from_given_weights():
    ids = keras.Input((4,), dtype="int32")
    values = nets.data(VOCABULARY, WIDTH)
    x = layers.Embedding(VOCABULARY, WIDTH, weights=[values], name="table")(ids)
    model = keras.Model(ids, layers.Dense(3, name="out")(x))
    compressed = nets.compress(model, RANK, targets="table")
    for net in (model, compressed, cl.finalize(compressed, force=True)):
        assert cl.report(model, net)["original_flops"].tolist()[0] == 0
    np.testing.assert_allclose(nets.forward(compressed, IDS), nets.forward(model, IDS), rtol=1e-4, atol=1e-5)


def test_models_with_other_tables_do_not_belong_together():
    ids = keras.Input((None,), dtype="int32")
    x = layers.Embedding(VOCABULARY + 1, WIDTH, name="table")(ids)
    x = layers.GlobalAveragePooling1D(name="pool")(layers.Dense(7, name="a")(x))
    other = keras.Model(ids, layers.Dense(3, name="out")(x))
    compressed = nets.compress(other, RANK, targets="table")
    for net in (other, compressed, cl.finalize(compressed, force=True)):
        with pytest.raises(ValueError, match="Layer 'table' of `original`.*\\(11, 6\\).*\\(12, 6\\)"):
            cl.report(bag(), net)


# Refusals


def refuse(model, message, targets="table", rank=RANK):
    with pytest.raises(ValueError, match=message) as error:
        cl.compress(model, rank, schedule=nets.schedule(), targets=targets)
    return str(error.value)


@needs_reversible
@pytest.mark.parametrize("nested", [False, True])
def test_an_embedding_that_is_called_in_reverse_is_refused(nested):
    table = Reversible(VOCABULARY, WIDTH, name="table")
    ids = keras.Input((4,), dtype="int32")
    backbone = keras.Model(ids, layers.Dense(WIDTH, name="a")(table(ids)), name="backbone")
    inputs = keras.Input((4,), dtype="int32")
    hidden = backbone(inputs) if nested else backbone.output
    logits = table(hidden, reverse=True)
    model = keras.Model(inputs if nested else ids, logits, name="generator")
    message = refuse(model, "table' is called with reverse=True in model 'generator'")
    assert "Leave the layer out of `targets`" in message
    assert wrapped_names(nets.compress(backbone, RANK, targets="table")) == ["table"]  # by itself it is not
    assert wrapped_names(nets.compress(model, RANK, targets="*a")) == ["a"]


@needs_reversible
def test_an_embedding_inside_of_another_layer_is_refused():
    class Head(layers.Layer):
        def __init__(self, table, **kwargs):
            super().__init__(**kwargs)
            self.table = table

        def call(self, x):
            return self.table(x, reverse=True)

    table = Reversible(VOCABULARY, WIDTH, name="table")
    ids = keras.Input((4,), dtype="int32")
    model = keras.Model(ids, Head(table, name="head")(layers.Dense(WIDTH, name="a")(table(ids))))
    message = refuse(model, "'table' is also used inside of layer 'head' \\(Head\\)")
    assert "Leave the layer out of `targets`" in message


@needs_reversible
def test_an_output_matrix_of_its_own_is_refused():
    message = refuse(bag(Reversible, tie_weights=False), "ReversibleEmbedding 'table' has tie_weights=False")
    assert "Leave the layer out of `targets`" in message


def test_what_can_not_be_factored_says_why():
    class Scaled(layers.Embedding):
        def call(self, inputs):
            return 2 * super().call(inputs)

    refuse(bag(Scaled), "Layer 'table' can't be factored: its class Scaled has a call\\(\\) of its own")
    lora, quantised = bag(), bag()
    lora.get_layer("table").enable_lora(2)
    refuse(lora, "Keras' own LoRA is enabled")
    quantised.get_layer("table").quantize("int8")
    refuse(quantised, "it is quantised \\(int8\\)")
    with pytest.raises(ValueError, match="Layer 'early' can't be factored: it is not built"):
        rules.rule(layers.Embedding(3, 4, name="early"))


def test_impossible_ranks():
    refuse(bag(), "`rank` of layer 'table' must be at most 6.*\\(11, 6\\).*Received: 7", rank=7)
    with pytest.warns(cl.BreakEvenWarning, match="pair of layer 'table' has 68 parameters, its kernel 66"):
        cl.compress(bag(), 4, schedule=nets.schedule(), targets="table")


def test_nothing_but_tables_and_an_output_layer():
    refuse(chain(), "no layer to compress beside its output layer.*Embedding where `targets` names it", None)


# KerasHub

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "a", "film", "good", "bad", "was", "##ly"]
TEXTS = ["the film was good", "a bad bad film", "good", ""]
INNER, HIDDEN = 32, 16


@pytest.fixture
def hub():
    return pytest.importorskip("keras_hub", reason="needs the extra 'text' (Python 3.11 or later)")


def bert_backbone(hub, vocabulary=12, **arguments):
    backbone = hub.models.BertBackbone(
        vocabulary, 1, 2, HIDDEN, INNER, max_sequence_length=8, name="bert_backbone", **arguments
    )
    return nets.randomise(backbone)


def bert(hub):
    tokenizer = hub.models.BertTokenizer(WORDS, lowercase=True)
    preprocessor = hub.models.BertTextClassifierPreprocessor(tokenizer, sequence_length=8)
    task = hub.models.BertTextClassifier(bert_backbone(hub), num_classes=2, preprocessor=preprocessor)
    return nets.randomise(task)


def logits(task):
    return ops.convert_to_numpy(task(task.preprocessor(TEXTS)))


@pytest.mark.parametrize("finalized", [False, True], ids=["compressed", "finalized"])
def test_a_task_with_a_factored_embedding(hub, finalized, tmp_path):
    from clora_lab.lab.nets import registry

    task = bert(hub)
    before = nets.weights(task)
    model = nets.compress(task, RANK, targets=registry.targets("bert_tiny"), init="svd")
    assert len(cl.clora_layers(model)) == 6 + 2 and model.backbone.token_embedding.name == "token_embedding"
    np.testing.assert_allclose(logits(model), logits(task), rtol=1e-4, atol=1e-5)
    disturb(model)
    with cl.view(model, "compressed"):
        alone = logits(model)
    small = cl.finalize(model, force=True)
    np.testing.assert_allclose(logits(small), alone, rtol=1e-4, atol=1e-5)
    pairs = RANK * (len(WORDS) + HIDDEN) + 5 * RANK * 2 * HIDDEN + 2 * RANK * (HIDDEN + INNER)
    biases = HIDDEN + 5 * HIDDEN + INNER + HIDDEN  # the table gets one too
    kept = (8 + 2) * HIDDEN + 3 * 2 * HIDDEN + 2 * HIDDEN + 2  # positions, segments, norms, head
    assert small.count_params() == pairs + biases + kept
    for net in (model, small):
        assert type(net) is type(task) and net.preprocessor is task.preprocessor
        frame = cl.report(task, net).set_index("layer")
        assert frame.loc["bert_backbone/token_embedding", "parameters"] == (
            RANK * (len(WORDS) + HIDDEN) + HIDDEN
        )
        assert frame.loc["total", "parameters"] == pairs + biases + kept
        assert cl.ratio(task, net, "model") == small.count_params() / task.count_params()
    net = small if finalized else model
    raw = net.predict(TEXTS, batch_size=4, verbose=0)
    np.testing.assert_allclose(raw, logits(net), rtol=1e-4, atol=1e-5)
    loaded = cl.load_recipe(cl.save_recipe(net, tmp_path / "recipe"))
    assert type(loaded) is type(task) and loaded.count_params() == net.count_params()
    np.testing.assert_allclose(loaded.predict(TEXTS, batch_size=4, verbose=0), raw, atol=1e-5)
    nets.assert_same_weights(nets.weights(task), before)


def test_the_ratios_of_the_encoder_do_not_count_the_table(hub):
    task = bert(hub)
    attention = ["*/query", "*/key", "*/value", "*/attention_output"]
    without = nets.compress(task, RANK, targets=attention)
    with_table = nets.compress(task, RANK, targets=[*attention, "token_embedding"])
    for convention in cl.ENCODER_CONVENTIONS:
        assert cl.ratio(task, with_table, convention) == cl.ratio(task, without, convention)
    assert cl.ratio(task, with_table, "model") < cl.ratio(task, without, "model")


def test_a_task_trains_with_noise_on_its_table(hub):
    task = nets.compress(bert(hub), RANK, targets=["token_embedding", "pooled_dense"], method="noise_bias")
    x, preprocessor = task.preprocessor(TEXTS), task.preprocessor
    task.preprocessor = None  # the ids as they are, and no graph: both only to save seconds
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    task.compile(keras.optimizers.Adam(1e-2), loss, run_eagerly=True)
    data = {"x": x, "y": np.array([1, 0, 1, 0]), "batch_size": 2, "verbose": 0}
    history = task.fit(**data, epochs=5, callbacks=[cl.DecayCallback()]).history
    assert history["noise"][0] > 0.0 and history["decay"][-1] == 0.0 and np.isfinite(history["loss"]).all()
    task.preprocessor = preprocessor
    np.testing.assert_allclose(logits(cl.finalize(task)), logits(task), rtol=1e-4, atol=1e-5)


def test_ids_beyond_256_in_a_finalized_backbone_of_low_precision(hub):
    backbone = bert_backbone(hub, vocabulary=400, dtype="mixed_bfloat16")
    compressed = disturb(nets.compress(backbone, RANK, targets="token_embedding", method="wds"))
    small = cl.finalize(compressed, force=True)
    ids = np.array([[257, 258, 259, 399]])
    expected = np.matmul(*compressed.token_embedding.pair_matrices())[ids]
    np.testing.assert_allclose(numpy_of(small.token_embedding(ids)), expected, atol=0.05)


def test_the_head_of_a_masked_language_model_is_refused(hub):
    task = hub.models.BertMaskedLM(bert_backbone(hub))
    message = refuse(task, "'bert_backbone/token_embedding' is also used inside of layer", "token_embedding")
    assert "classifier on the same backbone" in message


def test_tables_inside_of_other_layers_are_named_as_such(hub):
    backbone = hub.models.DistilBertBackbone(12, 1, 2, HIDDEN, INNER, max_sequence_length=8)
    refuse(backbone, "'token_embedding' lies inside of layer .*TokenAndPositionEmbedding", "token_embedding")
    refuse(bert_backbone(hub), "PositionEmbedding has no supported factors", "position_embedding")
