"""Whole models in, whole models out: `compress` puts pairs beside layers, `finalize` leaves only the pairs.

Both return a new model and leave the given one as it was, weights included. Sequential and Functional
models, nested in each other and with shared layers, are rewritten, and so are the Tasks and Backbones of
KerasHub with the blocks inside (`clora_lab.kerashub`). What another subclassed model or layer does is
Python code, so the layers inside it can't be.
"""

from __future__ import annotations

import contextlib
import fnmatch
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence

import keras
import numpy as np
from keras import ops
from keras.src.models.functional import Functional

from clora_lab import _checks, factors, kerashub, noise
from clora_lab.layers import CLoRA
from clora_lab.schedules import Schedule

VIEWS = ("trained", "compressed", "original")
NORMALIZATIONS = (
    keras.layers.BatchNormalization,
    keras.layers.GroupNormalization,
    keras.layers.LayerNormalization,
    keras.layers.Normalization,
)


def compress(
    model: keras.Model,
    rank: int | float | Mapping[str, int | float],
    method: str = "noise_bias",
    schedule: Schedule | None = None,
    targets: Sequence[str] | str | Callable[[keras.layers.Layer], bool] | None = None,
    init: str = "lora",
    alpha: float = 32.0,
    seed: int = 0,
    factorization: str = "pair",
    noise_gate="scheduled",
    noise_draw: str = "auto",
    noise_law: noise.NoiseLaw | None = None,
    calibration=None,
    freeze: bool = True,
) -> keras.Model:
    """Return a copy of `model` whose target layers are `CLoRA` layers, ready to be compiled and trained.

    Args:
        model: a built Sequential or Functional model, or a Task or Backbone of KerasHub; it is not changed.
        rank: rank of every pair; or a share of energy in (0, 1) that every pair must be able to keep, by
            `clora_lab.factors.rank_for_energy`; or a mapping of name patterns to either (the first that
            matches counts). One rank for all can make a small layer larger than it was: that warns.
        method: "wds", "bias", "noise" or "noise_bias"; see `CLoRA` for the four forward passes.
        schedule: step -> decay, for instance `LinearDecay(total_steps)`; not needed for init="scratch".
        targets: names or glob patterns of layers, a predicate of a layer, or None for every supported
            layer but the output layer and embeddings. A layer in a nested model can be named by its path,
            "inner/dense", and so can one in a KerasHub block,
            "bert_backbone/transformer_layer_0/self_attention_layer/query". A pattern passes over what has no
            low-rank pair, such as norms, and over embeddings unless it matches nothing else that has one:
            "*" and "bert_backbone/*" leave them, "token_embedding" and "*embedding" mean them.
        init: "lora" (the slides'), "svd" (best pair of W, the residual decays), "svd_copy" (best pair, all
            of W decays), "activations" (best pair on the calibration batch, the residual decays),
            "orthogonal", or "scratch" (no W at all).
        alpha: the pair is scaled by s = alpha / rank.
        seed: of the pairs' start values and of the noise.
        factorization: for Conv2D, "pair" (k x k to rank, then 1 x 1) or "loralib".
        noise_gate: "scheduled" (none once d < 0.3), "until_end", "never", or a threshold.
        noise_draw: "auto", "kernel" or "output"; see `clora_lab.noise`.
        noise_law: a `clora_lab.NoiseLaw` for noise of another level, kind or grouping; None for the slides'.
        calibration: for init="activations": some hundred inputs without labels, in the form with which the
            model itself is called (for a Task of KerasHub: what its preprocessor gives).
        freeze: freeze everything but the pairs and the new biases, as the slides do.

    Returns:
        A new, uncompiled model with the same inputs, outputs and layer names. A Task of KerasHub stays one,
        with the preprocessor of the given one, so that fit() and predict() take raw text.

    Raises:
        ValueError: if the model is unbuilt, subclassed or already compressed; if a target matches nothing
            or can't be factored, such as an embedding that the model also calls in reverse; if a rank is
            impossible. The message says what to do.

    Warns:
        BreakEvenWarning: if a pair is no smaller than the layer that it replaces.

    Example:
        >>> import keras
        >>> import clora_lab as cl
        >>> model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(16), keras.layers.Dense(3)])
        >>> schedule = cl.LinearDecay(total_steps=100)
        >>> model_c = cl.compress(model, rank=2, schedule=schedule)
        >>> [type(layer).__name__ for layer in model_c.layers]
        ['CLoRA', 'Dense']
    """
    check_model(model)
    _checks.one_of("factorization", factorization, factors.FACTORIZATIONS)
    if any(isinstance(layer, CLoRA) for layer in model._flatten_layers()):
        raise ValueError(
            f"Model {model.name!r} is compressed already: it holds CLoRA layers. Train and finalize() it, "
            "or compress the original model again."
        )
    if init != "scratch" and not isinstance(schedule, Schedule):
        raise ValueError(
            "`schedule` must be a clora_lab schedule, for instance LinearDecay(total_steps=epochs * "
            f"steps_per_epoch). Received: {schedule!r}."
        )
    if (init == "activations") != (calibration is not None):
        raise ValueError(
            f"`calibration` and init='activations' belong together. Received: init={init!r} and "
            f"{'no' if calibration is None else 'a'} calibration batch. Give inputs of the model, for "
            "instance calibration=x_train[:500], or use another init without them."
        )
    paths = dict(walk(model))
    chosen = choose(model, paths, targets, factorization)
    ranks = {path: _rank_of(path, paths[path], rank, factorization) for path in chosen}
    state = np.random.SeedSequence(seed).generate_state(len(chosen))
    seeds = {path: int(value % 2**31) for path, value in zip(chosen, state, strict=True)}

    def replace(layer, path):
        if path not in ranks:
            return None
        return [
            CLoRA(
                type(layer).from_config(layer.get_config()),
                rank=ranks[path],
                method=method,
                schedule=schedule,
                alpha=alpha,
                init=init,
                factorization=factorization,
                noise_gate=noise_gate,
                noise_draw=noise_draw,
                noise_law=noise_law,
                seed=seeds[path],
            )
        ]

    for path in chosen:
        _warn_break_even(factors.rule(paths[path], factorization), ranks[path])
    result, new_layers = rewrite(model, replace)
    for old in paths.values():
        (new,) = new_layers[id(old)]
        if isinstance(new, CLoRA):
            new.start_from(*_weights(old, new.rule))
        else:
            _copy_weights(old, new)
            if freeze:
                new.trainable = False
    if calibration is not None:
        grams = _second_moments(result, calibration)
        for path in chosen:
            old, (new,) = paths[path], new_layers[id(paths[path])]
            new.start_from(*_weights(old, new.rule), grams[id(new)])
    return result


