"""Heads on top of an encoder: projector, predictor, prototypes, and a linear classifier."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from simclr_jax.losses.similarity import l2_normalize
from simclr_jax.models.convolution import at_least_float32
from simclr_jax.models.layers import norm

# What the last layer ends with: nothing, or BatchNorm with these parameters.
LAST_NORMS = ("none", "no_affine", "scale", "scale_and_bias")
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": nn.relu,
    "gelu": functools.partial(nn.gelu, approximate=False),
}
KERNEL_INITS = {
    "normal": nn.initializers.normal(0.01),
    "lecun": nn.initializers.lecun_normal(),
    # Uniform between -/+ 1 / sqrt(inputs).
    "torch": nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform"),
    "vit": nn.initializers.normal(0.02),
}


class MLP(nn.Module):
    """Dense layers with BatchNorm between: the projector of a method, or its predictor.

    The defaults are SimCLRv2's projector: no layer has a bias, each is followed by BatchNorm and
    all but the last by a relu. The last BatchNorm scales but does not shift.

    Attributes:
      num_layers: dense layers; 2 in SimCLR, 3 in SimCLRv2, 1 for a linear projection.
      hidden_dim: width of all layers but the last; as wide as the input if None.
      output_dim: width of the output.
      hidden_bias: whether all layers but the last have a bias.
      hidden_norm: whether BatchNorm follows all layers but the last.
      last_bias: whether the last layer has a bias.
      last_norm: what follows the last layer, one of `LAST_NORMS`.
      activation: follows all layers but the last: "relu" or "gelu".
      kernel_init: "normal", N(0, 0.01) as in the official code; "lecun"; "torch", as PyTorch's
        dense layers start; or "vit", N(0, 0.02), as in vision transformers.
      dtype: type of matrix products and activations.

    Source: Chen et al. 2020, https://arxiv.org/abs/2006.10029, Section 2. The papers give
    neither BatchNorm nor initialisation: both are the official code's.
    """

    num_layers: int = 3
    hidden_dim: int | None = None
    output_dim: int = 128
    hidden_bias: bool = False
    hidden_norm: bool = True
    last_bias: bool = False
    last_norm: str = "scale"
    activation: str = "relu"
    kernel_init: str = "normal"
    dtype: DTypeLike = jnp.float32

    def __post_init__(self):
        if self.num_layers < 1:
            raise ValueError(
                f"num_layers={self.num_layers}; it must be at least 1 (2 in SimCLR, 3 in "
                "SimCLRv2). For no head, set config.heads.projector, or the other head, to None."
            )
        if self.output_dim < 1 or (self.hidden_dim is not None and self.hidden_dim < 1):
            raise ValueError(
                f"widths must be at least 1 (hidden_dim=None, output_dim=128 are SimCLR's), "
                f"got hidden_dim={self.hidden_dim}, output_dim={self.output_dim}."
            )
        for name, choices in (
            ("last_norm", LAST_NORMS),
            ("activation", tuple(ACTIVATIONS)),
            ("kernel_init", tuple(KERNEL_INITS)),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name}={getattr(self, name)!r} must be one of {choices}.")
        super().__post_init__()

    @nn.compact
    def __call__(
        self, x: Float[Array, "n d"], *, train: bool, stop_after: int | None = None
    ) -> tuple[Float[Array, "n _"], ...]:
        """Returns what each layer puts out, after its activation; the last is the MLP's output.

        Args:
          x: representations, or projections.
          train: normalise with the statistics of this batch and move the running ones.
          stop_after: how many layers to run, all if None; the others then have no parameters.
        """
        hidden_dim = self.hidden_dim or x.shape[-1]
        outputs = []
        for i in range(1, (self.num_layers if stop_after is None else stop_after) + 1):
            last = i == self.num_layers
            x = nn.Dense(
                self.output_dim if last else hidden_dim,
                use_bias=self.last_bias if last else self.hidden_bias,
                dtype=self.dtype,
                kernel_init=KERNEL_INITS[self.kernel_init],
                name=f"dense{i}",
            )(x)
            affine = self.last_norm if last else "scale_and_bias" if self.hidden_norm else "none"
            if affine != "none":
                x = norm(
                    train=train,
                    dtype=self.dtype,
                    use_scale=affine != "no_affine",
                    use_bias=affine == "scale_and_bias",
                    name=f"norm{i}",
                )(x)
            x = x if last else ACTIVATIONS[self.activation](x)
            outputs.append(x.astype(at_least_float32(self.dtype)))
        return tuple(outputs)


class Prototypes(nn.Module):
    """Learned directions that unit projections are compared with: SwAV's and DINO's last layer.

    Attributes:
      num_prototypes: k, at least 2.
      normalize_kernel: divide each prototype by its length in each forward pass (DINO's weight
        normalisation with a fixed gain). Otherwise they are used as they are, and a method keeps
        them at unit length.
    """

    num_prototypes: int
    normalize_kernel: bool = False

    def __post_init__(self):
        if self.num_prototypes < 2:
            raise ValueError(f"num_prototypes={self.num_prototypes}; it must be at least 2.")
        super().__post_init__()

    @nn.compact
    def __call__(self, projection: Float[Array, "*n d"]) -> Float[Array, "*n k"]:
        """Returns the product of each projection, scaled to unit length, with each prototype."""
        shape = (projection.shape[-1], self.num_prototypes)
        kernel = jnp.asarray(self.param("kernel", _unit_columns, shape))
        if self.normalize_kernel:
            kernel = l2_normalize(kernel.T).T
        # A TPU would multiply in bfloat16 by default, and scores are divided by 0.03 and more.
        return jnp.matmul(l2_normalize(projection), kernel, precision=jax.lax.Precision.HIGHEST)


def unit_prototypes(params: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the parameters with prototypes of unit length, a method's `constrain`."""
    kernel = l2_normalize(params["prototypes"]["kernel"].T).T
    return {**params, "prototypes": {"kernel": kernel}}


def _unit_columns(key: Array, shape: tuple[int, int]) -> Array:
    return l2_normalize(nn.initializers.lecun_normal()(key, shape).T).T


def classifier(*, num_classes: int, zero_init: bool = True) -> nn.Dense:
    """Returns the linear layer from features to the logits of the classes, in float32.

    Args:
      num_classes: at least 2.
      zero_init: start from zero, as the official code does when it fine-tunes; otherwise from
        N(0, 0.01), as it does when it trains from scratch.

    Raises:
      ValueError: if there are fewer than two classes.
    """
    if num_classes < 2:
        raise ValueError(f"num_classes={num_classes}; a classifier needs at least 2.")
    kernel_init = nn.initializers.zeros if zero_init else nn.initializers.normal(0.01)
    return nn.Dense(num_classes, kernel_init=kernel_init)
