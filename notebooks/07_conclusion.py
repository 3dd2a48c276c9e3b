# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 07 · Conclusion — 결론: 무엇이 남고, 무엇이 남지 않는가
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/clora-lab/clora_lab/blob/main/notebooks/07_conclusion.ipynb)
#
# The slides close with a table of means (slide 23), in which "Scheduled noise & bias" is underlined, and with two pairs of bars (slide 24). This notebook puts our rows beside both and asks
# what may be concluded from either: is noise & bias the best, beyond the noise of the seeds? How good is it against plain baselines, when *all* remaining parameters are counted?
#
# **You will learn** (배울 내용)
#
# - to read a mean over ranks and seeds, and why a mean of one seed has no interval;
# - to run a paired test whose units are seeds, to correct it for several comparisons, and to say how small its p can get at all;
# - what can be said from a published table whose ± is not explained: a function of what it doesn't tell;
# - to draw accuracy against an honest ratio, with the Pareto front;
# - what C-LoRA is good for and what it is not, each sentence with the cell that shows it.
#
# **You need**: notebook 03 (the toy project, the baselines); 05 and 06 for VGG16 and BERT; mean, standard deviation, what a p-value is.
# **Time**: under a minute on a laptop with recorded rows, a minute in Colab; about two minutes with `RUN = "quick"`, which trains the toy study anew with three seeds; hours with `"full"`. An hour to read.
#
# The "weight decay" here is **not** the L2 term of an optimiser: the frozen weights are multiplied by a factor $d$ that falls from 1 to 0.
#
# No measured number stands in the text of this notebook. Each is printed by a cell, from the rows that are loaded.

# %% tags=["setup"]
# In Colab this installs the package once; where clora_lab is installed already it does nothing.
import importlib.util
import subprocess
import sys

if importlib.util.find_spec("clora_lab") is None:
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "git+https://github.com/clora-lab/clora_lab"],
        check=True,
    )

# %%
RUN = "recorded"  # "recorded" | "quick" | "full"
METHOD = "noise_bias"  # the claim is about this one of "wds", "bias", "noise", "noise_bias"
SPLIT = "test"  # used for no choice in any study
QUICK_SEEDS, FULL_SEEDS = range(3), range(5)  # of the live run of section 2

from clora_lab.course import notebook
from clora_lab.lab.nets import registry as nets

RUN = notebook.mode(RUN)

# %%
import dataclasses

import numpy as np
import pandas as pd
import scipy.stats

from clora_lab import methods, studies
from clora_lab.course import words
from clora_lab.lab import frames, paths, published, runner, stats
from clora_lab.lab.figures import compare, marks
from clora_lab.slides import audit, coded, conclusion, conclusion_figures, figures, recompute
from clora_lab.studies import toy

pd.set_option("display.max_colwidth", 200)
NAME = methods.label(METHOD)

# %% [markdown]
# ## 1. The conclusion table — 결론 표 (slide 23)
#
# First, how large each study is. A *part* is one data set, model and recipe. `cells` are rank cells that hold one of the slides' four methods, `seeds` the runs of each.

# %%
recorded = conclusion.recorded(notebook.results_dir())
parts = conclusion.parts(recorded)
for study in conclusion.STUDIES:
    if study in recorded:
        notebook.say(words.provenance(recorded[study]))
    else:
        print(f"The study '{study}' is not recorded yet: python -m clora_lab reproduce {study}")
for slides in published.load("conclusion")["model"].unique():
    if slides not in {part.slides for part in parts}:
        print(f"Of {nets.label(slides)}, which is on slide 23, there are no rows to set beside it.")
conclusion.sizes(parts).set_index("part")

