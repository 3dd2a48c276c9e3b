"""Recorded results: two tidy CSV files a study, safe against kill -9 and against each other.

`<study>.csv` has one row for each finished metric, `<study>_history.csv` one for each epoch. A run
is a block of rows with one `config`, and its last row is the metric "seconds": a block without that
row is torn and counts as not run. Appending happens under a file lock, the history first and then
the block, each in one write at the end of its file; reading takes no lock.
"""

from __future__ import annotations

import csv
import errno
import io
import math
import numbers
import os
import re
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
from filelock import FileLock, Timeout

RESULT_COLUMNS = (
    "study", "dataset", "model", "method", "rank", "init", "variant", "seed", "split", "view",
    "metric", "value", "epochs", "batch_size", "learning_rate", "lr_schedule", "alpha", "schedule",
    "begin", "end", "floor", "noise_gate", "fraction", "seconds", "backend", "keras_version",
    "backend_version", "clora_version", "python", "processor", "date", "config",
)  # fmt: skip
HISTORY_COLUMNS = (
    "study", "dataset", "model", "method", "rank", "init", "variant", "seed", "config", "epoch",
    "step", "decay", "noise", "loss", "accuracy", "val_loss", "val_accuracy",
    "val_compressed_loss", "val_compressed_accuracy", "val_original_loss", "val_original_accuracy",
)  # fmt: skip
# What a study needs beside these; its file has them before `config`.
EXTRA_COLUMNS = {
    "future": ("noise_spread", "noise_mean", "noise_per", "noise_kind"),
    "vgg16": ("dense_rank", "factorization", "start", "augment", "precision",
              "dense_epochs", "train_size", "test_size"),
    "bert": ("scope", "start", "sequence", "distillation", "dense_epochs", "train_size", "test_size"),
}  # fmt: skip
EXTRA_COLUMNS["bert_search"] = EXTRA_COLUMNS["bert"]
INTEGERS = frozenset(
    {"rank", "seed", "epochs", "batch_size", "epoch", "step", "dense_rank", "dense_epochs", "sequence"}
    | {"train_size", "test_size"}
)
FLOATS = frozenset(HISTORY_COLUMNS[HISTORY_COLUMNS.index("decay") :]) | {
    "value", "learning_rate", "alpha", "begin", "end", "floor", "noise_gate", "fraction", "seconds",
    "noise_spread", "noise_mean", "distillation",
}  # fmt: skip
RESULT_KEY = ["config", "split", "view", "metric"]
LAST_METRIC = "seconds"
LOCK_SECONDS = 60


def columns(study: str) -> tuple[str, ...]:
    """The columns of a study's results file: RESULT_COLUMNS, and the study's own before `config`."""
    return (*RESULT_COLUMNS[:-1], *EXTRA_COLUMNS.get(study, ()), RESULT_COLUMNS[-1])


class ResultsError(OSError):
    """The results folder cannot be written; the message names it and says what to do."""


class TornLineWarning(UserWarning):
    """A results file holds what a killed run left behind; it is ignored."""


