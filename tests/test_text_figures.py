"""BERT's figures: parameters by part, attention of a small net against NumPy, the tables beside ours."""

import itertools

import keras
import numpy as np
import pandas as pd
import pytest

import clora_lab as cl
from clora_lab.lab.data import text
from clora_lab.lab.figures import figures, text_figures
from clora_lab.lab.nets import bert_models
from clora_lab.lab.results import columns
from clora_lab.slides import published, shapes
from clora_lab.studies import bert

keras_hub = pytest.importorskip("keras_hub")
LENGTH = 16
TEXTS = ["the film was not boring at all .", "what a great cast !"]


def tiny_classifier(seed=0):
    """Two blocks, two heads, width 16, with the vocabulary of the generated reviews."""
    keras.utils.set_random_seed(seed)
    vocabulary = text.synthetic_vocabulary()
    backbone = keras_hub.models.BertBackbone(
        vocabulary_size=len(vocabulary), num_layers=2, num_heads=2, hidden_dim=16, intermediate_dim=32,
        max_sequence_length=32, name="bert_backbone",
    )  # fmt: skip
    preprocessor = keras_hub.models.BertTextClassifierPreprocessor(
        bert_models.tokenizer_of(vocabulary), sequence_length=LENGTH
    )
    net = keras_hub.models.BertTextClassifier(
        backbone, num_classes=2, preprocessor=preprocessor, compile=False
    )
    for weight in net.trainable_weights:  # so large that attention is far from uniform
        if weight.path.endswith("kernel"):
            weight.assign(15 * weight)
    return net


@pytest.fixture(scope="module")
def net():
    return tiny_classifier()


@pytest.fixture(scope="module")
def inputs(net):
    return text.tokenise(TEXTS, net.preprocessor.tokenizer, LENGTH, cached=False)


def run(method, value, rank=16, seed=0, **fields):
    """The rows of one run, its numbers made up."""
    dense = method == "dense"
    base = dict.fromkeys(columns("bert"), "") | {
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
    if method in cl.layers.METHODS:
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


@pytest.mark.parametrize("model", text_figures.BERTS)
def test_parts_are_those_of_the_real_shape(model):
    bert = shapes.BERT_TINY if model == "bert_tiny" else shapes.BERT_SMALL
    counts = text_figures.parts(model)
    assert counts.sum() == bert.parameters
    inside = counts[["attention", "feed-forward", "layer norms"]].sum()
    assert inside == shapes.total(bert.encoder)
    small = text_figures.parts(model, rank=16)
    assert (small.drop("attention") == counts.drop("attention")).all()
    table = published.load(model)
    ratio = table.loc[table["rank"] == 16, "ratio_percent"].iloc[0]
    norms = counts["layer norms"] if model == "bert_tiny" else 0
    assert 100 * (small["attention"] + norms) / inside == pytest.approx(ratio, abs=0.05)
    assert text_figures.parts(model, 16, "encoder")["feed-forward"] < counts["feed-forward"]


@pytest.mark.parametrize("scope", bert.SCOPES)
@pytest.mark.parametrize("method", ["bias", "wds"])
def test_parts_agree_with_surgery_on_a_real_backbone(scope, method):
    whole = bert_models.backbone("bert_tiny", vocabulary_size=50)
    run = bert.Experiment("imdb", method, 16, scope)
    small = cl.compress(whole, bert.ranks(run), method, cl.LinearDecay(1), targets=bert.SCOPES[scope])
    left = cl.finalize(small, force=True).count_params()
    expected = text_figures.parts("bert_tiny", 16, scope, bias=method == "bias")
    missing = (30_522 - 50) * (16 if scope == "model" else 128)  # rows of the table, or of its pair
    assert left == expected.sum() - missing


def test_rank_64_saves_nothing_in_the_attention_of_bert_tiny():
    before, after = (text_figures.parts("bert_tiny", rank)["attention"] for rank in (None, 64))
    assert before == after


def test_picture_of_the_parts():
    assert "97.8% are left" in figures.alt_text(text_figures.where_parameters(16))
    fig = text_figures.where_parameters(32, "encoder")
    assert "feed-forward at rank 32" in " ".join(fig.get_suptitle().split())
    fig = text_figures.where_parameters(16, "model")
    assert "BERT-Tiny of 4,385,920" in figures.alt_text(fig) and "14.5% are left" in figures.alt_text(fig)
    with pytest.raises(ValueError, match="`scope` must be one of"):
        text_figures.where_parameters(16, "pooler")


# --- what attends to what -----------------------------------------------------------------------


def test_attention_is_softmax_of_queries_and_keys(net, inputs):
    scores = text_figures.attention_scores(net, inputs)
    assert scores.shape == (2, 2, 2, LENGTH, LENGTH)
    block = net.backbone.transformer_layers[0]
    embedded = keras.Model(net.backbone.input, net.backbone.get_layer("embeddings_dropout").output)
    x = keras.ops.convert_to_numpy(embedded(inputs))
    weights = [keras.ops.convert_to_numpy(w) for w in block._self_attention_layer.query_dense.weights]
    weights += [keras.ops.convert_to_numpy(w) for w in block._self_attention_layer.key_dense.weights]
    query = np.einsum("ntd,dhe->nhte", x, weights[0]) + weights[1][None, :, None]
    key = np.einsum("ntd,dhe->nhte", x, weights[2]) + weights[3][None, :, None]
    logits = np.einsum("nhqe,nhke->nhqk", query, key) / np.sqrt(8)
    logits += np.where(inputs["padding_mask"] == 1, 0, -1e9)[:, None, None]
    expected = np.exp(logits - logits.max(-1, keepdims=True))
    expected /= expected.sum(-1, keepdims=True)
    np.testing.assert_allclose(scores[0], expected, atol=1e-4)
    assert np.ptp(expected) > 0.2


def test_the_blocks_are_run_as_in_the_net(net, inputs):
    """With every block's output from the walk, the pooled output is the backbone's own."""
    found = {}
    hooked = net.backbone.transformer_layers[-1]
    call = type(hooked).__call__

    def note(self, *args, **kwargs):
        result = call(self, *args, **kwargs)
        found[self.name] = result
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(hooked), "__call__", note)
        text_figures.attention_scores(net, inputs)
    last, _ = found[hooked.name]
    own = net.backbone(inputs)["sequence_output"]
    np.testing.assert_allclose(*(keras.ops.convert_to_numpy(each) for each in (last, own)), atol=1e-5)


