"""Composed: a chain of stock layers that trains in the place of one layer."""

from __future__ import annotations

import math

import keras

from clora_lab import _checks, rules


@keras.saving.register_keras_serializable("clora_lab")
class Composed(keras.layers.Layer):
    """A chain of stock layers that trains in the place of one layer: ``y = f( fn( ... f1(x)) + b )``.

    The last stage has the bias and the activation of the layer that is replaced; the chain is as wide as the
    method wants it, and the method makes the finished, narrower one of it.

    Args:
        layer: the unbuilt layer that is replaced, or its serialised config.
        stages: unbuilt stock layers, or their serialised configs.
        rank: r of the finished chain.
        method: the config of the method that made it, as `Method.to_dict` gives it.
        factorization: of the finished chain.

    Input shape: that of the replaced layer.

    Output shape: that of the replaced layer.
    """

    def __init__(self, layer, stages, rank, method, factorization=None, **kwargs):
        def made(item):
            return keras.saving.deserialize_keras_object(item) if isinstance(item, dict) else item

        layer = made(layer)
        kwargs.setdefault("name", layer.name)
        kwargs.setdefault("dtype", layer.dtype_policy)
        super().__init__(**kwargs)
        self.stages = [made(stage) for stage in stages]
        self.rank = _checks.positive_int("rank", rank)
        self.method, self.factorization = dict(method), factorization
        self.supports_masking = layer.supports_masking
        self.autocast = layer.autocast
        self._original = keras.saving.serialize_keras_object(layer)

    def build(self, input_shape):
        original = keras.saving.deserialize_keras_object(self._original)
        original.build(input_shape)
        self.rule = rules.rule(original, self.factorization)
        self.rule.name = self.name
        self.factorization = self.factorization or self.rule.factorization
        for stage in self.stages:
            stage.build(input_shape)
            input_shape = stage.compute_output_shape(input_shape)

    def compute_output_shape(self, input_shape):
        for stage in self.stages:
            input_shape = stage.compute_output_shape(input_shape)
        return input_shape

    def compute_mask(self, inputs, previous_mask):
        return self.rule.mask(inputs, previous_mask)

    def call(self, inputs):
        for stage in self.stages:
            inputs = stage(inputs)
        return inputs

    def original_config(self) -> dict:
        """The config of the layer that this one replaced."""
        return keras.saving.deserialize_keras_object(self._original).get_config()

    @property
    def has_bias(self) -> bool:
        """Whether the last stage adds a bias."""
        return self.stages[-1].bias is not None

    @property
    def remaining_parameters(self) -> int:
        """Parameters of the finished layer, and its bias."""
        return self.rule.parameters(self.rank) + math.prod(self.rule.bias_shape) * self.has_bias

    def get_config(self):
        return {
            **super().get_config(),
            "layer": self._original,
            "stages": [_without_build(stage) for stage in self.stages],
            "rank": self.rank,
            "method": self.method,
            "factorization": self.factorization,
        }


def _without_build(layer) -> dict:
    config = keras.saving.serialize_keras_object(layer)
    config.pop("build_config", None)  # built in `Composed.build`, under its name
    return config