class ResultsStore:
    """The recorded runs of one study in one folder.

    Args:
        folder: the folder; made on the first append.
        study: name of the study and of its files: letters, digits, "_" and "-".

    Raises:
        ValueError: `study` cannot be a file name.

    Example:

    >>> store = ResultsStore("out/results", "toy")
    >>> store.check_writable()  # before hours of training, not after
    >>> if config not in store.finished():
    ...     store.append(rows, history)
    >>> store.read()
    """

    def __init__(self, folder: str | os.PathLike, study: str):
        if not isinstance(study, str) or not re.fullmatch(r"[A-Za-z0-9][\w-]*", study, re.ASCII):
            raise ValueError(
                "`study` must be a name of letters, digits, '_' and '-'. "
                f"Received: {study!r}. Choose a name such as 'toy'."
            )
        self.folder = Path(folder)
        self.study = study
        self.columns = columns(study)
        self.path = self.folder / f"{study}.csv"
        self.history_path = self.folder / f"{study}_history.csv"

    def append(self, rows: Iterable[dict], history: Iterable[dict] = ()) -> bool:
        """Record one finished run; the torn tail that a killed writer left is cut off first.

        Args:
            rows: the run's block: for each metric a dict with all of `columns(study)`, all of one
                `config`, the last one with the metric "seconds".
            history: a dict with all of HISTORY_COLUMNS for each epoch; floats keep 6 digits.
                In both, None and NaN stay empty.

        Returns:
            True; or False, and nothing is written, if the run is recorded already.

        Raises:
            ValueError: a column is missing, unknown or of the wrong type; rows of several runs; no
                final "seconds"; or a file has other columns than these.
            ResultsError: the folder cannot be written.
        """
        rows, history = list(rows), list(history)
        self._check_run(rows, history)
        block = [_format(row, self.columns, repr) for row in rows]
        epochs = [_format(row, HISTORY_COLUMNS, "{:.6g}".format) for row in history]
        with self._writing():
            table = _Table(self.path, self.columns)
            table.cut_after(lambda fields: fields["metric"] == LAST_METRIC)
            if rows[0]["config"] in self.finished():
                return False
            past = _Table(self.history_path, HISTORY_COLUMNS)
            past.cut_after(lambda fields: True)
            # The block comes last: it alone says that the run is finished, history included.
            if epochs:
                past.write(epochs)
            table.write(block)
        return True

    def read(self) -> pd.DataFrame:
        """All finished runs, typed, in the order of recording; without a lock.

        A torn tail brings a TornLineWarning and is left out. A run recorded twice (files merged by
        hand) appears once, as recorded last.

        Raises:
            ValueError: the file has other columns, or a damaged line before its last one.
        """
        table = _Table(self.path, self.columns)
        frame = table.frame()
        # "seconds" closes a block; rows before it under another config lost their own end.
        closed_by = frame["config"].where(frame["metric"] == LAST_METRIC).bfill()
        whole = frame["config"] == closed_by
        table.warn_if_torn(frame.loc[~whole, "config"])
        return frame[whole].drop_duplicates(RESULT_KEY, keep="last").reset_index(drop=True)

    def read_history(self) -> pd.DataFrame:
        """The epochs of all finished runs, typed; an epoch recorded twice appears as the last one.

        Raises:
            ValueError: as for `read`.
        """
        finished = self.finished()
        table = _Table(self.history_path, HISTORY_COLUMNS)
        table.warn_if_torn()
        frame = table.frame()
        frame = frame[frame["config"].isin(finished)]
        return frame.drop_duplicates(["config", "epoch"], keep="last").reset_index(drop=True)

    def finished(self) -> set[str]:
        """The `config` of every finished run."""
        return set(self.read()["config"])

    def check_writable(self) -> None:
        """Make the folder and try it: an hour of training must not end in a refused write.

        Raises:
            ResultsError: the folder cannot be made, or it or its files cannot be written.
        """
        with self._writing():
            for path in (self.path, self.history_path):
                if path.exists():
                    path.open("ab").close()
            with tempfile.TemporaryFile(dir=self.folder):
                pass

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self.folder / f".{self.study}.lock", timeout=LOCK_SECONDS):
                yield
        except Timeout as error:
            raise ResultsError(
                f"The results folder {self.folder} has been locked by another process for "
                f"{LOCK_SECONDS} s. Wait for that process to end, or choose another folder."
            ) from error
        except OSError as error:
            raise ResultsError(
                f"The results folder {self.folder} cannot be written ({error}). "
                "Choose a folder that you may write to, or change its permissions."
            ) from error

    def _check_run(self, rows: list[dict], history: list[dict]) -> None:
        for row in rows:
            _check_columns("`rows`", row, self.columns)
        for row in history:
            _check_columns("`history`", row, HISTORY_COLUMNS)
        metrics = [row["metric"] for row in rows]
        if metrics.count(LAST_METRIC) != 1 or metrics[-1] != LAST_METRIC:
            raise ValueError(
                f"`rows` must end with its only row of the metric {LAST_METRIC!r}. "
                f"Received the metrics: {metrics}."
            )
        runs = sorted({(row["study"], str(row["config"] or "")) for row in [*rows, *history]})
        if len(runs) > 1 or runs[0][0] != self.study or not runs[0][1]:
            raise ValueError(
                f"`rows` and `history` must belong to one run (one `config`) of {self.study!r}. "
                f"Received (study, config): {runs}."
            )
        keys = [tuple(row[column] for column in RESULT_KEY) for row in rows]
        if len(set(keys)) < len(keys):
            raise ValueError(
                f"`rows` must hold each (split, view, metric) once. Received: {[key[1:] for key in keys]}."
            )


