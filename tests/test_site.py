"""The site as a visitor meets it: every page loads in Chromium, its pictures show, its links hold.

`make test-browser` builds the site first. Nothing outside this machine is asked for.
"""

import os
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlparse

import pytest

ROOT = Path(__file__).resolve().parents[1]
SITE = ROOT / "out" / "site" / "_build" / "html"
PAGES = sorted(
    page for path in SITE.rglob("*.html") if not (page := path.relative_to(SITE).as_posix()).startswith("_")
)

if not PAGES:
    reason = "the site is not built: make site"
    if os.environ.get("CI") == "true":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason, allow_module_level=True)

from test_browser import browser  # noqa: E402, F401  (a fixture)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

LINKS = "return Array.from(document.links).map(link => link.href)"
NAMES = "return Array.from(document.querySelectorAll('[id],a[name]')).map(e => e.id || e.name)"
PICTURES = """
return Array.from(document.images)
  .filter(image => image.src.startsWith('file:') || image.src.startsWith('data:'))
  .map(image => [image.src.slice(0, 200), image.naturalWidth, image.alt])
"""


@pytest.fixture(scope="module")
def visited(browser):  # noqa: F811
    """Page -> (title, names of places, links, pictures), of all pages."""
    found = {}
    for page in PAGES:
        browser.get((SITE / page).as_uri())
        found[page] = tuple(
            browser.execute_script(script) for script in ("return document.title", NAMES, LINKS, PICTURES)
        )
    return found


def test_every_notebook_and_the_readme_have_a_page(visited):
    wanted = {path.with_suffix(".html").name for path in ROOT.glob("notebooks/[0-9][0-9]_*.ipynb")}
    assert wanted and wanted <= {Path(page).name for page in visited}
    assert {"README.html", "index.html", "data/README.html"} <= set(visited)
    for page, (title, *_) in visited.items():
        assert title, page


def test_every_picture_shows_and_has_a_description(visited):
    count = 0
    for page, (_, _, _, pictures) in visited.items():
        for source, width, alt in pictures:
            assert width > 0, (page, source)
            if "_images" in source:
                count += 1
                assert alt, (page, source)
    assert count > 10


def test_links_inside_the_site_hold(visited):
    broken, count = [], 0
    for page, (_, _, links, _) in visited.items():
        for link in links:
            address, place = urldefrag(link)
            if urlparse(address).scheme != "file":
                continue
            count += 1
            target = Path(unquote(urlparse(address).path))
            name = target.relative_to(SITE).as_posix() if target.is_relative_to(SITE) else None
            if name is None or not target.is_file():
                broken.append((page, link))
            elif place and name in visited and unquote(place) not in visited[name][1]:
                broken.append((page, link))
    assert count > 100 and not broken
