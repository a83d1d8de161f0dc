"""Takes the encoder of a run away: PyTorch, torchvision, timm, StableHLO, ONNX or TensorFlow.

python -m simclr_jax export --workdir=runs/mine --format=safetensors --output=mine.safetensors
python -m simclr_jax export --workdir=runs/mine --format=onnx --output=mine.onnx
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from absl import flags

from simclr_jax.cli import app, own_encoder, restored
from simclr_jax.core.errors import UserError
from simclr_jax.core.files import require_writable
from simclr_jax.interop import formats
from simclr_jax.interop.encoder import TrainedEncoder

WORKDIR = app.define_workdir()
STEP = flags.DEFINE_integer("step", None, "Of the checkpoint; the newest whole one if left out.")
own_encoder.define()
FORMAT = flags.DEFINE_string("format", "", f"One of {', '.join(formats.FORMATS)}.")
OUTPUT = app.define_path("output", "The file to write; for saved_model a new directory.")
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
    formats.check_request(FORMAT.value, output)
    require_writable(output, "--output")
    encoder = _encoder(restored.load(WORKDIR.value, STEP.value))
    found, usage = formats.export(encoder, output, FORMAT.value, max_difference=limit, **options)
    print(
        f"{output}: largest difference from the JAX encoder on photographs {found.absolute:.2g}, "
        f"which is {found.relative:.2g} of the largest feature.\n{usage}"
    )


def _encoder(run: restored.Restored) -> TrainedEncoder:
    network: Any = run.model.encoder  # a linen module, which its protocol does not say
    params, batch_stats = (jax.device_get(run.variables[key]) for key in ("params", "batch_stats"))
    on_representation = run.model.classifier is not None and run.model.select == 0
    return TrainedEncoder(
        network=network,
        params=params["encoder"],
        batch_stats={"encoder": {}, **batch_stats}["encoder"],
        image_size=run.network.evaluation.cuts.size,
        classifier=params["classifier"] if on_representation else None,
    )
