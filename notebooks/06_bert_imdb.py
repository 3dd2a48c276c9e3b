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
# # 06 · BERT on IMDB: low-rank attention — 어텐션을 저랭크로
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/clora-lab/clora_lab/blob/main/notebooks/06_bert_imdb.ipynb)
#
# The slides' last experiment compresses BERT-Tiny and BERT-Small, which say of a film review whether it is positive (slides 20 to 22). Printed is that 8.8% of the parameters remain. This notebook asks: 8.8%
# *of what*?
#
# **You will learn** (배울 내용)
#
# - what an `EinsumDense` layer computes, and which low-rank pair stands for one;
# - what the slides compress of BERT, and what they leave: three ways to count, of which one gives 8.8% and another nearly everything;
# - why rank 64 saves nothing at all in BERT-Tiny's attention;
# - to read the measured tables beside the published ones, and to tell what *trains* from what *remains* (LoRA);
# - what compression does to attention maps, and which reviews the compressed net gets wrong.
#
# **You need**: notebooks 01 (LoRA) and 02 (Weight Decay Scheduling); what attention is: queries, keys, values. No GPU.
# **Time**: about a minute on a laptop with recorded rows, two or three in Colab; about two minutes with `RUN = "quick"`; a day with `"full"`. An hour to read.
#
# The "weight decay" here is **not** the L2 term of an optimiser: the frozen weights are multiplied by a factor $d$ that falls from 1 to 0.
#
# No measured number stands in the text of this notebook. Each is printed by a cell, from the rows that are loaded or from nets that are trained before your eyes.

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
STUDY_DATASET = "imdb"  # of the recorded rows
LIVE_RANK = 4  # of the small net that section 6 trains live
LIVE_METHOD = "noise_bias"  # "wds" | "bias" | "noise" | "noise_bias"
SEED = 0

if importlib.util.find_spec("keras_hub") is None:  # of all notebooks this one alone needs it
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "keras-hub>=0.32,<0.33"], check=True)

from clora_lab.course import notebook

RUN = notebook.mode(RUN, study="bert")
DATASET = notebook.dataset("bert")

# %%
import warnings

import keras
import numpy as np
import pandas as pd
import scipy.stats
from keras.ops import convert_to_numpy as to_numpy

import clora_lab as cl
from clora_lab import methods, rules
from clora_lab.course import attention, widgets, words
from clora_lab.lab import bench, paths, published, runner, tables, training
from clora_lab.lab.data import registry as datasets
from clora_lab.lab.data import text, tokens
from clora_lab.lab.figures import compare, marks
from clora_lab.lab.figures import nets as pictures
from clora_lab.lab.nets import registry as nets
from clora_lab.lab.nets.bert import backbone
from clora_lab.slides import shapes
from clora_lab.studies import bert, recorded

STUDY, SLIDES = bert.STUDY, methods.names("slides")

pd.set_option("display.max_colwidth", 240)
rng = np.random.default_rng(SEED)

# %% [markdown]
# ## 1. The net — BERT의 구조 (slide 20)
#
# BERT (Devlin et al. 2018) reads a text as *tokens* (word pieces). Three tables turn each token into a vector of width $d$ (the token, its position, its segment). Then come encoder blocks, each with self-attention and two
# feed-forward layers, layer norms between them. The first token, `[CLS]`, stands for the whole text: a *pooler* and an output layer read it. BERT-Tiny (Turc et al. 2019) has 2 blocks of 2 heads and $d = 128$; BERT-Small has 4 blocks of 8 heads and
# $d = 512$.
#
# Here is BERT-Tiny's real shape, with random weights: counting needs no download.

# %% tags=["nbval-check-output"]
tiny = backbone("bert_tiny")
assert tiny.count_params() == shapes.BERT_TINY.parameters
print(f"BERT-Tiny: {tiny.count_params():,} parameters")
first_block = [layer for layer in shapes.BERT_TINY.encoder if "layer_0" in layer.name]
for layer in first_block:
    print(
        f"  {layer.name.partition('/')[2]:36} {layer.kind:18} {layer.kernel!s:14} {layer.parameters:>7,} parameters"
    )

# %% [markdown]
# C-LoRA wraps `query`, `key`, `value` and `attention_output` of each block, and nothing else (slide 20). Their kernels have **three** axes.
#
# ## 2. EinsumDense — 축이 세 개인 층
#
# Attention with $H$ heads of width $e$ ($d = H e$) needs for each token $H$ queries. `EinsumDense` computes them in one go:
#
# $$q_{b,t,h,e} = \sum_{c} x_{b,t,c}\; W_{c,h,e} + b_{h,e}, \qquad \texttt{"abc,cde->abde"} .$$
#
# The letters name axes. An axis of the kernel that is in the input and not in the output is **contracted** (summed over); one that is in the output is **produced**. That gives the matrix for free: contracted axes are its rows, produced axes its columns.
# And it gives the pair: contract to $r$ numbers, then produce from them.

