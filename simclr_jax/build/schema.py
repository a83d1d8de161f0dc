"""The schema of a config: which callable each section is for, filled in and described.

A section that names its callable ("name") takes it from a table; the others have one each. The
keys, defaults, types and meanings of a section are those of its callable, see `core.sections`.
"""

import dataclasses
import inspect
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import NoneType
from typing import Any

import docstring_parser

from simclr_jax.augment.policies import POLICIES
from simclr_jax.build.network import build_heads
from simclr_jax.core.errors import UserError, did_you_mean
from simclr_jax.core.sections import (
    REQUIRED,
    choices,
    complete_section,
    fits,
    lookup,
    settings_of,
    unknown_key,
)
from simclr_jax.data.dataset import Dataset
from simclr_jax.evals.online import OnlineProtocols
from simclr_jax.methods import METHODS
from simclr_jax.models.own import is_import_path, require_imported
from simclr_jax.models.ssl import ENCODERS
from simclr_jax.optim.build import OPTIMIZERS
from simclr_jax.optim.schedules import recipe_schedule
from simclr_jax.parallel.sharding import Layout
from simclr_jax.train.loop import RunConfig
from simclr_jax.train.warm_start import WarmStart

log = logging.getLogger(__name__)
SECTIONS: dict[str, Callable[..., Any] | dict[str, Callable[..., Any]]] = {
    "run": RunConfig,
    "data": Dataset,
    "augment": POLICIES,
    "encoder": ENCODERS,
    "heads": build_heads,
    "method": METHODS,
    "optim": OPTIMIZERS,
    "schedule": recipe_schedule,
    "evals": OnlineProtocols,
    "parallel": Layout,
    "warm_start": WarmStart,
}
NAMED = tuple(section for section, fn in SECTIONS.items() if isinstance(fn, dict))
OPTIONAL = ("evals", "parallel", "warm_start")
# Keys that were called otherwise once: what a command line may still say -> what it is now.
RENAMED = {"method.chunks": "method.grad_cache_chunks"}
# What people call the gradient accumulation that other code bases have.
ACCUMULATION = re.compile(
    "(num_)?(grad(ient)?s?_)?acc(um(ulat(e|ion))?)?(_grad(ient)?s?)?(_(steps|batches))?"
    "|(num_)?micro_?batch(es|_size)?|every_k_schedule|update_freq"
)


@dataclasses.dataclass(frozen=True)
class Key:
    """One key of a config, for people.

    Attributes:
      path: place in a config, such as "method.memory.size".
      types: types that its value may have.
      default: value where a recipe gives none, as JSON holds it; `REQUIRED` if one must.
      meaning: sentences about it in the callable's docstring.
    """

    path: str
    types: tuple[Any, ...]
    default: Any
    meaning: str

    @property
    def type(self) -> str:
        """The types of its values, for people."""
        names = [kind.__name__ if isinstance(kind, type) else str(kind) for kind in self.types]
        return " | ".join(names).replace("typing.", "").replace("collections.abc.", "")


