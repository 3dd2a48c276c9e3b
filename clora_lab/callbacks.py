"""DecayCallback: the only writer of the decay in training, and its clock."""

from __future__ import annotations

import keras
from keras import ops

from clora_lab import _checks
from clora_lab.layers import clora_layers
from clora_lab.schedules import ConstantDecay


class DecayCallback(keras.callbacks.Callback):
    """Sets the decay of every `CLoRA` layer before each step: ``d = schedule(step)``.

    A step is one batch, or k batches under an optimiser that accumulates gradients over k. The callback
    counts the batches of training itself and keeps the count in the layers, which save it, so the decay
    never runs backwards: not where loss scaling skips an update, where a train_step of one's own makes two
    of them, in a second `fit`, or in a model saved in mid-training. With `steps_per_execution=k` Keras calls
    callbacks every k batches, so d moves in stairs of k steps. The logs of each epoch get "decay" (d at its
    end) and "noise" (its standard deviation in units of that of W, sqrt(1 - d^2) while the gate is open).

    Args:
        initial_step: where in the schedule the first `fit` with this callback starts; a second one goes on.
            None for where the layers stand. Needed only if a partly decayed model was compiled anew, which
            sets the optimiser back to step 0, or comes from a file that has no count.

    Raises:
        ValueError: when `fit` starts, if the model has no decaying layer, or stands at d < 1 with an
            optimiser at step 0, or without one, and no `initial_step`.

    Example:
        >>> import keras, numpy as np
        >>> import clora_lab as cl
        >>> model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(16), keras.layers.Dense(3)])
        >>> model_c = cl.compress(model, rank=2, schedule=cl.LinearDecay(total_steps=2, begin=0.0))
        >>> model_c.compile("sgd", "mse", jit_compile=False)
        >>> x, y = np.ones((8, 20)), np.ones((8, 3))
        >>> history = model_c.fit(x, y, batch_size=4, callbacks=[cl.DecayCallback()], verbose=0)
        >>> history.history["decay"]
        [0.0]
    """

    def __init__(self, initial_step: int | None = None):
        super().__init__()
        if initial_step is not None:
            initial_step = 0 if initial_step == 0 else _checks.positive_int("initial_step", initial_step)
        self.initial_step = initial_step
        self._used = self._training = False

    def on_train_begin(self, logs=None):
        layers = clora_layers(self.model)
        self.layers = [layer for layer in layers if layer.base is not None and layer.schedule]
        if not self.layers:
            raise ValueError(
                f"Model {self.model.name!r} has no layer whose decay could move. Make it with "
                "clora_lab.compress(), and train a finalized or scratch model without DecayCallback."
            )
        self._written = [float(ops.convert_to_numpy(layer.decay)) for layer in self.layers]
        optimizer = getattr(self.model, "optimizer", None)
        # float16 has a LossScaleOptimizer around the one that knows
        optimizer = getattr(optimizer, "inner_optimizer", optimizer)
        self._accumulated = getattr(optimizer, "gradient_accumulation_steps", None) or 1
        steps, rest = self._start(optimizer)
        self._epoch_start = self._batches = steps * self._accumulated + min(rest, self._accumulated - 1)
        self._used = self._training = True
        jit = bool(getattr(self.model, "jit_compile", False)) and not self.model.run_eagerly
        for layer in self.layers:
            layer.watched, layer.xla = True, jit

    def _start(self, optimizer) -> tuple[int, int]:
        """Steps that were made before this fit, and batches towards the next one."""
        if self.initial_step is not None and not self._used:
            return self.initial_step, 0
        # Of batches, with accumulation too.
        made = 0 if optimizer is None else int(ops.convert_to_numpy(optimizer._iterations))
        clocks = [layer.clock for layer in self.layers if layer.clock is not None]
        known = max(clocks, default=(0, 0))
        moved = [decay for decay in self._written if decay < 1.0]
        varying = any(not isinstance(layer.schedule, ConstantDecay) for layer in self.layers)
        if moved and varying and not self._used and (made == 0 and (optimizer is not None or not any(known))):
            where = "there is no optimiser" if optimizer is None else "the optimiser is at step 0"
            raise ValueError(
                f"The decay stands at {min(moved):.4g}, but {where}: the model was "
                "compiled anew in mid-training. Pass DecayCallback(initial_step=...) to say where in the "
                "schedule it stands, or load it from a .keras file together with its optimiser."
            )
        return known if any(known) else divmod(made, self._accumulated)

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch_start = self._batches

    def on_train_batch_begin(self, batch, logs=None):
        self._begun = batch
        self._write(self._epoch_start + batch)

    def on_train_batch_end(self, batch, logs=None):
        # One execution is several batches with `steps_per_execution`; the last of an epoch may be cut short.
        run = max(batch - self._begun + 1, getattr(self.model, "steps_per_execution", None) or 1)
        ends = self._begun + run
        length = (self.params or {}).get("steps")
        self._batches = self._epoch_start + (min(ends, length) if length else ends)

    def on_test_begin(self, logs=None):
        if self._training:  # the validation of an epoch sees the decay of its end
            self._write(self._batches)

    def on_epoch_end(self, epoch, logs=None):
        self._write(self._batches)
        if logs is not None:
            layer, decay = self.layers[0], self._written[0]
            logs["decay"] = decay
            noisy = layer.has_noise and layer.noise_gate(decay)
            logs["noise"] = (1.0 - decay**2) ** 0.5 if noisy else 0.0

    def on_train_end(self, logs=None):
        self._write(self._batches)
        self._training = False
        for layer in self.layers:
            # What was compiled keeps its way to draw; what runs without it from now on must not need XLA.
            layer.watched = layer.xla = False

    def _write(self, batches):
        clock = divmod(batches, self._accumulated)
        for layer in self.layers:
            layer.clock = clock
        decays = [layer.schedule(clock[0]) for layer in self.layers]
        if decays == self._written:
            return  # in warm-up and cool-down nothing has to be written
        if keras.backend.backend() == "jax":
            # JAX trains on a copy of the variables; without this the assignment would be lost.
            self.model.jax_state_sync()
        for layer, decay in zip(self.layers, decays, strict=True):
            layer.decay.assign(decay)
        self._written = decays
