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
import socket
import tarfile
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import filelock
import numpy as np
from tqdm.auto import tqdm

from clora_lab import _checks
from clora_lab.lab import paths
from clora_lab.lab.data import datasets
from clora_lab.lab.data.datasets import DatasetDamaged, DatasetMissing

NAMES = ("auto", "imdb", "synthetic")
TITLES = {"imdb": "IMDB", "synthetic": "synthetic reviews (generated; no real data)"}
CLASSES = ("neg", "pos")  # in the order of the labels: 0 and 1
VARIABLE = "CLORA_IMDB"
COUNT = 12_500  # files in each of the four folders
SIZES = {"imdb": (20_000, 5_000, 25_000), "synthetic": (400, 100, 200)}
ARCHIVE_URL = "https://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz"
ARCHIVE_MD5 = "7c2ac02c03563afcf9b574c7e56c153a"
LINE_BREAK = re.compile(r"<br\s*/?>", re.IGNORECASE)


@dataclass(frozen=True, eq=False)
class Reviews:
    """Raw texts and labels in three parts, stratified: as many negative as positive ones.

    Args:
        name: "imdb" or "synthetic".
        title: the name for titles of figures and tables, with the share where it is not the whole.
        x_train, x_val, x_test: lists of str.
        y_train, y_val, y_test: int32, shape (n,); 0 negative, 1 positive.
        fraction: share of the whole, of each part.
    """

    name: str
    title: str
    x_train: list[str] = field(repr=False)
    y_train: np.ndarray = field(repr=False)
    x_val: list[str] = field(repr=False)
    y_val: np.ndarray = field(repr=False)
    x_test: list[str] = field(repr=False)
    y_test: np.ndarray = field(repr=False)
    fraction: float = 1.0


def resolve(name: str = "auto", path: str | os.PathLike | None = None) -> str:
    """The data that `name` stands for: "auto" is IMDB where it can be had, else synthetic, with a warning.

    Raises:
        ValueError: unknown name.
        DatasetDamaged: "auto", and what is there is damaged (that is never passed over).

    Example:
        >>> resolve("synthetic")
        'synthetic'
    """
    if _checks.one_of("name", name, NAMES) != "auto":
        return name
    try:
        imdb_dir(path)
    except DatasetMissing as error:
        warnings.warn(f"'auto' takes the synthetic reviews. {error}", stacklevel=2)
        return "synthetic"
    return "imdb"


def load(
    name: str = "auto", fraction: float = 1.0, seed: int = 0, path: str | os.PathLike | None = None
) -> Reviews:
    """Load reviews as raw text, split into training, validation and test parts.

    IMDB: of the 25,000 training reviews 20,000 to train on and 5,000 to validate; the 25,000 test reviews
    as published. A fraction takes so much of each part, half of it from each class; smaller fractions are
    parts of larger ones. Line breaks in HTML, IMDB's only markup, become spaces, as in `clean`.

    Args:
        name: "auto", "imdb" or "synthetic"; see `resolve`.
        fraction: of each part, in (0, 1].
        seed: of the choice and the split, not of a training run: leave it at 0, and all runs see the same.
        path: of aclImdb or its archive; by default CLORA_IMDB, or the cache.

    Raises:
        ValueError: unknown name, or a fraction that leaves nothing of a class in a part.
        DatasetMissing: IMDB is not on this machine and cannot be downloaded.
        DatasetDamaged: a folder or archive is not whole; the message says where and what to do.

    Example:
        >>> reviews = load("synthetic", fraction=0.1)
        >>> len(reviews.x_train), reviews.y_train.mean().item(), reviews.title
        (40, 0.5, 'synthetic reviews (generated; no real data), 10%')
    """
    fraction = _checks.real("fraction", fraction, 0.0, 1.0)
    name = resolve(name, path)
    sizes = [2 * round(fraction * size / 2) for size in SIZES[name]]
    if min(sizes) < 2:
        raise ValueError(
            f"`fraction` must leave a review of each class in each part of {TITLES[name]}, whose sizes are "
            f"{SIZES[name]}. Received: {fraction}."
        )
    whole = _read_imdb(imdb_dir(path)) if name == "imdb" else _generate()
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
    title = TITLES[name] + ("" if fraction == 1.0 else f", {100 * fraction:.3g}%")
    return Reviews(name=name, title=title, fraction=fraction, **arrays)


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


