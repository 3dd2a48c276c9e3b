"""The rule of Embedding: the factors of ALBERT."""

from __future__ import annotations

import keras
import numpy as np
from keras import ops

from clora_lab.rules.base import Rule, plain, rule
from clora_lab.rules.dense import DenseRule


class EmbeddingRule(DenseRule):
    """Embedding: ``W[ids] ~ down[ids] up``, W (vocabulary, width), down (vocabulary, rank), up (rank, width).

    It is the rule of Dense for inputs that are one-hot rows, which are never made: ids of shape (...) are
    looked up in down, and what comes, (..., rank), is multiplied by up to (..., width). The finished net has
    an Embedding(vocabulary, rank) and a Dense(width), the factorised embedding of ALBERT (Lan et al. 2020,
    arXiv:1909.11942); Acharya et al. 2019 (arXiv:1811.00641) make it of a trained table, by its singular
    value decomposition. A mask of id 0 (`mask_zero`) comes from the first and passes through the second.

    n x is a row of n, so a token has the same noise wherever it stands in a batch. For that the whole n is
    drawn at each step, vocabulary x width numbers: 3.9 million for BERT-Tiny, 23.4 million for BERT-base.

    A look-up has no multiplications, so W has 0 FLOPs and the pair those of up.

    A ReversibleEmbedding is one for as long as nothing calls it with reverse=True: the pair has no way back,
    and `clora_lab.compress` refuses a model that does. KerasHub's PositionEmbedding, and the tables inside of
    its TokenAndPositionEmbedding, have no rule.

    Raises:
        ValueError: for a ReversibleEmbedding with an output matrix of its own (tie_weights=False).

    Example:
        >>> import keras
        >>> from clora_lab import rules
        >>> layer = keras.layers.Embedding(1000, 64)
        >>> layer.build()
        >>> rule = rules.rule(layer)
        >>> rule.parameters(16), rule.break_even_rank, rule.cost(16, (None, 5, 64)).flops
        (17024, 61, 10240)
    """

    looks_up = True

    def __init__(self, layer):
        super().__init__(layer)
        if not self.config.get("tie_weights", True):
            raise ValueError(
                f"{type(layer).__name__} {layer.name!r} has tie_weights=False: its second matrix, from "
                "vectors back to ids, has no place in the pair. Leave the layer out of `targets`."
            )

    @staticmethod
    def kernel_of(layer):
        return layer.embeddings

    @staticmethod
    def bias_of(layer):
        return None

    # A token reads one row of M, however many there are: with the vocabulary as fan in the rows of down
    # would be next to nothing, and up, which is zero at the start, would hardly move.
    @property
    def fan(self):
        return 1

    def fan_by_rank(self, rank):
        return self.fan  # no slide factors an embedding

    def gain(self, kernel):
        return float(np.var(kernel))  # He's rule is for sums over inputs; a row has the size of those of W

    def to_inputs(self, x, dtype):
        return ops.cast(x, "int32")

    def linear(self, x, kernel):
        return ops.take(kernel, x, axis=0)

    def mask(self, x, mask):
        return ops.not_equal(x, 0) if self.config["mask_zero"] else None

    def rows(self, x):
        return ops.one_hot(ops.reshape(x, (-1,)), self.matrix_shape[0])

    def second_moment(self, x):
        ids = np.ravel(ops.convert_to_numpy(x)).astype("int64")
        return np.bincount(ids, minlength=self.matrix_shape[0]).astype("float64"), len(ids)

    def flops(self, kernel_shape, output_shape):
        return 0

    def _factor_flops(self, rank, output_shape):
        return super().flops((rank, self.matrix_shape[1]), output_shape)

    def _down(self, config, rank):
        kept = {key: config[key] for key in ("name", "trainable", "dtype", "mask_zero")}
        sizes = {"input_dim": self.matrix_shape[0], "output_dim": rank}
        return keras.layers.Embedding.from_config({**kept, **sizes})

    def _up(self, config):
        of_both = ("name", "trainable", "dtype", "use_bias", "activity_regularizer")
        kept = {key: config[key] for key in of_both if key in config}
        return keras.layers.Dense.from_config({**kept, "units": self.matrix_shape[1]})


@rule.register
def _(layer: keras.layers.Embedding, factorization: str | None = None) -> Rule:
    # Not all supported versions of Keras have it; KerasHub's is a subclass without code of its own.
    reversible = getattr(keras.layers, "ReversibleEmbedding", keras.layers.Embedding)
    stock = reversible if isinstance(layer, reversible) else keras.layers.Embedding
    return EmbeddingRule(plain(layer, stock))
