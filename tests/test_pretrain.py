"""The pretraining: resumable, without a look at labels."""

import dataclasses
import json
import subprocess
import sys

import nets
import numpy as np
import pytest

from clora_lab.lab import paths
from clora_lab.lab.data import registry as datasets
from clora_lab.lab.data import text, tokens
from clora_lab.lab.nets import bert, pretrain, starts

hub = pytest.importorskip("keras_hub", reason="needs the extra 'text' (Python 3.11 or later)")

VOCABULARY = text.synthetic_vocabulary()
TEXTS = ["the film was great .", "the plot was awful !"]


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("CLORA_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(starts.VARIABLE, raising=False)


@pytest.fixture
def tiny_shape(monkeypatch):
    """BERT-Tiny with a width of 16, where its real size is not the point."""
    monkeypatch.setitem(bert.SHAPES, "bert_tiny", bert.Shape(2, 2, 16, 32))


SETTINGS = pretrain.Pretraining(epochs=2, batch_size=20, length=24, guessed=60, learning_rate=1e-2)


def gaps(settings=SETTINGS):
    tokenizer = bert.tokenizer_of(VOCABULARY)
    ids, _ = tokens.pieces(datasets.load("synthetic").x_train, tokenizer, settings.length)
    frequent = np.arange(5, 65)
    return pretrain.Gaps(ids, tokenizer, frequent, settings), tokenizer, frequent


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
    net = nets.randomise(bert.backbone("bert_tiny", 30))
    ids = np.array([4, 9, 2])
    rows = pretrain.FrequentRows(net.token_embedding, ids)
    x = nets.data(2, 5, 16)
    whole = np.asarray(net.token_embedding(x, reverse=True))
    np.testing.assert_allclose(np.asarray(rows(x)), whole[..., ids], rtol=1e-5, atol=1e-6)
    model = pretrain._gap_model(net, ids)
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
    vectors = pretrain.cooccurrence(ids, size, width, skip=[0], window=window)
    assert vectors.shape == (size, width) and not vectors[[0, 7]].any()
    # The sign of each column is nobody's: compare what does not depend on it.
    expected = (u[:, :width] * s[:width]) @ u[:, :width].T
    np.testing.assert_allclose(vectors @ vectors.T, expected, atol=1e-5)


@pytest.mark.parametrize("width", [0, 5])
def test_cooccurrence_needs_a_width_below_the_vocabulary(width):
    with pytest.raises(ValueError, match="`width` must be at least 1 and below `size`, 5"):
        pretrain.cooccurrence(np.zeros((1, 4), int), 5, width)


def test_the_start_values_of_the_pretraining(tiny_shape):
    ids = gaps()[0].ids
    tokenizer = bert.tokenizer_of(VOCABULARY)
    net = bert.backbone("bert_tiny", len(VOCABULARY), dropout=0.0)
    before = {weight.path: np.array(weight) for weight in net.weights}
    settings = dataclasses.replace(SETTINGS, spread=0.1, gain=2.0)
    pretrain._set_start(net, ids, tokenizer, settings)
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
    reviews = datasets.load("synthetic")
    settings = dataclasses.replace(SETTINGS, epochs=6)
    folder, history = pretrain.pretrain(reviews, "bert_tiny", settings, VOCABULARY, verbose=0)
    assert folder == starts.pretrained_dir() and [row["epoch"] for row in history] == list(range(7))
    batches = gaps()[0]
    shares = np.bincount(batches.place[batches.ids[batches.place[batches.ids] >= 0]])
    shares = shares[shares > 0] / shares.sum()
    alone = -np.sum(shares * np.log(shares))  # nats, of who knows how frequent the words are and nothing else
    assert history[0]["val_loss"] > alone > history[-1]["val_loss"] + 0.05
    model = bert.classifier("bert_tiny", "pretrained_here", length=12)
    assert model.backbone.dropout == 0.1  # as in the other starts: the pretraining alone does without
    random = bert.classifier("bert_tiny", "random", length=12, vocabulary=VOCABULARY)
    ids = model.preprocessor(TEXTS)
    assert np.abs(np.asarray(model(ids)) - np.asarray(random(ids))).max() > 1e-3
    np.testing.assert_array_equal(ids["token_ids"], random.preprocessor(TEXTS)["token_ids"])
    notes = json.loads((folder / "pretraining.json").read_text())
    assert notes["title"] == reviews.title and notes["history"] == history


KILLED = """
import os, sys
import keras
from clora_lab.lab.data import registry as datasets
from clora_lab.lab.data import text
from clora_lab.lab.nets import bert, pretrain
bert.SHAPES["bert_tiny"] = bert.Shape(2, 2, 16, 32)
settings = pretrain.Pretraining(epochs=2, batch_size=20, length=24, guessed=60, learning_rate=1e-2)
class Kill(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if self.model.optimizer.iterations >= int(sys.argv[1]):
            os.kill(os.getpid(), 9)
fit = pretrain.training.fit
def killed(*arguments, callbacks=(), **settings):
    return fit(*arguments, callbacks=[*callbacks, Kill()], **settings)
pretrain.training.fit = killed
pretrain.pretrain(datasets.load("synthetic"), "bert_tiny", settings, text.synthetic_vocabulary(), verbose=0)
"""


@pytest.mark.slow
def test_killed_in_the_second_epoch_it_ends_as_if_nothing_had_been(tiny_shape):
    batches = len(gaps()[0])
    run = subprocess.run([sys.executable, "-c", KILLED, str(batches + 3)], capture_output=True, text=True)
    assert run.returncode == -9, run.stderr
    reviews = datasets.load("synthetic")
    folder, history = pretrain.pretrain(reviews, "bert_tiny", SETTINGS, VOCABULARY, verbose=0)
    plain, undisturbed = pretrain.pretrain(
        reviews, "bert_tiny", SETTINGS, VOCABULARY, folder=paths.cache_dir() / "plain", verbose=0
    )
    for name in ("loss", "val_loss", "val_accuracy"):
        assert history[-1][name] == pytest.approx(undisturbed[-1][name], rel=1e-4)
    one, two = (hub.models.BertBackbone.from_preset(str(place)) for place in (folder, plain))
    for a, b in zip(one.weights, two.weights, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_too_few_texts_to_pretrain(tiny_shape):
    settings = pretrain.Pretraining(batch_size=5_000, length=24)
    with pytest.raises(ValueError, match="`reviews` must give at least one batch of 5000"):
        pretrain.pretrain(datasets.load("synthetic"), "bert_tiny", settings, VOCABULARY, verbose=0)
