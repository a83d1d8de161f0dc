"""Accuracy while training: the first sign that a network learns, or has stopped to."""

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeAlias, runtime_checkable

import jax
import numpy as np
from jax.sharding import Mesh

from simclr_jax.core.ranges import Count, Positive
from simclr_jax.core.state import TrainState
from simclr_jax.core.types import Batch, CutsBySize, Metrics
from simclr_jax.data.dataset import Dataset
from simclr_jax.data.records import Source
from simclr_jax.evals.classifier import classifier_accuracy
from simclr_jax.evals.features import extract_features, labelled
from simclr_jax.evals.knn import knn_predict
from simclr_jax.train.metrics import MetricsWriter

# (variables, batch) -> one row for each image: representations [b, d] or logits [b, k].
Apply: TypeAlias = Callable[[Mapping[str, Any], Batch], jax.Array]


@dataclasses.dataclass(frozen=True)
class EvaluationImages:
    """What an online evaluation reads.

    Attributes:
      dataset: settings by which both sources are read.
      cuts: what is evaluated of each image.
      train: training images.
      test: labelled images to classify.
      mesh: devices that share the work.
    """

    dataset: Dataset
    cuts: CutsBySize
    train: Source
    test: Source
    mesh: Mesh


@runtime_checkable  # so that a type checker can be on in tests
class OnlineProtocol(Protocol):
    """How a network is evaluated while it trains."""

    @property
    def every_epochs(self) -> float:
        """Training epochs from one evaluation to the next, > 0."""
        ...

    def evaluate(
        self, apply: Callable[[Batch], jax.Array], images: EvaluationImages
    ) -> dict[str, float]:
        """Returns metrics of a network that maps a batch to representations or logits."""
        ...


@dataclasses.dataclass(frozen=True)
class OnlineKNN:
    """The k-nearest-neighbour accuracy of the encoder, "knn_top1".

    Attributes:
      every_epochs: training epochs from one evaluation to the next, > 0.
      k: neighbours that vote; see `knn.knn_predict`.
      temperature: temperature of the votes; see `knn.knn_predict`.
      max_train: at most so many training images with a label, evenly spaced, vote.
    """

    every_epochs: Positive
    k: Count = 200
    temperature: Positive = 0.1
    max_train: Count = 50_000

    def evaluate(
        self, apply: Callable[[Batch], jax.Array], images: EvaluationImages
    ) -> dict[str, float]:
        """Returns {"knn_top1"}; `apply` maps a batch to representations.

        Images without a label neither vote nor count.
        """
        indices = self.voters(images.train)
        voters = images.dataset.eval_batches(images.train, images.cuts, indices=indices)
        train = labelled(extract_features(apply, voters, images.mesh))
        tested = images.dataset.eval_batches(images.test, images.cuts)
        test = labelled(extract_features(apply, tested, images.mesh))
        predicted = knn_predict(
            train.features,
            train.labels,
            test.features,
            num_classes=len(images.train.class_names),
            k=self.k,
            temperature=self.temperature,
        )
        return {"knn_top1": float(np.mean(np.asarray(predicted) == test.labels))}

    def voters(self, train: Source) -> np.ndarray:
        """Returns the indices of the training images that vote.

        Raises:
          ValueError: if there are fewer than k.
        """
        labels = getattr(train, "labels", None)
        ids = np.arange(len(train)) if labels is None else np.flatnonzero(np.asarray(labels) >= 0)
        num = min(self.max_train, len(ids))
        if not 1 <= self.k <= num:
            raise ValueError(
                f"k={self.k}; it must be from 1 to {num}, the images with a label that vote."
            )
        return ids[np.arange(num) * len(ids) // num]


@dataclasses.dataclass(frozen=True)
class OnlineClassifier:
    """The accuracy of the classifier, "test_top1" and "test_top5".

    Attributes:
      every_epochs: training epochs from one evaluation to the next, > 0.
    """

    every_epochs: Positive

    def evaluate(
        self, apply: Callable[[Batch], jax.Array], images: EvaluationImages
    ) -> dict[str, float]:
        """Returns the accuracies; `apply` maps a batch to logits."""
        batches = images.dataset.eval_batches(images.test, images.cuts)
        accuracy = classifier_accuracy(apply, batches, images.mesh)
        del accuracy["num_test"]
        return {f"test_{name}": value for name, value in accuracy.items()}


@dataclasses.dataclass(frozen=True)
class OnlineProtocols:
    """What is evaluated while training.

    Attributes:
      knn: the encoder by its nearest neighbours.
      classifier: the classifier that is trained.
    """

    knn: OnlineKNN | None = None
    classifier: OnlineClassifier | None = None


class OnlineEvaluation:
    """Hook: every few epochs and at the end, adds what a protocol finds to the metrics."""

    def __init__(
        self,
        writer: MetricsWriter,
        protocol: OnlineProtocol,
        apply: Apply,
        images: EvaluationImages,
        variables: Callable[[TrainState], Mapping[str, Any]],
        *,
        num_steps: int,
    ) -> None:
        """Sets what is evaluated, and how often.

        Args:
          writer: writer of the metrics.
          protocol: what is found out.
          apply: (variables, batch) -> representations or logits, as the protocol wants them.
          images: images to learn from and to classify.
          variables: state -> variables of the copy of the network that is evaluated.
          num_steps: steps of the run; its last step is always evaluated.
        """
        self._writer = writer
        self._protocol = protocol
        self._apply = apply
        self._images = images
        self._variables = variables
        per_epoch = len(images.train) / images.dataset.batch_size
        self._every = max(1, round(protocol.every_epochs * per_epoch))
        self._num_steps = num_steps

    def __call__(self, step: int, state: TrainState, metrics: Metrics) -> None:
        """Evaluates if it is time to."""
        if step % self._every and step != self._num_steps:
            return
        jax.block_until_ready(metrics)  # the step's own time is not the evaluation's
        start = time.monotonic()
        apply = functools.partial(self._apply, self._variables(state))
        found = self._protocol.evaluate(apply, self._images)
        self._writer.add(**found, eval_seconds=time.monotonic() - start)
