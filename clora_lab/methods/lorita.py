"""LoRITa: layers trained as products of matrices under weight decay, truncated in the end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import keras
import numpy as np
from keras import ops

from clora_lab import _checks, rules
from clora_lab.composed import Composed
from clora_lab.methods.base import Method, ended, kernel_of
from clora_lab.rules.conv import ConvRule

TRUNCATIONS = ("local", "global")
FLOOR = 1e-3  # of the largest root: a direction that W lacks must not start as zero in every factor


@dataclass(frozen=True)
class LoRITa(Method):
    """Low-rank induced training (Alkhouri et al. 2024, arXiv:2405.03089): ``y = f( x W1 W2 ... WN + b )``.

    Each factor bears an L2 penalty of its own, added to the loss (coupled; an optimiser's decoupled weight
    decay is another thing), and over all factorisations

        min sum_i |W_i|_F^2 = N sum_j sigma_j^(2/N),

    a Schatten norm of the product, the nuclear norm for N = 2: training drives small singular values to
    zero. In the end the product is one kernel again, cut by its singular value decomposition. A dense layer
    has N - 1 square factors before its own, a convolution N - 1 of 1 x 1 behind it, an embedding N - 1
    behind it.

    Args:
        factors: N, at least 1; 1 is the layer itself under the penalty.
        weight_decay: lambda of the penalty lambda / 2 sum_i |W_i|_F^2.
        init: "svd" shares the singular values of W evenly among the factors, so that the net starts as it
            was; "random" takes Keras' own start values, as the paper does.
        truncation: "local" cuts every layer to its rank; "global" keeps the largest singular values of all
            convolutions together, and of all other layers together, as long as their parameters are not more
            than those of the ranks. The authors choose ranks on test data; here nothing is chosen by data.

    Raises:
        ValueError: for a value out of range.

    Example:
        >>> import clora_lab as cl
        >>> cl.methods.LoRITa(factors=3).weight_decay
        0.001
    """

    name: ClassVar[str] = "lorita"
    truncates: ClassVar[bool] = True

    factors: int = 2
    weight_decay: float = 1e-3
    init: str = "svd"
    truncation: str = "local"

    def __post_init__(self):
        _checks.positive_int("factors", self.factors)
        _checks.real("weight_decay", self.weight_decay, 0.0, 1e3)
        _checks.one_of("init", self.init, ("svd", "random"))
        _checks.one_of("truncation", self.truncation, TRUNCATIONS)

    def wrap(self, layer, rule, rank, seed):
        stages = self._stages(layer)
        settings = {"method": self.to_dict(), "factorization": rule.factorization}
        return [Composed(type(layer).from_config(layer.get_config()), stages, rank, **settings)]

    def _stages(self, layer) -> list[keras.layers.Layer]:
        """The unbuilt factors: the layer split at full width, and its square part again, N - 1 times."""
        shape = layer.get_build_config()["input_shape"]
        stages = [layer]
        while len(stages) < self.factors:
            place = len(stages) - 1 if _squares_come_last(layer) else 0
            whole = stages[place]
            if not whole.built:
                whole.build(_shape_before(stages[:place], shape))
            rule = rules.rule(whole, "pair")
            width = rule.matrix_shape[1 if _squares_come_last(layer) else 0]
            stages[place : place + 1] = rule.chain(width, whole.get_config())
        return [self._penalised(stage, number) for number, stage in enumerate(stages)]

    def _penalised(self, stage, number) -> keras.layers.Layer:
        config = {**stage.get_config(), "name": f"factor_{number}"}
        key = "embeddings_regularizer" if "embeddings_regularizer" in config else "kernel_regularizer"
        return type(stage).from_config({**config, key: keras.regularizers.L2(self.weight_decay / 2)})

    def start(self, new, rule, kernel, bias, rank, seed, moments=None):
        (composed,) = new
        if self.init == "svd":
            found = [rules.rule(stage, "pair") for stage in composed.stages]
            matrices = self._shared(rules.rule(_single(composed), "pair").to_matrix(kernel_of(kernel)), found)
            for stage, each, matrix in zip(composed.stages, found, matrices, strict=True):
                stage.weights[0].assign(each.to_kernel(matrix))
        if bias is not None:
            composed.stages[-1].bias.assign(kernel_of(bias))

    def _shared(self, matrix, found) -> list[np.ndarray]:
        """Matrices of the stages whose product is a matrix, its singular values shared evenly among them."""
        if len(found) == 1:
            return [matrix]
        left, singular, right = np.linalg.svd(np.asarray(matrix, "float64"), full_matrices=False)
        root = singular ** (1.0 / len(found))
        root = np.maximum(root, FLOOR * max(root.max(), np.finfo("float64").tiny))
        values = [left * root]
        values += [np.diag(root)] * (len(found) - 2)
        values.append((singular / root ** (len(found) - 1))[:, None] * right)
        return [_padded(value, rule.matrix_shape) for value, rule in zip(values, found, strict=True)]

    def ranks(self, wrapped):
        ranks = [layer.rank for layer in wrapped]
        if self.truncation == "local":
            return ranks
        together: dict[bool, list[int]] = {}
        for place, layer in enumerate(wrapped):
            together.setdefault(isinstance(layer.rule, ConvRule), []).append(place)
        for places in together.values():
            kept = _largest([wrapped[place] for place in places])
            ranks = [kept[places.index(place)] if place in places else old for place, old in enumerate(ranks)]
        return ranks

    def finish(self, new, rule, rank, keep_factors=False):
        config = {**new.original_config(), "use_bias": new.has_bias}
        factors = rule.decompose(collapsed(new), rank)
        bias = new.stages[-1].bias if new.has_bias else None
        if keep_factors and rule.merges:
            values = [*factors, *([] if bias is None else [ops.convert_to_numpy(bias)])]
            return [(rule.chain_of_factors(rank, config)[0], values)]
        return ended(rule.chain(rank, config), rule.kernels(factors), bias)


def collapsed(composed: Composed) -> np.ndarray:
    """The kernel that a chain of factors stands for: their product, in the shape of the layer's own."""
    product = None
    for stage in composed.stages:
        rule = rules.rule(stage, "pair")
        matrix = rule.to_matrix(ops.convert_to_numpy(rule.kernel_of(stage)).astype("float64"))
        product = matrix if product is None else product @ matrix
    return rules.rule(_single(composed), "pair").to_kernel(product)


