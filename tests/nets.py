"""Small nets and the few helpers that the tests of the method share; they run on every backend."""

import warnings

import keras
import numpy as np
from keras import ops

import clora_lab as cl

BACKEND = keras.backend.backend()


def data(*shape, seed=0):
    """Standard normal numbers, float32."""
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def schedule(total_steps=10, **arguments):
    """A linear decay that begins at once and is over after 80% of the steps."""
    return cl.LinearDecay(total_steps, **{"begin": 0.0, "end": 0.8, **arguments})


def randomise(model, seed=0):
    """Weights that are nowhere zero or equal, so that a lost one is noticed; variances stay positive."""
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        weight.assign(rng.uniform(0.1, 0.5, weight.shape) * rng.choice([-1, 1], weight.shape))
        if "variance" in weight.name:
            weight.assign(np.abs(ops.convert_to_numpy(weight.value)))
    return model


def sequential(units=(12, 10, 3), inputs=16, seed=0):
    """Dense layers named dense_0, dense_1, ...; ReLU on all but the last."""
    last = len(units) - 1
    layers = [
        keras.layers.Dense(n, activation=None if i == last else "relu", name=f"dense_{i}")
        for i, n in enumerate(units)
    ]
    return randomise(keras.Sequential([keras.Input((inputs,)), *layers]), seed)


def toy():
    """The slides' toy net: 784-256-128-10."""
    return keras.Sequential(
        [
            keras.Input((784,)),
            keras.layers.Dense(256, activation="relu", name="dense"),
            keras.layers.Dense(128, activation="relu", name="dense_1"),
            keras.layers.Dense(10, name="dense_2"),
        ]
    )


def convolutional(seed=0):
    """Two convolutions, the first with a stride, and a head; 8 x 8 x 3 in, 5 out."""
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            keras.layers.Conv2D(6, 3, strides=2, padding="same", activation="relu", name="conv_0"),
            keras.layers.Conv2D(8, 3, padding="same", activation="relu", name="conv_1"),
            keras.layers.Flatten(name="flatten"),
            keras.layers.Dense(7, activation="relu", name="dense_0"),
            keras.layers.Dense(5, name="head"),
        ]
    )
    return randomise(model, seed)


def compress(model, rank=2, **arguments):
    """`clora_lab.compress` with a schedule, and without a word on break-even ranks: the nets are tiny."""
    if arguments.get("init") != "scratch":
        arguments.setdefault("schedule", schedule())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", cl.BreakEvenWarning)
        return cl.compress(model, rank, **arguments)


def start(layer, kernel, bias=None, moments=None):
    """Set the start values of a built CLoRA layer that stands for W and b."""
    made_by = cl.methods.of(layer)
    made_by.start([layer], layer.rule, np.asarray(kernel), bias, layer.rank, layer.seed, moments)


def start_matrices(init, rule, kernel, rank, scale, rng, moments=None):
    """down, up and the kernel that is left to decay: the start values of C-LoRA as matrices."""
    method = cl.methods.WDS(init=init, alpha=scale * rank)
    factors, rest = method.factors(rule, kernel, rank, rng, moments)
    return *rule.to_matrices(factors), rest


def forward(model, *inputs, training=False):
    """Outputs as NumPy arrays; a call in training without the callback is meant here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", cl.DecayNotMovingWarning)
        outputs = model(inputs[0] if len(inputs) == 1 else list(inputs), training=training)
    if isinstance(outputs, (list, tuple)):
        return [ops.convert_to_numpy(output) for output in outputs]
    return ops.convert_to_numpy(outputs)


def set_decay(model, decay):
    for layer in cl.clora_layers(model) if isinstance(model, keras.Model) else [model]:
        layer.decay.assign(decay)


def weights(model):
    """Copies of all weights, by path."""
    return {
        f"{i} {weight.path}": ops.convert_to_numpy(weight.value).copy()
        for i, weight in enumerate(model.weights)
    }


def assert_same_weights(now, before):
    assert list(now) == list(before)
    for name in now:
        np.testing.assert_array_equal(now[name], before[name], err_msg=name)


def train(model, x, y, epochs=1, batch_size=4, callbacks=None, optimizer=None, **settings):
    """Compile if need be, fit in the given order, and return the history as a dict."""
    if not model.compiled:
        model.compile(
            optimizer=optimizer or keras.optimizers.SGD(0.05),
            loss="mse",
            **{"jit_compile": False, **settings},
        )
    callbacks = [cl.DecayCallback()] if callbacks is None else callbacks
    history = model.fit(
        x, y, epochs=epochs, batch_size=batch_size, shuffle=False, verbose=0, callbacks=callbacks
    )
    return history.history


def gradient(function, x):
    """d function(x) / d x as a NumPy array, for a scalar function written with `keras.ops`."""
    if BACKEND == "tensorflow":
        import tensorflow as tf

        x = tf.convert_to_tensor(x)
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = function(x)
        return tape.gradient(value, x).numpy()
    if BACKEND == "jax":
        import jax

        return np.asarray(jax.grad(function)(ops.convert_to_tensor(x)))
    import torch

    x = torch.tensor(x, requires_grad=True)
    return torch.autograd.grad(function(x), x)[0].numpy()