def test_nobody_looks_at_padding_and_compression_is_seen(net, inputs):
    before = text_figures.attention_scores(net, inputs)
    padding = inputs["padding_mask"][1] == 0
    assert padding.any() and before[:, 1][..., padding].max() < 1e-6
    small = cl.compress(net, 2, "bias", cl.LinearDecay(1), targets=bert_models.ATTENTION, seed=0)
    same = text_figures.attention_change(
        before, text_figures.attention_scores(small, inputs), inputs["padding_mask"]
    )
    assert same["change"].max() < 1e-5  # d = 1: W is all there
    final = cl.finalize(small, force=True)
    after = text_figures.attention_scores(final, inputs)
    changed = text_figures.attention_change(before, after, inputs["padding_mask"])
    assert len(changed) == 4 and changed["change"].min() > 0.05
    # B = 0: every query is 0 but for its bias, which is 0 too, so every token is looked at alike
    tokens = inputs["padding_mask"].sum(1)
    expected = (tokens**2).sum() / tokens.sum()
    np.testing.assert_allclose(changed["attended_after"], expected, rtol=1e-4)


def test_change_by_hand():
    before = np.zeros((1, 1, 1, 3, 3))
    before[..., 0] = 1.0
    after = before.copy()
    after[0, 0, 0, 0] = [0.25, 0.75, 0]
    after[0, 0, 0, 2] = [0, 0, 1]  # a row of padding, which does not count
    line = text_figures.attention_change(before, after, [[1, 1, 0]]).iloc[0]
    assert line["change"] == pytest.approx(0.75 / 2)
    entropy = -(0.25 * np.log(0.25) + 0.75 * np.log(0.75))
    assert line["attended_before"] == pytest.approx(1)
    assert line["attended_after"] == pytest.approx((np.exp(entropy) + 1) / 2)
    with pytest.raises(ValueError, match="one shape"):
        text_figures.attention_change(before, after[..., :2], [[1, 1, 0]])
    with pytest.raises(ValueError, match="encoder blocks"):
        text_figures.attention_scores(keras.Sequential(), {})


def test_maps_show_what_they_are_given():
    maps = np.full((2, 2, 4, 4), 0.25)
    maps[1, 0, 2] = [0, 1, 0, 0]
    tokens = ["[CLS]", "not", "boring"]
    fig = text_figures.attention_maps({"dense": maps, "compressed": maps}, tokens, [(1, 0), (0, 0)], "Maps")
    assert "most, 1.00, from 'boring' to 'not'" in figures.alt_text(fig)
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
        text_figures.attention_maps(**{**good, **change})


# --- predictions --------------------------------------------------------------------------------


def test_predictions_are_the_nets_own(net):
    tokenizer = net.preprocessor.tokenizer
    table = text_figures.predictions({"a": net, "b": tiny_classifier(1)}, TEXTS, tokenizer, LENGTH, batch=1)
    logits = keras.ops.convert_to_numpy(net(text.tokenise(TEXTS, tokenizer, LENGTH, cached=False)))
    softmax = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(table["a"], softmax[:, 1], rtol=1e-4)
    assert table["text"].tolist() == TEXTS and (table["a"] - table["b"]).abs().max() > 1e-3
    with pytest.raises(ValueError, match="two logits"):
        text_figures.predictions({"a": lambda x, training: x["token_ids"]}, TEXTS, tokenizer, LENGTH)


def test_errors_name_who_is_right():
    table = pd.DataFrame(
        {"text": list("abcd"), "dense": [0.9, 0.9, 0.4, 0.6], "small": [0.8, 0.1, 0.7, 0.7]},
    )
    found = text_figures.errors(table, [1, 1, 1, 0])
    assert found.set_index("text")["verdict"].to_dict() == {
        "a": "both right",
        "b": "only dense right",
        "c": "only small right",
        "d": "both wrong",
    }
    assert found["text"].iloc[0] == "b"
    with pytest.raises(ValueError, match="two nets"):
        text_figures.errors(table, [1, 0])


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
    with pytest.raises(figures.MissingResults, match="minilm"):
        text_figures.choose(both, model="minilm")
    with pytest.raises(figures.MissingResults, match="trained compressed nets"):
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
    assert ("80.79 ± 0.33" in figures.alt_text(fig)) == same
    assert "LoRA fine-tuning 84.00" in figures.alt_text(fig) and "81.00" in figures.alt_text(fig)


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
    with pytest.raises(figures.MissingResults, match="split 'validation'"):
        text_figures.compare(rows, "validation")


def test_lora_trains_little_and_leaves_all(rows):
    table = text_figures.trained_and_remaining(rows, 16)
    assert table.loc["LoRA fine-tuning (all of W stays)"].tolist() == [0.008, 1.0]
    assert table.loc["Only WDS"].tolist() == [0.008, 0.98]
    assert table.index[0] == "Dense"
    with pytest.raises(figures.MissingResults, match="rank 32"):
        text_figures.trained_and_remaining(rows, 32)
