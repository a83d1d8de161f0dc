"""Encoders of one's own: a linen module by its import path, such as "my_module:MyEncoder".

Importing a module runs its code, so a path comes here only from a person who typed it. A path in a
recipe or in the config.json of a workdir is refused until somebody has typed it.
"""

import importlib
import inspect
import os
import sys
from typing import Any

import flax.linen as nn

from simclr_jax.core.errors import UserError, did_you_mean
from simclr_jax.models.ssl import ENCODERS


def is_import_path(name: str) -> bool:
    """Returns whether the name of an encoder is a path rather than a word."""
    return ":" in name


def import_encoder(path: str) -> None:
    """Imports a class and makes it an entry of `ENCODERS`, under its path.

    Args:
      path: "module:Class", of a module that is installed or lies in the current directory.

    Raises:
      UserError: if there is no such module or class, or it is no encoder; see
        `models.ssl.Encoder`. What the module itself raises is let through.
    """
    module_name, _, class_name = path.partition(":")
    if not all(word.isidentifier() for word in (*module_name.split("."), class_name)):
        raise UserError(
            f"{path!r} is no import path of an encoder; it must be MODULE:CLASS, such as "
            "my_module:MyEncoder for the class MyEncoder in my_module.py."
        )
    here = os.getcwd()
    if here not in sys.path:
        sys.path.append(here)  # last: a file here must not take the place of a library
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # something that the module imports
        raise UserError(
            f"{path}: there is no module {error.name}, neither in {here} nor where Python looks "
            "(the environment variable PYTHONPATH adds directories)."
        ) from error
    encoder: Any = getattr(module, class_name, None)
    if not (inspect.isclass(encoder) and issubclass(encoder, nn.Module)):
        modules = [
            name
            for name, value in vars(module).items()
            if inspect.isclass(value) and issubclass(value, nn.Module)
        ]
        raise UserError(
            f"{path}: {module_name} has no linen module {class_name}."
            f"{did_you_mean(class_name, modules)} It has {', '.join(modules) or 'none'}."
        )
    if "train" not in inspect.signature(encoder.__call__).parameters:
        raise UserError(
            f"{path}: {class_name}.__call__ must be (self, images, *, train), as "
            "docs/encoders.md says; it has no argument train."
        )
    ENCODERS[path] = encoder


def require_imported(name: str | None) -> None:
    """Refuses an encoder of somebody's own that nobody has asked for.

    Args:
      name: name of an encoder, as a config has it.

    Raises:
      UserError: if it is an import path that has not been imported.
    """
    if name is not None and is_import_path(name) and name not in ENCODERS:
        raise UserError(
            f"config.encoder.name={name!r} is a class of somebody's own, and no config imports "
            f"code by itself. If you trust that module, say so: --encoder={name}"
        )
