"""CIFAR-10, from Keras' own cache or from folders of images; digits at its size for where neither is.

Folders are ``{train,test}/CLASS/*.{jpg,png}``, 32 x 32 pixels; the environment variable CLORA_CIFAR10
names the folder that holds `train` and `test`. JPEG files are not the published bytes: that data is
called "CIFAR-10 (JPEG)" everywhere. Source of the data: Krizhevsky 2009, Learning multiple layers of
features from tiny images.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn.model_selection import train_test_split
from tqdm.auto import tqdm

from clora_lab import _checks
from clora_lab.lab.data import datasets
from clora_lab.lab.data.datasets import DatasetDamaged, DatasetMissing

NAMES = ("auto", "cifar10_jpeg", "cifar10", "digits32")
TITLES = {
    "cifar10": "CIFAR-10",
    "cifar10_jpeg": "CIFAR-10 (JPEG)",
    "digits32": "digits at 32x32 (scikit-learn; stands in for CIFAR-10)",
}
PARTS = {"slides": (5_000, 1_000), "full": (50_000, 10_000), "tiny": (300, 100)}
SIZE = 32
VARIABLE = "CLORA_CIFAR10"
# Per channel, over the 50,000 training images, on the scale 0 to 255.
MEAN, STD = (125.3, 123.0, 113.9), (63.0, 62.1, 66.7)
SUFFIXES = (".jpg", ".jpeg", ".png")


@dataclass(frozen=True, eq=False)
class Images:
    """Colour images in three parts, stratified by class.

    Args:
        name: "cifar10", "cifar10_jpeg" or "digits32".
        title: the name for titles of figures and tables.
        x_train, x_val, x_test: uint8, shape (n, 32, 32, 3).
        y_train, y_val, y_test: int32, shape (n,).
        classes: the classes' names, in the order of the labels.
        note: what is validated on, in a few words.
    """

    name: str
    title: str
    x_train: np.ndarray
    y_train: np.ndarray
    x_val: np.ndarray
    y_val: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    classes: tuple[str, ...]
    note: str


def folder() -> Path | None:
    """The folder of images that CLORA_CIFAR10 names, or None."""
    name = os.environ.get(VARIABLE)
    return Path(name).expanduser() if name else None


def cached() -> bool:
    """Whether CIFAR-10 lies in Keras' cache; it is not read."""
    cache = datasets.fashion_mnist_dir().parent
    return any((cache / name).exists() for name in ("cifar-10-batches-py-target", "cifar-10-batches-py"))


def resolve(name: str = "auto") -> str:
    """The data that `name` stands for; "auto" is the folder that CLORA_CIFAR10 names, or else CIFAR-10.

    Raises:
        ValueError: unknown name.

    Example:
        >>> resolve("digits32")
        'digits32'
    """
    if _checks.one_of("name", name, NAMES) != "auto":
        return name
    return "cifar10_jpeg" if folder() else "cifar10"


def load(name: str = "auto", part: str = "slides", seed: int = 0) -> Images:
    """Load images, split into training, validation and test parts, each stratified by class.

    Part "slides" is slide 18's 5,000 / 1,000, validated on 1,000 more of the training images; "full" is
    50,000 / 10,000, and since the slides leave nothing aside, the validation images are the test images
    (nothing may be chosen by them); "tiny" is 300 / 100 for trials. Digits have fewer images: their parts
    are cut down to what is there.

    Args:
        name: "auto", "cifar10_jpeg" (the folder in CLORA_CIFAR10), "cifar10" (through `keras.datasets`),
            or "digits32".
        part: "slides", "full" or "tiny".
        seed: of the choice of images, not of a training run: leave it at 0, and all runs see the same.

    Raises:
        ValueError: unknown name or part.
        DatasetMissing: no folder is named, or CIFAR-10 is neither cached nor to be had.
        DatasetDamaged: an image can't be read, has another size, or a class has too few.

    Example:
        >>> load("digits32", "tiny").x_train.shape
        (300, 32, 32, 3)
    """
    _checks.one_of("part", part, PARTS)
    name = resolve(name)
    read = {"cifar10_jpeg": _from_folder, "cifar10": _from_keras, "digits32": _from_digits}[name]
    return read(part, seed)


