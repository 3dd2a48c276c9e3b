"""The widgets: plain functions against the package, controls set from code, a live training on digits."""

import math
import time
import warnings

import keras
import numpy as np
import pandas as pd
import pytest

import clora_lab as cl
from clora_lab import methods, noise, schedules, studies
from clora_lab.course import widgets
from clora_lab.course.widgets import frame
from clora_lab.course.widgets import noise as noise_widget
from clora_lab.course.widgets import rank as rank_widget
from clora_lab.lab.data import registry as datasets
from clora_lab.lab.figures import style
from clora_lab.lab.nets import mlp
from clora_lab.lab.study import MEASURED, PROVENANCE


def compress(model, rank, **arguments):
    arguments.setdefault("schedule", cl.LinearDecay(100))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", cl.BreakEvenWarning)
        return cl.compress(model, rank, **arguments)


def convolutional():
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            keras.layers.Conv2D(6, 3, padding="same", activation="relu", name="conv_0"),
            keras.layers.Conv2D(8, 3, strides=2, use_bias=False, name="conv_1"),
            keras.layers.Flatten(name="flatten"),
            keras.layers.Dense(12, activation="relu", name="dense_0"),
            keras.layers.Dense(5, name="head"),
        ],
        name="convolutional",
    )


def small_mlp():
    return mlp.toy_mlp(features=64, classes=10)


def recorded(values, epochs=3):
    """Result rows and epochs as the studies record them, of {(method, rank, seed): test accuracy}."""
    made = dict.fromkeys(PROVENANCE, "made up") | {"train_size": 100, "test_size": 50}
    slides = methods.names("slides")
    rows, history = [], []
    for (method, rank, seed), accuracy in values.items():
        fields = {"rank": rank} if rank else {}
        one = studies.get("toy").run(dataset="digits", method=method, seed=seed, **fields)
        run = {**one, **made, "config": one.config}
        ratio = 100.0 if method == "dense" else rank / 2
        found = [("validation", "trained", "accuracy", accuracy - 0.1)]
        found += [("test", "trained", "accuracy", accuracy), ("test", "trained", "loss", 1 - accuracy)]
        if method in slides:
            found += [("test", "compressed", "accuracy", accuracy - 0.01)]
        found += [("model", "-", "ratio_percent", ratio), ("model", "-", "seconds", 10.0 + seed)]
        rows += [run | dict(zip(MEASURED, each, strict=True)) for each in found]
        for epoch in range(epochs):
            reached = accuracy * epoch / (epochs - 1)
            other = reached / 2 if method in slides else np.nan
            views = {"val_accuracy": reached, "val_compressed_accuracy": other, "val_loss": 1 - reached}
            views |= {"val_compressed_loss": np.nan, "decay": 1 - epoch / (epochs - 1), "noise": 0.0}
            history.append(run | {"epoch": epoch} | views)
    return pd.DataFrame(rows), pd.DataFrame(history)


@pytest.fixture(scope="module")
def rows():
    return recorded(
        {
            ("dense", 0, 0): 0.95,
            ("dense", 0, 1): 0.93,
            ("wds", 8, 0): 0.90,
            ("wds", 8, 1): 0.88,
            ("wds", 16, 0): 0.92,
            ("svd", 8, 0): 0.30,
            ("noise_bias", 8, 0): 0.94,
        }
    )


def changed(explorer, **settings):
    """Set controls; whether the picture changed."""
    before = explorer.image.value
    for name, value in settings.items():
        explorer.controls[name].value = value
    return explorer.image.value != before


def assert_is_refused(explorer, *words, **settings):
    """Settings that can't be had keep the picture and bring a message, which vanishes afterwards."""
    before, good = explorer.image.value, explorer.settings
    explorer.set(**settings)
    explorer.update()
    assert 'role="alert"' in explorer.message.value
    for word in words:
        assert word in explorer.message.value
    assert explorer.image.value == before
    assert "clora-stale" in explorer.image._dom_classes
    explorer.set(**good)
    explorer.update()
    assert explorer.message.value == ""
    assert "clora-stale" not in explorer.image._dom_classes


