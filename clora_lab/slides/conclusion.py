"""What the studies say together: means beside slide 23, paired tests over seeds, accuracy against ratio.

A `Part` is the rows of one study that belong into one table. Seeds are the independent units everywhere:
accuracies are averaged over the ranks within a seed first, and intervals and tests are over the seeds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.stats

from clora_lab import _checks, methods, studies
from clora_lab.lab import published, stats, tables
from clora_lab.lab.data import registry as datasets
from clora_lab.lab.frames import signed
from clora_lab.lab.nets import registry as nets
from clora_lab.lab.study import Study

STUDIES = ("toy", "vgg16", "bert")
METHODS, BASELINES = methods.names("slides"), methods.names("baselines")
FAMILIES = {"methods": METHODS, "baselines": BASELINES}  # Holm's correction is over one of them
# A recipe without baselines of its own -> that whose nets were trained in the same way.
BASELINES_OF = {"recipe": "cosine", "as_written": "slides", "as_coded": "slides"}
# One cell each, recorded for slide 15.
LEFT_OUT = ("noise_to_end", "as_written_to_end", "as_coded_to_end")
PUBLISHED = ("toy", "vgg16", "bert_tiny", "bert_small")


@dataclass(frozen=True)
class Part:
    """Rows of one study, dataset, model and recipe, the dense net's included.

    Args:
        study: whose rows they are.
        slides: name of the published table that shows the same cells, or None.
        title: what was measured, in a few words.
        rows: result rows.
    """

    study: Study
    slides: str | None
    title: str
    rows: pd.DataFrame

    @property
    def slides_epochs(self) -> int | None:
        """Of the slides' training on these data; None for data that stand in for theirs."""
        data = self.rows["dataset"].iloc[0]
        found = (each.epochs for each in self.study.published if data in each.where["dataset"])
        return next(found, None)

    def by_seed(self, split: str = "test") -> pd.DataFrame:
        """The accuracy of every finished net, indexed by (cell, seed), see `tables.by_seed`."""
        return tables.by_seed(self.rows, self.study, split)

    def points(self, split: str = "test") -> pd.DataFrame:
        """Every measured net by `tables.table_of`, without what is no compression; `cell` as in "16/32"."""
        table = tables.table_of(self.rows, self.study, split)
        kept = table["measured"].notna() & (table["method"].map(methods.family) != "references")
        return table[kept].assign(cell=tables.cell_names(table, self.study.cells)).reset_index(drop=True)


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
    stores = [studies.recorded(study, folder) for study in STUDIES]
    rows = {store.name: store.read() for store in stores if store.exists()}
    return {study: found for study, found in rows.items() if (found["rank"] > 0).any()}


def parts(rows: Mapping[str, pd.DataFrame]) -> list[Part]:
    """The rows of the studies in parts that make a table each.

    Args:
        rows: name of a study -> its rows, as `recorded` gives them. The toy project's "recipe" counts with
            the baselines of "cosine", as it was trained like them.

    Returns:
        Parts in the order toy, VGG16, BERT, data that stand in for the slides' last of a study; what holds
        none of the slides' methods is left out.

    Raises:
        ValueError: an unknown study.

    Example:
        >>> parts({})
        []
    """
    for name in rows:
        _checks.one_of("study", name, STUDIES)
    found = []
    for name in [name for name in STUDIES if name in rows]:
        found += sorted(_parts(rows[name], studies.get(name)), key=lambda part: part.slides_epochs is None)
    return found


def _parts(rows: pd.DataFrame, study: Study) -> Iterator[Part]:
    split = list(tables.parts(rows, study))
    for what, own in split:
        if what["variant"] in LEFT_OUT or not own["method"].isin(METHODS).any():
            continue
        base = BASELINES_OF.get(what["variant"])
        others = next((more for other, more in split if other == {**what, "variant": base}), None)
        if others is not None and not own["method"].isin(BASELINES).any():
            own = pd.concat([others[~others["method"].isin(METHODS)], own[own["method"].isin(METHODS)]])
        first = own[own["method"].isin(METHODS)].iloc[0]
        beside = (each.table for each in study.published if each.compares(first))
        title = f"{nets.label(first['model'])}, {datasets.label(first['dataset'])}"
        title += f", recipe '{first['variant']}'"
        last = study.apart[-1]
        theirs = {value for each in study.published for value in each.where.get(last, ())}
        if last in study.axes and first[last] not in theirs:
            title += f", {str(first[last]).replace('_', ' ')}"
        yield Part(study, next(beside, None), title, own)


def sizes(found: Sequence[Part]) -> pd.DataFrame:
    """How large each part is, from its rows: what a reader should know before any of its numbers.

    Args:
        found: by `parts`.

    Returns:
        A row a part: part, training (how many examples), epochs, epochs_slides (empty for data that stand in
        for theirs), cells (how many rank cells have one of the four methods), seeds (of the cell with the
        fewest, and of the one with the most).

    Example:
        >>> sizes([]).empty
        True
    """
    rows = []
    for part in found:
        own, cells = part.rows[part.rows["method"].isin(METHODS)], list(part.study.cells)
        first = own.iloc[0]
        seeds = own.groupby([*cells, "method"])["seed"].nunique()
        rows.append(
            {
                "part": part.title,
                "training": f"{first['train_size']:,} examples",
                "epochs": int(own["epochs"].max()),
                "epochs_slides": part.slides_epochs,
                "cells": len(own[cells].drop_duplicates()),
                "seeds": "–".join(dict.fromkeys(str(count) for count in (seeds.min(), seeds.max()))),
            }
        )
    frame = pd.DataFrame(rows)
    return frame.astype({"epochs_slides": "Int64"}) if rows else frame


