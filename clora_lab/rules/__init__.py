"""What a layer is: a file a layer type, asked by `rule`.

A rule answers, for one built layer and one factorisation, which factors stand for its kernel, which plain
Keras layers compute ``x -> x f1 f2 ... fn``, and what they cost. It knows no method and holds no weights.

| layer | factorisation | factors, as kernels of stock layers | their parameters |
|---|---|---|---|
| Dense (in, out) | pair | Dense(r), Dense(out) | r (in + out) |
| EinsumDense | pair | EinsumDense to r, EinsumDense from r | r (contracted + produced) |
| Embedding (ids, width) | pair | Embedding(ids, r), Dense(width) | r (ids + width) |
| Conv2D (kh, kw, Cin, Cout) | spatial | 1 x kw to q, then kh x 1, q = r min(kh, kw) | q (kw Cin + kh Cout) |
| Conv2D | pair | kh x kw convolution to r, 1 x 1 to Cout | r (kh kw Cin + Cout) |
| Conv2D, square | loralib | one kernel, the product of two matrices of width r k | k k r (Cin + Cout) |

In the slides' notation A is the first factor and B the second. Sources: Hu et al. 2021 (arXiv:2106.09685)
for the pair; Zhang et al. 2015 (arXiv:1505.06798) for a convolution's "pair"; the code of Hu et al.,
loralib, for the third; Lan et al. 2020 (ALBERT, arXiv:1909.11942) for the embedding.

A layer type is one subclass of `Rule`, and one `rule.register` below it.
"""

from clora_lab.rules import conv, dense, einsum, embedding, loralib  # noqa: F401  (they register themselves)
from clora_lab.rules.base import (
    PARTS,
    BreakEvenWarning,
    Cost,
    Rule,
    check_rank,
    rank_for_energy,
    rule,
    supported,
)

FACTORIZATIONS = conv.FACTORIZATIONS

__all__ = [
    "FACTORIZATIONS",
    "PARTS",
    "BreakEvenWarning",
    "Cost",
    "Rule",
    "check_rank",
    "rank_for_energy",
    "rule",
    "supported",
]
