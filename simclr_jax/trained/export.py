"""Takes a trained network, or one or both of its towers, away as a file."""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from simclr_jax.core.errors import UserError
from simclr_jax.data.text import read_tokenizer
from simclr_jax.interop import formats
from simclr_jax.interop.audio_tower import TrainedAudio
from simclr_jax.interop.encoder import TrainedEncoder
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
      tower: one of `formats.TOWERS`, for a tower with its projector, and beside the file the
        tokenizer, PATH.tokenizer.json, and how it is used, PATH.json. None for the encoder, with
        PATH.json beside one of sounds; or, of a run without one, for the text tower.
      **options: options of `formats.export`.

    Raises:
      UserError: as `formats.export` and `choose` do.
    """
    formats.check_request(format_name, path, tower)
    taken, files = choose(run, format_name, tower)
    return formats.export(taken, path, format_name, beside=files, **options)


class Choice(NamedTuple):
    """What is taken away, and the files beside it, by the ends of their names."""

    taken: formats.Exportable
    files: Mapping[str, str]


def choose(run: Restored, format_name: str, tower: str | None) -> Choice:
    """Returns what of a run a format and a tower ask for; arguments as for `export`.

    Raises:
      UserError: if the format does not hold it, or the run has no such tower.
      StorageError: if the checkpoint cannot be read.
    """
    if run.model.encoder is None:
        return _text_alone(run, format_name, tower)
    if run.takes_sounds:
        formats.require_any(format_name, f"the encoder of {run.workdir}, which takes sounds")
    if formats.FORMATS[format_name].holds == formats.BOTH:
        return Choice(towers_of(run), {})
    encoder = run.encoder_to_export()
    if tower is None:  # images need no more words than the format's own
        return Choice(encoder, beside(encoder.facts()) if run.takes_sounds else {})
    seen = "audio" if run.takes_sounds else "image"
    if tower not in (seen, "text"):
        raise UserError(
            f"--tower={tower}: the towers of {run.workdir} are {seen} and text. Use "
            f"--tower={seen}, or leave the flag out for the encoder without its projector."
        )
    text, scale, bias = text_of(run)
    taken = text if tower == "text" else _with_projection(run, encoder)
    return Choice(
        taken, beside({**encoder.facts(), **text_facts(text, scale, bias)}, text.tokenizer)
    )


def _text_alone(run: Restored, format_name: str, tower: str | None) -> Choice:
    """Returns the text tower of a run that has no other network."""
    if tower not in (None, "text"):
        raise UserError(
            f"--tower={tower}: {run.workdir} was trained on texts alone and has a text tower. Use "
            "--tower=text, or leave the flag out."
        )
    formats.require_any(format_name, f"the text tower of {run.workdir}, which has no encoder")
    text, scale, bias = text_of(run)
    return Choice(text, beside(text_facts(text, scale, bias), text.tokenizer))


def towers_of(run: Restored) -> TrainedTowers:
    """Returns both towers of a run on images, as export formats take them.

    Raises:
      UserError: if the run has no text tower, its tokenizer is not there, or a projector is not
        linear.
      StorageError: if the checkpoint cannot be read.
    """
    text, scale, bias = text_of(run)
    image = _with_projection(run, run.encoder_to_export())
    assert isinstance(image, TrainedEncoder)  # of images
    assert scale is not None  # of two towers
    return TrainedTowers(image, text, scale, bias)


def _with_projection(
    run: Restored, encoder: TrainedEncoder | TrainedAudio
) -> TrainedEncoder | TrainedAudio:
    params = jax.device_get(run.variables["params"])
    projection = _linear(run.model.projector, params, "projector")
    return dataclasses.replace(encoder, projection=projection)


def text_of(run: Restored) -> tuple[TrainedText, float | None, float | None]:
    """Returns the text tower of a run, and scale and bias of its logits; see `text_facts`.

    Raises:
      As `towers_of` does.
    """
    tokenizer = read_tokenizer(run.workdir, run.require_text())
    params = jax.device_get(run.variables["params"])
    assert run.model.text is not None  # of `require_text`
    projection = _linear(run.model.text_projector, params, "text_projector")
    text = TrainedText(run.model.text, params["text"], projection, tokenizer)
    scalars = _scalars(run)
    scale = math.exp(scalars["log_scale"]) if "log_scale" in scalars else None
    return text, scale, scalars.get("logit_bias")


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
    if not wanted:  # as of a text tower alone
        return {}
    found = checkpoints.restore_variables(run.step, {"params": wanted})["params"]
    return {name: float(x) for name, x in found.items()}
