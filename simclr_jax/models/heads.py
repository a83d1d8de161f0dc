"""Heads on top of an encoder: the projector of SimCLR, and a linear classifier."""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from simclr_jax.models.layers import at_least_float32, norm

# Standard deviation 0.01, and PyTorch's: uniform between -/+ 1 / sqrt(inputs).
KERNEL_INITS = {
    "normal": nn.initializers.normal(0.01),
    "torch": nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform"),
}


class Projector(nn.Module):
    """The MLP between the representation and the contrastive loss; dropped after pretraining.

    Every dense layer lacks a bias and is followed by BatchNorm; all but the last by a relu.
    The last BatchNorm scales but does not shift.

    Attributes:
      num_layers: dense layers; 2 in SimCLR, 3 in SimCLRv2, 1 for a linear projection.
      hidden_dim: width of all layers but the last; as wide as the representation if None.
      output_dim: width of the projection.
      dtype: type of matrix products and activations.
      kernel_init: how the dense layers start: "normal", from N(0, 0.01) as in the official code,
        or "torch", as PyTorch's do.

    Source: Chen et al. 2020, https://arxiv.org/abs/2006.10029, Section 2. The papers give
    neither BatchNorm nor initialisation: both are the official code's.
    """

    num_layers: int = 3
    hidden_dim: int | None = None
    output_dim: int = 128
    dtype: DTypeLike = jnp.float32
    kernel_init: str = "normal"

    def __post_init__(self):
        if self.num_layers < 1:
            raise ValueError(
                f"Projector num_layers must be at least 1 (2 in SimCLR, 3 in SimCLRv2), "
                f"got {self.num_layers}; for no projector, use None in its place."
            )
        if self.output_dim < 1 or (self.hidden_dim is not None and self.hidden_dim < 1):
            raise ValueError(
                f"Projector widths must be at least 1 (hidden_dim=None, output_dim=128 are "
                f"SimCLR's), got hidden_dim={self.hidden_dim}, output_dim={self.output_dim}."
            )
        if self.kernel_init not in KERNEL_INITS:
            raise ValueError(
                f"Projector kernel_init must be one of {[*KERNEL_INITS]}, got {self.kernel_init!r}."
            )
        super().__post_init__()

    @nn.compact
    def __call__(
        self, representation: Float[Array, "n d"], *, train: bool, stop_after: int | None = None
    ) -> tuple[Float[Array, "n _"], ...]:
        """Returns what each layer puts out, after its relu; the projection is the last.

        Args:
          representation: output of the encoder.
          train: normalise with the statistics of this batch and move the running ones.
          stop_after: how many layers to run, all if None; the others then have no parameters.
        """
        x = representation
        outputs = []
        for i in range(1, (self.num_layers if stop_after is None else stop_after) + 1):
            last = i == self.num_layers
            x = nn.Dense(
                self.output_dim if last else self.hidden_dim or representation.shape[-1],
                use_bias=False,
                dtype=self.dtype,
                kernel_init=KERNEL_INITS[self.kernel_init],
                name=f"dense{i}",
            )(x)
            x = norm(train=train, dtype=self.dtype, use_bias=not last, name=f"norm{i}")(x)
            x = x if last else nn.relu(x)
            outputs.append(x.astype(at_least_float32(self.dtype)))
        return tuple(outputs)


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
