"""The study of open questions: its grid, its arithmetic on made-up rows, and its pictures.

The rows of the fixtures are numbers in the schema of the study, not results.
"""

import numpy as np
import pandas as pd
import pytest
from test_conclusion import run

from clora_lab import studies
from clora_lab.course.widgets import surface
from clora_lab.lab import bench
from clora_lab.lab.frames import MissingResults
from clora_lab.lab.nets import registry as nets
from clora_lab.studies import answers, future_figures, open_questions

STUDY = open_questions.STUDY
SEEDS = range(5)
NOISE = np.array([0.1, -0.1, 0.2, -0.2, 0.0])  # of the differences, in points


def rows_of(settings, lead, method="noise_bias"):
    """Made-up rows of a setting that leads the slides' recipe by so many points."""
    own = {**answers.DEFAULTS, "dataset": "digits", "model": "toy_mlp", **settings}
    own.pop("method")
    found = []
    for seed in SEEDS:
        accuracy = 0.80 + seed / 100 + (lead + (lead != 0) * NOISE[seed]) / 100
        name = "-".join([method, *(str(own[key]) for key in sorted(own))])
        made = run(STUDY.name, method, 4, seed, accuracy, **own)
        found += [row | {"config": f"{name}-{seed}"} for row in made]
    return found


@pytest.fixture(scope="module")
def rows():
    found = rows_of({}, 0.0)
    found += rows_of({"init": "svd"}, 2.0) + rows_of({"init": "svd"}, 1.0, "svd_finetune")
    found += rows_of({"init": "activations"}, 0.05) + rows_of({"init": "lora"}, -1.5, "bias")
    found += rows_of({"noise_kind": "empirical"}, 0.02) + rows_of({"noise_gate": 0.0}, -9.0)
    for settings in open_questions.combinations():
        if settings not in ({"noise_spread": 1.0, "noise_gate": gate, "end": 0.85} for gate in (0.0, 0.3)):
            found += rows_of(settings, -settings["noise_spread"] - settings["noise_gate"])
    return pd.DataFrame(found)


def both_splits(rows):
    return pd.concat([rows, rows[rows["split"] == "test"].assign(split="validation")])


def test_every_question_moves_one_setting_away_from_the_slides():
    grid = STUDY.grid(dataset="fashion_mnist", seed=3)
    assert len({run.config for run in grid}) == len(grid) == 36
    slides = STUDY.run(dataset="fashion_mnist", method="noise_bias", rank=16, seed=3, epochs=10)
    assert slides in grid and slides.original in grid
    for own in grid:
        if own.method == "noise_bias":
            moved = [name for name in own if own[name] != slides[name]]
            assert len(moved) <= 1 and set(moved) <= {"init", *open_questions.MOVED}


def test_the_surface_holds_the_slides_recipe_and_every_combination():
    grid = STUDY.grid(dataset="digits", seed=0, variant="surface", epochs=3)
    assert len(grid) == 1 + len(open_questions.combinations()) and {run.epochs for run in grid} == {3}
    assert STUDY.run(dataset="digits", method="noise_bias", rank=4, epochs=3) in grid


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="`variant` must be one of.*Did you mean 'noise'"):
        STUDY.grid(dataset="digits", variant="noises")
    with pytest.raises(ValueError, match="`noise_kind`"):
        STUDY.run(dataset="digits", method="noise", rank=4, noise_kind="pink")
    with pytest.raises(ValueError, match="settings"):
        answers.select(pd.DataFrame(), rank=4)


def test_new_settings_keep_the_names_of_recorded_runs():
    recorded = set(studies.recorded("toy").read()["config"])
    grid = studies.get("toy").grid(dataset="fashion_mnist", seed=range(2), variant=("slides", "noise_to_end"))
    assert {run.config for run in grid} <= recorded


def test_differences_are_paired_by_seed(rows):
    table = answers.answers(rows, "inits").set_index(["question", "setting"])
    svd = table.loc[("start, with noise", answers.INIT_LABELS["svd"])]
    assert svd["difference"] == pytest.approx(2.0) and svd["seeds"] == 5
    # The seeds differ by whole points, the differences by tenths: only paired is the interval this small.
    assert svd["high"] - svd["low"] == pytest.approx(2 * 2.776 * NOISE.std(ddof=1) / np.sqrt(5), rel=1e-3)
    assert svd["sd"] > 1.0
    aware = table.loc[("start, with noise", answers.INIT_LABELS["activations"])]
    assert svd["p_holm"] < 0.05 < aware["p_holm"] and aware["p_holm"] >= aware["p"]
    reference = table.loc[("start, with noise", answers.INIT_LABELS["lora_inputs"])]
    assert reference["difference"] == 0.0 and np.isnan(reference["p_holm"])


