"""What every other package here may use: types, state, random streams, paths, errors."""
