"""Says what a recipe takes on a TPU slice that is not there, or on this machine's devices.

python -m simclr_jax plan --config=configs/simclr_imagenet.py:v1_r50_1x --topology=v5e:8x8
python -m simclr_jax plan --config=configs/simclr_imagenet.py:v2_r152_3x_sk --topology=v5p-128 --fit
python -m simclr_jax plan --config=configs/simclr_imagenet.py:v1_r50_1x --topology=here --fit

The step that `train` would run is compiled by the TPU's own compiler, or by that of the GPU or CPU
that is here. It needs neither the images nor a checkpoint. Of a slice it tells memory, work, time
and cost, of this machine memory and work. Exit code 0 if it fits, 1 if it does not.
"""

import dataclasses
import importlib.metadata
import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
from absl import flags

from simclr_jax.build.experiment import Experiment, build_experiment, train_step
from simclr_jax.build.resolve import take_over_network
from simclr_jax.build.schema import complete
from simclr_jax.cli import app, recipe
from simclr_jax.core.errors import UserError
from simclr_jax.core.sections import build_section
from simclr_jax.data.records import examples_of
from simclr_jax.parallel.sharding import Layout
from simclr_jax.plan.aot import Program, TooLarge, compile_step, slice_devices
from simclr_jax.plan.chips import HERE, HOST_LINK, Slice, find_slice
from simclr_jax.plan.dataset_spec import open_or_describe, without_checkpoints
from simclr_jax.plan.here import Here, find_here
from simclr_jax.plan.text import describe, gib

log = logging.getLogger(__name__)

CONFIG = recipe.define("simclr_imagenet:v1_r50_1x")
TOPOLOGY = flags.DEFINE_string(
    "topology",
    "",
    "Slice, such as v5e:8x8, v5litepod-64 or v4-32; or 'here' for the devices of this machine.",
)
NUM_SLICES = flags.DEFINE_integer("num_slices", 1, "How many such slices.")
NUM_IMAGES = flags.DEFINE_integer(
    "num_images", None, "Training images, where neither they nor their number are known here."
)
PRICE = flags.DEFINE_float("price", None, "USD per chip-hour.")
FIT = flags.DEFINE_bool("fit", False, "Tries settings that save memory until the step fits.")
JSON = flags.DEFINE_bool("json", False, "Prints one JSON object.")

BASIS = (
    "estimate from the compiler's counts and datasheet peaks, not a measurement; transfers "
    "between devices, reading of data, evaluation and checkpoints are not in it"
)
COUNTED = {
    "flops": "the compiler's cost analysis, with the products of a loop as often as it runs",
    "hbm_bytes": "operands and results that lie in HBM, in whole tiles, by the compiled HLO",
    "bytes_accessed": "the compiler's cost analysis; each loop once, and from v4 on also on-chip "
    "memory and whole operands of asynchronous slices",
}
BY_KERNELS = "operands and results of each kernel, by the compiled HLO; caches spare a part"
COUNTED_ON_CPU = {
    "flops": COUNTED["flops"],
    "hbm_bytes": BY_KERNELS,
    "bytes_accessed": "the compiler's cost analysis; each loop once",
}
COUNTED_ON_GPU = {
    "flops": "convolutions and matrix products, those of a loop as often as it runs, with the "
    "zeros that the compiler puts around and between the pixels",
    "hbm_bytes": BY_KERNELS,
}
MAX_CHUNKS = 64


@dataclasses.dataclass(frozen=True)
class Knobs:
    """The settings that trade time for memory, as the config has them."""

    preset: str
    remat: str
    grad_cache_chunks: int

    def overrides(self) -> dict[tuple[str, str], Any]:
        """Returns (section, key) -> value."""
        return {
            ("parallel", "preset"): self.preset,
            ("encoder", "remat"): self.remat,
            ("method", "grad_cache_chunks"): self.grad_cache_chunks,
        }

    def __str__(self) -> str:
        return f"preset {self.preset}, remat {self.remat}, chunks {self.grad_cache_chunks}"


