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
# # 04 · The noise derivation — 왜 하필 그 잡음인가: 유도와 검증
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/clora-lab/clora_lab/blob/main/notebooks/04_noise_derivation.ipynb)
#
# Slides 13 and 14 add **Scheduled noise** to Weight Decay Scheduling (WDS). This notebook derives that noise line
# by line, and then tries to break it.
#
# **You will learn** (배울 내용)
#
# - why $n \sim \mathcal N\big((1-d)\,m,\ (1-d^2)\,\sigma^2\big)$ and no other noise, and which sentence of the proof needs
#   *independence* and which needs *normality*;
# - what happens when either assumption is false, in algebra and in simulation, and whether real trained weights are normal;
# - how the same noise can be drawn with far fewer random numbers, and why its gradient is still right;
# - what the gate at $d = 0.3$ is for, and what the slides' variant "until the end of learning" does.
#
# **You need**: notebooks 02 and 03; mean, variance, covariance; a little linear algebra.
# **Time**: about one minute on a laptop and two in Colab, and once about one minute more where Fashion-MNIST
# is cached, to train the dense net whose weights are examined.
#
# The "weight decay" of WDS is **not** the L2 term of an optimiser: nothing is added to the loss. The frozen weights
# $W$ are multiplied by a factor $d$ that a schedule moves from 1 to 0.

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
SEED = 0
DECAYS = (0.8, 0.5, 0.3)  # values of d at which laws are compared
DRAWS = 20_000  # simulated draws
BATCH = 30  # images in a batch, as in the slides

from clora_lab.course import notebook

RUN = notebook.mode(RUN)

# %%
import numpy as np
import pandas as pd
import sympy as sp
from scipy import stats

import clora_lab as cl
from clora_lab import noise
from clora_lab.course import derivation, widgets, words
from clora_lab.lab import bench
from clora_lab.lab.data import registry as datasets
from clora_lab.lab.figures import laws, marks
from clora_lab.lab.nets import mlp
from clora_lab.lab.nets import registry as nets
from clora_lab.slides import drawings, plots
from clora_lab.studies import toy

TOY = toy.STUDY
DATASET = notebook.dataset()
rng = np.random.default_rng(SEED)

# %% [markdown]
# ## 1. The problem that noise is meant to solve — 왜 잡음이 필요한가
#
# A wrapped layer computes $d\,(Wx + b) + s\,BAx$ while $d$ goes from 1 to 0. Slide 11 suspects that multiplying by a
# scalar does not make the net *forget* $W$. That can be said exactly. Take an element of $W$ at random, and measure
# how much the scaled element still tells about it by the correlation $\operatorname{corr}(dW, W)$: it is **1 for every $d > 0$**.
# The information is all there; only the volume is turned down.
#
# So slide 13 proposes to "attack the information in W aggressively": fill the space that $W$ leaves with noise.

# %%
notebook.show(drawings.wds_stages(noise=True))

# %% [markdown]
# **Predict first, then run** (먼저 예측하기). The noise $n$ will be chosen so that $dW + n$ has the size that $W$ had. At $d = 0.5$,
# what is the correlation between $dW + n$ and $W$: 0.25, 0.5 or 0.87? Write your answer down. The cell after next tells.

# %%
prediction = ...  # your number

# %%
weights = rng.normal(0.01, 0.05, DRAWS)
rows = []
for d in (1.0, *DECAYS, 0.1):
    total = d * weights + derivation.draw_noise(weights, d, rng)
    rows.append(
        {
            "d": d,
            "corr(d·W, W)": np.corrcoef(d * weights, weights)[0, 1],
            "corr(d·W + n, W)": np.corrcoef(total, weights)[0, 1],
        }
    )
pd.DataFrame(rows).round(3)

# %% [markdown]
# With the noise, the correlation is $d$ itself (up to the error of the simulation). Section 3 proves it. That is what the noise
# buys: $d$ is not only how loud $W$ is, but how much of $W$ is left to be heard.

# %% [markdown]
# ## 2. The derivation, step by step — 한 줄씩 유도하기
#
# Slide 14 has four lines:
#
# $$
# \begin{aligned}
# W &\sim \mathcal N(m,\ \sigma^2) && \text{(1) an assumption about the weights}\\
# W' = d\,W &\sim \mathcal N(d\,m,\ d^2\sigma^2) && \text{(2) scaling}\\
# n &\sim \mathcal N\big((1-d)\,m,\ (1-d^2)\,\sigma^2\big) && \text{(3) a choice}\\
# W' + n &\sim \mathcal N(m,\ \sigma^2) && \text{(4) follows, if } n \text{ is \textbf{independent} of } W
# \end{aligned}
# $$
#
# $m$ and $\sigma$ are the mean and the standard deviation of the elements of $W$. Where does (3) come from, and where exactly
# is independence used?
#
# One tool does it all. The **cumulant generating function** (누적률 생성 함수) of a random variable is
# $K_X(t) = \log \mathbb E\,e^{tX}$. Four facts about it:
#
# 1. $K_X'(0)$ is the mean and $K_X''(0)$ the variance;
# 2. scaling: $K_{dX}(t) = K_X(d\,t)$;
# 3. $X$ is normal exactly when $K_X$ is a quadratic, $m t + \tfrac12\sigma^2t^2$;
# 4. $K_{X+Y} = K_X + K_Y$ **if $X$ and $Y$ are independent**. This is the only place where independence enters.

