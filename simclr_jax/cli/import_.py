"""Takes checkpoints of the official SimCLR code in: TF1, TF2 or SavedModel, v1 and v2.

python -m simclr_jax import --format=tf --checkpoint=r50_1x_sk1 --workdir=runs/r50_sk

The network is recognised by names and shapes. The workdir is one like any other: `evaluate`,
`embed`, `export` and the warm start of `train` take it. Reading needs TensorFlow.
"""

from collections.abc import Sequence

import jax
from absl import flags

from simclr_jax.cli import app
from simclr_jax.interop.imported import require_free, resolve_size, write_workdir
from simclr_jax.interop.tf_checkpoint import read_checkpoint

FORMATS = ("tf",)

FORMAT = flags.DEFINE_enum("format", "tf", FORMATS, "Of the checkpoint; tf is the only one.")
CHECKPOINT = app.define_path("checkpoint", "Prefix of its files, or their directory.")
WORKDIR = app.define_workdir("Directory to write; must not exist yet.")
EMA = flags.DEFINE_bool("ema", False, "Takes the ema_model/ copies in place of the weights.")
SIZE = flags.DEFINE_integer("size", None, "Image size in px; 224, or 32 with the CIFAR stem.")
SELECT = flags.DEFINE_enum(
    "select", "0", ["0", "1"], "Input of its classifier: 0 the encoder, 1 projector layer 1."
)


def main(argv: Sequence[str]) -> int:
    """Runs the verb; returns its exit code."""
    return app.run(_import, argv, required=("checkpoint", "workdir"))


def _import() -> None:
    jax.config.update("jax_platforms", "cpu")  # a conversion should not wait for an accelerator
    workdir, select = WORKDIR.value, int(SELECT.value)
    require_free(workdir)
    imported = read_checkpoint(CHECKPOINT.value, ema=EMA.value, select=select)
    network = imported.network
    write_workdir(
        workdir,
        imported,
        source={"format": FORMAT.value, "checkpoint": CHECKPOINT.value, "ema": EMA.value},
        size_px=resolve_size(network.encoder.stem, SIZE.value),
        select=select,
    )
    ignored = ", ".join(f"{kind} {count}" for kind, count in sorted(network.ignored.items()))
    print(
        f"{network}: {len(network.names)} variables, {network.encoder_size / 1e6:.2f} M parameters "
        f"in the encoder, step {imported.step}; ignored: {ignored or 'nothing'}; "
        f"written to {workdir}"
    )
