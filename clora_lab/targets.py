"""Which layers are meant, and which rank each gets: names, patterns, predicates."""

from __future__ import annotations

import fnmatch
import re
import warnings
from collections.abc import Mapping

from keras import ops
from keras.src.models.functional import Functional

from clora_lab import _checks, graph, rules


def choose(model, paths, targets, factorization) -> list[str]:
    """The paths that `targets` means; raises where one of them can't be had."""
    if targets is None:
        outputs = graph.output_layers(model)
        chosen = [
            path
            for path, layer in paths.items()
            if id(layer) not in outputs and rules.supported(layer, factorization)
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
        if rules.rule(paths[path], factorization).looks_up:  # raises with the reason
            _check_one_way(model, path, paths)
    return chosen


def _fitting(found, paths, factorization) -> list[str]:
    """The paths of layers that have a pair; of embeddings only if there are no others."""
    fit = [path for path in found if rules.supported(paths[path], factorization)]
    return fit or [path for path in found if rules.supported(paths[path], factorization, look_ups=True)]


def _check_one_way(model, path, paths):
    """Raise if an embedding also serves as an output matrix, from vectors back to ids: a pair has none."""
    layer = paths[path]
    remedy = (
        "Leave the layer out of `targets`, or compress a model that only looks ids up in it, such as a "
        "classifier on the same backbone."
    )
    for whole in [model, *model._flatten_layers(include_self=False)]:
        if not isinstance(whole, Functional):
            continue
        for node in (node for nodes in whole._nodes_by_depth.values() for node in nodes):
            arguments = node.arguments
            if node.operation is layer and (arguments.kwargs.get("reverse") or True in arguments.args[1:]):
                raise ValueError(
                    f"Embedding {path!r} is called with reverse=True in model {whole.name!r}, as an output "
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


def rank_of(path, layer, rank, factorization) -> int:
    if not isinstance(rank, Mapping):
        if isinstance(rank, float) and 0.0 < rank < 1.0:
            rule = rules.rule(layer, factorization)
            return rules.rank_for_energy(rule, ops.convert_to_numpy(rule.kernel_of(layer)), rank)
        return rank
    for pattern, value in rank.items():
        if _matches(pattern, path, layer):
            return rank_of(path, layer, value, factorization)
    raise ValueError(
        f"`rank` has no pattern for target {path!r}. Received: {dict(rank)}. Add a pattern such as '*'."
    )


def warn_break_even(rule, rank):
    rank = rules.check_rank(rule, rank)
    if rule.parameters(rank) >= rule.kernel_size:
        warnings.warn(
            f"At rank {rank} the pair of layer {rule.name!r} has {rule.parameters(rank):,} parameters, its "
            f"kernel {rule.kernel_size:,}: nothing is saved from rank {rule.break_even_rank} on.",
            rules.BreakEvenWarning,
            stacklevel=3,
        )
