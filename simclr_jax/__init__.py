"""SimCLR and SimCLRv2 pretraining in JAX, from a laptop to a TPU pod slice."""
