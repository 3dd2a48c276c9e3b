"""The command line: ``python -m clora_lab {reproduce,pretrain,figures,report,audit,data}``.

Exit codes: 0 done; 2 wrong arguments; 3 a dataset is missing or damaged; 4 results or figures can't be
read or written; 5 some runs failed (the others are recorded); 130 interrupted (finished runs are recorded).
"""

from __future__ import annotations

import contextlib
import logging
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


def _dataset(name: str, among: tuple[str, ...], study: str) -> str:
    """The data set that a study takes, on this machine and whole; before anything slow is imported."""
    from clora_lab.lab.data import registry as datasets

    name = datasets.resolve(name, among)
    datasets.require(name, f"python -m clora_lab reproduce {study} --dataset {{name}}")
    return name


def _title(dataset: str) -> str:
    from clora_lab.lab.data import registry as datasets

    return datasets.title(dataset)


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
        from clora_lab.lab import processes

        processes.limit_threads()
        dataset = _dataset(dataset, ("fashion_mnist", "digits"), "toy")  # before imports that take seconds
        from clora_lab.lab import runner, tables
        from clora_lab.lab.results import ResultsStore
        from clora_lab.slides import gallery, published
        from clora_lab.studies import experiments

        grid = experiments.toy_grid(
            dataset,
            ranks=_integers("ranks", ranks) if ranks else None,
            seeds=range(seeds),
            variants=variants.split(","),
            epochs=epochs,
        )
        store = ResultsStore(results, "toy")
        title = _title(dataset)
        typer.echo(f"Toy study on {title}: {len(grid)} runs; results in {store.path}")
        rows = runner.run_grid(grid, store, jobs=jobs or os.cpu_count())
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


@reproduce_app.command("vgg16")
def reproduce_vgg16(
    dataset: Annotated[
        str,
        typer.Option(help="auto, cifar10_jpeg (a folder of images, CLORA_CIFAR10), cifar10 or digits32."),
    ] = "auto",
    part: Annotated[
        str, typer.Option(help="slides (5,000 / 1,000 images), full (50,000 / 10,000) or tiny.")
    ] = "slides",
    ranks: Annotated[
        str, typer.Option(help="Ranks CONV/DENSE, separated by commas; by default the slides' six.")
    ] = "",
    methods: Annotated[str, typer.Option(help="Methods and baselines; by default all.")] = "",
    factorizations: Annotated[
        str,
        typer.Option(help="loralib (the slides'), pair, pair_equal (as many parameters as loralib)."),
    ] = "loralib",
    seeds: Annotated[int, typer.Option(help="Number of seeds, from 0 on.", min=1)] = 1,
    variants: Annotated[
        str,
        typer.Option(help="Recipes: slides, short (few epochs, large steps), modern (augmentation, cosine)."),
    ] = "slides",
    model: Annotated[str, typer.Option(help="vgg16, or small_vgg (seconds on a laptop).")] = "vgg16",
    start: Annotated[str, typer.Option(help="random, or imagenet (keras.applications).")] = "random",
    epochs: Annotated[int, typer.Option(help="Epochs of a training; 0 for the recipe's.", min=0)] = 0,
    dense_epochs: Annotated[int, typer.Option(help="The same of the dense net.", min=0)] = 0,
    precision: Annotated[str, typer.Option(help="float32, or mixed_bfloat16 (faster).")] = "float32",
    jobs: Annotated[int, typer.Option(help="Processes; 0 for one for each core.", min=0)] = 1,
    results: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("out/results"),
):
    """VGG16 on CIFAR-10: convolutions and dense layers compressed, beside the published table.

    Killed at any moment and run again, it goes on from the last finished epoch. On a CPU the slides' grid
    takes days; on a GPU (KERAS_BACKEND=jax or torch) hours.

    Examples:

        python -m clora_lab reproduce vgg16 --dataset digits32 --model small_vgg --part tiny --ranks 4/4

        python -m clora_lab reproduce vgg16 --variants short --ranks 16/16 --precision mixed_bfloat16

        KERAS_BACKEND=jax python -m clora_lab reproduce vgg16 --part full --seeds 3 --start imagenet
    """
    with _errors():
        from clora_lab.lab import processes

        if jobs != 1:
            processes.limit_threads()
        dataset = _dataset(dataset, ("cifar10_jpeg", "cifar10", "digits32"), "vgg16")
        from clora_lab.lab import runner
        from clora_lab.lab.results import ResultsStore
        from clora_lab.studies import vgg16

        changes = {"epochs": epochs, "dense_epochs": dense_epochs}
        grid = vgg16.grid(
            dataset,
            ranks=_rank_pairs(ranks) if ranks else vgg16.RANKS,
            seeds=range(seeds),
            factorizations=factorizations.split(","),
            methods=methods.split(",") if methods else vgg16.METHODS,
            variants=variants.split(","),
            part=part,
            model=model,
            start=start,
            precision=precision,
            **{name: value for name, value in changes.items() if value},
        )
        store = ResultsStore(results, "vgg16")
        title = grid[0].title
        typer.echo(f"{title}: {len(grid)} runs; results in {store.path}")
        rows = runner.run_grid(grid, store, jobs=jobs or os.cpu_count())
        _show_parts(rows, "vgg16")


