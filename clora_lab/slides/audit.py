"""The audit: every figure that the slides derive from others, computed again.

A printed number agrees if what is computed lies within half a unit of its last digit. Two kinds of rows:

- "arithmetic": the slide's own numbers, or the shapes of its networks, by one rule everywhere. A disagreement
  is a slip, a misprint, or a rule that the slide does not name.
- "convention": the same words counted another way, for the reader who takes them literally. A disagreement
  says how much hangs on the way of counting.

Sources: `data/published/` (the slides' tables, `claims.csv` for numbers in running text and notes,
`marked.csv` for the cells that they pick out) and `clora_lab.slides.shapes`. Nothing is measured, no network
is built.
"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from clora_lab import _checks
from clora_lab.lab.names import METHOD_LABELS, METHODS
from clora_lab.lab.nets import registry as nets
from clora_lab.lab.paths import data_dir
from clora_lab.schedules import LinearDecay
from clora_lab.slides import shapes

COLUMNS = (
    "slide", "quantity", "printed", "recomputed", "difference", "tolerance", "agrees", "how", "unit", "kind",
)  # fmt: skip
KINDS = ("arithmetic", "convention")
TABLES = {"toy": 16, "vgg16": 19, "bert_tiny": 21, "bert_small": 22}
BERTS = {"bert_tiny": shapes.BERT_TINY, "bert_small": shapes.BERT_SMALL}
TOY_EPOCHS, TOY_STEPS = 30, 48_000
CIFAR10 = {"training images": 50_000, "test images": 10_000}  # Krizhevsky 2009
FASHION_MNIST_IMAGES = 60_000 + 10_000  # Xiao et al. 2017
COUNTS = ("images", "layers", "blocks")
GIVEN = ((12, "toy", "original path at epoch 20"),)  # read off a curve: derived from nothing
SPREADS = {
    "mean_sd": "mean of the table's ±",
    "rms_sd": "root mean square of those",
    "sd": "sample sd over the ranks",
    "population_sd": "population sd over the ranks",
    "standard_error": "standard error of the mean over the ranks",
}


def audit() -> pd.DataFrame:
    """Every derived figure of the slides beside its recomputation.

    Returns:
        A data frame, a row a figure in the order of the slides: `slide` (number), `quantity` (what it is),
        `printed` and `recomputed` (in `unit`), `difference` (printed - recomputed), `tolerance` (half a unit
        of the last printed digit), `agrees`, `how` (a sentence: how it was recomputed), `unit`, `kind`
        ("arithmetic" or "convention": see the module).

    Raises:
        ValueError: a claim in `data/published/claims.csv` for which there is no recomputation.

    Example:
        >>> table = audit()
        >>> table.loc[table["quantity"] == "BERT-Tiny: height of the compressed bar", "recomputed"].item()
        80.79
    """
    rows = [*_claims(), *_toy_ratios(), *_noise_law(), *_vgg16_ratios(), *_bert_ratios(), *_best_cells()]
    rows += _conclusion()
    frame = pd.DataFrame(rows)
    frame["difference"] = frame["printed"] - frame["recomputed"]
    # The margin is for the last bit of the subtraction, far below any printed digit.
    frame["agrees"] = frame["difference"].abs() <= frame["tolerance"] + 1e-9
    frame = frame.sort_values("slide", kind="stable").reset_index(drop=True)
    return frame[list(COLUMNS)]


def disagreements(kind: str | None = None) -> pd.DataFrame:
    """The rows of `audit` that do not agree.

    Args:
        kind: only "arithmetic" or only "convention"; by default both.

    Raises:
        ValueError: an unknown kind.

    Example:
        >>> bars = disagreements("arithmetic").query("slide == 24")
        >>> bars[["printed", "recomputed"]].to_numpy().tolist()
        [[81.12, 80.79]]
    """
    frame = audit()
    if kind is not None:
        frame = frame[frame["kind"] == _checks.one_of("kind", kind, KINDS)]
    return frame[~frame["agrees"]].reset_index(drop=True)


def as_text(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows of `audit` for a terminal or a page: numbers as printed, the recomputed ones with a digit more.

    Example:
        >>> as_text(disagreements("arithmetic")).iloc[-1][["printed", "recomputed"]].tolist()
        ['81.12 %', '80.790 %']
    """
    rows = []
    for row in frame.itertuples():
        digits = math.ceil(-math.log10(2 * row.tolerance))
        more = 0 if row.unit in COUNTS else digits + 1
        unit = f" {row.unit}" if row.unit else ""
        values = {
            "printed": f"{row.printed:.{digits}f}{unit}",
            "recomputed": f"{row.recomputed:.{more}f}{unit}",
            "difference": f"{row.difference:+.{more}f}",
        }
        values = {name: text.replace("-", "−") for name, text in values.items()}
        rows.append({"slide": row.slide, "quantity": row.quantity, **values, "how": row.how})
    return pd.DataFrame(rows, columns=["slide", "quantity", "printed", "recomputed", "difference", "how"])


