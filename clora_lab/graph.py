"""Keras graphs: the only place that knows how layers stand in models, and how parts of one are named.

Sequential and Functional models, nested in each other and with shared layers, are walked and rewritten, and
so are the Tasks and Backbones of KerasHub with the blocks inside: a `keras_hub.layers.TransformerEncoder` is
one layer of its model's graph; query, key, value, output and the feed-forward halves are attributes of it,
called in its Python code. They can be swapped because that code only calls them: ``x =
self._query_dense(x)`` does not ask what the attribute is. That has been read for the types that `can_enter`
names, and for no others, so their subclasses are left alone too.

KerasHub is not imported here: a model of KerasHub can only exist where it has been imported already.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping

import keras
from keras import ops
from keras.src.models.functional import Functional

from clora_lab import rules

# What normalises, and so is no layer that makes the output.
NORMALIZATIONS = (
    keras.layers.BatchNormalization,
    keras.layers.GroupNormalization,
    keras.layers.LayerNormalization,
    keras.layers.Normalization,
)


def check_model(model):
    if not isinstance(model, keras.Model):
        raise ValueError(f"`model` must be a keras.Model. Received: {type(model).__name__}.")
    own_call = type(model).call not in (keras.Sequential.call, Functional.call)
    if not isinstance(model, (keras.Sequential, Functional)) or own_call:
        raise ValueError(
            f"Model {model.name!r} is a subclassed model ({type(model).__name__}): which layers it calls is "
            "written in its call(), which can't be rewritten. Build it from layers with the Functional "
            "API or keras.Sequential, or compress a Functional part of it."
        )
    if not model.built or not model.inputs:
        raise ValueError(
            f"Model {model.name!r} is not built, so its kernels have no shape yet. Give it a keras.Input, "
            "call model.build(input_shape), or call it on a batch first."
        )


def walk(model, prefix: str = "") -> Iterator[tuple[str, keras.layers.Layer]]:
    """(path, layer) of every layer that can be replaced, each layer once."""
    seen = set()

    def visit(layers, prefix):
        for layer in layers:
            if id(layer) in seen or isinstance(layer, keras.layers.InputLayer):
                continue
            seen.add(id(layer))
            if is_joined(layer):  # beside each other, as in a model without blocks
                yield from visit(layer.layers, prefix)
            elif isinstance(layer, (keras.Sequential, Functional)):
                yield from visit(layer.layers, f"{prefix}{layer.name}/")
            elif can_enter(layer):
                inner = [sub for _, sub in children(layer)]
                yield from visit(inner, f"{prefix}{layer.name}/")
            else:
                yield f"{prefix}{layer.name}", layer

    yield from visit(model.layers, prefix)


def blocks(model, prefix: str = "") -> list[str]:
    """The paths of the KerasHub encoder blocks."""
    found = []
    for layer in model.layers:
        if isinstance(layer, (keras.Sequential, Functional)):
            found += blocks(layer, f"{prefix}{layer.name}/")
        elif is_block(layer):
            found.append(f"{prefix}{layer.name}/")
    return found


def parts(model) -> dict[str, list[keras.layers.Layer]]:
    """Path -> the layers that stand there, in their order: one, or those of a replacement.

    The layers of a replacement are called <name>_<part>, with the parts of `rules.PARTS`, and the last
    <name>; they stand under the path of the last.
    """
    found = dict(walk(model))
    behind = {f"{path}_{part}" for path in found for part in rules.PARTS} & set(found)
    return {
        path: [found[f"{path}_{part}"] for part in rules.PARTS if f"{path}_{part}" in found] + [layer]
        for path, layer in found.items()
        if path not in behind
    }


@contextlib.contextmanager
def watching(layers: Mapping[str, keras.layers.Layer], observe: Callable) -> Iterator[None]:
    """Have ``observe(key, inputs)`` called with the inputs of each call of some layers, for as long as it
    lasts.

    Args:
        layers: key -> layer of any type; nothing of it is changed in the end.
        observe: called before the layer itself.
    """

    def observed(key, call):
        def wrapped(inputs, *args, **kwargs):
            observe(key, inputs)
            return call(inputs, *args, **kwargs)

        return wrapped

    for key, layer in layers.items():
        # In the instance's own dictionary, past Keras' tracker: the class's `call` is found again behind it.
        vars(layer)["call"] = observed(key, layer.call)
    try:
        yield
    finally:
        for layer in layers.values():
            vars(layer).pop("call", None)


def batches(inputs, size: int) -> Iterator:
    """Calibration inputs, an array or a dict of such, in batches.

    Raises:
        ValueError: if there are none.
    """
    count = len(next(iter(inputs.values()))) if isinstance(inputs, Mapping) else len(inputs)
    if not count:
        raise ValueError("`calibration` is empty. Give some hundred inputs, for instance x_train[:500].")
    for first in range(0, count, size):
        part = slice(first, first + size)
        yield {name: x[part] for name, x in inputs.items()} if isinstance(inputs, Mapping) else inputs[part]


def output_layers(model) -> set[int]:
    """ids of the layers with weights nearest to the outputs."""
    found = set()

    def visit(operation):
        if isinstance(operation, (keras.Sequential, Functional)):
            for tensor in operation.outputs:
                visit(tensor._keras_history.operation)
        elif (
            isinstance(operation, keras.layers.Layer)
            and operation.weights
            and not isinstance(operation, NORMALIZATIONS)
        ):
            found.add(id(operation))
        else:  # an activation, a normalisation, an operation: what feeds it makes the output
            for node in operation._inbound_nodes[:1]:
                for tensor in node.input_tensors:
                    visit(tensor._keras_history.operation)

    for tensor in model.outputs:
        visit(tensor._keras_history.operation)
    return found


def can_enter(layer) -> bool:
    """Whether the sub-layers of this layer may be replaced: its code does nothing but call them.

    Example:
        >>> import keras
        >>> from clora_lab import graph
        >>> graph.can_enter(keras.layers.MultiHeadAttention(num_heads=2, key_dim=4))
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