@reproduce_app.command("bert")
def reproduce_bert(
    dataset: Annotated[
        str, typer.Option(help="auto (IMDB if it can be had, else synthetic), imdb or synthetic.")
    ] = "auto",
    model: Annotated[str, typer.Option(help="bert_tiny, bert_small or minilm.")] = "bert_tiny",
    start: Annotated[
        str,
        typer.Option(help="preset, package, pretrained_here, random, or a folder; the model's usual one."),
    ] = "",
    fraction: Annotated[float, typer.Option(help="Share of the reviews, in (0, 1].")] = 1.0,
    sequence: Annotated[int, typer.Option(help="Tokens of a text; 0 for the model's usual.", min=0)] = 0,
    ranks: Annotated[str, typer.Option(help="Ranks, separated by commas.")] = "16,32,64",
    methods: Annotated[str, typer.Option(help="Methods and baselines; by default all.")] = "",
    scopes: Annotated[
        str,
        typer.Option(
            help="attention (the slides'), encoder (the feed-forward halves too), encoder_ff_wide (those at "
            "2.75 times attention's rank), model (encoder, pooler and token embedding), separated by commas."
        ),
    ] = "attention",
    seeds: Annotated[int, typer.Option(help="Number of seeds, from 0 on.", min=1)] = 1,
    variants: Annotated[
        str,
        typer.Option(
            help="Recipes, separated by commas: slides, short (few steps, larger ones), recipe (start from "
            "the activations, cosine rate), distilled (the same, learning from the dense net)."
        ),
    ] = "slides",
    epochs: Annotated[int, typer.Option(help="Epochs of a training; 0 for the recipe's.", min=0)] = 0,
    dense_epochs: Annotated[int, typer.Option(help="The same of the dense net, at most.", min=0)] = 0,
    learning_rate: Annotated[
        float, typer.Option(help="Of Adam at the start; 0 for the recipe's.", min=0.0)
    ] = 0.0,
    dense_learning_rate: Annotated[float, typer.Option(help="The same of the dense net.", min=0.0)] = 0.0,
    patience: Annotated[
        int, typer.Option(help="Epochs that the dense net waits for a better one; 0 for 2.", min=0)
    ] = 0,
    jobs: Annotated[int, typer.Option(help="Processes; 0 for one for each core.", min=0)] = 1,
    results: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("out/results"),
):
    """BERT on IMDB: attention compressed, or the encoder, or the model, beside the published table.

    Killed at any moment and run again, it goes on from the last finished epoch.

    Examples:

        python -m clora_lab reproduce bert --dataset synthetic --start random --ranks 16 --epochs 2

        python -m clora_lab reproduce bert --seeds 3 --ranks 16

        python -m clora_lab reproduce bert --model minilm --scopes encoder --variants distilled --ranks 63

        KERAS_BACKEND=jax python -m clora_lab reproduce bert --model bert_small --seeds 3
    """
    with _errors():
        from clora_lab.lab import processes

        if jobs != 1:
            processes.limit_threads()
        dataset = _dataset(dataset, ("imdb", "synthetic"), "bert")
        from clora_lab.lab import runner
        from clora_lab.lab.results import ResultsStore
        from clora_lab.studies import bert

        changes = {"epochs": epochs, "dense_epochs": dense_epochs, "sequence": sequence, "start": start}
        changes |= {"learning_rate": learning_rate, "dense_learning_rate": dense_learning_rate}
        changes |= {"patience": patience}
        grid = bert.grid(
            dataset,
            model,
            ranks=_integers("ranks", ranks),
            seeds=range(seeds),
            scopes=scopes.split(","),
            methods=methods.split(",") if methods else bert.METHODS,
            variants=variants.split(","),
            fraction=fraction,
            **{name: value for name, value in changes.items() if value},
        )
        store = ResultsStore(results, "bert")
        title = grid[0].title
        typer.echo(f"{title}: {len(grid)} runs; results in {store.path}")
        rows = runner.run_grid(grid, store, jobs=jobs or os.cpu_count())
        _show_parts(rows, "bert")


