"""The scheduled noise of C-LoRA and two ways of drawing it (slide 14).

If every element of W has mean m and standard deviation s, and n is independent of W with

    n ~ N((1 - d) m, (1 - d^2) s^2)

then d W + n has mean m and standard deviation s for every d: what is left of W keeps its size on
average while its information fades.

The net never sees n itself, only x n. Given a batch x of shape (B, in), column j of x n is exactly Gaussian,

    x n_j ~ N((1 - d) m_j (x 1), (1 - d^2) s_j^2 x x^T)

so B * out random numbers and a Cholesky factor of the B x B Gram matrix do what in * out random numbers
and a second large product do otherwise (`output_noise`). The direct draw (`kernel_noise`) is the reference
and the cheaper one for images, sequences and large batches.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import keras
import numpy as np
from keras import ops

from clora_lab import _checks

# Relative size of what is added to the diagonal of the Gram matrix, so that equal or zero rows of x do
# not stop the factorisation; it adds at most this share of the noise's own variance.
JITTER = 1e-5

# Above this many rows a Cholesky factor costs more than drawing the whole kernel.
MAX_ROWS = 64

KINDS = ("normal", "empirical")
PER = ("layer", "unit", "matrix")
# So many values of the inverse distribution function stand for the elements of W in the kind "empirical".
QUANTILES = 1024


@dataclass(frozen=True)
class NoiseLaw:
    """Which noise is drawn; the default is the slides'.

    With m and s the mean and standard deviation of W, the noise at decay d is

        n = mean (1 - d) m + spread (1 - d^2)^(1/2) s z,    E z = 0, Var z = 1

    Args:
        spread: factor of the noise's standard deviation, at least 0; 1 keeps the variance of d W + n.
        mean: factor of its mean, at least 0; 1 keeps the mean of d W + n.
        per: what m and s are taken over: "unit" (each output unit or filter), "matrix" (the whole kernel), or
            "layer", which is the slides' choice: per unit, but for a convolution the whole kernel.
        kind: of z: "normal", or "empirical" (elements of W itself, standardised and drawn at random).

    Raises:
        ValueError: for a value out of range.

    Example:
        >>> from clora_lab import NoiseLaw
        >>> NoiseLaw(spread=0.5).to_dict()
        {'spread': 0.5, 'mean': 1.0, 'per': 'layer', 'kind': 'normal'}
    """

    spread: float = 1.0
    mean: float = 1.0
    per: str = "layer"
    kind: str = "normal"

    def __post_init__(self):
        _checks.real("spread", self.spread, 0.0, 1e3)
        _checks.real("mean", self.mean, 0.0, 1e3)
        _checks.one_of("per", self.per, PER)
        _checks.one_of("kind", self.kind, KINDS)

    def to_dict(self) -> dict:
        """The fields, for a layer's config."""
        return dataclasses.asdict(self)

    @classmethod
    def get(cls, law) -> NoiseLaw:
        """A law from a law, the dict of `to_dict`, or None for the slides'."""
        if law is None or isinstance(law, NoiseLaw):
            return law or cls()
        if isinstance(law, dict):
            return cls(**law)
        raise ValueError(
            f"`noise_law` must be a clora_lab.NoiseLaw, for instance NoiseLaw(spread=0.5). Received: {law!r}."
        )


def quantiles_of(values: np.ndarray) -> np.ndarray:
    """`QUANTILES` values, equally likely, of mean 0 and variance 1, that stand for how `values` are spread.

    Args:
        values: an array of any shape; all zero if they are all equal.

    Example:
        >>> import numpy as np
        >>> from clora_lab import noise
        >>> table = noise.quantiles_of(np.random.default_rng(0).exponential(size=5000))
        >>> table.shape, bool(abs(table.mean()) < 1e-6), bool(table.max() > -3 * table.min())
        ((1024,), True, True)
    """
    middles = (np.arange(QUANTILES) + 0.5) / QUANTILES
    table = np.quantile(np.asarray(values, "float64"), middles)
    table -= table.mean()
    spread = table.std()
    return (table / spread if spread > 0.0 else table).astype("float32")


def moments(decay, mean, std):
    """Mean and standard deviation of the noise at decay d: ``((1 - d) m, sqrt(1 - d^2) s)`` (slide 14).

    Args:
        decay: d in [0, 1], a number, array or tensor.
        mean: m, the mean of W (per output unit, or of the whole kernel).
        std: s, the standard deviation of W, of the same shape.

    Returns:
        The pair (mean, std), of the broadcast shape of the arguments.

    Example:
        >>> from clora_lab import noise
        >>> noise.moments(0.6, mean=1.0, std=2.0)
        (0.4, 1.6)
    """
    return (1.0 - decay) * mean, (1.0 - decay * decay) ** 0.5 * std