@dataclasses.dataclass(frozen=True)
class Attempt:
    """A config that was compiled for a slice or for this machine, and the result."""

    experiment: Experiment
    place: Slice | Here
    knobs: Knobs
    outcome: Program | TooLarge

    @property
    def line_bytes(self) -> int:
        """Bytes of the parameters, kept during a step that has a line of metrics; `train.norms`."""
        return _bytes_per_device(self.experiment.abstract_state.params)

    @property
    def next_batch_bytes(self) -> int:
        """Bytes of the batch that travels to the device during a step; `data.place`."""
        return _bytes_per_device(self.experiment.abstract_batch)

    @property
    def needed_bytes(self) -> int | None:
        """HBM per device; None if the compiler refused without a number."""
        if isinstance(self.outcome, TooLarge):
            return self.outcome.needed_bytes
        return self.outcome.total_bytes + self.line_bytes + self.next_batch_bytes

    @property
    def fits(self) -> bool:
        """Whether there is a program, and it leaves the memory that the chip's system needs."""
        needed = self.needed_bytes
        return (
            isinstance(self.outcome, Program)
            and needed is not None
            and needed <= self.place.usable_hbm_bytes
        )

    def verdict(self) -> str:
        """Returns the answer in a sentence without its full stop."""
        usable = self.place.usable_hbm_bytes
        if self.needed_bytes is None:
            return f"does not fit into the {gib(usable)} of a device"
        short = self.needed_bytes - usable
        if self.fits:
            return f"fits: {gib(self.needed_bytes)} of {gib(usable)}, {gib(-short)} to spare"
        least = "at least " if isinstance(self.outcome, TooLarge) else ""  # it gives up early
        return (
            f"does not fit: {least}{gib(self.needed_bytes)} of {gib(usable)}, "
            f"{least}{gib(short)} too much"
        )


def main(argv: Sequence[str]) -> int:
    """Runs the verb; returns its exit code."""
    fits: list[bool] = []
    code = app.run(lambda: fits.append(_plan()), argv, required=("config", "topology"))
    return app.FAILED if code == app.DONE and not fits[0] else code


def _plan() -> bool:
    if PRICE.value is not None and not 0 < PRICE.value < math.inf:
        raise UserError(f"--price={PRICE.value} must be a number above 0: USD per chip-hour.")
    jax.config.update("jax_enable_compilation_cache", False)  # the seconds are to be real
    if TOPOLOGY.value == HERE:
        place = find_here(NUM_SLICES.value, PRICE.value)
        config, devices = CONFIG().config, place.devices
    else:
        place = find_slice(TOPOLOGY.value, NUM_SLICES.value)
        config = CONFIG().config
        jax.config.update("jax_platforms", "cpu")  # a TPU that is here may be at work
        devices = slice_devices(place)
    config = complete(take_over_network(config))
    source, images = open_or_describe(config, NUM_IMAGES.value)
    config, assumed = without_checkpoints(config, source)

    def build(changes: Mapping[tuple[str, str], Any]) -> Experiment:
        return build_experiment(_with(config, changes), devices, train_source=source)

    def attempt(changes: Mapping[tuple[str, str], Any]) -> Attempt:
        experiment = build(changes)
        knobs = _knobs(experiment)
        log.info("Compiling with --topology=%s: %s.", place.name, knobs)
        tried = Attempt(
            experiment,
            place,
            knobs,
            compile_step(
                train_step(experiment), experiment.abstract_state, experiment.abstract_batch
            ),
        )
        log.info("It %s.", tried.verdict())
        return tried

    attempts = [attempt({})]
    if FIT.value:
        attempts += _until_it_fits(attempts[0], attempt)
    answer = _answer(attempts, PRICE.value) | {
        "images": {"name": source.name, "count": len(source), "how": images},
        "examples": examples_of(attempts[0].experiment.policy.cuts),
        "assumed": assumed,
    }
    if not answer["fits"]:
        answer["cures"] = _cures(attempts[0], attempts[-1], build)
    print(json.dumps(answer) if JSON.value else describe(answer))
    return answer["fits"]


def _knobs(experiment: Experiment) -> Knobs:
    layout = build_section("config.parallel", Layout, experiment.config["parallel"])
    return Knobs(
        preset=layout.preset,
        remat=getattr(experiment.network.model.encoder, "remat", "none"),
        grad_cache_chunks={"grad_cache_chunks": 1, **experiment.config["method"]}[
            "grad_cache_chunks"
        ],
    )


def _with(config: Mapping[str, Any], changes: Mapping[tuple[str, str], Any]) -> dict[str, Any]:
    changed = {section: dict(values) for section, values in config.items()}
    for (section, key), value in changes.items():
        changed.setdefault(section, {})[key] = value
    return changed


