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
# # 05 · VGG16 on CIFAR-10: low-rank convolutions — 합성곱을 저랭크로
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/clora-lab/clora_lab/blob/main/notebooks/05_vgg16_cifar10.ipynb)
#
# The slides take C-LoRA to a convolutional net: the 13 convolutions of VGG16 and two dense layers (slides 18 and 19). A kernel has four
# axes and a low-rank pair wants a matrix, so the first question is: *which* matrix?
#
# **You will learn** (배울 내용)
#
# - three ways to make a matrix of a convolution's kernel, and which of them run faster rather than only being stored smaller;
# - to recompute the six ratios of slide 19, and to see that its rows are counted in two ways;
# - why one rank for all layers makes the first layer *larger*, and how to choose a rank for each layer;
# - to read the measured table beside the published one, with what differs between them;
# - what filters and spectra look like before and after.
#
# **You need**: notebooks 01 (LoRA) and 02 (Weight Decay Scheduling); 03 for the baselines. No GPU.
# **Time**: about a minute on a laptop with recorded rows, two in Colab; about two minutes with `RUN = "quick"`; many hours with `"full"`.
# An hour to read.
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
STUDY_DATASET = "cifar10_jpeg"  # of the recorded rows
RECIPE = "short"  # of the recorded rows: few epochs, larger steps (`STUDY.variants`)
LIVE_RANK = 8  # of the small net that sections 1 to 7 train live
LIVE_METHOD = "noise_bias"  # "wds" | "bias" | "noise" | "noise_bias"
SEED = 0

from clora_lab.course import notebook

RUN = notebook.mode(RUN, study="vgg16")
DATASET = notebook.dataset("vgg16")

# %%
import warnings

import keras
import numpy as np
import pandas as pd
from keras.ops import convert_to_numpy as to_numpy

import clora_lab as cl
from clora_lab import factorize, methods, rules
from clora_lab.course import convolution, words
from clora_lab.lab import bench, paths, published, runner, tables, training
from clora_lab.lab.data import registry as datasets
from clora_lab.lab.data.images import standardise
from clora_lab.lab.figures import compare, marks
from clora_lab.lab.figures import nets as pictures
from clora_lab.lab.nets import registry as nets
from clora_lab.lab.nets import vgg
from clora_lab.slides import drawings, plots, shapes
from clora_lab.studies import recorded, vgg16

STUDY = vgg16.STUDY
TARGETS = nets.targets("vgg16")
SLIDES = published.load("vgg16")
rng = np.random.default_rng(SEED)

# %% [markdown]
# ## 1. The net — VGG16의 구조 (slide 18)
#
# VGG16 (Simonyan & Zisserman 2014) at $32 \times 32$ pixels, with a head of three dense layers. Marked is what C-LoRA wraps: 13 convolutions and
# two dense layers. The output layer stays as it is.

# %%
stack, wrapped_names = plots.stack(shapes.VGG16_WRAPPED, shapes.VGG16)
notebook.show(drawings.layer_stack(stack, wrapped_names, title="VGG16 for 32 × 32 images"))

# %% [markdown]
# The table of shapes and the Keras model must agree:

# %% tags=["nbval-check-output"]
net = vgg.vgg16(seed=SEED)
convolutions = [layer for layer in net.layers if isinstance(layer, keras.layers.Conv2D)]
kernels = sum(int(np.prod(layer.kernel.shape)) for layer in convolutions)
assert net.count_params() == shapes.total(shapes.VGG16)
print(
    f"{len(convolutions)} convolutions with {kernels:,} kernel weights, of {net.count_params():,} parameters in all"
)
print("targets:", TARGETS)

# %% [markdown]
# Slide 18 prints "1.9M" parameters: a misprint by a factor of ten.
#
# ## 2. What is a low-rank convolution? — 저랭크 합성곱이란?
#
# A convolution with kernel $W$ of shape $(k, k, C_\text{in}, C_\text{out})$ computes at each position $p$ of the image
#
# $$y_{p,o} = \sum_{i,j,c} W_{i,j,c,o}\; x_{p+(i,j),\,c} .$$
#
# *Low rank* is a property of matrices. So the four axes must first be put into rows and columns, and there is more than one way:
#
# | way | rows × columns | product of width | runs as |
# |---|---|---|---|
# | **pair** (Zhang et al. 2015) | $(k k C_\text{in}) \times C_\text{out}$ | $r$ | $k \times k$ to $r$ channels, then $1 \times 1$ |
# | **loralib** (Hu et al. 2021) | $(k C_\text{in}) \times (k C_\text{out})$, in memory order | $k r$ | one $k \times k$ convolution; its kernel is multiplied out first |
# | **spatial** (Jaderberg et al. 2014; the slides, our default) | $(k\,C_\text{in}) \times (k\,C_\text{out})$, window columns against window rows | $k r$ | $1 \times k$ to $k r$ channels, then $k \times 1$ |
#
# One small kernel, three matrices. Number and colour say from which place of the window an element comes:

# %%
notebook.show(convolution.three_matrices())

# %% [markdown]
# - **pair**: a column is one filter. Low rank means: all filters are combinations of $r$ filters.
# - **spatial**: columns of the window against its rows. Low rank means: the filters are sums of few *separable* ones.
# - **loralib** takes the kernel as it lies in PyTorch's memory, $(C_\text{out}, C_\text{in}, k, k)$, and cuts it into rows of length $k C_\text{in}$. A filter becomes $k$ neighbouring
#   columns, each with a $k$-th of its input channels (where $k$ does not divide $C_\text{in}$, the cut goes through a window). No meaning of the convolution is behind that cut.
#
# What each costs, for a convolution from 64 to 128 channels at rank 16 (multiply-adds for one position of the output):

# %% tags=["nbval-check-output"]
print(convolution.ways((3, 3, 64, 128), rank=16).drop(columns="runs_as").round(3).to_string())

# %% [markdown]
# **Predict first, then run** (먼저 예측하기). The layer is now one from 128 to 256 channels, still at rank 16. Which of the three ways does the fewest multiply-adds, and which one saves *none*,
# although it stores a fifth of the parameters?

# %%
prediction_fewest, prediction_none = ..., ...  # "pair", "loralib" or "spatial"

# %%
notebook.show(convolution.low_rank_convolution((3, 3, 128, 256), rank=16))

# %% [markdown]
# ### Check it — 직접 확인하기
#
# The pair **is** two convolutions, exactly: the same as one convolution with the kernel $\text{down} \cdot \text{up}$. We take a random pair of rank 4 and random images.

# %%
layer = keras.layers.Conv2D(32, 3, padding="same", use_bias=False)
layer.build((None, 16, 16, 12))
images = rng.normal(size=(2, 16, 16, 12)).astype("float32")


def conv(x, kernel):
    return keras.ops.conv(x, np.asarray(kernel, "float32"), padding="same")


pair = rules.rule(layer, "pair")
down, up = rng.normal(size=(pair.matrix_shape[0], 4)), rng.normal(size=(4, pair.matrix_shape[1]))
first, second = pair.from_matrices(down, up)
in_two = conv(conv(images, first), second)
in_one = conv(images, pair.to_kernel(down @ up))
np.testing.assert_allclose(to_numpy(in_two), to_numpy(in_one), atol=1e-3)
print(f"two convolutions {first.shape} and {second.shape}  =  one with the kernel {pair.kernel_shape}")

# %% [markdown]
# So is the spatial one. It has the same matrix shape as loralib's and the same number of parameters; only the order of the axes differs:

# %%
spatial = rules.rule(layer, "spatial")
down, up = (
    rng.normal(size=(spatial.matrix_shape[0], 4)),
    rng.normal(size=(4, spatial.matrix_shape[1])),
)
row, column = spatial.from_matrices(down, up)
kernel = spatial.to_kernel(down @ up)
np.testing.assert_array_equal(convolution.to_matrix(kernel, "spatial"), down @ up)
np.testing.assert_allclose(
    to_numpy(conv(conv(images, row), column)), to_numpy(conv(images, kernel)), atol=1e-3
)
print(f"two convolutions {row.shape} and {column.shape}  =  one with the kernel {kernel.shape}")

# %% [markdown]
# **It is the slides' own.** Slide 18 prints the shapes $A\,(rk, C_\text{in} k)$ and $B\,(C_\text{out} k, rk)$, which would do for loralib's view as well. What settles it is a line of the
# authors' notebooks: they reshape $BA$ to $(C_\text{out}, k, k, C_\text{in})$, so that
#
# $$K_{o,a,b,i} = \sum_r B_{ok+a,\,r}\; A_{r,\,bC_\text{in}+i} ,$$
#
# and the two sums come apart: $A$ looks along a row of the window, $B$ along a column. (The recorded rows of this study are older than this finding: they were computed with loralib's view and
# the pair, as their tables say.)