def is_joined(layer) -> bool:
    """Whether this is what `joined` makes: the layers of a replacement as one."""
    if not isinstance(layer, keras.Sequential):
        return False
    *first, last = [inner.name for inner in layer.layers] or [""]
    named = {f"{layer.name}_{part}" for part in rules.PARTS}
    return last == layer.name and bool(first) and set(first) <= named


def joined(layers: list, inputs=None) -> keras.layers.Layer:
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
    # PyTorch keeps sub-layers, which are modules of its own, beside the other attributes.
    attributes = {**vars(parent), **vars(parent).get("_modules", {})}
    for attribute, value in attributes.items():
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
    the tracked layer is replaced first, by a private method of Keras; tests/test_py pins it.
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


def rewrite(model, replace):
    """Copy a model, layer by layer: ``replace(layer, path)`` gives the layers in its place, or None for a
    copy.

    Returns:
        The new model and a dict id(old layer) -> list of new layers.
    """
    names = {id(layer): path for path, layer in walk(model)}
    done: dict[int, list] = {}

    def chain(layer):
        if id(layer) not in done:
            if isinstance(layer, (keras.Sequential, Functional)):
                done[id(layer)] = [copy(layer)]
            elif can_enter(layer):
                done[id(layer)] = [copy_block(layer, inside, stays)]
            else:
                new = replace(layer, names[id(layer)]) if id(layer) in names else None
                done[id(layer)] = new or [layer.__class__.from_config(layer.get_config())]
        return done[id(layer)]

    def inside(layer):
        """In the place of a sub-layer of a block: one layer, or None to keep the fresh one."""
        if isinstance(layer, (keras.Sequential, Functional)):
            done[id(layer)] = [copy(layer)]
        else:
            new = replace(layer, names[id(layer)])
            if new is None:
                return None
            done[id(layer)] = new
        return joined(done[id(layer)])

    def stays(old, fresh):
        done[id(old)] = [fresh]

    def copy(inner):
        if not is_hub_model(inner):
            return copy_graph(inner)
        pairs = {}  # A Task or Backbone knows its layers by attributes too, so a pair must be one layer.
        graph = copy_graph(inner, pairs)

        def new_of(layer):
            return pairs.get(id(layer)) or next(iter(done.get(id(layer), [])), None)

        return rebuild(inner, graph, new_of)

    def copy_graph(inner, pairs=None):
        if isinstance(inner, keras.Sequential):
            source = inner.inputs[0]
            start = keras.Input(batch_shape=source.shape, dtype=source.dtype, name=source.name)
            layers = [new for layer in inner.layers for new in chain(layer)]
            return keras.Sequential([start, *layers], name=inner.name)
        before = {}  # id(last layer of a chain) -> the layers before it

        def clone(layer):
            *first, last = chain(layer)
            if first and pairs is not None:
                together = joined([*first, last], layer.input)
                first, last = [], pairs.setdefault(id(layer), together)
            before[id(last)] = first
            return last

        def call(layer, x, *args, **kwargs):
            first = before.get(id(layer), [])
            for step in first:
                x = step(x)
            return layer(x) if first else layer(x, *args, **kwargs)

        # A compiled model would be cloned with an optimiser and its slots for every weight.
        compiled, inner.compiled = inner.compiled, False
        try:
            return keras.models.clone_model(inner, clone_function=clone, call_function=call)
        finally:
            inner.compiled = compiled

    return copy(model), done


def copy_weights(old, new):
    for source, target in zip(old.weights, new.weights, strict=True):
        # A copy: JAX hands the buffers of a trained model back, and a shared one would take the original's.
        target.assign(ops.copy(source))
    if isinstance(new, keras.layers.Normalization):
        new.finalize_state()  # what it computes with is derived from its weights
