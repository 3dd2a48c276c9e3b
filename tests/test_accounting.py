"""What a net stores and computes, counted by hand, and the published ways to state a ratio."""

import keras
import nets
import numpy as np
import pytest
from keras import layers

import clora_lab as cl

COLUMNS = [
    "layer",
    "type",
    "compressed",
    "original_parameters",
    "parameters",
    "run_parameters",
    "ratio",
    "original_flops",
    "flops",
    "flops_ratio",
]


def toy(rank, method="bias"):
    original = nets.toy()
    compressed = nets.compress(original, rank, method=method)
    return original, compressed, cl.finalize(compressed, force=True)


def conv(factorization="pair", method="bias", **arguments):
    original = nets.convolutional()
    compressed = nets.compress(original, rank=2, method=method, factorization=factorization, **arguments)
    return original, compressed, cl.finalize(compressed, force=True)


def by_layer(frame):
    return frame.set_index("layer").to_dict("index")


# Tables


@pytest.mark.parametrize("finalized", [False, True])
def test_report_of_the_toy_net_by_hand(finalized):
    original, compressed, small = toy(16)
    frame = cl.report(original, small if finalized else compressed)
    assert list(frame.columns) == COLUMNS
    assert frame["layer"].tolist() == ["dense", "dense_1", "dense_2", "total"]
    assert frame["compressed"].tolist() == [True, True, False, True]
    assert frame["type"].tolist() == ["Dense", "Dense", "Dense", ""]
    rows = by_layer(frame)
    assert rows["dense"]["original_parameters"] == 784 * 256 + 256
    assert rows["dense"]["parameters"] == 16 * (784 + 256) + 256
    assert rows["dense"]["original_flops"] == 2 * 784 * 256
    assert rows["dense"]["flops"] == 2 * 16 * (784 + 256)
    assert rows["dense_1"]["parameters"] == 16 * (256 + 128) + 128
    assert rows["dense_2"]["parameters"] == rows["dense_2"]["original_parameters"] == 1290
    total = rows["total"]
    assert total["original_parameters"] == 235_146
    assert total["parameters"] == total["run_parameters"] == 23_168 + 1290
    assert total["original_flops"] == 2 * (784 * 256 + 256 * 128 + 1280)
    assert total["flops"] == 2 * (16 * (784 + 256) + 16 * (256 + 128) + 1280)
    np.testing.assert_allclose(frame["ratio"], frame["parameters"] / frame["original_parameters"])
    np.testing.assert_allclose(frame["flops_ratio"], frame["flops"] / frame["original_flops"])


@pytest.mark.parametrize("finalized", [False, True])
@pytest.mark.parametrize("factorization", ["pair", "loralib"])
def test_report_of_a_convolutional_net_by_hand(factorization, finalized):
    original, compressed, small = conv(factorization)
    rows = by_layer(cl.report(original, small if finalized else compressed))
    assert list(rows) == ["conv_0", "conv_1", "dense_0", "head", "total"]
    # 8 x 8 x 3 -> stride 2 -> 4 x 4 x 6 -> 4 x 4 x 8 -> 128 -> 7 -> 5
    assert rows["conv_0"]["original_parameters"] == 3 * 3 * 3 * 6 + 6
    assert rows["conv_0"]["original_flops"] == 2 * (3 * 3 * 3 * 6) * 16
    assert rows["conv_1"]["original_flops"] == 2 * (3 * 3 * 6 * 8) * 16
    if factorization == "pair":
        assert rows["conv_0"]["parameters"] == 2 * (27 + 6) + 6 == rows["conv_0"]["run_parameters"]
        assert rows["conv_0"]["flops"] == 2 * 2 * (27 + 6) * 16
        assert rows["conv_1"]["flops"] == 2 * 2 * (54 + 8) * 16
    else:  # fewer are stored, as many are run
        assert rows["conv_0"]["parameters"] == 9 * 2 * (3 + 6) + 6
        assert rows["conv_0"]["run_parameters"] == 3 * 3 * 3 * 6 + 6
        assert rows["conv_1"]["parameters"] == 9 * 2 * (6 + 8) + 8
        assert rows["conv_0"]["flops"] == rows["conv_0"]["original_flops"]
    assert rows["dense_0"]["parameters"] == 2 * (128 + 7) + 7 == rows["dense_0"]["run_parameters"]
    assert rows["dense_0"]["flops"] == 2 * 2 * (128 + 7)
    assert rows["head"]["flops"] == rows["head"]["original_flops"] == 2 * 7 * 5
    layers_ = [row for name, row in rows.items() if name != "total"]
    for column in ("original_parameters", "parameters", "run_parameters", "original_flops", "flops"):
        assert rows["total"][column] == sum(row[column] for row in layers_)
    assert rows["total"]["original_parameters"] == original.count_params()
    if finalized:
        assert rows["total"]["run_parameters"] == small.count_params()