def _weights(layer, rule) -> tuple[np.ndarray, np.ndarray | None]:
    """W and b, or None, of a layer of the rule's type."""
    kernel, bias = rule.kernel_of(layer), rule.bias_of(layer)
    return ops.convert_to_numpy(kernel), None if bias is None else ops.convert_to_numpy(bias)


def _second_moments(model, inputs, batch: int = 32) -> dict[int, np.ndarray]:
    """The mean of x^T x over the inputs x of each `CLoRA` layer, in a model that still acts as the original.

    Returns:
        id(layer) -> an array of shape (inputs, inputs) of the layer's matrix; of an embedding its diagonal.
    """
    sums: dict[int, np.ndarray] = {}
    counts: dict[int, int] = {}

    def watch(layer):
        def observe(x):
            moment, rows = layer.rule.second_moment(x)
            sums[id(layer)] = sums.get(id(layer), 0.0) + moment
            counts[id(layer)] = counts.get(id(layer), 0) + rows

        return observe

    size = len(next(iter(inputs.values()))) if isinstance(inputs, Mapping) else len(inputs)
    if not size:
        raise ValueError("`calibration` is empty. Give some hundred inputs, for instance x_train[:500].")
    layers = clora_layers(model)
    try:
        for layer in layers:
            layer.observer = watch(layer)
        for first in range(0, size, batch):
            part = slice(first, first + batch)
            model(
                {name: x[part] for name, x in inputs.items()} if isinstance(inputs, Mapping) else inputs[part]
            )
    finally:
        for layer in layers:
            layer.observer = None
    return {key: value / counts[key] for key, value in sums.items()}


