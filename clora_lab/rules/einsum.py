"""The rule of EinsumDense."""

from __future__ import annotations

import math
import string

import keras
import numpy as np
from keras import ops

from clora_lab.rules.base import Rule, plain, rule


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

    def fan_by_rank(self, rank):
        return self.inner(rank) if len(self.contracted) == 1 else self.fan

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

    def from_matrices(self, down, up):
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
        # EinsumDense says it by `bias_axes`.
        use_bias = config.pop("use_bias", config["bias_axes"] is not None)
        config["bias_axes"] = self.bias_axes if use_bias else None
        return keras.layers.EinsumDense.from_config(config)


@rule.register
def _(layer: keras.layers.EinsumDense, factorization: str | None = None) -> Rule:
    return EinsumDenseRule(plain(layer, keras.layers.EinsumDense))
