"""TPU chips as their data sheets describe them, and the names of slices made of them.

A slice has two names: the compiler's "v5e:8x8", chips along each side, and Google Cloud's
accelerator type "v5litepod-64". The number in the latter counts TensorCores up to v5p, which have
two of them a chip, and chips for v5litepod and v6e.
"""

import dataclasses
import math
import re
from typing import Any

from simclr_jax.core.errors import UserError, did_you_mean

GIB = 2**30
HERE = "here"  # in the place of a slice: the devices of this machine
FLAT = (  # the usual slices, of chips wired as a torus of two dimensions
    *((1, 1), (2, 2), (2, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16)),
)
V2 = ((2, 2), (4, 4), (8, 8), (8, 16), (16, 16))
V3 = (*V2[:2], (4, 8), *V2[2:], (16, 32), (32, 32))
CUBES = (  # and of three
    *((2, 2, 1), (2, 2, 2), (2, 2, 4), (2, 4, 4), (4, 4, 4), (4, 4, 8), (4, 8, 8), (8, 8, 8)),
    *((8, 8, 16), (8, 16, 16), (16, 16, 16), (16, 16, 24)),
)
# Recalled, since no data sheet says it: the chips of a host, in a slice of several hosts, and what
# PCIe 3.0 x16 brings each of them from its host's memory, in bytes a second.
HOST_CHIPS = 4
HOST_LINK = 16e9
SOURCE = "https://cloud.google.com/tpu/docs/"


@dataclasses.dataclass(frozen=True)
class Chip:
    """A kind of TPU. Figures are per chip unless they say otherwise.

    Attributes:
      name: name that the compiler uses.
      prefix: beginning of Google Cloud's accelerator types; empty if it has none.
      counts_cores: whether the number in an accelerator type is of TensorCores, two a chip.
      devices: devices that JAX shows for one chip.
      peak_flops: bf16 multiplications and additions a second, apart.
      hbm_bandwidth: bytes a second.
      hbm_gib: memory by the data sheet.
      usable_hbm_gib: memory that the compiler lets one device use; the rest is the system's. It
        is what libtpu 0.0.42.1 says of a program that is too large.
      shapes: slices on offer, chips along each side.
      config: the compiler's name of the mode that JAX runs the chip in, if not its default.
      page: page below `SOURCE` where peak, bandwidth and HBM stand.
    """

    name: str
    prefix: str
    counts_cores: bool
    devices: int
    peak_flops: float
    hbm_bandwidth: float
    hbm_gib: int
    usable_hbm_gib: float
    shapes: tuple[tuple[int, ...], ...]
    page: str
    config: str = ""

    @property
    def source(self) -> str:
        """Where its figures stand."""
        return SOURCE + self.page


CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v2", "v2", True, 2, 46e12, 700e9, 16, 7.48, V2, "v2"),
        Chip("v3", "v3", True, 2, 123e12, 900e9, 32, 15.48, V3, "v3"),
        # JAX shows a v4 chip as one device, which takes the compiler's "megacore".
        Chip("v4", "v4", True, 1, 275e12, 1200e9, 32, 30.75, CUBES[:-2], "v4", "megacore"),
        Chip("v5e", "v5litepod", False, 1, 197e12, 819e9, 16, 15.75, FLAT, "v5e"),
        Chip("v5p", "v5p", True, 1, 459e12, 2765e9, 95, 95.74, CUBES, "v5p"),
        Chip("v6e", "v6e", False, 1, 918e12, 1638e9, 32, 31.25, FLAT, "v6e"),
        Chip("tpu7x", "", True, 2, 2307e12, 7380e9, 192, 94.75, CUBES, "tpu7x"),
    )
}