# --- reading what is printed --------------------------------------------------------------------


def as_printed(name: str) -> pd.DataFrame:
    """A file of `data/published/` as text, every cell as printed: the digits tell the precision.

    Example:
        >>> as_printed("vgg16")["ratio_percent"].iloc[1]
        '6.90'
    """
    return pd.read_csv(data_dir() / "published" / f"{name}.csv", dtype=str, keep_default_na=False)


def _tolerance(printed: str) -> float:
    """Half a unit of the last printed digit.

    Example:
        >>> _tolerance("15.25"), _tolerance("-4")
        (0.005, 0.5)
    """
    return 0.5 * 10.0 ** -len(printed.partition(".")[2])


def _row(slide, quantity, printed: str, recomputed: float, how: str, unit="%", kind="arithmetic") -> dict:
    return {
        "slide": int(slide),
        "quantity": quantity,
        "printed": float(printed),
        "recomputed": float(recomputed),
        "tolerance": _tolerance(printed),
        "how": how,
        "unit": unit,
        "kind": kind,
    }


def _cells(study: str) -> pd.DataFrame:
    """A table's cells of the four methods as numbers; `change` in points from the original."""
    table = as_printed(study)
    # VGG16's rank is the convolutions', as in the recorded rows.
    table = table.rename(columns={"conv_rank": "rank", "accuracy_percent": "accuracy"})
    table["accuracy"] = table["accuracy"].astype(float)
    cells = table[table["method"] != "original"].copy()
    cells["change"] = cells["accuracy"] - table.loc[table["method"] == "original", "accuracy"].item()
    return cells


def table_cell(study: str, method: str, rank: str, dense_rank: str = "") -> float:
    """An accuracy of a slide's table, in percent; of VGG16 `rank` is the convolutions'.

    Example:
        >>> table_cell("vgg16", "wds", "32", "32")
        76.81
    """
    cells = _cells(study)
    chosen = (cells["method"] == method) & (cells["rank"] == rank)
    if "dense_rank" in cells:
        chosen &= cells["dense_rank"] == dense_rank
    return cells.loc[chosen, "accuracy"].item()


def _ratios(study: str) -> list[tuple[dict, str]]:
    """(ranks as integers, ratio as printed) of each line of a table, from the top."""
    names = [name for name in ("rank", "dense_rank") if name in _cells(study)]
    lines = _cells(study).drop_duplicates(names)
    ranks = lines[names].astype(int).to_dict("records")
    return list(zip(ranks, lines["ratio_percent"], strict=True))


def _label(study: str) -> str:
    return nets.label(study) if study in nets.ENTRIES else "Toy"


# --- numbers in the text, notes and bars --------------------------------------------------------


def _claims() -> list[dict]:
    """A row for each line of claims.csv."""
    known = _recomputed_claims()
    rows = []
    for claim in as_printed("claims").itertuples():
        key = (int(claim.slide), claim.study, claim.quantity)
        if key in GIVEN:
            continue
        if key not in known:
            raise ValueError(f"claims.csv must hold claims that the audit knows. Received: {key}.")
        value, how = known.pop(key)
        name = f"{_label(claim.study)}: {claim.quantity}"
        rows.append(_row(claim.slide, name, claim.printed, value, how, claim.unit))
    if known:
        raise ValueError(f"claims.csv must hold every claim that the audit knows. Missing: {list(known)}.")
    return rows


