"""Small nets whose weights are NumPy's, and what becomes of them: the same numbers on every backend."""

import keras
import nets
import numpy as np
from keras import layers

import clora_lab as cl

METHODS = ("wds", "bias", "noise", "noise_bias")
STEPS = 2


def assign(model, seed=0):
    """Normal kernels of variance 1 / fan in, and normal biases; in the order of the model's weights."""
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        fan = np.prod(weight.shape[:-1]) if len(weight.shape) > 1 else 4.0
        weight.assign(rng.normal(size=weight.shape) / np.sqrt(fan))
    return model


def one_layer(shape, target, dtype="float32"):
    """A net with one layer to compress, named "target", and a head of three outputs."""
    x = keras.Input(shape, dtype=dtype, name="x")
    y = layers.Flatten(name="flatten")(target(x))
    return assign(keras.Model(x, layers.Dense(3, name="head")(y), name="net"))


def dense():
    return one_layer((12,), layers.Dense(10, activation="relu", name="target"))


def query():
    """As an attention layer makes its queries."""
    return one_layer((5, 8), layers.EinsumDense("abc,cde->abde", (5, 2, 4), bias_axes="de", name="target"))


def attention_output():
    """As an attention layer puts its heads together."""
    return one_layer((5, 2, 4), layers.EinsumDense("abcd,cde->abe", (5, 8), bias_axes="e", name="target"))


def convolution():
    conv = layers.Conv2D(6, 3, strides=2, padding="same", activation="relu", name="target")
    return one_layer((6, 6, 4), conv)


def embedding():
    return one_layer((7,), layers.Embedding(11, 8, name="target"), dtype="int32")


# Layer type -> the net, the factorisation, the starts.
CASES = {
    "dense": (dense, "pair", ("lora_inputs", "svd", "svd_copy", "orthogonal", "scratch")),
    "einsum_query": (query, "pair", ("lora_inputs", "svd")),
    "einsum_output": (attention_output, "pair", ("lora_inputs", "svd")),
    "conv_pair": (convolution, "pair", ("lora_inputs", "svd")),
    "conv_loralib": (convolution, "loralib", ("lora_inputs", "svd")),
    "embedding": (embedding, "pair", ("lora_inputs", "svd")),
}


def inputs(model, count=8, seed=1):
    """Standard normal numbers, or ids below 11."""
    rng, (x,) = np.random.default_rng(seed), model.inputs
    shape = (count, *x.shape[1:])
    return rng.integers(0, 11, shape).astype("int32") if x.dtype == "int32" else nets.data(*shape, seed=seed)


def names(case):
    """layer type/method/init/noise gate of each of its nets; a gate does nothing where there is no noise."""
    return [
        f"{case}/{method}/{init}/{gate}"
        for method in METHODS
        for init in CASES[case][2]
        for gate in (("never", "scheduled") if "noise" in method and init != "scratch" else ("never",))
    ]


def trained(name):
    """The finalized net of that name after `STEPS` steps in which W fades: d is 1, 1/2 and then 0."""
    case, method, init, gate = name.split("/")
    build, factorization, _ = CASES[case]
    model = nets.compress(
        build(),
        method=method,
        init=init,
        schedule=cl.LinearDecay(STEPS, begin=0.0, end=1.0),
        targets=["target"],
        alpha=4.0,
        seed=3,
        factorization=factorization,
        noise_gate=gate,
    )
    fit(model, callbacks=[] if init == "scratch" else None)
    return cl.finalize(model, force=True)


def fit(model, steps=STEPS, callbacks=None, **settings):
    """As many steps of four examples each, in their order."""
    x, y = inputs(model, 4 * steps), nets.data(4 * steps, 3, seed=2)
    # A net of a few steps is built sooner than it is traced; JAX, which compiles each of its steps, is not.
    how = {"jit_compile": True} if nets.BACKEND == "jax" else {"run_eagerly": True}
    settings = {**how, **settings}
    return nets.train(model, x, y, batch_size=4, callbacks=callbacks, **settings)


