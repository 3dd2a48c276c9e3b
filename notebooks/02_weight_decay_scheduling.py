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
# # 02 · Weight Decay Scheduling: 원래 가중치를 서서히 지우기
# (letting the original weights fade)
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/clora-lab/clora_lab/blob/main/notebooks/02_weight_decay_scheduling.ipynb)
#
# **You will learn** how C-LoRA turns an adapter into compression; what a decay schedule is and which ones there are; how to
# follow a net whose $W$ fades while $BA$ takes over, in two views; why scaling a layer erases almost nothing of what it
# knows; and what is left in the end.
#
# **It needs** notebook [01](01_lora.ipynb) (LoRA: $W$, $A$, $B$, rank, $s$). No GPU.
#
# **Time** about 1 minute to run on a laptop, 2 in Colab; 45 minutes to read, and as long again for the exercises.
#
# **Sources** slides 8, 9, 10 and 12 of the C-LoRA slides (team 3L, Aiffel Online 5th Research, December 2023); Hu et al.,
# [LoRA](https://arxiv.org/abs/2106.09685) (2021).

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
RANK = 16
ALPHA = 32.0  # the pair's scale is s = ALPHA / rank
BEGIN, END = 0.05, 0.85  # fractions of all steps: where the decay begins and where it is over
LEARNING_RATE = 1e-3
BATCH_SIZE = 30
SEED = 0

from clora_lab.course import notebook

RUN = notebook.mode(RUN)
DATASET = notebook.dataset()
SIZE = notebook.size(RUN, DATASET)

# %%
import keras
import numpy as np
import pandas as pd
from keras.ops import convert_to_numpy as to_numpy

import clora_lab as cl
from clora_lab import schedules
from clora_lab.course import widgets, words
from clora_lab.lab import bench, training
from clora_lab.lab.data import registry as datasets
from clora_lab.lab.figures import laws, marks
from clora_lab.lab.figures import training as curves
from clora_lab.lab.nets import mlp
from clora_lab.lab.nets import registry as nets
from clora_lab.slides import drawings, plots
from clora_lab.studies import toy

TOY = toy.STUDY

# %% [markdown]
# ## 1 · From adapter to compression (어댑터에서 압축으로)
#
# LoRA leaves us with $W$ *and* a pair: a net that is a little larger than before. Weight Decay Scheduling (**WDS**) adds a single
# number, the **decay factor** $d(t)$, that falls from 1 to 0 as the training goes on:
#
# $$h = d(t)\,(W x + b) + s\, B A x .$$
#
# $W$ and its bias $b$ are frozen. At $d = 1$ this is LoRA. At $d = 0$ only the pair is left, and the pair **is** the compressed
# layer: $r(d_{in} + d_{out})$ parameters in place of $d_{in} d_{out}$. In between, the loss forces $BA$ to learn what $W$ loses (slide 8):

# %%
notebook.show(drawings.wds_stages())

# %% [markdown]
# > **The name.** This "weight decay" is not the L2 term of an optimiser (`weight_decay` in AdamW). That one is added to
# > the *update* of weights that train, to keep them small. Here the weights are *frozen*, they are multiplied by $d(t)$, and nothing
# > is added to the loss.
#
# On the data of this notebook we take a trained dense net, and wrap its two hidden layers, as the slides do (method
# "Only WDS"; the output layer stays as it is, frozen):

