"""Experiments: one frozen config is one run; a grid of them is a study; a runner that loses nothing.

A run trains one net and returns its rows (see data/README.md); only the runner writes them, so that a run
is either recorded whole or not at all. Dense nets are trained once per seed and recipe, and cached.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import hashlib
import json
import logging
import os
import platform
import time
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import filelock
import joblib
import keras
import numpy as np
import pandas as pd
import scipy.special
from tqdm.auto import tqdm

import clora_lab as cl
from clora_lab import _checks, layers, schedules
from clora_lab.studies import datasets, models, processes
from clora_lab.studies.paths import cache_dir
from clora_lab.studies.results import HISTORY_COLUMNS, ResultsStore

BASELINES = ("dense", "svd", "svd_finetune", "scratch")
METHODS = (*BASELINES, *layers.METHODS)
LR_SCHEDULES = ("constant", "cosine")
RANKS = {"fashion_mnist": (16, 32, 64), "digits": (4, 8, 16)}
EVAL_BATCH = 2000
# So many steps run between two calls of Python; the decay moves with them.
STEPS_PER_EXECUTION = 50


@dataclass(frozen=True)
class Experiment:
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
        alpha, init, noise_gate: see `clora_lab.compress`.
        schedule, begin, end, floor: see `clora_lab.schedules`.
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
    fraction: float = 1.0
    study: str = "toy"

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

    def decay(self, total_steps: int) -> schedules.Schedule:
        """The decay schedule over `total_steps` steps."""
        return schedules.get(self.schedule, total_steps, begin=self.begin, end=self.end, floor=self.floor)

    @property
    def config(self) -> str:
        """12 hexadecimal digits that stand for all fields: the run's name in the results.

        Only fields that differ from their default count, so that a new field keeps the old names valid.
        """
        fields = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != field.default
        }
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def key(self) -> str:
        """The run in a few words, for progress bars and messages."""
        rank = f" rank {self.rank}" if self.rank else ""
        return f"{self.method}{rank} seed {self.seed} ({self.variant})"

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
        rows += [{"method": method, "rank": rank} for method in layers.METHODS]
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
def _data(dataset: str) -> datasets.Dataset:
    return datasets.load(dataset)


def _training_part(experiment: Experiment) -> tuple[np.ndarray, np.ndarray, int]:
    """The images and labels that an experiment trains on, and its steps an epoch."""
    data = _data(experiment.dataset)
    count = max(experiment.batch_size, round(len(data.x_train) * experiment.fraction))
    x, y = data.x_train[:count], data.y_train[:count]
    return x, y, -(-len(x) // experiment.batch_size)


class PathViews(keras.callbacks.Callback):
    """Adds validation loss and accuracy, of what trains and of single paths, to each epoch's logs.

    Args:
        x, y: the validation images and labels.
        views: of `clora_lab.surgery.VIEWS`.
    """

    def __init__(self, x, y, views=("trained",)):
        super().__init__()
        self.x, self.y, self.views = x, y, views

    def on_epoch_end(self, epoch, logs=None):
        logs.update(self.measure())

    def measure(self) -> dict:
        """val_loss and val_accuracy of what trains, val_<view>_loss and so on of the other views."""
        values = {}
        for name in self.views:
            prefix = "val_" if name == "trained" else f"val_{name}_"
            with cl.view(self.model, name):
                result = evaluate(self.model, self.x, self.y)
            values |= {f"{prefix}{metric}": value for metric, value in result.items()}
        return values


def compile_model(model: keras.Model, experiment: Experiment, total_steps: int) -> keras.Model:
    """Compile a net in place for training by the experiment's recipe; returns it."""
    rate = experiment.learning_rate
    if experiment.lr_schedule == "cosine":
        rate = keras.optimizers.schedules.CosineDecay(rate, decay_steps=total_steps)
    model.compile(
        optimizer=keras.optimizers.Adam(rate),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        steps_per_execution=STEPS_PER_EXECUTION,
    )
    return model


