"""The verbs of `python -m simclr_jax`, one module each."""
