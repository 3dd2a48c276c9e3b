"""The rule of Dense."""

from __future__ import annotations

import keras
from keras import ops

from clora_lab.rules.base import Rule, plain, rule


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


@rule.register
def _(layer: keras.layers.Dense, factorization: str | None = None) -> Rule:
    return DenseRule(plain(layer, keras.layers.Dense))
