"""What all figures share: print size, colours, alt texts, saving, and reading tidy frames.

Figures are 6.4 inches wide with text of at least 9 points, tell things apart by colour, line and marker, and
carry one sentence computed from their data: `alt_text(fig)`, which `save` writes into the files. They are
made without pyplot, so none has to be closed.
"""

from __future__ import annotations

import functools
import os
import tempfile
import textwrap
from collections.abc import Callable, Iterable, Sequence
from io import BytesIO
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Annotation

from clora_lab.lab.frames import MissingResults
from clora_lab.lab.names import METHODS as SLIDE_METHODS
from clora_lab.lab.names import dataset_label

WIDTH = 6.4  # inches; a third of a screen of 1,920 px at 100 dpi
REMEDY = "Compute them with: python -m clora_lab reproduce toy"

BLUE, ORANGE, GREEN, RED, PINK, BROWN, _, GREY, _, SKY = sns.color_palette("colorblind").as_hex()
INK, FAINT = "#222222", "#595959"
METHOD_STYLES = {
    "dense": {"color": INK, "marker": "", "linestyle": "-"},
    "wds": {"color": BLUE, "marker": "o", "linestyle": ":"},
    "bias": {"color": ORANGE, "marker": "s", "linestyle": "--"},
    "noise": {"color": GREEN, "marker": "^", "linestyle": "-."},
    "noise_bias": {"color": RED, "marker": "D", "linestyle": "-"},
    "svd": {"color": FAINT, "marker": "X", "linestyle": ":"},
    "svd_finetune": {"color": SKY, "marker": "P", "linestyle": "--"},
    "scratch": {"color": PINK, "marker": "v", "linestyle": "-."},
}
STYLE = {
    **sns.axes_style("whitegrid"),
    "font.family": ["DejaVu Sans"],
    "font.size": 9,
    "axes.labelsize": 9,
    "axes.titlesize": 9.5,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.markersize": 4.5,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": "#dddddd",
    "axes.formatter.use_mathtext": False,
}


class LabFigure(Figure):
    """A figure that knows its description, and hands it to notebooks as the picture's alt text."""

    alt_text = ""

    def _repr_mimebundle_(self, include=None, exclude=None):
        png = BytesIO()
        self.savefig(png, format="png", dpi=100)
        return {"image/png": png.getvalue()}, {"image/png": {"alt": self.alt_text}}


def styled(function: Callable[..., Figure]) -> Callable[..., Figure]:
    """Run `function` under the lab's Matplotlib settings and leave the caller's as they were.

    The layout is computed here and then fixed: constrained layout starts from the last draw, so a
    figure that was shown first would be saved with other last digits than one saved at once.
    """

    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        with mpl.rc_context(STYLE):
            fig = function(*args, **kwargs)
            fig.draw_without_rendering()
            fig.set_layout_engine("none")
        return fig

    return wrapper


def new_figure(height: float, width: float = WIDTH) -> LabFigure:
    """An empty figure of `width` × `height` inches with constrained layout, unknown to pyplot."""
    fig = LabFigure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(fig)
    return fig


def wrap_title(title: str, subtitle: str = "") -> tuple[str, str]:
    """Break title and subtitle into lines that fit into the width of a figure."""
    lines = (textwrap.fill(line, 90) for line in subtitle.split("\n"))
    return textwrap.fill(title, 76), "\n".join(lines)


def set_title(fig: Figure, title: str, subtitle: str = "", **place) -> None:
    """Write a bold title and a lighter subtitle below it, left-aligned, inside the layout."""
    title, subtitle = wrap_title(title, subtitle)
    # Blank lines reserve the height: constrained layout knows of one title only.
    room = "\n " * (subtitle.count("\n") + 1) if subtitle else ""
    style = {"ha": "left", "linespacing": 1.3}
    head = fig.suptitle(title + room, x=0.01, fontsize=11, weight="bold", **style, **place)
    style |= {"va": "bottom", "fontsize": 9, "color": FAINT}
    fig.add_artist(Annotation(subtitle, (0, 0), xycoords=head, **style))


