"""Ways to make a matrix of a kernel, what they cost, and their drawings."""

import keras
import numpy as np
import pytest

from clora_lab.course import convolution

SHAPE = (3, 3, 4, 6)


def kernel(seed=0, shape=SHAPE):
    return np.random.default_rng(seed).normal(size=shape)


def convolved(x, *kernels):
    for one in kernels:
        x = keras.ops.conv(x, np.asarray(one, "float32"), padding="same")
    return keras.ops.convert_to_numpy(x)


def test_costs_of_the_ways_by_hand():
    table = convolution.ways((3, 3, 128, 256), rank=16)
    assert table["parameters"].to_dict() == {
        "full": 9 * 128 * 256,
        "pair": 16 * (9 * 128 + 256),
        "loralib": 9 * 16 * (128 + 256),
        "spatial": 9 * 16 * (128 + 256),
    }
    assert table.loc["loralib", "multiply_adds"] == table.loc["full", "multiply_adds"]
    assert (table.loc[["pair", "spatial"], "share"] == table.loc[["pair", "spatial"], "flops_share"]).all()


@pytest.mark.parametrize("way", convolution.WAYS)
def test_matrix_holds_each_weight_once_in_the_shape_of_the_table(way):
    places = np.arange(np.prod(SHAPE)).reshape(SHAPE)
    matrix = convolution.to_matrix(places, way)
    table = convolution.ways(SHAPE, 2)
    assert matrix.shape == (table.loc[way, "rows"], table.loc[way, "columns"])
    assert sorted(matrix.ravel()) == list(range(places.size))


def test_spatial_factors_are_two_convolutions_exactly():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(2, 7, 7, 4)).astype("float32")
    down, up = rng.normal(size=(12, 5)), rng.normal(size=(5, 18))
    product = (down @ up).reshape(3, 4, 3, 6).transpose(2, 0, 1, 3)  # (kw, ci), (kh, co) -> kh, kw, ci, co
    np.testing.assert_allclose(convolution.to_matrix(product, "spatial"), down @ up)
    row, column = down.reshape(1, 3, 4, 5), up.reshape(5, 3, 6).transpose(1, 0, 2)[:, None]
    two = convolved(x, row, column)
    np.testing.assert_allclose(two, convolved(x, product), atol=1e-3)
    assert np.abs(two).max() > 1


def test_low_rank_by_one_way_is_not_by_another():
    down, up = np.random.default_rng(2).normal(size=(36, 2)), np.random.default_rng(3).normal(size=(2, 6))
    product = (down @ up).reshape(SHAPE)
    ranks = {way: np.linalg.matrix_rank(convolution.to_matrix(product, way)) for way in convolution.WAYS}
    assert ranks["pair"] == 2 and ranks["loralib"] > 2 and ranks["spatial"] > 2


@pytest.mark.parametrize("shape", [(3, 5, 4, 6), (3, 3, 4), (3, 3, 0, 6)])
def test_kernels_that_are_none(shape):
    with pytest.raises(ValueError, match="kernel_shape.*Received"):
        convolution.ways(shape, 2)


def test_unknown_way():
    with pytest.raises(ValueError, match="`way` must be one of"):
        convolution.to_matrix(kernel(), "tucker")


@pytest.mark.parametrize("shape", [(3, 3, 3, 4), (3, 3, 4, 2), (5, 5, 2, 3)])
def test_three_matrices(shape):
    text = convolution.three_matrices(shape).alt_text
    assert f"pair {shape[0] ** 2 * shape[2]} × {shape[3]}" in text
    with pytest.raises(ValueError, match="at most 5 x 5"):
        convolution.three_matrices((3, 3, 64, 64))


def test_drawing_names_all_costs():
    text = convolution.low_rank_convolution((3, 3, 64, 128), 16).alt_text
    for number in ("73,728", "11,264", "27,648"):
        assert number in text
