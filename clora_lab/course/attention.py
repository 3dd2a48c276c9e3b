"""Where BERT's parameters are, what it attends to, and what it says of reviews, before and after compression.

What attends to what is the softmax of a head, ``P = softmax(Q K^T / sqrt(head_dim))``, a row a query (Vaswani
et al. 2017, arXiv:1706.03762). How far compression has moved it is told by the total variation of the rows,
``1/2 sum_k |P[q, k] - P'[q, k]|``: the share of its attention that a token has turned elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import keras
import numpy as np
import pandas as pd
from keras import ops
from matplotlib.figure import Figure
from scipy.special import expit

from clora_lab import _checks
from clora_lab.lab import training
from clora_lab.lab.data import text, tokens
from clora_lab.lab.figures.nets import where_parameters as draw_parts
from clora_lab.lab.nets import registry
from clora_lab.lab.nets.bert import WIDER, feed_forward_rank
from clora_lab.slides import shapes

BERTS = {"bert_tiny": shapes.BERT_TINY, "bert_small": shapes.BERT_SMALL}
SCOPES = {  # what is compressed, in words
    "attention": "attention",
    "encoder": "attention and feed-forward",
    WIDER: "attention, wider feed-forward",
    "model": "attention, feed-forward, pooler and token embedding",
}


def parts(model: str, rank: int | None = None, scope: str = "attention", bias: bool = True) -> pd.Series:
    """Parameters of a BERT backbone by part, as published or with some parts as pairs of a rank.

    Args:
        model: "bert_tiny" or "bert_small".
        rank: of the pairs; None for the original.
        scope: what the pairs stand for, see `SCOPES`: "attention" (the slides), "encoder" (the feed-forward
            halves too; "encoder_ff_wide" at a rank of their own), or "model" (those, the pooler and the token
            embedding).
        bias: whether a pair keeps a bias.

    Returns:
        Indexed by part: embeddings, attention, feed-forward, layer norms (of the blocks), pooler.

    Raises:
        ValueError: another model or scope, or a rank below 1.

    Example:
        >>> int(parts("bert_tiny").sum()), int(parts("bert_tiny", rank=16).sum())
        (4385920, 4287616)
    """
    bert = BERTS[_checks.one_of("model", model, BERTS)]
    _checks.one_of("scope", scope, SCOPES)
    groups = {
        "embeddings": bert.embeddings,
        "attention": bert.attention,
        "feed-forward": tuple(layer for layer in bert.encoder if layer.kind == "Dense"),
        "layer norms": bert.norms,
    }
    counts = {name: shapes.total(layers) for name, layers in groups.items()}
    counts["pooler"] = bert.pooler.parameters
    if rank is None:
        return pd.Series(counts, name=model)
    counts["attention"] = shapes.remaining(groups["attention"], rank, bias)
    if scope != "attention":
        wide = feed_forward_rank(scope, rank)
        counts["feed-forward"] = shapes.remaining(groups["feed-forward"], wide, bias)
    if scope == "model":
        tokens, *others = bert.embeddings
        # A table has no bias to fade, but its pair can have a new one, as wide as the vectors.
        counts["embeddings"] = shapes.total(others) + tokens.pair(rank) + bias * bert.hidden
        counts["pooler"] = shapes.remaining([bert.pooler], rank, bias)
    return pd.Series(counts, name=model)


def where_parameters(rank: int = 16, scope: str = "attention") -> Figure:
    """BERT-Tiny's and BERT-Small's parameters by part, before and after, in percent of the original.

    Args:
        rank: of the pairs.
        scope: as in `parts`.

    Raises:
        ValueError: as `parts`.

    Example:
        >>> where_parameters(16).alt_text[-59:]
        'of 28,763,648, attention 14.6% before, then 86.3% are left.'
    """
    states = {
        registry.label(model): {"before": parts(model), f"rank {rank}": parts(model, rank, scope)}
        for model in BERTS
    }
    title = f"Where BERT's parameters are, before and after {SCOPES[scope]} at rank {rank}"
    return draw_parts(states, title, "Counted from the shapes; parts below 8% without a number")


def attention_scores(model: keras.Model, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """The attention of every head: ``P = softmax(Q K^T / sqrt(head_dim))``, padding masked.

    Args:
        model: a BERT classifier or backbone of KerasHub, compressed or not.
        inputs: what it takes: token_ids, segment_ids, padding_mask, of shape (n, T).

    Returns:
        Shape (blocks, n, heads, T, T); each row, [..., query, :], sums to 1.

    Raises:
        ValueError: the model has no encoder blocks of KerasHub.

    Example:
        >>> attention_scores(net, tokens.tokenise(["a film"], tokenizer, 32)).shape  # doctest: +SKIP
        (2, 1, 2, 32, 32)
    """
    backbone = getattr(model, "backbone", model)
    blocks = getattr(backbone, "transformer_layers", None)
    if not blocks:
        raise ValueError(
            f"`model` must be a BERT of KerasHub with encoder blocks. Received: {type(model).__name__} "
            f"{getattr(model, 'name', '')!r}. Pass the classifier or its backbone."
        )
    embedded = keras.Model(backbone.input, backbone.get_layer("embeddings_dropout").output)
    inputs = {name: ops.convert_to_tensor(value) for name, value in inputs.items()}
    x, found = embedded(inputs, training=False), []
    for block in blocks:
        x, scores = block(
            x, padding_mask=inputs["padding_mask"], return_attention_scores=True, training=False
        )
        found.append(ops.convert_to_numpy(scores))
    return np.stack(found)


def attention_change(before: np.ndarray, after: np.ndarray, padding_mask: np.ndarray) -> pd.DataFrame:
    """How far each head has turned: total variation between its rows, ``1/2 sum_k |P[q, k] - P'[q, k]|``.

    Args:
        before, after: by `attention_scores`, shape (blocks, n, heads, T, T), of the same texts.
        padding_mask: shape (n, T), 1 where there is a token; rows of padding do not count.

    Returns:
        A row a head: block, head, change (mean over tokens and texts, 0: the same, 1: nothing in common),
        attended_before, attended_after: mean of exp(entropy), the number of tokens that a token looks at.

    Raises:
        ValueError: arrays of different shapes.

    Example:
        >>> P = np.full((1, 1, 1, 2, 2), 0.5)
        >>> attention_change(P, np.eye(2)[None, None, None], np.ones((1, 2)))["change"].item()
        0.5
    """
    before, after, mask = np.asarray(before), np.asarray(after), np.asarray(padding_mask, bool)
    texts, length = before.shape[1], before.shape[-1] if before.ndim == 5 else -1
    if before.shape != after.shape or before.ndim != 5 or mask.shape != (texts, length):
        raise ValueError(
            "`before` and `after` must have one shape (blocks, n, heads, T, T) and `padding_mask` (n, T). "
            f"Received: {before.shape}, {after.shape} and {mask.shape}."
        )

    def mean(values):  # (blocks, n, heads, T) -> (blocks, heads), over queries that are tokens
        weight = mask[None, :, None, :]
        return (values * weight).sum((1, 3)) / weight.sum()

    def attended(scores):
        return mean(np.exp(-(scores * np.log(np.maximum(scores, 1e-12))).sum(-1)))

    change = mean(np.abs(before - after).sum(-1) / 2)
    places = list(np.ndindex(change.shape))
    columns = {"change": change, "attended_before": attended(before), "attended_after": attended(after)}
    frame = pd.DataFrame(places, columns=["block", "head"])
    return frame.assign(**{name: values.ravel() for name, values in columns.items()})


def predictions(
    nets: Mapping[str, keras.Model], texts: Sequence[str], tokenizer, length: int, batch: int = 100
) -> pd.DataFrame:
    """The probability that each net gives to "positive", for each text.

    Args:
        nets: name -> classifier with two logits on token ids (negative, positive).
        texts: raw.
        tokenizer: a `keras_hub.models.BertTokenizer`, the one that the nets were trained with.
        length: of the sequences, in tokens.
        batch: so many texts at a time.

    Returns:
        A row a text: text, and a column for each net, probabilities.

    Raises:
        ValueError: no texts, or a net without two logits.

    Example:
        >>> predictions({"dense": net}, ["A wonderful film."], tokenizer, 32)  # doctest: +SKIP
    """
    inputs = tokens.tokenise([text.clean(each) for each in texts], tokenizer, length, cached=False)
    frame = pd.DataFrame({"text": list(texts)})
    for name, net in nets.items():
        logits = []
        for first in range(0, len(texts), batch):
            part = training.take(inputs, slice(first, first + batch))
            logits.append(ops.convert_to_numpy(ops.cast(net(part, training=False), "float32")))
        logits = np.concatenate(logits).astype("float64")
        if logits.shape != (len(texts), 2):
            raise ValueError(
                f"`nets` must give two logits a text. Received of {name!r} the shape {logits.shape} for "
                f"{len(texts)} texts. Pass a classifier, not its backbone."
            )
        frame[name] = expit(logits[:, 1] - logits[:, 0])
    return frame


def errors(predicted: pd.DataFrame, labels: Sequence[int]) -> pd.DataFrame:
    """Where two nets part: the predictions with their labels and a verdict, the widest gaps first.

    Args:
        predicted: by `predictions`, of two nets.
        labels: 0 negative, 1 positive.

    Returns:
        `predicted` with the columns label and verdict: "both right", "only <net> right" or "both wrong";
        ordered by the distance between the two probabilities.

    Raises:
        ValueError: not two nets, or another number of labels.

    Example:
        >>> both = pd.DataFrame({"text": ["Good.", "Bad."], "dense": [0.9, 0.2], "small": [0.3, 0.1]})
        >>> errors(both, [1, 0])["verdict"].tolist()
        ['only dense right', 'both right']
    """
    nets = [column for column in predicted.columns if column != "text"]
    labels = np.asarray(labels)
    if len(nets) != 2 or len(labels) != len(predicted):
        raise ValueError(
            "`predicted` must hold the probabilities of two nets, with a label for each of its texts. "
            f"Received: the nets {nets}, {len(predicted)} texts and {len(labels)} labels."
        )
    first, second = ((predicted[name].to_numpy() > 0.5) == (labels == 1) for name in nets)
    verdict = np.select(
        [first & second, first & ~second, ~first & second],
        ["both right", f"only {nets[0]} right", f"only {nets[1]} right"],
        "both wrong",
    )
    frame = predicted.assign(label=labels, verdict=verdict)
    gap = (frame[nets[0]] - frame[nets[1]]).abs()
    return frame.loc[gap.sort_values(ascending=False, kind="stable").index]
