"""Recorded results: a whole file a run or none, typed tables of them, and a CSV that shows what was added."""

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

from clora_lab import studies
from clora_lab.lab import store as stores
from clora_lab.lab.paths import data_dir
from clora_lab.lab.store import DamagedRunWarning, ResultsError, Store
from clora_lab.lab.study import PROVENANCE

TOY = studies.get("toy")
RESULTS = data_dir() / "results"


def record(value=0.1 + 0.2, **fields):
    """A finished run, as the bench makes it."""
    run = TOY.run(**{"dataset": "digits", "method": "noise_bias", "rank": 16, "epochs": 2, **fields})
    versions = ("tensorflow", "3.10", "2.20", "0.1.0", "3.10", 'Intel(R) "Xeon", 2 cores é', "2025-01-01")
    return {
        "config": run.config,
        "fields": dict(run),
        "facts": {"train_size": 1197, "test_size": 300, "seconds": 1.5},
        "made": dict(zip(PROVENANCE, versions, strict=True)),
        "values": [
            ["validation", "trained", "accuracy", value],
            ["validation", "compressed", "loss", math.nan],
            ["model", "-", "seconds", 1.5],
        ],
        "history": [
            {"epoch": epoch, "step": 1200 * epoch, "decay": 1 - epoch / 3, "val_loss": 1e-7 / 3}
            for epoch in range(3)
        ],
    }


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "new" / "results", TOY)


# --- writing and reading --------------------------------------------------------------------------


def test_what_is_recorded_is_read_back_typed(store):
    path = store.record(record())
    assert store.has(path.stem) and store.finished() == {path.stem} and store.exists()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table, history = store.read(), store.read_history()
    assert tuple(table.columns) == TOY.columns
    assert table["value"].tolist()[::2] == [0.1 + 0.2, 1.5]  # to the last bit
    assert math.isnan(table["value"][1])
    assert table["config"].tolist() == [path.stem] * 3
    assert table["keras_version"][0] == "3.10" and table["python"][0] == "3.10"
    assert table["processor"][0] == 'Intel(R) "Xeon", 2 cores é'
    for column in ("rank", "seed", "epochs", "batch_size", "train_size"):
        assert table[column].dtype == np.int64
    for column in ("value", "learning_rate", "alpha", "noise_gate", "seconds"):
        assert table[column].dtype == np.float64
    assert table["noise_gate"].unique().tolist() == [0.3]  # the threshold of "scheduled"
    assert history["step"].tolist() == [0, 1200, 2400] and history["step"].dtype == np.int64
    assert history["val_loss"].tolist() == [1e-7 / 3] * 3
    assert history["loss"].isna().all() and history["loss"].dtype == np.float64


def test_nothing_recorded_is_an_empty_typed_table(store):
    assert store.read().empty and store.read_history().empty and store.finished() == set()
    assert store.read()["rank"].dtype == np.int64 and store.read()["value"].dtype == np.float64
    assert not store.folder.exists() and not store.exists()


def test_a_method_s_own_settings_are_columns_and_what_it_lacks_is_empty(store):
    one, other = record(), record(method="svd")
    other["fields"] = {name: v for name, v in other["fields"].items() if name not in ("alpha", "schedule")}
    other["fields"] |= {"factors": 3, "balanced": True, "weight": 0.5}
    store.record(one), store.record(other)
    for _ in range(2):  # from the runs' files, then from the table
        table = store.read()
        assert set(table.columns) == {*TOY.columns, "factors", "balanced", "weight"}
        assert table.columns[-1] == "config"
        assert (
            table["factors"].dtype == "Int64" and table["factors"].isna().tolist() == [True] * 3 + [False] * 3
        )
        assert table["balanced"].tolist()[::3] == ["", "yes"]
        assert table["weight"].dtype == np.float64 and table["schedule"].tolist()[::3] == ["linear", ""]
        assert table["alpha"].isna().tolist()[::3] == [False, True]
        store.collect()


def test_numpy_numbers_and_text_that_looks_like_a_missing_value(store):
    new = record()
    new["values"][0][3] = np.float32(0.5)
    new["fields"] |= {"rank": np.int64(16), "variant": "None"}
    store.record(new)
    store.collect()
    table = store.read()
    assert table["value"][0] == 0.5 and table["rank"][0] == 16 and table["variant"][0] == "None"


def test_a_run_that_is_recorded_again_counts_once_as_the_last_one(store):
    store.record(record(0.4))
    store.collect()
    store.record(record(0.9))
    assert store.read()["value"].tolist()[0] == 0.9 and len(store.read()) == len(store.read_history()) == 3


