"""All figures of the slides as files, and one page that lays them out: published beside measured.

The page is one HTML file with relative links to the pictures and nothing else: no script, no font, no style
sheet from outside, so it can be opened from a disk, offline, or be put on any web server.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

import pandas as pd

from clora_lab.lab.data.registry import DatasetError
from clora_lab.lab.figures import style
from clora_lab.lab.frames import MissingResults
from clora_lab.slides import audit
from clora_lab.slides.figures import SlideFigure, slide_figures

VERSIONS = ("published", "measured")
TEXTS = {
    "en": {
        "title": "The figures of the C-LoRA slides, published and measured",
        "lead": "Left: from the numbers that the slides print (Aiffel Online 5th Research, team 3L, December "
        "2023). Right: from the rows that this repository recorded, or counted from the layers' shapes. "
        "Nothing is drawn that was not printed, measured or counted.",
        "published": "Published",
        "measured": "Measured",
        "counted": "Counted from the shapes",
        "slide": "Slide",
        "contents": "Slides",
        "arithmetic": "What does not add up on this slide",
        "convention": "The same counted another way",
        "columns": ("figure", "printed", "recomputed", "how"),
        "none": "Not drawn",
    },
    "ko": {
        "title": "C-LoRA 발표 자료의 그림: 발표된 값과 직접 측정한 값",
        "lead": "왼쪽은 발표 자료에 적힌 숫자로(Aiffel Online 5th Research, 3L 팀, 2023년 12월), "
        "오른쪽은 이 저장소가 기록한 측정값이나 층의 크기에서 센 값으로 그렸다. "
        "적혀 있지 않고 측정하거나 세지도 않은 것은 그리지 않는다.",
        "published": "발표된 값",
        "measured": "직접 측정",
        "counted": "층의 크기에서 센 값",
        "slide": "슬라이드",
        "contents": "슬라이드",
        "arithmetic": "이 슬라이드에서 맞지 않는 값",
        "convention": "다른 방식으로 센 값",
        "columns": ("항목", "적힌 값", "다시 계산한 값", "방법"),
        "none": "그리지 않음",
    },
}
STYLE = """
:root { color-scheme: light; }
body { margin: 0 auto; max-width: 1400px; padding: 1rem; color: #222; background: #fff;
  font-family: system-ui, sans-serif; line-height: 1.45; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin: 0 0 .5rem; }
nav a { display: inline-block; margin: 0 .7rem .3rem 0; }
section { border-top: 1px solid #bbb; padding: 1rem 0; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr));
  gap: 1rem; align-items: start; }
figure { margin: 0; } figcaption { font-size: .85rem; color: #444; }
figcaption strong { color: #222; }
img { width: 100%; height: auto; border: 1px solid #ddd; box-sizing: border-box; }
.none { border: 1px dashed #888; padding: 1rem; background: #f6f6f6; }
table { border-collapse: collapse; font-size: .85rem; margin-top: .5rem; }
th, td { text-align: left; vertical-align: top; padding: .2rem .8rem .2rem 0; border-bottom: 1px solid #ddd; }
details { margin-top: .7rem; } summary { cursor: pointer; }
"""


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
    """Draw every slide figure in both versions as PNG and SVG, and write `index.html` beside them.

    A version whose rows or whose data set are missing becomes a note in the page, and in the answer; so does
    one that cannot exist (a drawing without numbers has nothing to measure).

    Args:
        folder: where to; made if it is missing. Files are called slide_NN_name_{published,measured}.
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
            stem = f"{slide_figure.stem}_{version}"
            drawn = _draw(getattr(slide_figure, version))
            if isinstance(drawn, str):
                saved.notes.append((stem, drawn))
                for kind in ("png", "svg"):  # of an earlier run with other rows
                    (folder / f"{stem}.{kind}").unlink(missing_ok=True)
                shown[version] = drawn
                continue
            saved.files += style.save(drawn, folder / stem)
            size = (drawn.get_size_inches() * 160).round().astype(int)
            shown[version] = (stem, style.alt_text(drawn), tuple(size))
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


def page_html(sections: list[tuple[SlideFigure, dict]], lang: str = "en") -> str:
    """The page as text.

    Args:
        sections: for each figure the `SlideFigure`, and for each version (stem, alt text, (width, height) in
            pixels), or a sentence why it is not there.
        lang: of the page's own words.

    Example:
        >>> "<h1>" in page_html([])
        True
    """
    words, wrong = TEXTS[lang], audit.disagreements()
    audited = set()
    links, bodies = [], []
    for slide_figure, shown in sections:
        heading = f"{words['slide']} {slide_figure.slide}: {slide_figure.titles[lang]}"
        links.append(
            f'<a href="#{slide_figure.stem}">{slide_figure.slide} {escape(slide_figure.titles[lang])}</a>'
        )
        names = {"published": "published", "measured": "counted" if slide_figure.counted else "measured"}
        versions = "\n".join(_version_html(words[names[v]], words["none"], shown[v]) for v in VERSIONS)
        notes = ""
        if slide_figure.slide not in audited:
            here = wrong[wrong["slide"] == slide_figure.slide]
            notes = "".join(_audit_html(words, kind, here[here["kind"] == kind]) for kind in audit.KINDS)
            audited.add(slide_figure.slide)
        bodies.append(
            f'<section id="{slide_figure.stem}">\n<h2>{escape(heading)}</h2>\n'
            f'<div class="pair">\n{versions}\n</div>\n{notes}</section>'
        )
    return (
        f'<!DOCTYPE html>\n<html lang="{lang}">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(words['title'])}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{escape(words['title'])}</h1>\n<p>{escape(words['lead'])}</p>\n"
        f'<nav aria-label="{escape(words["contents"])}">\n' + "\n".join(links) + "\n</nav>\n<main>\n"
        + "\n".join(bodies) + "\n</main>\n</body>\n</html>\n"
    )  # fmt: skip


def _version_html(name: str, none: str, shown) -> str:
    name = f"<strong>{escape(name)}</strong>"
    if isinstance(shown, str):
        return f'<div class="none"><p>{name}: {escape(none)}</p><p>{escape(shown)}</p></div>'
    stem, alt, (width, height) = shown
    picture = f'<img src="{stem}.png" width="{width}" height="{height}" alt="{escape(alt, quote=True)}">'
    files = f'<a href="{stem}.svg">SVG</a> <a href="{stem}.png">PNG</a>'
    return f"<figure>\n{picture}\n<figcaption>{name} {files}</figcaption>\n</figure>"


def _audit_html(words: dict, kind: str, rows: pd.DataFrame) -> str:
    if rows.empty:
        return ""
    head = "".join(f"<th>{escape(column)}</th>" for column in words["columns"])
    text = audit.as_text(rows)[["quantity", "printed", "recomputed", "how"]]
    cells = ("".join(f"<td>{escape(cell)}</td>" for cell in row) for row in text.itertuples(index=False))
    lines = "\n".join(f"<tr>{row}</tr>" for row in cells)
    table = f"<table>\n<tr>{head}</tr>\n{lines}\n</table>"
    return f"<details>\n<summary>{escape(words[kind])} ({len(rows)})</summary>\n{table}\n</details>\n"
