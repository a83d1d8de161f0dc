"""Weights of other frameworks in, and trained encoders out."""
