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
# # 08 · Future steps — 앞으로의 과제: 초기화와 잡음
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/clora-lab/clora_lab/blob/main/notebooks/08_future_steps.ipynb)
#
# The last slide before the thanks (slide 25) leaves two questions open: how should $B$ and $A$ *start*, and how should the noise be *scheduled* and how *strong* should it be? Both can be asked of the toy project, where a run takes seconds. This notebook asks
# them one setting at a time, with five seeds, and answers in plain words.
#
# **You will learn** (배울 내용)
#
# - five starts of the pair, what each one gives before any training, and which of them pays after it;
# - an SVD that looks at the *inputs* of a layer and not at its weights alone;
# - to take the noise apart: its spread, its mean, its kind, the group that $m$ and $\sigma$ are taken over, its gate;
# - why one setting at a time is not the whole story, and how to read a surface of three settings;
# - to answer a question with a table of paired differences, corrected for having asked often.
#
# **You need**: notebook 03 (the toy project), 04 (the noise), 07 (paired differences, Holm's correction); what a singular value decomposition is.
# **Time**: about a minute on a laptop with recorded rows, two in Colab; about two minutes with `RUN = "quick"`; hours with `"full"`. An hour to read.
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
DATASET = "fashion_mnist"  # whose recorded rows; section 4 has its own
SPLIT = "test"  # "test" | "validation"
QUICK_SEEDS = range(2)  # of the live run of section 2

from clora_lab.course import notebook

RUN = notebook.mode(RUN)

# %%
import keras
import numpy as np
from scipy import stats

import clora_lab as cl
from clora_lab import factorize, noise
from clora_lab.course import widgets, words
from clora_lab.lab import bench, paths, runner
from clora_lab.lab.data import registry as datasets
from clora_lab.lab.nets import registry as nets
from clora_lab.studies import answers, future_figures, open_questions, recorded, toy

STUDY = open_questions.STUDY

# %% [markdown]
# ## 1. How to ask — 질문하는 법
#
# Every run is the toy project of notebook 03 with the slides' recipe, noise & bias at the smallest rank, and **one** setting moved away from it. Runs of one seed start from the same dense net, so each setting is *paired* with the slides' recipe seed by seed
# (notebook 07, section 2). To have five seeds of everything, each training has fewer epochs than the slides' 30: the next cell prints how many. Answers hold for this length.

# %%
if RUN == "recorded":
    rows, history, source = notebook.results(STUDY.name, DATASET)
else:
    DATASET = "digits" if RUN == "quick" else notebook.dataset()
    if RUN == "quick":
        grid = [
            run
            for run in STUDY.grid(dataset=DATASET, seed=QUICK_SEEDS, variant="inits")
            if run.method in ("dense", "noise_bias") or run.init == "svd"
        ]
        rows, history = notebook.run_live(grid)
    else:
        grid = STUDY.grid(dataset=DATASET, variant=tuple(STUDY.variants))
        rows = runner.run_grid(grid, recorded(STUDY.name, paths.cache_dir() / "full"))
    source = words.provenance(rows)
notebook.say(source)
TITLE = datasets.title(DATASET)
EPOCHS, RANK = int(rows["epochs"].max()), int(rows["rank"].max())
print(f"{TITLE}: rank {RANK}, {EPOCHS} epochs, {rows['config'].nunique()} runs")

# %% [markdown]
# ## 2. How should $B$ and $A$ start? — 초기화
#
# Let $M$ be the layer's matrix and $s\,D\,U$ what the pair adds to it ($D$: down, $U$: up). Five starts:
#
# | start | pair at step 0 | what decays | the net at step 0 |
# |---|---|---|---|
# | LoRA (Hu et al. 2021), the slides' | $D$ random, $U = 0$ | $M$ | the dense net |
# | orthogonal | $D$ with orthonormal columns, $U = 0$ | $M$ | the dense net |
# | SVD of $W$ | $s\,DU = M_r$, the best of rank $r$ | $M$ | $M + M_r$: *not* the dense net |
# | SVD, residual (PiSSA, Meng et al. 2024) | $s\,DU = M_r$ | $M - M_r$ | the dense net |
# | activation-aware SVD, residual | the best on *inputs* | $M - s\,DU$ | the dense net |
#
# The SVD gives the pair that is nearest to $M$ if all directions count alike. A layer's inputs do not use all directions alike: many pixels of a picture are always black. What should be small is the error of the *output*,
#
# $$\mathbb E\,\lVert x\,(M - s\,DU) \rVert^2 = \lVert L^\top (M - s\,DU) \rVert_F^2, \qquad \mathbb E[x^\top x] = L L^\top,$$
#
# and that is an SVD again, of the *whitened* matrix $L^\top M$: with $L^\top M \approx P_r S_r Q_r^\top$ the best pair is $s\,DU = L^{-\top} P_r S_r Q_r^\top$ (DRONE, Chen et al. 2021; SVD-LLM, Wang et al. 2024). The moments come from a few hundred training inputs:
# `cl.compress(..., init="activations", calibration=x_train[:500])`.
#
# **Predict first, then run** (먼저 예측하기). Before any training: which start has the smallest error of the weights of the first layer, which the smallest of its outputs, and for which does the *compressed path alone* classify best?