# %%
k, inputs, outputs, r = 3, 12, 32, 4
A, B = rng.normal(size=(r * k, inputs * k)), rng.normal(size=(outputs * k, r * k))
theirs = np.transpose(np.reshape(B @ A, (outputs, k, k, inputs)), (1, 2, 3, 0))  # to Keras' order of axes
row = np.transpose(np.reshape(A, (r * k, 1, k, inputs)), (1, 2, 3, 0))  # 1 x k, to r k channels
column = np.transpose(np.reshape(B, (outputs, k, 1, r * k)), (1, 2, 3, 0))  # k x 1
np.testing.assert_allclose(
    to_numpy(conv(conv(images, row), column)), to_numpy(conv(images, theirs)), rtol=1e-3, atol=1e-2
)
print(f"BA reshaped to a kernel {theirs.shape}  =  {row.shape}, then {column.shape}")

# %% [markdown]
# loralib's factors are no kernels of stock layers. The net multiplies them out and then runs the **full** convolution. `cl.report` keeps apart what is stored and what is run:

# %% tags=["nbval-check-output"]
small = keras.Sequential(
    [keras.Input((16, 16, 64)), keras.layers.Conv2D(128, 3, padding="same", name="conv")]
)
for factorization in ("loralib", "pair", "spatial"):
    both = cl.compress(
        small, 16, "wds", cl.LinearDecay(1), targets="conv", factorization=factorization, seed=SEED
    )
    final = cl.finalize(both, force=True, keep_factors=True)
    line = cl.report(small, final).iloc[0]
    print(
        f"{factorization:8} {' + '.join(type(layer).__name__ for layer in final.layers):16} stored {line['parameters']:>6,}  run {line['run_parameters']:>6,}  FLOPs {line['flops_ratio']:.3f} of {line['original_flops']:,}"
    )

# %% [markdown]
# In words: **loralib saves memory, the pair and the spatial factors save memory and time.** (By gathering patches in an order of its own, loralib's product can be run in parts after all, with a saving; no
# stock layer does that. Exercise 5 is about it.) In training neither is cheap, since $W$ runs beside the pair until $d = 0$.
#
# ## 3. The ratios of slide 19 — 여섯 개의 압축률
#
# At conv rank $r$ and dense rank $q$ the slides store $k^2 r (C_\text{in} + C_\text{out})$ numbers for each convolution, $q\,(\text{in} + \text{out})$ for each dense layer, and a bias for each
# of the 15 layers. Over 18,918,730 parameters this should give the printed ratios. Does the output layer (5,130 parameters, not compressed) count?

# %% tags=["nbval-check-output"]
whole, head = shapes.total(shapes.VGG16), shapes.VGG16_HEAD.parameters
counted = SLIDES.dropna(subset="conv_rank").drop_duplicates(["conv_rank", "dense_rank"])
counted = counted[["conv_rank", "dense_rank", "ratio_percent"]].rename(columns={"ratio_percent": "printed"})
left = np.array(
    [shapes.vgg16_remaining(c, d) for c, d in zip(counted["conv_rank"], counted["dense_rank"], strict=True)]
)
counted["without the head"] = (100 * left / whole).round(3)
counted["with the head"] = (100 * (left + head) / whole).round(3)
without = (counted["without the head"] - counted["printed"]).abs() < 0.01
with_head = (counted["with the head"] - counted["printed"]).abs() < 0.01
assert (without ^ with_head).all(), "each row is met by exactly one way of counting"
counted["counted"] = np.where(with_head, "with", "without")
print(counted.to_string(index=False))

# %% [markdown]
# Each row is met to 0.01 by exactly one of the two ways, and the rows with dense rank 64 leave the head out. In `cl.CONVENTIONS` they are "slides_head" and "slides". The convention "model" counts what
# a real file holds: the same, without biases for the two methods that keep none. The real net, wrapped at ranks 16/16:

# %% tags=["nbval-check-output"]
example = STUDY.run(dataset="cifar10", method="noise_bias", rank=16, dense_rank=16)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    wrapped = cl.compress(net, schedule=example.decay(100), **STUDY.hooks.compression(example, net))
for convention in ("slides", "slides_head", "model", "layers"):
    print(f"{convention:12} {cl.ratio(net, wrapped, convention):8.4%}   {cl.CONVENTIONS[convention]}")
assert round(100 * cl.ratio(net, wrapped, "slides_head"), 2) == 6.90

# %% [markdown]
# ## 4. One rank for all? — 모든 층에 같은 랭크?
#
# `compress` has warned:

# %% tags=["nbval-check-output"]
print(*[warning.message for warning in caught if issubclass(warning.category, cl.BreakEvenWarning)], sep="\n")

# %%
table = cl.report(net, wrapped)
table.loc[
    [0, 1, 2, 12, 13, 14, 15, 16], ["layer", "original_parameters", "parameters", "ratio", "flops_ratio"]
].round(3)

