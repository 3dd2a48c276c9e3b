"""The command line as a subprocess: output, exit codes, errors that say what to do, how little it loads."""

import os
import subprocess
import sys

import pytest

from clora_lab import studies


def run(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "clora_lab", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "COLUMNS": "80", **{name: str(value) for name, value in environment.items()}},
    )


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["reproduce", "toy", "--help"], ["pretrain", "bert-tiny", "--help"], ["figures", "--help"]]
    + [["report", "--help"], ["reproduce", "--help"], ["reproduce"], ["collect", "--help"]],
)
def test_help_has_examples(arguments):
    result = run(*arguments)
    assert result.returncode == 0
    if arguments != ["--help"]:
        assert "Example" in result.stdout and "python -m clora_lab" in result.stdout


def test_a_study_s_help_names_its_fields_with_their_defaults():
    result = run("reproduce", "vgg16", "--help")
    assert "factorization=loralib" in result.stdout and "pair_equal" in result.stdout
    assert "variant is one of as_written, as_coded, slides, short, modern" in result.stdout


# What the words of a command line load, in a process that would have started with them.
LOADED = """
import sys
sys.argv = ["-m", *sys.argv[1:]]
from clora_lab.cli import app
try:
    app(sys.argv[1:], prog_name="python -m clora_lab")
except SystemExit as end:
    code = end.code
heavy = [name for name in ("tensorflow", "keras", "jax", "torch") if name in sys.modules]
print("loaded:", heavy, "code:", code)
"""


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], 0),
        (["reproduce", "--help"], 0),
        (["reproduce", "bert", "--help"], 0),
        (["report"], 0),
        (["report", "bert", "--split", "validation"], 0),
        (["report", "vgg16", "--markdown"], 0),
        (["report", "future"], 0),
        (["audit"], 0),
        (["data"], 0),
        (["reproduce", "brt"], 2),
        (["reproduce", "toy", "epoch=3"], 2),
        (["reproduce", "toy", "rank=0"], 2),
        (["reproduce", "toy", "rank"], 2),
        (["reproduce", "toy", "method=lra"], 2),
        (["reproduce", "vgg16", "dataset=cifar"], 2),
        (["reproduce", "bert", "scope=head"], 2),
        (["report", "brt"], 2),
        (["figures", "--lang", "kr"], 2),
        (["pretrain", "bert-huge"], 2),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
def test_what_needs_no_net_loads_no_keras(arguments, code):
    result = subprocess.run(
        [sys.executable, "-c", LOADED, *arguments], capture_output=True, text=True, timeout=120
    )
    assert result.stdout.splitlines()[-1] == f"loaded: [] code: {code}", result.stdout + result.stderr


def test_a_missing_dataset_is_said_once_before_keras_is_loaded(tmp_path):
    for study, other in (("toy", "digits"), ("vgg16", "digits32"), ("bert", "synthetic")):
        real = studies.get(study).data[0 if study != "vgg16" else 1]
        arguments = ["reproduce", study, "--dataset", real, "--out", str(tmp_path / "out")]
        result = subprocess.run(
            [sys.executable, "-c", LOADED, *arguments],
            capture_output=True,
            text=True,
            timeout=120,
            env={**os.environ, "KERAS_HOME": str(tmp_path), "CLORA_IMDB": "", "CLORA_CACHE": str(tmp_path)},
        )
        assert result.stdout.splitlines()[-1] == "loaded: [] code: 3"
        (line,) = [line for line in result.stderr.splitlines() if line.startswith("error:")]
        assert f"python -m clora_lab reproduce {study} dataset={other}" in line


def test_data_says_what_is_there(tmp_path):
    result = run("data", KERAS_HOME=tmp_path, CLORA_CACHE=tmp_path)
    assert result.returncode == 0
    assert "missing" in result.stdout and "built in" in result.stdout
    folder = tmp_path / "datasets" / "fashion-mnist"
    folder.mkdir(parents=True)
    (folder / "train-images-idx3-ubyte.gz").write_bytes(b"not what it says")
    result = run("data", KERAS_HOME=tmp_path, CLORA_CACHE=tmp_path)
    assert result.returncode == 3
    assert "damaged" in result.stdout and "Delete" in result.stderr
    assert max(map(len, result.stdout.splitlines())) <= 80 or "/" in result.stdout


