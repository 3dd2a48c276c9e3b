"""Film reviews: IMDB from its own folders, checked file by file, and generated ones for trials.

IMDB comes as `aclImdb/{train,test}/{pos,neg}/*.txt`, 12,500 files each. The environment variable CLORA_IMDB
names that folder, or the archive as .tar.gz or .tar.xz, which is unpacked into the cache once; without it the
official archive is downloaded there and checked. Source: Maas et al. 2011, Learning word vectors for
sentiment analysis. The generated reviews are no data: a grammar of a few words with known answers, so that
tests and trials need no download; their title says so.
"""

from __future__ import annotations

import hashlib
import os
import re
import tarfile
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import filelock
import numpy as np
from tqdm.auto import tqdm

from clora_lab import _checks
from clora_lab.lab import paths
from clora_lab.lab.data import files, registry
from clora_lab.lab.data.registry import DatasetDamaged, DatasetMissing

CLASSES = ("neg", "pos")  # in the order of the labels: 0 and 1
VARIABLE = "CLORA_IMDB"
COUNT = 12_500  # files in each of the four folders
SIZES = {"imdb": (20_000, 5_000, 25_000), "synthetic": (400, 100, 200)}
ARCHIVE_URL = "https://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz"
ARCHIVE_HASH = "md5:7c2ac02c03563afcf9b574c7e56c153a"
LINE_BREAK = re.compile(r"<br\s*/?>", re.IGNORECASE)


@dataclass(frozen=True, eq=False)
class Reviews:
    """Raw texts and labels in three parts, stratified: as many negative as positive ones.

    Args:
        name: of the registry of data sets.
        x_train, x_val, x_test: lists of str.
        y_train, y_val, y_test: int32, shape (n,); 0 negative, 1 positive.
        fraction: share of the whole, of each part.
    """

    name: str
    x_train: list[str] = field(repr=False)
    y_train: np.ndarray = field(repr=False)
    x_val: list[str] = field(repr=False)
    y_val: np.ndarray = field(repr=False)
    x_test: list[str] = field(repr=False)
    y_test: np.ndarray = field(repr=False)
    fraction: float = 1.0

    @property
    def title(self) -> str:
        """The name for titles of figures and tables, with the share where it is not the whole."""
        return registry.title(self.name) + ("" if self.fraction == 1.0 else f", {100 * self.fraction:.3g}%")


def load_imdb(fraction: float = 1.0, seed: int = 0, path: str | os.PathLike | None = None) -> Reviews:
    """IMDB's reviews as raw text: 20,000 to train on, 5,000 to validate, 25,000 to test as published.

    A fraction takes so much of each part, half of it from each class; smaller fractions are parts of larger
    ones. Line breaks in HTML, IMDB's only markup, become spaces, as in `clean`.

    Args:
        fraction: of each part, in (0, 1].
        seed: of the choice and the split, not of a training run: leave it at 0, and all runs see the same.
        path: of aclImdb or its archive; by default CLORA_IMDB, or the cache.

    Raises:
        ValueError: a fraction that leaves nothing of a class in a part.
        DatasetMissing: IMDB is not on this machine and cannot be downloaded.
        DatasetDamaged: a folder or archive is not whole; the message says where and what to do.
    """
    _sizes("imdb", fraction)  # before the reading, which takes seconds
    return _reviews("imdb", _read_imdb(find_imdb(path=path)), fraction, seed)


def load_synthetic(fraction: float = 1.0, seed: int = 0) -> Reviews:
    """Generated reviews, no data: a grammar of a few words with known answers; arguments as `load_imdb`.

    Example:
        >>> reviews = load_synthetic(fraction=0.1)
        >>> len(reviews.x_train), reviews.y_train.mean().item(), reviews.title
        (40, 0.5, 'synthetic reviews (generated; no real data), 10%')
    """
    return _reviews("synthetic", _generate(), fraction, seed)


def _sizes(name: str, fraction: float) -> list[int]:
    fraction = _checks.real("fraction", fraction, 0.0, 1.0)
    sizes = [2 * round(fraction * size / 2) for size in SIZES[name]]
    if min(sizes) < 2:
        raise ValueError(
            f"`fraction` must leave a review of each class in each part of {registry.title(name)}, whose "
            f"sizes are {SIZES[name]}. Received: {fraction}."
        )
    return sizes