# %%
data = datasets.load(DATASET)
dense, _, _ = bench.original_net(TOY.run(dataset=DATASET, method="dense", seed=SEED, **SIZE))
count = round(len(data.x_train) * SIZE["fraction"])
x_train, y_train = data.x_train[:count], data.y_train[:count]
total_steps = -(-count // BATCH_SIZE) * SIZE["epochs"]
dense_accuracy = training.evaluate(dense, data.x_val, data.y_val)["accuracy"]
print(
    f"{data.title}: dense net, validation accuracy {dense_accuracy:.1%}; {total_steps:,} steps of training ahead"
)

# %%
schedule = cl.LinearDecay(total_steps, begin=BEGIN, end=END)
net = cl.compress(
    dense, RANK, method="wds", schedule=schedule, targets=nets.targets("toy_mlp"), alpha=ALPHA, seed=SEED
)
pd.DataFrame(
    [
        {
            "layer": layer.name,
            "type": type(layer).__name__,
            "trainable": sum(int(np.prod(w.shape)) for w in layer.trainable_weights),
            "frozen": sum(int(np.prod(w.shape)) for w in layer.non_trainable_weights),
        }
        for layer in net.layers
    ]
)

# %% [markdown]
# ### Two views, and a third one (두 가지 관점)
#
# While $0 < d < 1$ there are two honest answers to "how good is the net?":
#
# - **trained**: what trains, $d\,(Wx + b) + s\,BAx$;
# - **compressed**: $s\,BAx$ alone, the net that would be left if training stopped now.
#
# Slide 12 adds **original**: $d\,(Wx + b)$ alone, without the pair. `cl.view(net, name)` switches to one of them for as long as its
# `with` block lasts.
#
# **Predict first, then run** (먼저 예측하고 실행하기). Before any training, $d = 1$ and $B = 0$. What accuracy does each of the three
# views have?

# %%
for name in ("trained", "compressed", "original"):
    with cl.view(net, name):
        print(f"{name:10} {training.evaluate(net, data.x_val, data.y_val)['accuracy']:.1%}")

# %% [markdown]
# With $B = 0$ the compressed path passes nothing on. The output layer sees zeros, answers with its bias, and that is the same class for
# every image: chance. The other two are the dense net.
#
# ## 2 · Schedules (스케줄)
#
# The slides let $d$ fall linearly (slide 9). With $t$ the training step, $T$ the number of all steps, and $u = (t/T - \text{begin}) /
# (\text{end} - \text{begin})$:
#
# $$d(t) = \begin{cases} 1 & u \le 0 \quad \text{(warm-up)} \\ 1 - u & 0 < u < 1 \quad \text{(decay)} \\ 0 & u \ge 1 \quad \text{(cool-down).}\end{cases}$$
#
# A **step** is one update of the optimiser. In the toy project $T = 30$ epochs × 1,600 batches $= 48{,}000$. The warm-up gives the pair a first
# direction, the cool-down lets it settle without $W$.

# %%
slides = cl.LinearDecay(total_steps=48_000, begin=0.05, end=0.85)
notebook.show(laws.decay_curve(slides, slides.total_steps, noise=False, dataset="fashion_mnist"))

# %% [markdown]
# A schedule is a plain function of the step. It can be printed, compared and saved:

# %% tags=["nbval-check-output"]
for step in (0, 2_400, 12_000, 24_000, 40_800, 48_000):
    print(f"step {step:6,}: d = {slides(step):.4f}")
print(slides)

# %% [markdown]
# Other shapes fit into the same frame; `floor` is where $d$ ends, 0 if something is to be saved:
# $d = \text{floor} + (1 - \text{floor}) \cdot \text{shape}(u)$.
#
# | kind | shape(u) |
# |---|---|
# | `LinearDecay` | $1 - u$ |
# | `CosineDecay` | $(1 + \cos \pi u)/2$ |
# | `ExponentialDecay` | $(e^{-ku} - e^{-k})/(1 - e^{-k})$ |
# | `PolynomialDecay` | $(1 - u)^p$ |
# | `StepDecay` | $1 - \lceil n u \rceil / n$: a staircase of $n$ drops |
# | `ConstantDecay` | no decay: plain LoRA at 1 |

# %%
kinds = ("linear", "cosine", "exponential", "polynomial", "step")
notebook.show(laws.decay_curve({kind: schedules.get(kind, 48_000) for kind in kinds}, 48_000, noise=False))

# %% [markdown]
# Explore it. (The noise level that the widget also shows belongs to notebook [04](04_noise_derivation.ipynb). Without a live kernel, as
# on GitHub, you see the picture below it.)

# %%
widgets.schedule_explorer()

# %%
notebook.show(widgets.schedule_explorer_static())

# %% [markdown]
# ## 3 · A live run: W fades, BA takes over (실시간 학습)
#
# `DecayCallback` sets $d$ before every step; nothing else ever writes it. Two more callbacks look on: one evaluates the three
# views after each epoch, the other records the size (Frobenius norm) of $d\,W$ and of $s\,BA$ over both wrapped layers.


# %%
def norms(model):
    layers = cl.clora_layers(model)
    fading = [float(layer.decay) * to_numpy(layer.base.kernel) for layer in layers]
    pairs = [down @ up for down, up in (layer.pair_matrices() for layer in layers)]
    size = {"d·W": fading, "s·B·A": pairs}
    return {name: float(np.sqrt(sum((m**2).sum() for m in parts))) for name, parts in size.items()}


# %%
def compiled(model):
    keras.utils.set_random_seed(SEED)  # the order of the batches
    model.compile(
        optimizer=keras.optimizers.Adam(LEARNING_RATE),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        steps_per_execution=10,  # d moves every ten steps then; the net is so small that Python would dominate
    )
    return model


def train(model, x, y):
    views = training.PathViews(data.x_val, data.y_val, ("trained", "compressed", "original"))
    views.set_model(compiled(model))
    sizes = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: logs.update(norms(model)))
    before = {"decay": 1.0, **views.measure(), **norms(model)}
    callbacks = [cl.DecayCallback(), views, sizes, notebook.progress("Only WDS")]
    settings = {"batch_size": BATCH_SIZE, "epochs": SIZE["epochs"], "verbose": 0}
    logs = model.fit(x, y, callbacks=callbacks, **settings).history
    return pd.concat([pd.DataFrame([before]), pd.DataFrame(logs)], ignore_index=True).rename_axis("epoch")


