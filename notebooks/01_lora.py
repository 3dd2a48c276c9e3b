# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 01 · LoRA: 작은 행렬 두 개로 미세조정하기
# (fine-tuning with two small matrices)
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/clora-lab/clora_lab/blob/main/notebooks/01_lora.ipynb)
#
# **You will learn** what LoRA adds to a trained layer and why it starts without changing anything; how many
# parameters it trains at each rank and where that stops paying; how it compares with full fine-tuning on a real
# task; and what it does *not* do: make the network smaller. That last point is where C-LoRA begins (notebook 02).
#
# **It needs** matrix products, the chain rule, and a little Keras (`compile`, `fit`). No GPU.
#
# **Time** about 1 minute to run on a laptop, 2 in Colab; 45 minutes to read, and as long again for the exercises.
#
# **Sources** Hu et al., [LoRA: Low-Rank Adaptation of Large Language Models](https://arxiv.org/abs/2106.09685) (2021);
# slides 5 and 6 of the C-LoRA slides (team 3L, Aiffel Online 5th Research, December 2023).

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
RANK = 4
ALPHA = 32.0  # LoRA's scale is s = ALPHA / rank
LEARNING_RATE = 1e-3
BATCH_SIZE = 30
SEED = 0

from clora_lab.course import notebook

RUN = notebook.mode(RUN)
DATASET = notebook.dataset()
EPOCHS = notebook.size(RUN, DATASET)["epochs"]

# %%
import keras
import numpy as np
import pandas as pd
from keras.ops import convert_to_numpy as to_numpy

import clora_lab as cl
from clora_lab import rules
from clora_lab.course import widgets
from clora_lab.lab.data import registry as datasets
from clora_lab.lab.figures import marks
from clora_lab.lab.nets import mlp
from clora_lab.slides import drawings

# %% [markdown]
# No numbers of this notebook are recorded beforehand: its trainings take seconds, so every mode runs them. `RUN` only
# sets how long they are.
#
# ## 1 · Full fine-tuning (전체 미세조정)
#
# A dense layer computes $h = W x + b$ from its input $x$; $W$ is its matrix of **weights** (Keras calls it the *kernel*).
# A network that was trained on one task is **pretrained**. **Fine-tuning** trains it a little further on another task.
# Regular fine-tuning moves every weight. Whatever the optimiser does, the result can be written as
#
# $$h = W' x = (W + \Delta W)\, x,$$
#
# where the **update** $\Delta W$ is as large as $W$ itself (slide 5).

# %%
notebook.show(drawings.fine_tuning())

# %% [markdown]
# So each new task costs a full copy of the network, and the optimiser keeps two more numbers for every weight (Adam's two
# moments). Our small network has this many parameters:

# %% tags=["nbval-check-output"]
toy = mlp.toy_mlp()  # the net of the slides' toy project: 784-256-128-10
for layer in toy.layers:
    kernel, bias = layer.kernel, layer.bias
    print(f"{layer.name:8} kernel {tuple(kernel.shape)!s:10} {layer.count_params():>8,} parameters")
print(f"{'total':27} {toy.count_params():>8,}")

# %% [markdown]
# ## 2 · LoRA: W stays, a thin pair learns (저랭크 적응)
#
# **LoRA** (low-rank adaptation) freezes $W$ and writes the update as a product of two thin matrices:
#
# $$h = W x + s\, B A x, \qquad A \in \mathbb{R}^{r \times k},\; B \in \mathbb{R}^{d \times r},\; s = \alpha / r.$$
#
# $k$ is the number of inputs, $d$ of outputs. The **rank** $r$ is far below both. $BA$ has the shape of $W$, but at most
# $r$ independent rows. The slides write $W_A$ and $W_B$ for $A$ and $B$ (slide 6).

# %%
notebook.show(drawings.lora())

# %% [markdown]
# ### By hand, in NumPy (손으로 직접)
#
# We take real weights: a net trained on the first five classes. We shall need it again in section 6.

