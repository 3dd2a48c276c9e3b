"""What the notebooks share: run modes, data sets of live runs, recorded rows, pictures."""

import base64
import doctest
import importlib
import re

import IPython.display
import keras
import numpy as np
import pandas as pd
import pytest
import rows as made_up
from matplotlib.figure import Figure

from clora_lab.course import notebook, widgets, words
from clora_lab.lab.data import registry as datasets
from clora_lab.lab.figures import style
from clora_lab.lab.figures.laws import decay_curve
from clora_lab.lab.nets import starts
from clora_lab.lab.study import FIRST
from clora_lab.studies import bert, toy, vgg16


@pytest.fixture(autouse=True)
def plain(monkeypatch, tmp_path):
    """No variable of the caller's, and an empty Keras cache."""
    for name in ("CLORA_RUN", "CLORA_DATASET", "CLORA_RESULTS", "CLORA_CIFAR10"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))


def here(monkeypatch, **found):
    """Pretend that data sets are on this machine, or the error that says why not; the others are missing."""

    def find(name, download=True):
        error = found.get(name, datasets.DatasetMissing(f"{name} is missing"))
        if datasets.entry(name).stand_in and isinstance(error, Exception):
            raise error

    monkeypatch.setattr(datasets, "find", find)


# --- modes and sizes ----------------------------------------------------------------------------


@pytest.mark.parametrize("run", notebook.MODES)
def test_mode_says_what_it_means(run, capsys):
    assert notebook.mode(run) == run
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1 and repr(run) in printed
    assert "digits (scikit-learn" in printed


def test_variable_goes_before_the_notebook(monkeypatch, capsys):
    monkeypatch.setenv("CLORA_RUN", "quick")
    assert notebook.mode("recorded") == "quick"


@pytest.mark.parametrize("how", ["argument", "variable"])
def test_unknown_mode_is_refused_with_the_nearest(how, monkeypatch):
    if how == "variable":
        monkeypatch.setenv("CLORA_RUN", "quik")
    with pytest.raises(ValueError, match="`RUN` must be one of .* Did you mean 'quick'"):
        notebook.mode("quik" if how == "argument" else "recorded")


def test_digits_without_a_cache():
    assert notebook.dataset() == "digits"


def test_dataset_by_what_is_cached(monkeypatch):
    here(monkeypatch, fashion_mnist=True)
    assert notebook.dataset() == "fashion_mnist"
    here(monkeypatch, fashion_mnist=datasets.DatasetDamaged("a file is damaged"))
    with pytest.raises(datasets.DatasetDamaged, match="a file is damaged"):  # never passed over
        notebook.dataset()


def test_dataset_by_the_variable(monkeypatch):
    here(monkeypatch, fashion_mnist=True)
    monkeypatch.setenv("CLORA_DATASET", "digits")
    assert notebook.dataset() == "digits"
    monkeypatch.setenv("CLORA_DATASET", "digit")
    with pytest.raises(ValueError, match="`CLORA_DATASET` must be one of .*'digits'"):
        notebook.dataset()


def test_dataset_of_vgg16(monkeypatch):
    assert notebook.dataset("vgg16") == "digits32"
    here(monkeypatch, cifar10=True)
    assert notebook.dataset("vgg16") == "cifar10"
    here(monkeypatch, cifar10=True, cifar10_jpeg=True)
    assert notebook.dataset("vgg16") == "cifar10_jpeg"
    monkeypatch.setenv("CLORA_DATASET", "digits")  # one name for every notebook
    assert notebook.dataset("vgg16") == "digits32"
    monkeypatch.setenv("CLORA_DATASET", "fashion_mnist")
    with pytest.raises(ValueError, match="`CLORA_DATASET` must be one of .*'digits32'"):
        notebook.dataset("vgg16")
    with pytest.raises(ValueError, match="`study` must be one of"):
        notebook.dataset("vgg")


def test_mode_names_the_data_of_its_study(capsys):
    notebook.mode("quick", study="vgg16")
    assert "digits at 32x32" in capsys.readouterr().out


