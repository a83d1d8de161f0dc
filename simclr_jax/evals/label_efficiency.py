"""How good features are with few labels: kNN and linear probe at 1 %, 10 % and all of them."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Array, Int

from simclr_jax.core.errors import UserError
from simclr_jax.data.subsets import balanced_subset
from simclr_jax.evals.features import Features, labelled
from simclr_jax.evals.knn import knn_predict
from simclr_jax.evals.linear import linear_probe, predict

# Accuracy over draws of labels, and the settings that a reader of the row needs.
_Verdict: TypeAlias = dict[str, int | float]


def label_efficiency(
    train: Features,
    test: Features,
    *,
    name: str,
    num_classes: int,
    fractions: Sequence[float] = (0.01, 0.1, 1.0),
    draws: int = 5,
    protocols: Sequence[str] = ("knn", "linear"),
    k: int = 200,
    temperature: float = 0.1,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Judges features by test accuracy with a share of the training labels.

    Different features (of the same examples) are judged on the same draws. At fraction 1 all
    labels are used as they are, once. Rows without a label take no part.

    Args:
      train: features of the training set; draws are made from its labels.
      test: features of the test set, used for nothing but the final accuracy.
      name: what the features are, such as "pixels", "random_features" or "encoder".
      num_classes: number of classes.
      fractions: shares of the training labels, in (0, 1].
      draws: class-balanced draws for each fraction below 1.
      protocols: "knn" and "linear", or one of them.
      k: neighbours that vote in kNN; capped at the labels per class, as further ones could
        only be of other classes.
      temperature: temperature of the votes in kNN.
      seed: draw i is made with seed + i.

    Returns:
      One row for each fraction and protocol: "protocol", "features", "label_fraction",
      "num_train" (labels used), "num_test", "top1" (mean over draws, in [0, 1]), "top1_std"
      (population deviation), "draws", and "k" and "temperature", or "l2" (median chosen).

    Raises:
      UserError: for missing or too few labels, an unknown protocol, or features not finite.
    """
    evaluators: dict[str, Callable[[list[Features]], _Verdict]] = {
        "knn": lambda subsets: _evaluate_knn(subsets, test, num_classes, k, temperature),
        "linear": lambda subsets: _evaluate_linear(subsets, test, num_classes, seed),
    }
    if unknown := set(protocols) - set(evaluators):
        raise UserError(f"Unknown protocol {min(unknown)!r}; use one of {', '.join(evaluators)}.")
    if draws < 1:
        raise UserError(f"draws={draws} must be at least 1.")
    train = _checked(train, f"{name} of the training set", protocols)
    test = _checked(test, f"{name} of the test set", protocols)
    rows = []
    for fraction in fractions:
        subsets = _draw(train, fraction, draws, seed)
        for protocol in protocols:
            what = {"protocol": protocol, "features": name, "label_fraction": float(fraction)}
            counts = {"num_train": len(subsets[0].labels), "num_test": len(test.labels)}
            rows.append(what | counts | evaluators[protocol](subsets))
    return rows


def _draw(train: Features, fraction: float, draws: int, seed: int) -> list[Features]:
    if fraction == 1:
        return [train]
    indices = [balanced_subset(train.labels, fraction, seed + i) for i in range(draws)]
    return [Features(*(column[rows] for column in train)) for rows in indices]


def _evaluate_knn(
    subsets: list[Features], test: Features, num_classes: int, k: int, temperature: float
) -> _Verdict:
    k = max(1, min(k, len(subsets[0].labels) // num_classes))
    top1 = []
    for train in subsets:
        predicted = knn_predict(
            train.features,
            train.labels,
            test.features,
            num_classes=num_classes,
            k=k,
            temperature=temperature,
        )
        top1.append(_accuracy(predicted, test))
    return _summary(top1) | {"k": k, "temperature": temperature}


def _evaluate_linear(
    subsets: list[Features], test: Features, num_classes: int, seed: int
) -> _Verdict:
    top1, strengths = [], []
    for train in subsets:
        probe = linear_probe(train.features, train.labels, num_classes=num_classes, seed=seed)
        top1.append(_accuracy(predict(probe, test.features), test))
        strengths.append(probe.l2)
    return _summary(top1) | {"l2": float(np.median(strengths))}


def _summary(top1: Sequence[float]) -> _Verdict:
    return {"top1": float(np.mean(top1)), "top1_std": float(np.std(top1)), "draws": len(top1)}


def _accuracy(predicted: Int[Array, " n"], test: Features) -> float:
    return float(np.mean(np.asarray(predicted) == test.labels))


def _checked(features: Features, what: str, protocols: Sequence[str]) -> Features:
    """Returns the rows that have a label, after a check of what the protocols rely on."""
    keep = features.labels >= 0
    if not keep.any():
        raise UserError(
            f"Protocols {', '.join(protocols)} need labels, and none of the {len(keep)} rows of "
            f"{what} has one. Give labels: a data set that has them, or a folder with one "
            "subfolder for each class and labels_from_folders=True."
        )
    bad = int(np.sum(~np.isfinite(features.features).all(axis=1)))
    if bad:
        raise UserError(
            f"{bad} of {len(keep)} rows of {what} are not finite: the weights have diverged. "
            "Evaluate an earlier checkpoint, or train with a lower learning rate."
        )
    return labelled(features)
