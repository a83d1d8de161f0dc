"""Compiles for TPU slices that are not there, and reads what the program takes.

The compiler is libtpu's, the same that runs on a TPU; see https://docs.jax.dev/en/latest/aot.html.
"""

import contextlib
import dataclasses
import glob
import importlib.util
import logging
import os
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
from jax.experimental import topologies

from simclr_jax.core.errors import UserError
from simclr_jax.plan.chips import GIB, Slice
from simclr_jax.plan.overlap import overlap
from simclr_jax.plan.traffic import count, operations
from simclr_jax.plan.words import by_part

log = logging.getLogger(__name__)

PROGRESS_EVERY_SECONDS = 30.0
# Without a TPU, libtpu looks for the machine that it is on, and lets one process in at a time.
NO_TPU_HERE = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-16",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    # By itself it takes half of the cores; all of two compile a ResNet-50 1.8 times as fast.
    "LIBTPU_INIT_ARGS": f"--xla_jf_internal_num_threads={os.cpu_count()}",
}
UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": GIB, "T": 2**40}


@dataclasses.dataclass(frozen=True)
class Program:
    """What a step takes on each device, by the compiler's account unless it says otherwise.

    Attributes:
      arguments_bytes: HBM that the state and the batch take.
      temporaries_bytes: HBM that temporaries take at the worst moment.
      code_bytes: HBM that the program itself takes.
      total_bytes: HBM in all, with results that replace no argument.
      flops: operations, with those of loops as often as they run; the
        compiler itself counts each loop once. On a GPU those of convolutions and matrix products.
      recomputed_flops: the part that rematerialisation and gradient caching do a second time.
      hbm_bytes: HBM traffic counted from the compiled program; see `plan.traffic`.
      traffic: the same by part of the network and pass; see `plan.words.by_part`.
      bytes_accessed: HBM traffic as the compiler counts it; None on a GPU.
      fusions: runs of kernels that the compiler made of several operations.
      collectives: kind -> {"count", "bytes"}; bytes are of results, per device.
      overlapped: those of them that overlap with other work; see `plan.overlap`.
      unknown_loops: loops that were counted once for lack of a number.
      compile_seconds: on this machine.
    """

    arguments_bytes: int
    temporaries_bytes: int
    code_bytes: int
    total_bytes: int
    flops: float
    recomputed_flops: int
    hbm_bytes: int
    traffic: list[dict[str, Any]]
    bytes_accessed: float | None
    fusions: int
    collectives: dict[str, dict[str, int]]
    overlapped: dict[str, dict[str, int]]
    unknown_loops: int
    compile_seconds: float


@dataclasses.dataclass(frozen=True)
class TooLarge:
    """The compiler's answer to a step that does not fit.

    Attributes:
      needed_bytes: HBM needed on each device, as far as the compiler got; None if it did not say.
      message: words of the compiler.
      compile_seconds: on this machine.
    """

    needed_bytes: int | None
    message: str
    compile_seconds: float


def slice_devices(slice_: Slice) -> Sequence[Any]:
    """Returns devices that can be compiled for, and nothing else.

    Raises:
      UserError: if libtpu is not installed, or knows no such slice.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            "The TPU compiler is not installed here. It needs no TPU, but Linux and 1 GB:\n"
            "  pip install 'simclr_jax[tpu]', or in a checkout pip install -r requirements-tpu.txt"
        )
    if not glob.glob("/dev/accel*") and not glob.glob("/dev/vfio/[0-9]*"):
        for name, value in NO_TPU_HERE.items():
            os.environ.setdefault(name, value)
    options: dict[str, Any] = {}
    if slice_.chip.config:
        options["chip_config_name"] = slice_.chip.config
    if slice_.count > 1:
        options["num_slices"] = slice_.count
    if slice_.shape == (1, 1):
        options["chips_per_host_bounds"] = [1, 1, 1]
    try:
        topology = topologies.get_topology_desc(
            platform="tpu", topology_name=slice_.name, **options
        )
    except jax.errors.JaxRuntimeError as error:
        offered = ", ".join(Slice(slice_.chip, shape).name for shape in slice_.chip.shapes)
        raise UserError(
            f"The TPU compiler refuses {slice_.name}: {error}. Slices on offer are {offered}."
        ) from error
    return topology.devices


def compile_step(
    step: Any, *arguments: Any, options: Mapping[str, Any] | None = None
) -> Program | TooLarge:
    """Compiles a jitted function for the devices that its arguments are placed on.

    Args:
      step: step, as `jax.jit` returns it.
      *arguments: trees of `jax.ShapeDtypeStruct` with shardings.
      options: settings of the compiler, by name; they come before those in XLA_FLAGS.

    Returns:
      What the program takes, or that it does not fit.
    """
    start = time.monotonic()
    with _progress():
        lowered = step.lower(*arguments)
        try:
            compiled = lowered.compile(dict(options or {}))
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            message = str(error)
            return TooLarge(_needed_bytes(message), message, time.monotonic() - start)
    seconds = time.monotonic() - start
    memory, costs = compiled.memory_analysis(), compiled.cost_analysis()
    text = compiled.as_text()
    counts = count(text)
    flops, bytes_accessed = float(counts.flops), None
    (device, *_) = jax.tree.leaves(arguments)[0].sharding.device_set
    if device.platform != "gpu":  # where the analysis does not see into calls of libraries
        flops = costs["flops"] + counts.flops - counts.flops_once
        bytes_accessed = costs["bytes accessed"]
    in_place = memory.alias_size_in_bytes
    return Program(
        arguments_bytes=memory.argument_size_in_bytes,
        temporaries_bytes=memory.temp_size_in_bytes,
        code_bytes=memory.generated_code_size_in_bytes,
        total_bytes=memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - in_place
        + memory.temp_size_in_bytes
        + memory.generated_code_size_in_bytes,
        flops=flops,
        recomputed_flops=counts.recomputed_flops,
        hbm_bytes=counts.hbm_bytes,
        traffic=by_part(operations(text)),
        bytes_accessed=bytes_accessed,
        fusions=counts.fusions,
        collectives=counts.by_kind(),
        overlapped=overlap(text),
        unknown_loops=len(counts.unknown_loops),
        compile_seconds=seconds,
    )


def _needed_bytes(message: str) -> int | None:
    """Returns what a program needs by the compiler's refusal, whose wording varies."""
    for pattern in (
        r"Used ([\d.]+)([KMGT]?) of [\d.]+[KMGT]? hbm",
        r"HLO temporaries \(([\d.]+)([KMGT]?)\)",
        r"requires? ([\d.]+)([KMGT]?)B? ",
    ):
        found = re.search(pattern, message)
        if found:
            return int(float(found[1]) * UNITS[found[2]])
    return None


@contextlib.contextmanager
def _progress() -> Iterator[None]:
    """Logs that the compiler is still at work."""
    done, start = threading.Event(), time.monotonic()

    def tell() -> None:
        while not done.wait(PROGRESS_EVERY_SECONDS):
            log.info("Compiling, %.0f s so far; large networks take minutes.", _since(start))

    _since = lambda then: time.monotonic() - then
    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
