"""From texts to what a BERT takes: a text as one sequence (`tokenise`), or whole in pieces (`pieces`)."""

from __future__ import annotations

import hashlib
import os
import tempfile
import warnings
from collections.abc import Sequence

import numpy as np
from tqdm.auto import tqdm

from clora_lab import _checks
from clora_lab.lab import paths


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


def pieces(texts: Sequence[str], tokenizer, length: int) -> tuple[np.ndarray, np.ndarray]:
    """All of the texts in pieces "[CLS] tokens [SEP]" of one length, the last of each padded.

    Returns:
        ids: int32, shape (n, length). A last piece of fewer than 16 tokens is dropped, unless it is the only
            one.
        owners: int64, shape (n,): which text a piece is of.
    """
    room, found, owners = length - 2, [], []
    with tqdm(
        total=len(texts), desc="tokenising", unit="text", leave=False, disable=len(texts) < 5_000
    ) as bar:
        for first in range(0, len(texts), 500):
            for owner, row in enumerate(tokenizer(list(texts[first : first + 500])), first):
                row = np.asarray(row)
                for begin in range(0, len(row), room):
                    part = row[begin : begin + room]
                    if len(part) < 16 and begin:
                        continue
                    piece = np.full(length, tokenizer.pad_token_id, "int32")
                    piece[: len(part) + 2] = [tokenizer.cls_token_id, *part, tokenizer.sep_token_id]
                    found.append(piece)
                    owners.append(owner)
            bar.update(len(texts[first : first + 500]))
    return (np.stack(found) if found else np.zeros((0, length), "int32")), np.array(owners, "int64")