# %%
d, t = sp.symbols("d t", positive=True)
m, mu = sp.symbols("m mu", real=True)
sigma, tau = sp.symbols("sigma tau", positive=True)


def K(mean, variance, t):
    """Cumulant generating function of a normal variable."""
    return mean * t + variance * t**2 / 2


K(m, sigma**2, t)

# %% [markdown]
# Line (2): put $d\,t$ in the place of $t$ and read off mean and variance. The check prints `True` for each.

# %% tags=["nbval-check-output"]
scaled = K(m, sigma**2, d * t)
print("mean of d W is d m:            ", sp.simplify(sp.diff(scaled, t).subs(t, 0) - d * m) == 0)
print("variance of d W is d^2 sigma^2:", sp.simplify(sp.diff(scaled, t, 2).subs(t, 0) - d**2 * sigma**2) == 0)

# %% [markdown]
# Line (3) is not guessed, it is *solved for*. Let the noise have an unknown mean $\mu$ and variance $\tau^2$, independent of $W$, and
# demand that the sum has the law of $W$: $K_{dW}(t) + K_n(t) = K_W(t)$ for every $t$. Comparing the coefficients of $t$ and
# $t^2$ gives two equations for two unknowns.

# %%
wanted = sp.Poly(sp.expand(K(m, sigma**2, d * t) + K(mu, tau**2, t) - K(m, sigma**2, t)), t)
solution = sp.solve(wanted.coeffs(), [mu, tau**2], dict=True)[0]
sp.factor(solution[mu]), sp.factor(solution[tau**2])

# %% tags=["nbval-check-output"]
print("mean of the noise is (1 - d) m:              ", sp.simplify(solution[mu] - (1 - d) * m) == 0)
print(
    "variance of the noise is (1 - d^2) sigma^2:  ",
    sp.simplify(solution[tau**2] - (1 - d**2) * sigma**2) == 0,
)
total = K(m, sigma**2, d * t) + K((1 - d) * m, (1 - d**2) * sigma**2, t)
print("d W + n has the whole law of W, at every d:  ", sp.simplify(total - K(m, sigma**2, t)) == 0)

# %% [markdown]
# There is exactly one normal, independent noise that does it: the slides'. The package has it in one line,
# `clora_lab.noise.moments`.

# %% tags=["nbval-check-output"]
for decay in (1.0, 0.8, 0.5, 0.3, 0.0):
    noise_mean, noise_std = noise.moments(decay, mean=1.0, std=1.0)
    print(f"d = {decay:.1f}: mean {noise_mean:.3f} m, standard deviation {noise_std:.3f} sigma")

# %% [markdown]
# Notice how early the noise is large. At $d = 0.8$, when most of $W$ is still there, its standard deviation is already $0.6\,\sigma$,
# because *variances* add and not standard deviations: $0.8^2 + 0.6^2 = 1$.
#
# Now the simulation beside the algebra. The Kolmogorov-Smirnov test compares a sample with a law; a small p-value
# (say, under 0.001) would speak against it.

# %%
rows = []
for decay in (1.0, *DECAYS, 0.0):
    values = decay * weights + derivation.draw_noise(weights, decay, rng)
    law = stats.norm(weights.mean(), weights.std())
    rows.append(
        {
            "d": decay,
            "mean": values.mean(),
            "m": weights.mean(),
            "std": values.std(),
            "sigma": weights.std(),
            "KS p-value": stats.kstest(values, law.cdf).pvalue,
        }
    )
pd.DataFrame(rows).round(4)

# %% [markdown]
# ## 3. First assumption: independence — 가정 하나: 독립
#
# What is random here? $W$ is frozen. "$W \sim \mathcal N(m, \sigma^2)$" speaks of *an element of $W$ picked at random*. The noise is drawn
# anew at every training step by a generator that knows of $W$ only $m$ and $\sigma$. So in C-LoRA independence holds by
# construction. But suppose it did not, and $n$ had a correlation $\rho$ with $W$. For two jointly normal variables
#
# $$K_{dW+n}(t) = K_{dW}(t) + K_n(t) + \operatorname{Cov}(W, n)\, d\, t^2,\qquad
# \operatorname{Var}(dW+n) = d^2\sigma^2 + (1-d^2)\sigma^2 + \underbrace{2\,d\,\operatorname{Cov}(W,n)}_{2\rho\, d\sqrt{1-d^2}\;\sigma^2}.$$
#
# The last term is what independence removes. As a factor of $\sigma^2$ the variance is $1 + 2\rho\,d\sqrt{1-d^2}$.

