"""DecayCallback: the decay of each step is that of the schedule, however the training is run."""

import warnings

import keras
import nets
import numpy as np
import pytest
from keras import ops

import clora_lab as cl

X, Y = nets.data(12, 6), nets.data(12, 2, seed=1)
BATCH = 3  # 4 batches an epoch


def model(total_steps=16, method="wds", **arguments):
    arguments.setdefault("schedule", nets.schedule(total_steps=total_steps))
    return nets.compress(nets.sequential((4, 2), inputs=6), method=method, alpha=1.0, **arguments)


def decay_of(net):
    return float(ops.convert_to_numpy(cl.clora_layers(net)[0].decay))


class Watch(keras.callbacks.Callback):
    """What the decay variable holds when a batch, an epoch or an evaluation begins or ends."""

    def __init__(self):
        super().__init__()
        self.at = {}

    def _note(self, when):
        if keras.backend.backend() == "jax":  # training goes on on a copy of the variables
            self.model.jax_state_sync()
        self.at.setdefault(when, []).append(decay_of(self.model))

    def on_train_batch_begin(self, batch, logs=None):
        self._note("batch")

    def on_test_begin(self, logs=None):
        self._note("test")

    def on_epoch_end(self, epoch, logs=None):
        self._note("epoch")

    def on_train_end(self, logs=None):
        self._note("end")


def watched(net, epochs=1, callback=None, **settings):
    watch = Watch()
    callback = callback or cl.DecayCallback()
    history = nets.train(net, X, Y, epochs=epochs, batch_size=BATCH, callbacks=[callback, watch], **settings)
    return watch.at, history


def expected(net, steps):
    return pytest.approx(list(cl.clora_layers(net)[0].schedule(np.asarray(steps))), abs=1e-6)


RUNS = {
    "graph": {},
    "eager": {"run_eagerly": True},
    "xla": {"jit_compile": True},
}
if nets.BACKEND == "torch":
    del RUNS["xla"]  # torch.compile wants a C++ compiler and minutes


@pytest.mark.parametrize("method", ["wds", "noise_bias"])
@pytest.mark.parametrize("run", RUNS)
def test_each_step_sees_the_decay_of_the_schedule(run, method):
    net = model(method=method)
    seen, history = watched(net, epochs=4, **RUNS[run])
    assert seen["batch"] == expected(net, np.arange(16))
    assert seen["epoch"] == history["decay"] == expected(net, [4, 8, 12, 16])
    assert seen["end"] == [0.0] and decay_of(net) == 0.0
    assert np.isfinite(history["loss"]).all()
    cl.finalize(net)


def test_compiled_and_eager_training_give_the_same_net():
    nets_ = [model() for _ in range(2)]
    for net, eager in zip(nets_, (False, True), strict=True):
        watched(net, epochs=2, run_eagerly=eager)
    for one, other in zip(nets_[0].weights, nets_[1].weights, strict=True):
        np.testing.assert_allclose(
            ops.convert_to_numpy(one), ops.convert_to_numpy(other), rtol=1e-4, atol=1e-6
        )


