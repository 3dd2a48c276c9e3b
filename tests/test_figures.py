"""Figures: what is drawn equals the frame, files are whole and repeatable, gaps are named.

The frames below are synthetic: seeded curves of a plausible shape, not results.
"""

import doctest
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text
from PIL import Image
from rows import comparison

from clora_lab import methods
from clora_lab.lab import frames
from clora_lab.lab.figures import compare, laws, style, training
from clora_lab.slides import plots

FOUR = methods.names("slides")
FIGURES = {
    "slide_09": laws.decay_curve,
    "slide_10": training.training_curves,
    "slide_12": plots.path_accuracies,
    "slide_14": laws.noise_densities,
    "slide_15": plots.noise_variants,
    "slide_16_curves": training.method_curves,
    "slide_16_table": compare.comparison_table,
    "slide_16_ratio": compare.accuracy_against_ratio,
}

EPOCHS = 30


def linear_decay(step, total=48_000):
    return np.clip(1 - (np.asarray(step) / total - 0.05) / 0.8, 0, 1)


def synthetic_run(method="wds", rank=16, variant="slides", seed=0):
    """History of one run: a net of 88% that fades while the adapter learns."""
    rng = np.random.default_rng([seed, rank, len(method), len(variant)])
    epoch = np.arange(EPOCHS + 1)
    decay = linear_decay(epoch * 1600)
    gain = {"wds": 0.0, "bias": 0.01, "noise": 0.022, "noise_bias": 0.028}[method] + rank / 8000
    end = 0.842 + gain - (0.06 if variant == "noise_to_end" else 0)

    def jitter(scale):
        return rng.normal(0, scale, EPOCHS + 1)

    adapter = 0.1 + (end - 0.1) / (1 + np.exp((decay - 0.14) / 0.035)) + jitter(0.004)
    trained = 0.885 - (0.885 - end) * (1 - decay) ** 3 + jitter(0.002)
    original = 0.1 + 0.78 * (1 - np.exp(-decay / 0.09)) + jitter(0.003)
    noisy = method.startswith("noise") & ((decay >= 0.3) | (variant == "noise_to_end"))
    history = pd.DataFrame(
        {
            "study": "toy",
            "dataset": "fashion_mnist",
            "model": "mlp",
            "method": method,
            "rank": rank,
            "init": "lora",
            "variant": variant,
            "seed": seed,
            "config": f"{method[:4]}{rank}{variant[:2]}{seed:04d}",
            "epoch": epoch,
            "step": epoch * 1600,
            "decay": decay,
            "noise": np.where(noisy, np.sqrt(1 - decay**2), 0.0),
            "loss": 0.22 + 0.2 * (1 - decay) + np.abs(jitter(0.005)),
            "accuracy": trained + 0.03,
            "val_loss": 0.33 + 0.12 * (1 - decay) ** 2 + np.abs(jitter(0.01)),
            "val_accuracy": trained,
            "val_compressed_loss": 0.44 + 6 * decay**0.6 + np.abs(jitter(0.01)),
            "val_compressed_accuracy": np.where(decay == 0, trained, adapter),
            "val_original_loss": 0.33 + 2 * (1 - decay) ** 4,
            "val_original_accuracy": original,
        }
    )
    history.loc[0, ["loss", "accuracy"]] = np.nan
    return history


def synthetic_history(seeds=(0, 1, 2), ranks=(16, 32, 64)):
    runs = [synthetic_run(method, rank, seed=seed) for method in FOUR for rank in ranks for seed in seeds]
    runs += [synthetic_run("noise_bias", 16, "noise_to_end", seed) for seed in seeds]
    return pd.concat(runs, ignore_index=True)


@pytest.fixture(scope="module")
def history():
    return synthetic_history()


@pytest.fixture(scope="module")
def one_seed(history):
    return history[history["seed"] == 0]


@pytest.fixture(scope="module")
def weights():
    return pd.Series(np.random.default_rng(3).normal(0.01, 0.05, 20_000), name="dense kernel")


