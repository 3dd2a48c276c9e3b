"""`Method`: what every way to compress or adapt a layer answers."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import keras
import numpy as np

from clora_lab import _checks, layers, methods, rules
from clora_lab.composed import Composed


@dataclass(frozen=True)
class Method:
    """A way to compress or adapt layers; its fields are its settings.

    The verbs in the order of a net's life: `check` before anything is built, `wrap` and `start` when
    `clora_lab.compress` puts its layers in the place of the others, `callbacks` while it trains, `ranks` and
    `finish` when `clora_lab.finalize` ends it in stock layers. By default a method puts the rule's chain in
    the layer's place at once, so that nothing is left to finish.

    Class attributes:
        name: as in the registry.
        trains: whether there is anything to train.
        starts_from_original: whether it starts from the trained weights; else it is given an untrained net,
            and all of that net trains.
        keeps_original: whether all of W stays, so that nothing is compressed.
        truncates: whether `finish` cuts what trained to the rank, so that it stays what it was at full rank
            alone.
    """

    name: ClassVar[str] = ""
    trains: ClassVar[bool] = True
    starts_from_original: ClassVar[bool] = True
    keeps_original: ClassVar[bool] = False
    truncates: ClassVar[bool] = False

    @property
    def needs_calibration(self) -> bool:
        """Whether `start` wants the moments of the layers' inputs."""
        return False

    def check(self, rule: rules.Rule, rank: int) -> None:
        """Raise a `ValueError` with the remedy where a layer can't be treated at this rank."""
        rules.check_rank(rule, rank)

    def wrap(self, layer, rule: rules.Rule, rank: int, seed: int) -> list[keras.layers.Layer]:
        """The unbuilt layers that stand in the layer's place while the net trains.

        Args:
            layer: the layer that is replaced; it is not changed.
            rule: of the layer.
            rank: r.
            seed: of what is drawn.
        """
        return rule.chain(rank, layer.get_config())

    def start(
        self,
        new: list[keras.layers.Layer],
        rule: rules.Rule,
        kernel: np.ndarray,
        bias: np.ndarray | None,
        rank: int,
        seed: int,
        moments: np.ndarray | None = None,
    ) -> None:
        """Set the start values of the layers that `wrap` gave, in place.

        Args:
            new: the layers, built.
            rule: of the replaced layer.
            kernel: W.
            bias: b, or None.
            rank: r.
            seed: of what is drawn.
            moments: where `needs_calibration`: the mean of x^T x over inputs of the layer's matrix, or its
                diagonal.
        """
        raise NotImplementedError

    def callbacks(self) -> list[keras.callbacks.Callback]:
        """What fit() needs."""
        return []

    def unfinished(self, new: keras.layers.Layer) -> float:
        """How much of W still counts in a layer that is to be finished; 0 if it may be."""
        return 0.0

    def ranks(self, wrapped: list[keras.layers.Layer]) -> list[int]:
        """The ranks of the finished layers, for all that this method wrapped in a net."""
        return [layer.rank for layer in wrapped]

    def finish(
        self, new: keras.layers.Layer, rule: rules.Rule, rank: int, keep_factors: bool = False
    ) -> list[tuple[keras.layers.Layer, list[np.ndarray]]]:
        """The unbuilt stock layers that a wrapper ends in, with the values of their weights.

        Args:
            new: what stands in the net: a `CLoRA` or a `Composed`.
            rule: of the layer that was replaced.
            rank: of `ranks`.
            keep_factors: leave factors that no stock layer holds apart in a layer of this package.
        """
        raise NotImplementedError(f"{type(self).__name__} leaves nothing to finish.")

    def cost(self, rule: rules.Rule, rank: int, output_shape) -> rules.Cost:
        """What the finished layer costs, without its bias."""
        return rule.cost(rank, output_shape)

    def to_dict(self) -> dict:
        """The name and all settings; JSON-serialisable."""
        return {"name": self.name, **dataclasses.asdict(self)}


def get(method, **settings) -> Method:
    """A method from its name and settings, from the dict of `Method.to_dict`, or itself.

    Args:
        method: a name of the registry, a dict, or a `Method`.
        **settings: fields of the method, for a name.

    Raises:
        ValueError: for an unknown name or setting (the nearest one is suggested), an impossible value, or
            settings beside a method that has its own.

    Example:
        >>> from clora_lab import methods
        >>> methods.get("svd", init="activations")
        SVD(init='activations')
    """
    if isinstance(method, Method):
        if settings:
            raise ValueError(
                f"`method` {method!r} has its settings already, so {sorted(settings)} can't be given beside "
                f"it. Put them into {type(method).__name__}(...)."
            )
        return method
    if isinstance(method, dict):
        method, settings = method["name"], {k: v for k, v in method.items() if k != "name"} | settings
    cls = methods.find(method)
    known = [field.name for field in dataclasses.fields(cls)]
    for name in settings:
        if not known:
            raise ValueError(f"The method {method!r} has no settings. Received: {name!r}.")
        _checks.one_of(f"setting of the method {method!r}", name, known)
    return cls(**settings)


def of(wrapper: keras.layers.Layer) -> Method:
    """The method that made a `CLoRA` or a `Composed` layer, with its settings."""
    if isinstance(wrapper, Composed):
        return get(wrapper.method)
    cls = methods.find(wrapper.method)
    fields = {field.name: getattr(wrapper, field.name) for field in dataclasses.fields(cls)}
    return cls(**fields)


def ended(chain: list[keras.layers.Layer], factors: list, bias) -> list[tuple]:
    """The layers of a chain with their values: the factors as kernels, the bias in the last."""
    values = [[kernel] for kernel in factors]
    if bias is not None:
        values[-1].append(np.asarray(keras.ops.convert_to_numpy(bias)))
    return list(zip(chain, values, strict=True))


def kernel_of(array: np.ndarray) -> np.ndarray:
    """A copy of weights in the precision of the factors: float64 stays, the others are float32."""
    return np.array(array, dtype="float64" if array.dtype == np.float64 else "float32")


def callbacks_for(model: keras.Model) -> list[keras.callbacks.Callback]:
    """The callbacks that the methods of a compressed model need in ``fit(..., callbacks=...)``.

    Example:
        >>> import keras
        >>> import clora_lab as cl
        >>> model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(16), keras.layers.Dense(3)])
        >>> model_c = cl.compress(model, rank=2, schedule=cl.LinearDecay(total_steps=100))
        >>> [type(callback).__name__ for callback in cl.callbacks_for(model_c)]
        ['DecayCallback']
    """
    found: dict[type, keras.callbacks.Callback] = {}
    for layer in layers.wrapped_layers(model):
        for callback in of(layer).callbacks():
            found.setdefault(type(callback), callback)
    return list(found.values())
