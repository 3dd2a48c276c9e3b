"""What all figures share: print size, colours, the look of a method, titles, alt texts and saving.

Figures are 6.4 inches wide with text of at least 9 points, tell things apart by colour, line and marker, and
carry one sentence computed from their data: `alt_text(fig)`, which `save` writes into the files. They are
made without pyplot, so none has to be closed; as the last value of a notebook cell a figure shows itself.
"""

from __future__ import annotations

import functools
import math
import os
import tempfile
import textwrap
import warnings
from collections.abc import Callable, Iterable
from io import BytesIO
from pathlib import Path

import matplotlib as mpl
import seaborn as sns
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator, PercentFormatter

from clora_lab import _checks, methods

TITLE, SUBTITLE = 11, 9  # points
WIDTH = 6.4  # inches; a third of a screen of 1,920 px at 100 dpi

BLUE, ORANGE, GREEN, RED, PINK, BROWN, _, GREY, _, SKY = sns.color_palette("colorblind").as_hex()
INK, FAINT = "#222222", "#595959"
# The looks of methods, in the order of the registry; a line added to it gets the next one.
LOOKS = tuple(
    {"color": color, "marker": marker, "linestyle": line}
    for color, marker, line in (
        (INK, "", "-"),
        (BLUE, "o", ":"),
        (ORANGE, "s", "--"),
        (GREEN, "^", "-."),
        (RED, "D", "-"),
        (FAINT, "X", ":"),
        (SKY, "P", "--"),
        (PINK, "v", "-."),
        (BROWN, "<", "-"),
        ("#6a3d9a", ">", ":"),
        ("#00544a", "p", "--"),
        ("#8c2d04", "h", "-."),
        ("#7a7a00", "*", "-"),
        ("#a0005a", "d", ":"),
        (GREY, "H", "--"),
        ("#003f8c", "8", "-."),
    )
)
SERIES = tuple(LOOKS[place] for place in (1, 2, 3, 4, 7, 6, 5))  # of curves that are no methods
HATCHES = ("", "//", "..", "xx", "\\\\", "++", "oo")  # of bars, in the order of SERIES
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
LANGUAGES = ("en", "ko")
HANGUL_FONTS = (
    "Noto Sans CJK KR",
    "Noto Sans KR",
    "Noto Sans CJK JP",  # the first face of Debian's collection, which holds the Hangul too
    "NanumGothic",
    "NanumBarunGothic",
    "Source Han Sans KR",
    "Malgun Gothic",
    "Apple SD Gothic Neo",
    "AppleGothic",
    "UnDotum",
    "Baekmuk Dotum",
)


def of_method(name: str) -> dict:
    """The look of a method, by its place in the registry: colour, marker and linestyle.

    Example:
        >>> of_method("wds") == {"color": BLUE, "marker": "o", "linestyle": ":"}
        True
    """
    return dict(LOOKS[methods.order(name) % len(LOOKS)])


def cycle(count: int) -> list[dict]:
    """Looks for so many curves that are no methods."""
    return [SERIES[index % len(SERIES)] for index in range(count)]


# --- figures ------------------------------------------------------------------------------------


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
    # Blank lines reserve the height: constrained layout knows of one title only, which is in larger print.
    room = "\n " * math.ceil((subtitle.count("\n") + 1) * SUBTITLE / TITLE) if subtitle else ""
    style = {"ha": "left", "linespacing": 1.3}
    head = fig.suptitle(title + room, x=0.01, fontsize=TITLE, weight="bold", **style, **place)
    style |= {"va": "bottom", "fontsize": SUBTITLE, "color": FAINT}
    fig.add_artist(Annotation(subtitle, (0, 0), xycoords=head, **style))


def alt_text(fig: Figure) -> str:
    """Return the one-sentence description that a figure of this package carries.

    Raises:
        ValueError: if `fig` carries none, since it was made elsewhere.

    Example:
        >>> fig = new_figure(2.0)
        >>> fig.alt_text = "An empty figure."
        >>> alt_text(fig)
        'An empty figure.'
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
    described = {"Title": " ".join(fig.get_suptitle().split()), "Description": alt_text(fig)}
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


# --- parts of figures ---------------------------------------------------------------------------


def shared_legend(fig: Figure, axes: Iterable[Axes], ncols: int, **place) -> None:
    """One legend below all panels, each label once; `place` goes to `Figure.legend`."""
    handles = {}
    for ax in axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    place = {"loc": "outside lower center", "handlelength": 3, **place}
    fig.legend(list(handles.values()), list(handles), ncols=ncols, **place)


def percent_axis(axis: Axis, whole: float = 1) -> None:
    """Print the ticks of an axis in percent, without the sign; `whole` is 1 for fractions."""
    axis.set_major_formatter(PercentFormatter(whole, decimals=0, symbol=""))


def log_axis(axis: Axis, subs=(1, 2, 5)) -> None:
    """Print the ticks of a logarithmic axis as plain numbers."""
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def two_lines(label: str) -> str:
    """Break a label at the space nearest to its middle.

    Example:
        >>> two_lines("Scheduled noise & bias")
        'Scheduled\\nnoise & bias'
    """
    spaces = [index for index, letter in enumerate(label) if letter == " "]
    if not spaces:
        return label
    cut = min(spaces, key=lambda index: abs(index - len(label) / 2))
    return f"{label[:cut]}\n{label[cut + 1 :]}"


# --- languages ----------------------------------------------------------------------------------


def hangul_font() -> str | None:
    """The name of an installed font with Hangul, or None."""
    names = {font.name for font in font_manager.fontManager.ttflist}
    if not names & set(HANGUL_FONTS):
        # Matplotlib lists the fonts once and keeps the list: one installed since then is not in it.
        known = {font.fname for font in font_manager.fontManager.ttflist}
        for path in set(font_manager.findSystemFonts()) - known:
            try:
                font_manager.fontManager.addfont(path)
            except (OSError, RuntimeError):  # a file that FreeType can't read
                continue
        names = {font.name for font in font_manager.fontManager.ttflist}
    return next((font for font in HANGUL_FONTS if font in names), None)


def use_language(lang: str, stacklevel: int = 4) -> str:
    """Set a font for a language, until the drawing is `styled`; return the language that can be printed.

    Args:
        lang: "en" or "ko".
        stacklevel: whom the warning blames; by default who called the `styled` drawing.

    Returns:
        `lang`; or "en", with a warning that says what to install, where no font has Hangul.

    Raises:
        ValueError: another language.
    """
    _checks.one_of("lang", lang, LANGUAGES)
    if lang == "ko":
        if font := hangul_font():
            mpl.rcParams["font.family"] = [font, "DejaVu Sans"]  # the second for mathematical signs
        else:
            lang = "en"
            warnings.warn(
                "No font with Hangul is installed, so the labels are English. Install one of: "
                f"{', '.join(HANGUL_FONTS)} (Debian, Ubuntu, Colab: apt-get install fonts-nanum).",
                stacklevel=stacklevel,
            )
    return lang
