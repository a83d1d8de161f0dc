"""Groups of images against plain NumPy, and a planted gap, which its interval finds."""

import numpy as np
import pytest

from simclr_jax.core.errors import UserError
from simclr_jax.evals.groups import compare_groups, measure_images


def test_measures_are_those_of_all_pairs():
    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(30, 4)).astype("f4"), rng.integers(0, 3, 30)
    groups, correct = [*"aaaaabbbbbbbbbb" * 2], {"kNN": rng.random(30) < 0.5}
    got = measure_images(features, labels, groups, correct)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    cosine = unit @ unit.T
    for i in range(30):
        others = sorted((j for j in range(30) if j != i), key=lambda j, i=i: -cosine[i, j])
        near, mates = others[:10], [j for j in others if groups[j] == groups[i]]
        want = {
            "kNN": correct["kNN"][i],
            "class purity": np.mean([labels[j] == labels[i] for j in near]),
            "group purity": np.mean([groups[j] == groups[i] for j in near]),
            "similarity": np.mean([cosine[i, j] for j in mates]),
        }
        for name, value in want.items():
            np.testing.assert_allclose(got[name][i], value, atol=1e-6, err_msg=name)


def test_an_interval_holds_a_gap_of_nothing_and_finds_one_that_was_planted():
    rng = np.random.default_rng(1)
    groups = np.repeat(["dark", "light"], [400, 600])
    right = np.where(groups == "dark", 0.7, 0.9)  # the gap is 0.2
    values = {"planted": (rng.random(1000) < right) * 1.0, "nothing": rng.normal(size=1000)}
    rows = {(row["group"], row["measure"]): row for row in compare_groups(values, list(groups))}
    planted = rows["dark", "planted"]
    of_dark, of_light = (values["planted"][groups == name].mean() for name in ("dark", "light"))
    assert planted["mean"] == pytest.approx(of_dark)
    assert planted["gap"] == pytest.approx(of_dark - of_light)
    assert planted["high"] < 0
    assert planted["low"] < -0.2 < planted["high"]
    # Half of it is 1.96 standard errors of a difference of means, as textbooks have it.
    error = 1.96 * np.sqrt(of_dark * (1 - of_dark) / 400 + of_light * (1 - of_light) / 600)
    np.testing.assert_allclose((planted["high"] - planted["low"]) / 2, error, rtol=0.1)
    assert rows["light", "nothing"]["low"] < 0 < rows["light", "nothing"]["high"]
    assert rows["light", "nothing"]["num"] == 600


@pytest.mark.parametrize("groups", [["a"] * 4, [*"aaab"], []])
def test_groups_that_cannot_be_compared_are_refused(groups):
    features = np.eye(4, dtype=np.float32)[: len(groups)]
    with pytest.raises(UserError, match="two groups or more, of two images or more"):
        measure_images(features, np.zeros(len(groups), int), groups, {})
