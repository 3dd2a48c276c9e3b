"""Every figure of the slides in two versions: from their printed numbers, and from recorded rows.

`slide_figures` gives the list, in the order of the slides; each version is a function that draws it, or a
sentence that says why there is nothing to draw. `slide_page` saves them and lays them side by side.

What a slide only draws as a curve cannot be drawn again from its numbers: the published side then says so,
and shows what the slide does print. What is not recorded is not drawn: the function raises `MissingResults`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from clora_lab import _checks, methods, studies
from clora_lab.lab import frames, published, tables
from clora_lab.lab.figures import compare, laws, marks, style
from clora_lab.lab.frames import MissingResults
from clora_lab.lab.names import BASELINES, METHODS, method_label
from clora_lab.lab.nets import registry as nets
from clora_lab.lab.paths import data_dir
from clora_lab.schedules import LinearDecay
from clora_lab.slides import audit, drawings, plots, printed, recompute, shapes

Version = Callable[[], Figure] | str
LANGUAGES = ("en", "ko")
RATIOS = {  # with the head of their column
    "ratio": "Ratio\n(%)",
    "ratio_encoder": "Blocks\n(%)",  # BERT's
    "ratio_model": "Model\n(%)",
}


@dataclass(frozen=True)
class SlideFigure:
    """A figure of the slides: its number, the stem of its files, its titles, and its two versions.

    Args:
        slide: number of the slide.
        name: what the files are called after the number, as "table" in slide_16_table_published.png.
        titles: language -> title of the section in the page.
        published, measured: a function that draws the version, or a sentence why there is none.
        counted: the measured version is counted from the layers' shapes, and needs no rows.
    """

    slide: int
    name: str
    titles: dict[str, str]
    published: Version
    measured: Version
    counted: bool = False

    @property
    def stem(self) -> str:
        """The beginning of the names of its files."""
        return f"slide_{self.slide:02d}_{self.name}"


def slide_figures(results: Path | None = None, lang: str = "en") -> list[SlideFigure]:
    """All figures of the slides, in their order; nothing is drawn or trained before a version is called.

    Args:
        results: folder of the recorded rows; by default those of this project.
        lang: language of the drawings' labels and of the published tables' titles, "en" or "ko".

    Raises:
        ValueError: another language.

    Example:
        >>> [figure.stem for figure in slide_figures()][:2]
        ['slide_05_fine_tuning', 'slide_06_lora']
    """
    _checks.one_of("lang", lang, LANGUAGES)
    folder = Path(results) if results else data_dir() / "results"
    toy = functools.partial(_toy, folder)
    layers, wrapped = plots.stack(shapes.VGG16_WRAPPED, shapes.VGG16)

    def drawn(draw, **options):
        return functools.partial(draw, lang=lang, **options)

    def layer_stack(title):
        return drawings.layer_stack(layers, wrapped, title=title, lang=lang)

    def entry(slide, name, english, korean, *versions, **options):
        return SlideFigure(slide, name, {"en": english, "ko": korean}, *versions, **options)

    def as_table(study, english, korean):
        title = {"en": f"{english}, as published", "ko": f"{korean} (발표 자료)"}[lang]
        return functools.partial(published_table, study, title, lang)

    toy_note = plots.READING
    picture = "The slide's curves are a picture: it prints no number with them."
    return [
        entry(5, "fine_tuning", "Regular fine-tuning", "일반 파인튜닝", drawn(drawings.fine_tuning),
              "A drawing without numbers. What it costs is counted beside slide 6."),
        entry(6, "lora", "LoRA", "LoRA", drawn(drawings.lora), plots.trained_parameters,
              counted=True),
        entry(8, "wds", "Weight Decay Scheduling in four stages", "가중치 감쇠 스케줄링의 네 단계",
              drawn(drawings.wds_stages), lambda: _stages(folder, "wds")),
        entry(9, "decay", "Decay factor against iteration", "반복에 따른 감쇠 계수", _published_decay,
              toy("slide_09_decay")),
        entry(10, "training", "Toy project: Only WDS", "토이 프로젝트: Only WDS",
              functools.partial(_only_wds, lang), toy("slide_10_training")),
        entry(12, "paths", "Each path alone", "각 경로의 정확도",
              functools.partial(plots.slide_reading, toy_note, published_original("toy") / 100),
              toy("slide_12_paths")),
        entry(13, "noise_and_bias", "Noise fills the space that W leaves", "W가 비운 자리를 채우는 노이즈",
              drawn(drawings.wds_stages, noise=True), lambda: _stages(folder, "noise_bias")),
        entry(14, "noise", "Densities of W, d·W, noise and their sum", "W, d·W, 노이즈와 그 합의 밀도",
              plots.noise_law, toy("slide_14_noise")),
        entry(15, "variants", "Noise until the end, or scheduled", "끝까지 노이즈와 예정된 노이즈",
              functools.partial(_three_variants, lang), toy("slide_15_variants")),
        entry(16, "table", "Toy project: four methods at three ranks", "토이 프로젝트: 네 방법과 세 랭크",
              as_table("toy", "Toy project, Fashion-MNIST", "토이 프로젝트, Fashion-MNIST"),
              toy("slide_16_table")),
        entry(16, "ratio", "Accuracy against parameters left", "남은 파라미터와 정확도",
              lambda: plots.published_accuracies(
                  published.load("toy"), "Accuracy against parameters left, Fashion-MNIST, as published"),
              toy("accuracy_against_ratio_slides")),
        entry(16, "methods", "Validation accuracy against epoch", "에폭에 따른 검증 정확도", picture,
              toy("slide_16_methods")),
        entry(18, "vgg16_layers", "VGG16's layers, the wrapped ones marked", "VGG16의 층과 감싼 층",
              lambda: layer_stack({"en": "VGG16 on CIFAR-10", "ko": "VGG16, CIFAR-10"}[lang]),
              plots.layer_parameters, counted=True),
        entry(19, "vgg16", "VGG16 on CIFAR-10", "VGG16, CIFAR-10",
              as_table("vgg16", "VGG16, CIFAR-10", "VGG16, CIFAR-10"),
              functools.partial(measured_table, folder, "vgg16", "vgg16", lang)),
        entry(21, "bert_tiny", "BERT-Tiny on IMDB", "BERT-Tiny, IMDB",
              as_table("bert_tiny", "BERT-Tiny, IMDB", "BERT-Tiny, IMDB"),
              functools.partial(measured_table, folder, "bert", "bert_tiny", lang)),
        entry(22, "bert_small", "BERT-Small on IMDB", "BERT-Small, IMDB",
              as_table("bert_small", "BERT-Small, IMDB", "BERT-Small, IMDB"),
              functools.partial(measured_table, folder, "bert", "bert_small", lang)),
        entry(23, "conclusion", "Conclusion: means over the ranks", "결론: 랭크 평균",
              functools.partial(_published_conclusion, lang),
              functools.partial(_measured_conclusion, folder, lang)),
        entry(24, "bars", "Before and after the compression", "압축 전과 후", _published_bars,
              functools.partial(_measured_bars, folder)),
    ]  # fmt: skip


# --- printed numbers ----------------------------------------------------------------------------


def published_original(study: str) -> float:
    """The printed accuracy of the uncompressed net, in percent.

    Example:
        >>> published_original("vgg16")
        85.36
    """
    table = published.load(study)
    return table.loc[table["method"] == "original", "accuracy_percent"].item()


def published_table(study: str, title: str, lang: str = "en") -> Figure:
    """A table of the slides as printed: each digit, each ±, and bold where the slide has bold.

    Args:
        study: "toy", "vgg16", "bert_tiny" or "bert_small".
        title: above the table.
        lang: language of the title.

    Raises:
        ValueError: another study.

    Example:
        >>> fig = published_table("bert_tiny", "BERT-Tiny, as published")
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
        *(style.two_lines(method_label(m)) for m in METHODS),
    ]
    left = 1 + len(ranks)
    original = table[table["method"] == "original"].iloc[0]
    blank = [""] * (len(ranks) - 1)
    lines = [{"cells": ["100", "–", *blank, original["accuracy_percent"]], "across": True}]
    for values, cells in table[table["method"] != "original"].groupby(ranks, sort=False):
        cells = cells.set_index("method").loc[list(METHODS)]
        texts = [
            row.accuracy_percent + (f" ± {row.accuracy_sd}" if getattr(row, "accuracy_sd", "") else "")
            for row in cells.itertuples()
        ]
        strong = [left + i for i, method in enumerate(METHODS) if (*values, method) in bold]
        lines.append({"cells": [cells["ratio_percent"].iloc[0], *values, *texts], "bold": strong})
    said = "Accuracy in percent; " + ("bold as in the slide" if bold else "single runs, no ±")
    return marks.table(head, lines, title, said, left=left, lang=lang)


