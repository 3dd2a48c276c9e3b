"""Recorded results: typed, whole, and safe against kill -9, two writers and bad input."""

import json
import math
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from filelock import FileLock

from clora_lab.lab import results
from clora_lab.lab.results import (
    HISTORY_COLUMNS,
    RESULT_COLUMNS,
    ResultsError,
    ResultsStore,
    TornLineWarning,
)

COMMON = {
    "study": "toy",
    "dataset": "digits",
    "model": "mlp",
    "method": "noise_bias",
    "rank": 16,
    "init": "lora",
    "variant": "slides",
    "seed": 0,
}


def run(config="00000000e123", value=0.1 + 0.2):
    """A run's rows and history. This config reads as a number where nobody takes care."""
    about = COMMON | {
        "epochs": 2,
        "batch_size": 30,
        "learning_rate": 1e-3,
        "lr_schedule": "constant",
        "alpha": 32,
        "schedule": "linear",
        "begin": 0.05,
        "end": 0.85,
        "floor": 0.0,
        "noise_gate": 0.3,
        "fraction": 1.0,
        "seconds": 1.5,
        "backend": "tensorflow",
        "keras_version": "3.10",
        "backend_version": "2.20",
        "clora_version": "0.1.0",
        "python": "3.10",
        "processor": 'Intel(R) "Xeon", 2 cores é',
        "date": "2025-01-01",
        "config": config,
    }
    rows = [
        about | {"split": "validation", "view": "trained", "metric": "accuracy", "value": value},
        about | {"split": "validation", "view": "compressed", "metric": "loss", "value": math.nan},
        about | {"split": "model", "view": "-", "metric": "seconds", "value": 1.5},
    ]
    empty = dict.fromkeys(HISTORY_COLUMNS[HISTORY_COLUMNS.index("decay") :])
    epochs = [
        {**empty, **COMMON, "config": config, "epoch": epoch, "step": 1200 * epoch}
        | {"decay": 1 - epoch / 3, "noise": 0.0, "val_loss": 1e-7 / 3, "val_accuracy": value}
        for epoch in range(3)
    ]
    return rows, epochs


@pytest.fixture
def store(tmp_path):
    return ResultsStore(tmp_path / "new" / "results", "toy")


# --- writing and reading --------------------------------------------------------------------------


def test_what_is_appended_is_read_back_typed(store):
    rows, epochs = run()
    assert store.append(rows, epochs) is True
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table, history = store.read(), store.read_history()
    assert list(table.columns) == list(RESULT_COLUMNS)
    assert list(history.columns) == list(HISTORY_COLUMNS)
    assert table["value"].tolist()[::2] == [0.1 + 0.2, 1.5]  # to the last bit
    assert math.isnan(table["value"][1])
    assert table["config"].tolist() == ["00000000e123"] * 3
    assert table["keras_version"][0] == "3.10" and table["python"][0] == "3.10"
    assert table["processor"][0] == rows[0]["processor"]
    for column in ("rank", "seed", "epochs", "batch_size"):
        assert table[column].dtype == np.int64
    for column in ("value", "learning_rate", "alpha", "noise_gate", "seconds"):
        assert table[column].dtype == np.float64
    assert history["step"].tolist() == [0, 1200, 2400]
    assert history["decay"].tolist() == [1, 0.666667, 0.333333]  # six digits
    assert history["val_loss"][0] == 3.33333e-08
    assert history["loss"].isna().all() and history["loss"].dtype == np.float64
    assert store.finished() == {"00000000e123"}


def test_numpy_numbers_and_text_that_looks_like_a_missing_value(store):
    rows, epochs = run()
    for row in rows:
        row |= {"rank": np.int64(16), "init": "None", "schedule": None, "noise_gate": math.inf}
    rows[0]["value"] = np.float32(0.5)
    store.append(rows)
    table = store.read()
    assert table["value"][0] == 0.5 and table["rank"][0] == 16
    assert table["init"][0] == "None" and table["schedule"][0] == ""
    assert table["noise_gate"][0] == math.inf
    assert store.read_history().empty


def test_nothing_recorded_is_an_empty_typed_table(store):
    assert store.read().empty and store.read_history().empty and store.finished() == set()
    assert store.read()["rank"].dtype == np.int64
    assert store.read()["value"].dtype == np.float64
    assert not store.folder.exists()


def test_a_recorded_run_is_not_recorded_twice(store):
    store.append(*run())
    before = store.path.read_bytes(), store.history_path.read_bytes()
    assert store.append(*run(value=0.9)) is False
    assert (store.path.read_bytes(), store.history_path.read_bytes()) == before


def test_order_of_the_dict_does_not_matter(store):
    rows, epochs = run()
    store.append([dict(reversed(row.items())) for row in rows])
    assert store.read()["metric"].tolist() == ["accuracy", "loss", "seconds"]


