"""The device mesh, and where each array lives on it."""
