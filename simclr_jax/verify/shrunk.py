"""A config made small enough to take a few steps on a laptop, with a list of what was changed.

Nothing of it needs data or a checkpoint: random pixels take the place of the images, and random
weights the place of a warm start's and a teacher's. What stays is what a step is made of: the
depth of the network, its heads, the augmentation, the method and the optimizer.
"""

import math
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from simclr_jax.augment.log_mel import LogMel
from simclr_jax.build.resolve import (
    frozen_networks,
    network_of_run,
    network_to_assume,
    num_classes_of,
)
from simclr_jax.build.schema import complete
from simclr_jax.core.sections import config_errors_at
from simclr_jax.core.state import TrainState
from simclr_jax.core.tree import path_name
from simclr_jax.data.records import Record, Sound
from simclr_jax.optim.schedules import peak_rate

# Views up to this many px and networks up to this wide, a laptop's own, stay as they are.
# Views are odd, so that padding is not the same on both sides.
MAX_VIEWS = {"size": 33, "local_size": 25}  # settings of the augmentation
MAX_CANVAS = 48
MAX_SECONDS = 0.5
MAX_WIDTH, SMALL_WIDTH = 0.25, 0.125
SMALL_TEXT = {"width": 64, "depth": 2, "num_heads": 2}
MAX_BATCH = 32
MAX_DEPTH = 50  # deeper ones have the same kinds of blocks, and compile for minutes
# Classes of the recipes' data sets; others count as having this many classes, too.
CLASSES = {"tfds/imagenet2012": 1000, "tfds/cifar100": 100}
DEFAULT_CLASSES = 10
RING_SIZES = ("size", "queue_size")  # of a method's memory, see `methods.memory.Ring`


class Shrunk(NamedTuple):
    """What `shrink` returns.

    Attributes:
      config: sections as `build.build_experiment` takes them.
      source: stands in for the training images.
      changes: "section.key old -> new", with the reason where it is not the size.
    """

    config: dict[str, Any]
    source: "RandomImages"
    changes: list[str]