# %% [markdown]
# **The first convolution got larger.** With $C_\text{in} = 3$ its loralib matrix has only $3 k = 9$ rows, hence at most rank 9, and the product has the width $3 r = 48$. The **break-even rank**, from which on
# nothing is saved, depends on the layer and on the way:

# %% tags=["nbval-check-output"]
for layer in (convolutions[0], convolutions[1], convolutions[4], convolutions[12]):
    pair, loralib = rules.rule(layer, "pair"), rules.rule(layer, "loralib")
    print(
        f"{layer.name}: kernel {pair.kernel_shape!s:18} break-even rank: pair {pair.break_even_rank:>3}, loralib {loralib.break_even_rank:>3}"
    )

# %%
notebook.show(plots.layer_parameters(16, 16))

# %% [markdown]
# ### A rank for each layer — 층마다 다른 랭크
#
# `rank` may be a mapping from name patterns to ranks, the first match counts. And a rank may be a *share of energy*: the smallest rank whose best pair keeps that share of the squared singular values (and that
# saves something). Energy says something about *trained* kernels only, so section 7 uses it on a trained net. The mapping:

# %% tags=["nbval-check-output"]
ranks = {"block1_conv1": 2, "block5_*": 24, "block*": 16, "dense_*": 16}
by_layer = cl.compress(net, ranks, "bias", example.decay(100), targets=TARGETS, factorization="loralib")
chosen = {layer.name: layer.rank for layer in cl.clora_layers(by_layer)}
print(chosen)
print(f"left, as the slides count: {cl.ratio(net, by_layer, 'slides'):.2%}")
del by_layer

# %% [markdown]
# ## 5. The table — 발표된 값과 측정한 값 (slide 19)
#
# `recorded` loads the rows that are committed with the lab. `quick` runs the study in small now, with a small net of the same form. `full` runs the slides' grid (six pairs of ranks, every method and baseline,
# each factorization) and goes on where it was interrupted.

# %%
if RUN == "recorded":
    rows, history, source = notebook.results("vgg16", STUDY_DATASET)
    rows = rows[(rows["model"] == "vgg16") & (rows["variant"] == RECIPE)]
elif RUN == "quick":
    size = notebook.size(RUN, DATASET, "vgg16")
    size |= {"dataset": DATASET, "rank": 8}
    grid = STUDY.grid(factorization="loralib", **size)
    grid += STUDY.grid(factorization="pair_equal", method=["bias", "svd_finetune"], **size)[1:]
    rows, history = notebook.run_live(grid)
else:
    store = recorded("vgg16", paths.cache_dir() / "full")
    rows = runner.run_grid(STUDY.grid(dataset=DATASET, factorization=vgg16.FACTORIZATIONS), store)
    history = store.read_history()
notebook.say(words.provenance(rows))

# %% [markdown]
# **Read this line before any number.** It is put together from the rows:

# %%
table = tables.compare(rows, STUDY)
MEASURED_ON = next(tables.each(table))[0]
print(MEASURED_ON)
for note in filter(None, table["note"].unique()):
    print("Note:", note)
if table["published"].isna().all():
    print(
        "A reduced study: its numbers show how the study works, and are not to be compared with the slides'."
    )

# %%
NET, DATA = nets.label(rows["model"].iloc[0]), datasets.label(rows["dataset"].iloc[0])
KEY = "Ranks: of convolutions / dense layers; ratio: the slides' count without the output layer"
notebook.show(
    compare.table(
        table,
        f"Published and measured test accuracy (%): {NET} on {DATA}",
        f"Measured: {MEASURED_ON}\n{KEY}",
        left={"cell": "Ranks", "ratio": "Ratio\n(%)", "kind": ""},
        apart="factorization",
    )
)

# %% [markdown]
# The same as a data frame, with the loss against the dense net of the same recipe (`gap`, in points), which compares better than accuracies of nets that were trained differently:

# %%
columns = [
    "method",
    "rank",
    "dense_rank",
    "factorization",
    "published",
    "published_gap",
    "measured",
    "gap",
    "n",
]
table.loc[table["measured"].notna(), [*columns, "ratio_model", "flops"]].round(2).set_index("method")

# %% [markdown]
# **What is the same as in the slides**: the net, the wrapped layers, begin and end of the decay, the four methods, the batch size. **What is not** is in the line above: compare `gap` with `published_gap`, not
# accuracy with accuracy. The slides' dense net started from ImageNet weights; and their table says 5,000 / 1,000 images where their code ran 50,000 / 10,000.