# %%
live = train(net, x_train, y_train)
live[["decay", "d·W", "s·B·A", "val_accuracy", "val_compressed_accuracy", "val_original_accuracy"]].round(3)

# %%
title = data.title.split(" (")[0]
notebook.show(
    marks.lines(
        live[["d·W", "s·B·A"]],
        f"W fades, BA takes over: {title}, rank {RANK}",
        "Epoch",
        "Frobenius norm",
        subtitle="Both wrapped layers together; epoch 0 is the start",
    )
)

# %%
names = {
    "val_accuracy": "what trains",
    "decay": "decay factor d (in %)",
    "val_original_accuracy": "original: d·W alone",
    "val_compressed_accuracy": "compressed: BA alone",
}
notebook.show(
    marks.lines(
        live[list(names)].rename(columns=names),
        f"Three views of one run: {title}, rank {RANK}",
        "Epoch",
        "Validation accuracy (%)",
        percent=True,
        ylim=(0, 1.05),
    )
)

# %% [markdown]
# The compressed path stays at chance for most of the training. It learns *beside* $d\,W$, to complete it, and on its own that is
# worth little until $W$ is almost gone. Then it jumps. When $d = 0$ the two views are the same net:

# %%
assert live["decay"].iloc[-1] == 0.0
np.testing.assert_allclose(live["val_accuracy"].iloc[-1], live["val_compressed_accuracy"].iloc[-1])
print("d = 0: what trains is what is left")

# %% [markdown]
# ### The toy project's own run (슬라이드 10의 곡선)
#
# The same at the slides' size, 30 epochs on all of Fashion-MNIST (slide 10). In "quick" and "full" mode you see this session's run
# instead.

# %%
if RUN == "recorded":
    rows, history, _ = notebook.results("toy", dataset="fashion_mnist")
    source = words.provenance(
        rows[(rows["method"] == "wds") & (rows["rank"] == RANK) & (rows["variant"] == "slides")]
    )