# %% [markdown]
# Read this table before any other. A part without `epochs_slides` has data that stand in for the slides'. Where `epochs` is far below `epochs_slides`, or the training data are few, a part shows how the methods behave *under these conditions*; it neither confirms nor refutes
# the slides' numbers. Where `seeds` is 1, nothing tells a difference from luck.
#
# The toy project is trained in three recipes: `slides` is theirs (constant learning rate), `cosine` lets the rate of every net fall to 0, and `recipe` is the best that was found for noise & bias, beside the baselines of
# `cosine` (notebook 03).
#
# Slide 23 prints, for each method and model, a mean over the ranks. Ours is built so that nothing is mixed that should not be: within each seed the mean over the ranks, then the mean over the seeds. A mean covers the same
# ranks and seeds for every method: where one rank has more seeds than the others, there are two blocks. The interval is Student's, over the $n$ seeds:
#
# $$\bar a \pm t_{0.975,\,n-1}\; s / \sqrt{n}, \qquad a_s = \frac{1}{|R|} \sum_{r \in R} a_{s,r} .$$

# %%
table = conclusion.table(parts, SPLIT)
notebook.show(conclusion_figures.conclusion_table(table[table["slides"].notna()]))

# %% [markdown]
# "Same cells" is what may be laid beside our mean: the slides' mean over the ranks that *we* measured. Compare the lines "from its dense net", too: two studies with different dense nets differ in every accuracy, while the loss by
# compression is the question.
#
# One seed says nothing on the noise of the training. What the *test examples* alone contribute can be computed, a lower bound: an accuracy $p$ on $N$ examples has a standard error of $\sqrt{p\,(1-p)/N}$.

# %%
for part in parts:
    if "test_size" in part.rows:
        N = int(part.rows["test_size"].iloc[0])
        p = part.by_seed(SPLIT)["dense"].mean() / 100
        print(
            f"{part.title}: {N:,} test examples, ± {100 * np.sqrt(p * (1 - p) / N):.2f} points on the dense net's {p:.1%}"
        )

# %% [markdown]
# All of it as a data frame, baselines included (percent and points; `low`, `high`: the interval, empty below three seeds):

# %%
shown = table.assign(method=table["method"].map(methods.label))
shown = shown.drop(columns=["slides"]).set_index(["part", "cells", "seeds", "method"]).round(2)
shown.astype(object).where(shown.notna(), "")

# %% [markdown]
# What is the ± of slide 23? It is none of the spreads that its own tables allow, the same one throughout: neither the mean of the tables' ±, nor a standard deviation over the ranks, nor a standard error.

# %% tags=["nbval-check-output"]
spreads = recompute.conclusion_spreads()
found = spreads.loc[spreads["matches"] != "", ["model", "method", "matches"]]
print(
    f"{len(found)} of {len(spreads)} printed ± agree with any of {len(recompute.SPREADS)} ways to compute one:"
)
print(found.to_string(index=False))

# %% [markdown]
# ## 2. Is noise & bias the best? — 정말 가장 좋은가: 짝지은 검정
#
# **The units.** Two nets of one rank and seed start from the *same* dense net, under the same seed: a pair. Their difference is free of what they share. But the ranks of one seed share a dense net, so they are no
# independent evidence: we average over the ranks first, and are left with one difference for each seed, $\delta_1, \dots, \delta_n$. *Seeds are the independent units.*
#
# **The test.** If two methods were alike, $\delta_s$ would be as likely as $-\delta_s$. So flip signs: of all $2^n$ patterns, how many give a mean at least as far from 0 as the one that was measured? That share is
# $p$ (Fisher 1935). It assumes nothing on the law of the differences. Here it is, by hand, on five made-up differences:

# %% tags=["nbval-check-output"]
example = np.array([0.3, 0.5, 0.2, 0.6, 0.4])  # made up
patterns = np.array(np.meshgrid(*[[-1, 1]] * len(example))).reshape(len(example), -1).T  # (32, 5)
means = (patterns * example).mean(axis=1)
share = np.mean(np.abs(means) >= abs(example.mean()) - 1e-12)
print(
    f"{len(patterns)} patterns; as far from 0 as {example.mean():.2f}: {share * len(patterns):.0f}; p = {share}"
)
assert share == stats.sign_flip_test(example)

# %% [markdown]
# **Predict first, then run** (먼저 예측하기). All five differences were positive, the clearest result that there can be. Can this test ever give $p < 0.05$ with five seeds? And how many seeds does it need if *three* comparisons are made?

