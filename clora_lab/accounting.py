"""Honest accounting: what a compressed model stores and computes, and each published way to count it."""

from __future__ import annotations

import math

import keras
import pandas as pd

from clora_lab import _checks, graph, methods, rules
from clora_lab.layers import WRAPPERS
from clora_lab.rules.loralib import KernelPair

CONVENTIONS = {
    "slides": "factors, and a bias for each compressed layer that had one, over all parameters of the "
    "original (toy project: slides 10, 16)",
    "slides_head": "as 'slides', plus the parameters of the output layer (four of six rows of slide 19)",
    "model": "all parameters that remain over all parameters of the original",
    "layers": "parameters that remain in the compressed layers over those the same layers had",
}
# Of models with the encoder blocks of KerasHub alone.
ENCODER_CONVENTIONS = {
    "slides_bert": "factors, and a bias for each compressed layer that had one, over the parameters of the "
    "encoder blocks alone, as if what is not compressed in them were gone (the rows of slide 22)",
    "slides_bert_norms": "as 'slides_bert', plus the layer norms of the blocks (the rows of slide 21)",
    "encoder": "all parameters that remain in the encoder blocks over all that were there",
}


def report(original: keras.Model, compressed: keras.Model) -> pd.DataFrame:
    """What each layer stored and computed before and after; one row a layer with weights, totals last.

    Args:
        original: the model that was given to `compress`.
        compressed: what `compress` or `finalize` made of it.

    Returns:
        A data frame with the columns `layer` (its path), `type`, `compressed` (whether it was),
        `original_parameters`, `parameters` (stored), `run_parameters` (that take part in the computation;
        other than stored only for loralib convolutions), `ratio` (stored over original),
        `original_flops`, `flops` (2 x multiply-adds of one example through the kernels; unknown axes count
        once, and a look-up in an embedding has none), `flops_ratio`. A shared layer has one row and counts
        once.

    Raises:
        ValueError: if the models do not belong together.

    Example:
        >>> import keras
        >>> import clora_lab as cl
        >>> model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(16), keras.layers.Dense(3)])
        >>> model_c = cl.compress(model, rank=2, schedule=cl.LinearDecay(total_steps=100))
        >>> cl.report(model, model_c)[["layer", "original_parameters", "parameters"]]
             layer  original_parameters  parameters
        0    dense                  336          88
        1  dense_1                   51          51
        2    total                  387         139
    """
    rows = [_row(path, old, new) for path, old, new in _pairs(original, compressed)]
    frame = pd.DataFrame([row for row in rows if row["original_parameters"]])
    total = {"layer": "total", "type": "", "compressed": bool(frame["compressed"].any())}
    numbers = ("original_parameters", "parameters", "run_parameters", "original_flops", "flops")
    total |= {column: int(frame[column].sum()) for column in numbers}
    frame = pd.concat([frame, pd.DataFrame([total])], ignore_index=True)
    frame["ratio"] = frame["parameters"] / frame["original_parameters"]
    frame["flops_ratio"] = frame["flops"] / frame["original_flops"].where(frame["original_flops"] > 0)
    columns = ["layer", "type", "compressed", "original_parameters", "parameters", "run_parameters"]
    return frame[[*columns, "ratio", "original_flops", "flops", "flops_ratio"]]


def ratio(original: keras.Model, compressed: keras.Model, convention: str = "model") -> float:
    """Compression ratio by a named convention, as a fraction (0.3892 is the slides' 38.9%).

    Args:
        original: the model that was given to `compress`.
        compressed: what `compress` or `finalize` made of it.
        convention: a key of `CONVENTIONS` or, for KerasHub's encoders, of `ENCODER_CONVENTIONS`.

    Raises:
        ValueError: for an unknown convention, one of encoder blocks where there are none, or models that do
            not belong together.

    Example:
        >>> import keras
        >>> import clora_lab as cl
        >>> model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(16), keras.layers.Dense(3)])
        >>> model_c = cl.compress(model, rank=2, schedule=cl.LinearDecay(total_steps=100))
        >>> round(cl.ratio(model, model_c, convention="slides"), 4)  # 88 / 387
        0.2274
    """
    _checks.one_of("convention", convention, {**CONVENTIONS, **ENCODER_CONVENTIONS})
    pairs = _pairs(original, compressed)
    rows = [_row(*pair) for pair in pairs]
    remain = sum(row["parameters"] for row in rows if row["compressed"])
    if convention == "layers":
        if not any(row["compressed"] for row in rows):
            raise ValueError(
                f"`convention` 'layers' needs compressed layers, and model {compressed.name!r} has no "
                "compressed layer. Make it with compress(), or use convention='model'."
            )
        return remain / sum(row["original_parameters"] for row in rows if row["compressed"])
    total = original.count_params()
    if convention in ENCODER_CONVENTIONS:
        blocks = tuple(graph.blocks(original))
        if not blocks:
            raise ValueError(
                f"`convention` {convention!r} is of the encoder blocks of KerasHub, and model "
                f"{original.name!r} has none. Use 'model', 'layers' or 'slides'."
            )
        inside = [row["layer"].startswith(blocks) for row in rows]
        pairs = [pair for pair, within in zip(pairs, inside, strict=True) if within]
        rows = [row for row, within in zip(rows, inside, strict=True) if within]
        total = sum(row["original_parameters"] for row in rows)
        remain = sum(row["parameters"] for row in rows if row["compressed"])
    if convention in ("model", "encoder"):
        return sum(row["parameters"] for row in rows) / total
    # The slides count a bias for every compressed layer, whether or not the method keeps one.
    for (_, old, new), row in zip(pairs, rows, strict=True):
        if row["compressed"] and not _has_bias(new):
            bias = rules.rule(old).bias_of(old)
            remain += 0 if bias is None else math.prod(bias.shape)
    if convention == "slides_head":
        outputs = graph.output_layers(original)
        remain += sum(old.count_params() for _, old, _ in pairs if id(old) in outputs)
    if convention == "slides_bert_norms":
        norms = (old for _, old, _ in pairs if isinstance(old, keras.layers.LayerNormalization))
        remain += sum(old.count_params() for old in norms)
    return remain / total


