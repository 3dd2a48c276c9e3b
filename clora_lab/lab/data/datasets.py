"""Fashion-MNIST, checked byte for byte, and scikit-learn's digits, which need no download.

Fashion-MNIST lives in Keras' own cache, where `keras.datasets.fashion_mnist.load_data()` finds it
too: `datasets/fashion-mnist` under KERAS_HOME (or `~/.keras`). Keras checks no hash and fixes
KERAS_HOME when it is imported; so this module reads the variable at each call, checks the unpacked
bytes itself, reads the files with NumPy, and uses Keras for the download alone. A download goes to
a temporary folder and moves into place only once it has passed the check. What is already in the
cache is never altered or deleted.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import importlib.resources
import os
import socket
import tempfile
import threading
import urllib.request
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from clora_lab import _checks

NAMES = ("auto", "fashion_mnist", "digits")
TITLES = {
    "fashion_mnist": "Fashion-MNIST",
    "digits": "digits (scikit-learn, 8x8; stands in for Fashion-MNIST)",
}

# File -> MD5 of its unpacked bytes, header included.
FASHION_MNIST_MD5 = {
    "train-images-idx3-ubyte.gz": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
    "train-labels-idx1-ubyte.gz": "9018921c3c673c538a1fc5bad174d6f9",
    "t10k-images-idx3-ubyte.gz": "8181f5470baa50b63fa0f6fddb340f0a",
    "t10k-labels-idx1-ubyte.gz": "15d484375f8d13e6eb1aabb0c3f46965",
}
# The address that keras.datasets.fashion_mnist uses.
DOWNLOAD_URL = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/"
PROBE_SECONDS = 4.0  # for the first answer, name lookup included
STALL_SECONDS = 4.0  # without a byte, in the middle of a download


class DatasetError(RuntimeError):
    """A data set cannot be used; the message says why and what to do."""


class DatasetMissing(DatasetError):
    """A data set is neither cached nor to be had now."""


class DatasetDamaged(DatasetError):
    """A cached file does not hold the published bytes."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images and labels in three parts.

    Args:
        name: "fashion_mnist" or "digits".
        title: the name for titles of figures and tables.
        x_train, x_val, x_test: float32 in [0, 1], shape (n, height * width).
        y_train, y_val, y_test: int32, shape (n,), from 0 to classes - 1.
        classes: number of classes.
        shape: (height, width) of an image in pixels.
    """

    name: str
    title: str
    x_train: np.ndarray
    y_train: np.ndarray
    x_val: np.ndarray
    y_val: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    classes: int
    shape: tuple[int, int]


def resolve(name: str = "auto") -> str:
    """The data set that `name` stands for: "fashion_mnist" or "digits".

    "auto" is Fashion-MNIST where it is cached intact or can be downloaded now, else digits, with a
    warning. A name other than "auto" is returned as it is; `load` then checks the files.

    Raises:
        ValueError: unknown name.
        DatasetDamaged: "auto", and a cached file is damaged (that is never passed over).

    Example:

    >>> resolve("digits")
    'digits'
    """
    if _checks.one_of("name", name, NAMES) != "auto":
        return name
    try:
        _obtain(fashion_mnist_dir())
    except DatasetMissing as error:
        warnings.warn(f"'auto' takes the digits. {error}", stacklevel=2)
        return "digits"
    return "fashion_mnist"


def obtain(name: str) -> None:
    """Return once the data set lies on this machine, intact; download it if it must be and can be.

    Args:
        name: "fashion_mnist" or "digits" (which is always there).

    Raises:
        DatasetMissing: it is not cached and can't be downloaded; within 10 s where there is no network.
        DatasetDamaged: a cached file is damaged.

    Example:

    >>> obtain("digits")
    """
    if name == "fashion_mnist":
        _obtain(fashion_mnist_dir())


def load(name: str = "auto", seed: int = 0) -> Dataset:
    """Load a data set, split into training, validation and test parts.

    Fashion-MNIST: of the 60,000 training images 48,000 to train on and 12,000 to validate, by a
    permutation drawn from `seed`; the 10,000 test images as published. Digits: 1,197 / 300 / 300,
    stratified; the test part is the same for every seed.

    Args:
        name: "auto", "fashion_mnist" or "digits"; see `resolve`.
        seed: seed of the split into training and validation, in [0, 2**32 - 1]. It is not the seed
            of a training run: leave it at 0, and all runs see the same split.

    Raises:
        ValueError: unknown name, or a seed that is none.
        DatasetMissing: Fashion-MNIST is not cached and cannot be downloaded (within 10 seconds).
        DatasetDamaged: a cached file of Fashion-MNIST does not have the published MD5.

    Example:

    >>> load("digits").x_train.shape
    (1197, 64)
    """
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or not 0 <= seed < 2**32:
        raise ValueError(f"`seed` must be an integer in [0, 2**32 - 1]. Received: {seed!r}.")
    return {"fashion_mnist": _load_fashion_mnist, "digits": _load_digits}[resolve(name)](int(seed))


def status() -> pd.DataFrame:
    """What is cached, where, and whether it is intact: one row for each file, no network.

    Returns:
        Data frame with the columns dataset, file, path, state ("intact", "missing", "damaged" or
        "embedded": part of an installed package) and bytes (packed, 0 if missing).
    """
    folder = fashion_mnist_dir()
    paths = [folder / file for file in FASHION_MNIST_MD5]
    rows = [("fashion_mnist", path, _check(path)[0]) for path in paths]
    digits = importlib.resources.files("sklearn.datasets.data") / "digits.csv.gz"
    rows.append(("digits", Path(str(digits)), "embedded"))
    return pd.DataFrame(
        [
            {
                "dataset": dataset,
                "file": path.name,
                "path": str(path),
                "state": state,
                "bytes": path.stat().st_size if path.exists() else 0,
            }
            for dataset, path, state in rows
        ]
    )


def fashion_mnist_dir() -> Path:
    """Keras' folder for Fashion-MNIST, from KERAS_HOME as it is now; Keras' own rule.

    Keras itself reads the variable at its import: set it before that and the two agree.
    """
    home = os.environ.get("KERAS_HOME")
    if not home:
        user = os.path.expanduser("~")
        home = os.path.join(user if os.access(user, os.W_OK) else "/tmp", ".keras")
    return Path(home).expanduser() / "datasets" / "fashion-mnist"


def _load_fashion_mnist(seed: int) -> Dataset:
    folder = fashion_mnist_dir()
    _obtain(folder)
    x, y, x_test, y_test = (_read_idx(folder / file) for file in FASHION_MNIST_MD5)
    order = np.random.default_rng(seed).permutation(len(x))
    train, val = order[:48_000], order[48_000:]
    images = (x[train], x[val], x_test)
    labels = (y[train], y[val], y_test)
    return _dataset("fashion_mnist", images, labels, scale=255)


def _load_digits(seed: int) -> Dataset:
    digits = load_digits()
    # The test part must not move with the seed: it would mix with validation across splits.
    x, x_test, y, y_test = train_test_split(
        digits.images, digits.target, test_size=300, stratify=digits.target, random_state=0
    )
    x_train, x_val, y_train, y_val = train_test_split(x, y, test_size=300, stratify=y, random_state=seed)
    return _dataset("digits", (x_train, x_val, x_test), (y_train, y_val, y_test), scale=16)


def _dataset(name: str, images, labels, scale: int) -> Dataset:
    x_train, x_val, x_test = (x.reshape(len(x), -1).astype("float32") / scale for x in images)
    y_train, y_val, y_test = (y.astype("int32") for y in labels)
    return Dataset(
        name=name,
        title=TITLES[name],
        x_train=x_train,
        y_train=y_train,
        x_val=x_val,
        y_val=y_val,
        x_test=x_test,
        y_test=y_test,
        classes=10,
        shape=tuple(images[0].shape[1:]),
    )


def _read_idx(path: Path) -> np.ndarray:
    """An IDX file of bytes as an array: two zeros, type, number of axes, the axes, the values."""
    with gzip.open(path) as file:
        raw = file.read()
    shape = np.frombuffer(raw, ">u4", count=raw[3], offset=4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).reshape(shape)


def _check(path: Path) -> tuple[str, str]:
    """The state of a file of Fashion-MNIST and, where it is damaged, what was found."""
    try:
        stat = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return "missing", ""
    except OSError as error:
        return "damaged", f"an unreadable file ({error})"
    return _check_bytes(path, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _check_bytes(path: Path, size: int, mtime_ns: int) -> tuple[str, str]:
    """As `_check`; size and time are there to make a changed file be read again."""
    found = hashlib.md5(usedforsecurity=False)
    try:
        with gzip.open(path) as file:
            while chunk := file.read(1 << 20):
                found.update(chunk)
    except (OSError, EOFError, zlib.error) as error:
        return "damaged", f"a truncated or unreadable file ({error or type(error).__name__})"
    if found.hexdigest() != FASHION_MNIST_MD5[path.name]:
        return "damaged", f"MD5 {found.hexdigest()}"
    return "intact", ""


def _missing(folder: Path) -> list[str]:
    """The files that `folder` lacks; damaged ones raise."""
    missing = []
    for file, md5 in FASHION_MNIST_MD5.items():
        state, found = _check(folder / file)
        if state == "damaged":
            raise DatasetDamaged(
                f"{folder / file} is damaged: expected MD5 {md5} of the unpacked bytes, "
                f"found {found}. Delete that file and run again: it is then downloaded anew."
            )
        if state == "missing":
            missing.append(file)
    return missing


def _obtain(folder: Path) -> None:
    """Return once all four files lie intact in `folder`, downloading those that are missing."""
    missing = _missing(folder)
    if not missing:
        return
    problem = _no_network() or _download(missing, folder)
    if problem:
        raise DatasetMissing(
            f"Fashion-MNIST is not cached: {folder} lacks {', '.join(missing)}, and {problem}. "
            "Run once with a network (30 MB), or put the four .gz files into that folder, or set "
            "KERAS_HOME to a folder that has them under datasets/fashion-mnist, or take the "
            "digits, which need no download: --dataset digits."
        )


def require_network(title: str, otherwise: str) -> None:
    """Return if the server of Keras' datasets answers and a download is allowed; within seconds.

    Args:
        title: of the dataset that is wanted.
        otherwise: what to do without a network, for the message.

    Raises:
        DatasetMissing: no download is possible, with the reason and the remedy.
    """
    problem = _no_network()
    if problem:
        raise DatasetMissing(
            f"{title} is not cached, and {problem}. Run once with a network, or {otherwise}."
        )


def _no_network() -> str:
    """Why nothing can be downloaded now; "" if it can."""
    if os.environ.get("CLORA_OFFLINE", "0") not in ("", "0"):
        return "CLORA_OFFLINE forbids a download"
    return _probe()


def _probe() -> str:
    """Ask the download server for a sign of life; "" if it answers, else the problem."""
    answer = []

    def ask():
        request = urllib.request.Request(DOWNLOAD_URL + "train-labels-idx1-ubyte.gz", method="HEAD")
        try:
            with urllib.request.urlopen(request, timeout=PROBE_SECONDS):
                answer.append("")
        except Exception as error:  # whatever it is, the user reads it in the message
            answer.append(f"the download server cannot be reached ({error})")

    # A name lookup takes no timeout, so it runs in a thread that may be left behind.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS)
    if not answer:
        return f"the download server gave no answer within {PROBE_SECONDS:g} s"
    return answer[0]


def _download(files: list[str], folder: Path) -> str:
    """Fetch `files` into `folder` with Keras; "" if all have arrived intact, else the problem."""
    timeout = socket.getdefaulttimeout()
    # Keras sets no timeout of its own: a stalled connection would hang for ever.
    socket.setdefaulttimeout(STALL_SECONDS)
    try:
        import keras

        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=folder) as staging:
            for file in files:
                path = keras.utils.get_file(
                    file, origin=DOWNLOAD_URL + file, cache_dir=staging, cache_subdir="."
                )
                state, found = _check(Path(path))
                if state != "intact":
                    return f"the download of {file} arrived damaged ({found})"
                os.replace(path, folder / file)
    except Exception as error:  # Keras raises bare Exception for a failed download
        return f"the download failed ({error})"
    finally:
        socket.setdefaulttimeout(timeout)
    return ""