# %%
prediction_five, prediction_three = ..., ...  # True or False; a number of seeds

# %% tags=["nbval-check-output"]
for n in (3, 5, 6, 7):
    print(f"{n} seeds: {2**n} patterns, smallest possible p = {stats.smallest_p(n):.4f}")
for comparisons in (1, 3):
    print(
        f"p < 0.05 can be reached from {stats.seeds_needed(comparisons)} seeds on with {comparisons} comparison(s), after Holm's correction"
    )

# %% [markdown]
# So with five seeds the exact test *cannot* reject at 5%, however clear the rows are. That is no flaw of the test: five coin flips are little evidence if nothing is assumed. The **paired t test** assumes more, namely that the $\delta_s$
# are normal, and gets smaller $p$ from it. Both are printed. The verdict below is the t test's, and stands on that assumption.
#
# **Several comparisons.** "Best of four" is three comparisons. Holm (1979): sort the $p$ of a family of $m$, multiply the smallest by $m$, the next by $m - 1$ and so on, and let none be smaller than one before it.
# Then the chance of *any* false "better" in the family stays at 5%. The families: the slides' other methods, and the baselines. (For the single claim "better than *each* of the others" no correction is
# needed, as all three must hold; it fails if one does.)

# %%
if RUN != "recorded":
    data = "digits" if RUN == "quick" else notebook.dataset()
    seeds = QUICK_SEEDS if RUN == "quick" else FULL_SEEDS
    ranks = toy.RANKS[data][:1] if RUN == "quick" else toy.RANKS[data]
    grid = toy.STUDY.grid(dataset=data, rank=ranks, seed=seeds, variant="slides", **notebook.size(RUN, data))
    if RUN == "quick":
        grid = [run for run in grid if run.method not in ("svd", "scratch")]
        live, _ = notebook.run_live(grid)
    else:
        live = runner.run_grid(grid, studies.recorded("toy", paths.cache_dir() / "full"))
    notebook.say(words.provenance(live))
    (own,) = conclusion.parts({"toy": live})
    tested = [dataclasses.replace(own, title=f"Live: {own.title}"), *parts]
else:
    tested = parts

# %%
tests = conclusion.paired_tests(tested, METHOD, SPLIT)
for part in tested:
    if part.title not in set(tests["part"]):
        print(f"{part.title}: fewer than {stats.MIN_SEEDS} seeds, so no test.")
columns = ["other", "seeds", "wins", "difference", "low", "high"]
columns += ["p_exact", "smallest_p", "p_exact_holm", "p_t", "p_t_holm", "verdict"]
tests.set_index("part")[columns].round(4)

# %%
notebook.show(conclusion_figures.differences(tests, METHOD))

# %% [markdown]
# (SVD without training is left out of the picture: it lies an order of magnitude away.)
#
# In words, computed:

# %%
for title, rows in tests[tests["family"] == "methods"].groupby("part", sort=False):
    better = [methods.label(other) for other in rows.loc[rows["verdict"] == "better", "other"]]
    rest = [methods.label(other) for other in rows.loc[rows["verdict"] != "better", "other"]]
    claim = "holds" if len(better) == len(methods.names("slides")) - 1 else "does not hold"
    print(f"{title}: '{NAME} is best of the four' {claim} beyond the noise of the seeds.")
    print(f"   better than: {', '.join(better) or 'none'}; not better than: {', '.join(rest) or 'none'}")
    at_limit = rows["p_exact"] == rows["smallest_p"]
    print(
        f"   the exact test gives its smallest possible p ({rows['smallest_p'].iloc[0]}) in {at_limit.sum()} of {len(rows)} comparisons"
    )

