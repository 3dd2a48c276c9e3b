"""Tables of shapes: equal to the networks and to the rules that they stand for."""

import keras
import pytest

from clora_lab import rules
from clora_lab.lab.nets import mlp
from clora_lab.lab.nets import registry as nets
from clora_lab.slides import shapes


def test_the_toy_table_is_the_toy_net():
    net = mlp.toy_mlp()
    found = [(layer.name, tuple(layer.kernel.shape), layer.count_params()) for layer in net.layers]
    assert found == [(layer.name, layer.kernel, layer.parameters) for layer in shapes.TOY]
    assert tuple(layer.name for layer in shapes.TOY_WRAPPED) == nets.targets("toy_mlp")


def test_the_vgg16_table_is_the_convolutions_of_keras():
    net = keras.applications.VGG16(weights=None, include_top=False, input_shape=(32, 32, 3))
    found = [(layer.name, layer.count_params(), tuple(layer.output.shape[1:])) for layer in net.layers[1:]]
    table = [(layer.name, layer.parameters, layer.output) for layer in shapes.VGG16]
    assert found == table[: len(found)]
    assert [layer.output for layer in shapes.VGG16[len(found) :]] == [(512,), (4096,), (512,), (10,)]
    assert len(shapes.VGG16_WRAPPED) == 15 and shapes.VGG16_HEAD.parameters == 5_130


@pytest.mark.parametrize(
    ("net", "embeddings", "encoder", "backbone"),
    [
        (shapes.BERT_TINY, 3_972_864, 396_544, 4_385_920),
        (shapes.BERT_SMALL, 15_891_456, 12_609_536, 28_763_648),
    ],
)
def test_the_parts_of_bert_add_up(net, embeddings, encoder, backbone):
    assert shapes.total(net.embeddings) == embeddings
    assert shapes.total(net.encoder) == encoder
    assert net.parameters == backbone
    assert len(net.attention) == 4 * net.blocks and len(net.norms) == 2 * net.blocks


@pytest.mark.parametrize("factorization", ["spatial", "loralib", "pair"])
def test_a_pair_costs_what_the_rule_of_its_layer_says(factorization):
    conv = keras.layers.Conv2D(6, 3, padding="same")
    conv.build((None, 8, 8, 5))
    dense = keras.layers.Dense(7)
    dense.build((None, 11))
    query = keras.layers.EinsumDense("abc,cde->abde", output_shape=(None, 2, 4), bias_axes="de")
    query.build((None, 3, 8))
    output = keras.layers.EinsumDense("abcd,cde->abe", output_shape=(None, 8), bias_axes="e")
    output.build((None, 3, 2, 4))
    for layer, contracted in ((conv, 1), (dense, 1), (query, 1), (output, 2)):
        row = shapes.Layer("x", type(layer).__name__, tuple(layer.kernel.shape), contracted=contracted)
        rule = rules.rule(layer, factorization)
        assert row.pair(3, factorization) == rule.parameters(3)


def test_a_pair_refuses():
    pool = shapes.VGG16[2]
    with pytest.raises(ValueError, match="'block1_pool' must be Dense, EinsumDense, Conv2D or Embedding"):
        pool.pair(4)
    with pytest.raises(ValueError, match="`rank` must be an integer of at least 1"):
        shapes.TOY[0].pair(0)
    with pytest.raises(ValueError, match="`factorization`.*loralib"):
        shapes.TOY[0].pair(4, "loralip")


def test_at_rank_64_the_pairs_of_bert_tiny_are_as_large_as_its_kernels():
    """So the slide's 33.6% saves nothing: the kernels are 128 × 128."""
    net = shapes.BERT_TINY
    assert shapes.remaining(net.attention, 64) == shapes.total(net.attention)