def _until_it_fits(
    first: Attempt, attempt: Callable[[Mapping[tuple[str, str], Any]], Attempt]
) -> Iterator[Attempt]:
    """Yields attempts with one more setting that saves memory each, up to the first that fits.

    What costs the least time comes first: presets only move the state, rematerialisation computes
    parts of the network again, and the gradient cache all of it. So the gradient cache replaces
    rematerialisation, which is added to it only at the very end. A preset is not tried before it
    could save enough, and the number of chunks stops growing when more have saved nothing.
    """
    state_bytes = _bytes_per_device(first.experiment.abstract_state)
    last, left = first, list(_changes(first))
    while not last.fits:
        needed, usable = last.needed_bytes, last.place.usable_hbm_bytes
        # A preset can save the state, and the gradients of its parameters.
        hopeless = needed is not None and needed - usable > 2 * state_bytes
        useful = [change for change in left if not (hopeless and "preset" in change)]
        if not useful:
            return
        change = useful[0]
        left.remove(change)
        knobs = dataclasses.replace(last.knobs, **change)
        try:
            tried = attempt(_differences(first.knobs, knobs))
        except UserError as error:  # this encoder, method or batch does not have that setting
            log.info("Cannot try %s: %s", knobs, error)
            continue
        if "grad_cache_chunks" in change and _saves_nothing(tried, last):
            left = [other for other in left if "grad_cache_chunks" not in other]
        last = tried
        yield last


def _saves_nothing(now: Attempt, before: Attempt) -> bool:
    """Whether one more setting saved nothing; unknown, so False, where a program was refused."""
    if now.knobs.remat != before.knobs.remat:
        return False
    sizes = [a.outcome.total_bytes for a in (now, before) if isinstance(a.outcome, Program)]
    return len(sizes) == 2 and sizes[0] >= sizes[1]


def _differences(first: Knobs, last: Knobs) -> dict[tuple[str, str], Any]:
    return dict(last.overrides().items() - first.overrides().items())


def _changes(first: Attempt) -> Iterator[dict[str, Any]]:
    """Yields the settings beyond those of the first attempt, one at a time."""
    choices = _choices(first)
    for knob in ("preset", "remat"):
        yield from ({knob: value} for value in choices[knob])
    own = {"remat": first.knobs.remat}
    yield from ({"grad_cache_chunks": n, **own} for n in choices["grad_cache_chunks"])
    if len(choices["grad_cache_chunks"]) > 1 and first.knobs.remat != "blocks":
        yield {"remat": "blocks"}


def _choices(attempt: Attempt) -> dict[str, list[Any]]:
    """Returns values that save more memory than those of an attempt, by knob."""
    now, experiment = attempt.knobs, attempt.experiment
    after = lambda choices, value: list(choices[choices.index(value) + 1 :])
    presets = after(("replicated", "zero1", "fsdp"), now.preset)
    remats = after(("none", "convs", "blocks"), now.remat)
    if isinstance(attempt.place, Here) and attempt.place.on_gpu and "convs" in remats:
        remats.remove("convs")  # where it takes more; see docs/planning.md
    per_device = experiment.dataset.batch_size // experiment.mesh.size
    chunks, n = [], now.grad_cache_chunks * 2
    while n <= MAX_CHUNKS and per_device % n == 0:
        chunks.append(n)
        n *= 2
    split = experiment.mesh.size > 1  # one device has nobody to share the state with
    return {"preset": presets if split else [], "remat": remats, "grad_cache_chunks": chunks}


def _cures(
    first: Attempt, last: Attempt, build: Callable[[Mapping[tuple[str, str], Any]], Experiment]
) -> dict[str, list[Any]]:
    """Returns what could bring a step in: key of the config -> values, all of which it takes."""

    def taken(knob: str, value: Any) -> bool:
        knobs = dataclasses.replace(last.knobs, **{knob: value})
        try:
            build(_differences(first.knobs, knobs))
        except UserError as error:  # this encoder or method does not have it
            log.debug("Left out: %s", error)
            return False
        return True

    cures = {}
    for knob, values in _choices(last).items():
        if knob == "remat":
            values = [value for value in values if taken(knob, value)]
        elif values and not taken(knob, values[0]):  # as it takes the first, it takes the others
            continue
        if values:
            section = next(section for section, key in last.knobs.overrides() if key == knob)
            cures[f"{section}.{knob}"] = values
    return cures


