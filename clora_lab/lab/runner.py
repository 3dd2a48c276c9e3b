"""A runner that loses nothing: the runs of a grid, in parallel, each recorded as soon as it is done.

Before the first run it asks all that would stop a later one: whether the results can be written, whether the
data and the weights are there, whether every rank fits. It loads no Keras itself: that is for the processes
that carry out the runs.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence

import joblib
import pandas as pd
from tqdm.auto import tqdm

from clora_lab import backend
from clora_lab.lab import processes
from clora_lab.lab.data import registry as datasets
from clora_lab.lab.nets import starts
from clora_lab.lab.settings import Run
from clora_lab.lab.store import Store


class RunsFailed(RuntimeError):
    """Some runs of a grid failed; the others are recorded."""


def run_grid(
    runs: Sequence[Run],
    store: Store,
    jobs: int | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Carry out all runs that `store` does not hold yet, and return the rows of all of them.

    A run is recorded as soon as it is done; killed at any moment and called again, it repeats no recorded
    run. Runs are handed out through joblib: by default to `jobs` processes of this machine, or to whatever
    `joblib.parallel_config` names, for instance a Dask cluster.

    Args:
        runs: of one study; original nets are trained first, as the others start from them.
        store: where results are recorded.
        jobs: number of processes; None for what `joblib.parallel_config` says, or else 1.
        progress: show a bar with the time left.

    Raises:
        ResultsError: if the results folder can't be written (before any run).
        DatasetMissing, DatasetDamaged: if data or weights can't be had (before any run).
        ValueError: for a rank that a layer can't hold (before any run).
        RunsFailed: after all others are done, if runs failed; names them and their errors.

    Example:
        >>> from clora_lab import studies  # doctest: +SKIP
        >>> toy = studies.get("toy")  # doctest: +SKIP
        >>> run_grid(toy.grid(dataset="digits"), Store("out/results", toy), jobs=2)  # doctest: +SKIP
    """
    store.check_writable()
    finished = store.finished()
    waiting = [run for run in runs if run.config not in finished]
    require(waiting)
    workers = max(joblib.effective_n_jobs(jobs), 1)
    if workers > 1:
        processes.limit_threads()
    parallel = joblib.Parallel(n_jobs=jobs, return_as="generator_unordered", pre_dispatch="all", batch_size=1)
    # The processes of a pool stay for the next call: while one checks, the others load Keras.
    checks = [waiting, *[[]] * (workers - 1)] if waiting else []
    for problem in parallel(joblib.delayed(_check)(part) for part in checks):
        if problem is not None:
            raise problem
    failed = []
    bar = tqdm(
        total=len(runs),
        initial=len(runs) - len(waiting),
        desc=f"{store.name} study",
        unit="run",
        disable=not progress,
    )
    waves = [
        [run for run in waiting if run.is_original],
        [run for run in waiting if not run.is_original],
    ]
    with bar:
        for wave in filter(None, waves):
            for run, record, error in parallel(joblib.delayed(_attempt)(run) for run in wave):
                if error is None:
                    store.record(record)
                else:
                    failed.append(f"{run.key}: {error}")
                bar.set_postfix_str(run.key, refresh=False)
                bar.update()
    if failed:
        raise RunsFailed(
            f"{len(failed)} of {len(waiting)} runs failed, the others are recorded in {store.runs}:\n"
            + "\n".join(failed)
        )
    results = store.read()
    wanted = {run.config for run in runs}
    return results[results["config"].isin(wanted)].reset_index(drop=True)


def require(runs: Sequence[Run]) -> None:
    """Return once the data and the weights of all runs lie on this machine.

    Raises:
        DatasetMissing: something is missing and can't be had: the message has a command that works.
        DatasetDamaged: what is here is not what was published.
    """
    for dataset in dict.fromkeys(run.dataset for run in runs):
        study = next(run.home.name for run in runs if run.dataset == dataset)
        datasets.require(dataset, f"python -m clora_lab reproduce {study} dataset={{name}}")
    for model, start in dict.fromkeys((run.model, run["start"]) for run in runs if "start" in run):
        starts.find(model, start)


def _check(runs: Sequence[Run]) -> Exception | None:
    """What is wrong with a grid's ranks, or None; in a process of the pool, which so loads Keras."""
    try:
        _bench().check_ranks(runs)
    except ValueError as error:
        return error
    return None


def _attempt(run: Run):
    try:
        return run, _bench().carry_out(run), None
    except Exception as error:  # the other runs go on; `run_grid` raises at the end
        return run, None, f"{type(error).__name__}: {error}"


def _bench():
    """The bench, which loads Keras: only in a process that works."""
    backend.load()
    return importlib.import_module("clora_lab.lab.bench")
