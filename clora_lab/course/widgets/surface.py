"""Widget 7: the surface of the open questions, over noise level, gate and length of the decay."""

from __future__ import annotations

import ipywidgets
import pandas as pd
from matplotlib.figure import Figure

from clora_lab.course.widgets.frame import (
    Explorer,
    Reading,
    dropdown,
    html_table,
    make_control,
    still_figure,
    write_title,
)
from clora_lab.lab.figures import marks, style
from clora_lab.lab.figures.style import FAINT, INK
from clora_lab.lab.frames import MissingResults, plus_minus, signed
from clora_lab.studies import answers, open_questions

HEIGHT = 3.9
SHOWN = {
    "accuracy": "accuracy (%)",
    "difference": "points from the slides' noise",
    "sd": "sd over the seeds (points)",
}
SPLITS = ("test", "validation")
START = {
    **{name: answers.DEFAULTS[name] for name in open_questions.SURFACE},
    "shown": "accuracy",
    "split": "test",
}
CHOSEN = "#d55e00"


def _view(fig, surfaces, found, noise_spread=1.0, noise_gate=0.3, end=0.85, shown="accuracy", split="test"):
    table = surfaces[split]
    own = table[table["end"] == end]
    cell = own[(own["noise_spread"] == noise_spread) & (own["noise_gate"] == noise_gate)]
    if cell.empty:
        raise ValueError(
            f"No rows for spread {noise_spread}, gate {noise_gate}, end {end}. Choose a filled cell."
        )
    space = {"left": 0.09, "right": 0.985, "top": 0.88, "bottom": 0.15, "wspace": 0.24}
    left, right = fig.subplots(1, 2, gridspec_kw=space)
    slides = {(START["noise_spread"], START["noise_gate"]): INK} if end == START["end"] else {}
    marks.draw_heat(
        left, own, "noise_spread", "noise_gate", shown, (table[shown].min(), table[shown].max()),
        diverging=shown == "difference", framed={**slides, (noise_spread, noise_gate): CHOSEN},
    )  # fmt: skip
    left.set(xlabel="Spread of the noise (1: the slides')", ylabel="Noise stops below d")
    across = own[own["noise_gate"] == noise_gate].sort_values("noise_spread")
    right.errorbar(
        across["noise_spread"],
        across["accuracy"],
        yerr=across["sd"],
        capsize=3,
        **style.of_method(open_questions.METHOD),
    )
    right.plot(cell["noise_spread"], cell["accuracy"], "o", markersize=13, fillstyle="none", color=CHOSEN)
    without = answers.select(found[split], method=open_questions.PLAIN, end=end)
    if len(without):
        right.axhline(without.mean(), color=FAINT, linestyle="--", label="bias, no noise at all")
        right.legend(loc="best", frameon=False)
    right.set_xlabel(f"Spread of the noise, at gate {noise_gate:g}")
    right.set_ylabel(f"{split.capitalize()} accuracy (%), ± 1 sd")
    title = f"{SHOWN[shown].capitalize()}, decay ending at {end:.0%} of the steps"
    write_title(fig, title)
    row = cell.iloc[0]
    fig.alt_text = (
        f"{title}: map of spread and gate; at spread {noise_spread:g} and gate {noise_gate:g} the accuracy "
        f"is {row['accuracy']:.2f}%."
    )
    return Reading(*_words(row, own, table))


def _words(row: pd.Series, own: pd.DataFrame, table: pd.DataFrame) -> tuple[str, str]:
    best = table.loc[table["accuracy"].idxmax()]
    lines = [("chosen", row), ("best of all", best)]
    frame = pd.DataFrame(
        {
            "setting": [name for name, _ in lines],
            "spread": [f"{line['noise_spread']:g}" for _, line in lines],
            "gate": [f"{line['noise_gate']:g}" for _, line in lines],
            "end": [f"{line['end']:g}" for _, line in lines],
            "accuracy": [plus_minus(line["accuracy"], line["sd"]) + "%" for _, line in lines],
            "from the slides' noise": [signed(line["difference"]) for _, line in lines],
            "95% interval": [_interval(line) for _, line in lines],
            "seeds": [int(line["seeds"]) for _, line in lines],
        }
    )
    remark = ""
    if row["noise_spread"] == 0:
        remark = "Spread 0 leaves the mean of the noise, (1 − d) m: nothing is drawn at random."
    elif row["noise_gate"] == 0:
        remark = "Gate 0 keeps the noise on to the end: the net learns with what it never meets later."
    return html_table(frame), remark


def _interval(line: pd.Series) -> str:
    if pd.isna(line["low"]):
        return "–"
    return f"{signed(line['low'])} to {signed(line['high'])}"


def _parts(rows: pd.DataFrame) -> dict:
    found = {split: answers.values(rows, split) for split in SPLITS}
    surfaces = {split: answers.surface(rows, split) for split in SPLITS}
    for table in surfaces.values():
        if len(table) < 2:
            raise MissingResults(
                "`rows` must hold the question 'surface'. Run: python -m clora_lab reproduce future "
                "dataset=digits question=surface"
            )
    return {"surfaces": surfaces, "found": found}


def surface_explorer(rows: pd.DataFrame) -> Explorer:
    """Widget 7: the map of accuracy over spread, gate and length; the chosen cell in numbers below it.

    Args:
        rows: result rows of the study "future" of one dataset, with the question "surface".

    Raises:
        MissingResults: no surface was recorded.

    Example:
        >>> widget = surface_explorer(rows)  # doctest: +SKIP
        >>> widget.controls["noise_spread"].value = 0.5  # doctest: +SKIP
    """
    parts = _parts(rows)
    table = parts["surfaces"]["test"]

    def slider(name, description):
        options = sorted(float(value) for value in table[name].unique())
        value = START[name] if START[name] in options else options[0]
        return make_control(ipywidgets.SelectionSlider, description, value, options=options)

    controls = {
        "noise_spread": slider("noise_spread", "spread"),
        "noise_gate": slider("noise_gate", "gate"),
        "end": slider("end", "decay ends at"),
        "shown": dropdown("map shows", "accuracy", [(text, name) for name, text in SHOWN.items()]),
        "split": dropdown("data", "test", list(SPLITS)),
    }

    def view(fig, **settings):
        return _view(fig, **parts, **settings)

    return Explorer(view, controls, HEIGHT)


def surface_explorer_static(rows: pd.DataFrame, **settings) -> Figure:
    """The picture of `surface_explorer`, as a figure; settings as the widget's controls.

    Example:
        >>> fig = surface_explorer_static(rows, noise_gate=0.5)  # doctest: +SKIP
    """
    return still_figure(_view, HEIGHT, **_parts(rows), **{**START, **settings})
