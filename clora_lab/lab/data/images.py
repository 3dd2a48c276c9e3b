"""Images: Fashion-MNIST and CIFAR-10, checked byte for byte, and scikit-learn's digits in their sizes.

Fashion-MNIST and CIFAR-10 lie in Keras' own cache, where `keras.datasets` finds and leaves them. Keras checks
no hash of the one, and deletes a damaged archive of the other; so the bytes are checked and read here.
CIFAR-10 may also come as folders of images, ``{train,test}/CLASS/*.{jpg,png}`` of 32 x 32 pixels: the
environment variable CLORA_CIFAR10 names the folder that holds `train` and `test`. JPEG files are not the
published bytes, so that data has a name of its own. Sources: Xiao et al. 2017 (arXiv:1708.07747); Krizhevsky
2009, Learning multiple layers of features from tiny images.
"""

from __future__ import annotations

import gzip
import numbers
import os
import pickle
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from clora_lab import _checks
from clora_lab.lab.data import files, registry
from clora_lab.lab.data.registry import DatasetDamaged, DatasetMissing

# File -> MD5 of its unpacked bytes, header included.
FASHION_MNIST_MD5 = {
    "train-images-idx3-ubyte.gz": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
    "train-labels-idx1-ubyte.gz": "9018921c3c673c538a1fc5bad174d6f9",
    "t10k-images-idx3-ubyte.gz": "8181f5470baa50b63fa0f6fddb340f0a",
    "t10k-labels-idx1-ubyte.gz": "15d484375f8d13e6eb1aabb0c3f46965",
}
FASHION_MNIST_URL = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/"  # Keras' address
FASHION_MNIST_CLASSES = ("T-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker",
                         "bag", "ankle boot")  # fmt: skip
CIFAR10_MD5 = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}
CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
CIFAR10_HASH = "sha256:6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
VARIABLE = "CLORA_CIFAR10"
PARTS = {"slides": (5_000, 1_000), "full": (50_000, 10_000), "tiny": (300, 100)}
SIZE = 32  # pixels of a CIFAR-10 image, each way
SUFFIXES = (".jpg", ".jpeg", ".png")
# Of CIFAR-10 per channel, over the 50,000 training images, on the scale 0 to 255.
MEAN, STD = (125.3, 123.0, 113.9), (63.0, 62.1, 66.7)


@dataclass(frozen=True, eq=False)
class Images:
    """Images and labels in three parts.

    Args:
        name: of the registry of data sets.
        x_train, x_val, x_test: for dense nets float32 in [0, 1], shape (n, height * width); for convolutions
            uint8, shape (n, height, width, channels).
        y_train, y_val, y_test: int32, shape (n,), from 0 to len(classes) - 1.
        classes: the classes' names, in the order of the labels.
        shape: of an image, (height, width) or (height, width, channels).
        note: what is validated on, in a few words.
    """

    name: str
    x_train: np.ndarray
    y_train: np.ndarray
    x_val: np.ndarray
    y_val: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    classes: tuple[str, ...]
    shape: tuple[int, ...]
    note: str = "validated on other training images"

    @property
    def title(self) -> str:
        """The name for titles of figures and tables."""
        return registry.title(self.name)


# --- for dense nets -----------------------------------------------------------------------------------


def load_fashion_mnist(seed: int = 0) -> Images:
    """Fashion-MNIST: 48,000 images to train on, 12,000 to validate, the 10,000 test images as published.

    Args:
        seed: of the permutation that splits the 60,000 training images, in [0, 2**32 - 1]. It is not the seed
            of a training run: leave it at 0, and all runs see the same split.

    Raises:
        ValueError: a seed that is none.
        DatasetMissing, DatasetDamaged: see `find_fashion_mnist`.
    """
    seed = _seed(seed)
    folder = find_fashion_mnist()
    x, y, x_test, y_test = (read_idx(folder / file) for file in FASHION_MNIST_MD5)
    order = np.random.default_rng(seed).permutation(len(x))
    train, val = order[:48_000], order[48_000:]
    parts = {"train": (x[train], y[train]), "val": (x[val], y[val]), "test": (x_test, y_test)}
    return _flat("fashion_mnist", parts, FASHION_MNIST_CLASSES, scale=255)


def find_fashion_mnist(download: bool = True) -> Path:
    """The folder with the four files of Fashion-MNIST, whole; see `registry.find`."""
    folder = files.keras_dir("datasets", "fashion-mnist")
    missing = files.lacking(folder, FASHION_MNIST_MD5, gzip.open)

    def checked(file: Path) -> Path:
        found = files.md5_of(file, gzip.open)
        if found != f"MD5 {FASHION_MNIST_MD5[file.name]}":
            raise DatasetDamaged(found)
        return file

    try:
        for file in missing:
            files.fetch(FASHION_MNIST_URL + file, folder / file, unpack=checked, allowed=download)
    except DatasetMissing as problem:
        raise DatasetMissing(
            f"Fashion-MNIST is not cached: {folder} lacks {', '.join(missing)}, and {problem}. "
            "Run once with a network (30 MB), or put the four .gz files into that folder, or set "
            "KERAS_HOME to a folder that has them under datasets/fashion-mnist."
        ) from problem
    return folder