# %% tags=["nbval-check-output"]
rho = sp.symbols("rho", real=True)
factor = 1 + 2 * rho * d * sp.sqrt(1 - d**2)
covariance = rho * sigma * sp.sqrt(1 - d**2) * sigma
variance = d**2 * sigma**2 + (1 - d**2) * sigma**2 + 2 * d * covariance
print("the factor is right:                ", sp.simplify(variance / sigma**2 - factor) == 0)
print("its extreme is at d = 1/sqrt(2):    ", sp.solve(sp.diff(factor, d), d) == [sp.sqrt(2) / 2])
print("and is 1 + rho there:               ", sp.simplify(factor.subs(d, 1 / sp.sqrt(2)) - (1 + rho)) == 0)
print("for rho = 0 it is 1 at every d:     ", factor.subs(rho, 0) == 1)
correlation = (d * sigma**2 + covariance.subs(rho, 0)) / (sigma * sigma)
print("for rho = 0, corr(d W + n, W) is d: ", sp.simplify(correlation - d) == 0)

# %% [markdown]
# The last line answers the prediction of section 1. Now the same by simulation:
# `derivation.draw_noise(..., correlation=rho)` keeps the slides' mean and variance of $n$ and gives up its independence.

# %%
notebook.show(derivation.correlation_plot(weights, (-0.5, 0.0, 0.5), rng))

# %% [markdown]
# Noise that leans towards $W$ ($\rho > 0$) makes the layer too loud in the middle of the decay, noise that leans against it too quiet.
#
# One remark that the slides leave out. At a *fixed* $W$ the mean of $dW + n$ over many redraws of $n$ is $dW + (1-d)\,m$: still $W$,
# scaled. The noise hides $W$ from each single step; averaged over many steps, what shines through is $dW$ again. So noise
# alone cannot do the compression: $d$ has to reach 0.

# %%
kernel = rng.normal(0.01, 0.05, 200)
steps = 4_000
average = np.mean([0.5 * kernel + derivation.draw_noise(kernel, 0.5, rng) for _ in range(steps)], axis=0)
one = 0.5 * kernel + derivation.draw_noise(kernel, 0.5, rng)
print(
    f"d = 0.5: correlation with W of one draw {np.corrcoef(one, kernel)[0, 1]:.2f}, of the mean of {steps:,} draws {np.corrcoef(average, kernel)[0, 1]:.4f}"
)

# %% [markdown]
# ## 4. Second assumption: a normal W — 가정 둘: 정규분포
#
# Expand $K_W(t) = \kappa_1 t + \kappa_2 \tfrac{t^2}{2!} + \kappa_3 \tfrac{t^3}{3!} + \kappa_4 \tfrac{t^4}{4!} + \dots$ The $\kappa_k$ are the *cumulants*: $\kappa_1 = m$,
# $\kappa_2 = \sigma^2$, and beyond that a normal law has none. The **skewness** is $\kappa_3/\sigma^3$ and the **excess kurtosis** (초과 첨도: 0
# for a normal law, positive for long tails) is $\kappa_4/\sigma^4$. Nothing is assumed about $W$ now:

# %% tags=["nbval-check-output"]
k3, k4 = sp.symbols("kappa3 kappa4", real=True)
any_law = K(m, sigma**2, t) + k3 * t**3 / 6 + k4 * t**4 / 24
total = any_law.subs(t, d * t) + K((1 - d) * m, (1 - d**2) * sigma**2, t)
cumulant = {k: sp.diff(total, t, k).subs(t, 0) for k in range(1, 5)}
print("mean is m:                     ", sp.simplify(cumulant[1] - m) == 0)
print("variance is sigma^2:           ", sp.simplify(cumulant[2] - sigma**2) == 0)
print("third cumulant is d^3 kappa3:  ", sp.simplify(cumulant[3] - d**3 * k3) == 0)
print("fourth cumulant is d^4 kappa4: ", sp.simplify(cumulant[4] - d**4 * k4) == 0)

# %% [markdown]
# So the **first two moments hold for every law of $W$**; line (4) as a statement about the whole law does not. What is not
# normal in $W$ fades as $d^3$, $d^4$, ...: the sum becomes *more* normal while $W$ fades. Simulation, with weights of three laws of equal
# mean and variance (`ks` is the largest distance between the distribution functions of the sum and of a normal law):

# %%
samples = derivation.sample_laws(100_000, rng)
table = derivation.law_table(samples, (1.0, *DECAYS), rng)
table.set_index(["law", "d"]).round(3)

# %%
assert (table["std_ratio"] - 1).abs().max() < 0.02 and table["mean_shift"].abs().max() < 0.02
assert (table["excess_kurtosis"] - table["expected_kurtosis"]).abs().max() < 0.4
print("The first two moments stay for all three laws; the kurtosis follows d^4.")

# %% [markdown]
# ### Real weights — 실제로 학습된 가중치
#
# Are the weights of the trained toy net normal? The next cell takes the dense net from which the study starts
# (trained here once, if it is not cached) and, for comparison, the same net before training. Keras starts a Dense
# layer from a *uniform* law, so before training the answer is no.