# --- beside slide 23 ----------------------------------------------------------------------------


def _published_cells(table: str) -> pd.DataFrame:
    """A published table's accuracies: indexed by cell, a column a method, and the original in every line."""
    found = published.load(table)
    ranks = [column for column in found if column.endswith("rank")]
    original = found.loc[found["method"] == "original", "accuracy_percent"].item()
    found = found[found["method"] != "original"]
    found = found.assign(cell=tables.cell_names(found, ranks))
    cells = found.pivot(index="cell", columns="method", values="accuracy_percent").rename_axis(columns=None)
    return cells.reindex(found["cell"].unique()).assign(**{methods.ORIGINAL: original})


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
        accuracy = part.by_seed(split)
        here = [method for method in METHODS if method in accuracy]
        theirs = _published_cells(part.slides) if part.slides else None
        for cells, seeds in stats.blocks(accuracy, here):
            means = stats.seed_means(accuracy, cells, seeds)
            for method in [name for name in (*METHODS, *BASELINES) if name in means]:
                own = means[method]
                low, high = stats.interval(own)
                row = {"part": part.title, "slides": part.slides, "cells": ", ".join(cells)}
                row |= {"seeds": len(seeds), "method": method, "mean": own.mean(), "low": low, "high": high}
                row["gap"] = (own - means.get(methods.ORIGINAL, np.nan)).mean()
                if theirs is not None and method in METHODS:
                    row["published_mean"] = theirs[method].mean()
                    if set(cells) <= set(theirs.index):
                        same = theirs.loc[cells]
                        row["published_same"] = same[method].mean()
                        row["published_gap"] = (same[method] - same[methods.ORIGINAL]).mean()
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
        accuracy = part.by_seed(split)
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
    for model in PUBLISHED[1:]:
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
    for slides in PUBLISHED:
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
    tests, name = paired_tests(found, method, split), methods.label(method)
    tests = tests[tests["other"].map(methods.trains).astype(bool)]  # to beat an untrained cut is no merit
    for part in found:
        own = tests[tests["part"] == part.title]
        for verdict, rows in own.groupby("verdict"):
            listed = ", ".join(
                f"{methods.label(row.other)} ({signed(row.difference)})" for row in rows.itertuples()
            )
            words = "not told apart from" if verdict == "not told apart" else f"{verdict} than"
            seeds = "–".join(dict.fromkeys(str(n) for n in (rows["seeds"].min(), rows["seeds"].max())))
            yield VERDICT_KINDS[verdict], f"{part.title}, {seeds} seeds: {name} is {words} {listed}.", "test"
        accuracy = part.by_seed(split)
        untested = [m for m in (*METHODS, *BASELINES) if m not in {method, *own["other"]}]
        untested = [m for m in untested if {m, method} <= set(accuracy) and methods.trains(m)]
        said = []
        for other in untested:
            difference = (accuracy[method] - accuracy[other]).dropna()
            if len(difference):
                counted = f"{(difference > 0).sum()} of {len(difference)}"
                said.append(f"{methods.label(other)} in {counted} ({signed(difference.mean())})")
        if said:
            text = f"{part.title}: too few seeds for a test. {name} is ahead of {', '.join(said)} nets."
            yield "open", text, "test"


def _in_size(part: Part, method: str, split: str) -> Iterator[tuple[str, str, str]]:
    """The smallest net: how much of the model it has, at what loss, and at how much of the work."""
    nets = part.points(split)
    nets = nets[nets["method"] == method].dropna(subset=["ratio", "ratio_model", "gap"])
    if nets.empty:
        return
    net = nets.sort_values("ratio_model").iloc[0]
    left, gap = net["ratio_model"], net["gap"]
    text = f"{part.title}, rank {net['cell']}: {left:.1f}% of the whole model is left (the slides' count: "
    text += f"{net['ratio']:.1f}%), {signed(gap)} points from the dense net with {methods.label(method)}"
    epochs, theirs = part.rows.loc[part.rows["method"] == method, "epochs"].max(), part.slides_epochs
    text += f" ({epochs} epochs; the slides: {theirs})." if theirs not in (None, epochs) else "."
    lost = not gap >= -MOST_LOST
    yield ("against" if lost or left > MOST_LEFT else "for"), text, "ratio"
    value = net.get("flops", np.nan)
    if np.isfinite(value):
        text = f"{part.title}, rank {net['cell']}: {value:.1f}% of the dense net's FLOPs are left"
        text += f", and {signed(gap)} points." if lost else "."
        yield ("against" if lost or value > MOST_WORK else "for"), text, "work"