@pytest.fixture(scope="module")
def gallery(history, weights):
    """Every figure once, by its key."""
    arguments = {
        "slide_09": {"schedule": linear_decay, "total_steps": 48_000, "dataset": "fashion_mnist"},
        "slide_14": {"weights": weights, "decay": [0.9, 0.6, 0.3], "dataset": "fashion_mnist"},
        "slide_16_table": {"frame": comparison()},
        "slide_16_ratio": {"frame": comparison()},
    }
    return {key: draw(**arguments.get(key, {"history": history})) for key, draw in FIGURES.items()}


def line(ax, label):
    """The data of the one line with this label."""
    (found,) = [each for each in ax.lines if each.get_label() == label]
    return found


def texts(fig):
    return [text.get_text() for ax in fig.axes for text in ax.texts]


def ydata(ax, label):
    return np.asarray(line(ax, label).get_ydata(), dtype="float64")


def by_epoch(history, column, **wanted):
    rows = history
    for key, value in wanted.items():
        rows = rows[rows[key] == value]
    return rows.dropna(subset=[column]).groupby("epoch")[column].mean().to_numpy()


# --- every figure ---------------------------------------------------------------------------------


@pytest.mark.parametrize("key", FIGURES)
def test_title_names_the_dataset_and_alt_text_has_numbers(gallery, key):
    fig = gallery[key]
    assert "Fashion-MNIST" in fig.get_suptitle()
    text = style.alt_text(fig)
    assert "Fashion-MNIST" in text and re.search(r"\d\.\d|\d,\d{3}", text)
    assert text.endswith(".") and "nan" not in text.lower()


@pytest.mark.parametrize("key", FIGURES)
def test_text_is_large_enough_and_inside_the_figure(gallery, key):
    fig = gallery[key]
    fig.draw_without_rendering()
    width, height = fig.get_size_inches() * fig.dpi
    assert fig.get_size_inches()[0] <= 6.4
    for text in fig.findobj(Text):
        if text.get_visible() and text.get_text().strip():
            assert text.get_fontsize() >= 9, text
            box = text.get_window_extent()
            inside = box.x0 > -1 and box.y0 > -1 and box.x1 < width + 1 and box.y1 < height + 1
            # Tick labels outside of the limits exist as objects and are not drawn.
            assert inside or text.get_text() in tick_texts(fig), text


def tick_texts(fig):
    return {label.get_text() for ax in fig.axes for label in ax.get_xticklabels(which="both")} | {
        label.get_text() for ax in fig.axes for label in ax.get_yticklabels(which="both")
    }


@pytest.mark.parametrize("key", FIGURES)
def test_title_panels_and_legend_do_not_overlap(gallery, key):
    fig = gallery[key]
    fig.draw_without_rendering()
    renderer = fig.canvas.get_renderer()
    parts = [fig._suptitle, *fig.axes, *fig.legends]
    boxes = [part.get_tightbbox(renderer) for part in parts]
    for index, box in enumerate(boxes):
        for other in boxes[:index]:
            assert not box.padded(-1).overlaps(other.padded(-1)), (box, other)


@pytest.mark.parametrize("key", [key for key in FIGURES if "table" not in key])
def test_axes_are_labelled(gallery, key):
    fig = gallery[key]
    assert any(ax.get_xlabel() for ax in fig.axes) and any(ax.get_ylabel() for ax in fig.axes)
    assert fig.legends


def test_figures_leave_pyplot_and_the_callers_settings_alone(one_seed):
    with plt.rc_context({"font.size": 17, "lines.linewidth": 5}):
        before = dict(plt.rcParams)
        open_before = plt.get_fignums()
        for _ in range(3):
            training.training_curves(one_seed)
        assert plt.get_fignums() == open_before
        assert dict(plt.rcParams) == before


