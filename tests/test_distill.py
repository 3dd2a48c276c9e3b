"""A compressed net that learns from the original: the loss, what it needs, and an interrupted training."""

import keras
import nets
import numpy as np
import pytest
import scipy.special
from keras import ops

import clora_lab as cl
from clora_lab.distill import Distilled
from clora_lab.lab import training

EPOCHS = 3
JIT = keras.backend.backend() == "jax"  # without it JAX runs operation by operation, for minutes


def states(model):
    """A net of two blocks and a head, with what `Distilled` asks for."""
    hidden = [model.get_layer(name).output for name in ("dense_0", "dense_1")]
    return keras.Model(model.inputs[0], {"logits": model.outputs[0], "hidden": hidden})


def net(seed):
    keras.utils.set_random_seed(seed)
    return nets.randomise(
        keras.Sequential(
            [
                keras.Input((12,)),
                keras.layers.Dense(16, activation="relu", name="dense_0"),
                keras.layers.Dense(16, activation="tanh", name="dense_1"),
                keras.layers.Dense(3, name="head"),
            ]
        )
    )


def distilled(share=1.0, rank=4, epochs=EPOCHS):
    """A wrapped net that decays, beside the net it was made of; compiled."""
    teacher = net(0)
    keras.utils.set_random_seed(1)
    steps = epochs * 8
    wrapped = cl.compress(
        teacher, rank=rank, schedule=cl.LinearDecay(steps), targets="dense_*", init="svd", seed=3
    )
    model = Distilled(states(wrapped), states(teacher), share)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-2), loss, loss_weights=model.label_weight, jit_compile=JIT)
    return model, wrapped, teacher


def batches(labels=None):
    x = nets.data(60, 12)
    return training.Batches(x, np.arange(60) % 3 if labels is None else labels, 8)


def weights(model):
    return [ops.convert_to_numpy(weight) for weight in model.weights]


def test_the_loss_is_the_one_of_the_equation():
    student, teacher, x, labels = net(1), net(0), nets.data(7, 12), np.arange(7) % 3
    share, temperature = 0.7, 3.0
    model = Distilled(states(student), states(teacher), share, temperature)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss, loss_weights=model.label_weight, jit_compile=JIT)
    found = model.train_on_batch(x, labels)
    # The weights have moved by now: the same nets anew.
    ours, theirs = (
        {
            name: [np.float64(ops.convert_to_numpy(v)) for v in keras.tree.flatten(value)]
            for name, value in found.items()
        }
        for found in (states(net(seed))(x) for seed in (1, 0))
    )
    errors = [
        ((own - wanted) ** 2).sum() / (wanted**2).sum()
        for own, wanted in zip(ours["hidden"], theirs["hidden"], strict=True)
    ]
    z, wanted = ours["logits"][0], theirs["logits"][0]
    soft, target = scipy.special.softmax(z / temperature, 1), scipy.special.softmax(wanted / temperature, 1)
    divergence = (target * np.log(target / soft)).sum(1).mean()
    entropy = -scipy.special.log_softmax(z, 1)[np.arange(7), labels].mean()
    expected = (1 - share) * entropy + share * (np.mean(errors) + temperature**2 * divergence)
    assert float(np.ravel(found)[0]) == pytest.approx(expected, rel=1e-4)


def test_it_learns_what_the_teacher_says_and_leaves_the_teacher_alone():
    model, wrapped, teacher = distilled()
    before, x = weights(teacher), nets.data(60, 12)
    keras.Model.fit(model, batches(), epochs=1, callbacks=[cl.DecayCallback()], verbose=0)
    assert all(np.array_equal(a, b) for a, b in zip(before, weights(teacher), strict=True))
    assert not model.teacher.trainable_weights
    assert {w.path for w in model.trainable_weights} == {w.path for w in wrapped.trainable_weights}
    assert np.array_equal(ops.convert_to_numpy(model(x)), ops.convert_to_numpy(wrapped(x, training=False)))


def test_the_error_of_the_states_falls_as_the_original_leaves(tmp_path):
    """From the SVD, with W decaying to zero, the pairs alone come close to the teacher's states."""
    model, wrapped, teacher = distilled(rank=6, epochs=12)
    history, _ = training.fit(model, batches(), 12, tmp_path / "run", callbacks=[cl.DecayCallback()])
    assert history[-1]["decay"] == 0.0
    x = nets.data(60, 12)
    small = cl.finalize(wrapped)
    start, _ = distilled(rank=6)[1:]
    svd = cl.finalize(start, force=True)
    wanted = ops.convert_to_numpy(teacher(x))
    trained, untrained = (np.square(ops.convert_to_numpy(n(x)) - wanted).mean() for n in (small, svd))
    assert trained < 0.5 * untrained


def test_labels_count_for_nothing_at_a_share_of_one():
    ends = []
    for labels in (np.arange(60) % 3, np.zeros(60, int)):
        model, _, _ = distilled()
        keras.Model.fit(model, batches(labels), epochs=1, callbacks=[cl.DecayCallback()], verbose=0)
        ends.append(weights(model.student))
    assert all(np.allclose(a, b, atol=1e-6) for a, b in zip(*ends, strict=True))
    model, _, _ = distilled(share=0.5)
    keras.Model.fit(model, batches(labels), epochs=1, callbacks=[cl.DecayCallback()], verbose=0)
    assert not all(np.allclose(a, b, atol=1e-4) for a, b in zip(ends[1], weights(model.student), strict=True))


def test_an_interrupted_training_ends_where_an_undisturbed_one_does(tmp_path):
    whole, _, _ = distilled()
    training.fit(whole, batches(), EPOCHS, tmp_path / "whole", callbacks=[cl.DecayCallback()])
    first, _, _ = distilled()
    training.fit(first, batches(), 1, tmp_path / "cut", callbacks=[cl.DecayCallback()])
    again, _, _ = distilled()
    training.fit(again, batches(), EPOCHS, tmp_path / "cut", callbacks=[cl.DecayCallback()])
    for a, b in zip(weights(whole.student), weights(again.student), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_bad_arguments_are_refused():
    student, teacher = states(net(1)), states(net(0))
    with pytest.raises(ValueError, match="`share` must be a number"):
        Distilled(student, teacher, share=1.5)
    with pytest.raises(ValueError, match="`temperature` must be a number"):
        Distilled(student, teacher, temperature=0.0)
    short = keras.Model(student.inputs[0], {"logits": student.output["logits"], "hidden": []})
    with pytest.raises(ValueError, match="same number of hidden states"):
        Distilled(short, teacher)