def _pairs(original, compressed):
    """(path, old layer, list of the new layers in its place) for every layer of the original."""
    new, together = dict(graph.walk(compressed)), graph.parts(compressed)
    found = []
    for path, old in graph.walk(original):
        if path not in new:
            raise ValueError(
                f"Layer {path!r} of `original` is not in `compressed`: the second model must have been made "
                f"from the first by compress() or finalize(). It has the layers {list(new)}."
            )
        found.append((path, old, together.get(path, [new[path]])))
        _check_shapes(*found[-1])
    return found


def _check_shapes(path, old, new):
    """Raise if the layers can't stand for `old`: their kernels take or give other sizes."""
    kernel = _kernel(old)
    if kernel is None:
        return
    shape = tuple(kernel.shape)
    if isinstance(new[-1], WRAPPERS):
        other = new[-1].rule.kernel_shape
    elif len(new) == 1:
        other = tuple(new[0].kernel_shape if isinstance(new[0], KernelPair) else _kernel(new[0]).shape)
    else:
        outer = (rules.rule(new[0]).ends[0], rules.rule(new[-1]).ends[1])
        whole = rules.rule(old).ends
        shape, other = (shape, shape) if whole == outer else (whole, outer)
    if other != shape:
        raise ValueError(
            f"Layer {path!r} of `original` has the kernel shape {shape}, in `compressed` it stands for "
            f"{other}: the second model must have been made from the first by compress() or finalize()."
        )


def _row(path, old, new) -> dict:
    last = new[-1]
    method = methods.of(last) if isinstance(last, WRAPPERS) else None
    factored = isinstance(last, KernelPair)
    compressed = factored or len(new) > 1 or hasattr(last, "clora_stored")
    before = flops(old)
    if method is not None:
        compressed = not method.keeps_original
        biased = last.has_bias or (method.keeps_original and rules.rule(old).bias_of(old) is not None)
        bias = math.prod(last.rule.bias_shape) if biased else 0
        stored, run, after = method.cost(last.rule, last.rank, output_shape(last))
        stored, run = stored + bias, run + bias
    elif factored:  # the factors are multiplied, the whole kernel runs
        stored = last.count_params()
        run = math.prod(last.kernel_shape) + (0 if last.bias is None else math.prod(last.bias.shape))
        after = before
    else:
        run = sum(layer.count_params() for layer in new)
        stored = getattr(last, "clora_stored", run)
        after = sum(flops(layer) for layer in new)
    return {
        "layer": path,
        "type": type(old).__name__,
        "compressed": compressed,
        "original_parameters": old.count_params(),
        "parameters": stored,
        "run_parameters": run,
        "original_flops": before,
        "flops": after,
    }


def _has_bias(new) -> bool:
    last = new[-1]
    return last.has_bias if isinstance(last, WRAPPERS) else last.bias is not None


def _kernel(layer):
    """W, or None for a layer that has none."""
    if rules.supported(layer, look_ups=True):
        return rules.rule(layer).kernel_of(layer)
    return getattr(layer, "kernel", None)


def output_shape(layer):
    """The shape of a built layer's outputs, unknown axes as None."""
    return layer.compute_output_shape(layer.get_build_config()["input_shape"])


def flops(layer) -> int:
    """2 x multiply-adds of one example through a layer with a rule; 0 for others, whose share is small."""
    if not rules.supported(layer):
        return 0
    rule = rules.rule(layer)
    return rule.flops(rule.kernel_shape, output_shape(layer))
