"""CLoRA: the wrapper layer in which W fades beside its pair, for every layer type that has a rule.

It says by its `method` which entry of `clora_lab.methods` made it and ends it, and so does
`clora_lab.composed.Composed`, for methods that train a chain in the layer's place.
"""

from __future__ import annotations

import itertools
import math
import warnings
from typing import NamedTuple

import keras
import numpy as np
from keras import ops

from clora_lab import _checks, noise, rules, schedules
from clora_lab.composed import Composed


class Form(NamedTuple):
    """What is added to d (W x + b) + s B A x."""

    bias: bool
    noise: bool


# Every method that trains in a `CLoRA`, by its name in `clora_lab.methods`.
FORMS = {
    "wds": Form(bias=False, noise=False),
    "bias": Form(bias=True, noise=False),
    "noise": Form(bias=False, noise=True),
    "noise_bias": Form(bias=True, noise=True),
    "lora": Form(bias=False, noise=False),
}
INITS = ("lora", "lora_inputs", "svd", "svd_copy", "activations", "orthogonal", "scratch")
NOISE_DRAWS = ("auto", "kernel", "output")
ACTIVATION_ON = ("sum", "original")


class DecayNotMovingWarning(UserWarning):
    """A net with decaying layers is trained without `DecayCallback`, so nothing decays."""


