"""The baselines: truncated SVD, the same fine-tuned, and the same net from random values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from clora_lab import _checks
from clora_lab.methods.base import Method, kernel_of


@dataclass(frozen=True)
class SVD(Method):
    """The best factors of W in its place, nothing trained: ``y = f( x f1 ... fn + b )``.

    Args:
        init: "svd" for the best factors in the Frobenius norm (Eckart & Young 1936), "activations" for those
            that are best on the inputs of a calibration batch (`clora_lab.factorize.activation_aware_svd`).
    """

    name: ClassVar[str] = "svd"
    trains: ClassVar[bool] = False

    init: str = "svd"

    def __post_init__(self):
        _checks.one_of("init", self.init, ("svd", "activations"))

    @property
    def needs_calibration(self):
        return self.init == "activations"

    def wrap(self, layer, rule, rank, seed):
        # As C-LoRA with a bias would leave it: every compressed layer that can have a bias keeps one.
        config = {**layer.get_config(), "use_bias": True}
        # Factors that no stock layer holds apart train in a layer of this package, as C-LoRA's do.
        return rule.chain_of_factors(rank, config) if rule.merges else rule.chain(rank, config)

    def start(self, new, rule, kernel, bias, rank, seed, moments=None):
        factors = self.factors(rule, kernel_of(kernel), rank, seed, moments)
        for weight, value in zip((w for layer in new for w in layer.weights), factors, strict=False):
            weight.assign(value)  # the bias, which comes last, has no factor
        new[-1].bias.assign(np.zeros(new[-1].bias.shape) if bias is None else kernel_of(bias))

    def factors(self, rule, kernel, rank, seed, moments) -> list[np.ndarray]:
        """The start values."""
        return rule.decompose(kernel, rank, moments)


@dataclass(frozen=True)
class SVDFinetune(SVD):
    """`SVD`, and then the factors train (Denton et al. 2014, arXiv:1404.0736)."""

    name: ClassVar[str] = "svd_finetune"
    trains: ClassVar[bool] = True


@dataclass(frozen=True)
class Scratch(SVD):
    """The same low-rank net from random values: what the trained W was worth.

    Everything trains, so it is given an untrained net. The factors' product has the variance of He et al.
    2015 (arXiv:1502.01852), an embedding's that of its W.
    """

    name: ClassVar[str] = "scratch"
    trains: ClassVar[bool] = True
    starts_from_original: ClassVar[bool] = False

    init: str = "scratch"

    def __post_init__(self):
        _checks.one_of("init", self.init, ("scratch",))

    def start(self, new, rule, kernel, bias, rank, seed, moments=None):
        super().start(new, rule, kernel, None, rank, seed)

    def factors(self, rule, kernel, rank, seed, moments):
        return rule.fresh(rank, np.random.default_rng(seed), last_zero=False, like=kernel)
