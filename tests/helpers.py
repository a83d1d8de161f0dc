"""What tests of several rooms share: recipes, what a compiled program is, results of one type."""

import functools
import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar, cast

import flax.linen as nn
import jax
import optax

F = TypeVar("F", bound=Callable[..., Any])
CONFIGS = Path(__file__).parents[1] / "configs"


def recipe(name: str) -> ModuleType:
    """Returns configs/NAME.py as a module of its own."""
    spec = importlib.util.spec_from_file_location(name, CONFIGS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def hlo(compiled: jax.stages.Compiled) -> str:
    """Returns the text of a compiled program; JAX has none for some backends."""
    text = compiled.as_text()
    assert text is not None
    return text


def temporary_bytes(compiled: jax.stages.Compiled) -> int:
    """Returns the bytes that a compiled program needs beside its arguments and results."""
    memory = compiled.memory_analysis()
    assert memory is not None
    return memory.temp_size_in_bytes


def jitted(fn: F) -> F:
    """Returns a function as one program, in which numbers and words given by name are constants.

    Outside of jit each operation is a program of its own; each takes 25 ms to compile.
    """

    @functools.cache
    def compiled(static: tuple[str, ...]) -> Callable[..., Any]:
        return jax.jit(fn, static_argnames=static)

    def call(*args: Any, **kwargs: Any) -> Any:
        static = [name for name, x in kwargs.items() if isinstance(x, int | float | str | None)]
        return compiled(tuple(static))(*args, **kwargs)

    return cast(F, call)


def init(network: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """Returns a network's variables; Flax's own type is of leaves that may be trees, too."""
    return network.init(*args, **kwargs)


def apply(network: nn.Module, variables: Any, *args: Any, **kwargs: Any) -> Any:
    """Applies a network; Flax's own type is a union with a pair, which only `mutable` gives."""
    return network.apply(variables, *args, **kwargs)


def update(
    tx: optax.GradientTransformation, grads: Any, state: optax.OptState, params: Any
) -> tuple[Any, optax.OptState]:
    """Returns updates as a tree like `params`; Optax's own type is of any tree, or one array."""
    return jax.jit(tx.update)(grads, state, params)
