"""A config section is the keyword arguments of one callable, checked here before the call.

Defaults live in the callable's signature. A key that it does not have, or a value of
another type than its annotation or out of its range, is an error that names the section and what
would work.
"""

import contextlib
import inspect
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from beartype.door import is_bearable

from simclr_jax.core.errors import UserError, did_you_mean
from simclr_jax.core.ranges import problem

FLAX_FIELDS = {"parent", "name"}  # every linen module ends with them; no config sets them


def build_section(path: str, fn: Callable[..., Any], section: Mapping[str, Any], *args: Any) -> Any:
    """Returns `fn(*args, **section)`.

    Args:
      path: where the section stands, for messages, such as "config.optim".
      fn: the callable that the section is for.
      section: its keyword arguments; an int where `fn` wants a float becomes one.
      *args: what the caller hands over beside the section.

    Raises:
      UserError: if a key is unknown or missing, a value has the wrong type, or `fn`
        refuses a value with a ValueError.
    """
    signature = inspect.signature(fn)
    settable = list(signature.parameters)[len(args) :]
    if "parent" in settable:
        settable = [name for name in settable if name not in FLAX_FIELDS]
    hinted = fn.__init__ if inspect.isclass(fn) else fn
    hints = typing.get_type_hints(hinted, include_extras=True)
    arguments = {}
    for key, value in section.items():
        if key not in settable:
            raise UserError(
                f"{path}.{key} does not exist.{did_you_mean(key, settable)} "
                f"Known keys: {', '.join(settable)}."
            )
        arguments[key] = checked(f"{path}.{key}", value, hints.get(key, Any))
    try:
        signature.bind(*args, **arguments)
    except TypeError as error:
        raise UserError(f"{path}: {error}.") from error
    with config_errors_at(path):
        return fn(*args, **arguments)


def lookup(
    path: str, table: Mapping[str, Callable[..., Any]], section: Mapping[str, Any]
) -> tuple[Callable[..., Any], dict[str, Any]]:
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


def checked(path: str, value: Any, hint: Any) -> Any:
    """Returns a setting as its annotation wants it, such as 1.0 for 1.

    Args:
      path: where the setting stands, for messages, such as "config.optim.momentum".
      value: as it was given.
      hint: the annotation, with a range or without; see `core.ranges`.

    Raises:
      UserError: if the value has another type, or is out of range.
    """
    value = _of_type(path, value, hint)
    if complaint := problem(value, hint):
        raise UserError(f"{path}={value!r} {complaint}.")
    return value


def _of_type(path: str, value: Any, hint: Any) -> Any:
    if is_bearable(value, hint):
        return value
    if isinstance(value, int) and not isinstance(value, bool) and is_bearable(float(value), hint):
        return float(value)
    if isinstance(value, list) and is_bearable(tuple(value), hint):  # a tuple that was JSON
        return tuple(value)
    raise UserError(
        f"{path}={value!r} is of type {type(value).__name__}; it must be {_name(hint)}."
    )


def _name(hint: Any) -> str:
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        return " or ".join(map(_name, typing.get_args(hint)))
    if typing.get_origin(hint) is typing.Annotated:
        return _name(typing.get_args(hint)[0])
    if hint is types.NoneType:
        return "None"
    return getattr(hint, "__name__", None) or str(hint)
