"""Images that are not there: planning needs to know only how many there are."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

from simclr_jax.build.resolve import frozen_networks, network_to_assume, num_classes_of
from simclr_jax.build.schema import complete
from simclr_jax.core.errors import UserError
from simclr_jax.core.sections import build_section
from simclr_jax.data.dataset import Dataset
from simclr_jax.data.records import Record, Source
from simclr_jax.data.text import Captions

# Data set -> (training images, test images, classes), as TFDS's catalogue has them:
# https://www.tensorflow.org/datasets/catalog/overview
KNOWN = {
    "tfds/imagenet2012": (1_281_167, 50_000, 1000),
    "tfds/imagenet2012_subset/1pct": (12_811, 50_000, 1000),
    "tfds/imagenet2012_subset/10pct": (128_116, 50_000, 1000),
    "tfds/cifar10": (50_000, 10_000, 10),
    "tfds/cifar100": (50_000, 10_000, 100),
}
TEST_SPLITS = ("validation", "test")


class AssumedVocabulary(NamedTuple):
    """A vocabulary of which only the size is known; see `data.text.Tokenizer`."""

    vocab_size: int
    context: int
    sha256: None = None


@dataclasses.dataclass
class DatasetSpec:
    """A data set of which only the size is known; see `data.records.Source`."""

    name: str
    size: int
    class_names: tuple[str, ...]
    tokenizer: AssumedVocabulary | None = None
    fingerprint: str = "stand-in"

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int, /) -> Record:
        raise UserError(
            f"The images of {self.name} are not here, so what a recipe takes from them must be "
            "given: --config.data.canvas and --config.augment.size in px, and "
            "--config.data.batch_size."
        )


def open_or_describe(config: Mapping[str, Any], num_images: int | None) -> tuple[Source, str]:
    """Returns the training images of a config, or what stands in for them, and which it is.

    Args:
      config: sections, as a recipe returns them.
      num_images: number to assume; None opens them, or else takes the number of a known set.

    Raises:
      UserError: if they are not here and nobody knows how many there are, or of how many classes.
    """
    config = complete(config)
    data = config["data"]
    unsettled = {key: 2 for key in ("canvas", "batch_size") if data[key] is None}
    dataset = build_section("config.data", Dataset, {**data, **unsettled})
    name = f"{dataset.name}/{dataset.split}"
    if num_images is not None:
        if num_images < 2:
            raise UserError(f"--num_images={num_images} must be 2 or more.")
        classes = _num_classes(dataset.name, config["heads"])
        return _spec(
            name, num_images, classes, dataset.captions
        ), "as many as --num_images says; none is opened"
    try:
        return dataset.open_train(), "opened here, none is read"
    except UserError as error:
        if dataset.name not in KNOWN or dataset.split not in ("train", *TEST_SPLITS):
            raise UserError(f"{error}\nOr say how many there are: --num_images=N.") from error
    num_train, num_test, _ = KNOWN[dataset.name]
    size = num_train if dataset.split == "train" else num_test
    if not dataset.keep_unlabelled:
        size = round(size * dataset.fraction)
    classes = _num_classes(dataset.name, config["heads"])
    return _spec(name, size, classes, dataset.captions), "not here, but their number is known"


def _num_classes(name: str, heads: Mapping[str, Any]) -> int:
    """Returns how many classes a data set has; 0 if nobody knows, and nobody needs to."""
    if name in KNOWN:
        return KNOWN[name][2]
    if not heads["classifier"]:
        return 0
    known = num_classes_of(heads)
    if known is None:
        raise UserError(
            "Without the images, say how many classes they have: "
            "--config.heads.classifier.num_classes=N."
        )
    return known


def _spec(name: str, size: int, num_classes: int, captions: Captions | None) -> DatasetSpec:
    classes = tuple(f"class {i}" for i in range(num_classes))
    assumed = captions and AssumedVocabulary(captions.vocab_size, captions.context)
    return DatasetSpec(name, size, classes, assumed)


def without_checkpoints(config: Mapping[str, Any], source: Source) -> tuple[dict[str, Any], str]:
    """Returns a config that needs no checkpoint, and what that assumes.

    Where weights come from does not matter to what a step takes. A teacher that is not named is
    taken to be as large as the student.
    """
    config = complete(config) | {"warm_start": {}}
    method, assumed = config["method"], []
    for key in frozen_networks(method["name"]):
        if not method[key]:
            method[key] = network_to_assume(config, len(source.class_names))
            assumed.append(f"no --config.method.{key} given: taken to be as large as the student")
    return config, "; ".join(assumed)
