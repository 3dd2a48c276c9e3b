"""The rules of Conv2D: its factorisations by name, the default first."""

from __future__ import annotations

import math

import keras
import numpy as np
from keras import ops

from clora_lab import _checks
from clora_lab.rules.base import Rule, plain, rule


class ConvRule(Rule):
    """What every factorisation of a Conv2D shares; the base class of the others, and "pair" itself.

    "pair" is kh x kw to the rank (stride, padding, dilation kept), then 1 x 1 (Zhang et al. 2015,
    arXiv:1505.06798): rank (kh kw Cin + Cout) parameters.
    """

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
    def ends(self):
        return self.kernel_shape[2:]

    @property
    def unit_axes(self):
        return (0, 1, 2)

    def rows(self, x):
        return self._patches(x, self.kernel_shape[:2], self.config["strides"], self.config["dilation_rate"])

    def _patches(self, x, size, strides, dilation_rate):
        if self.config["data_format"] == "channels_first":
            x = ops.moveaxis(x, 1, -1)
        patches = ops.image.extract_patches(
            x,
            size,
            strides=strides,
            dilation_rate=dilation_rate,
            padding=self.config["padding"],
            data_format="channels_last",
        )
        return ops.reshape(patches, (-1, self.matrix_shape[0]))

    def from_matrices(self, down, up):
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


class SpatialRule(ConvRule):
    """Conv2D as 1 x kw to q channels, then kh x 1: K[a, b, i, o] = sum_q down[b, i, q] up[q, a, o].

    Each of the two takes the stride, dilation and padding of its own axis. q = rank min(kh, kw), for a
    square kernel rank k, so that the factors have k k rank (Cin + Cout) parameters: Jaderberg et al. 2014
    (arXiv:1405.3866), and the factorisation that the slides' authors run, whose B A is reshaped to (Cout, k,
    k, Cin). It saves FLOPs as well as parameters, and needs stock layers alone.

    Example:
        >>> import keras
        >>> from clora_lab import rules
        >>> layer = keras.layers.Conv2D(64, 3, padding="same")
        >>> layer.build((None, 8, 8, 32))
        >>> [stage.kernel_size for stage in rules.rule(layer, "spatial").chain(4)]
        [(1, 3), (3, 1)]
    """

    factorization = "spatial"

    def __init__(self, layer):
        super().__init__(layer)
        height, width, channels, filters = self.kernel_shape
        self.matrix_shape = (width * channels, height * filters)

    def inner(self, rank):
        return rank * min(self.kernel_shape[:2])

    @property
    def max_rank(self):
        # The slides give conv1_1, with 3 input channels, ranks of 16 and 32: wasteful, but theirs.
        return max(self.kernel_shape[2:])

    def gain(self, kernel):
        return 2.0 / self.kernel_shape[0]  # an output sums over the rows of the kernel too

    def to_matrix(self, kernel):
        return np.reshape(np.transpose(kernel, (1, 2, 0, 3)), self.matrix_shape)

    def to_kernel(self, matrix):
        height, width, channels, filters = self.kernel_shape
        return np.transpose(np.reshape(matrix, (width, channels, height, filters)), (2, 0, 1, 3))

    def from_matrices(self, down, up):
        height, width, channels, filters = self.kernel_shape
        up = np.transpose(np.reshape(up, (-1, height, filters)), (1, 0, 2))
        return [np.reshape(down, (1, width, channels, -1)), up[:, None]]

    def to_matrices(self, factors):
        down, up = factors
        height, _, _, filters = self.kernel_shape
        up = np.reshape(np.transpose(up[:, 0], (1, 0, 2)), (-1, height * filters))
        return np.reshape(down, (self.matrix_shape[0], -1)), up

    def rows(self, x):
        """The rows of 1 x kw patches, of every line of x: what down is multiplied by."""
        strides, dilation_rate = ((1, self.config[name][1]) for name in ("strides", "dilation_rate"))
        return self._patches(x, (1, self.kernel_shape[1]), strides, dilation_rate)

    def _factor_flops(self, rank, output_shape):
        height, width = self._positions(output_shape)
        lines = self._positions(self.input_shape)[0]  # the first stage leaves them as they are
        (inputs, outputs), inner = self.matrix_shape, self.inner(rank)
        down = inputs * inner * (lines or 1) * (width or 1)
        return 2 * (down + inner * outputs * (height or 1) * (width or 1))

    def _down(self, config, rank):
        return keras.layers.Conv2D.from_config({**self._along(config, 1), "filters": self.inner(rank)})

    def _up(self, config):
        return keras.layers.Conv2D.from_config(self._along(config, 0))

    def _along(self, config, axis):
        """The config with what belongs to one axis, and 1 on the other."""
        names = ("kernel_size", "strides", "dilation_rate")
        return config | {name: [n if i == axis else 1 for i, n in enumerate(config[name])] for name in names}


# Name -> rule. The first is what `factorization=None` means; `loralib` adds itself.
FACTORIZATIONS: dict[str, type[Rule]] = {"spatial": SpatialRule, "pair": ConvRule}


@rule.register
def _(layer: keras.layers.Conv2D, factorization: str | None = None) -> Rule:
    plain(layer, keras.layers.Conv2D)
    name = next(iter(FACTORIZATIONS)) if factorization is None else factorization
    return FACTORIZATIONS[_checks.one_of("factorization", name, FACTORIZATIONS)](layer)
