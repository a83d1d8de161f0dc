"""What a compiled program moves and multiplies, counted from its HLO text.

The compiler's own `bytes accessed` counts the whole operand of an asynchronous slice or copy, what
lies in on-chip memory (VMEM, CMEM), and the body of a loop once. Here each array is looked up in
the memory that its layout names, `S(1)` and so on, and nothing at all for HBM; a loop counts as
often as it runs. Arrays count in whole tiles, as the compiler counts them, and an operand that a
fusion reads in several passes counts once, so the figure is what must move at the least.
"""

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping

from simclr_jax.plan.arithmetic import GPU_LIBRARIES, flops_of
from simclr_jax.plan.hlo import Array, Computation, Instruction, parse

COLLECTIVES = (
    "all-gather",
    "all-reduce",
    "all-to-all",
    "collective-broadcast",
    "collective-permute",
    "ragged-all-to-all",
    "reduce-scatter",
)
# Neither read nor write: they name memory, or end what a `-start` began.
FREE = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all"),
    *("opt-barrier", "partition-id", "replica-id", "add-dependency", "domain"),
}
FREE_TARGETS = {"ConcatBitcast", "AllocateBuffer", "AsyncCollectiveDone"}
SLICES = {"slice", "dynamic-slice", "gather"}  # read as much of their operand as they return
RECOMPUTED = "rematted_computation"  # how jax.checkpoint marks what it computes again


@dataclasses.dataclass(frozen=True)
class Collective:
    """One transfer between devices.

    Attributes:
      kind: one of `COLLECTIVES`.
      nbytes: size of what one device ends up with.
      times: how often a step runs it.
    """

    kind: str
    nbytes: int
    times: int = 1


@dataclasses.dataclass(frozen=True)
class Counts:
    """What one device does in one run of a program, or of a part of it.

    Attributes:
      hbm_bytes: bytes read from and written to HBM.
      flops: operations in convolutions and matrix products, multiplications and additions apart,
        without those by the zeros of padding and dilation.
      flops_once: the same with each loop counted once, as the compiler counts.
      recomputed_flops: part of `flops` that `jax.checkpoint` does a second time.
      fusions: runs of kernels that the compiler made of several operations.
      collectives: by a key made of the instructions around a transfer and what its pieces share.
      unknown_loops: names of loops whose number of runs is not in the text; they count once.
    """

    hbm_bytes: int = 0
    flops: int = 0
    flops_once: int = 0
    recomputed_flops: int = 0
    fusions: int = 0
    collectives: Mapping[str, Collective] = dataclasses.field(default_factory=dict)
    unknown_loops: tuple[str, ...] = ()

    def times(self, n: int) -> "Counts":
        """Returns the counts of a loop that runs n times."""
        repeated = {
            key: dataclasses.replace(c, times=c.times * n) for key, c in self.collectives.items()
        }
        return Counts(
            self.hbm_bytes * n,
            self.flops * n,
            self.flops_once,
            self.recomputed_flops * n,
            self.fusions * n,
            repeated,
            self.unknown_loops,
        )

    def by_kind(self) -> dict[str, dict[str, int]]:
        """Returns {kind: {"count", "bytes"}}, of one step and one device."""
        table: dict[str, dict[str, int]] = {}
        for c in self.collectives.values():
            row = table.setdefault(c.kind, {"count": 0, "bytes": 0})
            row["count"] += c.times
            row["bytes"] += c.nbytes * c.times
        return dict(sorted(table.items()))


def count(text: str) -> Counts:
    """Counts one run of the entry computation of a compiled module, as `as_text()` gives it.

    Raises:
      ValueError: if the text has no entry computation.
    """
    computations, entry = parse(text)
    return Counter(computations).counts(entry)


@dataclasses.dataclass(frozen=True)
class Operation:
    """One instruction that moves something, and its traffic in one run of the program.

    Attributes:
      instruction: instruction, a fusion as a whole.
      inside: computation that it is in.
      hbm_bytes: bytes read from and written to HBM, in all its runs.
      times: how often it runs.
    """

    instruction: Instruction
    inside: Computation
    hbm_bytes: int
    times: int