def _single(composed) -> keras.layers.Layer:
    """A built layer of the replaced one's type, to ask its rule."""
    layer = keras.saving.deserialize_keras_object(composed.get_config()["layer"])
    layer.build(composed.rule.input_shape)
    return layer


def _squares_come_last(layer) -> bool:
    rule = rules.rule(layer, "pair")
    return rule.looks_up or isinstance(rule, ConvRule)


def _shape_before(stages, shape):
    for stage in stages:
        shape = stage.compute_output_shape(shape)
    return shape


def _padded(value, shape) -> np.ndarray:
    padded = np.zeros(shape)
    padded[: value.shape[0], : value.shape[1]] = value
    return padded


def _largest(group: list[Composed]) -> list[int]:
    """Ranks that keep the largest singular values of a group for no more parameters than its own ranks."""
    spectra = []
    for layer in group:
        values = np.linalg.svd(layer.rule.to_matrix(collapsed(layer)), compute_uv=False)
        spectra.append(values[:: layer.rule.inner(1)][: layer.rule.max_rank])
    budget = sum(layer.rule.parameters(layer.rank) for layer in group)
    ranks = [1] * len(group)  # no layer disappears
    spent = sum(layer.rule.parameters(1) for layer in group)
    falling = sorted(
        ((value, place) for place, values in enumerate(spectra) for value in values[1:]), reverse=True
    )
    for _, place in falling:
        cost = group[place].rule.parameters(1)
        if spent + cost > budget:
            break
        ranks[place] += 1
        spent += cost
    return ranks