else:
    same = {
        "dataset": DATASET,
        "method": "wds",
        "rank": RANK,
        "variant": "slides",
        "seed": SEED,
        "config": "live",
    }
    history, source = live.reset_index().assign(**same), f"*Computed in this session: {data.title}.*"
notebook.say(source)
notebook.show(curves.training_curves(history, method="wds", rank=RANK))

# %% [markdown]
# The slides evaluate the compressed path only, so their validation curves lie at chance until late in the training. That is not a failure
# to learn, it is the choice of view.
#
# ## 4 · Why scaling alone forgets nothing (크기만 줄여서는 잊지 않는다)
#
# Slide 12 separates the two paths. Look at the original path, $d\,(Wx + b)$ without the pair:

# %%
notebook.say(source)
notebook.show(plots.path_accuracies(history, method="wds", rank=RANK))

# %% [markdown]
# When three quarters of $W$ are "gone", its path still answers most images as before (the slides: −9.2 points at $d = 0.23$). $d\,W$ is a smaller
# $W$, but it is the same $W$: nothing about it has been forgotten. And as long as it answers rightly, there is little left for $BA$ to learn.
#
# ### The reason: ReLU is positively homogeneous (ReLU의 양의 동차성)
#
# For every $d > 0$
#
# $$\mathrm{relu}(d\,z) = d\,\mathrm{relu}(z), \qquad \text{so}\qquad \mathrm{relu}\big(d\,(W_1 x + b_1)\big) = d\,\mathrm{relu}(W_1 x + b_1).$$
#
# Scaling a layer's $W$ and $b$ scales its output, and the *largest* of several numbers stays the largest when all are multiplied by
# $d$: the predicted class, $\arg\max$, does not move. In a net **without biases** that holds for any number of layers: scale $n$ of them,
# and the logits are multiplied by exactly $d^{\,n}$.
#
# With biases it is exact for the first layer only. The second one receives inputs that are $d$ times smaller, and its own bias does not know:
#
# $$d\,\big(W_2 \, d\,a_1 + b_2\big) = d^2 \big(W_2\, a_1 + \tfrac{b_2}{d}\big).$$
#
# In the toy net two layers are scaled and the output layer is not, so the scaled net decides as the original would with the biases $b_1$,
# $b_2/d$ and $b_3/d^2$. As $d$ falls the later biases gain weight, and close to $d = 0$ they alone decide. Check it:


# %%
def copy_of(net, kernels=(1, 1, 1), biases=(1, 1, 1)):
    new = keras.models.clone_model(net)
    for old, layer, kernel, bias in zip(net.layers, new.layers, kernels, biases, strict=True):
        layer.set_weights([kernel * to_numpy(old.kernel), bias * to_numpy(old.bias)])
    return new


images, labels = data.x_val[:2000], data.y_val[:2000]
d = 0.23  # as in slide 12
scaled = copy_of(dense, kernels=(d, d, 1), biases=(d, d, 1))
other_biases = copy_of(dense, biases=(1, 1 / d, 1 / d**2))
np.testing.assert_allclose(scaled(images), d**2 * to_numpy(other_biases(images)), rtol=1e-3, atol=1e-4)

no_biases = copy_of(dense, biases=(0, 0, 0))
scaled_too = copy_of(dense, kernels=(d, d, d), biases=(0, 0, 0))
np.testing.assert_allclose(scaled_too(images), d**3 * to_numpy(no_biases(images)), rtol=1e-3, atol=1e-5)
print("with biases: d² × the net with b₂/d and b₃/d²;  without: d³ × the net")

# %% [markdown]
# **Predict first, then run.** Take the trained dense net, train nothing, and scale it by $d$ from 1 down to 0.01. What happens to the
# accuracy (a) if all biases are set to zero and all three layers are scaled, (b) if the two wrapped layers are scaled, $W$ and $b$, (c) if
# only their $W$ is scaled and $b$ kept?

