"""Widget 5: a training of one's own, started and stopped by the reader, with curves that grow."""

from __future__ import annotations

import contextvars
import html
import threading
import time
import warnings
from collections.abc import Sequence

import ipywidgets
import keras
import numpy as np
import pandas as pd

import clora_lab as cl
from clora_lab import _checks, graph, methods, rules, schedules
from clora_lab.course.widgets.frame import (
    CSS,
    dropdown,
    fraction,
    html_alt,
    html_error,
    html_note,
    make_control,
    make_image,
    make_row,
    png,
)
from clora_lab.course.widgets.live_picture import TrainingPicture, training_text
from clora_lab.course.widgets.schedule import schedule_table
from clora_lab.lab import training
from clora_lab.lab.frames import per_cent
from clora_lab.targets import choose

REDRAW_SECONDS = 0.3


class _Watch(keras.callbacks.Callback):
    """Hands the course of a training on to the widget, and the widget's wish to stop to the training."""

    def __init__(self, widget: LiveTraining):
        super().__init__()
        self.widget = widget

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        self.step = self.epoch * self.widget.steps + batch + 1
        if self.widget._stop.is_set():
            self.model.stop_training = True
        self.widget._show_progress(self.step)

    def on_epoch_end(self, epoch, logs=None):
        self.widget._record(self.step, logs)


