"""Takes a trained network, or one or both of its towers, away as a file."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from simclr_jax.core.errors import UserError
from simclr_jax.data.text import read_tokenizer
from simclr_jax.interop import formats
from simclr_jax.interop.text_tower import TrainedText, TrainedTowers, beside, text_facts
from simclr_jax.models.heads import MLP
from simclr_jax.parallel.sharding import replicated
from simclr_jax.train.checkpoint import Checkpoints
from simclr_jax.trained.restored import Restored


def export(
    run: Restored, path: Path, format_name: str, tower: str | None = None, **options: Any
) -> formats.Exported:
    """Writes the encoder of a run, or what its format or `tower` says, to a file.

    Args:
      run: what to take it from.
      path: the file, or for a SavedModel and for OpenCLIP the directory.
      format_name: a key of `formats.FORMATS`.
      tower: one of `formats.TOWERS`, for a tower with its projector, and beside the file its
        tokenizer, PATH.tokenizer.json, and how it is used, PATH.json; None for the encoder.
      **options: options of `formats.export`.

    Raises:
      UserError: as `formats.export` does, or if the run has no such towers.
    """
    formats.check_request(format_name, path, tower)
    if formats.FORMATS[format_name].holds == formats.BOTH:
        return formats.export(towers_of(run), path, format_name, **options)
    if tower is None:
        return formats.export(run.encoder_to_export(), path, format_name, **options)
    if tower == "text" and run.takes_sounds:  # whose encoder is in no file
        text, scale, bias = text_of(run)
        one, facts = text, text_facts(text, scale, bias)
    else:
        both = towers_of(run)
        one, facts, text = both.image if tower == "image" else both.text, both.facts(), both.text
    files = beside(facts, text.tokenizer)
    return formats.export(one, path, format_name, beside=files, **options)


def towers_of(run: Restored) -> TrainedTowers:
    """Returns both towers of a run, as export formats take them.

    Raises:
      UserError: if the run has no text tower, its tokenizer is not there, or a projector is not
        linear.
      StorageError: if the checkpoint cannot be read.
    """
    text, scale, bias = text_of(run)
    params = jax.device_get(run.variables["params"])
    projection = _linear(run.model.projector, params, "projector")
    image = dataclasses.replace(run.encoder_to_export(), projection=projection)
    return TrainedTowers(image, text, scale, bias)


def text_of(run: Restored) -> tuple[TrainedText, float, float | None]:
    """Returns the text tower of a run, and scale and bias of its logits; see `TrainedTowers`.

    Raises:
      As `towers_of` does.
    """
    tokenizer = read_tokenizer(run.workdir, run.require_text())
    params = jax.device_get(run.variables["params"])
    assert run.model.text is not None  # of `require_text`
    projection = _linear(run.model.text_projector, params, "text_projector")
    text = TrainedText(run.model.text, params["text"], projection, tokenizer)
    scalars = _scalars(run)
    return text, math.exp(scalars["log_scale"]), scalars.get("logit_bias")


def _linear(projector: MLP | None, params: Any, name: str) -> Float[np.ndarray, "d p"]:
    """Returns the kernel of a projector, if that is all it has."""
    linear = (1, "none", False)
    if projector is None or linear != (
        projector.num_layers,
        projector.last_norm,
        projector.last_bias,
    ):
        raise UserError(
            f"config.heads.{name} of the run is no linear projector, which a tower is exported "
            "with: num_layers=1, last_norm='none' and last_bias=False, as in the recipe clip. "
            "Without --tower, the encoder is exported alone."
        )
    return np.asarray(params[name]["dense1"]["kernel"])


def _scalars(run: Restored) -> dict[str, float]:
    """Returns what the run learned beside its networks: numbers at params/NAME."""
    checkpoints = Checkpoints(run.workdir)
    stored = checkpoints.shapes(run.step)["params"]
    wanted = {
        name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated(run.mesh))
        for name, x in stored.items()
        if getattr(x, "shape", None) == ()
    }
    found = checkpoints.restore_variables(run.step, {"params": wanted})["params"]
    return {name: float(x) for name, x in found.items()}