# %%
settings = {
    "(a) no biases, all layers scaled": lambda d: ((d, d, d), (0, 0, 0)),
    "(b) two layers, W and b scaled": lambda d: ((d, d, 1), (d, d, 1)),
    "(c) two layers, W scaled, b kept": lambda d: ((d, d, 1), (1, 1, 1)),
}
decays = np.array([1, 0.8, 0.6, 0.4, 0.3, 0.23, 0.15, 0.1, 0.05, 0.02, 0.01])
accuracy = {
    name: [training.evaluate(copy_of(dense, *scale(d)), images, labels)["accuracy"] for d in decays]
    for name, scale in settings.items()
}
scaling = pd.DataFrame(accuracy, index=decays)
fig = marks.lines(
    scaling,
    f"A trained net, only scaled: {title}",
    "Decay factor d (log scale, falling to the right)",
    "Validation accuracy (%)",
    percent=True,
    marks={"slide 12: d = 0.23": 0.23},
    xscale="log",
    xlim=(1, 0.01),
    ylim=(0, 1),
)
notebook.show(fig)

# %%
assert scaling.iloc[:, 0].nunique() == 1  # (a): not one prediction changes, however small d is
scaling.map("{:.1%}".format)

# %% [markdown]
# Curve (a) is exactly flat. Its level shows what the biases are worth to this net; its shape shows that scaling erases *nothing*. In (b), the case
# of WDS, the net keeps most of its accuracy down to small $d$, and what it loses, it loses to the biases.
#
# So $d$ measures how *large* the rest of $W$ is, not how much it still *knows*. To make it forget, something has to blur $W$
# while it shrinks. The slides add noise that fills the space which $W$ leaves ("Scheduled noise"): notebook
# [04](04_noise_derivation.ipynb).
#
# ## 5 · Finalize: what is left (최종 압축)
#
# `finalize` drops $W$ and leaves two stock Keras layers for each pair, with $s$ multiplied into the second one. It refuses as long as
# $W$ still counts:

# %%
fresh = cl.compress(dense, RANK, method="wds", schedule=schedule, targets=nets.targets("toy_mlp"))
try:
    cl.finalize(fresh)
except ValueError as error:
    print(error)

# %%
small = cl.finalize(net)
np.testing.assert_allclose(small(images), net(images), rtol=1e-3, atol=1e-3)
for layer in small.layers:
    print(
        f"{layer.name:13} {type(layer).__name__:6} kernel {tuple(layer.kernel.shape)!s:10} bias: {layer.use_bias}"
    )

# %%
cl.report(dense, small).round(3)

# %% [markdown]
# The decay took the biases $b$ with it: they belong to the path that fades. (The slides' "Bias (C_weights)" adds a new one that
# stays: notebook [03](03_toy_fashion_mnist.ipynb).) At the slides' size the numbers are:

# %% tags=["nbval-check-output"]
toy = mlp.toy_mlp()  # 784-256-128-10, untrained: only counted here
for rank in (16, 32, 64):
    counted = cl.finalize(cl.compress(toy, rank, "wds", slides, targets=nets.targets("toy_mlp")), force=True)
    print(
        f"rank {rank}: {counted.count_params():>7,} of {toy.count_params():,} parameters left, {cl.ratio(toy, counted):.2%} of the net;"
        f" counted as in the slides {cl.ratio(toy, counted, convention='slides'):.2%}"
    )

# %% [markdown]
# The slides count the wrapped layers' factors and a bias for each, and leave out the output layer (91,520 parameters at rank 64).
# `cl.ratio` knows each way of counting by name.
#
# And the accuracy? This one short run, against the dense net it came from:

# %%
pd.DataFrame(
    {
        "test accuracy": [
            training.evaluate(net, data.x_test, data.y_test)["accuracy"] for net in (dense, small)
        ],
        "parameters": [dense.count_params(), small.count_params()],
    },
    index=["dense net", f"Only WDS, rank {RANK}"],
).round(3)

