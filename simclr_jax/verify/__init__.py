"""Proof that how a config is spread over devices does not change what it learns."""
