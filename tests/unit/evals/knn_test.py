"""knn_predict: votes against the formula of Wu et al., limits and bad input."""

import numpy as np
import pytest

from simclr_jax.evals import knn
from simclr_jax.evals.knn import knn_predict

RNG = np.random.default_rng(0)
TRAIN = RNG.normal(size=(50, 6)).astype(np.float32)
LABELS = RNG.integers(0, 4, size=50).astype(np.int32)


def knn_from_paper(train, labels, test, num_classes, k, temperature):
    """Section 3.4, one test row at a time, in float64."""
    predictions = []
    for row in test.astype(np.float64):
        cosine = [row @ t / np.linalg.norm(row) / np.linalg.norm(t) for t in train.astype(float)]
        votes = np.zeros(num_classes)
        for i in np.argsort(cosine)[::-1][:k]:
            votes[labels[i]] += np.exp(cosine[i] / temperature)
        predictions.append(votes.argmax())
    return np.array(predictions)


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.1), (7, 0.07), (50, 1.0)])
def test_matches_the_paper(k, temperature):
    test = RNG.normal(size=(30, 6)).astype(np.float32)
    got = knn_predict(TRAIN, LABELS, test, num_classes=4, k=k, temperature=temperature)
    want = knn_from_paper(TRAIN, LABELS, test, 4, k, temperature)
    np.testing.assert_array_equal(got, want)


def test_two_neighbours_outvote_a_nearer_one_only_when_warm():
    train = np.array([[1, 0], [1, 0.5], [1, 0.5]], np.float32)
    labels = np.array([0, 1, 1], np.int32)
    test = np.array([[1, 0.1]], np.float32)
    for temperature, want in ((0.01, 0), (1.0, 1)):
        got = knn_predict(train, labels, test, num_classes=2, k=3, temperature=temperature)
        assert int(got[0]) == want


def test_ignores_the_scale_of_rows():
    test = RNG.normal(size=(30, 6)).astype(np.float32)
    scale = RNG.uniform(0.01, 100, size=(50, 1)).astype(np.float32)
    np.testing.assert_array_equal(
        knn_predict(scale * TRAIN, LABELS, 9 * test, num_classes=4, k=7),
        knn_predict(TRAIN, LABELS, test, num_classes=4, k=7),
    )


def test_follows_the_nearest_row_at_a_temperature_that_would_overflow():
    got = knn_predict(TRAIN, LABELS, TRAIN, num_classes=4, k=50, temperature=1e-3)
    np.testing.assert_array_equal(got, LABELS)


def test_gives_the_same_in_chunks_that_do_not_divide_the_rows(monkeypatch):
    monkeypatch.setattr(knn, "_MAX_SIMILARITIES", 50 * 4)  # 4 rows at a time
    test = RNG.normal(size=(31, 6)).astype(np.float32)  # a shape that no other test compiles
    got = knn_predict(TRAIN, LABELS, test, num_classes=4, k=7)
    np.testing.assert_array_equal(got, knn_from_paper(TRAIN, LABELS, test, 4, 7, 0.1))


@pytest.mark.parametrize("k", [0, 51])
def test_names_a_k_that_cannot_be(k):
    with pytest.raises(ValueError, match=rf"k={k} .* n=50 .* \[1, 50\]"):
        knn_predict(TRAIN, LABELS, TRAIN, num_classes=4, k=k)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_rejects_a_temperature_that_is_not_positive(temperature):
    with pytest.raises(ValueError, match=r"temperature=.* above 0"):
        knn_predict(TRAIN, LABELS, TRAIN, num_classes=4, k=3, temperature=temperature)


def test_rejects_unknown_labels():
    with pytest.raises(ValueError, match=r"\[0, 4\), got -1 to 3"):
        knn_predict(TRAIN, np.where(LABELS == 0, -1, LABELS), TRAIN, num_classes=4, k=3)