def test_size_of_vgg16_is_that_of_the_study_only_in_full():
    whole = vgg16.STUDY.grid(dataset="cifar10", **notebook.size("full", "cifar10", "vgg16"))
    assert whole == vgg16.STUDY.grid(dataset="cifar10")
    quick = vgg16.STUDY.grid(dataset="digits32", rank=8, **notebook.size("quick", "digits32", "vgg16"))
    assert {run.model for run in quick} == {"small_vgg"} and len(quick) == 8
    with pytest.raises(ValueError, match="`dataset` must be one of"):
        notebook.size("quick", "digits", "vgg16")


def test_dataset_of_bert_needs_texts_and_a_pretrained_net(monkeypatch, tmp_path):
    monkeypatch.setenv("CLORA_CACHE", str(tmp_path))
    monkeypatch.delenv("CLORA_IMDB", raising=False)
    here(monkeypatch)
    folder = starts.pretrained_dir()
    folder.mkdir()
    (folder / "config.json").touch()
    assert notebook.dataset("bert") == "synthetic"
    here(monkeypatch, imdb=True)
    assert notebook.dataset("bert") == "imdb"
    (folder / "config.json").unlink()
    assert notebook.dataset("bert") == "synthetic"
    monkeypatch.setenv("CLORA_DATASET", "digits")
    assert notebook.dataset("bert") == "synthetic"
    monkeypatch.setenv("CLORA_DATASET", "imdb")
    assert notebook.dataset("bert") == "imdb"
    monkeypatch.setenv("CLORA_DATASET", "cifar10")
    with pytest.raises(ValueError, match="`CLORA_DATASET` must be one of .*'synthetic'"):
        notebook.dataset("bert")


def test_size_of_bert_is_that_of_the_study_only_in_full():
    study = bert.STUDY
    for dataset in study.data:
        quick = study.grid(dataset=dataset, **notebook.size("quick", dataset, "bert"))
        whole = study.grid(dataset=dataset, **notebook.size("full", dataset, "bert"))
        assert len(quick) == 6 and quick[0].start == whole[0].start
        assert quick[0].sequence < whole[0].sequence and whole == study.grid(dataset=dataset)


def test_live_runs_are_of_one_study():
    one = toy.STUDY.run(dataset="digits", method="dense")
    other = vgg16.STUDY.run(dataset="digits32", method="dense")
    for grid in ([], [one, other]):
        with pytest.raises(ValueError, match="one study"):
            notebook.run_live(grid)


def test_size_is_that_of_the_study_only_in_full():
    study = toy.STUDY.run(dataset="digits", method="dense")
    assert notebook.size("full", "digits") == {"epochs": study.epochs, "fraction": study.fraction}
    for run in ("recorded", "quick"):
        for dataset in ("digits", "fashion_mnist"):
            size = notebook.size(run, dataset)
            assert size["epochs"] * size["fraction"] < study.epochs
            study.replace(dataset=dataset, **size)
    notebook.size("quick", "digits")["epochs"] = 99
    assert notebook.size("quick", "digits")["epochs"] != 99, "a caller's change must not stay"
    with pytest.raises(ValueError, match="`dataset` must be one of"):
        notebook.size("quick", "imdb")


def test_live_runs_are_computed_and_not_recorded(monkeypatch, tmp_path):
    monkeypatch.setenv("CLORA_CACHE", str(tmp_path / "cache"))
    fields = {"dataset": "digits", "epochs": 2, "fraction": 0.3, "variant": "slides"}
    grid = toy.STUDY.grid(method="wds", rank=4, **fields)
    assert len(grid) == 2
    rows, history = notebook.run_live(grid)
    assert set(rows["config"]) == {run.config for run in grid}
    assert history.loc[history["method"] == "wds", "decay"].tolist()[-1] == 0.0
    assert not [*tmp_path.rglob("*.csv"), *tmp_path.rglob("toy/*.json")]


# --- recorded rows ------------------------------------------------------------------------------


def record(folder, seed=0, dataset="digits", date="2026-01-02"):
    """One finished run, its numbers made up."""
    values = made_up.blank("toy") | {
        "study": "toy", "dataset": dataset, "model": "toy_mlp", "method": "wds", "rank": 16,
        "variant": "slides", "seed": seed, "split": "test", "view": "trained", "value": 0.5,
        "epochs": 3, "batch_size": 30, "learning_rate": 1e-3, "alpha": 32.0, "begin": 0.05,
        "end": 0.85, "floor": 0.0, "noise_gate": 0.3, "fraction": 1.0, "seconds": 1.0,
        "backend": "tensorflow", "backend_version": "2.20.0", "keras_version": "3.11.0",
        "clora_version": "0.1.0", "python": "3.11.1", "processor": "one", "date": date,
        "config": f"{dataset}{seed}",
    }  # fmt: skip
    rows = [{**values, "metric": metric} for metric in ("accuracy", "seconds")]
    epoch = {name: values[name] for name in (*FIRST, "config")} | {"epoch": 0, "step": 0}
    made_up.write(folder, "toy", rows, [epoch])