# %%
SIZE = notebook.size("quick", DATASET) if RUN == "quick" else {}
net, _, _ = bench.original_net(TOY.run(dataset=DATASET, method="dense", seed=SEED, **SIZE))
data = datasets.load(DATASET)
fresh = mlp.toy_mlp(data.x_train.shape[1], len(data.classes), seed=SEED)
kernels = {name: net.get_layer(name).get_weights()[0] for name in nets.targets("toy_mlp")}
samples = {
    f"{name}, {state}": source.get_layer(name).get_weights()[0].ravel()
    for state, source in (("before training", fresh), ("trained", net))
    for name in nets.targets("toy_mlp")
}
found = pd.DataFrame({name: derivation.describe(values) for name, values in samples.items()}).T
print(f"Dense net trained on {data.title}")
found.round(4)

# %%
for name in nets.targets("toy_mlp"):
    test = stats.normaltest(kernels[name].ravel())
    kurtosis = found.loc[f"{name}, trained", "excess_kurtosis"]
    p = f"= {test.pvalue:.2g}" if test.pvalue > 1e-300 else "below 1e-300"
    verdict = (
        "is not told apart from normal"
        if test.pvalue > 0.001
        else f"is not normal: its tails are too {'long' if kurtosis > 0 else 'short'}"
    )
    print(
        f"{name}: D'Agostino's test on {kernels[name].size:,} weights, p {p}; the layer {verdict} (excess kurtosis {kurtosis:+.2f})"
    )

# %% [markdown]
# With many thousands of weights a test refuses every law, however small the deviation; so look at its *size*. In the quantile plot
# a normal law is the straight line. The ends tell about the tails.

# %%
drawn = {name: values for name, values in samples.items() if name != "dense_1, before training"}
notebook.show(derivation.quantile_plot(drawn, dataset=DATASET))

# %% [markdown]
# The derivation needs less than it assumes: with the real weights the first two moments come out right, and the rest fades as
# computed above.

# %%
table = derivation.law_table({name: kernel.ravel() for name, kernel in kernels.items()}, (1.0, *DECAYS), rng)
table.set_index(["law", "d"]).round(3)

# %%
worst = (table["std_ratio"] - 1).abs().max()
print(f"Largest deviation of the standard deviation of d·W + n from that of W: {100 * worst:.2f}%")
for name in nets.targets("toy_mlp"):
    mine = table[table["law"] == name].set_index("d")
    print(
        f"{name}: distance to the normal law (ks) {mine.loc[1.0, 'ks']:.3f} at d = 1, {mine.loc[DECAYS[-1], 'ks']:.3f} at d = {DECAYS[-1]}"
    )
assert worst < 0.05

# %% [markdown]
# That is slide 14, with real weights in the place of a drawn bell: $W$, $dW$, the noise, and their sum.

# %%
for name in nets.targets("toy_mlp"):
    weights = pd.Series(kernels[name].ravel(), name=f"layer {name}")
    notebook.show(laws.noise_densities(weights, DECAYS, dataset=DATASET))

# %% [markdown]
# ## 5. Whose m and σ? — 유닛별인가, 행렬 전체인가
#
# The slides write one $m$ and one $\sigma$. In the authors' code, Dense and EinsumDense layers take them **per output unit** (over axis 0 of
# the kernel: $m_j$, $\sigma_j$), convolutions of the **whole kernel**. With one $\sigma$ for all, unit $j$ of $dW + n$ has
# $\sqrt{d^2\sigma_j^2 + (1-d^2)\,\sigma^2}$: quiet units become too loud and loud ones too quiet. Per unit each keeps its own size.

# %%
rows = []
for name, kernel in kernels.items():
    spread = derivation.unit_spread(kernel, DECAYS[-1])
    rows.append(
        {
            "layer": name,
            "units": len(spread),
            "smallest s_j / s": spread["std"].min() / kernel.std(),
            "largest s_j / s": spread["std"].max() / kernel.std(),
        }
    )
    rows[-1] |= {
        "quietest unit, whole / own": (spread["whole"] / spread["std"]).max(),
        "loudest unit, whole / own": (spread["whole"] / spread["std"]).min(),
    }
pd.DataFrame(rows).round(2)

# %%
kernel = kernels["dense"]
for label, axis in (("per unit", 0), ("whole kernel", None)):
    drawn = DECAYS[-1] * kernel + derivation.draw_noise(kernel, DECAYS[-1], rng, axis=axis)
    off = np.abs(drawn.std(axis=0) / kernel.std(axis=0) - 1)
    print(
        f"{label:>12}: at d = {DECAYS[-1]}, the standard deviation of a unit is off by {100 * off.mean():.1f}% on average, by {100 * off.max():.1f}% at most"
    )

# %% [markdown]
# (The error per unit is that of the draw: a unit has only as many noise values as inputs.) Per unit is also the milder assumption: a mixture of
# normal laws of different width has long tails even if each unit is normal, and standardising per unit takes that part away.

# %%
for name, kernel in kernels.items():
    standard = (kernel - kernel.mean(axis=0)) / kernel.std(axis=0)
    print(
        f"{name}: excess kurtosis of all weights {derivation.describe(kernel)['excess_kurtosis']:+.2f}, of the weights standardised per unit {derivation.describe(standard)['excess_kurtosis']:+.2f}"
    )