# %%
prediction_weights, prediction_outputs, prediction_path = ..., ..., ...

# %%
live = notebook.dataset()
data = datasets.load(live)
small = toy.RANKS[live][0]
run = toy.STUDY.run(dataset=live, method="noise_bias", rank=small, **notebook.size("quick", live))
dense, _, _ = bench.original_net(run)
starts = answers.starts(
    dense, data.x_val, data.y_val, small, nets.targets("toy_mlp"), calibration=data.x_train[:500]
)
print(f"A dense net on {datasets.title(live)}, rank {small}, validation images, before any training:")
starts.set_index("start").round(3)

# %% [markdown]
# `whole` is the net that will train, at $d = 1$; `pair` the compressed path alone, which is all that remains in the end. LoRA's and the orthogonal start have no path yet. Starting from an SVD, the net has most of its way behind it.
#
# Does it pay after training? The recorded rows, each paired with the slides' recipe:

# %%
inits = answers.answers(rows, "inits", SPLIT)
seeds = int(inits["seeds"].max())
note = (
    f"{TITLE}; rank {RANK}, {EPOCHS} epochs, {seeds} seeds. 95% t intervals; at the right the mean accuracy"
)
notebook.show(future_figures.differences(inits, "How the pair starts: paired differences", note))

# %% [markdown]
# (An arrow at the edge: further off than the axis. A triangle: told apart from the slides' recipe at 5% after Holm's correction.)
#
# Two questions that the picture invites. Does the *noise* still add anything once the pair starts from the SVD? And does the whole of C-LoRA, decaying $W$ included, beat the plain recipe "SVD, throw $W$ away, fine-tune the pair" from the same start?

# %%
pairs = [
    (f"noise on top of: {answers.INIT_LABELS[init]}", {"init": init}, {"init": init, "method": "bias"})
    for init in open_questions.INITS
]
pairs += [
    (
        f"C-LoRA against fine-tuning alone: {answers.INIT_LABELS[init].split(',')[0]}",
        {"init": init},
        {"init": init, "method": "svd_finetune"},
    )
    for init in ("svd", "activations")
]
tests = answers.against(rows, pairs, SPLIT)
tests = tests[tests["seeds"] > 1]
shown = ["seeds", "accuracy", "difference", "low", "high", "p", "p_holm"]
tests.set_index("setting")[shown].round(3)

# %% [markdown]
# ## 3. Which noise? — 어떤 잡음인가
#
# The slides' noise keeps mean and variance of $dW + n$ (notebook 04). `NoiseLaw` takes it apart:
#
# $$n = \mu\,(1-d)\,m + \kappa\,\sqrt{1-d^2}\;\sigma z, \qquad \mathbb E z = 0,\ \operatorname{Var} z = 1$$
#
# | setting | slides | tried |
# |---|---|---|
# | `spread` $\kappa$ | 1 | from 0 (nothing random) to 2 |
# | `mean` $\mu$ | 1 | 0 |
# | `per`: $m, \sigma$ over | each output unit | the whole matrix |
# | `kind` of $z$ | normal | elements of $W$ itself, standardised and drawn at random ("empirical") |
# | gate: no noise once $d$ is below | 0.3 | 0 (to the end), 0.15, 0.5, 0.7; "no noise" is the method Bias |
# | shape of $d(t)$ | linear | cosine, exponential, polynomial, step |
# | end of the decay | 0.85 | 0.25, 0.5, 1.0 |
#
# What the spread does to the variance of $dW + n$, in units of $\sigma^2$: $d^2 + \kappa^2 (1 - d^2)$. Only $\kappa = 1$ keeps it.