# %% tags=["nbval-check-output"]
d, heads, width, r = 128, 2, 64, 16
block = keras.layers.MultiHeadAttention(num_heads=heads, key_dim=width)
block.build(query_shape=(None, 32, d), value_shape=(None, 32, d))
for layer in (block.query_dense, block.key_dense, block.value_dense, block.output_dense):
    rule = rules.rule(layer)
    A, B = rule.from_matrices(np.zeros((rule.matrix_shape[0], r)), np.zeros((r, rule.matrix_shape[1])))
    print(
        f"{layer.name:17} {rule.equation:15} W {rule.kernel_shape!s:13} as a matrix {rule.matrix_shape!s:11} -> A {A.shape!s:12} {rule.down_equation:14} B {B.shape!s:12} {rule.up_equation}"
    )

# %% [markdown]
# | layer | kernel $W$ | $A$ | $B$ |
# |---|---|---|---|
# | query, key, value | $(d, H, e)$ | $(d, r)$ | $(r, H, e)$ |
# | attention output | $(H, e, d)$ | $(H, e, r)$ | $(r, d)$ |
#
# The output layer contracts *two* axes: it mixes the heads. (The slides' code stores $A$ of the first line the other way round, $(r, d)$. Same numbers, same count.)
#
# ### Check it — 직접 확인하기
#
# The pair by NumPy, against the Keras layer with the kernel that the pair multiplies out to:

# %%
tokens_in = rng.normal(size=(3, 5, d)).astype("float32")  # (texts, tokens, d)
per_head = rng.normal(size=(3, 5, heads, width)).astype("float32")  # (texts, tokens, H, e)
for layer, x in ((block.query_dense, tokens_in), (block.output_dense, per_head)):
    rule = rules.rule(layer)
    A, B = rule.from_matrices(rng.normal(size=(d, r)), rng.normal(size=(r, d)))
    by_pair = np.einsum(rule.up_equation, np.einsum(rule.down_equation, x, A), B)
    layer.kernel.assign(rule.to_kernel(A.reshape(d, r) @ B.reshape(r, d)))
    np.testing.assert_allclose(to_numpy(layer(x)), by_pair, rtol=1e-3, atol=1e-3)
    print(f"{layer.name}: {x.shape} -> {by_pair.shape}, the pair and the kernel agree")

# %% [markdown]
# And as `cl.compress` does it, inside a real block. Nothing but the four layers is replaced, and at $d(t) = 1$ the net is unchanged:

# %%
wrapped = cl.compress(
    tiny, r, "bias", cl.LinearDecay(100), targets=nets.targets("bert_tiny", "attention"), seed=SEED
)
ids = {
    "token_ids": rng.integers(1000, 2000, (2, 12)),
    "segment_ids": np.zeros((2, 12), "int32"),
    "padding_mask": np.ones((2, 12), "int32"),
}
before, after = (to_numpy(net(ids)["pooled_output"]) for net in (tiny, wrapped))
np.testing.assert_allclose(before, after, atol=1e-5)
for layer in cl.clora_layers(wrapped)[:4]:
    print(
        f"{layer.name:17} down {tuple(layer.pair_weights[0].shape)}, up {tuple(layer.pair_weights[1].shape)}"
    )
print(
    f"{len(cl.clora_layers(wrapped))} wrapped layers; largest difference {np.abs(before - after).max():.1e}"
)

# %% [markdown]
# ## 3. What is compressed, and what is not — 8.8%의 진실
#
# **Predict first, then run** (먼저 예측하기). The slides say that at rank 16 BERT-Tiny keeps 8.8% of its parameters. The embedding table alone has $30{,}522 \times 128$ numbers, and nobody compressed it. How many percent of the *model* are left?

# %%
prediction_percent_of_the_model = ...

# %%
notebook.show(attention.where_parameters(rank=16))

# %% [markdown]
# Three ways to count, from the real net (`cl.ratio`; each is defined in `cl.CONVENTIONS` or `cl.ENCODER_CONVENTIONS`):

# %% tags=["nbval-check-output"]
WAYS = {
    "the slides' count": "slides_bert_norms",
    "all of the encoder blocks": "encoder",
    "the whole model": "model",
}
counted, warned = {}, {}
for rank in (16, 32, 64):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        small = cl.compress(
            tiny, rank, "bias", cl.LinearDecay(1), targets=nets.targets("bert_tiny", "attention")
        )
    counted[f"rank {rank}"] = {name: cl.ratio(tiny, small, way) for name, way in WAYS.items()}
    warned[rank] = [
        str(w.message).split(". ")[0].rstrip(".")
        for w in caught
        if issubclass(w.category, cl.BreakEvenWarning)
    ]
