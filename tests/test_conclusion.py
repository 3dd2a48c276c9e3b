"""The conclusion's arithmetic on made-up rows whose answers are known, and on the published tables.

The recorded rows below are numbers in the schema of the studies, not results.
"""

import dataclasses
import doctest
import itertools

import numpy as np
import pandas as pd
import pytest
import rows as made_up
import scipy.stats

from clora_lab import studies
from clora_lab.lab import published, stats
from clora_lab.lab.frames import MissingResults
from clora_lab.slides import conclusion, conclusion_figures

METHODS = made_up.METHODS


def run(study, method, rank, seed, accuracy, ratios=(20.0, 25.0), **settings):
    shares = list(zip(("ratio_percent", "ratio_model_percent"), ratios, strict=True))
    return made_up.run(studies.get(study), method, accuracy, rank=rank, seed=seed, ratios=shares, **settings)


TOY = {"dataset": "fashion_mnist", "train_size": 48_000}
# Noise & bias less the others at each of five seeds, in points, the same at both ranks.
LEADS = {"wds": [1.0, 1.2, 0.8, 1.1, 0.9], "bias": [0.5, -0.5, 0.4, -0.4, 0.1]}
LEADS |= {"noise": [-0.3, -0.2, -0.4, -0.25, -0.35], "svd_finetune": [0.0, 0.2, -0.2, 0.1, -0.1]}


def toy(seeds=range(5), ranks=(16, 64), **settings):
    rows = []
    for seed in seeds:
        rows += run("toy", "dense", 0, seed, 0.87 + seed / 1000, **(TOY | settings))
        for rank in ranks:
            best = 0.85 + rank / 10_000 + seed / 1000
            sizes = {"ratios": (rank / 2, rank / 2 + 1)}
            rows += run("toy", "noise_bias", rank, seed, best, **sizes, **(TOY | settings))
            for method, leads in LEADS.items():
                value = best - leads[seed] / 100
                rows += run("toy", method, rank, seed, value, **sizes, **(TOY | settings))
    return pd.DataFrame(rows)


def bert(seeds=((16, (0, 1, 2)), (32, (0,))), **settings):
    shared = {"dataset": "imdb", "model": "bert_tiny", "start": "pretrained_here", "train_size": 2000}
    shared |= {"test_size": 2500, "dense_epochs": 6, "epochs": 6, **settings}
    rows = []
    for seed in range(3):
        rows += run("bert", "dense", 0, seed, 0.80, **shared)
    for rank, own in seeds:
        for seed, (shift, method) in itertools.product(own, enumerate(METHODS)):
            value = 0.75 + rank / 1000 + shift / 100 + (seed - 1) / 200 + seed * shift / 1000
            pair = {"ratios": (rank / 2, 97.8), "scope": "attention"}
            rows += run("bert", method, rank, seed, value, **pair, **shared)
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def parts():
    return conclusion.parts({"bert": bert(), "toy": toy()})


# --- parts and blocks ---------------------------------------------------------------------------


def test_parts_come_in_order_with_the_slides_they_belong_to(parts):
    assert [(part.study.name, part.slides) for part in parts] == [("toy", "toy"), ("bert", "bert_tiny")]
    assert "Fashion-MNIST" in parts[0].title and "BERT-Tiny" in parts[1].title
    with pytest.raises(ValueError, match="`study` must be one of"):
        conclusion.parts({"resnet": toy()})


def test_recipe_stands_beside_the_baselines_of_cosine_and_other_data_beside_no_slide():
    base = toy()
    cosine = base[~base["method"].isin(METHODS)].assign(variant="cosine", dense_lr_schedule="cosine")
    own = base[base["method"] == "noise_bias"].assign(variant="recipe", dense_lr_schedule="cosine")
    (part,) = conclusion.parts({"toy": pd.concat([cosine, own])})
    assert set(part.rows["method"]) == {"dense", "svd_finetune", "noise_bias"} and part.slides is None
    (digits,) = conclusion.parts({"toy": toy(dataset="digits")})
    assert digits.slides is None and "digits" in digits.title
    assert conclusion.sizes([digits])["epochs_slides"].isna().all()


def test_part_without_a_method_of_the_slides_is_left_out():
    rows = bert()
    assert conclusion.parts({"bert": rows[rows["method"].isin(["dense", "svd"])]}) == []


def test_what_is_not_recorded_has_no_entry(tmp_path):
    assert conclusion.recorded(tmp_path) == {}
    toy().to_csv(tmp_path / "toy.csv", index=False)
    assert list(conclusion.recorded(tmp_path)) == ["toy"]


def test_sizes_tell_how_small_a_part_is(parts):
    sizes = conclusion.sizes(parts).set_index("part")
    assert sizes.loc[parts[0].title].tolist() == ["48,000 examples", 30, 30, 2, "5"]
    assert sizes.loc[parts[1].title].tolist() == ["2,000 examples", 6, 10, 2, "1–3"]


