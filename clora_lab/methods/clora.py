"""C-LoRA: Weight Decay Scheduling in its four forms."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from keras import ops

from clora_lab import _checks, callbacks, layers, noise, schedules
from clora_lab.methods.base import Method, ended, kernel_of

# Starts that take their part out of W, so that only the residual decays.
RESIDUAL = ("svd", "activations")


@dataclass(frozen=True)
class WDS(Method):
    """Only WDS: ``y = f( d (W x + b) + s B A x )``, d from 1 to 0 while B A trains (C-LoRA slide 8).

    In the end W is gone and ``f( s B A x )`` is left. `Bias`, `Noise` and `NoiseBias` are the same class with
    what slide 13 adds. See `clora_lab.CLoRA` for the forward passes.

    Args:
        schedule: step -> d; not needed for init "scratch".
        init: how the factors f1 ... fn start, n = 2 for a pair:

            - "lora": the slides' start, after Hu et al. 2021: the first uniform, the last zero. Their A
              has the shape (rank, inputs), so its fan in is the *rank* to Keras: see `Rule.fan_by_rank`.
            - "lora_inputs": the same by the inputs as fan in, which makes A sqrt(inputs / rank) narrower: on
              the toy net a little better (data/results/toy.csv, "slides" against "as_written").
            - "svd": the best of this rank, s f1 ... fn = W_r, their scales shared evenly; the residual W -
              W_r is what decays (as PiSSA does for fine-tuning, Meng et al. 2024).
            - "svd_copy": the same beside the whole of W, which decays; at the start the layer gives W + W_r.
            - "activations": as "svd", but nearest to W on inputs like the calibration batch; see
              `clora_lab.factorize.activation_aware_svd`.
            - "orthogonal": the first with orthonormal columns, the last zero.
            - "scratch": random factors with the variance of He et al. 2015; there is no W.
        alpha: s = alpha / rank.
        noise_gate: a `NoiseGate`, a threshold of d, or "scheduled", "until_end", "never".
        noise_draw: "auto", "kernel" or "output"; see `clora_lab.noise`.
        noise_law: a `clora_lab.NoiseLaw`, or None for the slides' noise.
        activation_on: what f acts on: the "sum", as slide 8 writes it, or "original", as the slides' authors
            have it in their code: ``y = d f(W x + b) + s B A x``, which leaves a linear layer.
        decay_power: p of ``d^p (W x + b)``; 2 is what their EinsumDense layers do.

    Raises:
        ValueError: for a value out of range, or no schedule where one is needed.

    Example:
        >>> import clora_lab as cl
        >>> method = cl.methods.NoiseBias(cl.LinearDecay(100), init="svd")
        >>> method.name, method.noise_gate
        ('noise_bias', NoiseGate(threshold=0.3))
    """

    name: ClassVar[str] = "wds"

    schedule: schedules.Schedule | None = None
    init: str = "lora_inputs"
    alpha: float = 32.0
    noise_gate: schedules.NoiseGate | str | float = "scheduled"
    noise_draw: str = "auto"
    noise_law: noise.NoiseLaw | None = field(default_factory=noise.NoiseLaw)
    activation_on: str = "sum"
    decay_power: int = 1

    def __post_init__(self):
        _checks.one_of("init", self.init, layers.INITS)
        _checks.one_of("noise_draw", self.noise_draw, layers.NOISE_DRAWS)
        _checks.one_of("activation_on", self.activation_on, layers.ACTIVATION_ON)
        _checks.positive_int("decay_power", self.decay_power)
        _checks.real("alpha", self.alpha, 1e-9)
        if isinstance(self.schedule, dict):
            object.__setattr__(self, "schedule", schedules.from_dict(self.schedule))
        object.__setattr__(self, "noise_gate", schedules.NoiseGate.get(self.noise_gate))
        object.__setattr__(self, "noise_law", noise.NoiseLaw.get(self.noise_law))

    def check(self, rule, rank):
        if self.init != "scratch" and not isinstance(self.schedule, schedules.Schedule):
            raise ValueError(
                "`schedule` must be a clora_lab schedule, for instance LinearDecay(total_steps=epochs * "
                f"steps_per_epoch). Received: {self.schedule!r}."
            )
        super().check(rule, rank)

    def to_dict(self):
        schedule = self.schedule and self.schedule.to_dict()
        own = {"schedule": schedule, "noise_gate": self.noise_gate.threshold}
        return {**super().to_dict(), **own, "noise_law": self.noise_law.to_dict()}

    @property
    def needs_calibration(self):
        return self.init == "activations"

    def wrap(self, layer, rule, rank, seed):
        original = type(layer).from_config(layer.get_config())
        settings = {name: getattr(self, name) for name in ("schedule", "alpha", "init")}
        settings |= {name: getattr(self, name) for name in ("noise_gate", "noise_draw", "noise_law")}
        settings |= {name: getattr(self, name) for name in ("activation_on", "decay_power")}
        factorization = rule.factorization
        return [
            layers.CLoRA(original, rank, method=self.name, factorization=factorization, seed=seed, **settings)
        ]

    def start(self, new, rule, kernel, bias, rank, seed, moments=None):
        (layer,) = new
        kernel = kernel_of(kernel)  # copies: no buffer is shared with the original
        bias = None if bias is None else kernel_of(bias)
        factors, rest = self.factors(rule, kernel, rank, np.random.default_rng(seed), moments)
        layer.assign_factors(factors)
        if not layer.has_base:
            return
        layer.kernel.assign(rest)
        if bias is not None:
            # With a residual, what the pair and c can hold from the start is theirs; the rest decays.
            keeps = self.init in RESIDUAL and layer.has_bias
            layer.fading_bias.assign(np.zeros_like(bias) if keeps else bias)
            if keeps:
                layer.bias.assign(bias)
        if layer.has_noise:
            mean, std = (f(rest, axis=layer.stat_axes, keepdims=True) for f in (np.mean, np.std))
            layer.noise_mean.assign(self.noise_law.mean * mean)
            layer.noise_std.assign(self.noise_law.spread * std)
            if layer.noise_quantiles is not None:
                safe = np.where(std > 0.0, std, 1.0)
                layer.noise_quantiles.assign(noise.quantiles_of((rest - mean) / safe))

    def factors(self, rule, kernel, rank, rng, moments=None) -> tuple[list[np.ndarray], np.ndarray]:
        """The start values of the factors, without s, and the kernel that is left to decay."""
        scale = self.alpha / rank
        if self.init == "lora":
            return rule.fresh(rank, rng, fan=rule.fan_by_rank(rank)), kernel
        if self.init == "lora_inputs":
            return rule.fresh(rank, rng), kernel
        if self.init == "orthogonal":
            return rule.orthogonal(rank, rng), kernel
        if self.init == "scratch":
            *first, last = rule.fresh(rank, rng, last_zero=False, like=kernel)
            return [*first, last / scale], np.zeros_like(kernel)
        factors = rule.decompose(kernel, rank, moments)
        root = scale ** (1.0 / len(factors))
        rest = kernel - rule.compose(factors) if self.init in RESIDUAL else kernel
        return [factor / root for factor in factors], rest

    def callbacks(self):
        return [] if self.schedule is None or self.init == "scratch" else [callbacks.DecayCallback()]

    def unfinished(self, new):
        return float(ops.convert_to_numpy(new.decay))

    def finish(self, new, rule, rank, keep_factors=False):
        config = {**new.original_config(), "use_bias": new.has_bias}
        if self.activation_on == "original" and "activation" in config:
            config["activation"] = None  # it went with W
        bias = new.bias if new.has_bias else None
        if keep_factors and rule.merges:
            (layer,) = rule.chain_of_factors(rank, config)
            values = [*new.factors(), *([] if bias is None else [ops.convert_to_numpy(bias)])]
            return [(layer, values)]
        return ended(rule.chain(rank, config), rule.kernels(new.factors()), bias)


@dataclass(frozen=True)
class Bias(WDS):
    """The slides' "C_weights": `WDS` and a new trainable bias c, zeros at the start, which stays."""

    name: ClassVar[str] = "bias"


@dataclass(frozen=True)
class Noise(WDS):
    """`WDS` and the scheduled noise n x, n ~ N((1 - d) m, (1 - d^2) sigma^2), redrawn at each step."""

    name: ClassVar[str] = "noise"


@dataclass(frozen=True)
class NoiseBias(WDS):
    """`WDS` with the noise of `Noise` and the bias of `Bias`."""

    name: ClassVar[str] = "noise_bias"
