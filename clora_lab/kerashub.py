"""KerasHub models: which layers are entered to replace what is inside, and how.

A `keras_hub.layers.TransformerEncoder` is one layer of its model's graph; query, key, value, output and the
feed-forward halves are attributes of it, called in its Python code. They can be swapped because that code
only calls them: ``x = self._query_dense(x)`` does not ask what the attribute is. That has been read for the
types that `can_enter` names, and for no others, so their subclasses are left alone too.

KerasHub is not imported here: a model of KerasHub can only exist where it has been imported already.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

import keras


def can_enter(layer) -> bool:
    """Whether the sub-layers of this layer may be replaced: its code does nothing but call them.

    Example:
        >>> import keras
        >>> from clora_lab import kerashub
        >>> kerashub.can_enter(keras.layers.MultiHeadAttention(num_heads=2, key_dim=4))
        True
    """
    return type(layer) is keras.layers.MultiHeadAttention or is_block(layer)


def is_block(layer) -> bool:
    """Whether this is a block of a KerasHub encoder: attention and the feed-forward halves."""
    hub = sys.modules.get("keras_hub")
    return hub is not None and type(layer) is hub.layers.TransformerEncoder


def is_hub_model(model) -> bool:
    """Whether this is a Task or a Backbone of KerasHub."""
    hub = sys.modules.get("keras_hub")
    return hub is not None and isinstance(model, (hub.models.Task, hub.models.Backbone))


def is_pair(layer) -> bool:
    """Whether this is what `pair` makes: down and up as one layer."""
    return isinstance(layer, keras.Sequential) and [inner.name for inner in layer.layers] == [
        f"{layer.name}_down",
        layer.name,
    ]


def pair(layers: list, inputs=None) -> keras.layers.Layer:
    """The layers as one: itself if it is one, else a Sequential with the name of the last.

    Args:
        layers: not built.
        inputs: the tensor on which they are called, where it is known.
    """
    if len(layers) == 1:
        return layers[0]
    start = []
    if isinstance(layers[0], keras.layers.Embedding):
        # Left to itself a Sequential casts ids to its first layer's dtype, and bfloat16 ends at 256.
        start = [keras.Input(batch_shape=(None,) * len(inputs.shape), dtype="int32")]
    return keras.Sequential([*start, *layers], name=layers[-1].name)


def children(parent: keras.layers.Layer) -> Iterator[tuple[str, keras.layers.Layer]]:
    """(attribute, sub-layer) of a layer that can be entered, in the order in which it made them.

    Only those with weights: a softmax or a dropout has nothing to replace, and no name that lasts.
    """
    for attribute, value in vars(parent).items():
        if isinstance(value, keras.layers.Layer) and value.weights:
            yield attribute, value


def copy_block(old, replacement: Callable, stays: Callable, scopes: tuple[str, ...] = ()):
    """A new, built copy of an entered layer whose sub-layers are replaced.

    Args:
        old: a built layer for which `can_enter` holds; it is not changed.
        replacement: sub-layer -> the layer in its place, not built, or None to keep the fresh one.
        stays: called with (old sub-layer, the fresh one that stays).
        scopes: names of the layers around it.

    Returns:
        The copy. Weights are fresh: they are for the caller to set.
    """
    new = type(old).from_config(old.get_config())
    with contextlib.ExitStack() as stack:
        for name in scopes:
            stack.enter_context(keras.name_scope(name))
        new.build_from_config(old.get_build_config())
    fresh = dict(children(new))
    for attribute, layer in children(old):
        if can_enter(layer):
            other = copy_block(layer, replacement, stays, (*scopes, old.name))
        else:
            other = replacement(layer)
            if other is None:
                stays(layer, fresh[attribute])
                continue
            # Without the names of the layers around it the paths of its variables would be those of the
            # other blocks' too.
            with contextlib.ExitStack() as stack:
                for name in (*scopes, old.name):
                    stack.enter_context(keras.name_scope(name))
                other.build(layer.get_build_config()["input_shape"])
        swap(new, attribute, other)
    return new


def swap(parent: keras.layers.Layer, attribute: str, new: keras.layers.Layer) -> None:
    """Put `new` in the place of a sub-layer of a built layer; changes `parent`.

    A built layer refuses a new sub-layer, and with its tracker unlocked would keep counting the old one. So
    the tracked layer is replaced first, by a private method of Keras; tests/test_kerashub.py pins it.
    """
    parent._tracker.replace_tracked_value("layers", getattr(parent, attribute), new)
    setattr(parent, attribute, new)


def rebuild(old: keras.Model, graph: keras.Model, new_of: Callable) -> keras.Model:
    """A Task or Backbone of the same class as `old` on another graph.

    The class's own constructor would make its own layers, so it is passed by: the constructor of the base
    class takes the graph, and what the class has set beside it is carried over, layers as their copies.

    Args:
        old: the model that is copied; it is not changed. Its preprocessor, which has no weights, is shared.
        graph: a Functional model, the copy of old's graph.
        new_of: layer of `old` -> its copy, or None if it has none.
    """
    hub = sys.modules["keras_hub"]

    def carried(value):
        if isinstance(value, keras.layers.Layer):
            return new_of(value) or value
        if isinstance(value, dict):
            return {key: carried(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return tuple(map(carried, value)) if isinstance(value, tuple) else list(map(carried, value))
        return value

    def belongs(name, value):
        """Whether the class has set it: a layer, layers, or a setting; not what compile() has left."""
        if isinstance(value, keras.layers.Layer):
            return True
        if isinstance(value, (list, tuple, dict)):
            items = list(value.values()) if isinstance(value, dict) else list(value)
            return bool(items) and all(belongs(name, item) for item in items)
        return not name.startswith("_") and (
            value is None or isinstance(value, (str, bool, int, float)) or callable(value)
        )

    new = type(old).__new__(type(old))
    settings = {"inputs": graph.input, "outputs": graph.output, "name": old.name}
    if isinstance(old, hub.models.Task):
        new.backbone = new_of(old.backbone)  # the constructor of Task asks for it
        hub.models.Task.__init__(new, **settings, compile=False)
    else:
        hub.models.Backbone.__init__(new, **settings, dtype=old.dtype_policy)
    for name, value in vars(old).items():
        if name not in vars(new) and belongs(name, value):
            setattr(new, name, carried(value))
    return new