@dataclasses.dataclass(frozen=True)
class Slice:
    """Chips of one kind that work together.

    Attributes:
      shape: chips along each side.
      count: how many such slices; more than one are joined by the data centre's network.
    """

    chip: Chip
    shape: tuple[int, ...]
    count: int = 1

    @property
    def name(self) -> str:
        """The compiler's name of one of them."""
        return f"{self.chip.name}:{'x'.join(map(str, self.shape))}"

    @property
    def num_chips(self) -> int:
        """Chips of all of them."""
        return math.prod(self.shape) * self.count

    @property
    def num_hosts(self) -> int:
        """Hosts of all of them, with `HOST_CHIPS` each."""
        return math.ceil(math.prod(self.shape) / HOST_CHIPS) * self.count

    @property
    def num_devices(self) -> int:
        """Devices of all of them, as JAX counts."""
        return self.num_chips * self.chip.devices

    @property
    def usable_hbm_bytes(self) -> int:
        """Memory that one device has for a program."""
        return int(self.chip.usable_hbm_gib * GIB)

    def facts(self) -> dict[str, Any]:
        """Returns what an answer says about it."""
        chip = self.chip
        return {
            "topology": self.name,
            "slices": self.count,
            "chips": self.num_chips,
            "chip": {
                "name": chip.name,
                "devices": chip.devices,
                "memory": "HBM",
                "limit": "the compiler may use",
                "peak_bf16_flops": chip.peak_flops,
                "hbm_bandwidth": chip.hbm_bandwidth,
                "hbm_gib": chip.hbm_gib,
                "source": chip.source,
            },
        }

    @property
    def peak_flops(self) -> float:
        """Peak bf16 operations a second of one device."""
        return self.chip.peak_flops / self.chip.devices

    @property
    def hbm_bandwidth(self) -> float:
        """Bytes a second of one device's memory."""
        return self.chip.hbm_bandwidth / self.chip.devices


def _user_names() -> dict[str, Slice]:
    names = {}
    for chip in CHIPS.values():
        for shape in chip.shapes:
            if chip.prefix:
                size = math.prod(shape) * (2 if chip.counts_cores else 1)
                names[f"{chip.prefix}-{size}"] = Slice(chip, shape)
    return names


USER_NAMES = _user_names()


def find_slice(name: str, count: int = 1) -> Slice:
    """Returns the slice of a name, the compiler's "v5e:8x8" or the cloud's "v5litepod-64".

    Args:
      name: one slice. A shape that is not on offer is left to the compiler to judge, as long
        as the number of its sides is right and it is not larger than the largest on offer.
      count: number of such slices.

    Raises:
      UserError: with the nearest names, if there is none.
    """
    if count < 1:
        raise UserError(f"--num_slices={count} must be 1 or more.")
    if name in USER_NAMES:
        return dataclasses.replace(USER_NAMES[name], count=count)
    kind, colon, sides = name.partition(":")
    if colon and kind in CHIPS and re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", sides):
        chip = CHIPS[kind]
        shape = tuple(map(int, sides.split("x")))
        largest = max(map(math.prod, chip.shapes))
        if len(shape) == len(chip.shapes[0]) and math.prod(shape) <= largest:
            return Slice(chip, shape, count)
        raise UserError(_unknown(name, f" {chip.name} slices are {_offer(chip)}."))
    if kind in CHIPS:
        raise UserError(_unknown(name, f" {kind} slices are {_offer(CHIPS[kind])}."))
    prefix = name.partition("-")[0]
    of_kind = [known for known in USER_NAMES if known.partition("-")[0] == prefix]
    more = ""
    if of_kind:
        example = USER_NAMES[of_kind[-1]].name
        more = f" Usual are {', '.join(of_kind)}; others are named by their sides, like {example}."
    raise UserError(_unknown(name, more))


def _offer(chip: Chip) -> str:
    return ", ".join(Slice(chip, shape).name for shape in chip.shapes)


def _unknown(name: str, more: str) -> str:
    compiler_names = [Slice(c, shape).name for c in CHIPS.values() for shape in c.shapes]
    alike = re.sub(r"^v5e-", "v5litepod-", name)
    close = did_you_mean(alike, [*compiler_names, *USER_NAMES, HERE])
    more = more or f" Kinds of chips are {', '.join(CHIPS)}."
    return (
        f"No slice {name!r} is known.{close}{more} "
        "A slice is named like v5e:8x8 or, by its accelerator type, v5litepod-64; the devices of "
        f"this machine are called {HERE!r}."
    )