# %% [markdown]
# ## 6. The cheaper draw — 출력 공간에서 뽑기
#
# A fresh $n$ for a kernel of $784 \times 256$ is 200,704 random numbers *at every step*, and a second large product. But the net never sees
# $n$. It sees $x\,n$, for a batch $x$ of shape $(B, \text{in})$ with one image in a row (Keras' convention: $y = xW$). For one
# output unit $j$ the elements of $n_j$ are independent, $n_j \sim \mathcal N\big((1-d)\,m_j \mathbf 1,\ (1-d^2)\,\sigma_j^2\, I\big)$. A linear map of a normal
# vector is normal, with
#
# $$
# \mathbb E[x n_j] = (1-d)\,m_j\,(x\mathbf 1), \qquad
# \operatorname{Cov}(x n_j) = x \operatorname{Cov}(n_j)\, x^\top = (1-d^2)\,\sigma_j^2\; x x^\top ,
# $$
#
# so $x\,n_j \sim \mathcal N\big((1-d)\,m_j\,(x\mathbf 1),\ (1-d^2)\,\sigma_j^2\,K\big)$ with the **Gram matrix** $K = x x^\top$ of shape $(B, B)$.
# To draw it, take the Cholesky factor $K = L L^\top$ and $z \sim \mathcal N(0, I)$ of length $B$: $Lz$ has the covariance
# $L\,I\,L^\top = K$. That is no approximation. It is the same law.

# %% tags=["nbval-check-output"]
x = np.array([[1.0, 2.0, 0.0], [0.0, 1.0, 1.0]])  # two images of three pixels
gram = x @ x.T
L = np.linalg.cholesky(gram)
print("K =", gram.tolist(), "and L L^T is K:", np.allclose(L @ L.T, gram))
print("random numbers a step, direct:      ", f"{784 * 256:,}")
print("random numbers a step, output space:", f"{30 * 256:,}", "and a factor of a 30 x 30 matrix")

# %% [markdown]
# `clora_lab.noise` has both: `kernel_noise` draws $n$, `output_noise` draws $x\,n$. Compare their laws on a real batch. Units of equal $m$ and
# $\sigma$ are independent draws of one, so a kernel of many units is many draws.

# %%
x = data.x_train[:BATCH]
law = {"decay": 0.5, "mean": float(kernels["dense"].mean()), "std": float(kernels["dense"].std())}
drawn = derivation.two_draws(x, **law, draws=DRAWS, seed=SEED)
table = derivation.draws_table(drawn, x, **law)
print(f"{BATCH} images of {data.title}, {DRAWS:,} draws")
table.round(4)

# %% [markdown]
# The mean error is the largest of all images, in standard errors (2 to 4 is what chance gives); the covariance
# error is relative to the largest variance; `smallest_p` is the worst of one Kolmogorov-Smirnov test for each image, after $L^{-1}$ has made the
# outputs independent. The full covariance matrices, side by side:

# %%
assert (
    table["mean_error"].max() < 5
    and table["covariance_error"].max() < 0.08
    and table["smallest_p"].min() > 1e-5
)
_, spread = noise.moments(law["decay"], law["mean"], law["std"])
parts = {"the law": spread**2 * x @ x.T} | {name: np.cov(values) for name, values in drawn.items()}
notebook.show(
    marks.matrices(
        parts, "Covariance of x·n between the images of a batch", f"{data.title}, d = {law['decay']}"
    )
)

# %% [markdown]
# ### What does it save? — 얼마나 빠른가
#
# Both are compiled as a training step is, and timed in turn in one run; read the ratio, the times belong to this machine. The work of
# the Cholesky factor grows as $B^3$, so the advantage ends where batches are large. `noise.prefers_output` decides, and for a sequence or an image, where every position is a row,
# the direct draw stays.

# %%
rows = []
for batch, (inputs, units) in ((30, (784, 256)), (30, (256, 128)), (256, (784, 256))):
    timed = derivation.time_draws(batch, inputs, units)
    rows.append(
        {
            "batch": batch,
            "kernel": f"{inputs} × {units}",
            "direct (ms)": 1e3 * timed["direct"],
            "output space (ms)": 1e3 * timed["output"],
            "direct / output": timed["ratio"],
            "the package takes": "output space" if noise.prefers_output(batch, inputs) else "direct",
        }
    )
pd.DataFrame(rows).round(2)