def finalize(model: keras.Model, force: bool = False, keep_factors: bool = False) -> keras.Model:
    """Return the compressed model: stock Keras layers only, W gone.

    A wrapped layer becomes two layers, ``<name>_down`` without bias and activation and ``<name>`` with
    them, s = alpha / rank multiplied into the second kernel; of an embedding an Embedding and a Dense. Every
    layer of the result is trainable.

    No stock layer holds loralib's factors apart. By default their convolution becomes one Conv2D whose
    kernel is the product: it runs anywhere, but its file is as large as the original's; `report` counts the
    factors as stored as long as the model is in memory, and the whole kernel once it was saved and loaded,
    since that is what the file holds. With `keep_factors` it becomes a `clora_lab.factors.KernelPair`: the
    file holds the factors only, can be trained further as factors, and needs this package to load. Either
    way it runs as many parameters as W had; `factorization="pair"` is the one that also runs fewer.

    Args:
        model: a model made by `compress`, at the end of its decay; it is not changed.
        force: drop what is left of W even though d > 0.
        keep_factors: leave loralib convolutions as two factors in a layer of this package.

    Returns:
        A new, uncompiled model. Saved as `.keras` it loads without this package; one with replaced layers
        inside of KerasHub blocks or MultiHeadAttention does not, so keep it with `clora_lab.save_recipe`.

    Raises:
        ValueError: if a decay is above 0 and not `force`, or if there is nothing to finalize.

    Example:
        >>> import keras
        >>> import clora_lab as cl
        >>> model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(16), keras.layers.Dense(3)])
        >>> model_c = cl.compress(model, rank=2, schedule=cl.LinearDecay(total_steps=100))
        >>> [layer.name for layer in cl.finalize(model_c, force=True).layers][0].endswith("_down")
        True
    """
    wrapped = clora_layers(model)
    if not wrapped:
        raise ValueError(
            f"Model {model.name!r} has no CLoRA layers, so there is nothing to finalize. Make it with "
            "clora_lab.compress()."
        )
    left = {layer.name: float(ops.convert_to_numpy(layer.decay)) for layer in wrapped}
    left = {name: decay for name, decay in left.items() if decay > 0.0}
    if left and not force:
        raise ValueError(
            f"The decay is not over, so finalizing would drop a part of W that still counts: {left}. "
            "Train to the end of the schedule with DecayCallback (floor 0), or pass force=True."
        )

    def replace(layer, path):
        if not isinstance(layer, CLoRA):
            return None
        config = dict(layer.original_config())
        config["use_bias"] = layer.has_bias
        if keep_factors and layer.rule.merges:
            return layer.rule.final_factored(layer.rank, config)
        return layer.rule.final(layer.rank, config)

    result, new_layers = rewrite(model, replace)
    for _, old in walk(model):
        new = new_layers[id(old)]
        if not isinstance(old, CLoRA):
            _copy_weights(old, new[0])
            new[0].trainable = True
            continue
        if isinstance(new[0], factors.KernelPair):
            for weight, value in zip((new[0].down, new[0].up), old.pair_matrices(), strict=True):
                weight.assign(value)
        else:
            variables = old.rule.final_variables(new)
            for weight, value in zip(variables, old.rule.final_kernels(*old.pair_matrices()), strict=True):
                weight.assign(value)
        if old.has_bias:
            new[-1].bias.assign(ops.copy(old.bias))
        # Not part of the layer's config: `report` reads it to tell what is stored from what is run.
        new[-1].clora_stored = old.remaining_parameters
    return result