def outputs(model):
    """The norm of what a net gives for fixed inputs, and the first five numbers."""
    y = nets.forward(model, inputs(model)).astype("float64").ravel()
    return [round(float(value), 6) for value in (np.linalg.norm(y), *y[:5])]


# --- files: nets that were saved half-way, and what they go on to ---------------------------------------

HALF = 4  # of 8 steps: d is 1/2


def images():
    """A convolution and a dense layer."""
    x = keras.Input((6, 6, 3), name="image")
    y = layers.Conv2D(4, 3, strides=2, padding="same", activation="relu", name="conv")(x)
    y = layers.Dense(8, activation="relu", name="dense")(layers.Flatten(name="flatten")(y))
    return assign(keras.Model(x, layers.Dense(3, name="head")(y), name="images"))


def words():
    """Two projections of embedded ids, as attention makes them."""
    x = keras.Input((5,), dtype="int32", name="ids")
    y = layers.Embedding(11, 8, name="embedding")(x)
    y = layers.EinsumDense("abc,cde->abde", (5, 2, 4), bias_axes="de", name="query")(y)
    y = layers.EinsumDense("abcd,cde->abe", (5, 8), bias_axes="e", name="output")(y)
    y = layers.Flatten(name="flatten")(y)
    return assign(keras.Model(x, layers.Dense(3, name="head")(y), name="words"))


def attention():
    x = keras.Input((5, 8), name="x")
    y = layers.Flatten(name="flatten")(layers.MultiHeadAttention(2, 4, name="attention")(x, x))
    return assign(keras.Model(x, layers.Dense(3, name="head")(y), name="attention_net"))


def half_way(model, targets, method, **settings):
    """A net in mid-training, its optimiser's state included."""
    schedule = cl.LinearDecay(2 * HALF, begin=0.0, end=1.0)
    settings = {"schedule": schedule, "alpha": 4.0, "seed": 5, **settings}
    model = nets.compress(model, method=method, targets=targets, **settings)
    fit(model, HALF, optimizer=keras.optimizers.Adam(0.01), run_eagerly=False, jit_compile=False)
    return model


def old_files():
    """File -> the net that is kept in it; a recipe is a folder."""
    law = cl.NoiseLaw(spread=0.5, per="unit", kind="empirical")
    pair = {"factorization": "pair"}
    look_up = ["embedding", "query"]
    found = {
        "wrapped_images_wds.keras": half_way(images(), None, "wds", init="svd", **pair),
        "wrapped_images_noise_bias.keras": half_way(images(), None, "noise_bias", **pair),
        "wrapped_words_wds.keras": half_way(words(), look_up, "wds", init="svd", **pair),
        "wrapped_words_noise_bias.keras": half_way(words(), look_up, "noise_bias", **pair),
        "wrapped_loralib_wds.keras": half_way(images(), ["conv"], "wds", factorization="loralib"),
        "wrapped_loralib_noise_bias.keras": half_way(
            images(), ["conv"], "noise_bias", init="svd", factorization="loralib", noise_law=law
        ),
        "recipe_wrapped": half_way(attention(), ["attention/*"], "noise_bias", noise_gate="never", **pair),
    }
    found["recipe"] = cl.finalize(found["recipe_wrapped"], force=True)
    found["finalized_keep_factors.keras"] = cl.finalize(
        found["wrapped_loralib_noise_bias.keras"], force=True, keep_factors=True
    )
    return found


def described(model):
    """What a net of `old_files` is made of, and where it stands."""
    found = {
        "layers": [type(layer).__name__ for layer in model.layers],
        "parameters": model.count_params(),
        "trainable": sum(int(np.prod(weight.shape)) for weight in model.trainable_weights),
        "decay": {layer.name: float(layer.decay) for layer in cl.clora_layers(model)},
    }
    if model.compiled:
        found["iterations"] = int(model.optimizer.iterations)
    return found


def trained_on(model):
    """Train a net that was saved half-way to its end, in place, and finalize it; recipes lack optimisers."""
    if model.compiled:
        model.jit_compile = nets.BACKEND == "jax"
        fit(model, HALF)
    else:
        fit(model, HALF, callbacks=[cl.DecayCallback(initial_step=HALF)])
    return cl.finalize(model)
