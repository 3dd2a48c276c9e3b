"""The VGG16 study (slides 18, 19): C-LoRA on convolutions, CIFAR-10, and the baselines beside it.

All 13 convolutions and the two hidden dense layers are compressed; the output layer stays. `rank` is the
convolutions' rank, `dense_rank` the dense layers', as in the slides' table. A run goes on from its last
finished epoch when it is interrupted.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import keras

import clora_lab as cl
from clora_lab import _checks, graph, methods, rules, schedules
from clora_lab.lab import training
from clora_lab.lab.data import images
from clora_lab.lab.data import registry as datasets
from clora_lab.lab.nets import registry as nets
from clora_lab.lab.paths import cache_dir
from clora_lab.lab.runner import Settings, history_rows, result_rows
from clora_lab.studies.experiments import LR_SCHEDULES, METHODS

DATASETS = ("cifar10_jpeg", "cifar10", "digits32")
NETS = ("vgg16", "small_vgg")
(CONVOLUTIONS,) = nets.targets("vgg16", "convolutions")
TARGETS = nets.targets("vgg16")
FACTORIZATIONS = ("loralib", "pair", "pair_equal")
PRECISIONS = ("float32", "mixed_bfloat16")
# (convolutions' rank, dense layers' rank) of slide 19.
RANKS = ((16, 16), (16, 32), (16, 64), (32, 16), (32, 32), (32, 64))
CONVENTIONS = {
    "ratio_percent": "slides",
    "ratio_head_percent": "slides_head",
    "ratio_model_percent": "model",
}
EVAL_BATCH = 500
# What the recipes change. "short" makes up for few steps by larger ones, for a processor without a GPU;
# "modern" is the usual for CIFAR-10: augmentation, and a cosine rate.
RECIPES: dict[str, dict] = {
    "slides": {},
    "short": {"epochs": 4, "dense_epochs": 10, "learning_rate": 3e-4},
    "modern": {
        "augment": True, "lr_schedule": "cosine", "learning_rate": 5e-4, "dense_learning_rate": 3e-4
    },
}  # fmt: skip


@dataclass(frozen=True)
class Experiment(Settings):
    """One run of the VGG16 study; equal experiments give equal rows, up to the backend's arithmetic.

    Args:
        dataset: "cifar10_jpeg", "cifar10" or "digits32"; see `images.load_cifar10`.
        method: "wds", "bias", "noise", "noise_bias", or a baseline: "dense", "svd" (truncated, no training),
            "svd_finetune", "scratch" (the low-rank net from random values).
        rank: of the convolutions' pairs; 0 for "dense".
        dense_rank: of the dense layers' pairs; 0 for "dense".
        factorization: of the convolutions: "loralib" (the slides'), "pair", or "pair_equal" (the pair at the
            rank at which it has as many parameters as loralib's factors of `rank`; see `equal_ranks`).
            "" for "dense".
        seed: of start values, order of the batches, augmentation, dropout, and noise.
        variant: name of the recipe: a key of `RECIPES`.
        part: of the data: "slides" (5,000 / 1,000), "full" or "tiny".
        model: "vgg16", or "small_vgg" for trials.
        start: "random" or "imagenet"; see `vgg.vgg16`.
        epochs: of this training.
        dense_epochs: of the dense net's; this training starts from that net.
        dense_learning_rate: of Adam at the start, for the dense net.
        learning_rate: the same for this training.
        batch_size, lr_schedule, augment: of both trainings.
        precision: "float32", or "mixed_bfloat16" (computes in bfloat16, keeps weights in float32).
        alpha, init, noise_gate: see `clora_lab.compress`.
        schedule, begin, end, floor: see `clora_lab.schedules`.
        study: name of the study in the results.

    Raises:
        ValueError: for a value out of range.

    Example:
        >>> Experiment("cifar10", "noise_bias", rank=16, dense_rank=32).key
        'noise_bias rank 16/32 loralib seed 0 (slides)'
    """

    dataset: str
    method: str
    rank: int = 0
    dense_rank: int = 0
    factorization: str = "loralib"
    seed: int = 0
    variant: str = "slides"
    part: str = "slides"
    model: str = "vgg16"
    start: str = "random"
    epochs: int = 20
    dense_epochs: int = 20
    batch_size: int = 30
    learning_rate: float = 1e-4
    dense_learning_rate: float = 1e-4
    lr_schedule: str = "constant"
    augment: bool = False
    precision: str = "float32"
    alpha: float = 32.0
    init: str = "lora"
    noise_gate: str | float = "scheduled"
    schedule: str = "linear"
    begin: float = 0.10
    end: float = 0.90
    floor: float = 0.0
    study: str = "vgg16"

    def __post_init__(self):
        _checks.one_of("dataset", self.dataset, DATASETS)
        _checks.one_of("method", self.method, METHODS)
        _checks.one_of("variant", self.variant, RECIPES)
        _checks.one_of("part", self.part, images.PARTS)
        _checks.one_of("model", self.model, NETS)
        _checks.one_of("start", self.start, nets.entry("vgg16").starts)
        _checks.one_of("precision", self.precision, PRECISIONS)
        _checks.one_of("lr_schedule", self.lr_schedule, LR_SCHEDULES)
        for argument in ("epochs", "dense_epochs", "batch_size"):
            _checks.positive_int(argument, getattr(self, argument))
        for argument in ("learning_rate", "dense_learning_rate"):
            _checks.real(argument, getattr(self, argument), 1e-12, 1e3)
        if self.method == "dense":
            if self.rank or self.dense_rank or self.factorization:
                raise ValueError("A 'dense' experiment has rank=0, dense_rank=0 and factorization=''.")
        else:
            _checks.one_of("factorization", self.factorization, FACTORIZATIONS)
            _checks.positive_int("rank", self.rank)
            _checks.positive_int("dense_rank", self.dense_rank)
        if self.start == "imagenet" and self.model != "vgg16":
            raise ValueError(f"`start` 'imagenet' is of the model 'vgg16' alone. Received: {self.model!r}.")
        schedules.NoiseGate.get(self.noise_gate)
        self.decay(1)

    @property
    def key(self) -> str:
        """The run in a few words, for progress bars and messages."""
        ranks = f" rank {self.rank}/{self.dense_rank} {self.factorization}" if self.rank else ""
        return f"{self.method}{ranks} seed {self.seed} ({self.variant})"

    @property
    def title(self) -> str:
        """What it is trained on and from, for titles."""
        return f"{nets.title(self.model, self.start)} on {datasets.title(self.dataset)}"

    @property
    def dense(self) -> Experiment:
        """The experiment that trains the dense net from which this one starts."""
        shared = ("dataset", "seed", "variant", "part", "model", "start", "dense_epochs", "batch_size")
        shared += ("dense_learning_rate", "lr_schedule", "augment", "precision", "study")
        recipe = {"epochs": self.dense_epochs, "learning_rate": self.dense_learning_rate}
        return self.with_only(shared, method="dense", factorization="", **recipe)

    def run(self) -> tuple[list[dict], list[dict]]:
        """As the function `run`."""
        return run(self)


def grid(
    dataset: str,
    ranks: Sequence[tuple[int, int]] = RANKS,
    seeds: Iterable[int] = (0,),
    factorizations: Sequence[str] = ("loralib",),
    methods: Sequence[str] = METHODS,
    variants: Sequence[str] = ("slides",),
    **changes,
) -> list[Experiment]:
    """The experiments of the study, the dense nets first.

    Args:
        dataset: "cifar10_jpeg", "cifar10" or "digits32".
        ranks: pairs of the convolutions' and the dense layers' rank; by default slide 19's six.
        seeds: one run of everything for each.
        factorizations: of `FACTORIZATIONS`.
        methods: of the four methods and the baselines; "dense" is always there.
        variants: of `RECIPES`.
        **changes: fields of `Experiment` for all of them, for instance `epochs`.

    Raises:
        ValueError: for an unknown name or an impossible field.

    Example:
        >>> len(grid("cifar10", ranks=[(16, 16), (32, 32)]))
        15
    """
    if not ranks:
        raise ValueError("`ranks` is empty. Give at least one pair, for instance [(16, 16)].")
    for method in methods:
        _checks.one_of("method", method, METHODS)
    found = []
    for variant in variants:
        recipe = {**RECIPES[_checks.one_of("variant", variant, RECIPES)], **changes, "variant": variant}
        for seed in seeds:
            for factorization in factorizations:
                for rank, dense_rank in ranks:
                    for method in methods:
                        if method == "dense":
                            continue
                        fields = {"rank": rank, "dense_rank": dense_rank, "factorization": factorization}
                        if method.startswith("svd") or method == "scratch":
                            fields["init"] = "scratch" if method == "scratch" else "svd"
                        found.append(Experiment(dataset, method, seed=seed, **{**recipe, **fields}))
    found = [*(experiment.dense for experiment in found), *found]
    return list(dict.fromkeys(found))


def equal_ranks(model: keras.Model, rank: int) -> dict[str, int]:
    """For each convolution the pair's rank that has as many parameters as loralib's factors at `rank`.

    k k rank (Cin + Cout) numbers buy the pair the rank k k rank (Cin + Cout) / (k k Cin + Cout), rounded
    down, and never above the rank of the kernel's matrix.

    Args:
        model: a net with convolutions.
        rank: loralib's.

    Returns:
        Layer name -> rank.

    Example:
        >>> from clora_lab.lab.nets import vgg
        >>> equal_ranks(vgg.small_vgg(), 4)
        {'block1_conv1': 16, 'block2_conv1': 9, 'block3_conv1': 9, 'block3_conv2': 7}
    """
    found = {}
    for _, layer in graph.walk(model):
        if isinstance(layer, keras.layers.Conv2D):
            pair, loralib = rules.rule(layer), rules.rule(layer, "loralib")
            equal = loralib.parameters(rank) // pair.parameters(1)
            found[layer.name] = max(1, min(equal, pair.max_rank))
    return found


def arguments(experiment: Experiment, model: keras.Model) -> dict:
    """rank, targets and factorization of `clora_lab.compress` for an experiment on a net."""
    dense: Mapping[str, int] = dict.fromkeys(nets.targets("vgg16", "dense"), experiment.dense_rank)
    if experiment.factorization == "pair_equal":
        return {
            "rank": {**equal_ranks(model, experiment.rank), **dense},
            "targets": TARGETS,
            "factorization": "pair",
        }
    factorization = experiment.factorization
    limits = {
        layer.name: min(experiment.rank, rules.rule(layer, factorization).max_rank)
        for _, layer in graph.walk(model)
        if isinstance(layer, keras.layers.Conv2D)
    }
    return {"rank": {**limits, **dense}, "targets": TARGETS, "factorization": factorization}


@functools.lru_cache(maxsize=1)
def _data(dataset: str, part: str) -> images.Images:
    return datasets.load(dataset, part=part)


@contextlib.contextmanager
def _policy(precision: str) -> Iterator[None]:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def _steps(experiment: Experiment) -> int:
    data = _data(experiment.dataset, experiment.part)
    return math.ceil(len(data.y_train) / experiment.batch_size)


def fit(model: keras.Model, experiment: Experiment) -> tuple[list[dict], float]:
    """Train a net in place by the experiment's recipe; returns its history and the seconds it took.

    Interrupted, it goes on from the last finished epoch; the checkpoint lies in `cache_dir()`.
    """
    wrapped = bool(cl.clora_layers(model))
    data = _data(experiment.dataset, experiment.part)
    training.compile_model(
        model,
        experiment,
        _steps(experiment) * experiment.epochs,
        # On the CPU, XLA makes TensorFlow's convolutions several times slower.
        jit_compile=False if keras.backend.backend() == "tensorflow" else "auto",
    )
    views = ("trained", "compressed") if wrapped else ("trained",)
    if experiment.method == "wds":  # slide 12 shows the decaying path on its own
        views += ("original",)
    paths = training.PathViews(data.x_val, data.y_val, views, prepare=images.standardise, batch=EVAL_BATCH)

    def prepare(x, rng):
        return images.standardise(images.augment(x, rng) if experiment.augment else x)

    return training.fit(
        model,
        training.Batches(data.x_train, data.y_train, experiment.batch_size, experiment.seed, prepare),
        experiment.epochs,
        folder(experiment),
        callbacks=[*([cl.DecayCallback()] if wrapped else []), paths],
        start={"decay": 1.0, "noise": 0.0} if wrapped else {},
    )


def folder(experiment: Experiment):
    """Where the checkpoint of an unfinished run lies."""
    return cache_dir() / f"vgg16-{experiment.config}-{keras.backend.backend()}"


def dense_net(experiment: Experiment) -> tuple[keras.Model, list[dict], float]:
    """The trained dense net from which an experiment starts, its history, and the seconds it took.

    Trained once for each dataset, seed and recipe, and cached in `cache_dir()`; a second process waits.
    """
    dense = experiment.dense

    def train():
        with _policy(dense.precision):
            model = _fresh(dense)
            history, seconds = fit(model, dense)
        return model, history, seconds

    found = training.trained_net(f"vgg16-{dense.config}", train)
    training.forget(folder(dense))
    return found


def _fresh(experiment: Experiment) -> keras.Model:
    start = {"start": experiment.start} if experiment.model == "vgg16" else {}
    classes = len(_data(experiment.dataset, experiment.part).classes)
    return nets.find(experiment.model)(classes=classes, seed=experiment.seed, **start)


def run(experiment: Experiment) -> tuple[list[dict], list[dict]]:
    """Carry out one experiment and return its result rows and its history rows; writes no result.

    Returns:
        Rows with the columns of `results.columns("vgg16")`: accuracies as fractions, the last row's metric
        is "seconds" (this training alone, without the dense net's).
    """
    keras.utils.clear_session()
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    data = _data(experiment.dataset, experiment.part)
    dense, history, seconds = dense_net(experiment)
    small = model = dense
    if experiment.method != "dense":
        with _policy(experiment.precision):
            keras.utils.set_random_seed(experiment.seed)
            total = _steps(experiment) * experiment.epochs
            model = training.build_net(
                experiment,
                dense,
                lambda: _fresh(experiment),
                total,
                keep_factors=True,
                **arguments(experiment, dense),
            )
            history, seconds = ([], 0.0) if experiment.method == "svd" else fit(model, experiment)
        small = model
        if experiment.method in methods.names("slides"):
            force = experiment.floor > 0.0 or experiment.schedule == "constant"
            small = cl.finalize(model, force=force, keep_factors=True)
    values = training.measured(
        model,
        small,
        {"validation": (data.x_val, data.y_val), "test": (data.x_test, data.y_test)},
        prepare=images.standardise,
        batch=EVAL_BATCH,
    )
    values += training.sizes(experiment, dense, small, CONVENTIONS)
    table = cl.report(dense, small)
    total = table[table["layer"] == "total"].iloc[0]
    values.append(("model", "-", "run_parameters", float(total["run_parameters"])))
    values.append(("model", "-", "flops_percent", 100.0 * float(total["flops_ratio"])))
    values.append(("model", "-", "seconds", seconds))
    own = {"train_size": len(data.y_train), "test_size": len(data.y_test), "fraction": 1.0}
    own["augment"] = "flip, shift" if experiment.augment else ""
    training.forget(folder(experiment))
    return result_rows(experiment, values, seconds, **own), history_rows(experiment, history)
