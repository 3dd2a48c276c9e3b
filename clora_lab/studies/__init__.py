"""The studies: a page each, and the one list of them. Reading the list loads no page, no page loads Keras.

A study is added by its page and one line here.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, NamedTuple

from clora_lab import _checks

if TYPE_CHECKING:
    from clora_lab.lab.store import Store
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


def recorded(name: str, folder: str | os.PathLike | None = None) -> Store:
    """The recorded runs of a study.

    Args:
        name: of a study, or of a file of its runs: `toy_search` are runs of `toy`.
        folder: of the results; None for the recorded ones of this project.

    Example:
        >>> from clora_lab import studies
        >>> rows = studies.recorded("toy").read()
        >>> rows["dataset"].unique().tolist()
        ['fashion_mnist']
    """
    from clora_lab.lab.paths import data_dir
    from clora_lab.lab.store import Store

    study = get(name if name in HOMES else name.partition("_")[0])
    return Store(data_dir() / "results" if folder is None else folder, study, name)
