"""A runner that loses nothing: the runs of a study, in parallel, each recorded as soon as it is done.

An experiment is one run: a frozen config with a name in the results, and a `run` that returns rows (see
data/README.md). Only the runner writes them, so a run is either recorded whole or not at all.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import hashlib
import json
import os
import platform
from collections.abc import Sequence
from typing import Protocol

import joblib
import keras
import pandas as pd
from tqdm.auto import tqdm

import clora_lab as cl
from clora_lab import methods, schedules
from clora_lab.lab import processes
from clora_lab.lab.results import HISTORY_COLUMNS, ResultsStore, columns


class Run(Protocol):
    """What the runner asks of an experiment; frozen dataclasses of the studies have it."""

    study: str
    method: str

    @property
    def config(self) -> str:
        """The run's name in the results; equal for equal experiments alone."""

    @property
    def key(self) -> str:
        """The run in a few words, for progress bars and messages."""

    def run(self) -> tuple[list[dict], list[dict]]:
        """Carry it out; returns its result rows and its history rows, and writes no result."""


class Settings:
    """What the frozen dataclasses of the studies share: the decay of their fields, and their name."""

    noise_law = None  # the slides'; no field, and the toy study's has a choice

    def decay(self, total_steps: int) -> schedules.Schedule:
        """The decay schedule over `total_steps` steps."""
        return schedules.get(self.schedule, total_steps, begin=self.begin, end=self.end, floor=self.floor)

    def with_only(self, names: Sequence[str], **own):
        """A run of the same study that shares these fields; the others are `own`, or the defaults."""
        return type(self)(**{name: getattr(self, name) for name in names}, **own)

    @property
    def config(self) -> str:
        """The run's name in the results: see `config_hash`."""
        return config_hash(self)


def config_hash(experiment) -> str:
    """12 hexadecimal digits that stand for all fields of a frozen dataclass: its name in the results.

    Only fields that differ from their default count, so that a new field keeps the old names valid.

    Example:
        >>> from clora_lab.schedules import LinearDecay
        >>> config_hash(LinearDecay(100)) == config_hash(LinearDecay(100, begin=0.2))
        False
    """
    fields = {
        field.name: getattr(experiment, field.name)
        for field in dataclasses.fields(experiment)
        if getattr(experiment, field.name) != field.default
    }
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:12]


def identity(experiment: Run) -> dict:
    """What names a run in both of its files."""
    names = ("study", "dataset", "model", "method", "rank", "init", "variant", "seed", "config")
    row = {name: getattr(experiment, name) for name in names}
    return row | ({"init": ""} if experiment.method == "dense" else {})


def result_rows(experiment: Run, values: Sequence[tuple], seconds: float, **own) -> list[dict]:
    """The rows of a run: its settings, what produced it, and one row for each value.

    Args:
        experiment: the run; its fields have the names of the columns.
        values: tuples (split, view, metric, value), the last one's metric "seconds".
        seconds: of the run's training.
        **own: columns of the study that are no field of the experiment.
    """
    common = {name: getattr(experiment, name, None) for name in columns(experiment.study)}
    common |= identity(experiment) | own | provenance() | {"seconds": round(seconds, 2)}
    common["noise_gate"] = schedules.NoiseGate.get(experiment.noise_gate).threshold
    if experiment.method not in methods.names("slides"):
        common |= dict.fromkeys(("alpha", "begin", "end", "floor", "noise_gate"))
        common["schedule"] = ""
    if experiment.method == "svd":
        common |= {"epochs": 0, "learning_rate": None}
    return [
        {**common, "split": split, "view": view, "metric": metric, "value": value}
        for split, view, metric, value in values
    ]


def history_rows(experiment: Run, history: list[dict]) -> list[dict]:
    """The rows of a run's history file, one an epoch."""
    named = identity(experiment)
    return [{name: {**named, **epoch}.get(name) for name in HISTORY_COLUMNS} for epoch in history]


@functools.lru_cache(maxsize=1)
def provenance() -> dict:
    """What produced a row: backend, versions, processor, date (UTC)."""
    backend = keras.backend.backend()
    version = __import__(backend).__version__
    return {
        "backend": backend,
        "keras_version": keras.__version__,
        "backend_version": version,
        "clora_version": cl.__version__,
        "python": platform.python_version(),
        "processor": _processor(),
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name} ({os.cpu_count()} cores)".replace(",", " ")


class RunsFailed(RuntimeError):
    """Some runs of a grid failed; the others are recorded."""


def _attempt(experiment: Run):
    try:
        return experiment, experiment.run(), None
    except Exception as error:  # the other runs go on; `run_grid` raises at the end
        return experiment, None, f"{type(error).__name__}: {error}"


def run_grid(
    experiments: Sequence[Run],
    store: ResultsStore,
    jobs: int | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Carry out all experiments that `store` does not hold yet, and return the rows of all of them.

    A run is recorded as soon as it is done; killed at any moment and called again, it repeats no recorded
    run. Runs are handed out through joblib: by default to `jobs` processes of this machine, or to whatever
    `joblib.parallel_config` names, for instance a Dask cluster.

    Args:
        experiments: what to run; dense nets are run first, as others start from them.
        store: where results are recorded.
        jobs: number of processes; None for what `joblib.parallel_config` says, or else 1.
        progress: show a bar with the time left.

    Raises:
        ResultsError: if the results folder can't be written (before any run).
        RunsFailed: after all others are done, if runs failed; names them and their errors.

    Example:
        >>> from clora_lab.studies.experiments import toy_grid  # doctest: +SKIP
        >>> store = ResultsStore("out/results", "toy")  # doctest: +SKIP
        >>> run_grid(toy_grid("digits"), store, jobs=2)  # doctest: +SKIP
    """
    store.check_writable()
    processes.limit_threads()
    finished = store.finished()
    waiting = [experiment for experiment in experiments if experiment.config not in finished]
    failed = []
    waves = [
        [experiment for experiment in waiting if experiment.method == "dense"],
        [experiment for experiment in waiting if experiment.method != "dense"],
    ]
    bar = tqdm(
        total=len(experiments),
        initial=len(experiments) - len(waiting),
        desc=f"{store.study} study",
        unit="run",
        disable=not progress,
    )
    with bar:
        for wave in filter(None, waves):
            parallel = joblib.Parallel(
                n_jobs=jobs, return_as="generator_unordered", pre_dispatch="all", batch_size=1
            )
            for experiment, rows, error in parallel(joblib.delayed(_attempt)(e) for e in wave):
                if error is None:
                    store.append(*rows)
                else:
                    failed.append(f"{experiment.key}: {error}")
                bar.set_postfix_str(experiment.key, refresh=False)
                bar.update()
    if failed:
        raise RunsFailed(
            f"{len(failed)} of {len(waiting)} runs failed, the others are recorded in {store.path}:\n"
            + "\n".join(failed)
        )
    results = store.read()
    wanted = {experiment.config for experiment in experiments}
    return results[results["config"].isin(wanted)].reset_index(drop=True)
