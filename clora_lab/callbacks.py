"""DecayCallback: the only writer of the decay in training."""

from __future__ import annotations

import keras

from clora_lab import _checks, surgery
from clora_lab.schedules import ConstantDecay


class DecayCallback(keras.callbacks.Callback):
    """Sets the decay of every `CLoRA` layer before each step: ``d = schedule(step)``.

    The step is the number of the optimiser's updates, `optimizer.iterations`, so that a model saved in
    mid-training goes on where it stood, and gradient accumulation over k batches makes k batches one step.
    With `steps_per_execution=k` Keras calls callbacks every k batches, so d moves in stairs of k steps.
    The logs of each epoch get "decay" (d at its end) and "noise" (its standard deviation in units of that
    of W, sqrt(1 - d^2) while the gate is open).

    Args:
        initial_step: where in the schedule this `fit` starts; None to read it from the optimiser. Needed
            only if a partly decayed model was compiled anew, which sets the optimiser back to step 0.

    Raises:
        ValueError: when `fit` starts, if the model has no decaying layer, or stands at d < 1 with an
            optimiser at step 0 and no `initial_step`.

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
        self._training = False

    def on_train_begin(self, logs=None):
        layers = surgery.clora_layers(self.model)
        self.layers = [layer for layer in layers if layer.base is not None and layer.schedule]
        if not self.layers:
            raise ValueError(
                f"Model {self.model.name!r} has no layer whose decay could move. Make it with "
                "clora_lab.compress(), and train a finalized or scratch model without DecayCallback."
            )
        updates = self._updates()
        self._offset = 0 if self.initial_step is None else self.initial_step - updates
        self._written = [float(layer.decay) for layer in self.layers]
        moved = [decay for decay in self._written if decay < 1.0]
        varying = any(not isinstance(layer.schedule, ConstantDecay) for layer in self.layers)
        if self.initial_step is None and updates == 0 and moved and varying:
            raise ValueError(
                f"The decay stands at {min(moved):.4g}, but the optimiser is at step 0: the model was "
                "compiled anew in mid-training. Pass DecayCallback(initial_step=...) to say where in the "
                "schedule it stands, or load it from a .keras file together with its optimiser."
            )
        self._training = True
        jit = bool(getattr(self.model, "jit_compile", False)) and not self.model.run_eagerly
        for layer in self.layers:
            layer.watched, layer.xla = True, jit
        self._epoch_start = self._batches()

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch_start = self._batches()

    def on_train_batch_begin(self, batch, logs=None):
        self._write((self._epoch_start + batch) // self._accumulated())

    def on_test_begin(self, logs=None):
        if self._training:  # the validation of an epoch sees the decay of its end
            self._write(self._updates())

    def on_epoch_end(self, epoch, logs=None):
        self._write(self._updates())
        if logs is not None:
            layer, decay = self.layers[0], self._written[0]
            logs["decay"] = decay
            noisy = layer.has_noise and layer.noise_gate(decay)
            logs["noise"] = (1.0 - decay**2) ** 0.5 if noisy else 0.0

    def on_train_end(self, logs=None):
        self._write(self._updates())
        self._training = False
        for layer in self.layers:
            layer.watched = False

    def _optimizer(self):
        # float16 has a LossScaleOptimizer around the one that counts
        return getattr(self.model.optimizer, "inner_optimizer", self.model.optimizer)

    def _accumulated(self) -> int:
        return self._optimizer().gradient_accumulation_steps or 1

    def _batches(self) -> int:
        # `iterations` is rounded down to whole updates, and an epoch need not begin with a new one.
        return int(self._optimizer()._iterations)

    def _updates(self) -> int:
        return self._batches() // self._accumulated()

    def _write(self, updates):
        step = updates + self._offset
        decays = [layer.schedule(step) for layer in self.layers]
        if decays == self._written:
            return  # in warm-up and cool-down nothing has to be written
        if keras.backend.backend() == "jax":
            # JAX trains on a copy of the variables; without this the assignment would be lost.
            self.model.jax_state_sync()
        for layer, decay in zip(self.layers, decays, strict=True):
            layer.decay.assign(decay)
        self._written = decays
