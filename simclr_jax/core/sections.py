"""A config section is the keyword arguments of one callable: filled in, checked and called here.

Defaults, types and meanings stand in the callable's signature and docstring and nowhere else. If a
callable has keyword-only parameters, only those can be set, and its caller passes the ones before
them. A parameter that is itself a dataclass or a linen module, or is annotated with a `Section`, is
a section within the section; None switches it off.
"""

import contextlib
import dataclasses
import inspect
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import flax.linen as nn
import numpy as np
from beartype.door import is_bearable

from simclr_jax.core.errors import UserError, did_you_mean
from simclr_jax.core.ranges import problem

T = TypeVar("T")
FLAX_FIELDS = {"parent", "name"}  # every linen module ends with them; no config sets them
REQUIRED = inspect.Parameter.empty


@dataclasses.dataclass(frozen=True)
class Section:
    """Annotates a parameter that is made by a function: `Annotated[T | None, Section(fn)]`."""

    build: Callable[..., Any]


@dataclasses.dataclass(frozen=True)
class Setting:
    """One key of a section.

    Attributes:
      hint: type of its value.
      default: default value, in a form that JSON holds; `REQUIRED` if there is none.
      build: what makes the value from a section of its own; None for a plain value.
    """

    hint: Any
    default: Any
    build: Callable[..., Any] | None


def settings_of(fn: Callable[..., Any]) -> dict[str, Setting]:
    """Returns what the section of a callable can hold, by key."""
    hints = typing.get_type_hints(fn.__init__ if inspect.isclass(fn) else fn, include_extras=True)
    parameters = inspect.signature(fn).parameters.values()
    keyword_only = [p for p in parameters if p.kind is p.KEYWORD_ONLY]
    skip = FLAX_FIELDS if inspect.isclass(fn) and issubclass(fn, nn.Module) else ()
    settings = {}
    for parameter in keyword_only or parameters:
        if parameter.name not in skip:
            hint = hints.get(parameter.name, Any)
            default = _plain(parameter.default)
            settings[parameter.name] = Setting(hint, default, _builder(hint))
    return settings