table = (100 * pd.DataFrame(counted).T).round(2)
printed = published.load("bert_tiny").dropna(subset="rank").groupby("rank")["ratio_percent"].first()
table.insert(0, "printed (slide 21)", printed.to_numpy())
assert (table["printed (slide 21)"] - table["the slides' count"]).abs().max() < 0.1
print(table.to_string())

# %%
notebook.show(
    marks.bars(
        pd.DataFrame(counted).T,
        "What remains of BERT-Tiny: three ways to count",
        "Parameters that remain (%)",
        subtitle="Attention as low-rank pairs with a bias; counted on the real shape",
        percent=True,
        ylim=(0, 1.15),
    )
)

# %% [markdown]
# - **The slides' count** divides the factors, the biases and the layer norms by the encoder blocks, *as if the feed-forward layers were gone*. They are not: `finalize` keeps them, and so did the slides' own code.
# - **The encoder blocks** with all that is in them: most of a block is the feed-forward half, which stays.
# - **The whole model** is what a file holds. BERT-Tiny is nearly all embeddings. Attention is a few percent of it, and that is the most that compressing attention can save.
#
# For BERT-Small, whose slide leaves the layer norms out too:

# %% tags=["nbval-check-output"]
small_bert = shapes.BERT_SMALL
printed = published.load("bert_small").dropna(subset="rank").groupby("rank")["ratio_percent"].first()
for rank, value in printed.items():
    left = attention.parts("bert_small", rank)
    inside = left[["attention", "feed-forward", "layer norms"]].sum() / shapes.total(small_bert.encoder)
    slides = left["attention"] / shapes.total(small_bert.encoder)
    assert abs(100 * slides - value) < 0.1
    print(
        f"rank {rank}: printed {value}%, the slides' count {slides:.2%}, encoder blocks {inside:.1%}, whole model {left.sum() / small_bert.parameters:.1%}"
    )

# %% [markdown]
# ### Rank 64 saves nothing — 랭크 64는 아무것도 줄이지 못한다
#
# $W$ of a query has $d \cdot d$ numbers, its pair $r\,(d + d)$. They are equal at $r = d/2$, and $d$ is 128. So at rank 64, the slides' third column, each pair is exactly as large as the $W$ that it replaces. `compress` has warned, for every layer:

# %% tags=["nbval-check-output"]
rule = rules.rule(block.query_dense)
assert rule.break_even_rank == 64 and rule.parameters(64) == rule.kernel_size
for rank, messages in warned.items():
    print(f"rank {rank}: {len(messages)} warnings" + (f", the first: {messages[0]}." if messages else ""))
same = attention.parts("bert_tiny", 64)["attention"] == attention.parts("bert_tiny")["attention"]
print("attention before and after, rank 64: the same number of parameters" if same else "they differ")

# %% [markdown]
# Its printed 33.6% is the share of attention (with norms) in a block, before *and* after. That column of the slides measures a detour, not a compression.
#
# ## 4. The tables — 발표된 값과 측정한 값 (slides 21 and 22)
#
# `recorded` loads the rows that are committed with the lab. `quick` runs the study in small now. `full` runs the slides' grid (three ranks, four methods, and the baselines) and goes on where it was interrupted.

# %%
if RUN == "recorded":
    rows, history, source = notebook.results("bert", STUDY_DATASET)
elif RUN == "quick":
    rows, history = notebook.run_live(STUDY.grid(dataset=DATASET, **notebook.size(RUN, DATASET, "bert")))
else:
    store = recorded("bert", paths.cache_dir() / "full")
    rows = runner.run_grid(STUDY.grid(dataset=DATASET), store)
    history = store.read_history()
notebook.say(words.provenance(rows))

# %% [markdown]
# What was run: a line for each setting that no table may mix with another (model, where its weights are from, recipe, part of the reviews, what is compressed).

# %%
PARTS = [(tuple(what.values()), own) for what, own in tables.parts(rows, STUDY)]
counts = [own.loc[own["rank"] > 0, ["config", "rank", "seed"]].nunique() for _, own in PARTS]
settings = pd.DataFrame([key for key, _ in PARTS], columns=STUDY.apart)
settings.join(pd.DataFrame(counts).set_axis(["runs", "ranks", "seeds"], axis=1)).drop(columns="dataset")

# %% [markdown]
# One table for each model, each scope (`attention`, as in the slides, or the whole `encoder`) and each recipe: published and measured, where the slides have such a table. **Read the conditions above each table before its numbers.**

