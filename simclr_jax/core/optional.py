"""Packages that a plain install lacks: imported when they are needed, or asked for by name."""

import importlib
from typing import Any

from simclr_jax.core.errors import UserError

# Packages of no extra, which who wants a file for them has: how each is installed.
ELSEWHERE = {"open_clip": "pip install open_clip_torch"}


def import_optional(module: str, extra: str = "interop") -> Any:
    """Returns a module such as "safetensors.numpy".

    Args:
      module: its whole name.
      extra: what installs its package, in pyproject.toml and as requirements-EXTRA.txt.

    Raises:
      UserError: if its package, or one that it needs, is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = (error.name or module).partition(".")[0]
        if package in ELSEWHERE:
            raise UserError(
                f"The Python package {package} is not installed: {ELSEWHERE[package]}"
            ) from error
        raise UserError(
            f"The Python package {package} is not installed. "
            f"It belongs to the extra {extra}: pip install 'simclr_jax[{extra}]', or in a checkout "
            f"pip install -r requirements-{extra}.txt"
        ) from error