def complete_section(
    path: str, fn: Callable[..., Any], section: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns a section with every key that it leaves out at its default.

    Args:
      path: where the section stands, for messages, such as "config.optim".
      fn: the callable that the section is for.
      section: its keyword arguments. A required one that is left out becomes None, and
        `build_section` asks for it.

    Raises:
      UserError: if a key is unknown.
    """
    settings = settings_of(fn)
    for key in section:
        if key not in settings:
            raise UserError(unknown_key(path, key, settings))
    completed = {}
    for key, setting in settings.items():
        value = _as_float(section.get(key, setting.default), setting.hint)
        if setting.build is not None and isinstance(value, Mapping):
            value = complete_section(f"{path}.{key}", setting.build, value)
        completed[key] = None if value is REQUIRED else value
    return completed


def build_section(path: str, fn: Callable[..., T], section: Mapping[str, Any], *args: Any) -> T:
    """Returns `fn(*args, **section)`.

    Args:
      path: where the section stands, for messages, such as "config.optim".
      fn: the callable that the section is for.
      section: its keyword arguments; an int where `fn` wants a float becomes one, and a mapping
        where it wants an object that has a section is made into that object.
      *args: what the caller hands over beside the section.

    Raises:
      UserError: if a key is unknown or missing, a value has the wrong type, or `fn`
        refuses a value with a ValueError.
    """
    settings = settings_of(fn)
    arguments = {}
    for key, value in section.items():
        if key not in settings:
            raise UserError(unknown_key(path, key, settings))
        setting = settings[key]
        if setting.build is not None and isinstance(value, Mapping):
            arguments[key] = build_section(f"{path}.{key}", setting.build, value)
        else:
            arguments[key] = checked(f"{path}.{key}", value, setting.hint)
    try:
        inspect.signature(fn).bind(*args, **arguments)
    except TypeError as error:
        raise UserError(f"{path}: {error}.") from error
    with config_errors_at(path):
        return fn(*args, **arguments)


def lookup(
    path: str, table: Mapping[str, Callable[..., T]], section: Mapping[str, Any]
) -> tuple[Callable[..., T], dict[str, Any]]:
    """Splits a section into the callable that its "name" stands for, and the rest.

    Raises:
      UserError: if the name is missing or not in `table`.
    """
    rest = dict(section)
    name = str(rest.pop("name", ""))
    if name not in table:
        raise UserError(
            f"{path}.name={name!r} does not exist.{did_you_mean(name, table)} "
            f"Known names: {', '.join(table)}."
        )
    return table[name], rest


@contextlib.contextmanager
def config_errors_at(path: str) -> Iterator[None]:
    """Turns a ValueError inside the block into a UserError that begins with `path`."""
    try:
        yield
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error


def unknown_key(path: str, key: str, known: Mapping[str, Any]) -> str:
    """Returns the message for a key that a section does not have."""
    return (
        f"{path}.{key} does not exist.{did_you_mean(key, known)} "
        f"Known keys: {', '.join(known) or 'none'}."
    )


def _builder(hint: Any) -> Callable[..., Any] | None:
    """Returns what makes values of this type from a section, None if values are plain."""
    for extra in getattr(hint, "__metadata__", ()):
        if isinstance(extra, Section):
            return extra.build
    for choice in choices(hint):
        if inspect.isclass(choice) and (
            dataclasses.is_dataclass(choice) or issubclass(choice, nn.Module)
        ):
            return choice if choice is not nn.Module else None
    return None


def choices(hint: Any) -> tuple[Any, ...]:
    """Returns the members of a union, or the one type, without their annotations."""
    if typing.get_origin(hint) is typing.Annotated:
        return choices(typing.get_args(hint)[0])
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return tuple(kind for option in typing.get_args(hint) for kind in choices(option))
    return (hint,)


def checked(path: str, value: Any, hint: Any) -> Any:
    """Returns a setting as its annotation wants it, such as 1.0 for 1.

    Args:
      path: where the setting stands, for messages, such as "config.optim.momentum".
      value: value of the setting, as it was given.
      hint: the annotation, with a range or without; see `core.ranges`.

    Raises:
      UserError: if the value has another type, or is out of range.
    """
    value = _of_type(path, value, hint)
    if complaint := problem(value, hint):
        raise UserError(f"{path}={value!r} {complaint}.")
    return value


def fits(value: Any, hint: Any) -> bool:
    """Returns whether a value has the type of a setting, or becomes it; any range is left aside."""
    try:
        _of_type("", value, hint)
    except UserError:
        return False
    return True


def _as_float(value: Any, hint: Any) -> Any:
    """Returns a whole number as a float where any number may stand, so that its type is one."""
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    return float(value) if is_whole and float in choices(hint) else value


def _plain(default: Any) -> Any:
    """Returns a default as JSON holds it: types of numbers by their name."""
    is_dtype = isinstance(default, np.dtype | type) or hasattr(default, "dtype")
    return default if default is REQUIRED or not is_dtype else np.dtype(default).name


def _of_type(path: str, value: Any, hint: Any) -> Any:
    if is_bearable(value, hint):
        return value
    if isinstance(value, int) and not isinstance(value, bool) and is_bearable(float(value), hint):
        return float(value)
    if isinstance(value, list) and is_bearable(tuple(value), hint):  # a tuple that was JSON
        return tuple(value)
    if value is None:
        raise UserError(f"{path} is missing; it must be {_name(hint)}.")
    raise UserError(
        f"{path}={value!r} is of type {type(value).__name__}; it must be {_name(hint)}."
    )


def _name(hint: Any) -> str:
    if hint is types.NoneType:
        return "None"
    names = [
        str(kind) if typing.get_args(kind) else getattr(kind, "__name__", None) or str(kind)
        for kind in choices(hint)
    ]
    return " or ".join("None" if name == "NoneType" else name for name in names)