def test_reading_takes_no_lock_and_leaves_no_trace(store, monkeypatch):
    store.append(*run())
    for path in store.folder.glob(".*"):
        path.unlink()
    before = sorted(store.folder.iterdir())

    def refuse(*args, **kwargs):
        raise AssertionError("reading must not lock")

    monkeypatch.setattr(results, "FileLock", refuse)
    assert len(store.read()) == 3 and len(store.read_history()) == 3
    assert sorted(store.folder.iterdir()) == before


@pytest.mark.skipif(not hasattr(os, "fork") or os.geteuid() != 0, reason="root drops its rights")
def test_reading_from_a_folder_that_only_others_may_write(store):
    store.append(*run())
    child = os.fork()
    if not child:
        try:
            os.chdir(store.folder)
            os.setuid(65534)
            mine = ResultsStore(".", "toy")
            read = len(mine.read()) == 3 and len(mine.read_history()) == 3
            try:
                mine.check_writable()
            except ResultsError:
                os._exit(0 if read else 2)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


# --- torn files -----------------------------------------------------------------------------------


def complete(store, config):
    """`config` is there exactly once, with all of its rows, and the files hold no other line."""
    table, history = store.read(), store.read_history()
    assert (table["config"] == config).sum() == 3
    assert table.loc[table["config"] == config, "metric"].iloc[-1] == "seconds"
    assert (history["config"] == config).sum() == 3
    assert store.path.read_bytes().count(b"\n") == 1 + len(table)
    return True


@pytest.mark.parametrize("before", [0, 1])
def test_results_cut_at_every_byte_of_the_last_block(store, before):
    if before:
        store.append(*run("aaaaaaaaaaaa"))
    size = store.path.stat().st_size if before else 0
    store.append(*run("bbbbbbbbbbbb"))
    data = store.path.read_bytes()
    header = data.index(b"\n") + 1
    whole_lines = {size, *(i + 1 for i, byte in enumerate(data) if byte == ord("\n"))}
    for cut in range(size, len(data)):
        store.path.write_bytes(data[:cut])
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert store.finished() == ({"aaaaaaaaaaaa"} if before else set())
        expect = cut not in (size, header) or cut not in whole_lines
        assert any(issubclass(w.category, TornLineWarning) for w in caught) == expect, cut
        if cut % 13 == 0 or cut in whole_lines or cut == len(data) - 1:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", TornLineWarning)
                assert len(store.read_history()) == 3 * before
                assert store.append(*run("bbbbbbbbbbbb")) is True
            assert store.path.read_bytes() == data  # one block, and the older one untouched
            assert complete(store, "bbbbbbbbbbbb")


def test_history_cut_at_every_byte(store):
    """The history comes first: killed there, the results do not know the run."""
    store.append(*run("aaaaaaaaaaaa"))
    size, kept = store.history_path.stat().st_size, store.path.read_bytes()
    store.append(*run("bbbbbbbbbbbb"))
    history = store.history_path.read_bytes()
    for cut in range(size, len(history) + 1):
        store.path.write_bytes(kept)
        store.history_path.write_bytes(history[:cut])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", TornLineWarning)
            assert set(store.read_history()["config"]) == {"aaaaaaaaaaaa"}
            if cut % 17 == 0 or cut == len(history):
                assert store.append(*run("bbbbbbbbbbbb", value=0.7)) is True
                assert complete(store, "bbbbbbbbbbbb")
                again = store.read_history().query("config == 'bbbbbbbbbbbb'")
                assert again["val_accuracy"].tolist() == [0.7] * 3  # the run that finished


def test_torn_last_line_warns_and_names_the_file(store):
    store.append(*run())
    with store.path.open("ab") as file:
        file.write(b"toy,digits,mlp,\xc3")  # in the middle of a letter
    with pytest.warns(TornLineWarning, match="toy.csv"):
        assert len(store.read()) == 3
    with store.history_path.open("ab") as file:
        file.write(b"toy")
    with pytest.warns(TornLineWarning, match="toy.csv"), pytest.warns(match="toy_history.csv"):
        assert len(store.read_history()) == 3


def test_unfinished_block_is_named_and_a_rerun_replaces_it(store):
    store.append(*run("aaaaaaaaaaaa"))
    store.append(*run("bbbbbbbbbbbb"))
    lines = store.path.read_bytes().splitlines(keepends=True)
    store.path.write_bytes(b"".join(lines[:-1]))
    with pytest.warns(TornLineWarning, match="bbbbbbbbbbbb"):
        assert store.finished() == {"aaaaaaaaaaaa"}
    with pytest.warns(TornLineWarning, match="bbbbbbbbbbbb"):
        store.append(*run("cccccccccccc"))
    assert store.finished() == {"aaaaaaaaaaaa", "cccccccccccc"}
    assert b"bbbbbbbbbbbb" not in store.path.read_bytes()


