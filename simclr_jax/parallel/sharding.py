"""Where each array lives on the mesh: the batch by rows, the train state by path rules."""

import dataclasses
import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from simclr_jax.core.ranges import Count
from simclr_jax.core.tree import path_name
from simclr_jax.parallel.mesh import AXES, make_mesh


class Rule(NamedTuple):
    """Splits one dimension of the leaves whose whole path matches.

    Attributes:
      pattern: regular expression for paths such as "opt_state/0/trace/encoder/conv/kernel".
      dim: dimension to split; negative ones count from the last.
      axes: mesh axes to split it over, in order.
    """

    pattern: str
    dim: int
    axes: tuple[str, ...]


def _kernels(trees: str) -> tuple[Rule, ...]:
    """Splits kernels along their outputs; those of classifiers along their inputs.

    The channels of all published networks are multiples of 16, and the number of classes may be
    any. Vectors such as BatchNorm's are not worth a transfer.
    """
    return (
        Rule(f"({trees})/.*classifier.*/kernel", -2, ("fsdp",)),
        Rule(f"({trees})/.*/kernel", -1, ("fsdp",)),
    )


_AT_REST = "opt_state|method_state"  # networks in a method's state are read once a step
# The first rule that matches a path decides; what no rule matches is replicated.
PRESETS: dict[str, tuple[Rule, ...]] = {
    "replicated": (),
    "zero1": _kernels(_AT_REST),
    "fsdp": _kernels(f"params|{_AT_REST}"),
}


@dataclasses.dataclass(frozen=True)
class Layout:
    """How a run is spread over its devices; what it learns does not depend on it.

    Attributes:
      preset: "replicated"; "zero1", which splits the optimizer state and copies of the network
        such as an EMA target; or "fsdp", which splits the parameters, too, and gathers them in
        each step. Rajbhandari et al. 2019, https://arxiv.org/abs/1910.02054, stages 1 and 3.
      fsdp: devices that share one copy of what is split; at most so many, see `make_mesh`.
      rules: (pattern, dim, axes) that come before those of the preset, see `Rule`; each must
        match something.
    """

    preset: str = "replicated"
    fsdp: Count = 8
    rules: tuple[Sequence[Any], ...] = ()

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise ValueError(f"preset={self.preset!r} must be one of {[*PRESETS]}.")
        for rule in self.rules:
            _check_rule(rule)

    def mesh(self, devices: Sequence[Any] | None = None) -> Mesh:
        """Returns the mesh of `devices`, all of the run if None.

        Raises:
          ValueError: if the preset would split nothing, because `fsdp` and the number of devices
            have no divisor in common.
        """
        split = self.preset != "replicated" or self.rules
        mesh = make_mesh(devices, fsdp=self.fsdp if split else 1)
        alike = mesh.size // mesh.shape["slice"]
        if self.preset != "replicated" and mesh.shape["fsdp"] == 1 < alike:
            divisors = [n for n in range(2, alike + 1) if alike % n == 0]
            raise ValueError(
                f"fsdp={self.fsdp} has no divisor in common with the {alike} devices of a slice, "
                f"so preset={self.preset!r} would split nothing; use one of {divisors}."
            )
        return mesh

    def state_shardings(self, state: Any, mesh: Mesh, method_rules: Sequence[Rule] = ()) -> Any:
        """Returns the placement of each leaf of a train state.

        Args:
          state: a TrainState of arrays or of `jax.ShapeDtypeStruct`.
          mesh: mesh from `mesh`.
          method_rules: rules for the method's state, with patterns of paths below it; they come
            between `rules` and those of the preset.

        Returns:
          The same tree with a NamedSharding at each leaf.

        Raises:
          ValueError: if a dimension cannot be split evenly, or one of `rules` matches nothing.
        """
        own = [Rule(pattern, dim, tuple(axes)) for pattern, dim, axes in self.rules]
        unused = set(own)
        below = [rule._replace(pattern=f"method_state/{rule.pattern}") for rule in method_rules]

        def place(path: Any, leaf: Any) -> NamedSharding:
            name = path_name(path)
            for rule in (*own, *below, *PRESETS[self.preset]):
                if re.fullmatch(rule.pattern, name):
                    unused.discard(rule)
                    return NamedSharding(mesh, _spec(rule, name, leaf, mesh))
            return NamedSharding(mesh, P())

        placed = jax.tree_util.tree_map_with_path(place, state)
        if unused:
            paths = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(state)]
            raise ValueError(
                f"rules: {min(rule.pattern for rule in unused)!r} matches no array that is left "
                f"over. A pattern must match a whole path, such as {max(paths, key=len)!r}."
            )
        return placed


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the placement of batches: the first dimension over all devices."""
    return NamedSharding(mesh, P(mesh.axis_names))


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the placement of what every device has a copy of."""
    return NamedSharding(mesh, P())


def _check_rule(rule: Sequence[Any]) -> None:
    try:
        pattern, dim, axes = rule
        re.compile(pattern)
        valid = isinstance(dim, int) and not isinstance(axes, str) and {*axes} <= {*AXES}
        valid = valid and len({*axes}) == len(axes)
    except (TypeError, ValueError, re.error) as error:
        raise ValueError(f"rules: {rule!r} must be (pattern, dim, axes): {error}.") from None
    if not valid or not axes:
        raise ValueError(
            f"rules: {rule!r} must be (pattern, dim, axes), dim a number and axes some of {AXES}, "
            "such as ('params/.*/kernel', -1, ('fsdp',))."
        )


def _spec(rule: Rule, name: str, leaf: Any, mesh: Mesh) -> P:
    rank, shape = len(leaf.shape), mesh.shape
    if not -rank <= rule.dim < rank:
        raise ValueError(
            f"Cannot split {name} of shape {leaf.shape}: rule {rule.pattern!r} names its "
            f"dimension {rule.dim}, and it has {rank}."
        )
    size = leaf.shape[rule.dim]
    num_parts = math.prod(shape[axis] for axis in rule.axes)
    if size % num_parts:
        raise ValueError(
            f"Cannot split {name} of shape {leaf.shape}: its dimension {rule.dim % rank} is not a "
            f"multiple of the {num_parts} devices along {' x '.join(rule.axes)}"
            + (
                f"; use parallel.fsdp={math.gcd(size, num_parts)}."
                if rule.axes == ("fsdp",)
                else "."
            )
        )
    spec: list[Any] = [None] * rank
    spec[rule.dim] = rule.axes
    while spec and spec[-1] is None:
        spec.pop()
    return P(*spec)
