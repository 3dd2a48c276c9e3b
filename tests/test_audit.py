"""The audit: a few figures recomputed by hand, and that nothing printed is left out."""

import doctest
import os
import subprocess
import sys

import numpy as np
import pytest

from clora_lab.lab import published
from clora_lab.slides import audit, printed, recompute, shapes


@pytest.fixture(scope="module")
def table():
    return audit.audit()


def row(table, slide, quantity):
    (found,) = table[(table["slide"] == slide) & (table["quantity"] == quantity)].itertuples()
    return found


# By hand, from the slides' text and the layers' shapes: (slide, quantity, printed, recomputed, agrees).
BY_HAND = [
    # 16·(784 + 256) + 256 + 16·(256 + 128) + 128 = 23,168 of 235,146
    (16, "Toy: ratio at rank 16", 9.9, 100 * 23_168 / 235_146, True),
    (16, "Toy: ratio at rank 64", 38.9, 100 * 91_520 / 235_146, True),
    (16, "Toy: ratio at rank 16, whole model", 9.9, 100 * 24_458 / 235_146, False),
    (10, "Toy: change of Only WDS at rank 16", -5.69, 82.1 - 87.79, True),
    (12, "Toy: decay at epoch 20", 0.23, (0.85 - 2 / 3) / 0.8, True),
    (12, "Toy: change of the original path at epoch 20", -9.2, 80.07 - 87.79, False),
    (16, "Toy: quoted change", -4, 83.74 - 87.79, True),
    (18, "VGG16: total parameters", 1.9, 18.918730, False),
    # 9·16·8,451 (Cin + Cout of 13 layers) + 4,224 biases + 16·(512 + 4,096)·2 + 4,608 biases
    (19, "VGG16: ratio at ranks 16 and 16", 6.90, 100 * 1_299_504 / 18_918_730, False),
    (19, "VGG16: ratio at ranks 16 and 16, output layer included", 6.90, 100 * 1_304_634 / 18_918_730, True),
    (19, "VGG16: ratio at ranks 16 and 64", 9.21, 100 * 1_741_872 / 18_918_730, True),
    (
        19,
        "VGG16: ratio at ranks 32 and 64, output layer included",
        15.25,
        100 * 2_890_218 / 18_918_730,
        False,
    ),
    (19, "VGG16: quoted largest change", -10.92, 74.44 - 85.36, True),
    (19, "VGG16: quoted smallest change", -7.85, 77.51 - 85.36, True),
    (20, "BERT-Small: total parameters", 28, 28.763648, False),
    # 2 blocks · 4 · (16·256 + 128) = 33,792; with 4 layer norms of 256 it is 34,816
    (21, "BERT-Tiny: ratio at rank 16", 8.8, 100 * 33_792 / 396_544, False),
    (21, "BERT-Tiny: ratio at rank 16, with the layer norms", 8.8, 100 * 34_816 / 396_544, True),
    (21, "BERT-Tiny: ratio at rank 64, whole model", 33.6, 100.0, False),
    (21, "BERT-Tiny: quoted largest change", -3.06, 79.97 - 83.03, True),
    (22, "BERT-Small: ratio at rank 16", 2.1, 100 * 270_336 / 12_609_536, True),
    (22, "BERT-Small: quoted smallest change", -3, 86.02 - 89.05, True),
    (23, "VGG16: Only WDS, mean", 75.63, 456.18 / 6, False),
    (23, "BERT-Tiny: Only WDS, mean", 81.06, 243.17 / 3, True),
    # The two rows of BERT-Small stand in each other's place, and with them the winner.
    (23, "BERT-Small: Scheduled noise, mean", 85.56, 256.92 / 3, False),
    (23, "BERT-Small: Scheduled noise & bias, mean", 85.64, 256.67 / 3, False),
    (24, "BERT-Tiny: height of the compressed bar", 81.12, 80.79, False),
]


@pytest.mark.parametrize(("slide", "quantity", "printed", "recomputed", "agrees"), BY_HAND)
def test_by_hand(table, slide, quantity, printed, recomputed, agrees):
    found = row(table, slide, quantity)
    assert found.printed == printed
    assert found.recomputed == pytest.approx(recomputed, abs=1e-9)
    assert found.agrees == agrees


def test_agreement_is_half_a_unit_of_the_last_digit(table):
    np.testing.assert_allclose(table["difference"], table["printed"] - table["recomputed"])
    assert (table["agrees"] == (table["difference"].abs() <= table["tolerance"] + 1e-9)).all()
    assert row(table, 19, "VGG16: ratio at ranks 16 and 32").tolerance == 0.005
    assert row(table, 16, "Toy: quoted change").tolerance == 0.5
    assert row(table, 20, "BERT-Tiny: total parameters").tolerance == pytest.approx(0.05)


def test_the_table_is_tidy(table):
    assert tuple(table.columns) == audit.COLUMNS
    assert not table.duplicated(["slide", "quantity"]).any()
    assert table["slide"].is_monotonic_increasing
    assert table[["printed", "recomputed"]].notna().all(axis=None)
    assert table["how"].str.len().min() > 10 and set(table["kind"]) == set(audit.KINDS)


def test_every_printed_ratio_and_mean_is_audited(table):
    for study, slide in printed.TABLES.items():
        ratios = published.load(study).query("method != 'original'")["ratio_percent"]
        audited = table[(table["slide"] == slide) & (table["quantity"].str.contains("ratio at"))]
        assert set(audited["printed"]) == set(ratios)
    conclusion = published.load("conclusion")
    audited = table[table["slide"] == 23]
    means = audited[audited["quantity"].str.endswith(", mean")]["printed"]
    spreads = audited[audited["quantity"].str.endswith(", ±")]["printed"]
    assert sorted(means) == sorted(conclusion["accuracy_percent"])
    assert sorted(spreads) == sorted(conclusion["accuracy_sd"])


