"""The comparison by hand on made-up rows, and its forms on the recorded ones."""

import io
import math
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from rows import BERT, METHODS, TOY, VGG16, bert, frame, toy, vgg16
from scipy import stats as scipy_stats

from clora_lab.lab import printing, published, tables
from clora_lab.lab.frames import MissingResults


@pytest.fixture
def measured():
    return frame(
        toy("dense", 0, 0, 0.86),
        toy("dense", 0, 1, 0.88),
        toy("dense", 0, 2, 0.90),
        toy("wds", 16, 0, 0.82),
        toy("wds", 16, 1, 0.85),
        toy("noise_bias", 64, 0, 0.87),
        toy("scratch", 16, 0, 0.861),
        toy("svd", 64, 0, 0.80),
        toy("svd", 16, 0, 0.70),
    )


def compare(rows, study=TOY, split="validation"):
    return tables.compare(rows, study, split)


def pick(table, method, rank):
    (row,) = table[(table["method"] == method) & (table["rank"] == rank)].to_dict("records")
    return row


# --- the frame ----------------------------------------------------------------------------------


def test_comparison_by_hand(measured):
    table = compare(measured)
    dense = pick(table, "dense", 0)
    assert dense["published"] == 87.79 and dense["published_gap"] == 0
    assert dense["measured"] == pytest.approx(88) and dense["n"] == 3
    assert dense["sd"] == pytest.approx(2)  # ddof = 1
    half = scipy_stats.t.ppf(0.975, 2) * 2 / math.sqrt(3)
    assert (dense["low"], dense["high"]) == pytest.approx((88 - half, 88 + half))
    assert dense["gap"] == pytest.approx(0)
    assert dense["difference"] == pytest.approx(0.21)
    assert (dense["published_ratio"], dense["ratio"]) == (100, 100)

    wds = pick(table, "wds", 16)
    assert wds["published"] == 82.1
    assert wds["published_gap"] == pytest.approx(-5.69)  # printed on the slide
    assert wds["measured"] == pytest.approx(83.5)
    assert wds["sd"] == pytest.approx(math.sqrt(4.5))
    assert wds["gap"] == pytest.approx(-3.5)  # dense seeds 0 and 1, not all three
    assert wds["difference"] == pytest.approx(1.4)
    assert (wds["published_ratio"], wds["ratio"]) == (9.9, 9.87)

    single = pick(table, "noise_bias", 64)
    assert single["n"] == 1 and math.isnan(single["sd"]) and math.isnan(single["low"])
    absent = pick(table, "bias", 32)
    assert absent["published"] == 82.55
    assert pd.isna(absent["n"]) and math.isnan(absent["measured"])
    baseline = pick(table, "scratch", 16)
    assert math.isnan(baseline["published"]) and math.isnan(baseline["difference"])
    assert baseline["gap"] == pytest.approx(0.1)
    assert set(table["note"]) == {""} and set(table["split"]) == {"validation"}


def test_every_published_cell_is_there_and_the_rows_are_in_order(measured):
    table = compare(measured)
    expected = [("dense", 0)]
    for rank, baselines in ((16, ["svd", "scratch"]), (32, []), (64, ["svd"])):
        expected += [(method, rank) for method in (*METHODS, *baselines)]
    assert list(zip(table["method"], table["rank"], strict=True)) == expected
    one = compare(measured[measured["method"].isin(["dense", "wds"])])
    assert len(one) == 13 and one["published"].notna().all() and one["measured"].notna().sum() == 2


def test_compressed_path_goes_before_what_trained(measured):
    order = measured.sort_values("view"), measured.sort_values("view", ascending=False)
    for rows in order:
        assert pick(compare(rows), "wds", 16)["measured"] == pytest.approx(83.5)


def test_other_data_and_recipes_are_other_tables(measured):
    others = frame(
        toy("wds", 4, 3, 0.1, dataset="digits"),
        toy("wds", 16, 3, 0.1, variant="cosine", lr_schedule="cosine", dense_lr_schedule="cosine"),
        toy("wds", 16, 0, 0.1, split="test")[:1],
    )
    table = compare(pd.concat([others, measured], ignore_index=True))
    found = dict(zip(table.groupby(list(TOY.apart), sort=False).groups, tables.each(table), strict=True))
    assert len(found) == 3
    title, slides = found["fashion_mnist", 1.0, "slides"]
    pd.testing.assert_frame_equal(slides, compare(measured))
    assert "recipe 'slides'" in title and "Fashion-MNIST" in title and "4,000 training" in title


def test_a_recipe_stands_beside_the_dense_net_it_started_from():
    cosine = {"lr_schedule": "cosine", "dense_lr_schedule": "cosine"}
    rows = frame(
        toy("dense", 0, 0, 0.86),
        toy("dense", 0, 0, 0.89, variant="cosine", **cosine),
        toy("noise_bias", 16, 0, 0.80, variant="noise_to_end"),
        toy("noise_bias", 16, 0, 0.88, variant="recipe", **cosine),
    )
    table = compare(rows).set_index(["variant", "method"])
    assert table.loc[("noise_to_end", "noise_bias"), "gap"] == pytest.approx(-6)
    assert table.loc[("recipe", "noise_bias"), "gap"] == pytest.approx(-1)
    assert table.loc[("recipe", "dense"), "measured"] == pytest.approx(89)


