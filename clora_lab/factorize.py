"""The best low-rank factors of a matrix, plain and weighted by its inputs; NumPy alone."""

from __future__ import annotations

import numpy as np

RIDGE = 1e-4  # added to the mean of x^T x, as a share of its mean diagonal


def activation_aware_svd(matrix: np.ndarray, rank: int, gram: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The pair of a given rank that minimises ``mean |x (matrix - down up)|^2`` over inputs x.

    With G = L L^T the mean of x^T x (a ridge of RIDGE times its mean diagonal added), the error is
    |L^T (M - down up)|_F^2, so down = L^-T P S^(1/2) and up = S^(1/2) Q^T with the truncated SVD P S Q^T
    of L^T M (Chen et al. 2021, "DRONE: Data-aware low-rank compression for large NLP models"; Wang et al.
    2024, "SVD-LLM", arXiv:2403.07378). Of one-hot x, G is diagonal and holds the frequencies of the tokens:
    the rows of M are weighted by them, as in GroupReduce (Chen et al. 2018, arXiv:1806.06950).

    Args:
        matrix: M, of shape (inputs, outputs).
        rank: width of the product.
        gram: G, of shape (inputs, inputs), or its diagonal, of shape (inputs,), if the rest is zero.

    Returns:
        down (inputs, rank) and up (rank, outputs).

    Raises:
        ValueError: if `gram` has another shape, or numbers that are not finite.

    Example:
        >>> import numpy as np
        >>> from clora_lab import factorize
        >>> gram = np.diag([0.01, 1.0, 4.0])  # the third input is large, the first hardly there
        >>> down, up = factorize.activation_aware_svd(np.diag([3.0, 2.0, 2.0]), 2, gram)
        >>> abs(np.round(down @ up, 3)).diagonal()
        array([0., 2., 2.])
    """
    gram = np.asarray(gram, "float64")
    inputs = matrix.shape[0]
    if gram.shape not in ((inputs, inputs), (inputs,)) or not np.all(np.isfinite(gram)):
        raise ValueError(
            f"`gram` must be finite numbers of shape ({inputs}, {inputs}), the mean of x^T x, or its "
            f"diagonal. Received: shape {gram.shape}. Give a calibration batch of finite inputs."
        )
    diagonal = gram if gram.ndim == 1 else np.diagonal(gram)
    ridge = RIDGE * np.mean(diagonal) + np.finfo("float64").tiny
    if gram.ndim == 1:
        root = np.sqrt(gram + ridge)[:, None]
        down, up = truncated_svd(root * np.asarray(matrix, "float64"), rank)
        return down / root, up
    root = np.linalg.cholesky(gram + ridge * np.eye(inputs))
    down, up = truncated_svd(root.T @ np.asarray(matrix, "float64"), rank)
    return np.linalg.solve(root.T, down), up


def truncated_svd(matrix: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """The best approximation ``down @ up`` of a given rank in the Frobenius norm (Eckart & Young 1936).

    Args:
        matrix: of shape (inputs, outputs).
        rank: width of the product; beyond the matrix's own rank limit the factors are padded with zeros.

    Returns:
        down (inputs, rank) and up (rank, outputs), each with the square roots of the singular values.

    Example:
        >>> import numpy as np
        >>> from clora_lab import factorize
        >>> down, up = factorize.truncated_svd(np.diag([3.0, 2.0, 1.0]), 2)
        >>> np.round(down @ up, 6).diagonal()
        array([3., 2., 0.])
    """
    left, singular, right = np.linalg.svd(np.asarray(matrix, "float64"), full_matrices=False)
    kept = min(rank, len(singular))
    root = np.sqrt(singular[:kept])
    down = np.zeros((matrix.shape[0], rank))
    up = np.zeros((rank, matrix.shape[1]))
    down[:, :kept] = left[:, :kept] * root
    up[:kept] = root[:, None] * right[:kept]
    return down, up
