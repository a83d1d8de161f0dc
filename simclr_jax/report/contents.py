"""What a report is made of: plain data, read from a workdir by the command line."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8

from simclr_jax.report.towers import Pairs
from simclr_jax.train.verdict import Verdict


@dataclasses.dataclass(frozen=True)
class Embedding:
    """Test images as the trained encoder sees them.

    Attributes:
      features: one row per image, any scale; compared by cosine.
      labels: index into the report's class names, -1 where unknown.
      names: what to call each image, such as a file name; any characters.
      thumbnails: one small picture per image, for the nearest neighbours.
      examples: what the images are called, such as "sounds", of which thumbnails are spectrograms.
    """

    features: Float[np.ndarray, "n d"]
    labels: Int[np.ndarray, " n"]
    names: Sequence[str]
    thumbnails: UInt8[np.ndarray, "n h w 3"]
    examples: str = "images"


@dataclasses.dataclass(frozen=True)
class ReportContents:
    """Everything that `write_report` shows; an empty part is explained on the page.

    Attributes:
      title: heading of the page, such as "SimCLR on digits".
      dataset: name of the training images, or the folder that they came from.
      num_images: training images, or sounds, per epoch.
      num_unreadable: how many of them could not be read; others stood in for them.
      encoder: description in words, such as "ResNet-18, width 0.5, CIFAR stem".
      num_params: parameters of the encoder, without the projector.
      epochs: passes over the training images so far.
      batch_size: images (pairs of views) in the global batch.
      devices: description in words, such as "1 x cpu".
      wall_seconds: time spent in training, None if unknown.
      labels_used: which labels training saw, in words.
      config: the resolved config, nested.
      metrics: rows of `metrics.jsonl`; any key may be missing from any row.
      verdict: what those rows say of the run, None if there are none.
      results: rows of `results.json`; those on the images of the first row lead the page.
      groups: what groups.json holds, None if no groups were judged.
      class_names: names by label, empty if the data has none.
      embedding: features of test images, None if not computed.
      pairs: these images and their captions, None without a text tower.
      examples: what they are called, such as "images".
      views: augmented views of m training images, two of each in contrastive methods.
    """

    title: str
    dataset: str
    num_images: int
    encoder: str
    num_params: int
    epochs: float | int
    batch_size: int
    devices: str
    wall_seconds: float | int | None = None
    labels_used: str = "none"
    num_unreadable: int = 0
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    metrics: Sequence[Mapping[str, Any]] = ()
    verdict: Verdict | None = None
    results: Sequence[Mapping[str, Any]] = ()
    groups: Mapping[str, Any] | None = None
    class_names: Sequence[str] = ()
    embedding: Embedding | None = None
    pairs: Pairs | None = None
    examples: str = "images"
    views: UInt8[np.ndarray, "m v h w 3"] | None = None