def imdb_dir(path: str | os.PathLike | None = None) -> Path:
    """The folder aclImdb, whole; unpacked or downloaded into the cache if it must be and can be.

    Args:
        path: of the folder, of one that holds it, or of the archive; by default CLORA_IMDB, or the cache.

    Raises:
        DatasetMissing: there is none, and it can't be downloaded.
        DatasetDamaged: it is not whole.
    """
    given = path or os.environ.get(VARIABLE)
    if not given:
        home = datasets.fashion_mnist_dir().parent / "aclImdb"  # where Keras would put it
        if home.is_dir():
            return _whole(home)
        return _unpacked(None)
    given = Path(given).expanduser()
    if given.is_dir():
        return _whole(given / "aclImdb" if (given / "aclImdb").is_dir() else given)
    if given.is_file():
        return _unpacked(given)
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


def _unpacked(archive: Path | None) -> Path:
    """The archive's aclImdb in the cache; None for the official one, downloaded if need be."""
    key = "official"
    if archive is not None:  # another archive, or one that was replaced, has a place of its own
        stat = archive.stat()
        key = hashlib.sha256(f"{archive.resolve()} {stat.st_size} {stat.st_mtime_ns}".encode()).hexdigest()[
            :12
        ]
    target = paths.cache_dir() / f"imdb-{key}"
    with filelock.FileLock(paths.cache_dir() / f".imdb-{key}.lock"):
        if not target.is_dir():
            with tempfile.TemporaryDirectory(prefix=".imdb-", dir=paths.cache_dir()) as staging:
                packed = archive or _download(Path(staging))
                _unpack(packed, Path(staging) / "unpacked")
                # Into its place only as a whole, so that a kill leaves no half of it there.
                os.replace(Path(staging) / "unpacked", target)
    return _whole(target / "aclImdb")


def _unpack(archive: Path, folder: Path) -> None:
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


def _download(folder: Path) -> Path:
    otherwise = f"set {VARIABLE} to the folder aclImdb or to its archive, or take the synthetic reviews"
    datasets.require_network("IMDB", otherwise)
    timeout = socket.getdefaulttimeout()
    # Keras sets no timeout of its own: a stalled connection would hang for ever.
    socket.setdefaulttimeout(30.0)
    try:
        import keras

        name = ARCHIVE_URL.rsplit("/", 1)[1]
        md5 = {"file_hash": ARCHIVE_MD5, "hash_algorithm": "md5"}
        return Path(keras.utils.get_file(name, ARCHIVE_URL, cache_dir=folder, cache_subdir=".", **md5))
    except Exception as error:  # Keras raises bare Exception for a failed download
        raise DatasetMissing(
            f"IMDB could not be downloaded ({error}). Try again with a network (84 MB), or {otherwise}."
        ) from error
    finally:
        socket.setdefaulttimeout(timeout)


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


# Tokens ---------------------------------------------------------------------------------------------


