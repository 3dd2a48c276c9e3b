"""Writes the fixtures: ``python tests/write_pins.py {files,numbers,names,texts}``.

What the fixtures hold was made by the first edition, and is there to be compared with: write again only
what is meant to change, and say so. A backend is added where its numbers differ from TensorFlow's.
"""

import inspect
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import pinned
import test_pins
from nets import BACKEND
from test_pins import FIXTURES, fixture

import clora_lab as cl

CLOSE = 1e-5


def write(name, value):
    """A JSON file with a line for each entry of the two upper levels, sorted."""
    (FIXTURES / name).write_text(f"{_lines(value, 2)}\n", encoding="utf-8")


def _lines(value, levels, indent=""):
    if not levels or not isinstance(value, dict):
        return json.dumps(value, sort_keys=True, ensure_ascii=False)
    inner = (
        f"{indent} {json.dumps(k)}: {_lines(v, levels - 1, indent + ' ')}" for k, v in sorted(value.items())
    )
    return "{\n" + ",\n".join(inner) + f"\n{indent}}}"


def add(numbers, name, values):
    """Put the numbers of this backend in, if they are not those of TensorFlow."""
    by_backend = numbers.setdefault(name, {})
    by_backend.pop(BACKEND, None)
    if BACKEND == "tensorflow" or not np.allclose(values, by_backend["tensorflow"], rtol=0.0, atol=CLOSE):
        by_backend[BACKEND] = values


def files():
    """The nets of `pinned.old_files`, on TensorFlow; the numbers are then to be written on every backend."""
    assert BACKEND == "tensorflow"
    found = {}
    for file, model in pinned.old_files().items():
        path = FIXTURES / file
        cl.save_recipe(model, path) if file.startswith("recipe") else model.save(path)
        found[file] = pinned.described(test_pins.load(file))
    write("old_files.json", {"files": found, "numbers": {}})


def numbers():
    """What the old files give, and the nets of `pinned.CASES`, on this backend."""
    known = fixture("old_files.json")
    for name, values in test_pins.numbers_of_old_files():
        add(known["numbers"], name, values)
    write("old_files.json", known)
    path = FIXTURES / "finalized_outputs.json"
    known = fixture(path.name) if path.exists() else {}
    for case in pinned.CASES:
        for name in pinned.names(case):
            add(known.setdefault(case, {}), name, pinned.outputs(pinned.trained(name)))
        print(case, flush=True)
    write(path.name, known)


MODULES = {
    "accounting": ["CONVENTIONS", "ENCODER_CONVENTIONS", "ratio", "report"],
    "callbacks": ["DecayCallback"],
    "layers": ["CLoRA", "DecayNotMovingWarning"],
    "noise": [
        "JITTER", "NoiseLaw", "kernel_noise", "moments", "output_noise", "prefers_output", "quantiles_of",
    ],
    "schedules": [
        "ConstantDecay", "CosineDecay", "ExponentialDecay", "LinearDecay", "NoiseGate", "PolynomialDecay",
        "SCHEDULES", "Schedule", "StepDecay", "from_dict", "get",
    ],
    "surgery": ["VIEWS", "clora_layers", "compress", "finalize", "view"],
}  # fmt: skip


def names():
    """Public names and signatures."""
    functions = {name: value for name in cl.__all__ if callable(value := getattr(cl, name))}
    functions = {name: value for name, value in functions.items() if not name.endswith("Warning")}
    public = {
        "all": cl.__all__,
        "conventions": [*cl.CONVENTIONS, *cl.ENCODER_CONVENTIONS],
        "modules": MODULES,
        "parameters": {name: test_pins.parameters(value) for name, value in functions.items()},
        # For a reader: with types, and all defaults.
        "signatures": {name: str(inspect.signature(value)) for name, value in functions.items()},
    }
    write("public.json", public)


def texts():
    """Alt texts of the figures, and the audit."""
    with tempfile.TemporaryDirectory() as folder:
        write("alt_texts.json", test_pins.alt_texts(test_pins.old_rows(Path(folder))))
    test_pins.audit_table().to_csv(FIXTURES / "audit.csv", index=False, lineterminator="\n")


if __name__ == "__main__":
    {"files": files, "numbers": numbers, "names": names, "texts": texts}[sys.argv[1]]()
