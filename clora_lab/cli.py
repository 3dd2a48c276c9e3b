"""The command line: ``python -m clora_lab {reproduce,figures,report,data}``.

Exit codes: 0 done; 2 wrong arguments; 3 a dataset is missing or damaged; 4 results or figures can't be
read or written; 5 some runs failed (the others are recorded); 130 interrupted (finished runs are recorded).
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Annotated

import typer

DATASET, RESULTS, FAILED, INTERRUPTED = 3, 4, 5, 130

GAP = "accuracy in percent; n: seeds; diff.: measured - published; gap: measured - dense, in points"

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # that there is no GPU is not an error

app = typer.Typer(
    help="Low-rank compression of Keras networks: reproduce the studies, draw the figures, read the results.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
reproduce_app = typer.Typer(
    help="Run a study and show it beside the published numbers.", no_args_is_help=True
)
app.add_typer(reproduce_app, name="reproduce")

ResultsOption = Annotated[
    Path | None,
    typer.Option(help="Folder of the results; by default the recorded ones of this project."),
]


@contextlib.contextmanager
def _errors():
    """Turn what can go wrong into one clear message and an exit code."""
    from clora_lab.studies.datasets import DatasetError

    try:
        yield
    except DatasetError as error:
        _leave(error, DATASET)
    except KeyboardInterrupt:
        _leave(
            "Interrupted. Finished runs are recorded; the same command goes on from there.",
            INTERRUPTED,
        )
    except OSError as error:
        _leave(error, RESULTS)
    except ValueError as error:
        _leave(error, 2)
    except RuntimeError as error:
        _leave(error, FAILED)


def _leave(message, code: int):
    typer.echo(f"error: {message}", err=True)
    raise typer.Exit(code)


def _integers(argument: str, text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(
            f"`{argument}` must be integers separated by commas, such as 16,32,64. Received: {text!r}."
        ) from None


@reproduce_app.command("toy")
def reproduce_toy(
    dataset: Annotated[
        str,
        typer.Option(help="auto (Fashion-MNIST if it can be had, else digits), fashion_mnist or digits."),
    ] = "auto",
    ranks: Annotated[str, typer.Option(help="Ranks, separated by commas; by default the slides'.")] = "",
    seeds: Annotated[int, typer.Option(help="Number of seeds, from 0 on.", min=1)] = 1,
    variants: Annotated[
        str,
        typer.Option(help="Recipes, separated by commas: slides, cosine, noise_to_end, recipe."),
    ] = "slides,noise_to_end",
    epochs: Annotated[int, typer.Option(help="Epochs of each training.", min=1)] = 30,
    jobs: Annotated[int, typer.Option(help="Processes; 0 for one for each core.", min=0)] = 0,
    results: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("out/results"),
    figures: Annotated[Path, typer.Option(help="Folder for the figures.")] = Path("out/figures"),
):
    """The toy project: four methods, three ranks, all baselines, beside the published table.

    Killed at any moment and run again, it goes on where it stopped.

    Examples:

        python -m clora_lab reproduce toy

        python -m clora_lab reproduce toy --dataset digits --jobs 2

        python -m clora_lab reproduce toy --seeds 5 --variants slides,cosine --ranks 16
    """
    with _errors():
        from clora_lab.studies import datasets, processes

        processes.limit_threads()
        dataset = datasets.resolve(dataset)  # before the imports that take seconds
        datasets.obtain(dataset)
        from clora_lab.studies import experiments, gallery, published, tables
        from clora_lab.studies.results import ResultsStore

        grid = experiments.toy_grid(
            dataset,
            ranks=_integers("ranks", ranks) if ranks else None,
            seeds=range(seeds),
            variants=variants.split(","),
            epochs=epochs,
        )
        store = ResultsStore(results, "toy")
        title = datasets.TITLES[dataset]
        typer.echo(f"Toy study on {title}: {len(grid)} runs; results in {store.path}")
        rows = experiments.run_grid(grid, store, jobs=jobs or os.cpu_count())
        if "slides" in variants.split(","):
            for split in ("validation", "test"):
                comparison = published.compare(rows, dataset=dataset, split=split)
                note = comparison.attrs["note"]
                title_of = comparison.attrs["title"] + (f" ({note})" if note else "")
                tables.show(tables.compact(comparison), title_of, GAP)
        summary = tables.summarise(rows[rows["variant"] != "slides"])
        if len(summary):
            tables.show(summary, f"Other recipes on {title}")
        history = store.read_history()
        history = history[history["config"].isin(set(rows["config"]))]
        _draw(rows, history, dataset, figures, gallery)


@app.command("figures")
def draw_figures(
    dataset: Annotated[
        str, typer.Option(help="Whose rows to draw: fashion_mnist or digits.")
    ] = "fashion_mnist",
    results: ResultsOption = None,
    out: Annotated[Path, typer.Option(help="Folder for the figures.")] = Path("out/figures"),
):
    """Draw the slides' figures of the toy project from recorded rows, as PNG and SVG.

    Examples:

        python -m clora_lab figures

        python -m clora_lab figures --results out/results --dataset digits
    """
    with _errors():
        store = _store(results)
        rows, history = store.read(), store.read_history()
        if not (rows["dataset"] == dataset).any():
            found = sorted(set(rows["dataset"]))
            raise ValueError(f"`dataset` {dataset!r} has no rows in {store.path}. There are: {found}.")
        from clora_lab.studies import gallery

        _draw(rows, history, dataset, out, gallery)


@app.command("report")
def report(
    dataset: Annotated[str, typer.Option(help="fashion_mnist or digits.")] = "fashion_mnist",
    split: Annotated[str, typer.Option(help="validation (as in the slides) or test.")] = "test",
    results: ResultsOption = None,
    markdown: Annotated[bool, typer.Option(help="Only the README's table, as Markdown.")] = False,
):
    """Print the comparison with the slides and the summary of all recorded recipes.

    Examples:

        python -m clora_lab report

        python -m clora_lab report --split validation --results out/results
    """
    with _errors():
        from clora_lab import _checks
        from clora_lab.studies import published, tables

        _checks.one_of("split", split, ("validation", "test"))
        store = _store(results)
        rows = store.read()
        rows = rows[rows["dataset"] == dataset]
        if rows.empty:
            raise ValueError(f"`dataset` {dataset!r} has no rows in {store.path}.")
        if markdown:
            typer.echo(tables.markdown(rows, dataset, split))
            return
        if (rows["variant"] == "slides").any():
            comparison = published.compare(rows, dataset=dataset, split=split)
            tables.show(tables.compact(comparison), comparison.attrs["title"], GAP)
        summary = tables.summarise(rows)
        summary = summary[summary["split"] == split].drop(columns=["dataset", "split"])
        tables.show(summary.assign(mean=100 * summary["mean"], sd=100 * summary["sd"]),
                    f"All recipes on {dataset}, {split} accuracy in percent")  # fmt: skip
        machine = rows[["backend", "keras_version", "processor", "date"]].drop_duplicates()
        tables.show(machine, "Measured with")


@app.command("data")
def data():
    """List the datasets: what is cached, where, and whether it is intact.

    Exit code 3 if a file is damaged.

    Example:

        python -m clora_lab data
    """
    with _errors():
        from clora_lab.studies import datasets, tables

        status = datasets.status()
        tables.show(status, "Datasets")
        damaged = status.loc[status["state"] == "damaged", "path"].tolist()
        if damaged:
            raise datasets.DatasetDamaged(
                f"Damaged: {', '.join(map(str, damaged))}. Delete these files and run again."
            )


def _store(folder: Path | None):
    from clora_lab.studies.paths import data_dir
    from clora_lab.studies.results import ResultsStore

    store = ResultsStore(folder or data_dir() / "results", "toy")
    if not store.path.is_file():
        raise FileNotFoundError(
            f"There are no results in {store.path}. Make them with: python -m clora_lab reproduce toy"
        )
    return store


def _draw(rows, history, dataset, folder, gallery) -> None:
    files, missing = gallery.save_toy_figures(rows, history, dataset, folder)
    for line in missing:  # of a partial grid; the other figures are drawn
        typer.echo(f"note: not drawn: {line}", err=True)
    typer.echo(f"{len(files)} files in {folder}")