# --- schedules ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", schedules.SCHEDULES)
def test_schedule_table_is_the_packages_schedule(kind):
    frame = widgets.schedule_table(kind, begin=0.1, end=0.7, floor=0.2, gate=0.4, steps=200)
    schedule = schedules.get(kind, 200, begin=0.1, end=0.7, floor=0.2)
    expected = np.array([schedule(int(step)) for step in range(201)])
    np.testing.assert_array_equal(frame["decay"], expected)
    open_ = (expected >= 0.4) & (expected < 1)
    np.testing.assert_allclose(frame["noise"], np.where(open_, np.sqrt(1 - expected**2), 0))
    np.testing.assert_allclose(frame["w_share"] + frame["noise_share"], np.where(open_, 1, expected**2))
    assert frame["percent"].iloc[[0, 100, 200]].tolist() == [0.0, 50.0, 100.0]


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"begin": 0.9}, ["begin", "0.9", "0.85", "Move"]),
        ({"end": 0.05}, ["smaller than `end`"]),
        ({"begin": math.nan}, ["begin", "nan"]),
        ({"gate": math.nan}, ["gate", "nan"]),
    ],
)
def test_schedule_explorer_refuses_absurd_settings_in_place(settings, words):
    assert_is_refused(widgets.schedule_explorer(), *words, **settings)


def test_schedule_explorer_follows_every_control():
    explorer = widgets.schedule_explorer()
    moved = {"kind": "cosine", "begin": 0.2, "end": 0.6, "floor": 0.1, "gate": 0.5, "at": 30.0}
    assert set(moved) == set(explorer.controls)
    for name, value in moved.items():
        assert changed(explorer, **{name: value}), name
    assert "At 30.0% of the steps" in explorer.text.value
    first = widgets.schedule_explorer().image.value
    explorer.reset_button.click()
    assert explorer.image.value == first
    assert bytes(explorer.image.value[:4]) == b"\x89PNG"


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"floor": 1.0}, "nothing decays"),
        ({"floor": 0.2}, "finalize() refuses"),
        ({"gate": 1.05}, "never opens"),
        ({"kind": "constant"}, "ignores"),
    ],
)
def test_schedule_explorer_remarks_on_legal_but_useless_settings(settings, words):
    explorer = widgets.schedule_explorer()
    assert explorer.message.value == ""
    assert changed(explorer, **settings)
    assert words in explorer.message.value
    assert 'role="alert"' not in explorer.message.value
    explorer.reset()
    assert explorer.message.value == ""


def test_an_unexpected_error_is_shown_with_its_type_and_escaped():
    def view(fig, value):
        if value:
            raise KeyError("<script>")
        fig.alt_text = "nothing"
        return frame.Reading("")

    explorer = frame.Explorer(view, {"value": frame.fraction("value", 0.0)}, 2.0)
    explorer.controls["value"].value = 1.0
    assert "KeyError" in explorer.message.value and "&lt;script&gt;" in explorer.message.value
    explorer.controls["value"].value = 0.0
    assert explorer.message.value == ""


# --- noise --------------------------------------------------------------------------------------


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.7, 1.0])
def test_noise_parts_have_the_packages_moments(decay):
    weights = np.random.default_rng(1).laplace(0.3, 0.2, size=(200, 100))
    parts = widgets.noise_parts(weights, decay, weights.mean(), weights.std())
    mean, std = noise.moments(decay, weights.mean(), weights.std())
    frame = widgets.noise_moments(parts).set_index("part")
    error = 5 * weights.std() / np.sqrt(weights.size)
    np.testing.assert_allclose(frame.loc["noise n", ["mean", "sd"]], [mean, std], atol=error)
    np.testing.assert_allclose(frame.loc["d·W + n", "mean"], weights.mean(), atol=error)
    np.testing.assert_allclose(frame.loc["d·W + n", "sd"], weights.std(), atol=error)
    if decay:
        np.testing.assert_allclose(frame.loc["d·W + n", "correlation"], decay, atol=0.04)
    np.testing.assert_allclose(parts["d·W"], decay * weights.ravel())


