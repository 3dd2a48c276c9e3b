"""Every slide figure in two versions: printed digits, recorded rows, and no picture where there is neither.

The recorded rows below are seeded numbers in the schema of the studies, not results.
"""

import doctest
import os
import re
import subprocess
import sys
from html import unescape
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
import rows as made_up

from clora_lab import methods, studies
from clora_lab.lab import published
from clora_lab.lab.data import registry as datasets
from clora_lab.lab.figures import marks, style
from clora_lab.lab.frames import MissingResults
from clora_lab.slides import figures, measured, page, plots, printed
from clora_lab.slides import published as slides_published
from clora_lab.slides.figures import SlideFigure

METHODS = methods.names("slides")


def record(folder, study, values, ratios, **settings):
    """One finished run: its accuracy by split (fractions) and its ratios by metric (percent)."""
    row = made_up.blank(study) | {
        "study": study,
        "variant": "slides",
        "epochs": 20,
        "fraction": 1.0,
        **settings,
    }
    row["config"] = "-".join(str(row.get(c, "")) for c in sorted(settings))
    view = "compressed" if settings["method"] in METHODS else "trained"
    rows = [row | {"split": s, "view": view, "metric": "accuracy", "value": v} for s, v in values.items()]
    rows += [row | {"split": "model", "view": "-", "metric": m, "value": v} for m, v in ratios.items()]
    rows.append(row | {"split": "model", "view": "-", "metric": "seconds", "value": 1.0})
    made_up.write(folder, study, rows)


VGG16 = {"dataset": "cifar10_jpeg", "model": "vgg16", "start": "random", "train_size": 5000}
VGG16 |= {"dense_epochs": 10, "epochs": 4, "learning_rate": 1e-3, "precision": "mixed_bfloat16"}


def write_vgg16(folder, seeds=(0, 1, 2), ranks=((16, 16), (32, 32)), **settings):
    rng = np.random.default_rng(1)
    settings = VGG16 | settings
    for seed in seeds:
        accuracy = 0.62 + rng.normal(0, 0.005)
        dense = settings | {"epochs": 10, "learning_rate": 1e-4, "method": "dense", "rank": 0}
        record(folder, "vgg16", {"test": accuracy}, {}, seed=seed, **dense)
        for conv, dense in ranks:
            for shift, method in enumerate((*METHODS, "svd_finetune", "scratch")):
                value = 0.55 + 0.01 * shift + conv / 2000 + rng.normal(0, 0.004)
                ratio = {"ratio_percent": printed.table_ratio("vgg16", conv, dense)}
                ratio["ratio_model_percent"] = ratio["ratio_percent"] + 0.03
                pair = {"method": method, "rank": conv, "dense_rank": dense, "seed": seed}
                pair |= {"factorization": "loralib"}
                record(
                    folder, "vgg16", {"test": value, "validation": value + 0.01}, ratio, **pair, **settings
                )


def write_bert(folder, model="bert_tiny", ranks=(16, 32, 64), seeds=(0,)):
    rng = np.random.default_rng(2)
    settings = {"dataset": "imdb", "model": model, "start": "pretrained here", "train_size": 25000}
    for seed in seeds:
        record(folder, "bert", {"test": 0.8303}, {}, method="dense", rank=0, seed=seed, **settings)
        for rank in ranks:
            for method in METHODS:
                ratio = {"ratio_percent": rank / 1.9, "ratio_model_percent": 97.76}
                pair = {"method": method, "rank": rank, "seed": seed, "scope": "attention"}
                value = 0.8 + rank / 5000 + rng.normal(0, 0.002)
                record(folder, "bert", {"test": value}, ratio, **pair, **settings)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    write_vgg16(folder)
    write_bert(folder)
    return folder


def cells(fig):
    return [text.get_text() for text in fig.axes[0].texts]


def bold(fig):
    return [text.get_text() for text in fig.axes[0].texts if text.get_weight() == "bold"]


def bars(ax):
    """The heights of the bars from left to right."""
    return [patch.get_height() for patch in sorted(ax.patches, key=lambda patch: patch.get_x())]


def subtitle(fig):
    return " ".join(text.get_text() for text in fig.artists)


def by_stem(results=None, lang="en"):
    return {figure.stem: figure for figure in figures.slide_figures(results, lang)}


# --- the list ---------------------------------------------------------------------------------------


