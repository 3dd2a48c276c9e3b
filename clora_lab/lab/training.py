"""Training that survives kill -9: an epoch is the unit that is never done twice.

After each epoch the weights, the optimiser's state (so the schedule's step), and the history go to disk;
the same call then goes on from the last finished epoch and gives the very net that an undisturbed one
would have given: batches, augmentation, dropout and noise are drawn from (seed, epoch).
"""

from __future__ import annotations

import json
import os
import shutil
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import filelock
import keras
import numpy as np
import scipy.special

import clora_lab as cl
from clora_lab import _checks
from clora_lab.lab.paths import cache_dir

STATE = "state.json"
BEST = "best.weights.h5"


class Batches(keras.utils.PyDataset):
    """Shuffled batches of arrays in memory; the order and `prepare`'s draws follow from (seed, epoch, batch).

    Args:
        x: inputs, an array of shape (n, ...), or a dict of such.
        y: labels, of shape (n,).
        batch_size: images a step; the last batch of an epoch is the rest.
        seed: of order and draws.
        prepare: function of (inputs, rng) that gives what the net sees, or None for the inputs as they are.
        epoch: the first epoch's number, from 0.
        each_epoch: so many examples are drawn for an epoch, others for the next one; None for all.

    Example:
        >>> batches = Batches(np.arange(10), np.arange(10), batch_size=4, seed=0)
        >>> len(batches), batches[2][0].shape
        (3, (2,))
    """

    def __init__(
        self, x, y, batch_size: int, seed: int = 0, prepare: Callable | None = None, epoch: int = 0,
        each_epoch: int | None = None,
    ):  # fmt: skip
        super().__init__()
        self.x, self.y, self.prepare = x, y, prepare
        self.batch_size = _checks.positive_int("batch_size", batch_size)
        self.seed, self.epoch, self.each_epoch = seed, epoch, each_epoch
        self._shuffle()

    def __len__(self):
        return -(-len(self._order) // self.batch_size)

    def __getitem__(self, index):
        chosen = self._order[index * self.batch_size : (index + 1) * self.batch_size]
        x = take(self.x, chosen)
        if self.prepare is not None:
            x = self.prepare(x, np.random.default_rng((self.seed, self.epoch, index)))
        return x, self.y[chosen]

    def on_epoch_end(self):
        self.start(self.epoch + 1)

    def start(self, epoch: int) -> None:
        """Set the epoch and draw its order, in place."""
        self.epoch = epoch
        self._shuffle()

    def _shuffle(self):
        order = np.random.default_rng((self.seed, self.epoch)).permutation(len(self.y))
        self._order = order[: self.each_epoch]


class _EpochSeeds(keras.callbacks.Callback):
    """Lets every random layer draw what its seed and the epoch say, whatever was drawn before."""

    def __init__(self, seed: int):
        super().__init__()
        self.seed = seed

    def on_epoch_begin(self, epoch, logs=None):
        if keras.backend.backend() == "jax":
            self.model.jax_state_sync()
        if keras.backend.backend() == "torch":
            import torch

            # Keras' dropout on PyTorch asks no seed generator but draws from PyTorch's own state.
            torch.manual_seed((self.seed << 20) + epoch)
        for layer in self.model._flatten_layers():
            generator = getattr(layer, "seed_generator", None)
            if isinstance(generator, keras.random.SeedGenerator):
                state = keras.ops.convert_to_numpy(generator.state).copy()
                state[1] = epoch << 20  # a layer draws less than a million times an epoch
                generator.state.assign(state)


class _Checkpoint(keras.callbacks.Callback):
    def __init__(self, folder: Path, state: dict, steps: int, patience: int | None):
        super().__init__()
        self.folder, self.steps, self.patience = folder, steps, patience
        self.history, self.seconds, self.best = state["history"], state["seconds"], state["best"]

    def on_train_begin(self, logs=None):
        self._begin = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        values = {name: float(value) for name, value in (logs or {}).items()}
        self.history.append({"epoch": epoch + 1, "step": (epoch + 1) * self.steps, **values})
        if keras.backend.backend() == "jax":
            self.model.jax_state_sync()
        name = f"epoch-{epoch + 1:04d}.weights.h5"
        part = self.folder / f"part-{name}"
        self.model.save_weights(part)
        os.replace(part, self.folder / name)
        if self.patience:
            accuracy = [values["val_accuracy"] for values in self.history[1:]]
            self.best = 1 + accuracy.index(max(accuracy))
            self.model.stop_training = epoch + 1 - self.best >= self.patience
            if self.best == epoch + 1:
                shutil.copy(self.folder / name, part)
                os.replace(part, self.folder / BEST)
        state = {
            "epoch": epoch + 1,
            "weights": name,
            "history": self.history,
            "seconds": self.seconds + time.perf_counter() - self._begin,
            "best": self.best,
            "stopped": bool(self.patience and self.model.stop_training),
        }
        # The state names the weights file, so a kill between the two writes leaves the older pair valid.
        write_json(self.folder / STATE, state)
        for old in self.folder.glob("epoch-*.weights.h5"):
            if old.name != name:
                old.unlink()


def write_json(path: Path, value) -> None:
    """Write a JSON file whole or not at all."""
    part = path.with_name(f"part-{os.getpid()}-{path.name}")
    part.write_text(json.dumps(value))
    os.replace(part, path)


def compile_model(model: keras.Model, run, total_steps: int, **how) -> keras.Model:
    """Compile a classifier with logits in place, by a run's recipe; returns it.

    Args:
        model: the net.
        run: with the fields learning_rate and lr_schedule ("constant", or "cosine" to 0).
        total_steps: of the training to come.
        **how: further arguments of Keras' compile().
    """
    rate = run.learning_rate
    if run.lr_schedule == "cosine":
        rate = keras.optimizers.schedules.CosineDecay(rate, decay_steps=total_steps)
    model.compile(
        optimizer=keras.optimizers.Adam(rate),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
        **how,
    )
    # With these variables made, as the metric's are by its object, TensorFlow traces the first step once and
    # not twice: the grid on the digits takes a fifth less time.
    model.optimizer.build(model.trainable_variables)
    return model


def fit(
    model: keras.Model,
    batches: Batches,
    epochs: int,
    folder: str | os.PathLike,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    start: Callable[[], dict] | None = None,
    patience: int | None = None,
    verbose: int = 0,
) -> tuple[list[dict], float]:
    """Train a compiled model in place, going on from the last epoch that `folder` holds.

    Args:
        model: a compiled model; the same one, built and compiled the same way, at every call.
        batches: the training data; `start(epoch)` sets its order, `seed` is what all is drawn from.
        epochs: in all, the finished ones included.
        folder: for the checkpoint, of this training alone. `forget` removes it.
        callbacks: of Keras; what they write into an epoch's logs gets into the history.
        start: gives the values of epoch 0, before training, which become the history's first entry; not
            asked again when a training goes on.
        patience: stop after so many epochs without a better `val_accuracy`, and go back to the best one;
            None to train to the end and keep that.
        verbose: as in Keras.

    Returns:
        The history, a dict an epoch, and the seconds of training, interrupted calls included.

    Raises:
        ValueError: if the checkpoint does not fit the model; the message names the folder.

    Example:
        >>> history, seconds = fit(model, batches, 20, "out/run")  # doctest: +SKIP
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state = {"epoch": 0, "seconds": 0.0, "best": 0, "stopped": False}
    if (folder / STATE).exists():
        state |= json.loads((folder / STATE).read_text())
        model.optimizer.build(model.trainable_variables)
        _load(model, folder / state["weights"])
    else:
        state["history"] = [{"epoch": 0, "step": 0, **(start() if start else {})}]
    if state["epoch"] < epochs and not state["stopped"]:
        batches.start(state["epoch"])
        # Not model.fit: that of a KerasHub Task would take the batches for raw text.
        keras.Model.fit(
            model,
            batches,
            epochs=epochs,
            initial_epoch=state["epoch"],
            callbacks=[
                _EpochSeeds(batches.seed),
                *callbacks,
                _Checkpoint(folder, state, len(batches), patience),
            ],
            verbose=verbose,
            shuffle=False,
        )
        state = json.loads((folder / STATE).read_text())
    if patience and state["best"]:
        _load(model, folder / BEST)
    return state["history"], state["seconds"]


def fit_arrays(
    model: keras.Model,
    x,
    y,
    batch_size: int,
    epochs: int,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    start: Callable[[], dict] | None = None,
) -> tuple[list[dict], float]:
    """Train a compiled model in place on arrays, from the first epoch to the last: for short trainings.

    Keras draws the batches from its own state, so `keras.utils.set_random_seed` before makes them equal.

    Args:
        model: a compiled model.
        x, y: inputs and labels.
        batch_size: examples a step.
        epochs, callbacks, start: as for `fit`.

    Returns:
        As `fit`.
    """
    steps = -(-len(y) // batch_size)
    history = [{"epoch": 0, "step": 0, **(start() if start else {})}]
    begin = time.perf_counter()
    logs = model.fit(x, y, batch_size=batch_size, epochs=epochs, callbacks=list(callbacks), verbose=0).history
    seconds = time.perf_counter() - begin
    for epoch, values in enumerate(zip(*logs.values(), strict=True), start=1):
        history.append({"epoch": epoch, "step": epoch * steps, **dict(zip(logs, values, strict=True))})
    return history, seconds


def _load(model: keras.Model, file: Path) -> None:
    try:
        model.load_weights(file)
    except Exception as error:  # h5py and Keras raise many kinds
        raise ValueError(
            f"The checkpoint {file} does not fit model {model.name!r} ({error}). "
            "Delete that folder, and the training begins anew."
        ) from error


def forget(folder: str | os.PathLike) -> None:
    """Remove a training's checkpoint: its result is recorded elsewhere."""
    shutil.rmtree(folder, ignore_errors=True)


def evaluate(
    model: keras.Model,
    x,
    y,
    prepare: Callable | None = None,
    batch: int = 2000,
    traced: bool = False,
) -> dict:
    """Mean cross-entropy and accuracy of a net with logits; it need not be compiled.

    Args:
        model: (batch, ...) -> (batch, classes), logits.
        x: inputs, an array of shape (n, ...), or a dict of such.
        y: labels, integers of shape (n,).
        prepare: what makes of a batch of `x` what the net sees, or None.
        batch: so many examples at a time.
        traced: run Keras' prediction step instead of single operations. Tracing costs seconds, once a
            model; after that a net of many small operations is three times as fast (benchmarks/bert_step.py).
            On TensorFlow this turns XLA off for a model that is not compiled.

    Returns:
        {"loss": in nats, "accuracy": a fraction}.
    """
    if traced and not model.compiled and keras.backend.backend() == "tensorflow":
        model.jit_compile = False  # for a few batches XLA would compile longer than it runs
    logits = []
    for first in range(0, len(y), batch):
        part = take(x, slice(first, first + batch))
        part = part if prepare is None else prepare(part)
        # Not model.predict: that of a KerasHub Task would take the ids for raw text.
        output = keras.Model.predict_on_batch(model, part) if traced else model(part, training=False)
        logits.append(keras.ops.convert_to_numpy(keras.ops.cast(output, "float32")))
    logits = np.concatenate(logits).astype("float64")
    loss = np.mean(scipy.special.logsumexp(logits, axis=1) - logits[np.arange(len(y)), y])
    return {"loss": float(loss), "accuracy": float(np.mean(np.argmax(logits, axis=1) == y))}


class PathViews(keras.callbacks.Callback):
    """Adds validation loss and accuracy, of what trains and of single paths, to each epoch's logs.

    Args:
        x, y: the validation images and labels.
        views: of `clora_lab.surgery.VIEWS`.
        **how: further arguments of `evaluate`.
    """

    def __init__(self, x, y, views=("trained",), **how):
        super().__init__()
        self.x, self.y, self.views, self.how = x, y, views, how

    def on_epoch_end(self, epoch, logs=None):
        logs.update(self.measure())

    def measure(self) -> dict:
        """val_loss and val_accuracy of what trains, val_<view>_loss and so on of the other views."""
        values = {}
        for name in self.views:
            prefix = "val_" if name == "trained" else f"val_{name}_"
            with cl.view(self.model, name):
                result = evaluate(self.model, self.x, self.y, **self.how)
            values |= {f"{prefix}{metric}": value for metric, value in result.items()}
        return values


def take(x, chosen):
    """`x[chosen]`, of an array or of each array in a dict."""
    return {name: part[chosen] for name, part in x.items()} if isinstance(x, dict) else x[chosen]


def trained_net(
    name: str, train: Callable[[], tuple[keras.Model, list[dict], float]]
) -> tuple[keras.Model, list[dict], float]:
    """A net that is trained once and cached in `cache_dir()`; a second process waits for the first.

    Args:
        name: of the files, without the backend, which is added.
        train: makes (model, history, seconds) where the cache has none.

    Returns:
        The net, loaded from the file, its history, and the seconds that its training took.
    """
    path = cache_dir() / f"{name}-{keras.backend.backend()}.keras"
    notes = path.with_suffix(".json")
    with filelock.FileLock(path.with_suffix(".lock")):
        if not path.exists() or not notes.exists():
            model, history, seconds = train()
            write_json(notes, [history, seconds])
            part = path.with_name(f"part-{os.getpid()}-{path.name}")
            model.save(part)
            os.replace(part, path)
        history, seconds = json.loads(notes.read_text())
    with warnings.catch_warnings():
        # What follows compiles it anew: the optimiser of its own training, which the file has, is not wanted.
        warnings.filterwarnings("ignore", "Skipping variable loading for optimizer")
        return keras.saving.load_model(path, compile=False), history, seconds
