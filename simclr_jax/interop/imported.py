"""The workdir of imported weights: what `evaluate`, `embed`, `train` and `export` take."""

import logging
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from etils import epath

from simclr_jax.core.errors import UserError
from simclr_jax.core.files import atomic_write
from simclr_jax.core.state import TrainState
from simclr_jax.interop.encoder import kind_of, settings_of
from simclr_jax.interop.recognition import Imported, Recognised, phrase
from simclr_jax.models.resnet import SMALLEST_IMAGE_PX, ResNet
from simclr_jax.models.vit import ViT
from simclr_jax.train import workdir as workdirs
from simclr_jax.train.checkpoint_writer import CheckpointWriter

log = logging.getLogger(__name__)

# What the official networks with either stem were trained on.
_IMAGES = {
    "imagenet": dict(name="tfds/imagenet2012", split="train", test_split="validation", canvas=8192),
    "cifar": dict(name="tfds/cifar10", split="train", test_split="test", canvas=32),
}
_IMAGE_SIZE_PX = {"imagenet": 224, "cifar": 32}
_BATCH_SIZE = 256


def require_free(workdir: str) -> None:
    """Checks that an import would not overwrite anything.

    Raises:
      UserError: if `workdir` is a file, or a directory that is not empty.
    """
    path = epath.Path(workdir)
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise UserError(
            f"--workdir={workdir} exists and is not empty; import into a new directory."
        )


def resolve_size(encoder: ResNet | ViT, size_px: int | None) -> int:
    """Returns the side of the views that evaluation cuts: `size_px`, or the side in training.

    Raises:
      UserError: if the encoder cannot take images of that size.
    """
    if isinstance(encoder, ViT):
        usual, smallest = encoder.learned_positions or 224, encoder.patch
        fits, needs = size_px is None or size_px % smallest == 0, f"multiples of {smallest} px"
    else:
        usual, smallest = _IMAGE_SIZE_PX[encoder.stem], SMALLEST_IMAGE_PX[encoder.stem]
        fits, needs = True, f"{smallest} px"
    if size_px is None:
        return usual
    if not fits or size_px < smallest:
        raise UserError(
            f"--size={size_px} does not fit a {phrase(encoder)}, which needs {needs} and was "
            f"trained on {usual} px."
        )
    return size_px


def write_workdir(
    workdir: str, imported: Imported, *, source: Mapping[str, Any], size_px: int, select: int
) -> None:
    """Writes config and checkpoint; the directory appears under its name when complete.

    Args:
      workdir: must not exist, or be empty.
      imported: network and weights.
      source: origin of the variables, the config's section "imported".
      size_px: side of the views that evaluation cuts.
      select: features that the classifier takes, if there is one; see `models.ssl.SSLModel`.
    """
    require_free(workdir)
    state = TrainState(
        step=jnp.asarray(imported.step, jnp.int32), **imported.variables, opt_state=()
    )
    with atomic_write(workdir) as unfinished:
        workdirs.claim(str(unfinished), _config(imported.network, source, size_px, select))
        log.info("Writing the checkpoint ...")
        with CheckpointWriter(str(unfinished)) as checkpoints:
            checkpoints.save(imported.step, state, {"next_example": 0, "listing": ""})


def _config(
    network: Recognised, source: Mapping[str, Any], size_px: int, select: int
) -> dict[str, Any]:
    encoder, projector, heads = network.encoder, network.projector, {}
    heads["projector"] = projector and {
        "num_layers": projector.num_layers,
        "hidden_dim": projector.hidden_dim,
        "output_dim": projector.output_dim,
    }
    if network.num_classes is not None:
        heads |= {"classifier": {"num_classes": network.num_classes}, "select": select}
    images = _IMAGES[encoder.stem if isinstance(encoder, ResNet) else "imagenet"]
    return {
        "imported": dict(source),
        "data": {**images, "path": None, "batch_size": _BATCH_SIZE},
        "augment": {"name": "eval", "size": size_px},
        "encoder": {"name": kind_of(encoder), **settings_of(encoder), "dtype": "float32"},
        "heads": heads,
    }