def test_notebook_output_carries_the_alt_text(gallery):
    data, metadata = gallery["slide_09"]._repr_mimebundle_()
    assert data["image/png"].startswith(b"\x89PNG")
    assert metadata["image/png"]["alt"] == style.alt_text(gallery["slide_09"])


# --- files ----------------------------------------------------------------------------------------


def test_save_writes_both_files_with_description(tmp_path, gallery):
    fig = gallery["slide_10"]
    png, svg = style.save(fig, tmp_path / "new" / "slide_10.v2")
    assert [png.name, svg.name] == ["slide_10.v2.png", "slide_10.v2.svg"]
    assert sorted(path.name for path in png.parent.iterdir()) == [png.name, svg.name]
    with Image.open(png) as image:
        assert image.info["Description"] == style.alt_text(fig)
        assert image.width == round(6.4 * 160)
        assert image.info["dpi"][0] == pytest.approx(160, abs=0.1)
    text = svg.read_text(encoding="utf-8")
    assert style.alt_text(fig) in "".join(ElementTree.fromstring(text).itertext())
    assert "<dc:date>" not in text


@pytest.mark.parametrize("key", FIGURES)
def test_files_repeat_byte_for_byte(tmp_path, gallery, key):
    first = [path.read_bytes() for path in style.save(gallery[key], tmp_path / "a")]
    with plt.rc_context({"svg.hashsalt": "another", "font.size": 14}):
        second = [path.read_bytes() for path in style.save(gallery[key], tmp_path / "b")]
    assert first == second


def test_a_figure_drawn_anew_gives_the_same_svg(tmp_path, one_seed):
    files = [style.save(training.training_curves(one_seed), tmp_path / name)[1].read_bytes() for name in "ab"]
    assert files[0] == files[1]


def test_a_save_that_fails_leaves_the_old_files_and_no_draft(tmp_path, gallery, monkeypatch):
    fig = gallery["slide_09"]
    old = {path: path.read_bytes() for path in style.save(fig, tmp_path / "slide")}

    def broken(path, **options):
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(fig, "savefig", broken)
    with pytest.raises(OSError, match="disk full"):
        style.save(fig, tmp_path / "slide")
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == old


def test_a_figure_without_description_is_refused(tmp_path):
    with pytest.raises(ValueError, match="`fig` must carry a description.*alt_text"):
        style.save(Figure(), tmp_path / "x")
    assert not list(tmp_path.iterdir())


# --- slide 9 --------------------------------------------------------------------------------------


def test_decay_curve_draws_schedule_phases_and_noise():
    fig = laws.decay_curve(linear_decay, 48_000, gate=0.3)
    (ax,) = fig.axes
    decay = line(ax, "decay d: what is left of W")
    np.testing.assert_allclose(decay.get_ydata(), linear_decay(decay.get_xdata()))
    noise = ydata(ax, "noise level √(1 − d²)")
    d = decay.get_ydata()
    np.testing.assert_allclose(noise, np.where(d >= 0.3, np.sqrt(1 - d**2), 0))
    assert {2_400, 40_800} <= set(decay.get_xdata())
    words = {text.strip() for text in texts(fig)}
    assert {"warm-up", "decay", "cool-down", "noise off\nonce d < 0.3"} <= words
    assert "until 2,400" in fig.alt_text and "at 40,800" in fig.alt_text


def test_decay_curve_shows_what_was_recorded(one_seed):
    run = one_seed.query("method == 'wds' and rank == 16")
    (ax,) = laws.decay_curve(linear_decay, 48_000, recorded=run).axes
    points = line(ax, "d recorded after each epoch")
    np.testing.assert_array_equal(points.get_xdata(), run["step"])
    np.testing.assert_array_equal(points.get_ydata(), run["decay"])
    with pytest.raises(frames.MissingResults, match=r"`recorded` must have the columns \['step'\]"):
        laws.decay_curve(linear_decay, 48_000, recorded=run.drop(columns="step"))


