"""Whole models in, whole models out: `compress` puts a method's layers in the place of others, `finalize`
ends it.

Both return a new model and leave the given one as it was, weights included. `clora_lab.graph` says which
models are rewritten, `clora_lab.targets` which layers are meant, `clora_lab.methods` what stands in their
place.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence

import keras
import numpy as np
from keras import ops

from clora_lab import _checks, graph, methods, noise, rules
from clora_lab.layers import clora_layers, wrapped_layers
from clora_lab.rules.loralib import KernelPair
from clora_lab.schedules import Schedule
from clora_lab.targets import choose, rank_of, warn_break_even

VIEWS = ("trained", "compressed", "original")
# Arguments of `compress` that are settings of a method.
SETTINGS = ("schedule", "init", "alpha", "noise_gate", "noise_draw", "noise_law")


def compress(
    model: keras.Model,
    rank: int | float | Mapping[str, int | float],
    method: str | methods.Method = "noise_bias",
    schedule: Schedule | None = None,
    targets: Sequence[str] | str | Callable[[keras.layers.Layer], bool] | None = None,
    init: str = "lora_inputs",
    alpha: float = 32.0,
    seed: int = 0,
    factorization: str | None = None,
    noise_gate="scheduled",
    noise_draw: str = "auto",
    noise_law: noise.NoiseLaw | None = None,
    calibration=None,
    freeze: bool = True,
    **settings,
) -> keras.Model:
    """Return a copy of `model` whose target layers are compressed by a method, ready to be compiled and
    trained.

    Args:
        model: a built Sequential or Functional model, or a Task or Backbone of KerasHub; it is not changed.
        rank: rank of every pair; or a share of energy in (0, 1) that every pair must be able to keep, by
            `clora_lab.rules.rank_for_energy`; or a mapping of name patterns to either (the first that
            matches counts). One rank for all can make a small layer larger than it was: that warns.
        method: a name of `clora_lab.methods.REGISTRY`, or a `clora_lab.methods.Method` with its settings, for
            instance "noise_bias" (one of the four forms of C-LoRA, see `CLoRA`), "svd", or
            `clora_lab.methods.SVD(init="activations")`.
        schedule: step -> decay, for instance `LinearDecay(total_steps)`; for C-LoRA, but for init="scratch".
        targets: names or glob patterns of layers, a predicate of a layer, or None for every supported
            layer but the output layer and embeddings. A layer in a nested model can be named by its path,
            "inner/dense", and so can one in a KerasHub block,
            "bert_backbone/transformer_layer_0/self_attention_layer/query". A pattern passes over what has no
            low-rank pair, such as norms, and over embeddings unless it matches nothing else that has one:
            "*" and "bert_backbone/*" leave them, "token_embedding" and "*embedding" mean them.
        init: "lora_inputs" (A random, B zero), "lora" (the same with the slides' wider A), "svd" (best pair
            of W, the residual decays), "svd_copy" (best pair, all of W decays), "activations" (best pair on
            the calibration batch, the residual decays), "orthogonal", or "scratch" (no W at all).
        alpha: the pair is scaled by s = alpha / rank.
        seed: of the pairs' start values and of the noise.
        factorization: for Conv2D one of `clora_lab.rules.FACTORIZATIONS`; None for the first of them.
        noise_gate: "scheduled" (none once d < 0.3), "until_end", "never", or a threshold.
        noise_draw: "auto", "kernel" or "output"; see `clora_lab.noise`.
        noise_law: a `clora_lab.NoiseLaw` for noise of another level, kind or grouping; None for the slides'.
        calibration: for init="activations": some hundred inputs without labels, in the form with which the
            model itself is called (for a Task of KerasHub: what its preprocessor gives).
        freeze: freeze everything but the pairs and the new biases, as the slides do; a method that does not
            start from the trained weights freezes nothing.
        **settings: of another method. `schedule`, `init`, `alpha` and `noise_*` are C-LoRA's; one that
            another method has too is handed on, and one that it has not is refused.

    Returns:
        A new, uncompiled model with the same inputs, outputs and layer names. A Task of KerasHub stays one,
        with the preprocessor of the given one, so that fit() and predict() take raw text.

    Raises:
        ValueError: if the model is unbuilt, subclassed or already compressed; if a target matches nothing
            or can't be factored, such as an embedding that the model also calls in reverse; if a rank, or a
            setting of the method, is impossible. The message says what to do.

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
    graph.check_model(model)
    if factorization is not None:
        _checks.one_of("factorization", factorization, rules.FACTORIZATIONS)
    if wrapped := wrapped_layers(model):
        raise ValueError(
            f"Model {model.name!r} is compressed already: it holds {type(wrapped[0]).__name__} layers. "
            "Train and finalize() it, or compress the original model again."
        )
    given = dict(zip(SETTINGS, (schedule, init, alpha, noise_gate, noise_draw, noise_law), strict=True))
    method = _method(method, given, settings)
    if method.needs_calibration != (calibration is not None):
        raise ValueError(
            f"`calibration` and init='activations' belong together. Received: {method!r} and "
            f"{'no' if calibration is None else 'a'} calibration batch. Give inputs of the model, for "
            "instance calibration=x_train[:500], or use another init without them."
        )
    paths = dict(graph.walk(model))
    chosen = choose(model, paths, targets, factorization)
    asked = {path: rules.rule(paths[path], factorization) for path in chosen}
    ranks = {path: rank_of(path, paths[path], rank, factorization) for path in chosen}
    state = np.random.SeedSequence(seed).generate_state(len(chosen))
    seeds = {path: int(value % 2**31) for path, value in zip(chosen, state, strict=True)}
    for path in chosen:
        method.check(asked[path], ranks[path])
        warn_break_even(asked[path], ranks[path])
    moments = (
        {} if calibration is None else _moments(model, {p: paths[p] for p in chosen}, asked, calibration)
    )

    def replace(layer, path):
        return method.wrap(layer, asked[path], ranks[path], seeds[path]) if path in asked else None

    result, new_layers = graph.rewrite(model, replace)
    for path, old in paths.items():
        new = new_layers[id(old)]
        if path in asked:
            weights = _weights(old, asked[path])
            method.start(new, asked[path], *weights, ranks[path], seeds[path], moments.get(path))
            # Not part of its config: `finalize` reads it to tell a net in compression from a finished one.
            new[-1].clora_method = method.name
        else:
            graph.copy_weights(old, new[0])
            if freeze and method.starts_from_original:
                new[0].trainable = False
    return result


