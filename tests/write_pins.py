"""Writes the fixtures that are numbers of this backend: ``python tests/write_pins.py {files,numbers}``.

What the fixtures hold was made by the first edition, and is there to be compared with: write again only
what is meant to change, and say so. A backend is added where its numbers differ from TensorFlow's.
"""

import json
import sys

import numpy as np
import pinned
import test_pins
from nets import BACKEND
from test_pins import FIXTURES, fixture

import clora_lab as cl

CLOSE = 1e-5


def write(name, value):
    """A JSON file with a line for each entry of the two upper levels, sorted."""
    lines = []
    for key, entry in sorted(value.items()):
        inner = ",\n".join(f"  {json.dumps(k)}: {_line(v)}" for k, v in sorted(entry.items()))
        lines.append(f" {json.dumps(key)}: {{\n{inner}\n }}")
    (FIXTURES / name).write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def _line(value):
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


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


if __name__ == "__main__":
    {"files": files, "numbers": numbers}[sys.argv[1]]()