def tokenise(texts: Sequence[str], tokenizer, length: int, cached: bool = True) -> dict[str, np.ndarray]:
    """What a KerasHub BERT takes for these texts, by KerasHub's own tokeniser and preprocessor.

    "[CLS] text [SEP]", cut or padded to `length`. KerasHub does about 1,400 reviews a second, so the
    token ids are kept in `cache_dir()`, under a name made of the vocabulary, the tokeniser's settings, the
    length and the texts: another one of these gives another file.

    Args:
        texts: raw.
        tokenizer: a `keras_hub.models.BertTokenizer`.
        length: of the sequences, in tokens, special ones included; at least 3.
        cached: whether to look into the cache and write to it.

    Returns:
        `token_ids`, `segment_ids` (all 0) and `padding_mask` (1 where there is a token), int32 arrays of
        shape (n, length).

    Raises:
        ValueError: if `length` leaves no room for a token, or there are no texts.
    """
    length = _checks.positive_int("length", length)
    if length < 3 or not len(texts):
        raise ValueError(
            "`length` must be at least 3, for [CLS], a token and [SEP], and `texts` must not be empty. "
            f"Received: length={length} and {len(texts)} texts."
        )
    file = paths.cache_dir() / f"tokens-{_token_key(texts, tokenizer, length)}.npz"
    if cached and file.exists():
        try:
            with np.load(file) as stored:
                ids = stored["token_ids"]
            if ids.shape == (len(texts), length):
                return model_inputs(ids, tokenizer.pad_token_id)
        except Exception as error:  # NumPy, zipfile and zlib raise many kinds
            warnings.warn(f"{file} is damaged ({error}) and is made anew.", stacklevel=2)
    ids = _token_ids(texts, tokenizer, length)
    if cached:
        kind = "uint16" if tokenizer.vocabulary_size() <= 1 << 16 else "int32"  # half the file
        with tempfile.NamedTemporaryFile(dir=file.parent, prefix=".tokens-", delete=False) as part:
            np.savez(part, token_ids=ids.astype(kind))
        os.replace(part.name, file)
    return model_inputs(ids, tokenizer.pad_token_id)


def model_inputs(token_ids: np.ndarray, pad: int = 0) -> dict[str, np.ndarray]:
    """The three inputs of a BERT of KerasHub from the ids of single texts, shape (n, length).

    Example:
        >>> model_inputs(np.array([[101, 7, 102, 0]]))["padding_mask"].tolist()
        [[1, 1, 1, 0]]
    """
    ids = np.asarray(token_ids).astype("int32")
    return {
        "token_ids": ids,
        "segment_ids": np.zeros_like(ids),
        "padding_mask": (ids != pad).astype("int32"),
    }


def _token_ids(texts, tokenizer, length) -> np.ndarray:
    import keras_hub

    preprocessor = keras_hub.models.BertTextClassifierPreprocessor(tokenizer, sequence_length=length)
    step, parts = 500, []
    with tqdm(
        total=len(texts), desc="tokenising", unit="text", leave=False, disable=len(texts) < 5_000
    ) as bar:
        for first in range(0, len(texts), step):
            part = list(texts[first : first + step])
            parts.append(np.asarray(preprocessor(part)["token_ids"], "int32"))
            bar.update(len(part))
    return np.concatenate(parts)


def _token_key(texts, tokenizer, length) -> str:
    found = hashlib.sha256()
    config = {
        key: value for key, value in tokenizer.get_config().items() if key not in ("name", "vocabulary")
    }
    for piece in (repr(sorted(config.items(), key=lambda item: item[0])), str(length)):
        found.update(piece.encode() + b"\0")
    for piece in (*tokenizer.get_vocabulary(), "", *texts):
        found.update(piece.encode("utf-8", "surrogatepass") + b"\0")
    return found.hexdigest()[:20]


def status(path: str | os.PathLike | None = None) -> list[dict]:
    """What is on this machine, without a download: rows as in `datasets.status`.

    Returns:
        One dict with dataset, file, path, state ("intact", "missing", "damaged", or
        "packed": an archive, to be unpacked at the first use) and bytes (0: not counted).
    """
    given = path or os.environ.get(VARIABLE)
    place = Path(given).expanduser() if given else paths.cache_dir() / "imdb-official/aclImdb"
    if not given and not place.exists():
        place = datasets.fashion_mnist_dir().parent / "aclImdb"
    state, size = "missing", 0
    if place.is_file():
        state, size = "packed", place.stat().st_size
    elif place.is_dir():
        try:
            _whole(place / "aclImdb" if (place / "aclImdb").is_dir() else place)
            state = "intact"
        except DatasetDamaged:
            state = "damaged"
    return [{"dataset": "imdb", "file": place.name, "path": str(place), "state": state, "bytes": size}]