# %%
measured = table[table["measured"].notna() & (table["rank"] > 0)]
for (rank, dense_rank, factorization), part in measured.groupby(["rank", "dense_rank", "factorization"]):
    best = part.loc[part["measured"].idxmax()]
    kind = "a baseline" if methods.family(best["method"]) == "baselines" else "a C-LoRA method"
    own = part[part["method"].isin(methods.names("slides"))].sort_values("measured", ascending=False)
    order = ", ".join(f"{methods.label(line.method)} {line.measured:.1f}" for line in own.itertuples())
    print(
        f"{rank}/{dense_rank} {factorization}: {order}.\n   The best of all is {methods.label(best['method'])}, {kind}, {best['gap']:+.1f} points from dense."
    )

# %% [markdown]
# How much of such an order is chance? An accuracy $p$ on $N$ images has the standard error $\sqrt{p(1-p)/N}$, and two of them that differ by less than $1.96\sqrt 2$ of it are not told apart, seeds not counted:

# %%
N = int(rows["test_size"].iloc[0])
p = measured["measured"].median() / 100
margin = 100 * 1.96 * np.sqrt(2 * p * (1 - p) / N)
print(f"{N:,} test images at {p:.0%}: differences below {margin:.1f} points are within chance.")
for name, spread in (("published", measured["published"]), ("measured", measured["measured"])):
    own = spread[measured["method"].isin(methods.names("slides"))].dropna()
    print(
        f"The four methods, {name}, all ranks: from {own.min():.1f} to {own.max():.1f}."
        if len(own)
        else f"None of these ranks is {name}."
    )

# %% [markdown]
# How the compressed path learns while $W$ fades (the authors' view: $BA$ alone is evaluated, from the first epoch on):

# %%
runs = rows.drop_duplicates("config").set_index("config")
curves = history[
    history["config"].isin(
        runs.index[
            (runs["factorization"] == "loralib")
            & (runs["dense_rank"] == runs["dense_rank"][runs["rank"] > 0].min())
        ]
    )
]
curves = curves[curves["method"].isin(methods.names("slides")) & (curves["rank"] == curves["rank"].min())]
frame = curves.groupby(["epoch", "method"])["val_compressed_accuracy"].mean().unstack()
frame = frame[[method for method in methods.names("slides") if method in frame]]
frame.columns = [methods.label(method) for method in frame.columns]
notebook.show(
    marks.lines(
        frame,
        f"The compressed path alone, rank {curves['rank'].min()}, loralib's factors",
        "Epoch",
        "Validation accuracy (%)",
        subtitle=MEASURED_ON,
        percent=True,
        ylim=(0, 1),
    )
)

# %% [markdown]
# ## 6. loralib against the pair — 같은 파라미터 수로 비교하기
#
# At one rank loralib's factors have more parameters than the pair. `pair_equal` gives each convolution's pair the rank at which it has as many as loralib's (`vgg16.ranks`):

# %% tags=["nbval-check-output"]
equal, _ = vgg16.ranks(example.replace(factorization="pair_equal"), net)
print(equal)

# %% [markdown]
# **Predict first, then run.** At equal parameters: which one is more accurate? Which one needs less work? Write both down.

# %%
NAMED = {"loralib": "loralib's factors", "pair": "pair, same rank", "spatial": "spatial (slides)"}
NAMED["pair_equal"] = "pair, as many parameters as loralib's"
notebook.show(
    compare.accuracy_against_flops(
        table, f"Test accuracy against work: {NET} on {DATA}", MEASURED_ON, named=NAMED
    )
)

# %%
keys = ["method", "rank", "dense_rank"]
sides = measured.pivot_table(index=keys, columns="factorization", values=["measured", "flops", "ratio_model"])
for other in ("pair", "pair_equal"):
    if ("measured", other) in sides and ("measured", "loralib") in sides:
        both = sides.dropna(subset=[("measured", other), ("measured", "loralib")])
        gap = both["measured"][other] - both["measured"]["loralib"]
        print(
            f"{other} against loralib, {len(gap)} nets: {gap.mean():+.1f} points on average ({gap.min():+.1f} to {gap.max():+.1f});"
        )
        print(
            f"   parameters {both['ratio_model'][other].mean():.2f}% against {both['ratio_model']['loralib'].mean():.2f}%, FLOPs {both['flops'][other].mean():.1f}% against {both['flops']['loralib'].mean():.1f}%."
        )

# %% [markdown]
# FLOPs are not seconds. `python benchmarks/vgg16.py` measures them on your machine: the training step, and the finished nets in ONNX Runtime, for both factorizations, beside the FLOP ratio.
#
# ## 7. Look inside — 필터와 스펙트럼 들여다보기
#
# For this a small net of VGG16's form is trained **here and now** (widths 16, 32, 64; nothing recorded is needed): first dense, then compressed by C-LoRA. What follows is about that net and the data that the cell names.

