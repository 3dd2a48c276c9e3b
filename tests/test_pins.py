"""What was there before stays: names of recorded runs, public names, old files, outputs, texts.

The fixtures were made by the code of the first edition; tests/fixtures/README.md says how. These tests ask
only what is promised, so they hold for any code behind it.
"""

import csv
import importlib
import inspect
import json
from pathlib import Path

import keras
import nets
import numpy as np
import pinned
import pytest

import clora_lab as cl

FIXTURES = Path(__file__).parent / "fixtures"
RESULTS = Path(__file__).parents[1] / "data" / "results"


def fixture(name):
    return json.loads((FIXTURES / name).read_text(encoding="utf-8"))


# --- where things live now: the only lines of this file that a move of theirs changes ------------------


def name_of(experiment, fields):
    """The name in the results of the run with these fields: `config`."""
    from clora_lab import studies

    study = fields.get("study", experiment)
    return studies.get(study if study in studies.HOMES else experiment).run(**fields).config


def drawings(results):
    """Stem of a file -> a function that draws it, or the sentence why there is none; from recorded rows."""
    from clora_lab import studies
    from clora_lab.slides import measured
    from clora_lab.slides.figures import slide_figures

    toy = studies.recorded("toy", results)
    found = dict(measured.toy_figures(toy.read(), toy.read_history(), "fashion_mnist"))
    for figure in slide_figures(results, "en"):
        found |= {f"{figure.stem}_published": figure.published, f"{figure.stem}_measured": figure.measured}
    return found


def alt_text(figure):
    from clora_lab.lab.figures import style

    return style.alt_text(figure)


def audit_table():
    from clora_lab.slides import audit

    return audit.audit()


# --- recorded runs -------------------------------------------------------------------------------------

RUNS = fixture("runs.json")