# %%
TABLES = list(tables.each(tables.compare(rows, STUDY)))
HEADS = {"cell": "Rank", "ratio": "Slides'\nratio", "ratio_encoder": "Of the\nblocks"}
HEADS |= {"ratio_model": "Of the\nmodel", "kind": ""}
for title, table in TABLES:
    first = table.iloc[-1]
    what = "" if first["scope"] == "attention" else f", {attention.SCOPES[first['scope']]}"
    notebook.show(
        compare.table(
            table,
            f"{nets.label(first['model'])} on {datasets.label(first['dataset'])}{what}: test accuracy (%)",
            f"{title}\nLeft: percent that remain, with a bias; best of a line in bold; of LoRA's net 100% remain",
            left=HEADS,
            left_width=(0.07, 0.085, 0.085, 0.085, 0.075),
            largest=True,
            kinds={"published": "slides", "measured": "ours"},
        )
    )
    for note in filter(None, table["note"].unique()):
        print("Note:", note)
    if table["published"].isna().all():
        print(
            "No table of the slides belongs beside this one: other data, another net, or more than attention compressed."
        )

# %% [markdown]
# Accuracies of nets that were trained differently compare badly. The **loss against the dense net** of the same recipe (`gap`, in points) compares better:

# %%
CHOSEN = next(
    (
        index
        for index, (_, table) in enumerate(TABLES)
        if table[["model", "scope"]].iloc[-1].tolist() == ["bert_tiny", "attention"]
    ),
    0,
)
(TITLE, table), chosen = TABLES[CHOSEN], PARTS[CHOSEN][1]
MODEL = table["model"].iloc[-1]
short = {
    "published": "published",
    "published_gap": "published gap",
    "measured": "measured",
    "gap": "gap",
    "ratio": "slides' ratio",
    "ratio_encoder": "of the encoder",
    "ratio_model": "of the model",
    "n": "n",
}
print(TITLE)
table = table[table["measured"].notna()]
table.set_index(["rank", "method"])[list(short)].rename(columns=short).round(2)

# %% [markdown]
# **What is the same as in the slides**: the shape of the net, the wrapped layers, begin and end of the decay (5% and 85% of the steps), the four methods, $\alpha$. **What is not** is in the line of conditions: above all where the weights start from. The
# slides' BERT-Tiny was pretrained on Wikipedia and books; one "pretrained here" has read the training reviews and nothing else: its word vectors start from counts of neighbours, and then it fills gaps (`lab/nets/pretrain.py`).
#
# How much of an order of methods is chance? An accuracy $p$ on $N$ reviews has the standard error $\sqrt{p(1-p)/N}$; two that differ by less than $1.96 \sqrt 2$ of it are not told apart (seeds not counted):

# %%
N = int(chosen["test_size"].iloc[0])
own = table[table["method"].isin(SLIDES)]
p = own["measured"].median() / 100
print(
    f"{N:,} test reviews at {p:.0%}: differences below {100 * 1.96 * np.sqrt(2 * p * (1 - p) / N):.2f} points are within chance."
)
for rank, part in own.groupby("rank"):
    low, high = part["measured"].min(), part["measured"].max()
    line = f"rank {rank}: the {len(part)} measured methods lie from {low:.2f} to {high:.2f}"
    if part["published"].notna().any():
        line += f"; the slides' from {part['published'].min():.2f} to {part['published'].max():.2f}"
    print(line)
for row in table[table["method"].map(methods.family) == "baselines"].itertuples():
    print(f"{methods.label(row.method)}, rank {row.rank}: {row.measured:.2f}, {row.gap:+.2f} from dense")

# %% [markdown]
# Attention alone is a small part of the encoder. How much can go if the feed-forward halves are compressed too, and what does it cost? For every table above, the best C-LoRA net and the best baseline of each rank, by their *validation* accuracy, so that the test is not what
# chose them:

# %%
lines = []
for (_, on_test), (_, on_validation) in zip(
    TABLES, tables.each(tables.compare(rows, STUDY, "validation")), strict=True
):
    model, scope, variant = on_test[["model", "scope", "variant"]].iloc[-1]
    on_test = on_test.set_index(["rank", "method"])
    for rank, seen in on_validation.query("rank > 0").groupby("rank"):
        for kind, family in (("C-LoRA", "slides"), ("baseline", "baselines")):
            seen_here = seen[seen["method"].isin(methods.names(family)) & seen["measured"].notna()]
            if len(seen_here):
                best = seen_here.loc[seen_here["measured"].idxmax(), "method"]
                cell = on_test.loc[(rank, best)]
                lines.append(
                    {
                        "net": nets.label(model),
                        "compressed": scope,
                        "recipe": variant,
                        "rank": rank,
                        "best": f"{kind}: {methods.label(best)}",
                        "of the encoder": cell["ratio_encoder"],
                        "of the model": cell["ratio_model"],
                        "test accuracy": cell["measured"],
                        "gap to dense": cell["gap"],
                        "n": cell["n"],
                    }
                )
pd.DataFrame(lines).set_index(["net", "compressed", "recipe", "rank"]).round(2)