@contextlib.contextmanager
def view(model: keras.Model, path: str) -> Iterator[keras.Model]:
    """Show one of the ways to evaluate a model in training; everything is put back on leaving.

    - "trained": what trains, d (W x + b) + s B A x (+ c); nothing is changed.
    - "compressed": the compressed path alone, s B A x (+ c), as if d were 0.
    - "original": the decaying path alone, d (W x + b), as in slide 12.

    Changes the model's weights in place for as long as the context lasts.

    Args:
        model: a model made by `compress`.
        path: one of the above.

    Raises:
        ValueError: for another `path`.

    Example:
        >>> import keras
        >>> import clora_lab as cl
        >>> model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(16), keras.layers.Dense(3)])
        >>> model_c = cl.compress(model, rank=2, schedule=cl.LinearDecay(total_steps=100))
        >>> with cl.view(model_c, "compressed"):
        ...     float(model_c.layers[0].decay)
        0.0
    """
    _checks.one_of("path", path, VIEWS)
    hidden = []
    for layer in clora_layers(model):
        if path == "compressed":
            hidden.append(layer.decay)
        elif path == "original":
            hidden.append(layer.pair_weights[-1])
            if layer.has_bias:
                hidden.append(layer.bias)
    kept = [ops.convert_to_numpy(weight).copy() for weight in hidden]
    try:
        for weight in hidden:
            weight.assign(ops.zeros(weight.shape, weight.dtype))
        yield model
    finally:
        for weight, value in zip(hidden, kept, strict=True):
            weight.assign(value)


def clora_layers(model: keras.Model) -> list[CLoRA]:
    """The `CLoRA` layers of a model, in the order of the model, each once.

    Example:
        >>> import keras
        >>> import clora_lab as cl
        >>> cl.clora_layers(keras.Sequential())
        []
    """
    found = {id(layer): layer for layer in model._flatten_layers() if isinstance(layer, CLoRA)}
    return list(found.values())


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
            if kerashub.is_pair(layer):  # beside each other, as in a model without blocks
                yield from visit(layer.layers, prefix)
            elif isinstance(layer, (keras.Sequential, Functional)):
                yield from visit(layer.layers, f"{prefix}{layer.name}/")
            elif kerashub.can_enter(layer):
                inner = [sub for _, sub in kerashub.children(layer)]
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
        elif kerashub.is_block(layer):
            found.append(f"{prefix}{layer.name}/")
    return found


def choose(model, paths, targets, factorization) -> list[str]:
    """The paths that `targets` means; raises where one of them can't be had."""
    if targets is None:
        outputs = output_layers(model)
        chosen = [
            path
            for path, layer in paths.items()
            if id(layer) not in outputs and factors.supported(layer, factorization)
        ]
        if not chosen:
            raise ValueError(
                f"Model {model.name!r} has no layer to compress beside its output layer. Supported are "
                "Dense, EinsumDense and Conv2D, and Embedding where `targets` names it; the model's layers "
                f"are {list(paths)}."
            )
        return chosen
    if callable(targets):
        chosen = [path for path, layer in paths.items() if targets(layer)]
        if not chosen:
            raise ValueError(f"The predicate `targets` holds for none of the layers {list(paths)}.")
    else:
        patterns = [targets] if isinstance(targets, str) else list(targets)
        chosen = []
        for pattern in patterns:
            found = [path for path, layer in paths.items() if _matches(pattern, path, layer)]
            if not found:
                _raise_unmatched(pattern, paths)
            if re.search(r"[*?\[]", pattern):
                # "*/self_attention*" is not meant to fail on a layer norm, nor "*" to take an embedding; a
                # plain name is meant as it stands.
                chosen += _fitting(found, paths, factorization) or found
            else:
                chosen += found
        if not chosen:
            raise ValueError("`targets` is empty. Give names or patterns, or None for all layers.")
        wanted = set(chosen)
        chosen = [path for path in paths if path in wanted]  # in the order of the model, each once
    for path in chosen:
        if factors.rule(paths[path], factorization).looks_up:  # raises with the reason
            _check_one_way(model, path, paths)
    return chosen


def _fitting(found, paths, factorization) -> list[str]:
    """The paths of layers that have a pair; of embeddings only if there are no others."""
    fit = [path for path in found if factors.supported(paths[path], factorization)]
    return fit or [path for path in found if factors.supported(paths[path], factorization, look_ups=True)]