def load_digits(seed: int = 0) -> Images:
    """scikit-learn's digits of 8 x 8 pixels: 1,197 / 300 / 300, stratified; one test part for every seed.

    Args:
        seed: of the split into training and validation, see `load_fashion_mnist`.

    Example:
        >>> load_digits().shape
        (8, 8)
    """
    from sklearn import datasets

    seed = _seed(seed)
    digits = datasets.load_digits()
    arrays = _split(*_digits_test_part(digits.images, digits.target), 1197, 300, 300, seed)
    return _flat("digits", arrays, tuple(map(str, range(10))), scale=16)


# --- for convolutions ---------------------------------------------------------------------------------


def load_cifar10(part: str = "slides", seed: int = 0) -> Images:
    """CIFAR-10, split into training, validation and test parts, each stratified by class.

    Part "slides" is slide 18's 5,000 / 1,000, validated on 1,000 more of the training images; "full" is
    50,000 / 10,000, and since the slides leave nothing aside, the validation images are the test images
    (nothing may be chosen by them); "tiny" is 300 / 100 for trials.

    Args:
        part: "slides", "full" or "tiny".
        seed: of the choice of images, not of a training run: leave it at 0, and all runs see the same.

    Raises:
        ValueError: unknown part, or a seed that is none.
        DatasetMissing, DatasetDamaged: see `find_cifar10`.
    """
    counts = _counts(part, seed)
    folder = find_cifar10()
    batches = [_read_batch(folder / file) for file in CIFAR10_MD5]
    x, y = (np.concatenate([batch[axis] for batch in batches[:-1]]) for axis in (0, 1))
    return _colour("cifar10", _split(x, y, *batches[-1], *counts, seed), CIFAR10_CLASSES)


def find_cifar10(download: bool = True) -> Path:
    """The folder with CIFAR-10's six batches, whole, where Keras leaves it; see `registry.find`."""
    # Keras 3 unpacks into a folder of its own, earlier ones beside the archive.
    places = [
        files.keras_dir("datasets", *outer, "cifar-10-batches-py")
        for outer in (["cifar-10-batches-py-target"], [])
    ]
    for folder in places:
        if folder.exists():
            missing = files.lacking(folder, CIFAR10_MD5)
            if missing:
                raise DatasetDamaged(
                    f"{folder} lacks {', '.join(missing)}. Delete that folder and run again: it is then "
                    "downloaded anew."
                )
            return folder

    def unpacked(archive: Path) -> Path:
        with tarfile.open(archive) as tar:
            tar.extractall(archive.parent, filter="data")
        return archive.parent / "cifar-10-batches-py"

    try:
        files.fetch(CIFAR10_URL, places[0], CIFAR10_HASH, unpacked, allowed=download)
    except DatasetMissing as problem:
        raise DatasetMissing(
            f"CIFAR-10 is not cached in {places[0]}, and {problem}. Run once with a network (170 MB), or set "
            f"{VARIABLE} to a folder of its images and take cifar10_jpeg."
        ) from problem
    return places[0]


def load_cifar10_jpeg(part: str = "slides", seed: int = 0) -> Images:
    """CIFAR-10 from the folder of images that CLORA_CIFAR10 names; parts as in `load_cifar10`.

    Raises:
        ValueError: unknown part, or a seed that is none.
        DatasetMissing: no folder is named.
        DatasetDamaged: an image can't be read, has another size, or a class has too few.
    """
    train_count, held, test_count = _counts(part, seed)
    root = find_cifar10_jpeg()
    listed = {split: _images_by_class(root / split) for split in ("train", "test")}
    classes = sorted(listed["train"])
    if classes != sorted(listed["test"]):
        raise DatasetDamaged(
            f"{root}: the classes of train {classes} and of test {sorted(listed['test'])} differ. "
            "Unpack the archive again."
        )
    rng = np.random.default_rng(seed)
    chosen: dict[str, list] = {"train": [], "val": [], "test": []}
    for label, name in enumerate(classes):
        for split, wanted in (("train", train_count + held), ("test", test_count)):
            paths = listed[split][name]
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
        arrays = {split: _read_images(pairs, bar) for split, pairs in chosen.items() if pairs}
    return _colour("cifar10_jpeg", arrays, tuple(classes))


def find_cifar10_jpeg(download: bool = True) -> Path:
    """The folder that CLORA_CIFAR10 names, with train/ and test/ in it; nothing is downloaded."""
    root = Path(os.environ.get(VARIABLE, "")).expanduser()
    if not os.environ.get(VARIABLE):
        raise DatasetMissing(
            "CIFAR-10 as images needs a folder with train/CLASS/*.jpg and test/CLASS/*.jpg, and no folder is "
            f"named. Run once: export {VARIABLE}=FOLDER."
        )
    for split in ("train", "test"):
        if not (root / split).is_dir():
            raise DatasetDamaged(
                f"{root / split} is not a folder. {VARIABLE} must name the folder that holds train/ and "
                f"test/, each with a folder of images for each class. Received: {root}."
            )
    return root


