"""Losses: pure functions of embeddings and labels on global arrays."""