def test_noise_densities_are_densities_and_the_normal_one_is_right():
    parts = widgets.noise_parts(None, 0.5, 2.0, 0.7)
    frame = widgets.noise_table(parts)
    width = frame["value"].diff().iloc[1]
    np.testing.assert_allclose(frame.drop(columns="value").sum() * width, 1.0, atol=2e-3)
    density = np.exp(-(((frame["value"] - 2.0) / 0.7) ** 2) / 2) / (0.7 * np.sqrt(2 * np.pi))
    for part in ("W", "d·W + n"):
        np.testing.assert_allclose(frame[part], density, atol=0.06 * density.max())


def test_noise_of_large_kernels_is_drawn_from_a_selection():
    weights = np.random.default_rng(0).normal(size=(1000, 200))
    parts = widgets.noise_parts(weights, 0.5, 0.0, 1.0)
    assert len(parts["W"]) <= noise_widget.MAX_WEIGHTS < weights.size
    assert abs(parts["W"].std() - weights.std()) < 0.02


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"sigma": 0.0}, ["σ", "above 0"]),
        ({"sigma": -1.0}, ["σ", "larger"]),
        ({"sigma": math.nan}, ["σ", "nan"]),
        ({"sigma": math.inf}, ["σ"]),
        ({"m": math.nan}, ["m", "nan"]),
        ({"d": math.nan}, ["d", "nan"]),
    ],
)
def test_noise_explorer_refuses_absurd_settings_in_place(settings, words):
    assert_is_refused(widgets.noise_explorer(), *words, **settings)


def test_noise_explorer_takes_trained_weights_and_their_moments():
    kernels = {"first": np.random.default_rng(0).normal(0.1, 0.05, (30, 20)), "flat": np.zeros((4, 4))}
    explorer = widgets.noise_explorer(kernels)
    assert explorer.settings["source"] == "first"
    np.testing.assert_allclose(explorer.settings["m"], kernels["first"].mean(), rtol=1e-3)
    np.testing.assert_allclose(explorer.settings["sigma"], kernels["first"].std(), rtol=1e-3)
    assert changed(explorer, d=0.1)
    assert changed(explorer, sigma=0.5) and "not those of W" in explorer.message.value
    assert changed(explorer, source=noise_widget.NORMAL)
    assert (explorer.settings["m"], explorer.settings["sigma"]) == (0.0, 1.0)
    assert not changed(explorer, source="flat")
    assert "differ" in explorer.message.value or "above 0" in explorer.message.value
    assert changed(explorer, source="first", d=0.2) and explorer.message.value == ""


# --- ranks --------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep_bias", [True, False])
@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize("layer", [rank_widget.WHOLE, "dense_0", "conv_1", "head"])
@pytest.mark.parametrize("factorization", ["pair", "loralib"])
def test_rank_explorer_counts_as_the_package_does(layer, rank, keep_bias, factorization):
    model = convolutional()
    facts = widgets.layer_facts(model, factorization)
    arguments = {"targets": None if layer == rank_widget.WHOLE else [layer], "factorization": factorization}
    method = "bias" if keep_bias else "wds"
    small = cl.finalize(compress(model, rank, method=method, **arguments), force=True)

    ratios = widgets.rank_ratios(facts, rank, layer, keep_bias)
    assert set(ratios) == set(cl.CONVENTIONS)
    for convention, value in ratios.items():
        assert value == pytest.approx(cl.ratio(model, small, convention), rel=1e-12), convention

    table = widgets.rank_table(facts, rank, layer, keep_bias).set_index("layer")
    report = cl.report(model, small).set_index("layer")
    for name in table.index.drop("sum"):
        for column in ("original_parameters", "parameters", "original_flops", "flops"):
            assert table.loc[name, column] == report.loc[name, column], (name, column)
    parts = table.drop("sum")
    for column in ("original_parameters", "parameters", "original_flops", "flops"):
        assert table.loc["sum", column] == parts[column].sum()


