"""Training that is interrupted goes on from the last finished epoch and ends where it would have ended."""

import json
import os
import signal
import subprocess
import sys
import time

import keras
import nets
import numpy as np
import pytest

import clora_lab as cl
from clora_lab.lab import training
from clora_lab.lab.training import Batches

EPOCHS = 4


def net():
    """A wrapped net with all that draws: shuffling, augmentation, dropout, noise."""
    keras.utils.set_random_seed(0)
    model = nets.randomise(
        keras.Sequential(
            [
                keras.Input((12,)),
                keras.layers.Dense(16, activation="relu", name="dense_0"),
                keras.layers.Dropout(0.3, name="dropout"),
                keras.layers.Dense(3, name="head"),
            ]
        )
    )
    keras.utils.set_random_seed(1)
    wrapped = cl.compress(model, rank=2, schedule=cl.LinearDecay(EPOCHS * 8), targets="dense_0", seed=3)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    wrapped.compile(keras.optimizers.Adam(1e-2), loss, jit_compile=nets.BACKEND == "jax")
    return wrapped


def batches(seed=0):
    x, y = nets.data(60, 12), np.arange(60) % 3
    return Batches(x, y, 8, seed, prepare=lambda x, rng: x + rng.normal(size=x.shape).astype("float32"))


def test_an_epoch_of_a_part_draws_other_examples_each_time():
    x = np.arange(40)
    part = Batches(x, x, 8, seed=3, each_epoch=20)
    drawn = []
    for _ in range(2):
        drawn.append(np.concatenate([part[i][0] for i in range(len(part))]))
        part.on_epoch_end()
    assert len(part) == 3 and all(len(set(epoch)) == 20 for epoch in drawn)
    assert set(drawn[0]) != set(drawn[1])
    part.start(0)
    assert np.array_equal(part[0][0], drawn[0][:8])


class Stop(keras.callbacks.Callback):
    """Ends training in the middle of an epoch as an exception would."""

    def __init__(self, step):
        super().__init__()
        self.left = step

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


def weights(model):
    return [keras.ops.convert_to_numpy(weight) for weight in model.weights]


def test_an_interrupted_training_ends_as_an_undisturbed_one(tmp_path):
    whole = net()
    history, _ = training.fit(whole, batches(), EPOCHS, tmp_path / "whole", [cl.DecayCallback()])
    assert [epoch["epoch"] for epoch in history] == list(range(EPOCHS + 1))
    assert history[-1]["decay"] == 0.0 and history[1]["decay"] > history[2]["decay"] > 0.0

    with pytest.raises(KeyboardInterrupt):
        training.fit(net(), batches(), EPOCHS, tmp_path / "cut", [cl.DecayCallback(), Stop(19)])
    assert json.loads((tmp_path / "cut" / training.STATE).read_text())["epoch"] == 2
    resumed = net()
    again, seconds = training.fit(resumed, batches(), EPOCHS, tmp_path / "cut", [cl.DecayCallback()])
    assert len(again) == len(history) and seconds > 0
    for old, new in zip(history, again, strict=True):
        assert new == pytest.approx(old, rel=1e-5)
    for old, new in zip(weights(whole), weights(resumed), strict=True):
        np.testing.assert_allclose(old, new, rtol=1e-5, atol=1e-6)


def test_a_finished_training_is_not_done_again(tmp_path):
    history, _ = training.fit(net(), batches(), 2, tmp_path, [cl.DecayCallback()])
    model = net()
    again, _ = training.fit(model, batches(), 2, tmp_path, [Stop(1)])  # would raise if it trained
    assert again == history
    training.forget(tmp_path)
    assert not tmp_path.exists()


def test_a_checkpoint_of_another_net_is_refused_with_its_folder(tmp_path):
    training.fit(net(), batches(), 1, tmp_path, [cl.DecayCallback()])
    other = nets.sequential((5, 3), inputs=12)
    other.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    with pytest.raises(ValueError, match="Delete that folder"):
        training.fit(other, batches(), 2, tmp_path)


def test_batches_cover_all_and_follow_from_seed_and_epoch():
    plain = Batches(np.arange(10), np.arange(10), batch_size=4, seed=5)
    first = [plain[i][0].tolist() for i in range(len(plain))]
    assert sorted(sum(first, [])) == list(range(10)) and [len(part) for part in first] == [4, 4, 2]
    plain.on_epoch_end()
    assert [plain[i][0].tolist() for i in range(3)] != first
    plain.start(0)
    assert [plain[i][0].tolist() for i in range(3)] == first
    both = Batches({"a": np.arange(4), "b": -np.arange(4)}, np.arange(4), batch_size=3)
    x, y = both[0]
    np.testing.assert_array_equal(x["a"], y)
    np.testing.assert_array_equal(x["b"], -y)