def _published_decay() -> Figure:
    schedule = LinearDecay(recompute.TOY_STEPS, begin=0.05, end=0.85)
    return laws.decay_curve(schedule, recompute.TOY_STEPS, noise=False, dataset="fashion_mnist")


def _only_wds(lang: str) -> Figure:
    claims = printed.as_printed("claims").set_index("quantity")["printed"]
    original = published_original("toy")
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


def _three_variants(lang: str) -> Figure:
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


def _published_conclusion(lang: str) -> Figure:
    table, found = printed.as_printed("conclusion"), audit.audit().query("slide == 23").set_index("quantity")
    models = list(dict.fromkeys(table["model"]))
    underlined = printed.as_printed("marked").query("mark == 'underlined'")
    lines = []
    for method in METHODS:
        cells, strong = [method_label(method)], []
        for column, model in enumerate(models, start=1):
            row = table[(table["model"] == model) & (table["method"] == method)].iloc[0]
            agrees = found.loc[f"{nets.label(model)}: {method_label(method)}, mean", "agrees"]
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


def _published_bars() -> Figure:
    cases = []
    for mark in printed.as_printed("marked").query("mark == 'chosen'").itertuples():
        value = printed.table_cell(mark.study, mark.method, mark.rank, mark.dense_rank)
        ranks = [int(rank) for rank in (mark.rank, mark.dense_rank) if rank]
        case = {
            "name": f"{nets.label(mark.study)}\n{method_label(mark.method)}",
            "parameters": (100.0, printed.table_ratio(mark.study, *ranks)),
            "accuracy": (published_original(mark.study), value),
        }
        bar = printed.as_printed("claims").query(
            "study == @mark.study and quantity == 'height of the compressed bar'"
        )
        if len(bar):
            case |= {"accuracy": (case["accuracy"][0], float(bar["printed"].item())), "table": value}
        cases.append(case)
    said = "Bars without a number of their own have the value of the model's table"
    return plots.before_after_bars(cases, "Before and after, as published", said)


