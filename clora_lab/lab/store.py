"""Recorded results: one JSON file a run, whole or not there; `collect` makes the committed CSV of them.

    <folder>/<study>/<config>.json     a finished run: its fields, what it measured, its history, what made it
    <folder>/<study>.csv               the collected runs, a row a metric
    <folder>/<study>_history.csv       the same, a row an epoch

A file is written beside its place and moved there by `os.replace`, so neither kill -9 nor two runners at
once leave half a run. Reading takes both forms together; a run that is in both counts once, as in its JSON.
"""

from __future__ import annotations

import contextlib
import csv
import json
import math
import os
import re
import tempfile
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from clora_lab.lab.settings import Field
from clora_lab.lab.study import EPOCH, FIRST, MEASURED, Study

LAST_METRIC = "seconds"
NEEDED = ("config", "method", "seed", *MEASURED)  # a table without these holds no results
KEYS = ("config", "fields", "facts", "made", "values", "history")  # of a JSON file
TRIAL = 1 << 16  # bytes that `check_writable` writes: more than a run's file


class ResultsError(OSError):
    """The results folder can't be written; the message names it and says what to do."""


class DamagedRunWarning(UserWarning):
    """A run's file can't be read; it is ignored, and the run counts as not done."""


class Store:
    """The recorded runs of one study in one folder.

    Args:
        folder: the folder; made when the first run is recorded.
        study: whose runs; it gives columns and types.
        name: of the files, where it is not the study's (`toy_search` are runs of the toy study).

    Example:
        >>> from clora_lab import studies
        >>> from clora_lab.lab.paths import data_dir
        >>> rows = Store(data_dir() / "results", studies.get("toy")).read()
        >>> rows["config"].nunique() > 100 and rows["value"].dtype
        dtype('float64')
    """

    def __init__(self, folder: str | os.PathLike, study: Study, name: str = ""):
        self.study = study
        self.name = name or study.name
        self.folder = Path(folder)
        self.path = self.folder / f"{self.name}.csv"
        self.history_path = self.folder / f"{self.name}_history.csv"
        self.runs = self.folder / self.name

    # --- writing ------------------------------------------------------------------------------------

    def record(self, record: Mapping) -> Path:
        """Write the file of one finished run, whole or not at all; returns its path.

        Args:
            record: what `clora_lab.lab.bench.carry_out` returns: a dict with KEYS.

        Raises:
            ValueError: a key is missing, the run is of another study, the values don't end with the only
                "seconds", or a value is not of its column's type.
            ResultsError: the folder can't be written.
        """
        problem = _problem(record, record.get("config"))
        if not problem and record["fields"].get("study") != self.name:
            problem = f"it is of the study {record['fields'].get('study')!r}, not {self.name!r}"
        if problem:
            raise ValueError(f"`record` must be one whole run: {problem}.")
        self._frame(self._rows(record), self.study.columns)  # as it will be read
        path = self.runs / f"{record['config']}.json"
        self._write(path, json.dumps(record, indent=1, default=lambda number: number.item()) + "\n")
        return path

    def collect(self) -> list[Path]:
        """Write all finished runs into the two CSV files, and remove the JSON files that are now in them.

        Collected runs keep their places and new ones follow, so that a file under version control shows
        what was added. Floats are written so that they read back exactly.

        Returns:
            The two paths.

        Raises:
            ValueError: a CSV file is damaged.
            ResultsError: the folder can't be written.
        """
        done = [self.runs / f"{config}.json" for config in self._records()]
        # An epoch's values are worth six digits.
        both = (self.path, self.read(), repr), (self.history_path, self.read_history(), "{:.6g}".format)
        for path, rows, number in both:
            lines = rows.astype(object).where(rows.notna(), "")
            lines = lines.map(lambda value, n=number: n(float(value)) if isinstance(value, float) else value)
            self._write(path, lines.to_csv(index=False, lineterminator="\n"))
        for path in done:
            path.unlink(missing_ok=True)
        if self.runs.is_dir() and not any(self.runs.iterdir()):
            self.runs.rmdir()
        return [self.path, self.history_path]

    def check_writable(self) -> None:
        """Make the folder and try it: hours of training must not end in a refused write.

        Raises:
            ResultsError: the folder can't be made or written, or the disk is full.
        """
        try:
            self.runs.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.runs) as file:
                file.write(bytes(TRIAL))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise self._refused(error) from error

    def _write(self, path: Path, text: str) -> None:
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(part, "w", encoding="utf-8", newline="") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
        except OSError as error:
            with contextlib.suppress(OSError):
                part.unlink()
            raise self._refused(error) from error

    def _refused(self, error: OSError) -> ResultsError:
        return ResultsError(
            f"The results folder {self.folder} can't be written ({error}). Choose a folder that you may "
            "write to, or change its permissions; or make room on its disk."
        )

    # --- reading ------------------------------------------------------------------------------------

    def finished(self) -> set[str]:
        """The `config` of every finished run."""
        return {row["config"] for row in self._collected()} | set(self._records())

    def has(self, config: str) -> bool:
        """Whether a run's own file is there; it is not read."""
        return (self.runs / f"{config}.json").exists()

    def exists(self) -> bool:
        """Whether anything is recorded."""
        return self.path.is_file() or any(self.runs.glob("*.json"))

    def read(self) -> pd.DataFrame:
        """All finished runs as a typed table, a row a metric, in the order of recording.

        Raises:
            ValueError: the CSV file is damaged; the message names the line.

        Warns:
            DamagedRunWarning: a run's file can't be read.
        """
        records = self._records()
        rows = [row for row in self._collected() if row["config"] not in records]
        rows += [row for record in records.values() for row in self._rows(record)]
        return self._frame(rows, self.study.columns).drop_duplicates(
            ["config", *MEASURED[:-1]], keep="last", ignore_index=True
        )

    def read_history(self) -> pd.DataFrame:
        """The epochs of all finished runs, typed; raises and warns as `read`."""
        records = self._records()
        rows = [row for row in _lines(self.history_path, ("config", "epoch")) if row["config"] not in records]
        for record in records.values():
            common = self._common(record, FIRST)
            rows += [{**common, **epoch, "config": record["config"]} for epoch in record["history"]]
        frame = self._frame(rows, (*FIRST, "config", *EPOCH), last=())
        return frame.drop_duplicates(["config", "epoch"], keep="last", ignore_index=True)

    def _collected(self) -> list[dict]:
        """The rows of the CSV file; a run without its last metric was cut short and is left out."""
        rows = _lines(self.path, NEEDED)
        whole = {row["config"] for row in rows if row["metric"] == LAST_METRIC}
        return [row for row in rows if row["config"] in whole]

    def _records(self) -> dict[str, dict]:
        """config -> what its file holds, in the order of recording; damaged files are named and left out."""
        found = {}
        paths = self.runs.glob("*.json") if self.runs.is_dir() else ()
        for path in sorted(paths, key=lambda path: (path.stat().st_mtime_ns, path.name)):
            try:
                record = json.loads(path.read_text(encoding="utf-8"))
                problem = _problem(record, path.stem)
            except (OSError, ValueError) as error:
                problem = str(error)
            if problem:
                message = f"{path} is damaged ({problem}): ignored, and its run counts as not done."
                warnings.warn(message, DamagedRunWarning, stacklevel=3)
            else:
                found[path.stem] = record
        return found

    def _common(self, record: Mapping, wanted: Iterable[str] | None = None) -> dict:
        return {
            name: self.study.fields.get(name, Field(value)).cell(value)
            for name, value in record["fields"].items()
            if wanted is None or name in wanted
        }

    def _rows(self, record: Mapping) -> list[dict]:
        common = self._common(record) | record["facts"] | record["made"] | {"config": record["config"]}
        return [{**common, **dict(zip(MEASURED, value, strict=True))} for value in record["values"]]

    def _frame(
        self, rows: list[dict], columns: Sequence[str], last: Sequence[str] = ("config",)
    ) -> pd.DataFrame:
        """Typed columns: those of the study, then the settings that only some methods have."""
        more = dict.fromkeys(name for row in rows for name in row if name not in columns)
        names = [*(name for name in columns if name not in last), *more, *last]
        types = self.study.types
        data = {}
        for name in names:
            values = [row.get(name, "") for row in rows]
            kind = types.get(name) or (_kind(values) if name in more else str)
            try:
                data[name] = _column(values, kind)
            except (TypeError, ValueError) as error:
                raise ValueError(
                    f"{self.path}: `{name}` must hold {kind.__name__} ({error}). Delete the damaged line; "
                    "its run is then done again."
                ) from error
        return pd.DataFrame(data, columns=names)


