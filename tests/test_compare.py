"""Pictures of a comparison: what is drawn equals the frame, gaps are named."""

import doctest

import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Annotation
from rows import BERT, METHODS, PUBLISHED, VGG16, bert, comparison, frame, vgg16

from clora_lab import methods
from clora_lab.lab import tables
from clora_lab.lab.figures import compare, style
from clora_lab.lab.frames import MissingResults


def cells(fig, weight=None):
    (ax,) = fig.axes
    return [text.get_text() for text in ax.texts if weight is None or text.get_weight() == weight]


def subtitle(fig):
    (found,) = [each for each in fig.artists if isinstance(each, Annotation)]
    return found.get_text()


# --- typeset ------------------------------------------------------------------------------------


def test_table_prints_every_value_and_bolds_the_best():
    table = comparison()
    fig = compare.comparison_table(table)
    printed = cells(fig)
    for row in table.itertuples():
        assert f"{row.measured:.2f} ± {row.sd:.2f}" in printed
    for values in PUBLISHED.values():
        assert {f"{value:.2f}" for value in values} <= set(printed)
    differences = table["difference"].dropna().map("{:+.2f}".format)
    assert {each.replace("-", "−") for each in differences} <= set(printed)
    assert {"9.9", "9.89", "38.9", "38.92"} <= set(printed)
    bold = cells(fig, "bold")
    assert {"83.74", "83.93", "84.23"} <= set(bold)  # noise & bias wins each line of the slide
    assert not {"82.10", "87.79"} & set(bold)
    for _, rows in table[table["method"].isin(METHODS)].groupby("rank"):
        best = rows.loc[rows["measured"].idxmax()]
        assert f"{best['measured']:.2f} ± {best['sd']:.2f}" in bold
    top = table[table["method"].isin(METHODS)].nlargest(1, "measured").iloc[0]
    assert fig.alt_text.startswith(
        "Published and measured accuracy (%), Fashion-MNIST: table of 3 ranks by 4"
    )
    assert f"{methods.label(top['method'])} at rank {top['rank']} with {top['measured']:.2f}%" in fig.alt_text
    assert "the dense network has 86.80%" in fig.alt_text


def test_table_with_gaps_names_them():
    table = comparison()
    gap = (table["method"] == "noise") & (table["rank"] == 64)
    table.loc[gap, ["measured", "sd", "n", "difference"]] = np.nan
    fig = compare.comparison_table(table[table["method"].isin(METHODS)])
    assert "No rows for: Scheduled noise, rank 64" in subtitle(fig)
    assert cells(fig).count("–") == 2  # measured and difference
    nothing = table.assign(measured=np.nan, sd=np.nan, n=np.nan)
    assert "Nothing measured yet" in subtitle(compare.comparison_table(nothing))
    noted = comparison().assign(note="published: validation, measured: test")
    assert "Published: validation, measured: test" in subtitle(compare.comparison_table(noted))


def test_table_refuses():
    table = comparison()
    with pytest.raises(MissingResults, match="reproduce"):
        compare.comparison_table(table.iloc[:0])
    with pytest.raises(MissingResults, match="reproduce"):
        compare.comparison_table(table[table["method"] == "dense"])
    twice = pd.concat([table, table.iloc[:1]])
    twice.attrs = table.attrs
    with pytest.raises(ValueError, match="one row for each of .*'dense'.*select one"):
        compare.comparison_table(twice)


def test_the_best_of_a_line_is_bold_unless_it_is_alone():
    rows = frame(*(bert(m, value) for m, value in {"dense": 0.8, "wds": 0.8, "noise_bias": 0.81}.items()))
    other = tables.compare(rows.assign(dataset="synthetic"), BERT)
    bold = [text for text in cells(compare.table(other, "A table"), "bold") if text[:1].isdigit()]
    assert bold == ["81.00"]
    alone = tables.compare(rows[rows["method"] != "wds"].assign(dataset="synthetic"), BERT)
    assert not [text for text in cells(compare.table(alone, "A table"), "bold") if text[:1].isdigit()]


LEFT = {
    "cell": "Rank",
    "ratio": "Ratio",
    "ratio_encoder": "Of the\nblocks",
    "ratio_model": "Model",
    "kind": "",
}


def test_other_methods_stand_below_and_of_a_reference_all_remains():
    values = {"dense": 0.83, "wds": 0.8, "noise_bias": 0.81, "svd": 0.6, "lora": 0.84}
    table = tables.compare(frame(*(bert(method, value) for method, value in values.items())), BERT)
    fig = compare.table(table, "BERT", left=LEFT, kinds={"published": "slides", "measured": "ours"})
    assert "80.79 ± 0.33" in fig.alt_text and "LoRA fine-tuning (all of W stays) 84.00" in fig.alt_text
    assert "slides" in cells(fig) and "97.8" in cells(fig) and "97.8–100" not in cells(fig)
    few = compare.table(
        table, "BERT", left={"ratio": "Ratio", "cell": "Rank"}, published=False, below=["svd"]
    )
    assert "LoRA" not in few.alt_text and "80.79" not in few.alt_text and "60.00" in few.alt_text