def test_decay_curve_without_noise_or_phases():
    fig = laws.decay_curve(lambda step: np.full(len(step), 0.5), 1, noise=False)
    (ax,) = fig.axes
    assert len(ax.lines) == 1
    assert set(ydata(ax, "decay d: what is left of W")) == {0.5}


def test_decay_curve_compares_named_schedules():
    def square(step):
        return (1 - step / 300) ** 2

    fig = laws.decay_curve({"linear": linear_decay, "square": square}, 300)
    np.testing.assert_allclose(ydata(fig.axes[0], "square"), square(np.arange(301)))
    assert "square at iteration 88" in fig.alt_text  # (1 - 88/300)^2 = 0.4994


@pytest.mark.parametrize("steps", [0, -3, 2.5, "many"])
def test_decay_curve_refuses_total_steps(steps):
    with pytest.raises(ValueError, match=f"`total_steps` must be.*Received: {steps!r}"):
        laws.decay_curve(linear_decay, steps)


def test_decay_curve_refuses_bad_schedules():
    with pytest.raises(ValueError, match="`schedule` 'bad' must return one finite value a step"):
        laws.decay_curve({"bad": lambda step: 0.5}, 10)
    with pytest.raises(ValueError, match="1 not finite"):
        laws.decay_curve(lambda step: np.where(step == 3, np.nan, 1.0), 10)
    with pytest.raises(ValueError, match="an empty mapping"):
        laws.decay_curve({}, 10)


# --- slides 10, 12, 15, 16: histories -------------------------------------------------------------


def test_training_curves_draw_the_frame(one_seed):
    loss, accuracy, *strips = training.training_curves(one_seed).axes
    run = {"method": "wds", "rank": 16, "variant": "slides"}
    for label, prefix, _ in training.VIEWS:
        for ax, metric in ((loss, "loss"), (accuracy, "accuracy")):
            np.testing.assert_array_equal(ydata(ax, label), by_epoch(one_seed, prefix + metric, **run))
    for strip in strips:
        drawn = strip.lines[0].get_ydata()
        np.testing.assert_array_equal(drawn, by_epoch(one_seed, "decay", **run))
    assert line(loss, "Training").get_xdata()[0] == 1  # nothing was trained before epoch 1
    assert loss.get_yscale() == "log" and accuracy.get_ylim() == (0, 1)


def test_several_seeds_become_a_mean_with_a_band(history):
    fig = training.training_curves(history)
    accuracy = fig.axes[1]
    run = {"method": "wds", "rank": 16, "variant": "slides"}
    mean = by_epoch(history, "val_accuracy", **run)
    np.testing.assert_allclose(ydata(accuracy, training.TRAINED), mean)
    rows = history.query("method == 'wds' and rank == 16")
    spread = rows.groupby("epoch")["val_accuracy"].std().to_numpy()
    corners = accuracy.collections[1].get_paths()[0].vertices[:, 1]
    assert corners.max() == pytest.approx((mean + spread).max())
    assert "3 seeds" in subtitle(fig)
    one = training.training_curves(history[history["seed"] == 1])
    assert "One seed (1)" in subtitle(one) and not one.axes[1].collections


def subtitle(fig):
    (found,) = [each for each in fig.artists if isinstance(each, Annotation)]
    return found.get_text()


def test_training_curves_say_what_was_not_measured(one_seed):
    fig = training.training_curves(one_seed.drop(columns="val_compressed_loss"))
    assert "No rows for: val_compressed_loss" in subtitle(fig)


def test_path_accuracies_note_is_read_off_the_data(one_seed):
    fig = plots.path_accuracies(one_seed)
    rows = one_seed.query("method == 'wds' and rank == 16").set_index("epoch")
    original = rows["val_original_accuracy"]
    np.testing.assert_array_equal(ydata(fig.axes[0], "Original path alone (d·W)"), original)
    np.testing.assert_array_equal(
        ydata(fig.axes[0], "Adapter path alone (BA)"), rows["val_compressed_accuracy"]
    )
    (note,) = texts(fig)
    change = 100 * (original[20] - original[0])
    assert note == f"epoch 20, d = 0.23:\n{original[20]:.1%} (−{-change:.1f} points)"
    (early,) = texts(plots.path_accuracies(one_seed, note_decay=0.9))
    assert early.startswith("epoch 4, d = 0.90")