# %% [markdown]
# The recipe `distilled` needs no labels: the compressed net learns to have the dense net's hidden states $h^*_l$ after every block and its logits $z^*$, softened by a temperature $T$,
#
# $$\mathcal{L} = \frac1L \sum_l \frac{\lVert h_l - h^*_l \rVert^2}{\lVert h^*_l \rVert^2} + T^2\, \mathrm{KL}\!\left(\mathrm{softmax}(z^*/T) \,\Vert\, \mathrm{softmax}(z/T)\right)$$
#
# (Hinton, Vinyals and Dean 2015, arXiv:1503.02531, for the logits; in the manner of TinyBERT, Jiao et al. 2020, arXiv:1909.10351, for the states; `studies.distillation`). A label is one bit a review; the states are thousands of numbers, and any text will do, so it
# reads pieces from everywhere in the training reviews. If rows of `recipe` and `distilled` are both above, compare them: the start and the number of steps are the same, the rate is larger (5e-4 in place of 2e-4).

# %% [markdown]
# How the compressed path learns while $W$ fades (the authors' view: $BA$ alone is evaluated, from the first epoch on):

# %%
runs = history[history["config"].isin(chosen["config"]) & history["method"].isin(SLIDES)]
lowest = runs["rank"].min()
frame = runs[runs["rank"] == lowest].groupby(["epoch", "method"])["val_compressed_accuracy"].mean().unstack()
frame = frame[[method for method in SLIDES if method in frame]].rename(columns=methods.label)
notebook.show(
    marks.lines(
        frame,
        f"The compressed path alone: {nets.label(MODEL)}, rank {lowest}",
        "Epoch",
        "Validation accuracy (%)",
        subtitle=TITLE,
        percent=True,
        ylim=(0.4, 1),
    )
)

# %% [markdown]
# ## 5. Trained or remaining? — 학습되는 것과 남는 것
#
# "Only 1% of the parameters are trained" is what LoRA promises, and it is true. "Only 1% remain" would be false: LoRA's pairs are **added** to $W$, which stays. C-LoRA trains as few, and lets the $W$ of the *wrapped* layers go. Beside both stands what the file holds in
# the end:

# %%
sizes = tables.trained_and_remaining(table, int(own["rank"].min()))
shown = {
    methods.label("dense"): "Dense",
    methods.label("lora"): "LoRA",
    methods.label("noise_bias"): "C-LoRA",
    methods.label("scratch"): "Low-rank\nfrom scratch",
}
notebook.show(
    marks.bars(
        sizes[sizes.index.isin(shown)].rename(index=shown),
        f"Trained and remaining: {nets.label(MODEL)}, rank {lowest}",
        "Parameters (% of dense)",
        subtitle=TITLE,
        percent=True,
        ylim=(0, 1.15),
    )
)
if methods.label("lora") not in sizes.index:
    print("There is no run of LoRA among these rows.")
sizes.map("{:.2%}".format)

# %% [markdown]
# ## 6. Look inside — 어텐션 지도와 오류
#
# For this a BERT of BERT-Tiny's shape is trained **here and now**, first dense, then compressed. Where IMDB and a pretrained start are on this machine it takes a part of the real reviews; otherwise reviews that a small grammar generates, with a
# start from chance and a vocabulary of its own. Every title says which.

# %%
small = notebook.size("quick", DATASET, "bert")
fields = {name: small[name] for name in ("start", "sequence", "fraction") if name in small}
if DATASET == "synthetic":
    fields |= {"sequence": 48, "learning_rate": 1e-3, "dense_learning_rate": 1e-3}
else:
    fields |= {"fraction": 0.1}  # real reviews are harder to learn from
fields = {"start": "random" if DATASET == "synthetic" else "pretrained_here", **fields}
LIVE = STUDY.run(
    dataset=DATASET, method=LIVE_METHOD, rank=LIVE_RANK, seed=SEED, variant="short", study="bert_live",
    **{"epochs": 6, "dense_epochs": 3, "patience": 3, "learning_rate": 5e-4, "dense_learning_rate": 2e-4, **fields},
)  # fmt: skip
reviews = datasets.load(DATASET, fraction=LIVE.fraction)
x_train, y_train = reviews.x_train, reviews.y_train
if DATASET == "synthetic":  # of generated reviews there are as many as one likes
    y_train = np.arange(1200, dtype="int32") % 2
    x_train = [text.synthetic_review(int(label), rng) for label in y_train]
dense, tokenizer = bert.pretrained(LIVE)
parts = {
    "train": (x_train, y_train),
    "val": (reviews.x_val, reviews.y_val),
    "test": (reviews.x_test, reviews.y_test),
}
data = {name: (tokens.tokenise(x, tokenizer, LIVE.sequence), y) for name, (x, y) in parts.items()}
examples = bench.Data(*data.values(), classes=2)
NAME = STUDY.title_of(LIVE)
print(f"{NAME}: {len(y_train):,} training and {len(reviews.y_test):,} test reviews, e.g.")
print("  ", y_train[0], x_train[0][:150])

# %%
bench.fit(LIVE.original, dense, examples)
training.forget(bench.folder(LIVE.original))  # the checkpoint of an interrupted run
print(f"dense: at most {LIVE.dense_epochs} epochs")