def _bytes_per_device(tree: Any) -> int:
    def of(x: jax.ShapeDtypeStruct) -> int:
        shape = x.shape if x.sharding is None else x.sharding.shard_shape(x.shape)
        return jax.ShapeDtypeStruct(shape, x.dtype).size * x.dtype.itemsize

    return sum(map(of, jax.tree.leaves(tree)))


def _answer(attempts: Sequence[Attempt], price: float | None) -> dict[str, Any]:
    """Returns what is printed about the last attempt."""
    first, last = attempts[0], attempts[-1]
    experiment, place = last.experiment, last.place
    changed = _differences(first.knobs, last.knobs)
    on_tpu = isinstance(place, Slice) or place.on_tpu
    compiler = "libtpu" if on_tpu else "jaxlib"
    versions = {name: importlib.metadata.version(name) for name in ("jax", compiler)}
    answer: dict[str, Any] = {
        "config": CONFIG().path,
        "overrides": CONFIG().overrides,
        **place.facts(),
        "devices": place.num_devices,
        "parameters": sum(x.size for x in jax.tree.leaves(experiment.abstract_state.params)),
        "batch_size": experiment.dataset.batch_size,
        "batch_per_device": experiment.dataset.batch_size / experiment.mesh.size,
        "mesh": dict(experiment.mesh.shape),
        **dataclasses.asdict(last.knobs),
        "fits": last.fits,
        "verdict": last.verdict(),
        "usable_hbm_bytes": place.usable_hbm_bytes,
        "needed_hbm_bytes": last.needed_bytes,
        "line_bytes": last.line_bytes,
        "next_batch_bytes": last.next_batch_bytes,
        "state_bytes_per_device": _bytes_per_device(experiment.abstract_state),
        "tried": [f"{tried.knobs}: {tried.verdict()}" for tried in attempts[:-1]],
        "flags": sorted(f"--config.{'.'.join(path)}={value}" for path, value in changed.items()),
        "compile_seconds": round(last.outcome.compile_seconds, 1),
        "versions": versions,
    }
    if isinstance(last.outcome, TooLarge):
        return answer | {"compiler": last.outcome.message.partition("\n")[0]}
    figures = dataclasses.asdict(last.outcome)
    del figures["compile_seconds"]
    if isinstance(place, Here):
        counted = COUNTED_ON_GPU if place.on_gpu else COUNTED if on_tpu else COUNTED_ON_CPU
        return answer | figures | {"counted": counted}
    estimate = _estimate(last.outcome, experiment, place, price)
    return answer | figures | {"counted": COUNTED, "estimate": estimate}


def _estimate(
    program: Program, experiment: Experiment, slice_: Slice, price: float | None
) -> dict[str, Any]:
    """Returns the least times that the counts allow, at the chip's peak rates."""
    by_flops = program.flops / slice_.peak_flops
    by_bytes = program.hbm_bytes / slice_.hbm_bandwidth
    seconds = max(by_flops, by_bytes)
    hours = experiment.num_steps * seconds / 3600
    placed = jax.tree.leaves(experiment.abstract_batch)
    batch_bytes = sum(x.size * x.dtype.itemsize for x in placed)
    estimate = {
        "basis": BASIS,
        "step_seconds": seconds,
        "bound_by": "arithmetic" if by_flops >= by_bytes else "HBM bandwidth",
        "pairs_per_second": experiment.dataset.batch_size / seconds,
        "mfu": (program.flops - program.recomputed_flops) / slice_.peak_flops / seconds,
        "epochs": experiment.run.epochs,
        "steps": experiment.num_steps,
        "hours_per_epoch": hours / experiment.run.epochs,
        "hours": hours,
        "chip_hours": hours * slice_.num_chips,
        "hosts": slice_.num_hosts,
        "images_per_host_second": experiment.dataset.batch_size / slice_.num_hosts / seconds,
        "host_to_device_bytes": batch_bytes,
        "host_bytes_per_second": batch_bytes / slice_.num_hosts / seconds,
        "chip_bytes_per_second": batch_bytes / slice_.num_chips / seconds,
        "chip_link_bytes_per_second": HOST_LINK,
    }
    if price is not None:
        estimate |= {"usd_per_chip_hour": price, "usd": price * hours * slice_.num_chips}
    return estimate
