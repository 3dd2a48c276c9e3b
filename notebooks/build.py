"""Execute the notebooks and build the hand-outs: `make notebooks`, `make exercises`.

    python notebooks/build.py run notebooks/01_lora.py ...   writes the executed .ipynb beside each source
    python notebooks/build.py exercises                      out/exercises/{student,teacher}/NN_name.ipynb

The .py files are the sources. An .ipynb keeps the SHA-256 of the source that it was executed from, so
that a test can tell when its outputs are stale.
"""

from __future__ import annotations

import collections
import hashlib
import re
import subprocess
import sys
from pathlib import Path

import jupytext
from nbclient import NotebookClient
from nbconvert.preprocessors import CoalesceStreamsPreprocessor

HERE = Path(__file__).resolve().parent
SOURCES = "[0-9][0-9]_*.py"
BAR = re.compile(r".*\b\d+(epoch|run|it) \[|.*%\|.*\[.*<.*\]")  # as tqdm prints one
HIDDEN = {"student": "solution", "teacher": "student"}  # version -> tag of the cells that it lacks


def digest(source: Path) -> str:
    """SHA-256 of a source's text, the same on every platform."""
    return hashlib.sha256(source.read_text(encoding="utf-8").encode()).hexdigest()


def run(source: Path) -> Path:
    """Execute a source from its own folder and write the .ipynb with its outputs, and a stamp, beside it.

    Every output is new: `jupytext --update --execute` would put the former ones back in.
    """
    stamp = digest(source)  # before: the source may be edited while it runs
    notebook = jupytext.read(source)
    place = {"metadata": {"path": str(source.parent)}}
    # No times of day, which would change every cell; no widget states, which are large and have pictures.
    settings = {"record_timing": False, "store_widget_state": False, "timeout": None}
    NotebookClient(notebook, kernel_name="python3", resources=place, **settings).execute()
    notebook, _ = CoalesceStreamsPreprocessor().preprocess(notebook, {})  # one text, however it was flushed
    met = collections.Counter()
    for cell in notebook.cells:
        name = hashlib.sha256(cell.source.encode()).hexdigest()[:8]
        met[name] += 1
        cell.id = f"{name}-{met[name]}"  # the same at each execution
        if cell.cell_type == "code":
            cell.outputs = [output for output in map(_clean, cell.outputs) if output]
    notebook.metadata["clora_lab"] = {"source_sha256": stamp}
    target = source.with_suffix(".ipynb")
    jupytext.write(notebook, target)
    return target


def _clean(output):
    """An output as a reader sees it once it is done: without progress bars; None if nothing is left of it."""
    if output.output_type == "stream" and output.name == "stderr" and not output.text.strip():
        return None  # what a bar leaves behind
    if BAR.match(output.get("data", {}).get("text/plain", "")):
        return None
    return output


def exercises(folder: Path) -> None:
    """Write a version for students, without solutions, and one for teachers, without scaffolds."""
    for version, tag in HIDDEN.items():
        command = [sys.executable, "-m", "nbconvert", "--log-level=WARN", "--to", "notebook"]
        remove = f"--TagRemovePreprocessor.remove_cell_tags={tag}"
        notebooks = sorted(HERE.glob(SOURCES.replace(".py", ".ipynb")))
        subprocess.run(
            [
                *command,
                "--TagRemovePreprocessor.enabled=True",
                remove,
                "--output-dir",
                folder / version,
                *notebooks,
            ],
            check=True,
        )


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["run", *sources] if sources:
            for source in map(Path, sources):
                print(source, flush=True)
                run(source)
        case ["exercises"]:
            exercises(HERE.parent / "out" / "exercises")
        case _:
            sys.exit(__doc__)
