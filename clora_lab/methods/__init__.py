"""How a layer is compressed or adapted: a file a method, and the one list of them.

`REGISTRY` gives every table, legend and menu its order, its words and its families; nothing else lists
methods, and nothing outside of this package compares with a method's name. Importing it loads neither Keras
nor NumPy: a method's own file is imported when `get` first makes one.
"""

from __future__ import annotations

import functools
import importlib
from typing import NamedTuple

from clora_lab import _checks

# What the rows of a family have in common.
FAMILIES = {
    "original": "the net before anything is done to it",
    "slides": "the four forms of C-LoRA, in the slides' order",
    "baselines": "what a table of compressed nets owes its readers, and the slides leave out",
    "trained": "low-rank training of other authors",
    "references": "no compression: all of W stays",
}


class Entry(NamedTuple):
    """A line of the registry."""

    name: str  # as in code, rows and command lines
    label: str  # as printed
    family: str  # a key of FAMILIES
    home: str  # "module:Class" in this package, imported at first use; "" for the original net


REGISTRY = tuple(
    Entry(*line)
    for line in (
        ("dense", "Dense", "original", ""),
        ("wds", "Only WDS", "slides", "clora:WDS"),
        ("bias", "Bias (C_weights)", "slides", "clora:Bias"),
        ("noise", "Scheduled noise", "slides", "clora:Noise"),
        ("noise_bias", "Scheduled noise & bias", "slides", "clora:NoiseBias"),
        ("svd", "SVD, no training", "baselines", "svd:SVD"),
        ("svd_finetune", "SVD then fine-tuning", "baselines", "svd:SVDFinetune"),
        ("scratch", "Low-rank from scratch", "baselines", "svd:Scratch"),
        ("lorita", "LoRITa", "trained", "lorita:LoRITa"),
        ("lora", "LoRA fine-tuning (all of W stays)", "references", "lora:LoRA"),
    )
)
ENTRIES = {entry.name: entry for entry in REGISTRY}
ORIGINAL = REGISTRY[0].name


def names(*families: str) -> tuple[str, ...]:
    """The methods of some families in the order of the registry; without any, all that do something.

    Raises:
        ValueError: for an unknown family.

    Example:
        >>> from clora_lab import methods
        >>> methods.names("slides")
        ('wds', 'bias', 'noise', 'noise_bias')
    """
    for family in families:
        _checks.one_of("families", family, FAMILIES)
    wanted = families or [family for family in FAMILIES if family != "original"]
    return tuple(entry.name for entry in REGISTRY if entry.family in wanted)


def label(name: str) -> str:
    """The printed name of a method; a name that is not in the registry is printed as it is.

    Example:
        >>> from clora_lab import methods
        >>> methods.label("wds"), methods.label("my own")
        ('Only WDS', 'my own')
    """
    return ENTRIES[name].label if name in ENTRIES else name


def family(name: str) -> str:
    """The family of a method, "" if it is not in the registry.

    Example:
        >>> from clora_lab import methods
        >>> methods.family("scratch")
        'baselines'
    """
    return ENTRIES[name].family if name in ENTRIES else ""


@functools.cache
def order(name: str) -> int:
    """The place of a method in tables, legends and menus; what is not in the registry comes last."""
    places = {entry.name: place for place, entry in enumerate(REGISTRY)}
    return places.get(name, len(places))


def find(name: str) -> type:
    """The class of a method.

    Raises:
        ValueError: for an unknown name (the nearest one is suggested), or for the original net.

    Example:
        >>> from clora_lab import methods
        >>> methods.find("svd").__name__
        'SVD'
    """
    module, _, attribute = ENTRIES[_checks.one_of("method", name, names())].home.partition(":")
    return getattr(importlib.import_module(f"{__name__}.{module}"), attribute)


def trains(name: str) -> bool:
    """Whether a method trains anything; the original net does, and what is not in the registry.

    Example:
        >>> from clora_lab import methods
        >>> methods.trains("svd"), methods.trains("svd_finetune"), methods.trains(methods.ORIGINAL)
        (False, True, True)
    """
    return name not in names() or find(name).trains


def __getattr__(name):
    """`methods.SVD` and the other classes, by the registry, and what `base` has for all."""
    if name in ("Method", "get", "of", "callbacks_for"):
        return getattr(importlib.import_module(f"{__name__}.base"), name)
    for entry in REGISTRY:
        if entry.home.partition(":")[2] == name:
            return find(entry.name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
