"""LoRA: the pair adds to a W that stays. No compression, but what C-LoRA turned round."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from keras import ops

from clora_lab import layers, schedules
from clora_lab.methods.base import Method, ended
from clora_lab.methods.clora import WDS


@dataclass(frozen=True)
class LoRA(Method):
    """Low-rank adaptation (Hu et al. 2021, arXiv:2106.09685): ``y = f( W x + b + s B A x )``, W and b frozen.

    It ends in the layer that it began with, W + s B A in the place of W.

    Args:
        init: how the factors start, see `clora_lab.methods.WDS`; "svd" is PiSSA's start (Meng et al. 2024).
        alpha: s = alpha / rank.
    """

    name: ClassVar[str] = "lora"
    keeps_original: ClassVar[bool] = True

    init: str = "lora_inputs"
    alpha: float = 32.0

    def __post_init__(self):
        self._beside()

    def _beside(self) -> WDS:
        """The same pair with a d that does not move: what `CLoRA` makes of it."""
        return WDS(schedules.ConstantDecay(1), init=self.init, alpha=self.alpha)

    @property
    def needs_calibration(self):
        return self._beside().needs_calibration

    def wrap(self, layer, rule, rank, seed):
        original = type(layer).from_config(layer.get_config())
        settings = {"schedule": schedules.ConstantDecay(1), "init": self.init, "alpha": self.alpha}
        settings |= {"factorization": rule.factorization, "seed": seed}
        return [layers.CLoRA(original, rank, method=self.name, **settings)]

    def start(self, new, rule, kernel, bias, rank, seed, moments=None):
        self._beside().start(new, rule, kernel, bias, rank, seed, moments)

    def callbacks(self):
        return self._beside().callbacks()

    def finish(self, new, rule, rank, keep_factors=False):
        config = new.original_config()
        kernel = ops.convert_to_numpy(new.kernel) + rule.compose(new.factors())
        bias = new.fading_bias
        return ended([type(new.base).from_config(config)], [kernel], bias)

    def cost(self, rule, rank, output_shape):
        factors = rule.cost(rank, output_shape)
        own = rule.flops(rule.kernel_shape, output_shape)
        return factors._replace(
            stored=rule.kernel_size + factors.stored,
            run=rule.kernel_size + factors.run,
            flops=own + factors.flops,
        )
