"""Files in Keras' own cache: where they lie, whether they are whole, and how they get there.

Keras reads KERAS_HOME once, at its import; this reads it at each call, so set it before that and the two
agree. A download goes to a temporary folder beside its place, by pooch, and moves into place only once it has
passed its check. What is in the cache already is never altered or deleted.
"""

from __future__ import annotations

import functools
import hashlib
import os
import tempfile
import threading
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

from clora_lab.lab.data.registry import DatasetDamaged, DatasetMissing

PROBE_SECONDS = 4.0  # for the first answer, name lookup included
STALL_SECONDS = 4.0  # without a byte, in the middle of a download


def keras_dir(*parts: str) -> Path:
    """A folder of Keras' cache, from KERAS_HOME as it is now, by Keras' own rule.

    Example:
        >>> keras_dir("datasets", "fashion-mnist").name
        'fashion-mnist'
    """
    home = os.environ.get("KERAS_HOME")
    if not home:
        user = os.path.expanduser("~")
        home = os.path.join(user if os.access(user, os.W_OK) else "/tmp", ".keras")
    return Path(home).expanduser().joinpath(*parts)


def lacking(folder: Path, files: Mapping[str, str], opened: Callable = open) -> list[str]:
    """The files that a folder lacks.

    Args:
        folder: of the cache.
        files: name -> MD5 of its bytes as `opened` reads them.
        opened: `open`, or `gzip.open` where the unpacked bytes are what was published.

    Raises:
        DatasetDamaged: a file is there and is another one.
    """
    missing = []
    for name, md5 in files.items():
        found = md5_of(folder / name, opened)
        if found is None:
            missing.append(name)
        elif found != f"MD5 {md5}":
            unpacked = " of the unpacked bytes" if opened is not open else ""
            raise DatasetDamaged(
                f"{folder / name} is damaged: expected MD5 {md5}{unpacked}, found {found}. "
                "Delete that file and run again: it is then downloaded anew."
            )
    return missing


def md5_of(path: Path, opened: Callable = open) -> str | None:
    """ "MD5 ..." of what `opened` reads from a file, or what is wrong with it; None if there is none."""
    try:
        stat = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        return f"an unreadable file ({error})"
    return _read_md5(path, opened, stat.st_size, stat.st_mtime_ns)


def fetch(
    url: str,
    target: Path,
    known_hash: str | None = None,
    unpack: Callable[[Path], Path] | None = None,
    allowed: bool = True,
) -> None:
    """Download one file, and put it or what is in it at `target`, whole or not at all.

    Args:
        url: of the file.
        target: a file or folder that is not there yet.
        known_hash: of the file, as pooch writes it, such as "md5:7c2ac02c...".
        unpack: takes the downloaded file, leaves all else alone, and returns what shall move to `target`; it
            raises for what it can't use.
        allowed: whether to download at all; else `DatasetMissing` is raised at once.

    Raises:
        DatasetMissing: with the reason alone, such as "CLORA_OFFLINE forbids a download". The caller says
            what is missing and what to do.
    """
    problem = no_network(url) if allowed else "nothing was downloaded"
    if problem:
        raise DatasetMissing(problem)
    import pooch
    from tqdm.auto import tqdm

    pooch.get_logger().setLevel("WARNING")
    name = url.rsplit("/", 1)[1]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with (
            tempfile.TemporaryDirectory(prefix=".download-", dir=target.parent) as staging,
            tqdm(desc=name, total=1, unit="B", unit_scale=True, leave=False) as bar,  # pooch sets the total
        ):
            get = pooch.HTTPDownloader(bar, chunk_size=1 << 16, timeout=(PROBE_SECONDS, STALL_SECONDS))
            got = Path(pooch.retrieve(url, known_hash, name, staging, downloader=get))
            os.replace(unpack(got) if unpack else got, target)
    except DatasetDamaged as error:
        raise DatasetMissing(f"the download of {name} arrived damaged ({error})") from error
    except Exception as error:  # requests, pooch, tarfile and the file system raise many kinds
        raise DatasetMissing(f"the download failed ({error})") from error


def no_network(url: str) -> str:
    """Why nothing can be downloaded from there now, within seconds; "" if it can."""
    if os.environ.get("CLORA_OFFLINE", "0") not in ("", "0"):
        return "CLORA_OFFLINE forbids a download"
    answer = []

    def ask():
        import requests

        try:
            requests.head(url, timeout=PROBE_SECONDS, allow_redirects=True)
            answer.append("")
        except Exception as error:  # whatever it is, the user reads it in the message
            answer.append(f"the download server cannot be reached ({error})")

    # A name lookup takes no timeout, so it runs in a thread that may be left behind.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS)
    return answer[0] if answer else f"the download server gave no answer within {PROBE_SECONDS:g} s"


@functools.lru_cache(maxsize=64)
def _read_md5(path: Path, opened: Callable, size: int, mtime_ns: int) -> str:
    """As `md5_of`; size and time are there to make a changed file be read again."""
    found = hashlib.md5(usedforsecurity=False)
    try:
        with opened(path, "rb") as file:
            while chunk := file.read(1 << 20):
                found.update(chunk)
    except (OSError, EOFError, zlib.error) as error:
        return f"a truncated or unreadable file ({error or type(error).__name__})"
    return f"MD5 {found.hexdigest()}"
