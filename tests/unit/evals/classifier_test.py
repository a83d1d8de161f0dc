"""Top-1 and top-5: every example once, whatever the batch size and the devices."""

import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax.core.errors import UserError
from simclr_jax.evals.classifier import classifier_accuracy
from simclr_jax.parallel.mesh import make_mesh

LABELS = np.random.default_rng(0).integers(0, 7, 21)
LOGITS = np.random.default_rng(1).normal(size=(21, 7)).astype(np.float32)


def batches(labels, batch_size):
    for start in range(0, len(labels), batch_size):
        rows = np.arange(start, start + batch_size)
        there = rows < len(labels)
        yield {
            "id": np.where(there, rows, -1),
            "label": np.where(there, labels[rows % len(labels)], -1).astype(np.int32),
            "valid": there,
            "logits": LOGITS[rows % len(labels)],  # padding repeats rows: it must not count
        }


@pytest.mark.parametrize("batch_size", [8, 16, 24])
def test_counts_every_example_once(batch_size):
    got = classifier_accuracy(lambda b: b["logits"], batches(LABELS, batch_size), make_mesh())
    order = np.argsort(-LOGITS, axis=1)
    assert got["top1"] == pytest.approx(np.mean(order[:, 0] == LABELS))
    assert got["top5"] == pytest.approx(np.mean((order[:, :5] == LABELS[:, None]).any(1)))
    assert got["num_test"] == 21


def test_equal_logits_are_no_better_than_a_guess():
    flat = lambda b: jnp.zeros_like(b["logits"])
    got = classifier_accuracy(flat, batches(LABELS, 8), make_mesh())
    assert got["top1"] == pytest.approx(np.mean(LABELS == 0))


def test_five_classes_have_no_top_5():
    few = lambda b: b["logits"][:, :5]
    assert "top5" not in classifier_accuracy(few, batches(LABELS % 5, 8), make_mesh())


def test_examples_without_a_label_are_not_counted():
    labels = np.where(np.arange(21) < 4, LABELS, -1)
    got = classifier_accuracy(lambda b: b["logits"], batches(labels, 8), make_mesh())
    assert got["num_test"] == 4
    assert got["top1"] == pytest.approx(np.mean(LOGITS[:4].argmax(1) == LABELS[:4]))


def test_no_label_at_all_is_an_error():
    unlabelled = batches(np.full(21, -1), 8)
    with pytest.raises(UserError, match="None of the 21 test images has a label"):
        classifier_accuracy(lambda b: b["logits"], unlabelled, make_mesh())