@pytest.fixture
def convolutions():
    runs = [vgg16("dense", 0.5), vgg16("wds", 0.4), vgg16("noise_bias", 0.45), vgg16("scratch", 0.46)]
    return tables.compare(frame(*runs, vgg16("noise_bias", 0.44, factorization="pair_equal")), VGG16)


def test_ways_to_factor_are_lines_of_one_cell(convolutions):
    fig = compare.table(convolutions, "VGG16", apart="factorization")
    assert {"45.00", "44.00", "40.00", "75.57 ± 0.40", "pair equal", "16 / 16"} <= set(cells(fig))
    assert "Low-rank from scratch 46.00" in fig.alt_text


# --- against size and work ----------------------------------------------------------------------


def test_ratio_plot_draws_the_frame():
    summary = comparison(("validation", "test"))
    fig = compare.accuracy_against_ratio(summary)
    assert [ax.get_title() for ax in fig.axes] == ["Validation set", "Test set"]
    for ax, split in zip(fig.axes, ("validation", "test"), strict=True):
        drawn = {bars.get_label(): bars for bars in ax.containers}
        assert len(drawn) == 7
        for method, rows in summary[summary["split"] == split].groupby("method"):
            if method == "dense":
                (dense,) = [line for line in ax.lines if line.get_label() == "Dense"]
                assert set(dense.get_ydata()) == set(rows["measured"])
                continue
            points, _, (bars,) = drawn[methods.label(method)].lines
            np.testing.assert_array_equal(points.get_xdata(), rows["ratio"])
            np.testing.assert_array_equal(points.get_ydata(), rows["measured"])
            lengths = [np.ptp(segment[:, 1]) for segment in bars.get_segments()]
            np.testing.assert_allclose(lengths, 2 * rows["sd"])
    low, high = fig.axes[0].get_ylim()
    shown = summary[summary["method"] != "svd"]
    assert low < (shown["measured"] - shown["sd"]).min()
    assert high > (shown["measured"] + shown["sd"]).max()
    # The untrained cut below the axis stands at its edge, with its value.
    for ax, split in zip(fig.axes, ("validation", "test"), strict=True):
        below = summary[(summary["split"] == split) & (summary["measured"] < low)]
        assert set(below["method"]) == {"svd"}
        written = {text.get_text().split("\n")[0] for text in ax.texts}
        assert written == {f"{mean:.1f}" for mean in below["measured"]}


def test_ratio_plot_of_one_seed_without_baselines():
    one = comparison().query("method in @METHODS").assign(sd=np.nan, n=1)
    fig = compare.accuracy_against_ratio(one)
    assert subtitle(fig).startswith("One seed\nNo rows for: Dense; SVD, no training")
    with pytest.raises(MissingResults, match="'dense'.*reproduce"):
        compare.accuracy_against_ratio(comparison().query("method == 'dense'"))
    assert "variant: cosine" in subtitle(
        compare.accuracy_against_ratio(comparison().assign(variant="cosine"))
    )
    with pytest.raises(ValueError, match="one row for each of .*'split'.*select one"):
        compare.accuracy_against_ratio(pd.concat([comparison(), comparison()]))


def test_work_is_told_for_each_way_to_factor(convolutions):
    fig = compare.accuracy_against_flops(convolutions, "Accuracy against work", named={"loralib": "slides"})
    assert "pair equal: 12.0 to 12.0% of the FLOPs" in style.alt_text(fig)
    assert "slides: 98.0 to 98.0% of the FLOPs, 40.0 to 46.0% accurate" in style.alt_text(fig)
    with pytest.raises(MissingResults, match="original net alone"):
        compare.accuracy_against_flops(convolutions.query("method == 'dense'"), "Work")


def test_fronts_have_one_scale_and_name_the_nets():
    first = comparison().query("split == 'test'")
    second = first.assign(ratio=first["ratio"] / 2)
    fig = compare.fronts(
        [("One", first, "ratio"), ("Two", second, "ratio")], "Size", counted={"ratio": "all"}
    )
    left, right = fig.axes
    assert left.get_xlim() == right.get_xlim() and left.get_xlim()[0] < 5
    assert "left (%), all" in left.get_xlabel() and "One: on the front" in fig.alt_text
    with pytest.raises(MissingResults, match="panels"):
        compare.fronts([], "Nothing")


def test_examples_run():
    found = doctest.testmod(compare)
    assert found.attempted and not found.failed
