"""Judging an encoder: features, kNN, linear probe, label efficiency, label-free measures."""
