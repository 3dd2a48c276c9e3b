"""All figures of the slides as files, and one page that lays them out: published beside measured.

The page is one HTML file with relative links to the pictures and nothing else: no script, no font, no style
sheet from outside, so it can be opened from a disk, offline, or be put on any web server. Its form is the
template `page.html.j2` beside this module.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jinja2

from clora_lab.lab.data.registry import DatasetError
from clora_lab.lab.figures import style
from clora_lab.lab.frames import MissingResults
from clora_lab.slides import audit
from clora_lab.slides.figures import SlideFigure, slide_figures

VERSIONS = ("published", "measured", "coded")
TEXTS = {
    "en": {
        "title": "The figures of the C-LoRA slides, published and measured",
        "lead": "First: from the numbers that the slides print (Aiffel Online 5th Research, team 3L, "
        "December 2023). Then from the rows that this repository recorded, or counted from the shapes; "
        "of the toy project also with nets as the authors' notebooks have them, the activation inside of "
        "what fades. "
        "Nothing is drawn that was not printed, measured or counted.",
        "published": "Published",
        "measured": "Measured",
        "counted": "Counted from the shapes",
        "coded": "Measured, as coded",
        "slide": "Slide",
        "contents": "Slides",
        "arithmetic": "What does not add up on this slide",
        "convention": "The same counted another way",
        "columns": ("figure", "printed", "recomputed", "how"),
        "none": "Not drawn",
    },
    "ko": {
        "title": "C-LoRA 발표 자료의 그림: 발표된 값과 직접 측정한 값",
        "lead": "첫째는 발표 자료에 적힌 숫자로(Aiffel Online 5th Research, 3L 팀, 2023년 12월), "
        "그다음은 이 저장소가 기록한 측정값이나 층의 크기에서 센 값으로 그렸다. 토이 프로젝트는 "
        "저자들의 노트북처럼 활성화 함수가 사라지는 W 안에 있는 신경망으로도 그렸다. "
        "적혀 있지 않고 측정하거나 세지도 않은 것은 그리지 않는다.",
        "published": "발표된 값",
        "measured": "직접 측정",
        "counted": "층의 크기에서 센 값",
        "coded": "직접 측정 (코드대로)",
        "slide": "슬라이드",
        "contents": "슬라이드",
        "arithmetic": "이 슬라이드에서 맞지 않는 값",
        "convention": "다른 방식으로 센 값",
        "columns": ("항목", "적힌 값", "다시 계산한 값", "방법"),
        "none": "그리지 않음",
    },
}


@dataclass(frozen=True)
class Picture:
    """A drawn version as the page shows it: stem of its files, alt text, size in pixels."""

    stem: str
    alt: str
    width: int
    height: int


@dataclass
class Saved:
    """What `save_slide_figures` left behind.

    Args:
        files: all files, the page last.
        notes: (stem and version, sentence) of each version that was not drawn.
    """

    files: list[Path] = field(default_factory=list)
    notes: list[tuple[str, str]] = field(default_factory=list)


def save_slide_figures(folder: str | os.PathLike, results: Path | None = None, lang: str = "en") -> Saved:
    """Draw every slide figure in its versions as PNG and SVG, and write `index.html` beside them.

    A version whose rows or whose data set are missing becomes a note in the page, and in the answer; so does
    one that cannot exist (a drawing without numbers has nothing to measure).

    Args:
        folder: where to; made if it is missing. Files are called slide_NN_name_{published,measured,coded}.
        results: folder of the recorded rows; by default those of this project.
        lang: "en" or "ko", see `slide_figures`.

    Raises:
        ValueError: another language.
        OSError: the folder cannot be written.

    Example:
        >>> saved = save_slide_figures("out/figures")  # doctest: +SKIP
        >>> saved.files[-1].name  # doctest: +SKIP
        'index.html'
    """
    folder, saved, sections = Path(folder), Saved(), []
    for slide_figure in slide_figures(results, lang):
        shown = {}
        for version in VERSIONS:
            if getattr(slide_figure, version) is None:
                continue
            stem = f"{slide_figure.stem}_{version}"
            drawn = _draw(getattr(slide_figure, version))
            if isinstance(drawn, str):
                saved.notes.append((stem, drawn))
                for kind in ("png", "svg"):  # of an earlier run with other rows
                    (folder / f"{stem}.{kind}").unlink(missing_ok=True)
                shown[version] = drawn
                continue
            saved.files += style.save(drawn, folder / stem)
            width, height = (drawn.get_size_inches() * 160).round().astype(int)
            shown[version] = Picture(stem, style.alt_text(drawn), width, height)
        sections.append((slide_figure, shown))
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / "index.html"
    with tempfile.TemporaryDirectory(dir=folder, prefix=".page-") as draft:
        text = Path(draft, "index.html")
        text.write_text(page_html(sections, lang), encoding="utf-8")
        os.replace(text, page)
    saved.files.append(page)
    return saved


def _draw(version):
    """The figure of a version, or the sentence why there is none."""
    if isinstance(version, str):
        return version
    try:
        return version()
    except (MissingResults, DatasetError) as error:
        return str(error)


def page_html(sections: Sequence[tuple[SlideFigure, dict[str, Picture | str]]], lang: str = "en") -> str:
    """The page as text.

    Args:
        sections: for each figure the `SlideFigure`, and for each version its `Picture`, or a sentence why it
            is not there.
        lang: of the page's own words.

    Example:
        >>> "<h1>" in page_html([])
        True
    """
    wrong, audited, shown = audit.disagreements(), set(), []
    for figure, versions in sections:
        names = {name: name for name in VERSIONS} | ({"measured": "counted"} if figure.counted else {})
        here = wrong[wrong["slide"] == figure.slide] if figure.slide not in audited else wrong[:0]
        audited.add(figure.slide)  # below the first figure of a slide
        shown.append(
            {
                "stem": figure.stem,
                "slide": figure.slide,
                "title": figure.titles[lang],
                "versions": [(names[version], shown_) for version, shown_ in versions.items()],
                "audit": [(kind, _cells(here[here["kind"] == kind])) for kind in audit.KINDS],
            }
        )
    loader = jinja2.PackageLoader("clora_lab", "slides")
    template = jinja2.Environment(loader=loader, autoescape=True).get_template("page.html.j2")
    return template.render(lang=lang, words=TEXTS[lang], sections=shown) + "\n"


def _cells(rows) -> list[list[str]]:
    return audit.as_text(rows)[["quantity", "printed", "recomputed", "how"]].to_numpy().tolist()
