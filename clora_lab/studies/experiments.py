"""The toy study: one frozen config is one run, a grid of them is the study; `runner` carries them out.

A run trains one net and returns its rows (see data/README.md). Dense nets are trained once per seed and
recipe, and cached.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import keras
import numpy as np

import clora_lab as cl
from clora_lab import _checks, methods, schedules
from clora_lab.lab import training
from clora_lab.lab.data import images
from clora_lab.lab.data import registry as datasets
from clora_lab.lab.nets import mlp
from clora_lab.lab.nets import registry as nets
from clora_lab.lab.runner import Settings, history_rows, result_rows
from clora_lab.lab.training import PathViews, build_net, measured, sizes, trained_net

DATASETS = ("fashion_mnist", "digits")  # the best first; the last needs no download
BASELINES = ("dense", "svd", "svd_finetune", "scratch")
METHODS = (*BASELINES, *methods.names("slides"))
LR_SCHEDULES = ("constant", "cosine")
RANKS = {"fashion_mnist": (16, 32, 64), "digits": (4, 8, 16)}
CALIBRATION = 1000  # images that the activation-aware start looks at
# So many steps run between two calls of Python; the decay moves with them.
STEPS_PER_EXECUTION = 50


@dataclass(frozen=True)
class Experiment(Settings):
    """One run of the toy study; equal experiments give equal rows, up to the backend's arithmetic.

    Args:
        dataset: "fashion_mnist" or "digits".
        method: "wds", "bias", "noise", "noise_bias", or a baseline: "dense" (the original net), "svd"
            (truncated, no training), "svd_finetune", "scratch" (the low-rank net from random values).
        rank: of both pairs; 0 for "dense".
        seed: of start values, order of the batches, and noise.
        variant: name of the recipe in the results: "slides", "cosine", "noise_to_end", "recipe".
        epochs, batch_size: of this training and of the dense net's.
        learning_rate: of Adam, at the start.
        lr_schedule: "constant", or "cosine" to 0 over all steps.
        dense_lr_schedule: the same for the dense net that is compressed.
        alpha, init, noise_gate: see `clora_lab.compress`; "activations" looks at the first CALIBRATION
            training images, and is also a start of the baselines "svd" and "svd_finetune".
        schedule, begin, end, floor: see `clora_lab.schedules`.
        noise_spread, noise_mean, noise_per, noise_kind: the fields of a `clora_lab.NoiseLaw`.
        fraction: share of the training images that is used.
        study: name of the study in the results.

    Raises:
        ValueError: for a value out of range.

    Example:
        >>> Experiment("digits", "noise_bias", rank=8).key
        'noise_bias rank 8 seed 0 (slides)'
    """

    dataset: str
    method: str
    rank: int = 0
    seed: int = 0
    variant: str = "slides"
    epochs: int = 30
    batch_size: int = 30
    learning_rate: float = 1e-3
    lr_schedule: str = "constant"
    dense_lr_schedule: str = "constant"
    alpha: float = 32.0
    init: str = "lora"
    noise_gate: str | float = "scheduled"
    schedule: str = "linear"
    begin: float = 0.05
    end: float = 0.85
    floor: float = 0.0
    noise_spread: float = 1.0
    noise_mean: float = 1.0
    noise_per: str = "layer"
    noise_kind: str = "normal"
    fraction: float = 1.0
    study: str = "toy"
    model = "toy_mlp"  # not a field: it is the same for all

    def __post_init__(self):
        _checks.one_of("dataset", self.dataset, RANKS)
        _checks.one_of("method", self.method, METHODS)
        for argument in ("lr_schedule", "dense_lr_schedule"):
            _checks.one_of(argument, getattr(self, argument), LR_SCHEDULES)
        for argument in ("epochs", "batch_size"):
            _checks.positive_int(argument, getattr(self, argument))
        if self.method != "dense":
            _checks.positive_int("rank", self.rank)
        elif self.rank != 0:
            raise ValueError(f"`rank` of the method 'dense' must be 0. Received: {self.rank!r}.")
        _checks.real("learning_rate", self.learning_rate, 1e-12, 1e3)
        _checks.real("fraction", self.fraction, 1e-6, 1.0)
        schedules.NoiseGate.get(self.noise_gate)
        self.decay(1)
        self.noise_law  # noqa: B018, checks the four fields

    @property
    def noise_law(self) -> cl.NoiseLaw:
        """The law of the noise."""
        return cl.NoiseLaw(self.noise_spread, self.noise_mean, self.noise_per, self.noise_kind)

    @property
    def key(self) -> str:
        """The run in a few words, for progress bars and messages."""
        rank = f" rank {self.rank}" if self.rank else ""
        return f"{self.method}{rank} seed {self.seed} ({self.variant})"

    def run(self) -> tuple[list[dict], list[dict]]:
        """As the function `run`."""
        return run(self)

    @property
    def dense(self) -> Experiment:
        """The experiment that trains the dense net from which this one starts."""
        return Experiment(
            dataset=self.dataset,
            method="dense",
            seed=self.seed,
            variant="slides" if self.dense_lr_schedule == "constant" else "cosine",
            epochs=self.epochs,
            batch_size=self.batch_size,
            lr_schedule=self.dense_lr_schedule,
            dense_lr_schedule=self.dense_lr_schedule,
            fraction=self.fraction,
            study=self.study,
        )


def toy_grid(
    dataset: str,
    ranks: Sequence[int] | None = None,
    seeds: Iterable[int] = (0,),
    variants: Sequence[str] = ("slides", "noise_to_end"),
    **changes,
) -> list[Experiment]:
    """The experiments of the toy study, the dense nets first.

    Args:
        dataset: "fashion_mnist" or "digits".
        ranks: None for the slides' 16, 32, 64 (digits, whose layers are smaller: 4, 8, 16).
        seeds: one run of everything for each.
        variants: of "slides" (four methods and all baselines, constant learning rate), "cosine" (noise &
            bias and all baselines with a cosine learning rate, the dense net too), "noise_to_end"
            (slide 15: noise & bias at the smallest rank with noise until the end of learning), "recipe"
            (the best found: `RECIPE`, with a cosine learning rate).
        **changes: fields of `Experiment` for all of them, for instance `epochs`.

    Raises:
        ValueError: for an unknown variant or an impossible field.

    Example:
        >>> len(toy_grid("digits"))
        23
    """
    ranks = tuple(RANKS[_checks.one_of("dataset", dataset, RANKS)] if ranks is None else ranks)
    if not ranks:
        raise ValueError("`ranks` is empty. Give at least one, for instance (16,).")
    grid = []
    for variant in variants:
        _checks.one_of("variant", variant, VARIANTS)
        grid += [
            Experiment(dataset=dataset, seed=seed, **{**fields, **changes})
            for seed in seeds
            for fields in VARIANTS[variant](ranks)
        ]
    grid = list(dict.fromkeys(grid))
    return sorted(grid, key=lambda experiment: experiment.method != "dense")


def _slides(ranks) -> list[dict]:
    rows = [{"method": "dense"}]
    for rank in ranks:
        rows += [{"method": method, "rank": rank} for method in methods.names("slides")]
        rows += [{"method": "svd", "rank": rank, "init": "svd"}]
        rows += [{"method": "svd_finetune", "rank": rank, "init": "svd"}]
        rows += [{"method": "scratch", "rank": rank, "init": "scratch"}]
    return rows


def _cosine(ranks) -> list[dict]:
    cosine = {"variant": "cosine", "lr_schedule": "cosine", "dense_lr_schedule": "cosine"}
    methods = (*BASELINES, "noise_bias")
    return [{**row, **cosine} for row in _slides(ranks) if row["method"] in methods]


def _noise_to_end(ranks) -> list[dict]:
    end = {"variant": "noise_to_end", "noise_gate": "until_end"}
    return [{"method": "noise_bias", "rank": min(ranks), **end}]


# The best recipe found on the validation images at each rank; data/results/toy_search.csv has the search.
RECIPE = {"method": "noise_bias", "init": "svd", "begin": 0.0, "end": 0.5}


def _recipe(ranks) -> list[dict]:
    cosine = {"variant": "recipe", "lr_schedule": "cosine", "dense_lr_schedule": "cosine"}
    return [{**RECIPE, **cosine, "rank": rank} for rank in ranks]


VARIANTS = {"slides": _slides, "cosine": _cosine, "noise_to_end": _noise_to_end, "recipe": _recipe}


@functools.lru_cache(maxsize=2)
def _data(dataset: str) -> images.Images:
    return datasets.load(dataset)


def _training_part(experiment: Experiment) -> tuple[np.ndarray, np.ndarray, int]:
    """The images and labels that an experiment trains on, and its steps an epoch."""
    data = _data(experiment.dataset)
    count = max(experiment.batch_size, round(len(data.x_train) * experiment.fraction))
    x, y = data.x_train[:count], data.y_train[:count]
    return x, y, -(-len(x) // experiment.batch_size)


def compile_model(model: keras.Model, experiment: Experiment, total_steps: int) -> keras.Model:
    """Compile a net in place for training by the experiment's recipe; returns it."""
    return training.compile_model(model, experiment, total_steps, steps_per_execution=STEPS_PER_EXECUTION)