def test_pretraining_without_texts_says_what_to_do(tmp_path):
    result = run("pretrain", "bert-tiny", KERAS_HOME=tmp_path, CLORA_IMDB="", CLORA_CACHE=tmp_path)
    assert result.returncode == 3 and "CLORA_IMDB" in result.stderr
    result = run("pretrain", "bert-tiny", "--path", tmp_path)
    assert result.returncode == 3 and "train/pos: 0" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset", "fashon_mnist"], "Did you mean 'fashion_mnist'"),
        (["--dataset", "digits", "--ranks", "16,x"], "`rank` must be an integer"),
        (["--dataset", "digits", "--ranks", "0"], "`rank` must be an integer of at least 1"),
        (["--dataset", "digits", "--variants", "slide"], "Did you mean 'slides'"),
        (["--dataset", "digits", "--seeds", "two"], "`seeds` must be an integer"),
        (["dataset=digits", "seeds=0"], "`seed` is empty"),
        (["dataset=digits", "learning-rate=fast"], "`learning_rate` must be a number"),
        (["dataset=digits", "method=svd", "noise_gate=later"], "`noise_gate`"),
        (["dataset=digits", "epochs"], "FIELD=VALUE"),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, list) else "",
)
def test_wrong_arguments_exit_with_2(arguments, message, tmp_path):
    result = run("reproduce", "toy", *arguments, "--results", tmp_path)
    assert result.returncode == 2
    assert message in result.stderr


def test_a_rank_that_no_layer_can_hold_exits_with_2_before_any_run(tmp_path):
    result = run("reproduce", "toy", "dataset=digits", "rank=4,100", "--out", tmp_path)
    assert result.returncode == 2 and "100" in result.stderr
    assert not list((tmp_path / "results" / "toy").iterdir())


def test_a_folder_that_cannot_be_written_exits_with_4(tmp_path):
    (tmp_path / "file").write_text("")
    result = run("reproduce", "toy", "--dataset", "digits", "--results", tmp_path / "file" / "results")
    assert result.returncode == 4
    assert "file" in result.stderr


def test_report_without_results_says_how_to_make_them(tmp_path):
    result = run("report", "--results", tmp_path)
    assert result.returncode == 4
    assert "python -m clora_lab reproduce toy" in result.stderr


def test_digits_from_run_to_figures(tmp_path):
    arguments = ["--dataset", "digits", "--epochs", "2", "--ranks", "4", "--jobs", "2", "--out", tmp_path]
    result = run("reproduce", "toy", *arguments)
    assert result.returncode == 0, result.stderr
    store = studies.recorded("toy", tmp_path / "results")
    assert store.read()["dataset"].unique().tolist() == ["digits"]
    # No published rows of other data, all in percent, in 80 columns, and the pictures named in the end.
    assert "published" not in result.stdout and " 0.9" not in result.stdout
    assert max(map(len, result.stdout.splitlines()[1:-1])) <= 80  # the last one names a folder
    last = result.stdout.splitlines()[-1]
    assert str(tmp_path / "figures") in last and "best compressed nets" in result.stdout
    pictures = {path.stem for path in (tmp_path / "figures").glob("*.png")}
    wanted = {"slide_09_decay", "slide_10_training", "slide_12_paths", "slide_14_noise"}
    wanted |= {"slide_15_variants", "slide_16_methods", "slide_16_table"}
    assert wanted <= pictures
    assert {path.stem for path in (tmp_path / "figures").glob("*.svg")} == pictures
    for svg in (tmp_path / "figures").glob("*.svg"):
        assert "digits" in svg.read_text(), svg.name
    again = run("figures", "--dataset", "digits", "--results", tmp_path / "results", "--out", tmp_path / "f")
    assert again.returncode == 0, again.stderr
    assert {path.name for path in (tmp_path / "f").iterdir()} == {f"{p}.png" for p in pictures} | {
        f"{p}.svg" for p in pictures
    }
    report = run("report", "--dataset", "digits", "--results", tmp_path / "results")
    assert report.returncode == 0 and "Low-rank from scratch" in report.stdout
    before = store.read()
    collected = run("collect", "toy", "--results", tmp_path / "results")
    assert collected.returncode == 0 and f"{before['config'].nunique()} runs" in collected.stdout
    assert store.read().equals(before) and not store.runs.exists()


def test_a_method_of_another_study_and_a_setting_of_a_method_can_be_asked_for(tmp_path):
    arguments = ["dataset=digits", "rank=4", "epochs=1", "method=lora,noise_bias", "noise-gate=0.5,until_end"]
    result = run("reproduce", "toy", *arguments, "variant=slides", "--out", tmp_path, "--jobs", 1)
    assert result.returncode == 0, result.stderr
    assert "noise_gate 0.5" in result.stdout  # a table mixes no two gates
    rows = studies.recorded("toy", tmp_path / "results").read()
    gates = rows[rows["method"] == "noise_bias"].drop_duplicates("config")["noise_gate"]
    assert sorted(gates) == [0.0, 0.5] and "lora" in set(rows["method"])


@pytest.mark.parametrize("study", ["toy", "vgg16", "bert", "future"])
def test_the_recorded_results_are_reported(study):
    result = run("report", study)
    assert result.returncode == 0, result.stderr
    data = {"toy": "Fashion-MNIST", "vgg16": "CIFAR-10", "bert": "IMDB", "future": "Fashion-MNIST"}
    assert data[study] in result.stdout