# %% [markdown]
# ### Why the gradient is right — 기울기는 왜 옳은가
#
# Training needs the gradient with respect to $x$, since $x$ is what the layers below have computed. Let $y = x n$ and $g = \partial \mathcal L/\partial y$.
# With a drawn $n$ the gradient is $g\,n^\top$. In output space there is no $n$. But $g$ depends on $n$ only through $y$, hence
#
# $$\mathbb E\big[g\,n^\top \,\big|\, y\big] = g\;\mathbb E[n \mid y]^\top, \qquad
# \mathbb E[n \mid x n = y] = \mu\mathbf 1 + x^\top (x x^\top)^{-1} (y - \mu\, x\mathbf 1),\quad \mu = (1-d)\,m .$$
#
# Replacing $n$ by its conditional mean leaves the expected gradient as it was and can only lower its variance: the
# **Rao-Blackwell** theorem. With $y = \mu x \mathbf 1 + Lz\,\tau$ the conditional mean is $\mu\mathbf 1 + x^\top L^{-\top} z\,\tau$, so `output_noise` computes
# $\mu\,(x\mathbf 1) + (x\,\bar x^\top)(L^{-\top} z)\,\tau$, where the bar and the last bracket are held constant in differentiation
# (`stop_gradient`). Its value is $Lz\,\tau$ and its gradient exactly $g\,\mathbb E[n \mid y]^\top$.

# %%
y = x @ rng.normal(law["mean"], law["std"], (x.shape[1], 5))
seen = derivation.conditional_noise(x, y, law["mean"], law["std"])
print("the conditional mean gives the same outputs:", np.allclose(x @ seen, y, atol=1e-6))
gradients = derivation.gradient_table(x, **law, draws=4_000, rng=rng)
gradients.round(3)

# %%
share = gradients.loc["share", "output"]
print(
    f"The two mean gradients differ by {gradients.loc['mean_difference', 'direct']:.2f} standard errors (root mean square; chance gives 1)."
)
print(f"The gradient of the draw in output space has {100 * share:.0f}% of the variance of the direct one.")
assert share < 1 and gradients.loc["mean_difference", "direct"] < 1.5

# %% [markdown]
# The part of $n$ that the batch cannot see (the directions orthogonal to all its images) contributes nothing to $y$ and only
# noise to the gradient. The draw in output space leaves it out.
#
# ## 7. The gate at 0.3 — 0.3에서 잡음을 끄는 이유
#
# **Scheduled noise** stops once $d < 0.3$. How large is the noise then?

# %% tags=["nbval-check-output"]
schedule = cl.LinearDecay(total_steps=48_000, begin=0.05, end=0.85)
steps = np.arange(48_001)
gate = cl.NoiseGate()
on = steps[gate(schedule(steps)) > 0]
print(f"noise level at the gate: sqrt(1 - 0.3^2) = {np.sqrt(1 - 0.3**2):.3f} sigma")
print(f"what is left of W there: 0.300 sigma, a ratio of signal to noise of {0.3 / np.sqrt(1 - 0.3**2):.3f}")
print(
    f"the gate is open from {on[0] / 48_000:.2f} to {on[-1] / 48_000:.2f} of the training, and d arrives at 0 at 0.85"
)
print(f"equal parts: d = 1/sqrt(2) = {1 / np.sqrt(2):.3f}")

# %%
notebook.show(laws.decay_curve(schedule, 48_000, dataset="fashion_mnist"))

# %% [markdown]
# At the gate the noise has almost the full size of $W$, three times what is left of $W$ itself. Until then, $BA$ has learned to work *against* it.
# In evaluation there is no noise. With the gate, the pair has the rest of the training to settle in a quiet net. "Noise until the end of learning" (slide 15) goes on
# through the cool-down, with $d = 0$ and noise of the full law of $W$: the pair never trains in the net that is kept.
#
# **Predict first, then run.** Which of the two ends at the higher validation accuracy, and where does the difference show first: in the training curve
# or in the validation curve?

# %%
if RUN == "recorded":
    results, history, source = notebook.results("toy")
else:
    wanted = {
        ("dense", "slides"),
        ("wds", "slides"),
        ("noise_bias", "slides"),
        ("noise_bias", "noise_to_end"),
    }
    size = notebook.size(RUN, DATASET)
    recipes = ("slides", "noise_to_end")
    live = TOY.grid(dataset=DATASET, rank=TOY.ranks[DATASET][:1], variant=recipes, **size)
    results, history = notebook.run_live([one for one in live if (one.method, one.variant) in wanted])
    source = words.provenance(results)
notebook.say(source)

# %%
RANK = int(history.loc[history["rank"] > 0, "rank"].min())
notebook.show(plots.noise_variants(history, rank=RANK))

# %%
last = history[(history["epoch"] == history["epoch"].max()) & (history["rank"] == RANK)]
last = last.set_index(["method", "variant", "seed"])[["accuracy", "val_accuracy", "val_compressed_accuracy"]]
last = last.mul(100).sort_index()
cases = {
    "Only WDS": ("wds", "slides"),
    "until the end": ("noise_bias", "noise_to_end"),
    "scheduled": ("noise_bias", "slides"),
}
cases = {label: last.loc[key] for label, key in cases.items() if key in last.index.droplevel("seed")}
pd.DataFrame({label: rows.mean() for label, rows in cases.items()}).T.round(2)


# %% [markdown]
# (In percent, means over the seeds, last epoch; `accuracy` is that of the training, with noise where there is noise.) In words:

# %%
if "until the end" in cases:
    own = cases["until the end"].mean()
    print(
        f"Noise until the end: {own['accuracy']:.1f}% in training, with noise; {own['val_compressed_accuracy']:.1f}% in validation, without."
    )