def fit(model: keras.Model, experiment: Experiment) -> list[dict]:
    """Train a net in place by the experiment's recipe and return its history, a dict an epoch.

    Epoch 0 is the state before training.
    """
    wrapped = bool(cl.clora_layers(model))
    data = _data(experiment.dataset)
    x, y, steps = _training_part(experiment)
    compile_model(model, experiment, steps * experiment.epochs)
    views = ("trained", "compressed") if wrapped else ("trained",)
    if experiment.method == "wds":  # slide 12 shows the decaying path on its own
        views += ("original",)
    paths = PathViews(data.x_val, data.y_val, views)
    paths.set_model(model)
    start = paths.measure() | ({"decay": 1.0, "noise": 0.0} if wrapped else {})
    logs = model.fit(
        x,
        y,
        batch_size=experiment.batch_size,
        epochs=experiment.epochs,
        callbacks=[*([cl.DecayCallback()] if wrapped else []), paths],
        verbose=0,
    ).history
    epochs = [dict(zip(logs, values, strict=True)) for values in zip(*logs.values(), strict=True)]
    return [
        {"epoch": epoch, "step": epoch * steps, **values} for epoch, values in enumerate([start, *epochs])
    ]


def dense_net(experiment: Experiment) -> tuple[keras.Model, list[dict], float]:
    """The trained dense net from which an experiment starts, its history, and the seconds it took.

    Trained once for each dataset, seed and recipe, and cached in `cache_dir()`; a second process waits.
    """
    dense = experiment.dense

    def train():
        begin = time.perf_counter()
        data = _data(dense.dataset)
        model = mlp.toy_mlp(data.x_train.shape[1], len(data.classes), seed=dense.seed)
        return model, fit(model, dense), time.perf_counter() - begin

    return trained_net(f"toy-{dense.config}", train)


