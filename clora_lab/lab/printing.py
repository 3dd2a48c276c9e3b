"""The forms of a comparison by `tables.compare`: Markdown, terminal, notebook; and of any data frame.

Nothing here loads Keras.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table
from tabulate import DataRow, TableFormat

from clora_lab import methods
from clora_lab.lab.frames import plus_minus, signed
from clora_lab.lab.study import Study
from clora_lab.lab.tables import cell_names, compare, each

if TYPE_CHECKING:
    from pandas.io.formats.style import Styler

# The heads of the ratios that are printed; others are in the frame alone.
RATIO_HEADS = {"ratio": "ratio %", "ratio_encoder": "of encoder", "ratio_model": "of model"}


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
    columns = zip(*frame.attrs["made"].values(), strict=True)
    made = ", ".join(" and ".join(sorted(set().union(*values))) for values in columns)
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
