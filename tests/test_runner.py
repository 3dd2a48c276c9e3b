"""The grid: a run is recorded as soon as it is done, none lost or repeated; what is wrong is said before."""

import os
import signal
import subprocess
import sys
import time

import joblib
import pytest

from clora_lab import studies
from clora_lab.lab import bench, runner
from clora_lab.lab.data.registry import DatasetMissing
from clora_lab.lab.store import ResultsError, Store

TOY = studies.get("toy")


def small_grid(count=4):
    return TOY.grid(dataset="digits", rank=4, variant="slides", epochs=1)[:count]


def made_up(run):
    """A record without any training."""
    return {
        "config": run.config,
        "fields": bench.recorded_fields(run),
        "facts": {"train_size": 10, "test_size": 10, "seconds": 0.0},
        "made": bench.provenance(),
        "values": [["test", "trained", "accuracy", 0.5], ["model", "-", "seconds", 0.0]],
        "history": [],
    }


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(bench, "carry_out", made_up)


def no_run(run):
    pytest.fail("it ran")


def test_a_second_call_repeats_nothing(tmp_path, monkeypatch, quick):
    store = Store(tmp_path, TOY)
    first = runner.run_grid(small_grid(), store, jobs=1, progress=False)
    assert first["config"].nunique() == 4 and set(first["config"]) == {r.config for r in small_grid()}
    monkeypatch.setattr(bench, "carry_out", no_run)
    second = runner.run_grid(small_grid(), store, jobs=1, progress=False)
    assert second.equals(first)


def test_a_collected_run_is_not_repeated_either(tmp_path, monkeypatch, quick):
    store = Store(tmp_path, TOY)
    first = runner.run_grid(small_grid(), store, jobs=1, progress=False)
    store.collect()
    monkeypatch.setattr(bench, "carry_out", no_run)
    assert runner.run_grid(small_grid(), store, jobs=1, progress=False).equals(first)


def test_a_failed_run_stops_no_other_and_is_named(tmp_path, monkeypatch):
    def broken(run):
        if run.method == "wds":
            raise RuntimeError("no luck")
        return made_up(run)

    monkeypatch.setattr(bench, "carry_out", broken)
    store = Store(tmp_path, TOY)
    with pytest.raises(runner.RunsFailed, match="wds rank 4 seed 0 .*no luck"):
        runner.run_grid(small_grid(3), store, jobs=1, progress=False)
    assert set(store.read()["method"]) == {"dense", "bias"}


def test_results_that_cannot_be_written_are_refused_before_any_run(tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "carry_out", no_run)
    (tmp_path / "file").write_text("")
    with pytest.raises(ResultsError, match="file"):
        runner.run_grid(small_grid(), Store(tmp_path / "file" / "results", TOY))


def test_missing_data_are_said_once_before_any_run_with_a_command_that_works(tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "carry_out", no_run)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    grid = TOY.grid(dataset="fashion_mnist")
    with pytest.raises(DatasetMissing, match="reproduce toy dataset=digits") as error:
        runner.run_grid(grid, Store(tmp_path / "results", TOY))
    assert str(error.value).count(str(tmp_path)) <= 2


def test_missing_weights_are_said_before_any_run(tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "carry_out", no_run)
    monkeypatch.setenv("CLORA_CACHE", str(tmp_path))
    study = studies.get("bert")
    grid = study.grid(dataset="synthetic", start="pretrained_here", rank=16)
    with pytest.raises(DatasetMissing, match="pretrain bert-tiny"):
        runner.run_grid(grid, Store(tmp_path / "results", study))


def test_a_rank_that_no_layer_can_hold_is_refused_before_any_run(tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "carry_out", no_run)
    grid = TOY.grid(dataset="digits", rank=(4, 100))
    with pytest.raises(ValueError, match="`rank`.*100"):
        runner.run_grid(grid, Store(tmp_path, TOY), progress=False)


def test_the_same_grid_runs_on_a_dask_cluster(tmp_path):
    distributed = pytest.importorskip("distributed")
    store = Store(tmp_path, TOY)
    with (
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=1, processes=True, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster),
        joblib.parallel_config(backend="dask"),
    ):
        rows = runner.run_grid(small_grid(3), store, progress=False)
    assert set(rows["method"]) == {"dense", "wds", "bias"}


# --- the same through the command line, killed -----------------------------------------------------

COMMAND = [sys.executable, "-m", "clora_lab", "reproduce", "toy", "dataset=digits", "rank=4"]
COMMAND += ["variant=slides", "method=wds,bias,noise,svd", "epochs=4", "--jobs", "1"]
RUNS = 5  # with the original net's


def start(folder):
    command = [*COMMAND, "--out", str(folder)]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "COLUMNS": "80"},
        # A shell gives what it starts in the background an interrupt that is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGINT])
def test_interrupted_and_rerun_it_loses_no_finished_run_and_repeats_none(tmp_path, signal_number):
    store = Store(tmp_path / "results", TOY)
    process = start(tmp_path)
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and len(list(store.runs.glob("*.json"))) < 2:
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.05)
    process.send_signal(signal_number)
    output, _ = process.communicate(timeout=60)
    if signal_number == signal.SIGINT:
        assert process.returncode == 130 and "goes on from there" in output
    before = store.read()
    written = {path: path.stat().st_mtime_ns for path in store.runs.glob("*.json")}
    assert 2 <= len(written) < RUNS
    second = start(tmp_path)
    output, _ = second.communicate(timeout=400)
    assert second.returncode == 0, output
    after = store.read()
    assert after["config"].nunique() == RUNS
    assert after.iloc[: len(before)].equals(before)  # the finished ones stand as they were
    assert {path: path.stat().st_mtime_ns for path in written} == written
    assert not after.duplicated(["config", "split", "view", "metric"]).any()
    assert "digits" in output


def test_two_runners_on_one_folder_lose_nothing(tmp_path):
    processes = [start(tmp_path) for _ in range(2)]
    for process in processes:
        output, _ = process.communicate(timeout=500)
        assert process.returncode == 0, output
    rows = Store(tmp_path / "results", TOY).read()
    assert rows["config"].nunique() == RUNS
    assert not rows.duplicated(["config", "split", "view", "metric"]).any()
