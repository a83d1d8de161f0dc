"""Work that overlaps with the transfers of a compiled program.

The instructions of a TPU's program stand in the order that they run in. A transfer is one of them,
and all else waits; or it begins with one and ends with another, and what stands between runs
meanwhile.
"""

import dataclasses
from collections.abc import Iterator, Mapping

from simclr_jax.plan.hlo import Computation, parse
from simclr_jax.plan.traffic import Collective, Counter

WORK = ("flops", "hbm_bytes")


def overlap(text: str) -> dict[str, dict[str, int]]:
    """Returns the transfers that overlap with other work, by kind.

    Args:
      text: compiled module, as `as_text()` gives it.

    Returns:
      Kind -> {"count", "bytes", "flops", "hbm_bytes"}: how many, the size of their results, and
      the arithmetic and HBM traffic between their beginnings and their ends. Work that overlaps
      with two transfers at once counts for each.

    Raises:
      ValueError: if the text has no entry computation.
    """
    computations, entry = parse(text)
    table: dict[str, dict[str, int]] = {}
    for transfer, work in _overlapped(Counter(computations), computations, entry, 1):
        row = table.setdefault(transfer.kind, dict.fromkeys(("count", "bytes", *WORK), 0))
        row["count"] += transfer.times
        row["bytes"] += transfer.nbytes * transfer.times
        for name in WORK:
            row[name] += work[name] * transfer.times
    return dict(sorted(table.items()))


def _overlapped(
    counter: Counter, computations: Mapping[str, Computation], name: str, times: int
) -> Iterator[tuple[Collective, dict[str, int]]]:
    """Yields the overlapped transfers of a computation and of those that it runs."""
    inside = computations[name]
    transfers: dict[str, Collective] = {}
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    began: dict[str, tuple[str, ...]] = {}
    counts = [counter.instruction(i, inside) for i in inside.instructions.values()]
    for k, i in enumerate(inside.instructions.values()):
        inner = counter.inner(i)
        for called in inner:
            runs = counter.runs(i, inside) if i.opcode == "while" else 1
            yield from _overlapped(counter, computations, called, times * (runs or 1))
        here = {} if inner else counts[k].collectives
        transfers = {**here, **transfers}
        began[i.name] = tuple(here)
        ends = began.get(i.operands[0], ()) if i.opcode.endswith("-done") else ()
        for key in (*here, *ends):
            first.setdefault(key, k)
            last[key] = k
    for key, transfer in transfers.items():
        between = counts[first[key] + 1 : last[key]]
        work = {name: sum(getattr(c, name) for c in between) for name in WORK}
        if any(work.values()):
            yield dataclasses.replace(transfer, times=times), work
