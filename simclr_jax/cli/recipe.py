"""The flag --config: a recipe, completed with all defaults, and what the command line changes.

--config=simclr_digits              a recipe that comes with the program
--config=my/recipe.py:variant       one's own
--config.data.num_threads=4         any key, whether or not the recipe states it
--config.data.test_split=None       no value, where a key takes None
--config.precision=bf16             encoder.dtype and augment.dtype at once; or f32
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_dict, config_flags
from rich.console import Console
from rich.table import Table

from simclr_jax.build import recipe, schema
from simclr_jax.cli import own_encoder
from simclr_jax.core.errors import UserError
from simclr_jax.core.sections import REQUIRED

flags.disclaim_key_flags()  # they are listed with the verb that defines them
PREFIXES = ("--config.", "-config.", "--noconfig.", "-noconfig.")
_loaded: dict[str, "Recipe"] = {}


@dataclasses.dataclass
class Recipe:
    """What --config and its overrides say, once the flags are parsed.

    Attributes:
      config: every section, with every key.
      path: path or name of the recipe, as given.
      words: what the command line sets, as given, such as "--config.run.epochs=5".
      overrides: the same by path, such as {"run.epochs": 5}.
    """

    config: dict[str, Any]
    path: str
    words: Sequence[str]
    overrides: dict[str, Any]

    def changed(self, key: str, value: str) -> "Recipe":
        """Returns the recipe with one more key set, to a value as the command line has it."""
        return load(self.path, [*self.words, f"--config.{key}={value}"])


def define(example: str) -> Callable[[], "Recipe"]:
    """Defines the flags of a recipe; returns what reads them, `loaded`."""
    own_encoder.define()
    flags.DEFINE_string("config", "", f"Recipe, such as {example}[:variant], or your own file.")
    flags.DEFINE_bool("help_config", False, "Prints every key of the recipe, and what it means.")
    return loaded


def split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Splits a command line into the flags, and the overrides of the config.

    As for any flag, the value of an override stands behind "=" or is the next word.
    """
    rest, overrides = [], []
    words = list(argv)
    while words:
        word = words.pop(0)
        if not word.startswith(PREFIXES):
            rest.append("--help_config" if word == "--help-config" else word)
        elif "=" not in word and words and not words[0].startswith("-"):
            overrides.append(f"{word}={words.pop(0)}")
        else:
            overrides.append(word)
    return rest, overrides


def load(path: str, overrides: Sequence[str]) -> Recipe:
    """Returns a recipe with overrides such as "--config.run.epochs=5".

    Raises:
      UserError: if there is no such recipe, variant, key or encoder, or a value is not of its
        type.
    """
    values = _values(overrides)
    _require_no_overlap(values)
    if "precision" in values:
        wanted = values.pop("precision")
        overrides = [word for word in overrides if "precision" not in _values([word])]
        stands_for = recipe.precision(recipe.with_keys(recipe.read(path), values), wanted)
        # What is said of one of them by itself comes later, and counts.
        overrides = [*(f"--config.{k}={v}" for k, v in stands_for.items()), *overrides]
    values = _values(overrides)
    config = recipe.with_keys(recipe.read(path), values)
    may_be_none = {key.path for key in schema.describe(config) if type(None) in key.types}
    unset = {key: None for key in may_be_none if values.get(key) == "None"}
    words = ["", *(word for word in overrides if not unset.keys() & _values([word]))]
    parsed = flags.FlagValues()
    config_flags.DEFINE_config_dict("config", _typed(config), flag_values=parsed, sys_argv=words)
    try:
        parsed(words)
    except (flags.Error, ValueError, TypeError) as error:
        raise UserError(str(error)) from error
    changed = config_flags.get_override_values(parsed["config"])
    result: Any = parsed["config"].value
    complete = recipe.changed(result.to_dict(), unset)
    return Recipe(complete, path, overrides, {**changed, **unset})


def _require_no_overlap(values: Mapping[str, str]) -> None:
    for path, value in values.items():
        if inner := [other for other in values if other.startswith(f"{path}.")]:
            raise UserError(
                f"--config.{path}={value} is all of a section, and --config.{inner[0]}="
                f"{values[inner[0]]} a key of it: give one of them."
            )


def _values(overrides: Sequence[str]) -> dict[str, str]:
    """Returns what overrides say, by path, such as {"run.epochs": "5"}."""
    words = (word.lstrip("-").partition("=") for word in overrides)
    return {key.partition(".")[2]: value for key, _, value in words}


def remember(given: Recipe) -> None:
    """Makes a recipe what `loaded` returns."""
    _loaded["recipe"] = given


def loaded() -> Recipe:
    """Returns the recipe of this command line."""
    return _loaded["recipe"]


def print_keys(given: Recipe) -> None:
    """Prints every key of a recipe: its value here, its default, its type and its meaning."""
    config = given.config
    table = Table("key", "here", "default", "type", "meaning")
    for key in schema.describe(config):
        default = "required" if key.default is REQUIRED else str(key.default)
        here = _shown(config, key.path)
        table.add_row(f"config.{key.path}", here, default, key.type, key.meaning)
    Console().print(table)


def _typed(config: Mapping[str, Any]) -> ConfigDict:
    """Returns a ConfigDict in which what is None knows the type that it may be set to."""
    typed: Any = ConfigDict(dict(config), convert_dict=True)
    for key in schema.describe(config):
        section, _, name = key.path.rpartition(".")
        if _at(config, key.path) is None and isinstance(_at(config, section), Mapping):
            known = [kind for kind in (str, float, int, bool) if kind in key.types]
            typed[section][name] = config_dict.placeholder(known[0] if known else object)
    return typed


def _at(config: Mapping[str, Any], path: str) -> Any:
    """Returns what stands at a path, None if nothing does."""
    node: Any = config
    for name in path.split("."):
        if not isinstance(node, Mapping) or name not in node:
            return None
        node = node[name]
    return node


def _shown(config: Mapping[str, Any], path: str) -> str:
    value = _at(config, path)
    return "" if isinstance(value, Mapping) or value is None else str(value)
