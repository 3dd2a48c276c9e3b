"""What the studies say together: means beside slide 23, paired tests over seeds, accuracy against ratio.

A `Part` is the rows of one study that belong into one table: one dataset, model and recipe. Seeds are the
independent units everywhere: accuracies are averaged over the ranks within a seed first, and intervals and
tests are over the seeds. What one seed stands for has no interval.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.stats

from clora_lab import _checks
from clora_lab.lab import names, stats, tables
from clora_lab.lab.data import registry as datasets
from clora_lab.lab.frames import MissingResults
from clora_lab.lab.names import BASELINES, METHODS
from clora_lab.lab.nets import registry as nets
from clora_lab.slides import published
from clora_lab.studies import overview
from clora_lab.studies import recorded as store_of

STUDIES = ("toy", "vgg16", "bert")
FAMILIES = {"methods": METHODS, "baselines": BASELINES}  # Holm's correction is over one of them
SLIDES_EPOCHS = {"fashion_mnist": 30, "cifar10": 20, "cifar10_jpeg": 20, "imdb": 10}  # by their data
# The toy study's recipes whose rows make a table, each with the recipe that its baselines are recorded under.
TOY_RECIPES = {"slides": "slides", "cosine": "cosine", "recipe": "cosine"}
RATIOS = ("ratio_percent", "ratio_model_percent")


@dataclass(frozen=True)
class Part:
    """Rows of one study, dataset, model and recipe, the dense net's included.

    Args:
        study: "toy", "vgg16" or "bert".
        slides: name of the published table that shows the same cells, or None.
        title: what was measured, in a few words.
        rows: result rows.
    """

    study: str
    slides: str | None
    title: str
    rows: pd.DataFrame


def recorded(folder: str | Path) -> dict[str, pd.DataFrame]:
    """The rows of every study that is recorded in a folder; a study that is not has no entry.

    Args:
        folder: of the recorded rows.

    Returns:
        Name of the study -> its rows.

    Example:
        >>> recorded("no such folder")
        {}
    """
    stores = [store_of(study, folder) for study in STUDIES]
    rows = {store.name: store.read() for store in stores if store.exists()}
    return {study: found for study, found in rows.items() if (found["rank"] > 0).any()}


def parts(studies: Mapping[str, pd.DataFrame]) -> list[Part]:
    """The rows of the studies in parts that make a table each.

    Args:
        studies: name -> rows, as `recorded` gives them. Of the toy study the recipes "slides", "cosine" and
            "recipe" count, the last with the baselines of "cosine", as it was trained like them.

    Returns:
        Parts in the order toy, VGG16, BERT; what holds none of the slides' methods is left out.

    Raises:
        ValueError: an unknown study.

    Example:
        >>> parts({})
        []
    """
    found = []
    for study in studies:
        _checks.one_of("study", study, STUDIES)
    for study in [name for name in STUDIES if name in studies]:
        found += _toy(studies[study]) if study == "toy" else _deep(studies[study], study)
    return found


def _toy(rows: pd.DataFrame) -> list[Part]:
    found = []
    for dataset, own in rows.groupby("dataset", sort=False):
        for recipe, base in TOY_RECIPES.items():
            chosen = own[own["variant"] == recipe]
            if not chosen["method"].isin(METHODS).any():
                continue
            if base != recipe:
                others = (own["variant"] == base) & ~own["method"].isin(METHODS)
                chosen = pd.concat([own[others], chosen])
            slides = "toy" if (dataset, recipe) == ("fashion_mnist", "slides") else None
            title = f"{nets.label('toy_mlp')}, {datasets.label(dataset)}, recipe '{recipe}'"
            found.append(Part("toy", slides, title, chosen))
    return found


def _deep(rows: pd.DataFrame, study: str) -> list[Part]:
    found = []
    for _, part in overview.parts(rows, study):
        if not part["method"].isin(METHODS).any():
            continue
        first = part[part["method"] != "dense"].iloc[0]
        net = nets.label(first["model"])
        title = f"{net}, {datasets.label(first['dataset'])}, recipe '{first['variant']}'"
        own = first[overview.PARTS[study][-1]]
        title += "" if own in ("loralib", "attention") else f", {str(own).replace('_', ' ')}"
        found.append(Part(study, overview.comparable(part), title, part))
    return sorted(found, key=lambda part: _slides_epochs(part) is None)  # stand-ins last


def _slides_epochs(part: Part) -> int | None:
    """Of the slides' training on these data; None for data that stand in for theirs."""
    return SLIDES_EPOCHS.get(part.rows["dataset"].iloc[0])