# %%
data = datasets.load(DATASET)
OLD = [0, 1, 2, 3, 4]
count = round(len(data.x_train) * notebook.size(RUN, DATASET)["fraction"])
x_train, y_train = data.x_train[:count], data.y_train[:count]
is_old = np.isin(y_train, OLD)
x_old, y_old = x_train[is_old], y_train[is_old]
x_new, y_new = x_train[~is_old], y_train[~is_old]
print(f"{data.title}: {len(x_old):,} images of classes 0 to 4, {len(x_new):,} of classes 5 to 9")


# %%
def train(model, x, y, name, *callbacks):
    keras.utils.set_random_seed(SEED)  # the order of the batches
    model.compile(
        optimizer=keras.optimizers.Adam(LEARNING_RATE),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        steps_per_execution=10,  # ten steps at a time: the net is so small that Python would dominate
    )
    callbacks = [notebook.progress(name), *callbacks]
    model.fit(x, y, batch_size=BATCH_SIZE, epochs=EPOCHS, verbose=0, callbacks=callbacks)
    return model


# %%
net = mlp.toy_mlp(x_train.shape[1], len(data.classes), seed=SEED)
net = train(net, x_old, y_old, "pretraining on classes 0 to 4")

# %% [markdown]
# Keras stores the kernel as (inputs, outputs) and computes `x @ kernel`. The equations have $W$ on the left of $x$, so
# $W$ is the kernel transposed.

# %%
W = to_numpy(net.layers[0].kernel).T  # (d, k)
b = to_numpy(net.layers[0].bias)  # (d,)
d, k = W.shape
rng = np.random.default_rng(SEED)
limit = np.sqrt(3 * np.sqrt(5) / k)
A = rng.uniform(-limit, limit, (RANK, k))  # (r, k): random
B = np.zeros((d, RANK))  # (d, r): zeros
s = ALPHA / RANK
x = x_old[0]  # (k,): one image

# %% [markdown]
# Two ways to compute the same $h$: multiply the pair out and add it to $W$, or send $x$ through the narrow middle. The
# second never builds a $d \times k$ matrix. With $B$ still zero both would be trivially equal, so the check uses a random
# $B$.

# %%
B_random = rng.normal(size=B.shape)
merged = (W + s * B_random @ A) @ x
beside = W @ x + s * (B_random @ (A @ x))  # (r,) in the middle
np.testing.assert_allclose(merged, beside, rtol=1e-6, atol=1e-6)
print("(W + s B A) x  =  W x + s B (A x)")

# %% [markdown]
# and the update has rank $r$, whatever is in the pair:

# %%
np.linalg.matrix_rank(B_random @ A)

# %% [markdown]
# ## 3 · The same in Keras (케라스로)
#
# `clora_lab.compress` puts a pair beside each target layer. It is made for compression, where a factor $d(t)$ lets $W$
# fade (notebook 02):
#
# $$h = d(t)\,(W x + b) + s\, B A x.$$
#
# Held at $d(t) = 1$ this **is** LoRA: $W$ and $b$ frozen, the pair trained, nothing fades. That is
# `method="wds"` with `ConstantDecay(value=1)`.

# %%
STAY = cl.ConstantDecay(total_steps=1, value=1.0)  # d = 1 at every step
LAYERS = ["dense", "dense_1", "dense_2"]


def with_lora(rank=RANK):
    return cl.compress(net, rank, "wds", STAY, targets=LAYERS, alpha=ALPHA, seed=SEED)


adapted = with_lora()
first = adapted.layers[0]
for weight in first.weights:
    print(
        f"{weight.path.split('/')[-2]}/{weight.name:7} {tuple(weight.shape)!s:11} trainable: {weight.trainable}"
    )

# %% [markdown]
# `down` is $A^\top$ and `up` is $B^\top$, since Keras multiplies from the right. Give the layer our NumPy pair, and it must
# compute what we computed (with $b$ and the ReLU that follow):