# %% tags=["nbval-check-output"]
print("   d  " + "".join(f"  kappa {kappa:<4g}" for kappa in (0, 0.5, 1, 1.5, 2)))
for d in (1.0, 0.7, 0.5, 0.3):
    print(f"{d:5.1f}" + "".join(f"{d**2 + k**2 * (1 - d**2):12.2f}" for k in (0, 0.5, 1, 1.5, 2)))

# %% [markdown]
# **Predict first** (먼저 예측하기): suppose that the elements of $W$ are far from normal. Will empirical noise then act differently from normal noise? Look at what the layer gets to see of it, the sum $x\,n$ over all its inputs: of $W$'s own elements, and of two laws that no one would call normal.

# %%
kernels = [keras.ops.convert_to_numpy(dense.get_layer(name).kernel) for name in nets.targets("toy_mlp")]
kernel = kernels[0]
table = noise.quantiles_of((kernel - kernel.mean(0)) / np.where(kernel.std(0) > 0, kernel.std(0), 1))
rng = np.random.default_rng(0)
size = (kernel.shape[0], 4000)
laws = {
    "W's own elements": rng.choice(table, size=size),
    "coin flips, ±1": rng.choice([-1.0, 1.0], size=size),
    "heavy tails (Laplace)": rng.laplace(size=size),
}
print("excess kurtosis (normal: 0) of   an element of n   x n, what the layer adds")
for name, z in laws.items():
    seen = data.x_val[:1] @ z  # one image, 4,000 draws
    print(f"{name:32s} {stats.kurtosis(z.ravel()):+15.2f} {stats.kurtosis(seen.ravel()):+26.2f}")

# %% [markdown]
# The layer never sees one element, only weighted sums of hundreds: by the central limit theorem these are nearly normal whatever $z$ is. So the kind should hardly matter. Do the rows agree?

# %%
if {"noise_spread", "noise_gate"} <= set(rows) and rows["noise_spread"].nunique() > 1:
    answered = answers.answers(rows, "noise", SPLIT)
    notebook.show(future_figures.differences(answered, "One setting of the noise moved at a time", note))
else:
    answered = None
    print("The quick run has no rows on the noise. RUN = 'recorded' shows them.")

# %% [markdown]
# ## 4. The surface — 세 가지 설정을 함께
#
# One setting at a time misses what settings do *together*: weak noise may go on for longer than strong noise. Here all combinations of spread, gate and end of the decay are trained, on the small digits, where that is cheap (another net than above: read it for its shape).

# %%
surface_rows = None
if RUN == "recorded":
    surface_rows, _, surface_source = notebook.results(STUDY.name, "digits")
    notebook.say(surface_source)
    notebook.show(
        future_figures.surface(
            answers.surface(surface_rows, SPLIT),
            "Noise & bias over spread, gate and end",
            f"{datasets.title('digits')}; mean {SPLIT} accuracy in percent; the slides' cell is framed",
        )
    )
else:
    print("The surface takes 50 runs a seed: it is shown from the recorded rows.")

# %%
widget = None if surface_rows is None else widgets.surface_explorer(surface_rows)
widget

# %% [markdown]
# The same as a still picture, for readers without a running kernel (gate 0, the noise goes on to the end):

# %%
if surface_rows is not None:
    still = widgets.surface_explorer_static(surface_rows, noise_gate=0.0, shown="difference")
    notebook.show(still)

# %% [markdown]
# ## 5. The answers, in plain words — 답
#
# Computed from the rows above. First in short, each sentence with the 95% interval of its paired difference; then verdict by verdict: what is told apart from the slides' recipe at 5% after Holm's correction over all settings of the question, and what is not. In brackets: points of accuracy.


# %%
def listed(lines):
    return "\n".join(f"- {line}" for line in lines)


notebook.say(f"**How should $B$ and $A$ start?**\n\n{listed(answers.start_in_words(rows, SPLIT))}")
if answered is not None:
    notebook.say(f"**Which noise?**\n\n{listed(answers.noise_in_words(rows, SPLIT))}")

