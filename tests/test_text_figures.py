"""BERT's figures: parameters by part, attention of a small net against NumPy, the tables beside ours."""

import itertools

import numpy as np
import pandas as pd
import pytest
import rows as made_up

import clora_lab as cl
from clora_lab.course import attention
from clora_lab.lab import frames
from clora_lab.lab.figures import nets as pictures
from clora_lab.lab.figures import style, text_figures
from clora_lab.lab.nets import bert as berts
from clora_lab.slides import published, shapes
from clora_lab.studies import bert


def run(method, value, rank=16, seed=0, **fields):
    """The rows of one run, its numbers made up."""
    dense = method == "dense"
    base = made_up.blank("bert") | {
        "study": "bert", "dataset": "imdb", "model": "bert_tiny", "variant": "slides", "seed": seed,
        "start": "pretrained_here", "sequence": 128, "fraction": 1.0, "dense_epochs": 10,
        "train_size": 20_000, "test_size": 25_000, "method": method, "rank": 0 if dense else rank,
        "epochs": 0 if method == "svd" else 10, "scope": "" if dense else "attention",
    }  # fmt: skip
    base |= fields
    keys = ("method", "rank", "scope", "epochs", "model", "dataset", "seed")
    base |= {"config": "-".join(str(base[key]) for key in keys)}
    whole = method in ("dense", "lora")
    values = [("test", "trained", "accuracy", value)]
    if method in cl.methods.names("slides"):
        values += [("test", "compressed", "accuracy", value - 0.01)]
    values += [("model", "-", "parameters", 1000.0 if whole else 980.0)]
    values += [("model", "-", "trainable_parameters", 1000.0 if dense else 8.0)]
    for metric, share in (("ratio", 8.8), ("ratio_encoder", 75.2), ("ratio_model", 97.8)):
        values += [("model", "-", f"{metric}_percent", 100.0 if whole else share)]
    names = ("split", "view", "metric", "value")
    return [base | dict(zip(names, each, strict=True)) for each in values]


def frame(*runs):
    return pd.DataFrame(list(itertools.chain(*runs)))


@pytest.fixture
def rows():
    runs = [run("dense", 0.83), run("wds", 0.81), run("noise_bias", 0.82), run("svd", 0.6)]
    return frame(*runs, run("lora", 0.84))


# --- where the parameters are -------------------------------------------------------------------


@pytest.mark.parametrize("model", attention.BERTS)
def test_parts_are_those_of_the_real_shape(model):
    bert = shapes.BERT_TINY if model == "bert_tiny" else shapes.BERT_SMALL
    counts = attention.parts(model)
    assert counts.sum() == bert.parameters
    inside = counts[["attention", "feed-forward", "layer norms"]].sum()
    assert inside == shapes.total(bert.encoder)
    small = attention.parts(model, rank=16)
    assert (small.drop("attention") == counts.drop("attention")).all()
    table = published.load(model)
    ratio = table.loc[table["rank"] == 16, "ratio_percent"].iloc[0]
    norms = counts["layer norms"] if model == "bert_tiny" else 0
    assert 100 * (small["attention"] + norms) / inside == pytest.approx(ratio, abs=0.05)
    assert attention.parts(model, 16, "encoder")["feed-forward"] < counts["feed-forward"]


@pytest.mark.parametrize("scope", bert.SCOPES)
@pytest.mark.parametrize("method", ["bias", "wds"])
def test_parts_agree_with_surgery_on_a_real_backbone(scope, method):
    whole = berts.backbone("bert_tiny", vocabulary_size=50)
    run = bert.STUDY.run(dataset="imdb", method=method, rank=16, scope=scope)
    asked = bert.STUDY.hooks.compression(run, whole)
    small = cl.compress(whole, method=method, schedule=cl.LinearDecay(1), **asked)
    left = cl.finalize(small, force=True).count_params()
    expected = attention.parts("bert_tiny", 16, scope, bias=method == "bias")
    missing = (30_522 - 50) * (16 if scope == "model" else 128)  # rows of the table, or of its pair
    assert left == expected.sum() - missing


def test_rank_64_saves_nothing_in_the_attention_of_bert_tiny():
    before, after = (attention.parts("bert_tiny", rank)["attention"] for rank in (None, 64))
    assert before == after


def test_picture_of_the_parts():
    assert "97.8% are left" in style.alt_text(attention.where_parameters(16))
    fig = attention.where_parameters(32, "encoder")
    assert "feed-forward at rank 32" in " ".join(fig.get_suptitle().split())
    fig = attention.where_parameters(16, "model")
    assert "BERT-Tiny of 4,385,920" in style.alt_text(fig) and "14.5% are left" in style.alt_text(fig)
    with pytest.raises(ValueError, match="`scope` must be one of"):
        attention.where_parameters(16, "pooler")


# --- what attends to what -----------------------------------------------------------------------


def test_maps_show_what_they_are_given():
    maps = np.full((2, 2, 4, 4), 0.25)
    maps[1, 0, 2] = [0, 1, 0, 0]
    tokens = ["[CLS]", "not", "boring"]
    fig = pictures.attention_maps({"dense": maps, "compressed": maps}, tokens, [(1, 0), (0, 0)], "Maps")
    assert "most, 1.00, from 'boring' to 'not'" in style.alt_text(fig)
    shown = np.asarray(fig.axes[0].get_images()[0].get_array())
    np.testing.assert_array_equal(shown, maps[1, 0, :3, :3])
    assert [label.get_text() for label in fig.axes[0].get_yticklabels()] == tokens


