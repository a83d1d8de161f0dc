"""How many operations a convolution or a matrix product of a compiled program takes."""

import functools
import math
import re

import numpy as np

from simclr_jax.plan.hlo import Array, Computation, Instruction

GPU_LIBRARIES = ("__cudnn$", "__cublas$")
_PRODUCTS = ("__cublas$gemm", "__cublas$lt$")
# The first operands of calls of cuDNN; what is not among them is their result.
_CUDNN = {
    "__cudnn$convForward": ("image", "kernel"),
    "__cudnn$convBiasActivationForward": ("image", "kernel"),
    "__cudnn$convForwardGraph": ("image", "kernel"),
    "__cudnn$convBackwardInput": ("output", "kernel"),
    "__cudnn$convBackwardFilter": ("image", "output"),
}


def flops_of(i: Instruction, inside: Computation) -> int:
    """Returns the operations of a convolution or a matrix product, 0 of any other instruction.

    On a GPU both are calls of a library. A gradient of a convolution then has the window and the
    dimensions of the convolution that it belongs to.
    """
    operand = lambda k: inside.instructions[i.operands[k]].arrays[0]
    if i.opcode == "convolution":
        return convolution_flops(i, operand(0), operand(1), i.arrays[0])
    if i.opcode == "dot" or i.target.startswith(_PRODUCTS):
        return dot_flops(i, operand(0))
    if i.target in _CUDNN:
        given = {role: operand(k) for k, role in enumerate(_CUDNN[i.target])}
        arrays = [given.get(role, i.arrays[0]) for role in ("image", "kernel", "output")]
        return convolution_flops(i, *arrays)
    return 0


def convolution_flops(i: Instruction, lhs: Array, rhs: Array, out: Array) -> int:
    """Returns the operations of a convolution, without those by the zeros around its image."""
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", i.attributes)
    if labels is None:
        return 0
    window = re.search(r"window=\{([^}]*)\}", i.attributes)
    given = dict(item.split("=") for item in window[1].split()) if window else {}
    rank = len(labels[1]) - 2
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
    found = re.search(r'lhs_contracting_dim(?:ension)?s"?[=:][{\[]([\d,"]*)', i.attributes)
    dims = map(int, re.findall(r"\d+", found[1])) if found else ()
    return 2 * math.prod(i.arrays[0].shape) * math.prod(lhs.shape[d] for d in dims)