class LiveTraining(ipywidgets.VBox):
    """A C-LoRA training with a start and a stop button, and curves that grow; see `live_training`.

    It trains in a thread, so the kernel stays free. An error of that thread appears in the message and
    is kept as `error`.

    Attributes:
        controls: method, rank, schedule (kind), begin, end, floor, epochs.
        state: "ready", "running", "stopped", "finished" or "failed".
        model: the wrapped net, from the start of a training on; usable after a stop as well.
        small: the finalized net once the decay is over, or once `finalize(force=True)` was called; else None.
        history: a data frame with a row an epoch: epoch (a fraction after a stop), step, decay, noise,
            accuracy and loss (in training), val_ and val_compressed_ accuracy and loss (fractions, nats).
        error: what ended a failed training, or None.
    """

    def __init__(
        self, model, data, epochs=10, batch_size=30, learning_rate=1e-3, rank=None,
        method="noise_bias", targets=None, seed=0,
    ):  # fmt: skip
        self._thread, self._stop, self._drawn = None, threading.Event(), 0.0
        self.original, self.targets, self.seed = model, targets, seed
        self.x, self.y, self.x_val, self.y_val = _training_data(data)
        self.batch_size = _checks.positive_int("batch_size", batch_size)
        self.learning_rate = _checks.real("learning_rate", learning_rate, 1e-12, 1e3)
        self.steps = -(-len(self.x) // self.batch_size)  # an epoch
        graph.check_model(model)
        paths = dict(graph.walk(model))
        chosen = choose(model, paths, targets, "pair")
        self._rules = [rules.rule(paths[path]) for path in chosen]
        self.model = self.small = self.error = None
        self.state, self.history = "ready", pd.DataFrame()
        self.controls = self._make_controls(method, rank, _checks.positive_int("epochs", epochs))
        self._make_widgets()
        for control in self.controls.values():
            control.observe(self._check, names="value")
        self._check()
        fig = TrainingPicture(epochs, "Live training: press Start").figure
        self.image.value, self.text.value = png(fig), html_alt(fig.alt_text)

    def _make_controls(self, method, rank, epochs):
        largest = max(rule.max_rank for rule in self._rules)
        if rank is None:
            rank = min(16, *(rule.break_even_rank // 2 for rule in self._rules))
        whole = {"min": 0, "continuous_update": True}
        choices = [(methods.label(name), name) for name in methods.names("slides")]
        kinds = [kind for kind in schedules.SCHEDULES if kind != "constant"]
        return {
            "method": dropdown("method", method, choices),
            "rank": make_control(ipywidgets.IntSlider, "rank r", rank, max=largest + 4, **whole),
            "schedule": dropdown("schedule", "linear", kinds),
            "begin": fraction("begin (of all steps)", 0.05),
            "end": fraction("end (of all steps)", 0.85),
            "floor": fraction("floor (last d)", 0.0),
            "epochs": make_control(ipywidgets.IntSlider, "epochs", epochs, max=max(30, 2 * epochs), **whole),
        }

    def _make_widgets(self):
        button = ipywidgets.Button
        self.start_button = button(description="Start", icon="play", button_style="primary")
        self.stop_button = button(description="Stop", icon="stop", disabled=True)
        self.force_button = button(
            description="Finalize anyway", icon="compress", disabled=True,
            tooltip="Drop what is left of W now, and keep BA alone as .small",
        )  # fmt: skip
        self.start_button.on_click(lambda button: self.start())
        self.stop_button.on_click(lambda button: self.stop())
        self.force_button.on_click(lambda button: self._finalize_clicked())
        self.progress = ipywidgets.FloatProgress(
            min=0, max=1, layout=ipywidgets.Layout(width="14em", max_width="98%")
        )
        self.status, self.message = ipywidgets.HTML("Ready."), ipywidgets.HTML()
        self.text = ipywidgets.HTML()
        self.image = make_image()
        buttons = [self.start_button, self.stop_button, self.force_button, self.progress, self.status]
        rows = [make_row(list(self.controls.values())), make_row(buttons)]
        super().__init__([ipywidgets.HTML(CSS), *rows, self.message, self.image, self.text])

    @property
    def running(self) -> bool:
        """Whether a training is under way."""
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> None:
        """Compress the original anew with the present settings and train it, in a thread.

        While a training is running nothing happens; settings that can't be had become the message.
        """
        if self.running or not self._check():
            return
        values = {name: control.value for name, control in self.controls.items()}
        self._stop.clear()
        self.model = self.small = self.error = None
        self.history = pd.DataFrame()
        self._picture = TrainingPicture(values["epochs"], self.title(values))
        self._go("running", "Building the net …")
        # The thread inherits the context, so that what it prints lands below this cell.
        run = contextvars.copy_context().run
        self._thread = threading.Thread(target=run, args=(self._run, values), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ask a running training to end after its present step; `wait` waits until it has."""
        self._stop.set()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the training has ended, for at most `timeout` seconds; whether it has."""
        if self._thread is not None:
            self._thread.join(timeout)
        return not self.running

    def close(self) -> None:
        self.stop()
        super().close()

    def finalize(self, force: bool = False) -> keras.Model:
        """Set `small` to the finalized net and return it.

        Args:
            force: drop what is left of W even though the decay is not over.

        Raises:
            ValueError: if there is no trained net yet, or if its decay is not over and not `force`.
        """
        if self.running or self.model is None:
            raise ValueError("There is no trained net yet: press Start, and Stop when you have enough.")
        self.small = cl.finalize(self.model, force=force)
        self.force_button.disabled = True
        return self.small

    def _finalize_clicked(self):
        try:
            small = self.finalize(force=True)
            accuracy = training.evaluate(small, self.x_val, self.y_val)["accuracy"]
            self._tell(f"{self._size()} Its validation accuracy is {per_cent(accuracy)}.")
        except Exception as error:  # shown in place; a callback's exception would vanish in a log
            self.error, self.message.value = error, html_error(error)

    def _settings(self) -> tuple[schedules.Schedule, int]:
        """The schedule and the rank that the controls say, or a `ValueError`."""
        values = {name: control.value for name, control in self.controls.items()}
        epochs = values["epochs"]
        if epochs < 1:
            raise ValueError(f"`epochs` must be at least 1. Received: {epochs}. Choose more epochs.")
        shape = {name: values[name] for name in ("begin", "end", "floor")}
        schedule_table(values["schedule"], **shape, steps=1)  # its messages say what to move
        schedule = schedules.get(values["schedule"], epochs * self.steps, **shape)
        for rule in self._rules:
            rules.check_rank(rule, values["rank"])
        return schedule, values["rank"]

    def _check(self, change=None) -> bool:
        """Say in the message what is wrong with the settings; whether they can be had."""
        try:
            schedule, rank = self._settings()
        except Exception as error:  # any error of a callback is shown in place
            self.message.value = html_error(error)
            self.start_button.disabled = True
            return False
        large = [rule.name for rule in self._rules if rank >= rule.break_even_rank]
        remark = ""
        if schedule.floor > 0.0:
            remark = (
                f"With floor {schedule.floor:g} a part of W stays, so the net can't be finalized. "
                "Lower the floor to 0, or use 'Finalize anyway' at the end."
            )
        elif large:
            remark = f"At rank {rank} the pair is no smaller than W in {', '.join(large)}. Lower the rank."
        self.message.value = html_note(remark)
        self.start_button.disabled = self.running
        return True

    def title(self, values) -> str:
        return f"Live: {methods.label(values['method'])}, rank {values['rank']}"

    def _run(self, values):
        """The thread: everything that goes wrong in it ends in the message."""
        try:
            self._train(values)
            stopped = self._stop.is_set()
            over = max(float(layer.decay) for layer in cl.clora_layers(self.model)) == 0.0
            if over:
                self.small = cl.finalize(self.model)
            self._go("stopped" if stopped else "finished", self._closing(stopped, over))
        except Exception as error:
            self.error = error
            self._go("failed", "The training ended with an error.")
            remedy = "The kernel goes on: change the settings or the data, and press Start again."
            self.message.value = html_error(error, remedy)

    def _train(self, values):
        schedule, rank = self._settings()
        with warnings.catch_warnings():  # `_check` has said so already
            warnings.simplefilter("ignore", cl.BreakEvenWarning)
            model = cl.compress(
                self.original, rank, method=values["method"], schedule=schedule,
                targets=self.targets, seed=self.seed,
            )  # fmt: skip
        self.model = model
        model.compile(
            optimizer=keras.optimizers.Adam(self.learning_rate),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
            # Few enough for a stop at once. XLA would take seconds before the first step.
            steps_per_execution=max(1, min(20, self.steps // 10)),
            jit_compile=keras.backend.backend() == "jax",
        )
        self._dense = training.evaluate(self.original, self.x_val, self.y_val)
        views = training.PathViews(self.x_val, self.y_val, ("trained", "compressed"))
        views.set_model(model)
        self._record(0, {**views.measure(), "decay": 1.0, "noise": 0.0})
        callbacks = [cl.DecayCallback(), views, _Watch(self)]
        model.fit(
            self.x, self.y, batch_size=self.batch_size, epochs=values["epochs"], verbose=0,
            callbacks=callbacks,
        )  # fmt: skip
        self._redraw()

    def _record(self, step, logs):
        row = {"epoch": step / self.steps, "step": step, **logs}
        self.history = pd.concat([self.history, pd.DataFrame([row])], ignore_index=True)
        if time.monotonic() - self._drawn > REDRAW_SECONDS:
            self._redraw()

    def _redraw(self):
        fig = self._picture.draw(self.history, self._dense)
        self.image.value, self.text.value = png(fig), html_alt(fig.alt_text)
        self._drawn = self._told = time.monotonic()

    def _show_progress(self, step):
        if time.monotonic() - self._told > REDRAW_SECONDS:
            total = self.steps * self.controls["epochs"].value
            self.progress.value = step / total
            self._tell(f"Epoch {step / self.steps:.1f} of {self.controls['epochs'].value}.")
            self._told = time.monotonic()

    def _tell(self, text):
        self.status.value = html.escape(text)

    def _go(self, state, text):
        """Enter a state: which controls can be used, and what is said."""
        self.state, running = state, state == "running"
        for control in self.controls.values():
            control.disabled = running
        self.start_button.disabled, self.stop_button.disabled = running, not running
        self.force_button.disabled = running or self.model is None or self.small is not None
        self.progress.bar_style = {"failed": "danger", "finished": "success"}.get(state, "")
        if state == "finished":
            self.progress.value = 1.0
        self._told = time.monotonic()
        self._tell(text)

    def _closing(self, stopped, over) -> str:
        text = ("Stopped: " if stopped else "Finished: ") + training_text(self.history)
        if over:
            return f"{text} {self._size()}"
        return f"{text} W is not gone: .model can be used as it is, 'Finalize anyway' keeps BA alone."

    def _size(self) -> str:
        ratio = cl.ratio(self.original, self.small, "model")
        return f".small is a stock Keras net with {per_cent(ratio)} of the original's parameters."


def _training_data(data) -> tuple[np.ndarray, ...]:
    """x_train, y_train, x_val, y_val of a `Dataset` or of a tuple of the four."""
    names = ("x_train", "y_train", "x_val", "y_val")
    parts = [getattr(data, name) for name in names] if hasattr(data, "x_train") else list(data)
    if len(parts) != 4 or len(parts[0]) != len(parts[1]) or len(parts[2]) != len(parts[3]):
        raise ValueError(
            f"`data` must be a Dataset, or ({', '.join(names)}) of matching lengths. "
            f"Received: {type(data).__name__} with parts of length {[len(part) for part in parts]}."
        )
    return tuple(parts)


def live_training(
    model: keras.Model,
    data,
    epochs: int = 10,
    batch_size: int = 30,
    learning_rate: float = 1e-3,
    rank: int | None = None,
    method: str = "noise_bias",
    targets: Sequence[str] | None = None,
    seed: int = 0,
) -> LiveTraining:
    """Widget 5: start and stop a training of one's own, with both views of the net as it goes.

    Args:
        model: a trained classifier with logits, not compressed; it is not changed.
        data: a `clora_lab.lab.data.datasets.Dataset`, or (x_train, y_train, x_val, y_val).
        epochs, rank, method: what the controls begin with.
        batch_size, learning_rate: of Adam, constant.
        targets: layers to compress; None for all but the output layer.
        seed: of the pairs' start values and the noise.

    Raises:
        ValueError: if the model can't be compressed, or the data do not fit together.

    Example:
        >>> live = live_training(dense_net, data, epochs=5)  # doctest: +SKIP
        >>> live.start()  # doctest: +SKIP
        >>> live.stop(); live.wait(); live.finalize(force=True)  # doctest: +SKIP
    """
    return LiveTraining(model, data, epochs, batch_size, learning_rate, rank, method, targets, seed)
