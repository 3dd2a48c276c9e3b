"""Runs and grids: what a study's page declares, checked before any work and without Keras."""

import json
import pickle
import subprocess
import sys

import pytest

from clora_lab import layers, methods, noise, studies
from clora_lab.lab import settings
from clora_lab.lab import study as pages
from clora_lab.studies import open_questions

TOY = studies.get("toy")
VGG16 = studies.get("vgg16")
BERT = studies.get("bert")
RUN = TOY.run(dataset="digits", method="noise_bias", rank=8, epochs=2)


def test_neither_the_list_nor_a_page_loads_keras():
    code = (
        "import sys; sys.argv = ['-m']; from clora_lab import studies; [studies.get(s.name).grid(dataset=s_) "
    )
    code += "for s, s_ in zip(studies.STUDIES, ('digits', 'cifar10', 'imdb', 'digits'))]; "
    code += "print([name for name in ('keras', 'tensorflow', 'sklearn') if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_the_flat_fields_are_those_of_the_library():
    assert set(settings.INITS) == set(layers.INITS)
    assert settings.DECAY["noise_per"].choices == noise.PER
    assert settings.DECAY["noise_kind"].choices == noise.KINDS
    assert RUN.noise_law == noise.NoiseLaw()


def test_the_name_says_every_field_that_differs_from_its_default():
    assert RUN.config == RUN.replace().config == pickle.loads(pickle.dumps(RUN)).config
    changes = (
        {"rank": 4},
        {"seed": 1},
        {"method": "wds"},
        {"begin": 0.1},
        {"init": "svd"},
        {"study": "other"},
    )
    assert len({RUN.replace(**change).config for change in changes} | {RUN.config}) == 7
    assert RUN.replace(noise_gate=0.3).config == RUN.config  # the slides' own threshold by its name
    assert RUN.replace(end=1).config == RUN.replace(end=1.0).config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dataset": "fashion-mnist"}, "Did you mean 'fashion_mnist'"),
        ({"method": "noise_bais"}, "Did you mean 'noise_bias'"),
        ({"rank": 0}, "`rank` must be an integer of at least 1"),
        ({"rank": 2.0}, "`rank`"),
        ({"epochs": 0}, "`epochs`"),
        ({"epoch": 3}, "Did you mean 'epochs'"),
        ({"learning_rate": -1.0}, "`learning_rate`"),
        ({"lr_schedule": "cosin"}, "Did you mean 'cosine'"),
        ({"fraction": 1.5}, "`fraction`"),
        ({"begin": 0.9, "end": 0.5}, "`begin` must be smaller"),
        ({"schedule": "liner"}, "Did you mean 'linear'"),
        ({"noise_gate": "schedule"}, "Did you mean 'scheduled'"),
        ({"noise_spread": -1.0}, "`noise_spread`"),
        ({"study": "a/b"}, "`study`"),
        ({"method": "dense"}, "`rank` of the method 'dense' must be 0"),
        ({"method": "svd", "init": "lora"}, "`init` of the method 'svd' must be one of"),
    ],
)
def test_a_bad_field_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        RUN.replace(**change)


def test_dataset_and_method_must_be_said():
    with pytest.raises(ValueError, match="`dataset` must be given"):
        TOY.run(method="wds", rank=4)
    with pytest.raises(ValueError, match="`dataset` must be given"):
        TOY.grid()


def test_the_toy_grid_holds_four_methods_three_ranks_and_all_baselines():
    grid = TOY.grid(dataset="fashion_mnist", seed=range(5), variant=["slides", "noise_to_end"])
    assert grid[0].is_original
    cells = {(run.method, run.rank) for run in grid if run.variant == "slides"}
    wanted = {"wds", "bias", "noise", "noise_bias", "svd", "svd_finetune", "scratch"}
    assert cells == {("dense", 0)} | {(method, rank) for method in wanted for rank in (16, 32, 64)}
    assert len({run.config for run in grid}) == len(grid) == 5 * (1 + 7 * 3 + 1)
    with pytest.raises(ValueError, match="Did you mean 'slides'"):
        TOY.grid(dataset="digits", variant="slide")
    with pytest.raises(ValueError, match="`rank` is empty"):
        TOY.grid(dataset="digits", rank=[])


def test_a_cell_of_vgg16_has_two_ranks():
    assert len(VGG16.grid(dataset="cifar10")) == 43
    for rank, cells in ((16, {(16, 16)}), ([(16, 32)], {(16, 32)})):
        grid = VGG16.grid(dataset="cifar10", rank=rank, method="wds")
        assert {(run.rank, run.dense_rank) for run in grid} == cells | {(0, 0)}
    product = VGG16.grid(dataset="cifar10", rank=(8, 16), dense_rank=(32, 64), method="wds")
    assert {(run.rank, run.dense_rank) for run in product[1:]} == {(8, 32), (8, 64), (16, 32), (16, 64)}
    with pytest.raises(ValueError, match="16/16"):
        VGG16.grid(dataset="cifar10", rank=[(1, 2, 3)])