def test_the_slides_reading_is_shown_for_their_dataset_only(one_seed):
    star = line(plots.path_accuracies(one_seed).axes[0], "Slide 12, d = 0.23: 80.1% (−9.2 points)")
    assert (star.get_xdata()[0], star.get_ydata()[0]) == (20, 0.8007)
    digits = plots.path_accuracies(one_seed.assign(dataset="digits"))
    assert len(digits.axes[0].lines) == 2 and "digits" in digits.get_suptitle()


def test_path_accuracies_need_both_paths(one_seed):
    with pytest.raises(frames.MissingResults, match="'val_original_accuracy'.*reproduce toy"):
        plots.path_accuracies(one_seed.assign(val_original_accuracy=np.nan))


def test_variant_curves_draw_three_cases(history):
    fig = plots.noise_variants(history)
    cases = [("wds", "slides"), ("noise_bias", "noise_to_end"), ("noise_bias", "slides")]
    for column, (method, variant) in enumerate(cases):
        run = {"method": method, "variant": variant, "rank": 16}
        for row, metric in enumerate(("loss", "accuracy")):
            np.testing.assert_allclose(
                ydata(fig.axes[3 * row + column], training.COMPRESSED),
                by_epoch(history, f"val_compressed_{metric}", **run),
            )


def test_variant_curves_name_a_missing_case(history):
    fig = plots.noise_variants(history[history["variant"] == "slides"])
    assert "No rows for: Noise & bias until the end" in subtitle(fig)
    assert texts(fig) == ["not measured", "not measured"]


def test_method_curves_draw_four_methods_by_ranks(history):
    fig = training.method_curves(history)
    assert len(fig.axes) == 12
    cells = [(rank, method) for rank in (16, 32, 64) for method in FOUR]
    for ax, (rank, method) in zip(fig.axes, cells, strict=True):
        run = {"method": method, "rank": rank, "variant": "slides"}
        for label, column in ((training.TRAINED, "val_"), (training.COMPRESSED, "val_compressed_")):
            expected = by_epoch(history, f"{column}accuracy", **run)
            np.testing.assert_allclose(ydata(ax, label), expected)
        assert [text.get_text() for text in ax.texts] == [f"{expected[-1]:.1%}"]


def test_method_curves_mark_a_gap(one_seed):
    gap = (one_seed["method"] == "bias") & (one_seed["rank"] == 32)
    fig = training.method_curves(one_seed[~gap])
    assert "No rows for: Bias (C_weights), rank 32" in subtitle(fig)
    assert texts(fig).count("no rows") == 1


HISTORY_FIGURES = (
    training.training_curves,
    plots.path_accuracies,
    plots.noise_variants,
    training.method_curves,
)


@pytest.mark.parametrize("draw", HISTORY_FIGURES)
def test_an_empty_history_says_how_to_fill_it(draw, history):
    with pytest.raises(frames.MissingResults, match="0 rows.*python -m clora_lab reproduce STUDY"):
        draw(history.iloc[:0])
    with pytest.raises(frames.MissingResults, match=r"columns \['seed'\].*reproduce toy"):
        draw(history.drop(columns="seed"))
    with pytest.raises(frames.MissingResults, match="reproduce toy"):
        draw(history[history["method"] == "bias"].assign(method="dense"))
    with pytest.raises(ValueError, match="`history` must be a pandas DataFrame. Received: list"):
        draw([])


def test_a_missing_run_is_named(one_seed):
    with pytest.raises(frames.MissingResults, match="'rank': 8.*'variant': 'slides'.*reproduce"):
        training.training_curves(one_seed, rank=8)