@keras.saving.register_keras_serializable("clora_lab")
class CLoRA(keras.layers.Layer):
    """A layer W with a low-rank pair beside it, whose W fades away while the pair trains.

    In training, with d the decay, s = alpha / rank, and f the activation (C-LoRA slides 8 and 13):

        wds         y = f( d (W x + b) + s B A x )
        bias        y = f( d (W x + b) + s B A x + c )
        noise       y = f( d (W x + b) + s B A x + n x )
        noise_bias  y = f( d (W x + b) + s B A x + n x + c )

    W and b are frozen; A, B and the new bias c (zeros at the start) train. n is redrawn at every step,
    n ~ N((1 - d) m, (1 - d^2) sigma^2), while the noise gate is open, and never in inference. m and sigma
    are the mean and standard deviation of W, per output unit, or of the whole kernel for a convolution.
    With `activation_on` "original", f stands where the slides' authors have it in their code, inside what
    fades, y = d f(W x + b) + s B A x + ..., so that what is left, s B A x + c, is linear; with `decay_power`
    2, W x + b is multiplied by d twice, as their EinsumDense layers do. n knows d alone in any case.

    For an embedding x is a one-hot row, so that W x, n x and B A x are the row of a token: the same row
    wherever the token stands in the batch. It has no b and no f.
    d is a non-trainable scalar, saved with the layer; only `clora_lab.DecayCallback` writes it.

    Make this layer with `clora_lab.compress` rather than by hand.

    Args:
        layer: an unbuilt layer of a supported type, or its serialised config: the layer that is replaced.
        rank: r, width of the pair.
        method: "wds", "bias", "noise" or "noise_bias"; or "lora", which is "wds" with a d that stays 1.
        schedule: a `clora_lab.schedules.Schedule` (kept for the callback), or None.
        alpha: numerator of s.
        init: how the pair started, see `clora_lab.methods.WDS`: "lora", "lora_inputs", "svd", "svd_copy",
            "activations", "orthogonal" or "scratch" (no W at all).
        factorization: for Conv2D one of `clora_lab.rules.FACTORIZATIONS`; None for the first.
        noise_gate: a `NoiseGate`, a threshold of d, or "scheduled", "until_end", "never".
        noise_draw: "kernel" (n elementwise), "output" (x n directly, same law), or "auto" (the cheaper); what
            is no Dense on vectors has "kernel" in any case.
        noise_law: a `clora_lab.NoiseLaw`, or None for the slides' noise.
        seed: of the noise.
        activation_on: "sum", or "original" for the activation inside of what fades.
        decay_power: p of d^p (W x + b).

    Input shape: that of the replaced layer.

    Output shape: that of the replaced layer.

    Raises:
        ValueError: for an argument that is out of range, or a layer that can't be factored.

    Example:
        >>> import keras
        >>> from clora_lab import CLoRA
        >>> layer = CLoRA(keras.layers.Dense(8, name="dense"), rank=2, method="bias")
        >>> layer.build((None, 6))
        >>> [tuple(weight.shape) for weight in layer.trainable_weights]
        [(8,), (6, 2), (2, 8)]
    """

    def __init__(
        self,
        layer,
        rank: int,
        method: str = "noise_bias",
        schedule=None,
        alpha: float = 32.0,
        init: str = "lora_inputs",
        factorization: str | None = None,
        noise_gate="scheduled",
        noise_draw: str = "auto",
        noise_law=None,
        seed: int = 0,
        activation_on: str = "sum",
        decay_power: int = 1,
        **kwargs,
    ):
        if isinstance(layer, dict):
            layer = keras.saving.deserialize_keras_object(layer)
        if isinstance(schedule, dict):
            schedule = schedules.from_dict(schedule)
        kwargs.setdefault("name", layer.name)
        kwargs.setdefault("dtype", layer.dtype_policy)
        super().__init__(**kwargs)
        self.rank = _checks.positive_int("rank", rank)
        self.method = _checks.one_of("method", method, FORMS)
        self.init = _checks.one_of("init", init, INITS)
        self.factorization = factorization and _checks.one_of(
            "factorization", factorization, rules.FACTORIZATIONS
        )
        self.noise_draw = _checks.one_of("noise_draw", noise_draw, NOISE_DRAWS)
        self.noise_gate = schedules.NoiseGate.get(noise_gate)
        self.noise_law = noise.NoiseLaw.get(noise_law)
        if self.noise_law.kind != "normal" and noise_draw == "output":
            raise ValueError(
                f"`noise_draw` 'output' draws x n as a normal vector, so it can't have the kind "
                f"{self.noise_law.kind!r}. Use noise_draw='auto' or 'kernel'."
            )
        self.activation_on = _checks.one_of("activation_on", activation_on, ACTIVATION_ON)
        self.decay_power = _checks.positive_int("decay_power", decay_power)
        self.alpha = _checks.real("alpha", alpha, 1e-9)
        self.schedule = schedule
        self.seed = seed
        form = FORMS[self.method]
        self.has_bias = form.bias
        self.has_noise = form.noise and init != "scratch"
        self.has_base = init != "scratch"
        self.supports_masking = layer.supports_masking
        self.autocast = layer.autocast  # off for an embedding, whose ids may not be exact in bfloat16

        config = layer.get_config()
        self.activation = keras.activations.get(config.get("activation"))
        self.activity_regularizer = keras.regularizers.get(config.get("activity_regularizer"))
        self._original = keras.saving.serialize_keras_object(layer)
        # W x + b only: the activation acts on the sum, and a frozen W has no use for a regulariser.
        plain = {"activation": None, "activity_regularizer": None, "trainable": False}
        plain |= {"kernel_regularizer": None, "bias_regularizer": None, "embeddings_regularizer": None}
        plain = {key: value for key, value in plain.items() if key in config} | {"name": "base"}
        self._make_base = lambda: type(layer).from_config({**config, **plain})
        self.base = self._make_base() if self.has_base else None
        self.pair = []
        self.xla = False  # set by the callback when TensorFlow compiles the training step with XLA
        self.watched = False  # set by the callback while it drives the decay
        self.clock = (0, 0)  # steps that the decay has made, batches of the next one; None if a file has none
        if self.has_noise:
            self.seed_generator = keras.random.SeedGenerator(seed)

    @property
    def scale(self) -> float:
        """s = alpha / rank."""
        return self.alpha / self.rank

    def build(self, input_shape):
        base = self.base if self.has_base else self._make_base()
        base.build(input_shape)
        self.rule = rules.rule(base, self.factorization)
        self.rule.name = self.name
        self.factorization = self.factorization or self.rule.factorization
        rules.check_rank(self.rule, self.rank)
        # Only what is left to decay needs a decay; the scratch net has d = 0 from the start.
        self.decay = self.add_weight(
            name="decay",
            shape=(),
            initializer="ones" if self.has_base else "zeros",
            trainable=False,
            dtype="float32",
            autocast=False,  # in bfloat16, 0.9985 would be 1 and 0.2999 above the gate
        )
        if self.has_noise:
            axes = self.stat_axes
            shape = [1 if i in axes else n for i, n in enumerate(self.rule.kernel_shape)]
            for name in ("mean", "std"):
                weight = self.add_weight(
                    name=f"noise_{name}", shape=shape, initializer="zeros", trainable=False,
                    dtype="float32", autocast=False,
                )  # fmt: skip
                setattr(self, f"noise_{name}", weight)
            self.noise_quantiles = None
            if self.noise_law.kind == "empirical":
                self.noise_quantiles = self.add_weight(
                    name="noise_quantiles", shape=(noise.QUANTILES,), initializer="zeros", trainable=False,
                    dtype="float32", autocast=False,
                )  # fmt: skip
        if self.has_bias:
            self.bias = self.add_weight(name="bias", shape=self.rule.bias_shape, initializer="zeros")
        self.pair = self.rule.chain(self.rank)
        self.pair[0].build(input_shape)
        for before, layer in itertools.pairwise(self.pair):
            layer.build(before.compute_output_shape(input_shape))

    def compute_output_shape(self, input_shape):
        is_ready = self.base is not None and self.base.built
        layer = self.base if is_ready else self._make_base()
        if isinstance(layer, keras.layers.EinsumDense) and not layer.built:
            layer.build(input_shape)  # Keras 3.12 and older know its output shape only then
        return layer.compute_output_shape(input_shape)

    @property
    def stat_axes(self) -> tuple[int, ...]:
        """Axes of the kernel over which m and s of the noise are taken."""
        axes = {"layer": self.rule.stat_axes, "unit": self.rule.unit_axes}
        return axes.get(self.noise_law.per, tuple(range(len(self.rule.kernel_shape))))

    def original_config(self) -> dict:
        """The config of the layer that this one replaced."""
        return keras.saving.deserialize_keras_object(self._original).get_config()

    def assign_factors(self, factors: list) -> None:
        """Set the pair, in place, to factors as the rule gives them."""
        for weight, value in zip(self.pair_weights, factors, strict=True):
            weight.assign(value)

    @property
    def kernel(self):
        """W."""
        return self.rule.kernel_of(self.base)

    @property
    def fading_bias(self):
        """b, or None."""
        return self.rule.bias_of(self.base)

    @property
    def pair_weights(self) -> list:
        """The variables of the factors, in their order: down and up."""
        return [weight for layer in self.pair for weight in layer.weights]

    @property
    def remaining_parameters(self) -> int:
        """Parameters that are left when W is gone: the pair and the new bias."""
        factors = sum(math.prod(weight.shape) for weight in self.pair_weights)
        return factors + math.prod(self.rule.bias_shape) * self.has_bias

    def factors(self) -> list[np.ndarray]:
        """The factors, the scale s multiplied into the last."""
        values = [ops.convert_to_numpy(weight) for weight in self.pair_weights]
        return [*values[:-1], values[-1] * np.asarray(self.scale, dtype=values[-1].dtype)]

    def pair_matrices(self) -> tuple[np.ndarray, np.ndarray]:
        """down (inputs, inner) and up (inner, outputs), the scale s multiplied into up."""
        return self.rule.to_matrices(self.factors())

    def compute_mask(self, inputs, previous_mask):
        return self.rule.mask(inputs, previous_mask)

    def call(self, inputs, training=False):
        if self.rule.merges and not self.fades_apart:
            outputs = self._through_one_kernel(inputs, training)
        else:
            outputs = inputs
            for layer in self.pair:
                outputs = layer(outputs)
            outputs = outputs * self.scale
            if self.base is not None:
                outputs = outputs + self._fading(inputs, training)
        if self.has_bias:
            outputs = outputs + self._bias_of(self.bias)
        return self.activation(outputs) if self.activation_on == "sum" else outputs

    @property
    def fades_apart(self) -> bool:
        """Whether d W + n + s B A is no kernel that the layer could run with."""
        return self.activation_on == "original" or self.decay_power != 1

    def _fading(self, inputs, training):
        """d (W x + b), and n x in training."""
        decay = ops.cast(self.decay, self.compute_dtype)

        def quiet():
            outputs = self.base(inputs)
            if self.activation_on == "original":
                outputs = self.activation(outputs)
            return decay**self.decay_power * outputs

        if not training:
            return quiet()
        if not self.watched:
            self._warn_unwatched()
        if not self.has_noise:
            return quiet()
        # The seed advances outside the branch: a state change inside a traced branch is lost.
        seed = noise.DrawnSeed(self.seed_generator.next())
        branches = [quiet, lambda: self._draw_kernel(inputs, decay, seed, quiet)]
        index = 1
        normal = self.noise_law.kind == "normal"
        if isinstance(self.base, keras.layers.Dense) and len(inputs.shape) == 2 and normal:
            branches.append(lambda: self._draw_output(inputs, seed, quiet))
            index = self._draw_index(inputs)
        index = ops.where(self._gate_is_open(), index, 0)
        return ops.switch(ops.cast(index, "int32"), branches)

    def _through_one_kernel(self, inputs, training):
        """The layer run once with d W + n + s B A: the sum of W and the pair apart, for less work."""
        kernel = self.scale * self.pair[0].product()
        if self.base is None:
            return self._linear(inputs, kernel)
        if training and not self.watched:
            self._warn_unwatched()

        def quiet():
            return self.decay * self.kernel

        faded = quiet
        if training and self.has_noise:
            # The seed advances outside the branch: a state change inside a traced branch is lost.
            seed = noise.DrawnSeed(self.seed_generator.next())

            def faded():
                return ops.cond(self._gate_is_open(), lambda: quiet() + self._noise(seed), quiet)

        outputs = self._linear(inputs, ops.add(faded(), kernel))
        if self.fading_bias is None:
            return outputs
        return outputs + ops.cast(self.decay, self.compute_dtype) * self._bias_of(self.fading_bias)

    def _linear(self, inputs, kernel):
        inputs = self.rule.to_inputs(inputs, self.compute_dtype)
        return self.rule.linear(inputs, ops.cast(kernel, self.compute_dtype))

    def _gate_is_open(self):
        return ops.logical_and(self.decay >= self.noise_gate.threshold, self.decay < 1.0)

    def _noise(self, seed):
        """n, of the kernel's shape, in float32."""
        shape = self.rule.kernel_shape
        moments = (self.noise_mean, self.noise_std)
        return noise.kernel_noise(shape, self.decay, *moments, seed, self.xla, self.noise_quantiles)

    def _draw_index(self, inputs):
        """1 to draw the kernel's noise, 2 to draw the output's: what was asked for, or the cheaper."""
        if self.noise_draw != "auto":
            return 2 if self.noise_draw == "output" else 1
        # The number of rows may be known only when the step runs.
        return ops.where(noise.prefers_output(*ops.shape(inputs)), 2, 1)

    def _draw_output(self, inputs, seed, quiet):
        # Of the whole matrix they are single numbers, else one for each output unit.
        mean, std = (
            ops.broadcast_to(value[0], self.rule.bias_shape) for value in (self.noise_mean, self.noise_std)
        )
        noise_ = noise.output_noise(inputs, self.decay, mean, std, seed, self.xla)
        return quiet() + ops.cast(noise_, self.compute_dtype)

    def _draw_kernel(self, inputs, decay, seed, quiet):
        if self.fades_apart:
            return quiet() + self._linear(inputs, self._noise(seed))
        # One product with d W + n in place of two.
        outputs = self._linear(inputs, self.decay * self.kernel + self._noise(seed))
        if self.fading_bias is None:
            return outputs
        return outputs + decay * self._bias_of(self.fading_bias)

    def _bias_of(self, bias):
        return ops.reshape(ops.cast(bias, self.compute_dtype), self.rule.bias_view)

    def _warn_unwatched(self):
        warnings.warn(
            f"Layer {self.name!r} is trained but nothing moves its decay: pass "
            "callbacks=[clora_lab.DecayCallback()] to fit().",
            DecayNotMovingWarning,
            stacklevel=2,
        )

    # Keras saves no seed states: without this, a model loaded in mid-training draws its first noise again.
    def save_own_variables(self, store):
        super().save_own_variables(store)
        store["clock"] = np.asarray(self.clock or (-1, 0), "int64")
        if self.has_noise:
            store["noise_seed"] = ops.convert_to_numpy(self.seed_generator.state)

    def load_own_variables(self, store):
        own = {key: store[key] for key in store.keys() if key not in ("clock", "noise_seed")}
        clock = np.asarray(store["clock"] if "clock" in store.keys() else (-1, 0))
        self.clock = (int(clock[0]), int(clock[1])) if clock[0] >= 0 else None
        if self.has_noise:
            self.seed_generator.state.assign(store["noise_seed"])
        super().load_own_variables(own)

    def get_config(self):
        config = super().get_config()
        return {
            **config,
            "layer": self._original,
            "rank": self.rank,
            "method": self.method,
            "schedule": self.schedule.to_dict() if self.schedule is not None else None,
            "alpha": self.alpha,
            "init": self.init,
            "factorization": self.factorization,
            "noise_gate": self.noise_gate.threshold,
            "noise_draw": self.noise_draw,
            "noise_law": self.noise_law.to_dict(),
            "activation_on": self.activation_on,
            "decay_power": self.decay_power,
            "seed": self.seed,
        }


WRAPPERS = (CLoRA, Composed)


def wrapped_layers(model: keras.Model) -> list[keras.layers.Layer]:
    """The layers of a model that a method put in the place of others and has not finished yet, each once."""
    found = {id(layer): layer for layer in model._flatten_layers() if isinstance(layer, WRAPPERS)}
    return list(found.values())


def clora_layers(model: keras.Model) -> list[CLoRA]:
    """The `CLoRA` layers of a model, in the order of the model, each once.

    Example:
        >>> import keras
        >>> import clora_lab as cl
        >>> cl.clora_layers(keras.Sequential())
        []
    """
    return [layer for layer in wrapped_layers(model) if isinstance(layer, CLoRA)]
