"""Zero-shot and retrieval: golden figures, ties, and any caption counts."""

from pathlib import Path

import numpy as np
import pytest

from simclr_jax.evals.retrieval import ranks, recalls
from simclr_jax.evals.zero_shot import class_rows, predict

GOLDEN = Path(__file__).parents[2] / "golden/multimodal/evaluation.npz"


@pytest.fixture(scope="module")
def golden():
    return np.load(GOLDEN)


def test_zero_shot_agrees_with_golden(golden):
    classes = class_rows(golden["zero_shot/template_embeddings"])
    np.testing.assert_allclose(classes, golden["zero_shot/class_embeddings"], rtol=1e-12)
    found = predict(golden["zero_shot/image"], classes)
    np.testing.assert_array_equal(found[:, 0], golden["zero_shot/prediction"])
    top1 = np.mean(found[:, 0] == golden["zero_shot/label"])
    assert top1 == golden["zero_shot/top1"]


def test_retrieval_agrees_with_golden_both_ways(golden):
    similarity, owner = golden["retrieval/similarity"], golden["retrieval/owner"]
    images = np.arange(len(similarity))
    for name, got in (
        ("image_to_text", ranks(similarity, images, owner)),
        ("text_to_image", ranks(similarity.T, owner, images)),
    ):
        np.testing.assert_array_equal(got, golden[f"retrieval/{name}_rank"])
        shares = [np.mean(got < k) for k in (1, 5, 10)]
        np.testing.assert_allclose(shares, golden[f"retrieval/{name}"], rtol=1e-12)


def test_where_all_rows_are_alike_nothing_is_found():
    owner = np.arange(12)
    alike = np.ones((12, 4), np.float32)
    assert recalls(alike, alike, owner, owner) == {1: 0.0, 5: 0.0, 10: 0.0}


def test_any_caption_of_an_image_counts_and_length_does_not(monkeypatch):
    monkeypatch.setattr("simclr_jax.evals.retrieval.QUERIES_AT_ONCE", 2)
    rng = np.random.default_rng(0)
    images = rng.standard_normal((5, 8))
    owner = np.array([0, 0, 1, 2, 3, 4])
    captions = 3 * images[owner]
    captions[0] *= -1  # the other caption of image 0 is still found
    here = np.arange(5)
    assert recalls(images, captions, here, owner)[1] == 1.0
    assert recalls(captions, images, owner, here)[1] == pytest.approx(5 / 6)