def first_rows(study):
    """config -> the first row of its block, of every recorded run."""
    with (RESULTS / f"{study}.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return {row["config"]: row for row in reversed(rows)}


@pytest.mark.parametrize("study", RUNS["runs"])
def test_recorded_runs_keep_their_names(study):
    experiment = RUNS["studies"][study]["experiment"]
    named = {config: name_of(experiment, fields) for config, fields in RUNS["runs"][study].items()}
    assert named == {config: config for config in named}


@pytest.mark.parametrize("study", RUNS["runs"])
def test_every_recorded_run_of_old_is_there_and_its_columns_are_its_fields(study):
    kind = RUNS["studies"][study]["experiment"]
    recorded = first_rows(study)
    for config, fields in RUNS["runs"][study].items():
        row = recorded[config]
        fields = {**RUNS["experiments"][kind]["defaults"], **fields}
        for name, value in fields.items():
            text = row.get(name, "")
            if text == "":  # no such column, or one that says nothing of this method
                continue
            if name == "augment":
                assert value is True, (config, name)
            elif name == "noise_gate":
                assert float(text) == {"scheduled": 0.3, "until_end": 0.0}.get(value, value), (config, name)
            else:
                assert type(value)(text) == value, (config, name)


def test_all_recorded_runs_of_old_are_proved():
    assert sum(map(len, RUNS["runs"].values())) == 634 and not RUNS["unproved"]


# --- numbers -------------------------------------------------------------------------------------------

OUTPUTS = fixture("finalized_outputs.json")
OLD = fixture("old_files.json")


def expected(by_backend):
    """Of this backend; where it agreed with TensorFlow to 1e-5 it has no numbers of its own."""
    return by_backend.get(nets.BACKEND, by_backend["tensorflow"])


def assert_close(values, by_backend, name):
    np.testing.assert_allclose(values, expected(by_backend), rtol=5e-5, atol=5e-5, err_msg=name)


@pytest.mark.parametrize("case", pinned.CASES)
def test_finalized_nets_give_what_they_gave(case):
    assert sorted(OUTPUTS[case]) == sorted(pinned.names(case))
    for name in pinned.names(case):
        # How a pair starts is NumPy's to say, and JAX compiles each net for seconds: one start will do.
        if nets.BACKEND != "jax" or "/lora_inputs/" in name:
            assert_close(pinned.outputs(pinned.trained(name)), OUTPUTS[case][name], name)


def load(file):
    """A net of the fixtures, by name; recipes are folders."""
    path = FIXTURES / file
    return cl.load_recipe(path) if path.is_dir() else keras.saving.load_model(path)


def numbers_of_old_files(files=None):
    """(name, numbers) of what the files give as they are, and of what those in mid-training go on to."""
    for file in files or OLD["files"]:
        model = load(file)
        yield file, pinned.outputs(model)
        if cl.clora_layers(model):
            yield f"{file}, trained on", pinned.outputs(pinned.trained_on(model))


@pytest.mark.parametrize("file", OLD["files"])
def test_old_files_load_and_stand_where_they_stood(file):
    assert pinned.described(load(file)) == OLD["files"][file]


@pytest.mark.parametrize("file", OLD["files"])
def test_old_files_give_what_they_gave_and_train_on(file):
    found = dict(numbers_of_old_files([file]))
    assert sorted(found) == sorted(name for name in OLD["numbers"] if name.split(",")[0] == file)
    for name, values in found.items():
        assert_close(values, OLD["numbers"][name], name)


# --- public names --------------------------------------------------------------------------------------

PUBLIC = fixture("public.json")


def parameters(function):
    """The parameters as they are written, without types; the default of `factorization` is left out."""
    found = []
    for parameter in inspect.signature(function).parameters.values():
        changes = {"default": parameter.empty} if parameter.name == "factorization" else {}
        keyword = "keyword only: " if parameter.kind is parameter.KEYWORD_ONLY else ""
        found.append(f"{keyword}{parameter.replace(annotation=parameter.empty, **changes)}")
    return found


def test_public_names_stay():
    assert [name for name in PUBLIC["all"] if name not in cl.__all__ or not hasattr(cl, name)] == []
    for module, names in PUBLIC["modules"].items():
        found = importlib.import_module(f"clora_lab.{module}")
        assert [name for name in names if not hasattr(found, name)] == [], module


@pytest.mark.parametrize("name", PUBLIC["parameters"])
def test_signatures_stay_and_may_grow(name):
    now, wanted = parameters(getattr(cl, name)), PUBLIC["parameters"][name]
    assert [parameter for parameter in now if parameter in wanted] == wanted
    added = [parameter for parameter in now if parameter not in wanted]
    assert [parameter for parameter in added if "=" not in parameter and "*" not in parameter] == []


def test_ways_to_count_stay():
    assert set(PUBLIC["conventions"]) <= {*cl.CONVENTIONS, *cl.ENCODER_CONVENTIONS}


# --- texts ---------------------------------------------------------------------------------------------

# Those of a net that would have to be trained first.
TRAINED = ("slide_14_noise", "slide_14_noise_measured")


def alt_texts(results):
    """Stem -> alt text, or the sentence why there is no figure."""
    found = {}
    for stem, draw in drawings(results).items():
        if stem not in TRAINED:
            found[stem] = draw if isinstance(draw, str) else alt_text(draw())
    return found


def old_rows(folder):
    """The recorded results as they were: files with the rows of the runs in runs.json alone."""
    for study, runs in RUNS["runs"].items():
        for name in (f"{study}.csv", f"{study}_history.csv"):
            with (RESULTS / name).open(encoding="utf-8", newline="") as file:
                header, *rows = csv.reader(file)
            config = header.index("config")
            with (folder / name).open("w", encoding="utf-8", newline="") as file:
                kept = (row for row in rows if row[config] in runs)
                csv.writer(file, lineterminator="\n").writerows([header, *kept])
    return folder


@pytest.mark.slow
def test_figures_say_what_they_said(tmp_path):
    known = fixture("alt_texts.json")
    found = alt_texts(old_rows(tmp_path))
    assert {stem: found.get(stem) for stem in known} == known


def test_the_audit_finds_what_it_found():
    with (FIXTURES / "audit.csv").open(encoding="utf-8", newline="") as file:
        known = list(csv.DictReader(file))
    table = audit_table()
    assert len(table) == len(known) and list(table) == list(known[0])
    for found, row in zip(table.to_dict("records"), known, strict=True):
        for column, value in found.items():
            if isinstance(value, float):
                assert value == pytest.approx(float(row[column]), rel=1e-9, abs=1e-9), (row, column)
            else:
                assert str(value) == row[column], (row, column)