@pytest.mark.parametrize("method", ["wds", "noise"])
def test_methods_without_a_bias_store_none(method):
    original, compressed, small = toy(16, method=method)
    for net in (compressed, small):
        rows = by_layer(cl.report(original, net))
        assert rows["dense"]["parameters"] == 16 * (784 + 256)


def test_layers_without_a_kernel():
    inputs = keras.Input((8,))
    x = layers.BatchNormalization(name="norm")(layers.Dense(6, name="a")(inputs))
    outputs = layers.Dense(3, name="out")(layers.ReLU(name="relu")(x))
    original = keras.Model(inputs, outputs)
    frame = cl.report(original, nets.compress(original))
    assert frame["layer"].tolist() == ["a", "norm", "out", "total"]  # no row without parameters
    rows = by_layer(frame)
    assert rows["norm"]["parameters"] == rows["norm"]["original_parameters"] == 4 * 6
    assert rows["norm"]["flops"] == 0 and np.isnan(rows["norm"]["flops_ratio"])


def test_sequences_and_einsums_count_each_position():
    inputs = keras.Input((5, 6))
    x = layers.EinsumDense("abc,cde->abde", (5, 3, 4), bias_axes="de", name="query")(inputs)
    x = layers.EinsumDense("abcd,cde->abe", (5, 7), bias_axes="e", name="merge")(x)
    original = keras.Model(inputs, layers.Dense(3, name="out")(x))
    compressed = nets.compress(original, rank=2, method="bias")
    for net in (compressed, cl.finalize(compressed, force=True)):
        rows = by_layer(cl.report(original, net))
        assert rows["query"]["original_flops"] == 2 * 6 * 12 * 5
        assert rows["query"]["flops"] == 2 * 2 * (6 + 12) * 5
        assert rows["merge"]["flops"] == 2 * 2 * (12 + 7) * 5
        assert rows["merge"]["parameters"] == 2 * (12 + 7) + 7
        assert rows["out"]["flops"] == 2 * 7 * 3 * 5


def test_nested_and_shared_layers_have_one_row_by_path():
    inputs = keras.Input((6,))
    inner = keras.Sequential([keras.Input((6,)), layers.Dense(6, name="a")], name="inner")
    original = keras.Model(inputs, layers.Dense(3, name="out")(inner(inner(inputs))))
    compressed = nets.compress(original, rank=2, method="wds")
    for net in (compressed, cl.finalize(compressed, force=True)):
        rows = by_layer(cl.report(original, net))
        assert list(rows) == ["inner/a", "out", "total"]
        assert rows["inner/a"]["parameters"] == 2 * (6 + 6)


def test_scratch_counts_as_the_others():
    original = nets.toy()
    scratch = nets.compress(original, 16, method="bias", init="scratch")
    assert cl.report(original, scratch).equals(cl.report(original, toy(16)[1]))


# Ratios


@pytest.mark.parametrize(("rank", "percent"), [(16, 9.85), (32, 19.54), (64, 38.92)])
@pytest.mark.parametrize("method", ["wds", "bias", "noise", "noise_bias"])
def test_toy_ratio_of_the_slides(rank, percent, method):
    original, compressed, small = toy(rank, method)
    kept = {16: 23_168, 32: 45_952, 64: 91_520}[rank]
    for net in (compressed, small):
        ratio = cl.ratio(original, net, convention="slides")
        assert ratio == kept / 235_146
        assert 100 * ratio == pytest.approx(percent, abs=0.01)