# %% [markdown]
# Is that good? One cannot tell without baselines: a low-rank net trained from scratch has the same size, and so has a truncated SVD of
# $W$. Notebook [03](03_toy_fashion_mnist.ipynb) compares all of them, over several seeds.
#
# ## 6 · Train it yourself (직접 학습해 보기)
#
# Choose rank and schedule, start, watch both views grow, stop when you like.

# %%
widgets.live_training(
    dense, data, epochs=SIZE["epochs"], rank=RANK, method="wds", targets=nets.targets("toy_mlp"), seed=SEED
)

# %%
notebook.show(widgets.live_training_static(history, method="wds", rank=RANK))

# %% [markdown]
# ## Summary (요약)
#
# - WDS computes $d(t)(Wx + b) + s\,BAx$ with $d$ from 1 to 0: LoRA at the start, a compressed layer at the end. It is not L2 weight decay.
# - A schedule has warm-up, decay and cool-down, as fractions of all steps.
# - Two views: what trains, and the compressed path alone. The second stays at chance until $W$ is almost gone.
# - Scaling alone erases nothing: ReLU is positively homogeneous, so $\arg\max$ hardly moves; only later biases gain weight as $d$ falls.
# - `finalize` leaves stock layers without $W$. At rank 64 the toy net keeps 38.9% of its parameters by the slides' count.
#
# ## Exercises (연습문제)
#
# They grow harder. Each solution ends with checks.

# %% [markdown] tags=["exercise"]
# **Exercise 1 (by hand).** A training has 20 epochs of 1,563 steps. VGG16 in the slides uses begin 0.10 and end 0.90. At which steps does the
# decay begin and end? What is $d$ after 10 epochs, and after 15?

# %% tags=["student"]
# Your code here
begin_step = ...
end_step = ...
d_after_10 = ...
d_after_15 = ...

# %% tags=["solution"] jupyter={"source_hidden": true}
total = 20 * 1_563
begin_step, end_step = 0.10 * total, 0.90 * total
d_after_10 = 1 - (10 / 20 - 0.10) / 0.80  # 0.5: half of the training is half of the decay
d_after_15 = 1 - (15 / 20 - 0.10) / 0.80

vgg = cl.LinearDecay(total, begin=0.10, end=0.90)
np.testing.assert_allclose([d_after_10, d_after_15], vgg(np.array([10, 15]) * 1_563))
assert vgg(begin_step) == 1.0 and vgg(end_step) == 0.0
print(f"steps {begin_step:,.0f} to {end_step:,.0f}; d = {d_after_10:.4f} and {d_after_15:.4f}")

# %% [markdown] tags=["exercise"]
# **Exercise 2 (a schedule).** The squared norm of $d\,W$ falls as $d^2$, so the linear schedule removes most of it early. Which of the
# schedules of section 2 removes the squared norm *linearly*, $d(u)^2 = 1 - u$? Build it with begin 0.05 and end 0.85, and check it at
# ten steps.

# %% tags=["student"]
# Your code here
even = ...

# %% tags=["solution"] jupyter={"source_hidden": true}
even = cl.PolynomialDecay(48_000, begin=0.05, end=0.85, power=0.5)

steps = np.linspace(2_400, 40_800, 10)
np.testing.assert_allclose(even(steps) ** 2, np.linspace(1, 0, 10), atol=1e-9)
print(even)

# %% [markdown] tags=["exercise"]
# **Exercise 3 (predict first, then run).** Let $W$ vanish almost at once: begin 0.05, end 0.06. Is the compressed net better or worse than with
# the slow decay of section 3? Explain. (`train(model, x_train, y_train)` returns the history. What does `W` contribute in the remaining 94% of
# the steps?)

# %% tags=["student"]
# Your code here
sudden = ...

# %% [markdown] tags=["solution"]
# After the drop the net is a low-rank net like any other, trained from a start that saw $W$ for 5% of the steps. That it does not fall far behind, and
# may well be ahead, is the uncomfortable question that notebook 03 takes up with its baselines: how much does the slow decay contribute?

