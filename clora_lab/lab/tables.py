"""The comparison of recorded nets, and its forms: terminal, Markdown, notebook; `figures.compare` draws it.

`compare` is the one place where accuracies of several seeds become a mean, where the original net's is taken
off, and where published numbers are laid beside. What it returns is a tidy frame; everything else here prints
it. Nothing here loads Keras.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table
from tabulate import DataRow, TableFormat

from clora_lab import methods
from clora_lab.lab import names, published, stats
from clora_lab.lab.frames import MissingResults, plus_minus, require, signed
from clora_lab.lab.study import Published, Study

if TYPE_CHECKING:
    from pandas.io.formats.style import Styler

NEEDED = ("method", "seed", "config", "split", "view", "metric", "value")
MADE = ("processor", "date", "precision")  # what else a table says of how its rows were computed
PRINTED = ("published", "published_sd", "published_gap", "published_ratio", "difference")
MEASURED = ("measured", "sd", "n", "gap", "low", "high")
# The heads of the ratios that are printed; others are in the frame alone.
RATIO_HEADS = {"ratio": "ratio %", "ratio_encoder": "of encoder", "ratio_model": "of model"}


# --- the rows of one table ----------------------------------------------------------------------


class _Row(dict):
    """A recorded row as a study's hooks read a run: what an old file does not have is the default."""

    def __init__(self, row: Mapping, study: Study):
        super().__init__(row)
        self.study = study

    def __missing__(self, name):
        return self.study.fields[name].default

    def only(self, *names):
        return {name: self[name] for name in names}


def parts(rows: pd.DataFrame, study: Study) -> Iterator[tuple[dict, pd.DataFrame]]:
    """The rows of a study table by table, each with the original nets from which its nets started.

    Args:
        rows: recorded rows.
        study: whose they are.

    Yields:
        The columns of `study.apart` with their values in this table, and its rows.

    Raises:
        MissingResults: a column is missing, or there is no row.
    """
    require(rows, "rows", (*NEEDED, *study.apart, *study.cells))
    rows = rows.reset_index(drop=True)
    original = rows["method"] == methods.ORIGINAL
    for _, part in rows[~original].groupby(list(study.apart), sort=False, dropna=False):
        first = _Row(part.iloc[0], study)
        wanted = {name: first[name] for name in study.apart_of_original}
        wanted |= {name: v for name, v in study.hooks.original(first).items() if name in wanted}
        same = np.logical_and.reduce([original, *(rows[name] == value for name, value in wanted.items())])
        yield first.only(*study.apart), rows.loc[rows.index[same].union(part.index)]


def final_values(rows: pd.DataFrame, split: str, metric: str = "accuracy") -> pd.DataFrame:
    """The accuracy that each finished net has in the end, or another metric: a row a run.

    A net that was compressed while it trained counts by what is left of it, the view "compressed"; "trained"
    is used where no other was recorded.

    Args:
        rows: recorded rows.
        split: "validation" or "test"; what was recorded of the net itself ("seconds") belongs to both.
        metric: "accuracy", "loss" or "seconds".

    Raises:
        MissingResults: there is none.
    """
    found = rows[(rows["metric"] == metric) & rows["split"].isin((split, "model"))]
    if found.empty:
        raise MissingResults(
            f"`rows` must hold the metric {metric!r} of the split {split!r}. Received: none. Choose another "
            "split, or record some."
        )
    return found.sort_values("view", kind="stable").drop_duplicates("config")  # compressed < trained


