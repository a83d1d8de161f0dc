"""An encoder on its way out, and what it computes before it goes."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from simclr_jax.core.tree import path_name
from simclr_jax.core.types import Collection, Params
from simclr_jax.models.resnet import ResNet

# float32 images [n, h, w, 3] in [0, 1] to representations [n, d].
Encode: TypeAlias = Callable[[np.ndarray], np.ndarray]
SETTINGS = ("depth", "width", "sk_ratio", "stem", "geometry")


@dataclasses.dataclass(frozen=True)
class TrainedEncoder:
    """A network and its weights, as every export format takes them.

    Attributes:
      network: unbound. Whatever type it trained in, exports compute in float32: its weights
        are float32, and bfloat16 is a choice of the machine that runs them.
      params: parameters of the encoder, from params/encoder of a run; host arrays.
      batch_stats: statistics of the encoder, from batch_stats/encoder of a run; host arrays.
      image_size: side in pixels of the images that it was trained on.
      classifier: "kernel" [d, k] and "bias" [k] of a linear layer on the representation; None
        where there is none.
    """

    network: ResNet
    params: Params
    batch_stats: Collection
    image_size: int
    classifier: Params | None = None

    @property
    def settings(self) -> dict[str, int | float | str]:
        """What the network must be built with: numbers and words that JSON can hold."""
        return {name: getattr(self.network, name) for name in SETTINGS}

    @property
    def variables(self) -> Mapping[str, Any]:
        """The collections that `apply` takes."""
        return {"params": self.params, "batch_stats": self.batch_stats}

    def tensors(self) -> dict[str, Float[np.ndarray, "..."]]:
        """Returns float32 arrays by path, such as "params/encoder/stage1/block0/conv1/kernel".

        They are contiguous, which safetensors takes for granted: it would write a transposed
        view in the wrong order, without an error.
        """
        tree = {collection: {"encoder": leaves} for collection, leaves in self.variables.items()}
        return {
            path_name(path): np.ascontiguousarray(x, np.float32)
            for path, x in jax.tree_util.tree_leaves_with_path(tree)
        }

    def apply(
        self, variables: Mapping[str, Any], images: Float[Array, "n h w c"]
    ) -> Float[Array, "n d"]:
        """Returns the representations of images in [0, 1], computed in float32."""
        network = self.network.clone(dtype=jnp.float32)
        return jnp.asarray(network.apply(variables, images, train=False))

    def encode(self, images: Float[np.ndarray, "n h w c"]) -> Float[np.ndarray, "n d"]:
        """Returns the representations of images in [0, 1], computed on the CPU.

        Accelerators multiply float32 with fewer bits unless told otherwise, and what is compared
        with the result runs on the CPU, too.
        """
        with jax.default_device(jax.local_devices(backend="cpu")[0]):
            return np.asarray(jax.jit(self.apply)(self.variables, images))
