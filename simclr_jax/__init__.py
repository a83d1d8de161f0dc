"""SimCLR and SimCLRv2 pretraining in JAX, from a laptop to a TPU pod slice."""

__version__ = "0.2.0.dev0"