def alt_text(fig: Figure) -> str:
    """Return the one-sentence description that a figure of this package carries.

    Raises:
        ValueError: if `fig` carries none, since it was made elsewhere.

    Example:
        >>> alt_text(figures.decay_curve(lambda step: 1 - step / 100, total_steps=100))[:12]
        'Decay factor'
    """
    text = getattr(fig, "alt_text", "")
    if not text:
        raise ValueError(
            "`fig` must carry a description, as the figures of this package do. "
            f"Received: {fig!r}; set `fig.alt_text` to a sentence first."
        )
    return text


def save(fig: Figure, path_stem: str | os.PathLike) -> list[Path]:
    """Write `fig` to `path_stem`.png (160 dpi) and .svg: the same bytes for the same data.

    Each file appears whole or not at all; missing folders are made. The description goes into the
    metadata.

    Args:
        fig: a figure of this package.
        path_stem: path without extension, as in "out/figures/slide_10".

    Returns:
        The two paths, PNG first.

    Raises:
        ValueError: if `fig` carries no description.
    """
    stem = Path(path_stem)
    stem.parent.mkdir(parents=True, exist_ok=True)
    described = {"Title": _title(fig), "Description": alt_text(fig)}
    kinds = {
        "png": {"dpi": 160, "metadata": {**described, "Software": None}},
        "svg": {"metadata": {**described, "Date": None, "Creator": "clora_lab"}},
    }
    paths = [stem.with_name(f"{stem.name}.{kind}") for kind in kinds]
    with mpl.rc_context({**STYLE, "svg.hashsalt": "clora_lab", "svg.fonttype": "path"}):
        with tempfile.TemporaryDirectory(dir=stem.parent, prefix=".figure-") as folder:
            for path, (kind, options) in zip(paths, kinds.items(), strict=True):
                draft = Path(folder, path.name)
                fig.savefig(draft, format=kind, **options)
                os.replace(draft, path)
    return paths


def _title(fig: Figure) -> str:
    return " ".join(fig.get_suptitle().split())


# --- reading frames -----------------------------------------------------------------------------


def require(frame: pd.DataFrame, argument: str, columns: Iterable[str]) -> None:
    if not isinstance(frame, pd.DataFrame):
        raise ValueError(f"`{argument}` must be a pandas DataFrame. Received: {type(frame).__name__}.")
    missing = [column for column in columns if column not in frame.columns]
    if missing:
        raise MissingResults(
            f"`{argument}` must have the columns {missing}. Received: {list(frame.columns)}. {REMEDY}"
        )
    if frame.empty:
        raise MissingResults(f"`{argument}` must have at least one row. Received: 0 rows. {REMEDY}")


def one_dataset(frame: pd.DataFrame, argument: str, default: str = "") -> str:
    """The printed name of the one dataset in `frame`, or of `default` if it has no such column."""
    names = frame["dataset"].unique() if "dataset" in frame else [default]
    if len(names) > 1:
        raise ValueError(
            f"`{argument}` must hold one dataset. Received: {sorted(map(str, names))}; "
            f"select one, as in {argument}[{argument}['dataset'] == {str(names[0])!r}]."
        )
    return dataset_label(names[0])


def runs_of(history: pd.DataFrame, **wanted) -> pd.DataFrame:
    """The rows of `history` with the given values: one run a seed at most, or an error says why."""
    rows = history
    for column, value in wanted.items():
        rows = rows[rows[column] == value]
    if len(rows):
        one_dataset(rows, "history")
    twice = rows.duplicated(["seed", "epoch"])
    if twice.any():
        identity = ("study", "model", "init", "config")
        mixed = {c: sorted(map(str, rows[c].unique())) for c in identity if c in rows}
        mixed = {column: values for column, values in mixed.items() if len(values) > 1}
        raise ValueError(
            f"`history` must hold one run a seed for {wanted}. Received: several, which differ in "
            f"{mixed or 'nothing (repeated rows)'}; select one setting first."
        )
    return rows


