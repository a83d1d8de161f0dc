"""Warm start: parts of a fresh state are replaced by parts of a checkpoint."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from simclr_jax.core.errors import UserError, did_you_mean
from simclr_jax.core.state import TrainState
from simclr_jax.core.tree import path_name, replace, select
from simclr_jax.train.checkpoint import Checkpoints

ENCODER = {tree: tree for tree in ("params/encoder", "batch_stats/encoder")}
MAX_LISTED = 8


@dataclasses.dataclass(frozen=True)
class WarmStart:
    """Which parts of a checkpoint go where in a fresh state.

    Attributes:
      checkpoint: workdir of a run, or of an import. None to start from nothing.
      trees: path in the state to start -> path in the checkpoint's state; the encoder alone if
        None. Both trees must have the same arrays in the same shapes: a part of a network is named
        as such, "params/projector/dense1". Statistics that neither of them has, as without
        BatchNorm, are passed over.
      required: whether there must be a checkpoint.
      step: number of the checkpoint that is read; the newest whole one if None.
    """

    checkpoint: str | None = None
    trees: Mapping[str, str] | None = None
    required: bool = False
    step: int | None = None

    def __post_init__(self) -> None:
        if self.required and not self.checkpoint:
            raise ValueError(
                "checkpoint is missing: the workdir of a trained run, as in "
                "--config.warm_start.checkpoint=runs/pretrained."
            )
        if self.trees is not None and not self.trees:
            raise ValueError("trees is empty: nothing of the checkpoint would be used.")

    def restore(self, abstract_state: TrainState) -> dict[str, Any]:
        """Reads the parts, with the shardings of the state that they are for.

        Args:
          abstract_state: shapes, types and shardings of the state to start.

        Returns:
          path in the state -> tree of arrays, for `replace_parts`.

        Raises:
          UserError: if there is no checkpoint, a path is in one of the two states only, or a
            part differs in names, shapes or types.
        """
        targets = _as_mappings(abstract_state)
        trees = ENCODER if self.trees is None else self.trees
        checkpoints = Checkpoints(str(self.checkpoint))
        step = checkpoints.find(self.step)
        there = checkpoints.shapes(step)
        wanted: dict[str, Any] = {}
        trees = {
            target: source
            for target, source in trees.items()
            if not target.startswith("batch_stats/") or _has(targets, target) or _has(there, source)
        }
        for target, source in trees.items():
            part = _select(targets, target, "the state to start")
            stored = _select(there, source, f"the checkpoint of {self.checkpoint}")
            _require_same(part, stored, f"{self.checkpoint}:{source}", target)
            wanted = _insert(wanted, source.split("/"), part)
        restored = checkpoints.restore_variables(step, wanted)
        # A tree that goes to two places is copied: the step donates each of its buffers once.
        return {
            target: jax.tree.map(jnp.copy, select(restored, source))
            if list(trees.values()).count(source) > 1
            else select(restored, source)
            for target, source in trees.items()
        }


def replace_parts(state: TrainState, parts: Mapping[str, Any]) -> TrainState:
    """Returns the state with the trees at some paths replaced."""
    fields = _as_mappings(state)
    for path, part in parts.items():
        fields = replace(fields, path, part)
    return TrainState(**fields)


def module_trees(shapes: Mapping[str, Any]) -> list[str]:
    """Returns the paths of a model's parts; each must agree as a whole with a checkpoint's.

    The layers of the projector count by themselves, because a classifier may use only the first
    of them.
    """
    paths = []
    for collection, modules in shapes.items():
        for name, module in modules.items():
            inner = module if name == "projector" else ()
            paths += [f"{collection}/{name}/{layer}" for layer in inner]
            paths += [] if inner else [f"{collection}/{name}"]
    return paths


def _as_mappings(state: TrainState) -> dict[str, Any]:
    return {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}


def _has(tree: Mapping[str, Any], path: str) -> bool:
    try:
        return bool(select(tree, path))
    except KeyError:
        return False


def _select(tree: Mapping[str, Any], path: str, where: str) -> Any:
    try:
        return select(tree, path)
    except KeyError:
        known = _some_paths(tree, depth=path.count("/") + 1)
        raise UserError(
            f"config.warm_start.trees: {where} has nothing at {path!r}.{did_you_mean(path, known)} "
            f"It has {_shorten(known)}."
        ) from None


def _some_paths(tree: Any, depth: int, prefix: str = "") -> list[str]:
    if depth == 0 or not isinstance(tree, Mapping):
        return [prefix.rstrip("/")] if prefix else []
    return [p for k, part in tree.items() for p in _some_paths(part, depth - 1, f"{prefix}{k}/")]


def _require_same(part: Any, stored: Any, source: str, target: str) -> None:
    here, there = _leaves(part), _leaves(stored)
    missing = [f"{path} is not there" for path in here.keys() - there.keys()]
    extra = [f"{path} is there only" for path in there.keys() - here.keys()]
    shapes = [
        f"{path} is {there[path]} there, {here[path]} here"
        for path in here.keys() & there.keys()
        if here[path] != there[path]
    ]
    differences = sorted(shapes) + sorted(missing) + sorted(extra)
    if differences:
        raise UserError(
            f"{source} does not fit {target}: {len(differences)} of {len(here | there)} arrays "
            f"differ. {_shorten(differences)}. Are depth, width, sk_ratio, stem and heads in the "
            "config those of the checkpoint? Its own stand in its config.json."
        )


def _leaves(tree: Any) -> dict[str, str]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {path_name(path): f"{x.dtype}{list(x.shape)}" for path, x in leaves}


def _insert(tree: dict[str, Any], path: list[str], part: Any) -> dict[str, Any]:
    name, *rest = path
    inner = tree.get(name, {})
    return {**tree, name: _insert(inner, rest, part) if rest else part}


def _shorten(lines: Iterable[str]) -> str:
    lines = list(lines)
    more = f"; and {len(lines) - MAX_LISTED} more" if len(lines) > MAX_LISTED else ""
    return "; ".join(lines[:MAX_LISTED]) + more