# %%
steps = len(training.Batches(*data["train"], LIVE.batch_size)) * LIVE.epochs
TARGETS = nets.targets("bert_tiny", "attention")
live = cl.compress(dense, LIVE.rank, LIVE.method, LIVE.decay(steps), targets=TARGETS, seed=SEED)
bench.fit(LIVE, live, examples)
training.forget(bench.folder(LIVE))
final = cl.finalize(live)
print(f"compressed: {LIVE.epochs} epochs, {steps} steps")

# %%
svd = cl.compress(dense, LIVE.rank, "bias", cl.LinearDecay(1), targets=TARGETS, init="svd")
cut = cl.finalize(svd, force=True)
for label, model in (
    ("dense", dense),
    ("truncated SVD, no training", cut),
    (f"C-LoRA ({methods.label(LIVE.method)})", final),
):
    accuracy = training.evaluate(model, *data["test"], batch=100)["accuracy"]
    print(
        f"{label:32} {accuracy:6.1%} of {len(reviews.y_test):,} test reviews; {model.count_params():>9,} parameters"
    )
print(f"{NAME}, attention at rank {LIVE.rank}")

# %% [markdown]
# ### Attention maps before and after — 압축 전후의 어텐션
#
# A head's attention is $P = \operatorname{softmax}(Q K^\top / \sqrt e)$: row $q$ says how token $q$ shares its attention out. How far a head has turned is the *total variation* of its rows, $\tfrac12 \sum_k |P_{qk} - P'_{qk}|$: 0 if nothing moved, 1 if it looks
# at other tokens altogether.
#
# **Predict first.** $BA$ has taken the place of $W$ in the query and the key of each head. Will a head look where it looked before?

# %%
some = training.take(data["test"][0], slice(0, 50))
scores = {name: attention.attention_scores(net, some) for name, net in (("dense", dense), ("SVD", cut), ("compressed", final))}  # fmt: skip
np.testing.assert_allclose(scores["dense"].sum(-1), 1, atol=1e-4)
moved = attention.attention_change(scores["dense"], scores["compressed"], some["padding_mask"])
by_svd = attention.attention_change(scores["dense"], scores["SVD"], some["padding_mask"])
moved.insert(3, "change_by_svd", by_svd["change"])
print(f"{NAME}; mean over the first {len(some['token_ids'])} test reviews")
moved.round(3)

# %% [markdown]
# `attended` is $e^{\text{entropy}}$ of a row: the number of tokens that a token looks at. Where it comes near the length of the texts, the head has become an average over all of them: it adds up words and no longer puts neighbours together. Now the maps of one sentence, for the head that has turned most and the one that has turned least:

# %%
SENTENCE = "the plot was not boring at all . what a great film !"
shown = ["[CLS]", *widgets.tokens(SENTENCE, tokenizer, LIVE.sequence)["token"], "[SEP]"]
ids = tokens.tokenise([SENTENCE], tokenizer, LIVE.sequence, cached=False)
order = moved.sort_values("change", ascending=False)[["block", "head"]]
maps = {name: attention.attention_scores(net, ids)[:, 0] for name, net in (("dense", dense), ("compressed", final))}  # fmt: skip
notebook.show(
    pictures.attention_maps(
        maps,
        shown,
        [tuple(order.iloc[0]), tuple(order.iloc[-1])],
        "Attention of the head that turned most, and least",
        f"{NAME}, C-LoRA rank {LIVE.rank}, {methods.label(LIVE.method)}",
    )
)

# %% [markdown]
# As with VGG16's filters in notebook 05: C-LoRA does not approximate $W$. Nothing in its loss asks the heads to look where they looked; it asks for the right answers.
#
# ### Which reviews does it get wrong? — 압축된 모델의 오류
#
# Two nets of equal accuracy need not make the same errors. Both nets judge all test reviews:

# %%
judged = attention.predictions(
    {"dense": dense, "compressed": final}, reviews.x_test, tokenizer, LIVE.sequence
)
judged = attention.errors(judged, reviews.y_test)
counts = judged["verdict"].value_counts()
lost, won = (int(counts.get(f"only {name} right", 0)) for name in ("dense", "compressed"))
assert counts.sum() == len(reviews.y_test)
print(counts.to_string(header=False))
chance = scipy.stats.binomtest(lost, lost + won).pvalue if lost + won else 1.0
print(
    f"They part on {lost + won} reviews, {lost} of them lost by compression. If each went either way by the toss of a coin, a split at least as uneven has the probability {chance:.2f}."
)

# %% [markdown]
# That is the exact form of McNemar's test: only the reviews on which the nets part can tell which is better. The reviews that the dense net gets right and the compressed one wrong, the widest gaps first (label 1 is positive; the numbers are probabilities of
# "positive"):

