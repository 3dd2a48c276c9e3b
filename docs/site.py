"""Build the site: README, notebooks and the data's notes as pages, by Jupyter Book; nothing is executed.

Jupyter Book reads all files under its source folder, so the pages are copied to one of their own first.
Their links to files that are no page go to the repository's address.

    python docs/site.py out/site

The pages are then in out/site/_build/html.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"(?<!!)(\[[^\]]*\])\(([^)#\s:]+)(#[^)\s]*)?\)")


def pages() -> list[str]:
    """The pages' files, in the order of the site, relative to the root."""
    notebooks = sorted(
        path.relative_to(ROOT).as_posix() for path in ROOT.glob("notebooks/[0-9][0-9]_*.ipynb")
    )
    return ["README.md", "notebooks/README.md", *notebooks, "data/README.md"]


def contents(files: list[str]) -> dict:
    """Jupyter Book's table of contents."""
    first, *others = (file.rpartition(".")[0] for file in files)
    course = [{"file": file} for file in others if file.startswith("notebooks/")]
    data = [{"file": file} for file in others if file.startswith("data/")]
    parts = [{"caption": "The course", "chapters": course}, {"caption": "The data", "chapters": data}]
    return {"format": "jb-book", "root": first, "parts": parts}


def outside_links(text: str, page: str, files: list[str], address: str) -> str:
    """The page's text, its links to files of the repository that are no page made absolute.

    Args:
        text: Markdown, or a notebook's JSON.
        page: the page's file, relative to the root.
        files: all pages.
        address: of the repository.

    Raises:
        ValueError: a link leads to no file.
    """

    def replace(match):
        label, target, place = match.groups()
        path = (ROOT / page).parent.joinpath(target).resolve()
        if not path.exists():
            raise ValueError(f"{page} links to {target}, and there is no such file. Correct the link.")
        name = path.relative_to(ROOT).as_posix()
        if name in files:
            return match.group(0)
        return f"{label}({address}/blob/main/{name}{place or ''})"

    return LINK.sub(replace, text)


def stage(folder: Path) -> None:
    """Copy the pages, their pictures and Jupyter Book's settings into an empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    settings = yaml.safe_load((ROOT / "docs" / "_config.yml").read_text())
    files = pages()
    for page in files:
        target = folder / page
        target.parent.mkdir(parents=True, exist_ok=True)
        text = outside_links((ROOT / page).read_text(), page, files, settings["repository"]["url"])
        target.write_text(text)
    for picture in ROOT.glob("docs/*.png"):
        target = folder / "docs" / picture.name
        target.parent.mkdir(exist_ok=True)
        shutil.copy(picture, target)
    (folder / "_config.yml").write_text(yaml.safe_dump(settings))
    (folder / "_toc.yml").write_text(yaml.safe_dump(contents(files), sort_keys=False))


def main() -> int:
    """Stage and build; returns Jupyter Book's exit status."""
    if len(sys.argv) != 2:
        print("usage: python docs/site.py FOLDER", file=sys.stderr)
        return 2
    out = Path(sys.argv[1]).resolve()
    stage(out / "source")
    book = [str(Path(sys.executable).with_name("jupyter-book")), "build", "--all", "--quiet"]
    return subprocess.call([*book, "--path-output", str(out), str(out / "source")])


if __name__ == "__main__":
    sys.exit(main())
