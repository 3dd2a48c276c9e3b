"""The BERT study: runs of all methods on generated reviews with a random start."""

import keras
import pytest

pytest.importorskip("keras_hub")

import clora_lab as cl
from clora_lab import distill, studies
from clora_lab.lab import bench, runner, tables, training
from clora_lab.lab.store import Store

STUDY = studies.get("bert")
SMALL = STUDY.run(
    dataset="synthetic", method="noise_bias", rank=16, start="random", sequence=16, fraction=0.2, epochs=1,
    dense_epochs=2, dense_learning_rate=1e-3, learning_rate=1e-3,
)  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dataset": "imbd"}, "Did you mean 'imdb'"),
        ({"method": "nois"}, "Did you mean 'noise'"),
        ({"rank": 0}, "`rank`"),
        ({"scope": "atention"}, "Did you mean 'attention'"),
        ({"model": "bert_tini"}, "Did you mean 'bert_tiny'"),
        ({"fraction": 0.0}, "`fraction`"),
        ({"distillation": 1.5}, "`distillation`"),
        ({"patience": 0}, "`patience`"),
        ({"begin": 0.9, "end": 0.5}, "`begin` must be smaller"),
        ({"method": "dense"}, "of the method 'dense' must be"),
    ],
)
def test_a_bad_field_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        SMALL.replace(**change)


def test_the_slides_grid():
    grid = STUDY.grid(dataset="imdb", seed=range(3))
    assert len(grid) == 3 * (1 + 3 * 8) == len({run.config for run in grid})
    cell = next(run for run in grid if run.method == "noise_bias" and run.rank == 16)
    assert (cell.epochs, cell.batch_size, cell.learning_rate, cell.begin, cell.end, cell.sequence) == (
        10, 32, 5e-5, 0.05, 0.85, 128,
    )  # fmt: skip
    assert {run.original for run in grid} == {run for run in grid if run.is_original}
    small = STUDY.grid(dataset="imdb", model="bert_small", rank=16)
    title = STUDY.title_of(small[0])
    assert "BERT-Small" in title and "IMDB" in title


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    store = Store(tmp_path_factory.mktemp("bert"), STUDY)
    changes = SMALL.only(
        "dataset", "start", "sequence", "fraction", "epochs", "dense_epochs", "learning_rate"
    )
    changes |= SMALL.only("dense_learning_rate", "rank")
    grid = STUDY.grid(method=["bias", "svd", "scratch", "lora"], **changes)
    grid += STUDY.grid(scope="encoder", method="noise_bias", **changes)
    grid += STUDY.grid(scope="encoder_ff_wide", method="svd", init="activations", **changes)
    rows = runner.run_grid(grid, store, progress=False)
    assert tuple(rows.columns) == STUDY.columns and rows["config"].nunique() == 7
    return rows


def test_sizes_are_those_of_the_shapes(rows):
    """BERT-Tiny's attention at rank 16, counted by hand; the vocabulary here is a small one."""
    values = rows[rows["split"] == "model"].set_index(["method", "scope", "metric"])["value"]
    block = 4 * 16 * (128 + 128) + 4 * 128  # pairs of query, key, value, output, and a bias for each
    feed_forward = 16 * (128 + 512) * 2 + 512 + 128
    norms = 2 * 2 * 128
    whole = 4 * (128 * 128 + 128) + 2 * 128 * 512 + 512 + 128 + norms
    assert values["bias", "attention", "ratio_percent"] == pytest.approx(100 * (block + norms) / whole)
    rest = 2 * 128 * 512 + 512 + 128 + norms
    encoder = values["bias", "attention", "ratio_encoder_percent"]
    assert encoder == pytest.approx(100 * (block + rest) / whole)
    encoder = values["noise_bias", "encoder", "ratio_encoder_percent"]
    assert encoder == pytest.approx(100 * (block + feed_forward + norms) / whole)
    # 2.75 times the rank, so 44, for the feed-forward halves
    wide = 2 * (block + 44 * (128 + 512) * 2 + 512 + 128 + norms) / (2 * whole)
    assert values["svd", "encoder_ff_wide", "ratio_encoder_percent"] == pytest.approx(100 * wide)
    assert values["bias", "attention", "trainable_parameters"] == 2 * block
    # LoRA trains the pairs and the head, and keeps everything
    head = 128 * 2 + 2
    assert values["lora", "attention", "trainable_parameters"] == 2 * 4 * 16 * 256 + head
    assert values["lora", "attention", "parameters"] == values["dense", "", "parameters"]
    assert values["lora", "attention", "ratio_model_percent"] == 100.0


