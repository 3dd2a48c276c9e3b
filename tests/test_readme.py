"""What the README says is what the repository holds."""

import re
from pathlib import Path

import pytest

from clora_lab import schedules, studies

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("study", studies.HOMES)
def test_the_tables_are_those_of_the_recorded_rows(study):
    command = "python -m clora_lab report " + ("" if study == "toy" else f"{study} ") + "--markdown"
    begin = f"<!-- results: {command} -->\n"
    shown = README.split(begin)[1].split("<!-- end of results -->")[0]
    home = studies.get(study)
    found = home.hooks.markdown(home, studies.recorded(study).read())
    assert shown.strip() == found.strip(), f"stale: put in `{command}`"


@pytest.mark.parametrize("page", ["README.md", "data/README.md", "notebooks/README.md"])
def test_links_inside_the_repository_hold(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#\s]+)", text) if not link.startswith("http")]
    assert all((ROOT / page).parent.joinpath(link).exists() for link in links), links


def test_every_schedule_and_make_target_named_exists():
    for name in re.findall(r"`(\w+Decay)`", README):
        assert name in {cls.__name__ for cls in schedules.SCHEDULES.values()}
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"make ([a-z-]+)", README))
    assert {"reproduce", "test", "lab"} <= targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