def test_energy_kept_is_that_of_the_best_pair():
    model = small_mlp()
    facts = widgets.layer_facts(model)
    kernel = np.array(keras.ops.convert_to_numpy(model.get_layer("dense").kernel), "float64")
    down, up = cl.factorize.truncated_svd(kernel, 5)
    expected = 1 - np.sum((kernel - down @ up) ** 2) / np.sum(kernel**2)
    assert facts.layers["dense"].kept(5) == pytest.approx(expected, abs=1e-6)
    assert facts.layers["dense"].kept(64) == pytest.approx(1.0)


def test_toy_net_has_the_slides_ratio_and_break_even_ranks():
    facts = widgets.layer_facts(mlp.toy_mlp())
    assert round(100 * widgets.rank_ratios(facts, 64)["slides"], 2) == 38.92
    table = widgets.rank_table(facts, 16).set_index("layer")
    assert table["break_even_rank"].to_dict() == {"dense": 193, "dense_1": 86, "sum": 164}
    assert table["max_rank"].to_dict() == {"dense": 256, "dense_1": 128, "sum": 128}


def test_rank_explorer_refuses_impossible_ranks_in_place():
    explorer = widgets.rank_explorer(small_mlp())
    assert_is_refused(explorer, "rank", "at least 1", "0", rank=0)
    assert_is_refused(explorer, "rank", "at most 64", "dense", rank=65)
    assert changed(explorer, layer="dense_1") and changed(explorer, rank=100)
    assert "below 86" in explorer.message.value
    assert changed(explorer, rank=8, keep_bias=False) and explorer.message.value == ""
    assert "Rank 8 for layer dense_1" in explorer.text.value


def test_rank_explorer_needs_a_model_that_can_be_compressed():
    with pytest.raises(ValueError, match="must be a keras.Model"):
        widgets.rank_explorer("vgg16")
    with pytest.raises(ValueError, match="not built"):
        widgets.rank_explorer(keras.Sequential([keras.layers.Dense(3)]))


# --- results ------------------------------------------------------------------------------------


def test_results_summary_is_mean_and_sd_over_seeds(rows):
    table = widgets.results_tables(rows[0])["toy, scikit-learn digits, slides"]
    frame = widgets.results_summary(table).set_index(["method", "cell"])
    wds = frame.loc[("wds", "8")]  # BA alone was measured 0.01 lower
    assert wds["mean"] == pytest.approx(88) and wds["sd"] == pytest.approx(np.std([90, 88], ddof=1))
    assert (wds["n"], wds["ratio_percent"]) == (2, 4.0)
    assert frame.loc[("dense", "0"), "mean"] == pytest.approx(94)
    assert np.isnan(frame.loc[("svd", "8"), "sd"])
    trained = widgets.results_summary(table, view="trained", split="validation")
    assert trained.set_index(["method", "cell"]).loc[("wds", "16"), "mean"] == pytest.approx(82)
    seconds = widgets.results_summary(table, metric="seconds")
    assert seconds.set_index(["method", "cell"]).loc[("wds", "8"), "mean"] == pytest.approx(10.5)
    for wrong, words in (
        ({"metric": "f1"}, "metric"),
        ({"view": "whole"}, "view"),
        ({"split": "training"}, "'training'"),
        ({"ratio": "model"}, "ratio_model"),  # was not recorded
    ):
        with pytest.raises(ValueError, match=words):
            widgets.results_summary(table, **wrong)


def test_rows_that_no_mean_should_mix_are_no_table(rows):
    both = pd.concat([rows[0], rows[0].assign(variant="cosine", config=rows[0]["config"] + "c")])
    assert [name.rpartition(" ")[2] for name in widgets.results_tables(both)] == ["slides", "cosine"]
    (table,) = widgets.results_tables(rows[0]).values()
    mixed = pd.concat([table, table.assign(epochs=99, config=table["config"] + "e")])
    with pytest.raises(ValueError, match="one setting"):
        widgets.results_summary(mixed)


