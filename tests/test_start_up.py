"""TensorFlow's start-up lines appear nowhere; what else is written while it loads is not swallowed."""

import os
import re
import subprocess
import sys

import pytest

NOISE = re.compile("absl|cuda|cuInit|cpu_feature_guard|oneDNN|XLA service", re.IGNORECASE)
NATIVE = "I0000 00:00:1795765181.486999   17517 cudart_stub.cc:31] Could not find cuda drivers"
# A Keras that writes as native code does, past sys.stderr.
FAKE = """
import os
os.write(2, b"WARNING: All log messages before absl::InitializeLog() is called are written to STDERR\\n")
os.write(2, b"{native}\\n")
os.write(2, b"something else\\n")
{then}
"""


def run(program, **environment):
    plain = {name: value for name, value in os.environ.items() if not name.startswith("TF_")}
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=plain | environment
    )


def test_nothing_is_said_in_a_process_nor_in_its_workers():
    program = """
import clora_lab
import keras
keras.ops.zeros((2, 2))
model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
model.compile("sgd", "mse", jit_compile=True)
model.fit(keras.ops.zeros((4, 3)), keras.ops.zeros((4, 2)), verbose=0)
import joblib
from clora_lab import LinearDecay
print(joblib.Parallel(2)(joblib.delayed(LinearDecay)(total) for total in (10, 20)))
"""
    done = run(program)
    assert done.returncode == 0, done.stderr
    assert "total_steps=20" in done.stdout and not NOISE.search(done.stdout + done.stderr)


def test_nothing_is_said_by_a_study_nor_by_its_workers(tmp_path):
    words = ["reproduce", "toy", "dataset=digits", "method=svd", "rank=4", "epochs=1", "--jobs", "2"]
    done = subprocess.run(
        [sys.executable, "-m", "clora_lab", *words, "--out", str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert not NOISE.search(done.stdout + done.stderr)


@pytest.mark.parametrize(
    ("then", "level", "written"),
    [
        ("", None, ["something else"]),  # what is not known stays
        ("", "0", ["absl", "cudart_stub", "something else"]),  # asked for
        ("raise ImportError('no backend')", None, ["absl", "cudart_stub", "something else", "no backend"]),
    ],
)
def test_what_matters_is_written(tmp_path, then, level, written):
    (tmp_path / "keras.py").write_text(FAKE.format(native=NATIVE, then=then))
    program = "import sys; sys.argv = ['-m']\nfrom clora_lab import backend\nbackend.load()"
    chosen = {} if level is None else {"TF_CPP_MIN_LOG_LEVEL": level}
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = run(program, PYTHONPATH=path, **chosen)
    assert (done.returncode != 0) == bool(then)
    for words in ("absl", "cudart_stub", "something else", "no backend"):
        assert (words in done.stderr) == (words in written), words


def test_a_process_without_a_standard_error_loads_too(tmp_path):
    (tmp_path / "keras.py").write_text("")
    program = (
        "import os, sys; sys.argv = ['-m']; os.close(2); sys.stderr = None\n"
        "from clora_lab import backend\nbackend.load()\nprint('loaded')"
    )
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    assert run(program, PYTHONPATH=path).stdout == "loaded\n"