def evaluate(model: keras.Model, x, y) -> dict:
    """Mean cross-entropy and accuracy of a net with logits; it need not be compiled.

    Args:
        model: (batch, features) -> (batch, classes), logits.
        x: inputs, of shape (n, features).
        y: labels, integers of shape (n,).
    """
    batches = range(0, len(x), EVAL_BATCH)
    logits = [keras.ops.convert_to_numpy(model(x[i : i + EVAL_BATCH], training=False)) for i in batches]
    logits = np.concatenate(logits).astype("float64")
    loss = np.mean(scipy.special.logsumexp(logits, axis=1) - logits[np.arange(len(y)), y])
    return {"loss": float(loss), "accuracy": float(np.mean(np.argmax(logits, axis=1) == y))}


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
    backend = keras.backend.backend()
    path = cache_dir() / f"toy-{dense.config}-{backend}.keras"
    notes = path.with_suffix(".json")
    with filelock.FileLock(path.with_suffix(".lock")):
        if not path.exists() or not notes.exists():
            begin = time.perf_counter()
            data = _data(dense.dataset)
            model = models.toy_mlp(data.x_train.shape[1], data.classes, seed=dense.seed)
            history = fit(model, dense)
            seconds = time.perf_counter() - begin
            for target, save in (
                (notes, lambda p: p.write_text(json.dumps([history, seconds]))),
                (path, model.save),
            ):
                part = target.with_name(f"part-{os.getpid()}-{target.name}")
                save(part)
                os.replace(part, target)
        history, seconds = json.loads(notes.read_text())
    return keras.saving.load_model(path), history, seconds


def build(experiment: Experiment, dense: keras.Model, total_steps: int) -> keras.Model:
    """The net that an experiment trains: a wrapped one for C-LoRA, stock layers for the baselines.

    Every compressed net trains its pairs and biases; the output layer stays the dense net's, frozen, as
    in the slides, except in "scratch", where nothing of the dense net is used.
    """
    if experiment.method == "dense":
        return dense
    arguments = {"rank": experiment.rank, "targets": models.TOY_TARGETS, "seed": experiment.seed}
    with warnings.catch_warnings():
        # The tables show the ratios, so a rank without a saving shows there.
        warnings.simplefilter("ignore", cl.BreakEvenWarning)
        if experiment.method in layers.METHODS:
            return cl.compress(
                dense,
                method=experiment.method,
                schedule=experiment.decay(total_steps),
                init=experiment.init,
                alpha=experiment.alpha,
                noise_gate=experiment.noise_gate,
                **arguments,
            )
        if experiment.method == "scratch":
            fresh = models.toy_mlp(dense.input_shape[-1], dense.output_shape[-1], experiment.seed)
            wrapped = cl.compress(fresh, method="bias", init="scratch", freeze=False, **arguments)
            return cl.finalize(wrapped)
        schedule = schedules.LinearDecay(total_steps)
        wrapped = cl.compress(dense, method="bias", init="svd", schedule=schedule, **arguments)
    small = cl.finalize(wrapped, force=True)
    small.get_layer("dense_2").trainable = False
    return small


