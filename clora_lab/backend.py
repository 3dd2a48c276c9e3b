"""Keras is loaded here first, so that TensorFlow's start-up lines stay out of terminals and notebooks."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile

# What TensorFlow writes while it loads, before it reads its own log level: that there is no GPU, or which
# instructions it was compiled for. None of it is an error.
START_UP = re.compile(
    rb"WARNING: All log messages before absl|[IW]\d{4} [\d:. ]+\S+:\d+\] |To enable the follow"
    rb"|E\d{4} [\d:. ]+cuda\S+:\d+\] failed call to cuInit"
)


def load() -> None:
    """Import Keras and its backend; TensorFlow's start-up lines are dropped, all else that is written stays.

    They come from native code, past `sys.stderr` and past TF_CPP_MIN_LOG_LEVEL, so file descriptor 2 is
    turned aside meanwhile. If loading fails, everything that was written appears. Set TF_CPP_MIN_LOG_LEVEL=0
    beforehand to see it all.

    Example:
        >>> load()
    """
    if os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3") < "2" or "keras" in sys.modules:
        import keras  # noqa: F401

        return
    with _without_start_up_lines():
        import keras  # noqa: F401

        if tensorflow := sys.modules.get("tensorflow"):
            # Or CUDA says with the first operation that it is not there.
            tensorflow.config.list_physical_devices()


@contextlib.contextmanager
def _without_start_up_lines():
    try:
        sys.stderr.flush()
        screen = os.dup(2)
    except (AttributeError, OSError):  # a process without a standard error
        yield
        return
    dropped = START_UP
    with tempfile.TemporaryFile() as kept:
        os.dup2(kept.fileno(), 2)
        try:
            yield
        except BaseException:
            dropped = re.compile(rb"(?!)")  # matches nothing: now every line may matter
            raise
        finally:
            with contextlib.suppress(Exception):
                sys.stderr.flush()
            os.dup2(screen, 2)
            os.close(screen)
            kept.seek(0)
            for line in kept:
                if not dropped.match(line):
                    os.write(2, line)
