"""Optimizers and learning-rate schedules of the SimCLR papers."""
