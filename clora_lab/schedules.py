"""Weight Decay Scheduling: which part d of the original weights is left at a training step.

A schedule is a pure function of the step, ``schedule(step) -> d`` with d in [0, 1]:

    d(t) = 1                                    for u <= 0      (warm-up)
    d(t) = floor + (1 - floor) * shape(u)       for 0 < u < 1   (decay)
    d(t) = floor                                for u >= 1      (cool-down)
    u    = (t / total_steps - begin) / (end - begin)

with ``shape`` falling from 1 to 0. The slides of C-LoRA use the linear one (slide 9). This "weight decay"
is not the L2 term of an optimiser: nothing is added to the loss, the weights themselves are scaled by d.

A step is one update of the optimiser (``optimizer.iterations``), so gradient accumulation over k batches
divides the number of steps by k.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from clora_lab import _checks


@dataclass(frozen=True)
class Schedule:
    """Base of all schedules: ``schedule(step) -> d``, for one step or a NumPy array of steps.

    Args:
        total_steps: number of optimiser updates (steps) of the whole training, at least 1.
        begin: fraction of all steps at which the decay begins, in [0, 1).
        end: fraction of all steps at which it has arrived at `floor`, in (begin, 1].
        floor: the value of d from `end` on, in [0, 1].

    Raises:
        ValueError: if an argument is outside its range, or `begin` >= `end`.

    Example:
        >>> import numpy as np
        >>> from clora_lab import LinearDecay
        >>> schedule = LinearDecay(total_steps=100, begin=0.05, end=0.85)
        >>> schedule(0), round(schedule(45), 9), schedule(99)
        (1.0, 0.5, 0.0)
        >>> schedule(np.array([0, 25, 45]))
        array([1.  , 0.75, 0.5 ])
    """

    kind: ClassVar[str] = ""

    total_steps: int
    begin: float = 0.05
    end: float = 0.85
    floor: float = 0.0

    def __post_init__(self):
        _checks.positive_int("total_steps", self.total_steps)
        for argument in ("begin", "end", "floor"):
            _checks.real(argument, getattr(self, argument), 0.0, 1.0)
        if not self.begin < self.end:
            raise ValueError(
                "`begin` must be smaller than `end`, both as fractions of all steps. "
                f"Received: begin={self.begin!r}, end={self.end!r}."
            )

    def shape(self, progress: np.ndarray) -> np.ndarray:
        """Fall from 1 at progress 0 to 0 at progress 1; `progress` is an array in [0, 1]."""
        raise NotImplementedError(f"{type(self).__name__} does not define a shape.")

    def __call__(self, step):
        step = np.asarray(step, dtype="float64")
        width = self.end - self.begin
        progress = np.clip((step / self.total_steps - self.begin) / width, 0.0, 1.0)
        # The ends are set, not computed: 'no W is left' has to mean exactly `floor`.
        shape = np.where(progress >= 1.0, 0.0, self.shape(progress))
        decay = np.where(progress <= 0.0, 1.0, self.floor + (1.0 - self.floor) * shape)
        return decay if decay.ndim else float(decay)

    def to_dict(self) -> dict:
        """All that `from_dict` needs to build an equal schedule; JSON-serialisable."""
        return {"kind": self.kind, **dataclasses.asdict(self)}


@dataclass(frozen=True)
class LinearDecay(Schedule):
    """Linear decay, the schedule of the slides (slide 9): ``shape(u) = 1 - u``.

    Args: see `Schedule`. The slides use begin 0.05 and end 0.85 (toy, BERT), 0.10 and 0.90 (VGG16).

    Example:
        >>> from clora_lab import LinearDecay
        >>> round(LinearDecay(total_steps=48_000, begin=0.05, end=0.85)(24_000), 9)
        0.4375
    """

    kind: ClassVar[str] = "linear"

    def shape(self, progress):
        return 1.0 - progress


@dataclass(frozen=True)
class CosineDecay(Schedule):
    """Half a cosine, slow at both ends: ``shape(u) = (1 + cos(pi u)) / 2`` (Loshchilov & Hutter, 2017).

    Args: see `Schedule`.

    Example:
        >>> from clora_lab import CosineDecay
        >>> round(CosineDecay(total_steps=100, begin=0.0, end=1.0)(50), 6)
        0.5
    """

    kind: ClassVar[str] = "cosine"

    def shape(self, progress):
        return 0.5 * (1.0 + np.cos(np.pi * progress))


@dataclass(frozen=True)
class ExponentialDecay(Schedule):
    """Exponential decay, shifted so that it does reach 0: ``shape(u) = (e^(-k u) - e^(-k)) / (1 - e^(-k))``.

    Args: see `Schedule`.
        rate: k, larger than 0; the larger, the earlier W fades.

    Example:
        >>> from clora_lab import ExponentialDecay
        >>> ExponentialDecay(total_steps=100, begin=0.0, end=1.0, rate=4.0)(100)
        0.0
    """

    kind: ClassVar[str] = "exponential"

    rate: float = 5.0

    def __post_init__(self):
        super().__post_init__()
        _checks.real("rate", self.rate, 1e-6, 700.0)

    def shape(self, progress):
        return (np.exp(-self.rate * progress) - math.exp(-self.rate)) / (1.0 - math.exp(-self.rate))


@dataclass(frozen=True)
class PolynomialDecay(Schedule):
    """A power of what is left: ``shape(u) = (1 - u)^power``; power 1 is `LinearDecay`.

    Args: see `Schedule`.
        power: exponent, larger than 0.

    Example:
        >>> from clora_lab import PolynomialDecay
        >>> PolynomialDecay(total_steps=100, begin=0.0, end=1.0, power=3.0)(50)
        0.125
    """

    kind: ClassVar[str] = "polynomial"

    power: float = 3.0

    def __post_init__(self):
        super().__post_init__()
        _checks.real("power", self.power, 1e-6, 1e6)

    def shape(self, progress):
        return (1.0 - progress) ** self.power


@dataclass(frozen=True)
class StepDecay(Schedule):
    """A staircase of n equal drops, the first just after `begin`: ``shape(u) = 1 - ceil(u n) / n``.

    Args: see `Schedule`.
        drops: n, the number of drops, at least 1.

    Example:
        >>> import numpy as np
        >>> from clora_lab import StepDecay
        >>> StepDecay(total_steps=100, begin=0.0, end=1.0, drops=4)(np.array([0, 1, 25, 26, 100]))
        array([1.  , 0.75, 0.75, 0.5 , 0.  ])
    """

    kind: ClassVar[str] = "step"

    drops: int = 5

    def __post_init__(self):
        super().__post_init__()
        _checks.positive_int("drops", self.drops)

    def shape(self, progress):
        # Rounding guards the edges of the stairs against the last bit of `progress`.
        return 1.0 - np.ceil(np.round(progress * self.drops, 9)) / self.drops


@dataclass(frozen=True)
class ConstantDecay(Schedule):
    """No decay at all: ``d(t) = value``. 1 is plain LoRA beside a frozen W, 0 the low-rank net alone.

    Args: see `Schedule`; `begin`, `end` and `floor` have no effect here.
        value: d at every step, in [0, 1].

    Example:
        >>> from clora_lab import ConstantDecay
        >>> ConstantDecay(total_steps=100)(50)
        1.0
    """

    kind: ClassVar[str] = "constant"

    value: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        _checks.real("value", self.value, 0.0, 1.0)

    def __call__(self, step):
        step = np.asarray(step, dtype="float64")
        return np.full(step.shape, self.value) if step.ndim else float(self.value)


SCHEDULES = {
    cls.kind: cls
    for cls in (
        LinearDecay,
        CosineDecay,
        ExponentialDecay,
        PolynomialDecay,
        StepDecay,
        ConstantDecay,
    )
}


def get(kind: str, total_steps: int, **arguments) -> Schedule:
    """Build a schedule by its `kind`: "linear", "cosine", "exponential", "polynomial", "step", "constant".

    Args:
        kind: the schedule's name.
        total_steps: number of optimiser updates of the whole training.
        **arguments: the other fields of that schedule, for instance `begin`, `end`, `floor`, `power`.

    Raises:
        ValueError: for an unknown kind (the nearest one is suggested), an unknown or an impossible argument.

    Example:
        >>> from clora_lab import schedules
        >>> schedules.get("polynomial", 1000, power=2.0)
        PolynomialDecay(total_steps=1000, begin=0.05, end=0.85, floor=0.0, power=2.0)
    """
    cls = SCHEDULES[_checks.one_of("schedule", kind, SCHEDULES)]
    known = [field.name for field in dataclasses.fields(cls)]
    for argument in arguments:
        _checks.one_of(f"argument of the {kind} schedule", argument, known)
    return cls(total_steps=total_steps, **arguments)


def from_dict(config: dict) -> Schedule:
    """Build the schedule that `Schedule.to_dict` described.

    Example:
        >>> from clora_lab import schedules
        >>> schedule = schedules.CosineDecay(total_steps=10)
        >>> schedules.from_dict(schedule.to_dict()) == schedule
        True
    """
    config = dict(config)
    if "kind" not in config or "total_steps" not in config:
        raise ValueError(
            f"A schedule's `config` needs the keys 'kind' and 'total_steps'. Received: {config}."
        )
    return get(config.pop("kind"), config.pop("total_steps"), **config)


@dataclass(frozen=True)
class NoiseGate:
    """When scheduled noise is on: ``gate(d) = 1`` while ``threshold <= d < 1``, else 0.

    The slides stop the noise once d < 0.3; threshold 0 is their variant 'noise until the end of learning'
    (slide 15), which goes on through the cool-down at d = 0. A threshold above 1 never opens.

    Args:
        threshold: smallest d at which noise is still drawn, at least 0.

    Example:
        >>> from clora_lab import NoiseGate
        >>> gate = NoiseGate()
        >>> gate(0.5), gate(0.29), NoiseGate.get("until_end")(0.0), NoiseGate.get("never")(0.5)
        (1.0, 0.0, 1.0, 0.0)
    """

    threshold: float = 0.3

    NAMES: ClassVar[dict] = {"scheduled": 0.3, "until_end": 0.0, "never": 2.0}

    def __post_init__(self):
        _checks.real("threshold", self.threshold, 0.0)

    def __call__(self, decay):
        decay = np.asarray(decay, dtype="float64")
        # At d = 1 the noise has no variance and no mean: the draw can be saved.
        gate = ((decay >= self.threshold) & (decay < 1.0)).astype("float64")
        return gate if gate.ndim else float(gate)

    @classmethod
    def get(cls, gate) -> NoiseGate:
        """A gate from a gate, a threshold, or a name: "scheduled" (0.3), "until_end" (0), "never"."""
        if isinstance(gate, NoiseGate):
            return gate
        if isinstance(gate, str):
            return cls(cls.NAMES[_checks.one_of("noise_gate", gate, cls.NAMES)])
        return cls(_checks.real("noise_gate", gate, 0.0))