# --- recorded rows ------------------------------------------------------------------------------


def _rows(folder: Path, study: str) -> pd.DataFrame:
    store = studies.recorded(study, folder)
    if not store.exists():
        raise MissingResults(
            f"Not measured yet: there are no recorded rows of the study {study!r}. "
            f"Compute them with: python -m clora_lab reproduce {study}"
        )
    return store.read()


def _toy(folder: Path, stem: str) -> Callable[[], Figure]:
    """The figure of the toy project that `gallery` draws under another stem."""

    def draw():
        from clora_lab.slides import gallery

        rows = _rows(folder, "toy")
        rows = rows[rows["dataset"] == "fashion_mnist"]
        if not (rows["rank"] > 0).any():
            raise MissingResults(
                "Not measured yet: no recorded rows of the toy study on Fashion-MNIST. "
                "Compute them with: python -m clora_lab reproduce toy"
            )
        available = gallery.toy_figures(rows, studies.recorded("toy", folder).read_history(), "fashion_mnist")
        if stem not in available:
            raise MissingResults(f"Not measured yet: the rows for {stem} are missing. {frames.remedy()}")
        return available[stem]()

    return draw


def _stages(folder: Path, method: str) -> Figure:
    rows = _rows(folder, "toy")
    rows = rows[(rows["dataset"] == "fashion_mnist") & (rows["rank"] > 0)]
    history = studies.recorded("toy", folder).read_history()
    history = history[history["dataset"] == "fashion_mnist"]
    rank = int(rows["rank"].min()) if len(rows) else 16
    return plots.stage_accuracies(history, method=method, rank=rank)


def measured(folder: Path, study: str, model: str) -> tuple[str, pd.DataFrame]:
    """The recorded table of a model that stands beside the slides', and in words what was measured.

    Of several tables the one in the slides' own recipe comes first, then the one with what the slides
    compress, then the one with the most nets; the words say how many others there are.

    Args:
        folder: of the recorded rows.
        study: name of the file, "vgg16" or "bert".
        model: which rows of it.

    Returns:
        The title of the table, and its rows as `tables.compare` gives them.

    Raises:
        MissingResults: there are no rows.
        ValueError: runs that no mean should mix.

    Example:
        >>> words, table = measured("data/results", "vgg16", "vgg16")  # doctest: +SKIP
    """
    home, rows = studies.get(study), _rows(Path(folder), study)
    rows = rows[rows["model"] == model]
    if not (rows["method"].isin(METHODS) & (rows["metric"] == "accuracy")).any():
        raise MissingResults(
            f"Not measured yet: the recorded rows of the study {study!r} hold none of {nets.label(model)}. "
            f"Compute them with: python -m clora_lab reproduce {study}"
        )
    split = "test" if (rows["split"] == "test").any() else "validation"
    found = [
        (title, table[table["measured"].notna()])
        for title, table in tables.each(tables.compare(rows, home, split))
        if table.loc[table["measured"].notna(), "method"].isin(METHODS).any()
    ]

    def near(each):
        table = each[1]
        own = table["variant"].iloc[0] == home.fields["variant"].default
        return own, table["published"].notna().any(), table["method"].isin(METHODS).sum()

    title, table = max(found, key=near)
    words, others = f"{title}; {split} set", len(found) - 1
    if others:
        words += f"; {others} more setting{'s' if others > 1 else ''} in the recorded rows"
    return words, table


