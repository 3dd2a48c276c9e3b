"""Attention of a small net against NumPy; what nets say of reviews."""

import keras
import numpy as np
import pandas as pd
import pytest

import clora_lab as cl
from clora_lab.course import attention
from clora_lab.lab.data import text, tokens
from clora_lab.lab.nets import bert
from clora_lab.lab.nets import registry as nets

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
        bert.tokenizer_of(vocabulary), sequence_length=LENGTH
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
    return tokens.tokenise(TEXTS, net.preprocessor.tokenizer, LENGTH, cached=False)


def test_attention_is_softmax_of_queries_and_keys(net, inputs):
    scores = attention.attention_scores(net, inputs)
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
        attention.attention_scores(net, inputs)
    last, _ = found[hooked.name]
    own = net.backbone(inputs)["sequence_output"]
    np.testing.assert_allclose(*(keras.ops.convert_to_numpy(each) for each in (last, own)), atol=1e-5)


def test_nobody_looks_at_padding_and_compression_is_seen(net, inputs):
    before = attention.attention_scores(net, inputs)
    padding = inputs["padding_mask"][1] == 0
    assert padding.any() and before[:, 1][..., padding].max() < 1e-6
    small = cl.compress(
        net, 2, "bias", cl.LinearDecay(1), targets=nets.targets("bert_tiny", "attention"), seed=0
    )
    same = attention.attention_change(
        before, attention.attention_scores(small, inputs), inputs["padding_mask"]
    )
    assert same["change"].max() < 1e-5  # d = 1: W is all there
    final = cl.finalize(small, force=True)
    after = attention.attention_scores(final, inputs)
    changed = attention.attention_change(before, after, inputs["padding_mask"])
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
    line = attention.attention_change(before, after, [[1, 1, 0]]).iloc[0]
    assert line["change"] == pytest.approx(0.75 / 2)
    entropy = -(0.25 * np.log(0.25) + 0.75 * np.log(0.75))
    assert line["attended_before"] == pytest.approx(1)
    assert line["attended_after"] == pytest.approx((np.exp(entropy) + 1) / 2)
    with pytest.raises(ValueError, match="one shape"):
        attention.attention_change(before, after[..., :2], [[1, 1, 0]])
    with pytest.raises(ValueError, match="encoder blocks"):
        attention.attention_scores(keras.Sequential(), {})


# --- predictions --------------------------------------------------------------------------------


def test_predictions_are_the_nets_own(net):
    tokenizer = net.preprocessor.tokenizer
    table = attention.predictions({"a": net, "b": tiny_classifier(1)}, TEXTS, tokenizer, LENGTH, batch=1)
    logits = keras.ops.convert_to_numpy(net(tokens.tokenise(TEXTS, tokenizer, LENGTH, cached=False)))
    softmax = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(table["a"], softmax[:, 1], rtol=1e-4)
    assert table["text"].tolist() == TEXTS and (table["a"] - table["b"]).abs().max() > 1e-3
    with pytest.raises(ValueError, match="two logits"):
        attention.predictions({"a": lambda x, training: x["token_ids"]}, TEXTS, tokenizer, LENGTH)


def test_errors_name_who_is_right():
    table = pd.DataFrame(
        {"text": list("abcd"), "dense": [0.9, 0.9, 0.4, 0.6], "small": [0.8, 0.1, 0.7, 0.7]},
    )
    found = attention.errors(table, [1, 1, 1, 0])
    assert found.set_index("text")["verdict"].to_dict() == {
        "a": "both right",
        "b": "only dense right",
        "c": "only small right",
        "d": "both wrong",
    }
    assert found["text"].iloc[0] == "b"
    with pytest.raises(ValueError, match="two nets"):
        attention.errors(table, [1, 0])