def test_results_curves_take_the_view_that_was_measured(rows):
    results, history = rows
    configs = results.loc[results["rank"].isin([0, 8]) & (results["method"] != "noise_bias"), "config"]
    curves = widgets.results_curves(history, configs)
    assert list(curves) == ["dense", "wds", "svd"]
    assert curves["dense"].iloc[-1] == pytest.approx(94)
    assert curves["wds"].iloc[-1] == pytest.approx(89 / 2)
    trained = widgets.results_curves(history, configs, view="trained")
    assert trained["wds"].iloc[-1] == pytest.approx(89)


@pytest.mark.parametrize("with_history", [True, False])
def test_results_explorer_follows_its_controls(rows, with_history):
    explorer = widgets.results_explorer(rows[0], rows[1] if with_history else None)
    assert explorer.message.value == ""
    assert "Only WDS, 8" in explorer.text.value and "± 1.41%" in explorer.text.value
    assert changed(explorer, rank="8") and "Only WDS, 16" not in explorer.text.value
    assert changed(explorer, methods=("dense", "wds")) and "SVD" not in explorer.text.value
    assert changed(explorer, split="validation")
    assert changed(explorer, metric="seconds") and changed(explorer, view="trained") is False
    explorer.reset()
    assert_is_refused(explorer, "No rows", methods=())
    assert_is_refused(explorer, "Choose", "wds 16", methods=("noise_bias",), rank="16")


def test_results_explorer_needs_recorded_columns(rows):
    with pytest.raises(ValueError, match="columns"):
        widgets.results_explorer(rows[0].drop(columns="config"))
    with pytest.raises(ValueError, match="at least one row"):
        widgets.results_explorer(rows[0].iloc[:0])


# --- still pictures -----------------------------------------------------------------------------


def test_every_widget_has_a_still_picture_with_a_description(rows, tmp_path):
    stills = {
        "schedule": widgets.schedule_explorer_static(floor=0.1),
        "noise": widgets.noise_explorer_static({"dense": np.random.default_rng(0).normal(size=500)}),
        "rank": widgets.rank_explorer_static(small_mlp()),
        "results": widgets.results_explorer_static(*rows),
        "live": widgets.live_training_static(rows[1], method="noise_bias", rank=8),
    }
    for name, fig in stills.items():
        assert len(style.alt_text(fig)) > 40
        png, svg = style.save(fig, tmp_path / name)
        assert png.stat().st_size > 10_000 and svg.stat().st_size > 10_000
    assert "94.0%" in style.alt_text(stills["live"])
    with pytest.raises(ValueError, match="rank=64"):
        widgets.live_training_static(rows[1], rank=64)


# --- live training ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits():
    return datasets.load("digits")


@pytest.fixture(scope="module")
def trained(digits):
    model = small_mlp()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.Adam(2e-3), loss=loss, jit_compile=False)
    model.fit(digits.x_train, digits.y_train, batch_size=30, epochs=4, verbose=0)
    return model


def live(trained, digits, **arguments):
    return widgets.live_training(trained, digits, **{"rank": 16, "epochs": 6, **arguments})


def wait_until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


