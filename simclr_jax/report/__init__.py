"""One self-contained HTML page per run, for people: what was trained, and what it learned."""
