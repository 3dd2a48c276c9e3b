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


# Name -> rule. The first is what `factorization=None` means; `loralib` adds itself.
FACTORIZATIONS: dict[str, type[Rule]] = {"pair": ConvRule}


@rule.register
def _(layer: keras.layers.Conv2D, factorization: str | None = None) -> Rule:
    plain(layer, keras.layers.Conv2D)
    name = next(iter(FACTORIZATIONS)) if factorization is None else factorization
    return FACTORIZATIONS[_checks.one_of("factorization", name, FACTORIZATIONS)](layer)