def test_every_figure_of_the_slides_is_there():
    found = figures.slide_figures()
    assert {figure.slide for figure in found} == {5, 6, 8, 9, 10, 12, 13, 14, 15, 16, 18, 19, 21, 22, 23, 24}
    assert [figure.slide for figure in found] == sorted(figure.slide for figure in found)
    assert len({figure.stem for figure in found}) == len(found)
    for figure in found:
        assert callable(figure.published) or callable(figure.measured)
        assert set(figure.titles) == set(figures.LANGUAGES) == set(page.TEXTS)
    with pytest.raises(ValueError, match="`lang` must be one of"):
        figures.slide_figures(lang="fr")


@pytest.mark.parametrize("stem", [f.stem for f in figures.slide_figures() if callable(f.published)])
def test_published_versions_draw_without_results(tmp_path, stem):
    fig = by_stem(tmp_path)[stem].published()
    text = style.alt_text(fig)
    assert text.endswith(".") and "nan" not in text.lower()
    fig.draw_without_rendering()
    width, height = fig.get_size_inches() * fig.dpi
    texts = [text for ax in fig.axes for text in ax.texts] + [*fig.texts, *fig.artists, fig._suptitle]
    for found in texts:
        box = found.get_window_extent()
        assert found.get_fontsize() >= 9, found
        assert box.x0 > -1 and box.y0 > -1 and box.x1 < width + 1 and box.y1 < height + 1, found


def test_nothing_recorded_is_nothing_drawn(tmp_path):
    for figure in by_stem(tmp_path).values():
        if figure.slide in (6, 18) or isinstance(figure.measured, str):
            continue  # counted from shapes
        with pytest.raises(MissingResults, match="Not measured yet.*reproduce"):
            figure.measured()


# --- published --------------------------------------------------------------------------------------


@pytest.mark.parametrize("study", printed.TABLES)
def test_published_tables_have_every_digit_and_the_slides_bold(study):
    fig = slides_published.table(study, "A table")
    table = printed.as_printed(study)
    seen = cells(fig)
    for row in table.itertuples():
        spread = getattr(row, "accuracy_sd", "")
        assert row.accuracy_percent + (f" ± {spread}" if spread else "") in seen
        assert row.ratio_percent in seen
    marked = printed.as_printed("marked").query("study == @study and mark == 'bold'")
    assert len([text for text in bold(fig) if re.match(r"\d", text)]) == len(marked)
    if study == "vgg16":
        assert "76.96 ± 0.91" in bold(fig) and "6.90" in seen and "76.49 ± 0.53" not in bold(fig)


def test_the_published_conclusion_marks_what_is_no_mean(tmp_path):
    fig = by_stem(tmp_path)["slide_23_conclusion"].published()
    seen = cells(fig)
    assert "75.63 † ± 0.58" in seen and "81.06 ± 0.56" in seen
    assert sum("†" in text for text in seen) == 7  # four of VGG16, one of BERT-Tiny, two of BERT-Small
    assert "81.31 ± 0.30" in bold(fig) and "85.64 † ± 0.25" in bold(fig)


def test_the_published_bars_have_the_slides_heights(tmp_path):
    fig = by_stem(tmp_path)["slide_24_bars"].published()
    heights = [[round(height, 2) for height in bars(ax)] for ax in fig.axes]
    assert heights == [[100, 13.72, 85.36, 76.81], [100, 8.8, 83.03, 81.12]]
    assert "80.79" in [text.get_text() for text in fig.axes[1].texts]


def test_the_published_decay_is_the_slides_schedule(tmp_path):
    fig = by_stem(tmp_path)["slide_09_decay"].published()
    assert "at 1 until 2,400" in fig.alt_text and "at 40,800" in fig.alt_text


def test_the_reading_of_slide_12_states_both_changes(tmp_path):
    fig = by_stem(tmp_path)["slide_12_paths"].published()
    (text,) = (text.get_text() for text in fig.axes[0].texts)
    assert "slide: −9.2 points" in text and "from 87.79%: −7.7 points" in text
    with pytest.raises(ValueError, match=r"`note` must have the entries \['change'\]"):
        plots.slide_reading({"epoch": 1, "decay": 1, "accuracy": 0.5}, 0.9)


# --- measured ---------------------------------------------------------------------------------------


def test_a_measured_table_prints_the_means_over_seeds(recorded):
    fig = measured.table(recorded, "vgg16", "vgg16")
    rows = studies.recorded("vgg16", recorded).read()
    test = rows[(rows["metric"] == "accuracy") & (rows["split"] == "test")]
    stats = 100 * test.groupby(["method", "rank", "dense_rank"])["value"].agg(["mean", "std"])
    seen = cells(fig)
    for line in stats.itertuples():
        assert f"{line.mean:.2f} ± {line.std:.2f}" in seen
    assert len(stats) == 1 + 2 * 6 and "13.7" in seen and "32 / 32" in seen
    four = stats.loc[list(METHODS)].xs(32, level="rank")
    best = four.loc[four["mean"].idxmax()]
    assert f"{best['mean']:.2f} ± {best['std']:.2f}" in bold(fig)
    said = " ".join(subtitle(fig).split())
    assert "mean ± 1 sd of 3 seeds" in said and "from random initialisation on CIFAR-10 (JPEG)" in said
    assert "5,000 training" in said and "loralib" in said and "test set" in said
    assert "4 epochs from a dense net of 10" in said
    assert "Low-rank from scratch" in fig.alt_text