if "until the end" in cases and "scheduled" in cases:
    gap = (cases["scheduled"] - cases["until the end"]).dropna()
    spread = f" ± {gap['val_compressed_accuracy'].std():.2f}" if len(gap) > 1 else ""
    value = gap["val_compressed_accuracy"].mean()
    print(
        f"{len(gap)} seed(s), rank {RANK}: the gate changes the accuracy of the compressed net by {value:+.2f}{spread} points (validation),"
    )
    print(
        f"and that in training by {gap['accuracy'].mean():+.2f} points, since noise to the end disturbs the training to the end."
    )
    print(
        f"So noise until the end {'hurts, as slide 15 says' if value > 0 else 'does not hurt in these rows, other than slide 15 says'}."
    )
else:
    print("The variant 'noise until the end' is not among these rows; RUN = 'quick' computes it.")

# %% [markdown]
# Can a net be *worse* without noise than with it? Yes, because evaluation takes away two things: the spread of the noise, and its
# **mean**, $(1-d)\,m_j\,(x\mathbf 1)$. All pixels are positive, so $x\mathbf 1$ is large, and even a small $m_j$ moves the pre-activation. At $d = 0$, for the real
# kernels and images, in units of the standard deviation of $xW$ over images and units:

# %%
signal = data.x_val[:500] @ kernels["dense"]
shift = data.x_val[:500].sum(axis=1, keepdims=True) * kernels["dense"].mean(axis=0)
print(
    f"mean of the weights of layer dense: {kernels['dense'].mean():+.4f}, of x·1 over the images: {data.x_val[:500].sum(axis=1).mean():.0f}"
)
print(
    f"shift of a pre-activation at d = 0 by the mean of the noise: {np.abs(shift).mean() / signal.std():.2f} standard deviations on average"
)

# %% [markdown]
# Until the end of learning the pair is optimised for a net that has this shift; the net that is kept doesn't. With the gate there is time to learn
# without it.
#
# ## 8. Explore — 직접 움직여 보기
#
# The noise explorer shows the four densities live, for real weights or for a normal law. Set $d$ slowly from 1 to 0 and watch what stays and
# what moves. The picture below it is the static version.

# %%
widgets.noise_explorer(weights=kernels["dense"].ravel())

# %%
notebook.show(widgets.noise_explorer_static(weights=kernels["dense"].ravel()))

# %% [markdown]
# ## Summary — 정리
#
# - The slides' noise is the only independent normal noise with $dW + n \sim \mathcal N(m, \sigma^2)$ at every $d$.
# - **Independence** removes the term $2d\operatorname{Cov}(W, n)$; it holds by construction. It makes $\operatorname{corr}(dW + n, W) = d$, where scaling
#   alone leaves it at 1.
# - **Normality** is not needed for the first two moments. Skewness and kurtosis fade as $d^3$ and $d^4$. So it matters little
#   whether trained weights are normal (section 4 prints the verdict of a test).
# - $m$ and $\sigma$ per output unit keep each unit at its size.
# - Only $x\,n$ is seen, so it can be drawn from a $B \times B$ Cholesky factor: the same law, fewer numbers, and a gradient with the same mean and
#   less variance.
# - At the gate the noise is nearly as large as $W$ was. Without the gate the net that is kept is never the net that was trained:
#   in evaluation the noise is missing, and so is its mean.
#
# Papers: Hu et al. 2021, [LoRA](https://arxiv.org/abs/2106.09685); Kingma et al. 2015,
# [Variational dropout and the local reparameterization trick](https://arxiv.org/abs/1506.02557), the idea of drawing weight
# noise in output space (there with independent rows; here the images of a batch share one $n$, hence the Gram matrix).

# %% [markdown]
# ## Exercises — 연습 문제

# %% [markdown] tags=["exercise"]
# **Exercise 1** (easy). At which $d$ is the standard deviation of the noise exactly half of $\sigma$? Answer as a number, to three digits.

# %% tags=["student"]
# Your code here
half = ...

# %% tags=["solution"] jupyter={"source_hidden": true}
# sqrt(1 - d^2) = 1/2  =>  d^2 = 3/4
half = np.sqrt(3) / 2
assert abs(noise.moments(half, 0.0, 1.0)[1] - 0.5) < 1e-12
print(f"d = {half:.3f}: the noise is at half its size while 87% of W is still there")

# %% [markdown] tags=["exercise"]
# **Exercise 2** (predict first, then run). Someone forgets the mean and draws $n \sim \mathcal N(0, (1-d^2)\sigma_j^2)$. What is the mean of $dW + n$ then? The
# weights' mean is close to 0, so does it matter? Predict: by how many standard deviations (of $x W$ over the units) does the mean pre-activation of layer
# `dense` move at $d = 0.3$ for a real image, whose pixels are all positive: less than 0.1, about 0.5, more? Compute it for the batch `x`.

# %% tags=["student"]
# Your code here
shift_in_std = ...