class DrawnSeed(keras.random.SeedGenerator):
    """A seed that was drawn already: what keras.random accepts inside a traced branch.

    Args:
        seed: an int tensor of shape (2,), as `keras.random.SeedGenerator.next` gives it.
    """

    def __init__(self, seed):
        self.drawn = seed

    def next(self, ordered=True):
        return self.drawn


def standard_uniform(shape, seed, xla: bool = False):
    """Draw numbers from [0, 1) of the given static shape, in float32; see `standard_normal`."""
    if xla and keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        key = ops.cast(seed.next(), "int32")
        return tf.random.stateless_uniform(shape, key, alg="threefry")  # 2^-23 apart
    return keras.random.uniform(shape, seed=seed, dtype="float32")


def standard_normal(shape, seed, xla: bool = False):
    """Draw N(0, 1) numbers of the given static shape, in float32.

    Args:
        shape: tuple of ints.
        seed: a `keras.random.SeedGenerator`, for instance a `DrawnSeed`.
        xla: True while TensorFlow compiles with XLA. TensorFlow's default generator, Philox, takes XLA on
            the CPU some 70 times as long as Threefry (benchmarks/noise_draw.py), which in turn is not to be
            had without XLA. On the other backends it has no effect.
    """
    if xla and keras.backend.backend() == "tensorflow":
        uniform = standard_uniform(shape, seed, xla)
        # Half a spacing up: erfinv sees the open interval (-1, 1).
        return 2.0**0.5 * ops.erfinv(2.0 * uniform - (1.0 - 2.0**-23))
    return keras.random.normal(shape, seed=seed, dtype="float32")


def kernel_noise(shape, decay, mean, std, seed, xla: bool = False, quantiles=None):
    """Draw the whole noise kernel n elementwise: the reference.

    Args:
        shape: the kernel's shape.
        decay: d, a scalar in [0, 1].
        mean, std: m and s of W, broadcastable to `shape`.
        seed, xla: see `standard_normal`.
        quantiles: None for a normal n, or what `quantiles_of` gives, of shape (QUANTILES,).

    Returns:
        A float32 tensor of the kernel's shape.
    """
    noise_mean, noise_std = moments(decay, mean, std)
    if quantiles is None:
        return noise_mean + noise_std * standard_normal(shape, seed, xla)
    drawn = ops.cast(standard_uniform(shape, seed, xla) * quantiles.shape[0], "int32")
    return noise_mean + noise_std * ops.take(quantiles, drawn)


def output_noise(x, decay, mean, std, seed, xla: bool = False):
    """Draw x n for a batch of vectors without drawing n; the same law as ``x @ kernel_noise(...)``.

    With K = x x^T = L L^T and z of shape (B, out), z ~ N(0, 1), the value is (x 1) m + L z s. It is
    computed as (x 1) m + (x x^T) (L^-T z) s with the bracketed factors held constant, because then its
    gradient with respect to x is that of x E[n | x n]: the gradient that the direct draw has on average
    for this value of x n.

    Args:
        x: the batch, of shape (B, in).
        decay: d, a scalar in [0, 1].
        mean, std: m and s of W, of shape (out,).
        seed, xla: see `standard_normal`.

    Returns:
        A float32 tensor of shape (B, out).
    """
    x = ops.cast(x, "float32")
    fixed = ops.stop_gradient(x)
    gram = ops.matmul(fixed, ops.transpose(fixed))  # (B, B)
    jitter = JITTER * ops.mean(ops.diagonal(gram)) + 1e-12
    factor = ops.cholesky(gram + ops.diag(ops.full_like(gram[0], 1.0) * jitter))
    normal = standard_normal((ops.shape(x)[0], std.shape[-1]), seed, xla)
    weights = ops.solve_triangular(ops.transpose(factor), normal, lower=False)
    spread = ops.matmul(ops.matmul(x, ops.transpose(fixed)), ops.stop_gradient(weights))
    noise_mean, noise_std = moments(decay, mean, std)
    return ops.sum(x, axis=-1, keepdims=True) * noise_mean + spread * noise_std


def prefers_output(rows, inputs):
    """Whether `output_noise` is the cheaper draw for a batch of shape (rows, inputs).

    Args:
        rows, inputs: ints or scalar int tensors.

    Returns:
        A bool, or a scalar bool tensor: few rows, and far fewer than inputs.
    """
    return ops.logical_and(rows <= MAX_ROWS, 4 * rows <= inputs)