def sizes(found: Sequence[Part]) -> pd.DataFrame:
    """How large each part is, from its rows: what a reader should know before any of its numbers.

    Args:
        found: by `parts`.

    Returns:
        A row a part: part, training (how many examples), epochs,
        epochs_slides (empty for data that stand in for theirs), cells (how many rank cells have one of the
        four methods), seeds (of the cell with the fewest, and of the one with the most).

    Example:
        >>> sizes([]).empty
        True
    """
    rows = []
    for part in found:
        own = part.rows[part.rows["method"].isin(METHODS)]
        seeds = _cells(own).groupby([*_rank_columns(own), "method"])["seed"].nunique()
        rows.append(
            {
                "part": part.title,
                "training": f"{int(own['train_size'].iloc[0]):,} examples",
                "epochs": int(own["epochs"].max()),
                "epochs_slides": _slides_epochs(part),
                "cells": own[_rank_columns(own)].drop_duplicates().shape[0],
                "seeds": "–".join(dict.fromkeys(str(count) for count in (seeds.min(), seeds.max()))),
            }
        )
    frame = pd.DataFrame(rows)
    return frame.astype({"epochs_slides": "Int64"}) if rows else frame


# --- accuracies by seed -------------------------------------------------------------------------


def _rank_columns(rows: pd.DataFrame) -> list[str]:
    return [column for column in ("rank", "dense_rank") if column in rows]