class RandomImages:
    """Blocks of random colours in random sizes, with random labels: a `records.Source`.

    Each has captions of its own, of which the third says the contrary; a sound is noise.

    Attributes:
      has_sounds: whether these are sounds.
    """

    name = "random images"
    fingerprint = "random images"

    def __init__(
        self, num_images: int, canvas: int, channels: int, num_classes: int, rate: int | None
    ):
        self.class_names = tuple(map(str, range(num_classes)))
        self._num_images, self._canvas, self._channels = num_images, canvas, channels
        self._rate, self.has_sounds = rate, rate is not None

    def __len__(self) -> int:
        return self._num_images

    def __getitem__(self, index: int, /) -> Record:
        rng = np.random.default_rng(index)
        tiles = rng.integers(0, 256, (5, 5, self._channels), np.uint8)
        block = -(-self._canvas // 5)
        height, width = rng.integers(self._canvas * 2 // 3, self._canvas + 1, 2)
        pixels = tiles.repeat(block, axis=0).repeat(block, axis=1)[:height, :width]
        label = int(rng.integers(len(self.class_names)))
        sound = None
        if self._rate is not None:
            sound = Sound(rng.integers(-(2**13), 2**13, self._rate // 4, np.int16), self._rate)
        return Record(pixels, label, f"random/{index}", self.captions_of(index), sound)

    def captions_of(self, index: int) -> tuple[str, ...]:
        """Returns what is said of an image."""
        return (f"random image {index}", f"the picture {index}", f"no image {index}")


def shrink(config: Mapping[str, Any], *, multiple: int, num_steps: int) -> Shrunk:
    """Makes a config small, and its numbers float64.

    Args:
      config: sections, see `build.build_experiment`.
      multiple: number that the batch size must be a multiple of.
      num_steps: steps that will be taken.

    Raises:
      UserError: if the schedule is wrong, or the config names a teacher that is not there or has
        no classifier.
    """
    small = complete(config)
    changes: list[str] = []

    def change(where: str, section: dict[str, Any], key: str, value: Any, why: str = "") -> None:
        old = section.get(key, "its default")
        section[key] = value
        changes.append(f"{where}.{key} {old} -> {value}" + (f" ({why})" if why else ""))

    data, augment, method = small["data"], small["augment"], small["method"]
    batch_size = data["batch_size"]
    if batch_size is None or batch_size > MAX_BATCH:
        change("data", data, "batch_size", max(MAX_BATCH // multiple, 1) * multiple)
    elif batch_size % multiple:
        fits = max(batch_size // multiple, 1) * multiple
        change("data", data, "batch_size", fits, f"a multiple of {multiple}")
    for key, largest in MAX_VIEWS.items():
        largest = _largest_view(small["encoder"], largest)
        if key in augment and (augment[key] is None or augment[key] > largest):
            change("augment", augment, key, largest)
    if data["canvas"] is None or data["canvas"] > MAX_CANVAS:
        change("data", data, "canvas", MAX_CANVAS)
    sample_rate = None
    if augment["name"] == "audio":
        sample_rate = (augment["log_mel"] or vars(LogMel()))["rate"]
        if augment["seconds"] > MAX_SECONDS:
            change("augment", augment, "seconds", MAX_SECONDS)
    num_classes = _classes(small)
    dtype = {"dtype": "float32", **small["encoder"]}["dtype"]
    for key in frozen_networks(method["name"]):
        name = method[key]
        method[key] = (
            network_to_assume(small, num_classes) if name is None else network_of_run(key, name)
        )
        num_classes = method[key]["heads"]["classifier"]["num_classes"]
        whose = "the student's" if name is None else "its"
        changes.append(f"method.{key} {name} -> {whose} network with random weights")
        _shrink_network(f"method.{key}.", method[key], change)
    _shrink_network("", small, change)
    if data["captions"] and data["captions"]["tokenizer"]:
        change("data.captions", data["captions"], "tokenizer", None, "trained on random captions")
    _shrink_rings("method", method, data["batch_size"], change)
    prototypes = small["heads"]["prototypes"]
    if prototypes and prototypes["num_prototypes"] > data["batch_size"]:
        change("heads.prototypes", prototypes, "num_prototypes", data["batch_size"])
    if small["warm_start"]["checkpoint"] or small["warm_start"]["required"]:
        changes.append(f"warm_start {small['warm_start']['checkpoint']} -> random weights")
    small["warm_start"] = {}
    changes.append(f"all numbers {dtype} -> float64 (what still differs is not rounding)")
    schedule = dict(small["schedule"])
    scaling = schedule["scaling"]
    with config_errors_at("config.schedule"):
        rate = peak_rate(schedule["base_lr"], batch_size or data["batch_size"], scaling)
    small["schedule"] = {"base_lr": rate, "scaling": "none", "warmup_epochs": 0.0}
    changes.append(f"schedule: from the first step on its peak, {rate:.3g}")
    source = RandomImages(
        100 * num_steps * data["batch_size"],
        data["canvas"],
        data["channels"],
        num_classes,
        sample_rate,
    )
    return Shrunk(small, source, changes)


def perturb_constants(state: TrainState) -> TrainState:
    """Returns the state in float64, with what starts as zeros or ones moved off them.

    Behind a scale or a classifier of zeros every gradient is zero, and nothing could differ. A
    teacher, which a fresh state holds as zeros, becomes a random network.
    """

    def move(path: Any, leaf: Any) -> Any:
        if not np.issubdtype(leaf.dtype, np.floating):
            return leaf
        if np.ptp(leaf) > 0:
            return leaf.astype(np.float64)
        name = path_name(path)
        generator = np.random.default_rng(zlib.crc32(name.encode()))
        noise = generator.standard_normal(leaf.shape)
        if leaf.ndim > 1:
            return noise / math.sqrt(leaf[..., 0].size)
        if name.endswith("/var"):
            return 1 + np.abs(noise) / 10
        return name.endswith("/scale") + noise / 10

    def cast(leaf: Any) -> Any:
        return leaf.astype(np.float64) if np.issubdtype(leaf.dtype, np.floating) else leaf

    names = ("params", "batch_stats", "method_state")
    trees = {name: getattr(state, name) for name in names}
    moved = jax.tree_util.tree_map_with_path(move, trees)
    return state.replace(**moved, opt_state=jax.tree.map(cast, state.opt_state))


def _largest_view(encoder: Mapping[str, Any], largest: int) -> int:
    """Returns the side of the largest views that are small, in px: whole patches, if any."""
    if "patch" not in encoder:
        return largest
    return max(round(largest / encoder["patch"]), 1) * encoder["patch"]


def _shrink_network(where: str, network: dict[str, Any], change: Any) -> None:
    encoder, heads = network["encoder"], network["heads"]
    if encoder["name"] == "resnet":
        if encoder["depth"] > MAX_DEPTH:
            change(f"{where}encoder", encoder, "depth", MAX_DEPTH, "the same blocks, fewer of them")
        # torchvision's geometry is defined for width 1 alone.
        if encoder["width"] > MAX_WIDTH and encoder["geometry"] != "torchvision":
            change(f"{where}encoder", encoder, "width", SMALL_WIDTH)
    if encoder["name"] == "vit":
        if encoder["size"] != "tiny":
            change(f"{where}encoder", encoder, "size", "tiny", "the same blocks, fewer of them")
        if encoder["num_heads"] is not None:
            change(f"{where}encoder", encoder, "num_heads", None)
        if encoder["drop_path"]:
            why = "parts of a batch draw for themselves"
            change(f"{where}encoder", encoder, "drop_path", 0.0, why)
    if text := {"text": None, **heads}["text"]:
        for key, small in SMALL_TEXT.items():
            if text[key] > small:
                change(f"{where}heads.text", text, key, small)
    if "dtype" in encoder:
        encoder["dtype"] = "float64"
    for head, settings in heads.items():
        if isinstance(settings, Mapping) and "dtype" in settings:
            heads[head] = {**settings, "dtype": "float64"}


def _shrink_rings(where: str, settings: dict[str, Any], batch_size: int, change: Any) -> None:
    """Makes every ring of past rows hold two batches of two views; it is found by its size."""
    for key, value in settings.items():
        if isinstance(value, dict):
            _shrink_rings(f"{where}.{key}", value, batch_size, change)
        elif key in RING_SIZES and value:
            change(where, settings, key, 4 * batch_size, "two batches")


def _classes(config: Mapping[str, Any]) -> int:
    if given := num_classes_of(config["heads"]):
        return given
    name = config["data"]["name"]
    known = [number for prefix, number in CLASSES.items() if name.startswith(prefix)]
    return known[0] if known else DEFAULT_CLASSES