def _problem(record, config) -> str:
    """Why a record is no whole run; "" if it is one."""
    if not isinstance(record, Mapping) or (missing := [key for key in KEYS if key not in record]):
        return f"it lacks {missing if isinstance(record, Mapping) else 'everything'}"
    if not config or record["config"] != config:
        return f"it is the run {record['config']!r}"
    metrics = [value[2] for value in record["values"]]
    if metrics.count(LAST_METRIC) != 1 or metrics[-1] != LAST_METRIC:
        return f"its values must end with the only {LAST_METRIC!r}"
    named = [tuple(value[:3]) for value in record["values"]]
    return "" if len(set(named)) == len(named) else "a (split, view, metric) is there twice"


def _lines(path: Path, needed: Sequence[str] = ("config",)) -> list[dict]:
    """The lines of a CSV file as dicts of text; none where there is no file."""
    if not path.is_file():
        return []
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file)
        header = next(reader, [])
        missing = [name for name in needed if name not in header]
        if missing:
            raise ValueError(f"{path} must have the columns {', '.join(needed)}. Missing: {missing}.")
        rows = []
        for fields in reader:
            if len(fields) != len(header):
                raise ValueError(
                    f"{path}, line {reader.line_num}, must have {len(header)} fields. Received: "
                    f"{len(fields)}. Delete that line; its run is then done again."
                )
            rows.append(dict(zip(header, fields, strict=True)))
    return rows


def _kind(values: Sequence) -> type:
    """The type of a column that no study declares, by what it holds."""
    given = [str(value) for value in values if value not in ("", None)]
    if all(re.fullmatch(r"[+-]?\d+", text) for text in given):
        return int
    try:
        return float if [float(text) for text in given] else str
    except ValueError:
        return str


def _integer(value) -> int:
    if isinstance(value, (bool, float)):
        raise ValueError(f"not an integer: {value!r}")
    return int(value)


def _column(values: Sequence, kind: type) -> pd.Series:
    empty = [value is None or value == "" for value in values]
    if kind is float:
        # Exact to the last bit, which the parsers of pandas are not in every version.
        found = [math.nan if no else float(value) for value, no in zip(values, empty, strict=True)]
        return pd.Series(found, dtype="float64")
    if kind is int:
        found = [pd.NA if no else _integer(value) for value, no in zip(values, empty, strict=True)]
        return pd.Series(found, dtype="Int64" if any(empty) else "int64")
    return pd.Series(["" if no else str(value) for value, no in zip(values, empty, strict=True)], dtype=str)
