"""Reads the text of a compiled program: computations, instructions, and where each array lies.

The text is XLA's, https://openxla.org/xla/operation_semantics. On a TPU a layout names the memory
of its array: `S(1)` is VMEM, `S(3)` CMEM, other numbers smaller ones, and HBM has no mark.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Iterable

_ARRAY = re.compile(r"([a-z]\w*)\[([^\]]*)\](?:\{([^}]*)\})?")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) (?:\(.*\) -> .*)?\{$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*)$")
_COMMENT = re.compile(r"/\*.*?\*/")


@dataclasses.dataclass(frozen=True)
class Array:
    """One array of a program.

    Attributes:
      dtype: type of its elements, such as "bf16".
      shape: dimensions, as the program sees them.
      layout: how it lies in memory, such as "1,0:T(8,128)S(1)": its dimensions, the one that
        changes fastest first; the tiles that those are padded to; and the memory.
    """

    dtype: str
    shape: tuple[int, ...]
    layout: str = ""

    @property
    def nbytes(self) -> int:
        """Bytes without padding."""
        return math.prod(self.shape) * _bits(self.dtype) // 8

    @property
    def in_hbm(self) -> bool:
        """Whether it lies in HBM, not on the chip."""
        return "S(" not in self.layout

    @property
    def hbm_bytes(self) -> int:
        """Bytes with padding if it lies in HBM, else none."""
        return self.padded_bytes if self.in_hbm else 0

    @functools.cached_property
    def padded_bytes(self) -> int:
        """Bytes in whole tiles."""
        order, _, tiles = self.layout.partition(":")
        found = re.match(r"T\(([\d,]+)\)", tiles)
        if not found or not self.shape:  # a scalar takes a tile, but no time
            return self.nbytes
        sides = [self.shape[int(d)] for d in order.split(",")]
        tile = [int(side) for side in reversed(found[1].split(","))]
        padded = [-(-n // side) * side for n, side in zip(sides, tile, strict=False)]
        return math.prod(padded + sides[len(padded) :]) * _bits(self.dtype) // 8


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation.

    Attributes:
      parts: the arrays of each element of its tuple, or of itself.
      attributes: the text after its operands.
    """

    name: str
    opcode: str
    parts: tuple[tuple[Array, ...], ...]
    operands: tuple[str, ...]
    literal: str
    attributes: str

    @property
    def arrays(self) -> tuple[Array, ...]:
        """All arrays that it returns."""
        return tuple(array for part in self.parts for array in part)

    def called(self, key: str) -> list[str]:
        """Returns the names of the computations behind one attribute, such as "body"."""
        found = re.search(rf"\b{key}=(?:\{{([^}}]*)\}}|%?([\w.\-]+))", self.attributes)
        names = (found[1] or found[2]).split(",") if found else []
        return [name.strip().removeprefix("%") for name in names]

    def number(self, pattern: str) -> int | None:
        """Returns the integer that a pattern's group finds among the attributes, if any."""
        found = re.search(pattern, self.attributes)
        return int(found[1]) if found else None

    @property
    def target(self) -> str:
        """Name of what a custom call runs."""
        found = re.search(r'custom_call_target="([^"]*)"', self.attributes)
        return found[1] if found else ""