def complete(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a config with all sections, and in each every key that it leaves out at its default.

    Args:
      config: sections as a recipe returns them, or as D/config.json holds them.

    Raises:
      UserError: if a section or a key is unknown, or a section is missing.
    """
    for section in config:
        if section not in SECTIONS:
            raise UserError(
                f"config.{section} does not exist.{did_you_mean(section, SECTIONS)} "
                f"Known sections: {', '.join(SECTIONS)}."
            )
    completed = {}
    for section in SECTIONS:
        if section not in config and section not in OPTIONAL:
            raise UserError(f"config.{section} is missing.")
        values = dict(config[section]) if section in config else {}
        for key in values:
            if advice := advice_on(f"{section}.{key}", config):
                raise UserError(f"config.{section}.{key} does not exist: {advice}")
        if is_left_to_the_checkpoint(section, values):
            completed[section] = values
            continue
        fn, settings, name = _callable(section, values)
        completed[section] = name | complete_section(f"config.{section}", fn, settings)
    return completed


def switch_on(config: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Returns a complete config in which a key exists, if some section can have it.

    A section within a section that is off, such as method.memory, goes on with its defaults when
    a key of it is named; a warm start likewise.

    Raises:
      UserError: naming what there is, if there is no such key.
    """
    if path in RENAMED:
        raise UserError(f"config.{path} does not exist: it is config.{RENAMED[path]} now.")
    if advice := advice_on(path, config):
        raise UserError(f"config.{path} does not exist: {advice}")
    section, *keys = path.split(".")
    if section not in SECTIONS:
        raise UserError(
            f"config.{section} does not exist.{did_you_mean(section, SECTIONS)} "
            f"Known sections: {', '.join(SECTIONS)}."
        )
    if keys == ["name"] and section in NAMED:
        return dict(config)
    if is_left_to_the_checkpoint(section, config[section]):
        raise UserError(
            f"config.{path} cannot be set: config.{section} is that of the checkpoint, unless "
            f"config.{section}.name is given."
        )
    fn, values, name = _callable(section, config[section])
    return {**config, section: name | _with_key(f"config.{section}", fn, values, keys)}


def rename(config: Mapping[str, Any], section: str, name: str) -> dict[str, Any]:
    """Returns a config whose section names another callable, without what only the old one has.

    A key that both have is left out if its value is not of the new one's type. An encoder of one's
    own starts from its defaults: "width" may mean something else to it.
    """
    fn, _ = lookup(f"config.{section}", _table(section), {"name": name})
    known = {} if section == "encoder" and is_import_path(name) else settings_of(fn)
    kept = {
        key: value
        for key, value in config[section].items()
        if key in known and (known[key].build or fits(value, known[key].hint))
    }
    left_out = [key for key in config[section] if key not in kept and key != "name"]
    if left_out:
        log.info(
            "config.%s.name=%s does not take this %s: left out.", section, name, ", ".join(left_out)
        )
    return {**config, section: {"name": name, **kept}}


def describe(config: Mapping[str, Any]) -> Iterator[Key]:
    """Yields every key that a config can set, sections that are off included."""
    for section in SECTIONS:
        if is_left_to_the_checkpoint(section, config[section]):
            continue
        fn, _, name = _callable(section, config[section])
        if name:
            meaning = f"One of {', '.join(_table(section))}."
            yield Key(f"{section}.name", (str,), REQUIRED, meaning)
        yield from _keys(section, fn)


def is_left_to_the_checkpoint(section: str, values: Mapping[str, Any]) -> bool:
    """Whether a section names no callable, because a warm start brings the checkpoint's."""
    return section in NAMED and "name" in values and values["name"] is None


def advice_on(path: str, config: Mapping[str, Any]) -> str:
    """Returns what to do in place of accumulating gradients if that is what a key means, or ""."""
    if not ACCUMULATION.fullmatch(path.rpartition(".")[2]):
        return ""
    method: Mapping[str, Any] = config["method"]
    name = method.get("name", "")
    if name in METHODS and "grad_cache_chunks" not in settings_of(METHODS[name]):
        return (
            f"the loss of {name} compares no images with each other. Take a "
            "smaller config.data.batch_size, with a rate that is lower by as much."
        )
    return (
        "gradients added up over small batches are not those of the large one where a loss "
        "compares the images of a batch. config.method.grad_cache_chunks=8 puts the batch through "
        "the network in 8 parts, and the loss sees all of it."
    )


def _table(section: str) -> dict[str, Callable[..., Any]]:
    table = SECTIONS[section]
    assert isinstance(table, dict)
    return table


def _callable(
    section: str, values: Mapping[str, Any]
) -> tuple[Callable[..., Any], dict[str, Any], dict[str, Any]]:
    """Returns a section's callable, its keyword arguments, and {"name": ...} if it has one."""
    fn = SECTIONS[section]
    if not isinstance(fn, dict):
        return fn, dict(values), {}
    if section == "encoder" and "name" in values:
        require_imported(values["name"])
    chosen, settings = lookup(f"config.{section}", fn, values)
    return chosen, settings, {"name": values["name"]}


def _with_key(
    path: str, fn: Callable[..., Any], values: Mapping[str, Any], keys: Sequence[str]
) -> dict[str, Any]:
    if not keys:
        return dict(values)
    key, *rest = keys
    settings = settings_of(fn)
    if key not in settings:
        raise UserError(unknown_key(path, key, settings))
    value = values[key]
    build = settings[key].build
    if build is not None and rest:
        where = f"{path}.{key}"
        if value is None:
            value = complete_section(where, build, {})
            log.info("%s is on, because a key of it is set.", where)
        value = _with_key(where, build, value, rest)
    return {**values, key: value}


def _keys(path: str, fn: Callable[..., Any]) -> Iterator[Key]:
    meanings = _meanings(fn)
    for key, setting in settings_of(fn).items():
        where = f"{path}.{key}"
        meaning = meanings.get(key, "")
        types = choices(setting.hint)
        if setting.build is not None:
            types = ("section", *(kind for kind in types if kind is NoneType))
        yield Key(where, types, setting.default, meaning)
        if setting.build is not None:
            yield from _keys(where, setting.build)


def _meanings(fn: Callable[..., Any]) -> dict[str, str]:
    texts = [inspect.getdoc(fn)]
    if inspect.isclass(fn):
        texts.append(inspect.getdoc(fn.__init__))
    return {
        param.arg_name: " ".join((param.description or "").split())
        for text in texts
        for param in docstring_parser.parse(text or "").params
    }
