"""The slides' tables as published, and the comparison with measured rows."""

import math

import pandas as pd
import pytest
import rows as made_up

from clora_lab.slides import published

METHODS = ["wds", "bias", "noise", "noise_bias"]


def rows(method, rank, seed, accuracy, view="trained", **other):
    """Two recorded rows of one run: its accuracy (a fraction) and its ratio."""
    base = made_up.blank("toy") | {
        "study": "toy",
        "dataset": "fashion_mnist",
        "variant": "slides",
        "method": method,
        "rank": rank,
        "seed": seed,
        "epochs": 30,
        "fraction": 1.0,
    }
    base |= other
    base["config"] = f"{method}-{rank}-{seed}-{base['variant']}-{base['dataset']}-{base['epochs']}"
    split = other.get("split", "validation")
    ratio = {0: 100.0, 16: 9.87, 64: 38.92}[rank]
    return [
        base | {"metric": "accuracy", "split": split, "view": view, "value": accuracy},
        base | {"metric": "ratio_percent", "split": "model", "view": "-", "value": ratio},
    ]


def frame(*runs):
    return pd.DataFrame([row for run in runs for row in run])


@pytest.fixture
def measured():
    return frame(
        rows("dense", 0, 0, 0.86),
        rows("dense", 0, 1, 0.88),
        rows("dense", 0, 2, 0.90),
        rows("wds", 16, 0, 0.82, view="compressed"),
        rows("wds", 16, 1, 0.85, view="compressed"),
        rows("noise_bias", 64, 0, 0.87),
        rows("scratch", 16, 0, 0.861),
        rows("svd", 64, 0, 0.80),
        rows("svd", 16, 0, 0.70),
    )


def pick(table, method, rank):
    (row,) = table[(table["method"] == method) & (table["rank"] == rank)].to_dict("records")
    return row


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


@pytest.mark.parametrize("study", published.STUDIES)
def test_published_tables_are_complete(study):
    table = published.load(study)
    cells = table[table["method"] != "original"]
    assert cells.notna().all(axis=None)
    ranks = [column for column in table if column.endswith("rank") or column == "model"]
    assert (cells.groupby(ranks)["method"].agg(set) == set(METHODS)).all()
    assert cells["accuracy_percent"].between(70, 90).all()


def test_unknown_study_suggests_the_nearest():
    with pytest.raises(ValueError, match="`study`.*'bert-tiny'.*Did you mean 'bert_tiny'"):
        published.load("bert-tiny")


def test_comparison_by_hand(measured):
    table = published.compare(measured)
    dense = pick(table, "dense", 0)
    assert dense["published_accuracy"] == 87.79 and dense["published_difference"] == 0
    assert dense["measured_mean"] == pytest.approx(88) and dense["n_seeds"] == 3
    assert dense["measured_sd"] == pytest.approx(2)  # ddof = 1
    assert dense["measured_difference"] == pytest.approx(0)
    assert dense["difference"] == pytest.approx(0.21)
    assert (dense["published_ratio"], dense["ratio"]) == (100, 100)

    wds = pick(table, "wds", 16)
    assert wds["published_accuracy"] == 82.1
    assert wds["published_difference"] == pytest.approx(-5.69)  # printed on the slide
    assert wds["measured_mean"] == pytest.approx(83.5)
    assert wds["measured_sd"] == pytest.approx(math.sqrt(4.5))
    assert wds["measured_difference"] == pytest.approx(-3.5)  # dense seeds 0 and 1, not all three
    assert wds["difference"] == pytest.approx(1.4)
    assert (wds["published_ratio"], wds["ratio"]) == (9.9, 9.87)

    single = pick(table, "noise_bias", 64)
    assert single["n_seeds"] == 1 and math.isnan(single["measured_sd"])
    absent = pick(table, "bias", 32)
    assert absent["published_accuracy"] == 82.55
    assert pd.isna(absent["n_seeds"]) and math.isnan(absent["measured_mean"])
    baseline = pick(table, "scratch", 16)
    assert math.isnan(baseline["published_accuracy"]) and math.isnan(baseline["difference"])
    assert baseline["measured_difference"] == pytest.approx(0.1)
    assert set(table["note"]) == {""}


