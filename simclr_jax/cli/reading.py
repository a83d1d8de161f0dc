"""How images are read, `--config.data.KEY=VALUE`, for the verbs that take no other recipe."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from simclr_jax.cli import app, recipe
from simclr_jax.core.errors import UserError

Settings: TypeAlias = Mapping[str, Any]  # of config.data, by key
PATIENCE = ("outage_seconds", "read_timeout")
KEYS = (
    "ground",
    "value_range",
    "image_column",
    "label_column",
    "caption_column",
    "kind",
    *PATIENCE,
)


def run(
    verb: Callable[[Settings], None],
    argv: Sequence[str],
    *,
    required: Sequence[str],
    keys: Sequence[str] = KEYS,
    positional: str | None = None,
) -> int:
    """Runs a verb as `app.run` does, with what the command line says of reading.

    Args:
      verb: takes these settings.
      argv: the verb's name and its arguments.
      required: names of flags that must be given.
      keys: what may be set.
      positional: flag that takes the arguments without a name.

    Returns:
      The exit code.
    """
    words, overrides = recipe.split(argv)
    main = functools.partial(_run, verb, argv[0], overrides, keys)
    return app.run(main, words, required=required, positional=positional)


def _run(
    verb: Callable[[Settings], None], name: str, overrides: Sequence[str], keys: Sequence[str]
) -> None:
    given = recipe.load("simclr_folder", overrides).overrides if overrides else {}
    for path in given:
        section, _, key = path.partition(".")
        if section != "data" or key not in keys:
            raise UserError(
                f"--config.{path} says nothing to `{name}`, which takes --config.data. of "
                f"{', '.join(keys)}. What else it takes, says python -m simclr_jax {name} --help."
            )
    verb({path.removeprefix("data."): value for path, value in given.items()})