# %% [markdown]
# Three limits of these tests. They see the noise of the *training* (start values, order of batches, the noise itself): the split into training, validation and test images is one and the same for all seeds. They hold for *these* nets and recipes. And
# "not told apart" is no "equal": the interval says how large a difference may still be.
#
# ### And the published tables? — 발표된 표에서는?
#
# The slides give VGG16 and BERT a ± in every cell, but not the number $n$ of runs behind it, nor that it is a standard deviation. So there is no test to report, only a *function of $n$*: Welch's test from means and standard
# deviations (`scipy.stats.ttest_ind_from_stats`), if every number were the mean of $n$ independent runs. The toy table has no ± at all.

# %% tags=["nbval-check-output"]
counts = conclusion.published_counts([2, 3, 4, 5, 7, 10], METHOD)
print(counts.to_string())

# %%
curve = conclusion.published_counts(range(2, 16), METHOD)
labels = {"higher": f"{NAME} higher", "higher_holm": "higher, after Holm", "lower": f"{NAME} lower"}
fig = marks.lines(
    curve[list(labels)].rename(columns=labels),
    "Published comparisons with p < 0.05, if each mean were of n runs",
    "n, the number of runs, which the slides do not tell",
    f"Comparisons, of {curve['comparisons'].iloc[0]}",
    ylim=(0, None),
)
notebook.show(fig)

# %% [markdown]
# Most of the printed differences would not be told apart at any number of runs that is likely. One thing needs no ±: in how many cells does a method lead? If the four were alike, each would lead a cell with
# probability 1/4. (We look at noise & bias because the slides underline it, after they saw the table: such a $p$ flatters.)

# %% tags=["nbval-check-output"]
leads = pd.DataFrame({m: conclusion.published_leads(m).loc["all"] for m in methods.names("slides")}).T
leads = leads.rename(index=methods.label).astype({"leads": int, "cells": int})
print(conclusion.published_leads("noise_bias").to_string(float_format="{:.3f}".format))
print(leads.to_string(float_format="{:.3f}".format))

# %% [markdown]
# So the slides' own numbers speak for noise & bias, softly: at every rank of the toy project, at none of BERT-Small. What *our* rows say to it is printed above: look at the line of Scheduled noise without the bias.
#
# ## 3. Accuracy against an honest ratio — 정직한 압축률
#
# The horizontal axis is *everything* that is left over *everything* that was there: the output layer, the frozen feed-forward halves of BERT, all (`ratio_model`). A net is on the **Pareto front** if no other net has at most its
# parameters and at least its accuracy. Baselines and dense nets compete too.

# %%
panels = [(part.title.replace(", recipe", "\nrecipe"), part.points(SPLIT), "ratio_model") for part in parts]
bars = "Bars: ± 1 sd over the seeds; no bar: one seed. Nets of one rank stand side by side"
counted = {"ratio": "as the slides count", "ratio_model": "of the whole model"}
title = "Accuracy against what is left of the whole model"
fig = compare.fronts(panels, title, bars, counted=counted)
notebook.show(fig)

# %% [markdown]
# The nets on each front, as a list. One seed or five, the front is over means: neighbours on it may be a tie (section 2).

# %%
for part in parts:
    points = part.points(SPLIT)
    front = points[stats.pareto(points["ratio_model"], points["measured"])]
    front = front.sort_values("ratio_model")
    nets = [
        f"{methods.label(net.method)} {net.measured:.2f}% at {net.ratio_model:.1f}%"
        for net in front.itertuples()
    ]
    ours = front["method"].isin(methods.names("slides")).sum()
    print(f"{part.title}: {ours} of {len(front)} on the front are C-LoRA nets\n   " + "; ".join(nets))

# %% [markdown]
# **The same nets, counted in two ways.** For BERT the slides divide the pairs by the parameters of the encoder blocks, as if the frozen feed-forward halves were gone. Same vertical axis, same nets:

# %%
berts = [part for part in parts if part.study.name == "bert"]
if berts:
    points = berts[0].points(SPLIT)
    titles = {"ratio": "As the slides count", "ratio_model": "Of the whole model"}
    two = [(title, points, ratio) for ratio, title in titles.items()]
    notebook.show(compare.fronts(two, f"One study, two ratios: {berts[0].title}", bars, counted=counted))
    small = points[points["method"] == METHOD].sort_values("ratio")
    for net in small.itertuples():
        print(
            f"rank {net.cell}: {net.ratio:.1f}% as the slides count, {net.ratio_model:.1f}% of the whole model"
        )
