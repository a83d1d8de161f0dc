"""From a config to what it describes; the only room that reads a config."""
