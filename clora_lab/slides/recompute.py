"""What follows from the slides' own numbers and shapes: the rows of the audit, one function a kind of figure.

Sources: `printed` and `shapes`. Nothing is measured, no network is built.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from clora_lab import methods
from clora_lab.schedules import LinearDecay
from clora_lab.slides import shapes
from clora_lab.slides.printed import (
    TABLES,
    as_printed,
    cell_as_printed,
    cells_of,
    label,
    lines_of,
    original_of,
    table_cell,
    table_ratio,
    tolerance,
)

FOUR = methods.names("slides")
BERTS = {"bert_tiny": shapes.BERT_TINY, "bert_small": shapes.BERT_SMALL}
TOY_EPOCHS, TOY_STEPS = 30, 48_000
CIFAR10 = {"training images": 50_000, "test images": 10_000}  # Krizhevsky 2009
FASHION_MNIST_IMAGES = 60_000 + 10_000  # Xiao et al. 2017
CUT = "the slide cuts digits where it should round"
COUNTS = ("images", "layers", "blocks")
GIVEN = ((12, "toy", "original path at epoch 20"),)  # read off a curve: derived from nothing
SPREADS = {
    "mean_sd": "mean of the table's ±",
    "rms_sd": "root mean square of those",
    "sd": "sample sd over the ranks",
    "population_sd": "population sd over the ranks",
    "standard_error": "standard error of the mean over the ranks",
}
SHORT = dict(zip(SPREADS, ("mean ±", "rms ±", "sample sd", "population sd", "standard error"), strict=True))


def _row(
    slide, quantity, printed: str, recomputed: float, how: str, unit="%", kind="arithmetic", group=None
) -> dict:
    """A row of the audit; `group` is (topic, item, reason) where several rows share a reason."""
    topic, item, reason = group or (quantity, "", how)
    return {
        "slide": int(slide),
        "quantity": quantity,
        "printed": float(printed),
        "recomputed": float(recomputed),
        "tolerance": tolerance(printed),
        "how": how,
        "unit": unit,
        "kind": kind,
        "topic": topic,
        "item": item,
        "reason": reason,
    }


def rows() -> list[dict]:
    """Every derived figure of the slides, recomputed."""
    found = [*_claims(), *_toy_ratios(), *_noise_law(), *_vgg16_ratios(), *_bert_ratios(), *_best_cells()]
    return found + _conclusion()


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
        name = f"{label(claim.study)}: {claim.quantity}"
        group = None
        if claim.quantity in CIFAR10:
            group = label(claim.study), claim.quantity.removesuffix(" images"), how
        elif claim.study in BERTS and claim.quantity == "total parameters":
            group = claim.quantity, label(claim.study), f"in the backbone by its shapes: {CUT}"
        rows.append(_row(claim.slide, name, claim.printed, value, how, claim.unit, group=group))
    if known:
        raise ValueError(f"claims.csv must hold every claim that the audit knows. Missing: {list(known)}.")
    return rows


def _recomputed_claims() -> dict[tuple[int, str, str], tuple[float, str]]:
    """(slide, study, quantity) -> (value, how)."""
    claims = {}
    original = {study: original_of(study) for study in TABLES}
    wds = table_cell("toy", "wds", "16")
    decay = LinearDecay(TOY_STEPS, begin=0.05, end=0.85)
    reading = float(as_printed("claims").query("quantity == 'original path at epoch 20'")["printed"].item())
    claims[9, "toy", "images"] = (FASHION_MNIST_IMAGES, "60,000 training and 10,000 test images")
    claims[9, "toy", "original accuracy"] = (original["toy"], "the original's line of slide 16")
    for ranks, ratio in lines_of("toy"):
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
    claims[16, "toy", "quoted ratio"] = (float(lines_of("toy")[0][1]), "the first line of the table")
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
        how = f"{net.parameters:,} in the backbone by its shapes: {CUT}"
        claims[20, study, "total parameters"] = (net.parameters / 1e6, how)
    claims[24, "vgg16", "ratio of the bars"] = (table_ratio("vgg16", 32, 32), "slide 19, ranks 32 and 32")
    claims[24, "bert_tiny", "ratio of the bars"] = (table_ratio("bert_tiny", 16), "slide 21, rank 16")
    how = "slide 21, rank 16, scheduled noise & bias; no cell of that table has the bar's value"
    claims[24, "bert_tiny", "height of the compressed bar"] = (
        table_cell("bert_tiny", "noise_bias", "16"),
        how,
    )
    return claims


def _quoted_ranges(study: str) -> dict:
    slide, cells = TABLES[study], cells_of(study)
    ratios = cells["ratio_percent"].astype(float)
    worst, best = (cells.loc[find(cells["change"])] for find in (pd.Series.idxmin, pd.Series.idxmax))
    where = "{:.2f}: {} at {}%".format
    return {
        (slide, study, "quoted lowest ratio"): (ratios.min(), "the smallest ratio of the table"),
        (slide, study, "quoted highest ratio"): (ratios.max(), "the largest ratio of the table"),
        (slide, study, "quoted largest change"): (
            worst["change"],
            where(worst["accuracy"], methods.label(worst["method"]), worst["ratio_percent"])
            + ", the worst cell of all methods",
        ),
        (slide, study, "quoted smallest change"): (
            best["change"],
            where(best["accuracy"], methods.label(best["method"]), best["ratio_percent"])
            + ", the best cell of all methods",
        ),
    }


# --- ratios -------------------------------------------------------------------------------------

NO_BIAS = "the same without the biases of the compressed layers: Only WDS and Scheduled noise keep none"


def _ratio(study, ranks, suffix, printed, part: int, base: int, why: str, kind: str, of=":") -> dict:
    """A ratio of a table, counted in one way; `of` stands between the count and the reason."""
    name = f"{label(study)}: ratio"
    how = f"{part:,}{of} {why}"
    group = (name + suffix, ranks, why)
    return _row(
        TABLES[study], f"{name} at {ranks}{suffix}", printed, 100 * part / base, how, kind=kind, group=group
    )


def _follows(printed: str, part: int, base: int) -> bool:
    return abs(100 * part / base - float(printed)) <= tolerance(printed)


def _toy_ratios() -> list[dict]:
    rows, whole = [], shapes.total(shapes.TOY)
    head = shapes.TOY[-1].parameters
    for ranks, printed in lines_of("toy"):
        rank = ranks["rank"]
        left = shapes.remaining(shapes.TOY_WRAPPED, rank)
        bare = shapes.remaining(shapes.TOY_WRAPPED, rank, bias=False)
        pairs = "pairs and biases of the two compressed layers over the whole model"
        quote = "'compressed model params / original total params' (slide 10)"
        stays = f"{quote}, with the {head:,} of the output layer, which stays"
        for suffix, part, why, kind in (
            ("", left, pairs, "arithmetic"),
            (", of the methods without bias", bare, NO_BIAS, "convention"),
            (", whole model", left + head, stays, "convention"),
        ):
            of = f" of {whole:,}:"
            rows.append(_ratio("toy", f"rank {rank}", suffix, printed, part, whole, why, kind, of))
    return rows


def _vgg16_ratios() -> list[dict]:
    rows, whole, head = [], shapes.total(shapes.VGG16), shapes.VGG16_HEAD.parameters
    for ranks, printed in lines_of("vgg16"):
        left, bare = (
            shapes.vgg16_remaining(ranks["rank"], ranks["dense_rank"], bias=bias) for bias in (True, False)
        )
        counts = (
            f"pairs (1 x k, then k x 1 for the convolutions) and biases over the whole model of {whole:,}"
        )
        out = f"{counts}, the frozen output layer of {head:,} left out"
        out += ", with which the print follows" if _follows(printed, left + head, whole) else ""
        included = f"{counts}, the frozen output layer of {head:,} included"
        for suffix, part, why, kind in (
            (", output layer included", left + head, included, "convention"),
            ("", left, out, "arithmetic"),
            (", of the methods without bias", bare, NO_BIAS, "convention"),
        ):
            at = f"ranks {ranks['rank']} and {ranks['dense_rank']}"
            rows.append(_ratio("vgg16", at, suffix, printed, part, whole, why, kind))
    return rows


def _bert_ratios() -> list[dict]:
    rows = []
    for study, net in BERTS.items():
        encoder, norms = shapes.total(net.encoder), shapes.total(net.norms)
        attention, model = shapes.total(net.attention), net.parameters
        over = f"of the {encoder:,} parameters of the encoder blocks"
        for ranks, printed in lines_of(study):
            left = shapes.remaining(net.attention, ranks["rank"])
            bare = shapes.remaining(net.attention, ranks["rank"], bias=False)
            pairs = "attention's pairs and biases"
            more = f"; {norms:,} more, as of the layer norms, give the print"
            more = "" if _follows(printed, left, encoder) else more
            with_norms = f"{pairs} and {norms:,} of layer norms (or as many others), {over}"
            stay = f"all that is left {over}: the feed-forward halves stay"
            backbone = f"all that is left of the {model:,} parameters of the backbone"
            for suffix, part, base, why, kind in (
                ("", left, encoder, f"{pairs}, {over}{more}", "arithmetic"),
                (", with the layer norms", left + norms, encoder, with_norms, "convention"),
                (", of the methods without bias", bare, encoder, f"{NO_BIAS}, {over}", "convention"),
                (", whole encoder", encoder - attention + left, encoder, stay, "convention"),
                (", whole model", model - attention + left, model, backbone, "convention"),
            ):
                rows.append(_ratio(study, f"rank {ranks['rank']}", suffix, printed, part, base, why, kind))
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
        method = methods.label(mark.method)
        if mark.mark == "underlined":
            rows.append(_lead(mark))
            continue
        line = cells_of(mark.study)
        line = line[line["rank"] == mark.rank]
        if mark.dense_rank:
            line = line[line["dense_rank"] == mark.dense_rank]
        top = line.loc[line["accuracy"].idxmax()]
        ranks = f"ranks {mark.rank} and {mark.dense_rank}" if mark.dense_rank else f"rank {mark.rank}"
        verb = {"bold": "is bold", "chosen": "is shown"}[mark.mark]
        printed = cell_as_printed(mark.study, mark.method, mark.rank, mark.dense_rank)
        rows.append(
            _row(
                mark.slide,
                f"{label(mark.study)}: best of the line of {ranks} ({method} {verb})",
                printed,
                top["accuracy"],
                f"the largest of the line's four cells is {methods.label(top['method'])}'s",
                group=(
                    f"{label(mark.study)}: best of the line",
                    f"{ranks} ({method} {verb})",
                    "the largest of the line's four cells",
                ),
            )
        )
    return rows


def _lead(mark) -> dict:
    """What the underlined method of slide 23 has before the next one; each of the two is rounded once."""
    cells = {method: _conclusion_cell(mark.study, method) for method in FOUR}
    printed = {method: float(cell["accuracy_percent"]) for method, cell in cells.items()}
    means = {method: _mean(mark.study, method) for method in FOUR}
    leads = [
        values[mark.method] - max(value for method, value in values.items() if method != mark.method)
        for values in (printed, means)
    ]
    best = methods.label(max(means, key=means.get))
    how = f"by the means of the columns of slide {TABLES[mark.study]}, where the best is {best}"
    name = f"{label(mark.study)}: lead of {methods.label(mark.method)}, underlined, over the next method"
    row = _row(mark.slide, name, f"{leads[0]:.2f}", leads[1], how, unit="points")
    return row | {"tolerance": 2 * row["tolerance"]}


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
        cells = cells_of(line.model)
        cells = cells[cells["method"] == line.method]
        means, spreads = cells["accuracy"], cells["accuracy_sd"].astype(float)
        candidates = {
            "mean_sd": spreads.mean(),
            "rms_sd": np.sqrt((spreads**2).mean()),
            "sd": means.std(),
            "population_sd": means.std(ddof=0),
            "standard_error": means.std() / np.sqrt(len(means)),
        }
        printed, within = float(line.accuracy_sd), tolerance(line.accuracy_sd) + 1e-9
        matches = [name for name, value in candidates.items() if abs(value - printed) <= within]
        nearest = min(candidates, key=lambda name: abs(candidates[name] - printed))
        rows.append(
            {"model": line.model, "method": line.method, "printed": printed, **candidates}
            | {"nearest": nearest, "matches": ", ".join(matches)}
        )
    return pd.DataFrame(rows)


def _mean(model: str, method: str) -> float:
    cells = cells_of(model)
    return cells.loc[cells["method"] == method, "accuracy"].mean()


def _conclusion_cell(model: str, method: str) -> dict:
    table = as_printed("conclusion")
    return table[(table["model"] == model) & (table["method"] == method)].iloc[0].to_dict()


def _conclusion() -> list[dict]:
    rows, spreads = [], conclusion_spreads().set_index(["model", "method"])
    for model in dict.fromkeys(as_printed("conclusion")["model"]):
        for method in FOUR:
            printed, name = _conclusion_cell(model, method), methods.label(method)
            of = f"{label(model)}: {name}"
            mean, value = _mean(model, method), float(printed["accuracy_percent"])
            how = reason = f"mean of the column's cells on slide {TABLES[model]}"
            twins = [other for other in FOUR if abs(_mean(model, other) - value) <= 0.005 + 1e-9]
            if twins and method not in twins:
                how += f"; the printed value is the mean of {methods.label(twins[0])}"
                name += f" (as printed: the mean of {methods.label(twins[0])})"
            group = (f"{label(model)}: mean over the cells", name, reason)
            rows.append(_row(23, f"{of}, mean", printed["accuracy_percent"], mean, how, group=group))
            found = spreads.loc[(model, method)]
            tried = ", ".join(f"{words} {found[key]:.2f}" for key, words in SPREADS.items())
            how = f"the nearest of: {tried} (slide {TABLES[model]})"
            reason = f"the nearest of: {', '.join(SPREADS.values())} (slide {TABLES[model]})"
            nearest = found[found["nearest"]]
            item = f"{methods.label(method)} ({SHORT[found['nearest']]})"
            group = (f"{label(model)}: ±", item, reason)
            row = _row(23, f"{of}, ±", printed["accuracy_sd"], nearest, how, unit="points", group=group)
            rows.append(row)
    return rows
