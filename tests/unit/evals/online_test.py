import jax
import numpy as np
import pytest

from simclr_jax.core.types import Cuts
from simclr_jax.data.dataset import Dataset
from simclr_jax.data.records import Record
from simclr_jax.evals.online import EvaluationImages, OnlineKNN
from simclr_jax.parallel.mesh import make_mesh

WHOLE = Cuts(4, 1, lambda words, size: np.array([[0, 0, *size]], np.int32))


class Greys:
    """Images of one grey level each, black for class 0 and white for class 1."""

    name, class_names, fingerprint = "greys", ("black", "white"), "greys"

    def __init__(self, classes, labels):
        self.classes, self.labels = classes, np.array(labels)

    def __len__(self):
        return len(self.classes)

    def __getitem__(self, index, /):
        pixels = np.full((4, 4, 3), 250 * self.classes[index] + index, np.uint8)
        return Record(pixels, int(self.labels[index]), f"greys/{index}")


def first_pixel(batch):
    return jax.numpy.asarray(batch["image"][:, 0, 0, 0], jax.numpy.float32) - 127


@pytest.fixture
def partly_labelled():
    """Images of which the unlabelled ones would vote, and count, for what they are not."""
    train = Greys([0, 1, 0, 1, 1, 1], [0, 1, -1, 1, -1, -1])
    test = Greys([0, 1, 1, 0], [0, 1, -1, -1])
    dataset = Dataset("greys", batch_size=8, canvas=4, split="train")
    return EvaluationImages(dataset, WHOLE, train, test, make_mesh())


def test_images_without_a_label_neither_vote_nor_count(partly_labelled):
    assert OnlineKNN(1.0, k=2).evaluate(first_pixel, partly_labelled) == {"knn_top1": 1.0}


def test_only_images_with_a_label_are_chosen_to_vote(partly_labelled):
    assert OnlineKNN(1.0, k=1).voters(partly_labelled.train).tolist() == [0, 1, 3]
    assert OnlineKNN(1.0, k=1, max_train=2).voters(partly_labelled.train).tolist() == [0, 1]


def test_more_neighbours_than_labels_are_refused(partly_labelled):
    with pytest.raises(ValueError, match="k=4; it must be from 1 to 3, the images with a label"):
        OnlineKNN(1.0, k=4).voters(partly_labelled.train)