def by_seed(rows: pd.DataFrame, study: Study, split: str = "test") -> pd.DataFrame:
    """The accuracy of every finished net of one table in percent, a column a method.

    Args:
        rows: of one table, as `parts` gives them.
        study: whose they are.
        split: "test" or "validation".

    Returns:
        Indexed by (cell, seed), cells in the order of their ranks and named as in "16/32"; the original net
        of the seed stands in every cell.

    Raises:
        MissingResults: no accuracy of the split, or of the original net alone.
        ValueError: what no mean should mix, see `compare`.
    """
    _refuse_mixtures(rows, study)
    accuracy = final_values(rows, split)
    small = accuracy[accuracy["method"] != methods.ORIGINAL].sort_values([*study.cells, "seed"])
    if small.empty:
        raise MissingResults(
            f"`rows` must hold compressed nets with an accuracy of the split {split!r}. Received: the "
            "original net alone."
        )
    small = small.assign(cell=cell_names(small, study.cells))
    table = small.pivot(index=["cell", "seed"], columns="method", values="value")
    table = 100 * table.loc[[*small[["cell", "seed"]].drop_duplicates().itertuples(index=False, name=None)]]
    whole = accuracy[accuracy["method"] == methods.ORIGINAL].set_index("seed")["value"]
    table[methods.ORIGINAL] = 100 * whole.reindex(table.index.get_level_values("seed")).to_numpy()
    return table[sorted(table, key=methods.order)].rename_axis(columns=None)


def cell_names(frame: pd.DataFrame, cells: Sequence[str]) -> pd.Series:
    """The cells of a frame as texts: "16", or "16/32" of two ranks.

    Example:
        >>> cell_names(pd.DataFrame({"rank": [16], "dense_rank": [32]}), ("rank", "dense_rank")).item()
        '16/32'
    """
    return frame[list(cells)].astype(int).astype(str).agg("/".join, axis=1)


def _refuse_mixtures(rows: pd.DataFrame, study: Study) -> None:
    """Refuse rows of which some mean would mix two settings, or two runs of one seed."""
    checked = [name for name in study.must_agree if name in rows]
    runs = rows.drop_duplicates("config")
    for (method, *cell), own in runs.groupby(["method", *study.cells]):
        named = f"{method}, rank {'/'.join(map(str, cell))}"
        for name in checked:
            values = own[name].drop_duplicates().tolist()
            if len(values) > 1:
                raise ValueError(
                    f"`rows` must hold one setting for each method and cell, but {named}, has several of "
                    f"`{name}`: {values}. Select the rows of one first."
                )
        twice = own.loc[own.duplicated("seed"), "seed"].unique().tolist()
        if twice:
            raise ValueError(
                f"`rows` must hold one run for each method, cell and seed, but {named}, has several "
                f"`config` of the seeds {twice}. Select the rows of one first."
            )


# --- the comparison -----------------------------------------------------------------------------


def compare(rows: pd.DataFrame, study: Study, split: str = "test", metric: str = "accuracy") -> pd.DataFrame:
    """What was measured, over seeds, beside what was published: a row a table, cell and method.

    Args:
        rows: recorded rows of the study, as its store reads them.
        study: whose they are; it says which rows make a table, what a mean may hold, which shares were
            recorded, and which published table belongs beside.
        split: "test" or "validation".
        metric: "accuracy"; or "loss" (nats) or "seconds", beside which nothing was published.

    Returns:
        Tables one after the other; in each the original net first, then cell by cell the methods in the
        order of their registry. Columns, in percent and points:

        - the columns of `study.apart`, which tell tables apart, and of `study.cells`; method; split
        - published, published_sd, published_gap (from the published original), published_ratio: where a
          published table is of the same data, else empty. Cells that were not measured are there too.
        - measured, sd (ddof 1; empty for one seed), n (seeds), gap (from the original nets of the same seeds,
          mean of the pairs), low, high (Student's 95% interval of the mean; empty below three seeds)
        - difference (measured - published)
        - what remains, means over the seeds: every share of `study.ratios`, as "ratio" for the metric
          "ratio_percent", and whatever else was recorded of the net itself ("parameters", "flops")
        - note: why published and measured do not compare like with like

        `each` takes the tables apart again; their titles are in `attrs`, which a selection of rows keeps.

    Raises:
        MissingResults: no compressed net, no accuracy of the split, or a missing column.
        ValueError: runs that no mean should mix (two settings for one method and cell, or two runs of one
            seed): select rows first.

    Example:
        >>> from clora_lab import studies
        >>> toy = studies.recorded("toy").read()
        >>> table = compare(toy[toy["variant"] == "slides"], studies.get("toy"))
        >>> table[(table["method"] == "noise_bias") & (table["rank"] == 16)][["published", "measured", "gap"]]
        >>> table.round(2).to_dict("records")[0]["measured"]
        87.39
    """
    frames, titles, made = [], {}, {}
    for what, part in parts(rows, study):
        frames.append(_table(part, study, split, metric).assign(**what, split=split))
        titles[tuple(what.values())] = study.describe(part)
        made[tuple(what.values())] = _made(part)
    if not frames:
        raise MissingResults("`rows` must hold a compressed net. Received: the original net alone.")
    frame = pd.concat(frames, ignore_index=True)
    costs = [name for name in frame if name not in (*what, *study.cells, "method", "split", "note")]
    costs = [name for name in costs if name not in (*PRINTED, *MEASURED)]
    shares = [name.removesuffix("_percent") for name in study.ratios]
    costs.sort(key=lambda name: (shares.index(name) if name in shares else len(shares), name))
    first = [name for name in what if name not in study.cells]
    order = [*first, *study.cells, "method", "split", *PRINTED[:-1], *MEASURED, PRINTED[-1], *costs, "note"]
    frame = frame[order]
    frame.attrs |= {"apart": tuple(what), "cells": study.cells, "titles": titles, "made": made}
    return frame


