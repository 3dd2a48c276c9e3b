"""BERT classifiers from every start, and their shapes.

Shapes: Turc et al. 2019 (arXiv:1908.08962) for the small BERTs, Wang et al. 2020 (arXiv:2002.10957) for
MiniLM. Where weights come from is in `starts`; the titles of figures and tables say which it was.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass

import keras

from clora_lab import _checks
from clora_lab.lab.data.registry import DatasetDamaged
from clora_lab.lab.nets import starts

WIDER = "encoder_ff_wide"  # the scope whose feed-forward pairs have a rank of their own
WIDER_RANK = 2.75  # in units of attention's; MiniLM keeps more with it (data/results/bert.csv)


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
    """

    layers: int
    heads: int
    width: int
    inner: int


SHAPES = {
    "bert_tiny": Shape(2, 2, 128, 512),
    "bert_small": Shape(4, 8, 512, 2048),
    "minilm": Shape(6, 12, 384, 1536),
}


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
        start: see the table of `starts`; or a folder.
        length: of the sequences, in tokens.
        classes: number of logits.
        seed: of the new weights: the head's, and with "random" all.
        vocabulary: for "random" only, instead of BERT's (`starts.bert_vocabulary`).

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


bert_tiny, bert_small, minilm = (functools.partial(classifier, name) for name in SHAPES)


def backbone(model: str, vocabulary_size: int = starts.VOCABULARY_SIZE, dropout: float = 0.1):
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


def _start(model, start, vocabulary):
    """(backbone, tokenizer) of a start."""
    import keras_hub

    folder = starts.find(model, start)
    if folder is not None:
        return _from_folder(model, folder)
    if str(start) == "random":
        pieces = starts.bert_vocabulary() if vocabulary is None else list(vocabulary)
        return backbone(model, len(pieces)), tokenizer_of(pieces)
    preset = starts.preset(model)
    try:
        whole = keras_hub.models.BertBackbone.from_preset(preset)
        return whole, keras_hub.models.BertTokenizer.from_preset(preset)
    except Exception as error:  # the hub's client raises many kinds
        raise starts.no_preset(model, f"the hub can't be had: {error}") from error


def _from_folder(model, folder):
    """From KerasHub's format, or from that of Transformers: config.json, vocab.txt, model.safetensors.

    What the second needs, as found by reading: the package safetensors; `strip_accents`, which KerasHub's
    converter forgets; and a sequence length of one's own (the converter's is 256). KerasHub computes gelu by
    its tanh approximation, so hidden states differ from the original's by 3e-3.
    """
    import keras_hub

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