@reproduce_app.command("future")
def reproduce_future(
    dataset: Annotated[
        str,
        typer.Option(help="auto (Fashion-MNIST if it can be had, else digits), fashion_mnist or digits."),
    ] = "auto",
    questions: Annotated[
        str,
        typer.Option(help="inits, noise, surface (all of spread x gate x end: 50 runs a seed)."),
    ] = "inits,noise",
    seeds: Annotated[int, typer.Option(help="Number of seeds, from 0 on.", min=1)] = 5,
    epochs: Annotated[int, typer.Option(help="Epochs of each training.", min=1)] = 10,
    jobs: Annotated[int, typer.Option(help="Processes; 0 for one for each core.", min=0)] = 0,
    results: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("out/results"),
):
    """The slides' open questions on the toy project: how the pair starts, and which noise helps.

    Killed at any moment and run again, it goes on where it stopped.

    Examples:

        python -m clora_lab reproduce future --dataset digits --seeds 2

        python -m clora_lab reproduce future --questions inits

        python -m clora_lab reproduce future --dataset digits --questions surface
    """
    with _errors():
        from clora_lab.lab import processes

        processes.limit_threads()
        dataset = _dataset(dataset, ("fashion_mnist", "digits"), "future")
        from clora_lab.lab import runner
        from clora_lab.lab.results import ResultsStore
        from clora_lab.studies import future

        grid = future.grid(dataset, range(seeds), questions.split(","), epochs=epochs)
        store = ResultsStore(results, future.STUDY)
        title = f"{_title(dataset)}, rank {grid[-1].rank}, {epochs} epochs"
        typer.echo(f"Future steps on {title}: {len(grid)} runs; results in {store.path}")
        rows = runner.run_grid(grid, store, jobs=jobs or os.cpu_count())
        _show_answers(rows, questions=questions.split(","))


def _show_answers(rows, split: str = "test", questions=("inits", "noise", "surface")):
    from clora_lab.lab import tables
    from clora_lab.lab.frames import MissingResults
    from clora_lab.studies import future

    note = f"{split} accuracy in percent; difference: points from the slides' recipe, paired by seed"
    for question in questions:
        with contextlib.suppress(MissingResults):  # a question that was not recorded
            tables.show(future.compact(future.answers(rows, question, split)), question, note)


def _show_parts(rows, study: str, split: str = "test"):
    from clora_lab.lab import tables
    from clora_lab.studies import overview

    for title, part in overview.parts(rows, study):
        note = f"{split} accuracy in percent; gap: points from the dense net; n: seeds"
        tables.show(overview.table(part, split), title, note)


def _rank_pairs(text: str) -> list[tuple[int, int]]:
    pairs = []
    for pair in text.split(","):
        values = _integers("ranks", pair.replace("/", ","))
        if len(values) != 2:
            raise ValueError(f"`ranks` must be pairs such as 16/16,32/32. Received: {text!r}.")
        pairs.append(tuple(values))
    return pairs


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

        from clora_lab.lab import tables
        from clora_lab.lab.nets import pretrain

        place = out or starts.pretrained_dir(key)
        count = f"{len(reviews.x_train):,} training texts of {reviews.title}"
        typer.echo(f"Pretraining {nets.label(key)} on the {count}")
        settings = pretrain.Pretraining(epochs=epochs, length=length)
        _, history = pretrain.pretrain(reviews, key, settings, folder=place)
        columns = ("epoch", "val_loss", "val_accuracy")
        rows = [{name: row.get(name) for name in columns} for row in history]
        tables.show(pd.DataFrame(rows), "Gaps guessed in the validation texts; loss in nats")
        typer.echo(f"Weights in {place}")


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
        store = _store(results)
        rows = store.read()
        if not (rows["dataset"] == dataset).any():
            found = sorted(set(rows["dataset"]))
            raise ValueError(f"`dataset` {dataset!r} has no rows in {store.path}. There are: {found}.")
        if dataset == "fashion_mnist":
            from clora_lab.slides import page

            logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # a font without bold
            saved = page.save_slide_figures(out, store.folder, lang)
            for stem, note in saved.notes:
                typer.echo(f"note: {stem}: {note}", err=True)
            typer.echo(f"{len(saved.files)} files in {out}; open {saved.files[-1]}")
            return
        from clora_lab.slides import gallery

        _draw(rows, store.read_history(), dataset, out, gallery)


