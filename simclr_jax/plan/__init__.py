"""What a step takes on a TPU slice that is not there, by the compiler's own counts."""