else:
    print("The BERT study is not recorded yet.")

# %% [markdown]
# ## 4. The audit in short — 감사 요약
#
# `clora_lab.slides.audit` computes again every figure that the slides derive from others. "Arithmetic" rows use the slides' own numbers and rules; "convention" rows count the same words another way.

# %% tags=["nbval-check-output"]
everything = audit.audit()
kinds = everything.groupby(["slide", "kind"])["agrees"].agg(
    figures="size", disagree=lambda agrees: (~agrees).sum()
)
print(kinds[kinds["disagree"] > 0].to_string())
print(f"in all: {(~everything['agrees']).sum()} of {len(everything)} figures disagree")

# %%
slips = audit.as_text(audit.disagreements("arithmetic"))
slips[slips["slide"] != 23].drop(columns="how").set_index("slide")

# %% [markdown]
# Those of slide 23 are marked in its table (†). Notebooks 03, 05 and 06 take each study's slips apart; `python -m clora_lab audit` lists all of them with the way they were recomputed.

# %% [markdown]
# ### What the code does — 코드가 하는 일
#
# Not all that a paper does stands in its slides. These authors published their notebooks as well, which is more than most do and the only reason that the next table can exist: where the code does something else than the slides say, or
# where they say nothing, and what of it was measured here. The first line is the large one; notebook 03 takes it apart. None of them touches the idea of C-LoRA.

# %%
code = coded.differences()[["topic", "slides", "code", "measured"]].set_index("topic")
code.style.set_properties(**{"text-align": "left", "white-space": "normal", "vertical-align": "top"})

# %%
drawn = {figure.slide: figure for figure in figures.slide_figures(notebook.results_dir())}
notebook.show(drawn[23].published())

# %% [markdown]
# **The bars of slide 24**, as published and from our rows. In the published ones BERT-Tiny's bar has a value that stands in no table; in ours the red line marks what is left of the *whole* model.

# %%
notebook.show(drawn[24].published())
try:
    notebook.show(drawn[24].measured())
except frames.MissingResults as missing:
    print(missing)

# %% [markdown]
# ## 5. What it is good for, and what not — 쓸모와 한계
#
# Computed from the rows, SVD without training left aside: to beat an untrained cut is no merit. At the end of each sentence stands the section whose cells show it. A part in which noise & bias lost more than the constant `MOST_LOST` of `conclusion`, in points, counts as a failure however small the net became.

# %%
sentences = conclusion.findings(tested, METHOD, SPLIT)
section = {"test": "section 2", "ratio": "sections 1 and 3", "work": "notebooks 05 and 06"}
for kind, heading in conclusion.KINDS.items():
    chosen = sentences[sentences["kind"] == kind]
    lines = [f"- {row.text} *({section[row.shown]})*" for row in chosen.itertuples()]
    notebook.say(f"**{heading}**\n\n" + ("\n".join(lines) or "- nothing in these rows"))

# %% [markdown]
# What does not depend on the rows:
#
# - **Good**: the result is a net of ordinary layers, which a rank below the break-even makes smaller, and it needs nothing of this package (notebook 02). The method applies to every layer that has a low-rank rule, by one wrapper (notebooks 03, 05, 06).
# - **Good**: as an experiment. It separates forgetting from learning: WDS shows that scaling alone does not erase (notebook 02), the noise that it takes more (notebook 04).
# - **Not good**: it is no way to train with less memory. All of $W$ is there until $d = 0$, and the pair beside it.
# - **Not good**: it has more to choose than its rivals: `begin`, `end`, $\alpha$, the gate and the kind of the noise come on top of rank and learning rate. SVD then fine-tuning has rank and learning rate.
# - **Not good**: with few epochs. The pair is alone only in the last part of the training, so a short training is mostly training of something that is thrown away (the printed lines of VGG16, if they are there, tell their number of epochs).
#
# **When to take what.** Start with *SVD then fine-tuning*: it is the baseline to beat, and section 2 prints whether C-LoRA did. Where C-LoRA draws level, the simpler method is the better one. To make a Transformer small, compress its
# feed-forward layers and embeddings too: section 3 shows what attention alone leaves.