# %% tags=["solution"] jupyter={"source_hidden": true}
# The missing mean is (1 - d) m_j, and x n_j loses (1 - d) m_j (x 1): all pixels push in one direction.
W = kernels["dense"]
shift = 0.7 * x.sum(axis=1, keepdims=True) * W.mean(axis=0)
shift_in_std = np.abs(shift).mean() / (x @ W).std()
simulated = (x @ derivation.draw_noise(np.tile(W[:, :1], (1, DRAWS)), 0.3, rng, axis=0)).mean(axis=1)
assert np.allclose(simulated, shift[:, 0], atol=0.1 * np.abs(x @ W).std())
print(
    f"mean of W: {W.mean():+.4f}, yet the pre-activations move by {shift_in_std:.2f} of their standard deviation"
)

# %% [markdown] tags=["exercise"]
# **Exercise 3** (medium). Suppose you want the layer to become *quieter*, so that $dW + n$ has mean $d\,m$ and variance $d\,\sigma^2$. Which independent normal
# noise does that? Solve for it with `K` and SymPy as in section 2, and check by simulation at $d = 0.5$.

# %% tags=["student"]
# Your code here
quiet_mean, quiet_variance = ..., ...

# %% tags=["solution"] jupyter={"source_hidden": true}
wanted = sp.Poly(sp.expand(K(m, sigma**2, d * t) + K(mu, tau**2, t) - K(d * m, d * sigma**2, t)), t)
answer = sp.solve(wanted.coeffs(), [mu, tau**2], dict=True)[0]
quiet_mean, quiet_variance = answer[mu], answer[tau**2]
assert quiet_mean == 0 and sp.simplify(quiet_variance - d * (1 - d) * sigma**2) == 0
W = rng.normal(0.2, 1.0, DRAWS)
total = 0.5 * W + rng.normal(0.0, np.sqrt(0.25), DRAWS)
assert abs(total.mean() - 0.1) < 0.05 and abs(total.var() - 0.5) < 0.03
print("noise of mean 0 and variance d (1 - d) sigma^2, largest at d = 1/2")

# %% [markdown] tags=["exercise"]
# **Exercise 4** (medium). Put one image twice into a batch. What does that do to the Gram matrix, to its Cholesky factor, and what must be true of the noise
# of the two rows? See what `np.linalg.cholesky` says to an exactly singular matrix, and what `noise.output_noise` makes of the batch.

# %% tags=["student"]
# Your code here
twice = np.stack([x[0], x[0], x[1]])

# %% tags=["solution"] jupyter={"source_hidden": true}
# K has two equal rows, so it is singular. Both rows see the same n, so their noise must be equal.
twice = np.stack([x[0], x[0], x[1]]).astype("float64")
assert np.linalg.matrix_rank(twice @ twice.T) == 2
try:
    np.linalg.cholesky(np.ones((2, 2)) - 1e-12 * np.eye(2))
    refused = False
except np.linalg.LinAlgError:
    refused = True
assert refused
drawn = derivation.two_draws(twice, 0.5, 0.0, 1.0, draws=500)["output"]
assert np.abs(drawn[0] - drawn[1]).max() < 0.05 * drawn[0].std()
print(
    f"JITTER = {noise.JITTER} on the diagonal saves the factor; the two rows differ by {np.abs(drawn[0] - drawn[1]).max() / drawn[0].std():.4f} of their size at most"
)

# %% [markdown] tags=["exercise"]
# **Exercise 5** (hard). Draw the noise *from the weights themselves*: $n = (1-d)\,m + \sqrt{1-d^2}\,(\tilde W - m)$, where $\tilde W$ is a random permutation of
# the elements of $W$. It needs no assumption about the law. Show that the excess kurtosis of $dW + n$ is $\big(d^4 + (1-d^2)^2\big)\,\kappa$ with $\kappa$ that of $W$; find the
# $d$ at which it is smallest; check by simulation with Laplace weights. Is the law of $W$ preserved?

# %% tags=["student"]
# Your code here
factor_of_kurtosis = ...

# %% tags=["solution"] jupyter={"source_hidden": true}
# Cumulants of independent parts add: d^4 kappa4 from d W, (1 - d^2)^2 kappa4 from the noise.
factor_of_kurtosis = d**4 + (1 - d**2) ** 2
lowest = [root for root in sp.solve(sp.diff(factor_of_kurtosis, d), d) if root != 0]
assert lowest == [sp.sqrt(2) / 2] and factor_of_kurtosis.subs(d, lowest[0]) == sp.Rational(1, 2)
W = rng.laplace(0.0, 1.0, 400_000)
for value in (1.0, 0.7, 0.3, 0.0):
    total = value * W + np.sqrt(1 - value**2) * (rng.permutation(W) - W.mean()) + (1 - value) * W.mean()
    expected = float(factor_of_kurtosis.subs(d, value)) * derivation.describe(W)["excess_kurtosis"]
    assert abs(derivation.describe(total)["excess_kurtosis"] - expected) < 0.3
print(
    "At both ends it is the law of W; in between it is up to half as long-tailed: closer, and still not preserved."
)
