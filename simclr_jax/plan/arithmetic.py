"""How many operations a convolution or a matrix product of a compiled program takes."""

import functools
import math
import re

import numpy as np

from simclr_jax.plan.hlo import Array, Instruction


def convolution_flops(i: Instruction, lhs: Array, rhs: Array) -> int:
    """Returns the operations of a convolution, without those by the zeros around its image."""
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", i.attributes)
    if labels is None:
        return 0
    window = re.search(r"window=\{([^}]*)\}", i.attributes)
    given = dict(item.split("=") for item in window[1].split()) if window else {}
    out, rank = i.arrays[0], len(labels[1]) - 2
    setting = lambda key, default: given.get(key, "x".join([default] * rank)).split("x")
    size, stride = setting("size", "1"), setting("stride", "1")
    pads, base, spread = (
        setting("pad", "0_0"),
        setting("lhs_dilate", "1"),
        setting("rhs_dilate", "1"),
    )
    # Of G groups of features, the kernel has the inputs of one; of G groups of the batch, the
    # output has the length of one. So either kind has divided by G already.
    total = 2 * out.shape[labels[3].index("b")] * out.shape[labels[3].index("f")]
    total *= rhs.shape[labels[2].index("i")]
    for d in range(rank):
        total *= _products(
            lhs.shape[labels[1].index(str(d))],
            out.shape[labels[3].index(str(d))],
            *map(int, (size[d], stride[d], pads[d].split("_")[0], base[d], spread[d])),
        )
    return total


@functools.cache
def _products(n: int, out: int, size: int, stride: int, pad: int, base: int, spread: int) -> int:
    """Returns how many products along one dimension are of elements that are there."""
    at = np.arange(out)[:, None] * stride + np.arange(size)[None] * spread - pad
    return int(np.sum((at >= 0) & (at <= (n - 1) * base) & (at % base == 0)))


def dot_flops(i: Instruction, lhs: Array) -> int:
    """Returns the operations of a matrix product."""
    found = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", i.attributes)
    dims = [int(d) for d in found[1].split(",") if d] if found else []
    return 2 * math.prod(i.arrays[0].shape) * math.prod(lhs.shape[d] for d in dims)