@dataclasses.dataclass(frozen=True)
class Computation:
    """Instructions by name, in the order that they run in; the last one is its result."""

    instructions: dict[str, Instruction]
    root: Instruction

    @functools.cached_property
    def parameters(self) -> dict[int, Instruction]:
        """Its arguments by number."""
        found = [i for i in self.instructions.values() if i.opcode == "parameter"]
        return {int(i.literal): i for i in found}

    @functools.cached_property
    def users(self) -> dict[str, list[Instruction]]:
        """Which instructions take the result of each."""
        users: dict[str, list[Instruction]] = {name: [] for name in self.instructions}
        for instruction in self.instructions.values():
            for name in dict.fromkeys(instruction.operands):
                if name in users:
                    users[name].append(instruction)
        return users

    def view(self, i: Instruction) -> Instruction:
        """Returns the instruction whose result another one merely gives a new shape."""
        while i.opcode == "bitcast":
            i = self.instructions[i.operands[0]]
        return i

    def source(self, name: str) -> Instruction | None:
        """Returns what an instruction is a mere view or copy of."""
        found = self.instructions.get(name)
        while found is not None and found.opcode in ("bitcast", "copy", "convert"):
            found = self.instructions.get(found.operands[0])
        return found

    def integer(self, name: str) -> int | None:
        """Returns the value of an integer constant, or of a view or copy of one."""
        found = self.source(name)
        if found is None or found.opcode != "constant":
            return None
        return int(found.literal) if re.fullmatch(r"-?\d+", found.literal) else None

    def element(self, name: str) -> int | None:
        """Returns which element of the one argument, a tuple, an instruction views or copies."""
        found = self.source(name)
        if found is None or found.opcode != "get-tuple-element":
            return None
        argument = self.instructions[found.operands[0]].opcode == "parameter"
        return found.number(r"index=(\d+)") if argument else None


def parse(text: str) -> tuple[dict[str, Computation], str]:
    """Returns the computations of a module by name, and the name of the entry."""
    computations: dict[str, Computation] = {}
    entry, name, lines, root = "", "", {}, None
    for line in text.splitlines():
        if not line.startswith(" ") and (head := _COMPUTATION.match(line)):
            name, lines, root = head[2], {}, None
            entry = name if head[1] else entry
        elif line.startswith("}") and name:
            root = root or list(lines.values())[-1]
            computations[name] = Computation(lines, root)
            name = ""
        elif name and (found := _INSTRUCTION.match(line)):
            instruction = _instruction(found[2], _COMMENT.sub("", found[3]))
            lines[instruction.name] = instruction
            root = instruction if found[1] else root
    if not entry:
        raise ValueError("This is not the text of a compiled module: it has no ENTRY computation.")
    return computations, entry


def _instruction(name: str, rest: str) -> Instruction:
    if rest.startswith("("):
        end = _closing(rest, 0)
        parts = tuple(_arrays(part) for part in _elements(rest[1:end]))
        rest = rest[end + 1 :].lstrip()
    else:
        type_, rest = rest.split(" ", 1)
        parts = (_arrays(type_),)
    opcode, _, _ = rest.partition("(")
    end = _closing(rest, len(opcode))
    inside = rest[len(opcode) + 1 : end]
    return Instruction(
        name=name,
        opcode=opcode,
        parts=parts,
        operands=tuple(re.findall(r"%([\w.\-]+)", inside)),
        literal=inside,
        attributes=rest[end + 1 :],
    )


def _closing(text: str, start: int) -> int:
    """Returns the index of the parenthesis that closes the one at `start`."""
    depth = 0
    for found in re.compile(r"[()]").finditer(text, start):
        depth += 1 if found[0] == "(" else -1
        if depth == 0:
            return found.start()
    return len(text)


def _elements(text: str) -> Iterable[str]:
    """Splits the inside of a tuple's type at its own commas."""
    depth, start = 0, 0
    for found in re.finditer(r"[(){}\[\],]", text):
        if found[0] == "," and depth == 0:
            yield text[start : found.start()]
            start = found.end()
        elif found[0] != ",":
            depth += 1 if found[0] in "({[" else -1
    yield text[start:]


def _arrays(text: str) -> tuple[Array, ...]:
    arrays = []
    for dtype, dims, layout in _ARRAY.findall(text):
        shape = tuple(int(d.removeprefix("<=")) for d in dims.split(",") if d)
        arrays.append(Array(dtype, shape, layout))
    return tuple(arrays)


def _bits(dtype: str) -> int:
    digits = re.search(r"\d+", dtype)
    return int(digits[0]) if digits else (8 if dtype == "pred" else 0)
