"""Settings of a process that must be made before TensorFlow is imported, so this module imports nothing."""

from __future__ import annotations

import os


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