def load_digits32(part: str = "slides", seed: int = 0) -> Images:
    """scikit-learn's digits at CIFAR-10's size; parts as in `load_cifar10`, cut down to what is there.

    Example:
        >>> load_digits32("tiny").x_train.shape
        (300, 32, 32, 3)
    """
    from sklearn import datasets

    train_count, _, test_count = _counts(part, seed)
    digits = datasets.load_digits()
    # 8 x 8 pixels of 0 to 16, each as a block of 4 x 4, in three equal channels.
    x = np.kron(digits.images * 255 / 16, np.ones((1, 4, 4))).astype("uint8")
    x = np.repeat(x[..., None], 3, axis=-1)
    counts = (min(train_count, 1197), min(test_count, 300), min(test_count, 300))
    arrays = _split(*_digits_test_part(x, digits.target), *counts, seed)
    return _colour("digits32", arrays, tuple(map(str, range(10))))


def standardise(x: np.ndarray) -> np.ndarray:
    """uint8 images as float32 with CIFAR-10's mean 0 and standard deviation 1 in each channel.

    Example:
        >>> standardise(np.zeros((1, 32, 32, 3), "uint8"))[0, 0, 0].round(2)
        array([-1.99, -1.98, -1.71], dtype=float32)
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


# --- reading and splitting ----------------------------------------------------------------------------


def read_idx(path: Path) -> np.ndarray:
    """A packed IDX file of bytes as an array: two zeros, type, number of axes, the axes, the values."""
    with gzip.open(path) as file:
        raw = file.read()
    shape = np.frombuffer(raw, ">u4", count=raw[3], offset=4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).reshape(shape)


def _read_batch(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """A batch of CIFAR-10: a pickle, of which `find_cifar10` has checked every byte."""
    with open(path, "rb") as file:
        batch = pickle.load(file, encoding="bytes")
    return batch[b"data"].reshape(-1, 3, SIZE, SIZE).transpose(0, 2, 3, 1), np.array(batch[b"labels"])


def _images_by_class(where: Path) -> dict[str, list[Path]]:
    found = {
        entry.name: sorted(file for file in entry.iterdir() if file.suffix.lower() in SUFFIXES)
        for entry in sorted(where.iterdir())
        if entry.is_dir()
    }
    if not found:
        raise DatasetDamaged(f"{where} holds no folder of a class. Unpack the archive again.")
    return found


def _read_images(pairs, bar) -> tuple[np.ndarray, np.ndarray]:
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


def _seed(seed) -> int:
    if isinstance(seed, bool) or not isinstance(seed, numbers.Integral) or not 0 <= seed < 2**32:
        raise ValueError(f"`seed` must be an integer in [0, 2**32 - 1]. Received: {seed!r}.")
    return int(seed)


def _counts(part: str, seed: int) -> tuple[int, int, int]:
    """Images to train on, to validate and to test in a part of CIFAR-10; the seed is checked too."""
    train, test = PARTS[_checks.one_of("part", part, PARTS)]
    _seed(seed)
    return train, 0 if part == "full" else test, test


def _digits_test_part(x, y) -> tuple:
    """The test part must not move with the seed: it would mix with validation across splits."""
    from sklearn.model_selection import train_test_split

    x, x_test, y, y_test = train_test_split(x, y, test_size=300, stratify=y, random_state=0)
    return x, y, x_test, y_test


def _split(x, y, x_test, y_test, train_count, held, test_count, seed) -> dict:
    """Stratified, seeded parts: {"train": (x, y), "val": ..., "test": ...}; "val" only if `held` > 0."""
    from sklearn.model_selection import train_test_split

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


def _flat(name: str, arrays: dict, classes: tuple[str, ...], scale: int) -> Images:
    """Images for dense nets: a row each, from 0 to 1."""
    shape = arrays["train"][0].shape[1:]
    rows = {split: (x.reshape(len(x), -1).astype("float32") / scale, y) for split, (x, y) in arrays.items()}
    return Images(name=name, classes=classes, shape=shape, **_parts(rows))


def _colour(name: str, arrays: dict, classes: tuple[str, ...]) -> Images:
    if "val" in arrays:
        note = f"validated on {len(arrays['val'][1]):,} other training images"
    else:
        note, arrays["val"] = "validated on the test images", arrays["test"]
    return Images(name=name, classes=classes, shape=(SIZE, SIZE, 3), note=note, **_parts(arrays))


def _parts(arrays: dict) -> dict:
    x = {f"x_{split}": x for split, (x, _) in arrays.items()}
    return x | {f"y_{split}": y.astype("int32") for split, (_, y) in arrays.items()}
