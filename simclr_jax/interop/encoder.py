"""A trained encoder as export formats take it, and its representations."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeAlias, runtime_checkable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from simclr_jax.core.tree import path_name
from simclr_jax.core.types import Collection, Params
from simclr_jax.interop.parity import photographs
from simclr_jax.models.resnet import ResNet
from simclr_jax.models.vit import ViT

# What a network reads, such as images [n, h, w, 3] in [0, 1], to what it makes of it [n, d].
Encode: TypeAlias = Callable[..., np.ndarray]
OWN = "own"  # the kind of encoders that are not of this project
# Arguments that a network of each kind must be built with, elsewhere too.
SETTINGS: dict[str, tuple[str, ...]] = {
    "resnet": ("depth", "width", "sk_ratio", "stem", "geometry"),
    "vit": ("size", "patch", "num_heads", "learned_positions", "pool", "pre_norm"),
    OWN: (),
}


@runtime_checkable
class Trained(Protocol):
    """A network and its weights, as export formats take them.

    `TrainedEncoder`, `audio_tower.TrainedAudio` and `text_tower.TrainedText` implement it.
    """

    @property
    def network(self) -> nn.Module:
        """The network, unbound.

        Whatever type it trained in, exports compute in float32 if it has a setting dtype: its
        weights are float32, and bfloat16 is a choice of the machine that runs them.
        """
        ...

    @property
    def projection(self) -> np.ndarray | None:
        """Kernel [d, p] of the linear projector that a tower ends in; None to have none."""
        ...

    @property
    def kind(self) -> str:
        """Which network it is."""
        ...

    @property
    def settings(self) -> dict[str, Any]:
        """Settings to build it with elsewhere, as JSON can hold them."""
        ...

    @property
    def variables(self) -> Mapping[str, Any]:
        """The collections that `apply` takes."""
        ...

    def tensors(self) -> dict[str, Float[np.ndarray, "..."]]:
        """Returns float32 arrays by path, such as "params/encoder/stage1/block0/conv1/kernel".

        They are contiguous, which safetensors takes for granted: it would write a transposed
        view in the wrong order, without an error.
        """
        ...

    def inputs(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Returns what it reads, by name, without the leading axis of n."""
        ...

    def takes(self, *, channels_first: bool) -> str:
        """Returns what it reads in words, with channels where PyTorch, or else JAX, has them."""
        ...

    def examples(self) -> tuple[np.ndarray, ...]:
        """Returns example inputs, real enough that differences are those that people meet."""
        ...

    @property
    def examples_are(self) -> str:
        """What these are in words, such as "photographs"."""
        ...

    @property
    def apply(self) -> Callable[..., Array]:
        """(variables, *inputs) -> what the network makes of its inputs [n, d], in float32."""
        ...

    @property
    def encode(self) -> Encode:
        """Inputs -> what `apply` does with the own variables, computed on the CPU."""
        ...


def flat_tensors(tree: Mapping[str, Any]) -> dict[str, Float[np.ndarray, "..."]]:
    """Returns the leaves of a tree of collections, as of `Trained.tensors`."""
    return {
        path_name(path): np.ascontiguousarray(x, np.float32)
        for path, x in jax.tree_util.tree_leaves_with_path(tree)
    }


def on_cpu(trained: Trained, *inputs: np.ndarray) -> Float[np.ndarray, "n d"]:
    """Returns what a network makes of its inputs, computed on the CPU.

    Accelerators multiply float32 with fewer bits unless told otherwise, and what is compared
    with the result runs on the CPU, too.
    """
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        return np.asarray(jax.jit(trained.apply)(trained.variables, *inputs))


def kind_of(network: nn.Module) -> str:
    """Returns the key of a network in `SETTINGS`: but for `OWN`, its name in a config."""
    if isinstance(network, ResNet):
        return "resnet"
    return "vit" if isinstance(network, ViT) else OWN