def test_every_run_has_accuracies_of_both_splits_and_no_checkpoint_is_left(rows):
    accuracy = rows[rows["metric"] == "accuracy"]
    assert (accuracy.groupby("config")["split"].agg(set) == {"validation", "test"}).all()
    assert accuracy["value"].between(0, 1).all()
    wrapped = accuracy[accuracy["method"].isin(["bias", "noise_bias"])]
    assert set(wrapped["view"]) == {"trained", "compressed"}
    assert set(rows["train_size"]) == {80} and set(rows["sequence"]) == {16}
    assert not list(training.cache_dir().glob("bert-*/"))


def test_the_finished_net_is_the_compressed_path_of_the_trained_one(rows):
    """At the end of the decay both views are the same net."""
    accuracy = rows[rows["metric"] == "loss"].set_index(["method", "split", "view"])["value"]
    for method in ("bias", "noise_bias"):
        for split in ("validation", "test"):
            assert accuracy[method, split, "trained"] == pytest.approx(
                accuracy[method, split, "compressed"], rel=1e-4
            )


def test_an_activation_aware_svd_looks_at_training_texts(rows, monkeypatch):
    """Its rows say so, and what it calibrates on are the first training texts."""
    own = rows[rows["scope"] == "encoder_ff_wide"]
    assert set(own["init"]) == {"activations"} and set(own["method"]) == {"svd"}
    seen = {}

    def stop(net, **arguments):
        seen.update(arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(cl, "compress", stop, raising=False)
    run = SMALL.replace(method="svd", scope="encoder_ff_wide", init="activations")
    with pytest.raises(KeyboardInterrupt):
        bench.carry_out(run)
    # All that there are; of more the first 256.
    assert len(seen["calibration"]["token_ids"]) == 80 and STUDY.hooks.calibration == 256
    assert list(seen["rank"].values()) == [44, 44, 16]


def test_recipes_that_train_the_dense_net_alike_share_it(monkeypatch):
    names = []

    def note(name, train):
        names.append(name)
        return None, [], 0.0

    monkeypatch.setattr(training, "trained_net", note)
    for variant in ("recipe", "distilled", "slides"):
        fields = {"dataset": "imdb", "model": "minilm", "rank": 16, "method": "svd", "variant": variant}
        for run in STUDY.grid(**fields)[1:]:
            bench.original_net(run)
    assert names[0] == names[1] != names[2]


def test_a_distilled_run_trains_the_compressed_net_on_the_dense_one(rows, monkeypatch):
    """The loss of its history is the distillation's; it is recorded like any other run."""
    (_, recipe) = STUDY.grid(dataset="synthetic", method="bias", rank=16, variant="distilled")
    assert recipe.distillation == 1.0 and recipe.init == "activations" and bench.taught(recipe)
    assert not any(bench.taught(SMALL.replace(method=m, distillation=1.0, init="svd")) for m in ("svd",))
    run = SMALL.replace(method="bias", scope="encoder", distillation=1.0)
    made = []
    whole = distill.Distilled
    monkeypatch.setattr(distill, "Distilled", lambda *a: made.append(whole(*a)) or made[-1])
    record = bench.carry_out(run)
    (model,) = made
    assert model.share == 1.0 and model.teacher.count_params() > 0
    assert record["fields"]["distillation"] == 1.0
    values = {tuple(value[:3]): value[3] for value in record["values"]}
    assert values["test", "trained", "loss"] == pytest.approx(values["test", "compressed", "loss"], rel=1e-4)
    dense = rows[(rows["method"] == "dense") & (rows["split"] == "model")].set_index("metric")["value"]
    assert values["model", "-", "parameters"] < dense["parameters"]
    history = record["history"]
    assert history[-1]["decay"] == 0.0 and history[-1]["loss"] > 0.0
    plain = bench.carry_out(run.replace(distillation=0.0))["history"][1]
    assert plain["loss"] != pytest.approx(history[-1]["loss"], rel=1e-2)


def test_rows_beside_the_published_table(rows):
    real = rows.assign(dataset="imdb")
    cells = real[~real["scope"].str.startswith("encoder")]
    table = tables.compare(cells, STUDY).set_index(["rank", "method"])
    assert table.loc[(16, "noise_bias"), "published"] == 80.79
    assert table.loc[(16, "bias"), "n"] == 1
    assert table.loc[(16, "bias"), "published_gap"] == pytest.approx(79.97 - 83.03)
    assert table.index[0] == (0, "dense") and (16, "lora") in table.index


def test_recorded_rows_say_where_they_start_from():
    rows = studies.recorded("bert").read()
    assert len(rows) and (rows["start"] != "").all()
    assert set(rows["dataset"]) <= {"imdb", "synthetic"}


def test_lora_starts_from_the_pretrained_net_and_trains_the_new_head():
    run = SMALL.replace(method="lora", rank=4)
    data = STUDY.hooks.data(run)
    dense = keras.models.clone_model(data.more["net"])
    model = bench.build(run, dense, data)
    assert model.get_layer("logits").trainable
    first = next(iter(cl.clora_layers(model)))
    assert not first.base.trainable
