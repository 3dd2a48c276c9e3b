"""The studies: a page each, and the one list of them. Reading the list loads no page, no page loads Keras.

A study is added by its page and one line here.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, NamedTuple

from clora_lab import _checks

if TYPE_CHECKING:
    from clora_lab.lab.study import Study


class Entry(NamedTuple):
    """A line of the list."""

    name: str  # as in rows, files and command lines
    title: str  # as printed
    home: str  # the page, a module of this package with the study as STUDY


STUDIES = tuple(
    Entry(*line)
    for line in (
        ("toy", "Toy project: an MLP on Fashion-MNIST", "toy"),
        ("vgg16", "VGG16 on CIFAR-10", "vgg16"),
        ("bert", "BERT on IMDB", "bert"),
        ("future", "The slides' open questions, on the toy project", "open_questions"),
    )
)
HOMES = {entry.name: entry.home for entry in STUDIES}


def get(name: str) -> Study:
    """A study by its name.

    Raises:
        ValueError: there is none of that name; the nearest one is suggested.

    Example:
        >>> from clora_lab import studies
        >>> studies.get("vgg16").cells
        ('rank', 'dense_rank')
    """
    home = HOMES[_checks.one_of("study", name, HOMES)]
    return importlib.import_module(f"{__name__}.{home}").STUDY