class _Table:
    """The complete lines of one CSV file, with the places where they end."""

    def __init__(self, path: Path, columns: tuple[str, ...]):
        self.path = path
        self.columns = columns
        self.rows: list[list[str]] = []
        self.ends = [0]  # in bytes; after the header, after each row
        data = path.read_bytes() if path.exists() else b""
        *lines, rest = data.split(b"\n")
        self.torn = bool(rest)
        if not lines and not self._header().startswith(rest):
            lines = [rest]  # not a header of ours that was cut short: let the check name it
        for number, line in enumerate(lines, start=1):
            self.ends.append(self.ends[-1] + len(line) + 1)
            fields = next(csv.reader([line.decode("utf-8-sig")]), [])
            if number == 1:
                _check_columns(str(path), fields, columns)
                self.ends = self.ends[1:]
            elif len(fields) == len(columns):
                self.rows.append(fields)
            else:
                raise ValueError(
                    f"{path}, line {number}, must have {len(columns)} fields. Received: "
                    f"{len(fields)}. Delete that line; its run is then done again."
                )

    def frame(self) -> pd.DataFrame:
        frame = pd.DataFrame(self.rows, columns=list(self.columns), dtype=str)
        for column in self.columns:
            try:
                if column in FLOATS:
                    # Exact to the last bit, which the parsers of pandas are not in every version.
                    values = [float(text or "nan") for text in frame[column]]
                    frame[column] = pd.Series(values, dtype="float64")
                elif column in INTEGERS:
                    frame[column] = frame[column].astype("int64")
            except ValueError as error:
                raise ValueError(
                    f"{self.path}: `{column}` must hold numbers ({error}). Delete the damaged line."
                ) from error
        return frame

    def warn_if_torn(self, configs: Iterable[str] = ()) -> None:
        configs = sorted(set(configs))
        if self.torn or configs:
            of = f" of {', '.join(configs)}" if configs else ""
            warnings.warn(
                f"{self.path} holds an unfinished line or run{of}: ignored.",
                TornLineWarning,
                stacklevel=3,
            )

    def cut_after(self, ends_a_run: Callable[[dict], bool]) -> None:
        """Cut the file after the last row for which `ends_a_run` holds."""
        keep = len(self.rows)
        while keep and not ends_a_run(dict(zip(self.columns, self.rows[keep - 1], strict=True))):
            keep -= 1
        if self.torn or keep < len(self.rows):
            config = self.columns.index("config")
            self.warn_if_torn(fields[config] for fields in self.rows[keep:])
            os.truncate(self.path, self.ends[keep])

    def write(self, rows: list[list[str]]) -> None:
        """Append `rows` in a single write, on the disk when this returns; all of them or none."""
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(rows)
        data = text.getvalue().encode()
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0)
        file = os.open(self.path, flags, 0o644)
        try:
            size = os.fstat(file).st_size
            data = data if size else self._header() + data
            if os.write(file, data) < len(data):
                os.ftruncate(file, size)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
            os.fsync(file)
        finally:
            os.close(file)

    def _header(self) -> bytes:
        return (",".join(self.columns) + "\n").encode()


def _check_columns(where: str, found: Iterable[str], columns: tuple[str, ...]) -> None:
    found = list(found)
    missing = [column for column in columns if column not in found]
    unknown = [column for column in found if column not in columns]
    # A dict may come in any order, a file may not.
    if missing or unknown or (where[0] != "`" and found != list(columns)):
        raise ValueError(
            f"{where} must have the columns {', '.join(columns)}. "
            f"Missing: {missing}; unknown: {unknown}; "
            f"{'in another order' if not missing + unknown else 'correct these'}."
        )


def _format(row: dict, columns: tuple[str, ...], number: Callable[[float], str]) -> list[str]:
    """The fields of `row` as text, refused where `_Table.frame` could not read them back."""
    fields = []
    for column in columns:
        value = row[column]
        if column in INTEGERS:
            good, kind = isinstance(value, numbers.Integral), "an integer"
        elif column in FLOATS:
            good, kind = value is None or isinstance(value, numbers.Real), "a number or None"
        else:
            good = value is None or isinstance(value, str) and value.isprintable()
            kind = "one line of text or None"
        if not good or isinstance(value, bool):
            raise ValueError(f"`{column}` must be {kind}. Received: {value!r}.")
        if value is None or column in FLOATS and math.isnan(value):
            fields.append("")
        elif column in FLOATS:
            fields.append(number(float(value)))
        else:
            fields.append(str(value))
    return fields
