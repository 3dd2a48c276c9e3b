"""The slides' four networks as tables of shapes: what arithmetic needs, and the layer picture of slide 18.

No network is built. A pair of rank r beside a kernel with the matrix shape (inputs, outputs) has
``inner · (inputs + outputs)`` parameters, by the rules of `clora_lab.rules`:

| layer | inputs, outputs | inner |
|---|---|---|
| Dense, EinsumDense | contracted, produced axes | r |
| Embedding | ids, width | r |
| Conv2D, "spatial" (the slides) and "loralib" | k·Cin, k·Cout | k·r |
| Conv2D, "pair" | k·k·Cin, Cout | r |

Sources: Simonyan & Zisserman 2015 (arXiv:1409.1556) for VGG16, Turc et al. 2019 (arXiv:1908.08962) for the
small BERTs; slides 9, 18 and 20 for what stands around them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from clora_lab import _checks


@dataclass(frozen=True)
class Layer:
    """A layer as a row: what it holds and what it gives.

    Args:
        name: as in the network; of a nested layer the path, as "block_0/attention/query".
        kind: name of its Keras class.
        kernel: shape of W, or of the table of an embedding; empty where there is none.
        bias: number of parameters beside the kernel.
        output: shape of the output of one example; empty where no picture shows it.
        contracted: how many leading axes of the kernel the layer sums over.
    """

    name: str
    kind: str
    kernel: tuple[int, ...] = ()
    bias: int = 0
    output: tuple[int, ...] = ()
    contracted: int = 1

    @property
    def parameters(self) -> int:
        """All parameters of the layer."""
        return (math.prod(self.kernel) if self.kernel else 0) + self.bias

    def pair(self, rank: int, factorization: str = "spatial") -> int:
        """Number of parameters of the low-rank pair that stands for the kernel.

        Args:
            rank: r, at least 1.
            factorization: of a Conv2D, "spatial" (the slides'), "loralib" or "pair".

        Raises:
            ValueError: a rank below 1, an unknown factorization, or a layer that has no pair.

        Example:
            >>> TOY[0].pair(16)  # 16 · (784 + 256)
            16640
        """
        rank = _checks.positive_int("rank", rank)
        _checks.one_of("factorization", factorization, ("spatial", "loralib", "pair"))
        if self.kind == "Conv2D":
            size, _, channels, filters = self.kernel
            if factorization == "pair":
                return rank * (size * size * channels + filters)
            return size * rank * size * (channels + filters)
        if self.kind not in ("Dense", "EinsumDense", "Embedding"):
            raise ValueError(
                f"Layer {self.name!r} must be Dense, EinsumDense, Conv2D or Embedding. Received: {self.kind}."
            )
        inputs, outputs = self.kernel[: self.contracted], self.kernel[self.contracted :]
        return rank * (math.prod(inputs) + math.prod(outputs))


def total(layers: Iterable[Layer]) -> int:
    """All parameters of the layers.

    Example:
        >>> total(TOY), total(VGG16)
        (235146, 18918730)
    """
    return sum(layer.parameters for layer in layers)


def remaining(
    layers: Iterable[Layer],
    rank: int | Callable[[Layer], int],
    bias: bool = True,
    factorization: str = "spatial",
) -> int:
    """Parameters of the pairs of `layers`, and of their biases.

    Args:
        layers: those that are compressed.
        rank: of each pair, or a function of the layer.
        bias: count the biases, as the slides do for all four methods; only two of them keep any.
        factorization: of the convolutions.

    Example:
        >>> remaining(TOY[:2], rank=64)
        91520
    """
    return sum(
        layer.pair(rank(layer) if callable(rank) else rank, factorization) + bias * layer.bias
        for layer in layers
    )


def _dense(name: str, inputs: int, units: int) -> Layer:
    return Layer(name, "Dense", (inputs, units), units, (units,))


# --- slide 9: the toy net -----------------------------------------------------------------------

TOY = (_dense("dense", 784, 256), _dense("dense_1", 256, 128), _dense("dense_2", 128, 10))
TOY_WRAPPED = TOY[:2]


# --- slide 18: VGG16 ----------------------------------------------------------------------------


def _vgg16(size: int = 32, classes: int = 10) -> tuple[Layer, ...]:
    layers, channels = [], 3
    for block, (count, filters) in enumerate([(2, 64), (2, 128), (3, 256), (3, 512), (3, 512)], start=1):
        for number in range(1, count + 1):
            kernel = (3, 3, channels, filters)
            output = (size, size, filters)
            layers.append(Layer(f"block{block}_conv{number}", "Conv2D", kernel, filters, output))
            channels = filters
        size //= 2
        layers.append(Layer(f"block{block}_pool", "MaxPooling2D", output=(size, size, channels)))
    features = size * size * channels
    layers.append(Layer("flatten", "Flatten", output=(features,)))
    layers += [_dense("dense_6", features, 4096), _dense("dense_7", 4096, 512)]
    return (*layers, _dense("dense_8", 512, classes))


VGG16 = _vgg16()  # at 32 × 32, with the head of slide 18; dropout has no parameters and is left out
VGG16_HEAD = VGG16[-1]
VGG16_WRAPPED = tuple(layer for layer in VGG16 if layer.kernel and layer is not VGG16_HEAD)


def vgg16_remaining(
    conv_rank: int, dense_rank: int, bias: bool = True, factorization: str = "spatial"
) -> int:
    """Parameters of VGG16's pairs with one rank for the convolutions and one for the dense layers.

    Example:
        >>> round(100 * vgg16_remaining(16, 64) / total(VGG16), 2)  # slide 19 prints 9.21
        9.21
    """
    return remaining(
        VGG16_WRAPPED,
        lambda layer: conv_rank if layer.kind == "Conv2D" else dense_rank,
        bias,
        factorization,
    )


# --- slide 20: BERT -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Bert:
    """A BERT backbone as tables of shapes: embeddings, encoder blocks, pooler.

    Args:
        blocks, hidden, heads: number of encoder blocks, width, attention heads; the feed-forward width is
            4 · hidden.
        vocabulary, positions, segments: rows of the three embeddings.

    Example:
        >>> BERT_TINY.parameters, total(BERT_TINY.encoder)
        (4385920, 396544)
    """

    blocks: int
    hidden: int
    heads: int
    vocabulary: int = 30_522
    positions: int = 512
    segments: int = 2

    @property
    def embeddings(self) -> tuple[Layer, ...]:
        """Three tables and a layer norm."""
        sizes = {"token": self.vocabulary, "position": self.positions, "segment": self.segments}
        tables = (
            Layer(f"{name}_embedding", "Embedding", (rows, self.hidden)) for name, rows in sizes.items()
        )
        return (*tables, self._norm("embeddings_layer_norm"))

    @property
    def attention(self) -> tuple[Layer, ...]:
        """Query, key, value and output of every block: what the slides compress."""
        return tuple(layer for layer in self.encoder if "/self_attention/" in layer.name)

    @property
    def norms(self) -> tuple[Layer, ...]:
        """The layer norms of the encoder blocks."""
        return tuple(layer for layer in self.encoder if layer.kind == "LayerNormalization")

    @property
    def encoder(self) -> tuple[Layer, ...]:
        """All layers of the encoder blocks."""
        d, heads = self.hidden, self.heads
        layers = []
        for index in range(self.blocks):
            block = f"transformer_layer_{index}"
            for name in ("query", "key", "value"):
                kernel = (d, heads, d // heads)
                layers.append(Layer(f"{block}/self_attention/{name}", "EinsumDense", kernel, d))
            kernel = (heads, d // heads, d)
            output = Layer(f"{block}/self_attention/attention_output", "EinsumDense", kernel, d, contracted=2)
            layers += [output, self._norm(f"{block}/self_attention_layer_norm")]
            layers.append(_dense(f"{block}/feedforward_intermediate", d, 4 * d))
            layers.append(_dense(f"{block}/feedforward_output", 4 * d, d))
            layers.append(self._norm(f"{block}/feedforward_layer_norm"))
        return tuple(layers)

    @property
    def parameters(self) -> int:
        """All parameters of the backbone, pooler included, classifier excluded."""
        return total((*self.embeddings, *self.encoder, self.pooler))

    @property
    def pooler(self) -> Layer:
        """What reads the first token."""
        return _dense("pooled_dense", self.hidden, self.hidden)

    def _norm(self, name: str) -> Layer:
        return Layer(name, "LayerNormalization", bias=2 * self.hidden)


BERT_TINY = Bert(blocks=2, hidden=128, heads=2)
BERT_SMALL = Bert(blocks=4, hidden=512, heads=8)
