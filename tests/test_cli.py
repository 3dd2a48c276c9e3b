"""The command line as a subprocess: output, exit codes, and errors that say what to do."""

import os
import re
import subprocess
import sys
import time

import pytest

from clora_lab.lab.results import ResultsStore


def run(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "clora_lab", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, **{name: str(value) for name, value in environment.items()}},
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["reproduce", "toy", "--help"],
        ["pretrain", "bert-tiny", "--help"],
        ["figures", "--help"],
        ["report", "--help"],
    ],
)
def test_help_has_examples(arguments):
    result = run(*arguments)
    assert result.returncode == 0
    if arguments != ["--help"]:
        assert "Example" in result.stdout and "python -m clora_lab" in result.stdout


def test_a_missing_dataset_is_said_within_ten_seconds(tmp_path):
    begin = time.monotonic()
    result = run("reproduce", "toy", "--dataset", "fashion_mnist", KERAS_HOME=tmp_path)
    assert time.monotonic() - begin < 10
    assert result.returncode == 3
    assert "--dataset digits" in result.stderr and str(tmp_path) in result.stderr


def test_data_says_what_is_there(tmp_path):
    home = {"KERAS_HOME": tmp_path, "CLORA_IMDB": "", "CLORA_CIFAR10": ""}
    result = run("data", **home, COLUMNS=80)
    assert result.returncode == 0
    assert "missing" in result.stdout and "built in" in result.stdout and "…" not in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80
    commands = re.findall("python -m (clora_lab data \\w+)", result.stdout)
    assert len(commands) == 4  # and each does, or says what to do
    named = run(*commands[0].split()[1:], **home)
    assert named.returncode == 3 and "Run once with a network" in named.stderr
    folder = tmp_path / "datasets" / "fashion-mnist"
    folder.mkdir(parents=True)
    (folder / "train-images-idx3-ubyte.gz").write_bytes(b"not what it says")
    result = run("data", **home, COLUMNS=80)
    assert result.returncode == 3
    assert "damaged" in result.stdout and "Delete" in result.stderr


def test_pretraining_without_texts_says_what_to_do(tmp_path):
    result = run("pretrain", "bert-tiny", KERAS_HOME=tmp_path, CLORA_IMDB="")
    assert result.returncode == 3 and "CLORA_IMDB" in result.stderr
    result = run("pretrain", "bert-tiny", "--path", tmp_path)
    assert result.returncode == 3 and "train/pos: 0" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset", "fashon_mnist"], "Did you mean 'fashion_mnist'"),
        (["--dataset", "digits", "--ranks", "16,x"], "`ranks` must be integers"),
        (["--dataset", "digits", "--ranks", "0"], "`rank` must be an integer of at least 1"),
        (["--dataset", "digits", "--variants", "slide"], "Did you mean 'slides'"),
    ],
)
def test_wrong_arguments_exit_with_2(arguments, message, tmp_path):
    result = run("reproduce", "toy", *arguments, "--results", tmp_path)
    assert result.returncode == 2
    assert message in result.stderr


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
    arguments = ["--dataset", "digits", "--epochs", "2", "--ranks", "4", "--jobs", "2"]
    folders = ["--results", tmp_path / "results", "--figures", tmp_path / "figures"]
    result = run("reproduce", "toy", *arguments, *folders, COLUMNS=120)
    assert result.returncode == 0, result.stderr
    assert "not comparable: digits" in result.stdout
    assert ResultsStore(tmp_path / "results", "toy").read()["dataset"].unique() == ["digits"]
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
    report = run("report", "--dataset", "digits", "--results", tmp_path / "results", COLUMNS=120)
    assert report.returncode == 0 and "scratch" in report.stdout


def test_the_recorded_results_are_reported(tmp_path):
    result = run("report", COLUMNS=120)
    assert result.returncode == 0, result.stderr
    assert "Fashion-MNIST" in result.stdout and "noise_bias" in result.stdout
