"""Recipes: found by name or by path, completed with all defaults, changed key by key."""

import copy
import importlib.util
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import simclr_jax
from simclr_jax.build import schema
from simclr_jax.core.errors import UserError, did_you_mean
from simclr_jax.models.own import import_encoder, is_import_path

log = logging.getLogger(__name__)
PRECISIONS = {"bf16": "bfloat16", "f32": "float32"}


def names() -> list[str]:
    """Returns the names of the recipes that come with the program."""
    return sorted(path.stem for path in _directory().glob("*.py") if path.stem != "__init__")


def read(text: str) -> dict[str, Any]:
    """Returns the sections of a recipe as it states them.

    Args:
      text: NAME[:VARIANT] of a recipe that comes with the program, or PATH[:VARIANT] of another.

    Raises:
      UserError: if there is no such recipe or variant.
    """
    path, colon, variant = text.partition(":")
    file = Path(os.path.expanduser(path))
    if not file.is_file():
        named = _directory() / f"{file.stem}.py"
        is_name = path in (file.stem, f"configs/{file.stem}.py")
        if not is_name or not named.is_file():
            raise UserError(
                f"Recipe {text}: there is no file {path}, and no recipe of that name."
                f"{did_you_mean(file.stem, names())} Recipes: {', '.join(names())}."
            )
        file = named
    spec = importlib.util.spec_from_file_location(f"recipe_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise UserError(f"Recipe {text}: {file} is not a Python file.")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise UserError(f"Recipe {text}: {file} has no function get_config.")
    try:
        config = module.get_config(variant) if colon else module.get_config()
    except ValueError as error:
        raise UserError(f"Recipe {text}: {error}") from error
    return config.to_dict()


def with_keys(config: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a complete config that has a place for every key that is going to be set.

    Args:
      config: sections, perhaps without keys that are at their defaults.
      values: what is going to be set, by path, such as {"method.memory.size": 4096}; only the
        names of callables are set here, because they decide which keys there are. It is what a
        person typed: an encoder of one's own is imported.

    Raises:
      UserError: naming what there is, if there is no such key or encoder.
    """
    config = dict(config)
    for path, value in values.items():
        section, _, key = path.partition(".")
        if path == "encoder.name" and isinstance(value, str) and is_import_path(value):
            import_encoder(value)
        if key == "name" and section in config and section in schema.NAMED:
            config = schema.rename(config, section, value)
    config = schema.complete(config)
    for path in values:
        config = schema.switch_on(config, path)
    return config


def precision(config: Mapping[str, Any], value: object) -> dict[str, str]:
    """Returns the settings, by path, that `precision` stands for, instead of a section.

    Those are the types of the encoder's activations and, where the policy has one, of the pixels
    that it keeps. Parameters, statistics, the loss and the optimizer are float32 in either.

    Args:
      config: complete.
      value: one of `PRECISIONS`.

    Raises:
      UserError: if it is none of them.
    """
    if value not in PRECISIONS:
        raise UserError(f"config.precision={value!r} must be one of {', '.join(PRECISIONS)}.")
    keys = ["encoder.dtype"]
    if "dtype" in config["augment"]:
        keys.append("augment.dtype")
    else:
        log.info("config.augment.name=%s has no dtype: float32.", config["augment"]["name"])
    return dict.fromkeys(keys, PRECISIONS[str(value)])


def load(text: str, sections: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the complete config of a recipe, changed by Python values.

    Args:
      text: recipe, as for `read`.
      sections: what differs from the recipe, such as {"data": {"path": "photos"}, "method":
        {"memory": {"size": 4096}}}; or "precision", see there.

    Raises:
      UserError: if there is no such recipe, variant, section or key.
    """
    sections = dict(sections)
    wanted = {"precision": sections.pop("precision")} if "precision" in sections else {}
    for section, given in sections.items():
        if not isinstance(given, Mapping):
            raise UserError(f"{section}={given!r} must be a dict, such as data={{'path': 'DIR'}}.")
    chosen = {f"{key}.name": given["name"] for key, given in sections.items() if "name" in given}
    config = with_keys(read(text), chosen)
    nested = {key.path for key in schema.describe(config) if "section" in key.types}
    values = {
        path: value
        for section, given in sections.items()
        for path, value in _flatten(section, given, nested)
    }
    if wanted:
        values = precision(config, wanted["precision"]) | values
    return changed(config, values)


def changed(config: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a complete config in which keys have other values.

    Args:
      config: sections; they are left as they are.
      values: by path, such as {"method.memory.size": 4096}.

    Raises:
      UserError: if there is no such key.
    """
    config = copy.deepcopy(with_keys(config, values))
    for path, value in values.items():
        *above, last = path.split(".")
        node = config
        for key in above:
            node = node[key]
        node[last] = os.fspath(value) if isinstance(value, os.PathLike) else value
    return config


def _flatten(path: str, given: Mapping[str, Any], nested: set[str]) -> Iterator[tuple[str, Any]]:
    for key, value in given.items():
        where = f"{path}.{key}"
        if where in nested and isinstance(value, Mapping):
            yield from _flatten(where, value, nested)
        else:
            yield where, value


def _directory() -> Path:
    """Returns where the recipes are: inside the installed package, or beside it in a checkout."""
    package = Path(simclr_jax.__file__).parent
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"