# %% [markdown]
# ## Summary — 정리
#
# - A mean needs its units: seeds are independent, ranks of a seed are not. One seed has no interval.
# - With five seeds an exact sign-flip test can't go below $p = 0.0625$. A t test goes lower by assuming normal differences. Say which one a verdict rests on.
# - "Best of four" is three comparisons: correct for them, or claim it only if all three hold.
# - A published ± without $n$ allows a function of $n$ and no verdict.
# - An honest ratio counts what is still there. A Pareto front without baselines is a picture of one's own methods.
# - Next: notebook 08 begins what the slides call future steps.
#
# Papers: Fisher 1935, *The Design of Experiments* (the sign-flip test); Holm 1979, *Scand. J. Statist.* 6; Welch 1947, *Biometrika* 34; Denil et al. 2013,
# [Predicting Parameters in Deep Learning](https://arxiv.org/abs/1306.0543) (low-rank layers before this one).

# %% [markdown]
# ## Exercises — 연습 문제

# %% [markdown] tags=["exercise"]
# **Exercise 1** (easy). All six comparisons of section 2 in *one* family: from how many seeds on can the exact test give $p < 0.05$ after Holm's correction? First by hand, from $6 \cdot 2^{1-n}$; then with `conclusion`.

# %% tags=["student"]
# Your code here
by_hand = ...

# %% tags=["solution"] jupyter={"source_hidden": true}
# 6 * 2 ** (1 - n) < 0.05  <=>  n > 1 + log2(120)
by_hand = int(np.floor(1 + np.log2(6 / 0.05))) + 1
assert by_hand == stats.seeds_needed(6)
assert 6 * stats.smallest_p(by_hand) < 0.05 <= 6 * stats.smallest_p(by_hand - 1)
print(f"{by_hand} seeds")

# %% [markdown] tags=["exercise"]
# **Exercise 2** (easy). Write the sign-flip test yourself, *one-sided* (the claim has a direction: "better"), and check on `example` that its $p$ is half of the two-sided one. Is it fair to switch to it after one has seen the rows?

# %% tags=["student"]
# Your code here
one_sided = ...

# %% tags=["solution"] jupyter={"source_hidden": true}
one_sided = np.mean(means >= example.mean() - 1e-12)
library = scipy.stats.permutation_test(
    (example,), np.mean, permutation_type="samples", alternative="greater", n_resamples=np.inf
)
assert one_sided == library.pvalue == stats.sign_flip_test(example) / 2
print(f"p = {one_sided}. Not fair: whoever picks the side after looking tests both sides and reports one.")

# %% [markdown] tags=["exercise"]
# **Exercise 3** (medium). A careless reader takes each (rank, seed) pair of the toy project as independent. For noise & bias against Scheduled noise and against Only WDS, recipe `slides`: how many "units" has that reader, and how wide is
# the 95% interval beside ours of section 2? Then estimate from the differences how much the ranks of a seed have in common: the correlation between two ranks, over the seeds.

# %% tags=["student"]
# Your code here
careless_widths = ...

# %% tags=["solution"] jupyter={"source_hidden": true}
toy = next(part for part in parts if part.study.name == "toy")
accuracy = toy.by_seed(SPLIT)
careless_widths = {}
for other in ("noise", "wds"):
    pairs = (accuracy["noise_bias"] - accuracy[other]).dropna()
    by_seed = pairs.groupby("seed").mean()
    low, high = stats.interval(pairs)
    careless_widths[other] = high - low
    careful = np.subtract(*stats.interval(by_seed)[::-1])
    between = pairs.unstack("cell").corr().to_numpy()
    between = between[np.triu_indices_from(between, 1)]
    assert len(pairs) == accuracy.index.get_level_values("cell").nunique() * len(by_seed)
    assert np.isclose(pairs.mean(), by_seed.mean())
    print(
        f"against {methods.label(other)}: {len(pairs)} 'units' instead of {len(by_seed)}; width {careless_widths[other]:.2f} instead of {careful:.2f} points; correlations between ranks {np.round(between, 2)}"
    )