def test_other_data_are_never_laid_beside_the_published():
    rows = frame(toy("dense", 0, 0, 0.97, dataset="digits"), toy("wds", 4, 0, 0.95, dataset="digits"))
    table = compare(rows)
    assert len(table) == 2 and table[["published", "published_ratio", "difference"]].isna().all(axis=None)
    assert pick(table, "wds", 4)["gap"] == pytest.approx(-2)
    ((title, _),) = tables.each(table)
    assert "digits" in title and "stands in" in title


def test_another_split_than_the_published_is_noted(measured):
    rows = measured.assign(split=measured["split"].replace("validation", "test"))
    table = compare(rows, split="test")
    assert set(table["note"]) == {"published: validation, measured: test"}
    assert pick(table, "wds", 16)["difference"] == pytest.approx(1.4)


@pytest.mark.parametrize(
    ("other", "problem"),
    [
        (toy("wds", 16, 7, 0.8, epochs=2), r"wds, rank 16.*`epochs`: \[30, 2\]"),
        (toy("wds", 16, 7, 0.8, batch_size=7), "`batch_size`"),
        (toy("wds", 16, 7, 0.8, init="svd"), "`init`"),
        (toy("wds", 16, 7, 0.8, study="toy_search"), "`study`"),
    ],
)
def test_runs_of_several_settings_are_not_averaged(measured, other, problem):
    with pytest.raises(ValueError, match=problem):
        compare(pd.concat([measured, frame(other)], ignore_index=True))


def test_one_seed_run_twice_is_refused(measured):
    again = frame(toy("wds", 16, 1, 0.8)).assign(config="another")
    with pytest.raises(ValueError, match=r"several `config` of the seeds \[1\]"):
        compare(pd.concat([measured, again], ignore_index=True))


def test_what_can_not_be_compared(measured):
    with pytest.raises(MissingResults, match=r"\['seed', 'value'\]"):
        compare(measured.drop(columns=["value", "seed"]))
    with pytest.raises(MissingResults, match="dense net alone|original net alone"):
        compare(measured[measured["method"] == "dense"])
    with pytest.raises(MissingResults, match="split 'test'"):
        compare(measured, split="test")
    with pytest.raises(MissingResults, match="at least one row"):
        compare(measured.iloc[:0])


@pytest.fixture
def convolutions():
    runs = [vgg16("dense", 0.5), vgg16("wds", 0.4), vgg16("noise_bias", 0.45), vgg16("scratch", 0.46)]
    return frame(*runs, vgg16("noise_bias", 0.44, factorization="pair_equal"))


def test_ways_to_factor_are_tables_of_one_dense_net(convolutions):
    table = compare(convolutions, VGG16, "test")
    cells = table.set_index(["factorization", "method", "rank", "dense_rank"])
    cell = cells.loc[("loralib", "noise_bias", 16, 16)]
    slides = published.load("vgg16").query("method == 'noise_bias' and conv_rank == 16").iloc[0]
    assert cell["published"] == slides["accuracy_percent"] and cell["published_sd"] == slides["accuracy_sd"]
    assert cell["measured"] == pytest.approx(45) and cell["gap"] == pytest.approx(-5)
    other = cells.loc[("pair_equal", "noise_bias", 16, 16)]
    assert pd.isna(other["published"]) and other["flops"] == 12 and other["gap"] == pytest.approx(-6)
    assert pd.isna(cells.loc[("loralib", "wds", 32, 64), "measured"])
    assert table["published"].notna().sum() == len(published.load("vgg16"))


def test_means_over_seeds(convolutions):
    more = frame(vgg16("dense", 0.6, seed=1), vgg16("wds", 0.6, seed=1))
    table = compare(pd.concat([convolutions, more], ignore_index=True), VGG16, "test")
    cell = table[(table["method"] == "wds") & (table["n"] == 2)].iloc[0]
    assert cell["measured"] == pytest.approx(50) and cell["gap"] == pytest.approx(-5)
    assert cell["sd"] == pytest.approx(np.std([40, 60], ddof=1))


@pytest.mark.parametrize(
    "change, same", [({}, True), ({"dataset": "synthetic"}, False), ({"model": "minilm"}, False)]
)
def test_a_published_table_belongs_beside_its_own_data_and_net(change, same):
    rows = frame(*(bert(method, 0.8, **change) for method in ("dense", "wds", "noise_bias", "lora")))
    table = compare(rows, BERT, "test")
    cell = table.set_index(["rank", "method"]).loc[(16, "noise_bias")]
    assert cell["ratio_encoder"] == pytest.approx(75.2) and cell["gap"] == pytest.approx(0)
    assert (cell["published"] == 80.79) == same and table["published"].notna().any() == same
    assert len(table) == (14 if same else 4)