# %%
regressions = judged[judged["verdict"] == "only dense right"].head(8)
regressions.assign(text=regressions["text"].str.slice(0, 220))[
    ["label", "dense", "compressed", "text"]
].round(3)

# %% [markdown]
# Do negations (*not boring*, *nobody could call it dull*) explain them? To see that a word is negated, a net has to put two tokens together, and that is attention's work:

# %%
negated = judged["text"].str.contains(r"\bnot\b|\bnobody\b|n't\b", case=False)
share = negated.groupby(judged["verdict"]).agg(["mean", "size"])
share.columns = ["share with a negation", "reviews"]
print(f"{NAME}; of all test reviews {negated.mean():.0%} hold a negation")
share.round(2)

# %% [markdown]
# ### Try your own — 직접 써 보기
#
# Type a review, and compare. (Without a live kernel, as on GitHub, you see the picture below the widget.) The nets know the words that they have met: a note says what was cut off or unknown.

# %%
EXAMPLES = [SENTENCE, *widgets.EXAMPLES, *regressions["text"].head(3)]
TITLE = f"One review: {NAME.split(' (generated')[0]}"
widgets.review_explorer(dense, final, tokenizer, LIVE.sequence, examples=EXAMPLES, title=TITLE)

# %%
notebook.show(widgets.review_explorer_static(dense, final, SENTENCE, tokenizer, LIVE.sequence, title=TITLE))

# %% [markdown]
# ## Summary — 정리
#
# - `EinsumDense` is a matrix in disguise: contracted axes are its rows, produced axes its columns. The pair contracts to $r$ numbers and produces from them.
# - The printed 8.8% is met to 0.1 by *one* way of counting: over the encoder blocks, as if the feed-forward layers were gone. Of the blocks three quarters remain, of the model nearly everything.
# - At rank 64 a pair in BERT-Tiny is exactly as large as $W$.
# - The tables of section 4 say, for the rows at hand, where the four methods stand, how much of their order is chance, and what plain baselines reach.
# - LoRA trains little and keeps all. C-LoRA trains as little and keeps less: but only of what was wrapped.
# - A compressed head may look elsewhere than before, and the nets' errors differ even where their accuracies agree.
#
# Papers: Devlin et al. 2018, [BERT](https://arxiv.org/abs/1810.04805); Turc et al. 2019, [Well-read students learn better](https://arxiv.org/abs/1908.08962) (the small BERTs); Vaswani et al. 2017,
# [Attention is all you need](https://arxiv.org/abs/1706.03762); Hu et al. 2021, [LoRA](https://arxiv.org/abs/2106.09685); Maas et al. 2011, [Learning word vectors for sentiment analysis](https://aclanthology.org/P11-1015/) (IMDB);
# McNemar 1947, Note on the sampling error of the difference between correlated proportions or percentages.

# %% [markdown]
# ## Exercises — 연습 문제

# %% [markdown] tags=["exercise"]
# **Exercise 1** (easy). Compute by hand, for the attention of **BERT-Small** ($d = 512$, 4 blocks) at rank 32: the parameters of all pairs with their biases, and the break-even rank of one layer.

# %% tags=["student"]
# Your code here
pairs_with_biases, break_even = ..., ...

# %% tags=["solution"] jupyter={"source_hidden": true}
layers_in_all = 4 * 4  # four in each of four blocks
pairs_with_biases = layers_in_all * (32 * (512 + 512) + 512)
break_even = 512 * 512 // (512 + 512)
assert pairs_with_biases == attention.parts("bert_small", 32)["attention"]
assert break_even == 256
print(
    f"{pairs_with_biases:,} parameters; break-even rank {break_even}, so all of the slides' ranks save something in BERT-Small"
)

# %% [markdown] tags=["exercise"]
# **Exercise 2** (predict first, then run). Keras has LoRA built in: `layer.enable_lora(rank)`. For the query's kernel $(d, H, e) = (128, 2, 64)$ at rank 4 our pair has $4 \cdot (128 + 128)$ parameters. Keras factors the **last axis** only, against all others. How many parameters has
# its pair? And which rank can the update of a *single head* have in each of the two, and which the update of *all heads together*?

# %% tags=["student"]
# Your code here
parameters_of_keras = ...

# %% tags=["solution"] jupyter={"source_hidden": true}
# A (d, H, 4) and B (4, e): each head has an A of its own, and all heads share B.
parameters_of_keras = 4 * (128 * 2 + 64)
query = keras.layers.EinsumDense("abc,cde->abde", (None, 2, 64), name="query")
query.build((None, 32, 128))
query.enable_lora(4)
assert parameters_of_keras == sum(int(np.prod(w.shape)) for w in query.trainable_weights)
keras_update = np.einsum("chr,re->che", rng.normal(size=(128, 2, 4)), rng.normal(size=(4, 64)))
our_update = (rng.normal(size=(128, 4)) @ rng.normal(size=(4, 128))).reshape(128, 2, 64)
rank_of = np.linalg.matrix_rank
assert [rank_of(u[:, 0]) for u in (keras_update, our_update)] == [4, 4]  # of one head
assert [rank_of(u.reshape(128, 128)) for u in (keras_update, our_update)] == [8, 4]  # of all heads
print(
    f"Keras {parameters_of_keras:,}, ours {4 * 256:,}. A single head has rank 4 in both; all heads together 8 in Keras' pair, 4 in ours."
)