# %%
first.pair_weights[0].assign(A.T)
first.pair_weights[1].assign(B_random.T)
by_keras = to_numpy(first(x[None]))[0]
np.testing.assert_allclose(by_keras, np.maximum(merged + b, 0), rtol=1e-4, atol=1e-4)
print("Keras and NumPy agree on all", len(by_keras), "outputs")

# %% [markdown]
# ## 4 · What B = 0 buys (B = 0의 효과)
#
# **Predict first, then run** (먼저 예측하고 실행하기). $A$ starts random and $B$ starts at zero.
#
# 1. How far is the adapted net's output from the pretrained one's before training?
# 2. The loss depends on $A$ and on $B$. Which of the two gets a gradient of exactly zero at the first step? What happens
#    at the second?
#
# Write your answers down. Then go on.

# %%
adapted = with_lora()
images = data.x_val[:1000]
before, after = net(images), adapted(images)
np.testing.assert_array_equal(to_numpy(before), to_numpy(after))
print("largest difference at step 0:", float(np.abs(to_numpy(before) - to_numpy(after)).max()))

# %% [markdown]
# **The output is unchanged.** Fine-tuning starts from the pretrained net itself, not from a disturbed copy.
#
# **The gradients.** Let $g = \partial L / \partial h$ be what arrives from above. By the chain rule
#
# $$\frac{\partial L}{\partial B} = s\; g\, (A x)^\top, \qquad \frac{\partial L}{\partial A} = s\; B^\top g\; x^\top .$$
#
# $B = 0$ makes the second one vanish, and leaves the first alone. So the first step moves $B$ only, and from the
# second step on both move. (Had both been zero, both gradients would be zero for ever: exercise 2.)

# %%
g = rng.normal(size=d)  # any gradient from above
gradient_B = s * np.outer(g, A @ x)
gradient_A = s * np.outer(B.T @ g, x)
print(f"by the formula:  |dL/dA| = {np.abs(gradient_A).max():.3f}   |dL/dB| = {np.abs(gradient_B).max():.3f}")

# %%
adapted.compile(
    optimizer=keras.optimizers.SGD(0.01), loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True)
)
A_keras, B_keras = adapted.layers[0].pair_weights
for step in (1, 2):
    old_A, old_B = to_numpy(A_keras).copy(), to_numpy(B_keras).copy()
    adapted.fit(x_new[:BATCH_SIZE], y_new[:BATCH_SIZE], verbose=0, callbacks=[cl.DecayCallback()])
    moved_A, moved_B = np.abs(to_numpy(A_keras) - old_A).max(), np.abs(to_numpy(B_keras) - old_B).max()
    assert moved_B > 0 and (moved_A > 0) == (step == 2)
    print(f"step {step}:  A moved by {moved_A:.2e}   B moved by {moved_B:.2e}")

# %% [markdown]
# ## 5 · Parameters by rank, and the break-even rank (랭크별 파라미터 수와 손익분기 랭크)
#
# $W$ has $d\,k$ entries, the pair $r\,(d + k)$. The pair is smaller as long as
#
# $$r < r^{*} = \frac{d\,k}{d + k},$$
#
# half the harmonic mean of $d$ and $k$, so at best half of the smaller side. From this **break-even rank** on a pair saves
# nothing. In the slides' net:

# %% tags=["nbval-check-output"]
RANKS = [1, 4, 16, 32, 64]
for layer in toy.layers:
    rule = rules.rule(layer)
    outputs, inputs = rule.matrix_shape[::-1]
    assert rule.break_even_rank == int(np.ceil(outputs * inputs / (outputs + inputs)))
    pairs = "".join(f"{rule.parameters(r):>8,}" if r <= rule.max_rank else f"{'-':>8}" for r in RANKS)
    print(
        f"{layer.name:8} W {rule.kernel_size:>8,}   pair at rank {RANKS}:{pairs}   break-even {rule.break_even_rank}"
    )