@pytest.mark.parametrize("view", ["trained", "compressed", "original"])
def test_a_traced_evaluation_sees_each_view_as_it_is(view):
    """A traced step must not keep the decay that it was traced with; the last batch is a smaller one."""
    model = net()
    x, y = nets.data(50, 12), np.arange(50) % 3
    how = {"batch": 16, "traced": True}
    training.evaluate(model, x, y, **how)  # traces at d = 1
    for layer in cl.clora_layers(model):
        layer.decay.assign(0.4)
        layer.bias.assign(keras.ops.ones(layer.bias.shape))
    with cl.view(model, view):
        found = training.evaluate(model, x, y, **how)
        assert found == pytest.approx(training.evaluate(model, x, y, batch=50), rel=1e-5)
    with cl.view(model, "trained"):
        trained = training.evaluate(model, x, y, **how)
    assert (found == pytest.approx(trained, rel=1e-5)) == (view == "trained")


def test_a_traced_evaluation_prepares_inputs_and_follows_the_training():
    x, y = nets.data(40, 12), np.arange(40) % 3
    how = {"prepare": lambda part: part - 1.0, "batch": 16}
    seen = []

    class Look(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            logs["traced"] = training.evaluate(self.model, x, y, traced=True, **how)["loss"]
            seen.append(training.evaluate(self.model, x, y, **how)["loss"])

    model = net()
    logs = model.fit(x, y, epochs=3, batch_size=8, verbose=0, callbacks=[cl.DecayCallback(), Look()]).history
    assert logs["traced"] == pytest.approx(seen, rel=1e-4) and len(set(seen)) == 3


class Given(keras.callbacks.Callback):
    """A validation accuracy that was made up, so that the best epoch is known."""

    def on_epoch_end(self, epoch, logs=None):
        logs["val_accuracy"] = [0.5, 0.7, 0.6, 0.65, 0.9][epoch]


def test_early_stopping_goes_back_to_the_best_epoch_also_after_an_interruption(tmp_path):
    callbacks = [cl.DecayCallback(), Given()]
    two = net()
    training.fit(two, batches(), 2, tmp_path / "two", callbacks)
    model = net()
    history, _ = training.fit(model, batches(), 5, tmp_path / "whole", callbacks, patience=2)
    assert [epoch["epoch"] for epoch in history] == [0, 1, 2, 3, 4]  # not the fifth, which would be best
    cut = net()
    with pytest.raises(KeyboardInterrupt):
        training.fit(cut, batches(), 5, tmp_path / "cut", [*callbacks, Stop(20)], patience=2)
    resumed = net()
    again, _ = training.fit(resumed, batches(), 5, tmp_path / "cut", callbacks, patience=2)
    assert again == [pytest.approx(epoch, rel=1e-5) for epoch in history]
    last = net()
    training.fit(last, batches(), 5, tmp_path / "cut", [Stop(1)], patience=2)  # it has stopped already
    for best in (model, resumed, last):
        for old, new in zip(weights(two), weights(best), strict=True):
            np.testing.assert_allclose(old, new, rtol=1e-5, atol=1e-6)


SCRIPT = """
import sys, time
sys.path.insert(0, {tests!r})
import test_training as t
from clora_lab.lab import training
import clora_lab as cl, keras

class Slow(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        time.sleep({pause})

model = t.net()
history, seconds = training.fit(
    model, t.batches(), t.EPOCHS, {folder!r}, [cl.DecayCallback(), Slow()])
print(sum(abs(w).sum() for w in t.weights(model)), len(history), history[-1]["loss"])
"""


def start(folder, pause):
    tests = os.path.dirname(__file__)
    code = SCRIPT.format(tests=tests, folder=str(folder), pause=pause)
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


def test_kill_9_costs_no_finished_epoch(tmp_path):
    victim = start(tmp_path / "killed", 0.1)
    state = tmp_path / "killed" / training.STATE
    deadline = time.monotonic() + 300
    while not state.exists() or json.loads(state.read_text())["epoch"] < 2:
        assert victim.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    before = json.loads(state.read_text())
    assert 2 <= before["epoch"] < EPOCHS
    second, _ = start(tmp_path / "killed", 0).communicate(timeout=300)
    whole, _ = start(tmp_path / "whole", 0).communicate(timeout=300)
    assert [float(v) for v in second.split()] == pytest.approx([float(v) for v in whole.split()], rel=1e-5)
    after = json.loads(state.read_text())
    assert after["history"][: before["epoch"] + 1] == before["history"]


def test_a_net_is_trained_once_and_loaded_then(tmp_path, monkeypatch):
    monkeypatch.setenv("CLORA_CACHE", str(tmp_path))
    model = nets.sequential()
    first, history, seconds = training.trained_net("net", lambda: (model, [{"epoch": 0}], 1.5))
    second, *_ = training.trained_net("net", lambda: pytest.fail("it trained again"))
    assert history == [{"epoch": 0}] and seconds == 1.5
    for a, b in zip(weights(first), weights(second), strict=True):
        np.testing.assert_array_equal(a, b)
