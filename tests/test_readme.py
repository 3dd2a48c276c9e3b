"""What the README says is what the repository holds."""

import re
from pathlib import Path

import pytest

from clora_lab import schedules
from clora_lab.lab import tables
from clora_lab.lab.paths import data_dir
from clora_lab.lab.results import ResultsStore
from clora_lab.studies import future, overview

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_results_table_is_that_of_the_recorded_rows():
    begin = "<!-- results: python -m clora_lab report --markdown -->\n"
    shown = README.split(begin)[1].split("<!-- end of results -->")[0]
    rows = ResultsStore(data_dir() / "results", "toy").read()
    assert shown.strip() == tables.readme_table(rows).strip(), (
        "stale: put in `python -m clora_lab report --markdown`"
    )


@pytest.mark.parametrize("study", overview.STUDIES)
def test_the_tables_of_the_large_studies_are_those_of_the_recorded_rows(study):
    begin = f"<!-- results: python -m clora_lab report {study} --markdown -->\n"
    shown = README.split(begin)[1].split("<!-- end of results -->")[0]
    rows = ResultsStore(data_dir() / "results", study).read()
    assert shown.strip() == overview.markdown(rows, study).strip(), (
        f"stale: put in `python -m clora_lab report {study} --markdown`"
    )


def test_the_table_of_the_open_questions_is_that_of_the_recorded_rows():
    begin = "<!-- results: python -m clora_lab report future --markdown -->\n"
    shown = README.split(begin)[1].split("<!-- end of results -->")[0]
    rows = ResultsStore(data_dir() / "results", future.STUDY).read()
    rows = rows[rows["dataset"] == "fashion_mnist"]
    assert shown.strip() == future.markdown(rows).strip(), (
        "stale: put in `python -m clora_lab report future --markdown`"
    )


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