def test_one_setting_a_table_and_the_others_are_counted(tmp_path):
    write_vgg16(tmp_path, seeds=(0,))
    setting, alone = measured.cells_of(tmp_path, "vgg16", "vgg16")
    assert "more setting" not in setting
    write_vgg16(tmp_path, seeds=(0,), variant="modern")
    write_vgg16(tmp_path, seeds=(0, 1), train_size=50_000, ranks=((16, 16),))
    setting, cells_now = measured.cells_of(tmp_path, "vgg16", "vgg16")
    pd.testing.assert_frame_equal(cells_now, alone)
    assert "5,000 training" in setting and "2 more settings" in setting


def test_pairs_of_convolutions_do_not_mix_with_loralibs(tmp_path):
    write_vgg16(tmp_path, seeds=(0,))
    _, alone = measured.cells_of(tmp_path, "vgg16", "vgg16")
    for method in ("wds", "scratch"):
        pair = {"method": method, "rank": 16, "dense_rank": 16, "seed": 0, "factorization": "pair"}
        record(tmp_path, "vgg16", {"test": 0.9}, {"ratio_percent": 5.0}, **pair, **VGG16)
    setting, both = measured.cells_of(tmp_path, "vgg16", "vgg16")
    pd.testing.assert_frame_equal(both, alone)
    assert both["measured"].max() < 90 and "1 more setting in" in setting


def test_two_runs_of_one_seed_are_refused(tmp_path):
    write_vgg16(tmp_path, seeds=(0,))
    write_vgg16(tmp_path, seeds=(0,), fraction=0.5)
    with pytest.raises(ValueError, match="one setting for each method and cell.*several of `fraction`"):
        measured.cells_of(tmp_path, "vgg16", "vgg16")


def test_a_model_without_rows_is_named(recorded):
    with pytest.raises(MissingResults, match="'bert' hold none of BERT-Small.*reproduce bert"):
        measured.table(recorded, "bert", "bert_small")


def test_the_measured_conclusion_averages_the_cells(recorded):
    fig = by_stem(recorded)["slide_23_conclusion"].measured()
    _, found = measured.cells_of(recorded, "bert", "bert_tiny")
    mean = found[found["method"] == "bias"]["measured"].mean()
    assert f"{mean:.2f}" in cells(fig)
    assert "Not measured yet: BERT-Small" in subtitle(fig)
    assert "VGG16: 2 cells" in subtitle(fig) and "BERT-Tiny: 3 cells" in subtitle(fig)


def test_the_measured_bars_show_the_slides_cells(recorded):
    fig = by_stem(recorded)["slide_24_bars"].measured()
    _, vgg = measured.cells_of(recorded, "vgg16", "vgg16")
    cell = vgg.query("method == 'wds' and rank == 32 and dense_rank == 32").iloc[0]
    heights = bars(fig.axes[0])
    dense = vgg.query("method == 'dense'")["measured"].iloc[0]
    np.testing.assert_allclose(heights, [100, 13.72, dense, cell["measured"]])
    assert "97.8" in [text.get_text() for text in fig.axes[1].texts]  # of the whole model


def history(method="wds", seeds=(0, 1)):
    epochs = np.arange(31)
    decay = np.clip(1 - (epochs / 30 - 0.05) / 0.8, 0, 1)
    parts = [
        pd.DataFrame(
            {
                "dataset": "fashion_mnist",
                "method": method,
                "rank": 16,
                "variant": "slides",
                "seed": seed,
                "epoch": epochs,
                "decay": decay,
                "val_accuracy": 0.85 + 0.01 * seed,
                "val_compressed_accuracy": 0.85 - 0.75 * decay,
                "val_original_accuracy": 0.1 + 0.75 * decay,
            }
        )
        for seed in seeds
    ]
    return pd.concat(parts, ignore_index=True)


