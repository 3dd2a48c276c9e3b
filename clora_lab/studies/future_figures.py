"""Pictures of the study of open questions: paired differences from the slides' recipe, and the surface."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from clora_lab.lab import stats
from clora_lab.lab.figures import marks
from clora_lab.lab.figures.style import INK
from clora_lab.lab.frames import MissingResults, require
from clora_lab.studies import answers as recorded_answers
from clora_lab.studies.open_questions import SURFACE

REFERENCE = {name: recorded_answers.DEFAULTS[name] for name in SURFACE}


def differences(answers: pd.DataFrame, title: str, subtitle: str = "") -> Figure:
    """Each setting's paired difference from the slides' recipe, with its 95% t interval.

    Args:
        answers: by `clora_lab.studies.answers.answers`.
        title, subtitle: above the picture.

    Raises:
        MissingResults: no rows, or a column is missing.

    Example:
        >>> frame = pd.DataFrame({"question": ["start"], "setting": ["SVD"], "difference": [1.0],
        ...     "low": [0.5], "high": [1.5], "accuracy": [87.0], "p_holm": [0.01], "seeds": [5]})
        >>> differences(frame, "Starts").alt_text
        'Starts: SVD +1.00 points (better).'
    """
    require(answers, "answers", ("question", "setting", "difference", "low", "high", "p_holm", "accuracy"))
    frame = answers.assign(
        group=answers["question"],
        name=answers["setting"],
        verdict=list(map(stats.verdict, answers["difference"], answers["p_holm"])),
        note=answers["accuracy"].map("{:.2f}%".format),
    )
    xlabel = "Points of accuracy from the slides' recipe, paired by seed"
    return marks.differences(frame, title, xlabel, subtitle)


def surface(table: pd.DataFrame, title: str, subtitle: str = "") -> Figure:
    """The surface as maps, one for each end of the decay: accuracy over spread and gate; the slides' framed.

    Args:
        table: by `clora_lab.studies.answers.surface`.
        title, subtitle: above the maps.

    Raises:
        MissingResults: no rows, or a column is missing.

    Example:
        >>> fig = surface(answers.surface(rows), "Surface")  # doctest: +SKIP
    """
    require(table, "table", (*SURFACE, "accuracy"))
    if table.empty:
        raise MissingResults("`table` must hold at least one combination. Received: none.")
    maps = {end: f"decay ends at {end:.0%} of the steps" for end in sorted(table["end"].unique())}
    slides = {maps.get(REFERENCE["end"]): {(REFERENCE["noise_spread"], REFERENCE["noise_gate"]): INK}}
    fig = marks.heat(
        {name: table[table["end"] == end] for end, name in maps.items()},
        "noise_spread",
        "noise_gate",
        "accuracy",
        title,
        "Spread of the noise (1: the slides')",
        "Noise stops below d",
        subtitle,
        framed=slides,
    )
    best = table.loc[table["accuracy"].idxmax()]
    low, high = table["accuracy"].min(), table["accuracy"].max()
    fig.alt_text = (
        f"{title}: mean accuracies from {low:.1f}% to {high:.1f}%, the highest at spread "
        f"{best['noise_spread']:g}, gate {best['noise_gate']:g}, end {best['end']:g}."
    )
    return fig