# %%
ranks = np.arange(1, 201)
toy_rules = [rules.rule(layer) for layer in toy.layers[:2]]
share = {
    f"{r.name} ({r.matrix_shape[0]} to {r.matrix_shape[1]})": r.parameters(1) * ranks / r.kernel_size
    for r in toy_rules
}
places = {f"break-even at {r.break_even_rank}": r.break_even_rank for r in toy_rules}
fig = marks.lines(
    pd.DataFrame(share, index=ranks),
    "A pair's parameters as a share of W's",
    "Rank r",
    "Share of W's parameters (%)",
    subtitle="The slides' toy net; nothing is saved above 100%",
    percent=True,
    marks=places,
    ylim=(0, 1.6),
    xlim=(0, 200),
)
notebook.show(fig)

# %% [markdown]
# `compress` warns when a rank saves nothing:

# %%
import warnings

with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    cl.compress(toy, rank=100, method="wds", schedule=STAY, targets=["dense_1"])
print(caught[0].message)

# %% [markdown]
# Explore it: pick a layer and a rank. The widget also shows the singular values of $W$, that is, how much of $W$ itself a
# pair of that rank could hold. (Without a live kernel, as on GitHub, you see the picture below it.)

# %%
widgets.rank_explorer(net)

# %%
notebook.show(widgets.rank_explorer_static(net))

# %% [markdown]
# ## 6 · A real fine-tuning (실제 미세조정: 절반의 클래스로)
#
# The net has seen classes 0 to 4 only. Now it gets classes 5 to 9, and only those. We compare three ways, with the same
# data, steps, optimiser and learning rate:
#
# - **full fine-tuning**: all weights and biases train;
# - **LoRA** at rank 4, beside all three layers;
# - **the last layer only**, the cheap classic.
#
# **Predict first, then run.** Which of the three does best on the new classes? And what do they still know of the old
# ones?

# %%
full = keras.models.clone_model(net)
full.set_weights(net.get_weights())
full = train(full, x_new, y_new, "full fine-tuning")

lora = train(with_lora(), x_new, y_new, "LoRA", cl.DecayCallback())

last = keras.models.clone_model(net)
last.set_weights(net.get_weights())
for layer in last.layers[:-1]:
    layer.trainable = False
last = train(last, x_new, y_new, "last layer only")

# %%
is_old_test = np.isin(data.y_test, OLD)


def accuracies(model):
    x, y = data.x_test, data.y_test
    scores = to_numpy(model(x))
    among = scores[is_old_test][:, OLD].argmax(axis=1)  # a choice among the five old classes only
    right = scores.argmax(axis=1) == y
    return {
        "new classes": right[~is_old_test].mean(),
        "old classes": right[is_old_test].mean(),
        "old, among the five": (among == y[is_old_test]).mean(),
    }


def trainable(model):
    return sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)


# %%
nets = {"pretrained": net, "full fine-tuning": full, f"LoRA, rank {RANK}": lora, "last layer only": last}
table = pd.DataFrame({name: accuracies(model) for name, model in nets.items()}).T
notebook.show(
    marks.bars(
        table,
        f"Fine-tuned on classes 5 to 9, {data.title.split(' (')[0]}",
        "Test accuracy (%)",
        subtitle=f"{EPOCHS} epochs of {len(x_new):,} images, one seed",
        percent=True,
        ylim=(0, 1.15),
    )
)

# %%
counts = {name: trainable(model) for name, model in nets.items() if model is not net}
pd.DataFrame(
    {"trainable parameters": counts, "new classes": table["new classes"].iloc[1:].map("{:.1%}".format)}
)