def test_torn_block_between_whole_ones_and_a_run_recorded_twice(store):
    """What merging files by hand may leave."""
    store.append(*run("aaaaaaaaaaaa"))
    store.append(*run("bbbbbbbbbbbb"))
    header, *lines = store.path.read_bytes().splitlines(keepends=True)
    a, b = lines[:3], lines[3:]
    store.path.write_bytes(b"".join([header, *b[:2], *a, *b[:1], *b, *a]))
    with pytest.warns(TornLineWarning, match="bbbbbbbbbbbb"):
        table = store.read()
    assert len(table) == 6
    assert table.groupby("config")["metric"].agg(list).tolist() == [["accuracy", "loss", "seconds"]] * 2


@pytest.mark.parametrize("full", ["history", "results"])
def test_failed_write_leaves_the_file_as_it_was(store, monkeypatch, full):
    """A full disk takes a part of the block: it is taken back, and the error says so."""
    store.append(*run("aaaaaaaaaaaa"))
    before = store.path.read_bytes(), store.history_path.read_bytes()
    rows, epochs = run("bbbbbbbbbbbb")
    write = os.write
    with monkeypatch.context() as patch:
        patch.setattr(results.os, "write", lambda file, data: write(file, data[:50]))
        with pytest.raises(ResultsError, match="No space left"):
            store.append(rows, epochs if full == "history" else [])
    assert (store.path.read_bytes(), store.history_path.read_bytes()) == before
    assert store.append(rows, epochs) is True
    assert complete(store, "bbbbbbbbbbbb")


# --- several processes ----------------------------------------------------------------------------

# Loads the module by its path: a worker then starts without Keras.
WORKER = """if True:
    import importlib.util, json, sys
    module, folder, name, count = sys.argv[1:]
    spec = importlib.util.spec_from_file_location("results", module)
    results = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(results)
    store = results.ResultsStore(folder, "toy")
    rows, epochs = json.load(sys.stdin)
    print("ready", flush=True)
    for number in range(int(count)):
        config = f"{name}{number:06d}"
        new = [[{**row, "config": config} for row in part] for part in (rows, epochs)]
        assert store.append(*new)
        shared = [[{**row, "config": f"shared{number:06d}"} for row in part] for part in new]
        store.append(*shared)
    """


def worker(store, name, count):
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER, results.__file__, str(store.folder), name, str(count)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    process.stdin.write(json.dumps(run()))
    process.stdin.close()
    assert process.stdout.readline() == "ready\n"
    return process


def test_two_processes_at_once_lose_nothing_and_repeat_nothing(store):
    count = 25
    processes = [worker(store, name, count) for name in ("left__", "right_")]
    assert [process.wait(60) for process in processes] == [0, 0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table, history = store.read(), store.read_history()
    names = ("left__", "right_", "shared")
    expected = {f"{name}{number:06d}" for name in names for number in range(count)}
    assert store.finished() == expected
    assert len(table) == len(history) == 3 * len(expected)
    assert store.path.read_bytes().count(b"\n") == 1 + len(table)  # the shared ones once
    assert store.history_path.read_bytes().count(b"\n") == 1 + len(history)


def test_kill_in_the_middle_keeps_every_finished_run(store):
    process = worker(store, "killed", 100_000)
    deadline = time.monotonic() + 30
    while len(store.finished()) < 5 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TornLineWarning)
        kept = store.finished()
        assert len(kept) >= 5
        assert store.append(*run("afterwards__")) is True  # the dead process holds no lock
    assert store.finished() == kept | {"afterwards__"}
    assert store.read().groupby("config").size().eq(3).all()
    assert store.read_history().groupby("config").size().eq(3).all()


# --- refusals -------------------------------------------------------------------------------------


def changed(index=0, **columns):
    rows, epochs = run()
    rows[index] |= columns
    return rows, epochs