# %%
notebook.say(f"Starts, verdict by verdict:\n\n{listed(answers.in_words(inits))}")
if answered is not None:
    notebook.say(f"Noise, verdict by verdict:\n\n{listed(answers.in_words(answered))}")

# %%
best = inits[inits["question"] != "no W at all"].sort_values("accuracy").iloc[-1]
plain = inits[inits["setting"].str.contains("fine-tuning")].sort_values("accuracy").iloc[-1]
print(f"best C-LoRA start: {best['setting']} ({best['question']}), {best['accuracy']:.2f}%")
print(f"best without any W: {plain['setting']}, {plain['accuracy']:.2f}%")
gap = best["accuracy"] - plain["accuracy"]
print(
    f"difference of these two means: {gap:+.2f} points (both were picked as the best of several: this flatters both)"
)

# %% [markdown]
# Two cautions. "Not told apart" is no "equal": with few seeds only differences of several tenths of a point can be seen, and the intervals above say how large one may still be. And these rows are of a small net, one rank and a short training: whether noise helps thirteen
# convolutions is another question, and notebook 05 has the first rows on it.
#
# ## Summary — 정리
#
# - The start decides what the pair has to learn: from zero it must learn the layer, from an SVD only what the SVD misses.
# - An SVD of the whitened matrix minimises the error of the outputs. It takes a few hundred inputs and no labels.
# - Beside a residual start the net begins as the dense net; beside the whole of $W$ it does not.
# - The noise has a spread, a mean, a group, a kind and a gate. Sums over many inputs hide the kind.
# - Ask one setting at a time for an answer with an interval, and a surface for what they do together.
#
# Papers: Hu et al. 2021, [LoRA](https://arxiv.org/abs/2106.09685); Meng et al. 2024, [PiSSA](https://arxiv.org/abs/2404.02948); Chen et al. 2021, *DRONE: Data-aware low-rank compression for large NLP models* (NeurIPS);
# Wang et al. 2024, [SVD-LLM](https://arxiv.org/abs/2403.07378); Holm 1979, *Scand. J. Statist.* 6.

# %% [markdown]
# ## Exercises — 연습 문제

# %% [markdown] tags=["exercise"]
# **Exercise 1** (easy). With `init="svd_copy"` the layer gives $x(M + M_r)$ at step 0. Show it: wrap a random `Dense(16)` without bias on 20 inputs at rank 3, and compare the output with that of the layer plus $x M_r$ (`factorize.truncated_svd`).

# %% tags=["student"]
# Your code here
copied, expected = ..., ...

# %% tags=["solution"] jupyter={"source_hidden": true}
model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(16, use_bias=False), keras.layers.Dense(3)])
wrapped = cl.compress(model, 3, method="wds", schedule=cl.LinearDecay(10), init="svd_copy")
x = np.random.default_rng(0).normal(size=(5, 20)).astype("float32")
M = keras.ops.convert_to_numpy(model.layers[0].kernel)
down, up = factorize.truncated_svd(M, 3)
first_layer = wrapped.layers[0]
copied = keras.ops.convert_to_numpy(first_layer(x))
expected = x @ (M + down @ up)
assert np.allclose(copied, expected, atol=1e-4)
print("largest difference:", f"{np.abs(copied - expected).max():.1e}")

# %% [markdown] tags=["exercise"]
# **Exercise 2** (easy). Which variance has $dW + n$ if the spread is $\kappa$ and not 1? Derive it, then check it at $d = 0.5$, $\kappa = 2$ by a draw of `noise.kernel_noise` for a normal $W$ with $m = 0$, $\sigma = 1$.

# %% tags=["student"]
# Your code here
variance = ...

# %% tags=["solution"] jupyter={"source_hidden": true}
d, kappa = 0.5, 2.0
variance = d**2 + kappa**2 * (1 - d**2)  # in units of sigma^2; 1 only for kappa = 1
weights = np.random.default_rng(1).normal(size=(400, 500))
drawn = noise.kernel_noise((400, 500), d, 0.0, kappa, keras.random.SeedGenerator(0))
measured = np.var(d * weights + keras.ops.convert_to_numpy(drawn))
assert abs(measured - variance) < 0.05
print(f"derived {variance:.2f}, measured {measured:.2f}: the net is trained under weights that are too large")

