"""Linear probe: the optimum against scikit-learn, and how it chooses its strength."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from simclr_jax.evals import linear, logistic
from simclr_jax.evals.linear import linear_probe, predict


def clusters(n, d, k, noise, seed=0):
    """Features around one centre for each class, off-centre and of unequal scale."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % k
    centres = np.random.default_rng(99).normal(size=(k, d))
    x = centres[labels] + noise * rng.normal(size=(n, d))
    return (3 + x * np.linspace(0.2, 5, d)).astype(np.float32), labels.astype(np.int32)


def objective(x, labels, weights, bias, l2):
    """The mean cross entropy and its penalty in float64."""
    logits = x @ weights + bias
    log_sum = np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1)) + logits.max(1)
    cross_entropy = log_sum - logits[np.arange(len(labels)), labels]
    return cross_entropy.mean() + l2 / 2 * np.sum(weights**2)


def rows(kind, n, d, num_classes=5):
    """Training rows, their labels, and 200 unseen rows."""
    rng = np.random.default_rng(0)
    shares = np.array([0.6, 0.25, 0.1, 0.04, 0.01]) if kind == "unbalanced" else np.full(5, 0.2)
    labels = rng.choice(num_classes, size=n + 200, p=shares)
    labels[:num_classes] = np.arange(num_classes)
    centres = rng.normal(size=(num_classes, d))
    x = 3 + centres[labels] + 1.5 * rng.normal(size=(n + 200, d))
    if kind == "badly scaled":
        x = x * np.logspace(-3, 3, d)
    x, labels = x.astype(np.float32), labels.astype(np.int32)
    train = np.arange(n)
    if kind == "duplicated":
        train = np.concatenate([train, train[: n // 3], train[: n // 3]])
    return x[train], labels[train], x[n:]


@pytest.mark.parametrize(
    ("kind", "n", "d"),
    [
        ("balanced", 300, 20),
        ("unbalanced", 300, 20),
        ("duplicated", 300, 20),
        ("badly scaled", 300, 20),
        ("balanced", 40, 60),
        ("duplicated", 40, 60),
        ("balanced", 1200, 70),  # more features than axes, axes from every other row
    ],
)
def test_finds_the_optimum_and_the_predictions_of_scikit_learn_at_every_strength(kind, n, d):
    x, labels, unseen = rows(kind, n, d)
    mean = x.mean(0, dtype=np.float64)
    scale = np.sqrt(((x - mean) ** 2).sum(1).mean()) / 10
    standardise = lambda x: (x.astype(np.float64) - mean) / scale
    for l2 in linear.STRENGTHS[:: 1 if n < 1000 else 4]:  # scikit-learn takes a while
        theirs = LogisticRegression(
            C=1 / (l2 * len(x)), tol=1e-9, max_iter=10_000, solver="newton-cholesky"
        ).fit(standardise(x), labels)
        probe = linear_probe(x, labels, num_classes=5, strengths=(l2,))

        weights = np.asarray(probe.weights, np.float64)
        bias = np.asarray(probe.bias, np.float64) + mean @ weights
        ours = objective(standardise(x), labels, scale * weights, bias, l2)
        want = objective(standardise(x), labels, theirs.coef_.T, theirs.intercept_, l2)
        assert ours / want - 1 < 1e-6, l2
        for some in (x, unseen):
            np.testing.assert_array_equal(
                predict(probe, some), theirs.predict(standardise(some)), err_msg=f"l2 {l2}"
            )


def test_ignores_where_features_are_and_their_scale():
    x, labels = clusters(80, 10, 4, noise=1.5)
    test, _ = clusters(80, 10, 4, noise=1.5, seed=1)
    plain = linear_probe(x, labels, num_classes=4)
    moved = linear_probe(0.01 * x - 2, labels, num_classes=4)
    assert plain.l2 == moved.l2
    np.testing.assert_array_equal(predict(plain, test), predict(moved, 0.01 * test - 2))


def test_trusts_clean_features_more_than_noise():
    clean, labels = clusters(80, 10, 4, noise=0.1)
    noise = np.random.default_rng(0).normal(size=(80, 10)).astype(np.float32)
    strong = linear_probe(noise, labels, num_classes=4)
    weak = linear_probe(clean, labels, num_classes=4)
    assert strong.l2 >= 1 > 0.01 >= weak.l2


def test_chooses_a_strength_close_to_the_best_on_unseen_rows():
    x, labels = clusters(80, 10, 4, noise=1.5)
    test, test_labels = clusters(2000, 10, 4, noise=1.5, seed=1)
    accuracy = lambda probe: np.mean(np.asarray(predict(probe, test)) == test_labels)
    fixed = [linear_probe(x, labels, num_classes=4, strengths=(l2,)) for l2 in linear.STRENGTHS]
    chosen = linear_probe(x, labels, num_classes=4)
    assert accuracy(chosen) > max(map(accuracy, fixed)) - 0.03


def test_takes_a_fixed_strength_when_each_class_has_one_label():
    x, labels = clusters(4, 10, 4, noise=0.1)
    probe = linear_probe(x, labels, num_classes=4)
    assert probe.l2 == 0.01
    np.testing.assert_array_equal(predict(probe, x), labels)


def test_is_deterministic_and_compiles_once_for_a_shape():
    x, labels = clusters(80, 10, 4, noise=1.5)
    first = linear_probe(x, labels, num_classes=4)
    num_compiled = logistic.minimise._cache_size  # pyright: ignore[reportAttributeAccessIssue]
    before = num_compiled()
    second = linear_probe(x, labels, num_classes=4)
    linear_probe(x + 1, labels[::-1].copy(), num_classes=4, seed=3)
    assert num_compiled() == before
    np.testing.assert_array_equal(first.weights, second.weights)


def test_stays_finite_on_features_that_are_all_alike():
    labels = np.arange(80, dtype=np.int32) % 4
    probe = linear_probe(np.ones((80, 10), np.float32), labels, num_classes=4)
    assert np.isfinite(probe.weights).all()
    assert np.isfinite(probe.bias).all()


@pytest.mark.parametrize("counts", [[4, 4, 4], [20, 3, 1], [7, 40, 11]])
def test_parts_share_out_each_class_evenly(counts):
    labels = np.repeat(np.arange(3), counts)
    part = linear._deal(labels, seed=0)
    num_parts = min(5, max(counts))
    for rows in [part, *(part[labels == c] for c in range(3))]:
        sizes = np.bincount(rows, minlength=num_parts)
        assert len(sizes) == num_parts
        assert sizes.max() - sizes.min() <= 1


def test_rejects_labels_and_strengths_out_of_range():
    x, labels = clusters(80, 10, 4, noise=1.5)
    with pytest.raises(ValueError, match=r"\[0, 3\), got 0 to 3"):
        linear_probe(x, labels, num_classes=3)
    with pytest.raises(ValueError, match=r"strengths=\(0\.0,\) must be above 0"):
        linear_probe(x, labels, num_classes=4, strengths=(0.0,))
