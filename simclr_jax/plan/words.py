"""Operations of a compiled program in words: by the names that JAX gives them."""

import re
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from simclr_jax.plan.hlo import Instruction
from simclr_jax.plan.traffic import Operation

PART_DEPTH = 3  # of a path such as "encoder/maps/stage1/block0/conv1"
# What JAX writes around the inside of a loop or a choice, beside its name.
_FRAME = re.compile(r"^(body|cond|branch_\d+_fun|closed_call|eval_jaxpr)$")
_WRAPPER = re.compile(r"^(\w+)\((.*)\)$")


def in_words(i: Instruction) -> tuple[str, str, str, str]:
    """Returns what an instruction does, in which pass, of which module, and what it returns.

    JAX names an operation by the functions around it, such as
    "jit(train_step)/transpose(jvp(SSLModel))/encoder/stem/conv/conv_general_dilated".
    """
    last, direction, path = _split(_name(i) or i.opcode)
    kind = f"{last} and what is fused with it" if i.opcode == "fusion" else last
    shapes = ", ".join(f"{a.dtype}[{','.join(map(str, a.shape))}]" for a in i.arrays[:2])
    return kind, direction, "/".join(path) or "-", shapes


def by_part(operations: Iterable[Operation]) -> list[dict[str, Any]]:
    """Returns the traffic of each part of the network and each pass, the largest first.

    A fusion belongs to the part of its last operation, a copy from HBM to on-chip memory to that of
    its user, and one back to HBM to that of what made the array.

    Args:
      operations: what moves bytes in HBM.

    Returns:
      Rows of {"part", "pass", "hbm_bytes", "operations"}.
    """
    rows: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
    for o in operations:
        last, direction, path = _split(_name(o.instruction) or _nearest_name(o))
        # The model is around all of its modules; a module's method is "module.method".
        inner = [name.rpartition(".")[2] for name in path[direction != "-" :]]
        part = "/".join(inner[:PART_DEPTH]) or last.partition("[")[0]  # state.params['encoder']...
        row = rows[part, direction]
        row[0] += o.hbm_bytes
        row[1] += o.times
    return [
        {"part": part, "pass": direction, "hbm_bytes": nbytes, "operations": times}
        for (part, direction), (nbytes, times) in sorted(rows.items(), key=lambda row: -row[1][0])
    ]


def _name(i: Instruction) -> str:
    found = re.search(r'op_name="([^"]*)"', i.attributes)
    return found[1] if found else ""


def _nearest_name(o: Operation) -> str:
    """Returns the name of what uses the result; of what made the operands, if it goes to HBM."""
    known, users = o.inside.instructions, o.inside.users
    to_hbm = any(array.in_hbm for array in o.instruction.parts[0])
    makers = lambda i: [known[name] for name in i.operands if name in known]
    layer = {o.instruction.name: o.instruction}
    seen = set(layer)
    while layer:
        beside = [j for i in layer.values() for j in (makers(i) if to_hbm else users[i.name])]
        if named := next((i for i in beside if _name(i)), None):
            return _name(named)
        layer = {i.name: i for i in beside if i.name not in seen}
        seen |= set(layer)
    return o.instruction.opcode


def _split(name: str) -> tuple[str, str, list[str]]:
    """Returns the operation, the pass and the functions around it of a name that JAX gave."""
    # XLA names what it merged "(a:b:...)": the first stands for all.
    *around, last = name.removeprefix("(").partition(":")[0].split("/")
    path, wrappers = [], set()
    for name in around:
        while wrapped := _WRAPPER.match(name):
            wrappers.add(wrapped[1])
            name = "" if wrapped[1] == "jit" else wrapped[2]
        if name and not _FRAME.match(name):
            path.append("loop" if name == "while" else name)
    direction = "backward" if "transpose" in wrappers else "forward" if "jvp" in wrappers else "-"
    return last, direction, path