def _recomputed_claims() -> dict[tuple[int, str, str], tuple[float, str]]:
    """(slide, study, quantity) -> (value, how)."""
    claims = {}
    original = {study: _original(study) for study in TABLES}
    wds = table_cell("toy", "wds", "16")
    decay = LinearDecay(TOY_STEPS, begin=0.05, end=0.85)
    reading = float(as_printed("claims").query("quantity == 'original path at epoch 20'")["printed"].item())
    claims[9, "toy", "images"] = (FASHION_MNIST_IMAGES, "60,000 training and 10,000 test images")
    claims[9, "toy", "original accuracy"] = (original["toy"], "the original's line of slide 16")
    for ranks, ratio in _ratios("toy"):
        rank = ranks["rank"]
        claims[10, "toy", f"ratio at rank {rank}"] = (float(ratio), f"the line of rank {rank} of slide 16")
        cell = table_cell("toy", "wds", str(rank))
        claims[10, "toy", f"Only WDS at rank {rank}"] = (cell, "the same cell of slide 16")
    change = "{:.2f} − {:.2f}".format
    how = f"{change(wds, original['toy'])}, from slide 16"
    claims[10, "toy", "change of Only WDS at rank 16"] = (wds - original["toy"], how)
    at = TOY_STEPS * 20 // TOY_EPOCHS
    how = f"the linear schedule from 0.05 to 0.85 at step {at:,} of {TOY_STEPS:,}"
    claims[12, "toy", "decay at epoch 20"] = (decay(at), how)
    how = f"{change(reading, original['toy'])}: the note's accuracy less the original of slide 9"
    claims[12, "toy", "change of the original path at epoch 20"] = (reading - original["toy"], how)
    best = table_cell("toy", "noise_bias", "16")
    how = f"{change(best, original['toy'])}, from the same table"
    claims[16, "toy", "change of noise & bias at rank 16"] = (best - original["toy"], how)
    claims[16, "toy", "quoted ratio"] = (float(_ratios("toy")[0][1]), "the first line of the table")
    claims[16, "toy", "quoted change"] = (best - original["toy"], how)
    kinds = [layer.kind for layer in shapes.VGG16]
    claims[18, "vgg16", "convolutions"] = (kinds.count("Conv2D"), "counted in the table of shapes")
    claims[18, "vgg16", "dense layers"] = (kinds.count("Dense"), "counted in the table of shapes")
    for quantity, images in CIFAR10.items():
        how = "CIFAR-10 in full, which is what the authors' notebooks load; a factor of ten"
        claims[18, "vgg16", quantity] = (images, how)
    parameters = shapes.total(shapes.VGG16)
    how = f"{parameters:,} by the layers' shapes: the point stands one digit too far left"
    claims[18, "vgg16", "total parameters"] = (parameters / 1e6, how)
    claims[18, "vgg16", "original accuracy"] = (original["vgg16"], "the original's line of slide 19")
    for study in ("vgg16", *BERTS):
        claims |= _quoted_ranges(study)
    for study, net in BERTS.items():
        blocks = "the published configuration of this BERT (Turc et al. 2019)"
        claims[20, study, "encoder blocks"] = (net.blocks, blocks)
        how = f"{net.parameters:,} in the backbone by its shapes: the slide cuts digits where it should round"
        claims[20, study, "total parameters"] = (net.parameters / 1e6, how)
    claims[24, "vgg16", "ratio of the bars"] = (table_ratio("vgg16", 32, 32), "slide 19, ranks 32 and 32")
    claims[24, "bert_tiny", "ratio of the bars"] = (table_ratio("bert_tiny", 16), "slide 21, rank 16")
    how = "slide 21, rank 16, scheduled noise & bias; no cell of that table has the bar's value"
    claims[24, "bert_tiny", "height of the compressed bar"] = (
        table_cell("bert_tiny", "noise_bias", "16"),
        how,
    )
    return claims


def _original(study: str) -> float:
    table = as_printed(study)
    return float(table.loc[table["method"] == "original", "accuracy_percent"].item())


