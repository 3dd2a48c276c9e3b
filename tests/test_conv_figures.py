"""Ways to factor a kernel, the VGG16 table beside ours, and their figures."""

import numpy as np
import pandas as pd
import pytest
import rows as made_up

import clora_lab as cl
from clora_lab import rules
from clora_lab.lab import frames
from clora_lab.lab.figures import conv_figures, style
from clora_lab.lab.figures import nets as pictures
from clora_lab.lab.nets import vgg
from clora_lab.slides import published

SHAPE = (3, 3, 4, 6)


def kernel(seed=0, shape=SHAPE):
    return np.random.default_rng(seed).normal(size=shape)


def row(method, value, rank=16, dense_rank=16, factorization="loralib", seed=0, **fields):
    """The rows of one run, its numbers made up."""
    if method == "dense":
        rank, dense_rank, factorization = 0, 0, ""
    base = made_up.blank("vgg16") | {
        "study": "vgg16", "dataset": "cifar10_jpeg", "model": "vgg16", "variant": "short", "start": "random",
        "precision": "mixed_bfloat16", "train_size": 5000, "test_size": 1000, "epochs": 4, "method": method,
        "rank": rank, "dense_rank": dense_rank, "factorization": factorization, "seed": seed,
    }  # fmt: skip
    base |= {"config": f"{method}-{rank}-{dense_rank}-{factorization}-{seed}"} | fields
    flops = {"": 100.0, "loralib": 98.0, "pair_equal": 12.0}[factorization]
    values = [("test", "compressed", "accuracy", value), ("test", "trained", "accuracy", 0.0)]
    values += [("model", "-", "ratio_percent", 6.87), ("model", "-", "flops_percent", flops)]
    if method == "dense":
        values = [("test", "trained", "accuracy", value), values[-1]]
    names = ("split", "view", "metric", "value")
    return [base | dict(zip(names, each, strict=True)) for each in values]


@pytest.fixture
def rows():
    runs = [row("dense", 0.5), row("wds", 0.4), row("noise_bias", 0.45), row("scratch", 0.46)]
    runs += [row("noise_bias", 0.44, factorization="pair_equal")]
    return pd.DataFrame([line for run in runs for line in run])


# --- figures ------------------------------------------------------------------------------------


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
        assert len(kept) == (9 if factorization == "loralib" else 3) < len(dense)
        np.testing.assert_allclose(kept, dense[: len(kept)], rtol=1e-3)
    text = style.alt_text(pictures.spectra(table, "Spectra"))
    assert "block3_conv1" in text
    with pytest.raises(ValueError, match="no wrapped layers"):
        pictures.kept_kernels(net)


def test_too_many_layers_for_one_picture():
    table = pd.DataFrame({"layer": [str(i) for i in range(10)], "net": "dense", "index": 1, "value": 1.0})
    with pytest.raises(ValueError, match="at most nine"):
        pictures.spectra(table, "Spectra")


# --- the study ----------------------------------------------------------------------------------


def test_published_and_measured_side_by_side(rows):
    table = conv_figures.compare(rows).set_index(["method", "rank", "dense_rank", "factorization"])
    cell = table.loc[("noise_bias", 16, 16, "loralib")]
    slides = published.load("vgg16")
    slides = slides[(slides["method"] == "noise_bias") & (slides["conv_rank"] == 16)].iloc[0]
    assert cell["published"] == slides["accuracy_percent"] and cell["published_sd"] == slides["accuracy_sd"]
    assert cell["measured"] == pytest.approx(45) and cell["gap"] == pytest.approx(-5)
    other = table.loc[("noise_bias", 16, 16, "pair_equal")]
    assert pd.isna(other["published"]) and other["flops"] == 12
    assert pd.isna(table.loc[("wds", 32, 64, "loralib"), "measured"])
    assert table["published"].notna().sum() == len(published.load("vgg16"))


def test_means_over_seeds(rows):
    more = pd.DataFrame(row("dense", 0.6, seed=1) + row("wds", 0.6, seed=1))
    table = conv_figures.compare(pd.concat([rows, more], ignore_index=True))
    cell = table[(table["method"] == "wds") & (table["n"] == 2)].iloc[0]
    assert cell["measured"] == pytest.approx(50) and cell["gap"] == pytest.approx(-5)
    assert cell["sd"] == pytest.approx(np.std([40, 60], ddof=1))


def test_conditions_are_read_from_the_rows(rows):
    text = conv_figures.conditions(rows)
    for part in ("from random initialisation", "5,000 training and 1,000 test", "bfloat16", "one seed"):
        assert part in text
    assert "(the slides: 20)" in text
    full = rows.assign(epochs=20, precision="float32", start="imagenet", model="small_vgg")
    text = conv_figures.conditions(full)
    assert "the slides: 20" not in text and "bfloat16" not in text
    assert "from ImageNet weights" in text and "stands in for VGG16" in text
    with pytest.raises(ValueError, match="one `precision`"):
        conv_figures.conditions(pd.concat([rows, full.assign(model="vgg16", start="random")]))


def test_table_and_plot_say_what_was_measured(rows):
    fig = conv_figures.comparison_table(rows)
    for part in ("from random initialisation", "45.00", "75.57 ± 0.40", "Low-rank"):
        assert part in style.alt_text(fig)
    printed = {text.get_text() for text in fig.axes[0].texts}
    assert {"45.00", "44.00", "40.00", "75.57 ± 0.40", "pair equal"} <= printed
    fig = conv_figures.accuracy_against_flops(rows)
    assert "12.0 to 12.0% of the FLOPs" in style.alt_text(fig)
    with pytest.raises(frames.MissingResults, match="dense net alone"):
        conv_figures.accuracy_against_flops(rows[rows["method"] == "dense"])


def test_other_data_are_said_not_to_compare(rows):
    fig = conv_figures.comparison_table(rows.assign(dataset="digits32", model="small_vgg"))
    said = " ".join(artist.get_text() for artist in fig.findobj(lambda a: hasattr(a, "get_text")))
    assert "not comparable" in said
