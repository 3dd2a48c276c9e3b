"""The net of the toy project, and the linear classifier beside it."""

from __future__ import annotations

import keras


def toy_mlp(features: int = 784, classes: int = 10, seed: int = 0) -> keras.Sequential:
    """The net of the toy project (slide 9): features-256-128-classes, ReLU, logits.

    235,146 parameters for Fashion-MNIST. The slides compress the 256 and 128 layers.

    Args:
        features: number of inputs.
        classes: number of outputs.
        seed: of the start values.

    Returns:
        An uncompiled model: (batch, features) -> (batch, classes).

    Example:
        >>> toy_mlp().count_params()
        235146
    """
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input((features,)),
            keras.layers.Dense(256, activation="relu", name="dense"),
            keras.layers.Dense(128, activation="relu", name="dense_1"),
            keras.layers.Dense(classes, name="dense_2"),
        ],
        name="toy_mlp",
    )


def softmax(features: int = 784, classes: int = 10, seed: int = 0) -> keras.Sequential:
    """A plain softmax regression: one affine map of the inputs to logits, and nothing to compress.

    Args:
        features: number of inputs.
        classes: number of outputs.
        seed: of the start values.

    Returns:
        An uncompiled model: (batch, features) -> (batch, classes).

    Example:
        >>> softmax().count_params()
        7850
    """
    keras.utils.set_random_seed(seed)
    output = keras.layers.Dense(classes, name="dense")
    return keras.Sequential([keras.Input((features,)), output], name="softmax")
