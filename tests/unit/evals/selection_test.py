"""Choices of images against plain NumPy, and what a good choice is worth where that is known."""

import numpy as np
import pytest

from simclr_jax.core.errors import UserError
from simclr_jax.evals.features import Features
from simclr_jax.evals.selection import METHODS, choose, learning_curve


def unit(rows):
    rows = rows.astype(np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def farthest_first(rows, count, start):
    """Greedy k-center on all distances at once, as in the paper; ties in order of index."""
    distances = np.linalg.norm(rows[:, None] - rows[None], axis=-1)
    chosen = list(start)
    while len(chosen) < len(start) + count:
        nearest = distances[:, chosen].min(axis=1)
        nearest[chosen] = -1
        chosen.append(int(nearest.argmax()))
    return chosen[len(start) :]


FEATURES = np.random.default_rng(0).normal(size=(60, 5)).astype(np.float32) * 3


def test_a_coreset_is_greedy_k_center():
    chosen = choose(FEATURES, 20, seed=3)
    assert list(chosen[1:]) == farthest_first(unit(FEATURES), 19, [chosen[0]])
    assert list(choose(FEATURES, 7, seed=3)) == list(chosen[:7])
    assert choose(FEATURES, 1, seed=4)[0] != chosen[0]


def test_a_coreset_keeps_its_distance_from_what_is_known():
    known = [5, 17, 31]
    want = farthest_first(unit(FEATURES), 10, known)
    assert list(choose(FEATURES, 10, known=known)) == want


@pytest.mark.parametrize("method", METHODS)
def test_every_image_is_taken_once_and_none_that_is_known(method):
    features = np.concatenate([FEATURES, FEATURES[:20]])  # with copies
    chosen = choose(features, 77, method=method, known=[0, 1, 2])
    assert sorted(chosen) == list(range(3, 80))


def test_clusters_give_one_image_each():
    centres = 5 * np.eye(6)
    noise = np.random.default_rng(1).normal(size=(6, 30, 6)) * 0.3
    features = (centres[:, None] + noise).reshape(180, 6).astype(np.float32)
    chosen = choose(features, 6, method="cluster")
    assert sorted(chosen // 30) == [0, 1, 2, 3, 4, 5]
    rows = unit(features).reshape(6, 30, 6)
    means = unit(rows.mean(axis=1))
    nearest = np.einsum("knd,kd->kn", rows, means).argmax(axis=1) + 30 * np.arange(6)
    assert sorted(chosen) == sorted(nearest)


def test_a_coreset_finds_rare_classes_that_a_random_choice_misses():
    """Three of four classes are one image in fifty: random labels mostly know none of them."""
    rng = np.random.default_rng(2)

    def draw(sizes):
        labels = np.repeat(np.arange(4), sizes).astype(np.int32)
        features = (4 * np.eye(4)[labels] + 0.2 * rng.normal(size=(len(labels), 4))).astype("f4")
        return Features(np.arange(len(labels)), features, labels)

    rows = learning_curve(
        draw([141, 3, 3, 3]), draw([10] * 4), [4], method="coreset", num_classes=4, draws=3
    )
    coreset, random = rows
    assert (coreset["method"], coreset["top1"], coreset["top1_std"]) == ("coreset", 1.0, 0.0)
    assert random["method"] == "random"
    assert random["top1"] < 0.8


def test_a_curve_of_more_labels_than_images_is_refused_by_its_flag():
    some = Features(np.arange(60), FEATURES, np.zeros(60, np.int32))
    with pytest.raises(UserError, match=r"--curve=1,61: 61 labels of 60 images; ask for 1 to 60"):
        learning_curve(some, some, [1, 61], method="random", num_classes=1)


def test_what_cannot_be_chosen_is_refused():
    for settings, message in [
        ({"count": 61}, r"--count=61: 60 of 60 images .* 1 to 60"),
        ({"count": 0}, "--count=0"),
        ({"count": 1, "method": "core"}, "--method=core is none of coreset.*'coreset'"),
    ]:
        with pytest.raises(UserError, match=message):
            choose(FEATURES, **settings)
