"""Trained encoders and towers out: each file is read back and compared before it appears."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

from simclr_jax.core.errors import UserError, did_you_mean
from simclr_jax.core.files import atomic_write, write_text
from simclr_jax.core.optional import import_optional
from simclr_jax.interop import (
    onnx_format,
    open_clip_format,
    safetensors_format,
    saved_model,
    stablehlo,
    timm_format,
    torchvision_format,
)
from simclr_jax.interop.audio_tower import TrainedAudio
from simclr_jax.interop.encoder import OWN, Encode, TrainedEncoder, kind_of
from simclr_jax.interop.parity import Difference, difference
from simclr_jax.interop.text_tower import TrainedText, TrainedTowers
from simclr_jax.models.text import TextTransformer
from simclr_jax.models.vit import ViT

TOWERS = ("image", "audio", "text")
ENCODER, TOWER = "an image encoder without a projector", "any encoder, and any tower"
BOTH = "a tower of images and one of texts"
Exportable: TypeAlias = TrainedEncoder | TrainedAudio | TrainedText | TrainedTowers
MAX_DIFFERENCE = 1e-4
_TWO_GIB = 2**31
_TORCH_POOLS = ("token", "end", "mean")


@dataclasses.dataclass(frozen=True)
class Format:
    """One way to take an encoder away.

    Attributes:
      suffix: end of the file's name; "" for a directory.
      packages: packages that writing and reading need beside a plain install.
      write: (encoder, path, **options) -> one sentence on how to use the file.
      read: path -> what the file's consumer computes with it.
      max_bytes: size that a file of this format can have; None for no limit.
      holds: `ENCODER`, `TOWER` or `BOTH`.
    """

    suffix: str
    packages: tuple[str, ...]
    write: Callable[..., str]
    read: Callable[[Path], Encode]
    max_bytes: int | None = None
    holds: str = ENCODER


FORMATS = {
    "safetensors": Format(
        ".safetensors",
        ("safetensors", "torch"),
        safetensors_format.write,
        safetensors_format.read,
        holds=TOWER,
    ),
    "torchvision": Format(
        ".safetensors",
        ("safetensors", "torch"),
        torchvision_format.write,
        torchvision_format.read,
    ),
    "timm": Format(
        ".safetensors",
        ("safetensors", "torch"),
        timm_format.write,
        timm_format.read,
    ),
    "open_clip": Format(
        "",
        ("safetensors", "torch", "open_clip"),
        open_clip_format.write,
        open_clip_format.read,
        holds=BOTH,
    ),
    "stablehlo": Format(
        ".stablehlo", ("flatbuffers",), stablehlo.write, stablehlo.read, _TWO_GIB, TOWER
    ),
    "onnx": Format(
        ".onnx",
        ("safetensors", "torch", "onnx", "onnxscript", "onnxruntime"),
        onnx_format.write,
        onnx_format.read,
        _TWO_GIB,
        TOWER,
    ),
    "saved_model": Format("", ("tensorflow",), saved_model.write, saved_model.read),
}


class Exported(NamedTuple):
    """Result of `export`.

    Attributes:
      difference: between the file and the JAX encoder, on photographs, sounds or texts.
      usage: one sentence on how to use the file.
    """

    difference: Difference
    usage: str


def check_request(format_name: str, path: Path, tower: str | None = None) -> None:
    """Checks a request for an export before a run is loaded.

    Args:
      format_name: a key of `FORMATS`.
      path: the file, or the directory.
      tower: one of `TOWERS`, or None.

    Raises:
      UserError: if there is no such format, it does not hold a tower, a package that it needs is
        missing, or the output has the wrong suffix, lies in a directory that does not exist, or
        may not be overwritten.
    """
    if format_name not in FORMATS:
        raise UserError(
            f"--format={format_name} does not exist.{did_you_mean(format_name, FORMATS)} "
            f"Known formats: {', '.join(FORMATS)}."
        )
    chosen = FORMATS[format_name]
    if tower is not None:
        _check_tower(tower, format_name, chosen)
    if not path.parent.is_dir():
        raise UserError(f"--output={path}: the directory {path.parent} does not exist.")
    if not chosen.suffix and path.exists():
        raise UserError(
            f"--output={path} exists; --format={format_name} makes a new directory. "
            "Remove it, or give another name."
        )
    if chosen.suffix and (path.suffix != chosen.suffix or path.is_dir()):
        raise UserError(
            f"--output={path} must be a file whose name ends in {chosen.suffix} for "
            f"--format={format_name}, such as encoder{chosen.suffix}."
        )
    for package in chosen.packages:
        import_optional(package)


def export(
    encoder: Exportable,
    path: Path,
    format_name: str,
    *,
    beside: Mapping[str, str] = MappingProxyType({}),
    max_difference: float = MAX_DIFFERENCE,
    **options: Any,
) -> Exported:
    """Writes an encoder or towers, if what is written computes what they compute.

    The file is read back by those who will use it (PyTorch, ONNX Runtime, TensorFlow, JAX) and
    run on real photographs, on sounds or on texts. It appears under its name only after that
    comparison.

    Args:
      encoder: what to write; what the format holds.
      path: the file, or for a SavedModel and for OpenCLIP the directory.
      format_name: a key of `FORMATS`.
      beside: texts of files to write beside it, by what follows its name in theirs.
      max_difference: largest difference between two features that is accepted, relative to the
        largest feature of the encoder.
      **options: options of the format's `write`.

    Raises:
      UserError: as `check_request` does; if the format cannot hold this encoder; or if the
        difference is larger than accepted. Nothing is left behind then.
    """
    check_request(format_name, path)
    chosen = FORMATS[format_name]
    _check_fits(encoder, format_name, chosen.max_bytes)
    with atomic_write(path) as temporary:
        unfinished = Path(temporary)
        usage = chosen.write(encoder, unfinished, **options)
        inputs = encoder.examples()
        got, want = chosen.read(unfinished)(*inputs), encoder.encode(*inputs)
        found = difference(got, want, encoder.examples_are)
        if not found.relative <= max_difference:
            raise UserError(_refusal(encoder, format_name, found, max_difference))
        for end, text in beside.items():
            write_text(path.with_name(path.name + end), text)
    return Exported(found, usage)


def require_any(format_name: str, what: str) -> None:
    """Checks that a format holds more than encoders of images.

    Args:
      format_name: a key of `FORMATS`.
      what: what it is asked to hold, such as "a text tower".

    Raises:
      UserError: naming those that do.
    """
    holds = FORMATS[format_name].holds
    if holds != TOWER:
        able = [name for name, one in FORMATS.items() if one.holds == TOWER]
        raise UserError(
            f"--format={format_name} holds {holds}, and not {what}. Use "
            f"--format={' or --format='.join(able)}."
        )


def _check_tower(tower: str, format_name: str, chosen: Format) -> None:
    if tower not in TOWERS:
        raise UserError(f"--tower={tower} does not exist: it is {' or '.join(TOWERS)}.")
    if chosen.holds == BOTH and tower != "audio":
        raise UserError(f"--format={format_name} holds both towers; leave --tower out.")
    require_any(format_name, f"one tower, as --tower={tower} asks")


def _check_fits(encoder: Exportable, format_name: str, max_bytes: int | None) -> None:
    if isinstance(encoder, TrainedTowers):
        return
    network, unknown = encoder.network, ""
    if isinstance(network, ViT | TextTransformer):
        if network.pool not in _TORCH_POOLS:
            unknown = f"{type(network).__name__} with pool={network.pool!r}"
    elif kind_of(network) == OWN:
        unknown = type(network).__name__
    if unknown and "torch" in FORMATS[format_name].packages:
        raise UserError(
            f"--format={format_name} builds the network again in PyTorch, which has no {unknown}. "
            "Use --format=stablehlo, which takes any network; of an encoder without a projector "
            "--format=saved_model does, too."
        )
    channels = encoder.channels if isinstance(encoder, TrainedEncoder) else 3
    if channels != 3 and format_name in ("torchvision", "timm"):
        raise UserError(
            f"--format={format_name} holds encoders of images of 3 channels, and this one takes "
            f"{channels}. Use --format=safetensors, --format=onnx or --format=stablehlo."
        )
    num_bytes = sum(x.nbytes for x in encoder.tensors().values())
    if max_bytes is not None and num_bytes >= max_bytes:
        raise UserError(
            f"--format={format_name} holds at most {max_bytes / 2**30:.0f} GiB in one file, and "
            f"the encoder has {num_bytes / 2**30:.1f} GiB of weights. Use --format=safetensors or "
            "--format=saved_model, which have no such limit."
        )


def _refusal(encoder: Exportable, format_name: str, found: Difference, limit: float) -> str:
    message = (
        f"--format={format_name} differs from the JAX encoder by {found.relative:.2g} of the "
        f"largest feature ({found.absolute:.2g} absolute) on {encoder.examples_are}, more than "
        f"--max_difference={limit:g}. Nothing was written. "
    )
    accept = f"--max_difference={2 * found.relative:.1g} to accept the difference"
    settings = {} if isinstance(encoder, TrainedTowers) else encoder.settings
    if format_name == "torchvision" and settings["geometry"] != "torchvision":
        return message + (
            "The reason: torchvision's max-pool pads both sides of an image, the one that this "
            "encoder was trained with pads an even image at the bottom right only. What works: "
            "--format=safetensors with simclr_jax/interop/torch_resnet.py, which is exact; "
            f"{accept}, which fine-tuning makes up for; or "
            "config.encoder.geometry='torchvision' in the next training."
        )
    return message + f"Another format may be exact; or give {accept}."
