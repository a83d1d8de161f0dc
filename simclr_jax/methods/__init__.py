"""Training methods by the name that a config uses."""

from simclr_jax.methods.simclr import simclr

METHODS = {"simclr": simclr}