def operations(text: str) -> list[Operation]:
    """Returns what moves bytes in HBM; the sum of them is `count(text).hbm_bytes`.

    Raises:
      ValueError: if the text has no entry computation.
    """
    computations, entry = parse(text)
    return list(Counter(computations).operations(entry, 1))


def _hbm(arrays: Iterable[Array]) -> int:
    return sum(array.hbm_bytes for array in arrays)


class Counter:
    """Counts what the computations of one program do, each once."""

    def __init__(self, computations: Mapping[str, Computation]):
        self._computations = computations
        self._known: dict[str, Counts] = {}

    def counts(self, name: str) -> Counts:
        """Counts of one run of a computation; its fusions are part of it."""
        if name not in self._known:
            computation = self._computations[name]
            self._known[name] = _sum(
                self.instruction(i, computation) for i in computation.instructions.values()
            )
        return self._known[name]

    def operations(self, name: str, times: int) -> Iterator[Operation]:
        """Yields what moves bytes when a computation runs so many times."""
        computation = self._computations[name]
        for i in computation.instructions.values():
            inner = self.inner(i)
            for called in inner:
                runs = self.runs(i, computation) if i.opcode == "while" else 1
                yield from self.operations(called, times * (1 if runs is None else runs))
            if not inner and (nbytes := self.instruction(i, computation).hbm_bytes):
                yield Operation(i, computation, nbytes * times, times)

    def inner(self, i: Instruction) -> list[str]:
        """Returns the computations that an instruction runs; of branches, the one of most bytes."""
        if i.opcode == "while":
            return i.called("body") + i.called("condition")
        if i.opcode == "conditional":
            branches = i.called("branch_computations")
            branches += i.called("true_computation") + i.called("false_computation")
            return [max(branches, key=lambda name: self.counts(name).hbm_bytes)]
        if i.opcode in ("call", "async-start"):
            return i.called("to_apply") or i.called("calls") or i.called("called_computations")
        return []

    def instruction(self, i: Instruction, inside: Computation) -> Counts:
        """Counts of one run of an instruction, with the computations that it runs."""
        if inner := self.inner(i):
            counts = _sum(map(self.counts, inner))
            own = {f"{i.name}/{key}": c for key, c in counts.collectives.items()}
            counts = dataclasses.replace(counts, collectives=own)
            runs = self.runs(i, inside) if i.opcode == "while" else 1
            if runs is None:
                return dataclasses.replace(counts, unknown_loops=(*counts.unknown_loops, i.name))
            return counts.times(runs)
        if i.opcode == "fusion":
            (name,) = i.called("calls")
            inner = self._arithmetic(name)
            return dataclasses.replace(inner, hbm_bytes=self._fusion(i, inside), fusions=1)
        return dataclasses.replace(self._work(i, inside), hbm_bytes=_traffic(i, inside))

    def _work(self, i: Instruction, inside: Computation, *, fused: bool = False) -> Counts:
        """Returns the arithmetic and the transfer of one instruction."""
        kind = i.opcode.removesuffix("-start")
        if kind in COLLECTIVES:
            channel = i.number(r"channel_id=(\d+)")
            arrays = i.arrays
            if i.opcode != kind and kind != "all-reduce":  # (operands, results, ...)
                arrays = i.parts[1]
            if fused and (kept := _scattered(i, inside)):
                kind, arrays = "reduce-scatter", kept
            transfer = Collective(kind, sum(array.nbytes for array in arrays))
            # Programs written device by device have one channel for all of their transfers.
            shared = f"channel {channel}, {kind}, {transfer.nbytes} bytes"
            return Counts(collectives={i.name if channel is None else shared: transfer})
        if not (flops := flops_of(i, inside)):
            return Counts()
        again = flops if RECOMPUTED in i.attributes else 0
        return Counts(flops=flops, flops_once=flops, recomputed_flops=again)

    def _arithmetic(self, name: str) -> Counts:
        """Returns the arithmetic and the transfers of a fused computation."""
        key = f"fused {name}"
        if key not in self._known:
            inside, parts = self._computations[name], []
            for i in inside.instructions.values():
                parts.append(self._work(i, inside, fused=True))
                parts += map(self._arithmetic, i.called("calls") if i.opcode == "fusion" else ())
            self._known[key] = _sum(parts)
        return self._known[key]

    def runs(self, loop: Instruction, inside: Computation) -> int | None:
        """Returns how often a loop runs: known to the compiler, or of `i < end`, None if neither.

        Programs for TPUs write a counted loop in one way: the end is a constant of the condition,
        the step one that the body adds, the start one in the tuple that the loop begins with.
        XLA unrolls some of its own, such as a product that passes shards around, by a larger step.
        """
        known = loop.number(r'known_trip_count"?[:=]\{"?n"?:"?(\d+)')
        if known is not None:
            return known
        condition, body = (self._computations[loop.called(k)[0]] for k in ("condition", "body"))
        before, test, after = inside.source(loop.operands[0]), condition.root, body.root
        if test.opcode != "compare" or "direction=LT" not in test.attributes:
            return None
        counter = condition.element(test.operands[0])
        if counter is None or before is None or (before.opcode, after.opcode) != ("tuple", "tuple"):
            return None
        increment = body.source(after.operands[counter])
        if increment is None or increment.opcode != "add":
            return None
        start = inside.integer(before.operands[counter])
        step = body.integer(increment.operands[1])
        end = condition.integer(test.operands[1])
        if body.element(increment.operands[0]) != counter or start is None or end is None:
            return None
        return max(0, -(-(end - start) // step)) if step and step > 0 else None

    def _fusion(self, i: Instruction, inside: Computation) -> int:
        """Returns the HBM traffic of a fusion: of its operands and results, only what it touches.

        It reads no more of an operand than the slices of it that it uses, and writes no more of a
        result that it updates in place than the update. A fusion that carries a part of a
        transfer along (`AsyncCollectiveStart` begins one) hands on the buffers of that transfer.
        """
        fused = self._computations[i.called("calls")[0]]
        total = 0
        for k, name in enumerate(i.operands):
            if (operand := inside.instructions.get(name)) and _hbm(operand.arrays):
                parameter = fused.parameters.get(k)
                read = self._read(parameter, fused) if parameter else None
                whole = _hbm(operand.arrays)
                total += whole if read is None else min(read, whole)
        results = [fused.root.name]
        if fused.root.opcode == "tuple":
            results = list(fused.root.operands)
        aliased = re.search(r"output_to_operand_aliasing=\{(.*?)\)\}", i.attributes)
        in_place = set(re.findall(r"\{(\d*)\}: \(", aliased[1] + ")")) if aliased else set()
        if len(results) != len(i.parts):  # a root that is one instruction with several results
            kept = [p for k, p in enumerate(i.parts) if str(k) not in in_place]
            return total + sum(map(_hbm, kept))
        for part, name in zip(i.parts, results, strict=True):
            if _hbm(part):
                total += self._written(name, fused, _hbm(part))
        return total

    def _read(self, i: Instruction, inside: Computation, *, nested: bool = False) -> int | None:
        """Returns how many bytes of an instruction's result its users need; None if all."""
        needs = [self._needs(user, i.name, inside, nested) for user in inside.users[i.name]]
        return None if None in needs else sum(need or 0 for need in needs)

    def _needs(self, user: Instruction, name: str, inside: Computation, nested: bool) -> int | None:
        """Returns how many bytes of one operand an instruction of a fusion needs."""
        positions = [k for k, operand in enumerate(user.operands) if operand == name]
        if user.opcode in SLICES and positions == [0]:
            return user.arrays[0].padded_bytes
        if user.opcode == "bitcast" and user is not inside.root:
            return self._read(user, inside, nested=nested)
        if user.opcode == "fusion" and len(positions) == 1:
            scope = self._computations[user.called("calls")[0]]
            parameter = scope.parameters[positions[0]]
            if scope.view(scope.root) is parameter and user is not inside.root:
                return self._read(user, inside, nested=nested)
            return self._read(parameter, scope, nested=True)
        if user.opcode in COLLECTIVES:  # of a transfer in parts, only the first reads
            whole = inside.root.target == "AsyncCollectiveStart" or _scattered(user, inside)
            return None if whole else 0
        updated = user.opcode == "dynamic-update-slice" and positions == [0]
        handed_on = not nested and user is inside.root and user.opcode in ("tuple", "bitcast")
        return 0 if updated or handed_on or user.target.startswith("AsyncCollective") else None

    def _written(self, name: str, inside: Computation, whole: int) -> int:
        i = inside.view(inside.instructions[name])
        if i.opcode == "fusion":
            scope = self._computations[i.called("calls")[0]]
            root = scope.view(scope.root)
            if root.opcode == "parameter":
                return self._written(i.operands[int(root.literal)], inside, whole)
            return self._written(root.name, scope, whole)
        if i.opcode == "dynamic-update-slice":
            return min(whole, inside.instructions[i.operands[1]].arrays[0].padded_bytes)
        passed_on = i.opcode == "parameter" or i.opcode in COLLECTIVES
        return 0 if passed_on or i.target == "AsyncCollectiveDone" else whole


def _sum(parts: Iterable[Counts]) -> Counts:
    parts, collectives = list(parts), {}
    for c in parts:
        for key, transfer in c.collectives.items():
            collectives.setdefault(key, transfer)  # of the pieces of one transfer, the first
    return Counts(
        hbm_bytes=sum(c.hbm_bytes for c in parts),
        flops=sum(c.flops for c in parts),
        flops_once=sum(c.flops_once for c in parts),
        recomputed_flops=sum(c.recomputed_flops for c in parts),
        fusions=sum(c.fusions for c in parts),
        collectives=collectives,
        unknown_loops=tuple(name for c in parts for name in c.unknown_loops),
    )


def _scattered(i: Instruction, inside: Computation) -> tuple[Array, ...]:
    """Returns the slices of an all-reduce that a fusion keeps; none if it keeps the whole.

    This is how programs for TPUs write a reduce-scatter.
    """
    users = inside.users[i.name]
    if i.opcode != "all-reduce" or any(u.opcode not in ("slice", "dynamic-slice") for u in users):
        return ()
    return tuple(array for user in users for array in user.arrays)


def _traffic(i: Instruction, inside: Computation) -> int:
    """Returns the HBM traffic of an instruction that calls no other computation."""
    if i.opcode in FREE or i.opcode.endswith(("-done", "-update")) or i.target in FREE_TARGETS:
        return 0
    operands = [inside.instructions[n].arrays for n in i.operands if n in inside.instructions]
    arrays = [array for arrays in operands for array in arrays]
    if i.opcode == "copy-start":  # (copy, what is copied, ...)
        return _hbm(i.parts[0]) + _hbm(arrays)
    moved = {"dynamic-update-slice": 1, "dynamic-update-slice-start": 1, "scatter": -1}
    if i.opcode in moved:
        update = operands[moved[i.opcode]]
        target = operands[0][0].in_hbm
        return _hbm(update) + target * sum(array.padded_bytes for array in update)
    kind = i.opcode.removesuffix("-start")
    begins = kind != i.opcode and kind != "all-reduce" and len(i.parts) > 1
    results = i.arrays
    if begins:  # returns (operands, results, ...)
        results = list(i.parts)[1]
    elif i.target.startswith(GPU_LIBRARIES):  # returns room to work in, too, as bytes
        results = tuple(array for array in results if array.dtype not in ("u8", "s8"))
    if kind in SLICES:
        source = operands[0][0].in_hbm
        return _hbm(results) + source * sum(array.padded_bytes for array in results)
    return _hbm(arrays) + _hbm(results)
