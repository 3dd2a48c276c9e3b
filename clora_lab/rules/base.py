"""`Rule`, what it answers, and `rule`, which finds the one for a layer."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import keras
import numpy as np
from keras import ops

from clora_lab import _checks, factorize

# The stages of a finished chain are called <layer>_<part>, and the last has the layer's own name.
PARTS = ("down", "middle", "middle_2")

# What must not be carried from the original layer to a factor: it belongs to W, or is set by the rule.
_OF_KERNEL = ("kernel_initializer", "kernel_regularizer", "kernel_constraint", "quantization_config")


class BreakEvenWarning(UserWarning):
    """The low-rank factors have at least as many parameters as the layer that they replace."""


class Cost(NamedTuple):
    """What factors cost: parameters stored, parameters that run, and FLOPs of one example.

    The two counts of parameters differ where the factors are multiplied before they run (loralib).
    """

    stored: int
    run: int
    flops: int


class Rule:
    """How one built layer is factored; see `rule`. The base class is that of one matrix and two factors.

    The kernel is a matrix M of shape (inputs, outputs), M ~ down up, and the factors are down (inputs, q)
    and up (q, outputs) in the shapes of the kernels of the layers that `chain` gives. A rule of another form
    (three or more factors) overrides `decompose`, `compose`, `fresh`, `chain` and `cost`.

    Attributes:
        name: the layer's name.
        config: the layer's config.
        factorization: the name of this factorisation.
        kernel_shape: the shape of W.
        matrix_shape: (inputs, outputs) of M.
        input_shape: of the layer, as it was built.
        stat_axes: axes of the kernel over which m and s of the noise are taken.
        unit_axes: axes of the kernel that belong to one output unit.
        bias_shape: shape of a trainable bias for this layer.
        bias_view: the shape in which that bias is added to the output.
    """

    factorization = "pair"
    fan_scale = math.sqrt(5.0)  # of the slides' start values; 1 for convolutions
    merges = False  # whether the factors are multiplied to one kernel, which adds to W before the layer runs
    looks_up = False  # whether inputs are numbers of rows: `clora_lab.compress` takes these only by name

    def __init__(self, layer):
        # The layer itself is not kept: a rule must not hold a second copy of W alive.
        self.name = layer.name
        self.config = layer.get_config()
        self.kernel_shape = tuple(self.kernel_of(layer).shape)
        self.input_shape = (layer.get_build_config() or {}).get("input_shape")

    @staticmethod
    def kernel_of(layer):
        """The variable W of a built layer of this type."""
        return layer.kernel

    @staticmethod
    def bias_of(layer):
        """The variable b of a built layer of this type, or None."""
        return layer.bias

    # --- the matrix --------------------------------------------------------------------------------------

    @property
    def kernel_size(self) -> int:
        """Number of elements of W."""
        return math.prod(self.kernel_shape)

    def inner(self, rank: int) -> int:
        """q, the width of the product down up."""
        return rank

    @property
    def ends(self) -> tuple[int, int]:
        """What a chain in the layer's place takes and gives at one position: inputs and outputs."""
        return self.matrix_shape

    @property
    def max_rank(self) -> int:
        """The largest rank that M can have."""
        return min(self.matrix_shape)

    def parameters(self, rank: int) -> int:
        """Number of elements of the factors."""
        return self.inner(rank) * sum(self.matrix_shape)

    @property
    def break_even_rank(self) -> int:
        """The smallest rank at which the factors are no smaller than W."""
        return math.ceil(self.kernel_size / self.parameters(1))

    def to_matrix(self, kernel: np.ndarray) -> np.ndarray:
        """The kernel as M."""
        return np.reshape(kernel, self.matrix_shape)

    def to_kernel(self, matrix: np.ndarray) -> np.ndarray:
        """M as the kernel."""
        return np.reshape(matrix, self.kernel_shape)

    def from_matrices(self, down: np.ndarray, up: np.ndarray) -> list[np.ndarray]:
        """down (inputs, q) and up (q, outputs) as factors."""
        return [down, up]

    def to_matrices(self, factors: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """The inverse of `from_matrices`."""
        inputs, outputs = self.matrix_shape
        return np.reshape(factors[0], (inputs, -1)), np.reshape(factors[1], (-1, outputs))

    # --- factors -----------------------------------------------------------------------------------------

    def decompose(self, kernel: np.ndarray, rank: int, moments: np.ndarray | None = None) -> list[np.ndarray]:
        """The best factors of a kernel; their scales are shared evenly.

        Args:
            kernel: of `kernel_shape`.
            rank: r.
            moments: the mean of x^T x over inputs x of M, of shape (inputs, inputs), or its diagonal. With it
                the factors are best on inputs like these, see `factorize.activation_aware_svd`; without it in
                the Frobenius norm.
        """
        matrix, inner = self.to_matrix(kernel), self.inner(rank)
        if moments is None:
            return self.from_matrices(*factorize.truncated_svd(matrix, inner))
        return self.from_matrices(*factorize.activation_aware_svd(matrix, inner, moments))

    def compose(self, factors: list[np.ndarray]) -> np.ndarray:
        """The kernel that factors stand for."""
        down, up = self.to_matrices(factors)
        return self.to_kernel(down @ up)

    def fresh(
        self,
        rank: int,
        rng: np.random.Generator,
        last_zero: bool = True,
        like: np.ndarray | None = None,
        fan: int = 0,
    ) -> list[np.ndarray]:
        """Random factors, with `fan` the fan in of the layer, which is 1 for an embedding.

        - last_zero: down uniform in +-sqrt(3 f / fan) with f = sqrt(5) (1 for convolutions), up zero: the
          slides' start, after Hu et al. 2021. The product is 0.
        - else down ~ N(0, 1 / fan) and up ~ N(0, 2 / q), so that the product has the variance 2 / fan of He
          et al. 2015 (arXiv:1502.01852), or for an embedding that of `like`.

        Args:
            rank: r.
            rng: of the draws.
            last_zero: see above.
            like: W, which tells an embedding its variance.
            fan: another fan in, such as `fan_by_rank`.
        """
        fan = fan or self.fan
        (inputs, outputs), inner = self.matrix_shape, self.inner(rank)
        if last_zero:
            limit = math.sqrt(3.0 * self.fan_scale / fan)
            return self.from_matrices(rng.uniform(-limit, limit, (inputs, inner)), np.zeros((inner, outputs)))
        down = rng.normal(size=(inputs, inner)) / math.sqrt(fan)
        up = rng.normal(size=(inner, outputs)) * math.sqrt(self.gain(like) / inner)
        return self.from_matrices(down, up)

    def orthogonal(self, rank: int, rng: np.random.Generator) -> list[np.ndarray]:
        """down with orthonormal columns (of an embedding, of length sqrt(vocabulary)), up zero."""
        (inputs, outputs), inner = self.matrix_shape, self.inner(rank)
        wide = rng.normal(size=(max(inputs, inner), min(inputs, inner)))
        basis = np.linalg.qr(wide)[0] * math.sqrt(inputs / self.fan)
        return self.from_matrices(basis if inputs >= inner else basis.T, np.zeros((inner, outputs)))

    @property
    def fan(self) -> int:
        """How many elements of M an output sums over: the fan in of the start values."""
        return self.matrix_shape[0]

    def fan_by_rank(self, rank: int) -> int:
        """What Keras takes for the fan in of A in the shapes of the slides' authors: the rank, as a rule.

        Their A of a Dense layer is (rank, inputs), of a convolution (rank k, Cin k): Keras' fan in is the
        first axis, q. Where the kernel has two contracted axes, as in attention's output, their A is (heads,
        head size, rank), which counts as a kernel of its own, and the fan in is the inputs.
        """
        return self.inner(rank)

    def gain(self, kernel: np.ndarray | None) -> float:
        """Variance of a fresh M times `fan`: 2, by He et al. 2015."""
        return 2.0

    # --- layers ------------------------------------------------------------------------------------------

    def chain(self, rank: int, config: dict | None = None) -> list[keras.layers.Layer]:
        """Unbuilt layers that compute x -> x f1 f2 ... in turn; the factors are the kernels of each.

        Args:
            rank: r.
            config: None for the bare linear map, its layers named by their parts. Of the original layer, its
                `use_bias` set as wanted, for stock layers that take its place: the last one has its name,
                bias and activation, the ones before it are called <name>_<part>.
        """
        plain = linear_only(config or self.config)
        if config is None:
            return [self._down({**plain, "name": "down"}, rank), self._up({**plain, "name": "up"})]
        down = {**plain, "name": f"{config['name']}_down"}
        return [self._down(down, rank), self._up(without_kernel(config))]

    def kernels(self, factors: list[np.ndarray]) -> list[np.ndarray]:
        """Factors as the kernels of the layers of ``chain(rank, config)``."""
        return factors

    def _down(self, config, rank):
        raise NotImplementedError

    def _up(self, config):
        raise NotImplementedError

    # --- what the layer does with its inputs -------------------------------------------------------------

    def to_inputs(self, x, dtype):
        """The layer's inputs as `linear` takes them, for a kernel of `dtype`."""
        return ops.cast(x, dtype)

    def linear(self, x, kernel):
        """The layer's linear map of x with another kernel, without bias and activation."""
        raise NotImplementedError

    def mask(self, x, mask):
        """The Keras mask of the outputs, given that of the inputs x (or None)."""
        return mask

    def rows(self, x):
        """The layer's inputs x as the rows that M multiplies, a tensor of shape (n, inputs)."""
        raise ValueError(
            f"Layer {self.name!r} ({type(self).__name__}) is no product of its inputs and one matrix, so "
            "init='activations' does not apply. Use init='svd', or another factorization."
        )

    def second_moment(self, x) -> tuple[np.ndarray, int]:
        """The sum of x^T x over the rows x of M's inputs, and their number.

        Returns:
            An array of shape (inputs, inputs), or its diagonal (inputs,) if it has nothing else.
        """
        rows = np.asarray(ops.convert_to_numpy(ops.cast(self.rows(x), "float32")), "float64")
        return rows.T @ rows, len(rows)

    # --- costs -------------------------------------------------------------------------------------------

    def flops(self, kernel_shape, output_shape) -> int:
        """2 x multiply-adds of one example through a kernel; unknown axes of the output count once."""
        positions = math.prod(size or 1 for size in self._positions(output_shape))
        return 2 * math.prod(kernel_shape) * positions

    def cost(self, rank: int, output_shape) -> Cost:
        """What the factors cost in a layer with outputs of this shape."""
        parameters = self.parameters(rank)
        return Cost(parameters, parameters, self._factor_flops(rank, output_shape))

    def _factor_flops(self, rank, output_shape):
        return self.flops((self.parameters(rank),), output_shape)

    def _positions(self, output_shape):
        return output_shape[1:-1]

    @property
    def unit_axes(self):
        return self.stat_axes

    @property
    def bias_view(self):
        return self.bias_shape


def without_kernel(config: dict) -> dict:
    """A layer's config without what belongs to its kernel."""
    return {k: v for k, v in config.items() if k not in _OF_KERNEL} | {"trainable": True}


def linear_only(config: dict) -> dict:
    """A layer's config as a factor has it: no bias, no activation."""
    dropped = ("activity_regularizer", "bias_regularizer", "bias_constraint")
    kept = {k: v for k, v in without_kernel(config).items() if k not in dropped}
    return kept | {"use_bias": False, "activation": None}


@functools.singledispatch
def rule(layer, factorization: str | None = None) -> Rule:
    """The rule by which a built layer is factored; extend it with ``rule.register(LayerType)``.

    Args:
        layer: a built Dense, EinsumDense, Conv2D or Embedding (or ReversibleEmbedding).
        factorization: for Conv2D a key of `conv.FACTORIZATIONS`, None for its first; the other types have a
            pair.

    Raises:
        ValueError: if the layer has no supported factors, with the reason.

    Example:
        >>> import keras
        >>> from clora_lab import rules
        >>> layer = keras.layers.Dense(128)
        >>> layer.build((None, 256))
        >>> rules.rule(layer).parameters(16), rules.rule(layer).break_even_rank
        (6144, 86)
    """
    raise ValueError(
        f"Layer {layer.name!r} of type {type(layer).__name__} has no supported factors. "
        "Supported: Dense, EinsumDense, Conv2D, Embedding. Leave the layer out of `targets`, or add a rule "
        "with clora_lab.rules.rule.register."
    )


def plain(layer, stock):
    """The layer itself, if nothing in it would be lost by replacing it with stock layers.

    Raises:
        ValueError: with the reason.
    """
    reason = None
    if type(layer).call is not stock.call:
        reason = f"its class {type(layer).__name__} has a call() of its own"
    elif getattr(layer, "lora_enabled", False):
        reason = "Keras' own LoRA is enabled on it"
    elif getattr(layer, "quantization_mode", None) is not None:
        reason = f"it is quantised ({layer.quantization_mode})"
    elif not layer.built:
        reason = "it is not built: call the model on data, or give it an Input, first"
    if reason:
        raise ValueError(f"Layer {layer.name!r} can't be factored: {reason}.")
    return layer


def supported(layer, factorization: str | None = None, look_ups: bool = False) -> bool:
    """Whether `rule` has an answer for this layer.

    Args:
        layer: anything.
        factorization: see `rule`.
        look_ups: count embeddings too, which `clora_lab.compress` takes only where they are named.
    """
    if not isinstance(layer, keras.layers.Layer):
        return False
    try:
        found = rule(layer, factorization)
    except ValueError:
        return False
    return look_ups or not found.looks_up


def check_rank(rule_: Rule, rank) -> int:
    """`rank` as an int, if factors of this rank fit the layer; a `ValueError` with the limit else."""
    rank = _checks.positive_int("rank", rank)
    if rank > rule_.max_rank:
        raise ValueError(
            f"`rank` of layer {rule_.name!r} must be at most {rule_.max_rank}, the largest that "
            f"its kernel of shape {rule_.kernel_shape} allows. Received: {rank}. Give a smaller rank, a "
            "mapping of patterns to ranks, or leave the layer out of `targets`."
        )
    return rank


def rank_for_energy(rule_: Rule, kernel: np.ndarray, energy: float) -> int:
    """The smallest rank whose best factors keep a share of W's energy, as long as it saves parameters.

    The energy of M is its squared Frobenius norm, the sum of the squared singular values; the best pair of
    width q keeps the q largest (Eckart & Young 1936). The rank is never above the last one that is smaller
    than the layer (`break_even_rank` - 1), so that a layer may keep less than asked for.

    Args:
        rule_: the layer's rule.
        kernel: W, of the layer's kernel shape.
        energy: share to keep, in (0, 1).

    Raises:
        ValueError: `energy` is not in (0, 1).

    Example:
        >>> import keras, numpy as np
        >>> from clora_lab import rules
        >>> layer = keras.layers.Dense(20)
        >>> layer.build((None, 20))
        >>> rules.rank_for_energy(rules.rule(layer), np.diag(0.5 ** np.arange(20.0)), 0.99)
        4
    """
    _checks.real("energy", energy, 1e-9, 1.0 - 1e-9)
    squares = np.linalg.svd(rule_.to_matrix(np.asarray(kernel, "float64")), compute_uv=False) ** 2
    width = 1 + int(np.searchsorted(np.cumsum(squares), energy * np.sum(squares)))
    rank = -(-width // rule_.inner(1))
    return max(1, min(rank, rule_.break_even_rank - 1, rule_.max_rank))