def _check_one_way(model, path, paths):
    """Raise if an embedding also serves as an output matrix, from vectors back to ids: a pair has none."""
    layer = paths[path]
    remedy = (
        "Leave the layer out of `targets`, or compress a model that only looks ids up in it, such as a "
        "classifier on the same backbone."
    )
    for graph in [model, *model._flatten_layers(include_self=False)]:
        if not isinstance(graph, Functional):
            continue
        for node in (node for nodes in graph._nodes_by_depth.values() for node in nodes):
            arguments = node.arguments
            if node.operation is layer and (arguments.kwargs.get("reverse") or True in arguments.args[1:]):
                raise ValueError(
                    f"Embedding {path!r} is called with reverse=True in model {graph.name!r}, as an output "
                    f"matrix tied to it, and a low-rank pair has no way back. {remedy}"
                )
    for other, holder in paths.items():
        if any(inner is layer for inner in holder._flatten_layers(include_self=False)):
            raise ValueError(
                f"Embedding {path!r} is also used inside of layer {other!r} ({type(holder).__name__}), whose "
                "call() is Python code that can't be rewritten: the head of a masked language model calls it "
                f"with reverse=True. {remedy}"
            )


def _matches(pattern, path, layer) -> bool:
    return fnmatch.fnmatchcase(layer.name, pattern) or fnmatch.fnmatchcase(path, pattern)


def _raise_unmatched(pattern, paths):
    for path, layer in paths.items():
        inner = [sub.name for sub in layer._flatten_layers(include_self=False)]
        if any(fnmatch.fnmatchcase(name, pattern) for name in inner):
            raise ValueError(
                f"Target {pattern!r} lies inside of layer {path!r} ({type(layer).__name__}), whose call() is "
                "Python code that can't be rewritten. Only layers of Sequential and Functional models "
                "can be replaced."
            )
    names = list(paths)
    try:
        _checks.one_of("targets", pattern, names)
    except ValueError as error:
        raise ValueError(f"Target {pattern!r} matches no layer. {error}") from None


def _rank_of(path, layer, rank, factorization) -> int:
    if not isinstance(rank, Mapping):
        if isinstance(rank, float) and 0.0 < rank < 1.0:
            rule = factors.rule(layer, factorization)
            return factors.rank_for_energy(rule, _weights(layer, rule)[0], rank)
        return rank
    for pattern, value in rank.items():
        if _matches(pattern, path, layer):
            return _rank_of(path, layer, value, factorization)
    raise ValueError(
        f"`rank` has no pattern for target {path!r}. Received: {dict(rank)}. Add a pattern such as '*'."
    )


def _warn_break_even(rule, rank):
    rank = factors.check_rank(rule, rank)
    if rule.parameters(rank) >= rule.kernel_size:
        warnings.warn(
            f"At rank {rank} the pair of layer {rule.name!r} has {rule.parameters(rank):,} parameters, its "
            f"kernel {rule.kernel_size:,}: nothing is saved from rank {rule.break_even_rank} on.",
            factors.BreakEvenWarning,
            stacklevel=3,
        )


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


def rewrite(model, replace):
    """Copy a model, layer by layer: `replace(layer, path)` gives the layers in its place, or None for a copy.

    Returns:
        The new model and a dict id(old layer) -> list of new layers.
    """
    names = {id(layer): path for path, layer in walk(model)}
    done: dict[int, list] = {}

    def chain(layer):
        if id(layer) not in done:
            if isinstance(layer, (keras.Sequential, Functional)):
                done[id(layer)] = [copy(layer)]
            elif kerashub.can_enter(layer):
                done[id(layer)] = [kerashub.copy_block(layer, inside, stays)]
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
        return kerashub.pair(done[id(layer)])

    def stays(old, fresh):
        done[id(old)] = [fresh]

    def copy(inner):
        if not kerashub.is_hub_model(inner):
            return copy_graph(inner)
        pairs = {}  # A Task or Backbone knows its layers by attributes too, so a pair must be one layer.
        graph = copy_graph(inner, pairs)

        def new_of(layer):
            return pairs.get(id(layer)) or next(iter(done.get(id(layer), [])), None)

        return kerashub.rebuild(inner, graph, new_of)

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
                together = kerashub.pair([*first, last], layer.input)
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


def _copy_weights(old, new):
    for source, target in zip(old.weights, new.weights, strict=True):
        # A copy: JAX hands the buffers of a trained model back, and a shared one would take the original's.
        target.assign(ops.copy(source))
    if isinstance(new, keras.layers.Normalization):
        new.finalize_state()  # what it computes with is derived from its weights
