"""Training methods by the name that a config uses."""

from simclr_jax.methods.byol import byol
from simclr_jax.methods.distill import distill
from simclr_jax.methods.simclr import simclr
from simclr_jax.methods.supervised import supervised

METHODS = {"byol": byol, "simclr": simclr, "supervised": supervised, "distill": distill}