def run(experiment: Experiment) -> tuple[list[dict], list[dict]]:
    """Carry out one experiment and return its result rows and its history rows; writes no result.

    Returns:
        Rows with the columns of `clora_lab.studies.results`: accuracies as fractions, the last row's
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
    wrapped = experiment.method in layers.METHODS
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
    values = []
    views = {"trained": model, "compressed": small} if wrapped else {"trained": small}
    for view, net in views.items():
        for split, x, y in (
            ("validation", data.x_val, data.y_val),
            ("test", data.x_test, data.y_test),
        ):
            result = evaluate(net, x, y)
            values += [(split, view, name, result[name]) for name in ("accuracy", "loss")]
    values.append(("model", "-", "parameters", float(small.count_params())))
    for metric, convention in (("ratio_percent", "slides"), ("ratio_model_percent", "model")):
        # The dense net has no compressed layer to count, and is all of itself by any convention.
        ratio = 1.0 if experiment.method == "dense" else cl.ratio(dense, small, convention)
        values.append(("model", "-", metric, 100.0 * ratio))
    values.append(("model", "-", "seconds", seconds))
    return _rows(experiment, values, seconds), _history_rows(experiment, history)


def _identity(experiment: Experiment) -> dict:
    names = ("study", "dataset", "method", "rank", "init", "variant", "seed")
    row = {name: getattr(experiment, name) for name in names}
    if experiment.method == "dense":
        row["init"] = ""
    return row | {"model": "toy_mlp", "config": experiment.config}


def _rows(experiment: Experiment, values, seconds: float) -> list[dict]:
    names = ("epochs", "batch_size", "learning_rate", "lr_schedule", "alpha", "schedule", "begin")
    names += ("end", "floor", "noise_gate", "fraction")
    common = _identity(experiment) | {name: getattr(experiment, name) for name in names}
    common |= provenance() | {"seconds": round(seconds, 2)}
    common["noise_gate"] = schedules.NoiseGate.get(experiment.noise_gate).threshold
    if experiment.method not in layers.METHODS:
        common |= dict.fromkeys(("alpha", "begin", "end", "floor", "noise_gate"))
        common["schedule"] = ""
    if experiment.method == "svd":
        common |= {"epochs": 0, "learning_rate": None}
    return [
        {**common, "split": split, "view": view, "metric": metric, "value": value}
        for split, view, metric, value in values
    ]


def _history_rows(experiment: Experiment, history: list[dict]) -> list[dict]:
    identity = _identity(experiment)
    return [{name: {**identity, **epoch}.get(name) for name in HISTORY_COLUMNS} for epoch in history]


@functools.lru_cache(maxsize=1)
def provenance() -> dict:
    """What produced a row: backend, versions, processor, date (UTC)."""
    backend = keras.backend.backend()
    version = __import__(backend).__version__
    return {
        "backend": backend,
        "keras_version": keras.__version__,
        "backend_version": version,
        "clora_version": cl.__version__,
        "python": platform.python_version(),
        "processor": _processor(),
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name} ({os.cpu_count()} cores)".replace(",", " ")


class RunsFailed(RuntimeError):
    """Some runs of a grid failed; the others are recorded."""


def _attempt(experiment: Experiment):
    try:
        return experiment, run(experiment), None
    except Exception as error:  # the other runs go on; `run_grid` raises at the end
        return experiment, None, f"{type(error).__name__}: {error}"


def run_grid(
    experiments: Sequence[Experiment],
    store: ResultsStore,
    jobs: int | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Carry out all experiments that `store` does not hold yet, and return the rows of all of them.

    A run is recorded as soon as it is done; killed at any moment and called again, it repeats no recorded
    run. Runs are handed out through joblib: by default to `jobs` processes of this machine, or to whatever
    `joblib.parallel_config` names, for instance a Dask cluster.

    Args:
        experiments: what to run; dense nets are run first, as others start from them.
        store: where results are recorded.
        jobs: number of processes; None for what `joblib.parallel_config` says, or else 1.
        progress: show a bar with the time left.

    Raises:
        ResultsError: if the results folder can't be written (before any run).
        RunsFailed: after all others are done, if runs failed; names them and their errors.

    Example:
        >>> store = ResultsStore("out/results", "toy")  # doctest: +SKIP
        >>> run_grid(toy_grid("digits"), store, jobs=2)  # doctest: +SKIP
    """
    store.check_writable()
    processes.limit_threads()
    finished = store.finished()
    waiting = [experiment for experiment in experiments if experiment.config not in finished]
    failed = []
    waves = [
        [experiment for experiment in waiting if experiment.method == "dense"],
        [experiment for experiment in waiting if experiment.method != "dense"],
    ]
    bar = tqdm(
        total=len(experiments),
        initial=len(experiments) - len(waiting),
        desc="toy study",
        unit="run",
        disable=not progress,
    )
    with bar:
        for wave in filter(None, waves):
            parallel = joblib.Parallel(
                n_jobs=jobs, return_as="generator_unordered", pre_dispatch="all", batch_size=1
            )
            for experiment, rows, error in parallel(joblib.delayed(_attempt)(e) for e in wave):
                if error is None:
                    store.append(*rows)
                else:
                    failed.append(f"{experiment.key}: {error}")
                bar.set_postfix_str(experiment.key, refresh=False)
                bar.update()
    if failed:
        raise RunsFailed(
            f"{len(failed)} of {len(waiting)} runs failed, the others are recorded in {store.path}:\n"
            + "\n".join(failed)
        )
    results = store.read()
    wanted = {experiment.config for experiment in experiments}
    return results[results["config"].isin(wanted)].reset_index(drop=True)