def _table(rows: pd.DataFrame, study: Study, split: str, metric: str) -> pd.DataFrame:
    """The rows of one table: measured, and published where that is of the same data."""
    _refuse_mixtures(rows, study)
    by = [*study.cells, "method"]
    values, scale = final_values(rows, split, metric), 100 if metric == "accuracy" else 1
    whole = values[values["method"] == methods.ORIGINAL].set_index("seed")["value"]
    values = values.assign(
        value=scale * values["value"],
        gap=scale * (values["value"] - whole.reindex(values["seed"]).to_numpy()),
    )
    cells = values.groupby(by)
    table = cells["value"].agg(measured="mean", sd="std", n="size").astype({"n": "Int64"})
    table["gap"] = cells["gap"].mean()
    table[["low", "high"]] = [stats.interval(values) for _, values in cells["value"]]
    for cost in rows.loc[rows["split"] == "model", "metric"].unique():
        if cost != "seconds":
            own = rows[rows["metric"] == cost].groupby(by)["value"].mean()
            table[cost.removesuffix("_percent")] = own
    compressed = rows[rows["method"] != methods.ORIGINAL].iloc[0]
    printed = study.published if metric == "accuracy" else ()
    beside = next((each for each in printed if each.compares(compressed)), None)
    table = _beside(beside, study.cells).join(table, how="outer")
    table = table.assign(difference=table["measured"] - table["published"], note="")
    if beside is not None and beside.split and beside.split != split:
        table["note"] = f"published: {beside.split}, measured: {split}"
    order = sorted(table.index, key=lambda cell: (*cell[:-1], methods.order(cell[-1])))
    return table.reindex(order).reset_index()


def _beside(beside: Published | None, cells: Sequence[str]) -> pd.DataFrame:
    """A published table with the names of this frame, indexed like it; without one, no rows."""
    names = {"accuracy_percent": "published", "accuracy_sd": "published_sd"}
    names["ratio_percent"] = "published_ratio"
    by = [*cells, "method"]
    if beside is None:
        index = pd.MultiIndex.from_arrays([pd.array([], "int64")] * len(cells) + [pd.array([], "str")])
        return pd.DataFrame(index=index.set_names(by), columns=[*PRINTED[:-1]], dtype="float64")
    table = published.load(beside.table).rename(columns={**beside.cells, **names})
    table = table.replace({"method": {"original": methods.ORIGINAL}}).fillna(dict.fromkeys(cells, 0))
    table = table.astype(dict.fromkeys(cells, "int64")).set_index(by)
    original = table.xs(methods.ORIGINAL, level="method")["published"].item()
    return table.assign(published_gap=table["published"] - original).reindex(columns=[*PRINTED[:-1]])