# %% [markdown] tags=["exercise"]
# **Exercise 3** (medium). The activation-aware pair should beat the SVD on inputs like those of its calibration batch, and lose on the weights. Check both for the second target of the dense net of section 2, rank 8, on inputs that the calibration did *not* see. (Its inputs: the outputs of the first
# layer; `factorize.activation_aware_svd`, `factorize.truncated_svd`.)

# %% tags=["student"]
# Your code here
aware_error, plain_error = ..., ...

# %% tags=["solution"] jupyter={"source_hidden": true}
first = keras.Model(dense.inputs[0], dense.get_layer(nets.targets("toy_mlp")[0]).output)
hidden = keras.ops.convert_to_numpy(first(data.x_train[:1000]))
seen, unseen = hidden[:500].astype("float64"), hidden[500:].astype("float64")
M = kernels[1].astype("float64")
aware = np.matmul(*factorize.activation_aware_svd(M, 8, seen.T @ seen / len(seen)))
plain = np.matmul(*factorize.truncated_svd(M, 8))
aware_error, plain_error = (np.linalg.norm(unseen @ (M - pair)) for pair in (aware, plain))
assert aware_error < plain_error
assert np.linalg.norm(M - aware) > np.linalg.norm(M - plain)
print(f"outputs on unseen inputs: {aware_error / plain_error:.2f} of the SVD's error")
print(f"weights: {np.linalg.norm(M - aware) / np.linalg.norm(M - plain):.2f} of it")

# %% [markdown] tags=["exercise"]
# **Exercise 4** (medium). How small a difference can the rows of section 3 show at all? From the recorded rows take the settings' standard deviations of the *paired differences* over the seeds, and compute the half width of a 95% interval, $t_{0.975,\,n-1}\, s/\sqrt n$,
# for 5 and for 20 seeds.

# %% tags=["student"]
# Your code here
half_widths = ...

# %% tags=["solution"] jupyter={"source_hidden": true}
found = answers.values(rows, SPLIT)
base = answers.select(found)
others = [answers.select(found, init=init) - base for init in open_questions.INITS[1:]]
spread = np.nanmedian([other.std() for other in others])  # a start may have no rows
half_widths = {n: stats.t.ppf(0.975, n - 1) * spread / np.sqrt(n) for n in (5, 20)}
assert half_widths[20] < half_widths[5] / 2  # more than 1 / sqrt(4), as t falls too
print({n: f"± {width:.2f} points" for n, width in half_widths.items()})

# %% [markdown] tags=["exercise"]
# **Exercise 5** (hard). Add a start of your own without touching the package: wrap with `init="lora"` and set the pair yourself (`layer.pair_weights`) so that $s\,DU$ is a *random* projection of $M$: $s\,DU = Q Q^\top M$ with $Q$ the orthonormal basis of $M G$, $G$ normal
# of shape (outputs, $r$) (Halko et al. 2011). Lower the decaying kernel by it too. How near is its weight error to the SVD's, and does one power iteration, $Q$ from $M M^\top M G$, close the gap?

# %% tags=["student"]
# Your code here
ratios = ...

# %% tags=["solution"] jupyter={"source_hidden": true}
wrapped = cl.compress(
    dense, small, method="bias", schedule=cl.LinearDecay(10), targets=nets.targets("toy_mlp"), init="lora"
)
layer = cl.clora_layers(wrapped)[0]
M = kernels[0].astype("float64")
G = np.random.default_rng(0).normal(size=(M.shape[1], small))
best_error = np.linalg.norm(M - np.matmul(*factorize.truncated_svd(M, small)))
ratios = {}
for name, sample in {"range finder": M @ G, "one power iteration": M @ (M.T @ (M @ G))}.items():
    Q = np.linalg.qr(sample)[0]
    ratios[name] = np.linalg.norm(M - Q @ (Q.T @ M)) / best_error
for weight, value in zip(layer.pair_weights, (Q, Q.T @ M / layer.scale), strict=True):
    weight.assign(value)
layer.base.kernel.assign(M - Q @ (Q.T @ M))
before, after = (keras.ops.convert_to_numpy(net(data.x_val[:50])) for net in (dense, wrapped))
assert np.allclose(before, after, atol=1e-3)  # a residual start: still the dense net
assert 1 <= ratios["one power iteration"] < ratios["range finder"]
print({name: f"{value:.3f} of the SVD's error" for name, value in ratios.items()})
