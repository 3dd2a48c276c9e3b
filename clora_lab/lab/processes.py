"""What a process needs beside its work; nothing here imports TensorFlow, which some of it must precede."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator


def limit_threads() -> None:
    """One thread a process, for libraries that are not imported yet: runs in parallel share the cores.

    Sets environment variables of this process and its children, where they are not set already; also
    silences TensorFlow's start-up messages (that there is no GPU is not an error here).

    Example:
        >>> limit_threads()
        >>> "OMP_NUM_THREADS" in os.environ
        True
    """
    for name in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
        os.environ.setdefault(name, "1")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


@contextlib.contextmanager
def interrupted_later() -> Iterator[None]:
    """Let Ctrl-C wait for the end of a block: in a callback of the garbage collector Python would drop it.

    Example:
        >>> with interrupted_later():
        ...     pass
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    seen: list = []
    before = signal.signal(signal.SIGINT, lambda *signal_and_frame: seen.append(signal_and_frame))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL if before is None else before)
    if seen:
        signal.raise_signal(signal.SIGINT)