@pytest.mark.parametrize(
    "change, words",
    [
        ({"heads": [(2, 0)]}, "`heads`"),
        ({"heads": []}, "`heads`"),
        ({"tokens": ["a"] * 5}, "`tokens` must be 1 to 4"),
        ({"maps": {}}, "`maps`"),
        ({"maps": {"a": np.ones((1, 1, 2, 2)), "b": np.ones((1, 1, 3, 3))}}, "`maps`"),
    ],
)
def test_maps_that_can_not_be_drawn(change, words):
    good = {"maps": {"dense": np.ones((1, 1, 4, 4))}, "tokens": ["a"], "heads": [(0, 0)], "title": "Maps"}
    with pytest.raises(ValueError, match=words):
        pictures.attention_maps(**{**good, **change})


# --- the study ----------------------------------------------------------------------------------


def test_a_setting_is_chosen_with_its_dense_net(rows):
    other = frame(run("wds", 0.7, scope="encoder"), run("dense", 0.9, model="bert_small"))
    both = pd.concat([rows, other], ignore_index=True)
    table = text_figures.settings(both)
    assert table["scope"].tolist() == ["attention", "encoder"] and table["runs"].tolist() == [3, 1]
    chosen = text_figures.choose(both, model="bert_tiny")
    assert len(chosen) == len(rows) and set(chosen["method"]) == set(rows["method"])
    chosen = text_figures.choose(both, scope="encoder")
    assert set(chosen["method"]) == {"dense", "wds"} and set(chosen["model"]) == {"bert_tiny"}
    with pytest.raises(frames.MissingResults, match="minilm"):
        text_figures.choose(both, model="minilm")
    with pytest.raises(frames.MissingResults, match="trained compressed nets"):
        text_figures.settings(frame(run("dense", 0.8)))


def test_published_and_measured(rows):
    table = text_figures.compare(rows).set_index(["rank", "method"])
    cell = table.loc[(16, "noise_bias")]
    assert cell["published_accuracy"] == 80.79 and cell["measured_mean"] == pytest.approx(81)
    assert cell["measured_difference"] == pytest.approx(-2) and cell["ratio_encoder"] == pytest.approx(75.2)
    assert np.isnan(table.loc[(64, "wds"), "measured_mean"])
    other = text_figures.compare(rows.assign(dataset="synthetic"))
    assert other["published_accuracy"].isna().all() and other["published_ratio"].isna().all()
    assert len(other) == 5


@pytest.mark.parametrize(
    "change, same",
    [({}, True), ({"dataset": "synthetic"}, False), ({"model": "minilm"}, False)],
)
def test_what_the_slides_can_be_compared_with(rows, change, same):
    assert text_figures.comparable(rows.assign(**change)) == same
    fig = text_figures.comparison_table(rows.assign(**change))
    assert ("80.79 ± 0.33" in style.alt_text(fig)) == same
    assert "LoRA fine-tuning 84.00" in style.alt_text(fig) and "81.00" in style.alt_text(fig)


def test_the_best_of_a_line_is_bold_unless_it_is_alone(rows):
    def bold(own):
        fig = text_figures.comparison_table(own)
        texts = [each for each in fig.axes[0].texts if each.get_weight() == "bold"]
        return {each.get_text() for each in texts}

    own = rows.assign(dataset="synthetic")
    assert {"81.00", "84.00"} <= bold(own) and "80.00" not in bold(own)
    alone = own[own["method"].isin(["dense", "wds"])]
    assert not any(text.startswith("8") for text in bold(alone))


@pytest.mark.parametrize("scope", ["encoder", "encoder_ff_wide", "model"])
def test_wider_scopes_have_no_published_table(rows, scope):
    wide = rows.assign(scope=rows["scope"].where(rows["scope"] == "", scope))
    assert not text_figures.comparable(wide)
    for said in (
        text_figures.conditions(wide),
        text_figures.comparison_table(wide).alt_text,
    ):
        assert text_figures.SCOPES[scope] in said


def test_conditions_are_read_from_the_rows(rows):
    said = text_figures.conditions(rows)
    for part in (
        "pretrained here",
        "on IMDB;",
        "20,000 training",
        "128 tokens",
        "compressed net 10;",
        "one seed",
    ):
        assert part in said
    short = text_figures.conditions(rows.assign(epochs=3, fraction=0.2, dataset="synthetic"))
    assert "(the slides: 10)" in short and "no real data), 20%" in short
    assert "taught" not in said
    assert "(taught by the dense net)" in text_figures.conditions(rows.assign(distillation=1.0))
    half = text_figures.conditions(rows.assign(distillation=0.5))
    assert "(taught by the dense net, 50% of the loss)" in half
    with pytest.raises(ValueError, match="one `sequence`"):
        text_figures.conditions(pd.concat([rows, rows.assign(sequence=64)]))
    with pytest.raises(frames.MissingResults, match="split 'validation'"):
        text_figures.compare(rows, "validation")


def test_lora_trains_little_and_leaves_all(rows):
    table = text_figures.trained_and_remaining(rows, 16)
    assert table.loc["LoRA fine-tuning (all of W stays)"].tolist() == [0.008, 1.0]
    assert table.loc["Only WDS"].tolist() == [0.008, 0.98]
    assert table.index[0] == "Dense"
    with pytest.raises(frames.MissingResults, match="rank 32"):
        text_figures.trained_and_remaining(rows, 32)