def test_words_follow_the_verdicts(rows):
    better, worse, rest = answers.in_words(answers.answers(rows, "inits"))
    assert "SVD of W, the residual decays, with noise (+2.00)" in better
    assert "without noise (−1.50)" in worse
    assert "activation-aware" in rest and "(+0.05)" in rest
    better, worse, rest = answers.in_words(answers.answers(rows, "noise"))
    assert better.endswith("none.") and "noise stops below this decay d: 0.0 (−9.00)" in worse
    assert "kind of the noise: empirical" in rest


def test_any_two_settings_can_be_paired(rows):
    pairs = [
        ("trained on", {"init": "svd"}, {"init": "svd", "method": "svd_finetune"}),
        ("not there", {"init": "orthogonal"}, {}),
    ]
    (line,) = answers.against(rows, pairs).to_dict("records")
    assert line["setting"] == "trained on" and line["difference"] == pytest.approx(1.0)


def test_nothing_recorded_says_what_to_run(rows):
    with pytest.raises(MissingResults, match="reproduce future"):
        answers.values(rows[rows["split"] == "none"])
    one = rows[(rows["noise_spread"] == 1.0) & (rows["noise_gate"] == 0.3) & (rows["end"] == 0.85)]
    with pytest.raises(MissingResults, match="question=surface"):
        surface.surface_explorer(both_splits(one))


def test_rows_that_do_not_compare_are_refused(rows):
    mixed = pd.concat([rows, rows.assign(epochs=10, config=rows["config"] + "0")])
    with pytest.raises(ValueError, match="one epochs"):
        answers.answers(mixed, "inits")


def test_figures_say_what_they_show(rows):
    fig = future_figures.differences(answers.answers(rows, "noise"), "Noise")
    assert "0.0 −9.00 points (worse)" in fig.alt_text and "empirical +0.02" in fig.alt_text
    texts = [text.get_text() for ax in fig.axes for text in ax.texts]
    assert "◀ −9.0" in texts  # further off than the axis, so at its edge with its value
    fig = future_figures.surface(answers.surface(rows), "Surface")
    assert len(fig.axes) == 2 and "the highest at spread 0" in fig.alt_text
    shown = [text.get_text() for text in fig.axes[0].texts]
    assert len(shown) == 25


@pytest.fixture
def explorer(rows):
    return surface.surface_explorer(both_splits(rows))


def test_the_widget_shows_the_chosen_cell(rows, explorer):
    explorer.controls["noise_spread"].value = 0.5
    explorer.controls["end"].value = 0.5
    expected = answers.select(answers.values(rows), noise_spread=0.5, end=0.5)
    assert f"{expected.mean():.2f} ± {expected.std():.2f}%" in explorer.text.value
    first = explorer.image.value
    explorer.controls["shown"].value = "difference"
    assert explorer.image.value != first and bytes(first[:4]) == b"\x89PNG"
    explorer.controls["noise_gate"].value = 0.0
    assert "noise on to the end" in explorer.message.value
    explorer.controls["noise_spread"].value = 0.0
    assert "nothing is drawn at random" in explorer.message.value
    explorer.reset_button.click()
    assert explorer.settings == surface.START


def test_starts_are_measured_before_any_training():
    own = studies.get("toy").run(dataset="digits", method="noise_bias", rank=8, epochs=5)
    dense, _, _ = bench.original_net(own)
    data = own.home.hooks.data(own)
    x, _ = data.train
    table = answers.starts(dense, *data.validation, 8, nets.targets("toy_mlp"), x[:300])
    table = table.set_index(table["start"].map({label: name for name, label in answers.INIT_LABELS.items()}))
    assert table.loc["svd", "weight_error"] == table["weight_error"].min()
    assert table.loc["activations", "output_error"] == table["output_error"].min()
    assert table.loc[["lora", "orthogonal"], "weight_error"].eq(1.0).all()
    exact = [name for name in open_questions.INITS if name != "svd_copy"]
    assert np.ptp(table.loc[exact, "whole"]) < 1.0  # the dense net, up to rounding
