"""One run of a study as frozen settings, and its name in the results.

A run is a flat set of fields: those that every study has (`SHARED`), the study's own axes, and the settings
of its method. What the library holds in objects is flat here, since a field is a column of the results:
`schedule`, `begin`, `end` and `floor` are a `clora_lab.Schedule`, the four `noise_...` a
`clora_lab.NoiseLaw`. Nothing here loads Keras.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import numbers
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from clora_lab import _checks, methods, schedules

LR_SCHEDULES = ("constant", "cosine")
INITS = ("lora", "lora_inputs", "svd", "svd_copy", "activations", "orthogonal", "scratch")


@dataclass(frozen=True)
class Field:
    """A field of a run, which is a column of its rows: its default, its limits, and what it means.

    Args:
        default: the value that names no run; its type is the field's: str, int, float or bool.
        words: what it is, with its unit, for the command line's help.
        choices: all that a text may be; empty for anything.
        low, high: limits of a number, both included.
        original: the value in the run that trains the original net, for a field of the compression alone;
            None for a field that the original net has as well.

    Example:
        >>> Field(10, "length of the training, in epochs", low=1).check("epochs", 0)
        Traceback (most recent call last):
            ...
        ValueError: `epochs` must be an integer of at least 1. Received: 0 (type int).
    """

    default: object
    words: str = ""
    choices: tuple = ()
    low: float | None = None
    high: float | None = None
    original: object = None

    @property
    def kind(self) -> type:
        """Type of the field and of its column."""
        return type(self.default)

    def check(self, name: str, value):
        """The value as the field's type.

        Raises:
            ValueError: it is not of that type, or beyond a limit.
        """
        if self.kind is bool:
            if not isinstance(value, bool):
                raise ValueError(f"`{name}` must be True or False. Received: {value!r}.")
            return value
        if self.kind is int:
            if self.low == 1:
                return _checks.positive_int(name, value)
            if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < (self.low or 0):
                raise ValueError(
                    f"`{name}` must be an integer of at least {self.low or 0}. Received: {value!r}."
                )
            return int(value)
        if self.kind is float:
            low = float("-inf") if self.low is None else self.low
            high = float("inf") if self.high is None else self.high
            return _checks.real(name, value, low, high)
        if self.choices:
            return _checks.one_of(name, value, self.choices)
        text = str(value)
        if not text.isprintable():
            raise ValueError(f"`{name}` must be one line of text. Received: {value!r}.")
        return text

    def parse(self, name: str, text: str):
        """The value that a text of the command line or of a CSV file stands for.

        Raises:
            ValueError: it stands for none.
        """
        words = {bool: "yes or no", int: "an integer", float: "a number"}
        truth = {"yes": True, "true": True, "no": False, "false": False, "": False}
        try:
            return truth[text.lower()] if self.kind is bool else self.kind(text)
        except (KeyError, ValueError):
            raise ValueError(f"`{name}` must be {words[self.kind]}. Received: {text!r}.") from None

    def cell(self, value):
        """The value as its column has it."""
        return ("yes" if value else "") if self.kind is bool else value


@dataclass(frozen=True)
class Gate(Field):
    """The field of `clora_lab.NoiseGate`: a name or a threshold; the column has the threshold."""

    kind = float

    def check(self, name, value):
        schedules.NoiseGate.get(value)
        if isinstance(value, str):
            return value
        # The slides' own threshold by its name, or one run would have two names.
        named = {schedules.NoiseGate.NAMES[self.default]: self.default}
        return named.get(value, float(value))

    def parse(self, name, text):
        try:
            return float(text)
        except ValueError:
            return text

    def cell(self, value):
        return schedules.NoiseGate.get(value).threshold


# What every run of every study has, and what is in its name whatever it is.
IDENTITY = ("dataset", "method")
SHARED = {
    "study": Field("", "name of the study in the results, and of their file"),
    "dataset": Field("", "name of the data set"),
    "model": Field("", "name of the net"),
    "method": Field(
        "", "how the net is compressed; the original net is a method too", choices=tuple(methods.ENTRIES)
    ),
    "rank": Field(0, "rank of the factors", low=1, original=0),
    "seed": Field(0, "of start values, order of the batches, and noise", low=0),
    "variant": Field("slides", "name of the recipe"),
    "epochs": Field(1, "length of the training, in epochs", low=1),
    "batch_size": Field(32, "examples a step", low=1),
    "learning_rate": Field(1e-3, "of Adam, at the start", low=1e-12, high=1e3),
    "lr_schedule": Field("constant", "constant, or cosine: to 0 over all steps", choices=LR_SCHEDULES),
    "fraction": Field(1.0, "share of the data that is used", low=1e-6, high=1.0),
}
# The settings of the slides' four methods, flat; every study has them, for the names of its runs.
DECAY = {
    "alpha": Field(32.0, "scale of the pair: alpha / rank", low=0.0),
    "init": Field(
        "lora_inputs",
        "how the pair starts; the default, which names no run, is the A of the first recorded runs, drawn by "
        "the inputs: the slides' is lora",
        choices=INITS,
    ),
    "noise_gate": Gate(
        "scheduled", "decay below which there is no noise: a number, or scheduled, until_end, never"
    ),
    "schedule": Field("linear", "shape of the decay", choices=tuple(schedules.SCHEDULES)),
    "begin": Field(0.05, "begin of the decay, as a share of all steps", low=0.0, high=1.0),
    "end": Field(0.85, "end of the decay, as a share of all steps", low=0.0, high=1.0),
    "floor": Field(0.0, "decay that is left in the end", low=0.0, high=1.0),
    "noise_spread": Field(1.0, "standard deviation of the noise, in units of the slides'", low=0.0, high=1e3),
    "noise_mean": Field(1.0, "mean of the noise, in units of the slides'", low=0.0, high=1e3),
    "noise_per": Field(
        "layer", "what mean and deviation are taken over", choices=("layer", "unit", "matrix")
    ),
    "noise_kind": Field("normal", "kind of the noise", choices=("normal", "empirical")),
    "activation_on": Field("sum", "what the activation acts on", choices=("sum", "original")),
    "decay_power": Field(1, "power of the decay factor before W", low=1),
}
# Those that are also settings of methods in which nothing fades: LoRA's.
OF_ANY_PAIR = ("alpha", "init")
# The slides' formula, and what their authors' code has in its place: see `clora_lab.slides.coded`.
AS_WRITTEN = {"init": "lora"}
AS_CODED = {**AS_WRITTEN, "activation_on": "original"}
# What may be done beside the compression; a study names those that it has a hook for.
STAGES = {
    "distillation": Field(
        0.0, "share of the loss that the original net gives and not the labels", low=0.0, high=1.0
    ),
}


@dataclass(frozen=True, repr=False)
class Run(Mapping):
    """One run: frozen, hashable, picklable; equal runs give equal rows, up to the backend's arithmetic.

    A run is a mapping from field to value, and has its fields as attributes. `Study.run` makes and checks
    it.

    Args:
        home: the study whose defaults its name leaves out.
        fields: its (name, value) pairs.

    Example:
        >>> from clora_lab import studies
        >>> run = studies.get("toy").run(dataset="digits", method="noise_bias", rank=8)
        >>> run.key, run.rank, run["alpha"], run.config
        ('noise_bias rank 8 seed 0 (slides)', 8, 32.0, 'fe93b1e1995f')
    """

    home: object = dataclasses.field(compare=False)
    fields: tuple[tuple[str, object], ...]

    def __getitem__(self, name):
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self):
        return len(self.fields)

    def __getattr__(self, name):
        if name.startswith("_") or name == "fields":
            raise AttributeError(name)
        try:
            return self._values[name]
        except KeyError:
            raise AttributeError(f"A run of {self.home.name!r} has no field {name!r}.") from None

    def __repr__(self):
        return f"<Run {self.study} {self.config}: {self.key}>"

    @functools.cached_property
    def _values(self) -> dict:
        return dict(self.fields)

    @property
    def config(self) -> str:
        """The run's name in the results: 12 hexadecimal digits that stand for all its fields.

        Only what differs from the study's defaults counts, so that a new field keeps the old names valid.
        """
        return hashlib.sha256(json.dumps(self.home.moved(self), sort_keys=True).encode()).hexdigest()[:12]

    @property
    def key(self) -> str:
        """The run in a few words, for progress bars and messages."""
        return self.home.key(self)

    @property
    def is_original(self) -> bool:
        """Whether this run trains the original net."""
        return self["method"] == methods.ORIGINAL

    @property
    def original(self) -> Run:
        """The run that trains the net from which this one starts."""
        return self.home.original(self)

    def replace(self, **changes) -> Run:
        """This run with other values of some fields.

        Raises:
            ValueError: for an unknown field or an impossible value.
        """
        return self.home.run(**{**self.home.moved(self), **changes})

    def only(self, *names: str) -> dict:
        """Some of the fields, for a run that shares them."""
        return {name: self[name] for name in names}

    def decay(self, total_steps: int) -> schedules.Schedule:
        """The decay schedule of its fields over `total_steps` steps."""
        shape = self.only("begin", "end", "floor")
        return schedules.get(self["schedule"], total_steps, **shape)

    @property
    def noise_law(self):
        """The `clora_lab.NoiseLaw` of its fields."""
        from clora_lab.noise import NoiseLaw

        return NoiseLaw(*(self[f"noise_{name}"] for name in ("spread", "mean", "per", "kind")))
