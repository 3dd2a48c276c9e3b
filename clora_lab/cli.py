"""The command line: ``python -m clora_lab {reproduce,report,figures,audit,collect,pretrain,data}``.

Exit codes: 0 done; 2 wrong arguments; 3 a data set or weights are missing or damaged; 4 results or figures
can't be read or written; 5 some runs failed (the others are recorded); 130 interrupted (finished runs are
recorded). Only what trains or draws a net loads Keras; help, tables and errors don't.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from clora_lab import backend, studies

DATASET, RESULTS, FAILED, INTERRUPTED = 3, 4, 5, 130

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # that there is no GPU is not an error

app = typer.Typer(
    help="Low-rank compression of Keras networks: reproduce the studies, draw the figures, read the results.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)

ResultsOption = Annotated[
    Path | None,
    typer.Option(help="Folder of the results; by default the recorded ones of this project."),
]
NAMES = ", ".join(entry.name for entry in studies.STUDIES)


@contextlib.contextmanager
def _errors():
    """Turn what can go wrong into one clear message and an exit code."""
    from clora_lab.lab.data.registry import DatasetError

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


# --- reproduce ----------------------------------------------------------------------------------------


@app.command(
    "reproduce",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
)
def reproduce(
    context: typer.Context,
    study: Annotated[str, typer.Argument(help=f"{NAMES}.")] = "",
    jobs: Annotated[int | None, typer.Option(help="Processes; 0 for one for each core.", min=0)] = None,
    out: Annotated[Path, typer.Option(help="Folder for results/ and figures/.")] = Path("out"),
    results: Annotated[Path | None, typer.Option(help="Folder for the results.")] = None,
    figures: Annotated[Path | None, typer.Option(help="Folder for the figures.")] = None,
):
    """Carry out a study's grid and show it beside the published numbers.

    What is not named has the study's default; several values, separated by commas, are all carried out.
    Killed at any moment and run again, it goes on where it stopped.
    """
    if not study or study.startswith("-") or "--help" in context.args:
        _help(context, study)
        return
    with _errors():
        home = studies.get(study)
        chosen = _chosen(home, context.args)
        datasets = chosen.pop("dataset", ["auto"])
        for name in datasets:  # all that can be wrong in a word is said before a download
            home.grid(**{**chosen, "dataset": home.data[-1] if name == "auto" else name})
        from clora_lab.lab import runner
        from clora_lab.lab.store import Store

        grid = home.grid(dataset=[home.resolve(name) for name in datasets], **chosen)
        store = Store(results or out / "results", home)
        typer.echo(f"{home.title}: {home.title_of(grid[-1])}: {len(grid)} runs; results in {store.runs}")
        workers = home.jobs if jobs is None else jobs
        rows = runner.run_grid(grid, store, jobs=workers or os.cpu_count())
        home.hooks.report(home, rows)
        pictures = _pictures(home, rows, store, figures or out / "figures")
        typer.echo(f"{len(grid)} runs are recorded in {store.runs}; {pictures}")


def _chosen(home, words: list[str]) -> dict[str, list]:
    """The fields that the words of a command line choose: FIELD=VALUE,VALUE or --field VALUE,VALUE."""
    pairs = dict(_pairs(words))
    named = [text for name, text in pairs.items() if name.removesuffix("s") == "method"]
    wanted = named[0].split(",") if named else ()
    chosen = {}
    for name, text in pairs.items():
        if name == "seeds":  # so many, from 0 on
            chosen["seed"] = range(home.fields["seed"].parse(name, text))
            continue
        singular = name.removesuffix("s")
        name = name if name in home.fields or singular not in (*home.fields, home.recipes) else singular
        name = "variant" if name == home.recipes else name
        each = home.field(name, wanted)
        values = text.split(",")
        if name == home.cells[0]:
            chosen[name] = [tuple(each.parse(name, part) for part in value.split("/")) for value in values]
        else:
            chosen[name] = [each.parse(name, value) for value in values]
    return chosen


def _pairs(words: list[str]) -> Iterator[tuple[str, str]]:
    """(name, text) of each setting; "-" and "_" are one in names."""
    words = list(words)
    while words:
        word = words.pop(0)
        name, equals, text = word.partition("=")
        if not equals:
            if not word.startswith("--") or not words:
                raise ValueError(
                    f"Settings are FIELD=VALUE, such as rank=16,32 or seed=0,1,2. Received: {word!r}."
                )
            text = words.pop(0)
        yield name.removeprefix("--").replace("-", "_"), text


def _help(context: typer.Context, study: str) -> None:
    """The command's help, and with a study's name its fields."""
    typer.echo(context.get_help())
    name = study if study in studies.HOMES else "toy"
    home = studies.get(name)
    typer.echo(f"\nFields of {name} (`{home.title}`), with what they are unless you say otherwise:\n")
    for field, each in home.fields.items():
        choices = f" [{', '.join(map(str, each.choices))}]" if each.choices else ""
        typer.echo(f"  {field}={each.default}".ljust(34) + f" {each.words}{choices}")
    typer.echo(f"\n  variant is one of {', '.join(home.variants)}; dataset may be auto.")
    typer.echo("\nExamples:\n")
    for line in home.examples:
        typer.echo(f"  python -m clora_lab reproduce {name} {line}".rstrip())


def _pictures(home, rows, store, folder: Path) -> str:
    """Draw what can be drawn of a study; returns where the pictures are, in words."""
    if home.name not in DRAWN:
        return f"their pictures: python -m clora_lab figures --results {store.folder}"
    history = store.read_history()
    history = history[history["config"].isin(set(rows["config"]))]
    count = sum(_draw(rows, history, dataset, folder) for dataset in rows["dataset"].unique())
    return f"{count} pictures of them are in {folder}"


# --- what was recorded --------------------------------------------------------------------------------


@app.command("report")
def report(
    study: Annotated[str, typer.Argument(help=f"{NAMES}.")] = "toy",
    dataset: Annotated[str, typer.Option(help="Rows of one data set; by default of all.")] = "",
    split: Annotated[str, typer.Option(help="validation (as in the slides) or test.")] = "test",
    results: ResultsOption = None,
    markdown: Annotated[bool, typer.Option(help="Only the README's table, as Markdown.")] = False,
):
    """Print a study's recorded rows as tables, beside the slides' where they compare.

    Examples:

        python -m clora_lab report

        python -m clora_lab report vgg16

        python -m clora_lab report --split validation --results out/results
    """
    with _errors():
        from clora_lab import _checks

        _checks.one_of("split", split, ("validation", "test"))
        home = studies.get(study)
        store = _store(results, home)
        rows = _of(dataset, store.read(), store)
        if markdown:
            typer.echo(home.hooks.markdown(home, rows, split))
            return
        from clora_lab.lab import printing

        home.hooks.report(home, rows, (split,))
        machine = rows[["backend", "keras_version", "processor", "date"]].drop_duplicates()
        printing.show(machine, "Measured with")


@app.command("figures")
def draw_figures(
    dataset: Annotated[
        str, typer.Option(help="Rows of the toy project: fashion_mnist; digits draws those alone.")
    ] = "fashion_mnist",
    results: ResultsOption = None,
    out: Annotated[Path, typer.Option(help="Folder for the figures.")] = Path("out/figures"),
    lang: Annotated[str, typer.Option(help="Labels of the drawings and the page: en, or ko.")] = "en",
):
    """Draw every figure of the slides, published and measured, as PNG and SVG, and a page that compares them.

    Open index.html in the folder. What is not recorded yet is a note there, never a picture.

    Examples:

        python -m clora_lab figures

        python -m clora_lab figures --lang ko --out out/figures_ko

        python -m clora_lab figures --results out/results --dataset digits
    """
    with _errors():
        from clora_lab import _checks

        _checks.one_of("lang", lang, ("en", "ko"))
        store = _store(results, studies.get("toy"))
        rows = _of(dataset, store.read(), store)
        if dataset == "fashion_mnist":
            backend.load()
            from clora_lab.slides import page

            logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # a font without bold
            saved = page.save_slide_figures(out, store.folder, lang)
            for stem, note in saved.notes:
                typer.echo(f"note: {stem}: {note}", err=True)
            typer.echo(f"{len(saved.files)} files in {out}; open {saved.files[-1]}")
            return
        typer.echo(f"{_draw(rows, store.read_history(), dataset, out)} files in {out}")


@app.command("audit")
def audit_slides(
    kind: Annotated[
        str,
        typer.Option(
            help="arithmetic (the slides' rules), convention (other ways to count), both of these, code "
            "(what the authors' notebooks do), or all."
        ),
    ] = "all",
    everything: Annotated[bool, typer.Option("--all", help="Also what agrees.")] = False,
):
    """Compute again what the slides derive, and list what does not agree: no data set, no training.

    Examples:

        python -m clora_lab audit

        python -m clora_lab audit --kind arithmetic --all

        python -m clora_lab audit --kind code
    """
    with _errors():
        from clora_lab import _checks
        from clora_lab.slides import audit, coded

        _checks.one_of("kind", kind, (*audit.KINDS, "both", "code", "all"))
        counts = [] if kind == "code" else [audit.report("both" if kind == "all" else kind, everything)]
        code = [coded.report()] if kind in ("code", "all") else []
        typer.echo("\n\n".join(counts + code))


@app.command("collect")
def collect(
    study: Annotated[str, typer.Argument(help=f"{NAMES}.")] = "toy",
    results: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("out/results"),
):
    """Gather the finished runs of a study, a file each, in the two CSV files that can be committed.

    Example:

        python -m clora_lab collect bert --results data/results
    """
    with _errors():
        store = _store(results, studies.get(study))
        files = store.collect()
        typer.echo(f"{len(store.finished())} runs in {files[0]}, their epochs in {files[1].name}")


def _store(folder: Path | None, home):
    from clora_lab.lab.paths import data_dir
    from clora_lab.lab.store import Store

    store = Store(folder or data_dir() / "results", home)
    if not store.exists():
        command = f"python -m clora_lab reproduce {home.name}"
        raise FileNotFoundError(f"There are no results in {store.path}. Make them with: {command}")
    return store


def _of(dataset: str, rows, store):
    """The rows of one data set, or all."""
    if not dataset:
        return rows
    found = rows[rows["dataset"] == dataset]
    if found.empty:
        there = sorted(set(rows["dataset"]))
        raise ValueError(f"`dataset` {dataset!r} has no rows in {store.path}. There are: {there}.")
    return found


def _draw(rows, history, dataset: str, folder: Path) -> int:
    backend.load()
    from clora_lab.slides import measured

    files, missing = measured.save_toy_figures(rows, history, dataset, folder)
    for line in missing:  # of a partial grid; the other figures are drawn
        typer.echo(f"note: not drawn: {line}", err=True)
    return len(files)


DRAWN = ("toy",)  # the slides' figures are drawn of these by `reproduce`


# --- data and start values ----------------------------------------------------------------------------


@app.command("pretrain")
def pretrain(
    model: Annotated[
        str, typer.Argument(help="bert-tiny, or bert-small (thirty times the work).")
    ] = "bert-tiny",
    dataset: Annotated[str, typer.Option(help="imdb, or synthetic (seconds, for a trial).")] = "imdb",
    path: Annotated[
        Path | None, typer.Option(help="Folder aclImdb or its archive; by default CLORA_IMDB or the cache.")
    ] = None,
    fraction: Annotated[float, typer.Option(help="Share of the texts to read.")] = 1.0,
    epochs: Annotated[int, typer.Option(help="Epochs over all of them.", min=1)] = 3,
    length: Annotated[int, typer.Option(help="Tokens of a piece of text.", min=16, max=512)] = 128,
    threads: Annotated[int, typer.Option(help="Cores to use.", min=1)] = 1,
    out: Annotated[Path | None, typer.Option(help="Folder for the weights; by default the cache's.")] = None,
):
    """A BERT to start from, where none can be had: pretrained on the training texts by filling gaps.

    BERT-Tiny takes a quarter of an hour on a core. Killed at any moment and run again, it goes on from the
    last finished epoch.

    Examples:

        python -m clora_lab pretrain bert-tiny

        python -m clora_lab pretrain bert-tiny --path aclImdb_v1.tar.gz --epochs 2 --threads 2

        python -m clora_lab pretrain bert-small --length 64 --fraction 0.7 --epochs 1
    """
    with _errors():
        for name in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS"):
            os.environ.setdefault(name, str(threads))
        from clora_lab import _checks
        from clora_lab.lab.data import registry as datasets
        from clora_lab.lab.nets import registry as nets
        from clora_lab.lab.nets import starts

        known = {name.replace("_", "-"): name for name in starts.pretrainable()}
        key = known[_checks.one_of("model", model, known)]
        _checks.one_of("dataset", dataset, ("imdb", "synthetic"))
        place_of_texts = {"path": path} if dataset == "imdb" else {}
        command = f"python -m clora_lab pretrain {model} --dataset {{name}}"
        datasets.require(dataset, command, **place_of_texts)
        reviews = datasets.load(dataset, fraction=fraction, **place_of_texts)
        import pandas as pd

        from clora_lab.lab import printing

        backend.load()
        from clora_lab.lab.nets import pretrain

        place = out or starts.pretrained_dir(key)
        count = f"{len(reviews.x_train):,} training texts of {reviews.title}"
        typer.echo(f"Pretraining {nets.label(key)} on the {count}")
        settings = pretrain.Pretraining(epochs=epochs, length=length)
        _, history = pretrain.pretrain(reviews, key, settings, folder=place)
        columns = ("epoch", "val_loss", "val_accuracy")
        rows = [{name: row.get(name) for name in columns} for row in history]
        printing.show(pd.DataFrame(rows), "Gaps guessed in the validation texts; loss in nats")
        typer.echo(f"Weights in {place}")


@app.command("data")
def data(
    name: Annotated[str, typer.Argument(help="A data set to make available now; downloads it once.")] = "",
):
    """List the data sets: what is on this machine, and how to get the others.

    Exit code 3 if one is damaged, or if the one that is named can't be had.

    Examples:

        python -m clora_lab data

        python -m clora_lab data fashion_mnist
    """
    with _errors():
        from clora_lab.lab.data import registry as datasets

        if name:
            typer.echo(f"{datasets.title(name)} is in {datasets.find(name) or 'an installed package'}.")
            return
        from clora_lab.lab import printing

        status = datasets.status()
        shown = status.assign(MB=(status["bytes"] / 1e6).round(1).astype(object).where(status["bytes"] > 0))
        shown["get it with"] = shown["note"].where(shown["state"] == "missing", "")
        printing.show(shown[["dataset", "state", "MB", "get it with"]], "Data sets")
        for row in status[status["path"] != ""].itertuples():
            typer.echo(f"{row.dataset}: {row.path}")  # not in the table: a path has any length
        damaged = status.loc[status["state"] == "damaged", "note"].tolist()
        if damaged:
            raise datasets.DatasetDamaged(" ".join(damaged))
