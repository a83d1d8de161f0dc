"""One step, one loop, hooks."""