def standardise(x: np.ndarray) -> np.ndarray:
    """uint8 images as float32 with CIFAR-10's mean 0 and standard deviation 1 in each channel.

    Example:
        >>> standardise(np.zeros((1, 32, 32, 3), "uint8"))[0, 0, 0].round(2).tolist()
        [-1.99, -1.98, -1.71]
    """
    return (x.astype("float32") - np.float32(MEAN)) / np.float32(STD)


def augment(x: np.ndarray, rng: np.random.Generator, margin: int = 4) -> np.ndarray:
    """Each image mirrored with probability 1/2 and shifted by up to `margin` pixels, edges reflected.

    The usual augmentation of CIFAR-10, after Lee et al. 2015 (arXiv:1409.5185).

    Args:
        x: images, shape (n, height, width, channels).
        rng: what draws.
        margin: in pixels.

    Example:
        >>> augment(np.zeros((2, 32, 32, 3)), np.random.default_rng(0)).shape
        (2, 32, 32, 3)
    """
    count, height, width = x.shape[:3]
    mirrored = rng.random(count) < 0.5
    x = np.where(mirrored[:, None, None, None], x[:, :, ::-1], x)
    padded = np.pad(x, ((0, 0), (margin, margin), (margin, margin), (0, 0)), mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (height, width), axis=(1, 2))
    top, left = rng.integers(0, 2 * margin + 1, (2, count))
    return np.ascontiguousarray(np.moveaxis(windows[np.arange(count), top, left], 1, -1))


def _from_folder(part: str, seed: int) -> Images:
    root = folder()
    if root is None:
        raise DatasetMissing(
            f"CIFAR-10 as images needs a folder with train/CLASS/*.jpg and test/CLASS/*.jpg: set {VARIABLE} "
            "to it, or take another dataset: cifar10 (needs a network once) or digits32."
        )
    files = {split: _list(root, split) for split in ("train", "test")}
    classes = sorted(files["train"])
    if classes != sorted(files["test"]):
        raise DatasetDamaged(
            f"{root}: the classes of train {classes} and of test {sorted(files['test'])} differ. "
            "Unpack the archive again."
        )
    train_count, test_count = PARTS[part]
    rng = np.random.default_rng(seed)
    held = test_count if part != "full" else 0
    chosen: dict[str, list] = {"train": [], "val": [], "test": []}
    for label, name in enumerate(classes):
        for split, wanted in (("train", train_count + held), ("test", test_count)):
            paths = files[split][name]
            count = wanted // len(classes)
            if len(paths) < count:
                raise DatasetDamaged(
                    f"{root / split / name} holds {len(paths)} images, and part {part!r} needs {count} of "
                    "each class. Unpack the archive again, or choose a smaller part."
                )
            picked = [paths[i] for i in rng.permutation(len(paths))[:count]]
            first = train_count // len(classes) if split == "train" else count
            chosen[split] += [(path, label) for path in picked[:first]]
            chosen["val"] += [(path, label) for path in picked[first:]]
    total = sum(map(len, chosen.values()))
    with tqdm(total=total, desc="reading images", unit="image", disable=total < 5_000, leave=False) as bar:
        arrays = {split: _read(pairs, bar) for split, pairs in chosen.items() if pairs}
    return _images("cifar10_jpeg", arrays, tuple(classes))


def _list(root: Path, split: str) -> dict[str, list[Path]]:
    where = root / split
    if not where.is_dir():
        raise DatasetMissing(
            f"{where} is not a folder. {VARIABLE} must name the folder that holds train/ and test/, each "
            f"with a folder of images for each class. Received: {root}."
        )
    found = {
        entry.name: sorted(file for file in entry.iterdir() if file.suffix.lower() in SUFFIXES)
        for entry in sorted(where.iterdir())
        if entry.is_dir()
    }
    if not found:
        raise DatasetDamaged(f"{where} holds no folder of a class. Unpack the archive again.")
    return found


