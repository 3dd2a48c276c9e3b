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
