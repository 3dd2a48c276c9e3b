"""Which low-rank pair stands for which layer.

A rule answers, for one layer type, how its kernel is a matrix M of shape (inputs, outputs), which plain
Keras layers compute ``x -> x down up``, and what the pair costs. In the slides' notation A = down^T and
B = up^T, so B A = (down up)^T.

| layer | M | down, up | parameters of the pair |
|---|---|---|---|
| Dense (in, out) | (in, out) | Dense(rank), Dense(out) | rank (in + out) |
| EinsumDense | (contracted axes, produced axes) | EinsumDense, EinsumDense | rank (contracted + produced) |
| Conv2D "pair" | (k k Cin, Cout) | k x k convolution to rank, then 1 x 1 | rank (k k Cin + Cout) |
| Conv2D "loralib" | (k Cin, k Cout) | one kernel of rank k * rank | k k rank (Cin + Cout) |
| Embedding (ids, width) | (ids, width) | Embedding(rank), Dense(width) | rank (ids + width) |

Adding a type is one class and one `rule.register`. Sources: Hu et al. 2021 (arXiv:2106.09685) for the pair;
its code, loralib, for the second convolution; Zhang et al. 2015 (arXiv:1505.06798) for the first; Lan et al.
2020 (ALBERT, arXiv:1909.11942) for the embedding, Acharya et al. 2019 (arXiv:1811.00641) for a trained one.
"""

from __future__ import annotations

import functools
import math
import string

import keras
import numpy as np
from keras import ops

from clora_lab import _checks

FACTORIZATIONS = ("pair", "loralib")
INITS = ("lora", "svd", "svd_copy", "activations", "orthogonal", "scratch")
# Those that take their part out of W, so that only the residual decays.
RESIDUAL_INITS = ("svd", "activations")
RIDGE = 1e-4  # added to the Gram matrix of "activations", as a share of its mean diagonal

# What must not be carried from the original layer to a factor: it belongs to W, or is set by the rule.
_OF_KERNEL = (
    "kernel_initializer",
    "kernel_regularizer",
    "kernel_constraint",
    "quantization_config",
)


class BreakEvenWarning(UserWarning):
    """The low-rank pair has at least as many parameters as the layer that it replaces."""