def table_ratio(study: str, *ranks: int) -> float:
    """A printed ratio, in percent; VGG16 has two ranks, the convolutions' first.

    Example:
        >>> table_ratio("vgg16", 32, 32)
        13.72
    """
    return next(float(ratio) for found, ratio in _ratios(study) if tuple(found.values()) == ranks)


def _quoted_ranges(study: str) -> dict:
    slide, cells = TABLES[study], _cells(study)
    ratios = cells["ratio_percent"].astype(float)
    worst, best = (cells.loc[find(cells["change"])] for find in (pd.Series.idxmin, pd.Series.idxmax))
    where = "{:.2f}: {} at {}%".format
    return {
        (slide, study, "quoted lowest ratio"): (ratios.min(), "the smallest ratio of the table"),
        (slide, study, "quoted highest ratio"): (ratios.max(), "the largest ratio of the table"),
        (slide, study, "quoted largest change"): (
            worst["change"],
            where(worst["accuracy"], METHOD_LABELS[worst["method"]], worst["ratio_percent"])
            + ", the worst cell of all methods",
        ),
        (slide, study, "quoted smallest change"): (
            best["change"],
            where(best["accuracy"], METHOD_LABELS[best["method"]], best["ratio_percent"])
            + ", the best cell of all methods",
        ),
    }


# --- ratios -------------------------------------------------------------------------------------

NO_BIAS = "the same without the biases of the compressed layers: Only WDS and Scheduled noise keep none"


def _toy_ratios() -> list[dict]:
    rows, whole = [], shapes.total(shapes.TOY)
    head = shapes.TOY[-1].parameters
    for ranks, printed in _ratios("toy"):
        rank = ranks["rank"]
        left = shapes.remaining(shapes.TOY_WRAPPED, rank)
        bare = shapes.remaining(shapes.TOY_WRAPPED, rank, bias=False)
        name = f"Toy: ratio at rank {rank}"
        how = f"{left:,} of {whole:,}: pairs and biases of the two compressed layers over the whole model"
        rows.append(_row(16, name, printed, 100 * left / whole, how))
        how = f"{bare:,} of {whole:,}: {NO_BIAS}"
        without = f"{name}, of the methods without bias"
        rows.append(_row(16, without, printed, 100 * bare / whole, how, kind="convention"))
        how = (
            f"{left + head:,} of {whole:,}: 'compressed model params / original total params' (slide 10), "
            f"with the {head:,} of the output layer, which stays"
        )
        rows.append(
            _row(16, f"{name}, whole model", printed, 100 * (left + head) / whole, how, kind="convention")
        )
    return rows


def _vgg16_ratios() -> list[dict]:
    rows, whole, head = [], shapes.total(shapes.VGG16), shapes.VGG16_HEAD.parameters
    for ranks, printed in _ratios("vgg16"):
        left = shapes.vgg16_remaining(**_vgg16_ranks(ranks))
        bare = shapes.vgg16_remaining(**_vgg16_ranks(ranks), bias=False)
        name = f"VGG16: ratio at ranks {ranks['rank']} and {ranks['dense_rank']}"
        counts = f"pairs (loralib's for the convolutions) and biases over the whole model of {whole:,}"
        how = f"{left + head:,}: {counts}, the frozen output layer of {head:,} included"
        included = f"{name}, output layer included"
        rows.append(_row(19, included, printed, 100 * (left + head) / whole, how, kind="convention"))
        how = f"{left:,}: {counts}, the frozen output layer of {head:,} left out"
        if abs(100 * (left + head) / whole - float(printed)) <= _tolerance(printed):
            how += ", with which the print follows"
        rows.append(_row(19, name, printed, 100 * left / whole, how))
        how = f"{bare:,}: {NO_BIAS}"
        without = f"{name}, of the methods without bias"
        rows.append(_row(19, without, printed, 100 * bare / whole, how, kind="convention"))
    return rows


def _vgg16_ranks(ranks: dict) -> dict:
    return {"conv_rank": ranks["rank"], "dense_rank": ranks["dense_rank"]}


