"""The figures of the slides from their printed numbers alone: tables digit by digit, bars, the stated decay.

What a slide only draws as a curve cannot be drawn again: then stands here what it does print.
"""

from __future__ import annotations

from matplotlib.figure import Figure

from clora_lab import _checks, methods
from clora_lab.lab import published
from clora_lab.lab.figures import laws, marks, style
from clora_lab.lab.nets import registry as nets
from clora_lab.schedules import LinearDecay
from clora_lab.slides import audit, plots, printed, recompute

FOUR = methods.names("slides")


def table(study: str, title: str, lang: str = "en") -> Figure:
    """A table of the slides as printed: each digit, each ±, and bold where the slide has bold.

    Args:
        study: "toy", "vgg16", "bert_tiny" or "bert_small".
        title: above the table.
        lang: language of the title.

    Raises:
        ValueError: another study.

    Example:
        >>> fig = table("bert_tiny", "BERT-Tiny, as published")
    """
    _checks.one_of("study", study, printed.TABLES)
    table = printed.as_printed(study).rename(columns={"conv_rank": "rank"})
    ranks = [column for column in ("rank", "dense_rank") if column in table]
    bold = printed.as_printed("marked").query("study == @study and mark == 'bold'")
    bold = set(bold[[*ranks, "method"]].itertuples(index=False, name=None))
    names = {"rank": "Rank", "dense_rank": "Dense\nrank"}
    if "dense_rank" in ranks:
        names["rank"] = "Conv.\nrank"
    head = [
        "Ratio\n(%)",
        *(names[r] for r in ranks),
        *(style.two_lines(methods.label(m)) for m in FOUR),
    ]
    left = 1 + len(ranks)
    original = table[table["method"] == "original"].iloc[0]
    blank = [""] * (len(ranks) - 1)
    lines = [{"cells": ["100", "–", *blank, original["accuracy_percent"]], "across": True}]
    for values, cells in table[table["method"] != "original"].groupby(ranks, sort=False):
        cells = cells.set_index("method").loc[list(FOUR)]
        texts = [
            row.accuracy_percent + (f" ± {row.accuracy_sd}" if getattr(row, "accuracy_sd", "") else "")
            for row in cells.itertuples()
        ]
        strong = [left + i for i, method in enumerate(FOUR) if (*values, method) in bold]
        lines.append({"cells": [cells["ratio_percent"].iloc[0], *values, *texts], "bold": strong})
    said = "Accuracy in percent; " + ("bold as in the slide" if bold else "single runs, no ±")
    return marks.table(head, lines, title, said, left=left, lang=lang)


def decay() -> Figure:
    """Slide 9: the decay that the slide states, from 5% to 85% of its steps."""
    schedule = LinearDecay(recompute.TOY_STEPS, begin=0.05, end=0.85)
    return laws.decay_curve(schedule, recompute.TOY_STEPS, noise=False, dataset="fashion_mnist")


def only_wds(lang: str) -> Figure:
    """Slide 10: the accuracies and changes of Only WDS that it prints."""
    claims = printed.as_printed("claims").set_index("quantity")["printed"]
    original = printed.original_of("toy")
    lines = [{"cells": ["100", "–", f"{original}", ""]}]
    for rank in ("16", "32", "64"):
        change = claims.get(f"change of Only WDS at rank {rank}", "")
        accuracy = claims[f"Only WDS at rank {rank}"]
        cells = [claims[f"ratio at rank {rank}"], rank, accuracy, change.replace("-", "−") or "not printed"]
        lines.append({"cells": cells})
    head = ["Ratio\n(%)", "Rank", "Accuracy (%)", "Change (points)"]
    said = "The slide's curves are a picture: this table is all that it prints"
    title = {"en": "Only WDS, Fashion-MNIST, as published", "ko": "Only WDS, Fashion-MNIST (발표 자료)"}[lang]
    return marks.table(head, lines, title, said, lang=lang)


def three_variants(lang: str) -> Figure:
    """Slide 15: what slide 16 prints of its three variants."""
    table = published.load("toy").query("rank == 16").set_index("method")["accuracy_percent"]
    lines = [
        {"cells": ["Only WDS", f"{table['wds']:.2f}", "slide 16, rank 16"]},
        {"cells": ["Noise & bias until the end", "–", "no number printed"]},
        {"cells": ["Scheduled noise & bias", f"{table['noise_bias']:.2f}", "slide 16, rank 16"]},
    ]
    title = {"en": "Three variants, as published", "ko": "세 가지 변형 (발표 자료)"}[lang]
    said = "The slide's curves are a picture: it prints no numbers. Slide 16 has two of the three"
    return marks.table(
        ["Variant", "Accuracy (%)", "Where it is printed"],
        lines,
        title,
        said,
        left=1,
        lang=lang,
        left_width=0.31,
    )


def conclusion(lang: str) -> Figure:
    """Slide 23: its means as printed; a dagger where one is not the mean of its own table's column."""
    table, found = printed.as_printed("conclusion"), audit.audit().query("slide == 23").set_index("quantity")
    models = list(dict.fromkeys(table["model"]))
    underlined = printed.as_printed("marked").query("mark == 'underlined'")
    lines = []
    for method in FOUR:
        cells, strong = [methods.label(method)], []
        for column, model in enumerate(models, start=1):
            row = table[(table["model"] == model) & (table["method"] == method)].iloc[0]
            agrees = found.loc[f"{nets.label(model)}: {methods.label(method)}, mean", "agrees"]
            cells.append(f"{row['accuracy_percent']}{'' if agrees else ' †'} ± {row['accuracy_sd']}")
            if ((underlined["study"] == model) & (underlined["method"] == method)).any():
                strong.append(column)
        lines.append({"cells": cells, "bold": strong})
    title = {"en": "Conclusion, as published", "ko": "결론 (발표 자료)"}[lang]
    said = (
        "Accuracy in percent; bold: underlined in the slide\n† is not the mean of the column of its own table"
    )
    return marks.table(
        ["Method", *map(nets.label, models)], lines, title, said, left=1, lang=lang, left_width=0.31
    )


def bars() -> Figure:
    """Slide 24: parameters and accuracy before and after, by the slide's bars and the models' tables."""
    cases = []
    for mark in printed.as_printed("marked").query("mark == 'chosen'").itertuples():
        value = printed.table_cell(mark.study, mark.method, mark.rank, mark.dense_rank)
        ranks = [int(rank) for rank in (mark.rank, mark.dense_rank) if rank]
        case = {
            "name": f"{nets.label(mark.study)}\n{methods.label(mark.method)}",
            "parameters": (100.0, printed.table_ratio(mark.study, *ranks)),
            "accuracy": (printed.original_of(mark.study), value),
        }
        bar = printed.as_printed("claims").query(
            "study == @mark.study and quantity == 'height of the compressed bar'"
        )
        if len(bar):
            case |= {"accuracy": (case["accuracy"][0], float(bar["printed"].item())), "table": value}
        cases.append(case)
    said = "Bars without a number of their own have the value of the model's table"
    return plots.before_after_bars(cases, "Before and after, as published", said)
