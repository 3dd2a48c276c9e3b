"""What was there before stays: names of recorded runs, public names, old files, outputs, texts.

The fixtures were made by the code of the first edition; tests/fixtures/README.md says how. These tests ask
only what is promised, so they hold for any code behind it.
"""

import csv
import json
from pathlib import Path

import pytest

FIXTURES = Path(__file__).parent / "fixtures"
RESULTS = Path(__file__).parents[1] / "data" / "results"


def fixture(name):
    return json.loads((FIXTURES / name).read_text(encoding="utf-8"))


# --- where things live now: the only lines of this file that a move of theirs changes ------------------


def name_of(experiment, fields):
    """The name in the results of the run with these fields: `config`."""
    from clora_lab.studies import bert, experiments, vgg16

    homes = {"toy": experiments, "vgg16": vgg16, "bert": bert}
    return homes[experiment].Experiment(**fields).config


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
        if row["method"] == "svd":  # nothing was trained, and the row says so
            del fields["epochs"], fields["learning_rate"]
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