def test_by_seed_takes_the_compressed_path_and_refuses_two_runs_of_one_cell(parts):
    table = parts[0].by_seed()
    assert table.loc[("16", 2), "noise_bias"] == pytest.approx(85.36)
    assert table.loc[("64", 2), "dense"] == pytest.approx(87.2)
    assert table.index.get_level_values("cell").unique().tolist() == ["16", "64"]
    twice = pd.concat([toy(), toy(seeds=[0]).assign(config=lambda rows: rows["config"] + "b")])
    with pytest.raises(ValueError, match="one run for each method, cell and seed"):
        dataclasses.replace(parts[0], rows=twice).by_seed()
    with pytest.raises(MissingResults, match="'validation'"):
        parts[0].by_seed("validation")


def test_blocks_of_a_part(parts):
    table = parts[1].by_seed()
    assert stats.blocks(table, METHODS) == [(["16"], [0, 1, 2]), (["16", "32"], [0])]


# --- the table ----------------------------------------------------------------------------------


def test_table_averages_ranks_within_a_seed_and_seeds_last(parts):
    table = conclusion.table(parts[:1]).set_index("method")
    row = table.loc["noise_bias"]
    by_hand = [85.4 + seed / 10 for seed in range(5)]
    half = scipy.stats.t.ppf(0.975, 4) * np.std(by_hand, ddof=1) / np.sqrt(5)
    assert (row["cells"], row["seeds"]) == ("16, 64", 5)
    assert row[["mean", "low", "high"]].tolist() == pytest.approx([85.6, 85.6 - half, 85.6 + half])
    assert row["gap"] == pytest.approx(-1.6)
    assert row["published_same"] == pytest.approx((83.74 + 84.23) / 2)
    assert row["published_mean"] == pytest.approx((83.74 + 83.93 + 84.23) / 3)
    assert np.isnan(row["published"])  # the toy project is not on slide 23
    assert table.index.tolist() == [*METHODS, "svd_finetune"]


def test_one_seed_has_no_interval_and_slide_23_stands_beside(parts):
    table = conclusion.table(parts[1:]).set_index(["cells", "method"])
    many, one = table.loc["16"], table.loc["16, 32"]
    assert many["low"].notna().all() and many["seeds"].eq(3).all()
    assert one["low"].isna().all() and one["seeds"].eq(1).all()
    assert one.loc["wds", ["published", "published_sd"]].tolist() == [81.06, 0.56]
    assert one.loc["wds", "published_same"] == pytest.approx((80.00 + 81.26) / 2)
    assert many.loc["wds", "published_gap"] == pytest.approx(80.00 - 83.03)


# --- tests --------------------------------------------------------------------------------------


def test_paired_tests_by_hand(parts):
    table = conclusion.paired_tests(parts[:1]).set_index("other")
    lead = np.array(LEADS["wds"])
    row = table.loc["wds"]
    assert row["difference"] == pytest.approx(lead.mean()) and row["wins"] == 5
    assert row["p_t"] == pytest.approx(scipy.stats.ttest_1samp(lead, 0).pvalue)
    assert row["p_exact"] == row["smallest_p"] == 0.0625
    family = table[table["family"] == "methods"]
    assert family["p_t_holm"].to_numpy() == pytest.approx(stats.holm(family["p_t"]))
    assert table.loc["svd_finetune", "p_t_holm"] == table.loc["svd_finetune", "p_t"]  # alone in its family
    assert table["verdict"].to_dict() == {
        "wds": "better", "bias": "not told apart", "noise": "worse", "svd_finetune": "not told apart"
    }  # fmt: skip


def test_paired_tests_pair_by_seed_not_by_place(parts):
    shuffled = toy().sample(frac=1, random_state=3)
    again = conclusion.paired_tests(conclusion.parts({"toy": shuffled}))
    pd.testing.assert_frame_equal(again, conclusion.paired_tests(parts[:1]))


def test_too_few_seeds_are_not_tested():
    found = conclusion.parts({"toy": toy(seeds=(0, 1))})
    assert conclusion.paired_tests(found).empty
    with pytest.raises(ValueError, match="`method` must be one of"):
        conclusion.paired_tests(found, method="svd")


# --- published ----------------------------------------------------------------------------------


def test_published_tests_are_welchs_with_n_as_given():
    table = conclusion.published_tests(3).set_index(["model", "cell", "other"])
    row = table.loc[("bert_tiny", "16", "wds")]
    expected = scipy.stats.ttest_ind_from_stats(80.79, 0.33, 3, 80.00, 0.28, 3, equal_var=False).pvalue
    assert row["p"] == pytest.approx(expected) and row["difference"] == pytest.approx(0.79)
    with pytest.raises(ValueError, match="`n` must be at least 2"):
        conclusion.published_tests(1)


def test_published_counts_grow_with_n_and_shrink_with_the_correction():
    table = conclusion.published_counts([2, 5, 30])
    assert table["higher"].is_monotonic_increasing and (table["higher_holm"] <= table["higher"]).all()
    assert (table["higher"] + table["lower"] <= table["comparisons"]).all()