def test_every_bold_cell_is_the_best_of_its_line(table):
    bold = table[table["quantity"].str.contains("is bold")]
    assert len(bold) == 12 and bold["agrees"].all()


def test_the_underlined_method_of_bert_small_is_not_the_best(table):
    name = "lead of Scheduled noise & bias, underlined, over the next method"
    small, tiny = (row(table, 23, f"{net}: {name}") for net in ("BERT-Small", "BERT-Tiny"))
    assert small.printed == 0.08 and small.recomputed == pytest.approx((256.67 - 256.92) / 3)
    assert not small.agrees and "the best is Scheduled noise" in small.how
    assert tiny.agrees and tiny.recomputed == pytest.approx((243.92 - 243.61) / 3)
    assert tiny.tolerance == pytest.approx(0.01)


def test_disagreements_are_a_part_of_the_audit(table):
    everything = audit.disagreements()
    parts = [audit.disagreements(kind) for kind in audit.KINDS]
    assert len(everything) == len(table) - table["agrees"].sum() == sum(map(len, parts))
    assert [set(part["kind"]) for part in parts] == [{kind} for kind in audit.KINDS]
    with pytest.raises(ValueError, match="`kind` must be one of.*Did you mean 'arithmetic'"):
        audit.disagreements("arith")


def test_the_spread_of_slide_23_follows_no_one_rule():
    spreads = recompute.conclusion_spreads().set_index(["model", "method"])
    wds = spreads.loc[("bert_tiny", "wds")]
    cells = np.array([80.00, 81.26, 81.91])
    assert wds["sd"] == pytest.approx(cells.std(ddof=1))
    assert wds["population_sd"] == pytest.approx(cells.std())
    assert wds["standard_error"] == pytest.approx(cells.std(ddof=1) / 3**0.5)
    assert wds["mean_sd"] == pytest.approx((0.28 + 0.15 + 0.26) / 3)
    assert wds["rms_sd"] == pytest.approx(((0.28**2 + 0.15**2 + 0.26**2) / 3) ** 0.5)
    assert wds["matches"] == wds["nearest"] == "standard_error"
    assert set(spreads["matches"]) == {"", "standard_error"} and (spreads["matches"] == "").sum() == 10


@pytest.mark.parametrize("change", ["unknown", "missing"])
def test_a_claim_without_recomputation_is_refused(monkeypatch, change):
    read = printed.as_printed

    def raw(name):
        frame = read(name)
        if name == "claims":
            frame = frame.iloc[1:] if change == "missing" else frame.replace("quoted change", "a claim")
        return frame

    monkeypatch.setattr(recompute, "as_printed", raw)
    message = {"unknown": "claims that the audit knows.*a claim", "missing": "Missing.*'images'"}[change]
    with pytest.raises(ValueError, match=message):
        audit.audit()


def test_text_has_one_digit_more_than_the_print(table):
    text = audit.as_text(table)
    assert len(text) == len(table)
    line = text[text["quantity"] == "VGG16: total parameters"].iloc[0]
    assert (line["printed"], line["recomputed"]) == ("1.9 million", "18.92 million")
    line = text[text["quantity"] == "VGG16: training images"].iloc[0]
    assert (line["printed"], line["recomputed"], line["difference"]) == (
        "5000 images",
        "50000 images",
        "−45000",
    )
    lead = text[text["quantity"].str.startswith("BERT-Small: lead")].iloc[0]
    assert (lead["printed"], lead["recomputed"]) == ("0.08 points", "−0.083 points")


@pytest.mark.parametrize("module", [audit, printed, recompute, shapes])
def test_the_examples_run(module):
    results = doctest.testmod(module)
    assert results.attempted and not results.failed


def test_the_report_groups_what_shares_a_reason(table):
    text = audit.report()
    assert len(text.splitlines()) < 140  # two pages
    wrong = table[~table["agrees"]]
    assert text.count("→") == len(wrong) + len(audit.KINDS)
    joined = " ".join(text.split())
    assert joined.count("Only WDS and Scheduled noise keep none") <= wrong["slide"].nunique()
    assert "ranks 16 and 16: 6.90 → 6.869; ranks 16 and 32: 7.68 → 7.648" in joined
    everything = audit.report(everything=True)
    assert everything.count("→") == len(table) + len(audit.KINDS)
    assert everything.count(" =") == table["agrees"].sum()
    assert max(map(len, everything.splitlines())) <= audit.WIDTH


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "clora_lab", "audit", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "COLUMNS": "200"},
    )


def test_the_command_prints_it_without_a_deep_learning_framework(table):
    result = command("--kind", "arithmetic")
    assert result.returncode == 0, result.stderr[-2000:]
    wrong = len(audit.disagreements("arithmetic"))
    assert f"{wrong} of {(table['kind'] == 'arithmetic').sum()} figures do not agree" in result.stdout
    assert "81.12 → 80.790 %" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= audit.WIDTH
    assert "Convention" not in result.stdout and "−10.92" not in result.stdout
    assert "keras" not in result.stderr and "tensorflow" not in result.stderr


def test_the_command_prints_what_agrees_too():
    result = command("--all")
    assert "−10.92" in result.stdout and "Convention" in result.stdout


def test_the_command_refuses_an_unknown_kind():
    result = command("--kind", "sums")
    assert result.returncode == 2 and "`kind` must be one of" in result.stderr