def build(experiment: Experiment, dense: keras.Model, total_steps: int) -> keras.Model:
    """The net that an experiment trains: see `training.build_net`."""

    def fresh():
        return mlp.toy_mlp(dense.input_shape[-1], dense.output_shape[-1], experiment.seed)

    given = {}
    if experiment.init == "activations":
        given["calibration"] = _training_part(experiment)[0][:CALIBRATION]
    return build_net(
        experiment, dense, fresh, total_steps, rank=experiment.rank, targets=nets.targets("toy_mlp"), **given
    )


def run(experiment: Experiment) -> tuple[list[dict], list[dict]]:
    """Carry out one experiment and return its result rows and its history rows; writes no result.

    Returns:
        Rows with the columns of `clora_lab.lab.results`: accuracies as fractions, the last row's
        metric is "seconds" (this training alone, without the dense net's).
    """
    keras.utils.clear_session()
    # A process runs many nets, each with its own compiled step: TensorFlow's advice on that is noise here.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    data = _data(experiment.dataset)
    dense, history, seconds = dense_net(experiment)
    keras.utils.set_random_seed(experiment.seed)
    begin = time.perf_counter()
    _, _, steps = _training_part(experiment)
    model = build(experiment, dense, steps * experiment.epochs)
    wrapped = experiment.method in methods.names("slides")
    if wrapped:
        history = fit(model, experiment)
        small = cl.finalize(model, force=experiment.floor > 0.0 or experiment.schedule == "constant")
    elif experiment.method in ("svd_finetune", "scratch"):
        history = fit(model, experiment)
        small = model
    else:
        small = model
        history = history if experiment.method == "dense" else []
    if experiment.method != "dense":
        seconds = time.perf_counter() - begin
    values = measured(
        model,
        small,
        {"validation": (data.x_val, data.y_val), "test": (data.x_test, data.y_test)},
    )
    values += sizes(experiment, dense, small, {"ratio_percent": "slides", "ratio_model_percent": "model"})
    values.append(("model", "-", "seconds", seconds))
    return result_rows(experiment, values, seconds), history_rows(experiment, history)
