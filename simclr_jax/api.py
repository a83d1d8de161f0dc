"""The program from Python, for notebooks and other programs: train, load, evaluate, sweep.

    import simclr_jax

    simclr_jax.train("simclr_folder:laptop", data={"path": "photos"}, workdir="runs/mine")
    encoder = simclr_jax.load("runs/mine")
    features = encoder(["photos/a.jpg", "photos/b.jpg"])  # float32 [2, d]

A mistake raises `UserError`, with the message that the command line prints. Progress is logged by
the logger "simclr_jax", at level INFO.
"""

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from simclr_jax import run, sweeps
from simclr_jax.build import recipe as recipes
from simclr_jax.core.errors import UserError
from simclr_jax.core.files import expand_workdir
from simclr_jax.core.types import Batch
from simclr_jax.data.given import Given, GivenImage
from simclr_jax.data.quarantine import Quarantine
from simclr_jax.evals.features import extract_features
from simclr_jax.interop import formats
from simclr_jax.report.sweep import as_row
from simclr_jax.trained import evaluate as trained_evaluate
from simclr_jax.trained import export as trained_export
from simclr_jax.trained import restored


def train(recipe: str, *, workdir: str | os.PathLike[str], **sections: Any) -> None:
    """Trains by a recipe, or goes on with the run that `workdir` holds.

    Args:
      recipe: NAME[:VARIANT], such as "simclr_folder:laptop", or PATH[:VARIANT] of one's own.
      workdir: directory of the run: checkpoints, metrics.
      **sections: dicts of what differs from the recipe, such as data={"path": "photos"},
        method={"memory": {"size": 4096}}; keys as of `simclr-jax train --config=... --help-config`.
        Or precision="bf16", for the types of the encoder and of the augmentation.

    Raises:
      UserError: if there is no such recipe or key, or a value or the images do not fit.
      TryAgainError: if a run trains in `workdir` already.
      NonFiniteError: if the loss is not finite any more.
      Terminated: if the process got SIGTERM, SIGHUP or Ctrl-C; a checkpoint is saved first.
    """
    run.train(recipes.load(recipe, sections), _workdir(workdir))


def evaluate(workdir: str | os.PathLike[str], **settings: Any) -> list[dict[str, Any]]:
    """Judges a run and returns a row for each figure; see `trained.evaluate.evaluate`.

    Args:
      workdir: directory of a run or an import.
      **settings: flags of the command, such as protocol=["knn"], fractions=[0.01, 1].
    """
    return trained_evaluate.evaluate(_workdir(workdir), **settings)


def sweep(
    recipe: str,
    *,
    key: str,
    values: Sequence[Any],
    workdir: str | os.PathLike[str],
    seeds: Sequence[int] = (),
    fractions: Sequence[float | int] = trained_evaluate.FRACTIONS,
    **sections: Any,
) -> list[dict[str, Any]]:
    """Trains and judges a run for each value of a setting; the same call goes on after a stop.

    Args:
      recipe: as of `train`.
      key: path of the setting, such as "augment.color_strength".
      values: its values.
      workdir: directory of the sweep: the page sweep.html, and a directory for each run.
      seeds: runs of each value; the recipe's own seed if there are none.
      fractions: shares of the labels for kNN and linear probe.
      **sections: as of `train`, for all runs.

    Returns:
      A row for each run: "value", "seed", "workdir", and the measures of the run, such as "knn 1"
      (top-1 in [0, 1] with all labels), "below_chance", "alignment", "uniformity",
      "effective_rank". A run that failed, as one that diverged, has "failure" instead: why.

    Raises:
      As `train` does, but for what one run fails by.
    """
    config = recipes.load(recipe, sections)
    points = sweeps.sweep(
        lambda value: recipes.changed(config, {key: value}),
        key=key,
        values=values,
        seeds=seeds,
        workdir=_workdir(workdir),
        fractions=fractions,
    )
    return [*map(as_row, points)]


