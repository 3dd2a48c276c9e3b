"""Where the lab keeps what it reads (`data_dir`) and what it can compute again (`cache_dir`)."""

from __future__ import annotations

import os
from pathlib import Path


def data_dir() -> Path:
    """The folder with the committed tables: `published/` and `results/`.

    In a checkout that is `data/` at its root; in an installed wheel the copy that travels with it.

    Raises:
        FileNotFoundError: neither is there (a broken installation).

    Example:

    >>> (data_dir() / "published" / "toy.csv").exists()
    True
    """
    here = Path(__file__).resolve()
    candidates = [here.parents[2] / "data", here.parents[1] / "_data"]
    for folder in candidates:
        if (folder / "published" / "toy.csv").is_file():
            return folder
    raise FileNotFoundError(
        f"The tables of clora_lab are neither in {candidates[0]} nor in {candidates[1]}: "
        "the installation is incomplete. Install the package again."
    )


def cache_dir() -> Path:
    """The folder for trained nets and the like, made on demand.

    The environment variable CLORA_CACHE, or else `~/.cache/clora_lab`.

    Raises:
        OSError: the folder cannot be made; the message names it and the variable.
    """
    folder = Path(os.environ.get("CLORA_CACHE") or "~/.cache/clora_lab").expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            f"The cache folder {folder} cannot be made ({error}). "
            "Set CLORA_CACHE to a folder that you may write to."
        ) from error
    return folder