# %%
LIVE = STUDY.run(
    dataset=DATASET, method=LIVE_METHOD, rank=LIVE_RANK, dense_rank=LIVE_RANK, factorization="pair", seed=SEED,
    variant="short", model="small_vgg", epochs=12 if DATASET == "digits32" else 5, dense_epochs=8 if DATASET == "digits32" else 5,
    learning_rate=1e-3, dense_learning_rate=1e-3,
)  # fmt: skip
data = datasets.load(DATASET, part=LIVE.part)
dense, _, _ = bench.original_net(LIVE)
total_steps = -(-len(data.y_train) // LIVE.batch_size) * LIVE.epochs
ASKED = STUDY.hooks.compression(LIVE, dense)  # rank, targets, factorization
live = cl.compress(dense, method=LIVE.method, schedule=LIVE.decay(total_steps), **ASKED)
_, seconds = bench.fit(LIVE, live, STUDY.hooks.data(LIVE))
training.forget(bench.folder(LIVE))  # the checkpoint of an interrupted run
final = cl.finalize(live)
NAME = f"small VGG, {data.title}"

# %%
x_test = standardise(data.x_test)
cut = cl.finalize(
    cl.compress(dense, init="svd", method="bias", schedule=cl.LinearDecay(1), **ASKED),
    force=True,
)
for label, model in (
    ("dense", dense),
    ("truncated SVD, no training", cut),
    (f"C-LoRA ({methods.label(LIVE.method)})", final),
):
    accuracy = training.evaluate(model, x_test, data.y_test)["accuracy"]
    print(f"{label:32} {accuracy:6.1%} of {len(x_test)} test images, {model.count_params():>8,} parameters")
print(
    f"{NAME}; {len(data.y_train):,} training images, {LIVE.epochs} epochs, {nets.entry('vgg16').starts[LIVE.start]}"
)

# %% [markdown]
# ### Filters before and after — 필터의 변화
#
# The first layer's filters as small images (red, green and blue channels; grey is 0). *Before*: the dense net. Then what a truncated SVD of the same rank leaves of them; then what the pair has learned while $W$ faded.
#
# **Predict first.** Will the third line look like the first?

# %%
svd = cl.compress(dense, init="svd", method="wds", schedule=cl.LinearDecay(1), **ASKED)
kept, best = pictures.kept_kernels(live), pictures.kept_kernels(svd)


def lines_of(name):
    before = to_numpy(dense.get_layer(name).kernel)
    return {"before: dense": before, f"SVD, rank {LIVE_RANK}": best[name], "after: C-LoRA": kept[name]}


for name in ("block1_conv1", "block3_conv2"):
    notebook.show(
        pictures.filters(
            lines_of(name),
            f"Filters of {name} before and after",
            f"{NAME}; the strongest filters of the dense net, each line on its own scale",
        )
    )

# %%
for name in kept:
    W = to_numpy(dense.get_layer(name).kernel)
    away = {
        label: np.linalg.norm(M - W) / np.linalg.norm(W)
        for label, M in (("SVD", best[name]), ("C-LoRA", kept[name]))
    }
    print(
        f"{name:13} distance from W in units of its norm: SVD {away['SVD']:.2f}, C-LoRA {away['C-LoRA']:.2f}"
    )
    assert away["SVD"] <= away["C-LoRA"] + 1e-6, "no pair of this rank is nearer to W than the SVD's"

# %% [markdown]
# The SVD's pair is the nearest to $W$ that there is (Eckart & Young 1936), and yet, untrained, it can be the worse net: see the accuracies above. C-LoRA does not approximate $W$. It finds *another* net with the task's answers, and its layers fit each
# other, not the old ones.
#
# ### Per-layer spectra — 층별 특잇값
#
# The singular values of each layer's matrix $M$, for the dense net and for what the pair keeps.

# %%
spectra = pictures.spectra_table(dense, live)
notebook.show(
    pictures.spectra(
        spectra,
        f"Spectra of the layers: {NAME}",
        f"C-LoRA, {methods.label(LIVE.method)}, rank {LIVE_RANK}; log scale",
    )
)

# %%
at = spectra[(spectra["net"] == "dense") & (spectra["index"] == LIVE_RANK)].set_index("layer")["energy"]
print(f"energy of the dense net's matrix in its first {LIVE_RANK} directions:")
print(at.map("{:.0%}".format).to_string(header=False))

# %% [markdown]
# There is hardly a bend that would name a "natural" rank. Now the rank by kept energy. `cl.compress(rank=0.8)` takes for each layer the smallest rank whose best pair keeps 80%, but never one that saves nothing:

# %%
found = {}
for energy in (0.5, 0.8, 0.95):
    with_energy = cl.compress(dense, energy, "bias", LIVE.decay(100), targets=TARGETS)
    found[f"{energy:.0%} of the energy"] = {
        layer.name: layer.rank for layer in cl.clora_layers(with_energy)
    } | {"left of the model (%)": 100 * cl.ratio(dense, with_energy, "model")}
pd.DataFrame(found).T.round(1)

# %% [markdown]
# ## Summary — 정리
#
# - A convolution's kernel becomes a matrix in more than one way. The **pair** and the **spatial** one run as two convolutions. **loralib**'s, which the slides use, is stored small and runs as the full convolution.
# - The six published ratios can be recomputed to 0.01, by two ways of counting: four rows count the output layer, the two with dense rank 64 do not.
# - One rank for all makes `block1_conv1` larger than it was. A mapping, or a share of energy, gives each layer its own.
# - The table of section 5 says, for the rows at hand, where C-LoRA stands against SVD then fine-tuning and low-rank from scratch; section 6 what loralib's factors give for the work they need.
# - C-LoRA's layers are far from $W$: it finds another net rather than an approximation.
# - Next: BERT (slides 20 to 22).
#
# Papers: Simonyan & Zisserman 2014, [VGG](https://arxiv.org/abs/1409.1556); Zhang et al. 2015, [Accelerating very deep convolutional networks](https://arxiv.org/abs/1505.06798) (the pair);
# Jaderberg et al. 2014, [Speeding up convolutional neural networks with low rank expansions](https://arxiv.org/abs/1405.3866) (the spatial way); Hu et al. 2021, [LoRA](https://arxiv.org/abs/2106.09685).

# %% [markdown]
# ## Exercises — 연습 문제

# %% [markdown] tags=["exercise"]
# **Exercise 1** (easy). Compute by hand the break-even rank of `block3_conv1`, from 128 to 256 channels, $k = 3$: the smallest rank at which nothing is saved, for the pair and for loralib's factors.

# %% tags=["student"]
# Your code here
break_even_pair, break_even_loralib = ..., ...

# %% tags=["solution"] jupyter={"source_hidden": true}
weights = 3 * 3 * 128 * 256
break_even_pair = int(np.ceil(weights / (3 * 3 * 128 + 256)))
break_even_loralib = int(np.ceil(weights / (3 * 3 * (128 + 256))))
layer = net.get_layer("block3_conv1")
assert break_even_pair == rules.rule(layer, "pair").break_even_rank
assert break_even_loralib == rules.rule(layer, "loralib").break_even_rank
print(f"pair: rank {break_even_pair}; loralib: rank {break_even_loralib}, since each of its ranks costs more")

# %% [markdown] tags=["exercise"]
# **Exercise 2** (predict first, then run). loralib's matrix of `block1_conv1` has the shape $9 \times 192$. From which rank on is its pair able to hold *every* kernel, so that a larger rank adds parameters and nothing else? Predict it from
# the width $k r$ of the product, then check: is the best pair of that rank exact, and the one below not?

# %% tags=["student"]
# Your code here
enough = ...

# %% tags=["solution"] jupyter={"source_hidden": true}
# A 9 x 192 matrix has at most rank 9, and the product has the width 3 r: r = 3 is enough.
rule = rules.rule(net.get_layer("block1_conv1"), "loralib")
enough = int(np.ceil(min(rule.matrix_shape) / rule.inner(1)))
M = rule.to_matrix(to_numpy(net.get_layer("block1_conv1").kernel))
error = {}
for rank in (enough - 1, enough):
    down, up = factorize.truncated_svd(M, rule.inner(rank))
    error[rank] = np.linalg.norm(down @ up - M) / np.linalg.norm(M)
assert error[enough] < 1e-6 < 1e-2 < error[enough - 1]
print(
    f"rank {enough}; at rank 16 the slides store {rule.parameters(16):,} numbers for {rule.kernel_size:,} weights"
)

# %% [markdown] tags=["exercise"]
# **Exercise 3** (medium). A fourth way: rows $C_\text{in}$, columns $(k, k, C_\text{out})$. As which two convolutions does it run? Make their kernels from down $(C_\text{in}, r)$ and up $(r, k k C_\text{out})$, check them on
# `images`, and find when it has fewer parameters than the pair of the same rank.


# %% tags=["student"]
# Your code here
down, up = rng.normal(size=(12, 4)), rng.normal(size=(4, 3 * 3 * 32))
first_kernel, second_kernel = ..., ...


# %% tags=["solution"] jupyter={"source_hidden": true}
# 1 x 1 from 12 to r channels, then 3 x 3 from r to 32
down, up = rng.normal(size=(12, 4)), rng.normal(size=(4, 3 * 3 * 32))
kernel = (down @ up).reshape(12, 3, 3, 32).transpose(1, 2, 0, 3)
first_kernel = down[None, None]
second_kernel = up.reshape(-1, 3, 3, 32).transpose(1, 2, 0, 3)
np.testing.assert_allclose(
    to_numpy(conv(conv(images, first_kernel), second_kernel)), to_numpy(conv(images, kernel)), atol=1e-3
)
for channels, filters in ((64, 128), (128, 64)):
    own, pair_count = channels + 9 * filters, 9 * channels + filters
    assert (own < pair_count) == (filters < channels)
print("1 x 1 first, then k x k. It is smaller than the pair where the layer has fewer outputs than inputs.")

# %% [markdown] tags=["exercise"]
# **Exercise 4** (medium). Dense ranks stay at 16. What is the largest conv rank at which at most 5% of VGG16's parameters are left (the slides' count, without the head), for the pair and for loralib's factors? Use `shapes.vgg16_remaining`.
# Then: how many multiply-adds does the convolution `block3_conv1` need for one position at each of the two ranks?

# %% tags=["student"]
# Your code here
largest = {"pair": ..., "loralib": ...}

# %% tags=["solution"] jupyter={"source_hidden": true}
largest, work = {}, {}
for way in ("pair", "loralib"):
    shares = {rank: shapes.vgg16_remaining(rank, 16, factorization=way) / whole for rank in range(1, 65)}
    largest[way] = max(rank for rank, share in shares.items() if share <= 0.05)
    work[way] = convolution.ways((3, 3, 128, 256), largest[way]).loc[way, "multiply_adds"]
    assert shares[largest[way]] <= 0.05 < shares[largest[way] + 1]
assert work["loralib"] == 9 * 128 * 256 and work["pair"] < work["loralib"]
print(
    f"pair: rank {largest['pair']}, {work['pair']:,} multiply-adds; loralib: rank {largest['loralib']}, {work['loralib']:,}"
)

# %% [markdown] tags=["exercise"]
# **Exercise 5** (hard). Can loralib's factors be run *without* building the kernel? Write each patch of the input as a vector of length $k^2 C_\text{in}$ in the order (channel, row, column). $BA$ has the memory order of $(C_\text{out}, C_\text{in}, k, k)$, so the $k$ rows of $BA$ that belong to
# one filter stand one after the other. Cut the patch into $k$ pieces of length $k\,C_\text{in}$, send **each** through the same $A$, and see what $B$ has to do with the results. Check it against `KernelPair`'s own result (`padding="valid"`). Below which rank does it save multiply-adds in a layer from 128 to 256 channels?

# %% tags=["student"]
# Your code here
rank_below_which_it_saves = ...

# %% tags=["solution"] jupyter={"source_hidden": true}
# y_o = sum over g of B[o k + g] (A x_g): k pieces x_g through one A, then all k r k numbers through B.
k, channels, filters, rank = 3, 12, 32, 2
whole_layer = rules.loralib.KernelPair(rank, (k, k, channels, filters), padding="valid")
y = to_numpy(whole_layer(images))
A, B = to_numpy(whole_layer.down).T, to_numpy(whole_layer.up).T  # (r k, Cin k), (Cout k, r k)
windows = np.lib.stride_tricks.sliding_window_view(images, (k, k), axis=(1, 2))  # (n, h, w, Cin, k, k)
pieces = windows.reshape(*windows.shape[:3], k, k * channels)
by_parts = np.einsum("nhwgi,ri,ogr->nhwo", pieces, A, B.reshape(filters, k, -1), optimize=True)
np.testing.assert_allclose(by_parts, y, atol=1e-4)
# k pieces x (k Cin) x (r k), and (k r k) x Cout: saved as long as k k r (k Cin + Cout) < k k Cin Cout
rank_below_which_it_saves = 128 * 256 / (3 * 128 + 256)
work = {r: 9 * r * (3 * 128 + 256) for r in (16, int(rank_below_which_it_saves) + 1)}
assert work[16] < 9 * 128 * 256 < work[int(rank_below_which_it_saves) + 1]
print(
    f"It saves below rank {rank_below_which_it_saves:.1f}; at rank 16 {work[16]:,} multiply-adds, the pair of as many parameters {convolution.ways((3, 3, 128, 256), 16).loc['loralib', 'parameters']:,}"
)
