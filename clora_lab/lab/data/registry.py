"""The data sets, a line each: what they are called, who loads them, and what stands in for them.

Importing this loads neither Keras nor NumPy: the module of a data set is imported when it is asked for. A
new data set is a line here and a loader; one that does not come with a package has a finder too, which says
where it lies on this machine, and downloads it if it must and may.
"""

from __future__ import annotations

import contextlib
import importlib
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from clora_lab import _checks

if TYPE_CHECKING:
    import pandas as pd


class DatasetError(RuntimeError):
    """A data set cannot be used; the message says why and what to do."""


class DatasetMissing(DatasetError):
    """A data set is neither on this machine nor to be had now."""


class DatasetDamaged(DatasetError):
    """What is on this machine is not what was published. Nothing is deleted: the message names the file."""


class Entry(NamedTuple):
    """A line of the registry."""

    name: str  # as in code, rows and command lines
    label: str  # as printed in tables, legends and menus
    home: str  # the module of its functions load_NAME(**settings) and find_NAME(download=True, **where)
    stand_in: str  # what to take where it can't be had; "" if it comes with a package: it has no finder
    title: str  # of figures and pages, where that says more than the label


REGISTRY = tuple(
    Entry(*line)
    for line in (
        ("fashion_mnist", "Fashion-MNIST", "images", "digits", ""),
        ("digits", "scikit-learn digits", "images", "",
         "digits (scikit-learn, 8x8; stands in for Fashion-MNIST)"),
        ("cifar10_jpeg", "CIFAR-10 (JPEG)", "images", "cifar10", ""),
        ("cifar10", "CIFAR-10", "images", "digits32", ""),
        ("digits32", "scikit-learn digits, 32x32", "images", "",
         "digits at 32x32 (scikit-learn; stands in for CIFAR-10)"),
        ("imdb", "IMDB", "text", "synthetic", ""),
        ("synthetic", "synthetic reviews", "text", "", "synthetic reviews (generated; no real data)"),
    )
)  # fmt: skip
ENTRIES = {entry.name: entry for entry in REGISTRY}


def entry(name: str) -> Entry:
    """The line of a data set.

    Raises:
        ValueError: for an unknown name; the nearest one is suggested.
    """
    return ENTRIES[_checks.one_of("dataset", name, ENTRIES)]


def label(name: str) -> str:
    """The printed name of a data set; one that is not in the registry is printed as it is.

    Example:
        >>> label("fashion_mnist"), label("my photos")
        ('Fashion-MNIST', 'my photos')
    """
    found = ENTRIES.get(str(name).lower().replace("-", "_"))
    return found.label if found else str(name)


def title(name: str) -> str:
    """The name for titles of figures, which says if it stands in for another.

    Example:
        >>> title("digits")
        'digits (scikit-learn, 8x8; stands in for Fashion-MNIST)'
    """
    return entry(name).title or entry(name).label


def find(name: str, download: bool = True, **where) -> Path | None:
    """Where a data set lies on this machine, whole; None if it comes with an installed package.

    Args:
        name: of the registry.
        download: whether to fetch it if it is missing. Without a network that ends within seconds.
        **where: for IMDB `path`, its folder or archive.

    Raises:
        ValueError: unknown name.
        DatasetMissing: it is not here and can't be had; the message says what to do.
        DatasetDamaged: what is here is not what was published.
    """
    if not entry(name).stand_in:
        return None
    return _function("find", name)(download=download, **where)


def require(name: str, command: str = "--dataset {name}", **where) -> None:
    """Return once a data set lies on this machine, whole, or say in one message what to do instead.

    Args:
        name: of the registry.
        command: how the reader takes another data set, with `{name}` for its name: it is put into the message
            with that of one that needs no download, so that it works when pasted.
        **where: see `find`.

    Raises:
        ValueError, DatasetMissing, DatasetDamaged: as `find`.

    Example:
        >>> require("digits")
    """
    with _saying_what_instead(name, command):
        find(name, **where)


def load(name: str, **settings):
    """Load a data set in three parts: training, validation, test.

    Args:
        name: of the registry.
        **settings: of its loader: `seed` of the split for all; `part` for CIFAR-10 and what stands in for it;
            `fraction` for reviews, and `path` for IMDB.

    Returns:
        `images.Images` or `text.Reviews`.

    Raises:
        ValueError, DatasetMissing, DatasetDamaged: as `require`.

    Example:
        >>> load("digits").x_train.shape
        (1197, 64)
    """
    with _saying_what_instead(name):
        return _function("load", name)(**settings)


def resolve(name: str, among: Sequence[str], download: bool = True) -> str:
    """The data set that `name` stands for: "auto" is the first of `among` that can be had.

    Args:
        name: "auto", or one of `among`, which is returned as it is.
        among: a study's data sets, the best first; the last needs no download.
        download: whether "auto" may fetch one; without it, what is here already counts.

    Raises:
        ValueError: any other name.
        DatasetDamaged: "auto", and what is here is damaged (that is never passed over).

    Example:
        >>> resolve("digits", ("fashion_mnist", "digits"))
        'digits'
    """
    if _checks.one_of("dataset", name, ("auto", *among)) != "auto":
        return name
    reasons = []
    for candidate in among:
        try:
            find(candidate, download)
        except DatasetMissing as error:
            reasons.append(str(error))
            continue
        if reasons and not entry(candidate).stand_in and download:
            warnings.warn(f"'auto' takes {title(candidate)}. {' '.join(reasons)}", stacklevel=2)
        return candidate
    raise DatasetMissing(" ".join(reasons))


def status() -> pd.DataFrame:
    """What is on this machine, where, and whether it is whole: a row a data set, without a network.

    Returns:
        Data frame with the columns dataset (the name), state ("here", "missing", "damaged", "packed": an
        archive, unpacked at the first use, or "built in": part of an installed package), bytes (0 if there
        are none), path ("" if there is none) and note (the command that gets it, or what is damaged).
    """
    import pandas as pd

    rows = []
    for name in ENTRIES:
        state, path, note = "built in", None, ""
        try:
            path = find(name, download=False)
            if path is not None:
                state = "packed" if path.is_file() else "here"
        except DatasetMissing:
            state, note = "missing", f"python -m clora_lab data {name}"
        except DatasetDamaged as error:
            state, note = "damaged", str(error)
        rows.append((name, state, _size(path), str(path or ""), note))
    return pd.DataFrame(rows, columns=["dataset", "state", "bytes", "path", "note"])


@contextlib.contextmanager
def _saying_what_instead(name: str, command: str = "--dataset {name}"):
    """Put into the message that a data set is missing what to take in its place."""
    other = name
    while entry(other).stand_in:
        other = entry(other).stand_in
    try:
        yield
    except DatasetMissing as error:
        raise DatasetMissing(
            f"{error} Or take {title(other)}, which needs no download: {command.format(name=other)}"
        ) from error


def _function(verb: str, name: str):
    return getattr(importlib.import_module(f"clora_lab.lab.data.{entry(name).home}"), f"{verb}_{name}")


def _size(path: Path | None) -> int:
    if path is None or path.is_file():
        return path.stat().st_size if path else 0
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
