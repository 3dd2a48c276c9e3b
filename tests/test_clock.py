"""The decay's clock counts batches itself: nothing that an optimiser does makes it run backwards."""

import keras
import nets
import numpy as np
import pytest
from keras import ops

import clora_lab as cl

X, Y = nets.data(64, 12), nets.data(64, 3, seed=1)


class Record(keras.callbacks.Callback):
    """The decay that each batch begins with."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_train_batch_begin(self, batch, logs=None):
        if keras.backend.backend() == "jax":
            self.model.jax_state_sync()
        self.seen.append(float(ops.convert_to_numpy(cl.clora_layers(self.model)[0].decay)))


def net(steps=16, **arguments):
    model = keras.Sequential(
        [keras.Input((12,)), keras.layers.Dense(16, activation="tanh"), keras.layers.Dense(3)]
    )
    schedule = cl.LinearDecay(steps, begin=0.0, end=1.0)
    return cl.compress(model, 2, schedule=schedule, alpha=2.0, method="bias", **arguments)


def fit(model, callback=None, epochs=1):
    record = Record()
    callbacks = [callback or cl.DecayCallback(), record]
    history = model.fit(X, Y, batch_size=16, epochs=epochs, verbose=0, callbacks=callbacks).history
    return record.seen, history["decay"]


def compiled(model, optimizer=None):
    model.compile(optimizer or keras.optimizers.SGD(0.01), "mse", jit_compile=False)
    return model


def test_initial_step_is_where_the_first_fit_starts_and_the_next_goes_on():
    model, callback = compiled(net()), cl.DecayCallback(initial_step=4)
    ends = [end for _ in range(3) for end in fit(model, callback)[1]]
    assert ends == pytest.approx([0.5, 0.25, 0.0])


@pytest.mark.skipif(nets.BACKEND != "tensorflow", reason="the other backends skip no step on a processor")
def test_skipped_steps_of_float16_do_not_turn_it_back():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = compiled(net(32), keras.optimizers.SGD(1e-4))
        record = Record()
        model.fit(
            X, 40 * Y, batch_size=16, epochs=10, verbose=0, callbacks=[cl.DecayCallback(), record]
        )  # the first steps overflow
    finally:
        keras.config.set_dtype_policy("float32")
    assert int(ops.convert_to_numpy(model.optimizer.inner_optimizer._iterations)) < 40
    assert np.all(np.diff(record.seen) <= 1e-6) and float(cl.clora_layers(model)[0].decay) == 0.0


@pytest.mark.skipif(nets.BACKEND != "tensorflow", reason="written with a gradient tape")
def test_two_updates_a_step_count_once():
    import tensorflow as tf

    class Twice(keras.Model):
        def train_step(self, data):
            x, y = data
            for _ in range(2):
                with tf.GradientTape() as tape:
                    loss = tf.reduce_mean((self(x, training=True) - y) ** 2)
                gradients = tape.gradient(loss, self.trainable_variables)
                self.optimizer.apply(gradients, self.trainable_variables)
            return {"loss": loss}

    core = net()
    model = compiled(Twice(core.inputs, core.outputs))
    seen = fit(model)[0] + fit(model)[0]  # the second fit has a callback of its own
    assert int(model.optimizer.iterations) == 16
    assert seen == pytest.approx([1 - step / 16 for step in range(8)])


def test_a_loop_of_ones_own_without_an_optimiser():
    model, callback = net(4), cl.DecayCallback()
    callback.set_model(model)
    callback.on_train_begin()
    callback.on_epoch_begin(0)
    seen = []
    for batch in range(4):
        callback.on_train_batch_begin(batch)
        seen.append(float(ops.convert_to_numpy(cl.clora_layers(model)[0].decay)))
        callback.on_train_batch_end(batch)
    callback.on_epoch_end(0)
    callback.on_train_end()
    assert seen == pytest.approx([1.0, 0.75, 0.5, 0.25])
    assert float(ops.convert_to_numpy(cl.clora_layers(model)[0].decay)) == 0.0


def test_a_decayed_net_that_no_clock_knows_is_refused_without_an_optimiser():
    model, callback = net(), cl.DecayCallback()
    nets.set_decay(model, 0.5)
    callback.set_model(model)
    with pytest.raises(ValueError, match="there is no optimiser.*initial_step"):
        callback.on_train_begin()


def test_the_clock_is_saved_with_the_layers(tmp_path):
    model = compiled(net())
    fit(model)
    model.save(tmp_path / "net.keras")
    again = keras.saving.load_model(tmp_path / "net.keras")
    assert cl.clora_layers(again)[0].clock == (4, 0)
    assert fit(again)[0] == pytest.approx([1 - step / 16 for step in range(4, 8)])


@pytest.mark.skipif(nets.BACKEND != "tensorflow", reason="TensorFlow's strategy")
def test_a_mirrored_strategy_moves_it_as_one_device_does():
    import tensorflow as tf

    with tf.distribute.MirroredStrategy(["/cpu:0"]).scope():
        model = compiled(net(8))
    assert fit(model, epochs=2)[1] == pytest.approx([0.5, 0.0])
    assert cl.finalize(model).count_params() > 0


@pytest.mark.skipif(nets.BACKEND == "torch", reason="torch.compile wants a C++ compiler and minutes")
def test_after_a_training_with_xla_noisy_steps_run_without_it():
    model = keras.Sequential([keras.Input((12,)), keras.layers.Dense(16), keras.layers.Dense(3)])
    model = cl.compress(model, 2, schedule=cl.LinearDecay(16, begin=0.0, end=1.0), method="noise_bias")
    model.compile(keras.optimizers.SGD(0.01), "mse", jit_compile=True)
    fit(model)
    assert np.isfinite(nets.forward(model, X, training=True)).all()
    compiled(model)
    assert np.isfinite(model.train_on_batch(X, Y))