# %% [markdown] tags=["exercise"]
# **Exercise 3** (medium). The slides stop at attention. Count for BERT-Tiny: what is left of the **model** if the feed-forward layers are compressed too, at rank 16? And what is the least that *any* compression of the encoder blocks alone can leave? (Use `attention.parts`.)

# %% tags=["student"]
# Your code here
with_feed_forward, least = ..., ...

# %% tags=["solution"] jupyter={"source_hidden": true}
original = attention.parts("bert_tiny")
with_feed_forward = attention.parts("bert_tiny", 16, scope="encoder").sum() / original.sum()
least = original[["embeddings", "pooler"]].sum() / original.sum()
whole = cl.compress(
    tiny, 16, "bias", cl.LinearDecay(1), targets=nets.targets("bert_tiny", "attention", "feed_forward")
)
assert np.isclose(with_feed_forward, cl.ratio(tiny, whole, "model"))
assert least < with_feed_forward < counted["rank 16"]["the whole model"]
print(
    f"{with_feed_forward:.1%} are left, and never less than {least:.1%}: in so small a BERT the embeddings are the model"
)

# %% [markdown] tags=["exercise"]
# **Exercise 4** (medium). So compress the embeddings. Replace the token table $(V, d)$ by a table $(V, r)$ and a matrix $(r, d)$, as ALBERT does (Lan et al. 2019). Which is the largest $r$ at which BERT-Tiny, with attention *and* feed-forward at rank 16, keeps at most 25% of its parameters?

# %% tags=["student"]
# Your code here
largest_rank = ...

# %% tags=["solution"] jupyter={"source_hidden": true}
V, d = shapes.BERT_TINY.vocabulary, shapes.BERT_TINY.hidden
rest = attention.parts("bert_tiny", 16, scope="encoder").sum() - V * d
shares = {r: (rest + r * (V + d)) / shapes.BERT_TINY.parameters for r in range(1, d)}
largest_rank = max(r for r, share in shares.items() if share <= 0.25)
table_of_tokens = keras.Sequential([keras.Input((32,)), keras.layers.Embedding(V, largest_rank), keras.layers.Dense(d, use_bias=False)])  # fmt: skip
assert table_of_tokens.count_params() == largest_rank * (V + d)
assert shares[largest_rank] <= 0.25 < shares[largest_rank + 1]
print(
    f"r = {largest_rank}: {shares[largest_rank]:.1%} of the model. Whether it still answers well is another question: measure it."
)

# %% [markdown] tags=["exercise"]
# **Exercise 5** (hard). Attention sees queries and keys only through $x^\top W_Q^{(h)} W_K^{(h)\top} x'$. What is the largest rank of that $d \times d$ matrix in an uncompressed head of BERT-Tiny, and what with pairs of rank $r = 16$ for query and key? All heads share the down projection $A$: show that the queries of
# **all** heads of a token together are a function of $r$ numbers. Then give each head a pair of its own ($A^{(h)}$: $(d, r_h)$, $B^{(h)}$: $(r_h, e)$): which $r_h$ costs as much as one shared pair of rank 16?

# %% tags=["student"]
# Your code here
rank_dense, rank_pair, rank_own = ..., ..., ...

# %% tags=["solution"] jupyter={"source_hidden": true}
d, heads, width, r = 128, 2, 64, 16
W_Q, W_K = (rng.normal(size=(d, heads, width)) for _ in range(2))
P_Q, P_K = ((rng.normal(size=(d, r)) @ rng.normal(size=(r, d))).reshape(d, heads, width) for _ in range(2))
rank_dense, rank_pair = (int(np.linalg.matrix_rank(Q[:, 0] @ K[:, 0].T)) for Q, K in ((W_Q, W_K), (P_Q, P_K)))
assert (rank_dense, rank_pair) == (min(d, width), r)
x = rng.normal(size=(500, d))  # 500 tokens
queries = np.einsum("tc,che->the", x, P_Q).reshape(500, d)  # of all heads, side by side
assert np.linalg.matrix_rank(queries) == r
rank_own = r * (d + heads * width) / (heads * (d + width))
assert np.isclose(heads * rank_own * (d + width), r * (d + d))
print(
    f"rank {rank_dense} without, {rank_pair} with pairs; a pair for each head costs the same at rank {rank_own:.1f}, so one shared pair has the larger rank for each head, and own pairs the larger one for all heads ({heads} x {rank_own:.1f})"
)