def test_stages_are_the_epochs_nearest_to_the_drawn_decays():
    frame = history()
    fig = plots.stage_accuracies(frame)
    ax = fig.axes[0]
    ticks = [label.get_text().split("\n")[1] for label in ax.get_xticklabels()]
    assert ticks == ["epoch 0", "epoch 10", "epoch 18", "epoch 30"]
    heights = np.array([patch.get_height() for patch in ax.patches]).reshape(3, 4)
    picked = frame[frame["seed"] == 0].set_index("epoch").loc[[0, 10, 18, 30]]
    np.testing.assert_allclose(heights[0], picked["val_original_accuracy"])
    np.testing.assert_allclose(heights[1], picked["val_compressed_accuracy"])
    np.testing.assert_allclose(heights[2], 0.855)
    assert "Mean of 2 seeds" in subtitle(fig)


def test_stages_name_a_missing_path_and_need_two():
    frame = history().assign(val_original_accuracy=np.nan)
    fig = plots.stage_accuracies(frame)
    assert "No rows for: original path" in subtitle(fig) and len(fig.axes[0].patches) == 8
    with pytest.raises(MissingResults, match="at least two of"):
        plots.stage_accuracies(frame.assign(val_compressed_accuracy=np.nan))


# --- counted ----------------------------------------------------------------------------------------


def test_layers_are_counted_with_both_factorizations():
    fig = plots.layer_parameters(16, 16)
    ax = fig.axes[0]
    assert "1,304,634 of 18,918,730" in fig.alt_text and "larger than before: block1_conv1" in fig.alt_text
    points = {line.get_label(): line.get_xdata() for line in ax.lines}
    assert points["1 × k, then k × 1 (slides)"][0] == 9 * 16 * 67 + 64
    assert points["k × k to rank, then 1 × 1"][0] == 16 * (27 + 64) + 64
    assert [patch.get_width() for patch in ax.patches][:2] == [1_792, 36_928]
    with pytest.raises(ValueError, match="`rank` must be an integer of at least 1"):
        plots.layer_parameters(0, 16)


def test_fine_tuning_and_lora_are_counted():
    widths = [patch.get_width() for patch in plots.trained_parameters([16, 64]).axes[0].patches]
    assert widths == [233_856, 16 * (784 + 256 + 256 + 128), 64 * (784 + 256 + 256 + 128)]


def test_the_law_of_the_noise_keeps_the_density_of_w():
    fig = plots.noise_law([0.8, 0.3])
    for ax, d in zip(fig.axes, (0.8, 0.3), strict=True):
        drawn = {line.get_label(): line.get_ydata() for line in ax.lines}
        np.testing.assert_allclose(drawn["d·W + n"], drawn["W"])
        assert drawn["d·W"].max() == pytest.approx(1 / (d * np.sqrt(2 * np.pi)), rel=1e-3)
    for bad in ([], [0.0], [1.2]):
        with pytest.raises(ValueError, match="`decays`"):
            plots.noise_law(bad)


# --- tables -----------------------------------------------------------------------------------------


def test_a_table_refuses_lines_that_do_not_fit():
    with pytest.raises(ValueError, match="`lines` must be at least one line of at most 2 cells"):
        marks.table(["a", "b"], [{"cells": ["1", "2", "3"]}], "A table")
    with pytest.raises(ValueError, match="`lines`"):
        marks.table(["a", "b"], [], "A table")


@pytest.mark.parametrize("module", [figures, page, plots, slides_published])
def test_the_examples_run(module):
    results = doctest.testmod(module)
    assert results.attempted and not results.failed


# --- files and page ---------------------------------------------------------------------------------