def settings_of(network: nn.Module) -> dict[str, Any]:
    """Returns the settings to build the network with, as JSON can hold them."""
    settings = {name: getattr(network, name) for name in SETTINGS[kind_of(network)]}
    if isinstance(network, ResNet) and network.normalizes:
        settings |= {"input_mean": network.input_mean, "input_std": network.input_std}
    return settings


def encoder_tensors(trained: Trained) -> dict[str, Float[np.ndarray, "..."]]:
    """Returns the arrays of an encoder, and its projection at params/projector/dense1/kernel."""
    tree = {collection: {"encoder": leaves} for collection, leaves in trained.variables.items()}
    if trained.projection is not None:
        tree["params"]["projector"] = {"dense1": {"kernel": trained.projection}}
    return flat_tensors(tree)


def represent(
    trained: Trained, variables: Mapping[str, Any], images: Float[Array, "n h w c"]
) -> Float[Array, "n d"]:
    """Returns what an encoder, and its projection if it has one, make of images, in float32."""
    network = trained.network
    if hasattr(network, "dtype"):
        network = network.clone(dtype=jnp.float32)
    out = jnp.asarray(network.apply(variables, images, train=False))
    return out if trained.projection is None else out @ trained.projection


@dataclasses.dataclass(frozen=True)
class TrainedEncoder:
    """A network of images and its weights, as every export format takes them.

    Attributes:
      network: see `Trained`.
      params: parameters of the encoder, from params/encoder of a run; host arrays.
      batch_stats: statistics of the encoder, from batch_stats/encoder of a run; host arrays.
      image_size: side in pixels of the images that it was trained on.
      classifier: "kernel" [d, k] and "bias" [k] of a linear layer on the representation; None
        where there is none.
      channels: how many channels these images have.
      projection: see `Trained`.
    """

    network: nn.Module
    params: Params
    batch_stats: Collection
    image_size: int
    classifier: Params | None = None
    channels: int = 3
    projection: Float[np.ndarray, "d p"] | None = None

    @property
    def kind(self) -> str:
        """Which network it is, a key of `SETTINGS`."""
        return kind_of(self.network)

    @property
    def settings(self) -> dict[str, Any]:
        """See `settings_of`."""
        return settings_of(self.network)

    @property
    def variables(self) -> Mapping[str, Any]:
        """The collections that `apply` takes."""
        return {"params": self.params, "batch_stats": self.batch_stats}

    def tensors(self) -> dict[str, Float[np.ndarray, "..."]]:
        """See `Trained.tensors` and `encoder_tensors`."""
        return encoder_tensors(self)

    def inputs(self) -> dict[str, jax.ShapeDtypeStruct]:
        """See `Trained.inputs`."""
        shape = (self.image_size, self.image_size, self.channels)
        return {"images": jax.ShapeDtypeStruct(shape, jnp.float32)}

    def takes(self, *, channels_first: bool) -> str:
        """See `Trained.takes`."""
        side, channels = self.image_size, self.channels
        shape = f"{channels}, {side}, {side}" if channels_first else f"{side}, {side}, {channels}"
        return f"float32 images [n, {shape}] in [0, 1]"

    def examples(self) -> tuple[np.ndarray, ...]:
        """Returns 8 crops of photographs."""
        return (photographs(self.image_size, self.channels),)

    @property
    def examples_are(self) -> str:
        """See `Trained.examples_are`."""
        return "photographs"

    def facts(self) -> dict[str, Any]:
        """Returns what a program must know to use it, as JSON can hold it."""
        return {
            "images": self.takes(channels_first=True) + " to PyTorch and ONNX; "
            "channels come last in StableHLO. No mean or deviation is subtracted or divided by.",
            "image_size": self.image_size,
        }

    def apply(
        self, variables: Mapping[str, Any], images: Float[Array, "n h w c"]
    ) -> Float[Array, "n d"]:
        """Returns the representations of images in [0, 1], or their projections."""
        return represent(self, variables, images)

    def encode(self, images: Float[np.ndarray, "n h w c"]) -> Float[np.ndarray, "n d"]:
        """Returns what `apply` does; see `on_cpu`."""
        return on_cpu(self, images)