@pytest.mark.parametrize("scope", ["encoder", "encoder_ff_wide", "model"])
def test_wider_scopes_have_no_published_table(scope):
    table = compare(frame(bert("dense", 0.8), bert("wds", 0.8, scope=scope)), BERT, "test")
    assert table["published"].isna().all() and len(table) == 2
    ((title, _),) = tables.each(table)
    assert title.endswith(scope)


def test_by_seed_has_the_dense_net_in_every_cell(measured):
    table = tables.by_seed(measured, TOY, "validation")
    assert table.index.tolist() == [("16", 0), ("16", 1), ("64", 0)]
    assert table["dense"].tolist() == [86.0, 88.0, 86.0]
    assert table.loc[("16", 1), "wds"] == pytest.approx(85) and np.isnan(table.loc[("16", 1), "svd"])
    assert list(table) == ["dense", "wds", "noise_bias", "svd", "scratch"]
    with pytest.raises(MissingResults, match="'test'"):
        tables.by_seed(measured, TOY, "test")
    with pytest.raises(MissingResults, match="original net alone"):
        tables.by_seed(measured[measured["method"] == "dense"], TOY, "validation")
    again = frame(toy("wds", 16, 1, 0.8)).assign(config="another")
    with pytest.raises(ValueError, match="one run for each method, cell and seed"):
        tables.by_seed(pd.concat([measured, again]), TOY, "validation")


# --- its forms ----------------------------------------------------------------------------------


def test_markdown_has_what_was_measured_and_says_with_what(measured):
    text = printing.markdown(compare(measured))
    lines = text.split("\n")
    assert (
        lines[0] == "| rank | method | ratio, % | published | published gap | measured | measured gap | n |"
    )
    assert lines[1] == "|" + "---|" * 8
    assert "| 16 | Only WDS | 9.87 | 82.10 | -5.69 | 83.50 ± 2.12 | -3.50 | 2 |" in lines
    assert "| 16 | Low-rank from scratch | 9.87 |  |  | 86.10 | 0.10 | 1 |" in lines
    assert sum(line.startswith("|") for line in lines) == 2 + 6  # nothing of what was not measured
    assert lines[-1].endswith("validation accuracy in percent; tensorflow 2, Keras 3, two cores, 2026-01-01.")


def test_recipes_side_by_side_share_the_line_of_their_dense_net():
    rows = frame(
        toy("dense", 0, 0, 0.86),
        toy("noise_bias", 16, 0, 0.80),
        toy("noise_bias", 64, 0, 0.82),
        toy("noise_bias", 16, 0, 0.70, variant="noise_to_end"),
    )
    lines = printing.wide(compare(rows)).split("\n")
    assert lines[0] == "| recipe | method | rank 16, 9.9% left | rank 64, 38.9% left |"
    assert lines[2:5] == [
        "| slides | dense, 100% left | 86.00 | 86.00 |",
        "| slides | noise_bias | 80.00 | 82.00 |",
        "| noise_to_end | noise_bias | 70.00 |  |",
    ]


def printed(frame, width=80):
    console = Console(file=io.StringIO(), width=width)
    printing.show_comparison(frame, console)
    return console.file.getvalue()


def test_the_terminal_shows_all_of_it_in_80_columns(convolutions):
    text = printed(compare(convolutions, VGG16, "test"))
    assert max(map(len, text.split("\n"))) <= 80 and "…" not in text
    assert "75.57 ± 0.40" in text and "Low-rank from scratch" in text and "rank 16/16: 6.9%" in text
    assert "32/64" not in text  # published, and not measured
    assert "The best compressed nets" in text and "Low-rank from scratch at 46.00% (−4.00)" in " ".join(
        text.split()
    )
    rows = frame(*(bert(method, 0.8) for method in ("dense", *METHODS, "lora")))
    text = printed(compare(rows, BERT, "test"))
    assert max(map(len, text.split("\n"))) <= 80 and "97.8% of model left" in text


def test_a_data_frame_is_shown_whole():
    console = Console(file=io.StringIO(), width=40)
    table = pd.DataFrame({"file": ["train-images-idx3-ubyte.gz"], "sha_256": ["f" * 30], "size": [1.5]})
    printing.show(table, "Files", console=console)
    text = console.file.getvalue()
    assert "…" not in text and "1.50" in text and "sha 256" in text


def test_a_notebook_sees_printed_names_and_the_best_in_bold(measured):
    html = printing.styled(compare(measured)).to_html()
    assert "Low-rank from scratch" in html and "nan" not in html and "Fashion-MNIST" in html
    assert html.count("font-weight: bold") >= 1 and "83.50" in html


def test_nothing_here_loads_keras():
    code = (
        "import sys; sys.argv = ['-m']; import clora_lab.lab.tables, clora_lab.studies as s; s.get('bert');"
    )
    code += "print(*{'keras', 'tensorflow', 'matplotlib'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == ""
