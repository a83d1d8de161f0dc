"""Label subsets and the table of results: counts, determinism, rows, bad input."""

import numpy as np
import pytest

from simclr_jax.core.errors import UserError
from simclr_jax.evals.features import Features
from simclr_jax.evals.label_efficiency import label_efficiency


def examples(n, num_classes=4, noise=0.3, seed=0):
    labels = (np.arange(n) % num_classes).astype(np.int32)
    x = np.eye(6, dtype=np.float32)[labels]
    x += noise * np.random.default_rng(seed).normal(size=x.shape).astype(np.float32)
    return Features(np.arange(n), x, labels)


def test_rows_say_what_was_judged_and_how():
    rows = label_efficiency(
        examples(200),
        examples(60, seed=1),
        name="encoder",
        num_classes=4,
        fractions=(0.1, 1.0),
        draws=3,
    )
    assert [(row["protocol"], row["label_fraction"]) for row in rows] == [
        ("knn", 0.1),
        ("linear", 0.1),
        ("knn", 1.0),
        ("linear", 1.0),
    ]
    for row in rows:
        few = row["label_fraction"] < 1
        assert row["features"] == "encoder"
        assert (row["num_train"], row["draws"]) == ((20, 3) if few else (200, 1))
        assert row["num_test"] == 60
        assert row["top1"] > 0.8
        assert few or row["top1_std"] == 0.0
    assert (rows[0]["k"], rows[2]["k"]) == (5, 50)  # labels for each class, below 200
    assert rows[1]["l2"] > 0


def test_is_deterministic_and_averages_over_draws():
    evaluate = lambda **kw: label_efficiency(
        examples(200, noise=0.8),
        examples(600, seed=1, noise=0.8),
        name="x",
        num_classes=4,
        fractions=(0.1,),
        protocols=("knn",),
        **kw,
    )[0]
    both, first, second = evaluate(draws=2), evaluate(draws=1), evaluate(draws=1, seed=1)
    assert both == evaluate(draws=2)
    assert first["top1"] != second["top1"]
    np.testing.assert_allclose(both["top1"], (first["top1"] + second["top1"]) / 2)
    np.testing.assert_allclose(both["top1_std"], abs(first["top1"] - second["top1"]) / 2)


def test_leaves_out_rows_without_a_label():
    train, test = examples(200), examples(60, seed=1)
    train.labels[:8] = -1
    test.labels[:4] = -1
    row, *_ = label_efficiency(
        train, test, name="x", num_classes=4, fractions=(1.0,), protocols=("knn",), k=3
    )
    assert (row["num_train"], row["num_test"], row["k"]) == (192, 56, 3)


def test_says_what_is_wrong():
    train, test = examples(200), examples(60, seed=1)
    unlabelled = train._replace(labels=np.full(200, -1, np.int32))
    with pytest.raises(UserError, match="knn, linear need labels, and none of the 200 rows of x"):
        label_efficiency(unlabelled, test, name="x", num_classes=4)
    broken = test._replace(features=np.where(np.eye(60, 6) > 0, np.float32("nan"), test.features))
    with pytest.raises(UserError, match="6 of 60 rows of x of the test set are not finite"):
        label_efficiency(train, broken, name="x", num_classes=4)
    with pytest.raises(UserError, match="Unknown protocol 'cnn'; use one of knn, linear"):
        label_efficiency(train, test, name="x", num_classes=4, protocols=("cnn",))
    with pytest.raises(UserError, match="draws=0 must be at least 1"):
        label_efficiency(train, test, name="x", num_classes=4, draws=0)