def test_what_goes_with_a_model_and_a_stand_in_follows_unless_it_is_chosen():
    (dense, run) = BERT.grid(dataset="imdb", model="bert_small", rank=16, method="wds")
    assert (run.start, run.sequence, dense.scope, dense.epochs) == ("preset", 256, "", 10)
    assert BERT.grid(dataset="synthetic", rank=16)[1].start == "random"
    assert BERT.grid(dataset="imdb", sequence=64)[1].sequence == 64
    assert {run.model for run in VGG16.grid(dataset="digits32")} == {"small_vgg"}
    assert {run.variant for run in VGG16.grid(dataset="digits32", variant="slides")} == {"slides"}


def test_a_recipe_s_start_is_for_the_methods_that_can_have_it():
    grid = BERT.grid(dataset="imdb", variant="recipe", rank=16)
    starts = {run.method: run.init for run in grid if not run.is_original}
    assert {name: starts[name] for name in ("bias", "svd", "scratch", "lora")} == {
        "bias": "activations",
        "svd": "activations",
        "scratch": "scratch",
        "lora": "lora_inputs",
    }


def test_the_open_questions_are_toy_runs_of_another_study():
    study = open_questions.STUDY
    grid = study.grid(dataset="digits", seed=0, variant=["inits", "noise"])
    assert len(grid) == 36 and {run.study for run in grid} == {"future"} and grid[0].is_original
    assert {run.epochs for run in grid} == {10} and {run.variant for run in grid} == {"slides"}
    assert len(study.grid(dataset="digits", variant="surface")) == 5 * 51
    same = TOY.run(**{**grid[-1], "study": "future"})
    assert same.config == grid[-1].config != TOY.run(**{**grid[-1], "study": "toy"}).config


def test_where_published_rows_compare_is_declared():
    (table,) = TOY.published
    assert table.compares(TOY.run(dataset="fashion_mnist", method="wds", rank=16)) and not table.compares(RUN)
    (table,) = VGG16.published
    run = VGG16.run(dataset="cifar10", method="wds", rank=16, dense_rank=16)
    assert table.compares(run) and not table.compares(run.replace(factorization="pair"))


def test_columns_are_the_fields_and_what_was_measured():
    for study in (TOY, VGG16, BERT):
        assert len(set(study.columns)) == len(study.columns)
        assert set(study.fields) < set(study.columns) and study.columns[-1] == "config"
        assert study.types["noise_gate"] is float and study.types["rank"] is int
    assert "scope" not in BERT.apart_of_original and "scope" in BERT.apart


def test_fields_are_read_as_they_are_written():
    for study in (TOY, VGG16, BERT):
        for name, each in study.fields.items():
            assert each.parse(name, str(each.cell(each.default))) is not None, name
    with pytest.raises(ValueError, match="`epochs` must be an integer"):
        TOY.fields["epochs"].parse("epochs", "x")
    with pytest.raises(ValueError, match="`augment` must be yes or no"):
        VGG16.fields["augment"].parse("augment", "perhaps")
    assert json.dumps(dict(RUN)) and set(methods.names("slides")) <= set(TOY.methods)


def test_a_method_of_other_authors_brings_its_own_settings():
    run = TOY.run(dataset="digits", method="lorita", rank=4)
    assert (run.factors, run.init) == (2, "svd") and run.config == run.replace(factors=2).config
    assert len({run.config, run.replace(factors=3).config, run.replace(init="random").config}) == 3
    with pytest.raises(ValueError, match="Did you mean 'factors'"):
        run.replace(factor=3)
    with pytest.raises(ValueError, match="`factors` must be an integer of at least 1"):
        run.replace(factors=0)
    with pytest.raises(ValueError, match="`truncation` must be one of"):
        run.replace(truncation="none")
    (_, one, other) = TOY.grid(dataset="digits", method="lorita", rank=4, factors=(2, 3))
    assert (one.factors, other.factors) == (2, 3) and TOY.key(one).startswith("lorita rank 4")
    with pytest.raises(ValueError, match="`field` must be one of"):
        RUN.replace(factors=3)


def test_a_setting_that_a_method_brings_is_its_own_whatever_its_name(monkeypatch):
    """Of C-LoRA's settings a grid leaves out those that a method has not got, and no others."""
    monkeypatch.setattr(methods, "find", lambda name: dict)  # stands for the class of such a method
    own = {"floor": settings.Field(0.0, "of the method", low=0.0, high=1.0)}
    monkeypatch.setattr(pages, "own_settings", lambda method: own if method == "svd" else {})
    (_, run) = TOY.grid(dataset="digits", variant="slides", method="svd", rank=4, floor=0.25)
    assert run.floor == 0.25
    (_, run) = TOY.grid(dataset="digits", variant="slides", method="scratch", rank=4, floor=0.25)
    assert run.floor == 0.0
    with pytest.raises(ValueError, match="`floor`"):
        TOY.grid(dataset="digits", variant="slides", method="scratch", rank=4, floor=2.0)


@pytest.mark.parametrize("name", ["toy", "vgg16", "bert"])
def test_as_coded_are_the_slides_methods_alone_in_every_study(name):
    home = studies.get(name)
    grid = home.grid(dataset=home.data[0], variant="as_coded")
    assert {run.method for run in grid} == {methods.ORIGINAL, *methods.names("slides")}
