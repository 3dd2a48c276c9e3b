"""The one way to carry out a run: data -> original net -> method -> training -> finished net -> record.

What differs between studies is asked of the study's hooks, what differs between methods of the method. Every
compressed net trains its factors and biases; the rest stays the original's, frozen, as in the slides, unless
the method starts from random values.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import functools
import logging
import math
import os
import platform
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import keras

import clora_lab as cl
from clora_lab import graph, layers, methods, rules, targets
from clora_lab.lab import processes, training
from clora_lab.lab.paths import cache_dir
from clora_lab.lab.settings import DECAY, Run
from clora_lab.lab.study import PROVENANCE

# Settings that are objects in the library -> the fields of a run that they are made of.
OBJECTS = {
    "schedule": ("schedule", "begin", "end", "floor"),
    "noise_law": tuple(name for name in DECAY if name.startswith("noise_") and name != "noise_gate"),
}


@dataclass(frozen=True, eq=False)
class Data:
    """What a run trains and is measured on.

    Args:
        train, validation, test: (inputs, labels) each; inputs an array of shape (n, ...) or a dict of such.
        classes: number of classes.
        prepare: what makes of a batch of inputs what the net sees, or None.
        draw: the same in training: a function of (inputs, rng); None for `prepare`.
        more: what the study's own hooks need.
    """

    train: tuple
    validation: tuple
    test: tuple
    classes: int
    prepare: Callable | None = None
    draw: Callable | None = None
    more: dict = field(default_factory=dict)


def carry_out(run: Run) -> dict:
    """Carry out one run and return its record, as `Store.record` takes it; writes no result.

    Example:
        >>> from clora_lab import studies
        >>> run = studies.get("toy").run(dataset="digits", method="svd", rank=8, epochs=1)
        >>> carry_out(run)["values"][-1][:3]
        ['model', '-', 'seconds']
    """
    with processes.interrupted_later():
        keras.utils.clear_session()
    # A process runs many nets, each with its own compiled step: TensorFlow's advice on that is noise here.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    hooks = run.home.hooks
    with _policy(run):
        data = hooks.data(run)
        original, history, seconds = original_net(run, data)
        model = small = original
        trainable = original.count_params()
        if not run.is_original:
            keras.utils.set_random_seed(run.seed)
            method = method_of(run, _steps(run, data) * run.epochs)
            model = small = build(run, original, data)
            trainable = _size(model.trainable_weights)
            history, seconds = [], 0.0
            if method.trains:
                history, seconds = fit(run, model, data, original)
            if layers.wrapped_layers(model) and not method.keeps_original:
                left = run.decay(1)(1) > 0.0
                small = cl.finalize(model, force=left, keep_factors=True)
        values = measured(run, model, small, data)
        values += sizes(run, original, small)
    values.append(("model", "-", "trainable_parameters", float(trainable)))
    values.append(("model", "-", "seconds", round(seconds, 2)))
    training.forget(folder(run))
    return {
        "config": run.config,
        "fields": recorded_fields(run),
        "facts": {
            "train_size": len(data.train[1]),
            "test_size": len(data.test[1]),
            "seconds": round(seconds, 2),
        },
        "made": provenance(),
        "values": [list(value) for value in values],
        "history": [{name: _rounded(value) for name, value in epoch.items()} for epoch in history],
    }


def original_net(run: Run, data: Data | None = None) -> tuple[keras.Model, list[dict], float]:
    """The trained net from which a run starts, its history, and the seconds that its training took.

    Trained once for each setting, whatever the recipe's name, and cached in `cache_dir()`; a second process
    waits.

    Args:
        run: any of the study.
        data: of the run; None to load it.
    """
    own = run.original
    hooks = own.home.hooks
    own = hooks.shared(own)

    def train():
        with _policy(own):
            found = hooks.data(own) if data is None else data
            net = hooks.net(own, found)
            history, seconds = fit(own, net, found)
        return net, history, seconds

    found = training.trained_net(f"{own.home.base or own.home.name}-{own.config}", train)
    training.forget(folder(own))
    return found


def method_of(run: Run, total_steps: int) -> methods.Method:
    """The method of a run with the run's settings.

    Args:
        run: of a compressed net.
        total_steps: of the training to come.

    Example:
        >>> from clora_lab import studies
        >>> method_of(studies.get("toy").run(dataset="digits", method="svd", rank=8), 1)
        SVD(init='svd')
    """
    names = [each.name for each in dataclasses.fields(methods.find(run.method))]
    objects = {"schedule": lambda: run.decay(total_steps), "noise_law": lambda: run.noise_law}
    settings = {name: run[name] for name in names if name in run and name not in objects}
    settings |= {name: make() for name, make in objects.items() if name in names}
    return methods.get(run.method, **settings)


def build(run: Run, original: keras.Model, data: Data) -> keras.Model:
    """The net that a run trains.

    Args:
        run: of a compressed net.
        original: the trained net; it is not changed.
        data: of the run.
    """
    hooks = run.home.hooks
    method = method_of(run, _steps(run, data) * run.epochs)
    asked = hooks.compression(run, original)
    if method.needs_calibration:
        asked["calibration"] = training.take(data.train[0], slice(0, hooks.calibration))
    with warnings.catch_warnings():
        # The tables show the ratios, so a rank without a saving shows there.
        warnings.simplefilter("ignore", cl.BreakEvenWarning)
        origin = hooks.origin(run, method, original, data)
        model = cl.compress(origin, method=method, seed=run.seed, **asked)
    for name in hooks.free(run, method):
        model.get_layer(name).trainable = True
    return model


def check_ranks(runs: list[Run]) -> None:
    """Refuse ranks that a layer can't hold, before anything is trained.

    Args:
        runs: of one study; one net is built for each model and data set.

    Raises:
        ValueError: for the first of them; the message names the layer and the limit.
    """
    nets: dict[tuple, keras.Model] = {}
    seen = set()
    for run in runs:
        hooks = run.home.hooks
        shape = (run.dataset, run.model, *(run[name] for name in hooks.shapes))
        own = (*shape, run.method, *(value for name, value in run.items() if name in run.home.compressing))
        if run.is_original or own in seen:
            continue
        seen.add(own)
        if shape not in nets:
            nets[shape] = hooks.net(run, hooks.data(run), fresh=True)
        net, method = nets[shape], method_of(run, 1)
        asked = hooks.compression(run, net)
        factorization = asked.get("factorization")
        paths = dict(graph.walk(net))
        for path in targets.choose(net, paths, asked["targets"], factorization):
            rank = targets.rank_of(path, paths[path], asked["rank"], factorization)
            method.check(rules.rule(paths[path], factorization), rank)


def fit(
    run: Run, model: keras.Model, data: Data, teacher: keras.Model | None = None
) -> tuple[list[dict], float]:
    """Train a net in place by a run's recipe; returns its history, a dict an epoch, and the seconds.

    Epoch 0 is the state before training. Where the study's runs are long enough to be interrupted, it goes
    on from the last finished epoch; the checkpoint lies in `cache_dir()`.

    Args:
        run: the recipe.
        model: the net.
        data: of the run.
        teacher: the original net, for a run that is `taught`.
    """
    hooks = run.home.hooks
    decays = bool(cl.clora_layers(model)) and not methods.find(run.method).keeps_original
    needed = methods.callbacks_for(model)
    examples, how = data.train, {}
    if taught(run):
        model, examples, how = hooks.taught(run, model, teacher, data)
    steps = _steps(run, data)
    training.compile_model(model, run, steps * run.epochs, **hooks.compiled(run, steps), **how)
    views = ("trained", "compressed") if decays else ("trained",)
    if decays and run.method in hooks.alone:
        views += ("original",)
    paths = training.PathViews(*data.validation, views, prepare=data.prepare, **hooks.evaluation)
    paths.set_model(model)
    begin = {"decay": 1.0, "noise": 0.0} if decays else {}
    recipe = {"epochs": run.epochs, "callbacks": [*needed, paths], "start": lambda: paths.measure() | begin}
    if not hooks.resumable:
        return training.fit_arrays(model, *examples, run.batch_size, **recipe)
    draw = data.draw or (data.prepare and (lambda x, rng: data.prepare(x)))
    batches = training.Batches(*examples, run.batch_size, run.seed, draw, each_epoch=len(data.train[1]))
    patience = run.get("patience") if run.is_original else None
    return training.fit(model, batches, folder=folder(run), patience=patience, **recipe)


def taught(run: Run) -> bool:
    """Whether the original net gives a part of the loss: not where nothing is compressed or trained."""
    if run.is_original or not run.get("distillation", 0.0):
        return False
    method = methods.find(run.method)
    return method.trains and not method.keeps_original


def measured(run: Run, model: keras.Model, small: keras.Model, data: Data) -> list[tuple]:
    """Accuracy and loss on both splits, of the net as it trained and as it is finished, where that differs.

    Args:
        run: its study says how nets are evaluated.
        model: what was trained.
        small: what is left in the end.
        data: of the run.

    Returns:
        Tuples (split, view, metric, value).
    """
    nets = {"trained": small} if small is model else {"trained": model, "compressed": small}
    splits = {"validation": data.validation, "test": data.test}
    values = []
    for view, net in nets.items():
        for split, (x, y) in splits.items():
            found = training.evaluate(net, x, y, prepare=data.prepare, **run.home.hooks.evaluation)
            values += [(split, view, name, found[name]) for name in ("accuracy", "loss")]
    return values


def sizes(run: Run, original: keras.Model, small: keras.Model) -> list[tuple]:
    """Parameters, FLOPs and ratios of a finished net, as `measured`."""
    # What keeps all of the original is all of itself, by any convention.
    whole = run.is_original or methods.find(run.method).keeps_original
    table = cl.report(original, original if whole else small)
    total = table[table["layer"] == "total"].iloc[0]
    numbers = {
        "parameters": float(total["parameters"]),
        "run_parameters": float(total["run_parameters"]),
        "flops_percent": 100.0 if whole else 100.0 * float(total["flops_ratio"]),
    }
    for metric, convention in run.home.ratios.items():
        convention = convention(run) if callable(convention) else convention
        numbers[metric] = 100.0 if whole else 100.0 * cl.ratio(original, small, convention)
    return [("model", "-", name, value) for name, value in numbers.items()]


def recorded_fields(run: Run) -> dict:
    """The fields of a run's record: all that its name says, and the settings that its method has.

    The slides' settings say nothing of a method that has not got them, and are left out. The run that these
    fields make has the same name.
    """
    used = set() if run.is_original else {each.name for each in dataclasses.fields(methods.find(run.method))}
    used |= {name for each in used & set(OBJECTS) for name in OBJECTS[each]}
    return {
        name: value
        for name, value in run.items()
        if name not in DECAY or name in used or run.home.names_a_run(run, name, value)
    }


def folder(run: Run):
    """Where the checkpoint of an unfinished run lies."""
    return cache_dir() / f"{run.study}-{run.config}-{keras.backend.backend()}"


@functools.lru_cache(maxsize=1)
def provenance() -> dict:
    """What produced a row: backend, versions, processor, date (UTC)."""
    backend = keras.backend.backend()
    today = datetime.datetime.now(datetime.timezone.utc).date()
    versions = (keras.__version__, __import__(backend).__version__, cl.__version__, platform.python_version())
    return dict(zip(PROVENANCE, (backend, *versions, _processor(), today.isoformat()), strict=True))


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name} ({os.cpu_count()} cores)".replace(",", " ")


@contextlib.contextmanager
def _policy(run: Mapping) -> Iterator[None]:
    """Keras' precision for the nets that are made inside."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(run.get("precision", before))
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def _steps(run: Run, data: Data) -> int:
    return math.ceil(len(data.train[1]) / run.batch_size)


def _size(weights) -> int:
    return sum(math.prod(weight.shape) for weight in weights)


def _rounded(value):
    """Six digits of an epoch's value, which is what it is worth."""
    return float(f"{value:.6g}") if isinstance(value, float) else value