def without(column):
    rows, epochs = run()
    del rows[1][column]
    return rows, epochs


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        (without("alpha"), r"Missing: \['alpha'\]"),
        (changed(colour="red"), r"unknown: \['colour'\]"),
        (changed(rank=16.0), "`rank` must be an integer. Received: 16.0"),
        (changed(rank=True), "`rank` must be an integer"),
        (changed(value="0.9"), "`value` must be a number"),
        (changed(noise_gate="never"), "`noise_gate` must be a number"),
        (changed(method="a\nb"), "`method` must be one line"),
        (changed(method=3), "`method` must be one line of text or None. Received: 3"),
        (changed(config="other"), r"one run.*other"),
        (changed(study="vgg16"), "one run"),
        (changed(-1, metric="loss"), "must end with its only row of the metric 'seconds'"),
        (changed(0, metric="seconds"), "must end with its only row"),
        (changed(1, view="trained", metric="accuracy"), "each .split, view, metric. once"),
        (([], []), "must end with its only row"),
        ((run()[0][::-1], []), "must end with its only row"),
        ((run()[0], run("ffffffffffff")[1]), "ffffffffffff"),
        ((run()[0], [{"epoch": 0}]), "`history` must have the columns"),
        (tuple([row | {"config": ""} for row in part] for part in run()), "one run"),
    ],
)
def test_bad_rows_are_refused_and_nothing_is_written(store, rows, problem):
    with pytest.raises(ValueError, match=problem):
        store.append(*rows)
    assert not store.folder.exists()


@pytest.mark.parametrize("study", ["", "../toy", "a b", ".toy", 3, None])
def test_bad_study_names(tmp_path, study):
    with pytest.raises(ValueError, match="`study` must be a name"):
        ResultsStore(tmp_path, study)


@pytest.mark.parametrize(
    ("edit", "problem"),
    [
        (lambda header: header.replace(b",alpha", b""), r"toy.csv.*Missing: \['alpha'\]"),
        (lambda header: header.replace(b"alpha", b"lora_alpha"), r"unknown: \['lora_alpha'\]"),
        (lambda header: header.replace(b"begin,end", b"end,begin"), "in another order"),
        (lambda header: b"hello", r"unknown: \['hello'\]"),
    ],
)
def test_other_header_is_refused_by_file_and_column(store, edit, problem):
    store.append(*run())
    header, _, body = store.path.read_bytes().partition(b"\n")
    data = edit(header) + (b"\n" + body if edit(header) != b"hello" else b"")
    store.path.write_bytes(data)
    for action in (store.read, store.finished, lambda: store.append(*run("bbbbbbbbbbbb"))):
        with pytest.raises(ValueError, match=problem):
            action()
    assert store.path.read_bytes() == data


def test_damage_before_the_last_line_is_an_error_that_names_the_line(store):
    store.append(*run("aaaaaaaaaaaa"))
    store.append(*run("bbbbbbbbbbbb"))
    whole = store.path.read_bytes()
    lines = whole.splitlines(keepends=True)
    lines[2] = lines[2][:40] + b"\n"
    store.path.write_bytes(b"".join(lines))
    with pytest.raises(ValueError, match="toy.csv, line 3,.*Delete that line"):
        store.read()
    store.path.write_bytes(whole.replace(b",30,", b",thirty,", 1))
    with pytest.raises(ValueError, match="toy.csv: `batch_size`.*thirty"):
        store.read()


def test_file_saved_by_a_spreadsheet_is_read(store):
    """A byte order mark and CRLF change nothing."""
    store.append(*run())
    expected = store.read()
    store.path.write_bytes(b"\xef\xbb\xbf" + store.path.read_bytes().replace(b"\n", b"\r\n"))
    pd.testing.assert_frame_equal(store.read(), expected)
    assert store.append(*run("bbbbbbbbbbbb")) is True
    assert store.finished() == {"00000000e123", "bbbbbbbbbbbb"}


@pytest.mark.parametrize("where", ["below a file", "a file", "/proc/results", "csv is a folder"])
def test_folder_that_cannot_be_written(tmp_path, where):
    if where == "/proc/results" and not Path("/proc/self").exists():
        pytest.skip("no /proc here")
    (tmp_path / "file").write_text("")
    (tmp_path / "toy.csv").mkdir()
    folder = {
        "below a file": tmp_path / "file" / "results",
        "a file": tmp_path / "file",
        "/proc/results": Path("/proc/results"),
        "csv is a folder": tmp_path,
    }[where]
    store = ResultsStore(folder, "toy")
    for action in (store.check_writable, lambda: store.append(*run())):
        with pytest.raises(ResultsError) as error:
            action()
        assert isinstance(error.value, OSError)
        assert str(folder) in str(error.value)
        assert "Choose a folder that you may write to" in str(error.value)


def test_check_writable_makes_the_folder_and_leaves_the_tables_alone(store):
    store.check_writable()
    assert store.folder.is_dir() and not store.path.exists()
    store.append(*run())
    before = store.path.read_bytes()
    store.check_writable()
    assert store.path.read_bytes() == before


def test_lock_held_by_another_is_reported(store, monkeypatch):
    monkeypatch.setattr(results, "LOCK_SECONDS", 0.1)
    store.check_writable()
    with FileLock(store.folder / ".toy.lock"), pytest.raises(ResultsError, match="locked by"):
        store.append(*run())
