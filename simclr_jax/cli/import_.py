"""Takes weights in: official SimCLR checkpoints (TensorFlow), and torchvision's and timm's.

python -m simclr_jax import --format=tf --checkpoint=r50_1x_sk1 --workdir=runs/r50_sk
python -m simclr_jax import --format=safetensors --normalization=imagenet --checkpoint=F --workdir=D

The network is recognised by names and shapes: of TF1, TF2 or SavedModel, v1 and v2; of the
ResNets and ViTs of torchvision and timm. The workdir is one like any other: `evaluate`, `embed`,
`export` and the warm start of `train` take it.
"""

from collections.abc import Sequence

import jax
from absl import flags

from simclr_jax.cli import app
from simclr_jax.core.errors import UserError
from simclr_jax.interop.imported import require_free, resolve_size, write_workdir
from simclr_jax.interop.recognition import Imported
from simclr_jax.interop.tf_checkpoint import read_checkpoint
from simclr_jax.interop.torch_checkpoint import NORMALIZATIONS, read_state_dict

FORMATS = ("tf", "safetensors")

FORMAT = flags.DEFINE_enum("format", "tf", FORMATS, "Of the checkpoint.")
CHECKPOINT = app.define_path(
    "checkpoint", "tf: prefix of its files, or their directory. safetensors: the file."
)
WORKDIR = app.define_workdir("Directory to write; must not exist yet.")
EMA = flags.DEFINE_bool("ema", False, "tf: takes the ema_model/ copies in place of the weights.")
SIZE = flags.DEFINE_integer("size", None, "Image size in px; that of the training if left out.")
SELECT = flags.DEFINE_enum(
    "select", "0", ["0", "1"], "tf: input of its classifier: 0 the encoder, 1 projector layer 1."
)
NORMALIZATION = flags.DEFINE_enum(
    "normalization",
    None,
    [*NORMALIZATIONS],
    "safetensors: mean and deviation that it expects images to be normalised with, which no file "
    "tells: imagenet for torchvision and most of timm, inception (0.5) for timm's augreg ViTs, "
    "none for what this project exported.",
)
NUM_HEADS = flags.DEFINE_integer(
    "num_heads", None, "safetensors: attention heads of a ViT, if not the usual of its size."
)


def main(argv: Sequence[str]) -> int:
    """Runs the verb; returns its exit code."""
    return app.run(_import, argv, required=("checkpoint", "workdir"))


def _import() -> None:
    jax.config.update("jax_platforms", "cpu")  # a conversion should not wait for an accelerator
    workdir, select = WORKDIR.value, int(SELECT.value)
    require_free(workdir)
    imported, source = _read()
    network = imported.network
    write_workdir(
        workdir,
        imported,
        source={"format": FORMAT.value, "checkpoint": CHECKPOINT.value, **source},
        size_px=resolve_size(network.encoder, SIZE.value),
        select=select,
    )
    ignored = ", ".join(f"{kind} {count}" for kind, count in sorted(network.ignored.items()))
    print(
        f"{network}: {len(network.names)} variables, {network.encoder_size / 1e6:.2f} M parameters "
        f"in the encoder, step {imported.step}; ignored: {ignored or 'nothing'}; "
        f"written to {workdir}"
    )


def _read() -> tuple[Imported, dict[str, object]]:
    """Returns what the checkpoint holds, and how it was read."""
    of_tf = {"ema": EMA.present, "select": SELECT.present}
    of_safetensors = {"normalization": NORMALIZATION.present, "num_heads": NUM_HEADS.present}
    foreign = of_safetensors if FORMAT.value == "tf" else of_tf
    for name, given in foreign.items():
        if given:
            raise UserError(f"--{name} does not go with --format={FORMAT.value}; leave it out.")
    if FORMAT.value == "tf":
        imported = read_checkpoint(CHECKPOINT.value, ema=EMA.value, select=int(SELECT.value))
        return imported, {"ema": EMA.value}
    if NORMALIZATION.value is None:
        raise UserError(f"--normalization is missing: {flags.FLAGS['normalization'].help}")
    source = {"normalization": NORMALIZATION.value, "num_heads": NUM_HEADS.value}
    return read_state_dict(CHECKPOINT.value, **source), source
