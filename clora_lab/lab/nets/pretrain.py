"""A BERT to start from where none can be had: pretrained on training texts by filling gaps."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import filelock
import keras
import numpy as np
import scipy.sparse
import scipy.sparse.linalg
from keras import ops

from clora_lab.lab import training
from clora_lab.lab.data import tokens
from clora_lab.lab.data.text import Reviews
from clora_lab.lab.nets import bert, starts


@dataclass(frozen=True)
class Pretraining:
    """Settings of the pretraining: fill the gaps (masked language model, Devlin et al. 2019,
    arXiv:1810.04805), without the second task of the paper, and without dropout: no text is read often.

    From BERT's own start values a net of this width guesses by frequency alone for thousands of steps. It
    begins to read its context within hundreds if the embeddings of the tokens are those of `cooccurrence`,
    the positions sinusoids, and the kernels of the blocks not so small (Glorot's rule asks for a spread of
    0.06 to 0.09 at width 128; BERT's 0.02 fits width 768).

    Args:
        epochs: over all pieces of the texts.
        batch_size: in pieces.
        length: of a piece, in tokens.
        rate: share of the tokens to be guessed; of these 80% masked, 10% replaced, 10% left.
        learning_rate: at its peak, after a warm-up of 5% of the steps; then a cosine to 0 (Adam). This is for
            width 128; a net of width d gets sqrt(128 / d) of it.
        guessed: only the most frequent so many tokens are gaps and answers: the product with the vocabulary
            is most of a step's cost, and most of it for words that the texts hardly have.
        spread: root of the mean square of the start values of token and position embeddings.
        gain: factor of the kernels' start values in the blocks. Both scale with the width as that rate.
        seed: of weights, order, gaps.
    """

    epochs: int = 3
    batch_size: int = 32
    length: int = 128
    rate: float = 0.15
    learning_rate: float = 1e-3
    guessed: int = 4_000
    spread: float = 0.05
    gain: float = 3.0
    seed: int = 0


class FrequentRows(keras.layers.Layer):
    """The rows of an embedding for some tokens, as the head of a masked language model asks for them.

    ``logits = x E[ids]^T``: the head of KerasHub multiplies by the whole embedding E, this by a part of it.

    Args:
        embedding: a built `ReversibleEmbedding`; its weights are shared, not copied.
        ids: of the tokens, shape (k,).
    """

    def __init__(self, embedding, ids, **kwargs):
        super().__init__(**kwargs)
        self.embedding, self.ids = embedding, np.asarray(ids, "int32")
        self.input_dim, self.output_dim = len(self.ids), embedding.output_dim
        self.built = True

    def call(self, x, reverse=True):
        rows = ops.take(self.embedding.embeddings, self.ids, axis=0)  # (k, d)
        return ops.matmul(x, ops.transpose(ops.cast(rows, x.dtype)))


class Gaps(keras.utils.PyDataset):
    """Batches of pieces with gaps, by BERT's rule; all follows from (seed, epoch, batch).

    Of the tokens that can be gaps a share is drawn; of these 80% become [MASK], 10% another token, 10% stay.
    (KerasHub's `MaskedLMMaskGenerator` does the same, but draws from TensorFlow's global state: a training
    that goes on after a kill would see other gaps.)

    Args:
        ids: pieces of text, int array of shape (n, length), padded.
        tokenizer: a BertTokenizer.
        frequent: ids of the tokens that can be gaps, of which none is special.
        settings: a `Pretraining`.
    """

    def __init__(self, ids, tokenizer, frequent, settings: Pretraining):
        super().__init__()
        self.ids, self.settings, self.frequent = ids, settings, np.asarray(frequent)
        self.seed = settings.seed
        self.pad, self.mask = tokenizer.pad_token_id, tokenizer.mask_token_id
        self.most = int(np.ceil(settings.rate * (settings.length - 2)))  # gaps in a piece
        self.place = np.full(tokenizer.vocabulary_size(), -1, "int32")
        self.place[self.frequent] = np.arange(len(self.frequent))
        self.start(0)

    def __len__(self):
        return len(self.ids) // self.settings.batch_size

    def start(self, epoch: int) -> None:
        """Set the epoch and draw its order, in place."""
        self.epoch = epoch
        self._order = np.random.default_rng((self.settings.seed, epoch)).permutation(len(self.ids))

    def on_epoch_end(self):
        self.start(self.epoch + 1)

    def __getitem__(self, index):
        """(inputs of the net, answers, weights); answers are places in `frequent`, shape (batch, most)."""
        rng = np.random.default_rng((self.settings.seed, self.epoch, index))
        size = self.settings.batch_size
        ids = self.ids[self._order[index * size : (index + 1) * size]]
        possible = self.place[ids] >= 0
        drawn = np.where(possible, rng.random(ids.shape), 2.0)
        positions = np.argsort(drawn, axis=1)[:, : self.most]
        wanted = np.ceil(self.settings.rate * possible.sum(1, keepdims=True))
        weights = (np.arange(self.most) < wanted).astype("float32")
        answers = np.take_along_axis(ids, positions, axis=1)
        fate = rng.random(answers.shape)
        other = rng.choice(self.frequent, answers.shape)
        written = np.where(fate < 0.8, self.mask, np.where(fate < 0.9, other, answers))
        gapped = ids.copy()
        np.put_along_axis(gapped, positions, np.where(weights > 0, written, answers), axis=1)
        inputs = tokens.model_inputs(gapped, self.pad) | {"mask_positions": positions.astype("int32")}
        return inputs, np.maximum(self.place[answers], 0), weights


def pretrain(
    reviews: Reviews,
    model: str = "bert_tiny",
    settings: Pretraining | None = None,
    vocabulary: Sequence[str] | None = None,
    folder: str | os.PathLike | None = None,
    verbose: int = 1,
) -> tuple[Path, list[dict]]:
    """Pretrain a BERT's shape on the training texts; labels, validation and test texts are not learned from.

    Killed at any moment and called again, it goes on from its last finished epoch.

    Args:
        reviews: whose training texts to read; gaps in the validation texts are guessed to measure.
        model: of `starts.pretrainable()`.
        settings: by default `Pretraining()`: a quarter of an hour on a core for BERT-Tiny.
        vocabulary: by default BERT's.
        folder: for the result; by default `starts.pretrained_dir(model)`.
        verbose: as in Keras: 1 for a progress bar, 2 for a line an epoch.

    Returns:
        The folder, a start for `classifier`, and the history, one dict an epoch.
    """
    settings = settings or Pretraining()
    folder = starts.pretrained_dir(model) if folder is None else Path(folder)
    tokenizer = bert.tokenizer_of(starts.bert_vocabulary() if vocabulary is None else vocabulary)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(folder.with_name(f".{folder.name}.lock")):
        ids, _ = tokens.pieces(reviews.x_train, tokenizer, settings.length)
        counts = np.bincount(ids.ravel(), minlength=tokenizer.vocabulary_size())
        counts[tokenizer.special_token_ids] = 0
        frequent = np.argsort(-counts, kind="stable")[: min(settings.guessed, np.count_nonzero(counts))]
        batches = Gaps(ids, tokenizer, frequent, settings)
        other, _ = tokens.pieces(reviews.x_val[:500], tokenizer, settings.length)
        held_out = Gaps(other, tokenizer, frequent, settings)
        if not len(batches) or not len(held_out):
            raise ValueError(
                f"`reviews` must give at least one batch of {settings.batch_size} pieces to train and to "
                f"measure. Received: {len(ids)} and {len(held_out.ids)} pieces. Use a smaller batch_size."
            )
        keras.utils.set_random_seed(settings.seed)
        net = bert.backbone(model, tokenizer.vocabulary_size(), dropout=0.0)
        _set_start(net, ids, tokenizer, settings)
        net.pooled_dense.trainable = False  # gaps are guessed without it, so it stays as it was drawn
        guesser = _gap_model(net, frequent)
        steps = settings.epochs * len(batches)
        peak = settings.learning_rate * _narrower(net)
        rate = keras.optimizers.schedules.CosineDecay(
            0.0, max(1, round(0.95 * steps)), warmup_target=peak, warmup_steps=max(1, round(0.05 * steps)),
        )  # fmt: skip
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        accuracy = keras.metrics.SparseCategoricalAccuracy(name="accuracy")
        guesser.compile(
            keras.optimizers.Adam(rate, clipnorm=1.0), loss, weighted_metrics=[accuracy], jit_compile=False
        )
        measure = _HeldOut(held_out)
        history, seconds = training.fit(
            guesser,
            batches,
            settings.epochs,
            folder.with_name(f"{folder.name}-epochs"),
            callbacks=[measure],
            start=lambda: measure.values(guesser),
            verbose=verbose,
        )
        whole = bert.backbone(model, tokenizer.vocabulary_size())  # with dropout, for what comes
        whole.set_weights(net.get_weights())
        _write(whole, tokenizer, folder, {"history": history, "seconds": seconds, "title": reviews.title})
    return folder, history


def cooccurrence(ids, size: int, width: int, skip: Sequence[int] = (), window: int = 5) -> np.ndarray:
    """Word vectors without training: ``U sqrt(S)`` of the SVD of the positive pointwise mutual information.

    ``PPMI(a, b) = max(0, log p(a, b) / (p(a) p(b)^0.75))``, p(a, b) from counts of pairs of tokens at most
    `window` apart, a pair at distance k counted as 1 / k. Source: Levy and Goldberg 2014, Neural word
    embedding as implicit matrix factorization; the power and the weights: Levy, Goldberg and Dagan 2015.

    Args:
        ids: pieces of text, int array of shape (n, length).
        size: of the vocabulary.
        width: of the vectors.
        skip: ids that count for nothing: the special tokens.
        window: in tokens.

    Returns:
        float32, shape (size, width); zeros for a token without a neighbour.

    Raises:
        ValueError: if `width` is not below `size`.

    Example:
        >>> vectors = cooccurrence(np.array([[1, 2, 1, 2], [3, 4, 3, 4]]), size=6, width=2)
        >>> vectors.shape, bool(np.allclose(vectors[[0, 5]], 0.0))
        ((6, 2), True)
    """
    if not 0 < width < size:
        raise ValueError(f"`width` must be at least 1 and below `size`, {size}. Received: {width}.")
    counts = scipy.sparse.csr_matrix((size, size), dtype="float64")
    counted = ~np.isin(ids, list(skip))
    for distance in range(1, window + 1):
        a, b = ids[:, :-distance], ids[:, distance:]
        both = counted[:, :-distance] & counted[:, distance:]
        weights = np.full(np.count_nonzero(both), 1.0 / distance)
        pairs = scipy.sparse.coo_matrix((weights, (a[both], b[both])), shape=(size, size)).tocsr()
        counts = counts + pairs + pairs.T
    total = np.asarray(counts.sum(axis=1)).ravel()
    counts = counts.tocoo()
    smoothed = total**0.75 / (total**0.75).sum()
    information = np.log(counts.data / total[counts.row] / smoothed[counts.col])
    positive = information > 0.0
    place = (counts.row[positive], counts.col[positive])
    matrix = scipy.sparse.csr_matrix((information[positive], place), shape=(size, size))
    u, s, _ = scipy.sparse.linalg.svds(matrix, k=width, random_state=0)
    vectors = (u * np.sqrt(s)).astype("float32")
    vectors[total == 0.0] = 0.0
    return vectors


def _set_start(net, ids, tokenizer, settings: Pretraining) -> None:
    """Set the start values that `Pretraining` tells of, in place."""
    spread, gain = settings.spread * _narrower(net), settings.gain * _narrower(net)
    table = net.token_embedding.embeddings
    size, width = table.shape
    found = cooccurrence(ids, size, width, tokenizer.special_token_ids)
    known = found.any(axis=1)
    found *= spread / np.sqrt(np.mean(found[known] ** 2))
    table.assign(np.where(known[:, None], found, ops.convert_to_numpy(table)))
    (positions,) = net.get_layer("position_embedding").weights
    rows, columns = np.arange(positions.shape[0])[:, None], np.arange(width)
    angles = rows / 10_000.0 ** (columns // 2 * 2 / width)  # Vaswani et al. 2017
    waves = np.where(columns % 2, np.cos(angles), np.sin(angles))
    positions.assign(np.sqrt(2.0) * spread * waves)  # a sinusoid's mean square is 1/2
    for weight in net.trainable_weights:
        if "transformer_layer" in weight.path and weight.path.endswith("kernel"):
            weight.assign(gain * weight)


def _narrower(net) -> float:
    """What a setting for width 128 is multiplied by: Glorot's spread falls with the root of the width."""
    return float(np.sqrt(bert.SHAPES["bert_tiny"].width / net.hidden_dim))


def _gap_model(net, frequent):
    """The backbone with KerasHub's head of a masked language model, tied to the embedding."""
    import keras_hub

    rows = FrequentRows(net.token_embedding, frequent, name="frequent_rows")
    head = keras_hub.layers.MaskedLMHead(
        token_embedding=rows,
        intermediate_activation="gelu",
        layer_norm_epsilon=1e-12,
        kernel_initializer=keras.initializers.TruncatedNormal(stddev=0.02),
        name="mlm_head",
    )
    inputs = {**net.input, "mask_positions": keras.Input((None,), dtype="int32", name="mask_positions")}
    outputs = head(net(net.input)["sequence_output"], inputs["mask_positions"])
    return keras.Model(inputs, outputs, name="gaps")


class _HeldOut(keras.callbacks.Callback):
    """Adds loss and accuracy on the gaps of other texts to each epoch's logs."""

    def __init__(self, batches: Gaps):
        super().__init__()
        # The same gaps at every epoch.
        self.batches = [batches[i] for i in range(len(batches))]

    def values(self, model) -> dict:
        loss, right, total = 0.0, 0.0, 0.0
        for inputs, answers, weights in self.batches:
            logits = model(inputs, training=False)
            each = keras.losses.sparse_categorical_crossentropy(answers, logits, from_logits=True)
            loss += float(np.sum(ops.convert_to_numpy(each) * weights))
            right += float(np.sum((np.argmax(ops.convert_to_numpy(logits), -1) == answers) * weights))
            total += float(weights.sum())
        return {"val_loss": loss / total, "val_accuracy": right / total}

    def on_epoch_end(self, epoch, logs=None):
        logs.update(self.values(self.model))


def _write(net, tokenizer, folder: Path, notes: dict) -> None:
    """Into place as a whole: a kill leaves the old folder or the new one."""
    import keras_hub

    with tempfile.TemporaryDirectory(prefix=".pretrained-", dir=folder.parent) as staging:
        part = Path(staging) / "whole"
        keras_hub.models.BertTextClassifierPreprocessor(tokenizer).save_to_preset(str(part))
        net.save_to_preset(str(part))
        (part / "pretraining.json").write_text(json.dumps(notes, indent=1))
        if folder.exists():
            os.replace(folder, Path(staging) / "old")
        os.replace(part, folder)
