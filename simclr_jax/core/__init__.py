"""What every other room may use: types, state, random streams, paths, errors."""
