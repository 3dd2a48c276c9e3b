"""Settings that must stand before Keras is imported anywhere, subprocesses included."""

import atexit
import os
import shutil
import tempfile

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ["MPLBACKEND"] = "Agg"
os.environ["CLORA_OFFLINE"] = "1"

# Always a new folder, also where the variable is set: a test must not write to a user's cache.
# KERAS_HOME stays as it is, since it says where the real data lie.
os.environ["CLORA_CACHE"] = tempfile.mkdtemp(prefix="clora-cache-")
atexit.register(shutil.rmtree, os.environ["CLORA_CACHE"], ignore_errors=True)

if "PYTEST_XDIST_WORKER" in os.environ:
    from clora_lab.lab import processes

    processes.limit_threads()  # as many processes as cores

# Files with few and long tests begin, so that no process is left alone with one of them in the end.
LONG = (
    "bench",
    "vgg16",
    "bert",
    "runner",
    "cli",
    "start_up",
    "graph",
    "slide_figures",
    "training",
    "distill",
)


def pytest_collection_modifyitems(items):
    first = {f"test_{name}.py": place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: first.get(item.path.name, len(LONG)))
