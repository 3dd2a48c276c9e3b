"""As coded and as written: the table of the two recipes, and what the authors' code does."""

import numpy as np
import pytest
import rows as made

from clora_lab import studies
from clora_lab.lab.frames import MissingResults
from clora_lab.slides import coded
from clora_lab.studies import as_coded

TOY = studies.get("toy")
SLIDES = ("wds", "bias", "noise", "noise_bias")


@pytest.fixture(scope="module")
def rows():
    found = studies.recorded("toy").read()
    return found[found["dataset"] == "fashion_mnist"]


def test_both_recipes_are_the_four_methods_at_all_ranks_from_one_original_net():
    grid = TOY.grid(dataset="fashion_mnist", variant=("as_coded", "as_written"), method=SLIDES, seed=range(5))
    small = [run for run in grid if not run.is_original]
    assert len(small) == 2 * 4 * 3 * 5 and len(grid) == len(small) + 5
    assert {run.init for run in small} == {"lora"}
    assert {(run.variant, run.activation_on) for run in small} == {
        ("as_coded", "original"),
        ("as_written", "sum"),
    }
    (einsum,) = {
        run.decay_power for run in studies.get("bert").grid(dataset="imdb", variant="as_coded", method="wds")
    } - {1}
    assert einsum == 2  # the original net has no decay, and so the default


def test_the_published_numbers_come_out_as_coded_and_not_as_written(rows):
    table = as_coded.side_by_side(rows, TOY)
    assert len(table) == 12 and table["published"].notna().all()
    assert table["as_coded_difference"].abs().max() < 1.3  # single runs, by the slides
    assert table["as_written_difference"].min() > 2.0 and table["worth"].min() > 2.0
    plain = as_coded.softmax(rows).mean()
    assert table["as_coded"].max() < plain
    below = table[table["as_written"] < plain]  # as written, all but one are above it
    assert list(zip(below["rank"], below["method"], strict=True)) == [(16, "bias")]
    words = as_coded.in_words(table, as_coded.softmax(rows))
    assert "above every net as coded" in words and f"{plain:.2f}" in words


def test_the_worth_is_paired_by_seed_and_corrected(rows):
    table = as_coded.side_by_side(rows, TOY).set_index(["rank", "method"])
    for (rank, method), line in table.iterrows():
        own = rows[(rows["rank"] == rank) & (rows["method"] == method) & (rows["metric"] == "accuracy")]
        own = own[(own["split"] == "validation") & (own["view"] == "compressed")]
        both = own.pivot(index="seed", columns="variant", values="value")
        gaps = 100 * (both["as_written"] - both["as_coded"]).dropna()
        assert line["worth"] == pytest.approx(gaps.mean())
        assert np.isnan(line["worth_p"]) or line["worth_p"] <= 1.0


def test_a_recipe_that_is_missing_is_named(rows):
    with pytest.raises(MissingResults, match="variant=as_coded,as_written"):
        as_coded.side_by_side(rows[rows["variant"] != "as_coded"], TOY)
    assert as_coded.markdown(rows[rows["variant"] != "as_coded"], TOY) == ""
    assert as_coded.softmax(rows[rows["model"] != "softmax"]) is None


def test_the_table_stands_in_every_study_that_has_both_recipes():
    both = [
        made.vgg16(method, accuracy, variant=variant, dense_rank=16 if method != "dense" else 0)
        for variant, accuracy in (("as_coded", 0.70), ("as_written", 0.75))
        for method in ("dense", "wds")
    ]
    home = studies.get("vgg16")
    ((table, plain),) = as_coded.sides(made.frame(*both), home)
    assert table[["as_coded", "as_written", "worth"]].to_numpy().round(6).tolist() == [[70.0, 75.0, 5.0]]
    assert plain is None and table.attrs["split"] == "test" and "VGG16" in table.attrs["title"]
    assert as_coded.markdown(made.frame(*both), home) in home.hooks.markdown(home, made.frame(*both))
    other = made.vgg16("wds", 0.6, variant="as_written", seed=1, alpha=8.0)
    assert not list(as_coded.sides(made.frame(*both, other), home))  # a grid of two alphas


def test_the_softmax_regression_names_no_table(rows):
    first = rows.sort_values("model", key=lambda models: models != "softmax", kind="stable")
    assert first.iloc[0]["model"] == "softmax"
    assert as_coded.side_by_side(first, TOY).attrs["title"].startswith("Toy MLP")


def test_every_difference_says_where_it_stands_and_what_was_measured():
    table = coded.differences().set_index("topic")
    assert table.index.is_unique and (table[["slides", "code", "where", "measured"]] != "").all(axis=None)
    assert "softmax regression" in table.loc["activation", "measured"]
    assert "5.7 times as wide" in table.loc["width of A", "measured"]
    text = coded.report()
    assert max(map(len, text.splitlines())) <= 80 and all(topic[1:] in text for topic in table.index)
