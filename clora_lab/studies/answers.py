"""What the runs of the open questions say: every setting beside the slides' recipe, paired by seed.

A setting is a row of `answers`, with its distance from noise & bias as in the slides and what that distance
is worth; `in_words` and its like say it in sentences, `starts` looks at a start before any training.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from clora_lab import _checks, methods
from clora_lab.lab import printing, stats, tables
from clora_lab.lab.data import registry as datasets
from clora_lab.lab.frames import MissingResults, plus_minus, signed
from clora_lab.lab.settings import DECAY
from clora_lab.studies.open_questions import INITS, METHOD, MOVED, PLAIN, STUDY, SURFACE, combinations

INIT_LABELS = {
    "lora_inputs": "LoRA: A random by its inputs, B = 0",
    "lora": "LoRA: A random by the rank, B = 0",
    "orthogonal": "A orthonormal, B = 0",
    "svd_copy": "SVD of W, all of W decays",
    "svd": "SVD of W, the residual decays",
    "activations": "activation-aware SVD, the residual decays",
}
MOVED_LABELS = {
    "noise_spread": "Spread of the noise, in units of the slides'",
    "noise_mean": "Mean of the noise, in units of the slides'",
    "noise_per": "m and s are taken over",
    "noise_kind": "Kind of the noise",
    "noise_gate": "Noise stops below this decay d",
    "schedule": "Shape of the decay",
    "end": "End of the decay, as a share of all steps",
}
# The slides' recipe, as its row has it.
DEFAULTS = {
    name: STUDY.fields[name].cell(STUDY.fields[name].default) for name in DECAY if name != "alpha"
} | {"method": METHOD}


def values(rows: pd.DataFrame, split: str = "test") -> pd.DataFrame:
    """The accuracy in percent that each finished net has in the end, with the settings of its run.

    Args:
        rows: result rows of the study.
        split: "test" or "validation".

    Returns:
        A row a run; the column `value` is the accuracy.

    Raises:
        MissingResults: there is none.
        ValueError: rows of several datasets, ranks or lengths of training, which no comparison should mix.
    """
    try:
        found = tables.final_values(rows, split)
    except MissingResults as error:
        raise MissingResults(f"{error} Run: python -m clora_lab reproduce {STUDY.name}") from None
    for column in STUDY.must_agree:
        several = sorted(set(found.loc[found["method"].isin(methods.names("slides")), column]))
        if len(several) > 1:
            raise ValueError(f"`rows` must be of one {column}. Received: {several}. Select the rows of one.")
    return found.assign(value=100 * found["value"])


def select(found: pd.DataFrame, **settings) -> pd.Series:
    """The accuracies of one setting, indexed by seed: what is not named is the slides' recipe.

    Args:
        found: by `values`, of one dataset.
        **settings: columns of it, for instance `noise_gate=0.0`, `method="bias"`.

    Raises:
        ValueError: a setting that is no column.

    Example:
        >>> select(values(rows), init="svd")  # doctest: +SKIP
    """
    wanted = {**DEFAULTS, **settings}
    for name in settings:
        _checks.one_of("settings", name, DEFAULTS)
    if wanted["method"] != METHOD:  # what it does not have is not recorded or says nothing
        decays = wanted["method"] in methods.names("slides")
        kept = ("method", "init", "schedule", "end") if decays else ("method", "init")
        wanted = {name: wanted[name] for name in kept}
    if wanted["method"] == methods.ORIGINAL:
        wanted.pop("init")
    matches = np.ones(len(found), dtype=bool)
    for name, value in wanted.items():
        column = found[name]
        same = (
            np.isclose(column.astype(float), value)
            if isinstance(value, float)
            else (column == value).fillna(False)
        )
        matches &= np.asarray(same)
    return found[matches].set_index("seed")["value"].sort_index()


def _line(found, reference, label, **settings) -> dict | None:
    own = select(found, **settings)
    if own.empty:
        return None
    pair = stats.paired(own, reference)
    return {
        "setting": label,
        "seeds": len(own),
        "accuracy": own.mean(),
        "sd": own.std(),
        "difference": pair.difference,
        "low": pair.low,
        "high": pair.high,
        "p": pair.p,
    }


def answers(rows: pd.DataFrame, question: str, split: str = "test") -> pd.DataFrame:
    """What a question's settings gave, each paired by seed with the slides' recipe.

    Args:
        rows: result rows of the study, of one dataset.
        question: a variant of the study.
        split: "test" or "validation".

    Returns:
        A row a setting: question (the setting that was moved), setting, seeds, accuracy (mean, percent), sd
        (over the seeds), difference (points, mean over the seeds), low, high (Student's 95% interval), p
        (two-sided paired t test), p_holm (corrected over all settings of the question but the reference).

    Raises:
        ValueError: an unknown question.
        MissingResults: nothing was recorded for it.
    """
    _checks.one_of("question", question, STUDY.variants)
    found = values(rows, split)
    reference = select(found)
    lines: list[tuple[str, dict | None]] = []
    if question == "inits":
        for method, name in ((METHOD, "with noise"), (PLAIN, "without noise")):
            for init in INITS:
                line = _line(found, reference, INIT_LABELS[init], method=method, init=init)
                lines.append((f"start, {name}", line))
        for init in ("svd", "activations"):
            label = INIT_LABELS[init].split(",")[0]
            for method, name in (("svd", "no training"), ("svd_finetune", "then fine-tuning")):
                lines.append(
                    ("no W at all", _line(found, reference, f"{label}, {name}", method=method, init=init))
                )
        lines.append(("no W at all", _line(found, reference, "the dense net", method=methods.ORIGINAL)))
    elif question == "noise":
        lines.append(("slides", _line(found, reference, "noise & bias as in the slides")))
        lines.append(("slides", _line(found, reference, "no noise", method=PLAIN)))
        for axis, others in MOVED.items():
            for value in others:
                lines.append((MOVED_LABELS[axis], _line(found, reference, str(value), **{axis: value})))
    else:
        for settings in combinations():
            label = ", ".join(f"{name.removeprefix('noise_')} {value}" for name, value in settings.items())
            lines.append(("surface", _line(found, reference, label, **settings)))
    table = _corrected([{"question": name, **line} for name, line in lines if line is not None])
    if table.empty:
        raise MissingResults(f"`rows` hold nothing for the question {question!r}.")
    return table


def _corrected(lines: list[dict]) -> pd.DataFrame:
    """Lines as a table, with the p of all that were compared corrected by Holm's method."""
    table = pd.DataFrame(lines)
    if len(table):
        table["p_holm"] = stats.holm(table["p"])
    return table


def surface(rows: pd.DataFrame, split: str = "test") -> pd.DataFrame:
    """The mean accuracy over all combinations of `SURFACE` that were recorded.

    Args:
        rows: result rows of the study, of one dataset.
        split: "test" or "validation".

    Returns:
        A row a combination: noise_spread, noise_gate, end, seeds, accuracy, sd, difference (from the slides'
        recipe, paired by seed), low, high (its 95% interval), in percent or points.
    """
    found = values(rows, split)
    reference = select(found)
    lines = [(settings, _line(found, reference, "", **settings)) for settings in combinations()]
    columns = [*SURFACE, "seeds", "accuracy", "sd", "difference", "low", "high"]
    return pd.DataFrame([{**settings, **line} for settings, line in lines if line], columns=columns)


def against(rows: pd.DataFrame, pairs: Sequence[tuple[str, dict, dict]], split: str = "test") -> pd.DataFrame:
    """Paired differences of any two settings: the first minus the second, by seed.

    Args:
        rows: result rows of the study, of one dataset.
        pairs: (label, settings, settings), as for `select`.
        split: "test" or "validation".

    Returns:
        A row a recorded pair, with the columns of `answers`; `accuracy` and `sd` are the first one's.

    Example:
        >>> against(rows, [("noise on top of SVD", {"init": "svd"},
        ...     {"init": "svd", "method": "bias"})])  # doctest: +SKIP
    """
    found = values(rows, split)
    lines = []
    for label, first, second in pairs:
        other = select(found, **second)
        lines.append(_line(found, other, label, **first) if len(other) else None)
    return _corrected([{"question": "paired", **line} for line in lines if line is not None])


def in_words(table: pd.DataFrame) -> list[str]:
    """What a table of `answers` says at 5% after Holm's correction, a sentence for each verdict.

    Example:
        >>> frame = pd.DataFrame({"question": ["start"] * 2, "setting": ["SVD", "orthonormal"],
        ...     "difference": [1.0, 0.1], "p_holm": [0.01, 0.6]})
        >>> in_words(frame)[0]
        "Better than the slides' recipe: SVD (+1.00)."
    """
    compared = table[table["p_holm"].notna()].sort_values("difference", ascending=False)
    clear = compared["p_holm"] < stats.LEVEL
    groups = {
        "Better than the slides' recipe": compared[clear & (compared["difference"] > 0)],
        "Worse": compared[clear & (compared["difference"] < 0)],
        "Not told apart from it": compared[~clear],
    }
    return [
        f"{name}: " + ("; ".join(_named(row) for row in rows.itertuples()) or "none") + "."
        for name, rows in groups.items()
    ]


def _named(row) -> str:
    tail = row.question.removeprefix("start") if row.question.startswith("start, ") else ""
    plain = tail or row.question in ("start", "slides", "no W at all", "paired")
    moved = "" if plain else f"{row.question[0].lower()}{row.question[1:]}: "
    return f"{moved}{row.setting}{tail} ({signed(row.difference)})"


def _said(line) -> str:
    """A difference with its interval, and what the interval allows to say."""
    if np.isnan(line.low):
        return f"{signed(line.difference)} points ({line.seeds} seeds: no interval)"
    clear = "clear of 0" if line.low > 0.0 or line.high < 0.0 else "not clear of 0"
    return f"{signed(line.difference)} points ({signed(line.low)} to {signed(line.high)}, {clear})"


def start_in_words(rows: pd.DataFrame, split: str = "test") -> list[str]:
    """The answer to "how should the pair start?", a sentence for each part of it, with its evidence.

    Args:
        rows: result rows of the study, of one dataset.
        split: "test" or "validation".
    """
    found = values(rows, split)
    means = {init: select(found, init=init).mean() for init in INITS}
    best = max((init for init in INITS[1:] if means[init] == means[init]), key=means.get)
    pairs = [("best", {"init": best}, {})]
    pairs += [(init, {"init": init}, {"init": init, "method": PLAIN}) for init in INITS]
    pairs += [(f"tuned {init}", {"init": init}, {"init": init, "method": "svd_finetune"}) for init in INITS]
    lines = {line.setting: line for line in against(rows, pairs, split).itertuples()}
    worth = "; ".join(f"{INIT_LABELS[init]}: {_said(lines[init])}" for init in INITS if init in lines)
    tuned = "; ".join(
        f"{INIT_LABELS[init].split(',')[0]}: {_said(lines[f'tuned {init}'])}"
        for init in INITS
        if f"tuned {init}" in lines
    )
    return [
        f"The start with the highest mean, {INIT_LABELS[best]}, is {_said(lines['best'])} from the slides'.",
        f"What the noise is worth depends on the start. {worth}.",
        f"C-LoRA from a start less the plain fine-tuning of the same pair, without any W. {tuned}.",
    ]


def noise_in_words(rows: pd.DataFrame, split: str = "test") -> list[str]:
    """The answer to "which noise?": the settings in the order of how much they move, with their evidence.

    Args:
        rows: result rows of the study, of one dataset.
        split: "test" or "validation".
    """
    table = answers(rows, "noise", split)
    lines = [f"No noise at all: {_said(table[table['setting'] == 'no noise'].iloc[0])}."]
    own = table[table["question"] != "slides"]
    span = own.groupby("question")["difference"].agg(lambda moved: np.ptp([0.0, *moved]))
    for question in span.sort_values(ascending=False).index:
        tried = own[own["question"] == question]
        clear = tried[(tried["low"] > 0.0) | (tried["high"] < 0.0)]
        parts = [f"{row.setting}: {_said(row)}" for row in clear.itertuples()]
        rest = [row.setting for row in tried.itertuples() if row.Index not in clear.index]
        parts += [f"no clear difference at {', '.join(rest)}"] if rest else []
        lines.append(f"{question} (accuracy moves over {span[question]:.2f} points). {'; '.join(parts)}.")
    return lines


def starts(
    dense, x: np.ndarray, y: np.ndarray, rank: int, targets: Sequence[str], calibration
) -> pd.DataFrame:
    """What each start of the pair gives before any training.

    Args:
        dense: a trained net with logits.
        x, y: inputs and labels to evaluate on.
        rank: of the pairs.
        targets: of `clora_lab.compress`; the first one's errors are shown.
        calibration: inputs that the activation-aware start looks at.

    Returns:
        A row a start: start (label), weight_error (|W - s B A| / |W|, Frobenius), output_error (the same
        of the layer's products with the inputs x), whole (accuracy in percent of what trains, at d = 1),
        pair (that of the compressed path alone).
    """
    import keras

    import clora_lab as cl
    from clora_lab.lab import training

    lines = []
    for init in INITS:
        wrapped = cl.compress(
            dense, rank, method=PLAIN, schedule=cl.LinearDecay(1), targets=targets, init=init,
            calibration=calibration if init == "activations" else None,
        )  # fmt: skip
        layer = cl.clora_layers(wrapped)[0]
        matrix = layer.rule.to_matrix(keras.ops.convert_to_numpy(dense.get_layer(layer.name).kernel))
        down, up = layer.pair_matrices()
        rest, rows = matrix - down @ up, np.reshape(x, (len(x), -1))
        with cl.view(wrapped, "compressed"):
            pair = training.evaluate(wrapped, x, y)["accuracy"]
        lines.append(
            {
                "start": INIT_LABELS[init],
                "weight_error": np.linalg.norm(rest) / np.linalg.norm(matrix),
                "output_error": np.linalg.norm(rows @ rest) / np.linalg.norm(rows @ matrix),
                "whole": 100 * training.evaluate(wrapped, x, y)["accuracy"],
                "pair": 100 * pair,
            }
        )
    return pd.DataFrame(lines)


def compact(table: pd.DataFrame) -> pd.DataFrame:
    """A table of `answers` as texts, ready to be printed."""
    lines = [
        {
            "moved": row.question,
            "setting": row.setting,
            "accuracy, %": plus_minus(row.accuracy, row.sd),
            "from the slides'": signed(row.difference),
            "95% interval": "" if np.isnan(row.low) else f"{signed(row.low)} to {signed(row.high)}",
            "p (Holm)": _p(row.p_holm),
            "n": row.seeds,
        }
        for row in table.itertuples()
    ]
    return pd.DataFrame(lines)


def _p(value: float) -> str:
    if np.isnan(value):
        return ""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def markdown(rows: pd.DataFrame, split: str = "test") -> str:
    """The README's table of the study: every setting of the first two questions beside the slides' recipe.

    Args:
        rows: result rows of the study, of one dataset.
        split: "test" or "validation".

    Returns:
        A Markdown table and a line on what it was measured with.
    """
    table = pd.concat([compact(answers(rows, question, split)) for question in ("inits", "noise")])
    last = rows[rows["method"] == METHOD].iloc[-1]
    made = f"{last['backend']} {last['backend_version']}, Keras {last['keras_version']}, {last['processor']}"
    data = f"{datasets.label(last['dataset'])}, rank {last['rank']}, {last['epochs']} epochs, {split} set"
    return f"{printing.to_markdown(table.astype(str))}\n\nToy MLP on {data}; {made}, {rows['date'].max()}."
