"""Rows of the large studies, part by part."""

import pandas as pd
import pytest

from clora_lab import studies
from clora_lab.studies import overview


@pytest.fixture(params=overview.STUDIES)
def study(request):
    return request.param


@pytest.fixture
def rows(study):
    return studies.recorded(study).read()


def test_every_run_stands_in_one_part_beside_its_dense_nets(rows, study):
    found = []
    for _, part in overview.parts(rows, study):
        assert (part["method"] == "dense").any()
        for column in overview.PARTS[study]:
            own = part[part["method"] != "dense"] if column == overview.PARTS[study][-1] else part
            assert own[column].nunique() == 1, column
        found += list(part.loc[part["method"] != "dense", "config"].unique())
    assert sorted(found) == sorted(rows.loc[rows["method"] != "dense", "config"].unique())


def test_titles_tell_the_parts_apart_and_how_much_was_used(rows, study):
    parts = dict(overview.parts(rows, study))
    assert len(parts) == len(list(overview.parts(rows, study)))
    for title, part in parts.items():
        assert f"{part['train_size'].iloc[0]:,} training" in title
        if study == "bert":
            assert f"texts of {part['sequence'].iloc[0]} tokens" in title


def test_texts_cut_at_another_length_are_another_table():
    rows = studies.recorded("bert").read()
    first = next(iter(rows["model"]))
    rows = rows[rows["model"] == first]
    longer = rows.assign(sequence=2 * rows["sequence"], config="x" + rows["config"])
    count = len(list(overview.parts(rows, "bert")))
    assert len(list(overview.parts(pd.concat([rows, longer], ignore_index=True), "bert"))) == 2 * count


def test_a_title_says_what_was_learned_from_the_dense_net():
    rows = studies.recorded("bert").read()
    for share, said in ((0.0, False), (0.25, True)):
        (title, *_), *_ = overview.parts(rows.assign(distillation=share), "bert")
        assert ("which gives 25% of the loss" in title) == said


def test_an_unknown_study_is_named():
    with pytest.raises(ValueError, match="Did you mean 'vgg16'"):
        list(overview.parts(None, "vgg"))