def _reviews(name: str, whole: dict, fraction: float, seed: int) -> Reviews:
    sizes = _sizes(name, fraction)
    rng = np.random.default_rng(seed)
    (train, val), (test,) = (
        _parts(whole[split][1], wanted, rng)
        for split, wanted in (
            ("train", list(zip(SIZES[name][:2], sizes[:2], strict=True))),
            ("test", [(SIZES[name][2], sizes[2])]),
        )
    )
    arrays = {}
    for part, chosen in (("train", train), ("val", val), ("test", test)):
        texts, labels = whole["test" if part == "test" else "train"]
        arrays |= {f"x_{part}": [clean(texts[i]) for i in chosen], f"y_{part}": labels[chosen]}
    return Reviews(name=name, fraction=fraction, **arrays)


def clean(text: str) -> str:
    """A text without HTML line breaks, which the tokeniser would spell out as four tokens each.

    Example:
        >>> clean("Good.<br /><br />Very good.")
        'Good.  Very good.'
    """
    return LINE_BREAK.sub(" ", text)


def _parts(labels, wanted, rng) -> list[np.ndarray]:
    """Indices of disjoint parts, each in mixed order; `wanted`: (whole size, size) of each."""
    parts: list[list] = [[] for _ in wanted]
    for label in (0, 1):
        order = rng.permutation(np.flatnonzero(labels == label))
        first = 0
        for part, (whole, size) in zip(parts, wanted, strict=True):
            part.append(order[first : first + size // 2])
            first += whole // 2
    # Pairs of one class each: what is asked for as a smaller fraction is the beginning of a larger one.
    return [np.stack(part, axis=1).ravel() for part in parts]


def find_imdb(download: bool = True, path: str | os.PathLike | None = None) -> Path:
    """The folder aclImdb, whole, unpacked or downloaded into the cache if it must be; see `registry.find`.

    Args:
        download: whether it may be downloaded or unpacked; without it, the archive is found as it is.
        path: of the folder, of one that holds it, or of the archive; by default CLORA_IMDB, or the cache.

    Raises:
        DatasetMissing: there is none, and it can't be downloaded.
        DatasetDamaged: it is not whole.
    """
    given = path or os.environ.get(VARIABLE)
    if not given:
        home = files.keras_dir("datasets", "aclImdb")  # where Keras would put it
        return _whole(home if home.is_dir() else _downloaded(download))
    given = Path(given).expanduser()
    if given.is_dir():
        return _whole(given / "aclImdb" if (given / "aclImdb").is_dir() else given)
    if given.is_file():
        return _whole(_unpacked(given) / "aclImdb") if download else given
    raise DatasetMissing(
        f"{given} is neither a folder nor an archive. {VARIABLE} (or `path`) must name the folder aclImdb, "
        "with train/ and test/ in it, or its archive .tar.gz or .tar.xz."
    )


def _whole(folder: Path) -> Path:
    """The folder, if all files are there."""
    counts = {}
    for split in ("train", "test"):
        for name in CLASSES:
            place = folder / split / name
            names = os.listdir(place) if place.is_dir() else []
            counts[f"{split}/{name}"] = sum(file.endswith(".txt") for file in names)
    wrong = [f"{place}: {count:,}" for place, count in counts.items() if count != COUNT]
    if wrong:
        raise DatasetDamaged(
            f"{folder} is not the whole of IMDB: {', '.join(wrong)} text files, and each folder must hold "
            f"{COUNT:,}. Was it unpacked to the end? Delete it and unpack the archive again."
        )
    return folder


def _unpacked(archive: Path) -> Path:
    """The cache's folder of what is in an archive; another one, or one that was replaced, has its own."""
    stat = archive.stat()
    key = f"{archive.resolve()} {stat.st_size} {stat.st_mtime_ns}"
    target = paths.cache_dir() / f"imdb-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
    with filelock.FileLock(target.with_name(f".{target.name}.lock")):
        if not target.is_dir():
            with tempfile.TemporaryDirectory(prefix=".imdb-", dir=target.parent) as staging:
                # Into its place only as a whole, so that a kill leaves no half of it there.
                os.replace(_unpack(archive, Path(staging)), target)
    return target


def _downloaded(allowed: bool) -> Path:
    """The official archive's aclImdb in the cache."""
    target = paths.cache_dir() / "imdb-official"
    try:
        with filelock.FileLock(target.with_name(f".{target.name}.lock")):
            if not target.is_dir():
                files.fetch(
                    ARCHIVE_URL, target, ARCHIVE_HASH, lambda file: _unpack(file, file.parent), allowed
                )
    except DatasetMissing as problem:
        raise DatasetMissing(
            f"IMDB is not cached in {target}, and {problem}. Run once with a network (84 MB), or set "
            f"{VARIABLE} to the folder aclImdb or to its archive."
        ) from problem
    return target / "aclImdb"


def _unpack(archive: Path, staging: Path) -> Path:
    """Unpack an archive's reviews, and nothing else of it, into a folder in `staging`."""
    folder = staging / "unpacked"
    folder.mkdir()
    try:
        with tarfile.open(archive) as tar:
            for member in tqdm(tar, desc=f"unpacking {archive.name}", unit="file", leave=False):
                if re.fullmatch(r"(\./)?aclImdb/(train|test)/(pos|neg)/[^/]+\.txt", member.name):
                    tar.extract(member, folder, filter="data")
    except (tarfile.TarError, EOFError, OSError) as error:
        raise DatasetDamaged(
            f"{archive} can't be unpacked ({error or type(error).__name__}): it is damaged, or not the whole "
            "archive. Copy or download it again."
        ) from error
    if not (folder / "aclImdb").is_dir():
        raise DatasetDamaged(f"{archive} holds no folder aclImdb with reviews. Take aclImdb_v1.tar.gz.")
    _whole(folder / "aclImdb")
    return folder


def _read_imdb(folder: Path) -> dict[str, tuple[list[str], np.ndarray]]:
    found = {}
    with tqdm(total=4 * COUNT, desc="reading reviews", unit="review", leave=False) as bar:
        for split in ("train", "test"):
            texts, labels = [], []
            for label, name in enumerate(CLASSES):
                for file in sorted(os.listdir(folder / split / name)):
                    if not file.endswith(".txt"):
                        continue
                    try:
                        texts.append((folder / split / name / file).read_text(encoding="utf-8"))
                    except (OSError, UnicodeDecodeError) as error:
                        raise DatasetDamaged(
                            f"{folder / split / name / file} is unreadable ({error}). Unpack it again."
                        ) from error
                    labels.append(label)
                    bar.update()
            found[split] = (texts, np.array(labels, "int32"))
    return found


# The generated reviews -----------------------------------------------------------------------------

_THINGS = ("film", "plot", "cast", "music", "ending", "story", "acting", "picture", "script", "camera work")
_GOOD = ("great", "wonderful", "moving", "clever", "superb", "funny", "beautiful", "brilliant")
_BAD = ("awful", "boring", "weak", "stupid", "terrible", "dull", "ugly", "pointless")
_FILLER = (
    "i saw it on a rainy evening with my sister .",
    "it runs for two hours and a half .",
    "the director made three films before this one .",
    "we went there by train .",
    "the book came out ten years ago .",
    "some of it was filmed in a small town by the sea .",
)
_FRAMES = ("the {thing} was {word} .", "what a {word} {thing} !", "a really {word} {thing} .")
_NEGATED = ("the {thing} was not {word} at all .", "nobody could call the {thing} {word} .")


def synthetic_review(label: int, rng: np.random.Generator) -> str:
    """A generated review: sentences that say good or bad, some of them by a negation, and neutral ones.

    Args:
        label: 0 negative, 1 positive.
        rng: what draws.

    Example:
        >>> synthetic_review(1, np.random.default_rng(0)) == synthetic_review(1, np.random.default_rng(0))
        True
    """
    sentences = []
    for _ in range(rng.integers(2, 5)):
        negated = rng.random() < 0.25
        words = _GOOD if bool(label) != negated else _BAD
        frame = rng.choice(_NEGATED if negated else _FRAMES)
        sentences.append(frame.format(thing=rng.choice(_THINGS), word=rng.choice(words)))
    sentences += list(rng.choice(_FILLER, rng.integers(0, 4), replace=False))
    return " ".join(rng.permutation(sentences))


def synthetic_vocabulary() -> list[str]:
    """A WordPiece vocabulary of all words of the generated reviews, and letters for any others.

    Example:
        >>> synthetic_vocabulary()[:5]
        ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]']
    """
    frames = " ".join((*_FRAMES, *_NEGATED, *_FILLER)).replace("{thing}", " ").replace("{word}", " ")
    words = {*frames.split(), *" ".join(_THINGS).split(), *_GOOD, *_BAD}
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    pieces = [*letters, *(f"##{letter}" for letter in letters)]
    return [
        *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
        *sorted(words | set(".,!?'\"-()")),
        *(piece for piece in pieces if piece not in words),
    ]


def _generate() -> dict[str, tuple[list[str], np.ndarray]]:
    rng = np.random.default_rng(2023)
    train, val, test = SIZES["synthetic"]
    found = {}
    for split, count in (("train", train + val), ("test", test)):
        labels = np.arange(count, dtype="int32") % 2
        found[split] = ([synthetic_review(int(label), rng) for label in labels], labels)
    return found