def load(workdir: str | os.PathLike[str], *, step: int | None = None) -> "Encoder":
    """Returns the encoder of a run or an import, at its newest whole checkpoint or that of a step.

    Raises:
      UserError: if there is none.
      StorageError: if the checkpoint cannot be read.
    """
    return Encoder(restored.load(_workdir(workdir), step, for_texts=True))


@dataclasses.dataclass(frozen=True)
class Encoder:
    """A trained encoder: images in, representations out.

    Attributes:
      run: the network that it is part of, and the config that it was trained by.
    """

    run: restored.Restored

    def __call__(self, images: Sequence[GivenImage] | np.ndarray) -> Float[np.ndarray, "n d"]:
        """Returns the representations of images, a row for each, in their order.

        An image is seen as `evaluate` sees it: the whole of it, or its centre, at the size of the
        views that the encoder was trained on.

        Args:
          images: paths, uint8 arrays [h, w, 3] or [h, w], and PIL images, in any mixture; or one
            uint8 array [n, h, w, 3]. For a run on sounds, paths of sounds.

        Raises:
          UserError: if one of them cannot be read, naming it.
        """
        return self._rows(images, self.run.encode)

    def project(self, images: Sequence[GivenImage] | np.ndarray) -> Float[np.ndarray, "n d"]:
        """Returns the rows of images that are compared with those of captions, by cosine.

        Args:
          images: as for a call.

        Raises:
          UserError: as for a call, or if the run has no text tower.
        """
        self.run.require_text()
        return self._rows(images, self.run.project)

    def embed_text(self, captions: Sequence[str]) -> Float[np.ndarray, "n d"]:
        """Returns the rows of captions that are compared with those of images, by cosine.

        Raises:
          UserError: if the run has no text tower.
        """
        return self.run.embed_captions(captions)

    def _rows(
        self, images: Sequence[GivenImage] | np.ndarray, apply: Callable[[Batch], jax.Array]
    ) -> Float[np.ndarray, "n d"]:
        self.run.require_encoder()
        cuts, unreadable = self.run.network.evaluation.cuts, Quarantine()
        source = Given(images, self.run.dataset.rendering, has_sounds=self.run.takes_sounds)
        rows = min(self.run.dataset.batch_size, 1 << (len(source) - 1).bit_length())
        devices = self.run.mesh.size  # which share a batch evenly
        dataset = dataclasses.replace(self.run.dataset, batch_size=-(-rows // devices) * devices)
        batches = dataset.eval_batches(source, cuts, quarantine=unreadable)
        features = extract_features(apply, batches, self.run.mesh).features
        for entry in unreadable.entries.values():
            raise UserError(
                f"{unreadable.count} of {len(source)} {self.run.examples} cannot be read; "
                f"{entry.name}: {entry.reason}."
            )
        return features

    def export(
        self,
        path: str | os.PathLike[str],
        *,
        format: str,
        tower: str | None = None,
        max_difference: float = formats.MAX_DIFFERENCE,
        **options: Any,
    ) -> formats.Exported:
        """Writes the encoder to a file, once the file computes what the encoder does.

        Args:
          path: the file, or for a SavedModel and for OpenCLIP the directory.
          format: "safetensors", "torchvision", "timm", "open_clip" (both towers), "stablehlo",
            "onnx" or "saved_model".
          tower: "image", "audio" or "text", for a tower with its projector; see
            `trained.export.export`.
          max_difference: largest difference allowed; see `interop.formats.export`.
          **options: options of the format, such as batch=8 of a SavedModel.

        Returns:
          The difference from this encoder on photographs, sounds or texts, and how the file is
          used.

        Raises:
          UserError: as for `interop.formats.export`.
        """
        where = Path(path).expanduser()
        options["max_difference"] = max_difference
        return trained_export.export(self.run, where, format, tower, **options)


def _workdir(path: str | os.PathLike[str]) -> str:
    try:
        return expand_workdir(os.fspath(path))
    except ValueError as error:
        raise UserError(f"workdir={os.fspath(path)}: {error}") from error