def _made(rows: pd.DataFrame) -> tuple[tuple[str, ...], ...]:
    """Backend, Keras, processors, dates: how rows were computed, every value once."""
    found = [rows["backend"] + " " + rows["backend_version"], "Keras " + rows["keras_version"]]
    found += [rows[name] for name in MADE if name in rows]
    return tuple(tuple(values.astype(str).unique()) for values in found)


def each(frame: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """The tables of a comparison one by one.

    Args:
        frame: by `compare`, or a selection of its rows.

    Yields:
        The title, which names net, data and recipe, and the rows.
    """
    for key, table in frame.groupby(list(frame.attrs["apart"]), sort=False, dropna=False):
        table.attrs = {**frame.attrs, "made_on": frame.attrs["made"][key]}
        yield frame.attrs["titles"][key], table.reset_index(drop=True)


# --- Markdown -----------------------------------------------------------------------------------


def texts(table: pd.DataFrame) -> pd.DataFrame:
    """One table of a comparison as texts: what was measured, with the published accuracy where it compares.

    Args:
        table: by `each`.

    Returns:
        Columns rank, method (as printed), what remains in percent, and published, published gap, measured,
        measured gap, n; without the published two where nothing is beside.
    """
    table = table[table["measured"].notna()]
    shown = {"rank": cell_names(table, table.attrs["cells"]), "method": table["method"].map(methods.label)}
    heads = {head: name for name, head in RATIO_HEADS.items() if name in table}
    shown |= {head: table[name].map("{:.2f}".format) for head, name in heads.items()}
    kinds = {"published": "published_sd"} if table["published"].notna().any() else {}
    for kind, spread in {**kinds, "measured": "sd"}.items():
        pairs = zip(table[kind], table[spread], strict=True)
        shown[kind] = [plus_minus(*pair) if np.isfinite(pair[0]) else "" for pair in pairs]
        gaps = table["gap" if kind == "measured" else f"{kind}_gap"]
        shown[f"{kind} gap"] = ["" if np.isnan(gap) else f"{gap:.2f}" for gap in gaps]
    return pd.DataFrame(shown).assign(n=table["n"].astype(str))


def _plain_row(*_) -> DataRow:
    return DataRow("| ", " | ", " |")


# Unpadded, so that a number that changes changes one line of a page.
PLAIN = TableFormat(
    lineabove=None, linebelowheader=lambda widths, _: "|" + "---|" * len(widths), linebetweenrows=None,
    linebelow=None, headerrow=_plain_row(), datarow=_plain_row(), padding=0, with_header_hide=None,
)  # fmt: skip


def to_markdown(frame: pd.DataFrame) -> str:
    """A frame of texts as a Markdown table.

    Example:
        >>> print(to_markdown(pd.DataFrame({"rank": ["16"], "measured": ["83.20 ± 0.41"]})))
        | rank | measured |
        |---|---|
        | 16 | 83.20 ± 0.41 |
    """
    return frame.to_markdown(index=False, tablefmt=PLAIN, disable_numparse=True, stralign=None)


def markdown(frame: pd.DataFrame) -> str:
    """A comparison as Markdown: a table each, with a line on what it was measured with.

    Args:
        frame: by `compare`.

    Example:
        >>> print(markdown(compare(rows, study)))  # doctest: +SKIP
    """
    blocks = []
    for title, table in each(frame):
        shown = texts(table).rename(columns=lambda head: head.replace(" %", ", %"))
        made = ", ".join(" and ".join(values) for values in table.attrs["made_on"])
        said = f"{title}; {table['split'].iloc[0]} accuracy in percent; {made}."
        blocks.append(f"{to_markdown(shown)}\n\n{said}")
    return "\n\n".join(blocks)


def wide(frame: pd.DataFrame) -> str:
    """A comparison of recipes as one Markdown table: a line a recipe and method, a column a cell.

    The original net that several recipes share stands with the first of them.

    Args:
        frame: by `compare`, of one data set.
    """
    cells = frame.attrs["cells"]
    frame = frame[frame["measured"].notna()]
    frame = frame.assign(cell=cell_names(frame, cells), text=frame["measured"].map("{:.2f}".format))
    spread = frame["sd"].notna()
    frame.loc[spread, "text"] += frame.loc[spread, "sd"].map(" ± {:.2f}".format)
    original = frame["method"] == methods.ORIGINAL
    ratios = frame[~original].groupby("cell", sort=False)["ratio"].median()
    heads = {cell: f"rank {cell}, {ratio:.1f}% left" for cell, ratio in ratios.items()}
    lines, seen = [], set()
    for (recipe, method), own in frame.groupby(["variant", "method"], sort=False):
        if method == methods.ORIGINAL:
            if own["measured"].item() in seen:
                continue
            seen.add(own["measured"].item())
            named, values = "dense, 100% left", dict.fromkeys(heads, own["text"].item())
        else:
            named, values = method, own.set_index("cell")["text"]
        line = {head: values.get(cell, "") for cell, head in heads.items()}
        lines.append({"recipe": recipe, "method": named, **line})
    counts = frame["n"]
    seeds = f"{counts.min()}" if counts.nunique() == 1 else f"{counts.min()} to {counts.max()}"
    made = ", ".join(min(values) for values in next(iter(frame.attrs["made"].values())))
    said = (
        f"Accuracy on the {frame['split'].iloc[0]} images of {frame['dataset'].iloc[0]} in percent, mean ± "
        f"standard deviation over {seeds} seeds; {made}."
    )
    return f"{to_markdown(pd.DataFrame(lines))}\n\n{said}"


# --- terminal -----------------------------------------------------------------------------------


def show(frame: pd.DataFrame, title: str, caption: str = "", console: Console | None = None) -> None:
    """Print a data frame as a table; empty cells stay empty, floats get two digits, nothing is cut off."""
    table = Table(
        title=title, title_justify="left", caption=caption, caption_justify="left", box=box.SIMPLE_HEAD,
        header_style="bold", pad_edge=False,
    )  # fmt: skip
    for name in frame.columns:
        numeric = pd.api.types.is_numeric_dtype(frame[name])
        head = str(name).replace("_", " ")
        words = max(map(len, head.split()), default=1)
        table.add_column(head, justify="right" if numeric else "left", overflow="fold", min_width=words)
    for row in frame.itertuples(index=False):
        table.add_row(*(_cell(value) for value in row))
    (console or Console()).print(table)


def _cell(value) -> str:
    if pd.isna(value):
        return ""
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def show_comparison(frame: pd.DataFrame, console: Console | None = None) -> None:
    """Print a comparison in 80 columns: a table each, a group of lines a cell, and what came out.

    Args:
        frame: by `compare`.
        console: where to; by default the terminal.
    """
    console = console or Console()
    for title, table in each(frame):
        table = table[table["measured"].notna()].reset_index(drop=True)
        shown = texts(table)
        heads = {"method": ""} | {name: name.split()[-1] for name in shown if name not in _grouped(shown)}
        if "published" in heads:
            shown["diff."] = ["" if np.isnan(value) else f"{value:+.2f}" for value in table["difference"]]
            heads["diff."] = "diff."
        widths = {name: max(map(len, (head, *shown[name]))) for name, head in heads.items()}
        rest = sum(widths.values()) - widths["method"] + 2 * (len(widths) - 1)
        widths["method"] = min(widths["method"], console.width - rest)
        split, notes = table["split"].iloc[0], [note for note in table["note"].unique() if note]
        said = f"{split} accuracy in percent, mean ± sd of n seeds; gap: points from the original net"
        _say(console, f"\n[bold]{title}[/bold]\n{'; '.join([said, *notes])}\n")
        _print_lines(console, [heads.values()], widths, "bold")
        for _, cell in shown.groupby("rank", sort=False):
            if (table.loc[cell.index, "method"] != methods.ORIGINAL).any():
                _say(console, f"[bold]rank {cell['rank'].iloc[0]}[/bold]: {_shares(table.loc[cell.index])}")
            _print_lines(console, cell[list(heads)].to_numpy(), widths)
        _say(console, f"\n{in_words(table)}")


def _grouped(shown: pd.DataFrame) -> list[str]:
    """The columns of `texts` that stand above a group of lines."""
    return [name for name in shown if name in ("rank", "method", *RATIO_HEADS.values())]


def _say(console: Console, text: str) -> None:
    console.print(text, highlight=False)


def _print_lines(console: Console, lines, widths: Mapping[str, int], style: str = "") -> None:
    block = Table.grid(padding=(0, 2, 0, 0), pad_edge=False)
    for name, width in widths.items():
        block.add_column(justify="left" if name == "method" else "right", width=width, style=style)
    for line in lines:
        block.add_row(*line)
    console.print(block, highlight=False)


def _shares(cell: pd.DataFrame) -> str:
    """What remains of the nets of a cell, from the smallest to the largest; of a reference all remains."""
    small = cell[cell["method"].map(methods.family) != "references"]
    said = []
    for name, head in RATIO_HEADS.items():
        if name in small and small[name].notna().any():
            ends = dict.fromkeys(f"{end(small[name]):.1f}" for end in (min, max))
            said.append(f"{'–'.join(ends)}% {head.removeprefix('ratio %')}".strip())
    return f"{', '.join(said)} left"


def in_words(table: pd.DataFrame) -> str:
    """What came out: the best compressed net of each cell, with its distance from the original net.

    Args:
        table: by `each`.
    """
    nets = table[(table["method"] != methods.ORIGINAL) & table["measured"].notna()]
    nets = nets[nets["method"].map(methods.family) != "references"]
    best = nets.loc[nets.groupby(list(table.attrs["cells"]))["measured"].idxmax()]
    ranks = cell_names(best, table.attrs["cells"])
    said = [
        f"rank {rank}, {methods.label(net.method)} at {plus_minus(net.measured, net.sd)}%"
        + (f" ({signed(net.gap)})" if np.isfinite(net.gap) else "")
        for rank, net in zip(ranks, best.itertuples(), strict=True)
    ]
    return f"The best compressed nets, with their points from the original net: {'; '.join(said)}."


def report(rows: pd.DataFrame, study: Study, split: str = "test", console: Console | None = None) -> None:
    """Print a study's recorded rows as tables, see `show_comparison`."""
    show_comparison(compare(rows, study, split), console)


# --- notebooks ----------------------------------------------------------------------------------


def styled(frame: pd.DataFrame) -> Styler:
    """A comparison for a notebook: printed names, two digits, the best compressed net of a cell in bold.

    Args:
        frame: by `compare`, or a selection of its rows; of one table, the title becomes its caption.

    Returns:
        A pandas Styler, without the columns that are empty or say the same in every row.
    """
    titles = [title for title, _ in each(frame)]
    apart, cells = frame.attrs["apart"], list(frame.attrs["cells"])
    group = [*(name for name in apart if name not in cells), *cells]
    best = (
        frame[frame["method"] != methods.ORIGINAL].groupby(group, dropna=False)["measured"].transform("max")
    )
    bold = frame["measured"] == best.reindex(frame.index)
    told = [name for name in apart if name in cells or frame[name].nunique(dropna=False) > 1]
    index = [*dict.fromkeys([*told, *cells])]
    rest = [name for name in frame if name not in (*apart, *cells, "method", "split", "note")]
    rest = [name for name in rest if frame[name].notna().any()]
    shown = frame.assign(method=frame["method"].map(methods.label))[[*index, "method", *rest]]
    style = shown.style.format(precision=2, na_rep="").hide(axis="index")
    style = style.apply(lambda _: np.where(bold, "font-weight: bold", ""), subset=["measured"])
    return style.set_caption(titles[0]) if len(titles) == 1 else style


# --- the first edition's, until their callers have moved ----------------------------------------


def final_accuracy(rows: pd.DataFrame) -> pd.DataFrame:
    """The accuracy that each finished net has in the end, of every split: a row a run and split."""
    found = rows[(rows["metric"] == "accuracy") & (rows["split"] != "model")]
    return found.sort_values("view").drop_duplicates(["config", "split"])


def over_seeds(results: pd.DataFrame, by: list[str], split: str) -> pd.DataFrame:
    """Accuracy of the finished nets over seeds, for rows of one dataset, model and recipe.

    Args:
        results: recorded rows.
        by: columns that name a cell, for instance ["method", "rank"].
        split: "validation" or "test".

    Returns:
        Indexed by `by`: mean and sd (ddof 1, empty for one seed) in percent, n (seeds), gap (mean distance
        in points from the dense net of the same seeds; empty without one).
    """
    accuracy = final_accuracy(results)
    accuracy = accuracy[accuracy["split"] == split]
    dense = accuracy[accuracy["method"] == "dense"].set_index("seed")["value"]
    accuracy = accuracy.assign(
        value=100 * accuracy["value"],
        gap=100 * (accuracy["value"] - dense.reindex(accuracy["seed"]).to_numpy()),
    )
    cells = accuracy.groupby(by)
    table = cells["value"].agg(mean="mean", sd="std", n="size").astype({"n": "Int64"})
    return table.assign(gap=cells["gap"].mean())


def summarise(results: pd.DataFrame) -> pd.DataFrame:
    """Accuracy of the finished nets over seeds: one row for each dataset, variant, method, rank and split.

    A C-LoRA net counts by its compressed path (the finalized net); `view` "trained" is used where no
    other was recorded (dense net and baselines).

    Args:
        results: recorded rows, as `Store.read()` gives them.

    Returns:
        Columns dataset, variant, method, rank, split, ratio_percent (the slides' convention), mean, sd
        (ddof 1, empty for one seed; fractions), n (seeds), gap (mean distance in points from the dense
        net of the same seeds and recipe).

    Example:
        >>> summarise(store.read())  # doctest: +SKIP
    """
    accuracy = final_accuracy(results)
    by = ["dataset", "variant", "method", "rank", "split"]
    dense = accuracy[accuracy["method"] == "dense"]
    dense = dense.set_index(["dataset", "lr_schedule", "seed", "split"])["value"]
    keys = pd.MultiIndex.from_frame(accuracy[["dataset", "lr_schedule", "seed", "split"]])
    accuracy = accuracy.assign(gap=100 * (accuracy["value"].to_numpy() - dense.reindex(keys).to_numpy()))
    table = accuracy.groupby(by)["value"].agg(mean="mean", sd="std", n="size")
    table["gap"] = accuracy.groupby(by)["gap"].mean()
    ratio = results[results["metric"] == "ratio_percent"].groupby(by[:-1])["value"].mean()
    table = table.reset_index().join(ratio.rename("ratio_percent"), on=by[:-1])
    order = {name: place for place, name in enumerate((*names.METHOD_LABELS, *names.VARIANTS))}
    table = table.sort_values(
        ["dataset", "variant", "split", "rank", "method"],
        key=lambda column: column.map(order) if column.name in ("method", "variant") else column,
    )
    return table[[*by, "ratio_percent", "mean", "sd", "n", "gap"]].reset_index(drop=True)


def compact(comparison: pd.DataFrame) -> pd.DataFrame:
    """`published.compare`'s table in the few columns that fit a terminal, numbers as text.

    Args:
        comparison: what `clora_lab.slides.published.compare` returns.
    """
    frame = pd.DataFrame({"method": comparison["method"], "rank": comparison["rank"]})
    frame["ratio %"] = comparison["ratio"].fillna(comparison["published_ratio"]).map("{:.1f}".format)
    frame["published"] = comparison["published_accuracy"]
    frame["measured"] = [
        f"{mean:.2f}" + ("" if pd.isna(sd) else f" ± {sd:.2f}") if pd.notna(mean) else ""
        for mean, sd in zip(comparison["measured_mean"], comparison["measured_sd"], strict=True)
    ]
    frame["n"] = comparison["n_seeds"]
    frame["diff."] = comparison["difference"]
    frame["gap"] = comparison["measured_difference"]
    return frame


def compact_beside(comparison: pd.DataFrame, comparable: bool = True) -> pd.DataFrame:
    """`published.beside`'s table in the few columns that fit a terminal, numbers as text.

    Args:
        comparison: what `clora_lab.slides.published.beside` returns.
        comparable: whether the published numbers are of the same data; without it they are left out, and
            so are the cells that were not measured.
    """
    if not comparable:
        comparison = comparison[comparison["measured_mean"].notna()]
    ranks = [column for column in ("rank", "dense_rank") if column in comparison]
    frame = pd.DataFrame({"rank": comparison[ranks].astype(str).agg("/".join, axis=1)})
    frame["method"] = comparison["method"]
    frame["ratio %"] = comparison["ratio"].fillna(comparison["published_ratio"]).map("{:.2f}".format)
    if "ratio_encoder" in comparison:
        frame["of encoder"] = comparison["ratio_encoder"]
    frame["of model"] = comparison["ratio_model"]
    for name in ("published", "measured"):
        middle = "accuracy" if name == "published" else "mean"
        frame[name] = [
            f"{mean:.2f}" + ("" if pd.isna(sd) else f" ± {sd:.2f}") if pd.notna(mean) else ""
            for mean, sd in zip(comparison[f"{name}_{middle}"], comparison[f"{name}_sd"], strict=True)
        ]
        frame[f"{name} gap"] = comparison[f"{name}_difference"]
    frame["n"] = comparison["n_seeds"]
    return frame if comparable else frame.drop(columns=["published", "published gap"])


def readme_table(results: pd.DataFrame, dataset: str = "fashion_mnist", split: str = "test") -> str:
    """The README's results table: accuracy in percent by recipe and method, a column a rank.

    Args:
        results: recorded rows.
        dataset, split: which of them.

    Returns:
        A Markdown table and a line on what it was measured with.

    Example:
        >>> print(readme_table(store.read()))  # doctest: +SKIP
    """
    rows = results[results["dataset"] == dataset]
    summary = summarise(rows)
    summary = summary[summary["split"] == split].copy()
    summary["cell"] = [
        f"{100 * row.mean:.2f}" + ("" if pd.isna(row.sd) else f" ± {100 * row.sd:.2f}")
        for row in summary.itertuples()
    ]
    ranks = sorted(summary.loc[summary["rank"] > 0, "rank"].unique())
    ratios = summary[summary["rank"] > 0].groupby("rank")["ratio_percent"].median()
    head = [f"rank {rank}, {ratios[rank]:.1f}% left" for rank in ranks]
    lines = [f"| recipe | method | {' | '.join(head)} |", "|---|---|" + "---|" * len(ranks)]
    for variant, part in summary.groupby("variant", sort=False):
        for method in names.METHOD_LABELS:
            cells = part[part["method"] == method].set_index("rank")["cell"]
            if method == "dense" and len(cells):
                lines.append(
                    f"| {variant} | dense, 100% left | " + " | ".join([cells[0]] * len(ranks)) + " |"
                )
            elif len(cells):
                values = [cells.get(rank, "") for rank in ranks]
                lines.append(f"| {variant} | {method} | {' | '.join(values)} |")
    counts = summary["n"]
    seeds = f"{counts.min()}" if counts.nunique() == 1 else f"{counts.min()} to {counts.max()}"
    last = rows.iloc[-1]
    lines += [
        "",
        f"Accuracy on the {split} images of {dataset} in percent, mean ± standard deviation over {seeds} "
        f"seeds; {last['backend']} {last['backend_version']}, Keras {last['keras_version']}, "
        f"{last['processor']}, {rows['date'].min()}.",
    ]
    return "\n".join(lines)