print(
    "Independent ranks would be uncorrelated. Five seeds can't show that they are, so the honest units are the seeds."
)

# %% [markdown] tags=["exercise"]
# **Exercise 4** (medium). Suppose that the slides' ± is a *standard error*, so that the standard deviation is $\sqrt n$ times as large. How many of the 36 comparisons have $p < 0.05$ then, for $n = 3$ and $n = 5$, each on its own?
# (`published.load`, `scipy.stats.ttest_ind_from_stats`.) Compare with section 2, and explain why it hardly depends on $n$.

# %% tags=["student"]
# Your code here
told_apart = ...

# %% tags=["solution"] jupyter={"source_hidden": true}
told_apart = {}
for n in (3, 5):
    p = []
    for model in ("vgg16", "bert_tiny", "bert_small"):
        cells = published.load(model).query("method != 'original'")
        for _, line in cells.groupby([name for name in cells if name.endswith("rank")]):
            line = line.set_index("method")[["accuracy_percent", "accuracy_sd"]]
            spread = line["accuracy_sd"] * np.sqrt(n)
            for other in ("wds", "bias", "noise"):
                a, b = ((line.loc[m, "accuracy_percent"], spread[m], n) for m in ("noise_bias", other))
                p.append(scipy.stats.ttest_ind_from_stats(*a, *b, equal_var=False).pvalue)
    told_apart[n] = int(np.sum(np.array(p) < 0.05))
    as_sd = counts.loc[n, ["higher", "lower"]].sum()
    assert len(p) == counts.loc[n, "comparisons"] and told_apart[n] <= as_sd
    print(
        f"n = {n}: {told_apart[n]} of {len(p)} if the ± is a standard error, {as_sd} if it is a standard deviation"
    )
print("t = difference / sqrt(se1² + se2²) has no n in it; n enters by the degrees of freedom alone.")

# %% [markdown] tags=["exercise"]
# **Exercise 5** (hard). Plan the next study. Take the spread of the differences between noise & bias and Scheduled noise over the seeds (toy project, recipe `slides`) as the truth. How many seeds does a two-sided paired t test at 5%
# need to find a true difference of 0.3 points with a probability of 80%? (The power is $P(|T| > t_{0.975,\,n-1})$ for a noncentral $t$ with $\sqrt n\, \Delta / s$; `scipy.stats.nct`.)

# %% tags=["student"]
# Your code here
seeds_for_power = ...

# %% tags=["solution"] jupyter={"source_hidden": true}
accuracy = next(part for part in parts if part.study.name == "toy").by_seed(SPLIT)
spread = (accuracy["noise_bias"] - accuracy["noise"]).groupby("seed").mean().std()


def power(n, true=0.3):
    """Probability that a paired t test of n seeds finds a true difference, in points."""
    limit, shift = scipy.stats.t.ppf(0.975, n - 1), np.sqrt(n) * true / spread
    return scipy.stats.nct.sf(limit, n - 1, shift) + scipy.stats.nct.cdf(-limit, n - 1, shift)


seeds_for_power = next(n for n in range(2, 500) if power(n) >= 0.8)
rng = np.random.default_rng(0)
trials = rng.normal(0.3, spread, size=(4000, seeds_for_power))
simulated = np.mean(scipy.stats.ttest_1samp(trials, 0, axis=1).pvalue < 0.05)
assert abs(simulated - power(seeds_for_power)) < 0.03 and power(seeds_for_power - 1) < 0.8
print(
    f"spread of the differences: {spread:.2f} points; {seeds_for_power} seeds have a power of {power(seeds_for_power):.0%} (simulated: {simulated:.0%}); five have {power(5):.0%}"
)
