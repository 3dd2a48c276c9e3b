"""loralib's factorisation of a convolution: one kernel that is a product of matrices."""

from __future__ import annotations

import keras
import numpy as np
from keras import ops

from clora_lab.rules import conv
from clora_lab.rules.base import Cost, Rule, without_kernel


class LoralibRule(conv.ConvRule):
    """Conv2D as loralib factors it: B (Cout k, rank k) times A (rank k, Cin k), reshaped to the kernel.

    B A has the memory order of loralib's kernel, (Cout, Cin, k, k). No stock layer holds these factors:
    in training they are the weights of `KernelPair`, and the finished net gets either their product as the
    kernel of an ordinary Conv2D, or the `KernelPair` itself. Either runs as many parameters as W had.
    """

    factorization = "loralib"
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

    def chain(self, rank, config=None):
        of_both = ("dtype", "data_format", "strides", "padding", "dilation_rate")
        if config is None:
            return [self._factored(rank, self.config, of_both)]
        return [keras.layers.Conv2D.from_config(without_kernel(config))]

    def chain_of_factors(self, rank: int, config: dict) -> list[keras.layers.Layer]:
        """As ``chain(rank, config)``, with the factors kept: a `KernelPair`, which is no stock layer."""
        kept = ("name", "dtype", "data_format", "strides", "padding", "dilation_rate")
        kept += ("activation", "use_bias")
        return [self._factored(rank, config, kept)]

    def _factored(self, rank, config, kept):
        own = {key: config[key] for key in kept}
        return KernelPair.from_config({**own, "rank": rank, "kernel_shape": self.kernel_shape})

    def from_matrices(self, down, up):
        return [down, up]

    def to_matrices(self, factors):
        return factors[0], factors[1]

    def kernels(self, factors):
        return [self.compose(factors)]

    def cost(self, rank, output_shape):
        return Cost(self.parameters(rank), self.kernel_size, self.flops(self.kernel_shape, output_shape))


conv.FACTORIZATIONS["loralib"] = LoralibRule


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
        >>> from clora_lab.rules.loralib import KernelPair
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

    @property
    def remaining_parameters(self) -> int:
        """Parameters that are stored: the factors and the bias."""
        return self.count_params()

    def stock(self) -> tuple[keras.layers.Layer, list[np.ndarray]]:
        """An unbuilt Conv2D that does the same, and the values of its weights: the product, and the bias."""
        filters, size = self.kernel_shape[-1], self.kernel_shape[:2]
        own = {"activation": self.activation, "use_bias": self.use_bias, "name": self.name}
        values = [ops.convert_to_numpy(self.product())]
        if self.use_bias:
            values.append(ops.convert_to_numpy(self.bias))
        return keras.layers.Conv2D(filters, size, dtype=self.dtype_policy, **own, **self.conv), values

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