def test_ratio_by_each_convention():
    original, compressed, small = toy(16, "bias")
    for net in (compressed, small):
        assert cl.ratio(original, net, "slides") == 23_168 / 235_146
        assert cl.ratio(original, net, "slides_head") == (23_168 + 1290) / 235_146
        assert cl.ratio(original, net, "model") == (23_168 + 1290) / 235_146
        assert cl.ratio(original, net, "layers") == 23_168 / (235_146 - 1290)
        assert cl.ratio(original, net) == cl.ratio(original, net, "model")


def test_conventions_differ_where_the_method_keeps_no_bias():
    original, compressed, small = toy(16, "wds")
    for net in (compressed, small):
        assert cl.ratio(original, net, "slides") == 23_168 / 235_146  # counts one all the same
        assert cl.ratio(original, net, "layers") == (23_168 - 384) / (235_146 - 1290)
        assert cl.ratio(original, net, "model") == (23_168 - 384 + 1290) / 235_146


def test_ratio_counts_the_frozen_layers_only_where_it_says_so():
    original = nets.toy()
    compressed = nets.compress(original, 16, method="bias", targets="dense")
    kept, rest = 16 * (784 + 256) + 256, 235_146 - 785 * 256
    assert cl.ratio(original, compressed, "slides") == kept / 235_146
    assert cl.ratio(original, compressed, "model") == (kept + rest) / 235_146
    assert cl.ratio(original, compressed, "layers") == kept / (785 * 256)


def test_ratio_of_a_loralib_convolution_is_of_what_is_stored():
    original, compressed, small = conv("loralib", targets="conv_*")
    kept = 18 * (3 + 6) + 6 + 18 * (6 + 8) + 8
    for net in (compressed, small):
        assert cl.ratio(original, net, "slides") == kept / original.count_params()


def test_every_convention_is_explained():
    assert set(cl.CONVENTIONS) == {"slides", "slides_head", "model", "layers"}
    assert set(cl.ENCODER_CONVENTIONS) == {"slides_bert", "slides_bert_norms", "encoder"}
    for meanings in (cl.CONVENTIONS, cl.ENCODER_CONVENTIONS):
        assert all(len(text) > 20 for text in meanings.values())


# Bad input


def test_unknown_convention_suggests_the_nearest():
    original, compressed, _ = toy(16)
    with pytest.raises(ValueError, match="`convention` must be one of") as error:
        cl.ratio(original, compressed, "slide")
    assert "Received: 'slide'. Did you mean 'slides'?" in str(error.value)


@pytest.mark.parametrize("function", [cl.report, cl.ratio])
def test_models_with_other_layers_do_not_belong_together(function):
    original, other = nets.toy(), nets.compress(nets.sequential())
    with pytest.raises(ValueError, match="Layer 'dense' of `original` is not in") as error:
        function(original, other)
    assert "compress() or finalize()" in str(error.value) and "dense_0" in str(error.value)


@pytest.mark.parametrize("function", [cl.report, cl.ratio])
@pytest.mark.parametrize("finalized", [False, True])
def test_models_with_other_shapes_do_not_belong_together(function, finalized):
    original = nets.sequential((12, 10, 3))
    other = nets.compress(nets.sequential((12, 9, 3)))
    if finalized:
        other = cl.finalize(other, force=True)
    with pytest.raises(ValueError, match="Layer 'dense_1' of `original`.*compress") as error:
        function(original, other)
    assert "(12, 10)" in str(error.value) and "(12, 9)" in str(error.value)


def test_ratio_of_the_compressed_layers_where_there_are_none():
    original = nets.toy()
    assert cl.ratio(original, original) == 1.0
    with pytest.raises(ValueError, match="'layers'.*no compressed layer"):
        cl.ratio(original, original, "layers")