def test_order_of_the_rows(measured):
    table = published.compare(measured)
    expected = [("dense", 0)]
    expected += [(method, rank) for rank in (16, 32, 64) for method in METHODS]
    expected += [("svd", 16), ("svd", 64), ("scratch", 16)]
    assert list(zip(table["method"], table["rank"], strict=True)) == expected


def test_compressed_path_goes_before_what_trained(measured):
    trained = rows("wds", 16, 0, 0.99)[:1]
    for both in (frame(trained), measured), (measured, frame(trained)):
        table = published.compare(pd.concat(both, ignore_index=True))
        assert pick(table, "wds", 16)["measured_mean"] == pytest.approx(83.5)


def test_only_the_chosen_rows_count(measured):
    others = frame(
        rows("wds", 16, 3, 0.1, dataset="digits"),
        rows("wds", 16, 3, 0.1, variant="cosine"),
        rows("wds", 16, 0, 0.1, view="compressed", split="test")[:1],
        rows("wds", 16, 3, 0.1, study="other"),
    )
    table = published.compare(pd.concat([others, measured], ignore_index=True))
    pd.testing.assert_frame_equal(table, published.compare(measured))


def test_digits_are_never_compared_with_the_slides():
    measured = frame(rows("dense", 0, 0, 0.97, dataset="digits"), rows("wds", 16, 0, 0.95, dataset="digits"))
    table = published.compare(measured, dataset="digits")
    assert table["difference"].isna().all()
    assert table["note"].str.contains("not comparable: digits").all()
    assert "not comparable: digits" in table.attrs["note"]
    assert "digits" in table.attrs["title"] and "stands in" in table.attrs["title"]
    wds = pick(table, "wds", 16)
    assert wds["published_accuracy"] == 82.1 and wds["measured_difference"] == pytest.approx(-2)


def test_title_and_notes_tell_what_was_measured(measured):
    assert "Fashion-MNIST" in published.compare(measured).attrs["title"]
    table = published.compare(measured, split="test", variant="cosine")
    assert "published: validation, measured: test" in table.attrs["note"]
    assert "measured: cosine" in table.attrs["note"]


def test_comparison_without_any_measured_row(measured):
    table = published.compare(measured.iloc[:0])
    assert len(table) == 13 and table["measured_mean"].isna().all()
    assert table["published_accuracy"].notna().all()


@pytest.mark.parametrize(
    ("run", "problem"),
    [
        (rows("wds", 16, 7, 0.8, epochs=2), r"wds, rank 16.*`epochs`: \[30, 2\]"),
        (rows("wds", 16, 7, 0.8, fraction=0.1), "`fraction`"),
        (rows("wds", 16, 7, 0.8, init="svd"), "`init`"),
    ],
)
def test_runs_of_several_settings_are_not_averaged(measured, run, problem):
    with pytest.raises(ValueError, match=problem):
        published.compare(pd.concat([measured, frame(run)], ignore_index=True))


def test_one_seed_run_twice_is_refused(measured):
    again = frame(rows("wds", 16, 1, 0.8)).assign(config="another")
    with pytest.raises(ValueError, match=r"several `config` of the seeds \[1\]"):
        published.compare(pd.concat([measured, again], ignore_index=True))


def test_bad_arguments_of_compare(measured):
    with pytest.raises(ValueError, match="`study` must be 'toy'. Received: 'vgg16'"):
        published.compare(measured, study="vgg16")
    with pytest.raises(ValueError, match=r"Missing: \['seed', 'value'\]"):
        published.compare(measured.drop(columns=["value", "seed"]))