def _bert_ratios() -> list[dict]:
    rows = []
    for study, net in BERTS.items():
        encoder, norms = shapes.total(net.encoder), shapes.total(net.norms)
        attention, model = shapes.total(net.attention), net.parameters
        for ranks, printed in _ratios(study):
            rank = ranks["rank"]
            left = shapes.remaining(net.attention, rank)
            bare = shapes.remaining(net.attention, rank, bias=False)
            name = f"{_label(study)}: ratio at rank {rank}"
            over = f"of the {encoder:,} parameters of the encoder blocks"
            follows = abs(100 * left / encoder - float(printed)) <= _tolerance(printed)
            hint = "" if follows else f"; {norms:,} more, as of the layer norms, give the print"
            counts = [
                ("", left, encoder, f"attention's pairs and biases, {over}{hint}", "arithmetic"),
                (
                    ", with the layer norms",
                    left + norms,
                    encoder,
                    f"attention's pairs and biases and {norms:,} of layer norms (or as many others), {over}",
                    "convention",
                ),
                (", of the methods without bias", bare, encoder, f"{NO_BIAS}, {over}", "convention"),
                (
                    ", whole encoder",
                    encoder - attention + left,
                    encoder,
                    f"all that is left {over}: the feed-forward halves stay",
                    "convention",
                ),
                (
                    ", whole model",
                    model - attention + left,
                    model,
                    f"all that is left of the {model:,} parameters of the backbone",
                    "convention",
                ),
            ]
            for suffix, part, base, how, kind in counts:
                rows.append(
                    _row(
                        TABLES[study],
                        name + suffix,
                        printed,
                        100 * part / base,
                        f"{part:,}: {how}",
                        kind=kind,
                    )
                )
    return rows


# --- slide 14 -----------------------------------------------------------------------------------


def _noise_law() -> list[dict]:
    """Mean and variance of d·W + n, in units of m and σ², where they are furthest from 1 over d in [0, 1]."""
    d = np.linspace(0, 1, 1001)
    laws = {"mean": d + (1 - d), "variance": d**2 + (1 - d**2)}
    sums = {"mean": "d·m + (1 − d)·m", "variance": "d²·σ² + (1 − d²)·σ²"}
    units = {"mean": "m", "variance": "σ²"}
    return [
        _row(
            14,
            f"Noise: {name} of d·W + n",
            "1",
            law[np.abs(law - 1).argmax()],
            f"{sums[name]}, at the d in [0, 1] where it is furthest from 1 {units[name]}",
            unit=units[name],
        )
        for name, law in laws.items()
    ]


# --- best cells ---------------------------------------------------------------------------------


def _best_cells() -> list[dict]:
    """The bold cells: the best of their line? And what slides 23 and 24 pick out, by the tables."""
    rows = []
    for mark in as_printed("marked").itertuples():
        method = METHOD_LABELS[mark.method]
        if mark.mark == "underlined":
            rows.append(_lead(mark))
            continue
        line = _cells(mark.study)
        line = line[line["rank"] == mark.rank]
        if mark.dense_rank:
            line = line[line["dense_rank"] == mark.dense_rank]
        top = line.loc[line["accuracy"].idxmax()]
        ranks = f"ranks {mark.rank} and {mark.dense_rank}" if mark.dense_rank else f"rank {mark.rank}"
        verb = {"bold": "is bold", "chosen": "is shown"}[mark.mark]
        printed = _raw_cell(mark.study, mark.method, mark.rank, mark.dense_rank)
        rows.append(
            _row(
                mark.slide,
                f"{_label(mark.study)}: best of the line of {ranks} ({method} {verb})",
                printed,
                top["accuracy"],
                f"the largest of the line's four cells is {METHOD_LABELS[top['method']]}'s",
            )
        )
    return rows


def _lead(mark) -> dict:
    """What the underlined method of slide 23 has before the next one; each of the two is rounded once."""
    cells = {method: _conclusion_cell(mark.study, method) for method in METHODS}
    printed = {method: float(cell["accuracy_percent"]) for method, cell in cells.items()}
    means = {method: _mean(mark.study, method) for method in METHODS}
    leads = [
        values[mark.method] - max(value for method, value in values.items() if method != mark.method)
        for values in (printed, means)
    ]
    best = METHOD_LABELS[max(means, key=means.get)]
    how = f"by the means of the columns of slide {TABLES[mark.study]}, where the best is {best}"
    name = f"{_label(mark.study)}: lead of {METHOD_LABELS[mark.method]}, underlined, over the next method"
    row = _row(mark.slide, name, f"{leads[0]:.2f}", leads[1], how, unit="points")
    return row | {"tolerance": 2 * row["tolerance"]}


