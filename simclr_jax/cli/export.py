"""Takes the encoder of a run away: PyTorch, torchvision, timm, StableHLO, ONNX or TensorFlow.

An encoder of sounds goes with its spectrogram to PyTorch, StableHLO or ONNX, and the file
OUTPUT.json beside it says rate and length of the waveforms that it takes. Of a run of two towers
--tower takes one with its projector, whose rows are compared with those of the other; the tokenizer
and how both are used come beside the file. --format=open_clip takes both. A run on texts alone has
a text tower alone.

python -m simclr_jax export --workdir=runs/mine --format=safetensors --output=mine.safetensors
python -m simclr_jax export --workdir=runs/mine --format=onnx --output=mine.onnx
python -m simclr_jax export --workdir=runs/clip --tower=text --format=onnx --output=text.onnx
"""

import math
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from simclr_jax.cli import app, own_encoder
from simclr_jax.core.errors import UserError
from simclr_jax.core.files import require_writable
from simclr_jax.interop import formats
from simclr_jax.interop.text_tower import TrainedTowers
from simclr_jax.trained import export, restored

WORKDIR = app.define_workdir()
STEP = flags.DEFINE_integer("step", None, "Of the checkpoint; the newest whole one if left out.")
own_encoder.define()
FORMAT = flags.DEFINE_string("format", "", f"One of {', '.join(formats.FORMATS)}.")
TOWER = flags.DEFINE_enum(
    "tower", None, formats.TOWERS, "Which tower, with its projector; the encoder if left out."
)
OUTPUT = app.define_path(
    "output", "The file to write; for saved_model and open_clip a new directory."
)
MAX_DIFFERENCE = flags.DEFINE_float(
    "max_difference",
    formats.MAX_DIFFERENCE,
    "Largest difference from the JAX encoder that is accepted, relative to its largest feature.",
)
BATCH = flags.DEFINE_integer(
    "batch", None, "Images per call of a saved_model (1 if left out); other formats take any."
)


def main(argv: Sequence[str]) -> int:
    """Runs the verb; returns its exit code."""
    return app.run(_export, argv, required=("workdir", "format", "output"))


def _export() -> None:
    output, limit, options = Path(OUTPUT.value), MAX_DIFFERENCE.value, {}
    if not 0 < limit < math.inf:
        raise UserError(f"--max_difference={limit} must be a positive number, such as 1e-4.")
    if BATCH.value is not None:
        if FORMAT.value != "saved_model" or BATCH.value < 1:
            raise UserError(
                f"--batch={BATCH.value}: only --format=saved_model has a fixed number of images "
                "per call, 1 or more; leave the flag out for the other formats."
            )
        options["batch"] = BATCH.value
    formats.check_request(FORMAT.value, output, TOWER.value)
    require_writable(output, "--output")
    run = restored.load(WORKDIR.value, STEP.value, for_texts=True)
    taken, files = export.choose(run, FORMAT.value, TOWER.value)
    found, usage = formats.export(
        taken, output, FORMAT.value, beside=files, max_difference=limit, **options
    )
    print(
        f"{output}: largest difference from the JAX {_name(taken)} on {taken.examples_are} "
        f"{found.absolute:.2g}, which is {found.relative:.2g} of the largest feature.\n{usage}"
    )


def _name(taken: formats.Exportable) -> str:
    if isinstance(taken, TrainedTowers):
        return "towers"
    return "encoder" if taken.projection is None else "tower"