# %% [markdown]
# LoRA does about as well as full fine-tuning, with a small part of its trainable parameters, and far better than the last
# layer alone (exercise 4: also at rank 1, with about as many parameters as that layer has). One seed and a short training, so
# read the large differences only.
#
# ## 7 · What is forgotten (망각)
#
# In the ten-way test all three ways have lost the old classes almost entirely: nothing in the new data ever
# speaks for them. This is **catastrophic forgetting** (French, [1999](https://doi.org/10.1016/S1364-6613(99)01294-2)). The third
# group of bars asks a milder question, a choice among the five old classes alone: part of the knowledge is still there, and
# merely outvoted.
#
# LoRA has one advantage here that full fine-tuning cannot have: $W$ was never touched. Switch the pair off, and the
# pretrained net is back, bit for bit. `clora_lab.view` shows one path of a net for as long as its `with` block lasts:

# %%
with cl.view(lora, "original"):  # d (W x + b) alone, with d = 1
    restored = accuracies(lora)
    np.testing.assert_array_equal(to_numpy(lora(images)), to_numpy(net(images)))
print({name: f"{value:.1%}" for name, value in restored.items()})

# %% [markdown]
# So one frozen net can serve many tasks, a small pair for each. (Biderman et al., [LoRA Learns Less and Forgets
# Less](https://arxiv.org/abs/2405.09673), 2024, measure both halves of that title on large models.)
#
# ### What the pair has learned (쌍이 배운 것)

# %%
layer = lora.get_layer("dense_1")
down, up = layer.pair_matrices()  # (k, r) and (r, d), with s multiplied into `up`
W1, update = to_numpy(layer.base.kernel).T, (down @ up).T
parts = {"W, frozen": W1, f"s·B·A, rank {RANK}": update, "W + s·B·A": W1 + update}
corner = {name: part[:64, :64] for name, part in parts.items()}
notebook.show(
    marks.matrices(
        corner,
        "Weights of dense_1 after fine-tuning with LoRA",
        "The first 64 outputs (rows) by the first 64 inputs (columns)",
    )
)

# %% [markdown]
# The stripes are the low rank: every row of $BA$ is a mixture of the same $r$ rows.
#
# Is the update of *full* fine-tuning low-rank too, as LoRA assumes? The **singular values** of $\Delta W$ tell. Their squares,
# summed up to $r$ and divided by the sum of all, are the share of $\Delta W$ (its squared Frobenius norm) that the best
# matrix of rank $r$ can hold.

# %%
change = to_numpy(full.get_layer("dense_1").kernel).T - W1
squares = {"full fine-tuning: ΔW": change, f"LoRA, rank {RANK}: s·B·A": update, "pretrained W": W1}
energy = {name: np.linalg.svd(matrix, compute_uv=False) ** 2 for name, matrix in squares.items()}
energy = pd.DataFrame({name: np.cumsum(e) / e.sum() for name, e in energy.items()}, index=range(1, 129))
fig = marks.lines(
    energy,
    "Share of a matrix that its best rank-r part holds, dense_1",
    "Rank r",
    "Squared norm held (%)",
    percent=True,
    ylim=(0, 1.05),
    xlim=(0, 128),
)
notebook.show(fig)

# %% [markdown]
# $\Delta W$ is not of rank 4, but a few directions hold much of it, more than of $W$ itself. That a *change* is closer to
# low rank than the weights are is what makes LoRA work. Aghajanyan et al. ([2020](https://arxiv.org/abs/2012.13255)) found the
# same of large language models. Keep the third curve in mind: C-LoRA replaces $W$ itself by a low-rank pair, which asks for more.
#
# ## 8 · Merging, and what LoRA does not do (합치기, 그리고 LoRA가 하지 않는 것)
#
# After training the pair can be added to $W$ once and for all. The merged net is an ordinary one and no slower than before:

# %%
merged_net = keras.models.clone_model(net)
for layer, plain in zip(lora.layers, merged_net.layers, strict=True):
    down, up = layer.pair_matrices()
    plain.set_weights([to_numpy(layer.base.kernel) + down @ up, layer.base.bias])
