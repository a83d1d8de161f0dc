"""Doors to other frameworks: names, and later weights, in and out."""