def test_live_training_runs_to_its_end(trained, digits):
    before = [np.array(keras.ops.convert_to_numpy(weight)) for weight in trained.weights]
    widget = live(trained, digits)
    first = widget.image.value
    widget.start_button.click()
    assert widget.running and widget.start_button.disabled and widget.controls["rank"].disabled
    widget.start()  # a second start while it runs changes nothing
    assert widget.wait(120)
    assert widget.state == "finished" and widget.error is None, widget.message.value
    history = widget.history
    assert history["epoch"].tolist() == list(range(7))
    schedule = cl.LinearDecay(6 * 40)
    np.testing.assert_allclose(history["decay"], schedule(history["step"].to_numpy()), atol=1e-6)
    assert history["val_compressed_accuracy"].iloc[0] < 0.3 < 0.8 < history["val_accuracy"].iloc[-1]
    # At d = 0 the two views are one.
    assert history["val_compressed_accuracy"].iloc[-1] == history["val_accuracy"].iloc[-1]
    x = digits.x_test[:50]
    expected = keras.ops.convert_to_numpy(widget.model(x))
    np.testing.assert_allclose(keras.ops.convert_to_numpy(widget.small(x)), expected, atol=1e-4)
    assert not cl.clora_layers(widget.small)
    assert widget.image.value != first and "epoch 6" in widget.text.value
    assert not widget.start_button.disabled and widget.stop_button.disabled
    for weight, old in zip(trained.weights, before, strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(weight), old)


def test_live_training_stops_and_leaves_usable_nets(trained, digits):
    widget = live(trained, digits, epochs=500)
    widget.start()
    wait_until(lambda: len(widget.history) > 2 or not widget.running)
    begin = time.monotonic()
    widget.stop_button.click()
    assert widget.wait(30) and time.monotonic() - begin < 20
    assert widget.state == "stopped" and widget.error is None, widget.message.value
    decay = float(cl.clora_layers(widget.model)[0].decay)
    assert 0 < decay <= 1 and widget.history["decay"].iloc[-1] == pytest.approx(decay)
    assert widget.small is None and "Finalize anyway" in widget.status.value
    with pytest.raises(ValueError, match="force"):
        widget.finalize()
    widget.force_button.click()
    assert widget.small is not None and widget.force_button.disabled
    assert "stock Keras net" in widget.status.value
    with cl.view(widget.model, "compressed"):
        expected = keras.ops.convert_to_numpy(widget.model(digits.x_test[:20]))
    found = keras.ops.convert_to_numpy(widget.small(digits.x_test[:20]))
    np.testing.assert_allclose(found, expected, atol=1e-4)
    widget.controls["epochs"].value = 1  # it can be started anew
    widget.start()
    assert widget.wait(60) and widget.state == "finished"
    assert widget.history["epoch"].tolist() == [0, 1]


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"rank": 0}, "at least 1"),
        ({"rank": 68}, "at most 64"),
        ({"begin": 0.9}, "smaller than `end`"),
        ({"epochs": 0}, "more epochs"),
        ({"floor": math.nan}, "floor"),
    ],
)
def test_live_training_refuses_absurd_settings_before_the_start(trained, digits, settings, words):
    widget = live(trained, digits)
    for name, value in settings.items():
        good = widget.controls[name].value
        widget.controls[name].value = value
    assert words in widget.message.value and widget.start_button.disabled
    widget.start()
    assert not widget.running and widget.state == "ready"
    widget.controls[name].value = good
    assert widget.message.value == "" and not widget.start_button.disabled


def test_an_error_in_the_training_thread_is_shown_and_kept(trained, digits):
    bad = (digits.x_train[:, :-1], digits.y_train, digits.x_val, digits.y_val)
    widget = live(trained, bad, epochs=1)
    widget.start()
    assert widget.wait(60)
    assert widget.state == "failed" and widget.error is not None
    assert 'role="alert"' in widget.message.value and "Start again" in widget.message.value
    assert not widget.start_button.disabled
    with pytest.raises(ValueError, match="lengths"):
        live(trained, (digits.x_train, digits.y_val, digits.x_val, digits.y_val))


def test_live_training_with_a_floor_says_what_is_left(trained, digits):
    widget = live(trained, digits, epochs=1)
    widget.controls["floor"].value = 0.5
    assert "Lower the floor" in widget.message.value and not widget.start_button.disabled
    widget.start()
    assert widget.wait(60) and widget.state == "finished"
    assert widget.small is None and not widget.force_button.disabled
    assert float(cl.clora_layers(widget.model)[0].decay) == pytest.approx(0.5)