@pytest.mark.skipif(not hasattr(os, "fork") or os.geteuid() != 0, reason="root drops its rights")
def test_reading_from_a_folder_that_only_others_may_write(store):
    store.record(record())
    child = os.fork()
    if not child:
        try:
            os.chdir(store.folder)
            os.setuid(65534)
            mine = Store(".", TOY)
            read = len(mine.read()) == 3 and len(mine.read_history()) == 3
            try:
                mine.check_writable()
            except ResultsError:
                os._exit(0 if read else 2)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


# --- the collected tables -------------------------------------------------------------------------


def test_collecting_moves_the_runs_into_tables_that_read_back_equal(store):
    store.record(record(seed=1))
    store.collect()
    first = store.path.read_text(), store.history_path.read_text()
    store.record(record(seed=0))
    before = store.read(), store.read_history()
    assert store.collect() == [store.path, store.history_path]
    for old, new in zip(before, (store.read(), store.read_history()), strict=True):
        pd.testing.assert_frame_equal(old, new)
    assert not store.runs.exists()
    # New runs follow the old ones, whose lines stay as they were.
    assert store.path.read_text().startswith(first[0])
    assert store.history_path.read_text().startswith(first[1])


@pytest.mark.parametrize("name", ["toy", "toy_search", "vgg16", "bert", "bert_search", "future"])
def test_the_committed_tables_are_as_collecting_writes_them(name, tmp_path):
    study = studies.get(name.removesuffix("_search"))
    for file in RESULTS.glob(f"{name}*.csv"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    for path in Store(tmp_path, study, name).collect():
        assert path.read_bytes() == (RESULTS / path.name).read_bytes()


@pytest.mark.parametrize("name", ["toy", "toy_search", "vgg16", "bert", "bert_search", "future"])
def test_every_recorded_row_says_all_that_its_name_hashes(name):
    """From the columns alone the run comes out again, name included."""
    study = studies.get(name.removesuffix("_search"))
    runs = Store(RESULTS, study, name).read().drop_duplicates("config")
    gates = {0.3: ("scheduled",), 0.0: ("until_end", 0.0)}  # a threshold may have been given by its name
    for row in runs.to_dict("records"):
        fields = {n: row[n] for n in study.fields if pd.notna(row[n])}
        empty = [n for n, each in study.fields.items() if fields.get(n) == "" and each.original != ""]
        fields = {n: value for n, value in fields.items() if n not in empty}
        fields |= {n: bool(row[n]) for n, each in study.fields.items() if each.kind is bool}
        choices = gates.get(row["noise_gate"], (row["noise_gate"],))
        found = [study.run(**fields | ({"noise_gate": gate} if gate == gate else {})) for gate in choices]
        assert row["config"] in [run.config for run in found], row


def test_a_table_saved_by_a_spreadsheet_is_read(store):
    """A byte order mark and CRLF change nothing."""
    store.record(record())
    store.collect()
    expected = store.read()
    store.path.write_bytes(b"\xef\xbb\xbf" + store.path.read_bytes().replace(b"\n", b"\r\n"))
    pd.testing.assert_frame_equal(store.read(), expected)


def test_a_table_that_lacks_a_column_or_the_end_of_a_run_is_read(store):
    store.record(record(seed=1)), store.record(record(seed=2))
    store.collect()
    table = pd.read_csv(store.path, dtype=str, keep_default_na=False)
    table.drop(columns=["train_size", "dense_lr_schedule"]).iloc[:-1].to_csv(store.path, index=False)
    read = store.read()
    assert read["seed"].unique().tolist() == [1] and store.finished() == {read["config"][0]}
    assert read["train_size"].isna().all() and set(read["dense_lr_schedule"]) == {""}


def test_damage_in_a_table_is_an_error_that_names_the_line(store):
    store.record(record(seed=1)), store.record(record(seed=2))
    store.collect()
    whole = store.path.read_bytes()
    lines = whole.splitlines(keepends=True)
    lines[2] = lines[2][:40] + b"\n"
    store.path.write_bytes(b"".join(lines))
    with pytest.raises(ValueError, match="toy.csv, line 3,.*Delete that line"):
        store.read()
    store.path.write_bytes(whole.replace(b",30,", b",thirty,", 1))
    with pytest.raises(ValueError, match="toy.csv: `batch_size`.*thirty"):
        store.read()
    store.path.write_bytes(whole.replace(b"metric", b"colour", 1))
    for action in (store.read, store.finished, store.collect):
        with pytest.raises(ValueError, match=r"toy.csv.*Missing: \['metric'\]"):
            action()


# --- what may go wrong ----------------------------------------------------------------------------


def test_a_damaged_file_is_named_and_its_run_is_done_again(store):
    path = store.record(record(seed=1))
    whole = path.read_bytes()
    store.record(record(seed=2))
    cuts = [*range(0, len(whole) - 2, 97), len(whole) - 2]
    for content in [*(whole[:cut] for cut in cuts), b"[]", whole.replace(path.stem.encode(), b"0" * 12)]:
        path.write_bytes(content)
        with pytest.warns(DamagedRunWarning, match=path.name):
            assert store.finished() == {record(seed=2)["config"]}
        with pytest.warns(DamagedRunWarning):
            assert store.read()["seed"].unique().tolist() == [2]
    store.record(record(seed=1))
    assert len(store.finished()) == 2
    path.write_bytes(whole[:50])
    with pytest.warns(DamagedRunWarning):
        store.collect()
    assert path.exists()  # what can't be read is not removed


@pytest.mark.parametrize("full", ["write", "replace"])
def test_a_failed_write_leaves_what_was_there(store, monkeypatch, full):
    path = store.record(record(0.4))
    before = path.read_bytes()

    def refuse(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(stores.os, "fsync" if full == "write" else "replace", refuse)
        with pytest.raises(ResultsError, match="No space left.*make room"):
            store.record(record(0.9))
        if full == "write":
            with pytest.raises(ResultsError, match="No space left"):
                store.check_writable()
    assert path.read_bytes() == before and [path] == list(store.runs.iterdir())


# A worker starts without Keras and records run after run.
WORKER = """if True:
    import json, sys
    name, folder, count = sys.argv[1:]
    sys.argv = ["-m"]
    from clora_lab import studies
    from clora_lab.lab.store import Store
    store = Store(folder, studies.get("toy"))
    new = json.load(sys.stdin)
    print("ready", flush=True)
    for number in range(int(count)):
        for config in (f"{name}{number:06d}", f"shared{number:06d}"):
            store.record({**new, "config": config})
    """


def worker(store, name, count):
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER, name, str(store.folder), str(count)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    process.stdin.write(json.dumps(record()))
    process.stdin.close()
    assert process.stdout.readline() == "ready\n"
    return process


def test_two_processes_at_once_lose_nothing(store):
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
    assert {path.stem for path in store.runs.iterdir()} == expected  # no half-written file is left


def test_kill_in_the_middle_keeps_every_finished_run(store):
    process = worker(store, "killed", 100_000)
    deadline = time.monotonic() + 30
    while len(store.finished()) < 5 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kept = store.finished()
    assert len(kept) >= 5
    store.record(record())
    assert store.finished() == kept | {record()["config"]}
    assert store.read().groupby("config").size().eq(3).all()


def changed(key, value, at=None):
    new = record()
    if at is None:
        new[key] = value
    else:
        new[key][at] = value
    return new


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        ({}, "lacks"),
        ({name: value for name, value in record().items() if name != "made"}, r"lacks \['made'\]"),
        (changed("config", ""), "it is the run ''"),
        (changed("values", record()["values"][::-1]), "must end with the only 'seconds'"),
        (changed("values", record()["values"][:-1]), "must end with the only 'seconds'"),
        (changed("values", []), "must end with the only 'seconds'"),
        (changed("values", ["validation", "trained", "accuracy", 0.1], 1), "is there twice"),
        (changed("values", ["validation", "trained", "f1", "high"], 1), "`value` must hold float"),
        (changed("fields", 16.0, "rank"), "`rank` must hold int"),
        (changed("fields", True, "rank"), "`rank` must hold int"),
        (changed("fields", "other", "study"), "of the study 'other', not 'toy'"),
    ],
)
def test_a_record_that_is_no_whole_run_is_refused_and_nothing_is_written(store, bad, problem):
    with pytest.raises(ValueError, match=problem):
        store.record(bad)
    assert not store.folder.exists()


@pytest.mark.parametrize("where", ["below a file", "a file", "/proc/results"])
def test_folder_that_cannot_be_written(tmp_path, where):
    if where == "/proc/results" and not Path("/proc/self").exists():
        pytest.skip("no /proc here")
    (tmp_path / "file").write_text("")
    folder = {
        "below a file": tmp_path / "file" / "results",
        "a file": tmp_path / "file",
        "/proc/results": Path("/proc/results"),
    }[where]
    store = Store(folder, TOY)
    for action in (store.check_writable, lambda: store.record(record())):
        with pytest.raises(ResultsError) as error:
            action()
        assert isinstance(error.value, OSError)
        assert str(folder) in str(error.value)
        assert "Choose a folder that you may write to" in str(error.value)


def test_check_writable_makes_the_folder_and_leaves_nothing_else(store):
    store.check_writable()
    assert store.runs.is_dir() and not list(store.runs.iterdir()) and not store.exists()
