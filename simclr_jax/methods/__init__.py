"""Training methods by the name that a config uses."""

from simclr_jax.methods.byol import byol
from simclr_jax.methods.distill import distill
from simclr_jax.methods.hybrid import hybrid
from simclr_jax.methods.simclr import simclr
from simclr_jax.methods.supcon import supcon
from simclr_jax.methods.supervised import supervised

METHODS = {
    "simclr": simclr,
    "supcon": supcon,
    "hybrid": hybrid,
    "byol": byol,
    "supervised": supervised,
    "distill": distill,
}
