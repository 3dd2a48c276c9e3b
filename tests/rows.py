"""Made-up rows in the schema of a study, for tests of what reads them: numbers, not results."""

from pathlib import Path

import numpy as np
import pandas as pd

from clora_lab import methods, studies

METHODS = list(methods.names("slides"))
TOY, VGG16, BERT = (studies.get(name) for name in ("toy", "vgg16", "bert"))


def blank(study):
    """A row with all columns of a study: defaults, else 0 where there is a number, "" where there is text."""
    home = studies.get(study)
    row = {name: 0 if home.types.get(name) in (int, float) else "" for name in home.columns}
    return row | {name: field.cell(field.default) for name, field in home.fields.items()}


def write(folder, study, rows, history=()):
    """Add rows to the collected tables of a study."""
    for name, new in ((study, rows), (f"{study}_history", list(history))):
        path = Path(folder) / f"{name}.csv"
        old = pd.read_csv(path, dtype=str, keep_default_na=False) if path.exists() else pd.DataFrame()
        if len(new):
            pd.concat([old, pd.DataFrame(new)], ignore_index=True).to_csv(path, index=False)


def run(home, method, accuracy, split="test", view="", ratios=(("ratio_percent", 9.87),), **fields):
    """The recorded rows of one run, its numbers made up; a net of the slides has both views."""
    base = blank(home.name) | {"train_size": 4000, "test_size": 1000}
    base |= {"backend": "tensorflow", "backend_version": "2", "keras_version": "3", "processor": "two cores"}
    base |= {"method": method, "seed": 0, "date": "2026-01-01"} | fields
    if method == methods.ORIGINAL:
        base |= {name: each.original for name, each in home.fields.items() if each.original is not None}
        ratios = [(name, 100.0) for name, _ in ratios]
    named = ("method", *home.cells, "seed", "variant", "dataset", "epochs", "scope", "factorization")
    base["config"] = "-".join(str(base.get(name, "")) for name in named)
    view = view or ("compressed" if method in METHODS else "trained")
    values = [(split, view, "accuracy", accuracy)]
    if view == "compressed":  # what trains must never be taken for what remains
        values.append((split, "trained", "accuracy", 0.999))
    values += [("model", "-", metric, share) for metric, share in ratios]
    values.append(("model", "-", "seconds", 1.0))
    return [base | dict(zip(("split", "view", "metric", "value"), each, strict=True)) for each in values]


def toy(method, rank, seed, accuracy, **other):
    ratio = {0: 100.0, 4: 3.0, 16: 9.87, 64: 38.92}[rank]
    given = {"dataset": "fashion_mnist", "split": "validation", "ratios": [("ratio_percent", ratio)]} | other
    return run(TOY, method, accuracy, rank=rank, seed=seed, **given)


def frame(*runs):
    return pd.DataFrame([row for rows in runs for row in rows])


def vgg16(method, accuracy, factorization="loralib", seed=0, **fields):
    flops = {"loralib": 98.0, "pair_equal": 12.0}[factorization]
    given = {"dataset": "cifar10_jpeg", "variant": "short", "rank": 16, "dense_rank": 16} | fields
    ratios = [("ratio_percent", 6.87), ("flops_percent", flops)]
    return run(VGG16, method, accuracy, ratios=ratios, factorization=factorization, seed=seed, **given)


def bert(method, accuracy, **fields):
    share = {"ratio_percent": 8.8, "ratio_encoder_percent": 75.2, "ratio_model_percent": 97.8}
    given = {"dataset": "imdb", "rank": 16} | fields
    return run(BERT, method, accuracy, ratios=list(share.items()), **given)


RATIOS = {16: 9.9, 32: 19.5, 64: 38.9}
PUBLISHED = {  # the slides' toy table, percent
    "wds": (82.1, 83.2, 82.87),
    "bias": (82.73, 82.55, 83.68),
    "noise": (81.59, 83.44, 82.38),
    "noise_bias": (83.74, 83.93, 84.23),
}


def comparison(splits=("test",)):
    """What `tables.compare` would return of made-up means: one table, in one split or in both."""
    rng = np.random.default_rng(7)
    level = {"wds": 84.5, "bias": 86, "noise": 87.2, "noise_bias": 87.6}
    level |= {"svd": 80.0, "svd_finetune": 87.4, "scratch": 87.3}
    rows = [("dense", 0, 100.0, 86.8, 0.3, 5, split) for split in splits]
    for split in splits:
        for method, mean in level.items():
            for rank in RATIOS:
                mean_here, sd = mean + rank / 100 + rng.normal(0, 0.2), 0.2 + rng.uniform(0, 0.4)
                rows.append((method, rank, RATIOS[rank] - 0.01, mean_here, sd, 5, split))
    table = pd.DataFrame(rows, columns=["method", "rank", "ratio", "measured", "sd", "n", "split"])
    table["ratio"] = table["rank"].map({0: 100.0, 16: 9.89, 32: 19.56, 64: 38.92})
    printed = {(m, r): v for m, values in PUBLISHED.items() for r, v in zip(RATIOS, values, strict=True)}
    printed["dense", 0] = 87.79
    keys = list(zip(table["method"], table["rank"], strict=True))
    table["published"] = [printed.get(key, np.nan) for key in keys]
    table["published_ratio"] = table["rank"].map({0: 100.0, **RATIOS}).where(table["published"].notna())
    table["difference"] = table["measured"] - table["published"]
    table = table.assign(dataset="fashion_mnist", note="", n=table["n"].astype("Int64"))
    table.attrs |= {"cells": ("rank",), "apart": ("dataset",)}
    return table