@app.command("report")
def report(
    study: Annotated[str, typer.Argument(help="toy, vgg16, bert or future.")] = "toy",
    dataset: Annotated[
        str, typer.Option(help="Of the studies toy and future: fashion_mnist or digits.")
    ] = "fashion_mnist",
    split: Annotated[str, typer.Option(help="validation (as in the slides) or test.")] = "test",
    results: ResultsOption = None,
    markdown: Annotated[bool, typer.Option(help="Only the README's table, as Markdown.")] = False,
):
    """Print the comparison with the slides and the summary of all recorded recipes.

    Examples:

        python -m clora_lab report

        python -m clora_lab report vgg16

        python -m clora_lab report --split validation --results out/results
    """
    with _errors():
        from clora_lab import _checks
        from clora_lab.lab import tables
        from clora_lab.slides import published
        from clora_lab.studies import future, overview

        _checks.one_of("split", split, ("validation", "test"))
        _checks.one_of("study", study, ("toy", *overview.STUDIES, future.STUDY))
        store = _store(results, study)
        rows = store.read()
        if study in overview.STUDIES:
            if markdown:
                typer.echo(overview.markdown(rows, study, split))
            else:
                _show_parts(rows, study, split)
            return
        rows = rows[rows["dataset"] == dataset]
        if rows.empty:
            raise ValueError(f"`dataset` {dataset!r} has no rows in {store.path}.")
        if study == future.STUDY:
            if markdown:
                typer.echo(future.markdown(rows, split))
            else:
                _show_answers(rows, split)
            return
        if markdown:
            typer.echo(tables.readme_table(rows, dataset, split))
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


@app.command("audit")
def audit_slides(
    kind: Annotated[
        str, typer.Option(help="arithmetic (the slides' rules), convention (other ways to count), or both.")
    ] = "both",
    everything: Annotated[bool, typer.Option("--all", help="Also what agrees.")] = False,
):
    """Compute again what the slides derive, and list what does not agree: no data set, no training.

    Examples:

        python -m clora_lab audit

        python -m clora_lab audit --kind arithmetic --all
    """
    with _errors():
        from clora_lab.slides import audit

        typer.echo(audit.report(kind, everything))


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
        from clora_lab.lab import tables

        status = datasets.status()
        shown = status.assign(MB=(status["bytes"] / 1e6).round(1).astype(object).where(status["bytes"] > 0))
        shown["get it with"] = shown["note"].where(shown["state"] == "missing", "")
        tables.show(shown[["dataset", "state", "MB", "get it with"]], "Data sets")
        for row in status[status["path"] != ""].itertuples():
            typer.echo(f"{row.dataset}: {row.path}")  # not in the table: a path has any length
        damaged = status.loc[status["state"] == "damaged", "note"].tolist()
        if damaged:
            raise datasets.DatasetDamaged(" ".join(damaged))


def _store(folder: Path | None, study: str = "toy"):
    from clora_lab.lab.paths import data_dir
    from clora_lab.lab.results import ResultsStore

    store = ResultsStore(folder or data_dir() / "results", study)
    if not store.path.is_file():
        raise FileNotFoundError(
            f"There are no results in {store.path}. Make them with: python -m clora_lab reproduce {study}"
        )
    return store


def _draw(rows, history, dataset, folder, gallery) -> None:
    files, missing = gallery.save_toy_figures(rows, history, dataset, folder)
    for line in missing:  # of a partial grid; the other figures are drawn
        typer.echo(f"note: not drawn: {line}", err=True)
    typer.echo(f"{len(files)} files in {folder}")
