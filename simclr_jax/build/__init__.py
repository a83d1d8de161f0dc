"""From a config to what it describes; the only package that reads a config."""