def measured_table(folder: Path, study: str, model: str, lang: str = "en") -> Figure:
    """Slides 19, 21 and 22 from recorded rows: mean ± sd over seeds, baselines below, honest ratios beside.

    Args:
        folder: of the recorded rows.
        study: name of the file, "vgg16" or "bert".
        model: which rows of it.
        lang: language of the title.

    Raises:
        MissingResults: there are no rows of the model.

    Example:
        >>> fig = measured_table("data/results", "vgg16", "vgg16")  # doctest: +SKIP
    """
    words, table = measured(folder, study, model)
    two = len(table.attrs["cells"]) > 1
    left = {name: head for name, head in RATIOS.items() if name in table and table[name].notna().any()}
    title = {"en": f"{nets.label(model)}, measured", "ko": f"{nets.label(model)} (직접 측정)"}[lang]
    key = "; ranks: convolutions / dense layers" if two else ""
    note = f"Accuracy in percent, {frames.spread_in_words(table['n'])}; best of a line in bold{key}\n{words}"
    return compare.table(
        table, title, note, {**left, "cell": "Ranks" if two else "Rank"}, published=False,
        below=[name for name in BASELINES if methods.trains(name)], lang=lang,
    )  # fmt: skip


def _conclusion_models(folder: Path) -> dict[str, tuple[str, pd.DataFrame]]:
    """What was measured of each model."""
    found = {}
    for study, model in (
        ("vgg16", "vgg16"),
        ("bert", "bert_tiny"),
        ("bert", "bert_small"),
        ("bert", "minilm"),
    ):
        try:
            found[model] = measured(folder, study, model)
        except MissingResults:
            continue
    return found


def _measured_conclusion(folder: Path, lang: str) -> Figure:
    """Slide 23 from recorded rows: for each model the mean over the cells that all four methods have."""
    models = _conclusion_models(folder)
    if not models:
        raise MissingResults(
            "Not measured yet: no recorded rows of VGG16 or BERT. "
            "Compute them with: python -m clora_lab reproduce vgg16, and reproduce bert"
        )
    columns, notes = {}, []
    for model, (setting, cells) in models.items():
        table = cells.pivot_table(index=list(cells.attrs["cells"]), columns="method", values="measured")
        table = table.reindex(columns=METHODS).dropna()
        columns[model] = table.mean()
        notes.append(f"{nets.label(model)}: {len(table)} cells; {setting}")
    lines = []
    for method in METHODS:
        texts, strong = [], []
        for index, values in enumerate(columns.values(), start=1):
            texts.append("–" if pd.isna(values[method]) else f"{values[method]:.2f}")
            if round(values[method], 2) == values.round(2).max():
                strong.append(index)
        lines.append({"cells": [method_label(method), *texts], "bold": strong})
    title = {"en": "Conclusion, measured", "ko": "결론 (직접 측정)"}[lang]
    missing = [nets.label(m) for m in ("vgg16", "bert_tiny", "bert_small") if m not in models]
    note = "\n".join(notes) + (f"\nNot measured yet: {', '.join(missing)}" if missing else "")
    head = ["Mean over the cells (%)", *map(nets.label, models)]
    return marks.table(head, lines, title, note, left=1, lang=lang, left_width=0.31)


def _measured_bars(folder: Path) -> Figure:
    """Slide 24 from recorded rows: the same cells as the slide's bars."""
    cases, missing = [], []
    for mark in printed.as_printed("marked").query("mark == 'chosen'").itertuples():
        try:
            study = "bert" if mark.study in recompute.BERTS else mark.study
            _, cells = measured(folder, study, mark.study)
        except MissingResults:
            missing.append(nets.label(mark.study))
            continue
        chosen = (cells["method"] == mark.method) & (cells["rank"] == int(mark.rank))
        if mark.dense_rank:
            chosen &= cells["dense_rank"] == int(mark.dense_rank)
        dense = cells[cells["method"] == methods.ORIGINAL]
        if not chosen.any() or dense.empty:
            missing.append(nets.label(mark.study))
            continue
        row = cells[chosen].iloc[0]
        cases.append(
            {
                "name": f"{nets.label(mark.study)}\n{method_label(mark.method)}",
                "parameters": (100.0, row["ratio"]),
                "accuracy": (dense["measured"].iloc[0], row["measured"]),
                "sd": None if pd.isna(row["sd"]) else row["sd"],
                "model": None if pd.isna(row["ratio_model"]) else row["ratio_model"],
            }
        )
    if not cases:
        raise MissingResults(
            f"Not measured yet: the cells of the slide's bars ({', '.join(missing)}). "
            "Compute them with: python -m clora_lab reproduce vgg16, and reproduce bert"
        )
    note = f"Not measured yet: {', '.join(missing)}" if missing else ""
    return plots.before_after_bars(cases, "Before and after, measured", note)