def test_published_leads_by_hand():
    toy_table = published.load("toy").dropna(subset="rank")
    best = toy_table.loc[toy_table.groupby("rank")["accuracy_percent"].idxmax(), "method"]
    leads = conclusion.published_leads()
    assert leads.loc["toy", "leads"] == (best == "noise_bias").sum()
    assert leads.loc["toy", "p"] == pytest.approx(0.25**3)
    assert leads.loc["all", "cells"] == 15 == leads["cells"].iloc[:-1].sum()
    everyone = sum(conclusion.published_leads(method).loc["all", "leads"] for method in METHODS)
    assert everyone <= 15


# --- ratio and words ----------------------------------------------------------------------------


def test_a_method_that_was_not_measured_in_every_cell_leaves_no_hole():
    rows = bert()
    hole = rows[~((rows["method"] == "wds") & (rows["rank"] == 32))]
    (part,) = conclusion.parts({"bert": hole})
    points = part.points()
    assert points["measured"].notna().all()
    assert set(points.loc[points["method"] == "wds", "cell"]) == {"16"}


def test_points_have_the_dense_net_once_at_100_percent(parts):
    points = parts[0].points().set_index(["method", "cell"])
    dense = points.xs("dense")
    assert len(dense) == 1 and dense[["ratio", "ratio_model", "n"]].iloc[0].tolist() == [
        100, 100, 5
    ]  # fmt: skip
    assert points.loc[("wds", "64"), ["ratio", "ratio_model"]].tolist() == [32, 33]
    assert points.loc[("noise_bias", "16"), "measured"] == pytest.approx(85.36)


def test_findings_follow_the_rows(parts):
    found = conclusion.findings(parts)
    tests = found[found["shown"] == "test"]
    toy_lines = tests[tests["text"].str.startswith("Toy")].set_index("kind")["text"]
    assert "better than Only WDS (+1.00)" in toy_lines["for"]
    assert "worse than Scheduled noise (−0.30)" in toy_lines["against"]
    assert "not told apart from Bias (C_weights)" in toy_lines["open"]
    sizes = found[found["shown"] == "ratio"].set_index("kind")["text"]
    assert "97.8% of the whole model is left (the slides' count: 8.0%)" in sizes["against"]
    assert "(6 epochs; the slides: 10)" in sizes["against"] and "9.0% of the whole model" in sizes["for"]


def test_a_small_net_that_has_lost_much_is_no_success():
    rows = toy()
    lost = rows["metric"].eq("accuracy") & rows["method"].eq("noise_bias")
    found = conclusion.findings(conclusion.parts({"toy": rows.assign(value=rows["value"] - 0.05 * lost)}))
    assert found.loc[found["shown"] == "ratio", "kind"].tolist() == ["against"]


@pytest.mark.parametrize(
    "work, loss, kind", [(98.7, 0.0, "against"), (18.0, 0.0, "for"), (18.0, 0.05, "against")]
)
def test_work_that_is_left_counts_for_nets_that_still_know_something(work, loss, kind):
    rows = toy()
    flops = rows[(rows["metric"] == "ratio_percent") & (rows["method"] == "noise_bias")]
    lost = rows["metric"].eq("accuracy") & rows["method"].eq("noise_bias")
    rows["value"] -= loss * lost
    rows = pd.concat([flops.assign(metric="flops_percent", value=work), rows])
    found = conclusion.findings(conclusion.parts({"toy": rows})).set_index("shown").loc["work"]
    assert found["kind"] == kind and f"{work}% of the dense net's FLOPs" in found["text"]


def test_too_few_seeds_decide_nothing():
    found = conclusion.findings(conclusion.parts({"toy": toy(seeds=(0,))}))
    tests = found[found["shown"] == "test"]
    assert tests["kind"].tolist() == ["open"] and "Only WDS in 2 of 2 (+1.00)" in tests["text"].item()


# --- figures ------------------------------------------------------------------------------------


def test_table_figure_prints_what_the_table_has(parts):
    fig = conclusion_figures.conclusion_table(conclusion.table(parts))
    texts = [text.get_text() for text in fig.axes[0].texts]
    assert "85.60" in texts and "81.31 ± 0.30" in texts and "slide 21, same cells" in texts
    assert any("one seed" in text for text in texts) and any("5 seeds" in text for text in texts)
    with pytest.raises(MissingResults):
        conclusion_figures.conclusion_table(conclusion.table([]))


def test_differences_figure_says_the_verdicts(parts):
    fig = conclusion_figures.differences(conclusion.paired_tests(parts))
    assert len(fig.axes) == 2 and "Only WDS +1.00 (better)" in fig.alt_text
    with pytest.raises(MissingResults):
        conclusion_figures.differences(conclusion.paired_tests([]))


def test_examples_run():
    found = doctest.testmod(conclusion)
    assert found.attempted and not found.failed