difference = np.abs(to_numpy(merged_net(images)) - to_numpy(lora(images))).max()
assert difference < 1e-2, difference
print(
    f"merged and unmerged agree to {difference:.0e}; parameters: {merged_net.count_params():,}, as before the fine-tuning"
)

# %% [markdown]
# **The network has not become smaller.** LoRA saves *trainable* parameters: memory of the optimiser, and disk space per task.
# Whoever runs the net still stores and multiplies by all of $W$.
#
# What if $W$ could be left out in the end, so that only the pair remains? That is the question of C-LoRA, and of notebook
# [02](02_weight_decay_scheduling.ipynb).
#
# ## Summary (요약)
#
# - Full fine-tuning learns an update $\Delta W$ as large as $W$. LoRA freezes $W$ and learns $s\,BA$ with $r(d + k)$ parameters.
# - $B = 0$ at the start leaves the output unchanged, and lets the first gradient reach $B$ only.
# - A pair saves parameters below the break-even rank $dk/(d + k)$.
# - Both ways forget the old classes; but with LoRA the old net is still there, under the pair.
# - LoRA saves trainable parameters and no size. `compress(..., method="wds", schedule=ConstantDecay(1))` is LoRA; let the
#   decay fall, and it becomes compression.
#
# ## Exercises (연습문제)
#
# They grow harder. Each solution ends with checks.

# %% [markdown] tags=["exercise"]
# **Exercise 1 (counting).** BERT-base has square attention matrices of 768 × 768. How many parameters has a pair of rank 8?
# What share of $W$ is that? What is the break-even rank?

# %% tags=["student"]
# Your code here
pair_parameters = ...
share_of_W = ...
break_even = ...

# %% tags=["solution"] jupyter={"source_hidden": true}
pair_parameters = 8 * (768 + 768)
share_of_W = pair_parameters / 768**2
break_even = 768 * 768 / (768 + 768)

dense = keras.layers.Dense(768)
dense.build((None, 768))
assert pair_parameters == rules.rule(dense).parameters(8) == 12_288
assert round(share_of_W, 4) == 0.0208
assert break_even == rules.rule(dense).break_even_rank == 384
print(f"{pair_parameters:,} parameters, {share_of_W:.2%} of W, break-even at rank {break_even:.0f}")

# %% [markdown] tags=["exercise"]
# **Exercise 2 (predict first, then run).** What happens if *both* matrices start at zero? And if $A$ starts at zero and $B$
# random? Use the two gradient formulas of section 4, then check with two steps of SGD on a fresh `with_lora()`.

# %% tags=["student"]
# Your code here
adapted = with_lora()
A_keras, B_keras = adapted.layers[0].pair_weights

# %% [markdown] tags=["solution"]
# Both zero: $\partial L/\partial B \propto A x = 0$ and $\partial L/\partial A \propto B^\top = 0$: a saddle point, nothing ever moves. $A$
# zero and $B$ random: the mirror image of LoRA's start. The output is unchanged too, and the first step moves $A$ only.