class Rule:
    """How one built layer is factored; see `rule`. Shapes are those of the module's table.

    Attributes:
        name: the layer's name.
        config: the layer's config.
        kernel_shape: the shape of W.
        matrix_shape: (inputs, outputs) of the matrix M.
        stat_axes: axes of the kernel over which m and s of the noise are taken.
        bias_shape: shape of a trainable bias for this layer.
        bias_view: the shape in which that bias is added to the output.
    """

    fan_scale = math.sqrt(5.0)  # of the slides' initialiser; 1 for convolutions
    merges = False  # whether the pair is one kernel, which in training adds to W before the layer runs once
    looks_up = False  # whether inputs are numbers of rows: `clora_lab.compress` takes these only by name

    def __init__(self, layer):
        # The layer itself is not kept: a rule must not hold a second copy of W alive.
        self.name = layer.name
        self.config = layer.get_config()
        self.kernel_shape = tuple(self.kernel_of(layer).shape)

    @staticmethod
    def kernel_of(layer):
        """The variable W of a built layer of this type."""
        return layer.kernel

    @staticmethod
    def bias_of(layer):
        """The variable b of a built layer of this type, or None."""
        return layer.bias

    @property
    def kernel_size(self) -> int:
        """Number of elements of W."""
        return math.prod(self.kernel_shape)

    def inner(self, rank: int) -> int:
        """Width of the product down up."""
        return rank

    @property
    def max_rank(self) -> int:
        """The largest rank that M can have."""
        return min(self.matrix_shape)

    def parameters(self, rank: int) -> int:
        """Number of elements of down and up."""
        return self.inner(rank) * sum(self.matrix_shape)

    @property
    def break_even_rank(self) -> int:
        """The smallest rank at which the pair is no smaller than W."""
        return math.ceil(self.kernel_size / self.parameters(1))

    def to_matrix(self, kernel: np.ndarray) -> np.ndarray:
        """The kernel as M."""
        return np.reshape(kernel, self.matrix_shape)

    def to_kernel(self, matrix: np.ndarray) -> np.ndarray:
        """M as the kernel."""
        return np.reshape(matrix, self.kernel_shape)

    @property
    def unit_axes(self) -> tuple[int, ...]:
        """Axes of the kernel that belong to one output unit."""
        return self.stat_axes

    @property
    def fan(self) -> int:
        """How many elements of M an output sums over: the fan in of the start values."""
        return self.matrix_shape[0]

    def gain(self, kernel: np.ndarray) -> float:
        """Variance of a fresh M times `fan`: 2, by He et al. 2015."""
        return 2.0

    def to_inputs(self, x, dtype):
        """The layer's inputs as `linear` takes them, for a kernel of `dtype`."""
        return ops.cast(x, dtype)

    def linear(self, x, kernel):
        """The layer's linear map of x with another kernel, without bias and activation."""
        raise NotImplementedError

    def mask(self, x, mask):
        """The Keras mask of the outputs, given that of the inputs x (or None)."""
        return mask

    def second_moment(self, x) -> tuple[np.ndarray, int]:
        """The sum of x^T x over the rows x of M's inputs, and their number, as "activations" needs it.

        Returns:
            An array of shape (inputs, inputs), or its diagonal (inputs,) if it has nothing else.
        """
        rows = np.asarray(ops.convert_to_numpy(ops.cast(self.rows(x), "float32")), "float64")
        return rows.T @ rows, len(rows)

    def rows(self, x):
        """The layer's inputs x as the rows that M multiplies, a tensor of shape (n, inputs)."""
        raise ValueError(
            f"Layer {self.name!r} ({type(self).__name__}) is no product of its inputs and one matrix, so "
            "init='activations' does not apply. Use init='svd', or factorization='pair'."
        )

    def pair(self, rank: int) -> list[keras.layers.Layer]:
        """Unbuilt layers, without bias and activation, that compute x -> x down up in turn."""
        plain = _linear_only(self.config)
        return [self._down({**plain, "name": "down"}, rank), self._up({**plain, "name": "up"})]

    def final(self, rank: int, config: dict) -> list[keras.layers.Layer]:
        """Unbuilt stock layers of the finished net.

        Args:
            rank: r.
            config: of the original layer, its `use_bias` set as the finished net needs it; the last layer
                has its name and activation.
        """
        down = {**_linear_only(config), "name": f"{config['name']}_down"}
        return [self._down(down, rank), self._up(_without_kernel(config))]

    def kernels(self, down: np.ndarray, up: np.ndarray) -> list[np.ndarray]:
        """down (inputs, inner) and up (inner, outputs) in the shapes of the kernels of `pair`."""
        return [down, up]

    def matrices(self, kernels: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """The inverse of `kernels`."""
        inputs, outputs = self.matrix_shape
        return np.reshape(kernels[0], (inputs, -1)), np.reshape(kernels[1], (-1, outputs))

    def final_kernels(self, down: np.ndarray, up: np.ndarray) -> list[np.ndarray]:
        """The same for the layers of `final`."""
        return self.kernels(down, up)

    def final_variables(self, layers: list[keras.layers.Layer]) -> list:
        """The variables of the built layers of `final` that `final_kernels` are for."""
        return [layer.kernel for layer in layers]

    def flops(self, kernel_shape, output_shape) -> int:
        """2 x multiply-adds of one example through a kernel; unknown axes of the output count once."""
        positions = math.prod(size or 1 for size in self._positions(output_shape))
        return 2 * math.prod(kernel_shape) * positions

    def pair_flops(self, rank: int, output_shape) -> int:
        """The same of the pair."""
        return self.flops((self.parameters(rank),), output_shape)

    def _positions(self, output_shape):
        return output_shape[1:-1]

    @property
    def bias_view(self):
        return self.bias_shape

    def _down(self, config, rank):
        raise NotImplementedError

    def _up(self, config):
        raise NotImplementedError


def _without_kernel(config: dict) -> dict:
    return {k: v for k, v in config.items() if k not in _OF_KERNEL} | {"trainable": True}


def _linear_only(config: dict) -> dict:
    dropped = ("activity_regularizer", "bias_regularizer", "bias_constraint")
    kept = {k: v for k, v in _without_kernel(config).items() if k not in dropped}
    return kept | {"use_bias": False, "activation": None}


class DenseRule(Rule):
    """Dense: ``x W ~ (x down) up``."""

    stat_axes = (0,)

    def __init__(self, layer):
        super().__init__(layer)
        self.matrix_shape = self.kernel_shape
        self.bias_shape = (self.kernel_shape[1],)

    def linear(self, x, kernel):
        return ops.matmul(x, kernel)

    def rows(self, x):
        return ops.reshape(x, (-1, self.matrix_shape[0]))

    def _down(self, config, rank):
        return keras.layers.Dense.from_config({**config, "units": rank})

    def _up(self, config):
        return keras.layers.Dense.from_config(config)


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
        >>> from clora_lab import factors
        >>> layer = keras.layers.Embedding(1000, 64)
        >>> layer.build()
        >>> rule = factors.rule(layer)
        >>> rule.parameters(16), rule.break_even_rank, rule.pair_flops(16, (None, 5, 64))
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

    def final_variables(self, layers):
        down, up = layers
        return [down.embeddings, up.kernel]

    def flops(self, kernel_shape, output_shape):
        return 0

    def pair_flops(self, rank, output_shape):
        return super().flops((rank, self.matrix_shape[1]), output_shape)

    def _down(self, config, rank):
        kept = {key: config[key] for key in ("name", "trainable", "dtype", "mask_zero")}
        sizes = {"input_dim": self.matrix_shape[0], "output_dim": rank}
        return keras.layers.Embedding.from_config({**kept, **sizes})

    def _up(self, config):
        of_both = ("name", "trainable", "dtype", "use_bias", "activity_regularizer")
        kept = {key: config[key] for key in of_both if key in config}
        return keras.layers.Dense.from_config({**kept, "units": self.matrix_shape[1]})


class EinsumDenseRule(Rule):
    """EinsumDense: contracted kernel axes to rank, rank to produced kernel axes.

    "abc,cde->abde" becomes "abc,cr->abr" and "abr,rde->abde". An equation in which the kernel shares an
    axis with both input and output (a batch of kernels) has no such pair and is refused.
    """

    def __init__(self, layer):
        super().__init__(layer)
        equation = layer.equation.replace(" ", "")
        inputs, output = equation.split("->")
        x, kernel = inputs.split(",")
        shared = [axis for axis in kernel if axis in x and axis in output]
        if shared or len(set(kernel)) != len(kernel):
            raise ValueError(
                f"EinsumDense {layer.name!r} with equation={layer.equation!r} can't be factored: the "
                f"kernel axes {shared or list(kernel)} are neither only contracted nor only produced. "
                "Leave the layer out of `targets`."
            )
        self.equation = equation
        self.contracted = [axis for axis in kernel if axis in x]
        self.produced = [axis for axis in kernel if axis in output]
        if not self.contracted or not self.produced:
            raise ValueError(
                f"EinsumDense {layer.name!r} with equation={layer.equation!r} can't be factored: its "
                "kernel needs at least one contracted and one produced axis."
            )
        sizes = dict(zip(kernel, self.kernel_shape, strict=True))
        self._to_matrix_order = [kernel.index(axis) for axis in self.contracted + self.produced]
        self._contracted_shape = tuple(sizes[axis] for axis in self.contracted)
        self._produced_shape = tuple(sizes[axis] for axis in self.produced)
        self.matrix_shape = (math.prod(self._contracted_shape), math.prod(self._produced_shape))
        self.stat_axes = tuple(kernel.index(axis) for axis in self.contracted)
        self.output_axes = output
        rank_axis = next(a for a in string.ascii_lowercase if a not in equation)
        # The rank takes the place of the first contracted axis, so that '...' stays where it was.
        middle = x.replace(self.contracted[0], rank_axis)
        for axis in self.contracted[1:]:
            middle = middle.replace(axis, "")
        self.rank_axis, self.middle = rank_axis, middle
        self.down_equation = f"{x},{''.join(self.contracted)}{rank_axis}->{middle}"
        self.up_equation = f"{middle},{rank_axis}{''.join(self.produced)}->{output}"
        self.bias_axes = self.config["bias_axes"] or "".join(a for a in output if a in self.produced)
        biased = layer
        if layer.bias is None:  # the shape that a bias would have is Keras' to say
            biased = keras.layers.EinsumDense.from_config({**self.config, "bias_axes": self.bias_axes})
            biased.build(layer.get_build_config()["input_shape"])
        self.bias_shape = tuple(biased.bias.shape)

    def to_matrix(self, kernel):
        return np.reshape(np.transpose(kernel, self._to_matrix_order), self.matrix_shape)

    def to_kernel(self, matrix):
        tensor = np.reshape(matrix, self._contracted_shape + self._produced_shape)
        return np.transpose(tensor, np.argsort(self._to_matrix_order))

    def linear(self, x, kernel):
        return ops.einsum(self.equation, x, kernel)

    def rows(self, x):
        axes = self.equation.split(",")[0]
        first = axes.index("...") if "..." in axes else len(axes)
        # Axes behind "..." are counted from the end.
        places = [axes.index(a) - (len(axes) if axes.index(a) > first else 0) for a in self.contracted]
        ends = range(-len(places), 0)
        return ops.reshape(ops.moveaxis(x, places, list(ends)), (-1, self.matrix_shape[0]))

    def kernels(self, down, up):
        return [
            np.reshape(down, (*self._contracted_shape, -1)),
            np.reshape(up, (-1, *self._produced_shape)),
        ]

    def _positions(self, output_shape):
        axes = self.output_axes
        if "..." in axes:  # all but the produced axes
            known = math.prod(size or 1 for size in output_shape[1:])
            return [max(1, known // math.prod(self._produced_shape))]
        return [n for a, n in zip(axes[1:], output_shape[1:], strict=True) if a not in self.produced]

    def _down(self, config, rank):
        # Keras wants the shape without what a leading "..." stands for, or else without the batch.
        def named(axes):
            return (axes[3:] if axes.startswith("...") else axes[1:]).replace("...", "")

        sizes = config["output_shape"]
        sizes = (sizes,) if isinstance(sizes, int) else sizes
        sizes = {**dict(zip(named(self.output_axes), sizes, strict=False)), self.rank_axis: rank}
        shape = [sizes.get(axis) for axis in named(self.middle)]
        return self._layer({**config, "equation": self.down_equation, "output_shape": shape})

    def _up(self, config):
        return self._layer({**config, "equation": self.up_equation})

    def _layer(self, config):
        use_bias = config.pop("use_bias")  # EinsumDense says it by `bias_axes`
        config["bias_axes"] = self.bias_axes if use_bias else None
        return keras.layers.EinsumDense.from_config(config)


class ConvPairRule(Rule):
    """Conv2D as two convolutions: k x k to rank (stride, padding, dilation kept), then 1 x 1."""

    fan_scale = 1.0
    stat_axes = (0, 1, 2, 3)

    def __init__(self, layer):
        super().__init__(layer)
        if self.config["groups"] != 1:
            raise ValueError(
                f"Conv2D {layer.name!r} has groups={self.config['groups']}: only groups=1 can be "
                "factored. Leave the layer out of `targets`."
            )
        *spatial, channels, filters = self.kernel_shape
        self.matrix_shape = (math.prod(spatial) * channels, filters)
        self.bias_shape = (filters,)

    def linear(self, x, kernel):
        return ops.conv(
            x,
            kernel,
            strides=self.config["strides"],
            padding=self.config["padding"],
            data_format=self.config["data_format"],
            dilation_rate=self.config["dilation_rate"],
        )

    @property
    def unit_axes(self):
        return (0, 1, 2)

    def rows(self, x):
        if self.config["data_format"] == "channels_first":
            x = ops.moveaxis(x, 1, -1)
        patches = ops.image.extract_patches(
            x,
            self.kernel_shape[:2],
            strides=self.config["strides"],
            dilation_rate=self.config["dilation_rate"],
            padding=self.config["padding"],
            data_format="channels_last",
        )
        return ops.reshape(patches, (-1, self.matrix_shape[0]))

    def kernels(self, down, up):
        return [np.reshape(down, (*self.kernel_shape[:3], -1)), up[None, None]]

    def _positions(self, output_shape):
        if self.config["data_format"] == "channels_first":
            return output_shape[2:]
        return output_shape[1:-1]

    @property
    def bias_view(self):
        if self.config["data_format"] == "channels_first":
            return (*self.bias_shape, 1, 1)
        return self.bias_shape

    def _down(self, config, rank):
        return keras.layers.Conv2D.from_config({**config, "filters": rank})

    def _up(self, config):
        one = {"kernel_size": 1, "strides": 1, "padding": "valid", "dilation_rate": 1}
        return keras.layers.Conv2D.from_config({**config, **one})


class ConvLoralibRule(ConvPairRule):
    """Conv2D as loralib factors it: B (Cout k, rank k) times A (rank k, Cin k), reshaped to the kernel.

    B A has the memory order of loralib's kernel, (Cout, Cin, k, k). No stock layer holds these factors:
    in training they are the weights of `KernelPair`, and the finished net gets either their product as the
    kernel of an ordinary Conv2D, or the `KernelPair` itself. Either runs as many parameters as W had.
    """

    merges = True

    def __init__(self, layer):
        super().__init__(layer)
        height, width, channels, filters = self.kernel_shape
        if height != width:
            raise ValueError(
                f"Conv2D {layer.name!r} has a {height} x {width} kernel: the factorization 'loralib' "
                "needs a square one. Use factorization='pair'."
            )
        self.size = height
        self.matrix_shape = (channels * height, filters * height)

    def inner(self, rank):
        return rank * self.size

    @property
    def max_rank(self):
        # The slides give conv1_1, with 3 input channels, ranks of 16 and 32: wasteful, but theirs.
        return max(self.kernel_shape[2:])

    def rows(self, x):
        return Rule.rows(self, x)  # its matrix is a reshape of the kernel, not what patches are multiplied by

    def to_matrix(self, kernel):
        # (k, k, Cin, Cout) -> (Cout, Cin, k, k) -> B A of shape (Cout k, Cin k) -> M = (B A)^T
        return np.reshape(np.transpose(kernel, (3, 2, 0, 1)), self.matrix_shape[::-1]).T

    def to_kernel(self, matrix):
        k, _, channels, filters = self.kernel_shape
        return np.transpose(np.reshape(matrix.T, (filters, channels, k, k)), (2, 3, 1, 0))

    def pair(self, rank):
        return [self._factored(rank, ("dtype", "data_format", "strides", "padding", "dilation_rate"))]

    def final(self, rank, config):
        return [keras.layers.Conv2D.from_config(_without_kernel(config))]

    def final_factored(self, rank, config) -> list[keras.layers.Layer]:
        """As `final`, with the factors kept: a `KernelPair`."""
        kept = (
            "name",
            "dtype",
            "data_format",
            "strides",
            "padding",
            "dilation_rate",
            "activation",
            "use_bias",
        )
        return [self._factored(rank, kept, config)]

    def _factored(self, rank, kept, config=None):
        config = {key: (config or self.config)[key] for key in kept}
        return KernelPair.from_config({**config, "rank": rank, "kernel_shape": self.kernel_shape})

    def kernels(self, down, up):
        return [down, up]

    def matrices(self, kernels):
        return kernels[0], kernels[1]

    def final_kernels(self, down, up):
        return [self.to_kernel(down @ up)]


@keras.saving.register_keras_serializable("clora_lab")
class KernelPair(keras.layers.Layer):
    """A convolution whose kernel is the product of loralib's factors: ``f(conv(x, (down up)^T) + c)``.

    It stores k k rank (Cin + Cout) numbers and runs as the full convolution. `CLoRA` trains it; a net that
    `clora_lab.finalize` made with ``keep_factors=True`` ends with it, and needs this package to load.

    Args:
        rank: r; the factors have the width r k.
        kernel_shape: (k, k, Cin, Cout).
        strides, padding, data_format, dilation_rate, activation, use_bias: as for Conv2D.

    Input shape: that of the Conv2D.

    Output shape: that of the Conv2D.

    Example:
        >>> import keras
        >>> from clora_lab.factors import KernelPair
        >>> layer = KernelPair(2, (3, 3, 8, 16), strides=1, padding="same")
        >>> tuple(layer(keras.ops.ones((1, 5, 5, 8))).shape), layer.count_params()
        ((1, 5, 5, 16), 432)
    """

    def __init__(
        self,
        rank,
        kernel_shape,
        strides=1,
        padding="valid",
        data_format=None,
        dilation_rate=1,
        activation=None,
        use_bias=False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.rank = rank
        self.kernel_shape = tuple(kernel_shape)
        self.conv = {
            "strides": strides,
            "padding": padding,
            "data_format": data_format or keras.config.image_data_format(),
            "dilation_rate": dilation_rate,
        }
        self.activation = keras.activations.get(activation)
        self.use_bias = use_bias

    def build(self, input_shape):
        k, _, channels, filters = self.kernel_shape
        inner = self.rank * k
        self.down = self.add_weight(name="down", shape=(channels * k, inner))
        self.up = self.add_weight(name="up", shape=(inner, filters * k))
        self.bias = None
        if self.use_bias:
            self.bias = self.add_weight(name="bias", shape=(filters,), initializer="zeros")

    def product(self):
        """The kernel (k, k, Cin, Cout) that the factors stand for."""
        k, _, channels, filters = self.kernel_shape
        product = ops.transpose(ops.matmul(self.down, self.up))
        return ops.transpose(ops.reshape(product, (filters, channels, k, k)), (2, 3, 1, 0))

    def call(self, x):
        outputs = ops.conv(x, self.product(), **self.conv)
        if self.bias is not None:
            first = self.conv["data_format"] == "channels_first"
            outputs = outputs + ops.reshape(self.bias, (-1, 1, 1) if first else (-1,))
        return outputs if self.activation is None else self.activation(outputs)

    def compute_output_shape(self, input_shape):
        like = {key: value for key, value in self.conv.items()}
        k, _, _, filters = self.kernel_shape
        return keras.layers.Conv2D(filters, k, **like).compute_output_shape(input_shape)

    def get_config(self):
        return {
            **super().get_config(),
            "rank": self.rank,
            "kernel_shape": self.kernel_shape,
            **self.conv,
            "activation": keras.activations.serialize(self.activation),
            "use_bias": self.use_bias,
        }


@functools.singledispatch
def rule(layer, factorization: str = "pair") -> Rule:
    """The rule by which a built layer is factored; extend it with ``rule.register(LayerType)``.

    Args:
        layer: a built Dense, EinsumDense, Conv2D or Embedding (or ReversibleEmbedding).
        factorization: for Conv2D, "pair" or "loralib".

    Raises:
        ValueError: if the layer has no supported factors, with the reason.

    Example:
        >>> import keras
        >>> from clora_lab import factors
        >>> layer = keras.layers.Dense(128)
        >>> layer.build((None, 256))
        >>> factors.rule(layer).parameters(16), factors.rule(layer).break_even_rank
        (6144, 86)
    """
    raise ValueError(
        f"Layer {layer.name!r} of type {type(layer).__name__} has no supported factors. "
        "Supported: Dense, EinsumDense, Conv2D, Embedding. Leave the layer out of `targets`, or add a rule "
        "with clora_lab.factors.rule.register."
    )


@rule.register
def _(layer: keras.layers.Dense, factorization: str = "pair") -> Rule:
    return DenseRule(_plain(layer, keras.layers.Dense))


@rule.register
def _(layer: keras.layers.EinsumDense, factorization: str = "pair") -> Rule:
    return EinsumDenseRule(_plain(layer, keras.layers.EinsumDense))


@rule.register
def _(layer: keras.layers.Conv2D, factorization: str = "pair") -> Rule:
    _plain(layer, keras.layers.Conv2D)
    if _checks.one_of("factorization", factorization, FACTORIZATIONS) == "loralib":
        return ConvLoralibRule(layer)
    return ConvPairRule(layer)


@rule.register
def _(layer: keras.layers.Embedding, factorization: str = "pair") -> Rule:
    # Not all supported versions of Keras have it; KerasHub's is a subclass without code of its own.
    reversible = getattr(keras.layers, "ReversibleEmbedding", keras.layers.Embedding)
    stock = reversible if isinstance(layer, reversible) else keras.layers.Embedding
    return EmbeddingRule(_plain(layer, stock))


def _plain(layer, stock):
    """The layer itself, if nothing in it would be lost by replacing it with stock layers."""
    reason = None
    if type(layer).call is not stock.call:
        reason = f"its class {type(layer).__name__} has a call() of its own"
    elif getattr(layer, "lora_enabled", False):
        reason = "Keras' own LoRA is enabled on it"
    elif getattr(layer, "quantization_mode", None) is not None:
        reason = f"it is quantised ({layer.quantization_mode})"
    elif not layer.built:
        reason = "it is not built: call the model on data, or give it an Input, first"
    if reason:
        raise ValueError(f"Layer {layer.name!r} can't be factored: {reason}.")
    return layer


def supported(layer, factorization: str = "pair", look_ups: bool = False) -> bool:
    """Whether `rule` has an answer for this layer.

    Args:
        layer: anything.
        factorization: for Conv2D, "pair" or "loralib".
        look_ups: count embeddings too, which `clora_lab.compress` takes only where they are named.
    """
    if not isinstance(layer, keras.layers.Layer):
        return False
    try:
        found = rule(layer, factorization)
    except ValueError:
        return False
    return look_ups or not found.looks_up


def check_rank(rule_: Rule, rank) -> int:
    """`rank` as an int, if a pair of this rank fits the layer; a `ValueError` with the limit else."""
    rank = _checks.positive_int("rank", rank)
    if rank > rule_.max_rank:
        raise ValueError(
            f"`rank` of layer {rule_.name!r} must be at most {rule_.max_rank}, the largest that "
            f"its kernel of shape {rule_.kernel_shape} allows. Received: {rank}. Give a smaller rank, a "
            "mapping of patterns to ranks, or leave the layer out of `targets`."
        )
    return rank


def rank_for_energy(rule_: Rule, kernel: np.ndarray, energy: float) -> int:
    """The smallest rank whose best pair keeps a share of W's energy, as long as it saves parameters.

    The energy of M is its squared Frobenius norm, the sum of the squared singular values; the best pair of
    width q keeps the q largest (Eckart & Young 1936). The rank is never above the last one that is smaller
    than the layer (`break_even_rank` - 1), so that a layer may keep less than asked for.

    Args:
        rule_: the layer's rule.
        kernel: W, of the layer's kernel shape.
        energy: share to keep, in (0, 1).

    Raises:
        ValueError: `energy` is not in (0, 1).

    Example:
        >>> import keras, numpy as np
        >>> from clora_lab import factors
        >>> layer = keras.layers.Dense(20)
        >>> layer.build((None, 20))
        >>> factors.rank_for_energy(factors.rule(layer), np.diag(0.5 ** np.arange(20.0)), 0.99)
        4
    """
    _checks.real("energy", energy, 1e-9, 1.0 - 1e-9)
    squares = np.linalg.svd(rule_.to_matrix(np.asarray(kernel, "float64")), compute_uv=False) ** 2
    width = 1 + int(np.searchsorted(np.cumsum(squares), energy * np.sum(squares)))
    rank = -(-width // rule_.inner(1))
    return max(1, min(rank, rule_.break_even_rank - 1, rule_.max_rank))


def initial_pair(init: str, rule_: Rule, kernel: np.ndarray, rank: int, scale: float, rng, gram=None):
    """Start values (down, up, residual) of the pair, as matrices; the layer computes scale * down up.

    With `inputs` the fan in of the layer, which is 1 for an embedding (`Rule.fan`):

    - "lora": down uniform in +-sqrt(3 f / inputs) with f = sqrt(5) (1 for convolutions), up zero: the
      slides' start, after Hu et al. 2021.
    - "svd": the best pair of this rank, scale * down up = M_r (Eckart & Young 1936), its singular values
      shared evenly; the residual M - M_r is what decays (as PiSSA does for fine-tuning, Meng et al. 2024).
    - "svd_copy": the same pair beside the whole of W, which decays; at the start the layer gives M + M_r.
    - "activations": as "svd", but the pair is nearest to M on inputs like the calibration batch: it
      minimises the mean of |x (M - scale * down up)|^2, see `activation_aware_svd`.
    - "orthogonal": down with orthogonal columns, orthonormal but for an embedding, whose columns have the
      length sqrt(vocabulary); up zero.
    - "scratch": down ~ N(0, 1 / inputs), up ~ N(0, 2 / inner) / scale, so that scale * down up has the
      variance 2 / inputs of He et al. 2015, or for an embedding that of W; there is no W.

    Args:
        init: one of the above.
        rule_: the layer's rule.
        kernel: W, as an array of the layer's kernel shape.
        rank: r.
        scale: s = alpha / r.
        rng: a NumPy Generator.
        gram: for "activations", the mean of x^T x, of shape (inputs, inputs), or its diagonal.

    Returns:
        down (inputs, inner), up (inner, outputs), and the kernel that is left to decay.
    """
    inputs, outputs = rule_.matrix_shape
    fan = rule_.fan
    inner = rule_.inner(rank)
    zeros = np.zeros((inner, outputs))
    if init == "lora":
        limit = math.sqrt(3.0 * rule_.fan_scale / fan)
        return rng.uniform(-limit, limit, (inputs, inner)), zeros, kernel
    if init == "orthogonal":
        wide = rng.normal(size=(max(inputs, inner), min(inputs, inner)))
        basis = np.linalg.qr(wide)[0] * math.sqrt(inputs / fan)
        return (basis if inputs >= inner else basis.T), zeros, kernel
    if init == "scratch":
        down = rng.normal(size=(inputs, inner)) / math.sqrt(fan)
        up = rng.normal(size=(inner, outputs)) * math.sqrt(rule_.gain(kernel) / inner) / scale
        return down, up, np.zeros_like(kernel)
    if init == "activations":
        down, up = activation_aware_svd(rule_.to_matrix(kernel), inner, gram)
    else:
        down, up = truncated_svd(rule_.to_matrix(kernel), inner)
    root = math.sqrt(scale)
    rest = kernel if init == "svd_copy" else kernel - rule_.to_kernel(down @ up)
    return down / root, up / root, rest


def activation_aware_svd(matrix: np.ndarray, rank: int, gram: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The pair of a given rank that minimises ``mean |x (matrix - down up)|^2`` over inputs x.

    With G = L L^T the mean of x^T x (a ridge of RIDGE times its mean diagonal added), the error is
    |L^T (M - down up)|_F^2, so down = L^-T P S^(1/2) and up = S^(1/2) Q^T with the truncated SVD P S Q^T
    of L^T M (Chen et al. 2021, "DRONE: Data-aware low-rank compression for large NLP models"; Wang et al.
    2024, "SVD-LLM", arXiv:2403.07378). Of one-hot x, G is diagonal and holds the frequencies of the tokens:
    the rows of M are weighted by them, as in GroupReduce (Chen et al. 2018, arXiv:1806.06950).

    Args:
        matrix: M, of shape (inputs, outputs).
        rank: width of the product.
        gram: G, of shape (inputs, inputs), or its diagonal, of shape (inputs,), if the rest is zero.

    Returns:
        down (inputs, rank) and up (rank, outputs).

    Raises:
        ValueError: if `gram` has another shape, or numbers that are not finite.

    Example:
        >>> import numpy as np
        >>> from clora_lab import factors
        >>> gram = np.diag([0.01, 1.0, 4.0])  # the third input is large, the first hardly there
        >>> down, up = factors.activation_aware_svd(np.diag([3.0, 2.0, 2.0]), 2, gram)
        >>> abs(np.round(down @ up, 3)).diagonal()
        array([0., 2., 2.])
    """
    gram = np.asarray(gram, "float64")
    inputs = matrix.shape[0]
    if gram.shape not in ((inputs, inputs), (inputs,)) or not np.all(np.isfinite(gram)):
        raise ValueError(
            f"`gram` must be finite numbers of shape ({inputs}, {inputs}), the mean of x^T x, or its "
            f"diagonal. Received: shape {gram.shape}. Give a calibration batch of finite inputs."
        )
    diagonal = gram if gram.ndim == 1 else np.diagonal(gram)
    ridge = RIDGE * np.mean(diagonal) + np.finfo("float64").tiny
    if gram.ndim == 1:
        root = np.sqrt(gram + ridge)[:, None]
        down, up = truncated_svd(root * np.asarray(matrix, "float64"), rank)
        return down / root, up
    root = np.linalg.cholesky(gram + ridge * np.eye(inputs))
    down, up = truncated_svd(root.T @ np.asarray(matrix, "float64"), rank)
    return np.linalg.solve(root.T, down), up


def truncated_svd(matrix: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """The best approximation ``down @ up`` of a given rank in the Frobenius norm (Eckart & Young 1936).

    Args:
        matrix: of shape (inputs, outputs).
        rank: width of the product; beyond the matrix's own rank limit the factors are padded with zeros.

    Returns:
        down (inputs, rank) and up (rank, outputs), each with the square roots of the singular values.

    Example:
        >>> import numpy as np
        >>> from clora_lab import factors
        >>> down, up = factors.truncated_svd(np.diag([3.0, 2.0, 1.0]), 2)
        >>> np.round(down @ up, 6).diagonal()
        array([3., 2., 0.])
    """
    left, singular, right = np.linalg.svd(np.asarray(matrix, "float64"), full_matrices=False)
    kept = min(rank, len(singular))
    root = np.sqrt(singular[:kept])
    down = np.zeros((matrix.shape[0], rank))
    up = np.zeros((rank, matrix.shape[1]))
    down[:, :kept] = left[:, :kept] * root
    up[:kept] = root[:, None] * right[:kept]
    return down, up