def _method(method, given: dict, settings: dict) -> methods.Method:
    """The method, with those of compress()'s own arguments that are its settings and not as by default."""
    parameters = inspect.signature(compress).parameters
    moved = {name: value for name, value in given.items() if value != parameters[name].default}
    return methods.get(method, **moved, **settings)


def _weights(layer, rule) -> tuple[np.ndarray, np.ndarray | None]:
    """W and b, or None, of a layer of the rule's type."""
    kernel, bias = rule.kernel_of(layer), rule.bias_of(layer)
    return ops.convert_to_numpy(kernel), None if bias is None else ops.convert_to_numpy(bias)


def _moments(model, layers: dict, asked: dict, inputs, batch: int = 32) -> dict[str, np.ndarray]:
    """Path -> the mean of x^T x over the inputs x of a layer's matrix, or its diagonal."""
    sums: dict[str, np.ndarray] = {}
    counts: dict[str, int] = {}

    def observe(path, x):
        moment, rows = asked[path].second_moment(x)
        sums[path] = sums.get(path, 0.0) + moment
        counts[path] = counts.get(path, 0) + rows

    with graph.watching(layers, observe):
        for part in graph.batches(inputs, batch):
            model(part)
    return {path: value / counts[path] for path, value in sums.items()}


def finalize(model: keras.Model, force: bool = False, keep_factors: bool = False) -> keras.Model:
    """Return the compressed model: stock Keras layers only, W gone.

    A wrapped layer becomes the chain of its rule, as a rule two layers, ``<name>_down`` without bias and
    activation and ``<name>`` with them, s = alpha / rank multiplied into the last kernel; of an embedding an
    Embedding and a Dense. What its method trained is all there, but for a method that truncates. Every layer
    of the result is trainable.

    No stock layer holds loralib's factors apart. By default their convolution becomes one Conv2D whose
    kernel is the product: it runs anywhere, but its file is as large as the original's; `report` counts the
    factors as stored as long as the model is in memory, and the whole kernel once it was saved and loaded,
    since that is what the file holds. With `keep_factors` it becomes a `clora_lab.rules.loralib.KernelPair`:
    the file holds the factors only, can be trained further as factors, and needs this package to load. Either
    way it runs as many parameters as W had; the other factorisations also run fewer.

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
    wrapped = wrapped_layers(model)
    done_at_once = any(hasattr(layer, "clora_method") for _, layer in graph.walk(model))
    if not wrapped and not done_at_once:
        raise ValueError(
            f"Model {model.name!r} has no CLoRA layers, so there is nothing to finalize. Make it with "
            "clora_lab.compress()."
        )
    made_by = {id(layer): methods.of(layer) for layer in wrapped}
    left = {layer.name: made_by[id(layer)].unfinished(layer) for layer in wrapped}
    left = {name: share for name, share in left.items() if share > 0.0}
    if left and not force:
        raise ValueError(
            f"The decay is not over, so finalizing would drop a part of W that still counts: {left}. "
            "Train to the end of the schedule with DecayCallback (floor 0), or pass force=True."
        )
    ranks = {}
    for method in dict.fromkeys(made_by.values()):
        own = [layer for layer in wrapped if made_by[id(layer)] == method]
        ranks |= {id(layer): rank for layer, rank in zip(own, method.ranks(own), strict=True)}
    ends = {}

    def replace(layer, path):
        if id(layer) in made_by:
            ends[id(layer)] = made_by[id(layer)].finish(layer, layer.rule, ranks[id(layer)], keep_factors)
        elif isinstance(layer, KernelPair) and not keep_factors:
            ends[id(layer)] = [layer.stock()]
        else:
            return None
        return [new for new, _ in ends[id(layer)]]

    result, new_layers = graph.rewrite(model, replace)
    for _, old in graph.walk(model):
        new = new_layers[id(old)]
        if id(old) not in ends:
            graph.copy_weights(old, new[0])
            new[0].trainable = True
            continue
        for layer, values in ends[id(old)]:
            layer.set_weights(values)
        keeps = id(old) in made_by and made_by[id(old)].keeps_original
        if len(new) == 1 and isinstance(new[0], keras.layers.Conv2D) and not keeps:
            # Not part of the layer's config: `report` reads it to tell what is stored from what is run.
            new[0].clora_stored = old.remaining_parameters
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