# %% tags=["solution"] jupyter={"source_hidden": true}
fast = cl.LinearDecay(total_steps, begin=0.05, end=0.06)
sudden_net = cl.compress(dense, RANK, "wds", fast, targets=nets.targets("toy_mlp"), alpha=ALPHA, seed=SEED)
sudden = train(sudden_net, x_train, y_train)

assert (sudden["decay"].iloc[2:] == 0).all()  # gone within two epochs
assert sudden["val_compressed_accuracy"].iloc[-1] > 0.5  # the pair has learned without W
pd.DataFrame({"slow": live["val_compressed_accuracy"], "sudden": sudden["val_compressed_accuracy"]}).round(
    3
).T

# %% [markdown] tags=["exercise"]
# **Exercise 4 (algebra).** A net has $n$ dense ReLU layers and then a linear output layer, all with biases $b_1, \dots, b_{n+1}$. All layers but
# the last are scaled by $d$, $W$ and $b$. With which biases does the unscaled net decide the same way? Check your answer on a random net with
# three hidden layers. What would one have to do to the biases for the scaling to change no prediction at all?

# %% tags=["student"]
# Your code here
d = 0.4
bias_factors = ...

# %% [markdown] tags=["solution"]
# By induction the output of layer $l$ is $d^{\,l}\,\mathrm{relu}(W_l a + b_l/d^{\,l-1})$: the bias of layer $l$ counts $1/d^{\,l-1}$ times, that of the output layer
# $1/d^{\,n}$ times. Multiply the bias of layer $l$ by $d^{\,l}$ instead of $d$ (and that of the output layer by $d^{\,n}$), and every prediction stays.

# %% tags=["solution"] jupyter={"source_hidden": true}
d = 0.4
rng = np.random.default_rng(SEED)
shapes = [(6, 8), (8, 7), (7, 5), (5, 3)]
weights = [(rng.normal(size=shape), rng.normal(size=shape[1])) for shape in shapes]


def logits(x, kernel_factors, bias_factors):
    for (kernel, bias), k, b in zip(weights[:-1], kernel_factors, bias_factors[:-1], strict=True):
        x = np.maximum(x @ (k * kernel) + b * bias, 0)
    return x @ weights[-1][0] + bias_factors[-1] * weights[-1][1]


x = rng.normal(size=(200, 6))
bias_factors = [1, 1 / d, 1 / d**2, 1 / d**3]
np.testing.assert_allclose(logits(x, [d] * 3, [d, d, d, 1]), d**3 * logits(x, [1] * 3, bias_factors))
np.testing.assert_allclose(logits(x, [d] * 3, [d, d**2, d**3, d**3]), d**3 * logits(x, [1] * 3, [1] * 4))
print("bias factors of the unscaled net:", [round(factor, 3) for factor in bias_factors])

# %% [markdown] tags=["exercise"]
# **Exercise 5 (experiment).** With `floor=0.5` half of $W$ stays. Train so, and compare the two views at the end. Then `finalize` with
# `force=True`: which of the two views do you get? Why does `finalize` ask for `force` here?

# %% tags=["student"]
# Your code here
floored = ...

# %% tags=["solution"] jupyter={"source_hidden": true}
floor = cl.LinearDecay(total_steps, begin=BEGIN, end=END, floor=0.5)
floored_net = cl.compress(dense, RANK, "wds", floor, targets=nets.targets("toy_mlp"), alpha=ALPHA, seed=SEED)
floored = train(floored_net, x_train, y_train)
forced = training.evaluate(cl.finalize(floored_net, force=True), data.x_val, data.y_val)["accuracy"]
last = floored.iloc[-1]

assert abs(forced - last["val_compressed_accuracy"]) < 0.005  # BA alone: what the pair can do without W
assert last["val_accuracy"] > last["val_compressed_accuracy"] + 0.05  # and that is less
print(
    f"what trains {last['val_accuracy']:.1%}, BA alone {last['val_compressed_accuracy']:.1%}, forced {forced:.1%}"
)
