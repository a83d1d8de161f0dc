"""Packages that a plain install lacks: imported when they are needed, or asked for by name."""

import importlib
from typing import Any

from simclr_jax.core.errors import UserError


def import_optional(module: str) -> Any:
    """Returns a module such as "safetensors.numpy".

    Raises:
      UserError: if its package, or one that it needs, is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise UserError(
            f"The Python package {(error.name or module).partition('.')[0]} is not installed. "
            "It belongs to the extra interop: pip install 'simclr_jax[interop]', or in a checkout "
            "pip install -r requirements-interop.txt"
        ) from error
