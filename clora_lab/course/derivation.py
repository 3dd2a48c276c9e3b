"""The derivation of the scheduled noise, made checkable: samples, laws, tables, a figure (slides 13, 14).

With W of mean m and standard deviation s, and noise n of mean (1 - d) m and standard deviation
sqrt(1 - d^2) s, what the net computes with is d W + n. The functions here draw such sums, with the
assumptions of the derivation kept or broken on purpose, and compare them with the algebra.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import keras
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy import stats

from clora_lab import _checks, noise
from clora_lab.lab.data import registry as datasets
from clora_lab.lab.figures import style

# Points of a quantile plot: enough for the tails, small enough for a notebook.
QUANTILES = 401


def variance_factor(decay, correlation=0.0):
    """Var(d W + n) / s^2 when n correlates with W: ``1 + 2 rho d sqrt(1 - d^2)``.

    The last term is 2 d Cov(W, n) / s^2; independence makes it 0.

    Args:
        decay: d in [0, 1], a number or an array.
        correlation: rho of n and W, in [-1, 1].

    Returns:
        A number, or an array of the shape of `decay`.

    Example:
        >>> variance_factor(0.6), round(variance_factor(0.6, correlation=0.5), 9)
        (1.0, 1.48)
    """
    _checks.real("correlation", correlation, -1.0, 1.0)
    return 1.0 + 2.0 * correlation * decay * (1.0 - decay * decay) ** 0.5


def draw_noise(
    weights: np.ndarray, decay: float, rng: np.random.Generator, correlation: float = 0.0, axis=None
) -> np.ndarray:
    """One value of n for each weight; with a correlation, the assumption of slide 14 is broken on purpose.

        n = (1 - d) m + sqrt(1 - d^2) (rho (W - m) + sqrt(1 - rho^2) s z),   z ~ N(0, 1)

    has the slides' mean and variance for every rho, and is independent of W for rho = 0.

    Args:
        weights: W, an array.
        decay: d in [0, 1].
        rng: source of z.
        correlation: rho, in [-1, 1].
        axis: over which m and s are taken: None for the whole array, 0 for each unit of a Dense kernel.

    Returns:
        An array of the shape of `weights`.

    Raises:
        ValueError: if `decay` or `correlation` is out of range.

    Example:
        >>> weights = np.array([[1.0, 2.0], [3.0, 6.0]])
        >>> bool(np.all(draw_noise(weights, 1.0, np.random.default_rng(0)) == 0.0))
        True
    """
    _checks.real("decay", decay, 0.0, 1.0)
    _checks.real("correlation", correlation, -1.0, 1.0)
    weights = np.asarray(weights, dtype="float64")
    mean = weights.mean(axis=axis, keepdims=True)
    noise_mean, noise_std = noise.moments(decay, mean, weights.std(axis=axis, keepdims=True))
    fresh = (1.0 - correlation**2) ** 0.5 * rng.standard_normal(weights.shape) * noise_std
    return noise_mean + (1.0 - decay**2) ** 0.5 * correlation * (weights - mean) + fresh


def sample_laws(size: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """`size` weights of three laws with equal mean 0 and standard deviation 1, by name.

    Example:
        >>> list(sample_laws(10, np.random.default_rng(0)))
        ['normal', 'uniform', 'Laplace']
    """
    return {
        "normal": rng.standard_normal(size),
        "uniform": rng.uniform(-(3.0**0.5), 3.0**0.5, size),
        "Laplace": rng.laplace(0.0, 0.5**0.5, size),
    }


def describe(values: np.ndarray) -> dict[str, float]:
    """Moments of a sample, and how far it is from the normal law with the same two moments.

    Args:
        values: an array, taken as one sample.

    Returns:
        mean; std; skewness (0 for a normal law); excess_kurtosis (0 for a normal law, -1.2 for a uniform,
        3 for a Laplace); ks, the largest distance between the sample's distribution function and the
        normal one (Kolmogorov-Smirnov). A distance, not a p-value: with a hundred thousand weights every
        deviation is significant, and what matters is its size.

    Raises:
        ValueError: if all values are equal.

    Example:
        >>> round(describe(np.array([-1.0, 1.0, -1.0, 1.0]))["excess_kurtosis"], 9)
        -2.0
    """
    values = np.ravel(np.asarray(values, dtype="float64"))
    mean, std = values.mean(), values.std()
    if not std > 0:
        raise ValueError(f"`values` must not all be equal. Received: {len(values)} times {mean:g}.")
    standard = (values - mean) / std
    return {
        "mean": mean,
        "std": std,
        "skewness": float(np.mean(standard**3)),
        "excess_kurtosis": float(np.mean(standard**4) - 3.0),
        "ks": float(stats.kstest(standard, "norm").statistic),
    }


def law_table(
    samples: Mapping[str, np.ndarray], decays: Sequence[float], rng: np.random.Generator
) -> pd.DataFrame:
    """What d W + n looks like for weights of any law: the first two moments stay, the law does not.

    The cumulants of independent variables add, and the normal noise has none beyond the second, so

        mean -> m,  variance -> s^2,  skewness -> d^3 skewness(W),  excess kurtosis -> d^4 kurtosis(W).

    Args:
        samples: weights by name, each at least two values that differ.
        decays: d, each in [0, 1].
        rng: source of the noise.

    Returns:
        A row for each name and d: law, d, mean_shift (mean - m, in units of s), std_ratio (std / s),
        skewness, expected_skewness, excess_kurtosis, expected_kurtosis, ks (see `describe`).

    Example:
        >>> rng = np.random.default_rng(0)
        >>> law_table({"W": rng.uniform(size=100)}, [1.0], rng)["std_ratio"].round(9).tolist()
        [1.0]
    """
    rows = []
    for name, weights in samples.items():
        start = describe(weights)
        for decay in decays:
            found = describe(decay * np.asarray(weights) + draw_noise(weights, decay, rng))
            rows.append(
                {
                    "law": name,
                    "d": decay,
                    "mean_shift": (found["mean"] - start["mean"]) / start["std"],
                    "std_ratio": found["std"] / start["std"],
                    "skewness": found["skewness"],
                    "expected_skewness": decay**3 * start["skewness"],
                    "excess_kurtosis": found["excess_kurtosis"],
                    "expected_kurtosis": decay**4 * start["excess_kurtosis"],
                    "ks": found["ks"],
                }
            )
    return pd.DataFrame(rows)


def unit_spread(kernel: np.ndarray, decay: float) -> pd.DataFrame:
    """Standard deviation of each unit of d W + n, with m and s per unit or of the whole kernel.

    Per unit the sum has s_j again; with one s for the kernel it has sqrt(d^2 s_j^2 + (1 - d^2) s^2),
    so that all units drift to the same size.

    Args:
        kernel: of a Dense layer, (inputs, units).
        decay: d in [0, 1].

    Returns:
        A row for each unit: std (s_j), per_unit and whole (of the sum, from the algebra).

    Example:
        >>> frame = unit_spread(np.array([[0.0, 0.0], [2.0, 4.0]]), decay=0.0)
        >>> frame["per_unit"].tolist(), frame["whole"].round(3).tolist()
        ([1.0, 2.0], [1.658, 1.658])
    """
    _checks.real("decay", decay, 0.0, 1.0)
    kernel = np.asarray(kernel, dtype="float64")
    std = kernel.std(axis=0)
    whole = np.sqrt(decay**2 * std**2 + (1.0 - decay**2) * kernel.var())
    return pd.DataFrame({"std": std, "per_unit": std, "whole": whole})


def two_draws(
    x: np.ndarray, decay: float, mean: float, std: float, draws: int, seed: int = 0
) -> dict[str, np.ndarray]:
    """Many draws of x n in both ways of `clora_lab.noise`, for one output unit.

    Units with equal m and s are independent draws of one, so one kernel with many units is many draws.

    Args:
        x: the batch, (B, in).
        decay: d in [0, 1].
        mean, std: m and s of the unit's weights.
        draws: how many.
        seed: of the noise.

    Returns:
        "direct" (x times a drawn kernel) and "output" (drawn in output space), each (B, draws).

    Example:
        >>> {k: v.shape for k, v in two_draws(np.eye(3), 0.5, 0.0, 1.0, draws=7).items()}
        {'direct': (3, 7), 'output': (3, 7)}
    """
    x = np.asarray(x, dtype="float32")
    seeds = keras.random.SeedGenerator(seed)
    kernel = noise.kernel_noise((x.shape[1], draws), decay, mean, std, seeds)
    units = [keras.ops.full((draws,), value, dtype="float32") for value in (mean, std)]
    output = noise.output_noise(x, decay, *units, seeds)
    values = {"direct": keras.ops.matmul(x, kernel), "output": output}
    return {name: keras.ops.convert_to_numpy(value) for name, value in values.items()}


def draws_table(drawn: Mapping[str, np.ndarray], x: np.ndarray, decay: float, mean: float, std: float):
    """Compare draws of x n with their law, N((1 - d) m (x 1), (1 - d^2) s^2 x x^T).

    Args:
        drawn: arrays (B, draws) by name, as `two_draws` gives them.
        x: the batch, (B, in), with linearly independent rows.
        decay, mean, std: d, m and s.

    Returns:
        A row for each way: mean_error (largest, in standard errors), covariance_error (largest, over the
        largest variance), smallest_p (Kolmogorov-Smirnov tests of the B whitened rows against N(0, 1)).

    Example:
        >>> table = draws_table(two_draws(np.eye(2), 0.5, 0.0, 1.0, 500), np.eye(2), 0.5, 0.0, 1.0)
        >>> list(table.index)
        ['direct', 'output']
    """
    x = np.asarray(x, dtype="float64")
    noise_mean, noise_std = noise.moments(decay, mean, std)
    expected = noise_mean * x.sum(axis=1)
    covariance = noise_std**2 * x @ x.T
    rows = {}
    for name, values in drawn.items():
        error = np.sqrt(np.diag(covariance) / values.shape[1])
        white = np.linalg.solve(np.linalg.cholesky(covariance), values - expected[:, None])
        rows[name] = {
            "mean_error": np.abs((values.mean(axis=1) - expected) / error).max(),
            "covariance_error": np.abs(np.cov(values) - covariance).max() / covariance.max(),
            "smallest_p": min(stats.kstest(row, "norm").pvalue for row in white),
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def conditional_noise(x: np.ndarray, y: np.ndarray, mean: float, std: float) -> np.ndarray:
    """E[n | x n = y] for n ~ N(mean, std^2 I): the part of n that the batch can see.

        E[n | x n = y] = mean 1 + x^T (x x^T)^-1 (y - mean x 1)

    It does not depend on `std`: y fixes n in the row space of x, and elsewhere n keeps its mean.

    Args:
        x: the batch, (B, in), with linearly independent rows.
        y: what the noise adds to the outputs, (B, units).
        mean, std: of the noise's elements (`std` above 0).

    Returns:
        An array (in, units).

    Example:
        >>> conditional_noise(np.array([[1.0, 0.0]]), np.array([[5.0]]), mean=2.0, std=1.0).ravel()
        array([5., 2.])
    """
    _checks.real("std", std, 1e-300)
    x, y = np.asarray(x, dtype="float64"), np.asarray(y, dtype="float64")
    rest = y - mean * x.sum(axis=1, keepdims=True)
    return mean + x.T @ np.linalg.solve(x @ x.T, rest)


def gradient_table(
    x: np.ndarray, decay: float, mean: float, std: float, draws: int, rng: np.random.Generator
) -> pd.DataFrame:
    """The gradient of a loss in x through x n, in both ways: equal on average, less noisy in one.

    The loss is L(y) = sum tanh(y) + y^2 / 2 of y = x n, so dL/dx = g n^T for the direct draw and
    g E[n | y]^T for the draw in output space (Rao-Blackwell), with g = dL/dy.

    Args:
        x: the batch, (B, in), with linearly independent rows.
        decay, mean, std: d, m and s.
        draws: number of noise columns that are averaged over.
        rng: source of the noise.

    Returns:
        Columns direct and output; rows: mean_difference (norm of the difference of the two mean gradients,
        in standard errors of an element, root mean square), variance (trace of the covariance of one
        gradient), share (of the direct one's).

    Example:
        >>> table = gradient_table(np.eye(2, 40), 0.5, 0.0, 1.0, 400, np.random.default_rng(0))
        >>> bool(table.loc["share", "output"] < 1.0)
        True
    """
    x = np.asarray(x, dtype="float64")
    noise_mean, noise_std = noise.moments(decay, mean, std)
    kernel = noise_mean + noise_std * rng.standard_normal((x.shape[1], draws))
    y = x @ kernel
    slope = 1.0 - np.tanh(y) ** 2 + y
    seen = conditional_noise(x, y, noise_mean, noise_std)
    ways = {"direct": kernel, "output": seen}
    means = {name: slope @ value.T / draws for name, value in ways.items()}
    squares = {name: slope**2 @ (value**2).T / draws for name, value in ways.items()}
    variance = {name: squares[name] - means[name] ** 2 for name in ways}
    paired = slope**2 @ ((kernel - seen) ** 2).T / draws - (means["direct"] - means["output"]) ** 2
    error = (means["direct"] - means["output"]) / np.sqrt(np.maximum(paired, 1e-300) / draws)
    table = pd.DataFrame({name: {"variance": variance[name].sum()} for name in ways})
    table.loc["share"] = table.loc["variance"] / table.loc["variance", "direct"]
    table.loc["mean_difference"] = float(np.sqrt(np.mean(error**2)))
    return table


def time_draws(rows: int, inputs: int, units: int, repeats: int = 30, seed: int = 0) -> dict[str, float]:
    """Median seconds of one draw of x n in both ways, compiled as in training and timed in turn in one run.

    Args:
        rows: B, the batch size.
        inputs, units: shape of the kernel.
        repeats: how often each is timed, after one warm-up.
        seed: of x and of the noise.

    Returns:
        direct, output (seconds), ratio (direct / output).
    """
    x = np.random.default_rng(seed).normal(size=(rows, inputs)).astype("float32")
    seeds = keras.random.SeedGenerator(seed)
    mean, std = keras.ops.zeros((units,)), keras.ops.ones((units,))

    def direct(key):
        kernel = noise.kernel_noise((inputs, units), 0.5, mean, std, noise.DrawnSeed(key), xla=True)
        return keras.ops.matmul(x, kernel)

    def output(key):
        return noise.output_noise(x, 0.5, mean, std, noise.DrawnSeed(key), xla=True)

    ways = {"direct": _compiled(direct), "output": _compiled(output)}
    seconds = {name: [] for name in ways}
    for _ in range(repeats + 1):
        for name, draw in ways.items():
            key = seeds.next()
            begin = time.perf_counter()
            keras.ops.convert_to_numpy(draw(key))  # waits for backends that answer before they are done
            seconds[name].append(time.perf_counter() - begin)
    median = {name: float(np.median(values[1:])) for name, values in seconds.items()}
    return {**median, "ratio": median["direct"] / median["output"]}


def _compiled(function):
    """The function as the backend runs a training step: by XLA where Keras does so."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        return tf.function(function, jit_compile=True)
    if backend == "jax":
        import jax

        return jax.jit(function)
    return function


@style.styled
def correlation_plot(weights: np.ndarray, correlations: Sequence[float], rng: np.random.Generator) -> Figure:
    """Var(d W + n) / s^2 against d, if n correlates with W: the algebra as lines, a simulation as points.

    Args:
        weights: W, one-dimensional.
        correlations: of n and W, each in [-1, 1]; at most seven.
        rng: source of the noise.

    Raises:
        ValueError: if a correlation is out of range.

    Example:
        >>> fig = correlation_plot(np.arange(9.0), [0.0, 0.5], np.random.default_rng(0))
    """
    fig = style.new_figure(3.4)
    ax = fig.subplots()
    fine, coarse = np.linspace(0, 1, 201), np.linspace(0, 1, 11)
    looks = style.cycle(len(correlations))
    for correlation, look in zip(correlations, looks, strict=True):
        line, points = {**look, "marker": ""}, {**look, "linestyle": ""}
        ax.plot(fine, variance_factor(fine, correlation), label=f"ρ = {correlation:g}, algebra", **line)
        drawn = [np.var(d * weights + draw_noise(weights, d, rng, correlation)) for d in coarse]
        ax.plot(coarse, np.array(drawn) / np.var(weights), label=f"ρ = {correlation:g}, simulated", **points)
    ax.set(xlabel="Decay d", ylabel="Var(d·W + n), in units of σ²", ylim=(0, None))
    style.shared_legend(fig, [ax], ncols=len(correlations))
    style.set_title(fig, "If noise is not independent of W", f"{len(weights):,} weights")
    ends = [f"{1 + correlation:g} for ρ = {correlation:g}" for correlation in correlations]
    fig.alt_text = (
        "Variance of d·W + n in units of that of W against d, algebra and simulation: 1 at both ends, "
        f"and at d = 0.71 {', '.join(ends)}."
    )
    return fig


@style.styled
def quantile_plot(samples: Mapping[str, np.ndarray], dataset: str | None = None) -> Figure:
    """Normal quantile plot (QQ plot): standardised samples against the normal law; a straight line is normal.

    Args:
        samples: values by name, each an array with values that differ.
        dataset: what the weights were trained on, for the title.

    Raises:
        ValueError: if there is no sample, or all values of one are equal.

    Example:
        >>> fig = quantile_plot(sample_laws(1000, np.random.default_rng(0)))
    """
    if not samples:
        raise ValueError("`samples` must hold at least one sample. Received: an empty mapping.")
    found = {name: describe(values) for name, values in samples.items()}
    fig = style.new_figure(4.3)
    ax = fig.subplots()
    normal = stats.norm.ppf((np.arange(QUANTILES) + 0.5) / QUANTILES)
    tails = stats.norm.ppf([1e-4, 1e-3])
    points = np.concatenate([tails, normal, -tails[::-1]])
    for (name, values), look in zip(samples.items(), style.cycle(len(samples)), strict=True):
        values = (np.ravel(values) - found[name]["mean"]) / found[name]["std"]
        drawn = np.quantile(values, stats.norm.cdf(points))
        ax.plot(points, drawn, label=name, markevery=len(points) // 9, **look)
    ends = points[[0, -1]]
    ax.plot(ends, ends, color=style.INK, linewidth=1, label="a normal law", zorder=0)
    ax.set(xlabel="Quantile of N(0, 1), in units of σ", ylabel="Quantile of the sample, in units of σ")
    style.shared_legend(fig, [ax], ncols=2)
    name = datasets.label(dataset) if dataset else ""
    title = "Normal quantile plot" + (f", {name}" if name else "")
    style.set_title(fig, title, "straight: normal; steeper ends: long tails; flatter ends: short tails")
    text = ", ".join(f"{k} {v['excess_kurtosis']:.2f}" for k, v in found.items())
    fig.alt_text = f"{title} of {len(samples)} samples; excess kurtosis (0 for a normal law): {text}."
    return fig
