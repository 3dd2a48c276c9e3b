"""The slides' tables as published."""

import pytest

from clora_lab.lab import published

METHODS = ["wds", "bias", "noise", "noise_bias"]


def test_published_numbers_of_the_slides():
    toy = published.load("toy")
    assert len(toy) == 13
    assert toy.set_index(["method", "rank"])["accuracy_percent"][("noise_bias", 16)] == 83.74
    assert toy["rank"].dtype == "Int64" and toy["rank"].isna().sum() == 1
    vgg16 = published.load("vgg16")
    row = vgg16[(vgg16["conv_rank"] == 32) & (vgg16["dense_rank"] == 64)].set_index("method")
    assert row.loc["noise_bias", ["accuracy_percent", "accuracy_sd"]].tolist() == [77.51, 1.87]
    tiny = published.load("bert_tiny").set_index(["method", "rank"])
    assert tiny.loc[("noise_bias", 16), "accuracy_percent"] == 80.79
    small = published.load("bert_small").set_index(["method", "rank"])
    assert small.loc[("noise", 64), "accuracy_percent"] == 86.02
    conclusion = published.load("conclusion").set_index(["method", "model"])
    assert conclusion.loc[("wds", "vgg16"), "accuracy_percent"] == 75.63


TABLES = ["toy", "vgg16", "bert_tiny", "bert_small", "conclusion"]


@pytest.mark.parametrize("study", TABLES)
def test_published_tables_are_complete(study):
    table = published.load(study)
    cells = table[table["method"] != "original"]
    assert cells.notna().all(axis=None)
    ranks = [column for column in table if column.endswith("rank") or column == "model"]
    assert (cells.groupby(ranks)["method"].agg(set) == set(METHODS)).all()
    assert cells["accuracy_percent"].between(70, 90).all()


def test_unknown_study_suggests_the_nearest():
    with pytest.raises(ValueError, match="`table`.*'bert-tiny'.*Did you mean 'bert_tiny'"):
        published.load("bert-tiny")
