"""Every figure of the slides: from their printed numbers, from recorded rows, and the toy project as coded.

`slide_figures` gives the list, in the order of the slides; each version is a function that draws it, or a
sentence that says why there is nothing to draw. `page` saves them and lays them side by side.

What a slide only draws as a curve cannot be drawn again from its numbers: the published side then says so,
and shows what the slide does print. What is not recorded is not drawn: the function raises `MissingResults`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from clora_lab import _checks
from clora_lab.lab.figures.style import LANGUAGES
from clora_lab.lab.paths import data_dir
from clora_lab.lab.published import load
from clora_lab.slides import drawings, measured, plots, printed, published, shapes

Version = Callable[[], Figure] | str


@dataclass(frozen=True)
class SlideFigure:
    """A figure of the slides: its number, the stem of its files, its titles, and its versions.

    Args:
        slide: number of the slide.
        name: what the files are called after the number, as "table" in slide_16_table_published.png.
        titles: language -> title of the section in the page.
        published, measured: a function that draws the version, or a sentence why there is none.
        counted: the measured version is counted from the layers' shapes, and needs no rows.
        coded: measured, with nets as the authors' code has them, for the toy project's; or None.
    """

    slide: int
    name: str
    titles: dict[str, str]
    published: Version
    measured: Version
    counted: bool = False
    coded: Version | None = None

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
    layers, wrapped = plots.stack(shapes.VGG16_WRAPPED, shapes.VGG16)

    def toy(stem, recipe=""):
        return functools.partial(measured.toy, folder, stem, recipe)

    def coded(stem):
        return toy(stem, measured.CODED)

    def drawn(draw, **options):
        return functools.partial(draw, lang=lang, **options)

    def layer_stack(title):
        return drawings.layer_stack(layers, wrapped, title=title, lang=lang)

    def entry(slide, name, english, korean, *versions, **options):
        return SlideFigure(slide, name, {"en": english, "ko": korean}, *versions, **options)

    def as_table(study, english, korean):
        title = {"en": f"{english}, as published", "ko": f"{korean} (발표 자료)"}[lang]
        return functools.partial(published.table, study, title, lang)

    picture = "The slide's curves are a picture: it prints no number with them."
    return [
        entry(5, "fine_tuning", "Regular fine-tuning", "일반 파인튜닝", drawn(drawings.fine_tuning),
              "A drawing without numbers. What it costs is counted beside slide 6."),
        entry(6, "lora", "LoRA", "LoRA", drawn(drawings.lora), plots.trained_parameters,
              counted=True),
        entry(8, "wds", "Weight Decay Scheduling in four stages", "가중치 감쇠 스케줄링의 네 단계",
              drawn(drawings.wds_stages), lambda: measured.stages(folder, "wds"),
              coded=lambda: measured.stages(folder, "wds", measured.CODED)),
        entry(9, "decay", "Decay factor against iteration", "반복에 따른 감쇠 계수", published.decay,
              toy("slide_09_decay")),
        entry(10, "training", "Toy project: Only WDS", "토이 프로젝트: Only WDS",
              functools.partial(published.only_wds, lang), toy("slide_10_training"),
              coded=coded("slide_10_training")),
        entry(12, "paths", "Each path alone", "각 경로의 정확도",
              functools.partial(plots.slide_reading, plots.READING, printed.original_of("toy") / 100),
              toy("slide_12_paths"), coded=coded("slide_12_paths")),
        entry(13, "noise_and_bias", "Noise fills the space that W leaves", "W가 비운 자리를 채우는 노이즈",
              drawn(drawings.wds_stages, noise=True), lambda: measured.stages(folder, "noise_bias"),
              coded=lambda: measured.stages(folder, "noise_bias", measured.CODED)),
        entry(14, "noise", "Densities of W, d·W, noise and their sum", "W, d·W, 노이즈와 그 합의 밀도",
              plots.noise_law, toy("slide_14_noise")),
        entry(15, "variants", "Noise until the end, or scheduled", "끝까지 노이즈와 예정된 노이즈",
              functools.partial(published.three_variants, lang), toy("slide_15_variants"),
              coded=coded("slide_15_variants")),
        entry(16, "table", "Toy project: four methods at three ranks", "토이 프로젝트: 네 방법과 세 랭크",
              as_table("toy", "Toy project, Fashion-MNIST", "토이 프로젝트, Fashion-MNIST"),
              toy("slide_16_table"), coded=coded("slide_16_table")),
        entry(16, "ratio", "Accuracy against parameters left", "남은 파라미터와 정확도",
              lambda: plots.published_accuracies(
                  load("toy"), "Accuracy against parameters left, Fashion-MNIST, as published"),
              toy("accuracy_against_ratio_{}"), coded=coded("accuracy_against_ratio_{}")),
        entry(16, "methods", "Validation accuracy against epoch", "에폭에 따른 검증 정확도", picture,
              toy("slide_16_methods"), coded=coded("slide_16_methods")),
        entry(18, "vgg16_layers", "VGG16's layers, the wrapped ones marked", "VGG16의 층과 감싼 층",
              lambda: layer_stack({"en": "VGG16 on CIFAR-10", "ko": "VGG16, CIFAR-10"}[lang]),
              plots.layer_parameters, counted=True),
        entry(19, "vgg16", "VGG16 on CIFAR-10", "VGG16, CIFAR-10",
              as_table("vgg16", "VGG16, CIFAR-10", "VGG16, CIFAR-10"),
              functools.partial(measured.table, folder, "vgg16", "vgg16", lang)),
        entry(21, "bert_tiny", "BERT-Tiny on IMDB", "BERT-Tiny, IMDB",
              as_table("bert_tiny", "BERT-Tiny, IMDB", "BERT-Tiny, IMDB"),
              functools.partial(measured.table, folder, "bert", "bert_tiny", lang)),
        entry(22, "bert_small", "BERT-Small on IMDB", "BERT-Small, IMDB",
              as_table("bert_small", "BERT-Small, IMDB", "BERT-Small, IMDB"),
              functools.partial(measured.table, folder, "bert", "bert_small", lang)),
        entry(23, "conclusion", "Conclusion: means over the ranks", "결론: 랭크 평균",
              functools.partial(published.conclusion, lang),
              functools.partial(measured.conclusion, folder, lang)),
        entry(24, "bars", "Before and after the compression", "압축 전과 후", published.bars,
              functools.partial(measured.bars, folder)),
    ]  # fmt: skip
