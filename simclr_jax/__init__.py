"""SimCLR and SimCLRv2 pretraining in JAX, from a laptop to a TPU pod slice.

`train`, `load`, `evaluate` and `sweep` are those of `simclr_jax.api`, which is imported when one of
them is asked for.
"""

import importlib
import sys
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from simclr_jax.api import Encoder, evaluate, load, sweep, train
    from simclr_jax.core.errors import UserError

__version__ = "0.2.0.dev0"
__all__ = ["Encoder", "UserError", "evaluate", "load", "sweep", "train"]


class _Package(types.ModuleType):
    """The package, whose `train` is the function, even if the subpackage `train` is loaded.

    Importing a subpackage sets it as an attribute here; `from simclr_jax.train...` does not need
    that.
    """

    @property
    def train(self) -> Any:
        return _api("train")

    @train.setter
    def train(self, room: types.ModuleType) -> None:
        del room

    def __getattr__(self, name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return _api(name)


def _api(name: str) -> Any:
    return getattr(importlib.import_module("simclr_jax.api"), name)


sys.modules[__name__].__class__ = _Package