def _read(pairs, bar) -> tuple[np.ndarray, np.ndarray]:
    from PIL import Image, UnidentifiedImageError

    x = np.empty((len(pairs), SIZE, SIZE, 3), "uint8")
    for place, (path, _) in enumerate(pairs):
        try:
            with Image.open(path) as image:
                pixels = np.asarray(image.convert("RGB"))
        except (OSError, UnidentifiedImageError, SyntaxError) as error:
            raise DatasetDamaged(f"{path} can't be read as an image ({error}). Unpack it again.") from error
        if pixels.shape != x.shape[1:]:
            raise DatasetDamaged(
                f"{path} is {pixels.shape[1]} x {pixels.shape[0]} pixels, and must be {SIZE} x {SIZE}."
            )
        x[place] = pixels
        bar.update()
    return x, np.array([label for _, label in pairs], "int32")


def _from_keras(part: str, seed: int) -> Images:
    if not cached():
        datasets.require_network("CIFAR-10", f"set {VARIABLE} to a folder of images, or take digits32")
    import keras

    try:
        (x, y), (x_test, y_test) = keras.datasets.cifar10.load_data()
    except Exception as error:  # Keras raises bare Exception for a failed download
        raise DatasetMissing(
            f"CIFAR-10 could not be had ({error}). Run once with a network (170 MB), or set {VARIABLE} to a "
            "folder of images, or take the digits, which need no download: digits32."
        ) from error
    train_count, test_count = PARTS[part]
    held = test_count if part != "full" else 0
    arrays = _split(x, np.ravel(y), x_test, np.ravel(y_test), train_count, held, test_count, seed)
    names = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    return _images("cifar10", arrays, names)


def _from_digits(part: str, seed: int) -> Images:
    from sklearn.datasets import load_digits

    digits = load_digits()
    # 8 x 8 pixels of 0 to 16, each as a block of 4 x 4, in three equal channels.
    x = np.kron(digits.images * 255 / 16, np.ones((1, 4, 4))).astype("uint8")
    x = np.repeat(x[..., None], 3, axis=-1)
    x, x_test, y, y_test = train_test_split(
        x, digits.target, test_size=300, stratify=digits.target, random_state=0
    )
    train_count, test_count = (min(a, b) for a, b in zip(PARTS[part], (1197, 300), strict=True))
    held = min(test_count, 300)
    arrays = _split(x, y, x_test, y_test, train_count, held, test_count, seed)
    return _images("digits32", arrays, tuple(map(str, range(10))))


def _split(x, y, x_test, y_test, train_count, held, test_count, seed) -> dict:
    """Stratified, seeded parts: {"train": (x, y), "val": ..., "test": ...}; "val" only if `held` > 0."""

    def take(x, y, count):
        if count >= len(y):
            return np.arange(len(y)), np.arange(0)
        return train_test_split(np.arange(len(y)), train_size=count, stratify=y, random_state=seed)

    kept, _ = take(x, y, train_count + held)
    x, y = x[kept], y[kept]
    train, val = take(x, y, train_count)
    test, _ = take(x_test, y_test, test_count)
    arrays = {"train": (x[train], y[train]), "test": (x_test[test], y_test[test])}
    return arrays | ({"val": (x[val], y[val])} if len(val) else {})


def _images(name: str, arrays: dict, classes: tuple[str, ...]) -> Images:
    note = f"validated on {len(arrays['val'][1]):,} other training images" if "val" in arrays else ""
    arrays.setdefault("val", arrays["test"])
    parts = {}
    for split in ("train", "val", "test"):
        x, y = arrays[split]
        parts |= {f"x_{split}": x, f"y_{split}": y.astype("int32")}
    return Images(
        name=name, title=TITLES[name], classes=classes, note=note or "validated on the test images", **parts
    )
