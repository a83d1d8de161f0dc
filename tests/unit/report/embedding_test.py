"""The map and the neighbours: right, repeatable, and explained where there is nothing to see."""

import numpy as np
import pytest

from simclr_jax.report.contents import Embedding
from simclr_jax.report.embedding import map_section, nearest, neighbors_section, project_2d, spread


def make_embedding(features, labels=None):
    n = len(features)
    labels = np.full(n, -1, np.int32) if labels is None else labels
    thumbnails = np.zeros((n, 4, 4, 3), np.uint8)
    return Embedding(features, labels, [f"image{i}.png" for i in range(n)], thumbnails)


def two_clusters(n=40):
    rng = np.random.default_rng(0)
    labels = np.arange(n, dtype=np.int32) % 2
    centers = np.eye(2, 6, dtype=np.float32)[labels]
    return (centers + 0.05 * rng.normal(size=(n, 6))).astype(np.float32), labels


def test_map_is_the_same_every_time_and_keeps_clusters_apart():
    features, labels = two_clusters()
    points = project_2d(features)
    np.testing.assert_array_equal(points, project_2d(features))
    apart = np.linalg.norm(points[:, None] - points[None], axis=-1)
    np.fill_diagonal(apart, np.inf)
    np.testing.assert_array_equal(labels[apart.argmin(axis=1)], labels)


def test_neighbors_equal_a_sorted_list_of_cosines():
    features = np.random.default_rng(1).normal(size=(30, 5)).astype(np.float32)
    found, cosines = nearest(features, np.array([3, 17]), 8)
    for row, query in enumerate((3, 17)):
        pairs = []
        for i in range(30):
            a, b = features[query].astype(np.float64), features[i].astype(np.float64)
            if i != query:
                pairs.append((a @ b / np.sqrt((a @ a) * (b @ b)), i))
        pairs.sort(reverse=True)
        assert [i for _, i in pairs[:8]] == found[row].tolist()
        np.testing.assert_allclose(cosines[row], [c for c, _ in pairs[:8]], atol=1e-6)


def test_neighbors_ignore_the_length_of_features():
    features = np.random.default_rng(2).normal(size=(20, 5)).astype(np.float32)
    scales = np.linspace(0.1, 50, 20, dtype=np.float32)[:, None]
    want, _ = nearest(features, np.array([0, 5]), 4)
    got, _ = nearest(features * scales, np.array([0, 5]), 4)
    np.testing.assert_array_equal(got, want)


def test_spread_visits_every_class():
    labels = np.array([2] * 5 + [0] * 40 + [1] * 5)
    chosen = spread(labels, 12)
    assert len(set(chosen.tolist())) == 12
    assert set(labels[chosen].tolist()) == {0, 1, 2}


def test_marks_agreement_by_more_than_colour():
    features, labels = two_clusters()
    labels[0] = 1  # in cluster 0: its neighbours disagree with it
    html = neighbors_section(make_embedding(features, labels), ["cat", "dog"])
    assert html.count('class="same"') == html.count("<span>&#10003; ") > 0
    assert html.count('class="other"') == html.count("<span>&#10007; ") > 0
    agree = html.count('class="same"')
    assert f"{agree} of the 96 neighbours" in html


def test_unlabelled_images_show_names_and_one_colour():
    features, _ = two_clusters()
    embedding = make_embedding(features)
    html = neighbors_section(embedding, [])
    assert 'class="same"' not in html
    assert 'class="other"' not in html
    assert ">image0.png</span>" in html
    chart = map_section(embedding, [])
    assert "no labels" in chart
    assert "legend" not in chart


def test_map_names_few_classes_and_only_lists_many():
    features, _ = two_clusters(60)
    names = [f"kind{i}" for i in range(30)]
    few = map_section(make_embedding(features, np.arange(60, dtype=np.int32) % 3), names)
    assert few.count("kind2") == 2  # on the map and in its legend
    many = map_section(make_embedding(features, np.arange(60, dtype=np.int32) % 30), names)
    assert many.count("kind2<") == 1
    assert "other classes" in many


@pytest.mark.parametrize(
    ("features", "reason"),
    [
        (np.eye(4, dtype=np.float32), "Only 4 test images: this needs at least 10"),
        (np.ones((20, 3), np.float32), "has collapsed"),
        (np.full((20, 3), np.nan, np.float32), "not finite"),
    ],
)
def test_says_why_features_cannot_be_shown(features, reason):
    for section in (map_section, neighbors_section):
        html = section(make_embedding(features), [])
        assert 'class="missing"' in html
        assert reason in html