def _cells(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows with the column `cell`: the rank as text, of VGG16 both as '16/16'."""
    return rows.assign(cell=rows[_rank_columns(rows)].astype(int).astype(str).agg("/".join, axis=1))


def by_seed(part: Part, split: str = "test") -> pd.DataFrame:
    """The accuracy of every finished net in percent, a column a method.

    Args:
        part: by `parts`.
        split: "test" or "validation".

    Returns:
        Indexed by (cell, seed), cells in the order of their ranks; the dense net of the seed stands in every
        cell.

    Raises:
        MissingResults: no accuracy of the split.
        ValueError: several runs of one method, cell and seed, which no mean should mix.
    """
    accuracy = tables.final_accuracy(part.rows)
    accuracy = accuracy[accuracy["split"] == split]
    small = accuracy[accuracy["method"] != "dense"]
    if small.empty:
        raise MissingResults(
            f"`part` must hold compressed nets with an accuracy of the split {split!r}. Received: none."
        )
    small = _cells(small.sort_values([*_rank_columns(small), "seed"]))
    twice = small.duplicated(["cell", "seed", "method"])
    if twice.any():
        one = small.loc[twice, ["method", "cell", "seed"]].iloc[0].tolist()
        raise ValueError(
            f"`part` must hold one run for each method, cell and seed. Received several for {one} of "
            f"{part.title}: select the rows of one setting first."
        )
    table = small.pivot(index=["cell", "seed"], columns="method", values="value")
    table = 100 * table.reindex(small[["cell", "seed"]].drop_duplicates().apply(tuple, axis=1))
    table.index = pd.MultiIndex.from_tuples(table.index, names=["cell", "seed"])
    dense = accuracy[accuracy["method"] == "dense"].set_index("seed")["value"]
    table["dense"] = 100 * dense.reindex(table.index.get_level_values("seed")).to_numpy()
    order = [name for name in (*names.METHOD_LABELS, *names.REFERENCES) if name in table]
    return table[order].rename_axis(columns=None)


# --- beside slide 23 ----------------------------------------------------------------------------


def _published_cells(slides: str) -> pd.DataFrame:
    """A published table's accuracies: indexed by cell, a column a method, and 'dense' in every line."""
    table = published.load(slides)
    ranks = ["conv_rank", "dense_rank"] if "conv_rank" in table else ["rank"]
    original = table.loc[table["method"] == "original", "accuracy_percent"].item()
    table = table[table["method"] != "original"]
    table = table.assign(cell=table[ranks].astype(int).astype(str).agg("/".join, axis=1))
    cells = table.pivot(index="cell", columns="method", values="accuracy_percent").rename_axis(columns=None)
    return cells.reindex(table["cell"].unique()).assign(dense=original)


def table(found: Sequence[Part], split: str = "test") -> pd.DataFrame:
    """Our conclusion table beside slide 23's: for each method the mean over the rank cells.

    Args:
        found: by `parts`.
        split: of the measured accuracy.

    Returns:
        A row for each part, block (see `stats.blocks`) and method, the baselines that were measured in the
        whole block last: part, slides, cells, seeds (numbers), method, mean, low, high (95% interval over the
        seeds, empty below three seeds), gap (from the dense nets of the same seeds); published and
        published_sd (slide 23 as printed; the toy project is not on it), published_mean (of all cells of the
        model's own table), published_same and published_gap (of the block's cells: what may be compared).
        In percent or points.

    Example:
        >>> table([]).empty
        True
    """
    slide = published.load("conclusion").set_index(["model", "method"])
    rows = []
    for part in found:
        accuracy = by_seed(part, split)
        here = [method for method in METHODS if method in accuracy]
        theirs = _published_cells(part.slides) if part.slides else None
        for cells, seeds in stats.blocks(accuracy, here):
            means = stats.seed_means(accuracy, cells, seeds)
            for method in [name for name in (*METHODS, *BASELINES) if name in means]:
                own = means[method]
                low, high = stats.interval(own)
                row = {"part": part.title, "slides": part.slides, "cells": ", ".join(cells)}
                row |= {"seeds": len(seeds), "method": method, "mean": own.mean(), "low": low, "high": high}
                row["gap"] = (own - means["dense"]).mean() if "dense" in means else np.nan
                if theirs is not None and method in METHODS:
                    row["published_mean"] = theirs[method].mean()
                    if set(cells) <= set(theirs.index):
                        same = theirs.loc[cells]
                        row["published_same"] = same[method].mean()
                        row["published_gap"] = (same[method] - same["dense"]).mean()
                    if (part.slides, method) in slide.index:
                        line = slide.loc[(part.slides, method)]
                        row |= {"published": line["accuracy_percent"], "published_sd": line["accuracy_sd"]}
                rows.append(row)
    columns = ["part", "slides", "cells", "seeds", "method", "mean", "low", "high", "gap"]
    columns += ["published", "published_sd", "published_mean", "published_same", "published_gap"]
    return pd.DataFrame(rows, columns=columns)


# --- paired tests -------------------------------------------------------------------------------


def paired_tests(found: Sequence[Part], method: str = "noise_bias", split: str = "test") -> pd.DataFrame:
    """Is `method` better than each of the others, beyond the noise of the seeds?

    Pairs are nets of one rank and seed, from one dense net. Their differences are averaged over the ranks
    within each seed, and the seeds' means are tested: by the sign-flip permutation test, and by the paired t
    test beside it, which trusts that they are normal. Holm's correction is over the comparisons of a family
    in a part: the slides' other methods, or the baselines.

    Args:
        found: by `parts`.
        method: one of the slides' four.
        split: whose accuracy.

    Returns:
        A row for each part and other method that share three seeds with `method`: part, family, other, cells,
         seeds, wins (seeds in which `method` is ahead), difference (points), low, high (95% t interval,
        not corrected), p_exact, p_exact_holm, smallest_p, p_t, p_t_holm, verdict ("better", "worse" or "not
        told apart": by p_t_holm at 5%). Empty where there are too few seeds.

    Raises:
        ValueError: an unknown method.
    """
    _checks.one_of("method", method, METHODS)
    rows = []
    for part in found:
        accuracy = by_seed(part, split)
        others = [(family, other) for family, members in FAMILIES.items() for other in members]
        for family, other in others:
            if other == method or not {method, other} <= set(accuracy):
                continue
            shared = stats.blocks(accuracy, [method, other])
            if not shared or len(shared[0][1]) < stats.MIN_SEEDS:
                continue
            cells, seeds = shared[0]
            means = stats.seed_means(accuracy, cells, seeds)
            pair = stats.paired(means[method], means[other])
            row = {"part": part.title, "family": family, "other": other, "cells": ", ".join(cells)}
            row |= pair._asdict()
            row["p_exact"] = stats.sign_flip_test(means[method] - means[other])
            row["smallest_p"] = stats.smallest_p(len(seeds))
            rows.append(row)
    columns = ["part", "family", "other", "cells", "seeds", "wins", "difference", "low", "high"]
    columns += ["p_exact", "smallest_p", "p"]
    frame = pd.DataFrame(rows, columns=columns).rename(columns={"p": "p_t"})
    for name in ("p_exact", "p_t"):
        frame[f"{name}_holm"] = frame.groupby(["part", "family"])[name].transform(stats.holm)
    frame["verdict"] = [*map(stats.verdict, frame["difference"], frame["p_t_holm"])]
    order = [*columns[:10], "p_exact_holm", "smallest_p", "p_t", "p_t_holm", "verdict"]
    return frame[order]


# --- the published tables -----------------------------------------------------------------------


def published_tests(n: int, method: str = "noise_bias") -> pd.DataFrame:
    """Welch's test of every published cell with a ±, if each number were the mean of n independent runs.

    The slides don't say what n is, nor that the ± is a standard deviation: this is a function of n, no claim.
    B. L. Welch, Biometrika 34 (1947).

    Args:
        n: runs behind a printed mean, at least 2.
        method: which is compared with the three others of its line.

    Returns:
        A row for each model, cell and other method: difference (points), p, p_holm (over all rows).

    Raises:
        ValueError: fewer than two runs, or an unknown method.

    Example:
        >>> table = published_tests(3)
        >>> len(table), bool((table["p"] <= table["p_holm"]).all())
        (36, True)
    """
    _checks.one_of("method", method, METHODS)
    if _checks.positive_int("n", n) < 2:
        raise ValueError(f"`n` must be at least 2, since one run has no spread. Received: {n!r}.")
    rows = []
    for model in ("vgg16", "bert_tiny", "bert_small"):
        cells = published.load(model)
        cells = cells[cells["method"] != "original"]
        ranks = [column for column in cells if column.endswith("rank")]
        for values, line in cells.groupby(ranks):
            line = line.set_index("method")[["accuracy_percent", "accuracy_sd"]]
            mean, sd = line.loc[method]
            for other in [name for name in METHODS if name != method]:
                found = scipy.stats.ttest_ind_from_stats(mean, sd, n, *line.loc[other], n, equal_var=False)
                rows.append(
                    {
                        "model": model,
                        "cell": "/".join(map(str, values)),
                        "other": other,
                        "difference": mean - line.loc[other, "accuracy_percent"],
                        "p": float(found.pvalue),
                    }
                )
    frame = pd.DataFrame(rows)
    return frame.assign(p_holm=stats.holm(frame["p"]))


def published_counts(
    ns: Sequence[int], method: str = "noise_bias", level: float = stats.LEVEL
) -> pd.DataFrame:
    """How many published comparisons would be significant, against the number n of runs behind each mean.

    Args:
        ns: numbers of runs, each at least 2.
        method: as in `published_tests`.
        level: of significance.

    Returns:
        Indexed by n: higher, lower (of `method`; each comparison on its own), higher_holm, lower_holm
        (corrected over all), comparisons.

    Example:
        >>> published_counts([3])["comparisons"].item()
        36
    """
    rows = []
    for n in ns:
        tests = published_tests(n, method)
        up = tests["difference"] > 0
        row = {"n": n}
        for name, p in (("", tests["p"]), ("_holm", tests["p_holm"])):
            row |= {f"higher{name}": int((up & (p < level)).sum())}
            row |= {f"lower{name}": int((~up & (p < level)).sum())}
        rows.append(row | {"comparisons": len(tests)})
    return pd.DataFrame(rows).set_index("n")


def published_leads(method: str = "noise_bias") -> pd.DataFrame:
    """In how many printed cells `method` has the highest of the four accuracies, and how likely that is.

    If the four were alike and the cells independent runs, a method would lead a cell with probability 1/4.

    Args:
        method: one of the slides' four.

    Returns:
        Indexed by table, "all" last: leads, cells, p (one-sided, binomial).

    Raises:
        ValueError: an unknown method.

    Example:
        >>> published_leads().loc["toy", ["leads", "cells"]].tolist()
        [3, 3]
    """
    _checks.one_of("method", method, METHODS)
    rows = {}
    for slides in ("toy", "vgg16", "bert_tiny", "bert_small"):
        cells = _published_cells(slides)[list(METHODS)]
        others = cells.drop(columns=method).max(axis=1)
        rows[slides] = {"leads": int((cells[method] > others).sum()), "cells": len(cells)}
    frame = pd.DataFrame(rows).T
    frame.loc["all"] = frame.sum()
    frame["p"] = [
        scipy.stats.binomtest(
            int(line.leads), int(line.cells), 1 / len(METHODS), alternative="greater"
        ).pvalue
        for line in frame.itertuples()
    ]
    return frame


# --- accuracy against ratio ---------------------------------------------------------------------


def points(part: Part, split: str = "test") -> pd.DataFrame:
    """Every net of a part as a point: accuracy against what is left, the dense net at 100%.

    Args:
        part: by `parts`.
        split: whose accuracy.

    Returns:
        A row a method and cell: method, cell, mean, sd (percent; sd empty for one seed), n, ratio_percent
        (the slides' convention), ratio_model_percent (all that remains over the whole model).
    """
    accuracy = by_seed(part, split).stack().rename("value").rename_axis(["cell", "seed", "method"])
    accuracy = accuracy.reset_index()
    accuracy.loc[accuracy["method"] == "dense", "cell"] = "–"
    accuracy = accuracy.drop_duplicates(["method", "cell", "seed"])
    frame = accuracy.groupby(["method", "cell"], sort=False)["value"].agg(mean="mean", sd="std", n="size")
    rows = _cells(part.rows)
    for ratio in RATIOS:
        values = rows[rows["metric"] == ratio].groupby(["method", "cell"])["value"].mean()
        frame[ratio] = values.reindex(frame.index)
        frame.loc[frame.index.get_level_values("method") == "dense", ratio] = 100.0
    frame = frame.reset_index().dropna(subset=["mean"])  # a method need not be measured in every cell
    return frame[~frame["method"].isin(names.REFERENCES)].reset_index(drop=True)


# --- in words -----------------------------------------------------------------------------------

KINDS = {"for": "Good for", "against": "Not good for", "open": "Not decided by these rows"}
VERDICT_KINDS = {"better": "for", "not told apart": "open", "worse": "against"}
MOST_LEFT, MOST_WORK = 50.0, 90.0  # percent of the model, of the FLOPs: more is called little saved
MOST_LOST = 2.0  # points from the dense net: more is called a failure, whatever was saved


def findings(found: Sequence[Part], method: str = "noise_bias", split: str = "test") -> pd.DataFrame:
    """What the rows say for and against a method, in sentences, each with the section that shows it.

    Args:
        found: by `parts`.
        method: one of the slides' four.
        split: whose accuracy.

    Returns:
        A row a sentence: kind (a key of `KINDS`), text, shown (what shows it: "test", "ratio" or "work").

    Raises:
        ValueError: an unknown method.

    Example:
        >>> findings([]).empty
        True
    """
    rows = [*_in_tests(found, method, split)]
    for part in found:
        rows += _in_size(part, method, split)
    return pd.DataFrame(rows, columns=["kind", "text", "shown"])


def _in_tests(found: Sequence[Part], method: str, split: str) -> Iterator[tuple[str, str, str]]:
    tests, name = paired_tests(found, method, split), names.method_label(method)
    tests = tests[tests["other"] != "svd"]  # to beat an untrained cut is no merit
    for part in found:
        own = tests[tests["part"] == part.title]
        for verdict, rows in own.groupby("verdict"):
            listed = ", ".join(
                f"{names.method_label(row.other)} ({signed(row.difference)})" for row in rows.itertuples()
            )
            words = "not told apart from" if verdict == "not told apart" else f"{verdict} than"
            seeds = "–".join(dict.fromkeys(str(n) for n in (rows["seeds"].min(), rows["seeds"].max())))
            yield VERDICT_KINDS[verdict], f"{part.title}, {seeds} seeds: {name} is {words} {listed}.", "test"
        accuracy = by_seed(part, split)
        untested = [m for m in (*METHODS, *BASELINES) if m not in {method, "svd", *own["other"]}]
        untested = [m for m in untested if {m, method} <= set(accuracy)]
        said = []
        for other in untested:
            difference = (accuracy[method] - accuracy[other]).dropna()
            if len(difference):
                counted = f"{(difference > 0).sum()} of {len(difference)}"
                said.append(f"{names.method_label(other)} in {counted} ({signed(difference.mean())})")
        if said:
            text = f"{part.title}: too few seeds for a test. {name} is ahead of {', '.join(said)} nets."
            yield "open", text, "test"


def _in_size(part: Part, method: str, split: str) -> Iterator[tuple[str, str, str]]:
    """The smallest net: how much of the model it has, at what loss, and at how much of the work."""
    accuracy = by_seed(part, split)
    nets = points(part, split)
    nets = nets[nets["method"] == method].dropna(subset=list(RATIOS))
    if nets.empty or accuracy["dense"].isna().all():
        return
    net = nets.sort_values("ratio_model_percent").iloc[0]
    left = net["ratio_model_percent"]
    gap = (accuracy[method] - accuracy["dense"]).groupby("cell").mean()[net["cell"]]
    text = f"{part.title}, rank {net['cell']}: {left:.1f}% of the whole model is left (the slides' count: "
    text += f"{net['ratio_percent']:.1f}%), {signed(gap)} points from the dense net with "
    text += names.method_label(method)
    epochs, theirs = part.rows.loc[part.rows["method"] == method, "epochs"].max(), _slides_epochs(part)
    text += f" ({epochs} epochs; the slides: {theirs})." if theirs not in (None, epochs) else "."
    lost = not gap >= -MOST_LOST
    yield ("against" if lost or left > MOST_LEFT else "for"), text, "ratio"
    rows = _cells(part.rows)
    work = rows[(rows["method"] == method) & (rows["metric"] == "flops_percent")].set_index("cell")["value"]
    if net["cell"] in work.index:
        value = work.loc[[net["cell"]]].mean()
        text = f"{part.title}, rank {net['cell']}: {value:.1f}% of the dense net's FLOPs are left"
        text += f", and {signed(gap)} points." if lost else "."
        yield ("against" if lost or value > MOST_WORK else "for"), text, "work"


def signed(value: float) -> str:
    """A difference in points as text, with a true minus.

    Example:
        >>> signed(-0.2), signed(1.166)
        ('−0.20', '+1.17')
    """
    return f"{value:+.2f}".replace("-", "−")
