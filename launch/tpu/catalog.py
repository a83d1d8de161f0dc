"""What Cloud TPU offers: accelerator types, their runtime versions and their zones.

Literal, so that a mistake is found before anything is called and paid for. Sources, read in
stored copies of November 2026 and older, so a zone may be missing that exists by now:
https://docs.cloud.google.com/tpu/docs/regions-zones, .../v5e, .../v5p, .../v4 and, for runtime
versions, .../runtimes. Zones for single tenants are left out.
"""

import re
from dataclasses import dataclass

from simclr_jax.core.errors import UserError, did_you_mean
from simclr_jax.plan.chips import USER_NAMES

HERE = "launch/tpu/catalog.py"
CHIPS = "simclr_jax/plan/chips.py"
V4_BASE = "tpu-ubuntu2204-base"
EUROPE_A, EUROPE_B = "europe-west4-a", "europe-west4-b"


@dataclass(frozen=True)
class Offer:
    """Accelerator types `PREFIX-SIZE` that share a runtime version and zones.

    Sizes are those of `plan.chips`, from the least to the largest that the zones have.
    """

    prefix: str
    runtime_version: str
    zones: tuple[str, ...]
    least: int = 1
    largest: int = 2**20

    @property
    def sizes(self) -> tuple[int, ...]:
        """Numbers in the names of these types; see `plan.chips` for what they count."""
        names = (name.split("-") for name in USER_NAMES)
        sizes = (int(size) for prefix, size in names if prefix == self.prefix)
        return tuple(size for size in sizes if self.least <= size <= self.largest)


OFFERS = (
    Offer("v2", V4_BASE, ("us-central1-b", "us-central1-c", EUROPE_A, "asia-east1-c"), largest=8),
    Offer("v2", V4_BASE, ("us-central1-a", EUROPE_A), least=32),
    Offer("v3", V4_BASE, ("us-central1-a", "us-central1-b", EUROPE_A), largest=8),
    Offer("v3", V4_BASE, (EUROPE_A,), least=32),
    Offer("v4", V4_BASE, ("us-central2-b",)),
    Offer(
        "v5litepod",
        "v2-alpha-tpuv5-lite",
        ("us-central1-a", "us-south1-a", "us-west1-c", "us-west4-a", EUROPE_B),
    ),
    Offer("v5p", "v2-alpha-tpuv5", ("us-central1-a", "us-east5-a", EUROPE_B)),
    Offer(
        "v6e",
        "v2-alpha-tpuv6e",
        (
            *("us-central1-b", "us-east1-d", "us-east5-a", "us-east5-b"),
            *(EUROPE_A, "asia-northeast1-b", "southamerica-west1-a"),
        ),
    ),
)
TYPES = {f"{offer.prefix}-{size}": offer for offer in OFFERS for size in offer.sizes}
ZONES = tuple(sorted({zone for offer in OFFERS for zone in offer.zones}))
RUNTIME_VERSIONS = tuple(sorted({offer.runtime_version for offer in OFFERS}))


def check_name(name: str) -> str:
    """Returns the name of a slice, which gcloud must accept for a queued resource and a node."""
    if not re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", name):
        letters = re.sub(r"[^a-z0-9]+", "-", name.lower()).lstrip("-0123456789")[:63].rstrip("-")
        raise UserError(
            f"{name!r} cannot name a slice: 1 to 63 lower-case letters, digits and hyphens, a "
            f"letter first and no hyphen last, such as {letters or 'simclr'!r}."
        )
    return name


def check_project(project: str) -> str:
    """Returns a project ID (not its number or title)."""
    if not re.fullmatch(r"([a-z0-9.-]+:)?[a-z][-a-z0-9]{4,28}[a-z0-9]", project):
        raise UserError(
            f"{project!r} is no project ID: 6 to 30 lower-case letters, digits and hyphens, a "
            "letter first, such as 'my-project-123456'."
        )
    return project


def check_bucket(bucket: str) -> str:
    """Returns the name of a bucket without gs://.

    A path behind the name is refused: a bucket is mounted as a whole. Names with dots may be longer
    than the 63 characters that are accepted here
    (https://docs.cloud.google.com/storage/docs/buckets#naming).
    """
    name, _, path = bucket.removeprefix("gs://").partition("/")
    if not re.fullmatch(r"[a-z0-9][-_.a-z0-9]{1,61}[a-z0-9]", name):
        raise UserError(
            f"--mount={bucket}: {name!r} cannot name a bucket: 3 to 63 lower-case letters, digits, "
            "hyphens, underscores and dots, a letter or digit first and last."
        )
    if path:
        raise UserError(
            f"--mount={bucket}: give the bucket alone, --mount={name}; it is mounted as a whole, "
            f"and the directory is then /mnt/{name}/{path} on every host."
        )
    return name


def check_zone(zone: str) -> str:
    """Returns a zone that has TPUs of some kind."""
    if zone not in ZONES:
        raise UserError(
            f"No TPU zone {zone!r} is known.{did_you_mean(zone, ZONES)} "
            f"Known are {', '.join(ZONES)}; "
            f"a newer one can be added in {HERE}."
        )
    return zone


def several_hosts(accelerator_type: str) -> bool:
    """Whether a slice has more than one host, which holds 8 of what its size counts at most."""
    size = accelerator_type.rpartition("-")[2]
    return size.isdecimal() and int(size) > 8


def check_offer(accelerator_type: str, zone: str, runtime_version: str = "") -> str:
    """Returns the runtime version for an accelerator type, after checking all three.

    Args:
        accelerator_type: Such as "v5litepod-64".
        zone: Such as "us-west4-a"; must offer that type.
        runtime_version: One that the type boots, or "" for the one in the table.
    """
    if accelerator_type not in TYPES:
        prefix = re.sub(r"^v5e\b", "v5litepod", accelerator_type).split("-")[0]
        sizes = [name for name in TYPES if name.split("-")[0] == prefix]
        several = f" {prefix} has {', '.join(sizes)}." if sizes else ""
        close = did_you_mean(re.sub(r"^v5e\b", "v5litepod", accelerator_type), TYPES)
        kinds = ", ".join(dict.fromkeys(offer.prefix for offer in OFFERS))
        raise UserError(
            f"No accelerator type {accelerator_type!r} is known.{close}"
            f"{several or f' Kinds are {kinds}.'} A newer one can be added in {CHIPS}."
        )
    offer = TYPES[accelerator_type]
    check_zone(zone)
    if zone not in offer.zones:
        here = [name for name, other in TYPES.items() if zone in other.zones]
        raise UserError(
            f"Zone {zone!r} has no {accelerator_type}. {accelerator_type} is in "
            f"{', '.join(offer.zones)}; {zone} has {', '.join(here)}."
        )
    if runtime_version not in ("", offer.runtime_version):
        others = [name for name in RUNTIME_VERSIONS if name != offer.runtime_version]
        raise UserError(
            f"Runtime version {runtime_version!r} does not boot {accelerator_type}, which needs "
            f"{offer.runtime_version!r} (the default). Others are {', '.join(others)}."
        )
    return offer.runtime_version