def _raw_cell(study: str, method: str, rank: str, dense_rank: str) -> str:
    table = as_printed(study).rename(columns={"conv_rank": "rank"})
    chosen = (table["method"] == method) & (table["rank"] == rank)
    if dense_rank:
        chosen &= table["dense_rank"] == dense_rank
    return table.loc[chosen, "accuracy_percent"].item()


# --- slide 23 -----------------------------------------------------------------------------------


def conclusion_spreads() -> pd.DataFrame:
    """Which spread is the ± of slide 23? Its printed values beside what the tables allow.

    Returns:
        A row for each (model, method), in points: `printed`; `mean_sd` and `rms_sd` (of the ± of the table's
        cells), `sd` and `population_sd` (of the cells over the ranks, with n − 1 and with n),
        `standard_error` (sd / √n); `nearest` of them to the print; `matches`, those that agree.

    Example:
        >>> spreads = conclusion_spreads()
        >>> spreads.loc[spreads["matches"] != "", ["model", "method", "matches"]].to_numpy().tolist()
        [['bert_tiny', 'wds', 'standard_error'], ['bert_tiny', 'bias', 'standard_error']]
    """
    rows = []
    for line in as_printed("conclusion").itertuples():
        cells = _cells(line.model)
        cells = cells[cells["method"] == line.method]
        means, spreads = cells["accuracy"], cells["accuracy_sd"].astype(float)
        candidates = {
            "mean_sd": spreads.mean(),
            "rms_sd": np.sqrt((spreads**2).mean()),
            "sd": means.std(),
            "population_sd": means.std(ddof=0),
            "standard_error": means.std() / np.sqrt(len(means)),
        }
        tolerance = _tolerance(line.accuracy_sd) + 1e-9
        matches = [n for n, value in candidates.items() if abs(value - float(line.accuracy_sd)) <= tolerance]
        printed = float(line.accuracy_sd)
        nearest = min(candidates, key=lambda name: abs(candidates[name] - printed))
        rows.append(
            {"model": line.model, "method": line.method, "printed": printed, **candidates}
            | {"nearest": nearest, "matches": ", ".join(matches)}
        )
    return pd.DataFrame(rows)


def _mean(model: str, method: str) -> float:
    cells = _cells(model)
    return cells.loc[cells["method"] == method, "accuracy"].mean()


def _conclusion_cell(model: str, method: str) -> dict:
    table = as_printed("conclusion")
    return table[(table["model"] == model) & (table["method"] == method)].iloc[0].to_dict()


def _conclusion() -> list[dict]:
    rows, spreads = [], conclusion_spreads().set_index(["model", "method"])
    for model in dict.fromkeys(as_printed("conclusion")["model"]):
        for method in METHODS:
            printed = _conclusion_cell(model, method)
            name = f"{_label(model)}: {METHOD_LABELS[method]}"
            mean = _mean(model, method)
            how = f"mean of the column's cells on slide {TABLES[model]}"
            value = float(printed["accuracy_percent"])
            twins = [other for other in METHODS if abs(_mean(model, other) - value) <= 0.005 + 1e-9]
            if twins and method not in twins:
                how += f"; the printed value is the mean of {METHOD_LABELS[twins[0]]}"
            rows.append(_row(23, f"{name}, mean", printed["accuracy_percent"], mean, how))
            found = spreads.loc[(model, method)]
            tried = ", ".join(f"{label} {found[key]:.2f}" for key, label in SPREADS.items())
            how = f"the nearest of: {tried} (slide {TABLES[model]})"
            nearest = found[found["nearest"]]
            rows.append(_row(23, f"{name}, ±", printed["accuracy_sd"], nearest, how, unit="points"))
    return rows
