"""What is in a net, as figures: filters, spectra, parameters by part, what attends to what."""

import numpy as np
import pandas as pd
import pytest

import clora_lab as cl
from clora_lab import rules
from clora_lab.course import attention
from clora_lab.lab import published
from clora_lab.lab.figures import nets as pictures
from clora_lab.lab.figures import style
from clora_lab.lab.nets import bert as berts
from clora_lab.lab.nets import vgg
from clora_lab.slides import shapes
from clora_lab.studies import bert

SHAPE = (3, 3, 4, 6)


def kernel(seed=0, shape=SHAPE):
    return np.random.default_rng(seed).normal(size=shape)


def test_filters_are_ordered_by_the_first_net_and_distances_are_right():
    first = kernel(shape=(3, 3, 3, 5)) * np.array([1, 5, 2, 4, 3])
    fig = pictures.filters({"before": first, "after": 0.5 * first}, "Filters", count=3)
    assert "relative: 0.50" in fig.alt_text and "3 filters" in fig.alt_text
    shown = fig.axes[0].get_images()[0].get_array()
    strongest = first[..., 1]
    assert np.corrcoef(np.asarray(shown).ravel(), strongest.ravel())[0, 1] > 0.99
    pictures.filters({"deeper": kernel()}, "Filters")
    for bad in ({}, {"a": kernel(), "b": kernel(shape=(3, 3, 4, 5))}):
        with pytest.raises(ValueError, match="one shape"):
            pictures.filters(bad, "Filters")


@pytest.mark.parametrize("factorization", rules.FACTORIZATIONS)
def test_spectrum_of_an_svd_start_is_the_head_of_the_dense_one(factorization):
    net = vgg.small_vgg()
    target = {"targets": "block3_*", "factorization": factorization}
    wrapped = cl.compress(net, 3, init="svd", schedule=cl.LinearDecay(1), **target)
    table = pictures.spectra_table(net, wrapped)
    for _, own in table.groupby("layer"):
        dense, kept = (own[own["net"] == name]["value"].to_numpy() for name in ("dense", "kept"))
        assert len(kept) == (3 if factorization == "pair" else 9) < len(dense)
        np.testing.assert_allclose(kept, dense[: len(kept)], rtol=1e-3)
    text = style.alt_text(pictures.spectra(table, "Spectra"))
    assert "block3_conv1" in text
    with pytest.raises(ValueError, match="no wrapped layers"):
        pictures.kept_kernels(net)


def test_too_many_layers_for_one_picture():
    table = pd.DataFrame({"layer": [str(i) for i in range(10)], "net": "dense", "index": 1, "value": 1.0})
    with pytest.raises(ValueError, match="at most nine"):
        pictures.spectra(table, "Spectra")


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
