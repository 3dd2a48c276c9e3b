"""Surgery inside KerasHub encoders: the Task stays a Task, the counts are exact, recipes reload."""

import json
import subprocess
import sys

import keras
import nets
import numpy as np
import pytest
from keras import layers, ops

import clora_lab as cl
from clora_lab import graph

keras_hub = pytest.importorskip("keras_hub", reason="needs the extra 'text' (Python 3.11 or later)")

VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "a", "film", "good", "bad", "was", "##ly"]
TEXTS = ["the film was good", "a bad bad film", "good", "", "was the film bad was it was it was it long"]
LABELS = np.array([1, 0, 1, 0, 0])
WIDTH, INNER, RANK = 16, 32, 2
ATTENTION = ["*/query", "*/key", "*/value", "*/attention_output"]
BLOCK = 4 * (WIDTH * WIDTH + WIDTH) + 2 * WIDTH * INNER + INNER + WIDTH + 4 * WIDTH


def bert_backbone(seed=0, blocks=2):
    keras.utils.set_random_seed(seed)
    backbone = keras_hub.models.BertBackbone(
        vocabulary_size=len(VOCABULARY),
        num_layers=blocks,
        num_heads=2,
        hidden_dim=WIDTH,
        intermediate_dim=INNER,
        max_sequence_length=10,
        name="bert_backbone",  # not bert_backbone_1 for the second one of a session
    )
    return nets.randomise(backbone, seed)


def preprocessor():
    tokenizer = keras_hub.models.BertTokenizer(VOCABULARY, lowercase=True, strip_accents=True)
    return keras_hub.models.BertTextClassifierPreprocessor(tokenizer, sequence_length=10)


def bert(seed=0):
    task = keras_hub.models.BertTextClassifier(
        bert_backbone(seed), num_classes=2, preprocessor=preprocessor()
    )
    return nets.randomise(task, seed)


def disturb(model, seed=9):
    rng = np.random.default_rng(seed)
    for layer in cl.clora_layers(model):
        for weight in [*layer.pair_weights, *([layer.bias] if layer.has_bias else [])]:
            weight.assign(rng.normal(size=weight.shape) / 50)
    return model


def paths(model):
    return [path for path, _ in graph.walk(model)]


def wrapped(model):
    return [path for path, layer in graph.walk(model) if isinstance(layer, cl.CLoRA)]


def predict(model, texts=TEXTS):
    """The logits of raw texts; without the seconds that tracing takes in model.predict()."""
    return ops.convert_to_numpy(model(model.preprocessor(texts)))


def compile_(model):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-2), loss, metrics=["accuracy"], jit_compile=False)
    return model


# compress