class Page(HTMLParser):
    """Images and links of a page, and its tags in balance."""

    def __init__(self, text):
        super().__init__()
        self.images, self.links, self.ids, self.open = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.ids += [attributes["id"]] if "id" in attributes else []
        if tag == "img":
            self.images.append(attributes)
        elif tag == "a":
            self.links.append(attributes["href"])
        if tag not in ("img", "meta"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def saved(recorded, tmp_path_factory):
    """Without rows of the toy project, which needs a trained net for slide 14."""
    folder = tmp_path_factory.mktemp("figures")
    return folder, page.save_slide_figures(folder, recorded)


def test_files_are_numbered_by_slide(saved):
    folder, answer = saved
    assert sorted(path.name for path in folder.iterdir()) == sorted(path.name for path in answer.files)
    names = {path.stem for path in answer.files if path.suffix == ".png"}
    assert all(re.fullmatch(r"slide_\d\d_[a-z0-9_]+_(published|measured|coded)", name) for name in names)
    assert {"slide_19_vgg16_published", "slide_19_vgg16_measured", "slide_05_fine_tuning_published"} <= names
    assert {path.stem for path in answer.files if path.suffix == ".svg"} == names
    notes = dict(answer.notes)
    assert "reproduce bert" in notes["slide_22_bert_small_measured"]
    assert "reproduce toy" in notes["slide_16_table_measured"]
    every = {
        f"{f.stem}_{v}" for f in figures.slide_figures() for v in page.VERSIONS if getattr(f, v) is not None
    }
    assert names | set(notes) == every and not names & set(notes)


def test_the_page_shows_each_file_with_its_description(saved):
    folder, answer = saved
    text = (folder / "index.html").read_text(encoding="utf-8")
    page = Page(text)
    assert not page.open
    pictures = {path.name for path in answer.files if path.suffix == ".png"}
    assert {image["src"] for image in page.images} == pictures
    assert all(len(image["alt"]) > 20 for image in page.images)
    local = [link for link in page.links if not link.startswith("#")]
    assert all((folder / link).is_file() for link in local)
    assert {link[1:] for link in page.links if link.startswith("#")} == set(page.ids)
    assert "http" not in text and "<script" not in text and "url(" not in text
    for _, note in answer.notes:
        assert note in unescape(text)
    assert "81.12 %" in text and "80.790 %" in text  # the audit of slide 24


def test_text_of_a_page_is_escaped():
    figure = SlideFigure(5, "x", {"en": "<b>"}, "1 < 2", "")
    text = page.page_html([(figure, {"published": "1 < 2", "measured": page.Picture("x", 'a "b"', 1, 1)})])
    assert "<b>" not in text and "1 &lt; 2" in text and "a &#34;b&#34;" in text


def test_a_second_run_takes_away_what_is_no_longer_there(tmp_path, recorded, monkeypatch):
    chosen = [by_stem(recorded)["slide_19_vgg16"]]
    monkeypatch.setattr(page, "slide_figures", lambda results, lang: chosen)
    page.save_slide_figures(tmp_path, recorded)
    assert (tmp_path / "slide_19_vgg16_measured.png").is_file()
    chosen[0] = by_stem(tmp_path / "nothing")["slide_19_vgg16"]
    page.save_slide_figures(tmp_path, recorded)
    assert not (tmp_path / "slide_19_vgg16_measured.png").exists()
    assert (tmp_path / "slide_19_vgg16_published.png").is_file()


def test_a_missing_data_set_is_a_note(tmp_path, monkeypatch):
    def draw():
        raise datasets.DatasetMissing("Fashion-MNIST is not cached")

    figure = SlideFigure(14, "noise", {"en": "Noise"}, draw, draw)
    monkeypatch.setattr(page, "slide_figures", lambda results, lang: [figure])
    answer = page.save_slide_figures(tmp_path / "new")
    assert [path.name for path in answer.files] == ["index.html"]
    assert [note for _, note in answer.notes] == ["Fashion-MNIST is not cached"] * 2


@pytest.mark.filterwarnings("ignore:Glyph")
def test_korean_titles(monkeypatch, recorded, tmp_path):
    monkeypatch.setattr(style, "hangul_font", lambda: "DejaVu Sans")
    found = by_stem(recorded, "ko")
    assert found["slide_19_vgg16"].measured().get_suptitle().startswith("VGG16 (직접 측정)")
    assert "발표 자료" in found["slide_16_table"].published().get_suptitle()
    one = [found["slide_23_conclusion"]]
    monkeypatch.setattr(page, "slide_figures", lambda results, lang: one)
    page.save_slide_figures(tmp_path, recorded, "ko")
    text = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert '<html lang="ko">' in text and "직접 측정" in text


def test_published_numbers_come_from_the_files():
    assert printed.original_of("toy") == published.load("toy")["accuracy_percent"].max()


def command(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "clora_lab", "figures", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, **{name: str(value) for name, value in environment.items()}},
    )


def test_the_command_draws_the_recorded_rows_without_the_data_set(tmp_path):
    where = {"KERAS_HOME": tmp_path / "none", "CLORA_CACHE": tmp_path / "cache", "CLORA_OFFLINE": 1}
    result = command("--out", tmp_path / "figures", **where)
    assert result.returncode == 0, result.stderr
    page = Page((tmp_path / "figures" / "index.html").read_text(encoding="utf-8"))
    assert {"slide_16_table_measured.png", "slide_08_wds_measured.png"} <= {i["src"] for i in page.images}
    assert "note: slide_14_noise_measured: Fashion-MNIST is not cached" in result.stderr
    assert "index.html" in result.stdout


def test_the_command_refuses_a_language(tmp_path):
    result = command("--lang", "fr", "--out", tmp_path)
    assert result.returncode == 2 and "`lang` must be one of" in result.stderr
    assert not list(tmp_path.iterdir())
