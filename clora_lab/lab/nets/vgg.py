"""VGG16 for CIFAR-10 (slide 18), and its form in small."""

from __future__ import annotations

import random

import keras

from clora_lab import _checks
from clora_lab.lab.nets import registry, starts

DENSE = registry.targets("vgg16", "dense")


def vgg16(start: str = "random", classes: int = 10, dropout: float = 0.5, seed: int = 0) -> keras.Model:
    """VGG16 for 32 x 32 images (slide 18): 13 convolutions, Flatten, Dense 4096, 512 and `classes`, logits.

    18,918,730 parameters for 10 classes. Simonyan & Zisserman 2014 (arXiv:1409.1556). The random start is
    He et al.'s normal one (arXiv:1502.01852), made for ReLU nets of this depth.

    Args:
        start: "random", or "imagenet" for the convolutions' published weights (in Keras' cache, or
            downloaded: 59 MB).
        classes: number of outputs.
        dropout: rate after each of the two hidden dense layers.
        seed: of the start values.

    Returns:
        An uncompiled model: (batch, 32, 32, 3) -> (batch, classes).

    Raises:
        ValueError: unknown start, or a rate out of range.
        DatasetMissing, DatasetDamaged: ImageNet weights are neither cached nor to be had, or damaged.

    Example:
        >>> vgg16().count_params()
        18918730
    """
    found = starts.find("vgg16", start)
    _checks.real("dropout", dropout, 0.0, 0.999)
    keras.utils.set_random_seed(seed)
    given = None if found is None else str(found)
    body = keras.applications.VGG16(include_top=False, weights=given, input_shape=(32, 32, 3))
    if start == "random":
        for layer in body.layers:
            if isinstance(layer, keras.layers.Conv2D):
                layer.kernel.assign(keras.initializers.HeNormal(seed=_drawn())(layer.kernel.shape))
    x = keras.layers.Flatten(name="flatten")(body.output)
    for name, units in zip(DENSE, (4096, 512), strict=True):
        x = keras.layers.Dense(units, activation="relu", kernel_initializer="he_normal", name=name)(x)
        x = keras.layers.Dropout(dropout, name=f"{name}_dropout")(x)
    x = keras.layers.Dense(classes, name="dense_8")(x)
    return keras.Model(body.input, x, name="vgg16")


def small_vgg(classes: int = 10, dropout: float = 0.2, seed: int = 0) -> keras.Model:
    """VGG16's form in small, for trials on a laptop: the same layer names, widths 16, 32, 64 in three blocks.

    Args:
        classes: number of outputs.
        dropout: rate after each of the two hidden dense layers.
        seed: of the start values.

    Returns:
        An uncompiled model: (batch, 32, 32, 3) -> (batch, classes).

    Example:
        >>> small_vgg().count_params()
        164058
    """
    keras.utils.set_random_seed(seed)
    x = inputs = keras.Input((32, 32, 3))
    look = {"activation": "relu", "padding": "same", "kernel_initializer": "he_normal"}
    for block, (filters, depth) in enumerate(((16, 1), (32, 1), (64, 2)), start=1):
        for conv in range(1, depth + 1):
            x = keras.layers.Conv2D(filters, 3, name=f"block{block}_conv{conv}", **look)(x)
        x = keras.layers.MaxPooling2D(name=f"block{block}_pool")(x)
    x = keras.layers.Flatten(name="flatten")(x)
    for name, units in zip(DENSE, (96, 48), strict=True):
        x = keras.layers.Dense(units, activation="relu", kernel_initializer="he_normal", name=name)(x)
        x = keras.layers.Dropout(dropout, name=f"{name}_dropout")(x)
    x = keras.layers.Dense(classes, name="dense_8")(x)
    return keras.Model(inputs, x, name="small_vgg")


def _drawn() -> int:
    """A seed from Python's generator, which `set_random_seed` has seeded."""
    return random.randint(0, 2**31 - 1)