@pytest.mark.parametrize("draw", HISTORY_FIGURES)
def test_settings_are_never_averaged_over(draw, one_seed):
    other = one_seed.assign(init="svd", config="other")
    with pytest.raises(ValueError, match="one run a seed.*'init': ['lora', 'svd']".replace("[", r"\[")):
        draw(pd.concat([one_seed, other]))
    other = one_seed.assign(dataset="digits")
    with pytest.raises(ValueError, match="one dataset.*digits.*fashion_mnist.*select one"):
        draw(pd.concat([one_seed, other]))


# --- slide 14 -------------------------------------------------------------------------------------


def moments(drawn):
    """Area, mean and standard deviation under a drawn density, by the rectangle rule."""
    x, y = drawn.get_data()
    step = x[1] - x[0]
    mean = (x * y).sum() * step
    return y.sum() * step, mean, np.sqrt(((x - mean) ** 2 * y).sum() * step)


def test_densities_have_the_moments_of_the_equation(weights):
    fig = laws.noise_densities(weights, [0.9, 0.5])
    m, sigma = weights.mean(), weights.std()
    for ax, d in zip(fig.axes, (0.9, 0.5), strict=True):
        expected = {
            "W": (m, sigma),
            "d·W": (d * m, d * sigma),
            "noise n": ((1 - d) * m, np.sqrt(1 - d**2) * sigma),
            "d·W + n": (m, sigma),
        }
        for label, (mean, std) in expected.items():
            area, seen_mean, seen_std = moments(line(ax, label))
            assert area == pytest.approx(1, abs=0.01)
            assert seen_mean == pytest.approx(mean, abs=0.03 * sigma)
            assert seen_std == pytest.approx(std, rel=0.04)  # a kernel estimate widens a little
        assert ax.get_title() == f"d = {d:g}"
    assert "20,000 weights" in fig.alt_text


def test_densities_repeat_and_take_their_own_noise(weights):
    def noise(**options):
        return ydata(laws.noise_densities(weights, 0.5, **options).axes[0], "noise n")

    np.testing.assert_array_equal(noise(), noise())
    assert not np.array_equal(noise(), noise(rng=np.random.default_rng(9)))
    wide = laws.noise_densities(weights, 0.6, mean=1.0, std=0.5).axes[0]
    assert moments(line(wide, "noise n"))[1:] == pytest.approx((0.4, 0.4), rel=0.05)


def test_densities_at_the_ends_are_spikes(weights):
    start, end = laws.noise_densities(weights, [1.0, 0.0]).axes
    assert set(line(start, "noise n").get_xdata()) == {0}
    assert set(line(end, "d·W").get_xdata()) == {0}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": np.ones((3, 3))}, r"`weights` must be a one-dim.*ravel.*\(3, 3\)"),
        ({"weights": [0.5]}, "`weights`"),
        ({"weights": [1.0, 1.0]}, "not all equal"),
        ({"weights": [1.0, np.nan]}, "finite"),
        ({"decay": 1.5}, r"`decay` must be a number in \[0, 1\].*1.5"),
        ({"decay": []}, "`decay`"),
        ({"std": 0.0}, "`std` must be above 0. Received: 0.0"),
    ],
)
def test_densities_refuse(weights, options, message):
    with pytest.raises(ValueError, match=message):
        laws.noise_densities(**{"weights": weights, "decay": 0.5, **options})


# --- looks ----------------------------------------------------------------------------------------


def test_long_titles_are_broken_not_cut(one_seed):
    empty = comparison().assign(measured=np.nan, note="published: validation")
    long = one_seed.assign(dataset="a dataset whose name goes on and on, and on still further")
    for fig in (compare.comparison_table(empty), training.training_curves(long)):
        fig.draw_without_rendering()
        for text in (fig._suptitle, *fig.artists):
            assert text.get_window_extent().x1 <= 640
    assert "and 9 more" in " ".join(subtitle(compare.comparison_table(empty)).split())


def test_the_examples_run():
    results = doctest.testmod(laws)
    assert results.attempted and not results.failed