def test_results_are_those_of_one_dataset(monkeypatch, tmp_path):
    monkeypatch.setenv("CLORA_RESULTS", str(tmp_path))
    record(tmp_path, 0)
    record(tmp_path, 2, date="2026-01-05")
    record(tmp_path, 0, dataset="fashion_mnist")
    rows, history, text = notebook.results("toy", dataset="digits")
    assert set(rows["config"]) == set(history["config"]) == {"digits0", "digits2"}
    for part in ("digits", "2 runs", "2 seeds (0, 2)", "tensorflow 2.20.0", "Keras 3.11.0",
                 "Python 3.11.1", "clora_lab 0.1.0", "one", "2026-01-02 to 2026-01-05"):  # fmt: skip
        assert part in text
    assert "\n" not in text
    assert "one seed (0)" in notebook.results("toy", dataset="fashion_mnist")[2]


def test_missing_results_say_where_and_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setenv("CLORA_RESULTS", str(tmp_path))
    with pytest.raises(notebook.ResultsMissing, match="'toy' on digits.*RUN = 'quick'.*reproduce toy"):
        notebook.results("toy", dataset="digits")
    record(tmp_path, dataset="fashion_mnist")
    with pytest.raises(notebook.ResultsMissing, match=re.escape(str(tmp_path))):
        notebook.results("toy", dataset="digits")


def test_provenance_refuses_what_are_no_result_rows():
    with pytest.raises(ValueError, match="Missing: .*'config'"):
        words.provenance(pd.DataFrame({"dataset": ["digits"]}))
    with pytest.raises(ValueError, match="rows: 0"):
        words.provenance(pd.DataFrame(columns=list(made_up.blank("toy"))))


# --- what a notebook shows ----------------------------------------------------------------------


@pytest.fixture
def shown(monkeypatch):
    found = []
    monkeypatch.setattr(notebook, "display", lambda *shown, **settings: found.append((*shown, settings)))
    return found


def test_show_is_a_picture_with_its_description(shown):
    fig = decay_curve(lambda step: 1 - step / 10, total_steps=10)
    assert notebook.show(fig) is None, "nothing to be printed below the picture"
    ((data, settings),) = shown
    assert base64.b64decode(data["image/png"]).startswith(b"\x89PNG")
    assert data["text/plain"] == style.alt_text(fig)
    assert settings["raw"]
    described = {"alt": style.alt_text(fig), "width": notebook.SHOWN_WIDTH}
    assert settings["metadata"] == {"image/png": described}


def test_show_refuses_a_figure_without_a_description(shown):
    with pytest.raises(ValueError, match="must carry a description"):
        notebook.show(Figure())
    assert not shown


def test_say_is_markdown(shown):
    notebook.say("*a*")
    assert isinstance(shown[0][0], IPython.display.Markdown) and shown[0][0].data == "*a*"


@pytest.mark.parametrize(
    "name",
    ["notebook", "words", "derivation", "convolution", "attention"]
    + [f"widgets.{name}" for name in ("schedule", "noise", "rank")],
)
def test_examples_of_the_docstrings(name):
    module = importlib.import_module(f"clora_lab.course.{name}")
    found = doctest.testmod(module, extraglobs={"np": np, "pd": pd, "keras": keras})
    assert found.attempted and not found.failed


def test_every_exported_widget_is_there_and_others_are_not():
    names = [name for exported in widgets.EXPORTS.values() for name in exported.split()]
    assert len(set(names)) == len(names) and set(names) <= set(dir(widgets))
    assert all(callable(getattr(widgets, name)) or name == "EXAMPLES" for name in names)
    with pytest.raises(AttributeError, match="no attribute 'explorer'"):
        getattr(widgets, "explorer")  # noqa: B009
