"""The nets of the lab, a line each: what they are called, who builds them, and what is compressed of them.

Importing this loads no Keras: the module of a net is imported when the net is asked for.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from clora_lab import _checks


class Entry(NamedTuple):
    """A line of the registry."""

    name: str  # as in code, rows and command lines
    label: str  # as printed
    home: str  # "module:function" in this package: builds the net
    targets: Mapping[str, tuple[str, ...]]  # what is compressed: patterns of layer paths, by group
    starts: Mapping[str, str]  # where weights come from, with the words for titles; see `starts`
    title: str = ""  # in sentences, where that says more than the label


_RANDOM = {"random": "from random initialisation"}
_VGG = {"convolutions": ("block*_conv*",), "dense": ("dense_6", "dense_7")}  # the slides' names
_BERT = {
    "attention": ("*/query", "*/key", "*/value", "*/attention_output"),  # what the slides compress
    "feed_forward": ("*/feedforward_intermediate_dense", "*/feedforward_output_dense"),
    "pooler": ("pooled_dense",),
    "embeddings": ("token_embedding",),  # the large one; those of positions and segments are small
}
FOLDER = "a folder"  # stands in `starts` for the path of any
_HERE = {"pretrained_here": "(pretrained here on IMDB)"}
_NEW = {"random": "(random start)", FOLDER: "(from {})"}
REGISTRY = tuple(
    Entry(*line)
    for line in (
        ("toy_mlp", "Toy MLP", "mlp:toy_mlp", {"dense": ("dense", "dense_1")}, _RANDOM),
        ("softmax", "Softmax regression", "mlp:softmax", {}, _RANDOM, "a softmax regression"),
        ("vgg16", "VGG16", "vgg:vgg16", _VGG, _RANDOM | {"imagenet": "from ImageNet weights"}),
        ("small_vgg", "Small VGG", "vgg:small_vgg", _VGG, _RANDOM, "a small VGG (stands in for VGG16)"),
        ("bert_tiny", "BERT-Tiny", "bert:bert_tiny", _BERT,
         {"preset": "(bert_tiny_en_uncased)", **_HERE, **_NEW}),
        ("bert_small", "BERT-Small", "bert:bert_small", _BERT,
         {"preset": "(bert_small_en_uncased)", **_HERE, **_NEW}),
        ("minilm", "MiniLM", "bert:minilm", _BERT, {"package": "(all-MiniLM-L6-v2)", **_NEW}),
    )
)  # fmt: skip
ENTRIES = {entry.name: entry for entry in REGISTRY}


def entry(name: str) -> Entry:
    """The line of a net.

    Raises:
        ValueError: for an unknown name; the nearest one is suggested.
    """
    return ENTRIES[_checks.one_of("model", name, ENTRIES)]


def label(name: str) -> str:
    """The printed name of a net; one that is not in the registry is printed as it is.

    Example:
        >>> label("bert_tiny"), label("my own")
        ('BERT-Tiny', 'my own')
    """
    return ENTRIES[name].label if name in ENTRIES else name


def title(name: str, start: str | os.PathLike) -> str:
    """A net and where its weights are from, for titles of figures and tables.

    Example:
        >>> title("bert_tiny", "random"), title("vgg16", "imagenet")
        ('BERT-Tiny (random start)', 'VGG16 from ImageNet weights')
    """
    found = entry(name)
    said = found.starts.get(str(start)) or found.starts.get(FOLDER, "").format(Path(start).name)
    return f"{found.title or found.label} {said}"


def targets(name: str, *groups: str) -> tuple[str, ...]:
    """Patterns of the layers of a net that are compressed, for `targets` of `clora_lab.compress`.

    Args:
        name: of the registry.
        *groups: of its targets; without any, all of them.

    Raises:
        ValueError: unknown net or group.

    Example:
        >>> targets("toy_mlp"), targets("vgg16", "convolutions")
        (('dense', 'dense_1'), ('block*_conv*',))
    """
    found = entry(name).targets
    return tuple(path for group in groups or found for path in found[_checks.one_of("group", group, found)])


def find(name: str) -> Callable:
    """The function that builds a net; its arguments are its own.

    Raises:
        ValueError: unknown net.

    Example:
        >>> find("toy_mlp")(features=64).count_params()  # doctest: +SKIP
        50826
    """
    module, _, function = entry(name).home.partition(":")
    return getattr(importlib.import_module(f"clora_lab.lab.nets.{module}"), function)