def wanted_runs(history: pd.DataFrame, **wanted) -> pd.DataFrame:
    rows = runs_of(history, **wanted)
    if rows.empty:
        has = history[list(wanted)].drop_duplicates().to_dict("records")
        raise MissingResults(
            f"`history` must have rows with {wanted}. Received rows with: {has[:8]}. {REMEDY}"
        )
    return rows


def spread_in_words(counts: pd.Series) -> str:
    """What a mean over so many seeds is to be called; `counts` has a number for each mean."""
    low, high = counts.min(), counts.max()
    if high == 1:
        return "one seed"
    return f"mean ± 1 sd of {high:g} seeds" if low == high else f"mean ± 1 sd of {low:g} to {high:g} seeds"


def seeds_in_words(rows: pd.DataFrame) -> str:
    """How many seeds the curves stand for, in words."""
    seeds = sorted(rows["seed"].unique())
    if len(seeds) == 1:
        return f"one seed ({seeds[0]})"
    return spread_in_words(rows.groupby(["method", "rank", "variant"])["seed"].nunique())


def subtitle_of(*parts: str, missing: Sequence[str] = ()) -> str:
    """Parts joined to one line; what is missing goes to a line of its own."""
    line = ", ".join(part for part in parts if part)
    line = line[:1].upper() + line[1:]
    if missing:
        line += "\nNo rows for: " + ("; ".join(missing[:3]))
        line += f" and {len(missing) - 3} more" if len(missing) > 3 else ""
    return line


def per_cent(value: float, digits: int = 1) -> str:
    return f"{100 * value:.{digits}f}%"


def one_row_each(frame: pd.DataFrame, argument: str, keys: list[str]) -> None:
    twice = frame[frame.duplicated(keys)]
    if len(twice):
        raise ValueError(
            f"`{argument}` must have one row for each of {keys}. "
            f"Received several for: {twice[keys].to_dict('records')[:4]}; select one setting first."
        )


def remark(frame: pd.DataFrame, column: str, form: str = "{}") -> str:
    """What an optional column says of all rows, for a subtitle."""
    values = [str(value) for value in frame[column].dropna().unique()] if column in frame else []
    return form.format(" and ".join(values)) if any(values) else ""


def percent_scale(frame: pd.DataFrame, argument: str, columns: list[str]) -> float:
    """100 for fractions, 1 for percent, read off the values: no accuracy is below 1 percent."""
    values = frame[columns].astype("float64").to_numpy()
    values = values[np.isfinite(values)]
    if len(values) and values.max() > 1 and values.min() <= 1:
        raise ValueError(
            f"`{argument}` must have all of {columns} as fractions or all in percent. "
            f"Received: values from {values.min():g} to {values.max():g}."
        )
    return 1.0 if len(values) and values.max() > 1 else 100.0


# --- drawing ------------------------------------------------------------------------------------


def shared_legend(fig: Figure, axes: Iterable[Axes], ncols: int) -> None:
    handles = {}
    for ax in axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    fig.legend(
        list(handles.values()),
        list(handles),
        loc="outside lower center",
        ncols=ncols,
        handlelength=3,
    )


def cycle(count: int) -> list[dict]:
    styles = [METHOD_STYLES[method] for method in (*SLIDE_METHODS, "scratch", "svd_finetune", "svd")]
    return [styles[index % len(styles)] for index in range(count)]


def two_lines(label: str) -> str:
    """Break a label at the space nearest to its middle."""
    spaces = [index for index, letter in enumerate(label) if letter == " "]
    if not spaces:
        return label
    cut = min(spaces, key=lambda index: abs(index - len(label) / 2))
    return f"{label[:cut]}\n{label[cut + 1 :]}"