# %% tags=["solution"] jupyter={"source_hidden": true}
def moves(start_A, start_B):
    adapted = with_lora()
    for layer in adapted.layers:
        for weight, scale in zip(layer.pair_weights, (start_A, start_B), strict=True):
            weight.assign(scale * rng.normal(size=weight.shape))
    pair = adapted.layers[0].pair_weights
    before = [to_numpy(weight).copy() for weight in pair]
    adapted.compile(
        optimizer=keras.optimizers.SGD(0.01),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    adapted.fit(x_new[:60], y_new[:60], batch_size=60, verbose=0, callbacks=[cl.DecayCallback()])
    return [bool((to_numpy(weight) != old).any()) for weight, old in zip(pair, before, strict=True)]


assert moves(0.0, 0.0) == [False, False]
assert moves(0.0, 0.01) == [True, False]
assert moves(0.01, 0.0) == [False, True]
print("both zero: stuck; one zero: the other one stands still for one step")

# %% [markdown] tags=["exercise"]
# **Exercise 3 (algebra).** Two tasks have left you two pairs, $(A_1, B_1)$ and $(A_2, B_2)$, both of rank $r$ with the same $s$. Build
# *one* pair $(A, B)$ with $BA = B_1 A_1 + B_2 A_2$. What is its rank at most? What is the break-even rank for the
# sum of $n$ such pairs?

# %% tags=["student"]
# Your code here
A1, A2 = rng.normal(size=(2, RANK, k))
B1, B2 = rng.normal(size=(2, d, RANK))
A_both = ...
B_both = ...

# %% tags=["solution"] jupyter={"source_hidden": true}
A1, A2 = rng.normal(size=(2, RANK, k))
B1, B2 = rng.normal(size=(2, d, RANK))
A_both = np.vstack([A1, A2])  # (2 r, k)
B_both = np.hstack([B1, B2])  # (d, 2 r)

np.testing.assert_allclose(B_both @ A_both, B1 @ A1 + B2 @ A2)
assert np.linalg.matrix_rank(B_both @ A_both) == 2 * RANK
most_pairs = int(np.ceil(d * k / (d + k) / RANK)) - 1  # n r < d k / (d + k)
assert most_pairs * RANK * (d + k) < d * k <= (most_pairs + 1) * RANK * (d + k)
print(f"rank {2 * RANK}; up to {most_pairs} pairs of rank {RANK} are smaller than one W of {d} x {k}")

# %% [markdown] tags=["exercise"]
# **Exercise 4 (experiment).** Fine-tune with LoRA at rank 1 and at rank 16. Tabulate the trainable parameters and the accuracy on
# the new classes, beside rank 4 and full fine-tuning. (Rank 16 is beyond the break-even rank of the last layer, and
# larger than it allows: give that layer rank 8. `rank` may be a mapping of name patterns to ranks, the first match counts.)

# %% tags=["student"]
# Your code here
by_rank = {}

# %% tags=["solution"] jupyter={"source_hidden": true}
by_rank = {f"rank {RANK}": lora, "full": full}
for rank in (1, 16):
    small = with_lora({"dense_2": min(rank, 8), "*": rank})
    by_rank[f"rank {rank}"] = train(small, x_new, y_new, f"LoRA, rank {rank}", cl.DecayCallback())
rows = {name: {"trainable": trainable(model), **accuracies(model)} for name, model in by_rank.items()}

assert rows["rank 1"]["trainable"] == sum(sum(layer.kernel.shape) for layer in net.layers)
assert rows["rank 16"]["new classes"] > rows["rank 1"]["new classes"]
pd.DataFrame(rows).T.sort_values("trainable").round(3)

# %% [markdown] tags=["exercise"]
# **Exercise 5 (rehearsal).** Forgetting has a simple remedy: mix old images into the new ones. Fine-tune with LoRA on
# *all ten* classes of `x_train`. How much of the old classes is kept, and what does it cost on the new ones? Then switch the pair off
# and explain what you see.

# %% tags=["student"]
# Your code here
rehearsed = ...

# %% tags=["solution"] jupyter={"source_hidden": true}
rehearsed = train(with_lora(), x_train, y_train, "LoRA on all classes", cl.DecayCallback())
kept = accuracies(rehearsed)
with cl.view(rehearsed, "original"):
    off = accuracies(rehearsed)

assert kept["old classes"] > table.loc[f"LoRA, rank {RANK}", "old classes"] + 0.3
assert kept["new classes"] > 0.5
assert off == accuracies(net)  # the pretrained net again: it has never seen the new classes
pd.DataFrame(
    {"with rehearsal": kept, "pair switched off": off, "without rehearsal": table.loc[f"LoRA, rank {RANK}"]}
).round(3)