def test_the_decay_takes_effect_on_the_step():
    # SGD on y = d W x + s B A x: the loss of each step says which d the step was computed with
    net = model(targets="dense_0")
    original = nets.sequential((4, 2), inputs=6)
    kernel, bias = (ops.convert_to_numpy(w) for w in original.get_layer("dense_0").weights)
    head, head_bias = (ops.convert_to_numpy(w) for w in original.get_layer("dense_1").weights)
    losses = []

    class Losses(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            losses.append(logs["loss"])

    nets.train(
        net,
        np.repeat(X[:1], 12, axis=0),
        np.zeros((12, 2), "float32"),
        batch_size=12,
        epochs=4,
        callbacks=[cl.DecayCallback(), Losses()],
        optimizer=keras.optimizers.SGD(0.0),
    )
    for decay, loss in zip(net.get_layer("dense_0").schedule(np.arange(4)), losses, strict=True):
        hidden = np.maximum(decay * (X[:1] @ kernel + bias), 0)
        assert loss == pytest.approx(float(((hidden @ head + head_bias) ** 2).mean()), rel=1e-4)


@pytest.mark.skipif(nets.BACKEND == "torch", reason="Keras refuses it on PyTorch")
@pytest.mark.parametrize("k", [2, 3, 8])
def test_steps_per_execution_moves_in_stairs(k):
    net = model()
    seen, history = watched(net, epochs=2, steps_per_execution=k)
    starts = np.arange(0, 4, k)
    assert seen["batch"] == expected(net, [*starts, *(4 + starts)])
    assert history["decay"] == expected(net, [4, 8])


@pytest.mark.parametrize("k", [2, 3])
def test_gradient_accumulation_makes_k_batches_one_step(k):
    # with 4 batches an epoch and k = 3 the epochs do not begin with a new step
    net = model(total_steps=8)
    optimizer = keras.optimizers.SGD(0.05, gradient_accumulation_steps=k)
    seen, history = watched(net, epochs=3, optimizer=optimizer)
    assert seen["batch"] == expected(net, np.arange(12) // k)
    assert history["decay"] == expected(net, np.array([4, 8, 12]) // k)


def test_several_fits_go_on_where_the_last_one_stopped():
    net = model()
    seen = [value for _ in range(4) for value in watched(net)[0]["batch"]]
    assert seen == expected(net, np.arange(16))
    assert watched(net)[0]["batch"] == [0.0] * 4  # past the end


def test_validation_sees_the_decay_of_the_end_of_the_epoch():
    net, watch = model(), Watch()
    net.compile("sgd", "mse", jit_compile=False)
    history = net.fit(
        X, Y, epochs=2, batch_size=BATCH, validation_data=(X, Y), verbose=0,
        callbacks=[cl.DecayCallback(), watch],
    )  # fmt: skip
    assert watch.at["test"] == expected(net, [4, 8])
    loss = ((nets.forward(net, X) - Y) ** 2).mean()  # its last decay is that of now
    assert history.history["val_loss"][-1] == pytest.approx(float(loss), rel=1e-4)


def test_evaluation_outside_of_training_leaves_the_decay_alone():
    net, callback = model(), cl.DecayCallback()
    watched(net, callback=callback)
    nets.set_decay(net, 0.123)
    net.evaluate(X, Y, verbose=0, callbacks=[callback])
    assert decay_of(net) == pytest.approx(0.123)


@pytest.mark.parametrize(
    ("gate", "level"),
    [
        ("scheduled", lambda d: np.sqrt(1 - d**2) * (d >= 0.3)),
        ("until_end", lambda d: np.sqrt(1 - d**2)),
        ("never", lambda d: 0 * d),
    ],
)
def test_logs_of_each_epoch(gate, level):
    net = model(method="noise", noise_gate=gate)
    _, history = watched(net, epochs=4)
    decay = net.get_layer("dense_0").schedule(np.array([4, 8, 12, 16]))
    assert history["decay"] == pytest.approx(list(decay), abs=1e-6)
    assert history["noise"] == pytest.approx(list(level(decay)), abs=1e-6)


def test_no_noise_in_the_logs_of_a_method_without():
    assert watched(model(method="bias"))[1]["noise"] == [0.0]


def test_layers_with_other_schedules_in_one_net():
    net = model(targets=["dense_0", "dense_1"])
    net.get_layer("dense_1").schedule = cl.CosineDecay(16, begin=0.0, end=1.0)
    watched(net, epochs=2)
    assert decay_of(net) == pytest.approx(1 - 8 / 12.8)
    assert float(net.get_layer("dense_1").decay) == pytest.approx(0.5)


def test_floor_above_zero():
    net = model(schedule=nets.schedule(8, floor=0.25))
    watched(net, epochs=2)
    assert decay_of(net) == 0.25
    with pytest.raises(ValueError, match="The decay is not over"):
        cl.finalize(net)


def test_constant_schedule():
    net = model(schedule=cl.ConstantDecay(8, value=0.5))
    assert watched(net)[0]["batch"] == [0.5] * 4
    assert watched(net)[0]["batch"] == [0.5] * 4


# Compiled anew


def test_compiled_anew_in_mid_training_is_refused():
    net = model()
    watched(net, epochs=2)
    net.compile("sgd", "mse", jit_compile=False)
    with pytest.raises(ValueError, match="The decay stands at 0.375") as error:
        watched(net)
    assert "DecayCallback(initial_step=...)" in str(error.value) and "step 0" in str(error.value)


def test_initial_step_goes_on_after_compiling_anew():
    net = model()
    watched(net, epochs=2)
    net.compile("sgd", "mse", jit_compile=False)
    seen, _ = watched(net, callback=cl.DecayCallback(initial_step=8))
    assert seen["batch"] == expected(net, np.arange(8, 12))
    # the next fit has to be told as well
    seen, _ = watched(net, callback=cl.DecayCallback(initial_step=12))
    assert seen["batch"] == expected(net, np.arange(12, 16))


def test_initial_step_zero_starts_over():
    net = model()
    watched(net, epochs=4)
    net.compile("sgd", "mse", jit_compile=False)
    assert watched(net, callback=cl.DecayCallback(initial_step=0))[0]["batch"] == expected(net, np.arange(4))


@pytest.mark.parametrize("step", [-1, 1.5, True, "8"])
def test_impossible_initial_step(step):
    with pytest.raises(ValueError, match="`initial_step` must be an integer") as error:
        cl.DecayCallback(initial_step=step)
    assert f"Received: {step!r}" in str(error.value)


# Without the callback, or without anything to move


def test_fit_without_the_callback_warns():
    net = model()
    with pytest.warns(cl.DecayNotMovingWarning, match="'dense_0'.*callbacks=.*DecayCallback"):
        nets.train(net, X, Y, callbacks=[])
    assert decay_of(net) == 1.0


def test_fit_without_the_callback_warns_also_after_a_fit_that_had_it():
    net = model()
    watched(net, run_eagerly=True)
    with pytest.warns(cl.DecayNotMovingWarning):
        nets.train(net, X, Y, callbacks=[])


@pytest.mark.parametrize("run", RUNS)
def test_fit_with_the_callback_does_not_warn(run):
    with warnings.catch_warnings():
        warnings.simplefilter("error", cl.DecayNotMovingWarning)
        net = model(method="noise_bias")
        watched(net, **RUNS[run])
        net.evaluate(X, Y, verbose=0)
        net.predict(X, verbose=0)


def test_scratch_net_trains_without_the_callback():
    net = nets.compress(nets.sequential((4, 2), inputs=6), init="scratch", alpha=1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error", cl.DecayNotMovingWarning)
        nets.train(net, X, Y, callbacks=[])


@pytest.mark.parametrize("kind", ["plain", "scratch", "finalized"])
def test_callback_without_a_decaying_layer_is_refused(kind):
    net = nets.sequential((4, 2), inputs=6)
    if kind == "scratch":
        net = nets.compress(net, init="scratch")
    if kind == "finalized":
        net = cl.finalize(nets.compress(net), force=True)
    with pytest.raises(ValueError, match="has no layer whose decay could move") as error:
        nets.train(net, X, Y)
    assert "clora_lab.compress()" in str(error.value)


def test_stopped_in_mid_training_it_leaves_a_usable_model():
    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.stop_training = batch == 1

    net = model()
    nets.train(net, X, Y, epochs=4, batch_size=BATCH, callbacks=[cl.DecayCallback(), Stop()])
    assert decay_of(net) == pytest.approx(1 - 2 / 12.8)
    assert np.isfinite(nets.forward(net, X)).all()
    assert watched(net)[0]["batch"] == expected(net, np.arange(2, 6))
