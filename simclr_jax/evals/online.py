"""Accuracy while training: the first sign that a network learns, or has stopped to."""

import functools
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import jax
import numpy as np
from jax.sharding import Mesh

from simclr_jax.core.state import TrainState
from simclr_jax.core.types import Batch, Cuts, Metrics
from simclr_jax.data.dataset import Dataset
from simclr_jax.data.records import Source
from simclr_jax.evals.classifier import classifier_accuracy
from simclr_jax.evals.features import extract_features
from simclr_jax.evals.knn import knn_predict
from simclr_jax.train.metrics import MetricsWriter

# (variables, batch) -> one row for each image: representations [b, d] or logits [b, k].
Apply: TypeAlias = Callable[[Mapping[str, Any], Batch], jax.Array]


class OnlineKNN:
    """Hook: every few epochs, adds "knn_top1" of the test images to the metrics."""

    def __init__(
        self,
        writer: MetricsWriter,
        encode: Apply,
        dataset: Dataset,
        cuts: Cuts,
        train: Source,
        test: Source,
        mesh: Mesh,
        num_steps: int,
        *,
        every_epochs: float,
        k: int = 200,
        temperature: float = 0.1,
        max_train: int = 50_000,
    ) -> None:
        """Sets what is judged, and how often.

        Args:
          writer: where the accuracy goes.
          encode: (variables, batch) -> representations.
          dataset: how to read both sources.
          cuts: what is judged of each image.
          train: labelled images that vote.
          test: labelled images to classify.
          mesh: devices that share the work.
          num_steps: of the run; its last step is always judged.
          every_epochs: training epochs from one evaluation to the next, > 0.
          k: neighbours that vote; see `knn.knn_predict`.
          temperature: of the votes; see `knn.knn_predict`.
          max_train: at most so many training images, evenly spaced, vote.
        """
        num_voters = min(max_train, len(train))
        if not 1 <= k <= num_voters:
            raise ValueError(f"k={k}; it must be from 1 to {num_voters}, the images that vote.")
        self._writer = writer
        self._encode = encode
        self._dataset = dataset
        self._cuts = cuts
        self._train = train
        self._test = test
        self._voters = np.arange(num_voters) * len(train) // num_voters
        self._mesh = mesh
        self._every = _interval_steps(every_epochs, train, dataset)
        self._num_steps = num_steps
        self._k = k
        self._temperature = temperature

    def __call__(self, step: int, state: TrainState, metrics: Metrics) -> None:
        """Judges the encoder if it is time to."""
        if step % self._every and step != self._num_steps:
            return
        jax.block_until_ready(metrics)  # the step's own time is not the evaluation's
        start = time.monotonic()
        encode = functools.partial(self._encode, _variables(state))
        voters = self._dataset.eval_batches(self._train, self._cuts, indices=self._voters)
        train = extract_features(encode, voters, self._mesh)
        judged = self._dataset.eval_batches(self._test, self._cuts)
        test = extract_features(encode, judged, self._mesh)
        predicted = knn_predict(
            train.features,
            train.labels,
            test.features,
            num_classes=len(self._train.class_names),
            k=self._k,
            temperature=self._temperature,
        )
        self._writer.add(
            knn_top1=float(np.mean(np.asarray(predicted) == test.labels)),
            eval_seconds=time.monotonic() - start,
        )


class OnlineClassifier:
    """Hook: every few epochs, adds "test_top1" and "test_top5" of the classifier to the metrics."""

    def __init__(
        self,
        writer: MetricsWriter,
        classify: Apply,
        dataset: Dataset,
        cuts: Cuts,
        train: Source,
        test: Source,
        mesh: Mesh,
        num_steps: int,
        *,
        every_epochs: float,
    ) -> None:
        """Sets what is judged, and how often.

        Args:
          writer: where the accuracy goes.
          classify: (variables, batch) -> logits.
          dataset: how to read the test images.
          cuts: what is judged of each image.
          train: training images, for the length of an epoch.
          test: labelled images to classify.
          mesh: devices that share the work.
          num_steps: of the run; its last step is always judged.
          every_epochs: training epochs from one evaluation to the next, > 0.
        """
        self._writer = writer
        self._classify = classify
        self._dataset = dataset
        self._cuts = cuts
        self._test = test
        self._mesh = mesh
        self._every = _interval_steps(every_epochs, train, dataset)
        self._num_steps = num_steps

    def __call__(self, step: int, state: TrainState, metrics: Metrics) -> None:
        """Judges the classifier if it is time to."""
        if step % self._every and step != self._num_steps:
            return
        jax.block_until_ready(metrics)  # the step's own time is not the evaluation's
        start = time.monotonic()
        classify = functools.partial(self._classify, _variables(state))
        batches = self._dataset.eval_batches(self._test, self._cuts)
        accuracy = classifier_accuracy(classify, batches, self._mesh)
        del accuracy["num_test"]
        self._writer.add(
            **{f"test_{name}": value for name, value in accuracy.items()},
            eval_seconds=time.monotonic() - start,
        )


def _variables(state: TrainState) -> dict[str, Any]:
    return {"params": state.params, "batch_stats": state.batch_stats}


def _interval_steps(every_epochs: float, train: Source, dataset: Dataset) -> int:
    if not every_epochs > 0:
        raise ValueError(f"every_epochs={every_epochs}; it must be > 0.")
    return max(1, round(every_epochs * len(train) / dataset.batch_size))