def test_a_task_stays_a_task_that_reads_raw_text():
    task = bert()
    before, outputs = nets.weights(task), predict(task)
    compressed = nets.compress(task)
    assert type(compressed) is keras_hub.models.BertTextClassifier
    assert type(compressed.backbone) is keras_hub.models.BertBackbone
    assert compressed.preprocessor is task.preprocessor
    assert not compressed.compiled and np.ptp(outputs) > 0.1
    raw = compressed.predict(TEXTS, batch_size=5, verbose=0)
    np.testing.assert_allclose(raw, outputs, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(predict(nets.compress(task, init="svd")), outputs, rtol=1e-4, atol=1e-5)
    nets.assert_same_weights(nets.weights(task), before)
    assert not cl.clora_layers(task) and task.get_config() == compressed.get_config()
    np.testing.assert_array_equal(predict(task), outputs)


def test_targets_none_is_all_but_the_logits():
    block = [
        *(f"self_attention_layer/{name}" for name in ("query", "key", "value", "attention_output")),
        *(f"feedforward_{name}_dense" for name in ("intermediate", "output")),
    ]
    expected = [f"bert_backbone/transformer_layer_{i}/{name}" for i in (0, 1) for name in block]
    assert wrapped(nets.compress(bert())) == [*expected, "bert_backbone/pooled_dense"]


@pytest.mark.parametrize(
    "targets, number",
    [
        (ATTENTION, 8),
        ("*/query", 2),
        ("*feedforward*", 4),
        (["*transformer_layer_1/*"], 6),
        ("pooled_dense", 1),
        ("logits", 1),
        ("bert_backbone/transformer_layer_0/self_attention_layer/key", 1),
        (lambda layer: layer.name == "value", 2),
    ],
)
def test_targets_in_blocks(targets, number):
    task, outputs = bert(), predict(bert())
    compressed = nets.compress(task, rank=1, targets=targets)
    assert len(cl.clora_layers(compressed)) == number
    np.testing.assert_allclose(predict(compressed), outputs, rtol=1e-4, atol=1e-5)
    disturb(compressed)
    small = cl.finalize(compressed, force=True)
    with cl.view(compressed, "compressed"):
        np.testing.assert_allclose(predict(small), predict(compressed), rtol=1e-4, atol=1e-5)


def test_rank_by_path():
    compressed = nets.compress(bert(), rank={"*transformer_layer_0/*": 3, "*": 2})
    ranks = {path: layer.rank for path, layer in graph.walk(compressed) if isinstance(layer, cl.CLoRA)}
    assert {rank for path, rank in ranks.items() if "layer_0" in path} == {3}
    assert {rank for path, rank in ranks.items() if "layer_0" not in path} == {2}


def test_a_backbone_alone():
    backbone = bert_backbone()
    x = {name: np.ones((2, 6), "int32") for name in ("token_ids", "segment_ids", "padding_mask")}
    outputs = backbone(x)
    compressed = nets.compress(backbone, targets=[*ATTENTION, "pooled_dense"])
    assert type(compressed) is keras_hub.models.BertBackbone and compressed.hidden_dim == WIDTH
    assert wrapped(compressed)[0] == "transformer_layer_0/self_attention_layer/query"
    assert [type(layer).__name__ for layer in compressed.transformer_layers] == ["TransformerEncoder"] * 2
    for name, output in compressed(x).items():
        np.testing.assert_allclose(output, outputs[name], rtol=1e-4, atol=1e-5)
    # Whoever calls a layer by its attribute gets the layer that the graph has.
    small = cl.finalize(disturb(compressed), force=True)
    first = small(x)["sequence_output"][:, 0]
    np.testing.assert_allclose(small.pooled_dense(first), small(x)["pooled_output"], rtol=1e-4, atol=1e-5)
    assert set(small.transformer_layers) <= set(small.layers)


def test_paths_of_variables_are_unique_and_name_their_block():
    compressed = nets.compress(bert())
    small = cl.finalize(compressed, force=True)
    for model in (compressed, small):
        found = [weight.path for weight in model.weights]
        assert len(set(found)) == len(found)
    assert any(path.startswith("transformer_layer_1/self_attention_layer/query/down") for path in
               (weight.path for weight in compressed.weights))  # fmt: skip


def test_parameters_are_exact():
    task = bert()
    pairs = 4 * RANK * 2 * WIDTH + 2 * RANK * (WIDTH + INNER)
    biases = 4 * WIDTH + INNER + WIDTH
    compressed = nets.compress(task, RANK, targets=[*ATTENTION, "*feedforward*"])
    trainable = sum(int(np.prod(weight.shape)) for weight in compressed.trainable_weights)
    assert trainable == 2 * (pairs + biases)
    frozen = [weight for weight in compressed.non_trainable_weights if not keyed(weight)]
    assert sum(int(np.prod(weight.shape)) for weight in frozen) == task.count_params()
    small = cl.finalize(compressed, force=True)
    kept = 2 * (pairs + biases + 4 * WIDTH)  # the layer norms stay
    assert small.count_params() == task.count_params() - 2 * BLOCK + kept
    assert len(small.trainable_weights) == len(small.weights)
    thawed = nets.compress(task, RANK, targets=ATTENTION, freeze=False)
    assert thawed.get_layer("logits").trainable and thawed.backbone.token_embedding.trainable


def keyed(weight):
    return weight.name in ("decay", "noise_mean", "noise_std")


def test_nothing_of_the_replaced_layers_is_tracked():
    """The tracker's private method, checked with Keras 3.15.1: without it W would be counted twice."""
    compressed = nets.compress(bert(), targets="*/query")
    attention = compressed.backbone.transformer_layers[0]._self_attention_layer
    tracked = [layer for layer in attention._layers if layer.name == "query"]
    assert tracked == [attention._query_dense] and isinstance(tracked[0], cl.CLoRA)
    assert attention._tracker.locked
    with pytest.raises(ValueError, match="cannot add new elements of state"):
        attention._query_dense = layers.Dense(3)


@pytest.mark.parametrize("finalized", [False, True])
def test_padding_changes_nothing(finalized):
    model = disturb(nets.compress(bert()))
    model = cl.finalize(model, force=True) if finalized else model
    ids = np.array([[2, 5, 7, 10, 8, 3]])

    def logits(length, filler):
        padded = np.full((1, length), filler)
        padded[:, : ids.shape[1]] = ids
        mask = (np.arange(length) < ids.shape[1])[None].astype("int32")
        x = {"token_ids": padded, "segment_ids": 0 * padded, "padding_mask": mask}
        return ops.convert_to_numpy(model(x))

    plain = logits(6, 0)
    np.testing.assert_allclose(logits(10, 0), plain, atol=1e-5)
    np.testing.assert_allclose(logits(10, 9), plain, atol=1e-5)
    unmasked = model({"token_ids": np.full((1, 6), 9), "segment_ids": 0 * ids, "padding_mask": 0 * ids + 1})
    assert np.abs(ops.convert_to_numpy(unmasked) - plain).max() > 1e-4  # the net does see its tokens


def test_raw_text_trains_under_the_callback_and_finalizes():
    task = bert()
    compressed = compile_(
        nets.compress(task, targets=[*ATTENTION, "*feedforward*"], schedule=nets.schedule(24))
    )
    before = nets.weights(compressed)
    data = {"x": TEXTS * 2, "y": np.tile(LABELS, 2), "batch_size": 5, "verbose": 0}
    history = compressed.fit(**data, epochs=12, callbacks=[cl.DecayCallback()]).history
    assert history["decay"][0] < 1.0 and history["decay"][-1] == 0.0
    assert np.isfinite(history["loss"]).all()
    changed = {
        name for name, value in nets.weights(compressed).items() if not np.array_equal(value, before[name])
    }
    assert changed and all(any(key in name for key in ("bias", "down", "up", "decay")) for name in changed)
    assert not any("base" in name for name in changed)
    small = cl.finalize(compressed)
    assert type(small) is type(task) and small.preprocessor is task.preprocessor
    np.testing.assert_allclose(predict(small), predict(compressed), rtol=1e-4, atol=1e-5)
    assert not cl.clora_layers(small)
    inside = [layer for layer in small.backbone._flatten_layers() if "query" in layer.name]
    assert {type(layer).__module__.split(".")[0] for layer in inside} == {"keras"}
    # It is a model as any other: it trains on, without the callback.
    compile_(small).fit(**data, epochs=1)


def test_views_of_a_task():
    compressed = disturb(nets.compress(bert()))
    trained = predict(compressed)
    with cl.view(compressed, "compressed"):
        alone = predict(compressed)
    with cl.view(compressed, "original"):
        np.testing.assert_allclose(predict(compressed), predict(bert()), rtol=1e-4, atol=1e-5)
    assert np.abs(alone - trained).max() > 1e-3
    np.testing.assert_array_equal(predict(compressed), trained)


def test_mixed_precision_is_kept_inside():
    keras.utils.set_random_seed(0)
    backbone = keras_hub.models.BertBackbone(
        12, 1, 2, WIDTH, INNER, max_sequence_length=10, dtype="mixed_bfloat16"
    )
    compressed = nets.compress(backbone, targets=ATTENTION)
    assert {layer.compute_dtype for layer in cl.clora_layers(compressed)} == {"bfloat16"}
    assert {layer.variable_dtype for layer in cl.clora_layers(compressed)} == {"float32"}


# Other models with the same blocks


def distilbert():
    hub = keras_hub.models
    backbone = hub.DistilBertBackbone(12, 2, 2, WIDTH, INNER, max_sequence_length=10)
    return nets.randomise(hub.DistilBertTextClassifier(backbone, num_classes=3))


def roberta():
    hub = keras_hub.models
    backbone = hub.RobertaBackbone(12, 2, 2, WIDTH, INNER, max_sequence_length=10)
    return nets.randomise(hub.RobertaTextClassifier(backbone, num_classes=3))


@pytest.mark.parametrize("build", [distilbert, roberta])
def test_other_encoders_of_kerashub(build):
    task = build()
    x = {
        "token_ids": np.array([[2, 5, 6, 3], [2, 7, 3, 0]]),
        "padding_mask": np.array([[1] * 4, [1, 1, 1, 0]]),
    }
    compressed = nets.compress(task)
    assert "pooled_dense" in wrapped(compressed) and len(wrapped(compressed)) == 13
    np.testing.assert_allclose(compressed(x), task(x), rtol=1e-4, atol=1e-5)
    small = cl.finalize(disturb(compressed), force=True)
    with cl.view(compressed, "compressed"):
        np.testing.assert_allclose(small(x), compressed(x), rtol=1e-4, atol=1e-5)


def attention_net():
    x = keras.Input((6, 8))
    y = layers.MultiHeadAttention(2, 4, name="attention")(x, x)
    return nets.randomise(keras.Model(x, layers.Dense(3, name="out")(layers.Add()([x, y]))))


def test_attention_of_plain_keras():
    model, x = attention_net(), nets.data(2, 6, 8)
    compressed = nets.compress(model)
    assert wrapped(compressed) == [
        f"attention/{name}" for name in ("query", "key", "value", "attention_output")
    ]
    np.testing.assert_allclose(nets.forward(compressed, x), nets.forward(model, x), rtol=1e-4, atol=1e-5)


class OwnAttention(layers.MultiHeadAttention):
    pass


def test_a_subclass_is_not_entered():
    x = keras.Input((6, 8))
    model = keras.Model(x, layers.Dense(3, name="out")(OwnAttention(2, 4, name="own")(x, x)))
    with pytest.raises(ValueError, match="'query' lies inside of layer 'own' \\(OwnAttention\\)"):
        nets.compress(model, targets="query")


# Accounting


def test_report_has_a_row_for_each_layer_in_a_block():
    task = bert()
    compressed = nets.compress(task, RANK, targets=ATTENTION)
    for model in (compressed, cl.finalize(compressed, force=True)):
        frame = cl.report(task, model).set_index("layer")
        query = frame.loc["bert_backbone/transformer_layer_1/self_attention_layer/query"]
        assert query["original_parameters"] == WIDTH * WIDTH + WIDTH
        assert query["parameters"] == RANK * 2 * WIDTH + WIDTH
        assert query["flops"] == 2 * RANK * 2 * WIDTH  # of one token, since the length is not known
        assert frame["compressed"].sum() == 8 + 1  # and the total
        assert frame.loc["total", "original_parameters"] == task.count_params()
    assert frame.loc["total", "parameters"] == model.count_params()


def test_ratios_of_the_encoder_by_hand():
    task = bert()
    compressed = nets.compress(task, RANK, targets=ATTENTION, method="wds")
    factors, biases, norms = 4 * RANK * 2 * WIDTH, 4 * WIDTH, 4 * WIDTH
    for model in (compressed, cl.finalize(compressed, force=True)):
        assert (
            cl.ratio(task, model, "slides_bert") == (factors + biases) / BLOCK
        )  # counts a bias all the same
        assert cl.ratio(task, model, "slides_bert_norms") == (factors + biases + norms) / BLOCK
        left = BLOCK - 4 * (WIDTH * WIDTH + WIDTH) + factors
        assert cl.ratio(task, model, "encoder") == left / BLOCK
        whole = task.count_params()
        assert cl.ratio(task, model, "model") == (whole - 2 * BLOCK + 2 * left) / whole


SHAPES = {"tiny": (2, 2, 128, 512), "small": (4, 8, 512, 2048)}


@pytest.mark.parametrize("name, convention", [("tiny", "slides_bert_norms"), ("small", "slides_bert")])
def test_ratios_of_the_slides(name, convention):
    """Slide 21 counts 1,024 parameters more than by slide 22's way: the norms, or each bias twice."""
    from clora_lab.lab import published

    blocks, heads, width, inner = SHAPES[name]
    # Vocabulary and positions stand outside of the blocks: a short one changes none of these ratios.
    backbone = keras_hub.models.BertBackbone(30, blocks, heads, width, inner, max_sequence_length=8)
    table = published.load(f"bert_{name}").query("method == 'wds'")
    assert len(table) == 3
    for rank, percent in zip(table["rank"], table["ratio_percent"], strict=True):
        compressed = nets.compress(backbone, int(rank), method="wds", targets=ATTENTION)
        found = 100 * cl.ratio(backbone, compressed, convention)
        assert round(found, 1) == percent
        other = "slides_bert" if convention == "slides_bert_norms" else "slides_bert_norms"
        assert abs(100 * cl.ratio(backbone, compressed, other) - percent) > 0.04


def test_ratio_of_the_encoder_where_there_is_none():
    model = nets.sequential()
    for convention in ("encoder", "slides_bert", "slides_bert_norms"):
        with pytest.raises(ValueError, match=f"`convention` '{convention}' is of the encoder blocks"):
            cl.ratio(model, model, convention)


# Recipes

RELOAD = """
import sys, json
import numpy as np
import clora_lab as cl
model = cl.load_recipe(sys.argv[1])
texts = json.loads(sys.argv[2])
np.save(sys.argv[3], model.predict(texts, batch_size=len(texts), verbose=0))
"""


@pytest.mark.parametrize("finalized", [False, True], ids=["compressed", "finalized"])
def test_a_recipe_reloads_in_a_fresh_process(finalized, tmp_path):
    model = disturb(nets.compress(bert(), targets=[*ATTENTION, "*feedforward*", "pooled_dense"]))
    nets.set_decay(model, 0.25)
    model = cl.finalize(model, force=True) if finalized else model
    outputs = predict(model)
    assert cl.save_recipe(model, tmp_path / "recipe") == tmp_path / "recipe"
    arguments = [str(tmp_path / "recipe"), json.dumps(TEXTS), str(tmp_path / "outputs.npy")]
    run = subprocess.run([sys.executable, "-c", RELOAD, *arguments], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    np.testing.assert_allclose(np.load(tmp_path / "outputs.npy"), outputs, atol=1e-5)


@pytest.mark.parametrize("finalized", [False, True], ids=["compressed", "finalized"])
@pytest.mark.parametrize("build", [bert, distilbert, attention_net, nets.sequential])
def test_a_recipe_gives_the_same_model(build, finalized, tmp_path):
    model = disturb(nets.compress(build()))
    model = cl.finalize(model, force=True) if finalized else model
    loaded = cl.load_recipe(cl.save_recipe(model, tmp_path / "recipe"))
    assert type(loaded) is type(model) and paths(loaded) == paths(model)
    nets.assert_same_weights(nets.weights(loaded), nets.weights(model))
    trainable = [weight.path for weight in model.trainable_weights]
    assert [weight.path for weight in loaded.trainable_weights] == trainable


def test_a_recipe_is_replaced_and_other_folders_are_left_alone(tmp_path):
    one = nets.compress(bert(), targets="*/query")
    two = nets.compress(bert(), targets="*/key")
    cl.save_recipe(one, tmp_path / "recipe")
    cl.save_recipe(two, tmp_path / "recipe")
    assert wrapped(cl.load_recipe(tmp_path / "recipe")) == wrapped(two)
    assert [path.name for path in tmp_path.iterdir()] == ["recipe"]
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/mine.txt").write_text("kept")
    with pytest.raises(ValueError, match="`folder` .*notes exists and holds no recipe"):
        cl.save_recipe(one, tmp_path / "notes")
    assert (tmp_path / "notes/mine.txt").read_text() == "kept"


def test_damaged_recipes_are_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no readable recipe.json"):
        cl.load_recipe(tmp_path / "absent")
    folder = cl.save_recipe(nets.compress(attention_net()), tmp_path / "recipe")
    recipe = json.loads((folder / "recipe.json").read_text())
    for change, message in (
        ({"format": 9}, "has the format 9"),
        ({"layers": {"nowhere": []}}, "replaces the layers \\['nowhere'\\]"),
        ({"parameters": 3}, "in place of 3"),
    ):
        (folder / "recipe.json").write_text(json.dumps({**recipe, **change}))
        with pytest.raises(ValueError, match=message):
            cl.load_recipe(folder)
    (folder / "recipe.json").write_text(json.dumps(recipe))
    (folder / "model.weights.h5").write_bytes(b"not hdf5")
    with pytest.raises(ValueError, match="model.weights.h5 cannot be read"):
        cl.load_recipe(folder)
    (folder / "recipe.json").write_text("{")
    with pytest.raises(ValueError, match="holds no readable recipe.json"):
        cl.load_recipe(folder)


def test_a_finalized_task_can_be_exported(tmp_path):
    import tensorflow as tf

    small = cl.finalize(disturb(nets.compress(bert())), force=True)
    small.export(str(tmp_path / "served"), verbose=False)
    x = {name: tf.cast(value, tf.int32) for name, value in small.preprocessor(TEXTS).items()}
    served = tf.saved_model.load(str(tmp_path / "served"))
    np.testing.assert_allclose(served.serve(x), predict(small), atol=1e-5)


def test_what_is_entered():
    assert graph.can_enter(keras_hub.layers.TransformerEncoder(4, 2))
    assert not graph.can_enter(keras_hub.layers.TransformerDecoder(4, 2))
    assert not graph.can_enter(layers.Dense(3))
    assert not graph.is_hub_model(attention_net()) and graph.is_hub_model(bert())
