"""What is timed beside other programs: a row each, with the ratio that is wanted.

`kind` names a function of `ours` and one of `peers`; both get the same settings.
"""

import dataclasses
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

GROUPS = ("step", "augment", "loss", "data", "startup", "evals")


@dataclasses.dataclass(frozen=True)
class Row:
    """One comparison.

    Attributes:
      what: in words, the name of the row.
      peer: what does the same.
      bar: the ratio, ours to the peer's, that is wanted.
    """

    group: str
    what: str
    peer: str
    bar: float
    kind: str
    settings: Mapping[str, Any]


def _photographs() -> list[str]:
    """Returns the JPEG files that come with scikit-learn, which takes long to import."""
    package = importlib.util.find_spec("sklearn")
    assert package is not None
    assert package.origin is not None
    return sorted(map(str, Path(package.origin).parent.glob("datasets/images/*.jpg")))


def _step(what: str, bar: float, **settings: Any) -> Row:
    peer = "torchvision and lightly, channels last"
    what = f"step, {what}, {settings['pairs']} pairs of {settings['size']} px"
    return Row("step", what, peer, bar, "step", {"stem": "imagenet", "width": 1.0, **settings})


ROWS = (
    _step("ResNet-18, CIFAR stem", 1.2, depth=18, stem="cifar", pairs=64, size=32),
    _step("ResNet-50", 1.5, depth=50, pairs=32, size=64),
    _step("ResNet-18 of a quarter of the width", 1.3, depth=18, width=0.25, pairs=128, size=28),
    Row(
        "augment", "views of 32 photographs, 224 px", "torchvision v2", 0.5,
        "augment", {"images": 32, "height": 375, "width": 500, "size": 224, "blur": True},
    ),
    Row(
        "augment", "views of 64 CIFAR images, 32 px", "torchvision v2", 0.07,
        "augment", {"images": 64, "height": 32, "width": 32, "size": 32, "blur": False},
    ),
    *(
        Row("loss", f"NT-Xent and gradient, {n:,} pairs", "lightly", 0.08, "loss", {"pairs": n})
        for n in (4096, 8192)
    ),
    Row(
        "data", "JPEG file to what the device gets, one thread", "lightly's transform", 0.17,
        "decode", {"size": 224, "files": _photographs()},
    ),
    Row("startup", "process start to first step of the digits", "lightly", 1.1, "startup", {}),
    Row(
        "evals", "kNN, 10,000 x 50,000 x 512", "faiss, flat", 0.47,
        "knn", {"num_train": 50_000, "num_test": 10_000, "dim": 512},
    ),
    Row(
        "evals", "linear probe, 50,000 x 512", "scikit-learn", 0.5,
        "probe", {"num_train": 50_000, "dim": 512},
    ),
)  # fmt: skip
