"""The BERT study (slides 20 to 22): C-LoRA on attention, IMDB, and the baselines beside it.

Query, key, value and output of each encoder block are compressed (`scope` "attention", as in the slides),
or the feed-forward halves too ("encoder"; in "encoder_ff_wide" with 2.75 times attention's rank), or those,
the pooler and the token embedding ("model"); the other embeddings, layer norms and head stay. A run goes on
from its last finished epoch when it is interrupted.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import keras
import numpy as np

import clora_lab as cl
from clora_lab import _checks, distill, methods, schedules
from clora_lab.lab import training
from clora_lab.lab.data import registry as datasets
from clora_lab.lab.data import text, tokens
from clora_lab.lab.nets import registry as nets
from clora_lab.lab.nets.bert import SHAPES, WIDER, classifier, feed_forward_rank
from clora_lab.lab.paths import cache_dir
from clora_lab.lab.runner import Settings, history_rows, result_rows
from clora_lab.studies.experiments import LR_SCHEDULES
from clora_lab.studies.experiments import METHODS as COMMON

DATASETS = ("imdb", "synthetic")
SCOPES = {
    "attention": nets.targets("bert_tiny", "attention"),
    "encoder": nets.targets("bert_tiny", "attention", "feed_forward"),
    WIDER: nets.targets("bert_tiny", "attention", "feed_forward"),
    "model": nets.targets("bert_tiny"),
}
# LoRA is here to compare what trains with what remains: of its net everything remains.
METHODS = (*COMMON, "lora")
RANKS = (16, 32, 64)
UNTAUGHT = ("dense", "svd", "lora")  # what no distillation changes: nothing trains, or nothing is compressed
STARTS = {"bert_tiny": "pretrained_here", "bert_small": "preset", "minilm": "package"}
SEQUENCES = {"bert_tiny": 128, "bert_small": 256, "minilm": 128}
EVALUATION = {"batch": 100, "traced": True}
CALIBRATION = 256  # training texts that an activation-aware start looks at
# What the recipes change. "short" makes up for few steps by larger ones, for a processor without a GPU;
# "recipe" starts from the activations, at a rate below the one that did not help MiniLM's validation texts
# (data/results/bert_search.csv).
RECIPES: dict[str, dict] = {
    "slides": {},
    "short": {"learning_rate": 5e-4, "dense_learning_rate": 2e-4},
    "recipe": {
        "init": "activations",
        "lr_schedule": "cosine",
        "epochs": 3,
        "learning_rate": 2e-4,
        "dense_epochs": 3,
        "dense_learning_rate": 1e-4,
    },
}
# Without labels: the compressed net learns from the dense one's states, on pieces of the texts.
RECIPES["distilled"] = {**RECIPES["recipe"], "learning_rate": 5e-4, "distillation": 1.0}


@dataclass(frozen=True)
class Experiment(Settings):
    """One run of the BERT study; equal experiments give equal rows, up to the backend's arithmetic.

    Args:
        dataset: "imdb" or "synthetic"; see `datasets.load`.
        method: "wds", "bias", "noise", "noise_bias", or a baseline: "dense" (fine-tuned), "svd" (truncated,
            no training), "svd_finetune", "scratch" (the low-rank net from random values), "lora" (the
            pretrained net fine-tuned by pairs beside it, which then add to W: nothing is saved).
        rank: of all pairs; 0 for "dense". In "encoder_ff_wide" attention's.
        scope: of `SCOPES`; "" for "dense".
        seed: of the head's start values, order of the batches, dropout, and noise.
        variant: name of the recipe: a key of `RECIPES`.
        model: "bert_tiny", "bert_small" or "minilm".
        start: where the weights come from, see `lab.nets.starts`.
        sequence: length of the texts in tokens.
        fraction: share of the reviews that is used, of each part.
        epochs: of this training.
        dense_epochs: of the dense net's at most, which stops after `patience` epochs without a better
            validation accuracy and goes back to the best one.
        patience: in epochs, for the dense net.
        batch_size, lr_schedule: of both trainings.
        learning_rate, dense_learning_rate: of Adam at the start, for this training and the dense net's.
        distillation: share of the loss that the dense net gives and not the labels, see `distillation`;
            0 for none. What it teaches on are pieces from everywhere in the training texts, not their first
            tokens alone, as many in an epoch as there are texts. LoRA and the dense net have no use for it.
        alpha, init, noise_gate: see `clora_lab.compress`.
        schedule, begin, end, floor: see `clora_lab.schedules`.
        study: name of the study in the results.

    Raises:
        ValueError: for a value out of range.

    Example:
        >>> Experiment("imdb", "noise_bias", rank=16).key
        'bert_tiny noise_bias rank 16 attention seed 0 (slides)'
    """

    dataset: str
    method: str
    rank: int = 0
    scope: str = "attention"
    seed: int = 0
    variant: str = "slides"
    model: str = "bert_tiny"
    start: str = "pretrained_here"
    sequence: int = 128
    fraction: float = 1.0
    epochs: int = 10
    dense_epochs: int = 10
    patience: int = 2
    batch_size: int = 32
    learning_rate: float = 5e-5
    dense_learning_rate: float = 5e-5
    lr_schedule: str = "constant"
    distillation: float = 0.0
    alpha: float = 32.0
    init: str = "lora"
    noise_gate: str | float = "scheduled"
    schedule: str = "linear"
    begin: float = 0.05
    end: float = 0.85
    floor: float = 0.0
    study: str = "bert"

    def __post_init__(self):
        _checks.one_of("dataset", self.dataset, DATASETS)
        _checks.one_of("method", self.method, METHODS)
        _checks.one_of("variant", self.variant, RECIPES)
        _checks.one_of("model", self.model, SHAPES)
        _checks.one_of("lr_schedule", self.lr_schedule, LR_SCHEDULES)
        for argument in ("epochs", "dense_epochs", "patience", "batch_size", "sequence"):
            _checks.positive_int(argument, getattr(self, argument))
        for argument in ("learning_rate", "dense_learning_rate"):
            _checks.real(argument, getattr(self, argument), 1e-12, 1e3)
        _checks.real("fraction", self.fraction, 1e-6, 1.0)
        _checks.real("distillation", self.distillation, 0.0, 1.0)
        if self.method == "dense":
            if self.rank or self.scope:
                raise ValueError("A 'dense' experiment has rank=0 and scope=''.")
        else:
            _checks.one_of("scope", self.scope, SCOPES)
            _checks.positive_int("rank", self.rank)
        schedules.NoiseGate.get(self.noise_gate)
        self.decay(1)

    @property
    def key(self) -> str:
        """The run in a few words, for progress bars and messages."""
        rank = f" rank {self.rank} {self.scope}" if self.rank else ""
        return f"{self.model} {self.method}{rank} seed {self.seed} ({self.variant})"

    @property
    def title(self) -> str:
        """What it is trained on and from, for titles."""
        share = "" if self.fraction == 1.0 else f", {100 * self.fraction:.3g}%"
        return f"{nets.title(self.model, self.start)} on {datasets.title(self.dataset)}{share}"

    @property
    def taught(self) -> bool:
        """Whether the dense net gives a part of the loss."""
        return self.distillation > 0.0 and self.method not in UNTAUGHT

    @property
    def dense(self) -> Experiment:
        """The experiment that trains the dense net from which this one starts."""
        shared = ("dataset", "seed", "variant", "model", "start", "sequence", "fraction", "dense_epochs")
        shared += ("patience", "batch_size", "dense_learning_rate", "lr_schedule", "study")
        recipe = {"epochs": self.dense_epochs, "learning_rate": self.dense_learning_rate}
        return self.with_only(shared, method="dense", scope="", **recipe)

    def run(self) -> tuple[list[dict], list[dict]]:
        """As the function `run`."""
        return run(self)


def grid(
    dataset: str,
    model: str = "bert_tiny",
    ranks: Sequence[int] = RANKS,
    seeds: Iterable[int] = (0,),
    scopes: Sequence[str] = ("attention",),
    methods: Sequence[str] = METHODS,
    variants: Sequence[str] = ("slides",),
    **changes,
) -> list[Experiment]:
    """The experiments of the study, the dense nets first.

    Args:
        dataset: "imdb" or "synthetic".
        model: "bert_tiny", "bert_small" or "minilm"; its usual start and sequence length go with it.
        ranks: by default the slides' three.
        seeds: one run of everything for each.
        scopes: of `SCOPES`.
        methods: of the four methods and the baselines; "dense" is always there.
        variants: of `RECIPES`.
        **changes: fields of `Experiment` for all of them, for instance `fraction`.

    Raises:
        ValueError: for an unknown name or an impossible field.

    Example:
        >>> len(grid("imdb"))
        25
    """
    _checks.one_of("model", model, SHAPES)
    if not ranks:
        raise ValueError("`ranks` is empty. Give at least one, for instance (16,).")
    for method in methods:
        _checks.one_of("method", method, METHODS)
    usual = {"model": model, "start": STARTS[model], "sequence": SEQUENCES[model]}
    found = []
    for variant in variants:
        recipe = {**usual, **RECIPES[_checks.one_of("variant", variant, RECIPES)], **changes}
        for seed in seeds:
            for scope in scopes:
                for rank in ranks:
                    for method in methods:
                        if method == "dense":
                            continue
                        fields = {"rank": rank, "scope": scope, "variant": variant, "seed": seed}
                        if method == "scratch":
                            fields["init"] = "scratch"
                        elif method.startswith("svd"):
                            aware = recipe.get("init") == "activations"
                            fields["init"] = "activations" if aware else "svd"
                        elif method == "lora":
                            fields |= {"schedule": "constant", "init": "lora"}
                        found.append(Experiment(dataset, method, **{**recipe, **fields}))
    found = [*(experiment.dense for experiment in found), *found]
    return list(dict.fromkeys(found))


def conventions(model: str) -> dict[str, str]:
    """Name of the metric -> convention; the slides count BERT-Tiny's layer norms and BERT-Small's not."""
    slides = "slides_bert_norms" if model == "bert_tiny" else "slides_bert"
    return {
        "ratio_percent": slides,
        "ratio_encoder_percent": "encoder",
        "ratio_model_percent": "model",
    }


@functools.lru_cache(maxsize=1)
def _reviews(dataset: str, fraction: float) -> text.Reviews:
    return datasets.load(dataset, fraction=fraction)


def _data(experiment: Experiment, tokenizer) -> dict[str, tuple[dict, np.ndarray]]:
    """Split -> (token ids and masks, labels); for a distillation also "pieces", the whole training texts."""
    reviews = _reviews(experiment.dataset, experiment.fraction)
    data = {
        split: (
            tokens.tokenise(getattr(reviews, f"x_{split}"), tokenizer, experiment.sequence),
            getattr(reviews, f"y_{split}"),
        )
        for split in ("train", "val", "test")
    }
    if experiment.taught:
        ids, owners = tokens.pieces(reviews.x_train, tokenizer, experiment.sequence)
        data["pieces"] = tokens.model_inputs(ids, tokenizer.pad_token_id), reviews.y_train[owners]
    return data


def fit(
    model: keras.Model, experiment: Experiment, data: dict, teacher: keras.Model | None = None
) -> tuple[list[dict], float]:
    """Train a net in place by the experiment's recipe; returns its history and the seconds it took.

    Interrupted, it goes on from the last finished epoch; the checkpoint lies in `cache_dir()`.

    Args:
        model: a BERT classifier without a preprocessor, so that it takes token ids.
        experiment: the recipe.
        data: split -> (inputs, labels).
        teacher: the dense net, for an experiment that is `taught`.
    """
    wrapped = bool(cl.clora_layers(model)) and experiment.method != "lora"
    batches = training.Batches(
        *data["pieces" if experiment.taught else "train"],
        experiment.batch_size,
        experiment.seed,
        each_epoch=len(data["train"][1]),
    )
    how = {}
    if experiment.taught:
        states = map(distill.bert_states, (model, teacher))
        model = distill.Distilled(*states, experiment.distillation)
        how["loss_weights"] = model.label_weight
    training.compile_model(
        model,
        experiment,
        len(batches) * experiment.epochs,
        # XLA compiles for minutes at these shapes (benchmarks/bert_step.py), as long as a whole run takes.
        jit_compile=False if keras.backend.backend() == "tensorflow" else "auto",
        **how,
    )
    views = ("trained", "compressed") if wrapped else ("trained",)
    if experiment.method == "wds":  # slide 12 shows the decaying path on its own
        views += ("original",)
    callbacks = [training.PathViews(*data["val"], views, **EVALUATION)]
    if cl.clora_layers(model):
        callbacks.insert(0, cl.DecayCallback())
    return training.fit(
        model,
        batches,
        experiment.epochs,
        folder(experiment),
        callbacks=callbacks,
        start={"decay": 1.0, "noise": 0.0} if wrapped else {},
        patience=experiment.patience if experiment.method == "dense" else None,
    )


def folder(experiment: Experiment):
    """Where the checkpoint of an unfinished run lies."""
    return cache_dir() / f"bert-{experiment.config}-{keras.backend.backend()}"


def pretrained(experiment: Experiment, start: str | None = None) -> tuple[keras.Model, object]:
    """The classifier before any training here, without its preprocessor, and its tokeniser."""
    vocabulary = None
    if experiment.dataset == "synthetic" and (start or experiment.start) == "random":
        vocabulary = text.synthetic_vocabulary()
    net = classifier(
        experiment.model,
        start or experiment.start,
        experiment.sequence,
        seed=experiment.seed,
        vocabulary=vocabulary,
    )
    tokenizer = net.preprocessor.tokenizer
    net.preprocessor = None  # the study hands over token ids, made once
    return net, tokenizer


def dense_net(experiment: Experiment, data: dict, net: keras.Model) -> tuple[keras.Model, list[dict], float]:
    """The fine-tuned dense net from which an experiment starts, its history, and the seconds it took.

    Trained once for each dataset, seed and setting, whatever the recipe's name, and cached in
    `cache_dir()`; a second process waits.

    Args:
        experiment: any of the study.
        data: split -> (inputs, labels).
        net: what `pretrained` gives; it is trained in place if the cache has no net.
    """
    dense = dataclasses.replace(experiment.dense, variant=Experiment.variant)

    def train():
        keras.utils.set_random_seed(dense.seed)
        history, seconds = fit(net, dense, data)
        return net, history, seconds

    found = training.trained_net(f"bert-{dense.config}", train)
    training.forget(folder(dense))
    return found


def ranks(experiment: Experiment) -> dict[str, int]:
    """Pattern of targets -> rank, as `clora_lab.compress` takes them; the first that matches counts."""
    feed_forward = feed_forward_rank(experiment.scope, experiment.rank)
    return {**dict.fromkeys(nets.targets("bert_tiny", "feed_forward"), feed_forward), "*": experiment.rank}


def run(experiment: Experiment) -> tuple[list[dict], list[dict]]:
    """Carry out one experiment and return its result rows and its history rows; writes no result.

    Returns:
        Rows with the columns of `results.columns("bert")`: accuracies as fractions, the last row's metric
        is "seconds" (this training alone, without the dense net's).
    """
    keras.utils.clear_session()
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    start, tokenizer = pretrained(experiment)
    data = _data(experiment, tokenizer)
    dense, history, seconds = dense_net(experiment, data, start)
    small = model = dense
    if experiment.method != "dense":
        keras.utils.set_random_seed(experiment.seed)
        total = len(training.Batches(*data["train"], experiment.batch_size)) * experiment.epochs
        arguments = {"rank": ranks(experiment), "targets": SCOPES[experiment.scope]}
        if experiment.method == "lora":
            # From the pretrained net, as LoRA is meant; a net trained above is the dense one by now.
            origin, _ = pretrained(experiment)
            model = cl.compress(
                origin,
                method="wds",
                schedule=cl.ConstantDecay(total),
                alpha=experiment.alpha,
                seed=experiment.seed,
                **arguments,
            )
            model.get_layer("logits").trainable = True  # the head is new
        else:
            if experiment.init == "activations":
                arguments["calibration"] = training.take(data["train"][0], slice(0, CALIBRATION))
            model = training.build_net(
                experiment, dense, lambda: pretrained(experiment, "random")[0], total, **arguments
            )
        trainable = sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)
        untrained = experiment.method == "svd"
        history, seconds = ([], 0.0) if untrained else fit(model, experiment, data, teacher=dense)
        small = model
        if experiment.method in methods.names("slides"):
            force = experiment.floor > 0.0 or experiment.schedule == "constant"
            small = cl.finalize(model, force=force)
    else:
        trainable = dense.count_params()
    splits = {"validation": data["val"], "test": data["test"]}
    if experiment.method == "lora":
        values = _of_lora(model, dense, splits)
    else:
        values = training.measured(model, small, splits, **EVALUATION)
        values += training.sizes(experiment, dense, small, conventions(experiment.model))
    values.append(("model", "-", "trainable_parameters", float(trainable)))
    values.append(("model", "-", "seconds", seconds))
    own = {"train_size": len(data["train"][1]), "test_size": len(data["test"][1])}
    training.forget(folder(experiment))
    return result_rows(experiment, values, seconds, **own), history_rows(experiment, history)


def _of_lora(model: keras.Model, dense: keras.Model, splits: dict) -> list[tuple]:
    """As `training.measured` and `training.sizes`: its pairs add to W in the end, so all of W remains."""
    values = []
    for split, (x, y) in splits.items():
        result = training.evaluate(model, x, y, **EVALUATION)
        values += [(split, "trained", name, result[name]) for name in ("accuracy", "loss")]
    values.append(("model", "-", "parameters", float(dense.count_params())))
    return values + [
        ("model", "-", name, 100.0)
        for name in ("ratio_percent", "ratio_encoder_percent", "ratio_model_percent")
    ]
